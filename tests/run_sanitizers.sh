#!/usr/bin/env bash
# The C++ and Python tests under AddressSanitizer with UBSan, or under ThreadSanitizer (GCC), in a build of their own.
#
#     tests/run_sanitizers.sh asan|tsan [--all|--python]
#
# Without --all the smoke set: in C++ what the cases below name, in Python what reads files and takes bad input.
# --python: the smoke set without C++, which builds in half the time.
# The active Python needs numpy, pytest and pybind11; --all needs all that tests/run.sh installs. Any finding fails.
# FASTCNN_SANITIZE_ISAS: default avx2 (the kernels of one ISA); FASTCNN_SANITIZE_BUILD: the folder, default build-KIND;
# FASTCNN_SANITIZE_OPTIMIZE: default -O1; -O0 builds in less than half the time.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
usage() { sed -n 's/^#     //p' "$0" >&2; exit 2; }
kind=${1:-}; what=${2:-smoke}
case $kind in asan) flags=address,undefined ;; tsan) flags=thread ;; *) usage ;; esac
case $what in smoke | --all | --python) ;; *) usage ;; esac

build=${FASTCNN_SANITIZE_BUILD:-build-$kind}
targets="_core fastcnn_cpp_tests"; with_tests=ON
if [ "$what" = --python ]; then targets=_core; with_tests=OFF; fi
cmake -G Ninja -S . -B "$build" -DCMAKE_BUILD_TYPE=Release -DFASTCNN_SANITIZE="$flags" -DFASTCNN_PYTHON=ON \
  -DFASTCNN_SANITIZE_OPTIMIZE="${FASTCNN_SANITIZE_OPTIMIZE:--O1}" \
  -DFASTCNN_TESTS=$with_tests -DFASTCNN_ISAS="${FASTCNN_SANITIZE_ISAS:-avx2}" \
  -DFASTCNN_CUDA=OFF -Dpybind11_DIR="$(python -m pybind11 --cmakedir)"
# shellcheck disable=SC2086
cmake --build "$build" --target $targets

suppressions=$root/tests/sanitizers
export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
# A refused allocation gives null, as without the sanitizer: the tests expect a MemoryError.
fake_stacks=1
# g++ 12 aligns them to less than the vectors of AVX-512 (its bug 110027): the tests would crash.
case ${FASTCNN_SANITIZE_ISAS:-avx2} in *avx512*) fake_stacks=0 ;; esac
export ASAN_OPTIONS=allocator_may_return_null=1:detect_stack_use_after_return=$fake_stacks:strict_string_checks=1
export LSAN_OPTIONS=suppressions=$suppressions/leaks.txt:print_suppressions=0
export TSAN_OPTIONS=suppressions=$suppressions/threads.txt:halt_on_error=1:second_deadlock_stack=1
run=""
if [ "$kind" = tsan ]; then
  # Its shadow memory needs the addresses that programs had before Linux drew them from 32 bits.
  run="setarch $(uname -m) -R"
  filter="parallel_*,*taken over*,*threads*,*at once*,*CPU quota*,softmax*,*session*"
else
  filter="*bias*,parallel_*,*CPU quota*,*forked*,*truncated*,*hostile*,*session*,nms*,softmax*,*pool*"
fi

if [ "$what" != --python ]; then
  echo "== C++ tests, $kind"
  tests=$build/tests/cpp/fastcnn_cpp_tests
  if [ "$what" = --all ]; then filter="*"; fi
  $run "$tests" -tc="$filter" -tce="cuda*"
  # CUDA kernels run on fibers (tests/cpp/cuda_host), whose stacks AddressSanitizer takes for odd, and ThreadSanitizer
  # for threads that it does not know.
  if [ "$kind" = asan ]; then
    cuda="cuda softmax*,cuda nms*,cuda fold*"
    if [ "$what" = --all ]; then cuda="cuda*"; fi
    ASAN_OPTIONS=$ASAN_OPTIONS:detect_stack_use_after_return=0 "$tests" -tc="$cuda"
  fi
fi

echo "== Python tests, $kind"
package=$(mktemp -d)
trap 'rm -rf "$package"' EXIT
cp -r python/fastcnn "$package/"
rm -f "$package"/fastcnn/_core*.so
ln -s "$(realpath "$build")"/_core*.so "$package/fastcnn/"
# Python itself and its packages leak at exit by intent. libstdc++ comes with the sanitizer's library, which looks for the
# functions of exceptions as it starts.
export ASAN_OPTIONS=$ASAN_OPTIONS:detect_leaks=0
library=$(g++ -print-file-name="lib$kind.so")
preload="$(realpath "$library") $(realpath "$(g++ -print-file-name=libstdc++.so)")"
files="test_bad_input test_checkpoints test_nn_safetensors test_session_files test_ops_detect test_data_loader"
if [ "$kind" = tsan ]; then files="test_data_loader test_compile_state test_process test_session"; fi
if [ "$what" = --all ]; then files=$(cd tests/python && ls test_*.py | sed 's/\.py$//'); fi
selected=()
for f in $files; do selected+=("$root/tests/python/$f.py"); done
# Left out: tests that fork a process with threads (ThreadSanitizer ends it), that bound the memory or time of a process,
# that need an installation, or that run PyTorch, whose threads are not instrumented.
left_out="not fork and not little_memory and not find_no_memory and not memory_does_not_grow and not is_quick and \
not idle and not between_steps and not over_allocation and not cannot_ask_for and not is_instant and not is_fast \
and not pytorch_beside"
cd "$package"
# Findings go to files: pytest holds back what a process prints that ends at once.
export TSAN_OPTIONS=$TSAN_OPTIONS:log_path=$package/found ASAN_OPTIONS=$ASAN_OPTIONS:log_path=$package/found
export UBSAN_OPTIONS=$UBSAN_OPTIONS:log_path=$package/found
status=0
LD_PRELOAD=$preload PYTHONMALLOC=malloc PYTHONPATH=$package $run python -m pytest -c "$root/pyproject.toml" \
  --rootdir "$root" -p no:cacheprovider -q -x -k "$left_out" "${selected[@]}" || status=$?
cat "$package"/found* 2>/dev/null || true
exit "$status"
