// What it is: the taps of one axis of interpolate: for each output position the source positions and weights.
// What it is not: the interpolation. Shared by naive and optimised versions, so a rounding of a coordinate never
// depends on the kernel. Rules and precision are those of torch.nn.functional.interpolate: coordinates in float32
// (float64 for float64 tensors); with antialias the triangle and cubic (a = -0.5) filters of Pillow's resize.
#pragma once
#include <algorithm>
#include <cmath>
#include <vector>

#include "fastcnn/params.h"

namespace fastcnn::cpu {

template <class W>
struct InterpAxis {
  int64_t taps = 1;
  std::vector<int64_t> index;  // out * taps, each in [0, in)
  std::vector<W> weight;       // unused taps are 0 with a valid index
};

template <class W>
InterpAxis<W> interp_axis(Interp mode, int64_t in, int64_t out, bool align_corners, bool antialias,
                          double factor) {
  InterpAxis<W> axis;
  bool cubic = mode == Interp::bicubic;
  W scale = factor > 0 ? static_cast<W>(1.0 / factor) : static_cast<W>(in) / static_cast<W>(out);
  if (mode == Interp::nearest || mode == Interp::nearest_exact) {
    axis.index.resize(out);
    axis.weight.assign(out, W(1));
    W half = mode == Interp::nearest_exact ? W(0.5) : W(0);
    float fscale =
        factor > 0 ? static_cast<float>(1.0 / factor) : static_cast<float>(in) / static_cast<float>(out);
    for (int64_t o = 0; o < out; ++o) {  // nearest picks in float32 for every dtype
      float at = (static_cast<float>(o) + static_cast<float>(half)) * fscale;
      axis.index[o] = std::min(static_cast<int64_t>(std::floor(at)), in - 1);
      if (mode == Interp::nearest && out == in) axis.index[o] = o;  // PyTorch's short cuts win over the factor
      if (mode == Interp::nearest && out == 2 * in) axis.index[o] = o / 2;
    }
    return axis;
  }
  if (align_corners) scale = out > 1 ? static_cast<W>(in - 1) / static_cast<W>(out - 1) : W(0);
  if (antialias && in == out) {  // PyTorch skips the axis, whatever the factor
    axis.index.resize(out);
    axis.weight.assign(out, W(1));
    for (int64_t o = 0; o < out; ++o) axis.index[o] = o;
    return axis;
  }
  if (antialias) {
    W reach = cubic ? W(2) : W(1), support = scale >= 1 ? reach * scale : reach;
    W inverse = scale >= 1 ? 1 / scale : W(1);
    axis.taps = std::min<int64_t>(static_cast<int64_t>(std::ceil(support)) * 2 + 1, in);
    axis.index.assign(out * axis.taps, 0);
    axis.weight.assign(out * axis.taps, W(0));
    for (int64_t o = 0; o < out; ++o) {
      W center = scale * (static_cast<W>(o) + W(0.5)), total = 0;
      int64_t first = std::max<int64_t>(static_cast<int64_t>(center - support + W(0.5)), 0);
      int64_t n = std::min(static_cast<int64_t>(center + support + W(0.5)), in) - first;
      n = std::clamp<int64_t>(n, 0, axis.taps);
      W* w = &axis.weight[o * axis.taps];
      for (int64_t k = 0; k < n; ++k) {
        W d = std::fabs((static_cast<W>(k + first) - center + W(0.5)) * inverse), a = W(-0.5);
        if (!cubic)
          w[k] = d < 1 ? 1 - d : W(0);
        else if (d < 1)
          w[k] = ((a + 2) * d - (a + 3)) * d * d + 1;
        else if (d < 2)
          w[k] = (((d - 5) * d + 8) * d - 4) * a;
        total += w[k];
      }
      for (int64_t k = 0; k < axis.taps; ++k) {
        axis.index[o * axis.taps + k] = std::min(first + k, in - 1);
        if (total != 0 && k < n) w[k] /= total;
      }
    }
    return axis;
  }
  axis.taps = cubic ? 4 : 2;
  axis.index.resize(out * axis.taps);
  axis.weight.resize(out * axis.taps);
  for (int64_t o = 0; o < out; ++o) {
    W at = align_corners ? scale * static_cast<W>(o) : scale * (static_cast<W>(o) + W(0.5)) - W(0.5);
    if (!cubic && at < 0) at = 0;
    if (!cubic && in == out) at = static_cast<W>(o);
    int64_t i = std::min(static_cast<int64_t>(std::floor(at)), in - 1);
    W t = std::clamp(at - static_cast<W>(i), W(0), W(1));
    int64_t* idx = &axis.index[o * axis.taps];
    W* w = &axis.weight[o * axis.taps];
    if (!cubic) {
      idx[0] = i, idx[1] = std::min(i + 1, in - 1);
      w[0] = 1 - t, w[1] = t;
      continue;
    }
    W a = W(-0.75);
    auto near = [a](W d) { return ((a + 2) * d - (a + 3)) * d * d + 1; };
    auto far = [a](W d) { return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a; };
    w[0] = far(t + 1), w[1] = near(t), w[2] = near(1 - t), w[3] = far(2 - t);
    for (int64_t k = 0; k < 4; ++k) idx[k] = std::clamp<int64_t>(i - 1 + k, 0, in - 1);
  }
  return axis;
}

template <class W>
void interp_axes(const InterpolateParams& p, InterpAxis<W>* h, InterpAxis<W>* w) {
  *h = interp_axis<W>(p.mode, p.H, p.oH, p.align_corners, p.antialias, p.scale_h);
  *w = interp_axis<W>(p.mode, p.W, p.oW, p.align_corners, p.antialias, p.scale_w);
}

}  // namespace fastcnn::cpu
