// What it is: the taps of one axis of affine_sample for matrices that only scale and move, with antialias: the
// triangle and cubic (a = -0.5) filters of Pillow's resize, made wide enough to cover an output pixel. Shared by
// the reference and the kernels. Inside x taps beyond its edge are left out and the others made up for, as in
// resize.
#pragma once
#include <algorithm>
#include <cmath>
#include <vector>

#include "backend/cpu/kernels/sample_args.h"

namespace fastcnn::cpu {

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
    const bool cubic = p.mode == Interp::bicubic, constant = p.fill == SampleFill::constant;
    const float wide = std::max(1.0f, std::min(std::fabs(scale), static_cast<float>(in)));
    const float support = (cubic ? 2.0f : 1.0f) * wide, rounding = 1e-3f;
    for (int64_t o = 0; o < out; ++o) {
      const float at = sample_near(scale * static_cast<float>(o) + shift);
      const bool inside = at >= -0.5f - rounding && at <= static_cast<float>(in) - 0.5f + rounding;
      const size_t first = weight.size();
      float total = 0;
      if (inside || !constant)
        for (auto i = static_cast<int64_t>(std::ceil(at - support)); static_cast<float>(i) <= at + support; ++i) {
          const float d = std::fabs(static_cast<float>(i) - at) / wide;
          float w = std::max(0.0f, 1 - d);
          if (cubic) w = d < 1 ? (1.5f * d - 2.5f) * d * d + 1 : d < 2 ? ((2.5f - 0.5f * d) * d - 4) * d + 2 : 0;
          if (w == 0 || (inside && (i < 0 || i >= in))) continue;
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
