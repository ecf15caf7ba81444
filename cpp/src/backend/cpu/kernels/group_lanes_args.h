// What it is: the struct that the kernels for groups of few channels and their adaptor share. What it is not: when
// they pay (backend/cpu/conv2d_group_lanes.cpp).
#pragma once
#include <stdint.h>

#include "backend/cpu/kernels/kernel_args.h"
#include "fastcnn/params.h"

namespace fastcnn {

// A convolution whose groups have few channels: a vector holds the outputs of several groups, and a vector of x,
// from the first channel of its first group on, all they read. `outputs` of a group divide the lanes, and `inputs`
// are 1, 2, 4 or 8 and not more than they. Rows of outputs are cut into strips, whose part of x is copied, padded.
struct GroupLanesTask {
  int64_t N = 0, H = 0, W = 0, C = 0, x_n = 0, x_h = 0, x_w = 0;  // input, strides in floats
  int64_t oH = 0, oW = 0, O = 0, y_n = 0, y_h = 0, y_w = 0;       // output
  int64_t kH = 1, kW = 1, sH = 1, sW = 1, dH = 1, dW = 1, pT = 0, pL = 0;
  int64_t inputs = 1, outputs = 1;  // of a group
  const float* x = nullptr;
  const float* w = nullptr;  // [vector of outputs][kH][kW][input][lanes]
  float* y = nullptr;
  const float* bias = nullptr;      // (O) or null
  const float* residual = nullptr;  // strides of y, or null
  Act act = Act::none;              // none, relu or relu6
  NormIn norm;                      // x is read through it
  MomentsOut moments;               // of y; a part is a strip
  int64_t rows = 1;                 // of outputs in a strip
  int32_t stream = 0;               // y past the caches, where its vectors are lines

  // The gradient of the weights: dy has the strides of y.
  const float* dy = nullptr;
  float* sums = nullptr;  // [chunk of strips][as w]
  int64_t chunks = 1;

  FASTCNN_INLINE int64_t strips() const { return (oH + rows - 1) / rows; }
  FASTCNN_INLINE int64_t columns() const { return (oW - 1) * sW + (kW > 0 ? (kW - 1) * dW + 1 : 0); }  // read
  FASTCNN_INLINE int64_t rows_read(int64_t out) const { return (out - 1) * sH + (kH > 0 ? (kH - 1) * dH + 1 : 0); }
};

}  // namespace fastcnn
