#!/usr/bin/env bash
# The CUDA backend on the executor: builds the extension with FASTCNN_CUDA=HOST in a folder of its own and runs the
# device tests with it. Needs no GPU and no nvcc. FASTCNN_HOST_ISAS: default avx2; all of them share ccache with a usual
# build, which leaves the CUDA sources to compile.
set -euo pipefail
cd "$(dirname "$0")/.."
build=${1:-build-host}
cmake -G Ninja -S . -B "$build" -DCMAKE_BUILD_TYPE=Release -DFASTCNN_CUDA=HOST -DFASTCNN_PYTHON=ON \
      -DFASTCNN_ISAS="${FASTCNN_HOST_ISAS:-avx2}" -Dpybind11_DIR="$(python -m pybind11 --cmakedir)"
cmake --build "$build" --target _core
package=$(mktemp -d)
trap 'rm -rf "$package"' EXIT
cp -r python/fastcnn "$package/"
rm -f "$package"/fastcnn/_core*.so
ln -s "$(realpath "$build")"/_core*.so "$package/fastcnn/"
PYTHONPATH=$package python -m pytest tests/python/test_cuda.py tests/python/test_cuda_training.py -q -p no:cacheprovider
