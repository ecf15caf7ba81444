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
template <class Value>
struct HeldRows {
  Value* scratch;
  int64_t n = 0, h0 = 0, h1 = 0;

  // Rows that the strip before has left are moved; make(begin, end, to) gives the others.
  template <class Make>
  void hold(int64_t image, int64_t begin, int64_t end, int64_t row, Make&& make) {
    const bool next = n == image && h0 <= begin && begin < h1 && h1 <= end;
    const int64_t kept = next ? h1 - begin : 0;
    if (kept > 0)
      std::memmove(scratch, scratch + (begin - h0) * row, static_cast<size_t>(kept * row) * sizeof(Value));
    n = image, h0 = begin, h1 = end;
    if (begin + kept < end) make(begin + kept, end, scratch + kept * row);
  }
  // Holds what rows [from, to) of outputs (n, oh) of one image read; make(n, begin, end, to).
  template <class Task, class Make>
  void hold_for(const Task& t, int64_t from, int64_t to, Make&& make) {
    const int64_t image = from / t.oH, first = from % t.oH * t.sH - t.pT;
    const int64_t begin = std::clamp<int64_t>(first, 0, t.H);
    const int64_t end = std::clamp<int64_t>(first + rows_read(t, to - from), begin, t.H);
    hold(image, begin, end, t.x_h, [&](int64_t a, int64_t b, Value* dst) { make(image, a, b, dst); });
  }
};
template <class Value>
HeldRows(Value*) -> HeldRows<Value>;

}  // namespace fastcnn::cpu
