// What it is: the argument struct of the affine_sample kernels, of one image, and the scalar rules of sampling
// that kernels and the reference share: where a point lies, which pixel stands for one outside, cubic weights.
#pragma once
#include <math.h>
#include <stdint.h>

#include "fastcnn/params.h"

namespace fastcnn::cpu {

// Taps of one axis for matrices that only scale and move: of output o at [start[o], start[o + 1]); none: outside.
struct SampleAxis {
  const int32_t* start = nullptr;
  const int32_t* index = nullptr;
  const float* weight = nullptr;
  int32_t low = 0, high = 0;  // all indices lie in [low, high)
};

struct SampleTask {
  AffineSampleParams p;
  int32_t x_float = 0, y_float = 0;  // else uint8
  const void* x = nullptr;           // this image
  void* y = nullptr;
  const float* matrix = nullptr;        // (3,3)
  const float* fill = nullptr;          // (C)
  const void* copied_fill = nullptr;    // (C) of x's dtype, of sample_copied_rows
  const float* displacement = nullptr;  // (oH, oW, 2) or null
  SampleAxis rows, cols;
  // Stages [first, last) with their means folded in: A (C,C), c (C), hue each.
  const float* stage = nullptr;
  int64_t first = 0, last = 0;
  float* sums = nullptr;        // (oH, C) of each row after those stages, or null
  const float* norm = nullptr;  // (2, C) or null: of the last pass
};

FASTCNN_INLINE int64_t resolved_stage_floats(int64_t C) { return C * C + C + 1; }
FASTCNN_INLINE int64_t resize_scratch(const SampleTask& t) { return (t.cols.high - t.cols.low) * t.p.C + 4; }

// Points further out are as good as outside; keeps them exact in float and int32.
constexpr float kFarthest = 1 << 20;

FASTCNN_INLINE bool sample_projective(const float* m) { return m[6] != 0 || m[7] != 0 || m[8] != 1; }
FASTCNN_INLINE bool sample_axis_aligned(const float* m) { return m[1] == 0 && m[3] == 0 && !sample_projective(m); }

FASTCNN_INLINE float sample_near(float v) {  // NaN goes to -kFarthest
  return v > -kFarthest ? (v < kFarthest ? v : kFarthest) : -kFarthest;
}

FASTCNN_INLINE void sample_point(const SampleTask& t, int64_t ox, int64_t oy, float* sx, float* sy) {
  const float* m = t.matrix;
  const float X = static_cast<float>(ox), Y = static_cast<float>(oy);
  float x = m[0] * X + (m[1] * Y + m[2]), y = m[3] * X + (m[4] * Y + m[5]);
  if (sample_projective(m)) {
    const float w = 1 / (m[6] * X + (m[7] * Y + m[8]));
    x *= w, y *= w;
  }
  if (t.displacement) {
    const float* d = t.displacement + (oy * t.p.oW + ox) * 2;
    x += d[0], y += d[1];
  }
  *sx = sample_near(x), *sy = sample_near(y);
}

// The pixel that stands for position i of an axis of n pixels; -1: the fill value.
FASTCNN_INLINE int64_t sample_index(SampleFill fill, int64_t i, int64_t n) {
  if (i >= 0 && i < n) return i;
  if (fill == SampleFill::constant) return -1;
  if (fill == SampleFill::edge || n == 1) return i < 0 ? 0 : n - 1;
  const int64_t period = fill == SampleFill::reflect ? 2 * (n - 1) : 2 * n, last = period - (period == 2 * n);
  i %= period;
  if (i < 0) i += period;
  return i < n ? i : last - i;
}

// Weights of the pixels at floor(s) - 1 … + 2 for the fraction t of s (Keys 1981, a = -0.75 as in torch).
FASTCNN_INLINE void cubic_weights(float t, float* w) {
  const float a = -0.75f, u = 1 - t;
  w[0] = a * t * u * u;
  w[1] = ((a + 2) * t - (a + 3)) * t * t + 1;
  w[2] = ((a + 2) * u - (a + 3)) * u * u + 1;
  w[3] = a * u * t * t;
}

}  // namespace fastcnn::cpu
