// What it is: exp, expm1, log, log1p, tanh, erf and the normal distribution on vectors, within 2.5 ulp. NaN stays
// NaN; results within a bit of the smallest normal number and below are 0. The coefficients are minimax fits made
// for this file. What it is not: a math library; arguments are float lanes only.
#pragma once
#include "backend/cpu/kernels/simd.h"

namespace fastcnn::cpu::FASTCNN_ISA {

constexpr float kLog2e = 1.44269504088896341f;
constexpr float kLn2High = 0.693359375f;  // few bits, so that n * high is exact (Cody & Waite 1980)
constexpr float kLn2Low = -2.12194440e-4f;
constexpr float kInf = __builtin_inff();

// (exp(r) - 1 - r) / r^2 for |r| <= ln2/2.
FASTCNN_OP vf exp_poly(vf r) {
  vf q = set1(1.39446493e-3f);
  q = fma(q, r, fma(set1(1.97903572e-4f), mul(r, r), set1(8.333497e-3f)));
  q = fma(q, r, set1(4.16662951e-2f));
  q = fma(q, r, set1(1.66666659e-1f));
  return fma(q, r, set1(0.5f));
}
// x = n*ln2 + r; returns exp_poly(r).
FASTCNN_OP vf exp_core(vf x, vf& n, vf& r) {
  n = round_even(mul(x, set1(kLog2e)));
  r = fnma(n, set1(kLn2Low), fnma(n, set1(kLn2High), x));
  return exp_poly(r);
}

FASTCNN_OP vf vexp(vf x) {
  vf n, r, c = vmin(set1(88.8f), vmax(set1(-87.4f), x));  // the maybe-NaN operand second
  vf q = exp_core(c, n, r);
  vf y = add(set1(1), fma(mul(r, r), q, r));
  y = mul(scale2(y, sub(n, set1(1))), set1(2));  // 2^128 itself is no float
  y = select_gt(x, set1(88.7228317f), set1(kInf), y);
  return select_gt(set1(-87.3365402f), x, zero(), y);
}

FASTCNN_OP vf vexpm1(vf x) {
  vf n, r, c = vmin(set1(88.8f), vmax(set1(-60), x));
  vf q = exp_core(c, n, r);
  vf p = fma(mul(r, r), q, r), half = scale2(set1(1), sub(n, set1(1)));
  vf y = fma(p, half, sub(half, set1(0.5f)));  // (2^n (1+p) - 1) / 2
  return select_gt(x, set1(88.7228317f), set1(kInf), add(y, y));
}

// log of a positive normal x times nothing else: no check of 0, infinity or sign. `low` is added at the end.
FASTCNN_OP vf log_core(vf x, vf low) {
  vf e = exponent(x), m = mantissa(x), big = set1(1.41421356f);
  e = select_gt(m, big, add(e, set1(1)), e);
  m = select_gt(m, big, mul(m, set1(0.5f)), m);
  vf f = sub(m, set1(1)), s = mul(f, f);
  vf p = set1(6.74660132e-2f);
  p = fma(p, f, set1(-1.16756413e-1f));
  p = fma(p, f, set1(1.18881746e-1f));
  p = fma(p, f, set1(-1.24055914e-1f));
  p = fma(p, f, set1(1.42195509e-1f));
  p = fma(p, f, set1(-1.66679957e-1f));
  p = fma(p, f, set1(2.00021187e-1f));
  p = fma(p, f, set1(-2.50000096e-1f));
  p = fma(p, f, set1(3.33333126e-1f));
  vf t = fma(e, set1(kLn2Low), low);
  t = fma(mul(s, f), p, t);
  t = fnma(set1(0.5f), s, t);
  return fma(e, set1(kLn2High), add(f, t));
}

FASTCNN_OP vf vlog(vf x) {
  vf y = log_core(x, zero());
  y = select_gt(x, set1(3.40282347e38f), x, y);             // inf
  y = select_gt(set1(1.17549435e-38f), x, set1(-kInf), y);  // 0 (and what counts as 0)
  y = select_gt(zero(), x, set1(__builtin_nanf("")), y);
  return select_nan(x, x, y);
}

// log(1+x) with the rounding error of 1+x put back; x > -1.
FASTCNN_OP vf vlog1p(vf x) {
  vf u = add(set1(1), x);
  vf y = log_core(u, div(sub(x, sub(u, set1(1))), u));
  y = select_gt(x, set1(3.40282347e38f), x, y);
  y = select_le(u, zero(), select_gt(zero(), u, set1(__builtin_nanf("")), set1(-kInf)), y);
  return select_nan(x, x, y);
}

FASTCNN_OP vf vtanh(vf x) {
  vf t = vexpm1(mul(set1(2), vmin(set1(10), vabs(x))));
  return copy_sign(div(t, add(t, set1(2))), x);
}

// A step of V independent chains.
#define FASTCNN_EACH _Pragma("GCC unroll 8") for (int v = 0; v < V; ++v)

// y[v] = 1 + exp(-x[v]), which is 1 or infinity where exp(-x) is not a normal number: no results to put right at
// the ends, and half the time of vexp. Step by step for all V: one after the other, what waits in the chain of one
// fills the hardware's scheduler before the next begins (a third slower with 4).
template <int V>
FASTCNN_OP void one_plus_exp_neg(const vf* x, vf* y) {
  vf c[V], n[V], r[V];
  FASTCNN_EACH c[v] = vmax(set1(-88.8f), x[v]);
  FASTCNN_EACH c[v] = vmin(set1(87), c[v]);  // the exponents that scale2 has everywhere
  FASTCNN_EACH n[v] = mul(c[v], set1(-kLog2e));
  FASTCNN_EACH n[v] = round_even(n[v]);
  FASTCNN_EACH r[v] = fma(c[v], set1(kLog2e), n[v]);
  FASTCNN_EACH r[v] = fma(c[v], set1(1.92596303e-8f), r[v]);                   // n + c*log2(e), |r| <= 1/2
  FASTCNN_EACH y[v] = fma(set1(-1.32645911e-3f), r[v], set1(9.67161916e-3f));  // 2^-r
  FASTCNN_EACH y[v] = fma(y[v], r[v], set1(-5.55073507e-2f));
  FASTCNN_EACH y[v] = fma(y[v], r[v], set1(2.40222409e-1f));
  FASTCNN_EACH y[v] = fma(y[v], r[v], set1(-6.93147004e-1f));
  FASTCNN_EACH y[v] = fma(y[v], r[v], set1(1));
  FASTCNN_EACH y[v] = scale2(y[v], sub(n[v], set1(1)));
  FASTCNN_EACH y[v] = fma(y[v], set1(2), set1(1));
}
FASTCNN_OP vf one_plus_exp_neg(vf x) {
  vf y;
  one_plus_exp_neg<1>(&x, &y);
  return y;
}
FASTCNN_OP vf vsigmoid(vf x) { return div(set1(1), one_plus_exp_neg(x)); }

// exp(-x*x/2). The square enters the reduced argument inside a fused multiply-add, so its rounding costs nothing.
FASTCNN_OP vf exp_half_square(vf x) {
  vf c = vmin(set1(13.2f), vabs(x)), h = mul(c, set1(-0.5f));
  vf n = round_even(mul(mul(c, h), set1(kLog2e)));
  vf r = fnma(n, set1(kLn2Low), fma(c, h, mul(n, set1(-kLn2High))));
  vf y = scale2(add(set1(1), fma(mul(r, r), exp_poly(r), r)), n);
  return select_gt(vabs(x), set1(13.2f), zero(), y);
}

// Upper tail of the normal distribution at |x| from e = exp(-x*x/2): relative accuracy down to the smallest
// number.
FASTCNN_OP vf normal_tail(vf ax, vf e) {
  vf q = div(set1(1), fma(set1(0.3f * 0.70710678f), ax, set1(1)));
  vf p = set1(-0.064729216f);
  p = fma(p, q, set1(0.242612208f));
  p = fma(p, q, set1(-0.255757388f));
  p = fma(p, q, set1(0.273379182f));
  p = fma(p, q, set1(-0.0469554286f));
  p = fma(p, q, set1(0.107285327f));
  p = fma(p, q, set1(0.074221553f));
  p = fma(p, q, set1(0.0853491665f));
  p = fma(p, q, set1(0.084594586f));
  return mul(mul(p, q), e);
}

// Normal distribution function; `e` comes back as exp(-x*x/2), the density times sqrt(2 pi).
FASTCNN_OP vf normal_cdf(vf x, vf& e) {
  e = exp_half_square(x);
  vf t = normal_tail(vabs(x), e);
  return select_gt(x, zero(), sub(set1(1), t), t);
}

FASTCNN_OP vf verf(vf x) {
  vf ax = vabs(x), s = mul(x, x), z = mul(x, set1(1.41421356f));
  vf p = set1(7.85385429e-5f);
  p = fma(p, s, set1(-8.0101914e-4f));
  p = fma(p, s, set1(5.18832742e-3f));
  p = fma(p, s, set1(-2.68538118e-2f));
  p = fma(p, s, set1(1.12835851e-1f));
  p = fma(p, s, set1(-3.76126258e-1f));
  p = fma(p, s, set1(1.28379166e-1f));
  vf small = fma(p, x, x);
  vf tail = normal_tail(vabs(z), exp_half_square(z));
  return select_le(ax, set1(0.95f), small, copy_sign(fnma(set1(2), tail, set1(1)), x));
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
