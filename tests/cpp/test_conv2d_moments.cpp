// conv2d that gives the moments of its result (has_moments): against the reference, against the moments of the
// very values that were stored, and batch_norm that takes them.
#include "op_check.h"

using namespace fastcnn;
using namespace fastcnn::test;

namespace {

struct Shape {
  int64_t N, C, H, W, O, kH, kW;
  int64_t s = 1, p = 0, d = 1, groups = 1;
};

Conv2dParams params(const Shape& s) {
  Conv2dParams p;
  p.N = s.N, p.C = s.C, p.H = s.H, p.W = s.W, p.O = s.O, p.kH = s.kH, p.kW = s.kW;
  p.sH = p.sW = s.s, p.dH = p.dW = s.d, p.groups = s.groups, p.pT = p.pL = p.pB = p.pR = s.p;
  p.oH = conv_out_size(p.H, p.pT, p.pB, p.kH, p.sH, p.dH);
  p.oW = conv_out_size(p.W, p.pL, p.pR, p.kW, p.sW, p.dW);
  p.has_moments = 1;
  return p;
}

std::string text(const Shape& s) {
  std::string t = "conv2d moments";
  for (int64_t v : {s.N, s.C, s.H, s.W, s.O, s.kH, s.kW, s.s, s.p, s.d, s.groups}) t += " " + std::to_string(v);
  return t;
}

int64_t rows(const Conv2dParams& p) { return p.N * p.oH * p.oW; }
std::vector<Out> outputs(const Conv2dParams& p) { return {{rows(p) * p.O}, {2 * p.O, DType::float64}}; }

// The moments of every implementation against those of the y that it stored.
void of_what_is_stored(const Conv2dParams& p, const std::vector<Array>& in, const std::string& what) {
  IsaGuard restore;
  for (const std::string& isa : cpu::available_isas()) {
    cpu::set_isa(isa);
    for (const Implementation& impl : cpu::conv2d_list().first(cpu::conv2d_list().size() - 1)) {
      const std::string where = what + " " + isa + " " + impl.name;
      auto out = make_outputs(outputs(p));
      auto in_ops = operands(in), out_ops = operands(out);
      Call c;
      c.params = &p, c.in = in_ops, c.out = out_ops;
      if (impl.declines && impl.declines(c)) continue;
      Buffer workspace(impl.workspace ? (impl.workspace(c) + 3) / 4 : 0);
      workspace.poison();
      c.workspace = workspace.data();
      impl.run(c);
      CHECK_MESSAGE(workspace.guard_intact(), where << ": wrote past its workspace");
      const double n = static_cast<double>(rows(p));
      auto y = [&](int64_t r, int64_t o) { return double(out[0].f()[r * p.O + o]); };
      for (int64_t o = 0; o < p.O; ++o) {
        double mean = 0, var = 0;
        for (int64_t r = 0; r < rows(p); ++r) mean += y(r, o) / n;
        for (int64_t r = 0; r < rows(p); ++r) var += (y(r, o) - mean) * (y(r, o) - mean) / n;
        const double *m = out[1].as<double>(), *v = m + p.O;
        CHECK_MESSAGE(std::fabs(m[o] - mean) <= 2e-6 * std::sqrt(var) + 1e-12 * std::fabs(mean),
                      where << ": mean " << o << " is " << m[o] << " instead of " << mean << ", var " << var);
        CHECK_MESSAGE(std::fabs(v[o] - var) <= 2e-5 * var,
                      where << ": variance " << o << " is " << v[o] << " instead of " << var);
      }
    }
  }
}

// Plain, with bias and norm on load, with residual and activation, around a large mean.
void check(const Shape& s) {
  Conv2dParams p = params(s);
  const int64_t x = p.N * p.C * p.H * p.W, w = p.O * p.C / p.groups * p.kH * p.kW;
  const float scale = 1 / std::sqrt(static_cast<float>(p.C / p.groups * p.kH * p.kW));
  const Array ax = normal(x, 1, 2, 0.5f), aw = normal(w, 2, scale), bias = normal(p.O, 3),
              res = normal(rows(p) * p.O, 4);
  CHECK_MESSAGE(check_op(cpu::conv2d_list(), &p, {ax, aw}, outputs(p), text(s)) > 0,
                "no kernel takes " << text(s));
  of_what_is_stored(p, {ax, aw}, text(s));

  p.has_bias = p.has_norm_in = 1, p.in_act.act = Act::relu6;
  check_op(cpu::conv2d_list(), &p, {ax, aw, bias, normal(p.C, 5), normal(2 * p.C, 6)}, outputs(p),
           text(s) + " norm in");
  p.has_norm_in = 0, p.in_act = {};
  p.has_residual = 1, p.act.act = Act::relu;
  check_op(cpu::conv2d_list(), &p, {ax, aw, bias, res}, outputs(p), text(s) + " residual");
  p.has_residual = 0, p.act = {};
  const Array far = normal(p.O, 7, 1, 1e4f);
  of_what_is_stored(p, {ax, aw, far}, text(s) + " mean 1e4");
  ax.f()[0] = -1e5f;  // an outlier in the first pixels must not become a bad shift
  of_what_is_stored(p, {ax, aw, far}, text(s) + " outlier");
  ax.f()[0] = 0;
}

Shape depthwise(int64_t N, int64_t C, int64_t H, int64_t W, int64_t k, int64_t s, int64_t p, int64_t d = 1) {
  return {N, C, H, W, C, k, k, s, p, d, C};
}

}  // namespace

TEST_CASE("moments of dense conv2d") {
  check({1, 3, 1, 2, 5, 1, 1});
  check({2, 64, 7, 7, 33, 1, 1});
  check({3, 17, 5, 9, 24, 1, 1});
  check({2, 96, 20, 21, 24, 1, 1});
  check({2, 40, 30, 30, 100, 1, 1});  // several blocks of outputs
  check({2, 1030, 9, 9, 20, 1, 1});   // several blocks of channels
  check({2, 33, 7, 8, 17, 1, 1, 2});
  check({2, 5, 7, 8, 6, 1, 1, 1, 1});
  check({2, 17, 9, 8, 20, 3, 3, 2, 1});
  check({1, 12, 12, 10, 9, 3, 3, 1, 2, 2});
  check({2, 24, 7, 7, 40, 3, 3, 1, 1, 1, 2});
  check({2, 3, 40, 38, 32, 3, 3, 2, 1});
  check({3, 3, 30, 31, 20, 7, 7, 2, 3});
  check({3, 1, 12, 12, 32, 5, 5, 1, 2});
  check({2, 6, 5, 5, 8, 5, 5});  // the whole image
  check({2, 32, 9, 9, 32, 3, 3, 1, 1, 1, 8});
  check({1, 256, 14, 14, 300, 1, 1});
}

TEST_CASE("moments of Winograd conv2d") {
  for (int64_t p : {0, 1, 2}) check({4, 32, 30, 29, 32, 3, 3, 1, p});
  check({8, 16, 32, 32, 16, 3, 3, 1, 1});
  check({16, 32, 14, 14, 64, 5, 5, 1, 2});
  check({5, 40, 13, 15, 24, 5, 5, 1, 1});
  check({3, 40, 27, 21, 24, 3, 3, 1, 1});
  check({6, 72, 14, 15, 80, 3, 3, 1, 1, 1, 2});  // two groups of channels
  check({2, 144, 14, 14, 160, 3, 3, 1, 1});
  check({4, 256, 7, 7, 256, 3, 3, 1, 1});
  check({9, 72, 14, 15, 80, 3, 3, 1, 1});  // groups of narrow tiles
}

TEST_CASE("moments of Winograd conv2d of stride 2") {
  check({8, 64, 28, 28, 64, 3, 3, 2, 1});
  check({6, 72, 29, 27, 80, 3, 3, 2, 0});
  check({24, 160, 14, 15, 400, 3, 3, 2, 1});  // weights by blocks of outputs
  check({12, 40, 15, 16, 70, 4, 4, 2, 1});
  check({4, 3, 96, 90, 64, 7, 7, 2, 3});
}

TEST_CASE("moments of conv2d with few channels in a group") {
  check({2, 32, 9, 14, 32, 3, 3, 1, 1, 1, 8});
  check({1, 56, 60, 70, 56, 3, 3, 2, 1, 1, 7});
  check({2, 20, 7, 9, 40, 3, 3, 1, 1, 1, 20});
}

TEST_CASE("moments of conv2d with few channels on both sides") {
  check({8, 3, 40, 41, 5, 3, 3, 1, 1});
  check({40, 2, 15, 14, 4, 5, 5, 1, 2});    // strips of several images
  check({9, 3, 30, 29, 7, 4, 4, 1, 3, 2});  // of parts of images
  check({3, 15, 33, 34, 18, 3, 3, 1, 1, 1, 3});
  check({64, 2, 28, 29, 7, 1, 1});
}

TEST_CASE("moments of dilated conv2d") {
  check({2, 64, 24, 28, 64, 3, 3, 1, 2, 2});    // parts that Winograd takes
  check({2, 20, 38, 57, 17, 3, 3, 1, 19, 19});  // parts
  check({2, 20, 9, 9, 17, 3, 3, 1, 12, 12});    // one live tap
}

TEST_CASE("moments of depthwise conv2d") {
  for (int64_t C : {3, 17, 40, 96})
    for (int64_t s : {1, 2}) check(depthwise(2, C, 9, 8, 3, s, 1));
  check(depthwise(2, 16, 6, 7, 3, 1, 0));
  check(depthwise(1, 20, 9, 10, 3, 1, 2, 2));
  check(depthwise(1, 16, 12, 12, 3, 2, 2, 2));
  check(depthwise(2, 20, 9, 10, 4, 3, 1));
  check(depthwise(2, 32, 7, 40, 7, 1, 3));
  for (int64_t C : {12, 31})  // two rows at once, a last vector of few channels
    for (int64_t k : {5, 7}) {
      check(depthwise(2, C, 7, 14, k, 1, k / 2));
      check(depthwise(2, C, 15, 14, k, 1, k, 2));
    }
  check(depthwise(3, 24, 5, 5, 1, 1, 0));
  check(depthwise(2, 144, 40, 35, 3, 1, 1));  // images of several strips
  check(depthwise(2, 144, 41, 35, 3, 2, 1));
}

TEST_CASE("moments where results are streamed past the caches") {
  check({2, 16, 160, 160, 64, 1, 1});
  check(depthwise(3, 64, 130, 130, 3, 1, 1));
}

TEST_CASE("conv2d gives moments of bfloat16 and of no pixels by the reference alone") {
  const Conv2dParams half = params({2, 16, 6, 6, 16, 3, 3, 1, 1});
  const std::vector<Out> outs{{rows(half) * 16, DType::bfloat16}, {32, DType::float64}};
  CHECK(check_op(cpu::conv2d_list(), &half, {rounded(normal(2 * 16 * 36, 1)), rounded(normal(16 * 144, 2))}, outs,
                 "bfloat16") == 0);
  Conv2dParams p = params({0, 8, 7, 7, 16, 3, 3, 1, 1});
  check_op(cpu::conv2d_list(), &p, {Array(0), normal(16 * 72, 1)}, outputs(p), "no pixels");
  CHECK(run_reference(cpu::conv2d_list(), &p, {Array(0), normal(16 * 72, 1)}, outputs(p))[1].as<double>()[0] == 0);
}

TEST_CASE("batch_norm that is given its moments") {
  for (int64_t C : {1, 3, 24, 96})
    for (int64_t rows : {1, 700, 5000})
      for (int stats = 0; stats < 2; ++stats) {
        BatchNormParams p;
        p.rows = rows, p.C = C, p.has_affine = p.has_moments = 1, p.stats_only = stats, p.has_residual = !stats;
        if (!stats) p.act.act = Act::relu;
        Array moments(2 * C, DType::float64);
        const Array mean = normal(C, 5, 1, 100), var = normal(C, 6, 0.1f, 2);
        for (int64_t i = 0; i < C; ++i)
          moments.as<double>()[i] = mean.f()[i] + 1e-7, moments.as<double>()[C + i] = var.f()[i];
        std::vector<Array> in{normal(rows * C, 1, 2, 100), normal(C, 2), normal(C, 3)};
        std::vector<Out> outs{{C}, {C}, {2 * C}};
        if (!stats) in.push_back(normal(rows * C, 4)), outs.insert(outs.begin(), {rows * C});
        in.push_back(moments);
        CHECK(check_op(cpu::batch_norm_list(), &p, in, outs,
                       "batch_norm moments " + std::to_string(rows) + "x" + std::to_string(C)) > 0);
      }
}
