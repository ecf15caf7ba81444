// What it is: how a 3x3 or 5x5 convolution runs as Winograd F(4x4, 3x3) or F(2x2, 5x5): how its tiles are grouped,
// its workspace and how its work goes to threads. What it is not: arithmetic (kernels/conv2d_winograd*.cpp). Three
// orders of work. By groups: all weights are transformed first, then each thread takes groups of tiles from window
// to output; for weights that stay in L2 and are fewer than the windows, or are prepared. By blocks: all windows
// are transformed first, then each thread takes blocks of outputs and transforms their weights where it needs
// them; for many channels or few tiles. By planes: windows and weights are transformed, then threads take products
// of whole planes; where blocks would transform their weights for several chunks of tiles.
#include <algorithm>
#include <cstring>

#include "backend/cpu/conv2d_adaptors.h"
#include "backend/cpu/conv2d_tasks.h"
#include "backend/cpu/conv2d_winograd.h"
#include "backend/cpu/moments_plan.h"
#include "backend/cpu/scratch.h"
#include "backend/cpu/strips.h"
#include "backend/cpu/threads.h"
#include "backend/cpu/workspace.h"

namespace fastcnn::cpu {
namespace {

// Measured on a core with 1 MB of L2 and its share of 32 MB of L3.
constexpr int64_t kGroupWeights = 640 * 1024;  // floats: transformed weights that are read again for each group
constexpr int64_t kChunkFloats = 2 << 20;      // transformed windows of a chunk, in L3
constexpr int64_t kPlaneFloats = 16 << 20;     // transformed windows and products of a chunk by planes
constexpr int64_t kFewTiles = 128;             // for transforms of all weights of 256 and more outputs
constexpr int64_t kBlockTiles = 64;            // tiles that share a pass over the weights of a block
constexpr int64_t kBlockDepth = 128;           // channels of a block whose weights are transformed at a time
// Floats of transformed weights that a plan keeps: more would cost memory and its traffic more than they save.
// Those of bfloat16 weights are not kept otherwise, and their transform costs more.
constexpr int64_t kPreparedWeights = 1 << 20, kPreparedOfHalf = 4 << 20;
constexpr int64_t kPreparedShares = 4;      // blocks of prepared weights are dealt to any number of threads
constexpr int64_t kGroupSums = 150 * 1024;  // sums of the weights' gradient that stay in L2 beside a group
constexpr int64_t kSumTiles = 32;
constexpr int64_t kSumChunkFloats = 3 << 20;

using Order = WinogradOrder;
using Plan = WinogradPlan;

int64_t padded(int64_t channels) { return winograd_padded(channels); }

// Tiles of m outputs before those of m - 1, so that as few products as may be lie outside of the image. With few
// channels tiles stay on a grid, of which conv2d_bwd takes strips.
void choose_narrow_tiles(WinogradTask& t) {
  const bool strips = 36 * padded(t.C) * padded(t.O) <= kGroupSums;
  t.fH = strips ? t.tH : t.tH - std::min(t.tH, t.tH * t.m - t.oH);
  t.fW = strips ? t.tW : t.tW - std::min(t.tW, t.tW * t.m - t.oW);
}
// Vectors of `channels` in blocks of at most three (two without 32 registers), as many for each thread.
int64_t block_count(int64_t channels, int threads) {
  const int64_t vectors = ceil_div(channels, lanes()), least = ceil_div(vectors, lanes() == 16 ? 3 : 2);
  return std::min(vectors, ceil_div(least, threads) * threads);
}

// Would blocks go through all weights for more than `chunks` chunks of few tiles?
bool by_planes(int64_t tiles, int64_t chunks, int64_t chunk, int64_t O) {
  return chunk < kFewTiles && tiles > chunks * chunk && O >= 2 * kFewTiles;
}

}  // namespace

int64_t winograd_padded(int64_t channels) { return ceil_div(channels, lanes()) * lanes(); }

WinogradTask winograd_task(const Conv2dParams& p) {
  WinogradTask t;
  t.N = p.N, t.H = p.H, t.W = p.W, t.C = p.C / p.groups, t.oH = p.oH, t.oW = p.oW, t.O = p.O / p.groups;
  t.x_w = p.C, t.x_h = p.W * p.C, t.x_n = p.H * t.x_h;
  t.y_w = p.O, t.y_h = p.oW * p.O, t.y_n = p.oH * t.y_h;
  t.m = 7 - p.kH, t.pT = p.pT, t.pL = p.pL, t.tH = ceil_div(p.oH, t.m), t.tW = ceil_div(p.oW, t.m);
  choose_narrow_tiles(t);
  t.w_o = p.kH * p.kW * t.C, t.w_tap = t.C, t.w_c = 1, t.w_v = lanes() * t.w_o;
  t.moments.on = p.has_moments != 0;
  return t;
}

// dx is the convolution of dy with the mirrored weights, whose in- and outputs change places.
WinogradTask winograd_bwd_data_task(const Conv2dParams& p) {
  Conv2dParams q = p;
  std::swap(q.C, q.O), std::swap(q.H, q.oH), std::swap(q.W, q.oW);
  q.pT = p.kH - 1 - p.pT, q.pL = p.kW - 1 - p.pL;
  WinogradTask t = winograd_task(q);
  t.w_o = 1, t.w_tap = -t.O, t.w_c = p.kH * p.kW * t.O, t.w_v = lanes();
  return t;
}

// Where images are so much larger than the result that tiles of dx would mostly see what lies around dy.
bool winograd_by_tiles_of_dy(const Conv2dParams& p, const WinogradTask& forward, const WinogradTask& mirrored) {
  return p.groups == 1 && 3 * winograd_tiles(forward) <= 2 * winograd_tiles(mirrored);
}

WinogradPlan plan_winograd(WinogradTask& t, int threads, bool prepared) {
  Plan p;
  const int64_t tiles = winograd_tiles(t), C = padded(t.C), O = padded(t.O);
  // Fresh weights of more floats than the windows: threads exchange the windows, and transform weights for
  // themselves.
  const bool by_groups = 36 * C * O <= kGroupWeights && (prepared || tiles >= O);
  p.chunk = std::max<int64_t>(64, kChunkFloats / (36 * C));
  p.order = by_groups ? Order::groups : by_planes(tiles, 3, p.chunk, O) ? Order::planes : Order::blocks;
  t.blocks = block_count(t.O, prepared && !by_groups ? kPreparedShares : p.order == Order::blocks ? threads : 1);
  if (by_groups) {
    // With moments the tiles of a group must not depend on the threads.
    const int64_t shares = t.moments.on || t.sums_before.on ? kMomentThreads : threads;
    const int64_t groups = ceil_div(ceil_div(tiles, kGroupTiles), shares) * shares;
    t.group = ceil_div(tiles, groups);
    p.scratch = 37 * winograd_plane(std::max(C, O) * t.group);
    return p;
  }
  if (p.order == Order::planes) p.chunk = std::max(p.chunk, kPlaneFloats / (36 * (C + O)));
  p.chunk = even(tiles, p.chunk);
  t.group = even(p.chunk, kBlockTiles);
  t.depth = t.group < p.chunk ? C : std::min(C, kBlockDepth);
  p.u_plane = winograd_plane(C * p.chunk);
  if (prepared) t.depth = C;
  const int64_t V = ceil_div(O / lanes(), t.blocks) * lanes();
  p.scratch = 36 * ((prepared ? 0 : winograd_plane(t.depth * V)) + winograd_plane(t.group * V));
  return p;
}

// All transformed weights of one group of a convolution.
int64_t winograd_weight_floats(const WinogradTask& t) {
  return 36 * (padded(t.C) * padded(t.O) + 2 * kAlign * t.blocks);
}

void transform_winograd_weights(WinogradTask t, bool bf16) {
  const KernelTable& k = *kernels();
  t.shared = hands_over_in_memory(4 * winograd_weight_floats(t));
  auto weights = bf16 ? k.winograd_weights_bf16 : k.winograd_weights;
  parallel_for(t.blocks, ceil_div(32 * 1024, std::max<int64_t>(1, t.C * t.O * 36 / t.blocks)),
               [&](int64_t b, int64_t e, int) { weights(t, b, e); });
}

// Chunks have their own sums, so their number depends on the shape alone: a power of two, for even shares.
static int64_t chunk_count(int64_t tiles, int64_t units) {
  const int64_t most = std::min(std::clamp<int64_t>(tiles / 512, 8, 64), units);
  int64_t chunks = 1;
  while (2 * chunks <= std::min(most, tiles / 32)) chunks *= 2;
  return chunks;
}

// Whole rows of tiles where a group takes them, so that conv2d_bwd adds in this order too.
static int64_t sum_unit(const WinogradTask& t) { return t.tW <= kSumTiles ? t.tW : 1; }

WinogradPlan plan_winograd_gradient(WinogradTask& t, int threads) {
  Plan p;
  const int64_t tiles = winograd_tiles(t), C = padded(t.C), O = padded(t.O);
  p.chunk = std::max<int64_t>(64, kSumChunkFloats / (36 * (C + O)));
  p.order = 36 * C * O <= kGroupSums          ? Order::groups
            : by_planes(tiles, 4, p.chunk, O) ? Order::planes
                                              : Order::blocks;
  t.blocks = block_count(t.C, p.order == Order::blocks ? threads : 1);
  if (p.order == Order::groups) {
    t.unit = sum_unit(t);
    const int64_t units = ceil_div(tiles, t.unit);
    t.chunks = chunk_count(tiles, units);
    t.group = even(ceil_div(units, t.chunks), kSumTiles / t.unit) * t.unit;
    t.sums_chunk = 36 * C * O + kAlign;
    p.scratch = 36 * (winograd_plane(C * t.group) + winograd_plane(O * t.group));
    return p;
  }
  if (p.order == Order::planes) {
    p.chunk = std::max(p.chunk, kPlaneFloats / (36 * (C + O)));
    t.sums_chunk = 36 * C * O;
  }
  p.chunk = even(tiles, p.chunk);
  t.depth = std::min<int64_t>(O, 64);
  p.u_plane = winograd_plane(C * p.chunk), p.e_plane = winograd_plane(O * p.chunk);
  p.scratch = 36 * winograd_plane(t.depth * ceil_div(C / lanes(), t.blocks) * lanes());
  return p;
}

namespace {

int64_t product_floats(int64_t tiles, int64_t channels, int64_t blocks) {
  return 36 * (padded(channels) * tiles + 2 * kAlign * blocks);
}

struct Parts {
  float *zeros, *wt, *u, *products;
  Parts(Carve c, const WinogradTask& t, const Plan& p, bool prepared)
      : zeros(c.take<float>(std::max(padded(t.C), padded(t.O)))),
        wt(p.order != Order::blocks && !prepared ? c.take<float>(winograd_weight_floats(t)) : nullptr),
        u(p.order == Order::groups ? nullptr : c.take<float>(36 * p.u_plane)),
        products(p.order == Order::planes ? c.take<float>(product_floats(p.chunk, t.O, t.blocks)) : nullptr),
        bytes(c.used()) {}
  int64_t bytes;
};

// Does a plan keep the transformed weights? More of them than this are transformed where they are used.
bool keeps_transformed(WinogradTask t, bool bf16) {
  plan_winograd(t, 1, true);
  return winograd_weight_floats(t) <= (bf16 ? kPreparedOfHalf : kPreparedWeights);
}

// Weights that a plan keeps as they are, in the order in which their transform reads them:
// [vector of outputs][channel][tap][lanes].
void use_packed_taps(WinogradTask& t, const float* packed) {
  const int64_t r = 7 - t.m;
  t.w = packed, t.w_o = 1, t.w_tap = lanes(), t.w_c = r * r * t.w_tap, t.w_v = t.C * t.w_c;
}
void pack_taps(const WinogradTask& t, float* dst) {
  const int64_t taps = (7 - t.m) * (7 - t.m), L = lanes();
  parallel_for(padded(t.O) / L, ceil_div(16 * 1024, t.C * taps * L), [&](int64_t b, int64_t e, int) {
    for (float* to = dst + b * t.C * taps * L; b < e; ++b)
      for (int64_t c = 0; c < t.C; ++c)
        for (int64_t tap = 0; tap < taps; ++tap)
          for (int64_t o = b * L; o < (b + 1) * L; ++o)
            *to++ = o < t.O ? t.w[o * t.w_o + tap * t.w_tap + c * t.w_c] : 0;
  });
}

// Of one group.
int64_t prepared_floats(WinogradTask t, bool bf16) {
  if (!keeps_transformed(t, bf16)) return bf16 ? 0 : padded(t.O) * t.C * (7 - t.m) * (7 - t.m);
  plan_winograd(t, 1, true);
  return winograd_weight_floats(t);
}

void prepare_windows(WinogradTask& t, bool bf16, float* dst) {
  if (!keeps_transformed(t, bf16)) return pack_taps(t, dst);
  plan_winograd(t, 1, true);
  t.wt = dst;
  transform_winograd_weights(t, bf16);
}

}  // namespace

// prepared: t.wt holds the transformed weights.
void run_winograd(WinogradTask& t, bool bf16, void* workspace) {
  const KernelTable& k = *kernels();
  auto groups_kernel = bf16 ? k.winograd_groups_bf16 : k.winograd_groups;
  auto input = bf16 ? k.winograd_input_bf16 : k.winograd_input;
  auto blocks = bf16 ? k.winograd_blocks_bf16 : k.winograd_blocks;
  auto outputs = bf16 ? k.winograd_outputs_bf16 : k.winograd_outputs;
  const bool prepared = t.wt != nullptr;
  const Plan p = plan_winograd(t, num_threads(), prepared);
  const Parts parts(Carve(workspace), t, p, prepared);
  std::memset(parts.zeros, 0, static_cast<size_t>(std::max(padded(t.C), padded(t.O))) * 4);
  t.zeros = parts.zeros, t.u = parts.u, t.u_plane = p.u_plane, t.shared = hands_over_in_memory(4 * 36 * p.u_plane);
  if (!prepared) t.wt = parts.wt;
  t.stream = lanes() == 16 && !bf16 &&
             (reinterpret_cast<uintptr_t>(t.y) | static_cast<uintptr_t>(4 * t.y_w)) % 64 == 0 &&
             hands_result_over_in_memory(4 * t.N * t.oH * t.oW * t.O);
  const int64_t tiles = winograd_tiles(t);
  const int64_t tile_work = 36 * t.C * t.O;
  if (p.order != Order::blocks && !prepared) transform_winograd_weights(t, bf16);
  if (p.order == Order::groups) {
    t.tiles = tiles;
    const int64_t groups = ceil_div(tiles, t.group);
    with_scratch(groups, ceil_div(128 * 1024, tile_work * t.group), p.scratch,
                 [&](int64_t b, int64_t e, float* s) { groups_kernel(t, s, b, e); });
    return;
  }
  for (t.tile0 = 0; t.tile0 < tiles; t.tile0 += t.tiles) {
    t.tiles = std::min(p.chunk, tiles - t.tile0);
    parallel_for(t.tiles, 4, [&](int64_t b, int64_t e, int) { input(t, b, e); });
    const int64_t groups = ceil_div(t.tiles, t.group);
    if (p.order == Order::planes) {
      parallel_for(36 * t.blocks, 1,
                   [&](int64_t b, int64_t e, int) { k.winograd_products(t, parts.products, b, e); });
      parallel_for(t.blocks * groups, 1, [&](int64_t b, int64_t e, int) { outputs(t, parts.products, b, e); });
    } else {
      with_scratch(t.blocks, 1, p.scratch, [&](int64_t b, int64_t e, float* s) { blocks(t, s, b, e); });
    }
    if (t.moments.on) t.moments.part += groups * 2 * t.moments.channels, t.moments.count += groups;
    if (t.sums_before.on) t.sums_before.part += groups * t.sums_before.step;
  }
}

// Parts of the moments: groups of tiles of each chunk.
int64_t winograd_parts(WinogradTask t, bool prepared) {
  const Plan p = plan_winograd(t, 1, prepared);
  const int64_t tiles = winograd_tiles(t);
  if (p.order == Order::groups) return ceil_div(tiles, t.group);
  return tiles / p.chunk * ceil_div(p.chunk, t.group) + ceil_div(tiles % p.chunk, t.group);
}

// The parts do not depend on the number of threads, which may change between plan and run.
int64_t winograd_windows_workspace(WinogradTask t, bool prepared) {
  const Plan p = plan_winograd(t, 1, prepared);
  return Parts(Carve(nullptr), t, p, prepared).bytes;
}

namespace {

// ---- gradient of the data by tiles of dy ----

// The products' task: channels change places, weights are not mirrored.
WinogradTask products_task(const Conv2dParams& p, const WinogradTask& forward) {
  WinogradTask q = forward;
  q.C = forward.O, q.O = forward.C;
  q.w_o = 1, q.w_tap = q.O, q.w_c = p.kH * p.kW * q.O, q.w_v = lanes();
  q.blocks = block_count(q.O, 1);
  return q;
}

int64_t images_at_a_time(const WinogradTask& t) {
  const int64_t tiles = std::max<int64_t>(64, kPlaneFloats / (36 * (padded(t.C) + padded(t.O))));
  return even(t.N, std::max<int64_t>(1, tiles / (t.tH * t.tW)));
}

struct DataParts {
  int64_t tiles, e_plane;
  float *zeros, *wt, *e, *products;
  DataParts(Carve c, const WinogradTask& t, const WinogradTask& q)
      : tiles(images_at_a_time(t) * t.tH * t.tW),
        e_plane(winograd_plane(padded(t.O) * tiles)),
        zeros(c.take<float>(std::max(padded(t.C), padded(t.O)))),
        wt(c.take<float>(winograd_weight_floats(q))),
        e(c.take<float>(36 * e_plane)),
        products(c.take<float>(product_floats(tiles, t.C, q.blocks))),
        bytes(c.used()) {}
  int64_t bytes;
};

// t: the forward task, with dy and with dx as its y; q: products_task, with the weights.
void run_tiles_of_dy(WinogradTask& t, WinogradTask& q, void* workspace) {
  const KernelTable& k = *kernels();
  const DataParts parts(Carve(workspace), t, q);
  std::memset(parts.zeros, 0, static_cast<size_t>(std::max(padded(t.C), padded(t.O))) * 4);
  t.fH = q.fH = t.tH, t.fW = q.fW = t.tW;  // windows are added in the order of a grid
  t.zeros = q.zeros = parts.zeros, t.e = parts.e, q.u = parts.e, q.wt = parts.wt;
  t.e_plane = q.u_plane = parts.e_plane, t.blocks = q.blocks;
  t.shared = hands_over_in_memory(4 * 36 * parts.e_plane);
  transform_winograd_weights(q, false);
  const int64_t tiles = winograd_tiles(t), vectors = padded(t.C) / lanes();
  for (t.tile0 = 0; t.tile0 < tiles; t.tile0 += t.tiles) {
    t.tiles = q.tiles = std::min(parts.tiles, tiles - t.tile0);
    parallel_for(t.tiles, 4, [&](int64_t b, int64_t e, int) { k.winograd_dy(t, b, e); });
    parallel_for(36 * q.blocks, 1,
                 [&](int64_t b, int64_t e, int) { k.winograd_products(q, parts.products, b, e); });
    parallel_for(t.tiles / (t.tH * t.tW) * vectors, 1,
                 [&](int64_t b, int64_t e, int) { k.winograd_windows_to_dx(t, parts.products, b, e); });
  }
}

// ---- gradient of the weights ----

struct GradientParts {
  float *zeros, *u, *e, *sums, *dbias;
  GradientParts(Carve c, const WinogradTask& t, const Plan& p)
      : zeros(c.take<float>(std::max(padded(t.C), padded(t.O)))),
        u(p.order == Order::groups ? nullptr : c.take<float>(36 * p.u_plane)),
        e(p.order == Order::groups ? nullptr : c.take<float>(36 * p.e_plane)),
        sums(p.order != Order::blocks ? c.take<float>(t.chunks * t.sums_chunk) : nullptr),
        dbias(p.order == Order::groups ? c.take<float>(t.chunks * t.O) : nullptr),
        bytes(c.used()) {}
  int64_t bytes;
};

void run_gradient(WinogradTask& t, bool bf16, void* workspace) {
  const KernelTable& k = *kernels();
  auto groups = bf16 ? k.winograd_gradient_groups_bf16 : k.winograd_gradient_groups;
  auto input = bf16 ? k.winograd_gradient_input_bf16 : k.winograd_gradient_input;
  auto blocks = bf16 ? k.winograd_gradient_blocks_bf16 : k.winograd_gradient_blocks;
  const Plan p = plan_winograd_gradient(t, num_threads());
  const GradientParts parts(Carve(workspace), t, p);
  std::memset(parts.zeros, 0, static_cast<size_t>(std::max(padded(t.C), padded(t.O))) * 4);
  t.zeros = parts.zeros, t.u = parts.u, t.e = parts.e, t.sums = parts.sums;
  t.u_plane = p.u_plane, t.e_plane = p.e_plane, t.shared = hands_over_in_memory(4 * 36 * (p.u_plane + p.e_plane));
  const int64_t tiles = winograd_tiles(t);
  if (p.order == Order::groups) {
    t.tiles = tiles;
    float* dbias = t.dbias;
    if (dbias) t.dbias = parts.dbias;
    with_scratch(t.chunks, 1, p.scratch, [&](int64_t b, int64_t e, float* s) { groups(t, s, b, e); });
    parallel_for(t.O, ceil_div(1024, t.C),
                 [&](int64_t b, int64_t e, int) { k.winograd_gradient_finish(t, b, e); });
    if (dbias) k.sum_arrays(t.dbias, t.O, t.chunks, dbias, 0, t.O);
    return;
  }
  auto sums = bf16 ? k.winograd_gradient_sums_bf16 : k.winograd_gradient_sums;
  const int64_t items = t.blocks * ceil_div(t.O, t.depth);
  for (t.tile0 = 0; t.tile0 < tiles; t.tile0 += t.tiles, t.add = 1) {
    t.tiles = std::min(p.chunk, tiles - t.tile0);
    parallel_for(t.tiles, 4, [&](int64_t b, int64_t e, int) { input(t, b, e); });
    if (p.order == Order::planes)
      parallel_for(36 * t.blocks, 1, [&](int64_t b, int64_t e, int) { sums(t, b, e); });
    else
      with_scratch(items, 1, p.scratch, [&](int64_t b, int64_t e, float* s) { blocks(t, s, b, e); });
  }
  if (p.order == Order::planes)
    parallel_for(t.O, ceil_div(1024, t.C),
                 [&](int64_t b, int64_t e, int) { k.winograd_gradient_finish(t, b, e); });
}

// bfloat16 images run in float32 from window to output; their addresses travel in tasks as those of floats.
bool half(const Operand& o) { return o.dtype == DType::bfloat16; }
const float* elements(const Operand& o, int64_t i) {
  return half(o) ? reinterpret_cast<const float*>(o.as<bfloat16>() + i) : o.as<float>() + i;
}
float* elements_out(const Operand& o, int64_t i) {
  return half(o) ? reinterpret_cast<float*>(o.as<bfloat16>() + i) : o.as<float>() + i;
}

}  // namespace

// After what run_winograd needs.
static MomentsSpace winograd_moments(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  const WinogradTask t = winograd_task(p);
  const bool prepared = c.prepared && keeps_transformed(t, half(c.in[0]));
  char* base = static_cast<char*>(c.workspace);
  return {p, winograd_parts(t, prepared), base ? base + winograd_windows_workspace(t, prepared) : nullptr};
}
int64_t winograd_workspace(const Call& c) {
  const WinogradTask t = winograd_task(c.as<Conv2dParams>());
  return winograd_windows_workspace(t, c.prepared && keeps_transformed(t, half(c.in[0]))) +
         winograd_moments(c).bytes;
}
int64_t winograd_prepared(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  return 4 * p.groups * prepared_floats(winograd_task(p), half(c.in[0]));
}
void winograd_prepare(const Call& c, void* dst) {
  const auto& p = c.as<Conv2dParams>();
  for (int64_t g = 0; g < p.groups; ++g) {
    WinogradTask t = winograd_task(p);
    t.w = elements(c.in[1], g * t.O * t.w_o);
    prepare_windows(t, half(c.in[0]), static_cast<float*>(dst) + g * prepared_floats(t, half(c.in[0])));
  }
}
void winograd_run(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  const MomentsSpace moments = winograd_moments(c);
  for (int64_t g = 0; g < p.groups; ++g) {
    WinogradTask t = winograd_task(p);
    t.x = elements(c.in[0], g * t.C), t.w = elements(c.in[1], g * t.O * t.w_o);
    if (c.prepared) {
      // The kernels only read them.
      float* kept = static_cast<float*>(const_cast<void*>(c.prepared)) + g * prepared_floats(t, half(c.in[0]));
      keeps_transformed(t, half(c.in[0])) ? void(t.wt = kept) : use_packed_taps(t, kept);
    }
    t.y = elements_out(c.out[0], g * t.O);
    t.bias = p.has_bias ? elements(c.in[2], g * t.O) : nullptr;
    t.residual = p.has_residual ? elements(c.in[c.in.size() - 1], g * t.O) : nullptr;
    t.act = p.act.act;
    t.norm = norm_from(norm_in(c, norm_in_at(p)), g * t.C);
    t.moments = moments.out;
    if (t.moments.on) t.moments.part += g * t.O;
    run_winograd(t, half(c.in[0]), c.workspace);
  }
  moments.merge(c);
}

int64_t winograd_bwd_data_workspace(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  const WinogradTask t = winograd_bwd_data_task(p), forward = winograd_task(p);
  if (half(c.in[0]) || !winograd_by_tiles_of_dy(p, forward, t)) return winograd_windows_workspace(t, false);
  return DataParts(Carve(nullptr), forward, products_task(p, forward)).bytes;
}
void winograd_bwd_data_run(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  if (WinogradTask f = winograd_task(p);
      !half(c.in[0]) && winograd_by_tiles_of_dy(p, f, winograd_bwd_data_task(p))) {
    WinogradTask q = products_task(p, f);
    f.dy = c.in[0].as<float>(), q.w = c.in[1].as<float>(), f.y = c.out[0].as<float>();
    f.bias = c.in.size() > 2 ? c.in[2].as<float>() : nullptr;
    return run_tiles_of_dy(f, q, c.workspace);
  }
  for (int64_t g = 0; g < p.groups; ++g) {
    WinogradTask t = winograd_bwd_data_task(p);
    t.x = elements(c.in[0], g * t.C), t.y = elements_out(c.out[0], g * t.O);
    t.w = elements(c.in[1], g * t.C * t.w_c - (p.kH * p.kW - 1) * t.w_tap);
    t.bias = c.in.size() > 2 ? elements(c.in[2], g * t.O) : nullptr;
    run_winograd(t, half(c.in[0]), c.workspace);
  }
}

// bfloat16 results are made in float32 at the front of the workspace.
static int64_t unrounded_bytes(const Call& c) {
  int64_t bytes = 0;
  for (const Operand& o : c.out)
    if (half(o)) bytes += 4 * aligned(o.numel());
  return bytes;
}
int64_t winograd_bwd_weights_workspace(const Call& c) {
  WinogradTask t = winograd_task(c.as<Conv2dParams>());
  const Plan p = plan_winograd_gradient(t, 1);
  return unrounded_bytes(c) + GradientParts(Carve(nullptr), t, p).bytes;
}
void winograd_bwd_weights_run(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  const bool rounds = half(c.out[0]), bias = c.out.size() > 1;
  float* front = static_cast<float*>(c.workspace);
  float* dw = rounds ? front : c.out[0].as<float>();
  float* dbias = !bias ? nullptr : rounds ? front + aligned(c.out[0].numel()) : c.out[1].as<float>();
  for (int64_t g = 0; g < p.groups; ++g) {
    WinogradTask t = winograd_task(p);
    t.x = elements(c.in[0], g * t.C), t.dy = elements(c.in[1], g * t.O);
    t.dw = dw + g * t.O * t.w_o;
    t.dbias = bias ? dbias + g * t.O : nullptr;
    t.norm = norm_from(norm_in(c, 2), g * t.C);
    run_gradient(t, half(c.in[0]), static_cast<char*>(c.workspace) + unrounded_bytes(c));
  }
  if (!rounds) return;
  const KernelTable& k = *kernels();
  for (size_t i = 0; i < c.out.size(); ++i)
    parallel_for(c.out[i].numel(), 16 * 1024, [&](int64_t b, int64_t e, int) {
      k.sum_arrays_bf16(i ? dbias : dw, 0, 1, c.out[i].as<bfloat16>(), b, e);
    });
}

}  // namespace fastcnn::cpu
