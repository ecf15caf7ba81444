// What it is: the rows of the kernel list for conv; see kernels.h. X(name, return type, arguments…)
#pragma once
#define FASTCNN_KERNELS_CONV(X)                                                                               \
  /* items: chunks * B * nc * groups */                                                                       \
  X(conv2d_weights_grad, void, const WeightsGradTask& t, int64_t begin, int64_t end)                          \
  /* the same from bfloat16 x and dy to float32 sums */                                                       \
  X(conv2d_weights_grad_bf16, void, const WeightsGradTask& t, int64_t begin, int64_t end)                     \
  X(sum_arrays_bf16, void, const float* in, int64_t stride, int64_t count, bfloat16* out, int64_t begin,      \
    int64_t end)                                                                                              \
  /* items: rows of outputs (n, oh); w (kH, kW, C) */                                                         \
  X(conv2d_depthwise, void, const GemmTask& t, int64_t begin, int64_t end)                                    \
  /* items: chunks; dw is (kH, kW, C) per chunk */                                                            \
  X(conv2d_depthwise_weights_grad, void, const WeightsGradTask& t, int64_t begin, int64_t end)                \
  /* items: floats; out[i] = sum of `count` arrays at in + j*stride, in order */                              \
  X(sum_arrays, void, const float* in, int64_t stride, int64_t count, float* out, int64_t begin, int64_t end) \
  /* items: rows of out; out[row*cols + j] = in[j*in_stride + row] */                                         \
  X(transpose_matrix, void, const float* in, int64_t in_stride, int64_t cols, float* out, int64_t begin,      \
    int64_t end)
