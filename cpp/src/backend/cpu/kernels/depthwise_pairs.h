// What it is: two rows of outputs of a depthwise convolution of stride 1 at once, a dilation apart, where
// registers are few: the rows of the image that both see are read once, from the second cache where rows are long.
// The order of each sum is that of a row alone. What it is not: the cut of rows into tiles (conv2d_depthwise.cpp).
#pragma once
#include "backend/cpu/kernels/depthwise_rows.h"

namespace fastcnn::cpu::FASTCNN_ISA {

constexpr bool kPairsOfRows = kLanes == 8;

// Of the K + 1 rows of the image that the two see, [begin, end) are inside of it.
struct DepthwisePair {
  const DepthwiseRow &upper, &lower;
  const float *x, *w;  // the row `begin`, at column -pL; the first tap
  int64_t begin, end;
};

// One row of the image: its products with a row of taps of the upper outputs, of the lower ones, or of both. Long
// rows of taps do not stay in registers: columns are loaded for each of them again. L, R of -1: columns [0, W) are
// inside of the image, and the first one here is `first`.
template <int K, int T, int L, int R, bool kUpper, bool kLower>
FASTCNN_OP void pair_products(const float* x, int64_t x_w, int64_t first, int64_t W, const float* upper,
                              const float* lower, int64_t C, vf (&a)[T], vf (&b)[T]) {
  constexpr bool kByTaps = K > 3 || L < 0;
  vf ka[K], kb[K];
  const auto product = [&](vf v, int i, int t) __attribute__((always_inline)) {
    if (kUpper) a[t] = fma(v, ka[i], a[t]);
    if (kLower) b[t] = fma(v, kb[i], b[t]);
  };
#pragma GCC unroll 8
  for (int i = 0; i < K; ++i) {
    if (kUpper) ka[i] = load(upper + i * C);
    if (kLower) kb[i] = load(lower + i * C);
    if (!kByTaps) continue;
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
      const int j = t + i;
      if (L < 0 ? static_cast<uint64_t>(first + j) < static_cast<uint64_t>(W) : j >= L && j < T + K - 1 - R)
        product(load(x + j * x_w), i, t);
    }
  }
  if (kByTaps) return;
#pragma GCC unroll 16
  for (int j = L; j < T + K - 1 - R; ++j) {
    const vf v = load(x + j * x_w);
#pragma GCC unroll 8
    for (int i = 0; i < K; ++i)
      if (j >= i && j - i < T) product(v, i, j - i);
  }
}

// T pixels from ow on of both rows, a vector of channels. The first L and the last R columns are outside; -1:
// however many.
template <int K, int T, int L, int R>
FASTCNN_OP void pair_vector(const DepthwisePair& p, int64_t ow, int64_t c) {
  const DepthwiseRow& r = p.upper;
  vf a[T], b[T];
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) a[t] = b[t] = zero();
  const float *x = p.x + ow * r.x_w + c, *w = p.w + c;
  const int64_t taps = K * r.C, first = ow - r.pL;
  int64_t i = p.begin;
  if (i == 0 && i < p.end)
    pair_products<K, T, L, R, true, false>(x, r.x_w, first, r.W, w, nullptr, r.C, a, b), x += r.x_kh, ++i;
  for (const float* upper = w + i * taps; i < K && i < p.end; ++i, x += r.x_kh, upper += taps)
    pair_products<K, T, L, R, true, true>(x, r.x_w, first, r.W, upper, upper - taps, r.C, a, b);
  if (i < p.end)
    pair_products<K, T, L, R, false, true>(x, r.x_w, first, r.W, nullptr, w + (K - 1) * taps, r.C, a, b),
        x += r.x_kh;
  if (r.ahead) fetch_below<T>(r, x + r.pL * r.x_w), fetch_below<T>(r, x + r.x_kh + r.pL * r.x_w);
  finish<T>(r, a, ow, c, kLanes);
  finish<T>(p.lower, b, ow, c, kLanes);
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
