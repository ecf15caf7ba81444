// What it is: matrix products with so few rows (or so short a sum) that b is read (or y written) about once:
// packing would cost more than the product. What it is not: products that reuse b (gemm.cpp).
#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/simd.h"

namespace fastcnn::cpu::FASTCNN_ISA {
namespace {

struct Bounds {
  vf low, high;
  FASTCNN_OP explicit Bounds(Act act)
      : low(set1(act == Act::none ? -__builtin_inff() : 0.0f)),
        high(set1(act == Act::relu6 ? 6.0f : __builtin_inff())) {}
  FASTCNN_OP vf operator()(vf a) const { return vmin(high, vmax(low, a)); }
};

// Rows of b are contiguous over k: R outputs side by side, each a sum of products lane by lane.
template <int M, int R>
FASTCNN_OP void dots(const FewTask& t, int64_t n, const Bounds& bound) {
  vf acc[M][R];
#pragma GCC unroll 4
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) acc[m][r] = zero();
  const float* b = t.b + n * t.b_n;
  // Rows are short streams for what comes from memory.
  const int64_t ahead = t.N * t.K > kCachedFloats ? 2 * R * t.b_n : 0;
  int64_t k = 0;
  for (; k + kLanes <= t.K; k += kLanes) {
    vf x[M];
#pragma GCC unroll 4
    for (int m = 0; m < M; ++m) x[m] = load(t.a + m * t.a_m + k);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      if (ahead) __builtin_prefetch(b + r * t.b_n + k + ahead, 0, 2);
      const vf w = load(b + r * t.b_n + k);
#pragma GCC unroll 4
      for (int m = 0; m < M; ++m) acc[m][r] = fma(x[m], w, acc[m][r]);
    }
  }
  if (k < t.K) {
    const int left = static_cast<int>(t.K - k);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const vf w = loadn(b + r * t.b_n + k, left);
#pragma GCC unroll 4
      for (int m = 0; m < M; ++m) acc[m][r] = fma(loadn(t.a + m * t.a_m + k, left), w, acc[m][r]);
    }
  }
#pragma GCC unroll 4
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const float s = hsum(acc[m][r]) + (t.bias ? t.bias[n + r] : 0.0f);
      storen(t.y + m * t.N + n + r, bound(set1(s)), 1);
    }
}

template <int M>
void dot_range(const FewTask& t, int64_t begin, int64_t end) {
  const Bounds bound(t.act);
  int64_t n = begin;
  for (; n + 4 <= end; n += 4) dots<M, 4>(t, n, bound);
  for (; n < end; ++n) dots<M, 1>(t, n, bound);
}

// Rows of b are contiguous over n: rows are added, 8 at a time, to y, which stays in L1.
template <int M>
void row_range(const FewTask& t, int64_t begin, int64_t end) {
  constexpr int64_t kRows = 8;
  const Bounds bound(t.act);
  for (int64_t k = 0; k < t.K || k == 0; k += kRows) {
    const int64_t rows = t.K - k < kRows ? t.K - k : kRows;
    const float* b = t.b + k * t.b_k;
    for (int64_t n = begin; n < end; n += kLanes) {
      const int left = static_cast<int>(end - n < kLanes ? end - n : kLanes);
      vf acc[M];
#pragma GCC unroll 4
      for (int m = 0; m < M; ++m) acc[m] = k == 0 ? zero() : loadn(t.y + m * t.N + n, left);
      if (rows == kRows && left == kLanes) {
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
          const vf w = load(b + r * t.b_k + n);
#pragma GCC unroll 4
          for (int m = 0; m < M; ++m) acc[m] = fma(set1(t.a[m * t.a_m + (k + r) * t.a_k]), w, acc[m]);
        }
      } else {
        for (int64_t r = 0; r < rows; ++r) {
          const vf w = loadn(b + r * t.b_k + n, left);
#pragma GCC unroll 4
          for (int m = 0; m < M; ++m) acc[m] = fma(set1(t.a[m * t.a_m + (k + r) * t.a_k]), w, acc[m]);
        }
      }
      if (k + kRows >= t.K) {
        const vf bias = t.bias ? loadn(t.bias + n, left) : zero();
#pragma GCC unroll 4
        for (int m = 0; m < M; ++m) acc[m] = bound(add(acc[m], bias));
      }
#pragma GCC unroll 4
      for (int m = 0; m < M; ++m) storen(t.y + m * t.N + n, acc[m], left);
    }
  }
}

template <int M>
void few(const FewTask& t, int64_t begin, int64_t end) {
  t.b_k == 1 && t.a_k == 1 ? dot_range<M>(t, begin, end) : row_range<M>(t, begin, end);
}

}  // namespace

void matmul_few_rows(const FewTask& t, int64_t begin, int64_t end) {
  switch (t.M) {
    case 1: return few<1>(t, begin, end);
    case 2: return few<2>(t, begin, end);
    case 3: return few<3>(t, begin, end);
    case 4: return few<4>(t, begin, end);
  }
}

void matmul_outer(const FewTask& t, int64_t begin, int64_t end) {
  const Bounds bound(t.act);
  for (int64_t m = begin; m < end; ++m)
    for (int64_t n = 0; n < t.N; n += kLanes) {
      const int left = static_cast<int>(t.N - n < kLanes ? t.N - n : kLanes);
      vf acc = t.bias ? loadn(t.bias + n, left) : zero();
      for (int64_t k = 0; k < t.K; ++k)
        acc = fma(set1(t.a[m * t.a_m + k * t.a_k]), loadn(t.b + k * t.b_k + n, left), acc);
      acc = bound(acc);
      if (left == kLanes)
        store(t.y + m * t.N + n, acc);
      else
        storen(t.y + m * t.N + n, acc, left);
    }
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
