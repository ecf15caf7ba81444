#!/usr/bin/env bash
# Everything that a machine with a CUDA device can say, in one call of under 9 minutes: builds the extension for that
# device; side by side the device tests, whole models, every op against the CPU, compute-sanitizer on small trainings,
# and PyTorch compiling its nets; then alone the times of copies, nets and layers beside PyTorch's. Results:
# bench/results/gpu-NAME.json and gpu-NAME.log.
#
#   bench/gpu_check.sh [NAME]        NAME: of the results, default from the device
#   bench/gpu_check.sh --installed [NAME]   the same of the fastcnn that Python finds, a wheel say: nothing is built
#   bench/gpu_check.sh --host        the same on the executor (FASTCNN_CUDA=HOST), small, for machines without a GPU
#
# GPU_CHECK_SECONDS: for everything, default 520; times that do not fit are left out and named.
# Needs Python with numpy, pytest and hypothesis; to build also cmake, ninja, a C++20 compiler, pybind11, and nvcc 12 or
# newer unless --host. PyTorch makes the comparison and the op table.
set -euo pipefail
cd "$(dirname "$0")/.."
began=$SECONDS
host="" installed=""
if [ "${1:-}" = --host ]; then host=1 && shift; fi
if [ "${1:-}" = --installed ]; then installed=1 && shift; fi
PYTHON=${PYTHON:-$(command -v python || command -v python3)}

if [ -z "$host" ]; then
  if [ -z "$installed" ] && ! command -v nvcc >/dev/null; then
    echo "gpu_check: nvcc is not on PATH; --host checks without a device" >&2
    exit 2
  fi
  if ! command -v nvidia-smi >/dev/null || ! nvidia-smi -L >/dev/null 2>&1; then
    echo "gpu_check: no CUDA device here (nvidia-smi -L fails); --host checks without one" >&2
    exit 2
  fi
  capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d .)
  if [ "$capability" = 90 ]; then capability=90a; fi
  name=${1:-$(nvidia-smi --query-gpu=name --format=csv,noheader | head -1 | tr 'A-Z ' 'a-z-')}
  options="-DFASTCNN_CUDA=ON -DFASTCNN_CUDA_ARCHITECTURES=$capability-real"
  build=build-gpu
else
  name=${1:-host}
  options="-DFASTCNN_CUDA=HOST"
  build=${FASTCNN_HOST_BUILD:-build-host}
fi
results=bench/results/${host:+local-}gpu-$name  # local: git does not see it
log=$results.log
exec > >(tee "$log") 2>&1

package=$(mktemp -d)
if [ -z "$installed" ]; then
  echo "== build in $build"
  if [ ! -f "$build/build.ninja" ]; then
    # shellcheck disable=SC2086
    cmake -G Ninja -S . -B "$build" -DCMAKE_BUILD_TYPE=Release -DFASTCNN_PYTHON=ON -DFASTCNN_ISAS=avx2 $options \
          -DPython_EXECUTABLE="$(command -v "$PYTHON")" -Dpybind11_DIR="$("$PYTHON" -m pybind11 --cmakedir)"
  fi
  cmake --build "$build" --target _core >"$build/build.log" 2>&1 || { tail -40 "$build/build.log"; exit 1; }
  cp -r python/fastcnn "$package/"
  rm -f "$package"/fastcnn/_core*.so
  ln -s "$(realpath "$build")"/_core*.so "$package/fastcnn/"
  export PYTHONPATH=$package
  echo "   until second $((SECONDS - began))"
fi
export PYTHONPATH=${PYTHONPATH:+$PYTHONPATH:}$PWD
first='import fastcnn; fastcnn.zeros(1, device="cuda").item()'
if ! "$PYTHON" -c "$first"; then  # nothing else would say more
  echo "== the first tensor on the device FAILED"
  if command -v cuda-gdb >/dev/null; then
    timeout 60 cuda-gdb -batch -ex run -ex bt --args "$PYTHON" -c "$first" 2>&1 | tail -30
  fi
  rm -rf "$package"
  exit 1
fi
tests=$(mktemp -d)
trap 'rm -rf "$package" "$tests"' EXIT
status=0
limit=${GPU_CHECK_SECONDS:-$([ -n "$host" ] && echo 400 || echo 520)}
declare -A checks
# NAME SECONDS command...: side by side with the others, its output kept for the end.
check() {
  local name=$1 most=$2
  shift 2
  (began_here=$SECONDS; code=0; timeout "$most" "$@" >"$tests/$name" 2>&1 || code=$?
   echo "   $name: $((SECONDS - began_here)) s, exit $code"; exit $code) &
  checks[$name]=$!
}
pytest="$PYTHON -m pytest -q -p no:cacheprovider"
echo "== checks side by side"
export OMP_NUM_THREADS=2  # they share the cores
check tests 300 $pytest tests/python/test_cuda.py tests/python/test_cuda_training.py
if [ -n "$host" ]; then
  check ops 300 "$PYTHON" -m bench.gpu ops --dtypes float32 bfloat16 --seeds 1 --seconds 60 --json "$tests/ops.json"
else
  check models 150 $pytest tests/python/test_cuda_models.py
  check ops 150 "$PYTHON" -m bench.gpu ops --seconds 140 --json "$tests/ops.json"
  if [ -n "$("$PYTHON" -c "from bench import gpu; print('yes' if gpu.torch_on_device() else '')")" ]; then
    check peers 150 "$PYTHON" -m bench.gpu peers --torch-compile graph --seconds 140 --json "$tests/peers.json"
  fi
  if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck; do
      check $tool 150 compute-sanitizer --tool $tool --error-exitcode 9 --print-limit 5 $pytest \
        tests/python/test_cuda.py tests/python/test_cuda_training.py -k "SGD or bfloat16_net"
    done
  fi
fi
for name in "${!checks[@]}"; do
  if ! wait "${checks[$name]}"; then status=1 && echo "== $name FAILED" && tail -40 "$tests/$name"; fi
done
for name in "${!checks[@]}"; do echo "== $name" && tail -4 "$tests/$name"; done
echo "   until second $((SECONDS - began))"

echo "== times"
unset OMP_NUM_THREADS
rm -f "$results.json"
shopt -s nullglob
"$PYTHON" - "$results.json" "$tests"/*.json <<'EOF'
import json, pathlib, sys
found = {}
for path in sys.argv[2:]:
    found |= json.loads(pathlib.Path(path).read_text())
pathlib.Path(sys.argv[1]).write_text(json.dumps(found, indent=1) + "\n")
EOF
left=$((limit - (SECONDS - began)))
if [ -n "$host" ]; then
  "$PYTHON" -m bench.gpu copy nets layers --quick --dtypes float32 bfloat16 --seconds "$left" --json "$results.json" || status=1
else
  "$PYTHON" -m bench.gpu copy nets layers --dtypes bfloat16 float32 --torch-compile graph --seconds "$left" \
            --json "$results.json" || status=1
fi
echo "== gpu_check took $((SECONDS - began)) s, $([ $status = 0 ] && echo all passed || echo FAILED)"
exit $status
