// What it is: depthwise convolutions as the lists of conv2d.cu name them; sums of slices joined.
// What it is not: which dtypes an op takes (conv2d.cu), the gradient of a bias beside other kernels (conv2d.cu).
#pragma once
#include <algorithm>

#include "backend/cuda/dispatch.h"
#include "backend/cuda/kernels/depthwise.cuh"

namespace fastcnn::cuda {

// Any multiplier, kernel, stride and dilation: a thread per element.
void depthwise_forward_elements(const Call& c);
void depthwise_bwd_data_elements(const Call& c);
int64_t depthwise_bwd_weights_elements_workspace(const Call& c);
void depthwise_bwd_weights_elements(const Call& c, void* workspace);  // without the gradient of a bias

// No multiplier, channels in packs of 16 bytes, kernels 3, 5 and 7: as fast as memory.
const char* depthwise_rows_decline(const Call& c);
void depthwise_forward_rows(const Call& c);
void depthwise_bwd_data_rows(const Call& c);
int64_t depthwise_bwd_weights_rows_workspace(const Call& c);
void depthwise_bwd_weights_rows(const Call& c);  // with the gradient of a bias

// Such a convolution, 3x3 and of 16 bits, between batch norms (has_norm_in, has_moments).
const char* depthwise_norm_decline(const Call& c);
int64_t depthwise_norm_workspace(const Call& c);
void depthwise_norm_forward(const Call& c);
const char* depthwise_norm_bwd_weights_decline(const Call& c);
int64_t depthwise_norm_bwd_weights_workspace(const Call& c);
void depthwise_norm_bwd_weights(const Call& c);

template <const char* (*dtypes)(const Call&)>
const char* depthwise_declines(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  if (p.C != p.groups) return "several channels per group";
  return p.kH * p.kW > 65535 ? "more taps than a grid holds" : dtypes(c);
}
template <const char* (*dtypes)(const Call&), const char* (*norms)(const Call&)>
const char* depthwise_rows_declines(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  if (const char* why = depthwise_rows_decline(c)) return why;
  return p.has_norm_in || p.has_moments ? norms(c) : dtypes(c);
}

// y = the sum of parts (slices, n); y may be kept in the type of the sums.
template <class T>
void join_into(const Real<T>* parts, int slices, int64_t n, const Operand& y) {
  unsigned lanes = 8;
  while (lanes < 32 && lanes * 8 < static_cast<unsigned>(slices)) lanes *= 2;
  const LaunchPlan plan{dim3(ceil_div(n, 32)), dim3(32, lanes), 32 * lanes * sizeof(Real<T>)};
  if (dtype_size(y.dtype) != sizeof(T))
    launch("join_slices", plan, join_slices<Real<T>, Real<T>>, parts, slices, n, y.data);
  else
    launch("join_slices", plan, join_slices<T, Real<T>>, parts, slices, n, y.data);
}

}  // namespace fastcnn::cuda
