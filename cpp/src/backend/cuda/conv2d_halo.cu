// What it is: 3x3 convolutions of 16-bit floats from 16 or 32 channels to 16, 32 or 64, which memory bounds: tiles
// with their halo, brought once for all taps (kernels/halo.h, kernels/halo.cuh). What it is not: for more
// channels, whose products take longer than their memory (conv2d_boxes.cu, conv2d_strips.cu).
#include <algorithm>

#include "backend/cuda/conv2d_depthwise.h"
#include "backend/cuda/conv2d_gemm.h"
#include "backend/cuda/kernels/halo_strided.cuh"

namespace fastcnn::cuda {
namespace {

constexpr int kWindow = 3, kGroups = 4, kSlices = 4;  // groups of 16 pixels of a warp; slices of a tile's pixels
constexpr int kTilePixels = kHaloThreads / 32 * kGroups * 16;
constexpr int64_t kRoom = 40 << 10, kReserved = 1 << 10;  // bytes: of a tile of x; of each block's shared memory

// ---- who takes what
// -----------------------------------------------------------------------------------------------
bool few(int64_t channels) { return channels == 16 || channels == 32; }
bool made(int64_t channels) { return few(channels) || channels == 64; }  // by blocks of 32
int64_t block_of(int64_t channels) { return std::min<int64_t>(channels, 32); }

const char* common_declines(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  if (!is_half(c.in[0].dtype)) return "not a 16-bit float";
  if (p.groups != 1) return "groups";
  if (p.kH != kWindow || p.kW != kWindow || p.dH * p.dW != 1) return "not 3x3";
  if (p.sH != p.sW || p.sH > 2) return "strides other than 1 or 2";
  for (const Operand& o : c.in)
    if (o.data && !aligned16({o.data})) return "operands not aligned to 16 bytes";
  for (const Operand& o : c.out)
    if (o.data && !aligned16({o.data})) return "results not aligned to 16 bytes";
  return nullptr;
}

Halo forward_halo(const Conv2dParams& p) {
  return halo_of(p.N, p.H, p.W, p.oH, p.oW, p.pT, p.pL, kWindow, p.sH, p.C / 8,
                 halo_shape(p.C, block_of(p.O)).pixels(), kRoom / 2 / p.C);
}
Halo weights_halo(const Conv2dParams& p) {
  return halo_of(p.N, p.H, p.W, p.oH, p.oW, p.pT, p.pL, kWindow, p.sH, p.C / 8, kTilePixels, kRoom / 2 / p.C);
}
Halo bwd_data_halo(const Conv2dParams& p) {
  if (p.sH == 2)  // one pixel of the grid for two by two of x
    return halo_of(p.N, p.oH, p.oW, (p.H + 1) / 2, (p.W + 1) / 2, HaloParities::before(p.pT),
                   HaloParities::before(p.pL), 2, 1, p.O / 8, kTilePixels, kRoom / 2 / p.O);
  return halo_of(p.N, p.oH, p.oW, p.H, p.W, kWindow - 1 - p.pT, kWindow - 1 - p.pL, kWindow, 1, p.O / 8,
                 halo_shape(p.O, block_of(p.C)).pixels(), kRoom / 2 / p.O);
}
int64_t data_shared(const Halo& g, int64_t from, int64_t to, int64_t stages) {
  return 2 * (kWindow * kWindow * from * block_of(to) + stages * g.plane * from);
}
int64_t data_stages(int64_t from, int64_t to) { return halo_shape(from, block_of(to)).stages; }
int64_t weights_shared(const Conv2dParams& p, const Halo& g) {
  const int64_t O = block_of(p.O);
  return 2 * kHaloWeightStages * (g.plane * p.C + (kTilePixels + 64 / O) * O);
}
// (walkers over the tiles, blocks of channels)
dim3 grid_for(const Halo& g, int64_t shared, int64_t most, int64_t channels) {
  const int64_t here = std::min(most, rt::device().shared / (shared + kReserved)),
                blocks = channels / block_of(channels);
  return {static_cast<unsigned>(
              std::clamp<int64_t>(here * rt::device().multiprocessors / blocks, 1, std::max(g.tiles, 1))),
          static_cast<unsigned>(blocks)};
}

const char* too_long(const Halo& g, int64_t shared) {
  return g.rows && shared + kReserved <= rt::device().shared ? nullptr : "rows or padding too long for a tile";
}
const char* forward_declines(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  if (const char* why = common_declines(c)) return why;
  if (!few(p.C) || !made(p.O)) return "channels other than 16 or 32 to 16, 32 or 64";
  const Halo g = forward_halo(p);
  if (const char* why = too_long(g, data_shared(g, p.C, p.O, data_stages(p.C, p.O)))) return why;
  return gemm_declines<forward_sizes, one_dtype_or_moments>(c);
}
const char* bwd_data_declines(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  if (const char* why = common_declines(c)) return why;
  if (!few(p.O) || !made(p.C)) return "channels other than 16 or 32 to 16, 32 or 64";
  const Halo g = bwd_data_halo(p);
  if (const char* why = too_long(g, data_shared(g, p.O, p.C, p.sH == 2 ? kHaloStages : data_stages(p.O, p.C))))
    return why;
  return gemm_declines<bwd_data_sizes, one_dtype>(c);
}
const char* bwd_weights_declines(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  if (const char* why = common_declines(c)) return why;
  if (!few(p.C) || !made(p.O)) return "channels other than 16 or 32 to 16, 32 or 64";
  const Halo g = weights_halo(p);
  if (const char* why = too_long(g, weights_shared(p, g))) return why;
  return gemm_declines<bwd_weights_sizes, weights_dtypes>(c);
}

// f.template operator()<A, B>() of two numbers of channels.
template <class F>
void with_channels(int64_t a, int64_t b, F&& f) {
  auto with_b = [&]<int A>() { b == 16 ? f.template operator()<A, 16>() : f.template operator()<A, 32>(); };
  a == 16 ? with_b.template operator()<16>() : with_b.template operator()<32>();
}

// ---- y, dx
// --------------------------------------------------------------------------------------------------------
template <bool back>
void run_data(const Call& c, const char* name) {
  const auto& p = c.as<Conv2dParams>();
  const Halo g = back ? bwd_data_halo(p) : forward_halo(p);
  const int64_t from = back ? p.O : p.C, to = back ? p.C : p.O,
                shared = data_shared(g, from, to, data_stages(from, to));
  with_half(c.in[0].dtype, [&]<class T>() {
    Epilogue<T> e;
    if constexpr (back)
      e = bwd_data_epilogue<T>(c);
    else
      e = forward_epilogue<T>(c);
    with_channels(from, block_of(to), [&]<int A, int B>() {
      constexpr HaloShape s = halo_shape(A, B);
      const dim3 grid = grid_for(g, shared, s.blocks, to);
      auto run = [&]<bool moments>() {
        launch(name, {grid, dim3(s.threads()), static_cast<size_t>(shared)},
               halo_kernel<T, A, B, kWindow, back, moments, s.groups, s.warps, s.stages, s.blocks, s.held>, g,
               static_cast<int32_t>(to), c.in[0].as<T>(), c.in[1].as<T>(), e, c.out[0].as<T>(),
               static_cast<float*>(c.workspace));
      };
      if constexpr (!back)
        if (p.has_moments) {
          run.template operator()<true>();
          launch_join_moments(static_cast<float*>(c.workspace), grid.x, p.N * p.oH * p.oW, to,
                              c.out[1].as<double>());
          return;
        }
      run.template operator()<false>();
    });
  });
}
int64_t forward_workspace(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  if (!p.has_moments) return 0;
  const Halo g = forward_halo(p);
  const HaloShape s = halo_shape(p.C, block_of(p.O));
  return sums_bytes(grid_for(g, data_shared(g, p.C, p.O, s.stages), s.blocks, p.O).x, p.O);
}
void forward(const Call& c) { run_data<false>(c, "conv2d"); }
void bwd_data(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  if (p.sH == 1) return run_data<true>(c, "conv2d_bwd_data");
  HaloParities q{bwd_data_halo(p),
                 static_cast<int32_t>(p.H),
                 static_cast<int32_t>(p.W),
                 static_cast<int32_t>(p.pT % 2),
                 static_cast<int32_t>(p.pL % 2),
                 FastDiv((p.H + 1) / 2)};
  const int64_t shared = data_shared(q.g, p.O, p.C, kHaloStages);
  with_half(c.in[0].dtype, [&]<class T>() {
    with_channels(p.O, block_of(p.C), [&]<int A, int B>() {
      launch("conv2d_bwd_data",
             {grid_for(q.g, shared, halo_blocks(A, B), p.C), dim3(kHaloThreads), static_cast<size_t>(shared)},
             halo_strided_back_kernel<T, A, B, kGroups>, q, static_cast<int32_t>(p.C), c.in[0].as<T>(),
             c.in[1].as<T>(), bwd_data_epilogue<T>(c), c.out[0].as<T>());
    });
  });
}

// ---- dw, dbias
// ----------------------------------------------------------------------------------------------------
dim3 weights_grid(const Conv2dParams& p) {
  const Halo g = weights_halo(p);
  return grid_for(g, weights_shared(p, g), halo_weight_blocks(p.C), p.O);
}
int64_t bwd_weights_workspace(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  return conv2d_bias_bytes(c) +
         weights_grid(p).x * p.O * kWindow * kWindow * p.C * static_cast<int64_t>(sizeof(float));
}
void bwd_weights(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  const Halo g = weights_halo(p);
  const dim3 grid = weights_grid(p);
  auto* sums = reinterpret_cast<float*>(static_cast<char*>(c.workspace) + conv2d_bias_bytes(c));
  with_half(c.in[0].dtype, [&]<class T>() {
    with_channels(p.C, block_of(p.O), [&]<int C, int O>() {
      launch("conv2d_bwd_weights", {grid, dim3(kSlices * kWindow * 32), static_cast<size_t>(weights_shared(p, g))},
             halo_weights_kernel<T, C, O, kWindow, kSlices, kTilePixels>, g, static_cast<int32_t>(p.O),
             c.in[0].as<T>(), c.in[1].as<T>(), sums);
    });
    join_into<T>(sums, static_cast<int>(grid.x), p.O * kWindow * kWindow * p.C, c.out[0]);
  });
  conv2d_bias_gradient(c);
}

}  // namespace

Implementation conv2d_halo() { return {"halo", forward_declines, forward_workspace, forward}; }
Implementation conv2d_bwd_data_halo() { return {"halo", bwd_data_declines, nullptr, bwd_data}; }
Implementation conv2d_bwd_weights_halo() {
  return {"halo", bwd_weights_declines, bwd_weights_workspace, bwd_weights};
}

}  // namespace fastcnn::cuda
