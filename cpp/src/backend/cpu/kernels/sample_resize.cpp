// What it is: affine_sample for matrices that only scale and move: each output row is a weighted sum of rows, each
// of its pixels a weighted sum of pixels, with the taps of sample_axis.h. Any number of channels.
#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/sample_pixels.h"

namespace fastcnn::cpu::FASTCNN_ISA {
namespace {

// line[0..n) = weighted sum of rows of x, n values each, `stride` apart.
template <class T>
FASTCNN_OP void sum_rows(const T* x, int64_t stride, const int32_t* index, const float* weight, int64_t taps,
                         float* line, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const int lanes = lanes_at(i, n);
    vf sum = zero();
    for (int64_t k = 0; k < taps; ++k) {
      const T* p = x + index[k] * stride + i;
      sum = fma(set1(weight[k]), lanes == kLanes ? load(p) : loadn(p, lanes), sum);
    }
    storen(line + i, sum, lanes);
  }
}

typedef float Four __attribute__((vector_size(16), aligned(4), may_alias));

template <class Y, int C>
FASTCNN_OP void sum_columns(const SampleTask& t, const float* line, int64_t oy) {
  RowEnd<Y, C> row(t, oy);
  for (int64_t ox = 0; ox < t.p.oW; ox += kLanes) {
    const int n = lanes_at(ox, t.p.oW);
    float v[C][kLanes] = {};
    for (int i = 0; i < n; ++i) {
      const int32_t begin = t.cols.start[ox + i], end = t.cols.start[ox + i + 1];
      Four sum = {};
      for (int32_t k = begin; k < end; ++k) {
        const float* p = line + (t.cols.index[k] - t.cols.low) * C;
        if constexpr (C == 3)
          sum += t.cols.weight[k] * *reinterpret_cast<const Four*>(p);
        else
          sum[0] += t.cols.weight[k] * p[0];
      }
      for (int c = 0; c < C; ++c) v[c][i] = begin < end ? sum[c] : t.fill[c];
    }
    Pixels<C> pixels;
    for (int c = 0; c < C; ++c) pixels.c[c] = load(v[c]);
    row.put(ox, n, pixels);
  }
  row.end();
}

// Any number of channels, without colour.
template <class Y>
void sum_any_columns(const SampleTask& t, const float* line, int64_t oy) {
  const int64_t C = t.p.C;
  for (int64_t ox = 0; ox < t.p.oW; ++ox) {
    const int32_t begin = t.cols.start[ox], end = t.cols.start[ox + 1];
    Y* y = static_cast<Y*>(t.y) + (oy * t.p.oW + ox) * C;
    for (int64_t c = 0; c < C; ++c) {
      float v = begin < end ? 0 : t.fill[c];
      for (int32_t k = begin; k < end; ++k) v += t.cols.weight[k] * line[(t.cols.index[k] - t.cols.low) * C + c];
      if (t.norm) v = v * t.norm[c] + t.norm[C + c];
      if constexpr (sizeof(Y) == 1)
        y[c] = static_cast<uint8_t>(rintf(v < 0 ? 0 : v > 255 ? 255 : v));
      else
        y[c] = v;
    }
  }
}

}  // namespace

void sample_resized_rows(const SampleTask& t, float* line, int64_t begin, int64_t end) {
  const int64_t C = t.p.C, n = (t.cols.high - t.cols.low) * C, stride = t.p.W * C;
  with_types(t, [&]<class T, class Y>() {
    const T* x = static_cast<const T*>(t.x) + t.cols.low * C;
    for (int64_t oy = begin; oy < end; ++oy) {
      const int32_t first = t.rows.start[oy], last = t.rows.start[oy + 1];
      if (first < last)
        sum_rows(x, stride, t.rows.index + first, t.rows.weight + first, last - first, line, n);
      else
        for (int64_t i = 0; i < n; ++i) line[i] = t.fill[i % C];
      for (int64_t i = n; i < n + 4; ++i) line[i] = 0;  // read with the last pixel
      if (C == 3)
        sum_columns<Y, 3>(t, line, oy);
      else if (C == 1)
        sum_columns<Y, 1>(t, line, oy);
      else
        sum_any_columns<Y>(t, line, oy);
    }
  });
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
