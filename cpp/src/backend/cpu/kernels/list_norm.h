// What it is: the rows of the kernel list for norm; see kernels.h. X(name, return type, arguments…)
#pragma once
#include "backend/cpu/kernels/norm_args.h"
#include "backend/cpu/kernels/pointwise_loss_args.h"
#include "backend/cpu/kernels/softmax_args.h"

#define FASTCNN_KERNELS_NORM(X)                                                                                   \
  X(act_forward, void, const ActParams*, const float* x, float* y, int64_t begin, int64_t end, int nt)            \
  X(act_backward, void, const ActParams*, const float* dy, const float* r, float* dx, int64_t begin, int64_t end, \
    int nt)                                                                                                       \
  X(act_backward2, void, const ActParams*, const float* g, const float* dy, const float* r, float* out,           \
    int64_t begin, int64_t end)                                                                                   \
  X(norm_moments, void, const NormMomentsArgs*, int64_t begin, int64_t end)                                       \
  X(norm_reduce_moments, void, const NormShape*, const double* part, double* mean, double* var, int64_t begin,    \
    int64_t end)                                                                                                  \
  /* items: channels of all parts in order, to mean and biased variance */                                        \
  X(merge_moments, void, const MomentsOut& m, int64_t parts, double* mean, double* var, int64_t begin,            \
    int64_t end)                                                                                                  \
  X(norm_reduce_sums, void, const NormShape*, const double* part, double* s1, double* s2, int64_t begin,          \
    int64_t end)                                                                                                  \
  X(norm_apply, void, const NormApplyArgs*, int64_t begin, int64_t end)                                           \
  X(norm_bwd_sums, void, const NormBwdSumsArgs*, int64_t begin, int64_t end)                                      \
  X(norm_bwd_apply, void, const NormBwdApplyArgs*, int64_t begin, int64_t end)                                    \
  X(layer_norm_rows, void, const LayerNormArgs*, int64_t begin, int64_t end)                                      \
  X(layer_norm_bwd_rows, void, const LayerNormArgs*, int64_t begin, int64_t end)                                  \
  X(softmax_forward, void, const SoftmaxParams*, const float* x, float* y, int log, int64_t begin, int64_t end)   \
  X(softmax_backward, void, const SoftmaxParams*, const float* dy, const float* y, float* dx, int log,            \
    int64_t begin, int64_t end)                                                                                   \
  X(cross_entropy_rows, void, const CrossEntropyArgs*, int64_t begin, int64_t end)                                \
  X(cross_entropy_bwd_rows, void, const CrossEntropyArgs*, int64_t begin, int64_t end)                            \
  X(pointwise_loss, double, const PointwiseLossArgs*, int64_t begin, int64_t end, int* bad)                       \
  X(pointwise_loss_bwd, void, const PointwiseLossArgs*, int64_t begin, int64_t end)
// Those that convert to bfloat16 or multiply its pairs.
#define FASTCNN_KERNELS_NORM_BF16(X)                                                                              \
  X(act_forward_bf16, void, const ActParams*, const bfloat16* x, bfloat16* y, int64_t begin, int64_t end, int nt) \
  X(act_backward_bf16, void, const ActParams*, const bfloat16* dy, const bfloat16* r, bfloat16* dx,               \
    int64_t begin, int64_t end, int nt)                                                                           \
  X(norm_moments_bf16, void, const NormMomentsArgs*, int64_t begin, int64_t end)                                  \
  X(norm_apply_bf16, void, const NormApplyArgs*, int64_t begin, int64_t end)                                      \
  X(norm_bwd_sums_bf16, void, const NormBwdSumsArgs*, int64_t begin, int64_t end)                                 \
  X(norm_bwd_apply_bf16, void, const NormBwdApplyArgs*, int64_t begin, int64_t end)
