// What it is: the rows of the kernel list for conv; see kernels.h. X(name, return type, arguments…)
#pragma once
#define FASTCNN_KERNELS_CONV(X)                                                                               \
  /* items: chunks * B * nc * groups; scratch kGradFloats */                                                  \
  X(conv2d_weights_grad, void, const WeightsGradTask& t, float* scratch, int64_t begin, int64_t end)          \
  /* the same from bfloat16 x and dy to float32 sums */                                                       \
  X(conv2d_weights_grad_bf16, void, const WeightsGradTask& t, float* scratch, int64_t begin, int64_t end)     \
  X(sum_arrays_bf16, void, const float* in, int64_t stride, int64_t count, bfloat16* out, int64_t begin,      \
    int64_t end)                                                                                              \
  /* items: rows of dx */                                                                                     \
  X(add_columns, void, const ColumnsTask& t, int64_t begin, int64_t end)                                      \
  /* items: rows of outputs (n, oh); w (kH, kW, C) */                                                         \
  X(conv2d_depthwise, void, const GemmTask& t, int64_t begin, int64_t end)                                    \
  /* the sums of one part, of n pixels, to m.part */                                                          \
  X(conv2d_depthwise_moments, void, const MomentsOut& m, double n)                                            \
  /* items: rows of dy (n, oh), added in order to dw (kH, kW, C) and dbias */                                 \
  X(conv2d_depthwise_weights_grad, void, const WeightsGradTask& t, int64_t begin, int64_t end)                \
  /* Winograd F(4x4, 3x3), F(2x2, 5x5); see winograd_args.h. items: blocks of outputs */                      \
  X(winograd_weights, void, const WinogradTask& t, int64_t begin, int64_t end)                                \
  /* items: groups of tiles; scratch 37 planes of u */                                                        \
  X(winograd_groups, void, const WinogradTask& t, float* scratch, int64_t begin, int64_t end)                 \
  /* items: tiles from tile0 on */                                                                            \
  X(winograd_input, void, const WinogradTask& t, int64_t begin, int64_t end)                                  \
  /* items: blocks of outputs; scratch 36 planes of weights and of a group of products */                     \
  X(winograd_blocks, void, const WinogradTask& t, float* scratch, int64_t begin, int64_t end)                 \
  /* items: planes x blocks; products of all planes of t.u and t.wt, [block][plane of t.tiles][vectors] */    \
  X(winograd_products, void, const WinogradTask& t, float* products, int64_t begin, int64_t end)              \
  /* items: blocks x groups of t.tiles; products to outputs */                                                \
  X(winograd_outputs, void, const WinogradTask& t, const float* products, int64_t begin, int64_t end)         \
  /* items: tiles from tile0 on; tiles of dy to t.e */                                                        \
  X(winograd_dy, void, const WinogradTask& t, int64_t begin, int64_t end)                                     \
  /* items: images x vectors of C; products of dy to windows of dx, which is t.y and has the strides of x */  \
  X(winograd_windows_to_dx, void, const WinogradTask& t, const float* products, int64_t begin, int64_t end)   \
  /* items: chunks; scratch 36 planes of x and of dy */                                                       \
  X(winograd_gradient_groups, void, const WinogradTask& t, float* scratch, int64_t begin, int64_t end)        \
  /* items: outputs */                                                                                        \
  X(winograd_gradient_finish, void, const WinogradTask& t, int64_t begin, int64_t end)                        \
  /* items: blocks of C x planes; sums over t.tiles to t.sums, added to those of earlier tiles */             \
  X(winograd_gradient_sums, void, const WinogradTask& t, int64_t begin, int64_t end)                          \
  /* items: tiles from tile0 on */                                                                            \
  X(winograd_gradient_input, void, const WinogradTask& t, int64_t begin, int64_t end)                         \
  /* items: blocks of C x parts of O; scratch 36 planes of sums */                                            \
  X(winograd_gradient_blocks, void, const WinogradTask& t, float* scratch, int64_t begin, int64_t end)        \
  /* the same on bfloat16 images and weights */                                                               \
  X(winograd_weights_bf16, void, const WinogradTask& t, int64_t begin, int64_t end)                           \
  X(winograd_groups_bf16, void, const WinogradTask& t, float* scratch, int64_t begin, int64_t end)            \
  X(winograd_input_bf16, void, const WinogradTask& t, int64_t begin, int64_t end)                             \
  X(winograd_blocks_bf16, void, const WinogradTask& t, float* scratch, int64_t begin, int64_t end)            \
  X(winograd_outputs_bf16, void, const WinogradTask& t, const float* products, int64_t begin, int64_t end)    \
  X(winograd_gradient_groups_bf16, void, const WinogradTask& t, float* scratch, int64_t begin, int64_t end)   \
  X(winograd_gradient_sums_bf16, void, const WinogradTask& t, int64_t begin, int64_t end)                     \
  X(winograd_gradient_input_bf16, void, const WinogradTask& t, int64_t begin, int64_t end)                    \
  X(winograd_gradient_blocks_bf16, void, const WinogradTask& t, float* scratch, int64_t begin, int64_t end)   \
  /* items: tiles of t.tiles; windows of x to t.u */                                                          \
  X(winograd2x2_input, void, const Winograd2x2Task& t, int64_t begin, int64_t end)                            \
  /* items: tiles of t.tiles; tiles of dy to t.e */                                                           \
  X(winograd2x2_gradient, void, const Winograd2x2Task& t, int64_t begin, int64_t end)                         \
  /* items: blocks * groups */                                                                                \
  X(winograd2x2_blocks, void, const Winograd2x2Task& t, float* scratch, int64_t begin, int64_t end)           \
  /* items: blocks * ranges of depth outputs */                                                               \
  X(winograd2x2_gradient_blocks, void, const Winograd2x2Task& t, float* scratch, int64_t begin, int64_t end)  \
  /* items: floats; out[i] = sum of `count` arrays at in + j*stride, in order */                              \
  X(sum_arrays, void, const float* in, int64_t stride, int64_t count, float* out, int64_t begin, int64_t end) \
  /* items: rows of out; out[row*cols + j] = in[j*in_stride + row] */                                         \
  X(transpose_matrix, void, const float* in, int64_t in_stride, int64_t cols, float* out, int64_t begin,      \
    int64_t end)
