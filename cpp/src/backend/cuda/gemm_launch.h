// What it is: how a product of gemm_load.cuh starts: by wgmma, mma.sync or plain multiply-adds, which tile, how
// often the depth is split. What it is not: the loaders (conv2d_gemm.h, matmul.cu); boxes of the copy engine
// (conv2d_boxes.cu). Tiles of mma.sync are chosen by counting blocks, those of wgmma by a model fitted to an H100.
#pragma once
#include <algorithm>
#include <span>

#include "backend/cuda/dispatch.h"
#include "backend/cuda/kernels/gemm.cuh"
#include "backend/cuda/kernels/gemm_mma.cuh"
#include "backend/cuda/kernels/gemm_wgmma.cuh"
#include "fastcnn/runtime.h"

namespace fastcnn::cuda {

struct Sizes {
  int64_t M, N, K, problems;  // M of the largest problem
};

inline int splits_of(const Sizes& s, int64_t tile_m, int64_t tile_n, int64_t depth) {
  const int64_t blocks = int64_t{ceil_div(s.M, tile_m)} * ceil_div(s.N, tile_n) * s.problems;
  const int64_t wanted = blocks ? 2 * rt::device().multiprocessors / blocks : 1, most = s.K / depth;
  return static_cast<int>(std::clamp<int64_t>(std::min(wanted, most), 1, 64));
}
inline int64_t parts_bytes(const Sizes& s, int splits, int64_t value) {
  return splits > 1 ? splits * s.problems * s.M * s.N * value : 0;
}
inline dim3 grid_of(const Sizes& s, int splits, int64_t tile_m, int64_t tile_n) {
  return {ceil_div(s.M, tile_m), ceil_div(s.N, tile_n), static_cast<unsigned>(s.problems * splits)};
}

// Why a product does not fit the kernels' 32-bit counts.
inline const char* too_large(const Sizes& s) {
  constexpr int64_t most = (int64_t{1} << 31) - 256;
  if (s.M > most || s.N > most || s.K > most) return "more than 2^31 rows or columns";
  // Where depth is split there are fewer than multiprocessors.
  if (s.problems > 65535) return "more than 65535 products";
  return ceil_div(s.N, kTileN) > 65535 ? "more columns than a grid holds" : nullptr;
}

// Is C kept in the type of the sums?
template <class T>
bool wide_result(const Operand& out) {
  return dtype_size(out.dtype) != sizeof(T);
}

template <class T, class Load>
void join_parts(const char* name, const Load& load, const Sizes& s, int splits, const Epilogue<T>& e,
                const Real<T>* parts, const Operand& out) {
  if (splits > 1)
    launch(name, for_elements(s.problems * s.M * s.N), gemm_join<T, Load>, load, splits, s.problems, e, parts,
           out.data, wide_result<T>(out));
}

// ---- plain multiply-adds
// ------------------------------------------------------------------------------------------
template <class T, class Load>
void launch_simt(const char* name, const Load& load, const Sizes& s, int splits, const Epilogue<T>& e, void* parts,
                 const Operand& out) {
  auto* sums = static_cast<Real<T>*>(parts);
  launch(name, {grid_of(s, splits, kTileM, kTileN), dim3(kThreadsPerTile), kTileValues * sizeof(Real<T>)},
         gemm_kernel<T, Load>, load, splits, e, out.data, wide_result<T>(out), sums);
  join_parts<T>("gemm_join", load, s, splits, e, sums, out);
}
inline int simt_splits(const Sizes& s) { return splits_of(s, kTileM, kTileN, 8 * kTileK); }

// ---- tensor cores
// -------------------------------------------------------------------------------------------------
// What tensor cores take: 16-bit floats, and float32 where TF32 is allowed.
template <class F>
void with_mma(DType t, F&& f) {
  if (t == DType::float32) return f.template operator()<float>();
  return with_half(t, f);
}
template <class T>
constexpr DType dtype_of() {
  return is_same<T, bfloat16> ? DType::bfloat16 : is_same<T, float16> ? DType::float16 : DType::float32;
}
inline int64_t chunk_of(DType t) { return static_cast<int64_t>(16 / dtype_size(t)); }
inline int64_t depth_of(DType t) { return 4 * chunk_of(t); }
inline const char* mma_dtype_declines(DType t) {
  if (is_half(t)) return nullptr;
  if (t != DType::float32) return "neither a 16-bit float nor float32";
  return get_float32_matmul_precision() == "highest" ? "strict float32 (set_float32_matmul_precision)" : nullptr;
}

using LargeTile = MmaTile<128, 128, 64>;
using WideTile = MmaTile<128, 64, 32>;
using SmallTile = MmaTile<64, 64, 32>;

struct MmaPlan {
  int tile = 2;  // 0 large, 1 wide, 2 small
  int splits = 1;
};
// The largest tile that still gives every multiprocessor a block. `chunked`: operands come in runs of 16 bytes.
// depth: of a stage.
inline MmaPlan mma_plan(const Sizes& s, bool chunked, bool may_split, int64_t depth) {
  constexpr int tiles[3][2] = {{128, 128}, {128, 64}, {64, 64}};
  MmaPlan p;
  for (p.tile = chunked ? 0 : 2; p.tile < 2; ++p.tile) {
    const int64_t m = tiles[p.tile][0], n = tiles[p.tile][1];
    if (s.M <= m / 2 || s.N <= n / 2) continue;
    const int64_t blocks = int64_t{ceil_div(s.M, m)} * ceil_div(s.N, n) * s.problems;
    if (blocks * (may_split ? std::max<int64_t>(s.K / (8 * depth), 1) : 1) >= rt::device().multiprocessors) break;
  }
  if (may_split) p.splits = splits_of(s, tiles[p.tile][0], tiles[p.tile][1], 8 * depth);
  return p;
}

// `out_chunked`: C's rows, bias and residual come in aligned runs of 16 bytes too.
template <class T>
Destination destination(const Sizes& s, int splits, const Epilogue<T>& e, const Operand& out, bool out_chunked,
                        void* workspace) {
  const bool wide = wide_result<T>(out);
  const bool packed = splits > 1 ? s.N % chunk_of(dtype_of<T>()) == 0 && aligned16({workspace})
                                 : out_chunked && aligned16({out.data, e.residual});
  return {out.data, wide, packed, static_cast<float*>(workspace)};
}

template <class T, class Load, class Tile, bool chunked>
void launch_tile(const char* name, const Load& load, const Sizes& s, int splits, const Epilogue<T>& e,
                 const T* any, const Destination& to) {
  launch(name, {grid_of(s, splits, Tile::BM, Tile::BN), dim3(Tile::threads), Tile::shared},
         gemm_mma_kernel<T, Load, Tile, chunked>, load, splits, e, any, to);
}

// `operands`: what must be aligned for chunks; the first of them is any valid address.
template <class T, class Load>
void launch_mma(const char* name, const Load& load, const Sizes& s, const MmaPlan& p, bool chunked,
                std::initializer_list<const void*> operands, const Epilogue<T>& e, void* workspace,
                const Operand& out, bool out_chunked) {
  const T* any = static_cast<const T*>(*operands.begin());
  const Destination to = destination<T>(s, p.splits, e, out, out_chunked, workspace);
  auto run = [&]<class Tile, bool c>() { launch_tile<T, Load, Tile, c>(name, load, s, p.splits, e, any, to); };
  if (!chunked || !aligned16(operands))
    run.template operator()<SmallTile, false>();
  else if (p.tile == 0)
    run.template operator()<LargeTile, true>();
  else if (p.tile == 1)
    run.template operator()<WideTile, true>();
  else
    run.template operator()<SmallTile, true>();
  join_parts<T>("gemm_join", load, s, p.splits, e, to.parts, out);
}

// ---- wgmma
// -------------------------------------------------------------------------------------------------
// Why not: it takes machine code for 9.0a, and runs of 16 bytes.
inline const char* lines_decline(DType t, bool chunked) {
#if defined(__CUDACC__) && !defined(FASTCNN_HAS_SM90A)
  return "built without code for 9.0a";
#endif
  if (rt::device().major != 9) return "wgmma is for compute capability 9.0";
  if (!is_half(t)) return "not a 16-bit float";
  return chunked ? nullptr : "channels do not fill runs of 16 bytes";
}

// What a kind of tile costs on a device.
struct TileCost {
  int64_t m, n, blocks;  // of a tile; tiles on a multiprocessor
  double step, edge;     // microseconds: a step of the depth of all tiles there, their beginning and end
};
struct TilePlan {
  int tile = 0, splits = 1;
};
// The cheapest of tiles and of parts of the depth, `steps` long.
inline TilePlan cheapest(std::span<const TileCost> tiles, const Sizes& s, int64_t steps, bool may_split) {
  TilePlan best;
  double least = 1e30;
  for (size_t t = 0; t < tiles.size(); ++t) {
    const TileCost& cost = tiles[t];
    const int64_t count = int64_t{ceil_div(s.M, cost.m)} * ceil_div(s.N, cost.n) * s.problems;
    const int64_t slots = cost.blocks * rt::device().multiprocessors;
    // Problems and splits share a dimension of the grid.
    const int64_t most =
        may_split ? std::min({int64_t{128}, steps / 2, 65535 / std::max<int64_t>(s.problems, 1)}) : 1;
    for (int splits = 1; splits == 1 || splits <= most; splits += splits < 8 ? 1 : splits / 4) {
      const double waves = static_cast<double>((count * splits + slots - 1) / slots);
      double time = waves * (static_cast<double>((steps + splits - 1) / splits) * cost.step + cost.edge);
      if (splits > 1)  // joining: a launch, and float32 written and read
        time += 3 + static_cast<double>(s.M * s.N * s.problems) * splits * 8 / 2.5e6;
      if (time < least) least = time, best = {static_cast<int>(t), splits};
    }
  }
  return best;
}

// Fitted to an H100's times of the layers of ResNet-50 (bfloat16, batch 128); see bench/NOTES.md.
constexpr TileCost kLineCosts[] = {{128, 64, 3, 1.19, 5.2}, {128, 128, 2, 1.18, 5.5}, {128, 256, 1, 0.9, 7}};
inline TilePlan line_plan(const Sizes& s, bool may_split) {
  return cheapest(kLineCosts, s, (s.K + kLineDepth - 1) / kLineDepth, may_split);
}

template <class T, class Load, class Tile, bool moments = false>
void launch_line_tile(const char* name, const Load& load, const Sizes& s, int splits, const Epilogue<T>& e,
                      const T* any, const Destination& to) {
  const int64_t columns = ceil_div(s.N, Tile::BN), per = (s.K + splits - 1) / splits;
  launch(name,
         {dim3(static_cast<unsigned>(ceil_div(s.M, Tile::BM) * columns), 1,
               static_cast<unsigned>(s.problems * splits)),
          dim3(Tile::threads), Tile::shared((per + kLineDepth - 1) / kLineDepth)},
         gemm_wgmma_kernel<T, Load, Tile, moments>, load, splits, FastDiv(columns), e, any, to);
}

// `reread`: blocks read the same elements several times from nearby (narrow windows).
template <class F>
void with_line_tile(int tile, bool reread, F&& f) {
  if (tile == 0 && reread)
    f.template operator()<LineTile<1, 64, 3, 0, 3, true>>();
  else if (tile == 0)
    f.template operator()<LineTile<1, 64, 3, 0, 3>>();
  else if (tile == 1)
    f.template operator()<LineTile<1, 128, 3, 0, 2>>();
  else
    f.template operator()<LineTile<1, 256, 4, 1, 1>>();
}

template <class T, class Load>
void launch_lines(const char* name, const Load& load, const Sizes& s, const TilePlan& p, bool reread,
                  std::initializer_list<const void*> operands, const Epilogue<T>& e, void* workspace,
                  const Operand& out, bool out_chunked) {
  if (!aligned16(operands))
    return launch_mma<T>(name, load, s, MmaPlan{}, false, operands, e, workspace, out, out_chunked);
  const T* any = static_cast<const T*>(*operands.begin());
  const Destination to = destination<T>(s, p.splits, e, out, out_chunked, workspace);
  with_line_tile(p.tile, reread,
                 [&]<class Tile>() { launch_line_tile<T, Load, Tile>(name, load, s, p.splits, e, any, to); });
  join_parts<T>("gemm_join", load, s, p.splits, e, to.parts, out);
}

}  // namespace fastcnn::cuda
