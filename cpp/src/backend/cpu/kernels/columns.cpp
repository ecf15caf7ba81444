// What it is: the sum of the columns of dy times weights into the pixels of dx. What it is not: the product
// (gemm.cpp). A pixel is summed in registers, rows of taps first: what one window has written would only be waited
// for by the next.
#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/simd.h"

namespace fastcnn::cpu::FASTCNN_ISA {
namespace {

// The taps of one axis that meet every step-th index from r on: its j-th one meets pixel at + j of dy.
struct AxisTaps {
  int count = 0;
  int64_t tap[kMostColumnTaps], at[kMostColumnTaps];
  AxisTaps(int64_t r, int64_t k, int64_t s, int64_t d, int64_t pad) {
    for (int64_t i = 0; i < k; ++i) {
      const int64_t x = r + pad - i * d;
      if (x % s == 0) tap[count] = i, at[count++] = x / s;
    }
  }
};

// One row of dx.
struct Row {
  const float* row[kMostColumnTaps];  // of columns, one for each row of taps that this row of dx meets
  int rows = 0;
  int64_t pitch, oW, step;  // step: from pixel j to the next one that meets the same taps

  // n channels of pixels j to j + P, which start at d; their columns c floats behind those of the window.
  template <int P, bool kInside>
  FASTCNN_OP void sum(const AxisTaps& w, const int64_t* offset, int64_t j, int64_t c, int n, vf bias,
                      float* d) const {
    vf acc[P];
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) acc[p] = bias;
    for (int i = 0; i < rows; ++i)
      for (int k = 0; k < w.count; ++k) {
        const float* s = row[i] + offset[k] + j * pitch + c;
        if (kInside || static_cast<uint64_t>(w.at[k] + j) < static_cast<uint64_t>(oW)) {
#pragma GCC unroll 4
          for (int p = 0; p < P; ++p) acc[p] = add(acc[p], loadn(s + p * pitch, n));
        }
      }
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) storen(d + p * step, acc[p], n);
  }
};

}  // namespace

void add_columns(const ColumnsTask& t, int64_t begin, int64_t end) {
  const int64_t C = t.groups * t.C, pitch = t.pitch;
  for (int64_t r = 0; r < t.sW && r < t.W; ++r) {
    const AxisTaps w(r, t.kW, t.sW, t.dW, t.pL);
    int64_t offset[kMostColumnTaps], first = 0, last = ceil_div(t.W - r, t.sW);
    const int64_t pixels = last;
    for (int k = 0; k < w.count; ++k) {
      offset[k] = w.at[k] * pitch + w.tap[k] * t.C;
      if (first < -w.at[k]) first = -w.at[k];
      if (last > t.oW - w.at[k]) last = t.oW - w.at[k];
    }
    for (int64_t h = begin; h < end; ++h) {
      Row row;
      row.pitch = pitch, row.oW = t.oW, row.step = t.sW * C;
      for (int64_t kh = 0; kh < t.kH; ++kh) {
        const int64_t at = h + t.pT - kh * t.dH;
        if (at >= 0 && at % t.sH == 0 && at / t.sH < t.oH)
          row.row[row.rows++] = t.columns + (at / t.sH - t.row0) % t.rows * t.oW * pitch + kh * t.kW * t.C;
      }
      for (int64_t g = 0; g < t.groups; ++g)
        for (int64_t c = 0; c < t.C; c += kLanes) {
          const int m = static_cast<int>(t.C - c < kLanes ? t.C - c : kLanes);
          const int64_t at = g * t.kH * t.kW * t.C + c;
          const vf bias = t.bias ? loadn(t.bias + g * t.C + c, m) : zero();
          float* d = t.dx + (h * t.W + r) * C + g * t.C + c;
          for (int64_t j = 0; j < pixels;) {
            float* to = d + j * row.step;
            if (j >= first && j + 4 <= last)
              row.sum<4, true>(w, offset, j, at, m, bias, to), j += 4;
            else
              row.sum<1, false>(w, offset, j, at, m, bias, to), ++j;
          }
        }
    }
  }
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
