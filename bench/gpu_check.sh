#!/usr/bin/env bash
# Everything that a machine with a CUDA device can say, in one call of under 9 minutes: builds the extension for that
# device, runs the device tests and every op against the CPU, compute-sanitizer on a small training, then the times of
# layers and nets beside PyTorch. Results: bench/results/gpu-NAME.json and gpu-NAME.log.
#
#   bench/gpu_check.sh [NAME]        NAME: of the results, default from the device
#   bench/gpu_check.sh --host        the same on the executor (FASTCNN_CUDA=HOST), small, for machines without a GPU
#
# Needs cmake, ninja, a C++20 compiler, Python with numpy, pybind11, pytest and hypothesis; nvcc 12 or newer unless
# --host. PyTorch makes the comparison and the op table.
set -euo pipefail
cd "$(dirname "$0")/.."
began=$SECONDS
host=""
if [ "${1:-}" = --host ]; then host=1 && shift; fi
PYTHON=${PYTHON:-$(command -v python || command -v python3)}

if [ -z "$host" ]; then
  command -v nvcc >/dev/null || { echo "gpu_check: nvcc is not on PATH; --host checks without a device" >&2; exit 2; }
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

echo "== build in $build"
if [ ! -f "$build/build.ninja" ]; then
  # shellcheck disable=SC2086
  cmake -G Ninja -S . -B "$build" -DCMAKE_BUILD_TYPE=Release -DFASTCNN_PYTHON=ON -DFASTCNN_ISAS=avx2 $options \
        -Dpybind11_DIR="$("$PYTHON" -m pybind11 --cmakedir)"
fi
cmake --build "$build" --target _core >"$build/build.log" 2>&1 || { tail -40 "$build/build.log"; exit 1; }
package=$(mktemp -d)
trap 'rm -rf "$package"' EXIT
cp -r python/fastcnn "$package/"
rm -f "$package"/fastcnn/_core*.so
ln -s "$(realpath "$build")"/_core*.so "$package/fastcnn/"
export PYTHONPATH=$package:$PWD
echo "   until second $((SECONDS - began))"

status=0
echo "== device tests"
"$PYTHON" -m pytest tests/python/test_cuda.py tests/python/test_cuda_training.py -q -p no:cacheprovider || status=1

if [ -z "$host" ] && command -v compute-sanitizer >/dev/null; then
  echo "== compute-sanitizer on a small training, eager and compiled"
  for tool in memcheck racecheck; do
    timeout 90 compute-sanitizer --tool $tool --error-exitcode 9 --print-limit 5 "$PYTHON" -m pytest \
      tests/python/test_cuda.py tests/python/test_cuda_training.py -q -p no:cacheprovider -k "SGD or bfloat16_net" | tail -15 || status=1
  done
fi

echo "== ops, layers, nets"
left=$((520 - (SECONDS - began)))
if [ -n "$host" ]; then
  "$PYTHON" -m bench.gpu --quick --dtypes float32 bfloat16 --seeds 1 --seconds "${GPU_CHECK_SECONDS:-60}" \
            --json "$results.json" || status=1
else
  "$PYTHON" -m bench.gpu --seconds "$left" --json "$results.json" || status=1
fi
echo "== gpu_check took $((SECONDS - began)) s, $([ $status = 0 ] && echo all passed || echo FAILED)"
exit $status
