// What it is: C = A B of 16-bit floats by wgmma on operands that the copy engine brings (sm_90a): one warp asks
// for boxes, two groups of four warps multiply and store; blocks stay and take tile after tile, so that the next
// one's boxes arrive while results are stored. What it is not: for operands that are no boxes (gemm_wgmma.cuh).
#pragma once
#include "backend/cuda/kernels/moments.cuh"
#include "backend/cuda/kernels/tma.cuh"
#include "backend/cuda/kernels/tma_feed.h"
#include "backend/cuda/kernels/wgmma.cuh"

namespace fastcnn::cuda {

// MI times 64 rows for each group of warps; `blocks`: on a multiprocessor.
template <int MI_, int BN_, int stages_, int blocks_>
struct BoxTile {
  static constexpr int MI = MI_, BM = 128 * MI, BN = BN_, stages = stages_, blocks = blocks_;
  // A block alone has a whole group that asks, since registers move between groups.
  static constexpr int multiplying = 32 * kSummingWarps, threads = multiplying + (blocks == 1 ? 128 : 32);
  static constexpr int stage = (BM + BN) * kBoxDepth;  // elements
  static constexpr size_t drain = multiplying / 32 * kFragmentDrain;
  static constexpr size_t shared = static_cast<size_t>(stages) * stage * 2 + drain + 2 * stages * 8;
};

struct TileGrid {
  FastDiv columns, rows;  // tiles
  int32_t total, splits, problems;
  bool each = false;  // with moments: the sums of every tile are left, else a block keeps its column
};

#if defined(__CUDACC__)
// `moments`: the bare product, of one problem in one part, and in to.parts (slices, 2, N) the sums of its columns:
// a slice is a warp of a row of tiles (`each`) or as many blocks as there are columns of tiles.
template <class T, class Load, class Tile, bool moments>
FASTCNN_KERNEL_BOUNDS(Tile::threads, Tile::blocks)
gemm_tma_kernel(const __grid_constant__ TensorMaps maps, Load load, TileGrid grid, Epilogue<T> epilogue,
                Destination to) {
  let_next_start();
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  constexpr int BM = Tile::BM, BN = Tile::BN, MI = Tile::MI, S = Tile::stages;
  using F = Feed<Load>;
  T* shared = shared_memory<T>();
  auto* drains = reinterpret_cast<float*>(shared + S * Tile::stage);
  auto* full = reinterpret_cast<uint64_t*>(reinterpret_cast<char*>(drains) + Tile::drain);
  uint64_t* empty = full + S;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  if (threadIdx.x == 0) {
    for (int s = 0; s < S; ++s) barrier_init(full + s, 1), barrier_init(empty + s, Tile::multiplying / 32);
    publish_barriers();
    fetch_map(&maps.b);
    if constexpr (Load::a_along_k == Load::b_along_k) fetch_map(maps.a);  // else of a parity, which may be empty
  }
  __syncthreads();
  await_previous();

  struct Place {
    int32_t m0, n0, problem, split;
  };
  auto place = [&](int32_t t) {
    int32_t column, row;
    const int32_t z = grid.rows.split(grid.columns.split(t, &column), &row);
    return Place{row * BM, column * BN, z / grid.splits, z % grid.splits};
  };
  auto range = [&](const typename Load::Problem& q, int32_t split, int32_t* first) {
    const int32_t steps = F::steps(load, q), per = (steps + grid.splits - 1) / grid.splits;
    *first = split * per < steps ? split * per : steps;
    return steps - *first < per ? steps : *first + per;
  };

  int32_t round = 0;  // of all stages so far
  if (warp >= Tile::multiplying / 32) {
    if constexpr (Tile::blocks == 1) keep_registers<24>();
    const bool asks = warp == Tile::multiplying / 32 && lane == 0;
    for (int32_t t = static_cast<int32_t>(blockIdx.x); asks && t < grid.total;
         t += static_cast<int32_t>(gridDim.x)) {
      const Place p = place(t);
      const auto q = load.problem(p.problem);
      if (p.m0 >= q.M) continue;
      int32_t step;
      const int32_t end = range(q, p.split, &step);
      for (; step < end; ++step, ++round) {
        const int s = round % S;
        barrier_wait(empty + s, (round / S + 1) & 1);
        barrier_expect(full + s, Tile::stage * 2);
        T* As = shared + s * Tile::stage;
        T* Bs = As + BM * kBoxDepth;
        if constexpr (Load::a_along_k) {
          const PixelBox a = F::a(load, q, p.m0, step);
          bring_pixels(As, maps.a + (Load::b_along_k ? 0 : p.problem % 4), full + s, a.c, a.w, a.h, a.n,
                       static_cast<uint16_t>(a.right), static_cast<uint16_t>(a.down));
          if constexpr (Load::b_along_k) {
            const WeightBox b = F::b(load, q, p.n0, step);
            bring_tile(Bs, &maps.b, full + s, b.c, b.tap, b.o);
          } else {
            for (int j = 0; j < BN / 64; ++j) {
              const WeightBox b = F::b(load, q, p.n0 + j * 64, step);
              bring_tile(Bs + j * 64 * kBoxDepth, &maps.b, full + s, b.c, b.tap, b.o);
            }
          }
        } else {
          for (int j = 0; j < BM / 64; ++j)
            bring_tile(As + j * 64 * kBoxDepth, maps.a, full + s, p.m0 + j * 64, step * kBoxDepth);
          for (int j = 0; j < BN / 64; ++j) {
            const PixelBox b = F::b(load, q, p.n0 + j * 64, step);
            bring_pixels(Bs + j * 64 * kBoxDepth, &maps.b, full + s, b.c, b.w, b.h, b.n,
                         static_cast<uint16_t>(b.right), static_cast<uint16_t>(b.down));
          }
        }
      }
    }
  } else {
    if constexpr (Tile::blocks == 1) take_registers<240>();
    const int group_row = warp / 4 * 64 * MI;
    float* drain = drains + warp * kFragmentDrain / sizeof(float);
    [[maybe_unused]] float total[BN / 16] = {};  // with moments
    for (int32_t t = static_cast<int32_t>(blockIdx.x); t < grid.total; t += static_cast<int32_t>(gridDim.x)) {
      int32_t first, end;
      {
        const Place p = place(t);
        const auto q = load.problem(p.problem);
        if (p.m0 >= q.M) continue;
        end = range(q, p.split, &first);
      }
      float sum[MI][BN / 2];
      FASTCNN_UNROLL
      for (int i = 0; i < MI; ++i) FASTCNN_UNROLL
      for (int j = 0; j < BN / 2; ++j) sum[i][j] = 0;
      for (int32_t step = first; step < end; ++step, ++round) {
        const int s = round % S;
        barrier_wait(full + s, round / S & 1);
        const T* As = shared + s * Tile::stage;
        const T* Bs = As + BM * kBoxDepth;
        multiply_stage<T, MI, BN, Load::a_along_k, Load::b_along_k>(sum, As, group_row, Bs);
        wait_products<1>();
        if (step > first && lane == 0) barrier_arrive(empty + (round + S - 1) % S);
      }
      wait_products<0>();
      if (end > first && lane == 0) barrier_arrive(empty + (round + S - 1) % S);

      const Place p = place(hidden(t));  // made anew: registers are short while products run
      const auto q = load.problem(p.problem);
      const int64_t part = static_cast<int64_t>(p.split) * grid.problems + p.problem;
      // Beside moments nothing else is wanted: its code goes.
      const Epilogue<T> ends = moments ? Epilogue<T>{nullptr, nullptr, {}} : epilogue;
      const Destination where = moments ? Destination{to.out, false, to.packed, nullptr} : to;
      FASTCNN_UNROLL
      for (int i = 0; i < MI; ++i)
        store_fragments<T, BN>(load, q, ends, where, moments ? 1 : grid.splits, part,
                               p.m0 + group_row + i * 64 + warp % 4 * 16, p.n0, sum[i], drain);
      if constexpr (moments) {
        FASTCNN_UNROLL
        for (int i = 0; i < MI; ++i) clear_rows<BN>(sum[i], p.m0 + group_row + i * 64 + warp % 4 * 16, q.M);
        add_column_sums<MI, BN>(sum, total);
        if (grid.each) {
          const int64_t slice = int64_t{grid.columns.quotient(t)} * kSummingWarps + warp;
          leave_column_sums<BN>(total, to.parts + slice * 2 * q.N, p.n0, q.N);
          FASTCNN_UNROLL
          for (int k = 0; k < BN / 16; ++k) total[k] = 0;
        }
      }
    }
    if constexpr (moments) {
      if (grid.each) return;
      int32_t column;
      const int64_t slice = grid.columns.split(static_cast<int32_t>(blockIdx.x), &column), N = load.problem(0).N;
      leave_block_sums<BN>(total, reinterpret_cast<float*>(shared), to.parts + slice * 2 * N, column * BN,
                           static_cast<int32_t>(N), sync_threads<1, Tile::multiplying>);
    }
  }
#endif
}
#endif

}  // namespace fastcnn::cuda
