// What it is: C = A B of 16-bit floats by wgmma (sm_90a), operands read through the loaders of gemm_load.cuh: two
// groups of four warps make a BM x BN tile, MI times 64 rows each; stages of 128 bytes of the depth travel through
// shared memory by cp.async while the ones before are multiplied. Operands come in aligned runs of 16 bytes.
// What it is not: TMA or a producer of its own; TF32 (gemm_mma.cuh).
#pragma once
#include "backend/cuda/kernels/gemm_mma.cuh"
#include "backend/cuda/kernels/moments.cuh"
#include "backend/cuda/kernels/wgmma.cuh"

namespace fastcnn::cuda {

// `flying`: products that may be on their way while the next are started; `blocks`: on a multiprocessor.
template <int MI_, int BN_, int stages_, int flying_, int blocks_, bool keep_ = false>
struct LineTile {
  static constexpr bool keep = keep_;
  static constexpr int MI = MI_, BM = 128 * MI, BN = BN_, stages = stages_, flying = flying_, blocks = blocks_;
  static constexpr int threads = 256, ahead = stages - 1 - flying;
  static constexpr int stage = (BM + BN) * kLineDepth;  // elements
  static constexpr size_t drain = threads / 32 * kFragmentDrain;
  static_assert(ahead >= 1);
  // Few steps need few stages; the way out goes through the same memory.
  static_assert(stage * 2 >= threads / 32 * 2 * BN * 4);  // sums of columns too
  static constexpr size_t shared(int64_t steps) {
    const size_t bytes = static_cast<size_t>(steps < stages ? steps : stages) * stage * 2;
    return bytes < drain ? drain : bytes;
  }
};

// Brings a tile of R rows (or columns) from `base` on, a stage deep, into shared memory, a few chunks per thread.
template <class T, class Side, int R, int threads, bool keep>
struct LineStager {
  static constexpr bool along_k = Side::along_k;
  static constexpr int wide = along_k ? kLineDepth / 8 : R / 8;  // chunks of a row
  static constexpr int each = R * kLineDepth / 8 / threads, states = along_k ? each : 1, step = threads / wide;
  static_assert(each * threads * 8 == R * kLineDepth && threads % wide == 0);
  typename Side::Fixed fixed[states];
  int row, chunk;
  int32_t base;

  FASTCNN_DEVICE LineStager(const Side& side, int32_t b) : base(b) {
    row = static_cast<int>(threadIdx.x) / wide, chunk = static_cast<int>(threadIdx.x) % wide;
    FASTCNN_UNROLL
    for (int s = 0; s < states; ++s) fixed[s] = side.fixed(index(s) < side.extent() ? index(s) : base);
  }
  FASTCNN_DEVICE int32_t index(int slot) const { return base + (along_k ? row + slot * step : chunk * 8); }
  FASTCNN_DEVICE void bring(const Side& side, int32_t k0, int32_t end, T* tile, const T* any) const {
    FASTCNN_UNROLL
    for (int s = 0; s < each; ++s) {
      const int r = row + s * step;
      T* to = tile + (along_k ? line_place(r, chunk) : line_place_across(r, chunk));
      const int32_t k = k0 + (along_k ? chunk * 8 : r);
      const T* p =
          index(along_k ? s : 0) < side.extent() && k < end ? side.at(fixed[along_k ? s : 0], k) : nullptr;
      copy_async16<keep>(to, p ? p : any, p != nullptr);
    }
  }
};

// grid.x = tiles of columns, then of rows: neighbours share rows of A; grid.z = problems * splits. `moments`: the
// bare product, of one problem in one part, and in to.parts (rows of tiles, 2, N) the sums of its columns.
template <class T, class Load, class Tile, bool moments>
FASTCNN_KERNEL_BOUNDS(Tile::threads, Tile::blocks)
gemm_wgmma_kernel(Load load, int32_t splits, FastDiv column_tiles, Epilogue<T> epilogue, const T* any,
                  Destination to) {
  let_next_start();
#if !defined(__CUDACC__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
  constexpr int BM = Tile::BM, BN = Tile::BN, MI = Tile::MI;
  T* shared = shared_memory<T>();
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int group_row = warp / 4 * 64 * MI;  // of this group of four warps
  struct Place {
    int32_t m0, n0, problem, split;
  };
  auto place = [&](unsigned x, unsigned z) {
    int32_t column;
    const int32_t row = column_tiles.split(hidden(static_cast<int32_t>(x)), &column);
    const int32_t at = hidden(static_cast<int32_t>(z));
    return Place{row * BM, column * BN, at / splits, at % splits};
  };
  const Place here = place(blockIdx.x, blockIdx.z);
  const int32_t m0 = here.m0, n0 = here.n0, split = here.split;
  const auto q = load.problem(here.problem);
  if (m0 >= q.M) return;  // of a parity with fewer pixels; the grid ends with blocks that wait
  const int32_t per = ((q.K + splits - 1) / splits + kLineDepth - 1) / kLineDepth * kLineDepth;
  const int32_t begin = split * per < q.K ? split * per : q.K, end = q.K - begin < per ? q.K : begin + per;
  const int32_t steps = (end - begin + kLineDepth - 1) / kLineDepth;

  const SideA<Load> side_a{load, q};
  const SideB<Load> side_b{load, q};
  const LineStager<T, SideA<Load>, BM, Tile::threads, Tile::keep> a(side_a, m0);
  const LineStager<T, SideB<Load>, BN, Tile::threads, false> b(side_b, n0);
  await_previous();  // what is above is numbers alone
  auto bring = [&](int32_t step) {
    if (step < steps) {
      T* stage = shared + step % Tile::stages * Tile::stage;
      a.bring(side_a, begin + step * kLineDepth, end, stage, any);
      b.bring(side_b, begin + step * kLineDepth, end, stage + BM * kLineDepth, any);
    }
    commit_copies();  // empty groups too: waiting counts them
  };

  float sum[MI][BN / 2] = {};
  for (int s = 0; s < Tile::ahead; ++s) bring(s);
  for (int32_t step = 0; step < steps; ++step) {
    wait_copies<Tile::ahead - 1>();
    publish_shared();
    wait_products<Tile::flying>();
    __syncthreads();
    const T* As = shared + step % Tile::stages * Tile::stage;
    const T* Bs = As + BM * kLineDepth;
    multiply_stage<T, MI, BN, Load::a_along_k, Load::b_along_k>(sum, As, group_row, Bs);
    bring(step + Tile::ahead);  // into what everybody has multiplied
  }
  wait_products<0>();
  wait_copies<0>();
  __syncthreads();

  float* drain = shared_memory<float>() + warp * kFragmentDrain / sizeof(float);
  const Place p = place(blockIdx.x, blockIdx.z);  // made anew: registers are short while products run
  const int64_t part = static_cast<int64_t>(p.split) * (static_cast<int32_t>(gridDim.z) / splits) + p.problem;
  const Epilogue<T> ends = moments ? Epilogue<T>{nullptr, nullptr, {}} : epilogue;
  const Destination where = moments ? Destination{to.out, false, to.packed, nullptr} : to;
  FASTCNN_UNROLL
  for (int i = 0; i < MI; ++i)
    store_fragments<T, BN>(load, load.problem(p.problem), ends, where, moments ? 1 : splits, part,
                           p.m0 + group_row + i * 64 + warp % 4 * 16, p.n0, sum[i], drain);
  if constexpr (moments) {
    const auto end_q = load.problem(0);
    float total[BN / 16] = {};
    FASTCNN_UNROLL
    for (int i = 0; i < MI; ++i) clear_rows<BN>(sum[i], p.m0 + group_row + i * 64 + warp % 4 * 16, end_q.M);
    add_column_sums<MI, BN>(sum, total);
    leave_block_sums<BN>(total, shared_memory<float>(), to.parts + static_cast<int64_t>(p.m0 / BM) * 2 * end_q.N,
                         p.n0, end_q.N, [] { __syncthreads(); });
  }
#endif
}

}  // namespace fastcnn::cuda
