// What it is: depthwise convolution, 3x3 and 5x5 of stride 1 and 2, that reads and writes bfloat16: a few
// neighbouring outputs share the columns they read; sums are float32, rounded once. What it is not: other windows
// (conv2d_depthwise_half.cpp widens strips for conv2d_depthwise), nor the backward passes.
#include "backend/cpu/kernels/act.h"
#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/simd.h"

namespace fastcnn::cpu::FASTCNN_ISA {
namespace {

constexpr int kOutputs = 4;  // of a tile

struct Row {
  const bfloat16* x[5];  // by tap, at column 0; only those inside of the image
  const float* w[5];
  int taps;  // of them
  const float* bias;
  const bfloat16* residual;
  bfloat16* y;
  int64_t C, W;
  float low, high;
};

// All lanes, where n is known to be so many, or the first n.
template <class T>
FASTCNN_OP vf read(const T* p, int n) {
  return n == kLanes ? load(p) : loadn(p, n);
}
FASTCNN_OP void write(bfloat16* p, vf a, int n) {
  if (n == kLanes)
    store(p, a);
  else
    storen(p, a, n);
}

// Outputs ow to ow + T, whose columns from ow * S - pL on exist, or T is 1 and some do not.
template <int K, int S, int T>
FASTCNN_OP void tile(const Row& r, int64_t ow, int64_t left, int64_t c, int n) {
  vf acc[T];
  const vf start = r.bias ? read(r.bias + c, n) : zero();
#pragma GCC unroll 4
  for (int t = 0; t < T; ++t) acc[t] = start;
  const int64_t w0 = ow * S - left;
  for (int kh = 0; kh < r.taps; ++kh) {
    const bfloat16* x = r.x[kh] + w0 * r.C + c;
    vf w[K];
#pragma GCC unroll 5
    for (int kw = 0; kw < K; ++kw) w[kw] = read(r.w[kh] + kw * r.C + c, n);
#pragma GCC unroll 16
    for (int column = 0; column < (T - 1) * S + K; ++column) {
      if (T == 1 && (w0 + column < 0 || w0 + column >= r.W)) continue;
      const vf v = read(x + column * r.C, n);
#pragma GCC unroll 4
      for (int t = 0; t < T; ++t)
        if (column >= t * S && column < t * S + K) acc[t] = fma(v, w[column - t * S], acc[t]);
    }
  }
#pragma GCC unroll 4
  for (int t = 0; t < T; ++t) {
    const int64_t at = (ow + t) * r.C + c;
    if (r.residual) acc[t] = add(acc[t], read(r.residual + at, n));
    write(r.y + at, clamp_nan(acc[t], r.low, r.high), n);
  }
}

// The same for all channels; whole vectors need no masks.
template <int K, int S, int T>
void channels(const Row& r, int64_t ow, int64_t left) {
  int64_t c = 0;
  for (; c + kLanes <= r.C; c += kLanes) tile<K, S, T>(r, ow, left, c, kLanes);
  if (c < r.C) tile<K, S, T>(r, ow, left, c, static_cast<int>(r.C - c));
}

template <int K, int S>
void row(const Row& r, int64_t oW, int64_t left) {
  int64_t ow = 0;
  while (ow < oW) {
    const int64_t w0 = ow * S - left;
    if (ow + kOutputs <= oW && w0 >= 0 && w0 + (kOutputs - 1) * S + K <= r.W) {
      channels<K, S, kOutputs>(r, ow, left);
      ow += kOutputs;
    } else {
      channels<K, S, 1>(r, ow, left);
      ++ow;
    }
  }
}

}  // namespace

void conv2d_depthwise_bf16(const GemmTask& t, int64_t begin, int64_t end) {
  const auto* x = reinterpret_cast<const bfloat16*>(t.x);
  Row r{};
  r.bias = t.bias, r.C = t.x_w, r.W = t.W;
  r.low = t.act == Act::none ? -__builtin_inff() : 0.0f, r.high = t.act == Act::relu6 ? 6.0f : __builtin_inff();
  for (int64_t i = begin; i < end; ++i) {
    const int64_t n = i / t.oH, oh = i % t.oH, y = n * t.y_n + oh * t.y_h;
    r.taps = 0;
    for (int64_t kh = 0; kh < t.kH; ++kh) {
      const int64_t h = oh * t.sH - t.pT + kh * t.dH;
      if (h < 0 || h >= t.H) continue;
      r.x[r.taps] = x + n * t.x_n + h * t.x_h;
      r.w[r.taps++] = t.w + kh * t.kW * r.C;
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
