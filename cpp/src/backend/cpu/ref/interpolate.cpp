// What it is: naive interpolate and its transpose: every output is the weighted sum of its taps.
#include <vector>

#include "backend/cpu/interp_axis.h"
#include "backend/cpu/ref/convert.h"

namespace fastcnn::cpu::ref {
namespace {

template <class T>
using Coord = std::conditional_t<std::is_same_v<T, double>, double, float>;

// f(n, c, oh, ow, h, w, weight) for every tap of every output.
template <class W, class F>
void for_each_tap(const InterpolateParams& p, F&& f) {
  if (p.N * p.C * p.H * p.W == 0 || p.oH * p.oW == 0) return;
  InterpAxis<W> ah, aw;
  interp_axes(p, &ah, &aw);
  const int64_t out[4] = {p.N, p.C, p.oH, p.oW};
  for_each_index(out, 4, [&](const int64_t* o) {
    for (int64_t i = 0; i < ah.taps; ++i)
      for (int64_t j = 0; j < aw.taps; ++j) {
        int64_t th = o[2] * ah.taps + i, tw = o[3] * aw.taps + j;
        const int64_t src[4] = {o[0], o[1], ah.index[th], aw.index[tw]};
        f(o, src, double(ah.weight[th]) * double(aw.weight[tw]));
      }
  });
}

}  // namespace

void interpolate(const Call& c) {
  const auto& p = c.as<InterpolateParams>();
  const Operand &x = c.in[0], &y = c.out[0];
  dispatch_all(x.dtype, [&]<class T>() {
    if (p.mode == Interp::nearest || p.mode == Interp::nearest_exact) {
      for_each_tap<float>(p, [&](const int64_t* o, const int64_t* s, double) {
        y.as<T>()[offset_of(y, o)] = x.as<T>()[offset_of(x, s)];
      });
      return;
    }
    std::vector<double> sums(y.numel(), 0.0);
    for_each_tap<Coord<T>>(p, [&](const int64_t* o, const int64_t* s, double w) {
      if (w != 0) sums[offset_of(y, o)] += w * static_cast<double>(load(x.as<T>()[offset_of(x, s)]));
    });
    for (size_t i = 0; i < sums.size(); ++i) {
      double v = sums[i];
      if constexpr (std::is_integral_v<T>)  // images: round and saturate
        v = std::clamp(std::nearbyint(v), double(std::numeric_limits<T>::min()),
                       double(std::numeric_limits<T>::max()));
      y.as<T>()[i] = store<T>(v);
    }
  });
}

void interpolate_bwd(const Call& c) {
  const auto& p = c.as<InterpolateParams>();
  const Operand &dy = c.in[0], &dx = c.out[0];
  dispatch_floating(dx.dtype, "interpolate_bwd", [&]<class T>() {
    std::vector<double> sums(dx.numel(), 0.0);
    for_each_tap<Coord<T>>(p, [&](const int64_t* o, const int64_t* s, double w) {
      if (w != 0) sums[offset_of(dx, s)] += w * to_double(dy.as<T>()[offset_of(dy, o)]);
    });
    for (size_t i = 0; i < sums.size(); ++i) dx.as<T>()[i] = store<T>(sums[i]);
  });
}

}  // namespace fastcnn::cpu::ref
