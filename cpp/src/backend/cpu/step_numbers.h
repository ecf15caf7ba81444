// What it is: the numbers of an optimizer step as its kernels take them: `hyper` (params.h), and what the `scale`
// of a loss scaler makes of them. Shared by all backends, so that a step that is left out is the same everywhere.
// scale (float32, 3): 0 not 0: the gradients are not finite, nothing changes; 1 the factor of the gradients (one
// over the loss scale); 2 how many steps were left out before, which the host has counted all the same.
#pragma once
#include <math.h>

#include "fastcnn/params.h"

namespace fastcnn::cpu {

struct StepNumbers {
  float h[9];  // hyper, then the factor of the gradients
  bool skip;
};

// 1 - beta^(t - skipped) from 1 - beta^t.
FASTCNN_INLINE float bias_correction(double correction, double beta, double skipped) {
  const double c = 1 - (1 - correction) / pow(beta, skipped);
  return static_cast<float>(c > 1 - beta ? c : 1 - beta);  // at least that of a first step
}

// scale may be null. counts: slots 5 and 6 are the bias corrections of Adam.
FASTCNN_INLINE StepNumbers step_numbers(const float* hyper, const float* scale, bool counts) {
  StepNumbers n;
  for (int i = 0; i < 8; ++i) n.h[i] = hyper[i];
  n.h[8] = scale ? scale[1] : 1.0f;
  n.skip = scale && scale[0] != 0;
  if (counts && scale && scale[2] > 0) {
    n.h[5] = bias_correction(hyper[5], hyper[2], scale[2]);
    n.h[6] = bias_correction(hyper[6], hyper[7] > 0 ? 1 - static_cast<double>(hyper[7]) : hyper[3], scale[2]);
  }
  return n;
}

}  // namespace fastcnn::cpu
