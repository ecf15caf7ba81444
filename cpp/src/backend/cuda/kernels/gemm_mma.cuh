// What it is: C = A B of 16-bit floats, or of float32 rounded to TF32, on tensor cores (mma.sync), operands read
// through the loaders of gemm_load.cuh: a block makes a BM x BN tile, its warps WM x 32 of it; stages of 64 bytes
// of the depth travel through shared memory by cp.async while the ones before are multiplied. `chunked`: operands
// come in aligned runs of 16 bytes; else (few channels) one by one. What it is not: wgmma or TMA; strict float32.
#pragma once
#include "backend/cuda/kernels/gemm_store.cuh"
#include "backend/cuda/kernels/tensor_core.cuh"

namespace fastcnn::cuda {

constexpr int kStages = 3, kWarpN = 32, kDrainRow = kWarpN + 4;  // floats of a row on the way out

template <int BM_, int BN_, int WM_>
struct MmaTile {
  static constexpr int BM = BM_, BN = BN_, WM = WM_;
  static constexpr int warps_n = BN / kWarpN, threads = BM / WM * warps_n * 32;
  static constexpr int stage = (BM + BN) * 64;  // bytes
  static constexpr size_t shared = kStages * stage;
  static_assert(shared <= 48 << 10 && shared >= threads / 32 * 16 * kDrainRow * sizeof(float));
};

// The two operands under one name each.
template <class Load>
struct SideA {
  using Fixed = typename Load::AFixed;
  static constexpr bool along_k = Load::a_along_k;
  const Load& load;
  const typename Load::Problem& q;
  FASTCNN_DEVICE int32_t extent() const { return q.M; }
  FASTCNN_DEVICE Fixed fixed(int32_t i) const { return load.a_fixed(q, i); }
  FASTCNN_DEVICE auto at(const Fixed& f, int32_t k) const { return load.a_at(q, f, k); }
};
template <class Load>
struct SideB {
  using Fixed = typename Load::BFixed;
  static constexpr bool along_k = Load::b_along_k;
  const Load& load;
  const typename Load::Problem& q;
  FASTCNN_DEVICE int32_t extent() const { return q.N; }
  FASTCNN_DEVICE Fixed fixed(int32_t i) const { return load.b_fixed(q, i); }
  FASTCNN_DEVICE auto at(const Fixed& f, int32_t k) const { return load.b_at(q, f, k); }
};

// Brings a tile of R rows (or columns) from `base` on, a stage deep, into shared memory, a few chunks per thread.
template <class T, class Side, int R, int threads, bool chunked>
struct Stager {
  static constexpr bool along_k = Side::along_k;
  static constexpr int kChunk = MmaType<T>::chunk, kDepth = MmaType<T>::depth;
  static constexpr int wide = along_k ? kDepth / kChunk : R / kChunk;  // chunks of a row
  static constexpr int each = R * kDepth / kChunk / threads, states = along_k ? each : 1;
  static_assert(each * threads * kChunk == R * kDepth && threads % wide == 0);
  typename Side::Fixed fixed[states];
  int row, chunk;
  int32_t base;

  FASTCNN_DEVICE Stager(const Side& side, int32_t b) : base(b) {
    row = static_cast<int>(threadIdx.x) / wide, chunk = static_cast<int>(threadIdx.x) % wide;
    for (int s = 0; s < states; ++s) fixed[s] = side.fixed(index(s) < side.extent() ? index(s) : base);
  }
  FASTCNN_DEVICE int32_t index(int slot) const {
    return base + (along_k ? row + slot * (threads / wide) : chunk * kChunk);
  }
  FASTCNN_DEVICE void bring(const Side& side, int32_t k0, int32_t end, T* tile, const T* any) const {
    FASTCNN_UNROLL
    for (int s = 0; s < each; ++s) {
      const int r = row + s * (threads / wide);
      T* to = tile + (along_k ? tile_place<T>(r, chunk) : tile_place_across<T, (R < 64 ? 64 : R)>(r, chunk));
      const int32_t i = index(along_k ? s : 0), k = k0 + (along_k ? chunk * kChunk : r);
      const typename Side::Fixed& f = fixed[along_k ? s : 0];
      if constexpr (chunked) {
        const T* p = i < side.extent() && k < end ? side.at(f, k) : nullptr;
        copy_async16(to, p ? p : any, p != nullptr);
      } else {
        Pack<T> v;
        for (int j = 0; j < kChunk; ++j) {
          const T* p = nullptr;
          if (along_k) {
            if (i < side.extent() && k + j < end) p = side.at(f, k + j);
          } else if (i + j < side.extent() && k < end) {
            p = side.at(side.fixed(i + j), k);
          }
          v.v[j] = p ? *p : T();
        }
        *reinterpret_cast<Pack<T>*>(to) = v;
      }
    }
  }
};

// grid.z = problems * splits.
template <class T, class Load, class Tile, bool chunked>
FASTCNN_KERNEL gemm_mma_kernel(Load load, int32_t splits, Epilogue<T> epilogue, const T* any, Destination to) {
  follow_previous();
  constexpr int BM = Tile::BM, BN = Tile::BN, WM = Tile::WM, MI = WM / 16, NI = kWarpN / 8;
  constexpr int kDepth = MmaType<T>::depth, kStage = Tile::stage / sizeof(T);
  T* shared = shared_memory<T>();
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int wm = warp / Tile::warps_n * WM, wn = warp % Tile::warps_n * kWarpN;
  const auto problem = static_cast<int32_t>(blockIdx.z) / splits,
             split = static_cast<int32_t>(blockIdx.z) % splits;
  const auto q = load.problem(problem);
  const int32_t m0 = static_cast<int32_t>(blockIdx.x) * BM, n0 = static_cast<int32_t>(blockIdx.y) * BN;
  if (m0 >= q.M) return;  // of a parity with fewer pixels
  const int32_t per = ((q.K + splits - 1) / splits + kDepth - 1) / kDepth * kDepth;
  const int32_t begin = split * per < q.K ? split * per : q.K, end = q.K - begin < per ? q.K : begin + per;
  const int32_t steps = (end - begin + kDepth - 1) / kDepth;

  const SideA<Load> side_a{load, q};
  const SideB<Load> side_b{load, q};
  const Stager<T, SideA<Load>, BM, Tile::threads, chunked> a(side_a, m0);
  const Stager<T, SideB<Load>, BN, Tile::threads, chunked> b(side_b, n0);
  auto bring = [&](int32_t step) {
    if (step < steps) {
      T* stage = shared + step % kStages * kStage;
      a.bring(side_a, begin + step * kDepth, end, stage, any);
      b.bring(side_b, begin + step * kDepth, end, stage + BM * kDepth, any);
    }
    commit_copies();  // empty groups too: waiting counts them
  };

  float sum[MI][NI][4] = {};
  for (int s = 0; s < kStages - 1; ++s) bring(s);
  for (int32_t step = 0; step < steps; ++step) {
    wait_copies<kStages - 2>();
    __syncthreads();
    bring(step + kStages - 1);  // into what everybody has read one step ago
    const T* As = shared + step % kStages * kStage;
    const T* Bs = As + BM * kDepth;
    FASTCNN_UNROLL
    for (int kk = 0; kk < kDepth; kk += MmaType<T>::step) {
      uint32_t fa[MI][4], fb[NI / 2][4];  // fb: two tiles of 8 columns
      FASTCNN_UNROLL
      for (int i = 0; i < MI; ++i) load_a<T, Load::a_along_k, BM>(As, wm + i * 16, kk, fa[i]);
      FASTCNN_UNROLL
      for (int j = 0; j < NI / 2; ++j) load_b<T, Load::b_along_k, BN>(Bs, wn + j * 16, kk, fb[j]);
      FASTCNN_UNROLL
      for (int i = 0; i < MI; ++i) FASTCNN_UNROLL
      for (int j = 0; j < NI; ++j) multiply_add<T>(sum[i][j], fa[i], &fb[j / 2][j % 2 * 2]);
    }
  }

  // Through shared memory, so that a warp stores rows of 64 bytes.
  wait_copies<0>();
  __syncthreads();
  float* drain = shared_memory<float>() + warp * 16 * kDrainRow;
  const int64_t part = static_cast<int64_t>(split) * (static_cast<int32_t>(gridDim.z) / splits) + problem;
  FASTCNN_UNROLL
  for (int i = 0; i < MI; ++i) {
    FASTCNN_UNROLL
    for (int j = 0; j < NI; ++j) {
      float* to = drain + lane / 4 * kDrainRow + j * 8 + lane % 4 * 2;
      to[0] = sum[i][j][0], to[1] = sum[i][j][1];
      to[8 * kDrainRow] = sum[i][j][2], to[8 * kDrainRow + 1] = sum[i][j][3];
    }
    sync_warp();
    store_rows<T, kWarpN>(load, q, epilogue, to, splits, part, m0 + wm + i * 16, n0 + wn, drain);
    sync_warp();
  }
}

}  // namespace fastcnn::cuda
