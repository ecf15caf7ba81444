// What it is: when a 4x4 convolution of stride 2 (the layers of GANs) runs as Winograd F(4x4, 2x2) on its
// parities, how its tiles are grouped, its workspace, and how its work goes to threads. What it is not: arithmetic
// (kernels/conv2d_winograd2x2.cpp). Weights are transformed where they are used, since those of 512 channels
// exceed every cache. Where there are tiles enough, each thread takes some of them from window to output; else all
// windows of some tiles are transformed first, then each thread takes blocks of outputs.
#include <algorithm>
#include <cstring>

#include "fastcnn/runtime.h"

#include "backend/cpu/conv2d_adaptors.h"
#include "backend/cpu/conv2d_tasks.h"
#include "backend/cpu/scratch.h"
#include "backend/cpu/threads.h"
#include "backend/cpu/workspace.h"

namespace fastcnn::cpu {
namespace {

constexpr int64_t kWindowFloats = 2 * 1024 * 1024;  // transformed windows stay in L3
constexpr int64_t kOwnFloats = 400 * 1024;          // transformed windows of a thread's own tiles
constexpr int64_t kOwnTiles = 32;                   // fewer are not worth a transform of all weights
constexpr int64_t kHalfScratch = 100 * 1024;        // weights and products of a block, each, stay in L2
constexpr int64_t kFewestTiles = 48, kFewestChannels = 32, kGradientOutputs = 64;

int64_t vectors(int64_t channels) { return ceil_div(channels, lanes()); }
int64_t padded(int64_t channels) { return vectors(channels) * lanes(); }
int64_t tiles_of(const Winograd2x2Task& t) { return t.N * t.tH * t.tW; }
int64_t block_count(int64_t n) { return ceil_div(n, lanes() == 16 ? 3 : 2); }

void set_grid(Winograd2x2Task& t) { t.tH = ceil_div(t.oH, 4), t.tW = ceil_div(t.oW, 4); }

Winograd2x2Task forward_task2x2(const Conv2dParams& p) {
  Winograd2x2Task t;
  t.N = p.N, t.H = p.H, t.W = p.W, t.C = p.C, t.x_w = p.C, t.x_h = p.W * p.C, t.x_n = p.H * t.x_h;
  t.oH = p.oH, t.oW = p.oW, t.O = p.O, t.y_w = p.O, t.y_h = p.oW * p.O, t.y_n = p.oH * t.y_h;
  t.parts = 4, t.step = 2, t.act = p.act.act;
  for (int q = 0; q < 4; ++q) {
    t.h0[q] = q / 2 - p.pT, t.w0[q] = q % 2 - p.pL;
    t.w_part[q] = (q / 2 * 4 + q % 2) * p.C;
  }
  t.w_h = 8 * p.C, t.w_w = 2 * p.C, t.w_o = 16 * p.C, t.w_c = 1;
  set_grid(t);
  return t;
}

// dx of one parity of rows and columns: a convolution of dy with the taps of that parity, mirrored.
Winograd2x2Task data_task(const Conv2dParams& p, int64_t rh, int64_t rw) {
  Winograd2x2Task t;
  t.N = p.N, t.H = p.oH, t.W = p.oW, t.C = p.O, t.x_w = p.O, t.x_h = p.oW * p.O, t.x_n = p.oH * t.x_h;
  t.oH = ceil_div(p.H - rh, 2), t.oW = ceil_div(p.W - rw, 2), t.O = p.C;
  t.y_w = 2 * p.C, t.y_h = 2 * p.W * p.C, t.y_n = p.H * p.W * p.C;
  const int64_t kh = (rh + p.pT) % 2, kw = (rw + p.pL) % 2;
  t.h0[0] = (rh + p.pT - kh) / 2 - 1, t.w0[0] = (rw + p.pL - kw) / 2 - 1;
  t.w_part[0] = ((2 + kh) * 4 + 2 + kw) * p.C;
  t.w_h = -8 * p.C, t.w_w = -2 * p.C, t.w_o = 1, t.w_c = 16 * p.C;
  set_grid(t);
  return t;
}

int64_t most_tiles(const Winograd2x2Task& t, int64_t floats, int64_t least) {
  return std::clamp<int64_t>(floats / (25 * t.parts * padded(t.C)), least, 1024);
}

// Fills the plan for windows of `chunks` equal shares of the tiles; the numbers do not depend on it. Returns the
// floats of scratch of a thread.
int64_t plan_blocks(Winograd2x2Task& t, int64_t chunks, int threads) {
  const int64_t V = lanes() == 16 ? 3 : 2, width = V * lanes(), depth = t.parts * padded(t.C);
  t.places = ceil_div(tiles_of(t), chunks);
  t.u_plane = winograd_plane(depth * t.places);
  t.blocks = block_count(vectors(t.O));
  t.depth = std::min(depth, kHalfScratch / (25 * width) / lanes() * lanes());
  const int64_t group = std::max<int64_t>(16, kHalfScratch / (25 * width));
  t.groups = ceil_div(t.places, group);
  for (int i = 1; i < threads && t.blocks * t.groups % threads && t.groups < t.places; ++i) ++t.groups;
  return 25 * (winograd_plane(t.depth * width) + winograd_plane(ceil_div(t.places, t.groups) * width));
}

int64_t plan_gradient(Winograd2x2Task& t) {
  const int64_t width = (lanes() == 16 ? 3 : 2) * lanes(), all = tiles_of(t);
  const int64_t depth = t.parts * padded(t.C), floats = 25 * (depth + padded(t.O));
  const int64_t most = std::clamp<int64_t>(2 * kWindowFloats / floats, 64, 512);
  t.places = ceil_div(all, ceil_div(all, most));
  t.u_plane = winograd_plane(depth * t.places), t.e_plane = winograd_plane(padded(t.O) * t.places);
  t.blocks = block_count(t.parts * vectors(t.C));
  t.depth = std::min<int64_t>(kGradientOutputs, padded(t.O));
  return 25 * winograd_plane(t.depth * width);
}

struct Memory {
  float *zeros, *u, *e;
  int64_t bytes;
  Memory(const Winograd2x2Task& t, void* base) {
    Carve c(base);
    zeros = c.take<float>(padded(std::max(t.C, t.O)));
    u = c.take<float>(25 * t.u_plane);
    e = c.take<float>(25 * t.e_plane);
    bytes = c.used();
  }
};

int64_t shared_chunks(const Winograd2x2Task& t) { return ceil_div(tiles_of(t), most_tiles(t, kWindowFloats, 32)); }

int64_t blocks_bytes(Winograd2x2Task t) {
  plan_blocks(t, shared_chunks(t), 1);
  return Memory(t, nullptr).bytes;
}

// Each thread takes tiles from window to output and transforms all weights for itself: no thread reads what
// another one wrote. False where that would be too many weights for its tiles.
bool run_own_tiles(Winograd2x2Task t) {
  const int64_t all = tiles_of(t), threads = num_threads();
  const int64_t chunks = ceil_div(ceil_div(all, most_tiles(t, kOwnFloats, kOwnTiles)), threads) * threads;
  const int64_t scratch = plan_blocks(t, chunks, 1), windows = 25 * t.u_plane;
  if (all < kOwnTiles * chunks) return false;
  const KernelTable& k = *kernels();
  with_scratch(chunks, 1, windows + scratch, [&](int64_t b, int64_t e, float* s) {
    Winograd2x2Task own = t;
    own.u = s;
    for (; b < e; ++b) {
      own.tile0 = all * b / chunks, own.tiles = all * (b + 1) / chunks - own.tile0;
      k.winograd2x2_input(own, 0, own.tiles);
      k.winograd2x2_blocks(own, s + windows, 0, own.blocks * own.groups);
    }
  });
  return true;
}

void run_blocks(Winograd2x2Task t, void* workspace) {
  const KernelTable& k = *kernels();
  const int64_t scratch = plan_blocks(t, shared_chunks(t), num_threads());
  Memory m(t, workspace);
  std::memset(m.zeros, 0, static_cast<size_t>(padded(std::max(t.C, t.O))) * 4);
  t.zeros = m.zeros, t.u = m.u;
  if (run_own_tiles(t)) return;
  t.shared = hands_over_in_memory(4 * 25 * t.u_plane);
  const int64_t all = tiles_of(t);
  for (t.tile0 = 0; t.tile0 < all; t.tile0 += t.places) {
    t.tiles = std::min(t.places, all - t.tile0);
    parallel_for(t.tiles, 4, [&](int64_t b, int64_t e, int) { k.winograd2x2_input(t, b, e); });
    with_scratch(t.blocks * t.groups, 1, scratch,
                 [&](int64_t b, int64_t e, float* s) { k.winograd2x2_blocks(t, s, b, e); });
  }
}

const char* declines(const Call& c) {
  if (const char* why = declines_common(c)) return why;
  if (get_conv_algorithm() == "direct") return "conv algorithm is direct";
  const auto& p = c.as<Conv2dParams>();
  if (p.kH != 4 || p.kW != 4 || p.sH != 2 || p.sW != 2) return "not 4x4 of stride 2";
  if (p.dH != 1 || p.dW != 1 || p.groups != 1) return "dilation or groups";
  if (std::min(p.C, p.O) < kFewestChannels) return "few channels";
  const int64_t th = ceil_div(p.oH, 4), tw = ceil_div(p.oW, 4);
  if (p.N * th * tw < kFewestTiles) return "few tiles";
  if (16 * th * tw * 10 > 14 * p.oH * p.oW) return "tiles reach far outside of the image";
  return nullptr;
}

}  // namespace

const char* winograd2x2_declines(const Call& c) {
  if (const char* why = declines(c)) return why;
  return fused_act(c.as<Conv2dParams>()) ? nullptr : "activation is not none, relu or relu6";
}

int64_t winograd2x2_workspace(const Call& c) { return blocks_bytes(forward_task2x2(c.as<Conv2dParams>())); }

void winograd2x2_run(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  Winograd2x2Task t = forward_task2x2(p);
  t.x = c.in[0].as<float>(), t.w = c.in[1].as<float>(), t.y = c.out[0].as<float>();
  t.bias = p.has_bias ? c.in[2].as<float>() : nullptr;
  t.residual = p.has_residual ? c.in[c.in.size() - 1].as<float>() : nullptr;
  run_blocks(t, c.workspace);
}

const char* winograd2x2_bwd_data_declines(const Call& c) { return declines(c); }

int64_t winograd2x2_bwd_data_workspace(const Call& c) {
  return blocks_bytes(data_task(c.as<Conv2dParams>(), 0, 0));  // the largest of the four
}

void winograd2x2_bwd_data_run(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  for (int64_t rh = 0; rh < std::min<int64_t>(2, p.H); ++rh)
    for (int64_t rw = 0; rw < std::min<int64_t>(2, p.W); ++rw) {
      Winograd2x2Task t = data_task(p, rh, rw);
      t.x = c.in[0].as<float>(), t.w = c.in[1].as<float>(), t.y = c.out[0].as<float>() + (rh * p.W + rw) * p.C;
      t.bias = c.in.size() > 2 ? c.in[2].as<float>() : nullptr;
      run_blocks(t, c.workspace);
    }
}

const char* winograd2x2_bwd_weights_declines(const Call& c) {
  if (const char* why = declines(c)) return why;
  return c.out.size() > 1 ? "the gradient of the bias is wanted too" : nullptr;
}

int64_t winograd2x2_bwd_weights_workspace(const Call& c) {
  Winograd2x2Task t = forward_task2x2(c.as<Conv2dParams>());
  plan_gradient(t);
  return Memory(t, nullptr).bytes;
}

void winograd2x2_bwd_weights_run(const Call& c) {
  Winograd2x2Task t = forward_task2x2(c.as<Conv2dParams>());
  const KernelTable& k = *kernels();
  const int64_t scratch = plan_gradient(t);
  Memory m(t, c.workspace);
  std::memset(m.zeros, 0, static_cast<size_t>(padded(std::max(t.C, t.O))) * 4);
  t.zeros = m.zeros, t.u = m.u, t.e = m.e, t.shared = hands_over_in_memory(4 * 25 * t.u_plane);
  t.x = c.in[0].as<float>(), t.dy = c.in[1].as<float>(), t.dw = c.out[0].as<float>();
  const int64_t all = tiles_of(t), items = t.blocks * ceil_div(t.O, t.depth);
  for (t.tile0 = 0; t.tile0 < all; t.tile0 += t.places) {
    t.tiles = std::min(t.places, all - t.tile0), t.add = t.tile0 > 0;
    parallel_for(t.tiles, 4, [&](int64_t b, int64_t e, int) {
      k.winograd2x2_input(t, b, e);
      k.winograd2x2_gradient(t, b, e);
    });
    with_scratch(items, 1, scratch,
                 [&](int64_t b, int64_t e, float* s) { k.winograd2x2_gradient_blocks(t, s, b, e); });
  }
}

}  // namespace fastcnn::cpu
