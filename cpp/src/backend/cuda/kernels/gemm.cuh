// What it is: one tiled product C = A B on plain multiply-adds whose operands are read through functors, so that a
// matrix product and the three convolution passes (implicit GEMM: no im2col in memory) are one kernel; the depth
// may be split, parts are joined in order. What it is not: tensor cores.
#pragma once
#include "backend/cuda/kernels/act.cuh"
#include "backend/cuda/kernels/conv_index.h"

namespace fastcnn::cuda {

constexpr int kTileM = 64, kTileN = 64, kTileK = 16, kPerThread = 4, kTilePad = 4;
constexpr int kThreadsPerTile = 256;
constexpr size_t kTileValues = kTileK * (kTileM + kTilePad) + kTileK * (kTileN + kTilePad);

struct GemmShape {
  int64_t M, N, K;
  int splits;  // of K; grid.z = problems * splits
};

// Epilogue of the last stage: bias per column, residual of C's shape, activation; column 0 of a problem is
// `column`.
template <class T>
struct Epilogue {
  const T *bias, *residual;
  ActOf<Real<T>> act;
};

// Load: A(z, i, k), B(z, k, j) as real numbers, in range; C: the offset of (z, i, j) in the output.
// Each loader says which of its indices neighbouring threads should run along.
template <class T, class Load>
FASTCNN_KERNEL gemm_kernel(Load load, GemmShape g, Epilogue<T> epilogue, T* out, Real<T>* parts) {
  using R = Real<T>;
  R* shared = shared_memory<R>();
  R* As = shared;                                 // [k][m]
  R* Bs = shared + kTileK * (kTileM + kTilePad);  // [k][n]
  const int t = static_cast<int>(threadIdx.x), tx = t % 16, ty = t / 16;
  const int64_t z = blockIdx.z / g.splits, split = blockIdx.z % g.splits;
  const int64_t m0 = static_cast<int64_t>(blockIdx.x) * kTileM, n0 = static_cast<int64_t>(blockIdx.y) * kTileN;
  const int64_t per = ((g.K + g.splits - 1) / g.splits + kTileK - 1) / kTileK * kTileK;
  const int64_t begin = split * per, end = begin + per < g.K ? begin + per : g.K;
  R sum[kPerThread][kPerThread] = {};
  for (int64_t k0 = begin; k0 < end; k0 += kTileK) {
    for (int e = t; e < kTileK * kTileM; e += kThreadsPerTile) {
      const int k = Load::a_along_k ? e % kTileK : e / kTileM, m = Load::a_along_k ? e / kTileK : e % kTileM;
      As[k * (kTileM + kTilePad) + m] = m0 + m < g.M && k0 + k < end ? load.a(z, m0 + m, k0 + k) : R(0);
    }
    for (int e = t; e < kTileK * kTileN; e += kThreadsPerTile) {
      const int k = Load::b_along_k ? e % kTileK : e / kTileN, n = Load::b_along_k ? e / kTileK : e % kTileN;
      Bs[k * (kTileN + kTilePad) + n] = n0 + n < g.N && k0 + k < end ? load.b(z, k0 + k, n0 + n) : R(0);
    }
    __syncthreads();
    for (int k = 0; k < kTileK; ++k) {
      R a[kPerThread], b[kPerThread];
      for (int i = 0; i < kPerThread; ++i) a[i] = As[k * (kTileM + kTilePad) + ty * kPerThread + i];
      for (int j = 0; j < kPerThread; ++j) b[j] = Bs[k * (kTileN + kTilePad) + tx * kPerThread + j];
      for (int i = 0; i < kPerThread; ++i)
        for (int j = 0; j < kPerThread; ++j) sum[i][j] += a[i] * b[j];
    }
    __syncthreads();
  }
  for (int i = 0; i < kPerThread; ++i)
    for (int j = 0; j < kPerThread; ++j) {
      const int64_t m = m0 + ty * kPerThread + i, n = n0 + tx * kPerThread + j;
      if (m >= g.M || n >= g.N) continue;
      if (g.splits > 1) {
        parts[((split * gridDim.z / g.splits + z) * g.M + m) * g.N + n] = sum[i][j];
        continue;
      }
      const int64_t at = load.c(z, m, n);
      R v = sum[i][j];
      if (epilogue.bias) v += to_real(epilogue.bias[load.column(z, n)]);
      if (epilogue.residual) v += to_real(epilogue.residual[at]);
      out[at] = from_real<T>(apply_act(epilogue.act, v));
    }
}

// parts (splits, problems, M, N), joined in the order of the splits.
template <class T, class Load>
FASTCNN_KERNEL gemm_join(Load load, GemmShape g, int64_t problems, const Real<T>* parts, T* out) {
  const int64_t per = g.M * g.N, total = problems * per;
  for (int64_t i = global_thread(); i < total; i += global_threads()) {
    Real<T> v = 0;
    for (int s = 0; s < g.splits; ++s) v += parts[s * total + i];
    out[load.c(i / per, i % per / g.N, i % g.N)] = from_real<T>(v);
  }
}

template <class T>
struct MatmulLoad {
  static constexpr bool a_along_k = true, b_along_k = false;
  MatmulParams p;
  const T *x, *w;
  FASTCNN_DEVICE Real<T> a(int64_t z, int64_t i, int64_t k) const {
    return to_real(x[(p.a_batched ? z * p.M * p.K : 0) + (p.trans_a ? k * p.M + i : i * p.K + k)]);
  }
  FASTCNN_DEVICE Real<T> b(int64_t z, int64_t k, int64_t j) const {
    return to_real(w[(p.b_batched ? z * p.K * p.N : 0) + (p.trans_b ? j * p.K + k : k * p.N + j)]);
  }
  FASTCNN_DEVICE int64_t c(int64_t z, int64_t i, int64_t j) const { return (z * p.M + i) * p.N + j; }
  FASTCNN_DEVICE int64_t column(int64_t, int64_t j) const { return j; }
};

// z: the group.
template <class T>
struct ConvForward {
  static constexpr bool a_along_k = true, b_along_k = true;
  Conv2dParams p;
  const T *x, *w;
  FASTCNN_DEVICE Real<T> a(int64_t z, int64_t i, int64_t k) const {
    const int64_t at = forward_source(p, z, i, k);
    return at < 0 ? Real<T>(0) : to_real(x[at]);
  }
  FASTCNN_DEVICE Real<T> b(int64_t z, int64_t k, int64_t j) const {
    return to_real(w[(z * (p.O / p.groups) + j) * conv_depth(p) + k]);
  }
  FASTCNN_DEVICE int64_t c(int64_t z, int64_t i, int64_t j) const { return i * p.O + column(z, j); }
  FASTCNN_DEVICE int64_t column(int64_t z, int64_t j) const { return z * (p.O / p.groups) + j; }
};

template <class T>
struct ConvBwdData {
  static constexpr bool a_along_k = true, b_along_k = false;
  Conv2dParams p;
  const T *dy, *w;
  FASTCNN_DEVICE Real<T> a(int64_t z, int64_t i, int64_t k) const {
    const int64_t at = bwd_data_source(p, z, i, k);
    return at < 0 ? Real<T>(0) : to_real(dy[at]);
  }
  FASTCNN_DEVICE Real<T> b(int64_t z, int64_t k, int64_t j) const {
    return to_real(w[bwd_data_weight(p, z, k, j)]);
  }
  FASTCNN_DEVICE int64_t c(int64_t z, int64_t i, int64_t j) const { return i * p.C + column(z, j); }
  FASTCNN_DEVICE int64_t column(int64_t z, int64_t j) const { return z * (p.C / p.groups) + j; }
};

template <class T>
struct ConvBwdWeights {
  static constexpr bool a_along_k = false, b_along_k = false;
  Conv2dParams p;
  const T *x, *dy;
  FASTCNN_DEVICE Real<T> a(int64_t z, int64_t i, int64_t k) const {
    return to_real(dy[k * p.O + z * (p.O / p.groups) + i]);
  }
  FASTCNN_DEVICE Real<T> b(int64_t z, int64_t k, int64_t j) const {
    const int64_t at = forward_source(p, z, k, j);
    return at < 0 ? Real<T>(0) : to_real(x[at]);
  }
  FASTCNN_DEVICE int64_t c(int64_t z, int64_t i, int64_t j) const {
    return (z * (p.O / p.groups) + i) * conv_depth(p) + j;
  }
  FASTCNN_DEVICE int64_t column(int64_t, int64_t j) const { return j; }
};

}  // namespace fastcnn::cuda
