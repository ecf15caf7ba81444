// Winograd F(4x4, 2x2) of 3x3 and 4x4 windows of stride 2: the three passes against the reference (sums in
// float64) on every ISA and several thread counts, also where the lists would not choose it.
#include <cmath>

#include "backend/cpu/conv2d_adaptors.h"
#include "fastcnn/runtime.h"
#include "op_check.h"

using namespace fastcnn;
using namespace fastcnn::test;

namespace {

constexpr double kTolerance = 5e-6;

const Implementation kForward[] = {
    {"winograd2x2", cpu::winograd2x2_cannot, cpu::winograd2x2_workspace, cpu::winograd2x2_run},
    {"ref", nullptr, nullptr, cpu::conv2d_list().back().run}};
const Implementation kBwdData[] = {{"winograd2x2", cpu::winograd2x2_bwd_data_cannot,
                                    cpu::winograd2x2_bwd_data_workspace, cpu::winograd2x2_bwd_data_run},
                                   {"ref", nullptr, nullptr, cpu::conv2d_bwd_data_list().back().run}};
const Implementation kBwdWeights[] = {{"winograd2x2", cpu::winograd2x2_bwd_weights_cannot,
                                       cpu::winograd2x2_bwd_weights_workspace, cpu::winograd2x2_bwd_weights_run},
                                      {"ref", nullptr, nullptr, cpu::conv2d_bwd_weights_list().back().run}};

struct Padding {
  int64_t top = 1, bottom = 1, left = 1, right = 1;
};

Conv2dParams shape(int64_t taps, int64_t N, int64_t C, int64_t H, int64_t W, int64_t O, Padding pad = {}) {
  Conv2dParams p;
  p.N = N, p.C = C, p.H = H, p.W = W, p.O = O, p.kH = p.kW = taps, p.sH = p.sW = 2;
  p.pT = pad.top, p.pB = pad.bottom, p.pL = pad.left, p.pR = pad.right;
  p.oH = conv_out_size(H, p.pT, p.pB, taps, 2, 1), p.oW = conv_out_size(W, p.pL, p.pR, taps, 2, 1);
  return p;
}

std::string text(const Conv2dParams& p) {
  return concat("N", p.N, " C", p.C, " ", p.H, "x", p.W, " O", p.O, " p", p.pT, ",", p.pB, ",", p.pL, ",", p.pR,
                " ", p.kH, "x", p.kW);
}

int64_t x_size(const Conv2dParams& p) { return p.N * p.C * p.H * p.W; }
int64_t y_size(const Conv2dParams& p) { return p.N * p.O * p.oH * p.oW; }
int64_t w_size(const Conv2dParams& p) { return p.O * p.C * p.kH * p.kW; }

// bit 0: bias, bit 1: residual
void check_forward(Conv2dParams p, int operands = 0, Act act = Act::none) {
  AlgorithmGuard algorithm;
  p.has_bias = operands & 1, p.has_residual = operands >> 1, p.act.act = act;
  // The error is measured against the largest output, which relu6 must not cut far below the largest sum.
  const float scale = 2 / std::sqrt(static_cast<float>(p.C * p.kH * p.kW));
  std::vector<Array> in{normal(x_size(p), 1), normal(w_size(p), 2, scale)};
  if (p.has_bias) in.push_back(normal(p.O, 3));
  if (p.has_residual) in.push_back(normal(y_size(p), 4));
  CHECK(check_op(kForward, &p, in, {{y_size(p)}}, "winograd2x2 " + text(p), {kTolerance}) > 0);
}
void check_backward(const Conv2dParams& p, bool bias = false) {
  AlgorithmGuard algorithm;
  if (p.kH == 4 || (p.pT == 1 && p.pL == 1)) {
    std::vector<Array> in{normal(y_size(p), 5), normal(w_size(p), 2)};
    if (bias) in.push_back(normal(p.C, 6));
    CHECK(check_op(kBwdData, &p, in, {{x_size(p)}}, "winograd2x2_bwd_data " + text(p), {kTolerance}) > 0);
  }
  CHECK(check_op(kBwdWeights, &p, {normal(x_size(p), 1), normal(y_size(p), 5)}, {{w_size(p)}},
                 "winograd2x2_bwd_weights " + text(p), {kTolerance}) > 0);
}
void check_all(const Conv2dParams& p) {
  check_forward(p);
  check_backward(p);
}

}  // namespace

TEST_CASE("winograd2x2: every size of the last tile") {
  for (int64_t taps : {3, 4})
    for (int64_t H = taps - 2; H <= 20; ++H) check_all(shape(taps, 2, 17, H, 5 + (H * 7) % 15, 18));
}

TEST_CASE("winograd2x2: tiles of fewer rows and columns, one output, one pixel") {
  for (int64_t taps : {3, 4}) {
    check_all(shape(taps, 3, 20, 14, 28, 40));
    check_all(shape(taps, 5, 16, 28, 14, 33));
    check_all(shape(taps, 1, 16, 2, 2, 16));
    check_all(shape(taps, 9, 40, 10, 12, 8));
  }
  check_all(shape(3, 1, 3, 1, 1, 5));
}

TEST_CASE("winograd2x2: channels") {
  for (int64_t C : {1, 3, 8, 15, 16, 31, 33, 100})
    for (int64_t taps : {3, 4}) {
      check_all(shape(taps, 3, C, 9, 12, 50));
      check_all(shape(taps, 3, 50, 9, 12, C));
    }
}

TEST_CASE("winograd2x2: padding") {
  for (Padding pad : {Padding{0, 0, 0, 0}, {0, 1, 0, 1}, {1, 0, 1, 0}, {2, 2, 2, 2}, {1, 2, 1, 0}, {2, 0, 0, 1}})
    for (int64_t taps : {3, 4}) check_all(shape(taps, 2, 20, 15, 18, 24, pad));
  for (Padding pad : {Padding{3, 2, 2, 3}, {3, 3, 3, 3}}) check_all(shape(4, 2, 20, 15, 18, 24, pad));
}

TEST_CASE("winograd2x2: bias, residual, activation") {
  for (int64_t taps : {3, 4})
    for (int operands = 0; operands < 4; ++operands)
      for (Act act : {Act::none, Act::relu, Act::relu6})
        check_forward(shape(taps, 3, 33, 15, 17, 40), operands, act);
  check_backward(shape(3, 3, 33, 15, 17, 40), true);
  check_backward(shape(4, 3, 33, 15, 17, 40), true);
}

TEST_CASE("winograd2x2: shared weights, weights by blocks, several chunks of tiles") {
  check_all(shape(3, 8, 64, 28, 28, 64));     // weights that all threads read, sums of chunks
  check_all(shape(3, 3, 64, 56, 56, 130));    // gradients by blocks of vectors
  check_all(shape(3, 2, 300, 14, 14, 520));   // weights by blocks, several depths
  check_all(shape(3, 30, 256, 16, 16, 300));  // several chunks of windows
  check_all(shape(4, 40, 128, 16, 16, 200));
}

TEST_CASE("winograd2x2: what it cannot do, where it would not pay, and the strict mode") {
  Operand in[2], out[1];
  Call c;
  c.in = in, c.out = out;
  IsaGuard restore;
  if (cpu::isa_name() == "ref") return;
  AlgorithmGuard algorithm;
  const auto reasons = [&](const Conv2dParams& p) {
    c.params = &p;
    std::vector<std::string> all;
    for (auto d :
         {cpu::winograd2x2_declines, cpu::winograd2x2_bwd_data_declines, cpu::winograd2x2_bwd_weights_declines}) {
      const char* why = d(c);
      all.emplace_back(why ? why : "");
    }
    return all;
  };
  using All = std::vector<std::string>;
  const All all{"", "", ""};
  for (const std::string& isa : cpu::available_isas()) {
    if (isa == "ref") continue;
    cpu::set_isa(isa);
    // The stages of ResNet-18, -20 and -50, a layer of a GAN.
    CHECK(reasons(shape(3, 16, 64, 56, 56, 128)) == all);
    const std::string few = "few channels", small = "too few pixels or channels for its transforms";
    CHECK(reasons(shape(3, 16, 256, 14, 14, 512)) == All{cpu::products_are_cheap() ? small : "", "", ""});
    CHECK(reasons(shape(3, 1, 128, 56, 56, 128))[0] == (cpu::products_are_cheap() ? small : ""));
    CHECK(reasons(shape(3, 8, 128, 56, 56, 128)) == all);
    CHECK(reasons(shape(3, 128, 32, 16, 16, 64)) == all);
    CHECK(reasons(shape(4, 64, 64, 32, 32, 128)) == all);
    CHECK(reasons(shape(3, 64, 320, 13, 13, 64))[0] == small);  // windows of many channels for few outputs
    CHECK(reasons(shape(3, 8, 3, 224, 224, 32)) == All{few, few, few});
    CHECK(reasons(shape(3, 1, 512, 14, 14, 512))[0] == small);
    CHECK(reasons(shape(3, 1, 512, 14, 14, 512))[1] == small);
    CHECK(reasons(shape(3, 8, 64, 56, 56, 128, {0, 1, 0, 1})) == All{"", "3x3 without padding of 1", ""});
    Conv2dParams p = shape(3, 8, 64, 56, 56, 128);
    p.kW = 4;
    CHECK(reasons(p)[0] == "not 4x4 or 3x3 of stride 2");
    p = shape(5, 8, 64, 56, 56, 128);
    CHECK(reasons(p)[0] == "not 4x4 or 3x3 of stride 2");
    p = shape(3, 8, 64, 56, 56, 128);
    p.act.act = Act::gelu;
    CHECK(reasons(p)[0] == "activation is not none, relu or relu6");
    p.act.act = Act::none, p.groups = 2;
    CHECK(reasons(p)[0] == "dilation or groups");
    p.groups = 1, p.pB = 3;
    CHECK(reasons(p)[0] == "padding of the window's size or more");
    p.pB = 1, p.N = 0;
    CHECK(reasons(p)[0] == "no pixels");
    p.N = 8;
    set_conv_algorithm("direct");
    for (const std::string& why : reasons(p)) CHECK(why == "conv algorithm is direct");
    set_conv_algorithm("auto");
  }
}
