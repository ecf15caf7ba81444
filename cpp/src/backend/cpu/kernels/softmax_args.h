// What it is: the argument struct of the cross entropy kernels.
#pragma once
#include <stdint.h>

#include "fastcnn/params.h"

namespace fastcnn::cpu {

struct CrossEntropyArgs {
  CrossEntropyParams p;
  const float *x, *weight;  // logits (rows, C); class weights or null
  const int64_t* target;
  float *loss, *lse;           // forward: (rows) each
  const float* dloss;          // backward: (rows) or one value
  double scale, weight_total;  // backward: 1 or 1 / sum of the targets' weights; sum of all class weights
  float* dx;
};

}  // namespace fastcnn::cpu
