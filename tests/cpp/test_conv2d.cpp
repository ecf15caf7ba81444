// conv2d, conv2d_bwd_data, conv2d_bwd_weights: every implementation on every ISA against the reference.
#include "backend/cpu/conv2d_adaptors.h"
#include "backend/cpu/conv2d_tasks.h"
#include "op_check.h"

using namespace fastcnn;
using namespace fastcnn::test;

namespace {

Conv2dParams shape(int64_t N, int64_t C, int64_t H, int64_t W, int64_t O, int64_t kH, int64_t kW) {
  Conv2dParams p;
  p.N = N, p.C = C, p.H = H, p.W = W, p.O = O, p.kH = kH, p.kW = kW;
  return p;
}

struct Case {
  Conv2dParams p;
  Case(int64_t N, int64_t C, int64_t H, int64_t W, int64_t O, int64_t kH, int64_t kW)
      : p(shape(N, C, H, W, O, kH, kW)) {}
  Case stride(int64_t h, int64_t w) { return p.sH = h, p.sW = w, *this; }
  Case pad(int64_t t, int64_t b, int64_t l, int64_t r) { return p.pT = t, p.pB = b, p.pL = l, p.pR = r, *this; }
  Case pad(int64_t a) { return pad(a, a, a, a); }
  Case dilate(int64_t h, int64_t w) { return p.dH = h, p.dW = w, *this; }
  Case groups(int64_t g) { return p.groups = g, *this; }
};

std::string text(const Conv2dParams& p) {
  auto s = [](int64_t v) { return std::to_string(v); };
  return "N" + s(p.N) + " C" + s(p.C) + " " + s(p.H) + "x" + s(p.W) + " O" + s(p.O) + " k" + s(p.kH) + "x" +
         s(p.kW) + " s" + s(p.sH) + "x" + s(p.sW) + " p" + s(p.pT) + "," + s(p.pB) + "," + s(p.pL) + "," +
         s(p.pR) + " d" + s(p.dH) + "x" + s(p.dW) + " g" + s(p.groups);
}

// bfloat16 operands: sums are float32, so results are the reference's but for a last rounding to a neighbour.
void check_bf16(const Conv2dParams& p, int64_t x, int64_t w, int64_t y) {
  const Array ax = rounded(normal(x, 1)), aw = rounded(normal(w, 2)), ady = rounded(normal(y, 5));
  for (int variant = 0; variant < 4; ++variant) {
    Conv2dParams q = p;
    q.has_bias = variant == 1 || variant == 2;
    q.has_residual = variant >= 2;
    q.act.act = variant == 2 ? Act::relu : variant == 3 ? Act::relu6 : Act::none;
    std::vector<Array> in{ax, aw};
    if (q.has_bias) in.push_back(rounded(normal(p.O, 3)));
    if (q.has_residual) in.push_back(rounded(normal(y, 4)));
    CHECK(check_op(cpu::conv2d_list(), &q, in, {{y, DType::bfloat16}},
                   "bf16 conv2d " + text(p) + " variant " + std::to_string(variant)) > 0);
  }
  for (int bias = 0; bias < 2; ++bias) {
    std::vector<Array> in{ady, aw};
    if (bias) in.push_back(rounded(normal(p.C, 6)));
    CHECK(check_op(cpu::conv2d_bwd_data_list(), &p, in, {{x, DType::bfloat16}},
                   "bf16 conv2d_bwd_data " + text(p)) > 0);
    std::vector<Out> outs{{w, DType::bfloat16}};
    if (bias) outs.push_back({p.O, DType::bfloat16});
    CHECK(check_op(cpu::conv2d_bwd_weights_list(), &p, {ax, ady}, outs, "bf16 conv2d_bwd_weights " + text(p)) > 0);
  }
}

void check(Conv2dParams p, std::initializer_list<int> variants = {0, 1, 2, 3, 4, 5}) {
  p.oH = conv_out_size(p.H, p.pT, p.pB, p.kH, p.sH, p.dH);
  p.oW = conv_out_size(p.W, p.pL, p.pR, p.kW, p.sW, p.dW);
  REQUIRE(p.oH > 0);
  REQUIRE(p.oW > 0);
  const int64_t x = p.N * p.C * p.H * p.W, y = p.N * p.O * p.oH * p.oW, w = p.O * p.C / p.groups * p.kH * p.kW;
  auto add = [](std::vector<Buffer>& v, int64_t n, uint32_t seed) { v.emplace_back(n), v.back().random(seed); };
  // Plain, bias, bias + residual + relu, residual + relu6, bias + silu, residual + hardswish.
  for (int variant : variants) {
    Conv2dParams q = p;
    q.has_bias = variant == 1 || variant == 2 || variant == 4;
    q.has_residual = variant == 2 || variant == 3 || variant == 5;
    constexpr Act acts[] = {Act::none, Act::none, Act::relu, Act::relu6, Act::silu, Act::hardswish};
    q.act.act = acts[variant];
    std::vector<Buffer> in;
    add(in, x, 1), add(in, w, 2);
    // The error is measured against the largest output, which relu6 must not cut far below the largest sum.
    if (variant == 3)
      for (int64_t i = 0; i < w; ++i) in[1].data()[i] *= 9 / std::sqrt(static_cast<float>(w / p.O));
    if (q.has_bias) add(in, p.O, 3);
    if (q.has_residual) add(in, y, 4);
    CHECK(check_call(cpu::conv2d_list(), &q, in, {y}, 1e-5,
                     "conv2d " + text(p) + " variant " + std::to_string(variant)) > 0);
  }
  for (int bias = 0; bias < 2; ++bias) {
    std::vector<Buffer> in;
    add(in, y, 5), add(in, w, 2);
    if (bias) add(in, p.C, 6);
    CHECK(check_call(cpu::conv2d_bwd_data_list(), &p, in, {x}, 1e-5, "conv2d_bwd_data " + text(p)) > 0);
    std::vector<Buffer> in2;
    add(in2, x, 1), add(in2, y, 5);
    std::vector<int64_t> outs = {w};
    if (bias) outs.push_back(p.O);
    CHECK(check_call(cpu::conv2d_bwd_weights_list(), &p, in2, outs, 2e-5, "conv2d_bwd_weights " + text(p)) > 0);
  }
  check_bf16(p, x, w, y);
}

}  // namespace

TEST_CASE("conv2d dense: channels, maps and batches") {
  for (int64_t N : {0, 1, 3})
    for (auto [C, O] : {std::pair<int64_t, int64_t>{1, 1}, {3, 17}, {17, 3}, {33, 64}, {64, 33}, {1, 32}})
      check(Case(N, C, 7, 7, O, 3, 3).pad(1).p);
  check(Case(2, 64, 7, 7, 64, 3, 3).pad(1).p);
  check(Case(1, 70, 5, 6, 130, 3, 3).pad(1).p);
  check(Case(2, 16, 33, 31, 16, 3, 3).pad(1).p);
  check(Case(1, 150, 4, 4, 20, 3, 3).pad(1).p);
}

TEST_CASE("conv2d dense: 1x1") {
  check(Case(2, 64, 7, 7, 33, 1, 1).p);
  check(Case(3, 17, 5, 9, 64, 1, 1).p);
  check(Case(1, 1030, 2, 3, 70, 1, 1).p);
  check(Case(2, 33, 7, 8, 17, 1, 1).stride(2, 2).p);
  check(Case(2, 5, 7, 8, 6, 1, 1).pad(1).p);
  check(Case(1, 16, 224, 225, 64, 1, 1).p);  // written past the caches
  check(Case(1, 64, 226, 224, 4, 2, 2).stride(2, 2).p);
  check(Case(2, 200, 9, 11, 40, 1, 1).p);  // fetched ahead
  check(Case(1, 8, 14, 13, 200, 1, 1).p);  // each thread reads all weights, for pixels of its own
  check(Case(1, 300, 5, 7, 480, 1, 1).p);  // tiles fetch the weights of the next block
  check(Case(2, 5, 9, 8, 6, 1, 1).stride(3, 2).pad(0, 1, 1, 0).p);
}

// Windows inside of the image in tiles, of which the last of a row makes pixels again; at its borders one by one.
TEST_CASE("conv2d with few outputs: inputs in lanes") {
  for (int64_t O = 1; O <= 8; ++O) {
    check(Case(2, 33, 9, 13, O, 3, 3).pad(1).p);
    check(Case(1, 128, 6, 5, O, 1, 1).p);
  }
  for (int64_t O : {1, 2, 3, 4}) {
    for (int64_t W : {3, 5, 8, 11, 23}) check(Case(1, 20, 5, W, O, 3, 5).pad(1, 1, 2, 1).p);
    check(Case(2, 64, 15, 14, O, 7, 7).stride(2, 3).pad(3).p);
    check(Case(1, 40, 12, 17, O, 3, 3).dilate(2, 3).pad(2, 1, 4, 5).p);
  }
  check(Case(1, 64, 3, 4, 2, 5, 5).pad(4).p);  // windows wider than the image
  check(Case(1, 48, 2, 2, 3, 3, 3).pad(5).p);  // windows of nothing but padding
  check(Case(40, 256, 4, 4, 3, 4, 4).stride(2, 2).pad(1).p);
  check(Case(2, 100, 30, 33, 7, 2, 2).p);
  check(Case(2, 128, 9, 10, 16, 7, 7).pad(3).groups(4).p);
  check(Case(1, 96, 14, 13, 8, 5, 5).pad(2).dilate(2, 2).groups(8).p);
  check(Case(3, 48, 7, 7, 4, 1, 1).groups(2).p);
  check(Case(2, 128, 74, 75, 4, 1, 1).groups(2).p, {0, 2});  // rows below are fetched
  check(Case(1, 80, 130, 131, 2, 2, 3).stride(3, 2).p, {0, 2});
}

// Whole vectors of outputs and windows an even step apart, of one and of several runs; rows of whole tiles, with
// what is left of one, and shorter ones.
TEST_CASE("conv2d dense: tiles in a line") {
  for (int64_t O : {16, 32, 48, 96, 144}) check(Case(2, 16, 13, 15, O, 1, 1).p);
  check(Case(1, 24, 56, 56, 144, 1, 1).p);  // more than half of L2: results' places are fetched
  check(Case(1, 32, 60, 61, 64, 1, 1).p);
  check(Case(2, 32, 9, 28, 96, 1, 1).stride(1, 2).p);
  for (int64_t W : {56, 59, 15}) check(Case(2, 3, 20, W, 32, 3, 3).stride(2, 2).pad(1).p);
  check(Case(1, 3, 112, 224, 48, 3, 3).stride(2, 2).pad(1).p);
  for (int64_t O : {32, 48}) check(Case(2, 1, 28, 28, O, 5, 5).pad(2).p);
  check(Case(2, 2, 11, 36, 96, 3, 3).pad(0, 1, 2, 1).p);
}

TEST_CASE("conv2d: parts of an image that a dilated window sees together") {
  check(Case(2, 40, 24, 22, 36, 3, 3).dilate(2, 2).pad(2).p);
  check(Case(1, 64, 23, 25, 64, 3, 3).dilate(2, 2).pad(2).p);
  check(Case(1, 33, 24, 25, 20, 3, 3).dilate(3, 1).pad(3, 3, 1, 1).p);
  check(Case(2, 20, 37, 40, 17, 3, 3).dilate(17, 18).pad(17, 17, 18, 18).p);
  check(Case(1, 24, 40, 38, 12, 3, 5).dilate(18, 9).pad(18).groups(2).p);
  check(Case(1, 16, 50, 7, 16, 5, 1).dilate(12, 1).pad(12, 36, 0, 0).p);
}

TEST_CASE("conv2d: taps that see nothing but padding, taps that lie far apart") {
  check(Case(2, 40, 8, 9, 24, 3, 3).dilate(36, 36).pad(36).p);  // the middle one alone
  check(Case(1, 36, 20, 33, 20, 3, 3).dilate(20, 20).stride(2, 2).pad(20).p);
  check(Case(2, 12, 18, 17, 8, 3, 3).dilate(17, 18).pad(17, 17, 18, 18).groups(2).p);
  check(Case(1, 20, 9, 50, 17, 1, 3).dilate(1, 24).pad(0, 0, 24, 24).p);
  check(Case(1, 18, 40, 41, 6, 3, 3).dilate(18, 19).pad(7).p);
  check(Case(1, 18, 40, 41, 6, 3, 3).dilate(18, 1).pad(7, 7, 1, 1).p);
  check(Case(1, 16, 5, 6, 12, 7, 7).pad(6).p);
  check(Case(2, 16, 5, 6, 12, 7, 5).pad(6, 5, 4, 2).stride(3, 2).p);
  check(Case(1, 16, 6, 6, 16, 3, 3).dilate(30, 30).pad(28, 32, 33, 27).p);  // the middle meets the image's part
}

TEST_CASE("conv2d dense: stride, padding, dilation") {
  check(Case(2, 17, 9, 8, 20, 3, 3).stride(2, 2).pad(1).p);
  check(Case(1, 6, 11, 13, 9, 3, 3).stride(3, 3).pad(1, 0, 2, 1).p);
  check(Case(2, 4, 12, 10, 9, 3, 3).dilate(2, 2).pad(2).p);
  check(Case(1, 4, 14, 15, 5, 3, 2).dilate(2, 3).stride(2, 2).pad(3, 1, 0, 2).p);
  check(Case(1, 3, 14, 15, 5, 4, 3).dilate(3, 2).stride(2, 3).pad(3, 2, 4, 2).p);
  check(Case(2, 3, 19, 21, 64, 7, 7).stride(2, 2).pad(3).p);
  check(Case(3, 1, 12, 12, 32, 5, 5).pad(2).p);
  check(Case(2, 8, 8, 8, 12, 4, 4).stride(2, 2).pad(1).p);
  check(Case(2, 5, 3, 3, 4, 5, 5).pad(2).p);
  check(Case(1, 5, 2, 9, 4, 5, 3).pad(4, 3, 2, 2).p);
  check(Case(2, 9, 4, 4, 8, 4, 4).p);
  check(Case(1, 3, 5, 5, 4, 2, 2).stride(5, 5).p);
  check(Case(1, 2, 9, 300, 3, 3, 9).pad(1, 1, 4, 4).p);
}

TEST_CASE("conv2d dense: groups and depthwise") {
  check(Case(2, 12, 7, 7, 20, 3, 3).groups(4).pad(1).p);
  check(Case(1, 34, 6, 6, 66, 3, 3).groups(2).pad(1).stride(2, 2).p);
  check(Case(2, 12, 5, 5, 8, 1, 1).groups(4).p);
  check(Case(2, 64, 7, 9, 64, 3, 3).groups(16).pad(1).p);
  check(Case(1, 30, 9, 8, 45, 3, 3).groups(15).pad(1).stride(2, 2).p);
  check(Case(2, 32, 6, 6, 64, 3, 3).groups(32).pad(1).p);
  check(Case(2, 96, 5, 6, 24, 3, 2).groups(12).pad(1).dilate(2, 1).p);
  for (int64_t C : {1, 3, 17, 40, 96})
    for (int64_t s : {1, 2}) {
      check(Case(2, C, 9, 8, C, 3, 3).groups(C).pad(1).stride(s, s).p);
      check(Case(1, C, 11, 13, C, 5, 5).groups(C).pad(2).stride(s, s).p);
    }
  check(Case(0, 16, 7, 7, 16, 3, 3).groups(16).pad(1).p);
  check(Case(1, 20, 9, 10, 20, 3, 3).groups(20).pad(2).dilate(2, 2).p);
  check(Case(2, 33, 9, 31, 33, 3, 3).groups(33).pad(3).dilate(3, 3).p);
  check(Case(3, 40, 40, 39, 40, 3, 3).groups(40).pad(2).dilate(2, 2).p);  // rows below the last tap's are fetched
  check(Case(1, 24, 11, 27, 24, 4, 4).groups(24).pad(1).stride(2, 2).p);  // runs of half the pixels
  check(Case(1, 16, 8, 5, 16, 5, 5).groups(16).pad(8).dilate(4, 4).p);
  check(Case(1, 16, 12, 12, 16, 3, 3).groups(16).pad(2, 3, 1, 4).dilate(2, 2).stride(2, 2).p);
  check(Case(1, 400, 12, 13, 20, 3, 3).pad(6).dilate(6, 6).p);
  check(Case(1, 20, 9, 10, 20, 4, 2).groups(20).pad(2, 1, 0, 3).stride(3, 1).p);
  check(Case(2, 6, 7, 7, 18, 3, 3).groups(6).pad(1).p);
  check(Case(2, 32, 7, 40, 32, 7, 7).groups(32).pad(3).p);
}

TEST_CASE("conv2d with few channels in a group: outputs of several groups in a vector") {
  for (int64_t each : {2, 4, 8}) {
    check(Case(2, 8 * each, 9, 14, 8 * each, 3, 3).pad(1).groups(8).p);
    check(Case(2, 8 * each, 10, 13, 8 * each, 3, 3).pad(1).stride(2, 2).groups(8).p);
    check(Case(1, 7 * each, 8, 27, 7 * each, 3, 5).pad(2, 0, 1, 3).stride(1, 2).groups(7).p);  // a partial vector
    check(Case(1, 6 * each, 11, 9, 6 * each, 3, 3).pad(2).dilate(2, 2).groups(6).p);
    check(Case(1, 6 * each, 12, 10, 6 * each, 4, 2).pad(1).stride(3, 3).groups(6).p);  // pixels that no tap meets
    check(Case(2, 4 * each, 5, 5, 8 * each, 3, 3).pad(1).groups(4).p);                 // fewer inputs than outputs
    check(Case(2, 8 * each, 5, 5, 4 * each, 3, 3).pad(1).groups(4).p);                 // and more
  }
  check(Case(2, 20, 7, 9, 40, 3, 3).pad(1).groups(20).p);   // depthwise with two outputs for each channel
  check(Case(1, 32, 60, 70, 32, 3, 3).pad(1).groups(8).p);  // several strips
  check(Case(2, 16, 6, 6, 16, 1, 1).groups(4).p);
  check(Case(2, 16, 3, 3, 16, 3, 3).pad(5).groups(4).p);  // windows that see padding alone
  check(Case(2, 16, 2, 3, 16, 3, 3).pad(1).stride(4, 4).groups(4).p);
}

TEST_CASE("conv2d with few channels in a group: which ones are held in lanes") {
  Operand in[2], out[1];
  Call c;
  c.in = in, c.out = out;
  const auto reasons = [&](Conv2dParams p) {
    p.oH = conv_out_size(p.H, p.pT, p.pB, p.kH, p.sH, p.dH),
    p.oW = conv_out_size(p.W, p.pL, p.pR, p.kW, p.sW, p.dW);
    c.params = &p;
    std::vector<std::string> all;
    for (auto d :
         {cpu::group_lanes_declines, cpu::group_lanes_bwd_data_declines, cpu::group_lanes_bwd_weights_declines}) {
      const char* why = d(c);
      all.emplace_back(why ? why : "");
    }
    return all;
  };
  using All = std::vector<std::string>;
  IsaGuard restore;
  for (const std::string& isa : cpu::available_isas()) {
    if (isa == "ref" || isa == "portable") continue;
    cpu::set_isa(isa);
    CHECK(reasons(Case(8, 128, 56, 56, 128, 3, 3).pad(1).groups(32).p) == All{"", "", ""});  // ResNeXt
    const std::string wide = "a vector does not hold whole groups", few = "few products";
    const std::string eight = cpu::lanes() == 16 ? "" : wide;
    CHECK(reasons(Case(8, 256, 28, 28, 256, 3, 3).pad(1).groups(32).p) == All{eight, eight, eight});
    CHECK(reasons(Case(8, 512, 14, 14, 512, 3, 3).pad(1).groups(32).p) == All{wide, wide, wide});
    CHECK(reasons(Case(8, 64, 28, 28, 128, 3, 3).pad(1).groups(64).p)[1] ==
          "more channels in a group than outputs");
    CHECK(reasons(Case(8, 64, 28, 28, 64, 1, 1).groups(16).p) == All{few, few, ""});
    CHECK(reasons(Case(8, 64, 28, 28, 64, 3, 3).pad(1).groups(64).p)[0] == "depthwise");
    CHECK(reasons(Case(8, 64, 28, 28, 64, 3, 3).pad(1).p)[0] == "one group");
    CHECK(reasons(Case(8, 12, 28, 28, 16, 3, 3).pad(1).groups(4).p)[0] == "a group has not 1, 2, 4 or 8 channels");
  }
}

TEST_CASE("conv2d with few input channels: their gradient in whole vectors of pixels") {
  check(Case(2, 3, 12, 16, 40, 4, 4).stride(2, 2).pad(1).p);
  check(Case(1, 3, 9, 20, 17, 3, 3).pad(1).p);
  check(Case(2, 1, 10, 32, 20, 5, 5).pad(2).p);
  check(Case(1, 2, 11, 24, 9, 7, 7).stride(2, 2).pad(3).p);
  check(Case(1, 4, 13, 24, 33, 3, 5).stride(3, 1).pad(0, 2, 1, 3).dilate(2, 1).p);
  check(Case(1, 3, 15, 12, 8, 5, 4).stride(2, 3).pad(2, 1, 3, 0).p);
  check(Case(2, 1, 8, 16, 5, 1, 3).stride(3, 1).p);
}

TEST_CASE("conv2d backward to data by columns: rings of rows, groups, few pixels") {
  check(Case(3, 3, 40, 37, 40, 7, 7).stride(2, 2).pad(3).p);
  check(Case(1, 2, 61, 9, 33, 5, 5).pad(2, 1, 0, 3).p);                    // several blocks of rows of one image
  check(Case(1, 3, 50, 12, 48, 4, 3).stride(3, 2).dilate(2, 3).pad(4).p);  // steps of rows that meet no tap
  check(Case(2, 16, 8, 33, 64, 3, 3).stride(2, 2).pad(1).dilate(2, 2).groups(16).p);
  check(Case(2, 12, 9, 10, 96, 3, 5).pad(2).groups(3).p);
  check(Case(5, 1, 3, 3, 130, 2, 2).p);
  check(Case(2, 2, 13, 30, 64, 1, 9).stride(1, 4).pad(0, 0, 4, 4).p);
  check(Case(1, 200, 14, 14, 32, 7, 7).stride(3, 3).dilate(2, 2).p);  // one pixel: weights as they lie
  check(Case(2, 40, 6, 5, 70, 4, 4).stride(2, 1).p);                  // eight
  check(Case(2, 40, 5, 4, 70, 4, 4).pad(0, 0, 0, 0).stride(1, 3).p);  // four
  check(
      Case(1, 4, 3, 40, 70, 3, 3).stride(1, 5).pad(0, 4, 0, 0).p);  // rows and columns of dx that no window meets
}

// Does an implementation of a pass with two operands take p?
static bool takes(const char* (*declines)(const Call&), Conv2dParams p) {
  p.oH = conv_out_size(p.H, p.pT, p.pB, p.kH, p.sH, p.dH);
  p.oW = conv_out_size(p.W, p.pL, p.pR, p.kW, p.sW, p.dW);
  Operand in[2], out[1];
  Call call;
  call.params = &p, call.in = in, call.out = out;
  return declines(call) == nullptr;
}

TEST_CASE("conv2d backward to data with few channels and many outputs in a group: outputs in lanes") {
  const Case cases[] = {Case(2, 4, 9, 10, 32, 3, 3).pad(1).groups(4),
                        Case(1, 2, 7, 23, 130, 1, 1).groups(2),
                        Case(3, 3, 8, 9, 128, 1, 1),
                        Case(2, 6, 11, 9, 108, 3, 3).pad(0, 2, 1, 2).groups(2),
                        Case(2, 3, 12, 11, 57, 3, 3).pad(1).dilate(2, 2).groups(3),
                        Case(2, 2, 13, 11, 96, 3, 3).pad(1).stride(2, 2).groups(2),
                        Case(1, 2, 14, 15, 72, 4, 5).pad(2).stride(2, 3).groups(2)};
  for (const Case& c : cases) {
    const Conv2dParams& p = c.p;
    check(p, {0});
    if (!cpu::kernels() || cpu::lanes() < 8) continue;
    CHECK_MESSAGE(takes(cpu::few_outputs_bwd_data_declines, p), text(p));
  }
}

TEST_CASE("conv2d of few channels on both sides: pixels in the lanes") {
  struct {
    Case c;
    bool taken;
  } const cases[] = {
      {Case(8, 3, 40, 41, 3, 3, 3).pad(1), true},
      {Case(9, 3, 30, 29, 7, 4, 4).pad(3).dilate(2, 2), true},  // strips of parts of images
      {Case(40, 2, 15, 14, 2, 5, 5).pad(2), true},              // strips of several images
      {Case(8, 8, 33, 40, 1, 3, 3).pad(0, 2, 1, 0), true},
      {Case(3, 5, 47, 50, 8, 3, 3).pad(5).dilate(3, 4), true},
      {Case(16, 4, 40, 41, 3, 5, 6).pad(2).stride(2, 2).dilate(1, 3), true},
      {Case(16, 4, 34, 37, 2, 3, 3).pad(1).stride(3, 1).dilate(2, 3), true},
      {Case(9, 5, 40, 41, 3, 6, 4).stride(1, 2), true},
      {Case(8, 4, 61, 60, 3, 5, 5).pad(2).stride(2, 2), true},  // residues of dx
      {Case(8, 15, 30, 31, 9, 3, 3).pad(1).groups(3), true},
      {Case(60, 5, 19, 18, 4, 1, 3).pad(0, 0, 1, 1), true},
      {Case(64, 2, 28, 29, 7, 1, 1), true},  // all pixels in rows of even length
      {Case(61, 2, 53, 59, 5, 1, 1), true},
      {Case(1, 2, 1, 8009, 5, 1, 1), false},  // of a prime number
      {Case(4, 16, 20, 20, 12, 3, 3).pad(1), false},
  };
  for (const auto& k : cases) {
    const Conv2dParams& p = k.c.p;
    check(p);
    if (!cpu::kernels() || cpu::lanes() < 16) continue;
    CHECK_MESSAGE(takes(cpu::planes_declines, p) == k.taken, text(p));
    CHECK_MESSAGE(takes(cpu::planes_bwd_data_declines, p) == k.taken, text(p));
    CHECK_MESSAGE(takes(cpu::planes_bwd_weights_declines, p) == k.taken, text(p));
  }
}

TEST_CASE("conv2d whose stride and dilation have a common divisor: the part of the image that is read") {
  struct {
    Case c;
    bool taken, back;  // by conv2d and the gradient of weights; by that of the data
  } const cases[] = {
      {Case(2, 5, 13, 14, 12, 4, 4).stride(2, 2).dilate(2, 2).pad(4), true, true},
      {Case(2, 19, 14, 17, 24, 3, 3).stride(3, 3).dilate(3, 3).pad(1), true, true},
      {Case(1, 16, 17, 19, 32, 3, 3).stride(2, 2).dilate(2, 2).pad(3, 0, 1, 2), true, true},
      {Case(2, 6, 15, 16, 8, 3, 2).stride(4, 1).dilate(2, 3).pad(2), true,
       true},  // a stride of 2 is left, rows alone
      {Case(1, 6, 23, 21, 9, 3, 3).stride(2, 3).dilate(4, 6).pad(5).groups(3), true, true},
      {Case(2, 40, 17, 15, 40, 5, 5).stride(2, 2).dilate(2, 2).pad(3).groups(40), true, true},
      {Case(2, 7, 12, 11, 7, 1, 1).stride(2, 3).groups(7), false, true},
      {Case(2, 33, 9, 10, 20, 1, 1).stride(2, 2), false, true},
      {Case(2, 32, 9, 10, 20, 1, 1).stride(2, 2), false, false},
      {Case(1, 8, 9, 10, 20, 1, 3).stride(3, 1).pad(2, 2, 1, 1), true,
       true},  // rows of padding, one tap of any dilation
      {Case(1, 8, 9, 10, 20, 3, 3).stride(2, 3).dilate(3, 2).pad(2), false, false},
      {Case(1, 4, 1, 6, 5, 1, 1).stride(4, 4).pad(2), false, false},  // sees padding alone
  };
  for (const auto& k : cases) {
    const Conv2dParams& p = k.c.p;
    check(p);
    if (!cpu::kernels()) continue;
    CHECK_MESSAGE(takes(cpu::subsampled_declines, p) == k.taken, text(p));
    CHECK_MESSAGE(takes(cpu::subsampled_bwd_data_declines, p) == k.back, text(p));
    CHECK_MESSAGE(takes(cpu::subsampled_bwd_weights_declines, p) == k.taken, text(p));
  }
}

TEST_CASE("conv2d of few pixels: products that read the weights as they lie") {
  const Case cases[] = {Case(1, 37, 1, 1, 50, 1, 1), Case(4, 130, 1, 1, 9, 1, 1), Case(1, 33, 2, 2, 17, 1, 1),
                        Case(3, 19, 3, 5, 40, 3, 5), Case(1, 1, 1, 2, 1, 1, 2).stride(2, 3)};
  for (const Case& c : cases) {
    const Conv2dParams& p = c.p;
    check(p);
    if (!cpu::kernels()) continue;
    CHECK_MESSAGE(takes(cpu::product_declines, p), text(p));
    CHECK_MESSAGE(takes(cpu::product_bwd_data_declines, p), text(p));
    CHECK_MESSAGE(takes(cpu::product_bwd_weights_declines, p), text(p));
  }
  if (cpu::kernels()) CHECK(!takes(cpu::product_declines, Case(5, 37, 1, 1, 50, 1, 1).p));
}

TEST_CASE("conv2d weight gradients of a single tile: neighbouring pixels have sums of their own") {
  check(Case(3, 3, 11, 13, 16, 1, 1).p, {0});
  check(Case(5, 16, 30, 31, 3, 1, 1).p, {0});  // several strips
  check(Case(2, 1, 9, 50, 8, 2, 4).pad(1).p, {0});
  check(Case(2, 8, 9, 11, 4, 3, 3).pad(1).dilate(2, 2).p, {0});
  check(Case(1, 8, 1, 3, 1, 1, 1).p, {0});
}

TEST_CASE("conv2d weight gradients: columns that a tap sees as padding are left out") {
  check(Case(2, 64, 4, 5, 33, 7, 7).pad(3).p, {0});
  check(Case(1, 20, 9, 7, 100, 3, 3).pad(4).dilate(4, 4).p, {0});
  check(Case(2, 7, 6, 9, 40, 5, 5).pad(5, 3, 6, 2).stride(1, 2).p, {0});
  check(Case(1, 48, 5, 40, 24, 3, 3).pad(9).dilate(9, 11).p, {0});  // strips of a row that a tap does not see
  check(Case(2, 8, 15, 14, 64, 3, 3).pad(1).groups(2).p, {0});
}

TEST_CASE("conv2d weight gradients: vectors over outputs where channels leave lanes idle") {
  check(Case(2, 65, 9, 8, 64, 7, 7).pad(3).p);
  check(Case(3, 17, 14, 13, 31, 3, 3).dilate(3, 3).pad(1).p);
  check(Case(2, 100, 7, 7, 256, 2, 2).pad(1).p);
  check(Case(1, 8, 30, 31, 160, 3, 3).dilate(2, 2).p);
  check(Case(2, 20, 28, 28, 64, 1, 1).p);
  check(Case(4, 8, 1, 1, 144, 1, 1).p);   // groups of outputs that are no whole vectors, up to the end of dy
  check(Case(3, 5, 20, 20, 31, 1, 1).p);  // vectors that reach into the next strip
  check(Case(2, 72, 9, 12, 96, 3, 3).stride(2, 2).pad(1).p);
  check(Case(1, 40, 12, 12, 128, 3, 3).groups(2).pad(1).stride(2, 2).p);
}

TEST_CASE("conv2d weight gradients: panels, phases of columns and strips ahead") {
  check(Case(2, 100, 20, 19, 70, 1, 1).stride(2, 2).p);        // several panels, of every second pixel
  check(Case(2, 70, 9, 10, 33, 1, 1).stride(1, 2).pad(1).p);   // zeros around a single tap
  check(Case(1, 66, 15, 16, 40, 3, 3).stride(2, 2).pad(1).p);  // two phases, four in bfloat16
  check(Case(1, 40, 17, 19, 35, 3, 3).stride(2, 3).dilate(1, 2).pad(2).p);
  check(Case(2, 48, 11, 13, 20, 3, 1).stride(2, 2).pad(1, 1, 0, 0).p);
  check(Case(2, 48, 11, 13, 20, 1, 3).stride(2, 1).pad(0, 0, 1, 1).p);
  check(Case(2, 32, 3, 400, 300, 1, 3).pad(0, 0, 1, 1).p);  // columns of several strips, outputs of several parts
  check(Case(3, 64, 40, 41, 130, 1, 1).p);                  // large enough to fetch the next strip
}

TEST_CASE("conv2d over the whole image") {
  check(Case(9, 20, 4, 4, 33, 4, 4).p);
  check(Case(3, 5, 3, 5, 16, 3, 5).stride(2, 2).p);
  check(Case(130, 16, 5, 5, 20, 5, 5).p);
}

TEST_CASE("conv2d 4x4 of stride 2") {
  check(Case(12, 32, 16, 16, 32, 4, 4).stride(2, 2).pad(1).p);
  check(Case(16, 40, 14, 15, 70, 4, 4).stride(2, 2).pad(1, 1, 1, 0).p);  // tiles past the border, partial vectors
  check(Case(3, 33, 32, 34, 35, 4, 4).stride(2, 2).pad(1).p);
  check(Case(13, 48, 17, 18, 33, 4, 4).stride(2, 2).pad(0).p);
  check(Case(13, 64, 12, 13, 96, 4, 4).stride(2, 2).pad(3, 2, 2, 3).p);
  check(Case(50, 96, 8, 8, 130, 4, 4).stride(2, 2).pad(1).p);
  check(Case(2, 160, 40, 40, 32, 4, 4).stride(2, 2).pad(1).p);
}

TEST_CASE("conv2d depthwise: rows of several tiles") {
  for (int64_t W : {14, 15, 16, 21, 22, 28, 31})
    for (int64_t s : {1, 2}) {
      check(Case(2, 32, 5, W, 32, 3, 3).groups(32).pad(1).stride(s, s).p);
      check(Case(1, 35, 9, W, 35, 5, 5).groups(35).pad(2).stride(s, s).p);
      check(Case(1, 16, 6, W, 16, 5, 5).groups(16).pad(0, 1, 1, 2).stride(s, s).p);
    }
  for (int64_t W : {7, 16, 23, 31})
    for (int64_t k : {2, 4, 7})
      for (int64_t s : {1, 2}) check(Case(1, 35, 8, W, 35, k, k).groups(35).pad(k / 2).stride(s, s).p, {0, 2});
  for (int64_t s : {1, 2, 3}) {
    check(Case(3, 20, 4, 5, 20, 1, 1).groups(20).stride(s, s).p);
    check(Case(128, 32, 4, 4, 32, 1, 1).groups(32).stride(s, s).dilate(3, 3).p);
    check(Case(2, 16, 7, 6, 16, 1, 1).groups(16).stride(s, 1).pad(1).p);
  }
  check(Case(2, 144, 40, 35, 144, 3, 3).groups(144).pad(1).p);  // large enough to fetch ahead
  check(Case(2, 144, 40, 35, 144, 3, 3).groups(144).pad(1).stride(2, 2).p);
  check(Case(1, 512, 64, 100, 512, 3, 3).groups(512).pad(1).p, {0, 2});  // written past the caches
}

TEST_CASE("conv2d depthwise with few channels: pixels of whole windows as one run of floats") {
  for (int64_t C = 2; C <= 8; ++C) {
    check(Case(2, C, 17, 37, C, 3, 3).groups(C).pad(1).p);
    check(Case(1, C, 18, 40, C, 2 + C % 6, 1 + C % 7).groups(C).pad(1, 0, 2, 1).dilate(1, 2).p);
  }
  check(Case(1, 3, 19, 130, 3, 7, 7).groups(3).pad(3).p);
  check(Case(2, 2, 20, 150, 2, 4, 6).groups(2).pad(2).dilate(3, 3).p);
  check(Case(1, 4, 16, 33, 4, 1, 9).groups(4).pad(0, 0, 7, 12).p);
  check(Case(1, 4, 16, 33, 4, 8, 8).groups(4).pad(4).p);    // more taps than a run takes
  check(Case(9, 2, 90, 95, 2, 3, 3).groups(2).pad(1).p);    // rows below are fetched
  check(Case(2, 3, 25, 40, 3, 3, 45).groups(3).pad(30).p);  // no window is whole
  check(Case(1, 2, 16, 60, 2, 3, 3).groups(2).pad(1).stride(2, 1).p);
  check(Case(1, 4, 7, 2100, 4, 3, 3).groups(4).pad(1).p);  // few rows for each thread: the same bits
}

TEST_CASE("conv2d depthwise: windows of any kind") {
  for (int64_t W : {7, 10, 13, 16, 19, 22, 25, 28, 31})
    check(Case(1, 70, 7, W, 70, 3, 3).groups(70).stride(3, 2).p);
  for (int64_t W : {9, 20, 29, 41}) check(Case(1, 20, 8, W, 20, 2, 2).groups(20).stride(2, 2).pad(1).p);
  check(Case(1, 130, 15, 14, 130, 7, 7).groups(130).stride(3, 3).pad(3).p);  // channels in blocks
  check(Case(1, 100, 30, 31, 100, 6, 6).groups(100).stride(3, 3).pad(1).p);
  check(Case(2, 64, 40, 41, 64, 3, 3).groups(64).stride(3, 3).pad(1).p);  // rows below are fetched
  check(Case(2, 48, 47, 50, 48, 2, 2).groups(48).stride(4, 3).p);         // and those that no window sees are not
  check(Case(3, 33, 41, 40, 33, 1, 1).groups(33).stride(2, 2).p);
  check(Case(2, 40, 9, 1, 40, 7, 7).groups(40).stride(2, 2).pad(3).p);  // one column: six of padding alone
  check(Case(2, 40, 1, 9, 40, 5, 5).groups(40).pad(2).p);
  check(Case(3, 20, 4, 5, 20, 3, 3).groups(20).stride(3, 3).p);  // small images: dx in residues
}

TEST_CASE("conv2d dense: groups strip by strip, residues of dx piece by piece") {
  check(Case(2, 40, 31, 29, 24, 3, 3).groups(4).stride(2, 2).pad(1).p);
  check(Case(3, 96, 20, 19, 80, 1, 1).groups(16).p);
  check(Case(1, 144, 17, 40, 144, 2, 3).groups(3).pad(1).p);
  check(Case(2, 20, 83, 81, 8, 3, 3).stride(2, 2).pad(1).p);
  check(Case(2, 16, 70, 75, 20, 4, 3).stride(3, 3).dilate(1, 2).pad(2).p);
  check(Case(1, 200, 12, 11, 260, 3, 3).stride(2, 2).pad(1).p);  // weights that do not stay in L2
  check(Case(1, 17, 2, 3, 40, 1, 1).stride(3, 2).p);             // residues without taps
  check(Case(2, 192, 60, 64, 16, 1, 1).groups(8).p);             // chunks of the weights' gradient that fit L2
}

TEST_CASE("conv2d dense: windows that do not leave the image are read in place") {
  check(Case(2, 130, 14, 13, 40, 4, 4).stride(3, 3).p);  // blocks of channels
  check(Case(2, 64, 9, 10, 48, 3, 3).groups(2).stride(2, 1).p);
  check(Case(1, 24, 15, 17, 33, 3, 3).dilate(2, 2).p);
  check(Case(1, 1024, 5, 6, 20, 2, 2).p);                // rows of pixels in one set of the cache
  check(Case(3, 20, 9, 9, 17, 3, 3).pad(0, 1, 0, 1).p);  // these do, by one
  check(Case(2, 20, 10, 9, 17, 3, 3).stride(3, 3).p);    // rows below that no window sees
  check(Case(5, 8, 16, 12, 24, 4, 4).stride(4, 4).p);    // patches
  check(Case(1, 3, 40, 41, 33, 8, 5).stride(8, 5).p);
  check(Case(40, 16, 3, 3, 20, 2, 2).p);  // strips of several images
}

TEST_CASE("conv2d dense: taps that see padding are left out, pixels sorted by the others") {
  check(Case(2, 20, 7, 7, 100, 5, 5).dilate(3, 3).pad(6).p);
  check(Case(2, 24, 33, 33, 20, 3, 3).dilate(18, 18).pad(18).p);
  check(Case(1, 300, 33, 30, 17, 3, 3).dilate(24, 20).pad(24, 24, 20, 20).p);  // blocks of channels
  check(Case(3, 17, 14, 13, 20, 5, 4).stride(2, 1).dilate(3, 2).pad(6).p);
  check(Case(6, 33, 28, 1, 40, 2, 2).pad(1).p);
  check(Case(20, 24, 7, 7, 40, 7, 7).pad(3).p);
  check(Case(2, 32, 9, 8, 24, 3, 3).groups(2).dilate(4, 4).pad(4).p);
  check(Case(2, 16, 5, 5, 48, 3, 3).dilate(4, 4).pad(9).p);  // pixels that see nothing
  check(Case(9, 40, 6, 6, 33, 3, 8).dilate(1, 2).pad(1, 1, 7, 7).p);
  check(Case(2, 40, 11, 10, 36, 4, 4).p);  // back to data: most of the image is border
  check(Case(3, 33, 5, 6, 48, 5, 5).stride(3, 3).dilate(2, 2).pad(4).p);
}

TEST_CASE("conv2d dense: fusions are declined where they would multiply padding") {
  Operand in[4], out[2];
  Call c;
  c.in = {in, 2}, c.out = {out, 1};
  IsaGuard restore;
  for (const std::string& isa : cpu::available_isas()) {
    if (isa == "ref") continue;
    cpu::set_isa(isa);
    const auto reason = [&](Conv2dParams p, bool norm, bool moments) -> std::string {
      p.oH = conv_out_size(p.H, p.pT, p.pB, p.kH, p.sH, p.dH),
      p.oW = conv_out_size(p.W, p.pL, p.pR, p.kW, p.sW, p.dW);
      p.has_norm_in = norm, p.has_moments = moments;
      c.params = &p, c.in = {in, norm ? size_t{4} : size_t{2}}, c.out = {out, moments ? size_t{2} : size_t{1}};
      const char* why = cpu::dense_declines(c);
      return why ? why : "";
    };
    const std::string padding = "input norm or moments: taps that see padding are left out without";
    const Conv2dParams far = Case(2, 64, 33, 33, 64, 3, 3).dilate(18, 18).pad(18).p;
    CHECK(reason(far, false, false) == "");
    CHECK(reason(far, true, false) == padding);
    CHECK(reason(far, false, true) == padding);
    const Conv2dParams near = Case(2, 64, 28, 28, 64, 3, 3).pad(1).p;
    CHECK(reason(near, true, false) == "");
    CHECK(reason(near, false, true) == "");
  }
}

TEST_CASE("conv2d depthwise of bfloat16: NaN and infinity reach the windows that hold them, no others") {
  for (int64_t k : {3, 5})
    for (int64_t s : {1, 2})
      for (Act act : {Act::none, Act::relu, Act::relu6}) {
        Conv2dParams p = Case(1, 40, 9, 30, 40, k, k).groups(40).pad(1).stride(s, s).p;
        p.oH = conv_out_size(p.H, p.pT, p.pB, p.kH, p.sH, p.dH);
        p.oW = conv_out_size(p.W, p.pL, p.pR, p.kW, p.sW, p.dW);
        p.act.act = act;
        Array x = normal(9 * 30 * 40, 1);
        const float values[] = {NAN, -NAN, INFINITY, -INFINITY};
        for (int64_t i = 0; i < 24; ++i) x.f()[(i * 431 + 7) % x.n] = values[i % 4];
        CHECK(check_op(cpu::conv2d_list(), &p, {rounded(x), rounded(normal(k * k * 40, 2))},
                       {{40 * p.oH * p.oW, DType::bfloat16}}, "bf16 not finite " + text(p)) > 0);
      }
}

TEST_CASE("conv2d: every activation, after dense and depthwise kernels") {
  for (int a = 0; a < static_cast<int>(Act::count); ++a)
    for (Conv2dParams p : {Case(2, 20, 6, 7, 35, 1, 1).p, Case(1, 600, 5, 5, 40, 1, 1).p,
                           Case(1, 19, 9, 9, 19, 3, 3).pad(1).groups(19).stride(2, 2).p,
                           Case(2, 6, 7, 8, 12, 3, 3).pad(1).groups(2).p}) {
      p.oH = conv_out_size(p.H, p.pT, p.pB, p.kH, p.sH, p.dH);
      p.oW = conv_out_size(p.W, p.pL, p.pR, p.kW, p.sW, p.dW);
      p.act.act = static_cast<Act>(a), p.act.alpha = 0.4, p.act.beta = p.act.act == Act::softplus ? 20 : 1.5;
      const std::vector<Array> in{normal(p.N * p.C * p.H * p.W, 1),
                                  normal(p.O * p.C / p.groups * p.kH * p.kW, 2, 0.2f)};
      CHECK(check_op(cpu::conv2d_list(), &p, in, {{p.N * p.O * p.oH * p.oW}},
                     text(p) + " activation " + std::to_string(a)) > 0);
    }
}

TEST_CASE("conv2d: other dtypes are left to the reference") {
  Conv2dParams p = Case(1, 4, 5, 5, 4, 3, 3).pad(1).p;
  p.oH = p.oW = 5;
  Buffer x(100), w(144), y(100);
  Operand in[2] = {operand(x), operand(w)}, out[1] = {operand(y)};
  Call c;
  c.params = &p, c.in = in, c.out = out;
  in[0].dtype = in[1].dtype = out[0].dtype = DType::float64;
  for (cpu::List l : {cpu::conv2d_list(), cpu::conv2d_bwd_data_list(), cpu::conv2d_bwd_weights_list()})
    for (const Implementation& i : l.first(l.size() - 1)) CHECK(i.declines(c) != nullptr);
}
