// What it is: every Act with its first and second derivative in double; the formulas (and their choices at kinks,
// NaN and infinity) are PyTorch's. Used by the references of activation and of every op with an activation
// epilogue. What it is not: vector code (kernels/act.h).
#pragma once
#include <cmath>
#include <stdexcept>

#include "graph/op_kinds.h"

namespace fastcnn::cpu::ref {

constexpr double kSeluAlpha = 1.6732632423543772848170429916717;
constexpr double kSeluScale = 1.0507009873554804934193349852946;
constexpr double kSqrt2OverPi = 0.79788456080286535587989211986876;
constexpr double kGeluCubic = 0.044715;

inline double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
// NaN stays NaN: comparisons with NaN are false.
inline double clamp(double x, double lo, double hi) { return x < lo ? lo : x > hi ? hi : x; }
inline double normal_pdf(double x) { return std::exp(-0.5 * x * x) * 0.39894228040143267793994605993438; }
inline double normal_cdf(double x) { return 0.5 * std::erfc(-x * 0.70710678118654752440084436210485); }

inline double apply_act(const ActParams& p, double x) {
  switch (p.act) {
    case Act::relu: return x < 0 ? 0 : x;
    case Act::relu6: return clamp(x, 0, 6);
    case Act::leaky_relu: return x > 0 ? x : x * p.alpha;
    case Act::elu: return x <= 0 ? std::expm1(x) * p.alpha : x;
    case Act::selu: return x <= 0 ? std::expm1(x) * (kSeluAlpha * kSeluScale) : x * kSeluScale;
    case Act::celu: return x <= 0 ? std::expm1(x / p.alpha) * p.alpha : x;
    case Act::gelu: return x * normal_cdf(x);
    case Act::gelu_tanh: return 0.5 * x * (1 + std::tanh(kSqrt2OverPi * (x + kGeluCubic * x * x * x)));
    case Act::silu: return x / (1 + std::exp(-x));
    case Act::mish: return x * std::tanh(std::log1p(std::exp(x)));
    case Act::hardswish: return x * clamp(x + 3, 0, 6) / 6;
    case Act::hardsigmoid: return clamp(x + 3, 0, 6) / 6;
    case Act::hardtanh: return clamp(x, p.alpha, p.beta);
    case Act::sigmoid: return sigmoid(x);
    case Act::tanh: return std::tanh(x);
    case Act::softplus: return x * p.alpha > p.beta ? x : std::log1p(std::exp(x * p.alpha)) / p.alpha;
    case Act::softsign: return x / (1 + std::fabs(x));
    default: return x;
  }
}

// dy * f'; r is the output where act_bwd_uses_output(act), else the input.
inline double act_bwd(const ActParams& p, double dy, double r) {
  switch (p.act) {
    case Act::relu: return r <= 0 ? 0 : dy;
    case Act::relu6: return r <= 0 || r >= 6 ? 0 : dy;
    case Act::leaky_relu: return r > 0 ? dy : dy * p.alpha;
    case Act::elu: return r <= 0 ? dy * p.alpha * std::exp(r) : dy;
    case Act::selu: return r <= 0 ? dy * (kSeluAlpha * kSeluScale) * std::exp(r) : dy * kSeluScale;
    case Act::celu: return r <= 0 ? dy * std::exp(r / p.alpha) : dy;
    case Act::gelu: return dy * (normal_cdf(r) + r * normal_pdf(r));
    case Act::gelu_tanh: {
      double t = std::tanh(kSqrt2OverPi * (r + kGeluCubic * r * r * r));
      return dy * (0.5 * (1 + t) + 0.5 * r * (1 - t * t) * kSqrt2OverPi * (1 + 3 * kGeluCubic * r * r));
    }
    case Act::silu: {
      double s = sigmoid(r);
      return dy * s * (1 + r * (1 - s));
    }
    case Act::mish: {
      double s = sigmoid(r), t = std::tanh(std::log1p(std::exp(r)));
      return dy * (t + r * s * (1 - t * t));
    }
    case Act::hardswish: return r <= -3 ? 0 : r < 3 ? dy * (r / 3 + 0.5) : dy;
    case Act::hardsigmoid: return r > -3 && r < 3 ? dy / 6 : 0;
    case Act::hardtanh: return r <= p.alpha || r >= p.beta ? 0 : dy;
    case Act::sigmoid: return dy * (1 - r) * r;
    case Act::tanh: return dy * (1 - r * r);
    case Act::softplus: return r * p.alpha > p.beta ? dy : dy * sigmoid(r * p.alpha);
    case Act::softsign: return dy / ((1 + std::fabs(r)) * (1 + std::fabs(r)));
    default: return dy;
  }
}

// f''; r as in act_bwd. Zero at the kinks, as in PyTorch.
inline double act_second(const ActParams& p, double r) {
  switch (p.act) {
    case Act::elu: return r < 0 ? p.alpha * std::exp(r) : 0;
    case Act::selu: return r < 0 ? kSeluAlpha * kSeluScale * std::exp(r) : 0;
    case Act::celu: return r < 0 ? std::exp(r / p.alpha) / p.alpha : 0;
    case Act::gelu: return normal_pdf(r) * (2 - r * r);
    case Act::gelu_tanh: {
      double t = std::tanh(kSqrt2OverPi * (r + kGeluCubic * r * r * r));
      double k1 = kSqrt2OverPi * (1 + 3 * kGeluCubic * r * r), k2 = kSqrt2OverPi * 6 * kGeluCubic * r;
      return (1 - t * t) * (k1 + 0.5 * r * (k2 - 2 * t * k1 * k1));
    }
    case Act::silu: {
      double s = sigmoid(r);
      return s * (1 - s) * (2 + r * (1 - 2 * s));
    }
    case Act::mish: {
      double s = sigmoid(r), t = std::tanh(std::log1p(std::exp(r)));
      return s * (1 - t * t) * (2 + r * (1 - s - 2 * t * s));
    }
    case Act::hardswish: return r > -3 && r < 3 ? 1.0 / 3 : 0;
    case Act::sigmoid: return r * (1 - r) * (1 - 2 * r);
    case Act::tanh: return -2 * r * (1 - r * r);
    case Act::softplus: {
      double s = sigmoid(r * p.alpha);
      return r * p.alpha > p.beta ? 0 : p.alpha * s * (1 - s);
    }
    case Act::softsign: {
      double d = 1 + std::fabs(r);
      return (r > 0 ? -2 : r < 0 ? 2 : 0) / (d * d * d);
    }
    default: return 0;
  }
}

// The same from the input of any activation.
inline double act_bwd_from_input(const ActParams& p, double dy, double x) {
  return act_bwd(p, dy, act_bwd_uses_output(p.act) ? apply_act(p, x) : x);
}

// Activations whose derivative follows from their output alone: what a fused op can go back through.
inline bool act_invertible_mask(const ActParams& p) {
  return p.act == Act::none || act_bwd_uses_output(p.act) || p.act == Act::hardtanh ||
         (p.act == Act::leaky_relu && p.alpha > 0);
}

}  // namespace fastcnn::cpu::ref
