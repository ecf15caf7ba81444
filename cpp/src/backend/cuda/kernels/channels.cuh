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
  FastDiv by_runs, by_rows;
};

// Elements of shared memory: rows of x that one row of y takes, with zeros beside them; behind, where a channel
// lies.
FASTCNN_INLINE int64_t depth_elements(const SpaceToDepth& g) {
  return (int64_t{g.step} * g.columns * g.step * g.C + 7) / 8 * 8;
}
// y, wide, of x, a block per row: x in words where `words` (rows of an even number of elements, aligned), y in
// runs.
template <class T>
FASTCNN_KERNEL space_to_depth(SpaceToDepth g, bool words, const T* x, T* y) {
  T* lines = shared_memory<T>();
  auto* place = reinterpret_cast<int32_t*>(lines + depth_elements(g));
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const int32_t pixel = g.step * g.C, line = g.columns * pixel, row = g.W * g.C, first = g.left * g.C;
  for (int k = thread; k < g.wide; k += threads) {
    const int32_t p = k / pixel;
    place[k] = p < g.step ? p * line + k % pixel : -1;
  }
  int32_t i;
  const int32_t n = g.by_rows.split(static_cast<int32_t>(blockIdx.x), &i);
  for (int p = 0; p < g.step; ++p) {
    const int32_t h = i * g.step + p - g.top;
    T* to = lines + p * line;
    const T* from = x + (static_cast<int64_t>(n) * g.H + h) * row;
    const bool inside = h >= 0 && h < g.H;
    for (int e = thread; e < line; e += threads)
      if (!inside || e < first || e >= first + row) to[e] = from_real<T>(0);
    if (!inside) continue;
    const int32_t end = row < line - first ? row : line - first;  // what no window meets is left out
    if (words) {
      for (int e = thread * 2; e < end; e += threads * 2) {
        const uint32_t pair = *reinterpret_cast<const uint32_t*>(from + e);
        to[first + e].bits = static_cast<uint16_t>(pair);
        if (e + 1 < end) to[first + e + 1].bits = static_cast<uint16_t>(pair >> 16);
      }
    } else {
      for (int e = thread; e < end; e += threads) to[first + e] = from[e];
    }
  }
  __syncthreads();
  constexpr int run = Pack<T>::n;
  auto* runs = reinterpret_cast<Pack<T>*>(y) + static_cast<int64_t>(blockIdx.x) * g.columns * (g.wide / run);
  for (int e = thread; e < g.columns * (g.wide / run); e += threads) {
    int32_t chunk;
    const int32_t from = g.by_runs.split(e, &chunk) * pixel;
    Pack<T> v;
    FASTCNN_UNROLL
    for (int k = 0; k < run; ++k) {
      const int32_t at = place[chunk * run + k];
      v.v[k] = at < 0 ? from_real<T>(0) : lines[from + at];
    }
    runs[e] = v;
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
