// What it is: the rows of the kernel list that measure the machine; see kernels.h. X(name, return type,
// arguments…)
#pragma once
#include <stdint.h>

namespace fastcnn {
constexpr int64_t kPeakBlock = 1024;  // floats
}

#define FASTCNN_KERNELS_PEAK(X)                                                                      \
  /* `rounds` rounds of independent multiply-adds in registers; returns how many FLOPs they were */  \
  X(peak_fma, double, int64_t rounds, float* sink)                                                   \
  /* the same in bfloat16; 0 where this ISA has no bfloat16 dot product */                           \
  X(peak_dot_bf16, double, int64_t rounds, float* sink)                                              \
  /* a = b + s * c, past the caches; items: kPeakBlock floats of 64-byte aligned arrays */           \
  X(peak_triad, void, float* a, const float* b, const float* c, float s, int64_t begin, int64_t end) \
  /* a = b, likewise */                                                                              \
  X(peak_copy, void, float* a, const float* b, int64_t begin, int64_t end)
