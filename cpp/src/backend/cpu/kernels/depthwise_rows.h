// What it is: what the depthwise kernels know of a row of outputs or of their gradient, and rows of windows of any
// kind: whole ones in runs, those at the borders one by one. What it is not: tiles of the usual windows
// (conv2d_depthwise.cpp) or runs of floats (depthwise_flat.h).
#pragma once
#include "backend/cpu/kernels/kernel_args.h"
#include "backend/cpu/kernels/moments.h"
#include "backend/cpu/kernels/simd.h"

namespace fastcnn::cpu::FASTCNN_ISA {

constexpr int kPixels = kVectorRegs == 32 ? 8 : 4;
constexpr int64_t kBlockWeights = 4096;  // floats

// One row of outputs or of their gradient.
struct DepthwiseRow {
  const float* x;         // column -pL of the image row of the first tap row inside
  int64_t x_w, x_kh;      // floats between columns, between tap rows
  int64_t C, kW, taps_h;  // taps_h: tap rows inside the image
  int64_t c0, c1;         // windows of any kind: these channels alone
  int64_t sW, dW;
  const float* w;   // first tap row inside: (taps_h, kW, C)
  const float* dy;  // gradient: the row of dy, y_w apart
  float* dw;        // gradient: like w
  float* y;
  int64_t y_w;
  const float* residual;
  const float* bias;
  float low, high;
  int stream;
  float* sums;        // MomentSums of the channels, or null
  int64_t sums_step;  // between their three arrays
  int fresh;          // they start with this row
  int64_t oW, W, pL;
  int64_t ahead;  // > 0: so many rows below the window are fetched to L2 while this row is computed
  int64_t fetch;  // from x to what is fetched
  int64_t fetch_dy;
};

// Lines of the rows that the next row of outputs adds, under `pixels` columns. Channels are the inner loop, so
// that each column is a short run in memory, too short for the hardware to run ahead.
template <int kPixelCount>
FASTCNN_OP void fetch_below(const DepthwiseRow& r, const float* x) {
  x += r.fetch;
  for (int64_t i = 0; i < r.ahead; ++i, x += r.x_kh)
#pragma GCC unroll 16
    for (int j = 0; j < kPixelCount; ++j) __builtin_prefetch(x + j * r.x_w, 0, 2);
}

FASTCNN_OP bool fetches_any(const DepthwiseRow& r) { return r.ahead && r.kW > 1 && r.C >= 16; }

// The same for windows of any kind, under `pixels` outputs from ow on; pixels of less than a line are a stream.
FASTCNN_OP void fetch_below(const DepthwiseRow& r, int64_t ow, int64_t c, int64_t pixels) {
  if (!fetches_any(r)) return;
  const float* x = r.x + r.fetch + r.taps_h * r.x_kh + (ow * r.sW + r.pL) * r.x_w + c;
  const int64_t columns = r.sW < r.kW ? r.sW : r.kW;
  for (int64_t i = 0; i < r.ahead; ++i, x += r.x_kh)
    for (int64_t j = 0; j < pixels; ++j)
      for (int64_t k = 0; k < columns; ++k) __builtin_prefetch(x + (j * r.sW + k) * r.x_w, 0, 2);
}

// One copy for all tiles of T pixels: they are many, and training alone comes here.
template <int T>
__attribute__((noinline)) static void sum_moments(const DepthwiseRow& r, const vf* acc, int64_t ow, int64_t c) {
  const auto value = [&](int t) __attribute__((always_inline)) { return acc[t]; };
  if (r.fresh && ow == 0) store_moments(r.sums + c, r.sums_step, start_moments(T, value));
  add_moments_at(r.sums + c, r.sums_step, T, value);
}

template <int T>
FASTCNN_OP void finish(const DepthwiseRow& r, vf acc[T], int64_t ow, int64_t c, int n) {
  const vf bias = r.bias ? loadn(r.bias + c, n) : zero(), low = set1(r.low), high = set1(r.high);
  float* y = r.y + ow * r.y_w + c;
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) acc[t] = add(acc[t], bias);
  if (r.residual) {
    const float* residual = r.residual + ow * r.y_w + c;
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t, residual += r.y_w) acc[t] = add(acc[t], loadn(residual, n));
  }
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) acc[t] = vmin(high, vmax(low, acc[t]));
  if (n < kLanes) {
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t, y += r.y_w) storen(y, acc[t], n);
  } else if (r.stream) {
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t, y += r.y_w) stream(y, acc[t]);
  } else {
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t, y += r.y_w) store(y, acc[t]);
  }
  if (!r.sums) return;
  vf held[T];  // acc itself stays in registers
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) held[t] = acc[t];
  sum_moments<T>(r, held, ow, c);
}

// Columns of a window that are inside the image: [k0, k1).
FASTCNN_OP void inside(const DepthwiseRow& r, int64_t ow, int64_t& k0, int64_t& k1) {
  const int64_t first = ow * r.sW - r.pL;
  k0 = first < 0 ? ceil_div(-first, r.dW) : 0;
  k1 = first < r.W ? ceil_div(r.W - first, r.dW) : 0;
  if (k1 > r.kW) k1 = r.kW;
}

// T pixels and V vectors of channels at once whose windows see columns [k0, k1) of their taps inside the image:
// the sums of one alone would wait for each other.
template <int T, int V>
FASTCNN_OP void any_vectors(const DepthwiseRow& r, int64_t ow, int64_t k0, int64_t k1, int64_t c, int n) {
  const int64_t step = r.sW * r.x_w;
  vf acc[V][T];
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v)
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) acc[v][t] = zero();
  for (int64_t kh = 0; kh < r.taps_h; ++kh)
    for (int64_t kw = k0; kw < k1; ++kw) {
      const float* x = r.x + kh * r.x_kh + (ow * r.sW + kw * r.dW) * r.x_w + c;
      const float* w = r.w + (kh * r.kW + kw) * r.C + c;
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        const vf k = V > 1 ? load(w + v * kLanes) : loadn(w, n);
#pragma GCC unroll 8
        for (int t = 0; t < T; ++t) {
          const float* at = x + t * step + v * kLanes;
          acc[v][t] = fma(V > 1 ? load(at) : loadn(at, n), k, acc[v][t]);
        }
      }
    }
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) {
    fetch_below(r, ow, c + v * kLanes, T);
    finish<T>(r, acc[v], ow, c + v * kLanes, n);
  }
}

template <int T>
void any_pixels(const DepthwiseRow& r, int64_t ow, int64_t k0, int64_t k1) {
  constexpr int V = T < 4 ? 4 : 2;
  int64_t c = r.c0;
  if (V > 1)
    for (; c + V * kLanes <= r.c1; c += V * kLanes) any_vectors<T, V>(r, ow, k0, k1, c, kLanes);
  for (; c < r.c1; c += kLanes)
    any_vectors<T, 1>(r, ow, k0, k1, c, static_cast<int>(r.c1 - c < kLanes ? r.c1 - c : kLanes));
}

// Pixels [from, to) of a row have whole windows.
struct WholeWindows {
  int64_t from, to;
  FASTCNN_OP explicit WholeWindows(const DepthwiseRow& r) {
    const int64_t last = r.W - 1 - (r.kW - 1) * r.dW + r.pL;
    from = r.pL > 0 ? ceil_div(r.pL, r.sW) : 0, to = last < 0 ? 0 : last / r.sW + 1;
    if (to > r.oW) to = r.oW;
    if (from > to) from = to = r.oW;
  }
};

template <class F>
FASTCNN_OP void one_by_one(const DepthwiseRow& r, F&& pixels, int64_t ow, int64_t end) {
  for (; ow < end; ++ow) {
    int64_t k0, k1;
    inside(r, ow, k0, k1);
    pixels.template at<1>(ow, k0, k1);
  }
}

// A row in runs of 8 (or 4), then 4, 2 and 1 whole windows, or where pixels may be made again, a last one of 8 (or
// 4); windows at the borders go one by one. pixels.at<T>(ow, k0, k1).
template <class F>
FASTCNN_OP void cut_any_row(const DepthwiseRow& r, F&& pixels, bool again = false) {
  const WholeWindows whole(r);
  const int64_t from = whole.from, to = whole.to;
  one_by_one(r, pixels, 0, from);
  int64_t ow = from;
  for (; ow + kPixels <= to; ow += kPixels) pixels.template at<kPixels>(ow, 0, r.kW);
  if (again && to - ow > kPixels / 2 && to - from >= kPixels) {
    pixels.template at<kPixels>(to - kPixels, 0, r.kW);
  } else {
    if (kPixels == 8 && ow + 4 <= to) pixels.template at<4>(ow, 0, r.kW), ow += 4;
    if (ow + 2 <= to) pixels.template at<2>(ow, 0, r.kW), ow += 2;
    if (ow < to) pixels.template at<1>(ow, 0, r.kW);
  }
  one_by_one(r, pixels, to, r.oW);
}

struct AnyPixels {
  const DepthwiseRow& r;
  template <int T>
  FASTCNN_OP void at(int64_t ow, int64_t k0, int64_t k1) const {
    any_pixels<T>(r, ow, k0, k1);
  }
};
// Blocks of channels whose weights stay in L1.
template <class F>
FASTCNN_OP void by_channels(const DepthwiseRow& r, F f) {
  const int64_t fit = kBlockWeights / (r.taps_h * r.kW + 1), most = fit < kLanes ? kLanes : fit / kLanes * kLanes;
  if (most >= r.C) return f(r);
  DepthwiseRow q = r;
  for (q.c0 = 0; q.c0 < r.C; q.c0 = q.c1) {
    q.c1 = q.c0 + most < r.C ? q.c0 + most : r.C;
    f(q);
  }
}

static void any_row(const DepthwiseRow& r) {
  by_channels(r, [](const DepthwiseRow& q) { cut_any_row(q, AnyPixels{q}, !q.sums && !q.residual); });
}

template <int T>
void grad_pixels(const DepthwiseRow& r, int64_t ow, int64_t k0, int64_t k1) {
  const int64_t step = r.sW * r.x_w;
  for (int64_t c = r.c0; c < r.c1; c += kLanes) {
    const int n = static_cast<int>(r.c1 - c < kLanes ? r.c1 - c : kLanes);
    vf d[T];
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) d[t] = loadn(r.dy + (ow + t) * r.y_w + c, n);
    for (int64_t kh = 0; kh < r.taps_h; ++kh)
      for (int64_t kw = k0; kw < k1; ++kw) {
        const float* x = r.x + kh * r.x_kh + (ow * r.sW + kw * r.dW) * r.x_w + c;
        float* dw = r.dw + (kh * r.kW + kw) * r.C + c;
        vf sum = loadn(dw, n);
#pragma GCC unroll 8
        for (int t = 0; t < T; ++t) sum = fma(loadn(x + t * step, n), d[t], sum);
        storen(dw, sum, n);
      }
    fetch_below(r, ow, c, T);
    if (!fetches_any(r)) continue;
    for (int t = 0; t < T; ++t) __builtin_prefetch(r.dy + r.fetch_dy + (ow + t) * r.y_w + c, 0, 2);
  }
}

struct AnyGradPixels {
  const DepthwiseRow& r;
  template <int T>
  FASTCNN_OP void at(int64_t ow, int64_t k0, int64_t k1) const {
    grad_pixels<T>(r, ow, k0, k1);
  }
};
static void any_grad_row(const DepthwiseRow& r) {
  by_channels(r, [](const DepthwiseRow& q) { cut_any_row(q, AnyGradPixels{q}); });
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
