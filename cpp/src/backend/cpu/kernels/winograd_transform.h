// What it is: the transforms of Winograd's F(m x m, r x r) on vectors of channels. What it is not: loops over
// tiles. With M(x) the product of (x - point) over the finite points, a row of the data transform is M / (x -
// point), a row of the weight transform (1, point, .., point^(r-1)) / M'(point), a column of the output transform
// (1, point, .., point^(m-1)). The gradients take the transposes: dy the output transform's, dw the weight
// transform's.
#pragma once
#include "backend/cpu/kernels/simd.h"

namespace fastcnn::cpu::FASTCNN_ISA {

FASTCNN_OP vf constant(double a) { return set1(static_cast<float>(a)); }

// ---- points: infinity, with 0 in one of the sets, and two pairs of opposite ones; kSide of them ----

// In planes a pair lies side by side; the first plane is that of 0 or else of infinity, beside 0 infinity is last.
constexpr int first_of(int pair) { return pair == 0 ? 0 : 2 * pair - 1; }
constexpr int second_of(int pair) { return pair == 0 ? 5 : 2 * pair; }

// m + r = 7: 0, +-sqrt(1/2), +-sqrt(2), infinity. Rounding errors are about half of those of 0, +-1, +-2.
struct SixPoints {
  static constexpr int kSide = 6, kInfinity = 5;
  static constexpr bool kSigned = false;  // at negative points, rows of the data and 1 / M' have the wrong sign
  static constexpr double kA = 0.70710678118654752440, kB = 1.41421356237309504880;
  static constexpr double kPower[3][5] = {{1, 0, 0, 0, 0}, {1, kA, 0.5, 0.5 * kA, 0.25}, {1, kB, 2, 2 * kB, 4}};
  static constexpr double kOverM[3] = {1, -2.0 / 3, 1.0 / 6};  // 1 / M'

  template <int kPair, class Values>
  static FASTCNN_OP void data_pair(const Values& d, vf& p, vf& q) {
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

// m + r = 6: infinity, +-1/2, +-5/4. Rounding errors are a third of those of 0, +-1, 2.
struct FivePoints {
  static constexpr int kSide = 5, kInfinity = 0;
  static constexpr bool kSigned = true;
  static constexpr double kA = 0.5, kB = 1.25, kA2 = kA * kA, kB2 = kB * kB;
  static constexpr double kPower[3][5] = {{1, 0, 0, 0, 0}, {1, kA, kA2, kA2 * kA, 0}, {1, kB, kB2, kB2 * kB, 0}};
  static constexpr double kOverM[3] = {1, 1 / (2 * kA * (kA2 - kB2)), 1 / (2 * kB * (kB2 - kA2))};

  template <int kPair, class Values>
  static FASTCNN_OP void data_pair(const Values& d, vf& p, vf& q) {
    if constexpr (kPair == 0) {
      p = fma(constant(kA2 * kB2), d(0), fnma(constant(kA2 + kB2), d(2), d(4)));
    } else {
      const vf other = constant(kPower[3 - kPair][2]);
      const vf point = constant(kPower[kPair][1]), e = fnma(other, d(0), d(2)), o = fnma(other, d(1), d(3));
      p = fma(point, e, o), q = fnma(point, e, o);
    }
  }
};

// ---- in one dimension ----

template <class Set>
struct DataPoints : Set {
  static constexpr int kSize = Set::kSide;
  template <int kPair, class Values>
  static FASTCNN_OP void pair(const Values& d, vf& p, vf& q) {
    Set::template data_pair<kPair>(d, p, q);
  }
};

// The polynomial of n coefficients at each point, its last at infinity; with kWeights divided by M'.
template <class Set, int n, bool kWeights>
struct PolynomialPoints : Set {
  static constexpr int kSize = n;
  static constexpr double scale(int pair) { return kWeights ? Set::kOverM[pair] : 1; }

  template <int kPair, class Values>
  static FASTCNN_OP void pair(const Values& d, vf& p, vf& q) {
    if constexpr (kPair == 0) {
      p = d(Set::kInfinity == 0 ? n - 1 : 0);
      if constexpr (Set::kInfinity != 0) q = d(n - 1);
    } else {
      vf half[2] = {d(0), d(1)};           // even and odd powers
      if constexpr (kWeights && n == 2) {  // rounded as seldom as may be: each constant holds its power
        // By fma alone: a compiler may fuse a product and a sum, and not alike in each copy.
        const double even = scale(kPair) * Set::kPower[kPair][0];
        const vf odd = constant(scale(kPair) * Set::kPower[kPair][1]);
        p = fma(odd, d(1), mul(constant(even), d(0)));
        q = fma(odd, d(1), mul(constant(-even), d(0)));
        static_assert(Set::kSigned);
      } else if constexpr (kWeights) {
#pragma GCC unroll 2
        for (int i = 0; i < 2; ++i) half[i] = mul(constant(scale(kPair) * Set::kPower[kPair][i]), half[i]);
#pragma GCC unroll 5
        for (int i = 2; i < n; ++i)
          half[i % 2] = fma(constant(scale(kPair) * Set::kPower[kPair][i]), d(i), half[i % 2]);
        p = add(half[0], half[1]), q = sub(half[0], half[1]);
      } else {
#pragma GCC unroll 5
        for (int i = 2; i < n; ++i) half[i % 2] = fma(constant(Set::kPower[kPair][i / 2 * 2]), d(i), half[i % 2]);
        const vf point = constant(Set::kPower[kPair][1]);
        p = fma(point, half[1], half[0]), q = fnma(point, half[1], half[0]);
      }
    }
  }

  // The transpose: all points to n.
  static FASTCNN_OP void transposed(const vf* m, vf* y) {
    constexpr bool kSwapped = kWeights && Set::kSigned;
    const vf sum1 = add(m[1], m[2]), sum2 = add(m[3], m[4]), less1 = sub(m[1], m[2]), less2 = sub(m[3], m[4]);
    const vf s1 = kSwapped ? less1 : sum1, d1 = kSwapped ? sum1 : less1;
    const vf s2 = kSwapped ? less2 : sum2, d2 = kSwapped ? sum2 : less2;
#pragma GCC unroll 5
    for (int i = 0; i < n; ++i) {
      const bool alone = i == 0 ? Set::kInfinity != 0 : i == n - 1;  // 0 or infinity has a share
      const vf a = i % 2 ? d1 : s1, b = i % 2 ? d2 : s2, c = m[i == 0 ? 0 : Set::kInfinity];
      const double f1 = scale(1) * Set::kPower[1][i], f2 = scale(2) * Set::kPower[2][i];
      const vf c1 = constant(f1), c2 = constant(f2);
      if (i == 0 && !kWeights)
        y[i] = add(alone ? add(c, a) : a, b);
      else
        y[i] = fma(c2, b, alone ? fma(c1, a, c) : mul(c1, a));
    }
  }
};

template <class Set, int r>
using WeightPoints = PolynomialPoints<Set, r, true>;
template <class Set, int m>
using OutputPoints = PolynomialPoints<Set, m, false>;

// ---- in two ----

// Points of planes that the thread reads itself, and of planes for all threads, which go past the caches.
template <class Points>
using Own = Points;
template <class Points>
struct Shared : Points {};
template <class Points>
constexpr bool kShared = false;
template <class Points>
constexpr bool kShared<Shared<Points>> = true;

template <class Points>
FASTCNN_OP void put_plane(float* u, vf a) {
  kShared<Points> ? stream(u, a) : store(u, a);
}

template <class Points, int kPair>
FASTCNN_OP void row_pair(const vf* d, float* u, int64_t plane) {
  vf p, q = zero();
  Points::template pair<kPair>([&](int j) { return d[j]; }, p, q);
  put_plane<Points>(u + first_of(kPair) * plane, p);
  if constexpr (second_of(kPair) < Points::kSide) put_plane<Points>(u + second_of(kPair) * plane, q);
}

template <class Points>
FASTCNN_OP void plane_row(const vf* d, float* u, int64_t plane, bool columns) {
  if (columns) row_pair<Points, 0>(d, u, plane);
  row_pair<Points, 1>(d, u, plane);
  row_pair<Points, 2>(d, u, plane);
}

// Two rows of the result at a time stay in registers; values are loaded again from L1 instead of spilled.
template <class Points, int kPair, class Values>
FASTCNN_OP void plane_rows(const Values& at, float* u, int64_t plane, bool columns) {
  constexpr int n = Points::kSize;
  vf p[n], q[n];
#pragma GCC unroll 6
  for (int j = 0; j < n; ++j) {
    q[j] = zero();
    Points::template pair<kPair>([&](int i) { return at(i, j); }, p[j], q[j]);
  }
  plane_row<Points>(p, u + first_of(kPair) * Points::kSide * plane, plane, columns);
  if constexpr (second_of(kPair) < Points::kSide)
    plane_row<Points>(q, u + second_of(kPair) * Points::kSide * plane, plane, columns);
}

// A square of values, at(row, column), to planes; of five points those at infinity only where they are wanted.
template <class Points, class Values>
FASTCNN_OP void to_planes(const Values& at, float* u, int64_t plane, bool rows = true, bool columns = true) {
  if (rows) plane_rows<Points, 0>(at, u, plane, columns);
  plane_rows<Points, 1>(at, u, plane, columns);
  plane_rows<Points, 2>(at, u, plane, columns);
}

// Planes, at(row, column), to a square of values.
template <class Points, class Planes>
FASTCNN_OP void from_planes(const Planes& at, vf (*y)[Points::kSize]) {
  constexpr int n = Points::kSize, kSide = Points::kSide;
  vf t[n][kSide];
#pragma GCC unroll 6
  for (int j = 0; j < kSide; ++j) {
    vf r[kSide], c[n];
#pragma GCC unroll 6
    for (int i = 0; i < kSide; ++i) r[i] = at(i, j);
    Points::transposed(r, c);
#pragma GCC unroll 5
    for (int i = 0; i < n; ++i) t[i][j] = c[i];
  }
#pragma GCC unroll 5
  for (int i = 0; i < n; ++i) Points::transposed(t[i], y[i]);
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
