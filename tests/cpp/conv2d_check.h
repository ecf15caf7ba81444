// What it is: a convolution as the tests write it, and conv2d, conv2d_bwd_data and conv2d_bwd_weights of it by
// every implementation on every ISA against the reference. What it is not: cases (test_conv2d*.cpp).
#pragma once
#include "backend/cpu/conv2d_adaptors.h"
#include "backend/cpu/conv2d_tasks.h"
#include "op_check.h"

namespace fastcnn::test {

inline Conv2dParams shape(int64_t N, int64_t C, int64_t H, int64_t W, int64_t O, int64_t kH, int64_t kW) {
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

inline std::string text(const Conv2dParams& p) {
  auto s = [](int64_t v) { return std::to_string(v); };
  return "N" + s(p.N) + " C" + s(p.C) + " " + s(p.H) + "x" + s(p.W) + " O" + s(p.O) + " k" + s(p.kH) + "x" +
         s(p.kW) + " s" + s(p.sH) + "x" + s(p.sW) + " p" + s(p.pT) + "," + s(p.pB) + "," + s(p.pL) + "," +
         s(p.pR) + " d" + s(p.dH) + "x" + s(p.dW) + " g" + s(p.groups);
}

// bfloat16 operands: sums are float32, so results are the reference's but for a last rounding to a neighbour.
inline void check_bf16(const Conv2dParams& p, int64_t x, int64_t w, int64_t y) {
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

inline void check(Conv2dParams p, std::initializer_list<int> variants = {0, 1, 2, 3, 4, 5}) {
  p.oH = conv_out_size(p.H, p.pT, p.pB, p.kH, p.sH, p.dH);
  p.oW = conv_out_size(p.W, p.pL, p.pR, p.kW, p.sW, p.dW);
  REQUIRE(p.oH > 0);
  REQUIRE(p.oW > 0);
  const int64_t x = p.N * p.C * p.H * p.W, y = p.N * p.O * p.oH * p.oW, w = p.O * p.C / p.groups * p.kH * p.kW;
  auto add = [](std::vector<Buffer>& v, int64_t n, uint32_t seed) { v.emplace_back(n), v.back().random(seed); };
  // Plain, bias, bias + residual + relu, residual + relu6, bias + silu, residual + hardswish; relu, bias + relu6.
  for (int variant : variants) {
    Conv2dParams q = p;
    q.has_bias = variant == 1 || variant == 2 || variant == 4 || variant == 7;
    q.has_residual = variant == 2 || variant == 3 || variant == 5;
    constexpr Act acts[] = {Act::none, Act::none,      Act::relu, Act::relu6,
                            Act::silu, Act::hardswish, Act::relu, Act::relu6};
    q.act.act = acts[variant];
    std::vector<Buffer> in;
    add(in, x, 1), add(in, w, 2);
    // The error is measured against the largest output, which relu6 must not cut far below the largest sum.
    if (variant == 3 || variant == 7)
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

// Does an implementation of a pass with two operands take p?
inline bool takes(const char* (*declines)(const Call&), Conv2dParams p) {
  p.oH = conv_out_size(p.H, p.pT, p.pB, p.kH, p.sH, p.dH);
  p.oW = conv_out_size(p.W, p.pL, p.pR, p.kW, p.sW, p.dW);
  Operand in[2], out[1];
  Call call;
  call.params = &p, call.in = in, call.out = out;
  return declines(call) == nullptr;
}

}  // namespace fastcnn::test
