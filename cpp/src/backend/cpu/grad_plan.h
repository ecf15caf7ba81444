// What it is: how the gradient of dense convolution weights is cut into strips, channel blocks and work items.
// What it is not: kernels; kernels/conv2d_weights_grad.cpp runs what is planned here.
#pragma once
#include "backend/cpu/kernels/kernels.h"

namespace fastcnn::cpu {

// Fills nb, ohb, owb, nc, chunks, merge, o_inner, panels from the shape alone, so that the order of sums depends
// on nothing else; only `groups` knows the threads. pixels_per_word: 1 in float32, 2 in bfloat16. False: one
// window does not fit the scratch memory of a thread.
bool plan_weights_grad(WeightsGradTask& t, int pixels_per_word, int lanes, int threads);

}  // namespace fastcnn::cpu
