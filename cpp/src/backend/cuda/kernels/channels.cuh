// What it is: rows of channels made wider (zeros behind) and narrower again, so that channels which do not fill
// runs of 16 bytes can be read in such; squares of pixels made channels of one pixel and back (space to depth).
// What it is not: a padding of images (indexing.cuh).
#pragma once
#include "backend/cuda/kernels/fast_div.h"
#include "backend/cuda/device.cuh"

namespace fastcnn::cuda {

// y (out_rows, wide) from x (rows, C), wide % Pack<T>::n == 0; a thread per pack.
template <class T>
FASTCNN_KERNEL widen_channels(const T* x, int64_t rows, int32_t C, int64_t out_rows, int32_t wide, T* y) {
  follow_previous();
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
  follow_previous();
  for (int64_t i = global_thread(); i < rows * C; i += global_threads()) {
    const int64_t r = i / C;
    y[i] = from_real<To>(to_real(x[r * wide + (i - r * C)]));
  }
}

// Images (N, H, W, C) and the same as (N, rows, columns, wide): channel (p * step + q) * C + c of pixel (i, j) is
// channel c of row i * step + p - top, column j * step + q - left; zero outside and behind step * step * C.
struct SpaceToDepth {
  int32_t N, H, W, C, rows, columns, wide, step, top, left;
};

// y, wide, of x: a thread per pixel, two channels at a time (wide is even).
template <class T>
FASTCNN_KERNEL space_to_depth(SpaceToDepth g, FastDiv by_columns, FastDiv by_rows, const T* x, uint32_t* y) {
  follow_previous();
  const int32_t pixels = g.N * g.rows * g.columns;
  for (int64_t at = global_thread(); at < pixels; at += global_threads()) {
    int32_t i, j;
    const int32_t n = by_rows.split(by_columns.split(static_cast<int32_t>(at), &j), &i);
    uint32_t* to = y + at * (g.wide / 2);
    uint32_t pair = 0;
    int32_t k = 0;
    auto put = [&](uint32_t bits) {
      pair |= bits << (k % 2 * 16);
      if (k++ % 2) to[k / 2 - 1] = pair, pair = 0;
    };
    for (int32_t p = 0; p < g.step; ++p) {
      const int32_t h = i * g.step + p - g.top;
      for (int32_t q = 0; q < g.step; ++q) {
        const int32_t w = j * g.step + q - g.left;
        const bool inside = h >= 0 && h < g.H && w >= 0 && w < g.W;
        const T* from = x + ((static_cast<int64_t>(n) * g.H + h) * g.W + w) * g.C;
        for (int32_t c = 0; c < g.C; ++c) put(inside ? from[c].bits : 0);
      }
    }
    while (k < g.wide) put(0);
  }
}

// y, the images, of x, wide: a thread per element.
template <class To, class From>
FASTCNN_KERNEL depth_to_space(SpaceToDepth g, const From* x, To* y) {
  follow_previous();
  const int64_t elements = static_cast<int64_t>(g.N) * g.H * g.W * g.C;
  for (int64_t at = global_thread(); at < elements; at += global_threads()) {
    const auto c = static_cast<int32_t>(at % g.C), w = static_cast<int32_t>(at / g.C % g.W) + g.left;
    const auto h = static_cast<int32_t>(at / g.C / g.W % g.H) + g.top;
    const int64_t n = at / g.C / g.W / g.H;
    const int64_t pixel = (n * g.rows + h / g.step) * g.columns + w / g.step;
    y[at] = from_real<To>(to_real(x[pixel * g.wide + (h % g.step * g.step + w % g.step) * g.C + c]));
  }
}

}  // namespace fastcnn::cuda
