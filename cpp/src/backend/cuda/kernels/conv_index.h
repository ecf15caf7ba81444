// What it is: where the operands of an implicit-GEMM convolution lie: plain functions of the problem, for kernels
// of any kind and for tests that walk every index. What it is not: a tile map.
#pragma once
#include "fastcnn/params.h"

namespace fastcnn::cuda {

// Depth of the forward product: kH * kW * C/groups, as the weights lie.
FASTCNN_INLINE int64_t conv_depth(const Conv2dParams& p) { return p.kH * p.kW * (p.C / p.groups); }

// Offset in x of what output pixel `pixel` of group z multiplies with element k of the weights; -1: padding.
FASTCNN_INLINE int64_t forward_source(const Conv2dParams& p, int64_t z, int64_t pixel, int64_t k) {
  const int64_t Cg = p.C / p.groups, c = k % Cg, tap = k / Cg, kw = tap % p.kW, kh = tap / p.kW;
  const int64_t ow = pixel % p.oW, rest = pixel / p.oW, oh = rest % p.oH, n = rest / p.oH;
  const int64_t h = oh * p.sH - p.pT + kh * p.dH, w = ow * p.sW - p.pL + kw * p.dW;
  if (h < 0 || h >= p.H || w < 0 || w >= p.W) return -1;
  return ((n * p.H + h) * p.W + w) * p.C + z * Cg + c;
}

// Offset in dy of what input pixel `pixel` of group z gets through element k = (kh, kw, o); -1: nothing.
FASTCNN_INLINE int64_t bwd_data_source(const Conv2dParams& p, int64_t z, int64_t pixel, int64_t k) {
  const int64_t Og = p.O / p.groups, o = k % Og, tap = k / Og, kw = tap % p.kW, kh = tap / p.kW;
  const int64_t w = pixel % p.W, rest = pixel / p.W, h = rest % p.H, n = rest / p.H;
  const int64_t a = h + p.pT - kh * p.dH, b = w + p.pL - kw * p.dW;
  if (a < 0 || b < 0 || a % p.sH || b % p.sW || a / p.sH >= p.oH || b / p.sW >= p.oW) return -1;
  return ((n * p.oH + a / p.sH) * p.oW + b / p.sW) * p.O + z * Og + o;
}

// Offset in w of element k = (kh, kw, o) and input channel c of group z.
FASTCNN_INLINE int64_t bwd_data_weight(const Conv2dParams& p, int64_t z, int64_t k, int64_t c) {
  const int64_t Og = p.O / p.groups, Cg = p.C / p.groups, o = k % Og, tap = k / Og;
  return ((z * Og + o) * p.kH * p.kW + tap) * Cg + c;
}

}  // namespace fastcnn::cuda
