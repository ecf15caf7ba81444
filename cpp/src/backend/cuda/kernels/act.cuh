// What it is: every Act and its derivatives on one number; the formulas of backend/cpu/ref/act.h, in the precision
// of the storage's real type.
#pragma once
#include "backend/cuda/device.cuh"

namespace fastcnn::cuda {

// The parameters as the tensor's type sees them, so that a value at a kink is at the kink.
template <class R>
struct ActOf {
  Act act = Act::none;
  R a = 0, b = 0;
  ActOf() = default;
  explicit ActOf(const ActParams& p) : act(p.act), a(static_cast<R>(p.alpha)), b(static_cast<R>(p.beta)) {}
};

template <class R>
FASTCNN_DEVICE R sigmoid(R x) {
  return 1 / (1 + exp(-x));
}
template <class R>
FASTCNN_DEVICE R clamp_to(R x, R lo, R hi) {  // NaN stays NaN
  return x < lo ? lo : x > hi ? hi : x;
}
template <class R>
FASTCNN_DEVICE R normal_cdf(R x) {
  return R(0.5) * erfc(-x * R(0.70710678118654752440));
}
template <class R>
FASTCNN_DEVICE R normal_pdf(R x) {
  return exp(R(-0.5) * x * x) * R(0.39894228040143267794);
}

constexpr double kActSeluAlpha = 1.6732632423543772848170429916717,
                 kActSeluScale = 1.0507009873554804934193349852946;
constexpr double kActRoot2OverPi = 0.79788456080286535587989211986876, kActCubic = 0.044715;

template <class R>
FASTCNN_DEVICE R apply_act(const ActOf<R>& p, R x) {
  switch (p.act) {
    case Act::relu: return x < 0 ? R(0) : x;
    case Act::relu6: return clamp_to(x, R(0), R(6));
    case Act::leaky_relu: return x > 0 ? x : x * p.a;
    case Act::elu: return x <= 0 ? expm1(x) * p.a : x;
    case Act::selu: return x <= 0 ? expm1(x) * R(kActSeluAlpha * kActSeluScale) : x * R(kActSeluScale);
    case Act::celu: return x <= 0 ? expm1(x / p.a) * p.a : x;
    case Act::gelu: return x * normal_cdf(x);
    case Act::gelu_tanh: return R(0.5) * x * (1 + tanh(R(kActRoot2OverPi) * (x + R(kActCubic) * x * x * x)));
    case Act::silu: return x / (1 + exp(-x));
    case Act::mish: return x * tanh(log1p(exp(x)));
    case Act::hardswish: return x * clamp_to(x + 3, R(0), R(6)) / 6;
    case Act::hardsigmoid: return clamp_to(x + 3, R(0), R(6)) / 6;
    case Act::hardtanh: return clamp_to(x, p.a, p.b);
    case Act::sigmoid: return sigmoid(x);
    case Act::tanh: return tanh(x);
    case Act::softplus: return x * p.a > p.b ? x : log1p(exp(x * p.a)) / p.a;
    case Act::softsign: return x / (1 + fabs(x));
    default: return x;
  }
}

// act on all values: those that clamp at once, others in a loop that turns the registers, because seventeen
// formulas for each of 32 values fill the instruction cache.
template <int M, int V>
FASTCNN_DEVICE void apply_act_to(const ActOf<float>& act, float (&v)[M][V]) {
  if (act.act == Act::none) return;
  if (act.act == Act::relu || act.act == Act::relu6) {
    const float top = act.act == Act::relu ? INFINITY : 6;
    FASTCNN_UNROLL
    for (int i = 0; i < M; ++i) {
      FASTCNN_UNROLL
      for (int k = 0; k < V; ++k) v[i][k] = clamp_to(v[i][k], 0.f, top);
    }
    return;
  }
  FASTCNN_NO_UNROLL
  for (int turn = 0; turn < V; ++turn) {
    FASTCNN_UNROLL
    for (int i = 0; i < M; ++i) {
      const float made = apply_act(act, v[i][0]);
      FASTCNN_UNROLL
      for (int k = 0; k + 1 < V; ++k) v[i][k] = v[i][k + 1];
      v[i][V - 1] = made;
    }
  }
}

// dy * f'; r is the output where act_bwd_uses_output(act), else the input.
template <class R>
FASTCNN_DEVICE R act_slope(const ActOf<R>& p, R dy, R r) {
  switch (p.act) {
    case Act::relu: return r <= 0 ? R(0) : dy;
    case Act::relu6: return r <= 0 || r >= 6 ? R(0) : dy;
    case Act::leaky_relu: return r > 0 ? dy : dy * p.a;
    case Act::elu: return r <= 0 ? dy * p.a * exp(r) : dy;
    case Act::selu: return r <= 0 ? dy * R(kActSeluAlpha * kActSeluScale) * exp(r) : dy * R(kActSeluScale);
    case Act::celu: return r <= 0 ? dy * exp(r / p.a) : dy;
    case Act::gelu: return dy * (normal_cdf(r) + r * normal_pdf(r));
    case Act::gelu_tanh: {
      const R t = tanh(R(kActRoot2OverPi) * (r + R(kActCubic) * r * r * r));
      return dy *
             (R(0.5) * (1 + t) + R(0.5) * r * (1 - t * t) * R(kActRoot2OverPi) * (1 + 3 * R(kActCubic) * r * r));
    }
    case Act::silu: {
      const R s = sigmoid(r);
      return dy * s * (1 + r * (1 - s));
    }
    case Act::mish: {
      const R s = sigmoid(r), t = tanh(log1p(exp(r)));
      return dy * (t + r * s * (1 - t * t));
    }
    case Act::hardswish: return r <= -3 ? R(0) : r < 3 ? dy * (r / 3 + R(0.5)) : dy;
    case Act::hardsigmoid: return r > -3 && r < 3 ? dy / 6 : R(0);
    case Act::hardtanh: return r <= p.a || r >= p.b ? R(0) : dy;
    case Act::sigmoid: return dy * (1 - r) * r;
    case Act::tanh: return dy * (1 - r * r);
    case Act::softplus: return r * p.a > p.b ? dy : dy * sigmoid(r * p.a);
    case Act::softsign: return dy / ((1 + fabs(r)) * (1 + fabs(r)));
    default: return dy;
  }
}

// f''; r as in act_slope. Zero at the kinks.
template <class R>
FASTCNN_DEVICE R act_curve(const ActOf<R>& p, R r) {
  switch (p.act) {
    case Act::elu: return r < 0 ? p.a * exp(r) : R(0);
    case Act::selu: return r < 0 ? R(kActSeluAlpha * kActSeluScale) * exp(r) : R(0);
    case Act::celu: return r < 0 ? exp(r / p.a) / p.a : R(0);
    case Act::gelu: return normal_pdf(r) * (2 - r * r);
    case Act::gelu_tanh: {
      const R t = tanh(R(kActRoot2OverPi) * (r + R(kActCubic) * r * r * r));
      const R k1 = R(kActRoot2OverPi) * (1 + 3 * R(kActCubic) * r * r);
      const R k2 = R(kActRoot2OverPi) * 6 * R(kActCubic) * r;
      return (1 - t * t) * (k1 + R(0.5) * r * (k2 - 2 * t * k1 * k1));
    }
    case Act::silu: {
      const R s = sigmoid(r);
      return s * (1 - s) * (2 + r * (1 - 2 * s));
    }
    case Act::mish: {
      const R s = sigmoid(r), t = tanh(log1p(exp(r)));
      return s * (1 - t * t) * (2 + r * (1 - s - 2 * t * s));
    }
    case Act::hardswish: return r > -3 && r < 3 ? R(1) / 3 : R(0);
    case Act::sigmoid: return r * (1 - r) * (1 - 2 * r);
    case Act::tanh: return -2 * r * (1 - r * r);
    case Act::softplus: {
      const R s = sigmoid(r * p.a);
      return r * p.a > p.b ? R(0) : p.a * s * (1 - s);
    }
    case Act::softsign: {
      const R d = 1 + fabs(r);
      return (r > 0 ? R(-2) : r < 0 ? R(2) : R(0)) / (d * d * d);
    }
    default: return 0;
  }
}

}  // namespace fastcnn::cuda
