// What it is: the operands of the kernels of grid_sample. What it is not: how points and rows go to threads
// (backend/cpu/grid_sample.cpp).
#pragma once
#include "fastcnn/params.h"

namespace fastcnn {

// Images of at most 2^24 rows and columns, which float32 counts.
struct GridTask {
  GridSampleParams p;
  const float *x = nullptr, *points = nullptr, *dy = nullptr;
  float *y = nullptr, *dx = nullptr, *dpoints = nullptr;
};

}  // namespace fastcnn
