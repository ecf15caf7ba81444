// What it is: the rows of the kernel list for dense convolution and Winograd forward; see kernels.h. X(name,
// return type, arguments…)
#pragma once
#define FASTCNN_KERNELS_CONV(X)                                                                               \
  /* items: rows (n, oh); t.w: (O, kH, kW, C), not packed */                                                  \
  X(conv2d_few_outputs, void, const GemmTask& t, int64_t begin, int64_t end)                                  \
  /* items: images * strips * vectors of outputs; scratch for the rows of a strip */                          \
  X(conv2d_group_lanes, void, const GroupLanesTask& t, float* scratch, int64_t begin, int64_t end)            \
  /* items: chunks * vectors of outputs; scratch the same */                                                  \
  X(conv2d_group_lanes_grad, void, const GroupLanesTask& t, float* scratch, int64_t begin, int64_t end)       \
  /* items: chunks * B * nc * groups; scratch kGradFloats */                                                  \
  X(conv2d_weights_grad, void, const WeightsGradTask& t, float* scratch, int64_t begin, int64_t end)          \
  /* items: strips * B; scratch: PlaneLayout of a strip */                                                    \
  X(conv2d_planes, void, const PlanesTask& t, float* scratch, int64_t begin, int64_t end)                     \
  /* items: chunks * B; scratch: t.sums() vectors, PlaneLayout of a strip */                                  \
  X(conv2d_planes_grad, void, const PlanesTask& t, float* scratch, int64_t begin, int64_t end)                \
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
  /* items: floats; out[i] = sum of `count` arrays at in + j*stride, in order */                              \
  X(sum_arrays, void, const float* in, int64_t stride, int64_t count, float* out, int64_t begin, int64_t end) \
  /* items: rows of out; out[row*cols + j] = in[j*in_stride + row] */                                         \
  X(transpose_matrix, void, const float* in, int64_t in_stride, int64_t cols, float* out, int64_t begin,      \
    int64_t end)
// Those that convert to bfloat16 or multiply its pairs.
#define FASTCNN_KERNELS_CONV_BF16(X)                                                                      \
  /* the same from bfloat16 x and dy to float32 sums */                                                   \
  X(conv2d_weights_grad_bf16, void, const WeightsGradTask& t, float* scratch, int64_t begin, int64_t end) \
  X(sum_arrays_bf16, void, const float* in, int64_t stride, int64_t count, bfloat16* out, int64_t begin,  \
    int64_t end)                                                                                          \
  /* items: rows (n, oh) of bfloat16 outputs; windows at most 5x5, 3 or 5 wide, stride 1 or 2 along rows  \
     and no dilation; t.w holds bias and weights as DepthwiseWords says */                                \
  X(conv2d_depthwise_bf16, void, const GemmTask& t, int64_t begin, int64_t end)                           \
  /* Winograd on bfloat16 images and weights */                                                           \
  X(winograd_weights_bf16, void, const WinogradTask& t, int64_t begin, int64_t end)                       \
  X(winograd_groups_bf16, void, const WinogradTask& t, float* scratch, int64_t begin, int64_t end)        \
  X(winograd_input_bf16, void, const WinogradTask& t, int64_t begin, int64_t end)                         \
  X(winograd_blocks_bf16, void, const WinogradTask& t, float* scratch, int64_t begin, int64_t end)        \
  X(winograd_outputs_bf16, void, const WinogradTask& t, const float* products, int64_t begin, int64_t end)
