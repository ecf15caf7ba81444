// What it is: random fills and dropout by the rules of core/philox.h: the numbers are the CPU's. A thread makes a
// whole Philox block. What it is not: a state; it lies in device memory and rng_advance moves it.
#pragma once
#include "backend/cuda/device.cuh"
#include "core/philox.h"

namespace fastcnn::cuda {

// Threads that read `state` may run after the one that advances it in another launch only: streams keep the order.
template <class T>
FASTCNN_KERNEL dropout_kernel(DropoutParams p, int ndim, const int64_t* state, int64_t delta, int64_t* saved,
                              const T* x, T* y, int64_t n) {
  follow_previous();
  using R = Real<T>;
  const uint64_t seed = static_cast<uint64_t>(state[0]);
  const uint64_t stream = static_cast<uint64_t>(state[1]) + static_cast<uint64_t>(delta);
  if (saved && global_thread() == 0)
    saved[0] = static_cast<int64_t>(seed), saved[1] = static_cast<int64_t>(stream);
  const R scale = p.p < 1 ? static_cast<R>(1.0 / (1.0 - p.p)) : R(0);
  const uint32_t threshold = philox_threshold(p.p);
  if (p.kind == DropKind::element) {
    for (int64_t b = global_thread(); b < (n + 3) / 4; b += global_threads()) {
      const PhiloxBlock words = philox(seed, stream, static_cast<uint64_t>(b));
      for (int k = 0; k < 4 && b * 4 + k < n; ++k)
        y[b * 4 + k] = from_real<T>((words.w[k] >> 8) >= threshold ? to_real(x[b * 4 + k]) * scale : R(0));
    }
    return;
  }
  for (int64_t i = global_thread(); i < n; i += global_threads()) {
    const int64_t f = p.kind == DropKind::sample ? i / (p.HW * p.C)
                      : ndim == 4                ? i / (p.HW * p.C) * p.C + i % p.C
                                                 : i / p.HW;
    const PhiloxBlock words = philox(seed, stream, static_cast<uint64_t>(f / 4));
    y[i] = from_real<T>((words.w[f % 4] >> 8) >= threshold ? to_real(x[i]) * scale : R(0));
  }
}

template <class T>
FASTCNN_DEVICE double uniform_of(const PhiloxBlock& b, int k) {
  if constexpr (is_same<T, bfloat16>) return philox_uniform_bits(b.w[k], 8);
  if constexpr (is_same<T, float16>) return philox_uniform_bits(b.w[k], 11);
  if constexpr (is_same<T, double>) return philox_uniform53(philox_u64(b, k));
  return philox_uniform24(b.w[k]);
}

// A thread per block of 4 elements (2 of float64). Doubles: the rule is theirs on the CPU, and this runs once per
// step.
template <class T>
FASTCNN_KERNEL random_float_kernel(RandomParams p, const int64_t* state, T* y, int64_t n) {
  follow_previous();
  constexpr int per = is_same<T, double> ? 2 : 4;
  using Rule = Real<T>;
  const uint64_t seed = static_cast<uint64_t>(state[0]);
  const uint64_t stream = static_cast<uint64_t>(state[1]) + static_cast<uint64_t>(p.delta);
  for (int64_t b = global_thread(); b < (n + per - 1) / per; b += global_threads()) {
    const PhiloxBlock words = philox(seed, stream, static_cast<uint64_t>(b));
    for (int k = 0; k < per && b * per + k < n; ++k) {
      T v;
      if (p.op == Random::normal) {
        const double u1 = uniform_of<Rule>(words, k & ~1), u2 = uniform_of<Rule>(words, k | 1);
        const double r = sqrt(-2.0 * log(1.0 - u1)), a = 6.283185307179586476925 * u2;
        v = from_real<T>(static_cast<Real<T>>(p.low + p.high * (k % 2 ? r * sin(a) : r * cos(a))));
      } else {
        v = from_real<T>(static_cast<Real<T>>(p.low + (p.high - p.low) * uniform_of<T>(words, k)));
        if (!(to_real(v) < p.high)) v = from_real<T>(static_cast<Real<T>>(p.low));
      }
      y[b * per + k] = v;
    }
  }
}

inline FASTCNN_KERNEL random_int_kernel(const int64_t* state, int64_t delta, int64_t low, uint64_t range, void* y,
                                        DType type, int64_t n) {
  follow_previous();
  const uint64_t seed = static_cast<uint64_t>(state[0]);
  const uint64_t stream = static_cast<uint64_t>(state[1]) + static_cast<uint64_t>(delta);
  for (int64_t b = global_thread(); b < (n + 1) / 2; b += global_threads()) {
    const PhiloxBlock words = philox(seed, stream, static_cast<uint64_t>(b));
    for (int k = 0; k < 2 && b * 2 + k < n; ++k)
      store_as<int64_t>(
          y, type, b * 2 + k,
          static_cast<int64_t>(static_cast<uint64_t>(low) + philox_below(philox_u64(words, k), range)));
  }
}

inline FASTCNN_KERNEL rng_advance_kernel(const int64_t* in, int64_t* out, int64_t count) {
  follow_previous();
  out[0] = in[0];
  out[1] = static_cast<int64_t>(static_cast<uint64_t>(in[1]) + static_cast<uint64_t>(count));
}

}  // namespace fastcnn::cuda
