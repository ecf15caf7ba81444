// What it is: the unary and binary ops on numbers, as backend/cpu/ref defines them: float, double, or int64_t that
// wraps. What it is not: loops (map.cuh).
#pragma once
#include "backend/cuda/kernels/faults.cuh"
#include "backend/cuda/kernels/act.cuh"

namespace fastcnn::cuda {

FASTCNN_DEVICE int64_t wrap_add(int64_t a, int64_t b) {
  return static_cast<int64_t>(static_cast<uint64_t>(a) + static_cast<uint64_t>(b));
}
FASTCNN_DEVICE int64_t wrap_sub(int64_t a, int64_t b) {
  return static_cast<int64_t>(static_cast<uint64_t>(a) - static_cast<uint64_t>(b));
}
FASTCNN_DEVICE int64_t wrap_mul(int64_t a, int64_t b) {
  return static_cast<int64_t>(static_cast<uint64_t>(a) * static_cast<uint64_t>(b));
}

template <class W>
struct UnaryOp {
  Unary op;
  W a, b;
  FASTCNN_DEVICE W operator()(int64_t, W x) const {
    if constexpr (is_same<W, int64_t>) {
      switch (op) {
        case Unary::affine: return wrap_add(wrap_mul(a, x), b);
        case Unary::clamp: return x < a ? (a > b ? b : a) : x > b ? b : x;
        case Unary::abs: return x < 0 ? wrap_sub(0, x) : x;
        case Unary::square: return wrap_mul(x, x);
        case Unary::sign: return (x > 0) - (x < 0);
        case Unary::logical_not: return x == 0;
        case Unary::isnan:
        case Unary::isinf: return 0;
        case Unary::isfinite: return 1;
        default: return x;  // copy, floor, ceil, round
      }
    } else {
      switch (op) {
        case Unary::copy: return x;
        case Unary::affine: return a * x + b;
        case Unary::rdiv: return a / x;
        case Unary::pow: return a == W(0.5) ? sqrt(x) : a == W(-0.5) ? 1 / sqrt(x) : pow(x, a);
        case Unary::rpow: return pow(a, x);
        case Unary::clamp: {
          if (x != x) return x;
          const W y = x < a ? a : x;
          return y > b ? b : y;
        }
        case Unary::abs: return fabs(x);
        case Unary::exp: return exp(x);
        case Unary::expm1: return expm1(x);
        case Unary::log: return log(x);
        case Unary::log1p: return log1p(x);
        case Unary::log2: return log2(x);
        case Unary::sqrt: return sqrt(x);
        case Unary::rsqrt: return 1 / sqrt(x);
        case Unary::square: return x * x;
        case Unary::reciprocal: return 1 / x;
        case Unary::sign: return static_cast<W>((x > 0) - (x < 0));
        case Unary::floor: return floor(x);
        case Unary::ceil: return ceil(x);
        case Unary::round: return rint(x);
        case Unary::sin: return sin(x);
        case Unary::cos: return cos(x);
        case Unary::erf: return erf(x);
        case Unary::atan: return atan(x);
        case Unary::logical_not: return x == 0;
        case Unary::isnan: return x != x;
        case Unary::isinf: return x - x != 0 && x == x;
        case Unary::isfinite: return x - x == 0;
        case Unary::clamp_mask: return x >= a && x <= b;
        default: return x;
      }
    }
  }
};

FASTCNN_DEVICE int64_t int_floor_div(int64_t a, int64_t b) {
  if (b == -1) return wrap_sub(0, a);
  const int64_t q = a / b;
  return a % b != 0 && (a < 0) != (b < 0) ? q - 1 : q;
}
FASTCNN_DEVICE int64_t int_mod(int64_t a, int64_t b) {
  if (b == -1) return 0;
  const int64_t r = a % b;
  return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}
FASTCNN_DEVICE int64_t int_pow(int64_t a, int64_t b) {
  if (b < 0) return a == 1 ? 1 : a == -1 ? (b % 2 ? -1 : 1) : 0;
  int64_t r = 1;
  for (; b; b >>= 1, a = wrap_mul(a, a))
    if (b & 1) r = wrap_mul(r, a);
  return r;
}
template <class W>
FASTCNN_DEVICE W float_mod(W a, W b) {
  const W r = fmod(a, b);
  return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}
template <class W>
FASTCNN_DEVICE W float_floor_div(W a, W b) {
  if (b == 0) return a / b;
  const W r = fmod(a, b);
  W q = (a - r) / b;
  if (r != 0 && (r < 0) != (b < 0)) q -= 1;
  if (q == 0) return copysign(W(0), a / b);
  const W f = floor(q);
  return q - f > W(0.5) ? f + 1 : f;
}

template <class W>
struct BinaryOp {
  Binary op;
  ErrorRecord* errors;
  FASTCNN_DEVICE W operator()(int64_t i, W a, W b) const {
    switch (op) {
      case Binary::maximum: return a != a ? a : b != b ? b : a > b ? a : b;
      case Binary::minimum: return a != a ? a : b != b ? b : a < b ? a : b;
      case Binary::eq: return a == b;
      case Binary::ne: return a != b;
      case Binary::lt: return a < b;
      case Binary::le: return a <= b;
      case Binary::gt: return a > b;
      case Binary::ge: return a >= b;
      case Binary::logical_and: return a != 0 && b != 0;
      case Binary::logical_or: return a != 0 || b != 0;
      case Binary::logical_xor: return (a != 0) != (b != 0);
      default: break;
    }
    if constexpr (is_same<W, int64_t>) {
      if ((op == Binary::div || op == Binary::mod || op == Binary::floor_div) && b == 0) {
        note_fault(errors, Fault::zero_division, kBinaryKind, 0, 0, 0, i);
        return 0;
      }
      switch (op) {
        case Binary::add: return wrap_add(a, b);
        case Binary::sub: return wrap_sub(a, b);
        case Binary::mul: return wrap_mul(a, b);
        case Binary::div: return b == -1 ? wrap_sub(0, a) : a / b;
        case Binary::pow: return int_pow(a, b);
        case Binary::mod: return int_mod(a, b);
        default: return int_floor_div(a, b);
      }
    } else {
      switch (op) {
        case Binary::add: return a + b;
        case Binary::sub: return a - b;
        case Binary::mul: return a * b;
        case Binary::div: return a / b;
        case Binary::pow: return pow(a, b);
        case Binary::mod: return float_mod(a, b);
        default: return float_floor_div(a, b);
      }
    }
  }
  static constexpr int32_t kBinaryKind = static_cast<int32_t>(OpKind::binary);
};

template <class R>
struct ActForward {
  ActOf<R> act;
  FASTCNN_DEVICE R operator()(int64_t, R x) const { return apply_act(act, x); }
};
template <class R>
struct ActBackward {
  ActOf<R> act;
  FASTCNN_DEVICE R operator()(int64_t, R dy, R r) const { return act_slope(act, dy, r); }
};
template <class R>
struct ActSecond {
  ActOf<R> act;
  FASTCNN_DEVICE R operator()(int64_t, R g, R dy, R r) const { return g * dy * act_curve(act, r); }
};

// The same with the op known when it is compiled.
template <Unary op>
struct FixedUnary {
  float a, b;
  FASTCNN_DEVICE float operator()(int64_t i, float x) const { return UnaryOp<float>{op, a, b}(i, x); }
};
template <Binary op>
struct FixedBinary {
  FASTCNN_DEVICE float operator()(int64_t i, float a, float b) const {
    return BinaryOp<float>{op, nullptr}(i, a, b);
  }
};
template <template <class> class F, Act A>
struct FixedAct {
  ActOf<float> act;
  template <class... X>
  FASTCNN_DEVICE float operator()(int64_t i, X... x) const {
    F<float> f{act};
    f.act.act = A;
    return f(i, x...);
  }
};

template <class R>
struct TargetCopy {  // notes NaN
  ErrorRecord* errors;
  int32_t kind;
  FASTCNN_DEVICE R operator()(int64_t i, R x) const {
    if (x != x) note_fault(errors, Fault::nan_target, kind, 0, 0, 0, i);
    return x;
  }
};

template <class R>
struct PointLossOf {
  PointLoss loss;
  R beta;
  FASTCNN_DEVICE R value(R x, R t) const {
    const R d = x - t, m = fabs(d);
    switch (loss) {
      case PointLoss::mse: return d * d;
      case PointLoss::l1: return m;
      case PointLoss::smooth_l1: return m < beta ? d * d / (2 * beta) : m - beta / 2;
      case PointLoss::huber: return m < beta ? d * d / 2 : beta * (m - beta / 2);
      default: return (1 - t) * x + (x != x ? x : x < 0 ? -x : R(0)) + log1p(exp(-fabs(x)));
    }
  }
  FASTCNN_DEVICE R slope(R x, R t) const {
    const R d = x - t;
    if (d != d) return d;
    switch (loss) {
      case PointLoss::mse: return 2 * d;
      case PointLoss::l1: return static_cast<R>((d > 0) - (d < 0));
      case PointLoss::smooth_l1: return clamp_to(d / beta, R(-1), R(1));
      case PointLoss::huber: return clamp_to(d, -beta, beta);
      default: return sigmoid(x) - t;
    }
  }
};

}  // namespace fastcnn::cuda
