// What it is: which outputs of a convolution see the image through a tap of the window, along one axis; for the
// adaptors of windows that reach far beyond the image. What it is not: weights or pixels.
#pragma once
#include <algorithm>
#include <cstdint>

namespace fastcnn::cpu {

constexpr int64_t kNearTaps = 32;  // pixels from the first tap to the last that dense kernels do well with

// Outputs [from, to); the first of them sees pixel `first`.
struct TapSpan {
  int64_t from, to, first;
  TapSpan(int64_t tap, int64_t size, int64_t outputs, int64_t stride, int64_t dilation, int64_t before) {
    const int64_t shift = before - tap * dilation;  // output o sees pixel o * stride - shift
    from = shift > 0 ? (shift + stride - 1) / stride : 0;
    to = size + shift > 0 ? std::min(outputs, (size - 1 + shift) / stride + 1) : 0;
    to = std::max(from, to);
    first = from * stride - shift;
  }
  int64_t count() const { return to - from; }
};

// How many outputs of an axis see the image through each of its taps, all together.
inline int64_t live_taps(int64_t outputs, int64_t size, int64_t taps, int64_t stride, int64_t dilation,
                         int64_t before) {
  int64_t live = 0;
  for (int64_t k = 0; k < taps; ++k) live += TapSpan(k, size, outputs, stride, dilation, before).count();
  return live;
}

}  // namespace fastcnn::cpu
