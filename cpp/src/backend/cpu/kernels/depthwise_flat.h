// What it is: depthwise rows of few channels that fill no whole vectors, stride 1: pixels whose windows are whole
// are one run of floats. Lane l of its vector v is channel (v * lanes + l) % C, so vectors `period` apart have the
// same weights. What it is not: pixels at the borders (depthwise_rows.h).
#pragma once
#include "backend/cpu/kernels/depthwise_rows.h"

namespace fastcnn::cpu::FASTCNN_ISA {

constexpr int kMostFlatTaps = 49, kMostPeriod = 9;
FASTCNN_OP int64_t flat_period(int64_t C) {
  int64_t period = 1;
  while (period * kLanes % C != 0) ++period;
  return period;
}
struct Flat {
  int64_t C, period;
  alignas(64) float bias[kMostPeriod * kLanes];
  alignas(64) float at[kMostFlatTaps * kMostPeriod * kLanes];  // (kH, kW, period, lanes)
  FASTCNN_OP explicit Flat(int64_t C_) : C(C_), period(flat_period(C_)) {}
  template <class F>
  FASTCNN_OP void each(int64_t taps, F f) {  // f(lane of `at`, float of the weights)
    float* d = at;
    for (int64_t i = 0; i < taps; ++i)
      for (int64_t j = 0; j < period * kLanes; ++j) f(*d++, i * C + j % C);
  }
  FASTCNN_OP float* tap_row(int64_t kh, int64_t kW, int64_t phase) {
    return at + (kh * kW * period + phase) * kLanes;
  }
};
// By the shape alone: threads have different numbers of rows, and sums of a gradient another order there.
template <class Task>
FASTCNN_OP bool flat_rows(const Task& t) {
  const bool idle = kLanes == 8 && t.C % kLanes != 0 && t.C < 4 * kLanes && flat_period(t.C) <= kMostPeriod;
  return (2 * t.C <= kLanes || idle) && t.sW == 1 && t.x_w == t.C && t.y_w == t.C && t.kH * t.kW > 0 &&
         t.kH * t.kW <= kMostFlatTaps && t.oW * t.C >= 4 * kLanes && t.N * t.oH >= 4;
}

// T vectors from float f of the run on, each with its phase's weights, the last of n floats. Of one phase they are
// `apart` from each other and read the same weights; else they follow each other.
template <int T, bool kOnePhase>
FASTCNN_OP void flat_vectors(const DepthwiseRow& r, const Flat& flat, const float* w, int64_t phase,
                             const float* x, int64_t ow, int64_t f, int n) {
  const int64_t apart = flat.period * kLanes, step = kOnePhase ? apart : kLanes;
  int64_t from[T];
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t)
    from[t] = phase * kLanes, phase = kOnePhase ? phase : phase + 1 < flat.period ? phase + 1 : 0;
  vf acc[T];
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) acc[t] = zero();
  x += f;
  for (int64_t kh = 0; kh < r.taps_h; ++kh)
    for (int64_t kw = 0; kw < r.kW; ++kw, w += apart) {
      const float* s = x + kh * r.x_kh + kw * r.dW * r.C;
      vf k = load(w + from[0]);
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) {
        if (!kOnePhase && t) k = load(w + from[t]);
        acc[t] = fma(T == 1 ? loadn(s, n) : load(s + t * step), k, acc[t]);
      }
    }
  // In the order of `finish`: pixels at the borders and beside them have the same bits.
  const vf low = set1(r.low), high = set1(r.high);
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) {
    const int64_t at = ow * r.C + f + t * step;
    acc[t] = add(acc[t], load(flat.bias + from[t]));
    if (r.residual) acc[t] = add(acc[t], T == 1 ? loadn(r.residual + at, n) : load(r.residual + at));
    acc[t] = vmin(high, vmax(low, acc[t]));
    if (T == 1)
      storen(r.y + at, acc[t], n);
    else
      store(r.y + at, acc[t]);
  }
}

constexpr int64_t kPhaseVectors = 4;  // fewer in a row leave sums waiting for each other

__attribute__((noinline)) static void flat_row(const DepthwiseRow& r, Flat& flat, int64_t kh0) {
  const WholeWindows whole(r);
  one_by_one(r, AnyPixels{r}, 0, whole.from);
  const float *x = r.x + whole.from * r.C, *w = flat.tap_row(kh0, r.kW, 0);
  for (int64_t i = 0; i < r.ahead; ++i)
    for (int64_t f = 0; f < r.oW * r.C; f += 16)
      __builtin_prefetch(x + r.fetch + (r.taps_h + i) * r.x_kh + f, 0, 2);
  const int64_t end = (whole.to - whole.from) * r.C, apart = flat.period * kLanes;
  const bool one_phase = flat.period == 1 || end >= kPhaseVectors * apart;
  int64_t f = 0, phase = 0;
  const auto vectors = [&](auto count, auto same) __attribute__((always_inline)) {
    constexpr int T = decltype(count)::value;
    constexpr bool kOnePhase = decltype(same)::value;
    const int64_t step = kOnePhase ? apart : kLanes;
    for (; f + (T - 1) * step + (T > 1 ? kLanes : 1) <= end; f += T * step) {
      flat_vectors<T, kOnePhase>(r, flat, w, phase, x, whole.from, f,
                                 static_cast<int>(end - f < kLanes ? end - f : kLanes));
      if (!kOnePhase) phase = (phase + T) % flat.period;
    }
  };
  if (one_phase)
    for (; phase < flat.period; ++phase) {
      f = phase * kLanes;
      vectors(Int<8>(), Int<1>());
      vectors(Int<4>(), Int<1>());
      vectors(Int<2>(), Int<1>());
      vectors(Int<1>(), Int<1>());
    }
  else {
    vectors(Int<6>(), Int<0>());
    vectors(Int<3>(), Int<0>());
    vectors(Int<1>(), Int<0>());
  }
  one_by_one(r, AnyPixels{r}, whole.to, r.oW);
}

// One tap row of K columns: sums of a phase.
template <int K>
FASTCNN_OP void flat_grad_taps(const DepthwiseRow& r, float* sums, int64_t apart, const float* x, const float* dy,
                               int64_t f, int64_t end) {
  vf acc[K];
#pragma GCC unroll 8
  for (int i = 0; i < K; ++i) acc[i] = load(sums + i * apart);
  const int64_t step = r.dW * r.C;
  for (; f + kLanes <= end; f += apart) {
    const vf d = load(dy + f);
#pragma GCC unroll 8
    for (int i = 0; i < K; ++i) acc[i] = fma(load(x + f + i * step), d, acc[i]);
  }
  if (f < end) {
    const int n = static_cast<int>(end - f);
    const vf d = loadn(dy + f, n);
#pragma GCC unroll 8
    for (int i = 0; i < K; ++i) acc[i] = fma(loadn(x + f + i * step, n), d, acc[i]);
  }
#pragma GCC unroll 8
  for (int i = 0; i < K; ++i) store(sums + i * apart, acc[i]);
}

__attribute__((noinline)) static void flat_grad_row(const DepthwiseRow& r, Flat& flat, int64_t kh0) {
  const WholeWindows whole(r);
  one_by_one(r, AnyGradPixels{r}, 0, whole.from);
  const float *x = r.x + whole.from * r.C, *dy = r.dy + whole.from * r.C;
  const int64_t end = (whole.to - whole.from) * r.C, apart = flat.period * kLanes;
  for (int64_t kh = 0; kh < r.taps_h; ++kh, x += r.x_kh)
    for (int64_t phase = 0; phase < flat.period; ++phase) {
      float* sums = flat.tap_row(kh0 + kh, r.kW, phase);
      const int64_t f = phase * kLanes;
      int64_t kw = 0;
      const auto taps = [&](auto count) __attribute__((always_inline)) {
        constexpr int K = decltype(count)::value;
        for (; kw + K <= r.kW; kw += K)
          flat_grad_taps<K>(r, sums + kw * apart, apart, x + kw * r.dW * r.C, dy, f, end);
      };
      if (r.kW != 4) taps(Int<5>());
      taps(Int<4>());
      taps(Int<3>());
      taps(Int<2>());
      taps(Int<1>());
    }
  one_by_one(r, AnyGradPixels{r}, whole.to, r.oW);
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
