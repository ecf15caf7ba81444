// What it is: SGD, Adam/AdamW, RMSprop, Adagrad and Lion steps on a table of tensors (pointers, sizes) that one
// launch takes, and the search for numbers that are not finite on such a table. The rates lie in device memory
// (hyper, see params.h), so that a recorded step sees them change, as does what a loss scaler says
// (backend/cpu/step_numbers.h): the kernel itself leaves a step out. What it is not: which tensors go together
// (optim.cu).
#pragma once
#include "backend/cpu/step_numbers.h"
#include "backend/cuda/kernels/tensor_table.cuh"

namespace fastcnn::cuda {

constexpr int kPerBlock = 4096;  // elements of one tensor

struct StepTensor {
  const void* in[5];  // parameter, gradient, states; null: the rule has no such state
  void* out[4];       // parameter, states
  int64_t n;
  int32_t aligned;
};
template <int most>
using StepTable = TensorTable<StepTensor, most>;

// A rule: begin() takes what it needs of the step's numbers, update() makes new ones of v: parameter, gradient,
// states.
template <class R>
struct SgdRule {
  static constexpr bool counts = false;
  static constexpr int tensors = 3;
  SgdParams q;
  struct Numbers {
    R lr, wd, mu, keep;
  };
  FASTCNN_DEVICE Numbers begin(const float* h) const { return {h[0], h[1], h[2], R(1) - h[7]}; }
  FASTCNN_DEVICE void update(const Numbers& s, R (&v)[5]) const {
    R g = (q.maximize ? -v[1] : v[1]) + s.wd * v[0];
    if (q.has_momentum) {
      v[2] = q.first_step ? g : s.mu * v[2] + s.keep * g;
      g = q.nesterov ? g + s.mu * v[2] : v[2];
    }
    v[0] -= s.lr * g;
  }
};

// 1 - decay as the host gave it in slot 7, else derived.
FASTCNN_DEVICE float complement(const float* h, int slot) { return h[7] > 0 ? h[7] : 1.0f - h[slot]; }

template <class R>
struct AdamRule {
  static constexpr bool counts = true;
  static constexpr int tensors = 5;
  AdamParams q;
  struct Numbers {
    R lr, wd, c1, b2, c2, eps, first, root;
  };
  FASTCNN_DEVICE Numbers begin(const float* h) const {
    return {h[0], h[1], R(1) - h[2], h[3], complement(h, 3), h[4], h[5], sqrt(static_cast<R>(h[6]))};
  }
  FASTCNN_DEVICE void update(const Numbers& s, R (&v)[5]) const {
    R g = q.maximize ? -v[1] : v[1];
    if (q.decoupled)
      v[0] *= 1 - s.lr * s.wd;
    else
      g += s.wd * v[0];
    v[2] += s.c1 * (g - v[2]);
    v[3] = s.b2 * v[3] + s.c2 * g * g;
    if (q.amsgrad) v[4] = fmax(v[4], v[3]);
    v[0] -= s.lr / s.first * v[2] / (sqrt(q.amsgrad ? v[4] : v[3]) / s.root + s.eps);
  }
};

template <class R>
struct RmspropRule {
  static constexpr bool counts = false;
  static constexpr int tensors = 5;
  RmspropParams q;
  struct Numbers {
    R lr, wd, alpha, mu, eps, ca;
  };
  FASTCNN_DEVICE Numbers begin(const float* h) const { return {h[0], h[1], h[2], h[3], h[4], complement(h, 2)}; }
  FASTCNN_DEVICE void update(const Numbers& s, R (&v)[5]) const {  // states: squares, momentum, mean
    const R g = (q.maximize ? -v[1] : v[1]) + s.wd * v[0];
    v[2] = s.alpha * v[2] + s.ca * g * g;
    R var = v[2];
    if (q.centered) {
      v[4] += s.ca * (g - v[4]);
      var = fmax(v[2] - v[4] * v[4], R(0));
    }
    R d = g / (sqrt(var) + s.eps);
    if (q.has_momentum) d = v[3] = d + s.mu * v[3];
    v[0] -= s.lr * d;
  }
};

template <class R>
struct AdagradRule {
  static constexpr bool counts = false;
  static constexpr int tensors = 3;
  AdagradParams q;
  struct Numbers {
    R lr, wd, eps;
  };
  FASTCNN_DEVICE Numbers begin(const float* h) const { return {h[0], h[1], h[4]}; }
  FASTCNN_DEVICE void update(const Numbers& s, R (&v)[5]) const {
    const R g = (q.maximize ? -v[1] : v[1]) + s.wd * v[0];
    v[2] += g * g;
    v[0] -= s.lr * g / (sqrt(v[2]) + s.eps);
  }
};

template <class R>
struct LionRule {
  static constexpr bool counts = false;
  static constexpr int tensors = 3;
  LionParams q;
  struct Numbers {
    R lr, wd, b1, b2, c1, c2;
  };
  FASTCNN_DEVICE Numbers begin(const float* h) const { return {h[0], h[1], h[2], h[3], h[6], h[7]}; }
  FASTCNN_DEVICE void update(const Numbers& s, R (&v)[5]) const {
    const R g = q.maximize ? -v[1] : v[1];
    R u = s.b1 * v[2] + s.c1 * g;
    if (fabs(u) > 0) u = u > 0 ? R(1) : R(-1);  // zero and NaN as they are
    v[2] = s.b2 * v[2] + s.c2 * g;
    v[0] = v[0] * (1 - s.lr * s.wd) - s.lr * u;
  }
};

// A block takes kPerBlock elements of one tensor. Shared: StepNumbers.
template <class T, template <class> class Rule, int most>
FASTCNN_KERNEL step_kernel(Rule<Real<T>> rule, const FASTCNN_GRID_CONSTANT StepTable<most> table,
                           const float* hyper, const float* scale) {
  follow_previous();
  using R = Real<T>;
  constexpr int W = Pack<T>::n, K = Rule<R>::tensors;
  auto* shared = shared_memory<cpu::StepNumbers>();
  if (threadIdx.x == 0) *shared = cpu::step_numbers(hyper, scale, Rule<R>::counts);
  __syncthreads();
  const bool skip = shared->skip;
  const R factor = shared->h[8];
  const auto numbers = rule.begin(shared->h);
  const int t = table.of_block(static_cast<int32_t>(blockIdx.x));
  const StepTensor& s = table.tensor[t];
  if (skip && s.in[0] == s.out[0]) return;
  const int64_t begin = static_cast<int64_t>(static_cast<int32_t>(blockIdx.x) - table.first_block[t]) * kPerBlock;
  const int64_t end = s.n - begin < kPerBlock ? s.n : begin + kPerBlock;
  auto update = [&](R(&v)[5]) {
    if (skip) return;  // states move to other memory as they are
    v[1] *= factor;
    rule.update(numbers, v);
  };
  int64_t done = begin;
  if (s.aligned) {
    for (int64_t i = begin + threadIdx.x * W; i + W <= end; i += static_cast<int64_t>(blockDim.x) * W) {
      Pack<T> x[K] = {};
      FASTCNN_UNROLL
      for (int k = 0; k < K; ++k)
        if (s.in[k]) x[k] = *reinterpret_cast<const Pack<T>*>(static_cast<const T*>(s.in[k]) + i);
      FASTCNN_UNROLL
      for (int j = 0; j < W; ++j) {
        R v[5] = {};
        FASTCNN_UNROLL
        for (int k = 0; k < K; ++k)
          if (s.in[k]) v[k] = to_real(x[k].v[j]);
        update(v);
        FASTCNN_UNROLL
        for (int k = 0; k < K; ++k)
          if (k != 1) x[k].v[j] = from_real<T>(v[k]);
      }
      FASTCNN_UNROLL
      for (int k = 0; k < K; ++k)
        if (k != 1 && s.in[k]) *reinterpret_cast<Pack<T>*>(static_cast<T*>(s.out[k ? k - 1 : 0]) + i) = x[k];
    }
    done = begin + (end - begin) / W * W;
  }
  for (int64_t i = done + threadIdx.x; i < end; i += blockDim.x) {
    R v[5] = {};
    for (int k = 0; k < K; ++k)
      if (s.in[k]) v[k] = to_real(static_cast<const T*>(s.in[k])[i]);
    update(v);
    for (int k = 0; k < K; ++k)
      if (k != 1 && s.in[k]) static_cast<T*>(s.out[k ? k - 1 : 0])[i] = from_real<T>(v[k]);
  }
}

struct FiniteTensor {
  const void* x;
  int64_t n;
  DType type;
};
using FiniteTable = TensorTable<FiniteTensor, kMostTensors>;

// The exponent of a NaN or an infinity has all bits set.
template <class U>
FASTCNN_DEVICE bool any_bits(const void* x, int64_t begin, int64_t end, U exponent) {
  constexpr int W = Pack<U>::n;
  const U* values = static_cast<const U*>(x);
  bool any = false;
  int64_t done = begin;
  if (reinterpret_cast<uintptr_t>(x) % 16 == 0) {  // begin is a multiple of kPerBlock
    done += (end - begin) / W * W;
    FASTCNN_UNROLL
    for (int64_t i = begin + threadIdx.x * W; i < done; i += static_cast<int64_t>(blockDim.x) * W) {
      const Pack<U> p = *reinterpret_cast<const Pack<U>*>(values + i);
      FASTCNN_UNROLL
      for (int j = 0; j < W; ++j) any |= (p.v[j] & exponent) == exponent;
    }
  }
  for (int64_t i = done + threadIdx.x; i < end; i += blockDim.x) any |= (values[i] & exponent) == exponent;
  return any;
}
FASTCNN_DEVICE bool any_non_finite(const FiniteTensor& s, int64_t begin, int64_t end) {
  switch (s.type) {
    case DType::float32: return any_bits<uint32_t>(s.x, begin, end, 0x7f800000u);
    case DType::bfloat16: return any_bits<uint16_t>(s.x, begin, end, uint16_t(0x7f80));
    case DType::float16: return any_bits<uint16_t>(s.x, begin, end, uint16_t(0x7c00));
    default: return any_bits<uint64_t>(s.x, begin, end, uint64_t(0x7ff) << 52);
  }
}
// found starts as zero; whoever finds one writes the same.
FASTCNN_KERNEL non_finite_kernel(const FASTCNN_GRID_CONSTANT FiniteTable table, float* found) {
  follow_previous();
  const int t = table.of_block(static_cast<int32_t>(blockIdx.x));
  const FiniteTensor& s = table.tensor[t];
  const int64_t begin = static_cast<int64_t>(static_cast<int32_t>(blockIdx.x) - table.first_block[t]) * kPerBlock;
  if (any_non_finite(s, begin, s.n - begin < kPerBlock ? s.n : begin + kPerBlock)) *found = 1.0f;
}

}  // namespace fastcnn::cuda
