// What it is: box_iou, nms, roi_align and its gradient against their references on every ISA: sizes around
// vectors, groups, limits, equal and NaN scores, boxes beyond the image.
#include <stdexcept>
#include <utility>

#include "op_check.h"

using namespace fastcnn;
using namespace fastcnn::test;

namespace {

// Boxes of sides 0 to `side` with corners in [0, extent); crowded where extent is small.
Array boxes(int64_t n, uint32_t seed, float extent, float side) {
  Array a(4 * n);
  std::mt19937 g(seed);
  std::uniform_real_distribution<float> at(0, extent), length(0, side);
  for (int64_t i = 0; i < n; ++i) {
    float* b = a.f() + 4 * i;
    b[0] = at(g), b[1] = at(g), b[2] = b[0] + length(g), b[3] = b[1] + length(g);
  }
  return a;
}

Array integers(int64_t n, uint32_t seed, int64_t most) {
  Array a(n, DType::int64);
  std::mt19937 g(seed);
  for (int64_t i = 0; i < n; ++i) a.as<int64_t>()[i] = static_cast<int64_t>(g() % most) - 1;
  return a;
}

}  // namespace

TEST_CASE("box_iou: any number of rows and columns, empty boxes among them") {
  for (int64_t n : {0, 1, 3, 40})
    for (int64_t m : {0, 1, 15, 16, 17, 300}) {
      BoxIouParams p;
      p.N = n, p.M = m;
      std::vector<Array> in{boxes(n, 1, 50, 30), boxes(m, 2, 50, 30)};
      if (n > 2 && m > 2) in[0].f()[10] = in[0].f()[8], in[1].f()[4] = in[0].f()[4] + 100;
      const std::string what = "box_iou " + std::to_string(n) + " x " + std::to_string(m);
      CHECK(check_op(cpu::box_iou_list(), &p, in, {{n * m}}, what, {1e-6, 1e-5}) > 0);
    }
}

TEST_CASE("nms: groups, limits, thresholds, crowds") {
  for (int64_t n : {0, 1, 2, 17, 200, 3000})
    for (int64_t groups : {0, 1, 7})
      for (double threshold : {0.0, 0.3, 0.7})
        for (int64_t limit : {int64_t(0), int64_t(5), n}) {
          NmsParams p;
          p.N = n, p.limit = limit, p.iou_threshold = threshold, p.has_groups = groups > 0;
          std::vector<Array> in{boxes(n, 3, 100, 40), normal(n, 4)};
          if (groups) in.push_back(integers(n, 5, groups));
          const std::string what = "nms of " + std::to_string(n) + " in " + std::to_string(groups) + " groups";
          CHECK(check_op(cpu::nms_list(), &p, in, {{limit, DType::int64}, {1, DType::int64}}, what) > 0);
        }
}

TEST_CASE("nms: equal scores keep the order of the boxes, NaN scores come last") {
  const int64_t n = 500;
  NmsParams p;
  p.N = n, p.limit = n;
  std::vector<Array> in{boxes(n, 6, 60, 30), normal(n, 7)};
  for (int64_t i = 0; i < n; ++i) in[1].f()[i] = i % 11 == 0 ? NAN : static_cast<float>(i % 3);
  CHECK(check_op(cpu::nms_list(), &p, in, {{n, DType::int64}, {1, DType::int64}}, "ties") > 0);
}

TEST_CASE("roi_align: every option, channels around vectors, boxes beyond the image") {
  for (int64_t C : {1, 3, 4, 16, 70})
    for (int64_t aligned : {0, 1})
      for (int64_t ratio : {-1, 1, 3})
        for (int64_t size : {1, 7}) {
          RoiAlignParams p;
          p.N = 2, p.C = C, p.H = 13, p.W = 9, p.K = 11, p.oH = size, p.oW = size + 1;
          p.aligned = aligned, p.sampling_ratio = ratio, p.spatial_scale = 0.5;
          Array rois(5 * p.K), corners = boxes(p.K, 8, 24, 30);
          for (int64_t k = 0; k < p.K; ++k) {
            rois.f()[5 * k] = static_cast<float>(k % 2);
            for (int64_t i = 0; i < 4; ++i) rois.f()[5 * k + 1 + i] = corners.f()[4 * k + i] - 6;
          }
          for (int i = 1; i < 5; ++i) rois.f()[i] = 4;                            // no area
          rois.f()[6] = 900, rois.f()[7] = 900, rois.f()[8] = rois.f()[9] = 950;  // beyond
          const int64_t out = p.K * p.oH * p.oW * C, image = p.N * p.H * p.W * C;
          const std::string what = "roi_align of " + std::to_string(C) + " channels";
          std::vector<Array> in{normal(image, 9), rois};
          CHECK(check_op(cpu::roi_align_list(), &p, in, {{out}}, what, {2e-6}) > 0);
          std::vector<Array> bwd{normal(out, 10), rois};
          CHECK(check_op(cpu::roi_align_bwd_list(), &p, bwd, {{image}}, what + " bwd", {2e-6}) > 0);
        }
}

TEST_CASE("roi_align: a box that is not finite or of no image throws in every implementation") {
  IsaGuard restore;
  RoiAlignParams p;
  p.N = 1, p.C = 1, p.H = p.W = 4, p.K = 2, p.oH = p.oW = 1;
  const std::pair<int, float> faults[] = {
      {5, 1.0f}, {7, NAN}, {9, 1e9f}};  // image, corner, bins of a billion pixels
  for (auto [at, value] : faults) {
    std::vector<Array> in{normal(16, 1), Array(10)}, out{Array(2)};
    std::fill(in[1].f(), in[1].f() + 10, 0.0f);
    in[1].f()[at] = value;
    auto in_ops = operands(in), out_ops = operands(out);
    Call c;
    c.params = &p, c.in = in_ops, c.out = out_ops;
    for (const std::string& isa : cpu::available_isas()) {
      cpu::set_isa(isa);
      for (const Implementation& impl : cpu::roi_align_list())
        if (!impl.declines || !impl.declines(c)) CHECK_THROWS_AS(impl.run(c), std::invalid_argument);
    }
  }
}
