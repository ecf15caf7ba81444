#!/usr/bin/env bash
# Installs fastcnn with its test dependencies into the current environment and runs all tests, C++ included.
set -euo pipefail
cd "$(dirname "$0")/.."
pip install ".[test]"
cmake=$(command -v cmake || true)
if [ -z "$cmake" ]; then pip install -q cmake; fi
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
cmake -S . -B "$build" -DCMAKE_BUILD_TYPE=Release -DFASTCNN_TESTS=ON -DFASTCNN_CUDA=OFF >"$build/configure.log" || { cat "$build/configure.log"; exit 1; }
cmake --build "$build" -j "$(nproc)"
"$build/tests/cpp/fastcnn_cpp_tests"
# From outside the checkout: the installed package is what is tested.
cd "$build"
python -m pytest -c "$OLDPWD/pyproject.toml" --rootdir "$OLDPWD" "$OLDPWD/tests/python" -p no:cacheprovider -q
