// What it is: the three passes of a convolution as products: their sizes, loaders, ends, and which dtypes they
// take; for the files that launch them. What it is not: a launch.
#pragma once
#include "backend/cuda/conv2d_parts.h"
#include "backend/cuda/gemm_launch.h"
#include "backend/cuda/kernels/depthwise.cuh"

namespace fastcnn::cuda {

// ---- who takes what
// -----------------------------------------------------------------------------------------------
inline Sizes forward_sizes(const Conv2dParams& p) {
  return {p.N * p.oH * p.oW, p.O / p.groups, p.kH * p.kW * (p.C / p.groups), p.groups};
}
inline Sizes bwd_data_sizes(const Conv2dParams& p) {  // of the parity with the most pixels and taps
  const int64_t h = (p.H + p.sH - 1) / p.sH, w = (p.W + p.sW - 1) / p.sW;
  return {p.N * h * w, p.C / p.groups, p.kH * p.kW * (p.O / p.groups), p.groups * p.sH * p.sW};
}
inline Sizes bwd_weights_sizes(const Conv2dParams& p) {
  return {p.O / p.groups, p.kH * p.kW * (p.C / p.groups), p.N * p.oH * p.oW, p.groups};
}

inline const char* one_dtype(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  if (p.has_norm_in || p.has_moments) return "a batch norm inside";
  for (const Operand& o : c.in)
    if (o.dtype != c.in[0].dtype) return "operands of several dtypes";
  for (const Operand& o : c.out)
    if (o.dtype != c.in[0].dtype) return "a result of another dtype";
  return is_floating(c.in[0].dtype) ? nullptr : "dtype is not floating";
}
// Of a forward pass that gives moments: of the bare product.
inline const char* one_dtype_or_moments(const Call& c) {
  Conv2dParams p = c.as<Conv2dParams>();
  if (!p.has_moments) return one_dtype(c);
  if (p.has_bias || p.has_residual || p.act.act != Act::none)
    return "moments of a result with bias, residual or activation";
  if (p.N * p.oH * p.oW == 0) return "moments of no pixels";
  Call bare = c;
  p.has_moments = 0;
  bare.params = &p, bare.out = c.out.first(1);
  return one_dtype(bare);
}
// Weight gradients of 16-bit operands may be float32.
inline const char* weights_dtypes(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  if (p.has_norm_in) return "a batch norm inside";
  if (c.in[0].dtype != c.in[1].dtype) return "operands of several dtypes";
  for (const Operand& o : c.out)
    if (o.dtype != c.in[0].dtype && !(is_half(c.in[0].dtype) && o.dtype == DType::float32))
      return "a result of another dtype";
  return is_floating(c.in[0].dtype) ? nullptr : "dtype is not floating";
}

template <Sizes (*sizes)(const Conv2dParams&), const char* (*dtypes)(const Call&)>
const char* gemm_declines(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  if (p.N * p.H * p.W >= int64_t{1} << 31 || p.N * p.oH * p.oW >= int64_t{1} << 31) return "more than 2^31 pixels";
  const char* why = dtypes(c);
  return why ? why : too_large(sizes(p));
}
// Tiles on tensor cores are 64 wide and 16 or 32 deep: narrow groups would fill a fraction of them.
template <Sizes (*sizes)(const Conv2dParams&), const char* (*dtypes)(const Call&)>
const char* mma_declines(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  if (const char* why = mma_dtype_declines(c.in[0].dtype)) return why;
  if (p.groups > 1 && (p.C / p.groups < 8 || p.O / p.groups < 8)) return "few channels per group";
  return gemm_declines<sizes, dtypes>(c);
}

template <class T>
Epilogue<T> forward_epilogue(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  return {p.has_bias ? c.in[2].as<T>() : nullptr, p.has_residual ? c.in[c.in.size() - 1].as<T>() : nullptr,
          ActOf<Real<T>>(p.act)};
}
template <class T>
ConvForward<T> forward_load(const Call& c) {
  return {ConvSizes(c.as<Conv2dParams>()), c.in[0].as<T>(), c.in[1].as<T>()};
}
// ---- moments of y
// -----------------------------------------------------------------------------------------------
// Of more slices than these, groups are summed first: a join has a block for every 8 channels alone.
constexpr int64_t kFewSlices = 1024, kSliceGroups = 64;

// Of sums (slices, 2, C), and of what the join takes.
inline int64_t sums_bytes(int64_t slices, int64_t C) {
  return (slices + (slices > kFewSlices ? kSliceGroups : 0)) * 2 * C * int64_t{sizeof(float)};
}
inline void launch_join_moments(float* parts, int64_t slices, int64_t rows, int64_t C, double* moments) {
  if (slices > kFewSlices) {
    float* groups = parts + slices * 2 * C;
    launch("column_sums",
           {dim3(ceil_div(2 * C, 32), static_cast<unsigned>(kSliceGroups)), dim3(32, 8), 256 * sizeof(float)},
           column_sums<float>, parts, slices, 2 * C, groups);
    parts = groups, slices = kSliceGroups;
  }
  launch("join_moments", finish_plan(slices, C, sizeof(Sums<double, 2>)), join_moments<double>, parts,
         static_cast<int>(slices), rows, C, moments);
}

// Moments of values that another kernel made; parts: room for sums of so many slices.
template <class T>
void launch_sum_values(const T* y, int64_t slices, int64_t rows, int64_t C, float* parts, double* moments) {
  slices = std::min<int64_t>(slices, 64);
  launch("sum_values", {dim3(ceil_div(C, 32), static_cast<unsigned>(slices)), dim3(32)}, sum_values<T>, y, rows, C,
         parts);
  launch_join_moments(parts, slices, rows, C, moments);
}

// Do the channels of a group fill whole chunks of 16 bytes?
inline bool in_chunks(int64_t channels, const Call& c) {
  return channels / c.as<Conv2dParams>().groups % chunk_of(c.in[0].dtype) == 0;
}

template <class T>
Epilogue<T> bwd_data_epilogue(const Call& c) {
  return {c.in.size() > 2 ? c.in[2].as<T>() : nullptr, nullptr, {}};
}
template <class T>
ConvBwdData<T> bwd_data_load(const Call& c) {
  return {ConvSizes(c.as<Conv2dParams>()), c.in[0].as<T>(), c.in[1].as<T>()};
}
inline bool one_parity(const Conv2dParams& p) { return p.sH * p.sW == 1; }  // parities differ in size: no splits
inline bool bwd_chunked(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  return in_chunks(p.C, c) && in_chunks(p.O, c);
}
// Bias sums come first in the workspace, then the parts of the product.
template <class T>
ConvBwdWeights<T> bwd_weights_load(const Call& c) {
  return {ConvSizes(c.as<Conv2dParams>()), c.in[0].as<T>(), c.in[1].as<T>()};
}
}  // namespace fastcnn::cuda
