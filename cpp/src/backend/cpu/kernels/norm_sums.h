// What it is: gradients of an image on their way through the norm before it: the mask of its activation and the
// two sums that its backward pass needs. What it is not: where they come from, or parts and their merging.
#pragma once
#include "backend/cpu/kernels/kernel_args.h"
#include "backend/cpu/kernels/simd.h"

namespace fastcnn::cpu::FASTCNN_ISA {

// Adds sums of n channels from o on, two vectors side by side, to a part.
FASTCNN_OP void leave_norm_sums(const NormSums& s, int64_t part, int64_t o, int64_t n, const float* sums) {
  double* to = s.part + part * s.step + o;
  for (int64_t i = 0; i < n; ++i) to[i] += sums[i], to[s.channels + i] += sums[kLanes + i];
}

// One vector of channels of the norm before a gradient, and its sums.
struct NormChannels {
  vf mean, scale, shift, low, high, sum, dot;
  FASTCNN_OP NormChannels(const NormSums& s, int64_t o, int n)
      : mean(loadn(s.mean + o, n)),
        scale(s.y ? zero() : loadn(s.scale + o, n)),
        shift(s.y ? zero() : loadn(s.shift + o, n)),
        // Outside of them the gradient is 0; a NaN bounds nothing.
        low(set1(s.act == Act::none ? __builtin_nanf("") : 0.0f)),
        high(set1(s.act == Act::relu6 ? 6.0f : __builtin_nanf(""))),
        sum(zero()),
        dot(zero()) {}
  FASTCNN_OP vf pass(vf d, vf x, const float* y, int n) {
    x = sub(x, mean);
    const vf z = y ? loadn(y, n) : fma(x, scale, shift);
    d = select_le(z, low, zero(), select_le(high, z, zero(), d));
    sum = add(sum, d), dot = fma(d, x, dot);
    return d;
  }
  FASTCNN_OP void leave(const NormSums& s, int64_t part, int64_t o, int n) const {
    alignas(64) float held[2 * kLanes];
    store(held, sum), store(held + kLanes, dot);
    leave_norm_sums(s, part, o, n, held);
  }
};

}  // namespace fastcnn::cpu::FASTCNN_ISA
