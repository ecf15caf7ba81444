// What it is: the taps of one axis of interpolate: for each output position the source positions and weights.
// What it is not: the interpolation. Shared by naive and optimised versions, so a rounding of a coordinate never
// depends on the kernel or the device. Rules and precision are those of torch.nn.functional.interpolate:
// coordinates in float32 (float64 for float64 tensors); with antialias the triangle and cubic (a = -0.5) filters
// of Pillow's resize.
#pragma once
#include <math.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "fastcnn/params.h"

namespace fastcnn::cpu {

// What all positions of an axis share.
template <class W>
struct InterpRule {
  Interp mode = Interp::nearest;
  int64_t in = 0, out = 0, taps = 1;
  bool align_corners = false, antialias = false;
  float nearest_scale = 1;  // nearest picks in float32 for every dtype
  W scale = 1, support = 1, inverse = 1;
};

template <class W>
InterpRule<W> interp_rule(Interp mode, int64_t in, int64_t out, bool align_corners, bool antialias,
                          double factor) {
  InterpRule<W> r;
  r.mode = mode, r.in = in, r.out = out, r.align_corners = align_corners;
  const bool cubic = mode == Interp::bicubic, smooth = cubic || mode == Interp::bilinear;
  r.antialias = antialias && smooth;
  r.scale = factor > 0 ? static_cast<W>(1.0 / factor) : static_cast<W>(in) / static_cast<W>(out);
  r.nearest_scale =
      factor > 0 ? static_cast<float>(1.0 / factor) : static_cast<float>(in) / static_cast<float>(out);
  if (!smooth) return r;
  if (align_corners) r.scale = out > 1 ? static_cast<W>(in - 1) / static_cast<W>(out - 1) : W(0);
  if (r.antialias && in == out) return r;  // PyTorch skips the axis, whatever the factor
  if (r.antialias) {
    const W reach = cubic ? W(2) : W(1);
    r.support = r.scale >= 1 ? reach * r.scale : reach;
    r.inverse = r.scale >= 1 ? 1 / r.scale : W(1);
    r.taps = std::min<int64_t>(static_cast<int64_t>(std::ceil(r.support)) * 2 + 1, in);
  } else {
    r.taps = cubic ? 4 : 2;
  }
  return r;
}

FASTCNN_INLINE int64_t interp_limit(int64_t i, int64_t low, int64_t high) {
  return i < low ? low : i > high ? high : i;
}

// The taps of output position o.
template <class W>
FASTCNN_INLINE void interp_position(const InterpRule<W>& r, int64_t o, int64_t* index, W* w) {
  const int64_t in = r.in;
  if (r.mode == Interp::nearest || r.mode == Interp::nearest_exact) {
    const float half = r.mode == Interp::nearest_exact ? 0.5f : 0.0f;
    const auto at = static_cast<int64_t>(floorf((static_cast<float>(o) + half) * r.nearest_scale));
    index[0] = at < in - 1 ? at : in - 1, w[0] = W(1);
    if (r.mode == Interp::nearest && r.out == in) index[0] = o;  // PyTorch's short cuts win over the factor
    if (r.mode == Interp::nearest && r.out == 2 * in) index[0] = o / 2;
    return;
  }
  const bool cubic = r.mode == Interp::bicubic;
  if (r.antialias && in == r.out) {
    index[0] = o, w[0] = W(1);
    return;
  }
  if (r.antialias) {
    const W center = r.scale * (static_cast<W>(o) + W(0.5)), a = W(-0.5);
    W total = 0;
    const int64_t low = static_cast<int64_t>(center - r.support + W(0.5)), first = low > 0 ? low : 0;
    const int64_t high = static_cast<int64_t>(center + r.support + W(0.5));
    const int64_t n = interp_limit((high < in ? high : in) - first, 0, r.taps);
    for (int64_t k = 0; k < n; ++k) {
      W d = (static_cast<W>(k + first) - center + W(0.5)) * r.inverse;
      d = d < 0 ? -d : d;
      w[k] = W(0);
      if (!cubic)
        w[k] = d < 1 ? 1 - d : W(0);
      else if (d < 1)
        w[k] = ((a + 2) * d - (a + 3)) * d * d + 1;
      else if (d < 2)
        w[k] = (((d - 5) * d + 8) * d - 4) * a;
      total += w[k];
    }
    for (int64_t k = 0; k < r.taps; ++k) {
      index[k] = first + k < in - 1 ? first + k : in - 1;
      if (k >= n) w[k] = W(0);
      if (total != 0 && k < n) w[k] /= total;
    }
    return;
  }
  W at = r.align_corners ? r.scale * static_cast<W>(o) : r.scale * (static_cast<W>(o) + W(0.5)) - W(0.5);
  if (!cubic && at < 0) at = 0;
  if (!cubic && in == r.out) at = static_cast<W>(o);
  const auto below = static_cast<int64_t>(floor(at));
  const int64_t i = below < in - 1 ? below : in - 1;
  W t = at - static_cast<W>(i);
  t = t < 0 ? W(0) : t > 1 ? W(1) : t;
  if (!cubic) {
    index[0] = i, index[1] = i + 1 < in - 1 ? i + 1 : in - 1;
    w[0] = 1 - t, w[1] = t;
    return;
  }
  const W a = W(-0.75);
  auto near = [a](W d) { return ((a + 2) * d - (a + 3)) * d * d + 1; };
  auto far = [a](W d) { return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a; };
  w[0] = far(t + 1), w[1] = near(t), w[2] = near(1 - t), w[3] = far(2 - t);
  for (int64_t k = 0; k < 4; ++k) index[k] = interp_limit(i - 1 + k, 0, in - 1);
}

template <class W>
struct InterpAxis {
  int64_t taps = 1;
  std::vector<int64_t> index;  // out * taps, each in [0, in)
  std::vector<W> weight;       // unused taps are 0 with a valid index
};

template <class W>
InterpAxis<W> interp_axis(const InterpRule<W>& r) {
  InterpAxis<W> axis;
  axis.taps = r.taps;
  axis.index.resize(static_cast<size_t>(r.out * r.taps));
  axis.weight.resize(static_cast<size_t>(r.out * r.taps));
  for (int64_t o = 0; o < r.out; ++o) interp_position(r, o, &axis.index[o * r.taps], &axis.weight[o * r.taps]);
  return axis;
}

template <class W>
InterpRule<W> interp_rows(const InterpolateParams& p) {
  return interp_rule<W>(p.mode, p.H, p.oH, p.align_corners, p.antialias, p.scale_h);
}
template <class W>
InterpRule<W> interp_columns(const InterpolateParams& p) {
  return interp_rule<W>(p.mode, p.W, p.oW, p.align_corners, p.antialias, p.scale_w);
}

template <class W>
void interp_axes(const InterpolateParams& p, InterpAxis<W>* h, InterpAxis<W>* w) {
  *h = interp_axis(interp_rows<W>(p));
  *w = interp_axis(interp_columns<W>(p));
}

}  // namespace fastcnn::cpu
