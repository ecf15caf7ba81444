// What it is: the struct of add_columns. What it is not: the product that makes the columns (GemmTask).
#pragma once
#include <stdint.h>

namespace fastcnn {

constexpr int kMostColumnTaps = 32;  // rows and columns of a window

// dx(h, w, c) = bias(c) + the sum of all columns(oh, ow, group, kh, kw, c) that belong to it, for one image. C: of
// a group.
struct ColumnsTask {
  int64_t H = 0, W = 0, groups = 1, C = 0, oH = 0, oW = 0;
  int64_t kH = 1, kW = 1, sH = 1, sW = 1, dH = 1, dW = 1, pT = 0, pL = 0;
  int64_t pitch = 0;           // from pixel to pixel of columns
  int64_t row0 = 0, rows = 0;  // row oh of dy is the (oh - row0) % rows'th of columns
  const float* columns = nullptr;
  const float* bias = nullptr;  // of all groups, or null
  float* dx = nullptr;
};

}  // namespace fastcnn
