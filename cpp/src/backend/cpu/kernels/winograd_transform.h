// What it is: the transforms of Winograd's F(m x m, r x r) with m + r = 7 on vectors of channels, for the points 0,
// +-sqrt(1/2), +-sqrt(2), infinity, whose rounding errors are about half of those of 0, +-1, +-2. What it is not:
// loops over tiles. With M(x) = x (x^2 - 1/2) (x^2 - 2), a row of the data transform is M / (x - point), a row of the
// weight transform (1, point, .., point^(r-1)) / M'(point), a column of the output transform (1, point, ..,
// point^(m-1)). The gradients take the transposes: dy the output transform's, dw the weight transform's.
#pragma once
#include "backend/cpu/kernels/simd.h"

namespace fastcnn::cpu::FASTCNN_ISA {

// Points in pairs: 0 and infinity, +-sqrt(1/2), +-sqrt(2). In planes 0 comes first and infinity last.
constexpr int first_of(int pair) { return pair == 0 ? 0 : 2 * pair - 1; }
constexpr int second_of(int pair) { return pair == 0 ? 5 : 2 * pair; }
constexpr double kA = 0.70710678118654752440, kB = 1.41421356237309504880;
constexpr double kPower[3][5] = {{1, 0, 0, 0, 0}, {1, kA, 0.5, 0.5 * kA, 0.25}, {1, kB, 2, 2 * kB, 4}};
constexpr double kOverM[3] = {1, -2.0 / 3, 1.0 / 6};  // 1 / M', even in the point

FASTCNN_OP vf constant(double a) { return set1(static_cast<float>(a)); }

// ---- in one dimension ----

struct DataPoints {
  static constexpr int kSize = 6;
  template <int kPair, class Values>
  static FASTCNN_OP void pair(const Values& d, vf& p, vf& q) {
    if constexpr (kPair == 0) {
      p = add(fnma(set1(2.5f), d(2), d(0)), d(4));
      q = add(fnma(set1(2.5f), d(3), d(1)), d(5));
    } else {
      const vf other = constant(kPower[3 - kPair][2]), point = constant(kPower[kPair][1]);
      const vf e = fnma(other, d(2), d(4)), o = fnma(other, d(1), d(3));
      p = fma(point, o, e), q = fnma(point, o, e);
    }
  }
};

// The polynomial of n coefficients at each point, its last at infinity; with kWeights divided by M'.
template <int n, bool kWeights>
struct PolynomialPoints {
  static constexpr int kSize = n;
  template <int kPair, class Values>
  static FASTCNN_OP void pair(const Values& d, vf& p, vf& q) {
    if constexpr (kPair == 0) {
      p = d(0), q = d(n - 1);
    } else {
      constexpr double scale = kWeights ? kOverM[kPair] : 1;
      vf half[2] = {d(0), d(1)};  // even and odd powers
      if constexpr (kWeights) {
        half[0] = mul(constant(scale), half[0]);
        half[1] = mul(constant(scale), half[1]);
      }
#pragma GCC unroll 5
      for (int i = 2; i < n; ++i)
        half[i % 2] = fma(constant(scale * kPower[kPair][i / 2 * 2]), d(i), half[i % 2]);
      const vf point = constant(kPower[kPair][1]);
      p = fma(point, half[1], half[0]), q = fnma(point, half[1], half[0]);
    }
  }

  // The transpose: 6 points to n.
  static FASTCNN_OP void transposed(const vf* m, vf* y) {
    const vf s1 = add(m[1], m[2]), d1 = sub(m[1], m[2]), s2 = add(m[3], m[4]), d2 = sub(m[3], m[4]);
#pragma GCC unroll 5
    for (int i = 0; i < n; ++i) {
      const vf a = i % 2 ? d1 : s1, b = i % 2 ? d2 : s2;
      const vf c1 = constant(kPower[1][i] * (kWeights ? kOverM[1] : 1)),
               c2 = constant(kPower[2][i] * (kWeights ? kOverM[2] : 1));
      if (i == 0 && !kWeights)
        y[i] = add(add(m[0], a), b);
      else if (i == 0 || i == n - 1)
        y[i] = fma(c2, b, fma(c1, a, m[i ? 5 : 0]));
      else
        y[i] = fma(c2, b, mul(c1, a));
    }
  }
};

template <int r>
using WeightPoints = PolynomialPoints<r, true>;
template <int m>
using OutputPoints = PolynomialPoints<m, false>;

// ---- in two ----

template <class Points, int kPair>
FASTCNN_OP void row_pair(const vf* d, float* u, int64_t plane) {
  vf p, q;
  Points::template pair<kPair>([&](int j) { return d[j]; }, p, q);
  store(u + first_of(kPair) * plane, p);
  store(u + second_of(kPair) * plane, q);
}

// Two rows of the result at a time stay in registers; values are loaded again from L1 instead of spilled.
template <class Points, int kPair, class Values>
FASTCNN_OP void plane_rows(const Values& at, float* u, int64_t plane) {
  constexpr int n = Points::kSize;
  vf rows[2][n];
#pragma GCC unroll 6
  for (int j = 0; j < n; ++j)
    Points::template pair<kPair>([&](int i) { return at(i, j); }, rows[0][j], rows[1][j]);
#pragma GCC unroll 2
  for (int k = 0; k < 2; ++k) {
    float* row = u + 6 * (k ? second_of(kPair) : first_of(kPair)) * plane;
    row_pair<Points, 0>(rows[k], row, plane);
    row_pair<Points, 1>(rows[k], row, plane);
    row_pair<Points, 2>(rows[k], row, plane);
  }
}

// A square of values, at(row, column), to 36 planes.
template <class Points, class Values>
FASTCNN_OP void to_planes(const Values& at, float* u, int64_t plane) {
  plane_rows<Points, 0>(at, u, plane);
  plane_rows<Points, 1>(at, u, plane);
  plane_rows<Points, 2>(at, u, plane);
}

// 36 planes, at(row, column), to a square of values.
template <class Points, class Planes>
FASTCNN_OP void from_planes(const Planes& at, vf (*y)[Points::kSize]) {
  constexpr int n = Points::kSize;
  vf t[n][6];
#pragma GCC unroll 6
  for (int j = 0; j < 6; ++j) {
    vf r[6], c[n];
#pragma GCC unroll 6
    for (int i = 0; i < 6; ++i) r[i] = at(i, j);
    Points::transposed(r, c);
#pragma GCC unroll 5
    for (int i = 0; i < n; ++i) t[i][j] = c[i];
  }
#pragma GCC unroll 5
  for (int i = 0; i < n; ++i) Points::transposed(t[i], y[i]);
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
