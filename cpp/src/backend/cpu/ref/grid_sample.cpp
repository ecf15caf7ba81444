// What it is: naive grid_sample and its gradients: the definition, point by point and tap by tap.
#include <vector>

#include "backend/cpu/grid_taps.h"
#include "backend/cpu/ref/access.h"

namespace fastcnn::cpu::ref {
namespace {

// f(first element of a pixel of y, first element of a pixel of x, point, weight, slopes by x and y of the point)
// for every tap inside of an image.
template <class W, class F>
void for_each_tap(const GridSampleParams& p, const W* points, F&& f) {
  const GridAxis<W> axis[2] = {{p, p.W}, {p, p.H}};
  const int64_t taps = grid_tap_count(p.mode);
  for (int64_t n = 0; n < p.N; ++n)
    for (int64_t i = n * p.oH * p.oW; i < (n + 1) * p.oH * p.oW; ++i) {
      const GridTaps<W> across(axis[0], points[2 * i]), down(axis[1], points[2 * i + 1]);
      for (int64_t v = 0; v < taps; ++v)
        for (int64_t h = 0; h < taps; ++h) {
          if (down.index[v] < 0 || across.index[h] < 0) continue;
          const int64_t pixel = (n * p.H + down.index[v]) * p.W + across.index[h];
          f(i * p.C, pixel * p.C, i, double(down.weight[v]) * double(across.weight[h]),
            double(down.weight[v]) * double(across.slope[h]), double(down.slope[v]) * double(across.weight[h]));
        }
    }
}

template <class F>
void for_each_tap(const GridSampleParams& p, const Operand& points, F&& f) {
  if (points.dtype == DType::float64)
    for_each_tap(p, points.as<double>(), f);
  else
    for_each_tap(p, points.as<float>(), f);
}

void write(const std::vector<double>& sums, const Operand& to) {
  for (size_t i = 0; i < sums.size(); ++i) Writer(to).set(static_cast<int64_t>(i), sums[i]);
}

}  // namespace

void grid_sample(const Call& c) {
  const auto& p = c.as<GridSampleParams>();
  Reader x(c.in[0]);
  std::vector<double> sums(p.N * p.oH * p.oW * p.C, 0.0);
  for_each_tap(p, c.in[1], [&](int64_t out, int64_t in, int64_t, double weight, double, double) {
    for (int64_t k = 0; k < p.C; ++k) sums[out + k] += weight * x[in + k];
  });
  write(sums, c.out[0]);
}

void grid_sample_bwd(const Call& c) {
  const auto& p = c.as<GridSampleParams>();
  const Operand& points = c.in[1 + p.has_dgrid];
  const Reader dy(c.in[0]), x = p.has_dgrid ? Reader(c.in[1]) : Reader();
  std::vector<double> dx(p.has_dx ? p.N * p.H * p.W * p.C : 0, 0.0);
  std::vector<double> dpoints(p.has_dgrid ? p.N * p.oH * p.oW * 2 : 0, 0.0);
  for_each_tap(p, points, [&](int64_t out, int64_t in, int64_t i, double weight, double by_x, double by_y) {
    for (int64_t k = 0; k < p.C; ++k) {
      if (p.has_dx) dx[in + k] += weight * dy[out + k];
      if (p.has_dgrid) dpoints[2 * i] += by_x * dy[out + k] * x[in + k];
      if (p.has_dgrid) dpoints[2 * i + 1] += by_y * dy[out + k] * x[in + k];
    }
  });
  if (p.has_dx) write(dx, c.out[0]);
  if (p.has_dgrid) write(dpoints, c.out[p.has_dx]);
}

}  // namespace fastcnn::cpu::ref
