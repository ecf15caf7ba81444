// What it is: the gradient of 3x3 weights at stride 1 as products on strips of whole image rows: dy and x lie in
// shared memory with one pitch, as wide as x with its padding, so that the pixel of x that meets pixel v of dy at
// tap (i, j) is v + i * pitch + j, and one copy of x serves all taps. Plain functions of the problem, for the
// kernel, the host and the test that acts them out. What it is not: the kernel (strips.cuh).
#pragma once
#include "backend/cuda/device.cuh"

namespace fastcnn::cuda {

struct Strips {
  static constexpr int kTaps = 3;     // down and right
  int32_t pitch = 0, rows = 0;        // pixels of a row, rows of dy in a strip
  int32_t images = 0, per_image = 0;  // strips
  int32_t top = 0, left = 0;          // of x's first pixel
  int32_t columns_of_channels = 0;    // blocks of 64 channels of x
  FASTCNN_INLINE int32_t total() const { return images * per_image; }
  FASTCNN_INLINE int32_t dy_pixels() const { return rows * pitch; }  // that are brought
  FASTCNN_INLINE int32_t x_pixels() const { return (rows + kTaps - 1) * pitch; }
  FASTCNN_INLINE int32_t depth() const { return (dy_pixels() + 15) / 16 * 16; }  // that are multiplied
  // What the last tap of the last pixel reads, in whole groups of 8; zeros behind what is brought.
  FASTCNN_INLINE int32_t x_room() const { return (depth() + (kTaps - 1) * (pitch + 1) + 7) / 8 * 8; }
  FASTCNN_INLINE int32_t stage_pixels() const { return depth() + x_room(); }
};

// The shape for images of oH by oW: as many rows as leave room for three stages of `bytes`, or else two; zero rows
// where that is not possible or the padded pixels would be too many.
inline Strips strips_of(const Conv2dParams& p, int64_t bytes) {
  Strips best;
  best.pitch = static_cast<int32_t>(p.oW + Strips::kTaps - 1);
  best.images = static_cast<int32_t>(p.N), best.top = static_cast<int32_t>(-p.pT);
  best.left = static_cast<int32_t>(-p.pL), best.columns_of_channels = static_cast<int32_t>(p.C / 64);
  if (best.pitch > 256) return best;
  double least = 1.4;  // products, per useful one; with a little for what is brought twice
  for (int64_t rows = 1; rows <= p.oH && rows <= 254; ++rows) {
    Strips s = best;
    s.rows = static_cast<int32_t>(rows), s.per_image = static_cast<int32_t>((p.oH + rows - 1) / rows);
    if (s.stage_pixels() * int64_t{128} * 2 > bytes) break;
    const double products = static_cast<double>(s.per_image) * s.depth() / static_cast<double>(p.oH * p.oW);
    const double cost = products + 0.1 * (Strips::kTaps - 1) / static_cast<double>(rows) +
                        (s.stage_pixels() * int64_t{128} * 3 > bytes ? 0.1 : 0);
    if (cost < least) least = cost, best = s;
  }
  return best;
}

}  // namespace fastcnn::cuda
