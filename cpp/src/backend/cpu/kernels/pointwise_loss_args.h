// What it is: the argument struct of the pointwise loss kernels.
#pragma once
#include <stdint.h>

#include "fastcnn/params.h"

namespace fastcnn::cpu {

struct PointwiseLossArgs {
  PointwiseLossParams p;
  const float *x, *t;
  float* loss;         // forward without reduction: one value per element, else null
  const float* dloss;  // backward: one value per element, or one
  float scale;         // backward: 1, or 1 / elements for the mean
  float* dx;
  int nt;  // backward: dx is streamed past the caches
};

}  // namespace fastcnn::cpu
