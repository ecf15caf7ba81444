// What it is: how planes of Winograd's tiles become outputs: the inverse transform, the epilogue and the moments
// of what is written. What it is not: gradients that go through a norm (conv2d_winograd.cpp).
#pragma once
#include "backend/cpu/kernels/moments.h"
#include "backend/cpu/kernels/winograd_pixels.h"

namespace fastcnn::cpu::FASTCNN_ISA {

// The outputs of a tile, rows x columns of them inside of the image, join the sums.
template <int m>
FASTCNN_OP void sum_tile(MomentSums& s, const vf (&y)[m][m], int64_t rows, int64_t columns, bool fresh) {
  const auto at = [&](int i) __attribute__((always_inline)) { return y[i / m][i % m]; };
  if (rows >= m && columns >= m) {
    if (fresh) s = start_moments(m * m, at);
    return add_moments(s, m * m, at);
  }
  alignas(64) float held[m * m][kLanes];
#pragma GCC unroll 16
  for (int i = 0; i < m * m; ++i) store(held[i], at(i));
  for (bool more = true; more; fresh = false) {
    const vf shift = fresh ? zero() : s.shift;
    vf sum = zero(), squares = zero();
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < columns; ++c) {
        const vf d = sub(load(held[r * m + c]), shift);
        sum = add(sum, d), squares = fma(d, d, squares);
      }
    more = fresh;
    if (fresh)
      s = {mul(sum, set1(1.0f / static_cast<float>(rows * columns))), zero(), zero()};
    else
      s.sum = add(s.sum, sum), s.squares = add(s.squares, squares);
  }
}

inline int64_t pixels_of(const WinogradOutputs& t, int64_t first, int64_t count) {
  int64_t n = 0;
  WinogradTile k(t, first);
  for (int64_t i = 0; i < count; ++i, k.next(t)) n += k.rows * k.columns;
  return n;
}

// Planes of tiles [first, first + count), V vectors of outputs from vector v0 on, to outputs. Their moments go to
// `part`. Without `rows` or `columns` there are no planes at infinity.
template <class Points, class T>
void finish_outputs(const WinogradOutputs& t, int64_t v0, int64_t V, const float* planes, int64_t plane,
                    int64_t first, int64_t count, int64_t part, bool rows = true, bool columns = true) {
  constexpr int m = Points::kSize, kSide = Points::kSide, kInfinity = Points::kInfinity;
  const bool moments = sizeof(T) == 4 && t.moments.on;
  const Epilogue<T> epilogue{t.act, values<T>(t.residual), reinterpret_cast<T*>(t.y), t.y_h, t.y_w, t.stream != 0};
  const double pixels = moments ? static_cast<double>(pixels_of(t, first, count)) : 0;
  if (moments && v0 == 0) t.moments.count[part] = pixels;
  for (int64_t v = 0; v < V; ++v) {
    const int64_t o = (v0 + v) * kLanes;
    const int n = lanes_left(t.O, o);
    const vf bias = t.bias ? loadn(values<T>(t.bias) + o, n) : zero();
    WinogradTile k(t, first);
    MomentSums sums{zero(), zero(), zero()};
    for (int64_t i = 0; i < count; ++i, k.next(t)) {
      const float* s = planes + (i * V + v) * kLanes;
      vf y[m][m];
      from_planes<Points>(
          [&](int h, int w) __attribute__((always_inline)) {
            const bool known = kSide == 6;  // all of them are there
            return (known || rows || h != kInfinity) && (known || columns || w != kInfinity)
                       ? load(s + (h * kSide + w) * plane)
                       : zero();
          },
          y);
      const int64_t offset = k.n * t.y_n + k.h * t.y_h + k.w * t.y_w + o;
      epilogue.finish(y, bias, offset, k.rows, k.columns, n);
      if (moments) sum_tile<m>(sums, y, k.rows, k.columns, i == 0);
    }
    if (moments) {
      alignas(64) float held[3 * kLanes];
      store_moments(held, kLanes, sums);
      double* mean = t.moments.part + part * 2 * t.moments.channels + o;
      close_moments(held, kLanes, n, pixels, mean, mean + t.moments.channels);
    }
  }
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
