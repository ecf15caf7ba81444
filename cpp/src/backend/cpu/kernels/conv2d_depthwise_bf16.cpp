// What it is: depthwise convolution, 3x3 and 5x5 of stride 1 and 2, that reads and writes bfloat16: a few
// neighbouring outputs share the columns they read; sums are float32, rounded once. Where one instruction
// multiplies pairs, two rows of the image are woven to words and a tap counts with the one below it. What it is
// not: other windows (conv2d_depthwise_half.cpp widens strips for conv2d_depthwise), nor the backward passes.
#include "backend/cpu/kernels/act.h"
#include "backend/cpu/kernels/depthwise_args.h"
#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/simd_halves.h"

namespace fastcnn::cpu::FASTCNN_ISA {
namespace {

constexpr int kOutputs = kVectorRegs == 32 ? 8 : 4;  // of a tile
#if defined(__AVX512BF16__)
constexpr bool kPairs = true;
#else
constexpr bool kPairs = false;
#endif

struct Row {
  const bfloat16* x[5];  // by tap, at column 0; only those inside of the image
  int taps;              // of them
  int64_t single, pair;  // where their weights start in a block
  const float* w;
  int64_t block;
  const bfloat16* residual;
  bfloat16* y;
  int64_t C, W;
  float low, high;
};

// `outputs` of them from ow on, n channels from c on. All: kOutputs whose columns exist, of whole vectors.
template <int K, int S, bool kAll>
FASTCNN_OP void tile(const Row& r, int64_t ow, int64_t left, int64_t c, int outputs, int n, const float* w) {
  constexpr int kStep = 2 * kLanes;  // of weights
  vf low[kOutputs], high[kOutputs];
#pragma GCC unroll 8
  for (int t = 0; t < kOutputs; ++t) low[t] = load(w), high[t] = load(w + kLanes);
  const int64_t w0 = ow * S - left, x0 = w0 * r.C + c;
  const auto read = [&](const bfloat16* p)
                        __attribute__((always_inline)) { return kAll ? load_halves(p) : load_halves(p, n); };
  const auto missing = [&](int column) __attribute__((always_inline)) {
    return !kAll && (w0 + column < 0 || w0 + column >= r.W);
  };
  int kh = 0;
  for (const float* from = w + r.pair; kPairs && kh + 1 < r.taps; kh += 2, from += 2 * K * kStep) {
    vf wl[K], wh[K];
#pragma GCC unroll 5
    for (int kw = 0; kw < K; ++kw) wl[kw] = load(from + kw * kStep), wh[kw] = load(from + kw * kStep + kLanes);
    const bfloat16 *a = r.x[kh] + x0, *b = r.x[kh + 1] + x0;
#pragma GCC unroll 24
    for (int column = 0; column < (kOutputs - 1) * S + K; ++column) {
      if (missing(column)) continue;
      const vh above = read(a + column * r.C), below = read(b + column * r.C);
      const vf l = weave_low(above, below), h = weave_high(above, below);
#pragma GCC unroll 8
      for (int t = 0; t < kOutputs; ++t)
        if (column >= t * S && column < t * S + K) {
          low[t] = dot_pairs(l, wl[column - t * S], low[t]);
          high[t] = dot_pairs(h, wh[column - t * S], high[t]);
        }
    }
  }
  for (const float* from = w + r.single + kh * K * kStep; kh < r.taps; ++kh, from += K * kStep) {
    vf wl[K], wh[K];
#pragma GCC unroll 5
    for (int kw = 0; kw < K; ++kw) wl[kw] = load(from + kw * kStep), wh[kw] = load(from + kw * kStep + kLanes);
    const bfloat16* a = r.x[kh] + x0;
#pragma GCC unroll 24
    for (int column = 0; column < (kOutputs - 1) * S + K; ++column) {
      if (missing(column)) continue;
      const vh v = read(a + column * r.C);
      const vf l = weave_low(no_halves(), v), h = weave_high(no_halves(), v);
#pragma GCC unroll 8
      for (int t = 0; t < kOutputs; ++t)
        if (column >= t * S && column < t * S + K) {
          low[t] = fma(l, wl[column - t * S], low[t]);
          high[t] = fma(h, wh[column - t * S], high[t]);
        }
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < kOutputs; ++t) {
    if (!kAll && t >= outputs) break;
    const int64_t at = (ow + t) * r.C + c;
    if (r.residual) {
      const vh v = read(r.residual + at);
      low[t] = add(low[t], weave_low(no_halves(), v)), high[t] = add(high[t], weave_high(no_halves(), v));
    }
    const vh y = unweave(clamp_nan(low[t], r.low, r.high), clamp_nan(high[t], r.low, r.high));
    if (kAll)
      store_halves(r.y + at, y);
    else
      store_halves(r.y + at, y, n);
  }
}

template <int K, int S>
void row(const Row& r, int64_t oW, int64_t left) {
  for (int64_t ow = 0; ow < oW; ow += kOutputs) {
    const int64_t w0 = ow * S - left;
    const int outputs = static_cast<int>(oW - ow < kOutputs ? oW - ow : kOutputs);
    const bool all = outputs == kOutputs && w0 >= 0 && w0 + (kOutputs - 1) * S + K <= r.W;
    const float* w = r.w;
    for (int64_t c = 0; c < r.C; c += kHalves, w += r.block) {
      if (all && c + kHalves <= r.C)
        tile<K, S, true>(r, ow, left, c, kOutputs, kHalves, w);
      else
        tile<K, S, false>(r, ow, left, c, outputs, static_cast<int>(r.C - c < kHalves ? r.C - c : kHalves), w);
    }
  }
}

}  // namespace

void conv2d_depthwise_bf16(const GemmTask& t, int64_t begin, int64_t end) {
  const auto* x = reinterpret_cast<const bfloat16*>(t.x);
  const DepthwiseWords words{kLanes, t.kH, t.kW};
  Row r{};
  r.w = t.w, r.block = words.block(), r.C = t.x_w, r.W = t.W;
  r.low = t.act == Act::none ? -__builtin_inff() : 0.0f, r.high = t.act == Act::relu6 ? 6.0f : __builtin_inff();
  for (int64_t i = begin; i < end; ++i) {
    const int64_t n = i / t.oH, oh = i % t.oH, y = n * t.y_n + oh * t.y_h;
    r.taps = 0;
    for (int64_t kh = 0; kh < t.kH; ++kh) {
      const int64_t h = oh * t.sH - t.pT + kh * t.dH;
      if (h < 0 || h >= t.H) continue;
      if (!r.taps) r.single = words.single(kh), r.pair = words.pair(kh);
      r.x[r.taps++] = x + n * t.x_n + h * t.x_h;
    }
    r.y = reinterpret_cast<bfloat16*>(t.y) + y;
    r.residual = t.residual ? reinterpret_cast<const bfloat16*>(t.residual) + y : nullptr;
    const int form = static_cast<int>(10 * t.kW + t.sW);
    if (form == 31) row<3, 1>(r, t.oW, t.pL);
    if (form == 32) row<3, 2>(r, t.oW, t.pL);
    if (form == 51) row<5, 1>(r, t.oW, t.pL);
    if (form == 52) row<5, 2>(r, t.oW, t.pL);
  }
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
