// What it is: the taps of one axis of affine_sample for matrices that only scale and move, with antialias: the
// triangle and cubic (a = -0.5) filters of Pillow's resize, made wide enough to cover an output pixel. Shared by
// the reference and the kernels. Inside x taps beyond its edge are left out and the others made up for, as in
// resize.
#pragma once
#include <math.h>

#include <algorithm>
#include <vector>

#include "backend/cpu/kernels/sample_args.h"

namespace fastcnn::cpu {

// Output o of an axis: where it lies in x and which pixels, inside x or not, may count.
struct SampleAxisPoint {
  float at, wide;
  int64_t first, last;  // none where last < first
  bool inside;
};
FASTCNN_INLINE SampleAxisPoint sample_axis_point(const AffineSampleParams& p, int64_t in, float scale, float shift,
                                                 int64_t o) {
  const float size = static_cast<float>(in), far = size < fabsf(scale) ? size : fabsf(scale);
  SampleAxisPoint s;
  s.wide = 1 < far ? far : 1.0f;  // NaN counts as 1
  const float support = (p.mode == Interp::bicubic ? 2.0f : 1.0f) * s.wide, rounding = 1e-3f;
  s.at = sample_near(scale * static_cast<float>(o) + shift);
  s.inside = s.at >= -0.5f - rounding && s.at <= size - 0.5f + rounding;
  s.first = static_cast<int64_t>(ceilf(s.at - support)), s.last = static_cast<int64_t>(floorf(s.at + support));
  if (!s.inside && p.fill == SampleFill::constant) s.last = s.first - 1;
  return s;
}
// Before the weights of a point are divided by their sum; 0: left out.
FASTCNN_INLINE float sample_axis_weight(const AffineSampleParams& p, int64_t in, const SampleAxisPoint& s,
                                        int64_t i) {
  if (s.inside && (i < 0 || i >= in)) return 0;
  const float d = fabsf(static_cast<float>(i) - s.at) / s.wide;
  if (p.mode != Interp::bicubic) return d < 1 ? 1 - d : 0.0f;
  return d < 1 ? (1.5f * d - 2.5f) * d * d + 1 : d < 2 ? ((2.5f - 0.5f * d) * d - 4) * d + 2 : 0.0f;
}

struct SampleAxisTaps {
  std::vector<int32_t> start, index;
  std::vector<float> weight;
  SampleAxis view() const {
    SampleAxis a{start.data(), index.data(), weight.data(), 0, 0};
    if (!index.empty()) {
      auto [low, high] = std::minmax_element(index.begin(), index.end());
      a.low = *low, a.high = *high + 1;
    }
    return a;
  }
  // Output o is x at scale * o + shift.
  void fill(const AffineSampleParams& p, int64_t in, int64_t out, float scale, float shift) {
    start.assign(1, 0), index.clear(), weight.clear();
    for (int64_t o = 0; o < out; ++o) {
      const SampleAxisPoint s = sample_axis_point(p, in, scale, shift, o);
      const size_t first = weight.size();
      float total = 0;
      for (int64_t i = s.first; i <= s.last; ++i) {
        const float w = sample_axis_weight(p, in, s, i);
        if (w == 0) continue;
        index.push_back(static_cast<int32_t>(sample_index(p.fill, i, in)));
        weight.push_back(w);
        total += w;
      }
      for (size_t k = first; k < weight.size(); ++k) weight[k] /= total;
      start.push_back(static_cast<int32_t>(index.size()));
    }
  }
};

}  // namespace fastcnn::cpu
