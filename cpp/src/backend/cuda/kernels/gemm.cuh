// What it is: one tiled product C = A B on plain multiply-adds whose operands are read through the loaders of
// gemm_load.cuh, so that a matrix product and the three convolution passes are one kernel; the depth may be split,
// parts are joined in order. What it is not: tensor cores (gemm_mma.cuh).
#pragma once
#include "backend/cuda/kernels/gemm_load.cuh"

namespace fastcnn::cuda {

constexpr int kTileM = 64, kTileN = 64, kTileK = 16, kPerThread = 4, kTilePad = 4;
constexpr int kThreadsPerTile = 256;
constexpr size_t kTileValues = kTileK * (kTileM + kTilePad) + kTileK * (kTileN + kTilePad);

// Four neighbours in shared memory, read as 16 bytes at once.
template <class R>
struct alignas(16) Quad {
  R v[kPerThread];
};

// grid.z = problems * splits.
template <class T, class Load>
FASTCNN_KERNEL gemm_kernel(Load load, int32_t splits, Epilogue<T> epilogue, void* out, bool wide, Real<T>* parts) {
  follow_previous();
  using R = Real<T>;
  constexpr int row = kTileM + kTilePad;
  static_assert(kTileM == kTileN);
  R* As = shared_memory<R>();  // [k][m]
  R* Bs = As + kTileK * row;   // [k][n]
  const int t = static_cast<int>(threadIdx.x), tx = t % 16, ty = t / 16;
  const auto problem = static_cast<int32_t>(blockIdx.z) / splits,
             split = static_cast<int32_t>(blockIdx.z) % splits;
  const auto q = load.problem(problem);
  const int32_t m0 = static_cast<int32_t>(blockIdx.x) * kTileM, n0 = static_cast<int32_t>(blockIdx.y) * kTileN;
  if (m0 >= q.M) return;  // of a parity with fewer pixels
  const int32_t per = ((q.K + splits - 1) / splits + kTileK - 1) / kTileK * kTileK;
  const int32_t begin = split * per < q.K ? split * per : q.K, end = q.K - begin < per ? q.K : begin + per;

  // Neighbouring threads run along what lies together in memory; the other index of a thread's elements is fixed.
  constexpr int each = kTileK * kTileM / kThreadsPerTile, k_rows = kThreadsPerTile / kTileM,
                rows = kThreadsPerTile / kTileK;
  constexpr int a_fixed = Load::a_along_k ? each : 1, b_fixed = Load::b_along_k ? each : 1;
  const int am = Load::a_along_k ? t / kTileK : t % kTileM, ak = Load::a_along_k ? t % kTileK : t / kTileM;
  const int bn = Load::b_along_k ? t / kTileK : t % kTileN, bk = Load::b_along_k ? t % kTileK : t / kTileN;
  typename Load::AFixed af[a_fixed];
  typename Load::BFixed bf[b_fixed];
  for (int i = 0; i < a_fixed; ++i) af[i] = load.a_fixed(q, m0 + am + i * rows < q.M ? m0 + am + i * rows : m0);
  for (int i = 0; i < b_fixed; ++i) bf[i] = load.b_fixed(q, n0 + bn + i * rows < q.N ? n0 + bn + i * rows : n0);

  R sum[kPerThread][kPerThread] = {};
  for (int32_t k0 = begin; k0 < end; k0 += kTileK) {
    FASTCNN_UNROLL
    for (int i = 0; i < each; ++i) {
      const int m = Load::a_along_k ? am + i * rows : am, ka = Load::a_along_k ? ak : ak + i * k_rows;
      const T* a = m0 + m < q.M && k0 + ka < end ? load.a_at(q, af[Load::a_along_k ? i : 0], k0 + ka) : nullptr;
      As[ka * row + m] = a ? to_real(*a) : R(0);
      const int n = Load::b_along_k ? bn + i * rows : bn, kb = Load::b_along_k ? bk : bk + i * k_rows;
      const T* b = n0 + n < q.N && k0 + kb < end ? load.b_at(q, bf[Load::b_along_k ? i : 0], k0 + kb) : nullptr;
      Bs[kb * row + n] = b ? to_real(*b) : R(0);
    }
    __syncthreads();
    FASTCNN_UNROLL
    for (int k = 0; k < kTileK; ++k) {
      const Quad<R> a = *reinterpret_cast<const Quad<R>*>(As + k * row + ty * kPerThread);
      const Quad<R> b = *reinterpret_cast<const Quad<R>*>(Bs + k * row + tx * kPerThread);
      FASTCNN_UNROLL
      for (int i = 0; i < kPerThread; ++i) FASTCNN_UNROLL
      for (int j = 0; j < kPerThread; ++j) sum[i][j] += a.v[i] * b.v[j];
    }
    __syncthreads();
  }
  const int64_t problems = static_cast<int64_t>(gridDim.z) / splits;
  FASTCNN_UNROLL
  for (int i = 0; i < kPerThread; ++i) {
    const int32_t m = m0 + ty * kPerThread + i;
    if (m >= q.M) continue;
    const int64_t out_row = load.out_row(q, m);
    FASTCNN_UNROLL
    for (int j = 0; j < kPerThread; ++j) {
      const int32_t n = n0 + tx * kPerThread + j;
      if (n >= q.N) continue;
      if (splits > 1)
        parts[((split * problems + problem) * q.M + m) * q.N + n] = sum[i][j];
      else
        store_result<T>(out, wide, out_row + n, finish(epilogue, sum[i][j], load.column(q) + n, out_row + n));
    }
  }
}

}  // namespace fastcnn::cuda
