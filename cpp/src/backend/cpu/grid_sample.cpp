// What it is: the implementation lists of grid_sample and its gradients on the CPU. A point owns its result and
// its gradient; rows of an image, or a whole one, own theirs and take the points in order, so no split changes a
// sum.
#include <algorithm>

#include "backend/cpu/accept.h"
#include "backend/cpu/grid_taps.h"
#include "backend/cpu/lists.h"
#include "backend/cpu/ref/ref.h"
#include "backend/cpu/threads.h"

namespace fastcnn::cpu {
namespace {

const char* declines(const Call& c) {
  const auto& p = c.as<GridSampleParams>();
  if (p.H > 1 << 24 || p.W > 1 << 24) return "more rows or columns than float32 counts";
  return not_simd_float32(c);
}

Grain points_grain(const GridSampleParams& p) {
  const int64_t taps = grid_tap_count(p.mode);
  return 16 * 1024 / (taps * taps * p.C + 4) + 1;
}

void forward(const Call& c) {
  GridTask t;
  t.p = c.as<GridSampleParams>();
  t.x = c.in[0].as<float>(), t.points = c.in[1].as<float>(), t.y = c.out[0].as<float>();
  parallel_for(t.p.N * t.p.oH * t.p.oW, points_grain(t.p),
               [&](int64_t begin, int64_t end, int) { kernels()->grid_points(t, begin, end); });
}

void backward(const Call& c) {
  GridTask t;
  t.p = c.as<GridSampleParams>();
  t.dy = c.in[0].as<float>(), t.points = c.in[1 + t.p.has_dgrid].as<float>();
  const int64_t points = t.p.oH * t.p.oW;
  if (t.p.has_dx) {
    // Each part looks through all points of its image: no more of them than threads.
    const int64_t parts = std::clamp<int64_t>(num_threads() / std::max<int64_t>(t.p.N, 1), 1, t.p.H);
    t.dx = c.out[0].as<float>();
    parallel_for(t.p.N * parts, points_grain(t.p).thread / (points / parts + 1) + 1,
                 [&](int64_t begin, int64_t end, int) {
                   for (int64_t i = begin; i < end; ++i) {
                     const int64_t n = i / parts, k = i % parts;
                     kernels()->grid_image_bwd(t, n, t.p.H * k / parts, t.p.H * (k + 1) / parts);
                   }
                 });
  }
  if (t.p.has_dgrid) {
    t.x = c.in[1].as<float>(), t.dpoints = c.out[t.p.has_dx].as<float>();
    parallel_for(t.p.N * points, points_grain(t.p),
                 [&](int64_t begin, int64_t end, int) { kernels()->grid_points_bwd(t, begin, end); });
  }
}

}  // namespace

List grid_sample_list() {
  static const Implementation list[] = {{"simd", declines, nullptr, forward},
                                        {"ref", nullptr, nullptr, ref::grid_sample}};
  return list;
}

List grid_sample_bwd_list() {
  static const Implementation list[] = {{"simd", declines, nullptr, backward},
                                        {"ref", nullptr, nullptr, ref::grid_sample_bwd}};
  return list;
}

}  // namespace fastcnn::cpu
