// clang-format off: the polynomial tables below are laid out by hand
// What it is: every Act on vectors, with its first and second derivative; the same choices at kinks, NaN and infinity
// as the reference (ref/act.h). What it is not: loops over tensors.
#pragma once
#include "backend/cpu/kernels/vmath.h"

namespace fastcnn::cpu::FASTCNN_ISA {

constexpr float kSeluAlphaScale = 1.6732632423543772848f * 1.0507009873554804934f;
constexpr float kSeluScale = 1.0507009873554804934f;
constexpr float kSqrt2OverPi = 0.79788456080286535588f;
constexpr float kGeluCubic = 0.044715f;
constexpr float kInvSqrt2Pi = 0.39894228040143267794f;

// X(name) for every Act.
#define FASTCNN_ACTS(X)                                                                                       \
  X(none) X(relu) X(relu6) X(leaky_relu) X(elu) X(selu) X(celu) X(gelu) X(gelu_tanh) X(silu) X(mish)          \
  X(hardswish) X(hardsigmoid) X(hardtanh) X(sigmoid) X(tanh) X(softplus) X(softsign)

// n = e(e+2) with e = exp(x): tanh(log(1+e)) = n/(n+2).
FASTCNN_OP vf mish_core(vf x, vf& e) {
  e = vexp(vmin(set1(20), x));
  return mul(e, add(e, set1(2)));
}
// 2*sqrt(2/pi)*(x + 0.044715 x^3): gelu_tanh(x) = x*sigmoid of it.
FASTCNN_OP vf gelu_tanh_core(vf x) {
  return mul(set1(2 * kSqrt2OverPi), fma(mul(set1(kGeluCubic), mul(x, x)), x, x));
}
FASTCNN_OP vf clamp_nan(vf x, float lo, float hi) { return vmin(set1(hi), vmax(set1(lo), x)); }  // NaN stays
// s = sigmoid(z) and q = 1 - s, both to full relative accuracy.
FASTCNN_OP vf sigmoid_pair(vf z, vf& q) {
  vf e = vexp(sub(zero(), vabs(z))), big = div(set1(1), add(set1(1), e)), small = mul(e, big);
  q = select_gt(z, zero(), small, big);
  return select_gt(z, zero(), big, small);
}
// select for lo < x < hi
FASTCNN_OP vf select_inside(vf x, float lo, float hi, vf yes, vf no) {
  return select_gt(x, set1(lo), select_gt(set1(hi), x, yes, no), no);
}
// 0 where x <= lo or x >= hi, else v; NaN gives v.
FASTCNN_OP vf zero_outside(vf x, float lo, float hi, vf v) {
  return select_le(x, set1(lo), zero(), select_le(set1(hi), x, zero(), v));
}

// In place of x or dy, for V vectors at once.
template <int V>
FASTCNN_OP void silu(vf* x) {
  vf e[V];
  one_plus_exp_neg<V>(x, e);
  FASTCNN_EACH x[v] = div(x[v], e[v]);
}
template <int V>
FASTCNN_OP void silu_grad(vf* dy, const vf* x) {
  vf s[V], t[V];
  one_plus_exp_neg<V>(x, s);
  FASTCNN_EACH s[v] = div(set1(1), s[v]);
  FASTCNN_EACH t[v] = sub(set1(1), s[v]);
  FASTCNN_EACH t[v] = fma(x[v], t[v], set1(1));
  FASTCNN_EACH t[v] = mul(s[v], t[v]);
  FASTCNN_EACH dy[v] = mul(dy[v], t[v]);
}

template <Act A>
FASTCNN_OP vf act_fwd(vf x, float alpha, float beta) {
  const vf one = set1(1);
  if constexpr (A == Act::relu) return vmax(zero(), x);
  else if constexpr (A == Act::relu6) return clamp_nan(x, 0, 6);
  else if constexpr (A == Act::leaky_relu) return select_gt(x, zero(), x, mul(x, set1(alpha)));
  else if constexpr (A == Act::elu) return select_le(x, zero(), mul(vexpm1(x), set1(alpha)), x);
  else if constexpr (A == Act::selu)
    return select_le(x, zero(), mul(vexpm1(x), set1(kSeluAlphaScale)), mul(x, set1(kSeluScale)));
  else if constexpr (A == Act::celu)
    return select_le(x, zero(), mul(vexpm1(div(x, set1(alpha))), set1(alpha)), x);
  else if constexpr (A == Act::gelu) {
    vf e;
    return mul(x, normal_cdf(x, e));
  } else if constexpr (A == Act::gelu_tanh)
    return div(x, add(one, vexp(sub(zero(), gelu_tanh_core(x)))));
  else if constexpr (A == Act::silu) {
    silu<1>(&x);
    return x;
  }
  else if constexpr (A == Act::mish) {
    vf e, n = mish_core(x, e);
    return mul(x, div(n, add(n, set1(2))));
  } else if constexpr (A == Act::hardswish)
    return mul(x, mul(clamp_nan(add(x, set1(3)), 0, 6), set1(1.0f / 6)));
  else if constexpr (A == Act::hardsigmoid) return mul(clamp_nan(add(x, set1(3)), 0, 6), set1(1.0f / 6));
  else if constexpr (A == Act::hardtanh) return clamp_nan(x, alpha, beta);
  else if constexpr (A == Act::sigmoid) return vsigmoid(x);
  else if constexpr (A == Act::tanh) return vtanh(x);
  else if constexpr (A == Act::softplus) {
    vf z = mul(x, set1(alpha));
    vf y = div(add(vmax(zero(), z), vlog1p(vexp(sub(zero(), vabs(z))))), set1(alpha));
    return select_gt(z, set1(beta), x, y);
  } else if constexpr (A == Act::softsign) return div(x, add(one, vabs(x)));
  else return x;
}

// dy * f'; r is the output where act_bwd_uses_output(act), else the input.
template <Act A>
FASTCNN_OP vf act_grad(vf dy, vf r, float alpha, float beta) {
  const vf one = set1(1);
  if constexpr (A == Act::relu) return select_le(r, zero(), zero(), dy);
  else if constexpr (A == Act::relu6) return zero_outside(r, 0, 6, dy);
  else if constexpr (A == Act::leaky_relu) return select_gt(r, zero(), dy, mul(dy, set1(alpha)));
  else if constexpr (A == Act::elu) return select_le(r, zero(), mul(dy, mul(set1(alpha), vexp(r))), dy);
  else if constexpr (A == Act::selu)
    return mul(dy, select_le(r, zero(), mul(set1(kSeluAlphaScale), vexp(r)), set1(kSeluScale)));
  else if constexpr (A == Act::celu) return select_le(r, zero(), mul(dy, vexp(div(r, set1(alpha)))), dy);
  else if constexpr (A == Act::gelu) {
    vf e, cdf = normal_cdf(r, e);
    return mul(dy, fma(mul(r, set1(kInvSqrt2Pi)), e, cdf));
  } else if constexpr (A == Act::gelu_tanh) {
    vf c = clamp_nan(r, -12, 12);  // beyond, f' is 0 or 1 to the last bit, and r^2 must not overflow
    vf q, s = sigmoid_pair(gelu_tanh_core(c), q);
    vf k = mul(set1(2 * kSqrt2OverPi), fma(set1(3 * kGeluCubic), mul(c, c), one));
    return mul(dy, fma(mul(c, mul(s, q)), k, s));
  } else if constexpr (A == Act::silu) {
    silu_grad<1>(&dy, &r);
    return dy;
  } else if constexpr (A == Act::mish) {
    vf e, n = mish_core(r, e), u = div(one, add(n, set1(2))), s = div(e, add(one, e));
    vf sech2 = mul(mul(set1(4), add(n, one)), mul(u, u));
    return mul(dy, fma(mul(vmin(set1(30), r), s), sech2, mul(n, u)));
  } else if constexpr (A == Act::hardswish) {
    vf mid = mul(dy, fma(r, set1(1.0f / 3), set1(0.5f)));
    return select_le(r, set1(-3), zero(), select_gt(set1(3), r, mid, dy));
  } else if constexpr (A == Act::hardsigmoid)
    return select_inside(r, -3, 3, mul(dy, set1(1.0f / 6)), zero());
  else if constexpr (A == Act::hardtanh) return zero_outside(r, alpha, beta, dy);
  else if constexpr (A == Act::sigmoid) return mul(dy, mul(sub(one, r), r));
  else if constexpr (A == Act::tanh) return mul(dy, fnma(r, r, one));
  else if constexpr (A == Act::softplus) {
    vf z = mul(r, set1(alpha));
    return select_gt(z, set1(beta), dy, mul(dy, vsigmoid(z)));
  } else if constexpr (A == Act::softsign) {
    vf d = add(one, vabs(r));
    return div(dy, mul(d, d));
  } else return dy;
}

// The same for V vectors at once, in place of x or dy.
template <Act A, int V>
FASTCNN_OP void act_fwd_all(vf* x, float alpha, float beta) {
  if constexpr (A == Act::silu) {
    silu<V>(x);
  } else {
    FASTCNN_EACH x[v] = act_fwd<A>(x[v], alpha, beta);
  }
}
template <Act A, int V>
FASTCNN_OP void act_grad_all(vf* dy, const vf* r, float alpha, float beta) {
  if constexpr (A == Act::silu) {
    silu_grad<V>(dy, r);
  } else {
    FASTCNN_EACH dy[v] = act_grad<A>(dy[v], r[v], alpha, beta);
  }
}

// f''; r as in act_grad.
template <Act A>
FASTCNN_OP vf act_second(vf r, float alpha, float beta) {
  const vf one = set1(1);
  if constexpr (A == Act::elu) return select_gt(zero(), r, mul(set1(alpha), vexp(r)), zero());
  else if constexpr (A == Act::selu) return select_gt(zero(), r, mul(set1(kSeluAlphaScale), vexp(r)), zero());
  else if constexpr (A == Act::celu)
    return select_gt(zero(), r, div(vexp(div(r, set1(alpha))), set1(alpha)), zero());
  else if constexpr (A == Act::gelu) {
    vf c = clamp_nan(r, -20, 20);  // r^2 must not overflow
    return mul(mul(exp_half_square(c), set1(kInvSqrt2Pi)), fnma(c, c, set1(2)));
  } else if constexpr (A == Act::gelu_tanh) {
    vf c = clamp_nan(r, -12, 12), q, s = sigmoid_pair(gelu_tanh_core(c), q);
    vf k1 = mul(set1(2 * kSqrt2OverPi), fma(set1(3 * kGeluCubic), mul(c, c), one));
    vf k2 = mul(set1(12 * kSqrt2OverPi * kGeluCubic), c);
    return mul(mul(s, q), fma(c, fma(mul(k1, k1), sub(q, s), k2), add(k1, k1)));
  } else if constexpr (A == Act::silu) {
    vf q, s = sigmoid_pair(r, q);
    return mul(mul(s, q), fma(r, sub(q, s), set1(2)));
  } else if constexpr (A == Act::mish) {
    vf e, n = mish_core(r, e), u = div(one, add(n, set1(2))), s = div(e, add(one, e)), t = mul(n, u);
    vf sech2 = mul(mul(set1(4), add(n, one)), mul(u, u));
    return mul(mul(s, sech2), fma(vmin(set1(30), r), sub(sub(one, s), mul(add(t, t), s)), set1(2)));
  } else if constexpr (A == Act::hardswish) return select_inside(r, -3, 3, set1(1.0f / 3), zero());
  else if constexpr (A == Act::sigmoid) return mul(mul(r, sub(one, r)), fnma(set1(2), r, one));
  else if constexpr (A == Act::tanh) return mul(mul(set1(-2), r), fnma(r, r, one));
  else if constexpr (A == Act::softplus) {
    vf z = mul(r, set1(alpha)), q, s = sigmoid_pair(z, q);
    return select_gt(z, set1(beta), zero(), mul(set1(alpha), mul(s, q)));
  } else if constexpr (A == Act::softsign) {
    vf d = add(one, vabs(r));
    vf v = div(set1(-2), mul(d, mul(d, d)));
    return select_gt(r, zero(), v, select_gt(zero(), r, sub(zero(), v), mul(zero(), v)));
  } else return zero();
}

// For epilogues: one well-predicted switch per vector.
FASTCNN_OP vf apply_act(const ActParams& p, vf x) {
  const float alpha = static_cast<float>(p.alpha), beta = static_cast<float>(p.beta);
  switch (p.act) {
#define FASTCNN_ACT_CASE(a) \
  case Act::a:              \
    return act_fwd<Act::a>(x, alpha, beta);
    FASTCNN_ACTS(FASTCNN_ACT_CASE)
#undef FASTCNN_ACT_CASE
    default: return x;
  }
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
