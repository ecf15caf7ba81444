// What it is: rows of channels made wider (zeros behind) and narrower again, so that channels which do not fill
// runs of 16 bytes can be read in such. What it is not: a padding of images (indexing.cuh).
#pragma once
#include "backend/cuda/device.cuh"

namespace fastcnn::cuda {

// y (out_rows, wide) from x (rows, C), wide % Pack<T>::n == 0; a thread per pack.
template <class T>
FASTCNN_KERNEL widen_channels(const T* x, int64_t rows, int32_t C, int64_t out_rows, int32_t wide, T* y) {
  constexpr int n = Pack<T>::n;
  const int32_t packs = wide / n;
  for (int64_t i = global_thread(); i < out_rows * packs; i += global_threads()) {
    const int64_t r = i / packs;
    const auto c = static_cast<int32_t>(i - r * packs) * n;
    Pack<T> v;
    FASTCNN_UNROLL
    for (int j = 0; j < n; ++j) v.v[j] = r < rows && c + j < C ? x[r * C + c + j] : from_real<T>(0);
    reinterpret_cast<Pack<T>*>(y)[i] = v;
  }
}

// y (rows, C) from x (rows, wide).
template <class To, class From>
FASTCNN_KERNEL narrow_channels(const From* x, int64_t rows, int32_t wide, int32_t C, To* y) {
  for (int64_t i = global_thread(); i < rows * C; i += global_threads()) {
    const int64_t r = i / C;
    y[i] = from_real<To>(to_real(x[r * wide + (i - r * C)]));
  }
}

}  // namespace fastcnn::cuda
