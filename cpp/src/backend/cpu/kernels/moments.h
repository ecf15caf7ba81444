// What it is: sums of what a convolution writes, taken from its registers: shifted sums of one part of the pixels
// and the mean and squared deviations they become. What it is not: parts or their merging (moments_plan.h,
// batch_norm.cpp).
#pragma once
#include "backend/cpu/kernels/simd.h"

namespace fastcnn::cpu::FASTCNN_ISA {

// Of one vector of channels: a shift close to their mean, the sums of x - shift and of its square.
struct MomentSums {
  vf shift, sum, squares;
};

// at(i): value i of `count`. The first values of a part choose its shift.
template <class At>
FASTCNN_OP MomentSums start_moments(int count, const At& at) {
  vf k = zero();
#pragma GCC unroll 16
  for (int i = 0; i < count; ++i) k = add(k, at(i));
  return {mul(k, set1(1.0f / static_cast<float>(count))), zero(), zero()};
}
template <class At>
FASTCNN_OP void add_moments(MomentSums& s, int count, const At& at) {
  // Sums of their own first: what waits for the sums before is one addition.
  vf d = sub(at(0), s.shift), sum = d, squares = mul(d, d);
#pragma GCC unroll 16
  for (int i = 1; i < count; ++i) {
    d = sub(at(i), s.shift);
    sum = add(sum, d);
    squares = fma(d, d, squares);
  }
  s.sum = add(s.sum, sum);
  s.squares = add(s.squares, squares);
}

// In memory, the three vectors are `stride` floats apart.
FASTCNN_OP MomentSums load_moments(const float* p, int64_t stride) {
  return {load(p), load(p + stride), load(p + 2 * stride)};
}
FASTCNN_OP void store_moments(float* p, int64_t stride, const MomentSums& s) {
  store(p, s.shift);
  store(p + stride, s.sum);
  store(p + 2 * stride, s.squares);
}
template <class At>
FASTCNN_OP void add_moments_at(float* p, int64_t stride, int count, const At& at) {
  MomentSums s = load_moments(p, stride);
  add_moments(s, count, at);
  store(p + stride, s.sum);
  store(p + 2 * stride, s.squares);
}

// Mean and sum of squared deviations of n values in each of `channels`.
FASTCNN_OP void close_moments(const float* sums, int64_t stride, int64_t channels, double n, double* mean,
                              double* dev) {
  const double inv = 1 / n;
  for (int64_t c = 0; c < channels; ++c) {
    const double s = sums[stride + c], d = s * inv;
    mean[c] = sums[c] + d;
    dev[c] = sums[2 * stride + c] - s * d;
  }
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
