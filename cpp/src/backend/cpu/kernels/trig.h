// What it is: sine and cosine of vectors, within about 2 ulp for |x| up to 12000. The coefficients are
// least-squares fits made for this file. What it is not: exact for huge arguments (the caller sends those to the
// math library).
#pragma once
#include "backend/cpu/kernels/simd.h"

namespace fastcnn::cpu::FASTCNN_ISA {

constexpr float kTrigRange = 12000.0f;

// r in [-pi/4, pi/4].
FASTCNN_OP vf sin_core(vf r) {
  vf s = mul(r, r);
  vf p = fma(set1(-1.95166562e-4f), s, set1(8.33217334e-3f));
  p = fma(p, s, set1(-1.66666552e-1f));
  return fma(mul(p, s), r, r);
}
FASTCNN_OP vf cos_core(vf r) {
  vf s = mul(r, r);
  vf p = fma(set1(2.44377297e-5f), s, set1(-1.38873619e-3f));
  p = fma(p, s, set1(4.16666456e-2f));
  return fma(mul(p, s), s, fnma(set1(0.5f), s, set1(1)));
}

// sin(r + k*pi/2), k integral: the quadrant chooses the polynomial and the sign.
FASTCNN_OP vf sin_quadrant(vf r, vf k) {
  vf half = mul(k, set1(0.5f)), odd = sub(half, round_even(half));  // 0 where k is even, else +-0.5
  vf y = select_gt(vabs(odd), set1(0.25f), cos_core(r), sin_core(r));
  vf quarter = mul(sub(k, mul(vabs(odd), set1(2))), set1(0.25f));  // k - (k odd) over 4: .5 in the lower half
  vf low = sub(quarter, round_even(quarter));
  return select_gt(vabs(low), set1(0.25f), sub(zero(), y), y);
}

// pi/2 in three parts; the first two have 11 bits, so that their products with k are exact (Cody & Waite 1980).
FASTCNN_OP vf reduce_angle(vf x, vf& k) {
  k = round_even(mul(x, set1(0.636619772f)));
  vf r = fnma(k, set1(1.5703125f), x);
  r = fnma(k, set1(0.0004837512969970703f), r);
  return fnma(k, set1(7.549790126404332e-08f), r);
}
FASTCNN_OP vf vsin(vf x) {
  vf k, r = reduce_angle(x, k);
  return sin_quadrant(r, k);
}
FASTCNN_OP vf vcos(vf x) {
  vf k, r = reduce_angle(x, k);
  return sin_quadrant(r, add(k, set1(1)));
}
// sin and cos of 2*pi*u, u in [0, 1): the quarter turn is taken off exactly.
FASTCNN_OP void sincos_turns(vf u, vf& s, vf& c) {
  vf k = round_even(mul(u, set1(4)));
  vf r = mul(fnma(k, set1(0.25f), u), set1(6.28318531f));
  s = sin_quadrant(r, k);
  c = sin_quadrant(r, add(k, set1(1)));
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
