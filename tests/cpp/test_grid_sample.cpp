// What it is: grid_sample and its gradients against their references on every ISA: options, channels around the
// vectors, points at the ends, outside and nowhere, pixels that are not numbers, rows shared by threads.
#include <cmath>

#include "op_check.h"

using namespace fastcnn;
using namespace fastcnn::test;

namespace {

// Within `reach`, but for some at the ends and beyond, at pixels, and nowhere.
Array grid_points(int64_t n, uint32_t seed, float reach, bool odd = true) {
  Array a(2 * n);
  std::mt19937 g(seed);
  std::uniform_real_distribution<float> at(-reach, reach);
  for (int64_t i = 0; i < 2 * n; ++i) a.f()[i] = at(g);
  const float special[] = {-1, 1, 0, 0.5f, 1e30f, -1e30f, 3e9f, NAN, INFINITY, -INFINITY};
  for (int64_t i = 0; odd && i < 2 * n; i += 7) a.f()[i] = special[g() % std::size(special)];
  return a;
}

// Forward, and backward to image, points, and both. Returns how many optimised runs were compared.
int check_all(GridSampleParams p, const Array& x, const Array& points, const std::string& what) {
  const int64_t image = p.N * p.H * p.W * p.C, n = p.N * p.oH * p.oW;
  const Tolerance t{4e-6};
  int ran = check_op(cpu::grid_sample_list(), &p, {x, points}, {{n * p.C}}, what, t);
  const Array dy = normal(n * p.C, 5);
  p.has_dx = 1;
  ran += check_op(cpu::grid_sample_bwd_list(), &p, {dy, points}, {{image}}, what + " to data", t);
  if (p.mode == Interp::nearest) return ran;
  p.has_dgrid = 1;
  ran += check_op(cpu::grid_sample_bwd_list(), &p, {dy, x, points}, {{image}, {2 * n}}, what + " to both", t);
  p.has_dx = 0;
  return ran + check_op(cpu::grid_sample_bwd_list(), &p, {dy, x, points}, {{2 * n}}, what + " to points", t);
}

std::string name_of(const GridSampleParams& p) {
  return "grid_sample mode " + std::to_string(int(p.mode)) + " padding " + std::to_string(int(p.padding)) +
         " align " + std::to_string(p.align_corners) + " C " + std::to_string(p.C);
}

template <class F>
void for_each_option(F f) {
  for (Interp mode : {Interp::nearest, Interp::bilinear, Interp::bicubic})
    for (GridPadding padding : {GridPadding::zeros, GridPadding::border, GridPadding::reflection})
      for (int64_t align : {0, 1}) {
        GridSampleParams p;
        p.mode = mode, p.padding = padding, p.align_corners = align;
        f(p);
      }
}

}  // namespace

TEST_CASE("grid_sample: every option, channels around vectors, points anywhere") {
  for_each_option([](GridSampleParams p) {
    for (int64_t C : {1, 2, 3, 4, 5, 8, 17, 70}) {
      p.N = 2, p.C = C, p.H = 7, p.W = 9, p.oH = 11, p.oW = 13;  // two blocks of points, one not full
      const Array x = normal(p.N * p.H * p.W * C, 3), points = grid_points(p.N * p.oH * p.oW, 4, 1.7f);
      CHECK(check_all(p, x, points, name_of(p)) > 0);
    }
  });
}

TEST_CASE("grid_sample: images of one pixel, one row, one column; no channels, no points, no images") {
  for_each_option([](GridSampleParams p) {
    const int64_t sizes[][6] = {{2, 3, 1, 1, 3, 4}, {2, 3, 1, 6, 3, 4}, {1, 5, 6, 1, 4, 3},
                                {2, 0, 3, 3, 2, 2}, {2, 3, 3, 3, 0, 2}, {0, 3, 3, 3, 2, 2}};
    for (const auto& s : sizes) {
      p.N = s[0], p.C = s[1], p.H = s[2], p.W = s[3], p.oH = s[4], p.oW = s[5];
      if (p.mode == Interp::bicubic && p.H * p.W == 1) p.W = 2;  // slopes would be rounding alone
      CHECK(check_all(p, normal(p.N * p.H * p.W * p.C, 6), grid_points(p.N * p.oH * p.oW, 7, 2), name_of(p)) > 0);
    }
  });
}

TEST_CASE("grid_sample: pixels that are not numbers reach the points that take them, and no others") {
  for_each_option([](GridSampleParams p) {
    for (int64_t C : {1, 3, 6}) {
      p.N = 2, p.C = C, p.H = 6, p.W = 6, p.oH = 9, p.oW = 8;
      const int64_t image = p.H * p.W * C;
      const Array x = normal(p.N * image, 8);
      for (int64_t at : {int64_t{0}, image / 2, image - 1, image, 2 * image - 1}) x.f()[at] = NAN;
      CHECK(check_all(p, x, grid_points(p.N * p.oH * p.oW, 9, 1.5f), name_of(p) + " NaN") > 0);
    }
  });
}

TEST_CASE("grid_sample: rows of few images go to several threads, which changes no sum") {
  for (int64_t N : {1, 3})
    for (int64_t C : {3, 24})
      for (Interp mode : {Interp::nearest, Interp::bilinear, Interp::bicubic}) {
        GridSampleParams p;
        p.N = N, p.C = C, p.H = 40, p.W = 30, p.oH = 60, p.oW = 50, p.mode = mode;
        p.padding = GridPadding::border;
        const Array x = normal(N * p.H * p.W * C, 10), points = grid_points(N * p.oH * p.oW, 11, 1.2f, false);
        CHECK(check_all(p, x, points, name_of(p) + " of " + std::to_string(N)) > 0);
      }
}

TEST_CASE("grid_sample: kernels leave images alone that float32 cannot count") {
  GridSampleParams p;
  p.N = p.C = p.H = 1, p.W = (1 << 24) + 1, p.oH = p.oW = 1;
  const Array none(1);
  CHECK(reason(cpu::grid_sample_list(), &p, {none, none}, {none}).find("float32 counts") != std::string::npos);
}
