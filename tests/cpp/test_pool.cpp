// Pooling: every implementation on every ISA against the reference, and the reference against known values.
#include "op_check.h"

using namespace fastcnn;
using namespace fastcnn::test;

namespace {

// Few distinct values, so that ties are common; some NaN and whole patches of -inf.
Array plateau(int64_t n, int64_t C) {
  Array a = normal(n, 7, 1.5f);
  for (int64_t i = 0; i < n; ++i) a.f()[i] = std::round(a.f()[i]);
  for (int64_t i = 0; i < n; i += 37) a.f()[i] = NAN;
  for (int64_t i = 0; i < std::min(n, 4 * C); ++i) a.f()[i] = -INFINITY;
  return a;
}

std::string name(const Pool2dParams& p) {
  std::string s = "pool";
  for (int64_t v : {p.N, p.C, p.H, p.W, p.oH, p.oW, p.kH, p.kW, p.sH, p.sW, p.pT, p.pB, p.pL, p.pR, p.dH, p.dW,
                    p.count_include_pad, p.adaptive})
    s += " " + std::to_string(v);
  return s;
}

void check_max(const Pool2dParams& p) {
  int64_t nx = p.N * p.H * p.W * p.C, ny = p.N * p.oH * p.oW * p.C;
  std::vector<Array> in;
  in.push_back(plateau(nx, p.C));
  std::vector<Out> outs{{ny}, {ny, DType::int32}};
  CHECK(check_op(cpu::max_pool2d_list(), &p, in, outs, name(p), {0}) > 0);
  auto fwd = run_reference(cpu::max_pool2d_list(), &p, in, outs);
  std::vector<Array> bwd{normal(ny, 2), std::move(fwd[1])};
  CHECK(check_op(cpu::max_pool2d_bwd_list(), &p, bwd, {{nx}}, name(p) + " bwd", {1e-6}) > 0);
  bwd[0] = normal(nx, 3);
  CHECK(check_op(cpu::max_pool2d_gather_list(), &p, bwd, {{ny}}, name(p) + " gather", {0}) > 0);
  const std::string half = "bf16 " + name(p);
  const std::vector<Array> x{rounded(in[0])};
  CHECK(check_op(cpu::max_pool2d_list(), &p, x, {{ny, DType::bfloat16}, {ny, DType::int32}}, half, {0}) > 0);
  CHECK(check_op(cpu::max_pool2d_bwd_list(), &p, {rounded(normal(ny, 2)), bwd[1]}, {{nx, DType::bfloat16}},
                 half + " bwd", {1e-6}) > 0);
}

void check_avg(const Pool2dParams& p) {
  int64_t nx = p.N * p.H * p.W * p.C, ny = p.N * p.oH * p.oW * p.C;
  CHECK(check_op(cpu::avg_pool2d_list(), &p, {normal(nx, 1)}, {{ny}}, name(p), {2e-6}) > 0);
  CHECK(check_op(cpu::avg_pool2d_bwd_list(), &p, {normal(ny, 2)}, {{nx}}, name(p) + " bwd", {2e-6}) > 0);
  CHECK(check_op(cpu::avg_pool2d_list(), &p, {rounded(normal(nx, 1))}, {{ny, DType::bfloat16}}, "bf16 " + name(p),
                 {2e-6}) > 0);
  CHECK(check_op(cpu::avg_pool2d_bwd_list(), &p, {rounded(normal(ny, 2))}, {{nx, DType::bfloat16}},
                 "bf16 " + name(p) + " bwd", {2e-6}) > 0);
}

int64_t out_size(int64_t in, int64_t pb, int64_t pe, int64_t k, int64_t s, int64_t d, bool ceil) {
  int64_t o = conv_out_size(in, pb, pe, k, s, d);
  if (ceil && (o - 1) * s + d * (k - 1) + 1 < in + pb + pe && o * s < in + pb) ++o;
  return o;
}

}  // namespace

TEST_CASE("pooling: windows of all kinds") {
  struct K {
    int64_t k, s, pad, d;
  };
  int runs = 0;
  for (auto [H, W] : {std::pair<int64_t, int64_t>{7, 9}, {8, 8}, {13, 5}, {1, 6}})
    for (K k : {K{2, 2, 0, 1}, K{3, 2, 1, 1}, K{3, 1, 1, 1}, K{3, 3, 0, 2}, K{2, 3, 1, 1}, K{3, 2, 1, 2},
                K{5, 2, 2, 1}, K{2, 1, 1, 3}})
      for (bool ceil : {false, true})
        for (int64_t C : {1, 3, 16, 17, 64, 70, 130}) {
          Pool2dParams p;
          p.N = C < 64 ? 2 : 1, p.C = C, p.H = H, p.W = W, p.kH = p.kW = k.k, p.sH = p.sW = k.s, p.dH = p.dW = k.d;
          p.pT = p.pB = p.pL = p.pR = k.pad;
          if (C == 17) p.pB = 0, p.pL = k.pad ? k.pad - 1 : 0, p.sW = 1;  // uneven in every way
          p.oH = out_size(H, p.pT, p.pB, p.kH, p.sH, p.dH, ceil);
          p.oW = out_size(W, p.pL, p.pR, p.kW, p.sW, p.dW, ceil);
          if (p.oH < 1 || p.oW < 1) continue;
          check_max(p);
          ++runs;
          if (k.d > 1) continue;
          for (int64_t include : {0, 1}) {
            p.count_include_pad = include;
            check_avg(p);
          }
        }
  CHECK(runs > 100);
}

TEST_CASE("pooling: adaptive, global, empty") {
  for (auto [oH, oW] : {std::pair<int64_t, int64_t>{1, 1}, {3, 4}, {7, 7}, {9, 11}})
    for (int64_t C : {5, 64, 2049}) {
      Pool2dParams p;
      p.N = 2, p.C = C, p.H = 7, p.W = 6, p.oH = oH, p.oW = oW, p.adaptive = 1;
      check_max(p);
      check_avg(p);
    }
  Pool2dParams p;
  p.N = 0, p.C = 8, p.H = p.W = 4, p.oH = p.oW = 2, p.kH = p.kW = p.sH = p.sW = 2;
  check_max(p);
  check_avg(p);
}

TEST_CASE("pooling: reference against known values") {
  // A 3x3 plane, window 2, stride 2, ceil_mode: the last windows are cut to one row or column.
  Pool2dParams p;
  p.N = p.C = 1, p.H = p.W = 3, p.oH = p.oW = 2, p.kH = p.kW = p.sH = p.sW = 2;
  std::vector<Array> in;
  in.emplace_back(9);
  for (int i = 0; i < 9; ++i) in[0].f()[i] = static_cast<float>(i);
  auto max = run_reference(cpu::max_pool2d_list(), &p, in, {{4}, {4, DType::int32}});
  auto avg = run_reference(cpu::avg_pool2d_list(), &p, in, {{4}});
  const float most[4] = {4, 5, 7, 8}, mean[4] = {2, 3.5f, 6.5f, 8};
  for (int i = 0; i < 4; ++i) {
    CHECK(max[0].f()[i] == most[i]);
    CHECK(max[1].as<int32_t>()[i] == static_cast<int32_t>(most[i]));
    CHECK(avg[0].f()[i] == mean[i]);
  }
  // Padding 1, stride 2: the corner window holds one value; it divides by 4 with count_include_pad, else by 1.
  p.pT = p.pB = p.pL = p.pR = 1;
  CHECK(run_reference(cpu::avg_pool2d_list(), &p, in, {{4}})[0].f()[3] == 6);  // (4+5+7+8)/4
  in[0].f()[0] = 8;
  CHECK(run_reference(cpu::avg_pool2d_list(), &p, in, {{4}})[0].f()[0] == 2);
  p.count_include_pad = 0;
  CHECK(run_reference(cpu::avg_pool2d_list(), &p, in, {{4}})[0].f()[0] == 8);
}
