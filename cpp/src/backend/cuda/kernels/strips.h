// What it is: 3x3 and other square windows at stride 1 as products on strips of whole image rows, with one pitch,
// as wide as x with its padding, so that the pixel of x that meets pixel v of y at tap (i, j) is v + i * pitch +
// j, and one copy of x serves all taps. Plain functions of the problem, for the kernels, the host and the tests
// that act them out. What it is not: the kernels (strips.cuh, narrow_strips.cuh).
#pragma once
#include "backend/cuda/device.cuh"
#include "backend/cuda/kernels/fast_div.h"

namespace fastcnn::cuda {

struct Strips {
  int32_t window = 3;                 // taps down, and to the right
  int32_t pitch = 0, rows = 0;        // pixels of a row, rows of y in a strip
  int32_t height = 0, width = 0;      // of y
  int32_t images = 0, per_image = 0;  // strips
  int32_t top = 0, left = 0;          // of x's first pixel
  int32_t columns_of_channels = 0;    // blocks of 64 channels of x
  FastDiv by_pitch, by_strips;
  FASTCNN_INLINE int32_t total() const { return images * per_image; }
  FASTCNN_INLINE int32_t y_pixels() const { return rows * pitch; }
  FASTCNN_INLINE int32_t x_pixels() const { return (rows + window - 1) * pitch; }  // that are brought
  // As the depth of a product: of y's pixels, in steps; of x's, what the last tap of the last pixel reads, in
  // whole groups of 8. What is not brought is zero.
  FASTCNN_INLINE int32_t depth() const { return (y_pixels() + 15) / 16 * 16; }
  FASTCNN_INLINE int32_t x_room() const { return (depth() + (window - 1) * (pitch + 1) + 7) / 8 * 8; }
  FASTCNN_INLINE int32_t stage_pixels() const { return depth() + x_room(); }
};
// A strip of y: where it begins.
struct Strip {
  int32_t n, row;
};
FASTCNN_INLINE Strip strip_of(const Strips& g, int32_t t) {
  int32_t strip;
  const int32_t n = g.by_strips.split(t, &strip);
  return {n, strip * g.rows};
}

// `rows` rows of y, (N, oH, oW), in a strip. top, left: padding.
inline Strips strips_of_rows(int64_t N, int64_t oH, int64_t oW, int64_t top, int64_t left, int64_t window,
                             int64_t rows) {
  auto i = [](int64_t v) { return static_cast<int32_t>(v); };
  Strips s;
  s.window = i(window), s.pitch = i(oW + window - 1), s.rows = i(rows);
  s.height = i(oH), s.width = i(oW), s.images = i(N), s.per_image = rows ? i((oH + rows - 1) / rows) : 0;
  s.top = i(-top), s.left = i(-left);
  s.by_pitch = FastDiv(s.pitch), s.by_strips = FastDiv(s.per_image ? s.per_image : 1);
  return s;
}
constexpr int64_t kMostStripRows = 250, kMostPitch = 256;  // of a box

// For gradients of 3x3 weights between 64 channels: as many rows as leave room for three stages of `bytes`, or
// else two; zero rows where that is not possible or the padded pixels would be too many.
inline Strips strips_of(const Conv2dParams& p, int64_t bytes) {
  auto of = [&](int64_t rows) {
    Strips s = strips_of_rows(p.N, p.oH, p.oW, p.pT, p.pL, 3, rows);
    s.columns_of_channels = static_cast<int32_t>(p.C / 64);
    return s;
  };
  Strips best = of(0);
  if (best.pitch > kMostPitch) return best;
  double least = 1.4;  // products, per useful one; with a little for what is brought twice
  for (int64_t rows = 1; rows <= p.oH && rows <= kMostStripRows; ++rows) {
    const Strips s = of(rows);
    if (s.stage_pixels() * int64_t{128} * 2 > bytes) break;
    const double products = static_cast<double>(s.per_image) * s.depth() / static_cast<double>(p.oH * p.oW);
    const double cost = products + 0.1 * (s.window - 1) / static_cast<double>(rows) +
                        (s.stage_pixels() * int64_t{128} * 3 > bytes ? 0.1 : 0);
    if (cost < least) least = cost, best = s;
  }
  return best;
}

}  // namespace fastcnn::cuda
