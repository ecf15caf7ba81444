// What it is: where roi_align takes its samples: bins of a box, samples of a bin, the two pixels beside a sample.
// What it is not: the sums. Shared by naive and optimised versions, so a rounding of a coordinate never depends on
// the kernel. Rules and precision are those of torchvision.ops.roi_align: coordinates in the type W of the boxes.
#pragma once
#include <math.h>

#include <cmath>
#include <stdexcept>
#include <string>

#include "fastcnn/params.h"

namespace fastcnn::cpu {

template <class W>
struct RoiAxis {
  W start = 0, bin = 0;
  int64_t grid = 0, size = 0;  // samples of a bin; pixels of the image

  // Sample i of bin o: false where it is outside of the image, else pixels low and low + 1 with 1 - part and part.
  FASTCNN_INLINE bool sample(int64_t o, int64_t i, int64_t* low, W* part) const {
    W v = start + static_cast<W>(o) * bin + (static_cast<W>(i) + W(0.5)) * bin / static_cast<W>(grid);
    if (!(v >= -1 && v <= static_cast<W>(size))) return false;
    const W last = static_cast<W>(size - 1);
    v = v < 0 ? W(0) : v > last ? last : v;
    *low = static_cast<int64_t>(v);
    *part = v - static_cast<W>(*low);
    return true;
  }
};

constexpr int64_t kMostRoiSamples = 1 << 12;  // of a bin along an axis

// Bins of a box from low to high. False: bins too large to take a sample per pixel, or not a number.
template <class W>
FASTCNN_INLINE bool roi_axis(const RoiAlignParams& p, W low, W high, int64_t bins, int64_t size,
                             RoiAxis<W>* axis) {
  const W scale = static_cast<W>(p.spatial_scale), offset = p.aligned ? W(0.5) : W(0);
  const W start = low * scale - offset, length = high * scale - offset - start;
  const W bin = (p.aligned || length > 1 ? length : W(1)) / static_cast<W>(bins);
  if (p.sampling_ratio <= 0 && !(bin <= kMostRoiSamples)) return *axis = {start, bin, 0, size}, false;
  *axis = {start, bin, p.sampling_ratio > 0 ? p.sampling_ratio : static_cast<int64_t>(ceil(bin)), size};
  return true;
}

// Of box k, (image, x1, y1, x2, y2); returns the image. Throws on boxes that are not finite or of no image.
template <class W>
int64_t roi_axes(const RoiAlignParams& p, const W* roi, int64_t k, RoiAxis<W>* rows, RoiAxis<W>* cols) {
  auto fail = [k](const std::string& what) {
    throw std::invalid_argument("roi_align: expected " + what + " (box " + std::to_string(k) + ")");
  };
  for (int i = 0; i < 5; ++i)
    if (!std::isfinite(roi[i])) fail("finite numbers in boxes, got " + std::to_string(roi[i]));
  if (!(roi[0] >= 0 && roi[0] < static_cast<W>(p.N)))
    fail("numbers of images in [0, " + std::to_string(p.N) + "), got " + std::to_string(roi[0]));
  const bool fits = roi_axis(p, roi[2], roi[4], p.oH, p.H, rows);
  if (!roi_axis(p, roi[1], roi[3], p.oW, p.W, cols) || !fits)
    fail("bins of at most " + std::to_string(kMostRoiSamples) + " pixels, or a sampling_ratio, got a bin of " +
         std::to_string((fits ? cols : rows)->bin));
  return static_cast<int64_t>(roi[0]);
}

}  // namespace fastcnn::cpu
