// What it is: rows of an image that a depthwise convolution reads from a thread's scratch, because they are made
// there: by a batch norm, by the convolution before. What it is not: how they are made.
#pragma once
#include <algorithm>
#include <cstring>

#include "backend/cpu/kernels/kernel_args.h"

namespace fastcnn::cpu {

template <class Task>
int64_t rows_read(const Task& t, int64_t rows) {  // of the image, by so many rows of outputs
  return (rows - 1) * t.sH + (t.kH - 1) * t.dH + 1;
}

// Rows [h0, h1) of image n.
struct HeldRows {
  float* scratch;
  int64_t n = 0, h0 = 0, h1 = 0;

  // Holds what rows [from, to) of outputs (n, oh) of one image read. Rows that the strip before has left are
  // moved, the others come from make(n, first, last, to).
  template <class Task, class Make>
  void hold(const Task& t, int64_t from, int64_t to, Make&& make) {
    const int64_t image = from / t.oH, first = from % t.oH * t.sH - t.pT;
    const int64_t a = std::clamp<int64_t>(first, 0, t.H);
    const int64_t b = std::clamp<int64_t>(first + rows_read(t, to - from), a, t.H);
    const bool next = n == image && h0 <= a && a < h1 && h1 <= b;
    const int64_t kept = next ? h1 - a : 0;
    if (kept > 0) std::memmove(scratch, scratch + (a - h0) * t.x_h, static_cast<size_t>(kept * t.x_h) * 4);
    n = image, h0 = a, h1 = b;
    if (a + kept < b) make(n, a + kept, b, scratch + kept * t.x_h);
  }
};

}  // namespace fastcnn::cpu
