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

// Images (N, H, W, C) and the same as (N, rows, columns, wide): channel (p * step + q) * C + c of pixel (i, j) is
// channel c of row i * step + p - top, column j * step + q - left; zero outside and behind step * step * C.
struct SpaceToDepth {
  int32_t N = 0, H = 0, W = 0, C = 0, rows = 0, columns = 0, wide = 0, step = 1, top = 0, left = 0;
  FastDiv by_pairs, by_columns, by_rows, by_C, by_step;
};

// y, wide, of x: a thread per pair of channels (wide is even), so that neighbours write neighbours.
template <class T>
FASTCNN_KERNEL space_to_depth(SpaceToDepth g, int32_t pairs, const T* x, uint32_t* y) {
  for (int64_t at = global_thread(); at < pairs; at += global_threads()) {
    int32_t pair, i, j;
    const int32_t pixel = g.by_pairs.split(static_cast<int32_t>(at), &pair);
    const int32_t n = g.by_rows.split(g.by_columns.split(pixel, &j), &i);
    auto value = [&](int32_t k) -> uint32_t {
      int32_t c, q;
      const int32_t p = g.by_step.split(g.by_C.split(k, &c), &q);
      const int32_t h = i * g.step + p - g.top, w = j * g.step + q - g.left;
      const bool inside = p < g.step && h >= 0 && h < g.H && w >= 0 && w < g.W;
      return inside ? x[static_cast<int64_t>((n * g.H + h) * g.W + w) * g.C + c].bits : 0;
    };
    y[at] = value(2 * pair) | value(2 * pair + 1) << 16;
  }
}

// y, the images, of x, wide: a thread per element.
template <class To, class From>
FASTCNN_KERNEL depth_to_space(SpaceToDepth g, const From* x, To* y) {
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
