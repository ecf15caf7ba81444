// What it is: how normalisation kernels see a tensor, and their argument structs.
// A tensor is (images, rows, C) with C innermost; statistics are per image and channel (batch norm has one image).
// Rows are split into fixed chunks, whatever the thread count, so sums never depend on it. So that narrow channel
// counts fill vectors, `fold` rows are seen as one virtual row of `period` = fold*C values with repeated
// parameters.
#pragma once
#include <stdint.h>

#include "fastcnn/params.h"

namespace fastcnn::cpu {

constexpr int64_t kMaxPeriod = 2048;

struct NormShape {
  int64_t images, rows, C, fold, period, chunk_rows, chunks;  // chunks: per image
};

// Sums of one chunk are doubles [2][C]: mean and sum of squared deviations, or the two backward sums.
struct NormMomentsArgs {
  NormShape s;
  const float* x;
  double* part;  // (images, chunks, 2, C)
};

// y = act((x - mean) * scale + shift + res); parameters are (images, period).
struct NormApplyArgs {
  NormShape s;
  const float *x, *res;
  float* y;
  const float *mean, *scale, *shift;
  ActParams act;
  int nt;  // non-temporal stores
};

// Per channel: sum of dz and sum of dz * (x - mean); dz = dy * act'(y), stored to `dz` unless null.
struct NormBwdSumsArgs {
  NormShape s;
  const float *dy, *dy2, *x, *y;  // dy2, where not null (then dz is not null either), is added to dy
  const float *scale, *shift;     // where not null: y = act((x - mean) * scale + shift) instead of reading y
  float* dz;
  const float* mean;
  double* part;
  ActParams act;
  int nt;  // non-temporal stores of dz
};

// dx = a*dz + b*(x - mean) + c with dz = dy * act'(y).
struct NormBwdApplyArgs {
  NormShape s;
  const float *dy, *x, *y;
  const float *scale, *shift;  // as in NormBwdSumsArgs
  float* dx;
  const float *mean, *a, *b, *c;
  ActParams act;
  int nt;
};

// layer_norm: rows of `inner` contiguous values, each with its own statistics; gamma and beta may be null.
struct LayerNormArgs {
  int64_t inner, chunk_rows, rows;
  double eps;
  const float *x, *dy, *gamma, *beta;
  float *y, *dx, *mean, *invstd;  // backward reads mean and invstd
  float* part;                    // backward with gamma: (chunks, 2, inner) sums of dgamma, dbeta
};

}  // namespace fastcnn::cpu
