// What it is: the rows of the kernel list for int8; see kernels.h. X(name, return type, arguments…)
#pragma once
#include "backend/cpu/kernels/quantized_args.h"

#define FASTCNN_KERNELS_QUANTIZED(X)                                                                         \
  /* Pixels of a tile and vectors of a panel that the registers hold; numbers of a word: 4 bytes, or 2 of 16 \
   * bits. */                                                                                                \
  X(quantized_tile, void, int64_t* pixels, int64_t* vectors, int64_t* numbers)                               \
  X(quantized_widen, void, const uint8_t* x, int16_t* y, int64_t n)                                          \
  X(quantized_conv2d, void, const QuantizedConvTask& t, int64_t begin, int64_t end)                          \
  X(quantized_winograd_data, void, const QuantizedWinogradTask& t)                                           \
  X(quantized_winograd_result, void, const QuantizedWinogradTask& t)                                         \
  /* Work items: rows of y. */                                                                               \
  X(quantized_depthwise, void, const QuantizedDepthwiseTask& t, int64_t begin, int64_t end)                  \
  /* Elementwise on [begin, end). */                                                                         \
  X(quantize, void, const float* x, float inverse, float zero, uint8_t* y, int64_t begin, int64_t end)       \
  X(dequantize, void, const uint8_t* x, float scale, int32_t zero, float* y, int64_t begin, int64_t end)     \
  X(quantized_add, void, const uint8_t* a, const uint8_t* b, const QuantizedAddParams& p, uint8_t* y,        \
    int64_t begin, int64_t end)                                                                              \
  /* y (C) = max(y, x), sum (C) += x */                                                                      \
  X(quantized_max, void, const uint8_t* x, uint8_t* y, int64_t C)                                            \
  X(quantized_sum, void, const uint8_t* x, int32_t* sum, int64_t C)                                          \
  X(quantized_mean, void, const int32_t* sum, float multiplier, float offset, void* y, bool to_float, int64_t C)
