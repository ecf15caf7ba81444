// What it is: where grid_sample takes its pixels: the taps of a point along one axis, with their weights and the
// slopes of those. What it is not: the sums. Shared by naive version and CUDA; kernels/grid_sample.cpp does the
// same steps on vectors. Rules and precision are those of torch.nn.functional.grid_sample: coordinates in the type
// W of the points.
#pragma once
#include <math.h>

#include "fastcnn/params.h"

namespace fastcnn::cpu {

FASTCNN_INLINE int64_t grid_tap_count(Interp mode) {
  return mode == Interp::nearest ? 1 : mode == Interp::bilinear ? 2 : 4;
}

template <class W>
struct GridAxis {
  GridPadding padding;
  Interp mode;
  int64_t size;
  W half, shift;          // coordinate u is (u + 1) * half - shift in pixels
  W last, mirror, twice;  // reflection: the lower mirror and twice the way to the upper one

  FASTCNN_INLINE GridAxis(const GridSampleParams& p, int64_t n)
      : padding(p.padding),
        mode(p.mode),
        size(n),
        half(static_cast<W>(p.align_corners ? n - 1 : n) / 2),
        shift(p.align_corners ? W(0) : W(0.5)),
        last(static_cast<W>(n - 1)),
        mirror(-shift),
        twice(static_cast<W>(2 * (p.align_corners ? n - 1 : n))) {}

  // Folded or clipped into the image, but with zeros outside; *slope becomes that of the result, 0 at the ends and
  // beyond. NaN stays.
  FASTCNN_INLINE W moved_inside(W x, W* slope) const {
    if (padding == GridPadding::zeros) return x;
    if (padding == GridPadding::reflection && twice > 0) {
      W v = x - mirror;
      if (v < 0) v = -v, *slope = -*slope;
      const W from = v - floor(v / twice) * twice, back = twice - from;
      if (back < from) *slope = -*slope;
      x = (back < from ? back : from) + mirror;
    } else if (padding == GridPadding::reflection) {
      x = x * 0;  // one pixel is its own mirror
    }
    if (!(x > 0 && x < last)) *slope = 0;
    return x < 0 ? W(0) : x > last ? last : x;
  }
};

// index: -1 outside of the image. slope: of the weight by the coordinate of the point.
template <class W>
struct GridTaps {
  int64_t index[4];
  W weight[4], slope[4];

  FASTCNN_INLINE GridTaps(const GridAxis<W>& a, W u) {
    const W x = (u + 1) * a.half - a.shift;
    W d = a.half;
    if (a.mode == Interp::bicubic) {  // Keys' cubic convolution (1981), a = -0.75; each tap is moved by itself
      constexpr W k = W(-0.75);
      const W at = floor(x), t = x - at >= 0 ? x - at : W(0);  // infinite: 0
      for (int i = 0; i < 4; ++i) {
        W unused = 0;
        const W moved = a.moved_inside(at + static_cast<W>(i - 1), &unused);
        put(a, i, a.padding == GridPadding::reflection ? rint(moved) : moved);
        const W r = i == 0 ? t + 1 : i == 1 ? t : i == 2 ? 1 - t : 2 - t;
        const bool near = i == 1 || i == 2;
        weight[i] = near ? ((k + 2) * r - (k + 3)) * r * r + 1 : ((k * r - 5 * k) * r + 8 * k) * r - 4 * k;
        slope[i] =
            (near ? (3 * (k + 2) * r - 2 * (k + 3)) * r : (3 * k * r - 10 * k) * r + 8 * k) * (i < 2 ? d : -d);
      }
      return;
    }
    const W moved = a.moved_inside(x, &d);
    if (a.mode == Interp::nearest) {
      put(a, 0, rint(moved)), weight[0] = 1, slope[0] = 0;
      return;
    }
    const W at = floor(moved), t = moved - at;
    put(a, 0, at), weight[0] = 1 - t, slope[0] = -d;
    put(a, 1, at + 1), weight[1] = t, slope[1] = d;
  }

 private:
  FASTCNN_INLINE void put(const GridAxis<W>& a, int i, W at) {
    const int64_t whole = at >= 0 && at <= a.last ? static_cast<int64_t>(at) : -1;
    index[i] = whole < a.size ? whole : -1;  // last of 2^24 pixels and more may be rounded up
  }
};

}  // namespace fastcnn::cpu
