// What it is: every op kind of the graph, its params struct, and what its operands are: the contract between ops
// (which emit) and backends (which run). What it is not: gradient rules (beside each op in ops/) or kernels.
// All operands are dense in canonical layout (4-D: channels-last, else row-major) unless marked [strided].
// "= in k" marks an output that is the same memory as input k (updated in place). Floating operands of one node
// have one dtype unless a row says otherwise; statistics (mean, invstd, lse) and the gamma, beta, dgamma, dbeta of
// norms are float32, or float64 beside float64; moments (mean, biased variance) are float64.
#pragma once
#include <cstdint>

// X(kind, ParamsStruct)
#define FASTCNN_OPS(X)                                                                                         \
  /* x, w [, bias] [, mean(C), affine(2,C) if has_norm_in] [, residual] -> y [, moments(2,O)] */               \
  X(conv2d, Conv2dParams)                                                                                      \
  /* x [, w(E,C,1,1) [, bias]], w(E,1,kH,kW) [, bias], w(O,E,1,1) [, bias] [, residual] -> y */                \
  X(depthwise_pointwise, DepthwisePointwiseParams)                                                             \
  /* dy, w [, bias(C)] -> dx; with bias it is conv_transpose2d */                                              \
  X(conv2d_bwd_data, Conv2dParams)                                                                             \
  /* x, dy [, mean(C), affine(2,C) if has_norm_in] -> dw [, dbias] */                                          \
  X(conv2d_bwd_weights, Conv2dParams)                                                                          \
  /* dy, w, x, y, mean(O), coef(3,O) [, affine(2,O) if norm_act] [, mean(C), affine(2,C) if has_norm_in] */    \
  /* [, norm's x, mean(C) if has_residual] [, dy2 of x if has_dy2] -> dx, dw [, sums(2,C) float64] */          \
  /* the gradient of y is coef of batch_norm_bwd applied to dy and y */                                        \
  X(conv2d_bwd, Conv2dBwdParams)                                                                               \
  /* a, b [, bias] -> c (batch,M,N); a stored (batch,M,K) or (batch,K,M) by trans_a; batched operands 3-D */   \
  X(matmul, MatmulParams)                                                                                      \
  /* x -> y, index(int32: h*W+w inside the plane of x) */                                                      \
  X(max_pool2d, Pool2dParams)                                                                                  \
  /* dy, index -> dx */                                                                                        \
  X(max_pool2d_bwd, Pool2dParams)                                                                              \
  /* g (shape of x), index -> g at the maxima (shape of y) */                                                  \
  X(max_pool2d_gather, Pool2dParams)                                                                           \
  /* x -> y */                                                                                                 \
  X(avg_pool2d, Pool2dParams)                                                                                  \
  /* dy -> dx */                                                                                               \
  X(avg_pool2d_bwd, Pool2dParams)                                                                              \
  /* x, gamma, beta [, residual] [, moments(2,C)] -> y unless stats_only, mean, invstd (C) [, affine (2,C)] */ \
  X(batch_norm, BatchNormParams)                                                                               \
  /* dy, x, gamma, mean, invstd [, y if act, or affine] [, dy2] [, sums(2,C) float64] */                       \
  /* -> dx or coef, dgamma, dbeta [, dresidual] */                                                             \
  X(batch_norm_bwd, BatchNormParams)                                                                           \
  /* x, gamma, beta, mean, var [, residual] -> y; given statistics (inference) */                              \
  X(batch_norm_infer, BatchNormParams)                                                                         \
  /* w, gamma, beta, mean, var [, bias] -> w, bias: batch_norm_infer folded into the op before it */           \
  X(fold_batch_norm, FoldParams)                                                                               \
  /* mean, invstd, running_mean, running_var, num_batches(int64) -> running_mean = in 2, running_var = in 3 */ \
  X(bn_update_running, BnUpdateParams)                                                                         \
  /* x, scale(N,C,1,1) [, shift(N,C,1,1)] -> y */                                                              \
  X(channel_scale, ChannelParams)                                                                              \
  /* a, b (N,C,H,W) -> (N,C,1,1): the sum of a*b over each plane */                                            \
  X(channel_dot, ChannelParams)                                                                                \
  /* x [, gamma, beta] -> y, mean(outer), invstd(outer) */                                                     \
  X(layer_norm, NormParams)                                                                                    \
  /* dy, x [, gamma], mean, invstd -> dx [, dgamma, dbeta] */                                                  \
  X(layer_norm_bwd, NormParams)                                                                                \
  /* x [, gamma(C), beta(C)] -> y, mean(N,groups), invstd(N,groups) */                                         \
  X(group_norm, NormParams)                                                                                    \
  /* dy, x [, gamma], mean, invstd -> dx [, dgamma, dbeta] */                                                  \
  X(group_norm_bwd, NormParams)                                                                                \
  /* x -> y */                                                                                                 \
  X(activation, ActParams)                                                                                     \
  /* dy, r -> dx; r is y where act_bwd_uses_output(act), else x */                                             \
  X(activation_bwd, ActParams)                                                                                 \
  /* g, dy, r -> g * dy * f''; r as in activation_bwd */                                                       \
  X(activation_bwd2, ActParams)                                                                                \
  /* x -> y */                                                                                                 \
  X(softmax, SoftmaxParams)                                                                                    \
  X(log_softmax, SoftmaxParams)                                                                                \
  /* dy, y -> dx */                                                                                            \
  X(softmax_bwd, SoftmaxParams)                                                                                \
  X(log_softmax_bwd, SoftmaxParams)                                                                            \
  /* logits, target(int64) [, weight(C)] -> loss (() or (rows)), lse(rows), weight_sum() */                    \
  X(cross_entropy, CrossEntropyParams)                                                                         \
  /* dloss, logits, target, lse, weight_sum [, weight] -> dlogits */                                           \
  X(cross_entropy_bwd, CrossEntropyParams)                                                                     \
  /* x, t -> loss (() or x's shape); ValueError where t is NaN */                                              \
  X(pointwise_loss, PointwiseLossParams)                                                                       \
  /* dloss, x, t -> dx */                                                                                      \
  X(pointwise_loss_bwd, PointwiseLossParams)                                                                   \
  /* x -> y, a copy; ValueError where x is NaN */                                                              \
  X(check_target, CheckTargetParams)                                                                           \
  /* x [strided] -> y (may be = in 0) */                                                                       \
  X(unary, UnaryParams)                                                                                        \
  /* a, b [strided, broadcast] -> y (may be = in 0) */                                                         \
  X(binary, BinaryParams)                                                                                      \
  /* condition(bool), a, b [strided, broadcast] -> y */                                                        \
  X(where, FillParams)                                                                                         \
  /* -> y */                                                                                                   \
  X(fill, FillParams)                                                                                          \
  /* x [strided] -> y (keepdim form) */                                                                        \
  X(reduce, ReduceParams)                                                                                      \
  /* x [strided] -> y zero elsewhere */                                                                        \
  X(strided_scatter, ScatterParams)                                                                            \
  /* x, index(int64 1-D) -> y */                                                                               \
  X(index_select, IndexParams)                                                                                 \
  /* dy, index -> dx */                                                                                        \
  X(index_add, IndexParams)                                                                                    \
  /* x, index(int64, shape of y) -> y */                                                                       \
  X(gather, IndexParams)                                                                                       \
  /* dy, index -> dx */                                                                                        \
  X(scatter_add, IndexParams)                                                                                  \
  /* x(rows,size) -> index(int64 rows,kept) */                                                                 \
  X(argsort, ArgsortParams)                                                                                    \
  /* x(rows,size) -> y */                                                                                      \
  X(cumsum, CumsumParams)                                                                                      \
  /* x0, x1, ... [strided] -> y */                                                                             \
  X(cat, CatParams)                                                                                            \
  /* x -> y */                                                                                                 \
  X(pad, PadParams)                                                                                            \
  /* dy -> dx */                                                                                               \
  X(pad_bwd, PadParams)                                                                                        \
  /* x -> y */                                                                                                 \
  X(interpolate, InterpolateParams)                                                                            \
  /* dy -> dx */                                                                                               \
  X(interpolate_bwd, InterpolateParams)                                                                        \
  /* x, matrix(N,3,3), fill(C) [, displacement(N,2,oH,oW)] [, color(N,stages,floats)] [, norm(2,C)] -> y */    \
  X(affine_sample, AffineSampleParams)                                                                         \
  /* x, points(N, oH*oW, 2) -> y */                                                                            \
  X(grid_sample, GridSampleParams)                                                                             \
  /* dy [, x for dpoints], points -> [dx] [, dpoints] */                                                       \
  X(grid_sample_bwd, GridSampleParams)                                                                         \
  /* a(N,4), b(M,4) -> iou(N,M) */                                                                             \
  X(box_iou, BoxIouParams)                                                                                     \
  /* boxes(N,4), scores(N) [, groups(int64 N)] -> kept(int64 (limit), -1 behind the last), count(int64 ()) */  \
  X(nms, NmsParams)                                                                                            \
  /* x, rois(K,5): image and box -> y */                                                                       \
  X(roi_align, RoiAlignParams)                                                                                 \
  /* dy, rois -> dx */                                                                                         \
  X(roi_align_bwd, RoiAlignParams)                                                                             \
  /* u(N,I,K), weight(I,J,D,K) -> v(N,J,D) */                                                                  \
  X(capsule_routing, CapsuleRoutingParams)                                                                     \
  /* dv, u, weight -> du, dweight */                                                                           \
  X(capsule_routing_bwd, CapsuleRoutingParams)                                                                 \
  /* x, state(int64[2]) -> y, saved(int64[2]: seed, counter+delta) */                                          \
  X(dropout, DropoutParams)                                                                                    \
  /* dy, saved -> dx; the same mask and scale on another tensor */                                             \
  X(dropout_bwd, DropoutParams)                                                                                \
  /* state -> y */                                                                                             \
  X(random, RandomParams)                                                                                      \
  /* state -> state = in 0, counter += count */                                                                \
  X(rng_advance, RngAdvanceParams)                                                                             \
  /* of all steps below the last input may be scale(float32 (3)), see backend/cpu/step_numbers.h */            \
  /* p, g [, momentum], hyper -> p = in 0 [, momentum = in 2] */                                               \
  X(sgd_step, SgdParams)                                                                                       \
  /* p, g, m, v [, vmax], hyper -> p = in 0, m = in 2, v = in 3 [, vmax = in 4] */                             \
  X(adam_step, AdamParams)                                                                                     \
  /* p, g, v [, momentum] [, mean_grad], hyper -> p = in 0, v = in 2 [, momentum] [, mean_grad] */             \
  X(rmsprop_step, RmspropParams)                                                                               \
  /* p, g, sum, hyper -> p = in 0, sum = in 2 */                                                               \
  X(adagrad_step, AdagradParams)                                                                               \
  /* p, g, m, hyper -> p = in 0, m = in 2 */                                                                   \
  X(lion_step, LionParams)                                                                                     \
  /* x(float32) -> y(uint8) */                                                                                 \
  X(quantize, QuantizeParams)                                                                                  \
  /* x(uint8) -> y(float32) */                                                                                 \
  X(dequantize, QuantizeParams)                                                                                \
  /* x(uint8), w(int8), multiplier(O), offset(O), both float32 [, residual(uint8)] -> y(uint8 or float32) */   \
  X(quantized_conv2d, QuantizedConv2dParams)                                                                   \
  /* a(uint8) [, b(uint8)] -> y(uint8) */                                                                      \
  X(quantized_add, QuantizedAddParams)                                                                         \
  /* x(uint8) -> y(uint8; float32 too unless max) */                                                           \
  X(quantized_pool2d, QuantizedPool2dParams)                                                                   \
  /* x (n), index(int64 (m)), values (m) -> y: x with values at index, of equal ones the last */               \
  X(index_put, IndexParams)                                                                                    \
  /* x0, x1, ... -> found(float32 ()): 1 where a number is NaN or infinite, else 0 */                          \
  X(non_finite, FillParams)                                                                                    \
  /* x -> y: the sum over the processes of the job */                                                          \
  X(all_reduce, FillParams)

#include "fastcnn/params.h"

namespace fastcnn {

enum class OpKind : uint16_t {
#define FASTCNN_OP_ENUM(kind, params) kind,
  FASTCNN_OPS(FASTCNN_OP_ENUM)
#undef FASTCNN_OP_ENUM
      count
};

constexpr int kOpCount = static_cast<int>(OpKind::count);

// Activations whose derivative is cheaper or only needs the output.
FASTCNN_INLINE bool act_bwd_uses_output(Act a) {
  return a == Act::relu || a == Act::relu6 || a == Act::sigmoid || a == Act::tanh;
}

}  // namespace fastcnn
