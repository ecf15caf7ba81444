#!/usr/bin/env bash
# Installs fastcnn with its test dependencies into the active virtual environment, or into a temporary one, and runs
# all tests, C++ included. Needs g++ and network access; cmake and doctest are fetched if they are not there.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export CXX=${CXX:-g++}  # by the name that pip's build uses: objects of both are one in a compiler cache
command -v "$CXX" >/dev/null || { echo "tests/run.sh: needs a C++20 compiler: g++ >= 12, or set CXX" >&2; exit 1; }

# Prints the include folder that holds doctest/doctest.h. Where the system has none it takes Debian's package apart in
# $work, which needs neither root nor an installation.
find_doctest() {
  local folder apt
  for folder in "${DOCTEST_INCLUDE_DIR:-}" /usr/include /usr/local/include "${CONDA_PREFIX:-/nonexistent}/include"; do
    if [ -n "$folder" ] && [ -f "$folder/doctest/doctest.h" ]; then echo "$folder"; return; fi
  done
  if command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null; then
    mkdir -p "$work/apt/lists/partial" "$work/apt/cache/archives/partial" "$work/doctest"
    apt="-qq -o Dir::State::lists=$work/apt/lists -o Dir::Cache=$work/apt/cache -o APT::Sandbox::User="
    # shellcheck disable=SC2086
    if (cd "$work/doctest" && { apt-get -qq download doctest-dev 2>/dev/null ||
        { apt-get $apt update && apt-get $apt download doctest-dev; }; } && dpkg-deb -x doctest-dev_*.deb .) >&2; then
      if [ -f "$work/doctest/usr/include/doctest/doctest.h" ]; then echo "$work/doctest/usr/include"; return; fi
    fi
  fi
  echo "tests/run.sh: the C++ tests need the header doctest/doctest.h. Install doctest (Debian, Ubuntu: doctest-dev;" \
    "Fedora: doctest-devel; Arch, Homebrew, conda-forge: doctest) or set DOCTEST_INCLUDE_DIR to its folder" >&2
  return 1
}
doctest=$(find_doctest)

PYTHON=$(command -v python || command -v python3)
if ! "$PYTHON" -c 'import sys; sys.exit(sys.prefix == sys.base_prefix)' && [ -z "${CONDA_PREFIX:-}" ]; then
  "$PYTHON" -m venv "$work/venv"
  . "$work/venv/bin/activate"
fi
python -m pip install ".[test]"
command -v cmake >/dev/null || python -m pip install -q cmake
command -v ninja >/dev/null || python -m pip install -q ninja

echo "== C++ tests"
build=$work/build
cmake -G Ninja -S . -B "$build" -DCMAKE_BUILD_TYPE=Release -DFASTCNN_TESTS=ON -DFASTCNN_STATIC=ON -DFASTCNN_CUDA=OFF \
  -DDOCTEST_INCLUDE_DIR="$doctest" >"$work/configure.log" || { cat "$work/configure.log"; exit 1; }
cmake --build "$build"
echo "   built in $SECONDS s"
# Each case in a process of its own, one per core: most of their time is one thread (references, the CUDA executor).
tests=$build/tests/cpp/fastcnn_cpp_tests
count=$("$tests" --count --no-colors | sed -n 's/.*: *\([0-9]*\)$/\1/p')
mkdir "$work/cases"
export OMP_WAIT_POLICY=passive
seq "$count" | xargs -P "$(nproc)" -I '{}' \
  sh -c '"$0" --first={} --last={} >"$1/{}" 2>&1 || { cat "$1/{}"; exit 1; }' "$tests" "$work/cases"
unset OMP_WAIT_POLICY
passed=$(cat "$work"/cases/* | grep -c 'Status: SUCCESS!')
echo "   $passed of $count test cases passed, until second $SECONDS"
[ "$passed" = "$count" ] || exit 1
# One library for every x86-64: outside the kernels no AVX, and no inline function that the linker might take from a
# kernel's object instead of from the baseline's.
if command -v objdump >/dev/null && [ "$(uname -m)" = x86_64 ]; then
  find "$build/CMakeFiles/fastcnn_objects.dir" -name '*.o' -exec objdump -d --no-show-raw-insn {} + >"$work/baseline.s"
  grep -c xmm0 "$work/baseline.s" >/dev/null
  if grep -m 3 -E '%[yz]mm' "$work/baseline.s"; then echo "tests/run.sh: AVX outside the kernels" >&2; exit 1; fi
  for isa in avx2 avx512 avx512bf16; do
    find "$build/CMakeFiles/fastcnn_kernels_$isa.dir" -name '*.o' -exec nm -C {} + >"$work/symbols"
    grep -q " T .*$isa" "$work/symbols"
    if grep -E ' [WVu] ' "$work/symbols" | grep -v "$isa"; then
      echo "tests/run.sh: the kernels of $isa share inline functions with the baseline" >&2; exit 1
    fi
  done
fi

echo "== Python tests"
# A second installation, for C++ programs alone: the consumer test builds against it and against the package.
cmake --install "$build" --prefix "$work/prefix" >/dev/null
export FASTCNN_TEST_PREFIX=$work/prefix
if [ "$(uname -m)" = x86_64 ]; then  # what people embed stays small
  bytes=$(find "$work/prefix" -name 'libfastcnn.so*' -type f -exec cat {} + | wc -c)
  if [ "$bytes" -ge 10000000 ]; then echo "tests/run.sh: the installed library has $bytes bytes" >&2; exit 1; fi
fi
# From outside the checkout: the installed package is what is tested.
cd "$work"
unset PYTHONPATH
run_pytest() { python -m pytest -c "$root/pyproject.toml" --rootdir "$root" "$root/tests/python" -p no:cacheprovider -q "$@"; }
if [ $# -gt 0 ]; then run_pytest "$@"; exit; fi
# The smoke set alone, as users run it: workers that wait awake. Most of the others' time is one thread: as many at once
# as there are cores, with workers that leave them to each other.
run_pytest -m smoke
cores=$(nproc)
OMP_WAIT_POLICY=passive run_pytest -m "not smoke" -n "$((cores < 4 ? cores : 4))" --dist worksteal
