// Activations: every implementation on every ISA against the reference, and the reference against known values.
#include "fastcnn/ops.h"
#include "op_check.h"

using namespace fastcnn;
using namespace fastcnn::test;

namespace {

ActParams params(Act a) {
  ActParams p;
  p.act = a;
  if (a == Act::leaky_relu) p.alpha = 0.1;
  if (a == Act::elu) p.alpha = 1.3;
  if (a == Act::celu) p.alpha = 1.7;
  if (a == Act::hardtanh) p.alpha = -0.7, p.beta = 1.2;
  if (a == Act::softplus) p.alpha = 1.5, p.beta = 5;
  return p;
}

Array inputs(int64_t n, bool extremes) {
  Array x = normal(n, 3, 3);
  const float special[] = {0,      -0.0f, 3,   -3,  6,        -0.7f,     1.2f,  1e-20f,
                           -1e-4f, 40,    -40, NAN, INFINITY, -INFINITY, 1e30f, -1e30f};
  if (n > 40)
    for (int i = 0; i < (extremes ? 16 : 12); ++i) x.f()[i] = special[i];
  return x;
}

std::string name(const char* op, Act a, int64_t n) {
  return std::string(op) + " act " + std::to_string(static_cast<int>(a)) + " n " + std::to_string(n);
}

}  // namespace

TEST_CASE("activation: value and derivatives of every Act") {
  for (int a = 0; a < static_cast<int>(Act::count); ++a)
    for (int64_t n : {0, 1, 15, 16, 17, 63, 100, 20011}) {
      Act act = static_cast<Act>(a);
      ActParams p = params(act);
      // Per value, not of the maximum: 2-3 ulp of the function plus what rounding the argument costs.
      CHECK(check_op(cpu::activation_list(), &p, {inputs(n, true)}, {{n}}, name("activation", act, n),
                     {1e-12, 3e-6}) > 0);
      Array r = inputs(n, false);
      if (act_bwd_uses_output(act)) {
        std::vector<Array> x;
        x.push_back(inputs(n, false));
        r = std::move(run_reference(cpu::activation_list(), &p, x, {{n}})[0]);
      }
      std::vector<Array> in;
      in.push_back(normal(n, 5));
      in.push_back(std::move(r));
      CHECK(check_op(cpu::activation_bwd_list(), &p, in, {{n}}, name("activation_bwd", act, n), {1e-6}) > 0);
      CHECK(check_op(cpu::activation_list(), &p, {rounded(inputs(n, true))}, {{n, DType::bfloat16}},
                     name("bf16 activation", act, n), {1e-12, 3e-6}) > 0);
      CHECK(check_op(cpu::activation_bwd_list(), &p, {rounded(in[0]), rounded(in[1])}, {{n, DType::bfloat16}},
                     name("bf16 activation_bwd", act, n), {1e-6}) > 0);
      in.insert(in.begin(), normal(n, 6));
      CHECK(check_op(cpu::activation_bwd2_list(), &p, in, {{n}}, name("activation_bwd2", act, n), {2e-6}) > 0);
    }
}

TEST_CASE("activation: reference against known values") {
  struct Known {
    Act act;
    double x, y, d;  // value and derivative from PyTorch 2.13 in float64
  };
  const Known known[] = {{Act::relu, -1, 0, 0},
                         {Act::relu6, 7, 6, 0},
                         {Act::gelu, 1, 0.8413447460685429, 1.0833154705876864},
                         {Act::gelu_tanh, 1, 0.8411919906082768, 1.0829640838457826},
                         {Act::silu, 1, 0.7310585786300049, 0.9276705118714869},
                         {Act::mish, 1, 0.8650983882673103, 1.0490362200997922},
                         {Act::hardswish, 1, 2.0 / 3, 5.0 / 6},
                         {Act::hardsigmoid, 1, 2.0 / 3, 1.0 / 6},
                         {Act::selu, -1, -1.1113307378125625, 0.6467686030034995},
                         {Act::softsign, -1, -0.5, 0.25}};
  for (const Known& k : known) {
    ActParams p = params(k.act);
    std::vector<Array> in;
    in.emplace_back(1);
    in[0].f()[0] = static_cast<float>(k.x);
    auto y = run_reference(cpu::activation_list(), &p, in, {{1}});
    CHECK(y[0].f()[0] == doctest::Approx(k.y).epsilon(1e-6));
    if (act_bwd_uses_output(k.act)) in[0].f()[0] = y[0].f()[0];
    in.insert(in.begin(), Array(1));
    in[0].f()[0] = 1;
    CHECK(run_reference(cpu::activation_bwd_list(), &p, in, {{1}})[0].f()[0] ==
          doctest::Approx(k.d).epsilon(1e-6));
  }
}

TEST_CASE("activation: the second derivative is the slope of the first") {
  for (int a = 0; a < static_cast<int>(Act::count); ++a) {
    Act act = static_cast<Act>(a);
    ActParams p = params(act);
    for (double x : {-2.2, -0.4, 0.3, 1.1, 2.5}) {
      auto slope = [&](double at, bool second) {
        std::vector<Array> in;
        for (int i = 0; i < (second ? 3 : 2); ++i) in.emplace_back(1, DType::float64), *in.back().as<double>() = 1;
        std::vector<Array> xs;
        xs.emplace_back(1, DType::float64);
        *xs[0].as<double>() = at;
        if (act_bwd_uses_output(act)) xs = run_reference(cpu::activation_list(), &p, xs, {{1, DType::float64}});
        in.back() = std::move(xs[0]);
        auto list = second ? cpu::activation_bwd2_list() : cpu::activation_bwd_list();
        return *run_reference(list, &p, in, {{1, DType::float64}})[0].as<double>();
      };
      double h = 1e-5, numeric = (slope(x + h, false) - slope(x - h, false)) / (2 * h), f1 = slope(x, false);
      // Through the output, f'' is d f'/dy and the chain rule gives f'' = d f'/dx directly for sigmoid and tanh.
      INFO("act " << a << " x " << x << " f' " << f1);
      CHECK(slope(x, true) == doctest::Approx(numeric).epsilon(1e-6));
    }
  }
}

TEST_CASE("activation: numbers that are no Act are refused") {
  for (int a : {-5, -1, static_cast<int>(Act::count), 1000}) {
    ActParams p;
    p.act = static_cast<Act>(a);
    CHECK_THROWS_AS(activation(ones({3}), p), ValueError);
  }
}
