// What it is: when a 4x4 (the layers of GANs) or 3x3 (of residual nets) convolution of stride 2 runs as Winograd
// F(4x4, 2x2) on its parities, how its tiles are grouped, its workspace, and how its work goes to threads. What it
// is not: arithmetic (kernels/conv2d_winograd2x2.cpp). Two orders of work. Weights that stay in L3 are transformed
// first, then each thread takes tiles from window to output. For more weights or few tiles, all windows of some
// tiles are transformed first, then each thread takes blocks of outputs and transforms their weights in L2.
#include <algorithm>

#include "fastcnn/runtime.h"

#include "backend/cpu/conv2d_adaptors.h"
#include "backend/cpu/conv2d_tasks.h"
#include "backend/cpu/moments_plan.h"
#include "backend/cpu/scratch.h"
#include "backend/cpu/strips.h"
#include "backend/cpu/threads.h"
#include "backend/cpu/workspace.h"

namespace fastcnn::cpu {
namespace {

constexpr int64_t kWindowFloats = 2 * 1024 * 1024;  // transformed windows stay in L3
constexpr int64_t kFewestWindows = 32;              // tiles of them, at least
constexpr int64_t kSharedWeights = 1024 * 1024;  // floats: all transformed weights, read for each share of tiles
constexpr int64_t kShareFloats = 150 * 1024;     // windows of a share, in L2
constexpr int64_t kFewestShare = 16;             // tiles of a share, at least
constexpr int64_t kBlockWeights = 160 * 1024;    // floats: transformed weights of a block, in L2
constexpr int64_t kBlockProducts = 100 * 1024;   // and its products
constexpr int64_t kGradientOutputs = 64;
constexpr int64_t kGroupSums = 110 * 1024;  // floats: sums of the weights' gradient that stay in L2 beside a share
constexpr int64_t kFewestChannels = 16;

int64_t vectors(int64_t channels) { return ceil_div(channels, lanes()); }
int64_t padded(int64_t channels) { return vectors(channels) * lanes(); }
int64_t tiles_of(const Winograd2x2Task& t) { return t.N * t.tH * t.tW; }
int64_t most_vectors() { return lanes() == 16 ? 3 : 2; }
int64_t block_count(int64_t n) { return ceil_div(n, most_vectors()); }

void set_grid(Winograd2x2Task& t) {
  t.tH = ceil_div(t.oH, 4), t.tW = ceil_div(t.oW, 4);
  t.fH = t.tH - std::min(t.tH, t.tH * 4 - t.oH), t.fW = t.tW - std::min(t.tW, t.tW * 4 - t.oW);
}

// Parts in the order of columns, none, rows, both: of 3x3, those with two columns of taps follow each other, and
// those with two rows.
constexpr int64_t kRow[] = {0, 0, 1, 1}, kColumn[] = {1, 0, 0, 1};

Winograd2x2Task forward_task2x2(const Conv2dParams& p) {
  Winograd2x2Task t;
  t.N = p.N, t.H = p.H, t.W = p.W, t.C = p.C, t.x_w = p.C, t.x_h = p.W * p.C, t.x_n = p.H * t.x_h;
  t.oH = p.oH, t.oW = p.oW, t.O = p.O, t.y_w = p.O, t.y_h = p.oW * p.O, t.y_n = p.oH * t.y_h;
  t.parts = 4, t.step = 2, t.act = p.act.act, t.moments.on = p.has_moments != 0;
  for (int q = 0; q < 4; ++q) {
    t.h0[q] = kRow[q] - p.pT, t.w0[q] = kColumn[q] - p.pL;
    t.taps_h[q] = (p.kH - kRow[q] + 1) / 2, t.taps_w[q] = (p.kW - kColumn[q] + 1) / 2;
    t.w_part[q] = (kRow[q] * p.kW + kColumn[q]) * p.C;
  }
  t.w_h = 2 * p.kW * p.C, t.w_w = 2 * p.C, t.w_o = p.kH * p.kW * p.C, t.w_c = 1;
  t.apart = p.kH == 3;
  set_grid(t);
  return t;
}

// dx, all but its parities: a convolution of dy with mirrored taps.
Winograd2x2Task data_task(const Conv2dParams& p) {
  Winograd2x2Task t;
  t.N = p.N, t.H = p.oH, t.W = p.oW, t.C = p.O, t.x_w = p.O, t.x_h = p.oW * p.O, t.x_n = p.oH * t.x_h;
  t.O = p.C, t.y_w = 2 * p.C, t.y_h = 2 * p.W * p.C, t.y_n = p.H * p.W * p.C;
  t.w_h = -2 * p.kW * p.C, t.w_w = -2 * p.C, t.w_o = 1, t.w_c = p.kH * p.kW * p.C;
  return t;
}

// Of one parity of rows and columns alone.
Winograd2x2Task data_task(const Conv2dParams& p, int64_t rh, int64_t rw) {
  Winograd2x2Task t = data_task(p);
  t.oH = ceil_div(p.H - rh, 2), t.oW = ceil_div(p.W - rw, 2);
  const int64_t kh = (rh + p.pT) % 2, kw = (rw + p.pL) % 2;
  t.h0[0] = (rh + p.pT - kh) / 2 - 1, t.w0[0] = (rw + p.pL - kw) / 2 - 1;
  t.w_part[0] = ((2 + kh) * p.kW + 2 + kw) * p.C;
  set_grid(t);
  return t;
}

// Of all parities for 3x3 taps and padding of 1, whose windows of dy begin at the same pixel: an even row of dx
// meets one row of taps, an odd one two.
Winograd2x2Task data_task3x3(const Conv2dParams& p) {
  Winograd2x2Task t = data_task(p);
  t.outs = 4, t.oH = ceil_div(p.H, 2), t.oW = ceil_div(p.W, 2);
  for (int q = 0; q < 4; ++q) {
    const int64_t rh = kRow[q], rw = kColumn[q];
    t.part_y[q] = (rh * p.W + rw) * p.C, t.part_oH[q] = (p.H - rh + 1) / 2, t.part_oW[q] = (p.W - rw + 1) / 2;
    t.taps_h[q] = 1 + rh, t.taps_w[q] = 1 + rw;
    t.w_part[q] = ((1 + rh) * p.kW + 1 + rw) * p.C;
  }
  set_grid(t);
  return t;
}

int64_t shares_of(const Winograd2x2Task& t, int64_t floats, int64_t fewest, int64_t threads) {
  const int64_t most = std::clamp<int64_t>(floats / (25 * t.parts * padded(t.C)), fewest, 1024);
  return ceil_div(ceil_div(tiles_of(t), most), threads) * threads;
}

// All transformed weights, or 0 where they would leave L3.
int64_t shared_weights(Winograd2x2Task t) {
  t.blocks = block_count(vectors(t.O));
  const int64_t floats = 25 * t.outs * (t.parts * padded(t.C) * padded(t.O) + 2 * kAlign * t.blocks);
  return floats <= kSharedWeights ? floats : 0;
}

// Fills the task for windows of `chunks` equal shares of the tiles; the numbers do not depend on it. Returns the
// floats of scratch of a thread.
int64_t plan_blocks(Winograd2x2Task& t, int64_t chunks, int64_t threads) {
  const int64_t width = most_vectors() * lanes(), depth = t.parts * padded(t.C);
  t.places = ceil_div(tiles_of(t), chunks);
  t.u_plane = winograd_plane(depth * t.places);
  t.blocks = block_count(vectors(t.O));
  t.depth = std::min(depth, kBlockWeights / (25 * width) / lanes() * lanes());
  const int64_t group = std::max<int64_t>(16, kBlockProducts / (25 * width));
  t.groups = ceil_div(t.places, group);
  for (int64_t i = 1; i < threads && t.outs * t.blocks * t.groups % threads && t.groups + 1 < t.places; ++i)
    ++t.groups;
  return 25 * (winograd_plane(t.depth * width) + winograd_plane(ceil_div(t.places, t.groups) * width));
}

int64_t window_chunks(const Winograd2x2Task& t) { return shares_of(t, kWindowFloats, kFewestWindows, 1); }

// How tiles are shared. Whatever the number of threads is when it runs, memory is enough.
struct Plan {
  bool own = false;  // each thread takes tiles from window to output
  int64_t chunks = 1, scratch = 0;
  Plan(Winograd2x2Task& t, int64_t threads) {
    if (t.moments.on) threads = kMomentThreads;  // their parts depend on the shape alone
    const int64_t shares = shares_of(t, kShareFloats, kFewestShare, threads);
    own = shared_weights(t) > 0 && tiles_of(t) >= kFewestShare * shares;
    chunks = own ? shares : window_chunks(t);
    scratch = plan_blocks(t, chunks, own ? 1 : threads);
  }
  int64_t parts(const Winograd2x2Task& t) const { return chunks * t.groups; }  // of the moments
};

bool gradient_by_groups(const Winograd2x2Task& t) {
  return 25 * t.parts * padded(t.C) * padded(t.O) <= kGroupSums;
}

// Chunks have their own sums, so their number depends on the shape alone.
int64_t plan_gradient(Winograd2x2Task& t) {
  const int64_t width = most_vectors() * lanes(), all = tiles_of(t);
  const int64_t depth = t.parts * padded(t.C), floats = 25 * (depth + padded(t.O));
  t.blocks = block_count((t.apart ? 1 : t.parts) * vectors(t.C));
  if (gradient_by_groups(t)) {
    t.chunks = std::clamp<int64_t>(all / kFewestWindows, 1, 8);
    t.places = even(ceil_div(all, t.chunks), std::max<int64_t>(kFewestShare, kShareFloats / floats));
    const int64_t blocks = (t.apart ? t.parts : 1) * t.blocks;
    t.sums_chunk = 25 * (depth * padded(t.O) + 2 * kAlign * blocks);
    return 25 * (winograd_plane(depth * t.places) + winograd_plane(padded(t.O) * t.places));
  }
  const int64_t most = std::clamp<int64_t>(2 * kWindowFloats / floats, 64, 512);
  t.places = ceil_div(all, ceil_div(all, most));
  t.u_plane = winograd_plane(depth * t.places), t.e_plane = winograd_plane(padded(t.O) * t.places);
  t.depth = std::min<int64_t>(kGradientOutputs, padded(t.O));
  return 25 * winograd_plane(t.depth * width);
}

struct Memory {
  float *wt, *u, *e, *sums;
  int64_t bytes;
  Memory(const Winograd2x2Task& t, int64_t weights, void* base) {
    Carve c(base);
    wt = c.take<float>(weights);
    u = c.take<float>(25 * t.u_plane);
    e = c.take<float>(25 * t.e_plane);
    sums = c.take<float>(t.chunks * t.sums_chunk);
    bytes = c.used();
  }
};

Memory memory_of(Winograd2x2Task t, void* base) {
  plan_blocks(t, window_chunks(t), 1);
  return {t, shared_weights(t), base};
}

void advance(MomentsOut& m, int64_t parts) {
  if (m.on) m.part += parts * 2 * m.channels, m.count += parts;
}

// No thread reads windows that another one wrote.
void run_own_tiles(const Winograd2x2Task& t, const Plan& p) {
  const KernelTable& k = *kernels();
  const int64_t all = tiles_of(t), windows = 25 * t.u_plane;
  with_scratch(p.chunks, 1, windows + p.scratch, [&](int64_t b, int64_t e, float* s) {
    Winograd2x2Task own = t;
    own.u = s;
    advance(own.moments, b * t.groups);
    for (; b < e; ++b) {
      own.tile0 = all * b / p.chunks, own.tiles = all * (b + 1) / p.chunks - own.tile0;
      own.ahead = b + 1 < e ? all * (b + 2) / p.chunks - own.tile0 - own.tiles : 0;
      k.winograd2x2_input(own, 0, own.tiles);
      k.winograd2x2_blocks(own, s + windows, 0, own.outs * own.blocks * own.groups);
      advance(own.moments, t.groups);
    }
  });
}

void run_blocks(Winograd2x2Task t, const Memory& m) {
  const KernelTable& k = *kernels();
  const Plan p(t, num_threads());
  if (p.own) {
    t.wt = m.wt, t.shared = hands_over_in_memory(4 * shared_weights(t));
    parallel_for(t.outs * t.blocks * t.parts * vectors(t.C), 1,
                 [&](int64_t b, int64_t e, int) { k.winograd2x2_weights(t, b, e); });
    t.shared = 0;
    return run_own_tiles(t, p);
  }
  t.u = m.u, t.shared = hands_over_in_memory(4 * 25 * t.u_plane);
  const int64_t all = tiles_of(t);
  for (int64_t chunk = 0; chunk < p.chunks; ++chunk) {
    t.tile0 = all * chunk / p.chunks, t.tiles = all * (chunk + 1) / p.chunks - t.tile0;
    parallel_for(t.tiles, 4, [&](int64_t b, int64_t e, int) { k.winograd2x2_input(t, b, e); });
    with_scratch(t.outs * t.blocks * t.groups, 1, p.scratch,
                 [&](int64_t b, int64_t e, float* s) { k.winograd2x2_blocks(t, s, b, e); });
    advance(t.moments, t.groups);
  }
}

const char* cannot(const Call& c, Can can = {}) {
  if (const char* why = declines_common(c, can)) return why;
  if (get_conv_algorithm() == "direct") return "conv algorithm is direct";
  const auto& p = c.as<Conv2dParams>();
  if (p.kH != p.kW || (p.kH != 4 && p.kH != 3) || p.sH != 2 || p.sW != 2) return "not 4x4 or 3x3 of stride 2";
  if (p.dH != 1 || p.dW != 1 || p.groups != 1) return "dilation or groups";
  if (std::max(std::max(p.pT, p.pB), std::max(p.pL, p.pR)) >= p.kH) return "padding of the window's size or more";
  return p.N * p.oH * p.oW * p.H * p.W == 0 ? "no pixels" : nullptr;
}

// Costs in vector multiply-adds, fitted to measured times. Of each row of tiles, the taps of one parity of rows
// make five rows of products (four where it is narrow or where there is but one tap); columns likewise.
const char* not_worth_it(const Conv2dParams& p, WinogradPass pass) {
  constexpr double kStart = 300e3;  // another pass of threads
  constexpr double kDirect = 1.12, kProduct = 1.15, kInput = 20, kOutput = 8, kFarWindows = 1.35;
  if (std::min(p.C, p.O) < kFewestChannels) return "few channels";
  const Winograd2x2Task t = forward_task2x2(p);
  const auto real = [](int64_t n) { return static_cast<double>(n); };
  const double tiles = real(tiles_of(t)), vC = real(vectors(p.C)), vO = real(vectors(p.O));
  const double h = real(4 * t.tH + t.fH + 4 * t.tH + (p.kH == 4 ? t.fH : 0));
  const double w = real(4 * t.tW + t.fW + 4 * t.tW + (p.kW == 4 ? t.fW : 0));
  const double planes = p.kH == 4 ? 100 : 81;
  const bool forward = pass == WinogradPass::forward;
  const double depth = forward ? real(padded(p.C)) * vO : real(padded(p.O)) * vC;
  double cost = kStart + kProduct * real(p.N) * h * w * depth;
  Winograd2x2Task plan = t;
  const bool own = Plan(plan, 1).own;  // else windows go through L3
  if (forward)
    cost += tiles * (planes * kInput * (own ? 1 : 2) * vC + 25 * kOutput * vO);
  else if (pass == WinogradPass::bwd_data)
    cost += tiles * ((p.kH == 4 ? 100 : 25) * kInput * vO + 100 * kOutput * vC);
  else
    cost += tiles * (gradient_by_groups(t) ? 15 : 27) * (planes * vC + 25 * vO);
  const double weights = planes * depth;  // transformed, and where they leave L2, waited for
  if (pass != WinogradPass::bwd_weights)
    cost += weights * (p.C * p.O > 256 * 256 ? 9 : 6) * real(window_chunks(t));
  // Direct gradients of weights have vectors over outputs where those over channels would be left idle.
  const double over_outputs = real(p.C) * vO, over_inputs = real(p.O) * vC;
  const double channels = forward                             ? over_outputs
                          : pass == WinogradPass::bwd_weights ? std::min(over_outputs, over_inputs)
                                                              : over_inputs;
  const double direct = kDirect * real(p.N * p.oH * p.oW * p.kH * p.kW) * channels;
  // Windows that one thread writes and another one reads (Xeon: 0.63 to 0.96 of direct where the model says 1.3).
  if (forward && products_are_cheap() && !own) cost *= kFarWindows;
  return cost < direct ? nullptr : "too few pixels or channels for its transforms";
}

}  // namespace

const char* winograd2x2_cannot(const Call& c) {
  if (const char* why = cannot(c, {.norm_in = true, .moments = true})) return why;
  return fused_act(c.as<Conv2dParams>()) ? nullptr : "activation is not none, relu or relu6";
}
const char* winograd2x2_bwd_data_cannot(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  if (const char* why = cannot(c)) return why;
  return p.kH == 3 && (p.pT != 1 || p.pL != 1) ? "3x3 without padding of 1" : nullptr;
}
const char* winograd2x2_bwd_weights_cannot(const Call& c) {
  if (const char* why = cannot(c, {.norm_in = true})) return why;
  return c.out.size() > 1 ? "the gradient of the bias is wanted too" : nullptr;
}

const char* winograd2x2_declines(const Call& c) {
  const char* why = winograd2x2_cannot(c);
  return why ? why : not_worth_it(c.as<Conv2dParams>(), WinogradPass::forward);
}

// Behind the memory of the algorithm.
static MomentsSpace moments_of(const Call& c, int64_t bytes) {
  const auto& p = c.as<Conv2dParams>();
  Winograd2x2Task t = forward_task2x2(p);
  const int64_t parts = Plan(t, 1).parts(t);
  return {p, parts, c.workspace ? static_cast<char*>(c.workspace) + bytes : nullptr};
}

int64_t winograd2x2_workspace(const Call& c) {
  const int64_t bytes = memory_of(forward_task2x2(c.as<Conv2dParams>()), nullptr).bytes;
  Call plan = c;
  plan.workspace = nullptr;
  return bytes + moments_of(plan, bytes).bytes;
}

void winograd2x2_run(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  Winograd2x2Task t = forward_task2x2(p);
  const Memory m = memory_of(t, c.workspace);
  const MomentsSpace moments = moments_of(c, m.bytes);
  t.x = c.in[0].as<float>(), t.w = c.in[1].as<float>(), t.y = c.out[0].as<float>();
  t.bias = p.has_bias ? c.in[2].as<float>() : nullptr;
  t.residual = p.has_residual ? c.in[c.in.size() - 1].as<float>() : nullptr;
  t.norm = norm_in(c, norm_in_at(p)), t.moments = moments.out;
  run_blocks(t, m);
  moments.merge(c);
}

const char* winograd2x2_bwd_data_declines(const Call& c) {
  const char* why = winograd2x2_bwd_data_cannot(c);
  return why ? why : not_worth_it(c.as<Conv2dParams>(), WinogradPass::bwd_data);
}

int64_t winograd2x2_bwd_data_workspace(const Call& c) {
  const auto& p = c.as<Conv2dParams>();  // of four tasks, the first is the largest
  return memory_of(p.kH == 3 ? data_task3x3(p) : data_task(p, 0, 0), nullptr).bytes;
}

void winograd2x2_bwd_data_run(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  const auto run = [&](Winograd2x2Task t, int64_t from, const Memory& m) {
    t.x = c.in[0].as<float>(), t.w = c.in[1].as<float>(), t.y = c.out[0].as<float>() + from;
    t.bias = c.in.size() > 2 ? c.in[2].as<float>() : nullptr;
    run_blocks(t, m);
  };
  if (p.kH == 3) return run(data_task3x3(p), 0, memory_of(data_task3x3(p), c.workspace));
  for (int64_t rh = 0; rh < std::min<int64_t>(2, p.H); ++rh)
    for (int64_t rw = 0; rw < std::min<int64_t>(2, p.W); ++rw) {
      const Winograd2x2Task t = data_task(p, rh, rw);
      run(t, (rh * p.W + rw) * p.C, memory_of(t, c.workspace));
    }
}

const char* winograd2x2_bwd_weights_declines(const Call& c) {
  const char* why = winograd2x2_bwd_weights_cannot(c);
  return why ? why : not_worth_it(c.as<Conv2dParams>(), WinogradPass::bwd_weights);
}

int64_t winograd2x2_bwd_weights_workspace(const Call& c) {
  Winograd2x2Task t = forward_task2x2(c.as<Conv2dParams>());
  plan_gradient(t);
  return Memory(t, 0, nullptr).bytes;
}

void winograd2x2_bwd_weights_run(const Call& c) {
  Winograd2x2Task t = forward_task2x2(c.as<Conv2dParams>());
  const KernelTable& k = *kernels();
  const int64_t scratch = plan_gradient(t);
  const Memory m(t, 0, c.workspace);
  t.u = m.u, t.e = m.e, t.shared = hands_over_in_memory(4 * 25 * t.u_plane);
  t.x = c.in[0].as<float>(), t.dy = c.in[1].as<float>(), t.dw = c.out[0].as<float>(), t.norm = norm_in(c, 2);
  const int64_t all = tiles_of(t);
  if (gradient_by_groups(t)) {
    t.tiles = all, t.sums = m.sums;
    with_scratch(t.chunks, 1, scratch,
                 [&](int64_t b, int64_t e, float* s) { k.winograd2x2_gradient_groups(t, s, b, e); });
    parallel_for(t.O, ceil_div(1024, t.C),
                 [&](int64_t b, int64_t e, int) { k.winograd2x2_gradient_finish(t, b, e); });
    return;
  }
  const int64_t items = (t.apart ? t.parts : 1) * t.blocks * ceil_div(t.O, t.depth);
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
