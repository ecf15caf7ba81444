// What it is: convolutions of 16-bit floats whose operands the copy engine brings as boxes of pixels and of
// weights (implicit GEMM by TMA and wgmma, sm_90a): tiles and splits by a model, boxes described to the driver.
// What it is not: for groups, odd channels or operands that are not aligned to 16 bytes (gemm_wgmma.cuh,
// gemm_mma.cuh).
#include <algorithm>

#include "backend/cuda/conv2d_gemm.h"
#include "backend/cuda/kernels/gemm_tma.cuh"
#include "backend/cuda/tensor_map.h"

namespace fastcnn::cuda {
namespace {

#if defined(__CUDACC__) && defined(FASTCNN_HAS_SM90A)

// Fitted to an H100's times of the layers of ResNet-50 (bfloat16, batch 128); see bench/NOTES.md.
constexpr TileCost kCosts[] = {
    {128, 256, 1, 0.62, 3.2}, {256, 128, 1, 0.62, 3.2}, {256, 64, 1, 0.41, 3.1}, {128, 64, 2, 0.44, 3.0}};

// Blocks that also give moments, and how many slices of sums they leave (see gemm_tma_kernel).
struct MomentsPlan {
  int64_t blocks, slices;
  bool each;
};
MomentsPlan moments_plan(const Sizes& s, const TilePlan& p) {
  const TileCost& tile = kCosts[p.tile];
  const int64_t columns = ceil_div(s.N, tile.n), rows = ceil_div(s.M, tile.m), total = columns * rows;
  const int64_t all = std::min<int64_t>(total, tile.blocks * rt::device().multiprocessors);
  const int64_t even = all / columns * columns;
  // Fewer blocks that stay in their columns, where that takes hardly longer.
  if (even && int64_t{ceil_div(total, even)} * 16 <= int64_t{ceil_div(total, all)} * 17)
    return {even, even / columns, false};
  return {all, rows * kSummingWarps, true};
}

template <class T, class Load, class Tile, bool moments = false, class Describe>
void launch_box_tile(const char* name, const Load& load, const Sizes& s, const TilePlan& p, const Epilogue<T>& e,
                     const Destination& to, const Describe& describe) {
  TensorMaps maps;
  describe(maps, Tile::BM, Tile::BN);
  const int64_t columns = ceil_div(s.N, Tile::BN), rows = ceil_div(s.M, Tile::BM);
  const int64_t total = columns * rows * s.problems * p.splits;
  TileGrid grid{FastDiv(columns), FastDiv(rows), static_cast<int32_t>(total), p.splits,
                static_cast<int32_t>(s.problems)};
  int64_t blocks = std::min<int64_t>(total, int64_t{Tile::blocks} * rt::device().multiprocessors);
  if constexpr (moments) {
    const MomentsPlan m = moments_plan(s, p);
    blocks = m.blocks, grid.each = m.each;
  }
  launch(name, {dim3(static_cast<unsigned>(blocks)), dim3(Tile::threads), Tile::shared},
         gemm_tma_kernel<T, Load, Tile, moments>, maps, load, grid, e, to);
}

template <class F>
void with_box_tile(int tile, F&& f) {
  if (tile == 0)
    f.template operator()<BoxTile<1, 256, 4, 1>>();
  else if (tile == 1)
    f.template operator()<BoxTile<2, 128, 4, 1>>();
  else if (tile == 2)
    f.template operator()<BoxTile<2, 64, 4, 1>>();
  else
    f.template operator()<BoxTile<1, 64, 4, 2>>();
}

// describe(maps, BM, BN) fills in the boxes.
template <class T, class Load, class Describe>
void launch_boxes(const char* name, const Load& load, const Sizes& s, const TilePlan& p, const Epilogue<T>& e,
                  void* workspace, const Operand& out, bool out_chunked, const Describe& describe) {
  const Destination to = destination<T>(s, p.splits, e, out, out_chunked, workspace);
  with_box_tile(p.tile, [&]<class Tile>() { launch_box_tile<T, Load, Tile>(name, load, s, p, e, to, describe); });
  join_parts<T>("gemm_join", load, s, p.splits, e, to.parts, out);
}

// ---- who takes what
// -----------------------------------------------------------------------------------------------
// Most of a step's 64 channels should exist.
bool fills_steps(int64_t channels) {
  return channels * 10 >= blocks_of(static_cast<int32_t>(channels)) * kBoxDepth * 7;
}

template <class Load>
bool windows_fit(const Load& load, int parities, int64_t H, int64_t W, int64_t down, int64_t right) {
  for (int k = 0; k < parities; ++k) {
    const Window w = Feed<Load>::window(load, k);
    if (w.rows <= 0 || w.columns <= 0) continue;  // no pixels there
    if (!pixels_fit(w, H, W, down, right)) return false;
  }
  return true;
}

template <Sizes (*sizes)(const Conv2dParams&), const char* (*dtypes)(const Call&)>
const char* common_declines(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  if (const char* why = lines_decline(c.in[0].dtype, in_chunks(p.C, c) && in_chunks(p.O, c))) return why;
  if (p.groups != 1) return "groups";
  if (p.N == 0) return "no images";  // the engine knows no empty tensor
  if (p.sH * p.sW > 4) return "more than four parities";
  if (!has_copy_engine()) return "the driver has no copy engine";
  for (const Operand& o : c.in)
    if (o.data && !aligned16({o.data})) return "operands not aligned to 16 bytes";
  return gemm_declines<sizes, dtypes>(c);
}
TilePlan forward_plan(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  return cheapest(kCosts, forward_sizes(p), p.kH * p.kW * blocks_of(static_cast<int32_t>(p.C)), true);
}
const char* forward_declines(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  if (const char* why = common_declines<forward_sizes, one_dtype_or_moments>(c)) return why;
  if (!fills_steps(p.C)) return "few input channels";
  if (p.has_moments && forward_plan(c).splits > 1) return "moments of parts of the depth";
  return windows_fit(forward_load<bfloat16>(c), 1, p.H, p.W, (p.kH - 1) * p.dH, (p.kW - 1) * p.dW)
             ? nullptr
             : "the window is too large for the copy engine";
}
const char* bwd_data_declines(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  if (const char* why = common_declines<bwd_data_sizes, one_dtype>(c)) return why;
  if (!fills_steps(p.O)) return "few output channels";
  return windows_fit(bwd_data_load<bfloat16>(c), static_cast<int>(p.sH * p.sW), p.oH, p.oW, (p.kH - 1) * p.dH,
                     (p.kW - 1) * p.dW)
             ? nullptr
             : "the window is too large for the copy engine";
}
const char* bwd_weights_declines(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  if (const char* why = common_declines<bwd_weights_sizes, weights_dtypes>(c)) return why;
  if (p.C % kBoxDepth && p.kH * p.kW > 1) return "input channels do not fill boxes";
  return windows_fit(bwd_weights_load<bfloat16>(c), 1, p.H, p.W, (p.kH - 1) * p.dH, (p.kW - 1) * p.dW)
             ? nullptr
             : "the window is too large for the copy engine";
}

// ---- y
// ------------------------------------------------------------------------------------------------------------
int64_t forward_workspace(const Call& c) {
  const Sizes s = forward_sizes(c.as<Conv2dParams>());
  const TilePlan plan = forward_plan(c);
  return c.as<Conv2dParams>().has_moments ? sums_bytes(moments_plan(s, plan).slices, s.N)
                                          : parts_bytes(s, plan.splits, 4);
}
void forward(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  const Sizes s = forward_sizes(p);
  const TilePlan plan = forward_plan(c);
  const DType t = c.out[0].dtype;
  with_half(t, [&]<class T>() {
    using Load = ConvForward<T>;
    const Load load = forward_load<T>(c);
    const Epilogue<T> e = forward_epilogue<T>(c);
    auto describe = [&](TensorMaps& maps, int BM, int BN) {
      describe_pixels(&maps.a[0], t, load.x, p.N, p.H, p.W, p.C, Feed<Load>::window(load, 0), BM);
      describe_tile(&maps.b, t, load.w, p.O, p.kH * p.kW, p.C, BN, 1, kBoxDepth);
    };
    if (!p.has_moments) return launch_boxes<T>("conv2d", load, s, plan, e, c.workspace, c.out[0], true, describe);
    const Destination to = destination<T>(s, 1, e, c.out[0], true, c.workspace);
    with_box_tile(plan.tile, [&]<class Tile>() {
      launch_box_tile<T, Load, Tile, true>("conv2d", load, s, plan, e, to, describe);
    });
    launch_join_moments(to.parts, moments_plan(s, plan).slices, s.M, s.N, c.out[1].as<double>());
  });
}

// ---- dx
// -----------------------------------------------------------------------------------------------------------
TilePlan bwd_data_plan(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  const int64_t taps = int64_t{ceil_div(p.kH, p.sH)} * ceil_div(p.kW, p.sW);
  return cheapest(kCosts, bwd_data_sizes(p), taps * blocks_of(static_cast<int32_t>(p.O)), one_parity(p));
}
int64_t bwd_data_workspace(const Call& c) {
  return parts_bytes(bwd_data_sizes(c.as<Conv2dParams>()), bwd_data_plan(c).splits, 4);
}
void bwd_data(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  const DType t = c.out[0].dtype;
  with_half(t, [&]<class T>() {
    const auto load = bwd_data_load<T>(c);
    launch_boxes<T>("conv2d_bwd_data", load, bwd_data_sizes(p), bwd_data_plan(c), bwd_data_epilogue<T>(c),
                    c.workspace, c.out[0], true, [&](TensorMaps& maps, int BM, int) {
                      for (int k = 0; k < p.sH * p.sW; ++k)
                        if (load.known[k].M > 0 && load.known[k].K > 0)
                          describe_pixels(&maps.a[k], t, load.dy, p.N, p.oH, p.oW, p.O,
                                          Feed<ConvBwdData<T>>::window(load, k), BM);
                      describe_tile(&maps.b, t, load.w, p.O, p.kH * p.kW, p.C, kBoxDepth, 1, 64);
                    });
  });
}

// ---- dw, dbias
// ----------------------------------------------------------------------------------------------------
TilePlan bwd_weights_plan(const Call& c) {
  const Sizes s = bwd_weights_sizes(c.as<Conv2dParams>());
  return cheapest(kCosts, s, blocks_of(static_cast<int32_t>(s.K)), true);
}
int64_t bwd_weights_workspace(const Call& c) {
  return conv2d_bias_bytes(c) +
         parts_bytes(bwd_weights_sizes(c.as<Conv2dParams>()), bwd_weights_plan(c).splits, 4);
}
void bwd_weights(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  const Sizes s = bwd_weights_sizes(p);
  const DType t = c.in[0].dtype;
  with_half(t, [&]<class T>() {
    const auto load = bwd_weights_load<T>(c);
    launch_boxes<T>("conv2d_bwd_weights", load, s, bwd_weights_plan(c), Epilogue<T>{nullptr, nullptr, {}},
                    static_cast<char*>(c.workspace) + conv2d_bias_bytes(c), c.out[0], true,
                    [&](TensorMaps& maps, int, int) {
                      describe_tile(&maps.a[0], t, load.dy, 0, s.K, p.O, 0, kBoxDepth, 64);
                      describe_pixels(&maps.b, t, load.x, p.N, p.H, p.W, p.C,
                                      Feed<ConvBwdWeights<T>>::window(load, 0), kBoxDepth);
                    });
    conv2d_bias_gradient(c);
  });
}

#else  // the executor has no copy engine, other architectures no wgmma

const char* forward_declines(const Call&) { return "built without code for 9.0a"; }
int64_t forward_workspace(const Call&) { return 0; }
void forward(const Call&) { throw std::logic_error("conv2d: boxes without a copy engine"); }
constexpr auto bwd_data_declines = forward_declines, bwd_weights_declines = forward_declines;
constexpr auto bwd_data_workspace = forward_workspace, bwd_weights_workspace = forward_workspace;
constexpr auto bwd_data = forward, bwd_weights = forward;

#endif

}  // namespace

Implementation conv2d_boxes() { return {"boxes", forward_declines, forward_workspace, forward}; }
Implementation conv2d_bwd_data_boxes() { return {"boxes", bwd_data_declines, bwd_data_workspace, bwd_data}; }
Implementation conv2d_bwd_weights_boxes() {
  return {"boxes", bwd_weights_declines, bwd_weights_workspace, bwd_weights};
}

}  // namespace fastcnn::cuda
