// Winograd F(4x4, 3x3) and F(2x2, 5x5): the three passes against the reference (sums in float64) on every ISA and
// several thread counts, also where the lists would not choose it. The bound of 5e-6 of the maximum is what the
// points 0, +-sqrt(1/2), +-sqrt(2) keep up to 512 channels.
#include "backend/cpu/conv2d_adaptors.h"
#include "fastcnn/runtime.h"
#include "op_check.h"

using namespace fastcnn;
using namespace fastcnn::test;

namespace {

constexpr double kTolerance = 5e-6;

const Implementation kForward[] = {{"winograd", cpu::winograd_cannot, cpu::winograd_workspace, cpu::winograd_run,
                                    cpu::winograd_prepared, cpu::winograd_prepare},
                                   {"ref", nullptr, nullptr, cpu::conv2d_list().back().run}};
const Implementation kBwdData[] = {
    {"winograd", cpu::winograd_cannot, cpu::winograd_bwd_data_workspace, cpu::winograd_bwd_data_run},
    {"ref", nullptr, nullptr, cpu::conv2d_bwd_data_list().back().run}};
const Implementation kBwdWeights[] = {
    {"winograd", cpu::winograd_cannot, cpu::winograd_bwd_weights_workspace, cpu::winograd_bwd_weights_run},
    {"ref", nullptr, nullptr, cpu::conv2d_bwd_weights_list().back().run}};

// The larger windows of stride 2.
const Implementation kParities[] = {{"parities", cpu::parities_cannot, cpu::parities_workspace, cpu::parities_run},
                                    {"ref", nullptr, nullptr, cpu::conv2d_list().back().run}};
const Implementation kParitiesBwdData[] = {
    {"parities", cpu::parities_bwd_cannot, cpu::parities_bwd_data_workspace, cpu::parities_bwd_data_run},
    {"ref", nullptr, nullptr, cpu::conv2d_bwd_data_list().back().run}};
const Implementation kParitiesBwdWeights[] = {
    {"parities", cpu::parities_bwd_cannot, cpu::parities_bwd_weights_workspace, cpu::parities_bwd_weights_run},
    {"ref", nullptr, nullptr, cpu::conv2d_bwd_weights_list().back().run}};

struct Padding {
  int64_t top = 1, bottom = 1, left = 1, right = 1;
};

Conv2dParams shape(int64_t N, int64_t C, int64_t H, int64_t W, int64_t O, Padding pad = {}, int64_t groups = 1,
                   int64_t taps = 3) {
  Conv2dParams p;
  p.N = N, p.C = C, p.H = H, p.W = W, p.O = O, p.kH = p.kW = taps, p.groups = groups;
  p.pT = pad.top, p.pB = pad.bottom, p.pL = pad.left, p.pR = pad.right;
  p.oH = conv_out_size(H, p.pT, p.pB, taps, 1, 1), p.oW = conv_out_size(W, p.pL, p.pR, taps, 1, 1);
  return p;
}
// The same with 5x5 taps: padding that keeps the size, or what is asked for.
Conv2dParams shape5(int64_t N, int64_t C, int64_t H, int64_t W, int64_t O, Padding pad = {2, 2, 2, 2},
                    int64_t groups = 1) {
  return shape(N, C, H, W, O, pad, groups, 5);
}

std::string text(const Conv2dParams& p) {
  return concat("N", p.N, " C", p.C, " ", p.H, "x", p.W, " O", p.O, " p", p.pT, ",", p.pB, ",", p.pL, ",", p.pR,
                " g", p.groups, " ", p.kH, "x", p.kW);
}

Buffer random(int64_t n, uint32_t seed) {
  Buffer b(n);
  b.random(seed);
  return b;
}

int64_t x_size(const Conv2dParams& p) { return p.N * p.C * p.H * p.W; }
int64_t y_size(const Conv2dParams& p) { return p.N * p.O * p.oH * p.oW; }
int64_t w_size(const Conv2dParams& p) { return p.O * p.C / p.groups * p.kH * p.kW; }

// bit 0: bias, bit 1: residual
void check_forward(Conv2dParams p, int operands, Act act) {
  AlgorithmGuard algorithm;
  p.has_bias = operands & 1, p.has_residual = operands >> 1, p.act.act = act;
  std::vector<Buffer> in;
  in.push_back(random(x_size(p), 1)), in.push_back(random(w_size(p), 2));
  if (p.has_bias) in.push_back(random(p.O, 3));
  if (p.has_residual) in.push_back(random(y_size(p), 4));
  CHECK(check_call(kForward, &p, in, {y_size(p)}, kTolerance, "winograd " + text(p)) > 0);
}

void check_backward(const Conv2dParams& p, bool bias) {
  AlgorithmGuard algorithm;
  std::vector<Buffer> data, weights;
  data.push_back(random(y_size(p), 5)), data.push_back(random(w_size(p), 2));
  if (bias) data.push_back(random(p.C, 6));
  CHECK(check_call(kBwdData, &p, data, {x_size(p)}, kTolerance, "winograd_bwd_data " + text(p)) > 0);
  weights.push_back(random(x_size(p), 1)), weights.push_back(random(y_size(p), 5));
  std::vector<int64_t> outs = {w_size(p)};
  if (bias) outs.push_back(p.O);
  CHECK(check_call(kBwdWeights, &p, weights, outs, kTolerance, "winograd_bwd_weights " + text(p)) > 0);
}

// bfloat16 images and weights: float32 between windows and outputs, which are rounded once. The gradient of the
// weights may stay float32.
void check_bf16(Conv2dParams p) {
  constexpr DType half = DType::bfloat16;
  const Array x = rounded(normal(x_size(p), 1)), w = rounded(normal(w_size(p), 2)),
              dy = rounded(normal(y_size(p), 5));
  const Tolerance bound{2 * kTolerance};
  CHECK(check_op(kBwdData, &p, {dy, w, rounded(normal(p.C, 6))}, {{x_size(p), half}}, "bf16 bwd_data " + text(p),
                 bound) > 0);
  CHECK(check_op(kBwdWeights, &p, {x, dy}, {{w_size(p), half}, {p.O, half}}, "bf16 bwd_weights " + text(p),
                 bound) > 0);
  p.has_bias = p.has_residual = 1, p.act.act = Act::relu;
  CHECK(check_op(kForward, &p, {x, w, rounded(normal(p.O, 3)), rounded(normal(y_size(p), 4))}, {{y_size(p), half}},
                 "bf16 forward " + text(p), bound) > 0);
}

void check_all(const Conv2dParams& p) {
  check_forward(p, 0, Act::none);
  check_backward(p, false);
}

}  // namespace

TEST_CASE("winograd: bfloat16") {
  for (int64_t size : {4, 7, 13}) check_bf16(shape(2, 18, size, size + 1, 33));
  check_bf16(shape(1, 3, 9, 9, 64));
  check_bf16(shape(2, 64, 10, 10, 17, {0, 2, 1, 0}));
  check_bf16(shape(2, 36, 8, 8, 40, {}, 2));
  check_bf16(shape(2, 256, 14, 14, 256));
  for (int64_t size : {5, 8}) check_bf16(shape5(2, 18, size, size + 1, 33));
  check_bf16(shape5(1, 36, 7, 7, 40, {0, 4, 3, 1}, 2));
}

TEST_CASE("winograd: every size of the last tile") {
  for (int64_t H = 1; H <= 9; ++H)
    for (int64_t W : {H, int64_t{10} - H}) check_all(shape(2, 17, H, W, 20));
  for (int64_t H : {13, 14, 17}) check_all(shape(1, 16, H, H + 1, 18));
  check_all(shape(1, 16, 56, 30, 16));
  for (int64_t H = 1; H <= 7; ++H) check_all(shape5(2, 17, H, 8 - H, 20));
  for (int64_t H : {9, 14}) check_all(shape5(1, 16, H, H + 1, 18));
  check_all(shape5(1, 16, 28, 15, 16));
}

// With so many channels tiles of m - 1 rows or columns leave out products at infinity. By groups where there are
// as many tiles as outputs or the weights are prepared, else by blocks; by planes with many channels and tiles.
TEST_CASE("winograd: tiles of fewer rows and columns") {
  for (int64_t H = 1; H <= 9; ++H) check_all(shape(2, 66, H, 10 - H, 68));
  for (int64_t H : {11, 13, 14}) check_all(shape(7, 68, H, H + 1, 66));
  for (int64_t H = 1; H <= 7; ++H) check_all(shape5(2, 66, H, 8 - H, 68));
  check_all(shape5(3, 68, 11, 13, 66));
  const Conv2dParams p = shape(3, 66, 7, 14, 68), by_groups = shape(9, 66, 7, 14, 68),
                     by_planes = shape(120, 264, 3, 2, 272);
  for (const Conv2dParams& q : {p, by_groups, by_planes}) {
    check_forward(q, 3, Act::relu);
    check_backward(q, true);
  }
  check_bf16(p);
  check_bf16(shape(5, 132, 7, 5, 140, {}, 2));
}

TEST_CASE("winograd: channels") {
  for (auto [C, O] :
       {std::pair<int64_t, int64_t>{1, 1}, {3, 17}, {17, 3}, {30, 64}, {64, 30}, {100, 50}, {48, 112}}) {
    check_all(shape(1, C, 9, 6, O));
    check_all(shape5(1, C, 7, 4, O));
  }
}

TEST_CASE("winograd: padding") {
  for (int64_t pad : {0, 1, 2}) check_all(shape(2, 20, 7, 8, 18, {pad, pad, pad, pad}));
  check_all(shape(1, 16, 7, 5, 17, {0, 2, 1, 0}));
  check_all(shape(1, 17, 6, 6, 16, {2, 1, 0, 2}));
  check_all(shape(3, 16, 1, 1, 16, {2, 2, 1, 1}));
  for (int64_t pad : {0, 1, 2, 3, 4}) check_all(shape5(2, 20, 7, 8, 18, {pad, pad, pad, pad}));
  check_all(shape5(1, 16, 7, 5, 17, {0, 4, 1, 0}));
  check_all(shape5(1, 17, 6, 6, 16, {4, 1, 0, 3}));
  check_all(shape5(3, 16, 1, 1, 16, {2, 2, 4, 4}));
}

TEST_CASE("winograd: bias, residual, activation, groups") {
  const Conv2dParams p = shape(2, 18, 7, 9, 35), q = shape(2, 36, 6, 5, 60, {}, 3);
  for (int operands = 0; operands < 4; ++operands)
    for (Act act : {Act::none, Act::relu, Act::relu6}) check_forward(p, operands, act);
  check_backward(p, true);
  check_forward(q, 3, Act::relu);
  check_backward(q, true);
  const Conv2dParams p5 = shape5(2, 18, 7, 9, 35), q5 = shape5(2, 36, 6, 5, 60, {2, 2, 2, 2}, 3);
  for (int operands = 0; operands < 4; ++operands)
    for (Act act : {Act::none, Act::relu, Act::relu6}) check_forward(p5, operands, act);
  check_backward(p5, true);
  check_forward(q5, 3, Act::relu);
  check_backward(q5, true);
}

// Above a million floats of transformed weights a plan keeps them as they are.
TEST_CASE("winograd: many prepared weights") {
  check_forward(shape(1, 180, 7, 6, 180), 1, Act::relu);
  check_forward(shape(5, 172, 14, 13, 181), 2, Act::none);
  check_forward(shape(2, 360, 6, 5, 354, {}, 2), 3, Act::relu);
  check_forward(shape5(1, 180, 7, 6, 180), 1, Act::relu);
  check_forward(shape5(4, 172, 11, 13, 181, {0, 1, 2, 3}), 3, Act::relu);
  check_bf16(shape(2, 180, 7, 6, 180));
}

TEST_CASE("winograd: many channels and many tiles keep the bound") {
  check_forward(shape(1, 512, 4, 4, 40), 0, Act::none);
  check_backward(shape(1, 40, 4, 4, 512), true);
  check_backward(shape(1, 300, 7, 7, 160), true);  // by blocks: channels of one product at a time
  check_backward(shape(9, 144, 14, 14, 144), true);
  check_backward(shape(13, 16, 17, 16, 16), true);  // several chunks of sums
  check_forward(shape(9, 176, 16, 14, 176), 1, Act::relu);
  // By planes: many channels and more tiles than a few chunks.
  check_forward(shape(350, 520, 1, 1, 260), 3, Act::relu);
  check_backward(shape(470, 260, 1, 1, 520), true);
  check_forward(shape5(1, 512, 4, 4, 40), 0, Act::none);
  check_backward(shape5(1, 40, 4, 4, 512), true);
  check_backward(shape5(1, 300, 7, 7, 160), true);
  check_backward(shape5(5, 144, 14, 14, 144), true);
  check_backward(shape5(9, 16, 17, 16, 16), true);
  check_forward(shape5(5, 176, 8, 14, 176), 1, Act::relu);
}

TEST_CASE("winograd: gradients of images much larger than the result, by tiles of dy") {
  for (bool bias : {false, true}) {
    check_backward(shape5(3, 18, 9, 11, 35, {0, 0, 0, 0}), bias);
    check_backward(shape5(2, 40, 5, 5, 17, {0, 0, 0, 0}), bias);
    check_backward(shape5(2, 20, 10, 7, 33, {0, 1, 1, 0}), bias);
  }
  check_backward(shape(2, 33, 3, 3, 20, {0, 0, 0, 0}), false);
  check_backward(shape5(40, 260, 6, 6, 300, {0, 0, 0, 0}), true);
}

TEST_CASE("winograd: windows of 5 to 10 and stride 2, on parities") {
  auto check = [](int64_t taps, int64_t N, int64_t C, int64_t H, int64_t W, int64_t O, Padding pad, int operands) {
    AlgorithmGuard algorithm;
    Conv2dParams p = shape(N, C, H, W, O, pad, 1, taps);
    p.sH = p.sW = 2;
    p.oH = conv_out_size(H, pad.top, pad.bottom, taps, 2, 1);
    p.oW = conv_out_size(W, pad.left, pad.right, taps, 2, 1);
    std::vector<Buffer> data, weights;
    if (taps != 7 && taps != 8) {  // forward alone
      data.push_back(random(y_size(p), 5)), data.push_back(random(w_size(p), 2));
      CHECK(check_call(kParitiesBwdData, &p, data, {x_size(p)}, kTolerance, "parities_bwd_data " + text(p)) > 0);
      weights.push_back(random(x_size(p), 1)), weights.push_back(random(y_size(p), 5));
      std::vector<int64_t> outs = {w_size(p)};
      if (operands & 1) outs.push_back(p.O);
      CHECK(check_call(kParitiesBwdWeights, &p, weights, outs, kTolerance, "parities_bwd_weights " + text(p)) > 0);
    }
    p.has_bias = operands & 1, p.has_residual = operands >> 1, p.act.act = operands ? Act::relu : Act::none;
    std::vector<Buffer> in;
    in.push_back(random(x_size(p), 1)), in.push_back(random(w_size(p), 2));
    if (p.has_bias) in.push_back(random(p.O, 3));
    if (p.has_residual) in.push_back(random(y_size(p), 4));
    CHECK(check_call(kParities, &p, in, {y_size(p)}, kTolerance, "parities " + text(p)) > 0);
  };
  for (int64_t taps : {5, 6, 7, 8, 9, 10}) {
    check(taps, 3, 3, 38, 35, 20, {3, 3, 3, 3}, 1);
    check(taps, 2, 1, 20, 20, 18, {2, 3, 3, 2}, 2);
    check(taps, 2, 5, 20, 20, 18, {0, 0, 0, 0}, 0);
    check(taps, 1, 17, 15, 12, 33, {2, 2, 2, 2}, 3);
    check(taps, 2, 8, 11, 14, 16, {4, 1, 0, 3}, 1);
  }
  check(9, 2, 3, 9, 10, 20, {8, 8, 8, 8}, 2);
  if (cpu::isa_name() != "ref") {  // the first layer of residual nets
    Conv2dParams p = shape(1, 3, 224, 224, 64, {3, 3, 3, 3}, 1, 7);
    p.sH = p.sW = 2, p.oH = p.oW = 112;
    Operand in[2], out[1];
    Call c;
    c.params = &p, c.in = in, c.out = out;
    AlgorithmGuard algorithm;
    CHECK(cpu::parities_declines(c) == nullptr);
    CHECK(std::string(cpu::parities_bwd_weights_declines(c)) == "window is 7 or 8");
  }
  check(5, 3, 16, 5, 5, 16, {0, 0, 0, 0}, 0);
}

TEST_CASE("winograd: what it cannot do, and the strict mode") {
  Conv2dParams p = shape(8, 64, 28, 28, 64);
  Operand in[2], out[1];
  Call c;
  c.params = &p, c.in = in, c.out = out;
  auto reason = [&] {
    const char* why = cpu::winograd_cannot(c);
    return std::string(why ? why : "");
  };
  IsaGuard restore;
  if (cpu::isa_name() == "ref") return;
  AlgorithmGuard algorithm;
  CHECK(reason() == "");
  CHECK(cpu::winograd_declines(c) == nullptr);
  CHECK(cpu::winograd_bwd_data_declines(c) == nullptr);
  CHECK(cpu::winograd_bwd_weights_declines(c) == nullptr);
  p.kW = 5;
  CHECK(reason() == "window is not 3x3 or 5x5");
  p.kW = 3, p.sH = 2;
  CHECK(reason() == "stride is not 1");
  p.sH = 1, p.dW = 2;
  CHECK(reason() == "dilation is not 1");
  p.dW = 1, p.pB = 3;
  CHECK(reason() == "padding of the window's size or more");
  p.pB = 1, p.act.act = Act::gelu;
  CHECK(reason() == "activation is not none, relu or relu6");
  p.act.act = Act::none, p.N = 0;
  CHECK(reason() == "no pixels");
  p.N = 8;
  set_conv_algorithm("direct");
  CHECK(get_conv_algorithm() == "direct");
  CHECK(reason() == "conv algorithm is direct");
  for (auto d : {cpu::winograd_declines, cpu::winograd_bwd_data_declines, cpu::winograd_bwd_weights_declines})
    CHECK(std::string(d(c)) == "conv algorithm is direct");
  CHECK_THROWS_WITH_AS(set_conv_algorithm("fft"), "set_conv_algorithm: expected 'auto' or 'direct', got 'fft'",
                       std::invalid_argument);
  CHECK(get_conv_algorithm() == "direct");
  set_conv_algorithm("auto");
  cpu::set_isa("ref");
  CHECK(reason() == "isa is ref");
}

TEST_CASE("winograd: where it would not pay") {
  Operand in[2], out[1];
  Call c;
  c.in = in, c.out = out;
  IsaGuard restore;
  AlgorithmGuard algorithm;
  for (const std::string& isa : cpu::available_isas()) {
    if (isa == "ref") continue;
    cpu::set_isa(isa);
    auto reasons = [&](const Conv2dParams& p) {
      c.params = &p;
      std::string s;
      for (auto d :
           {cpu::winograd_declines, cpu::winograd_bwd_data_declines, cpu::winograd_bwd_weights_declines}) {
        const char* why = d(c);
        s.append(why ? why : "takes it").append("; ");
      }
      return s;
    };
    auto thrice = [](const std::string& s) { return s + "; " + s + "; " + s + "; "; };
    CHECK(reasons(shape(16, 64, 56, 56, 64)) == thrice("takes it"));
    CHECK(reasons(shape(128, 16, 32, 32, 16)) == thrice("takes it"));
    CHECK(reasons(shape(8, 512, 7, 7, 512)) == thrice("takes it"));
    CHECK(reasons(shape(128, 3, 32, 32, 16)) == thrice("too few channels for its transforms"));
    CHECK(reasons(shape(8, 96, 56, 56, 96, {}, 32)) == thrice("too few channels for its transforms"));
    CHECK(reasons(shape(8, 64, 5, 5, 64)) == thrice("too many pixels of its tiles lie outside"));
    CHECK(reasons(shape(1, 64, 4, 8, 64)) == thrice("too few pixels for its transformed weights"));
    CHECK(reasons(shape(1, 512, 7, 7, 512)) == "takes it; takes it; too few pixels for its transformed weights; ");
  }
}
