// What it is: the transforms of Winograd's F(4x4, 3x3) on vectors of channels, for the points 0, +-sqrt(1/2),
// +-sqrt(2), infinity, whose rounding errors are about half of those of 0, +-1, +-2. What it is not: loops over
// tiles. With M(x) = x (x^2 - 1/2) (x^2 - 2), a row of the data transform is M / (x - point), a row of the
// weight transform (1, point, point^2) / M'(point), a column of the output transform (1, point, point^2, point^3).
#pragma once
#include "backend/cpu/kernels/simd.h"

namespace fastcnn::cpu::FASTCNN_ISA {

constexpr float kSqrtHalf = 0.70710678118654752440f, kSqrt2 = 1.41421356237309504880f;

// A window whose pixels lie at fixed steps.
template <class T>
struct InsidePixels {
  const T* p;
  int64_t h, w;
  FASTCNN_OP vf operator()(int i, int j) const { return load(p + i * h + j * w); }
};
// Pixels anywhere (outside of the image: zeros); lanes from n on read as 0.
template <class T>
struct AnyPixels {
  const T* const* p;
  int64_t c;
  int n, columns;
  FASTCNN_OP vf operator()(int i, int j) const { return loadn(p[i * columns + j] + c, n); }
};

// ---- data: 6 -> 6 ----

FASTCNN_OP void data_row(const vf* d, float* u, int64_t plane) {
  const vf five = set1(2.5f), two = set1(2), half = set1(0.5f), a = set1(kSqrtHalf), b = set1(kSqrt2);
  store(u, add(fnma(five, d[2], d[0]), d[4]));
  const vf e1 = fnma(two, d[2], d[4]), o1 = fnma(two, d[1], d[3]);
  store(u + plane, fma(a, o1, e1));
  store(u + 2 * plane, fnma(a, o1, e1));
  const vf e2 = fnma(half, d[2], d[4]), o2 = fnma(half, d[1], d[3]);
  store(u + 3 * plane, fma(b, o2, e2));
  store(u + 4 * plane, fnma(b, o2, e2));
  store(u + 5 * plane, add(fnma(five, d[3], d[1]), d[5]));
}

// Two rows of the result at a time stay in registers; pixels are loaded again from L1 instead of spilled.
template <class Pixels>
FASTCNN_OP void data_transform(const Pixels& at, float* u, int64_t plane) {
  vf p[6], q[6];
#pragma GCC unroll 6
  for (int j = 0; j < 6; ++j) {
    p[j] = add(fnma(set1(2.5f), at(2, j), at(0, j)), at(4, j));
    q[j] = add(fnma(set1(2.5f), at(3, j), at(1, j)), at(5, j));
  }
  data_row(p, u, plane);
  data_row(q, u + 30 * plane, plane);
#pragma GCC unroll 6
  for (int j = 0; j < 6; ++j) {
    const vf e = fnma(set1(2), at(2, j), at(4, j)), o = fnma(set1(2), at(1, j), at(3, j));
    p[j] = fma(set1(kSqrtHalf), o, e), q[j] = fnma(set1(kSqrtHalf), o, e);
  }
  data_row(p, u + 6 * plane, plane);
  data_row(q, u + 12 * plane, plane);
#pragma GCC unroll 6
  for (int j = 0; j < 6; ++j) {
    const vf e = fnma(set1(0.5f), at(2, j), at(4, j)), o = fnma(set1(0.5f), at(1, j), at(3, j));
    p[j] = fma(set1(kSqrt2), o, e), q[j] = fnma(set1(kSqrt2), o, e);
  }
  data_row(p, u + 18 * plane, plane);
  data_row(q, u + 24 * plane, plane);
}

// ---- gradient of the output: 4 -> 6, the transpose of the output transform ----

FASTCNN_OP void gradient_row(const vf* d, float* u, int64_t plane) {
  const vf two = set1(2), half = set1(0.5f), a = set1(kSqrtHalf), b = set1(kSqrt2);
  store(u, d[0]);
  const vf e1 = fma(half, d[2], d[0]), o1 = fma(half, d[3], d[1]);
  store(u + plane, fma(a, o1, e1));
  store(u + 2 * plane, fnma(a, o1, e1));
  const vf e2 = fma(two, d[2], d[0]), o2 = fma(two, d[3], d[1]);
  store(u + 3 * plane, fma(b, o2, e2));
  store(u + 4 * plane, fnma(b, o2, e2));
  store(u + 5 * plane, d[3]);
}

template <class Pixels>
FASTCNN_OP void gradient_transform(const Pixels& at, float* u, int64_t plane) {
  vf p[4], q[4];
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) p[j] = at(0, j), q[j] = at(3, j);
  gradient_row(p, u, plane);
  gradient_row(q, u + 30 * plane, plane);
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const vf e = fma(set1(0.5f), at(2, j), at(0, j)), o = fma(set1(0.5f), at(3, j), at(1, j));
    p[j] = fma(set1(kSqrtHalf), o, e), q[j] = fnma(set1(kSqrtHalf), o, e);
  }
  gradient_row(p, u + 6 * plane, plane);
  gradient_row(q, u + 12 * plane, plane);
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const vf e = fma(set1(2), at(2, j), at(0, j)), o = fma(set1(2), at(3, j), at(1, j));
    p[j] = fma(set1(kSqrt2), o, e), q[j] = fnma(set1(kSqrt2), o, e);
  }
  gradient_row(p, u + 18 * plane, plane);
  gradient_row(q, u + 24 * plane, plane);
}

// ---- weights: 3 -> 6 ----

FASTCNN_OP void weight_points(vf g0, vf g1, vf g2, vf* t) {
  const vf s1 = fma(set1(-1.0f / 3), g2, mul(set1(-2.0f / 3), g0)), d1 = mul(set1(kSqrt2 / 3), g1);
  const vf s2 = fma(set1(1.0f / 3), g2, mul(set1(1.0f / 6), g0)), d2 = mul(set1(kSqrt2 / 6), g1);
  t[0] = g0, t[1] = sub(s1, d1), t[2] = add(s1, d1), t[3] = add(s2, d2), t[4] = sub(s2, d2), t[5] = g2;
}

// g: 9 taps, row by row.
FASTCNN_OP void weight_transform(const vf* g, float* u, int64_t plane) {
  vf t[3][6];
#pragma GCC unroll 3
  for (int j = 0; j < 3; ++j) weight_points(g[j], g[3 + j], g[6 + j], t[j]);
#pragma GCC unroll 6
  for (int i = 0; i < 6; ++i) {
    vf r[6];
    weight_points(t[0][i], t[1][i], t[2][i], r);
#pragma GCC unroll 6
    for (int j = 0; j < 6; ++j) store(u + (i * 6 + j) * plane, r[j]);
  }
}

// ---- gradient of the weights: 6 -> 3, the transpose of the weight transform ----

FASTCNN_OP void weight_gradient_points(const vf* t, vf* g) {
  const vf s1 = add(t[1], t[2]), d1 = sub(t[2], t[1]), s2 = add(t[3], t[4]), d2 = sub(t[3], t[4]);
  g[0] = fma(set1(1.0f / 6), s2, fma(set1(-2.0f / 3), s1, t[0]));
  g[1] = fma(set1(kSqrt2 / 6), d2, mul(set1(kSqrt2 / 3), d1));
  g[2] = fma(set1(1.0f / 3), sub(s2, s1), t[5]);
}

template <class Planes>  // at(i, j): plane i*6+j
FASTCNN_OP void weight_gradient(const Planes& at, vf* g) {
  vf t[6][3];
#pragma GCC unroll 6
  for (int i = 0; i < 6; ++i) {
    vf r[6];
#pragma GCC unroll 6
    for (int j = 0; j < 6; ++j) r[j] = at(i, j);
    weight_gradient_points(r, t[i]);
  }
#pragma GCC unroll 3
  for (int j = 0; j < 3; ++j) {
    vf r[6], c[3];
#pragma GCC unroll 6
    for (int i = 0; i < 6; ++i) r[i] = t[i][j];
    weight_gradient_points(r, c);
#pragma GCC unroll 3
    for (int i = 0; i < 3; ++i) g[i * 3 + j] = c[i];
  }
}

// ---- output: 6 -> 4 ----

FASTCNN_OP void output_points(const vf* m, vf* y) {
  const vf s1 = add(m[1], m[2]), d1 = sub(m[1], m[2]), s2 = add(m[3], m[4]), d2 = sub(m[3], m[4]);
  y[0] = add(add(m[0], s1), s2);
  y[1] = fma(set1(kSqrt2), d2, mul(set1(kSqrtHalf), d1));
  y[2] = fma(set1(2), s2, mul(set1(0.5f), s1));
  y[3] = fma(set1(2 * kSqrt2), d2, fma(set1(kSqrtHalf / 2), d1, m[5]));
}

FASTCNN_OP void output_transform(const float* m, int64_t plane, vf y[4][4]) {
  vf t[4][6];
#pragma GCC unroll 6
  for (int j = 0; j < 6; ++j) {
    vf r[6], c[4];
#pragma GCC unroll 6
    for (int i = 0; i < 6; ++i) r[i] = load(m + (i * 6 + j) * plane);
    output_points(r, c);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) t[i][j] = c[i];
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) output_points(t[i], y[i]);
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
