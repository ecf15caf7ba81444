// What it is: depthwise convolution (one input and one output channel per group): forward, which also serves
// backward to data, and backward to weights. Lanes are channels. Tiles of outputs side by side read the image
// in place; tiles at the left and right border take zeros for columns outside, tap rows outside are skipped.
// What it is not: several outputs for a channel (conv2d_group_lanes.cpp).
#include "backend/cpu/kernels/act_pixels.h"
#include "backend/cpu/kernels/depthwise_flat.h"
#include "backend/cpu/kernels/depthwise_pairs.h"
#include "backend/cpu/kernels/kernels.h"

namespace fastcnn::cpu::FASTCNN_ISA {
namespace {

#define FASTCNN_OUTLINE __attribute__((noinline)) static

// Columns [L, count - R) of a tile are inside the image, the others are zero. kAny: at the border of the
// channels, or however many columns are outside.
constexpr int kAny = -1;
template <int L, int R>
FASTCNN_OP vf column(const DepthwiseRow& r, const float* x, int64_t first, int j, int count, int n) {
  if (L == kAny) {
    if (static_cast<uint64_t>(first + j) >= static_cast<uint64_t>(r.W)) return zero();
    return loadn(x + j * r.x_w, n);
  }
  return j < L || j >= count - R ? zero() : load(x + j * r.x_w);
}

template <int K, int S, int T, int L, int R>
FASTCNN_OP void tile_vector(const DepthwiseRow& r, int64_t ow, int64_t c, int n) {
  constexpr int kColumns = (T - 1) * S + K;
  const int64_t first = ow * S - r.pL;
  vf acc[T];
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) acc[t] = zero();
  const float* x = r.x + ow * S * r.x_w + c;
  const float* w = r.w + c;
  for (int64_t kh = 0; kh < r.taps_h; ++kh, x += r.x_kh, w += K * r.C) {
    vf k[K], v[kColumns];
#pragma GCC unroll 8
    for (int i = 0; i < K; ++i) k[i] = L == kAny ? loadn(w + i * r.C, n) : load(w + i * r.C);
#pragma GCC unroll 32
    for (int i = 0; i < kColumns; ++i) v[i] = column<L, R>(r, x, first, i, kColumns, n);
#pragma GCC unroll 8
    for (int i = 0; i < K; ++i)
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t)
        if (L == kAny || (t * S + i >= L && t * S + i < kColumns - R)) acc[t] = fma(v[t * S + i], k[i], acc[t]);
  }
  fetch_below<T * S>(r, x + r.pL * r.x_w);
  finish<T>(r, acc, ow, c, n);
}

// Where a vector is half a line, both halves of it together: pixels of 512 or 1024 channels share few sets of the
// cache, and the other half would have left it. The order of each sum is that of tile_vector.
constexpr bool kHalfLines = kLanes == 8;
constexpr int64_t kSharedSets = 512;
// f(both halves, tap, pixel) of every product of a tap row of T pixels, column by column.
template <int K, int S, int T, int L, int R, class F>
FASTCNN_OP void products_of_lines(const float* x, int64_t x_w, F f) {
#pragma GCC unroll 32
  for (int j = L; j < (T - 1) * S + K - R; ++j) {
    const vf v[2] = {load(x + j * x_w), load(x + j * x_w + kLanes)};
#pragma GCC unroll 8
    for (int i = 0; i < K; ++i)
      if (j >= i && (j - i) % S == 0 && (j - i) / S < T) f(v, i, (j - i) / S);
  }
}

template <int K, int S, int T, int L, int R>
FASTCNN_OP void tile_line(const DepthwiseRow& r, int64_t ow, int64_t c) {
  vf acc[2][T];
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) acc[0][t] = acc[1][t] = zero();
  const float* x = r.x + ow * S * r.x_w + c;
  const float* w = r.w + c;
  for (int64_t kh = 0; kh < r.taps_h; ++kh, x += r.x_kh, w += K * r.C) {
    vf k[2][K];
#pragma GCC unroll 8
    for (int i = 0; i < K; ++i) k[0][i] = load(w + i * r.C), k[1][i] = load(w + i * r.C + kLanes);
    products_of_lines<K, S, T, L, R>(x, r.x_w, [&](const vf* v, int i, int t) __attribute__((always_inline)) {
      acc[0][t] = fma(v[0], k[0][i], acc[0][t]), acc[1][t] = fma(v[1], k[1][i], acc[1][t]);
    });
  }
  fetch_below<T * S>(r, x + r.pL * r.x_w);
  finish<T>(r, acc[0], ow, c, kLanes);
  finish<T>(r, acc[1], ow, c + kLanes, kLanes);
}

// Channels from c on. One copy for all borders: it is as large as theirs.
template <int K, int S, int T>
FASTCNN_OUTLINE void tile_vectors_any(const DepthwiseRow& r, int64_t ow, int64_t c) {
  for (; c < r.C; c += kLanes)
    tile_vector<K, S, T, kAny, kAny>(r, ow, c, static_cast<int>(r.C - c < kLanes ? r.C - c : kLanes));
}

template <int K, int S, int T, int L, int R>
static void tile_vectors(const DepthwiseRow& r, int64_t ow) {
  int64_t c = 0;
  if constexpr (L != kAny && kHalfLines && K <= 3)
    for (; (S == 1 || r.x_w % kSharedSets == 0) && c + 2 * kLanes <= r.C; c += 2 * kLanes)
      tile_line<K, S, T, L, R>(r, ow, c);
  if constexpr (L != kAny)
    for (; c + kLanes <= r.C; c += kLanes) tile_vector<K, S, T, L, R>(r, ow, c, kLanes);
  if (c < r.C) tile_vectors_any<K, S, T>(r, ow, c);
}

// f<L, R>() for the columns of a tile that are outside the image; common cases have loops of their own.
template <int K, int S, int T, class F>
FASTCNN_OP void by_border(const DepthwiseRow& r, int64_t ow, F&& f) {
  constexpr int kHalf = K / 2;
  const int64_t left = r.pL - ow * S, right = (ow + T - 1) * S - r.pL + K - r.W;
  // Others than these are rare, and each border is another copy of the tile.
  if (kFewCopies || T < 4 || K == 2 || K > 5 || (K == 4 && S == 2))
    return left <= 0 && right <= 0 && T >= 4 ? f.template at<0, 0>() : f.template at<kAny, kAny>();
  if (left <= 0) {
    if (right <= 0) return f.template at<0, 0>();
    if (right == kHalf) return f.template at<0, kHalf>();
    if (right == kHalf - 1) return f.template at<0, kHalf - 1>();
  } else if (left == kHalf) {
    if (right <= 0) return f.template at<kHalf, 0>();
    if (right == kHalf) return f.template at<kHalf, kHalf>();
    if (right == kHalf - 1) return f.template at<kHalf, kHalf - 1>();
  }
  f.template at<kAny, kAny>();
}

template <int K, int S, int T>
struct ForwardTile {
  const DepthwiseRow& r;
  int64_t ow;
  template <int L, int R>
  FASTCNN_OP void at() const {
    tile_vectors<K, S, T, L, R>(r, ow);
  }
};

// Cuts a row into tiles of 8 or 7 (or 4), then 2 and 1, or where pixels may be made again, a whole one that ends
// with the row; f.at<T>(ow) runs one.
template <class F>
FASTCNN_OP void cut_row(int64_t oW, F&& f, bool again = false) {
  int64_t ow = 0;
  if (kPixels == 8) {
    if (oW % 7 == 0) {
      for (; ow < oW; ow += 7) f.template at<7>(ow);
      return;
    }
    for (; ow + 8 <= oW; ow += 8) f.template at<8>(ow);
    if (again && ow + 4 < oW && oW >= 8) return f.template at<8>(oW - 8);
  }
  for (; ow + 4 <= oW; ow += 4) f.template at<4>(ow);
  if (again && ow + 1 < oW && oW >= 4) return f.template at<4>(oW - 4);
  if (ow + 2 <= oW) f.template at<2>(ow), ow += 2;
  if (ow < oW) f.template at<1>(ow);
}

template <int K, int S>
struct ForwardRow {
  const DepthwiseRow& r;
  template <int T>
  FASTCNN_OP void at(int64_t ow) const {
    by_border<K, S, T>(r, ow, ForwardTile<K, S, T>{r, ow});
  }
};
template <int K, int S>
void row(const DepthwiseRow& r) {
  cut_row(r.oW, ForwardRow<K, S>{r}, !r.sums && !r.residual);
}

template <int K, int T, int L, int R>
FASTCNN_OUTLINE void pair_vectors(const DepthwisePair& p, int64_t ow) {
  const DepthwiseRow& r = p.upper;
  int64_t c = 0;
  for (; c + kLanes <= r.C; c += kLanes) pair_vector<K, T, L, R>(p, ow, c);
  if (c == r.C) return;
  // A last whole vector makes some channels again, where that does no harm.
  if (!r.sums && !r.residual) return pair_vector<K, T, L, R>(p, ow, r.C - kLanes);
  tile_vectors_any<K, 1, T>(r, ow, c);
  tile_vectors_any<K, 1, T>(p.lower, ow, c);
}
template <int K>
struct PairOfRows {
  const DepthwisePair& p;
  template <int T>
  FASTCNN_OP void at(int64_t ow) const {
    const int64_t left = p.upper.pL - ow, right = ow + T - 1 - p.upper.pL + K - p.upper.W;
    if constexpr (T >= 4) {
      if (left <= 0 && right <= 0) return pair_vectors<K, T, 0, 0>(p, ow);
      if constexpr (K <= 5) {
        if (left == K / 2 && right <= 0) return pair_vectors<K, T, K / 2, 0>(p, ow);
        if (left <= 0 && right == K / 2) return pair_vectors<K, T, 0, K / 2>(p, ow);
      }
    }
    pair_vectors<K, T, kAny, kAny>(p, ow);
  }
};
template <int K>
[[maybe_unused]] void pair_of_rows(const DepthwisePair& p) {
  cut_row(p.upper.oW, PairOfRows<K>{p}, !p.upper.sums && !p.upper.residual);
}

using RowFn = void (*)(const DepthwiseRow&);
using PairFn = void (*)(const DepthwisePair&);
PairFn pick_pair(const GemmTask& t) {
  if constexpr (kPairsOfRows)
    if (t.kH == t.kW && t.sH * t.sW == 1 && t.C >= kLanes && t.dW * t.x_w % kSharedSets != 0)
      return t.kW == 3   ? pair_of_rows<3>
             : t.kW == 4 ? pair_of_rows<4>
             : t.kW == 5 ? pair_of_rows<5>
             : t.kW == 7 ? pair_of_rows<7>
                         : nullptr;
  return nullptr;
}

RowFn pick_row(int64_t kW, int64_t sW, int64_t dW) {
  if ((dW != 1 && kW > 1) || (kFewCopies && kW != 3)) return any_row;
  if (sW == 1) switch (kW) {
      case 1: return row<1, 1>;
      case 2: return row<2, 1>;
      case 3: return row<3, 1>;
      case 4: return row<4, 1>;
      case 5: return row<5, 1>;
      case 7: return row<7, 1>;
    }
  if (sW == 2) switch (kW) {
      case 2: return row<2, 2>;
      case 3: return row<3, 2>;
      case 4: return row<4, 2>;
      case 5: return row<5, 2>;
      case 7: return row<7, 2>;
    }
  return any_row;
}

// H tap rows of dw at once over T pixels; dw itself is the accumulator and stays in L1.
template <int H, int K, int S, int T, int L, int R>
FASTCNN_OP void grad_vector(const DepthwiseRow& r, int64_t kh, int64_t ow, int64_t c, int n) {
  constexpr int kColumns = (T - 1) * S + K;
  const int64_t first = ow * S - r.pL;
  vf acc[H][K], d[T];
  float* dw = r.dw + kh * K * r.C + c;
  const float* x = r.x + kh * r.x_kh + ow * S * r.x_w + c;
  const float* dy = r.dy + ow * r.y_w + c;
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) d[t] = L == kAny ? loadn(dy + t * r.y_w, n) : load(dy + t * r.y_w);
#pragma GCC unroll 4
  for (int h = 0; h < H; ++h) {
#pragma GCC unroll 8
    for (int i = 0; i < K; ++i)
      acc[h][i] = L == kAny ? loadn(dw + (h * K + i) * r.C, n) : load(dw + (h * K + i) * r.C);
#pragma GCC unroll 32
    for (int j = 0; j < kColumns; ++j) {
      if (L != kAny && (j < L || j >= kColumns - R)) continue;
      vf v = column<L, R>(r, x + h * r.x_kh, first, j, kColumns, n);
#pragma GCC unroll 8
      for (int i = 0; i < K; ++i)
        if (j >= i && (j - i) % S == 0 && (j - i) / S < T) acc[h][i] = fma(v, d[(j - i) / S], acc[h][i]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < K; ++i) {
      if (L == kAny)
        storen(dw + (h * K + i) * r.C, acc[h][i], n);
      else
        store(dw + (h * K + i) * r.C, acc[h][i]);
    }
  }
  if (r.ahead && kh + H >= r.taps_h) {
    fetch_below<T * S>(r, x + H * r.x_kh + r.pL * r.x_w);
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) __builtin_prefetch(dy + r.fetch_dy + t * r.y_w, 0, 2);
  }
}

// Both halves of a line, one tap row: as tile_line.
template <int K, int S, int T, int L, int R>
FASTCNN_OP void grad_line(const DepthwiseRow& r, int64_t kh, int64_t ow, int64_t c) {
  vf acc[2][K], d[2][T];
  float* dw = r.dw + kh * K * r.C + c;
  const float* x = r.x + kh * r.x_kh + ow * S * r.x_w + c;
  const float* dy = r.dy + ow * r.y_w + c;
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) d[0][t] = load(dy + t * r.y_w), d[1][t] = load(dy + t * r.y_w + kLanes);
#pragma GCC unroll 8
  for (int i = 0; i < K; ++i) acc[0][i] = load(dw + i * r.C), acc[1][i] = load(dw + i * r.C + kLanes);
  products_of_lines<K, S, T, L, R>(x, r.x_w, [&](const vf* v, int i, int t) __attribute__((always_inline)) {
    acc[0][i] = fma(v[0], d[0][t], acc[0][i]), acc[1][i] = fma(v[1], d[1][t], acc[1][i]);
  });
#pragma GCC unroll 8
  for (int i = 0; i < K; ++i) store(dw + i * r.C, acc[0][i]), store(dw + i * r.C + kLanes, acc[1][i]);
  if (r.ahead && kh + 1 >= r.taps_h) {
    fetch_below<T * S>(r, x + r.x_kh + r.pL * r.x_w);
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) __builtin_prefetch(dy + r.fetch_dy + t * r.y_w, 0, 2);
  }
}

template <int H, int K, int S, int T>
FASTCNN_OUTLINE void grad_vectors_any(const DepthwiseRow& r, int64_t kh, int64_t ow, int64_t c) {
  for (; c < r.C; c += kLanes)
    grad_vector<H, K, S, T, kAny, kAny>(r, kh, ow, c, static_cast<int>(r.C - c < kLanes ? r.C - c : kLanes));
}

template <int H, int K, int S, int T, int L, int R>
static void grad_vectors(const DepthwiseRow& r, int64_t kh, int64_t ow) {
  int64_t c = 0;
  if constexpr (L != kAny && kHalfLines && K == 3)
    for (; r.x_w % kSharedSets == 0 && c + 2 * kLanes <= r.C; c += 2 * kLanes)
      for (int h = 0; h < H; ++h) grad_line<K, S, T, L, R>(r, kh + h, ow, c);
  if constexpr (L != kAny)
    for (; c + kLanes <= r.C; c += kLanes) grad_vector<H, K, S, T, L, R>(r, kh, ow, c, kLanes);
  if (c < r.C) grad_vectors_any<H, K, S, T>(r, kh, ow, c);
}

template <int K, int S, int T>
struct GradTile {
  const DepthwiseRow& r;
  int64_t ow;
  template <int L, int R>
  FASTCNN_OP void at() const {
    int64_t kh = 0;
    if (K == 3)
      for (; kh + 3 <= r.taps_h; kh += 3) grad_vectors<3, K, S, T, L, R>(r, kh, ow);
    for (; kh < r.taps_h; ++kh) grad_vectors<1, K, S, T, L, R>(r, kh, ow);
  }
};

template <int K, int S>
struct GradRow {
  const DepthwiseRow& r;
  template <int T>
  FASTCNN_OP void at(int64_t ow) const {
    by_border<K, S, T>(r, ow, GradTile<K, S, T>{r, ow});
  }
};
template <int K, int S>
void grad_row(const DepthwiseRow& r) {
  cut_row(r.oW, GradRow<K, S>{r});
}

RowFn pick_grad_row(int64_t kW, int64_t sW, int64_t dW) {
  if (dW != 1 || (kFewCopies && kW != 3)) return any_grad_row;
  if (sW == 1) switch (kW) {
      case 2: return grad_row<2, 1>;
      case 3: return grad_row<3, 1>;
      case 5: return grad_row<5, 1>;
      case 7: return grad_row<7, 1>;
    }
  if (sW == 2) switch (kW) {
      case 2: return grad_row<2, 2>;
      case 3: return grad_row<3, 2>;
      case 5: return grad_row<5, 2>;
    }
  return any_grad_row;
}

// What a row of outputs (n, oh) reads; returns the first tap row inside.
template <class Task>
FASTCNN_OP int64_t locate(const Task& t, int64_t n, int64_t oh, DepthwiseRow& r) {
  const int64_t first = oh * t.sH - t.pT;
  const int64_t k0 = first < 0 ? ceil_div(-first, t.dH) : 0;
  int64_t k1 = first < t.H ? ceil_div(t.H - first, t.dH) : 0;
  if (k1 > t.kH) k1 = t.kH;
  r.taps_h = k1 > k0 ? k1 - k0 : 0;
  r.x = t.x + n * t.x_n + (first + k0 * t.dH) * t.x_h - t.pL * t.x_w;
  return k0;
}

template <class Task>
FASTCNN_OP DepthwiseRow start_row(const Task& t) {
  DepthwiseRow r = {};
  r.x_w = t.x_w, r.x_kh = t.dH * t.x_h, r.C = t.C, r.kW = t.kW, r.sW = t.sW, r.dW = t.dW, r.y_w = t.y_w;
  r.oW = t.oW, r.W = t.W, r.pL = t.pL, r.c1 = t.C;
  r.fetch = t.norm.fetch;
  if (t.N * t.x_n > kCachedFloats) r.ahead = t.sH < t.kH ? t.sH : t.kH;
  if (t.sH > t.kH) r.fetch += (t.sH - t.kH) * t.x_h;
  if (t.dH != 1) {  // the row below the last tap's
    r.ahead = r.ahead && t.sH == 1 ? 1 : 0;
    r.fetch += t.x_h - r.x_kh;
  }
  return r;
}

// A dilated row of stride 1 is `dilation` rows between each other, of pixels that far apart: the one of pixels i,
// i + dilation, …
FASTCNN_OP DepthwiseRow row_between(const DepthwiseRow& r, int64_t dilation, int64_t i) {
  DepthwiseRow q = r;
  const int64_t first = i - r.pL, m = (first % dilation + dilation) % dilation;
  q.dW = 1;
  q.x_w = dilation * r.x_w, q.y_w = dilation * r.y_w;
  q.oW = ceil_div(r.oW - i, dilation), q.W = m < r.W ? ceil_div(r.W - m, dilation) : 0;
  q.pL = (m - first) / dilation;
  q.x = r.x + r.pL * r.x_w + m * r.x_w - q.pL * q.x_w;
  if (r.y) q.y = r.y + i * r.y_w;
  if (r.residual) q.residual = r.residual + i * r.y_w;
  q.fresh = r.fresh && i == 0;
  if (r.dy) q.dy = r.dy + i * r.y_w;
  return q;
}

template <class Fn>
FASTCNN_OP void run_row(Fn fn, const DepthwiseRow& r, int64_t dilation) {
  if (dilation == 1 || r.sW != 1) return fn(r);
  for (int64_t i = 0; i < dilation && i < r.oW; ++i) fn(row_between(r, dilation, i));
}

// Rows oh and oh + dH of image n.
void run_pair(PairFn fn, const GemmTask& t, int64_t oh, int64_t n, const DepthwiseRow& upper,
              const DepthwiseRow& lower) {
  const int64_t top = oh - t.pT, begin = top < 0 ? ceil_div(-top, t.dH) : 0,
                rows = top < t.H ? ceil_div(t.H - top, t.dH) : 0;
  const int64_t end = rows < t.kH + 1 ? rows : t.kH + 1;
  DepthwiseRow both = upper;
  both.x = t.x + n * t.x_n + (top + begin * t.dH) * t.x_h - t.pL * t.x_w;
  if (t.dW == 1) return fn({upper, lower, both.x, t.w, begin, end});
  for (int64_t i = 0; i < t.dW && i < t.oW; ++i) {
    const DepthwiseRow a = row_between(upper, t.dW, i), b = row_between(lower, t.dW, i);
    fn({a, b, row_between(both, t.dW, i).x, t.w, begin, end});
  }
}

}  // namespace

void conv2d_depthwise(const GemmTask& t, int64_t begin, int64_t end) {
  const RowFn row_fn = pick_row(t.kW, t.sW, t.sW == 1 ? 1 : t.dW);
  DepthwiseRow r = start_row(t);
  r.bias = t.bias;
  r.stream = t.stream;
  r.sums = t.moments.sums;
  r.sums_step = ceil_div(t.C, kLanes) * kLanes;
  r.low = t.act == Act::none ? -__builtin_inff() : 0.0f;
  r.high = t.act == Act::relu6 ? 6.0f : __builtin_inff();
  const PairFn pair_fn = pick_pair(t);
  const bool flat_too = !pair_fn && flat_rows(t) && !t.moments.sums;
  Flat flat(flat_too ? t.C : 1);
  if (flat_too) {
    flat.each(t.kH * t.kW, [&](float& lane, int64_t i) { lane = t.w[i]; });
    for (int64_t i = 0; i < flat.period * kLanes; ++i) flat.bias[i] = t.bias ? t.bias[i % t.C] : 0.0f;
  }
  const auto locate_row = [&](int64_t item, DepthwiseRow& q) {
    const int64_t n = item / t.oH, oh = item % t.oH, kh0 = locate(t, n, oh, q);
    q.w = t.w + kh0 * t.kW * t.C;
    q.y = t.y + n * t.y_n + oh * t.y_h;
    q.residual = t.residual ? t.residual + (q.y - t.y) : nullptr;
    q.fresh = t.moments.fresh && item == begin;
    return kh0;
  };
  const auto late_act = [&](float* y) {
    constexpr int64_t kRow[] = {0};
    if (t.late.act != Act::none) act_pixels(t.late, y, kRow, 1, t.oW * t.C);
  };
  // Pairs are rows a dilation apart, in blocks of twice as many.
  const int64_t apart = pair_fn ? t.dH : 1;
  for (int64_t item = begin, block; item < end; item += block) {
    const int64_t n = item / t.oH, oh = item % t.oH, left = end - item < t.oH - oh ? end - item : t.oH - oh;
    block = left < 2 * apart ? left : 2 * apart;
    if (!pair_fn) block = 1;
    for (int64_t i = 0; i < apart && i < block; ++i) {
      const int64_t kh0 = locate_row(item + i, r);
      if (i + apart < block) {
        DepthwiseRow lower = r;
        locate_row(item + i + apart, lower);
        run_pair(pair_fn, t, oh + i, n, r, lower);
        late_act(lower.y);
      } else if (flat_too) {
        flat_row(r, flat, kh0);
      } else {
        run_row(row_fn, r, t.dW);
      }
      late_act(r.y);
    }
  }
  if (t.stream) fence();
}

void conv2d_depthwise_moments(const MomentsOut& m, double n) {
  close_moments(m.sums, ceil_div(m.channels, kLanes) * kLanes, m.channels, n, m.part, m.part + m.channels);
}

void conv2d_depthwise_weights_grad(const WeightsGradTask& t, int64_t begin, int64_t end) {
  const RowFn row_fn = pick_grad_row(t.kW, t.sW, t.sW == 1 ? 1 : t.dW);
  DepthwiseRow r = start_row(t);
  r.fetch_dy = t.fetch_dy ? t.fetch_dy : t.oW * t.y_w;
  const bool flat_too = flat_rows(t);
  Flat flat(flat_too ? t.C : 1);
  if (flat_too) flat.each(t.kH * t.kW, [](float& lane, int64_t) { lane = 0; });
  for (int64_t i = begin; i < end; ++i) {
    const int64_t n = i / t.oH, oh = i % t.oH, kh0 = locate(t, n, oh, r);
    r.dw = t.dw + kh0 * t.kW * t.C;
    r.dy = t.dy + n * t.y_n + oh * t.y_h;
    if (flat_too)
      flat_grad_row(r, flat, kh0);
    else
      run_row(row_fn, r, t.dW);
    for (int64_t c = 0; t.dbias && c < t.C; c += kLanes) {
      const int m = static_cast<int>(t.C - c < kLanes ? t.C - c : kLanes);
      vf sum = loadn(t.dbias + c, m);
      for (int64_t w = 0; w < t.oW; ++w) sum = add(sum, loadn(r.dy + w * t.y_w + c, m));
      storen(t.dbias + c, sum, m);
    }
  }
  if (flat_too) flat.each(t.kH * t.kW, [&](float& lane, int64_t i) { t.dw[i] += lane; });
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
