// What it is: the rows of the kernel list for depthwise convolution and columns; see kernels.h. X(name, return
// type, arguments…)
#pragma once
#define FASTCNN_KERNELS_DEPTHWISE(X)                                                   \
  /* items: rows of dx */                                                              \
  X(add_columns, void, const ColumnsTask& t, int64_t begin, int64_t end)               \
  /* items: rows of outputs (n, oh); w (kH, kW, C) */                                  \
  X(conv2d_depthwise, void, const GemmTask& t, int64_t begin, int64_t end)             \
  /* items: rows of dx (n, ih) of a residue */                                         \
  X(conv2d_depthwise_bwd, void, const DepthwiseBwdTask& t, int64_t begin, int64_t end) \
  /* the sums of one part, of n pixels, to m.part */                                   \
  X(conv2d_depthwise_moments, void, const MomentsOut& m, double n)                     \
  /* items: rows of dy (n, oh), added in order to dw (kH, kW, C) and dbias */          \
  X(conv2d_depthwise_weights_grad, void, const WeightsGradTask& t, int64_t begin, int64_t end)
