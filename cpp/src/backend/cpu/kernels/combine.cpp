// What it is: weighted sums of rows and of pixels: the two passes of interpolate and of its transpose; row
// addition.
#include <string.h>

#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/simd.h"

namespace fastcnn::cpu::FASTCNN_ISA {
namespace {

// One vector of n lanes at x + offset[t] * scale, weighted.
FASTCNN_OP vf weighted(const float* x, const int64_t* offset, int64_t scale, const float* weight, int64_t taps,
                       int n) {
  vf acc = zero();
  for (int64_t t = 0; t < taps; ++t) acc = fma(set1(weight[t]), loadn(x + offset[t] * scale, n), acc);
  return acc;
}

FASTCNN_OP void combine(const float* x, const int64_t* offset, int64_t scale, const float* weight, int64_t taps,
                        float* y, int64_t n) {
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    vf acc[4] = {zero(), zero(), zero(), zero()};
    for (int64_t t = 0; t < taps; ++t) {
      vf w = set1(weight[t]);
      const float* p = x + offset[t] * scale + i;
      for (int v = 0; v < 4; ++v) acc[v] = fma(w, load(p + v * kLanes), acc[v]);
    }
    for (int v = 0; v < 4; ++v) store(y + i + v * kLanes, acc[v]);
  }
  for (; i + kLanes <= n; i += kLanes) {
    vf acc = zero();
    for (int64_t t = 0; t < taps; ++t) acc = fma(set1(weight[t]), load(x + offset[t] * scale + i), acc);
    store(y + i, acc);
  }
  if (i < n) {
    int m = static_cast<int>(n - i);
    storen(y + i, weighted(x + i, offset, scale, weight, taps, m), m);
  }
}

// Few channels: scalar sums, no partial vectors.
template <int C>
void few_channels(const float* x, const int64_t* start, const int64_t* index, const float* weight, int64_t outputs,
                  float* y) {
  for (int64_t o = 0; o < outputs; ++o) {
    float acc[C] = {};
    for (int64_t t = start[o]; t < start[o + 1]; ++t)
      for (int c = 0; c < C; ++c) acc[c] += weight[t] * x[index[t] * C + c];
    for (int c = 0; c < C; ++c) y[o * C + c] = acc[c];
  }
}

}  // namespace

void combine_rows(const float* x, const int64_t* offset, const float* weight, int64_t taps, float* y, int64_t n) {
  combine(x, offset, 1, weight, taps, y, n);
}

void combine_pixels(const float* x, const int64_t* start, const int64_t* index, const float* weight,
                    int64_t outputs, int64_t C, float* y) {
  switch (C) {
    case 1: return few_channels<1>(x, start, index, weight, outputs, y);
    case 2: return few_channels<2>(x, start, index, weight, outputs, y);
    case 3: return few_channels<3>(x, start, index, weight, outputs, y);
    case 4: return few_channels<4>(x, start, index, weight, outputs, y);
    default: break;
  }
  for (int64_t o = 0; o < outputs; ++o)
    combine(x, index + start[o], C, weight + start[o], start[o + 1] - start[o], y + o * C, C);
}

void add_into(float* y, const float* x, int64_t n) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(y + i, add(load(y + i), load(x + i)));
  if (i < n) {
    int m = static_cast<int>(n - i);
    storen(y + i, add(loadn(y + i, m), loadn(x + i, m)), m);
  }
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
