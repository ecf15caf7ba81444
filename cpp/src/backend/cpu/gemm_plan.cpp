// What it is: the blocking rules of gemm_windows. See gemm_plan.h.
#include "backend/cpu/gemm_plan.h"

#include <algorithm>

#include "backend/cpu/accept.h"
#include "backend/cpu/conv2d_span.h"
#include "backend/cpu/moments_plan.h"
#include "backend/cpu/strips.h"
#include "backend/cpu/threads.h"

namespace fastcnn::cpu {
namespace {

constexpr int64_t kWeightBlockFloats = 80 * 1024;  // one output block of weights stays in a third of L2
constexpr int64_t kStripTarget = 256;              // pixels that share a pass over the weights
constexpr int64_t kFewPixels = 56;                 // fewer make the weights the larger traffic
constexpr int64_t kL2Pixels = 128 * 1024;          // floats of a strip that all groups read and write

int64_t most_vectors(int lanes) { return lanes == 16 ? 3 : 2; }  // of an output block

struct Strip {
  const GemmTask& t;
  int64_t cn;
  int64_t floats(int64_t nb, int64_t ohb, int64_t owb) const {
    return nb * ((ohb - 1) * t.sH + (t.kH - 1) * t.dH + 1) * ((owb - 1) * t.sW + (t.kW - 1) * t.dW + 1) * cn;
  }
};

// Tap rows that see nothing but padding are left out anyway; where many tap columns do, pixels are sorted, unless
// those that see the same are too few for a tile. What is left of their windows lies inside of the image.
bool sorts(const GemmTask& t, int lanes) {
  constexpr double kWorth = 0.875, kTile = 8;  // kTile: sums at once, below which they wait for each other
  if (t.norm.on || t.moments.on || t.sums_before.on || t.kH * t.kW == 0 || t.kW == 1) return false;
  if (std::max(t.kH, t.kW) > kMostSortedTaps || t.N * t.oH * t.oW == 0) return false;
  const double live =
      static_cast<double>(live_taps(t.oW, t.W, t.kW, t.sW, t.dW, t.pL)) / static_cast<double>(t.oW * t.kW);
  if (live >= kWorth) return false;
  Alike alike[kMostAlike];
  const int64_t kinds =
      cut_alike(t.oH, -t.pT, t.sH, t.kH, t.dH, t.H, alike) * cut_alike(t.oW, -t.pL, t.sW, t.kW, t.dW, t.W, alike);
  const int64_t images = ceil_div(t.N, 4), vectors = std::min(ceil_div(t.O, lanes), most_vectors(lanes));
  const double tile = static_cast<double>(images * t.oH * t.oW * vectors) / static_cast<double>(kinds);
  return live < kWorth * std::min(1.0, tile / kTile);
}

// Fills nb, ohb, owb; `depth` words of a pixel.
void cut_gemm_strips(GemmTask& t, int64_t depth, bool bf16) {
  const Strip s{t, std::max<int64_t>(1, ceil_div(depth, t.nc))};
  // Unpacked rows are read in place: keep a strip of them in half of L2, in bfloat16 with the next one. An output
  // adds as many pixels as its stride has.
  const int64_t adds = std::clamp<int64_t>(t.kH * t.kW, 1, t.sH * t.sW);
  const int64_t room = (bf16 ? 64 : 128) * 1024 / (s.cn * adds);
  int64_t target = t.pack ? kStripTarget : std::clamp<int64_t>(room, 28, 2 * kStripTarget);
  if (t.by_strip) target = std::min(target, std::max(kFewPixels, kL2Pixels / (t.x_w + t.y_w)));
  auto fits = [&](int64_t nb, int64_t ohb, int64_t owb) {
    return nb * ohb * owb <= target && (!t.pack || s.floats(nb, ohb, owb) <= kScratchFloats);
  };
  cut_strips(t, target, 1, fits);
}

// `depth` words of a pixel; in bfloat16 the sums of a whole depth stay in registers, for nothing holds them
// between blocks.
bool plan(GemmTask& t, int64_t depth, bool bf16, int lanes, int threads) {
  const int64_t taps = t.kH * t.kW, most_v = most_vectors(lanes);
  const int64_t blocks = output_blocks(ceil_div(t.O, lanes), most_v);
  // Windows that do not leave the image are read where they lie; in bfloat16 those of a single tap.
  const bool inside = t.pT == 0 && t.pL == 0 && (t.oH - 1) * t.sH + (t.kH - 1) * t.dH < t.H &&
                      (t.oW - 1) * t.sW + (t.kW - 1) * t.dW < t.W;
  const bool words = !bf16 || (taps == 1 && t.C % 2 == 0);  // of two channels, as they lie
  t.sorted = sorts(t, lanes);
  t.pack = taps > 0 && (t.norm.on || !((inside || t.sorted) && t.x_c == 1 && words));
  t.merge = t.dW == 1 && t.kW > 1 && (t.pack || t.x_w == t.C);
  t.by_strip = t.B > 1 && t.x_b < t.x_w && t.B * t.O * taps * t.C <= kL2Weights;
  int64_t most_c = taps <= 1 ? 512 : std::max<int64_t>(1, kWeightBlockFloats / (taps * most_v * lanes));
  if (t.pack) {
    const int64_t px = Strip{t, 1}.floats(1, 1, std::min<int64_t>(std::max<int64_t>(t.oW, 1), 14));
    most_c = std::min(most_c, kScratchFloats / px);
    if (most_c < 1 || (bf16 && Strip{t, depth}.floats(1, 1, 1) > kScratchFloats)) return false;
  }
  t.nc = bf16 ? 1 : std::max<int64_t>(1, ceil_div(depth, most_c));
  if (!t.pack && t.nc > 1) t.merge = 0;
  cut_gemm_strips(t, depth, bf16);
  // Wide windows (dilation): a strip of few pixels reads all weights for them; fewer channels leave room for more.
  while (!bf16 && t.pack && t.nb * t.ohb * t.owb < std::min(kFewPixels, t.N * t.oH * t.oW) && t.C >= 64 * t.nc) {
    t.nc *= 2;
    cut_gemm_strips(t, depth, bf16);
  }
  // Work items: output blocks apart where the weights are the larger operand, then whatever feeds all
  // threads. With moments the pixels of an item must not depend on those.
  const bool parts = t.moments.on || t.sums_before.on;
  const int pixel_threads = parts ? kMomentThreads : threads;
  const int64_t wanted = pixel_threads == 1 ? 1 : 4 * pixel_threads, weights = t.O * taps * t.C;
  t.groups = weights > t.N * t.H * t.W * t.C ? blocks : 1;
  // Weights that stay in L2 are read by each thread, for pixels of its own, which it reads in the next layer too.
  if (t.groups > 1 && !t.pack && !parts && weights <= kL2Weights && t.N * t.oH == 1 &&
      t.oW >= threads * kFewPixels) {
    t.groups = 1;
    t.owb = ceil_div(t.oW, ceil_div(ceil_div(t.oW, t.owb), threads) * threads);
    return true;
  }
  auto items = [&] { return t.B * t.groups * strip_count(t); };
  // Weights that stay in L2 cost less to read again than pixels in place.
  if (!t.pack && weights <= kL2Weights)
    while (items() < wanted && t.N * t.oH == 1 && t.owb >= 2 * kFewPixels) t.owb = ceil_div(t.owb, 2);
  while (items() < wanted && t.groups < blocks) ++t.groups;
  while (blocks % t.groups) ++t.groups;  // items of equal size
  while (items() < wanted && t.nb > 1) t.nb = ceil_div(t.nb, 2);
  while (items() < wanted && t.ohb > 1 && t.ohb * t.owb > 28) t.ohb = ceil_div(t.ohb, 2);
  while (items() < wanted && t.owb > 28) t.owb = ceil_div(t.owb, 2);
  while (parts && items() < 4 * threads && t.groups < blocks) ++t.groups;
  while (blocks % t.groups) ++t.groups;
  return true;
}

}  // namespace

int64_t multiplied_taps(const GemmTask& t) {
  return live_taps(t.oH, t.H, t.kH, t.sH, t.dH, t.pT) *
         (t.sorted ? live_taps(t.oW, t.W, t.kW, t.sW, t.dW, t.pL) : t.oW * t.kW);
}

bool plan_gemm(GemmTask& t, int lanes, int threads) { return plan(t, t.C, false, lanes, threads); }
bool plan_gemm_bf16(GemmTask& t, int lanes, int threads) {
  return plan(t, ceil_div(t.C, 2), true, lanes, threads);
}

int64_t packed_floats(const GemmTask& t, int lanes) {
  return t.B * t.kH * t.kW * t.C * ceil_div(t.O, lanes) * lanes;
}

int64_t packed_words_bf16(const GemmTask& t, int lanes) {
  return t.B * t.kH * t.kW * ceil_div(t.C, 2) * ceil_div(t.O, lanes) * lanes;
}

namespace {

// f(task, begin, end) for the items of all tasks, one task after the other.
template <class Task, class Items, class F>
void each_in_turn(const std::vector<Task>& tasks, int64_t all, int64_t grain, Items items, F f) {
  parallel_for(all, grain, [&](int64_t b, int64_t e, int) {
    for (const Task& t : tasks) {
      const int64_t count = items(t);
      if (b < count && e > 0) f(t, std::max<int64_t>(b, 0), std::min(e, count));
      b -= count, e -= count;
    }
  });
}

// Kernels and counts of one dtype.
struct Engine {
  decltype(KernelTable::pack_weights) pack;
  decltype(KernelTable::gemm_windows) gemm;
  int64_t depth;    // words of a pixel
  int64_t vectors;  // of outputs
  int lanes;
  Engine(const KernelTable& k, const PackTask& w, bool bf16)
      : pack(bf16 ? k.pack_weights_bf16 : k.pack_weights),
        gemm(bf16 ? k.gemm_windows_bf16 : k.gemm_windows),
        depth(bf16 ? ceil_div(w.C, 2) : w.C),
        vectors(ceil_div(w.O, k.vector_floats)),
        lanes(k.vector_floats) {}

  int64_t pack_items(const PackTask& w) const { return w.B * (w.s_o == 1 ? depth : vectors); }
  int64_t words(const PackTask& w) const { return w.B * w.kH * w.kW * depth * vectors * lanes; }
  bool shared(const PackTask& w) const {
    const bool lines = reinterpret_cast<uintptr_t>(w.dst) % 64 == 0 && w.dst_b % 16 == 0;
    return lines && hands_over_in_memory(4 * words(w));
  }

  void pack_all(PackTask w) const {
    const int64_t items = pack_items(w), words = this->words(w);
    w.shared = shared(w);
    parallel_for(items, ceil_div(16 * 1024 * items, std::max<int64_t>(words, 1)),
                 [&](int64_t b, int64_t e, int) { pack(w, b, e); });
  }
};

int64_t items_of(const GemmTask& t) {
  return t.B * t.N * t.oH * t.oW * t.O == 0 ? 0 : t.B * t.groups * strip_count(t);
}
int64_t work_of(const GemmTask& t) {
  return t.N * t.oH * t.oW * t.O * std::max<int64_t>(t.kH * t.kW * t.C, 1) * t.B;
}
// Of all together `work`, on `items`.
int64_t grain(int64_t work, int64_t items) { return ceil_div(128 * 1024, std::max<int64_t>(work / items, 1)); }

void run(const GemmTask& t, decltype(KernelTable::gemm_windows) kernel) {
  const int64_t items = items_of(t);
  if (items == 0) return;
  parallel_for(items, grain(work_of(t), items), [&](int64_t b, int64_t e, int) { kernel(t, b, e); });
}

void pack_and_run(const PackTask& w, const GemmTask& t, const Engine& e) {
  if (t.B * t.N * t.oH * t.oW * t.O == 0) return;
  const int64_t shares = t.B * t.groups, threads = num_threads();
  // Rows of outputs are packed as they lie, for all groups at once; a product may have one right side for all
  // batches.
  const bool apart = w.s_o != 1 && w.B == t.B && t.kH * t.kW > 0 && !t.by_strip;
  if (!apart || (shares % threads != 0 && shares < 4 * threads)) {
    if (t.kH * t.kW > 0) e.pack_all(w);
    return run(t, e.gemm);
  }
  const int64_t strips = strip_count(t), blocks = output_blocks(e.vectors, most_vectors(e.lanes));
  const int64_t work = (t.N * t.oH * t.oW + 16) * t.O * t.kH * t.kW * t.C / t.groups;
  parallel_for(shares, ceil_div(128 * 1024, std::max<int64_t>(work, 1)), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t v = i / t.groups * e.vectors, b0 = blocks * (i % t.groups) / t.groups;
      e.pack(w, v + e.vectors * b0 / blocks, v + e.vectors * (b0 + blocks / t.groups) / blocks);
      e.gemm(t, i * strips, (i + 1) * strips);
    }
  });
}

}  // namespace

void run_pack(const PackTask& w, const KernelTable& k) { Engine(k, w, false).pack_all(w); }
void run_packs(const std::vector<PackTask>& tasks, const KernelTable& k) {
  int64_t all = 0, words = 0;
  const auto items = [&](const PackTask& w) { return w.kH * w.kW > 0 ? Engine(k, w, false).pack_items(w) : 0; };
  for (const PackTask& w : tasks) all += items(w), words += Engine(k, w, false).words(w);
  each_in_turn(tasks, all, ceil_div(16 * 1024 * all, std::max<int64_t>(words, 1)), items,
               [&](PackTask w, int64_t b, int64_t e) {
                 const Engine engine(k, w, false);
                 w.shared = engine.shared(w);
                 engine.pack(w, b, e);
               });
}
void run_gemm(const GemmTask& t, const KernelTable& k) { run(t, k.gemm_windows); }
void run_gemms(const std::vector<GemmTask>& tasks, int64_t weights, const KernelTable& k) {
  int64_t most = 0, all = 0, work = 0, results = 0;
  for (const GemmTask& t : tasks) {
    most = std::max(most, items_of(t)), all += items_of(t), work += work_of(t);
    results += t.B * t.N * t.oH * t.oW * t.O;
  }
  if (all == 0) return;
  if (most < num_threads()) {
    each_in_turn(tasks, all, grain(work, all), items_of, k.gemm_windows);
    return;
  }
  parallel_for(most, grain(work, most), [&](int64_t b, int64_t e, int) {
    const int64_t step = weights <= kL2Weights && results > kCachedFloats ? 1 : e - b;
    for (; b < e; b += step)
      for (const GemmTask& t : tasks) {
        const int64_t items = items_of(t), from = items * b / most, to = items * (b + step) / most;
        if (from < to) k.gemm_windows(t, from, to);
      }
  });
}
void run_pack_and_gemm(const PackTask& w, const GemmTask& t, const KernelTable& k) {
  pack_and_run(w, t, Engine(k, w, false));
}
void run_pack_bf16(const PackTask& w, const KernelTable& k) { Engine(k, w, true).pack_all(w); }
void run_gemm_bf16(const GemmTask& t, const KernelTable& k) { run(t, k.gemm_windows_bf16); }
void run_pack_and_gemm_bf16(const PackTask& w, const GemmTask& t, const KernelTable& k) {
  pack_and_run(w, t, Engine(k, w, true));
}

}  // namespace fastcnn::cpu
