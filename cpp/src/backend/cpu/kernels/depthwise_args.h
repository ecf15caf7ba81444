// What it is: what the depthwise kernels and their adaptors share beside kernel_args.h: the order of the weights
// that conv2d_depthwise_bf16 reads, and the task of both gradients at once. What it is not: a kernel.
#pragma once
#include "backend/cpu/kernels/kernel_args.h"

namespace fastcnn {

// For each block of two vectors of channels its bias, then all taps as floats, then each tap in one word with the
// tap below it.
struct DepthwiseWords {
  int64_t lanes, kH, kW;
  FASTCNN_INLINE int64_t blocks(int64_t C) const { return ceil_div(C, 2 * lanes); }
  // In floats, from the start of a block.
  FASTCNN_INLINE int64_t single(int64_t kh) const { return (1 + kh * kW) * 2 * lanes; }
  FASTCNN_INLINE int64_t pair(int64_t kh) const { return (1 + (kH + kh) * kW) * 2 * lanes; }  // of kh and kh + 1
  FASTCNN_INLINE int64_t block() const { return pair(kH > 0 ? kH - 1 : 0); }
  // Where channel c of a block stands in two vectors of words: the kernel weaves rows in 16 bytes at a time.
  FASTCNN_INLINE int64_t lane(int64_t c) const { return c / 4 % 2 * lanes + c / 8 * 4 + c % 4; }
};

// Both gradients of a depthwise convolution, for one residue of dx modulo the stride.
struct DepthwiseBwdTask {
  // x: rows of dy whose windows leave no row (zeros beside it), w (kH, kW, C); sums_before: the norm before dx, to
  // whose input dx belongs, without parts.
  GemmTask data;
  float* dw = nullptr;    // (kH, kW, C), added to
  float* sums = nullptr;  // two vectors of channels, `sums_step` apart, added to
  int64_t sums_step = 0;
  // What is fetched meanwhile: so many floats behind the norm's input, or 0; rows of dy's two parents, or null.
  int64_t fetch_x = 0;
  const float *fetch_dz = nullptr, *fetch_y = nullptr;
};

}  // namespace fastcnn
