// What it is: the implementations of conv2d, conv2d_bwd_data and conv2d_bwd_weights on the CPU: when each one
// declines, its workspace, and how its work goes to threads. What it is not: arithmetic (kernels/, ref/).
#include <algorithm>
#include <cstring>
#include <vector>

#include "backend/cpu/conv2d_adaptors.h"
#include "backend/cpu/conv2d_tasks.h"
#include "backend/cpu/gemm_plan.h"
#include "backend/cpu/grad_plan.h"
#include "backend/cpu/isa.h"
#include "backend/cpu/lists.h"
#include "backend/cpu/moments_plan.h"
#include "backend/cpu/ref/ref.h"
#include "backend/cpu/scratch.h"
#include "backend/cpu/strips.h"
#include "backend/cpu/threads.h"
#include "backend/cpu/via_float32.h"

namespace fastcnn::cpu {

// ---- dense forward ----

static const char* norm_of_whole_window(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  return p.has_norm_in && whole_window(p).C != p.C ? "input norm of a whole image" : nullptr;
}

// A norm is applied in the copy of a strip. Where strips would be read in place, copies are of fewer pixels, and
// each strip reads all weights: more of that than the image itself has is no gain. Nor is it, or the moments of
// what is written, where it keeps many taps that see padding from being left out.
static const char* fusion_costs_more(const GemmTask& t) {
  GemmTask alone = t;
  alone.norm.on = alone.moments.on = 0;
  plan_gemm(alone, lanes(), 1);
  if (10 * multiplied_taps(alone) < 7 * multiplied_taps(t))
    return "input norm or moments: taps that see padding are left out without";
  if (!t.norm.on) return nullptr;
  const int64_t pixels = t.N * t.H * t.W;
  const int64_t more = t.O * (strip_count(t) - strip_count(alone)) + (alone.pack ? 0 : (t.groups - 1) * pixels);
  return more > pixels ? "input norm: copied strips read the weights too often" : nullptr;
}

const char* dense_declines(const Call& c) {
  if (const char* why = declines_common(c, {.norm_in = true, .moments = true})) return why;
  if (const char* why = norm_of_whole_window(c)) return why;
  GemmTask t = forward_task(whole_window(c.as<Conv2dParams>()));
  if (!plan_gemm(t, lanes(), 1)) return "window too large";
  return t.norm.on || t.moments.on ? fusion_costs_more(t) : nullptr;
}

int64_t dense_packed(const Call& c) {
  GemmTask t = forward_task(whole_window(c.as<Conv2dParams>()));
  return packed_floats(t, lanes()) * 4;
}

namespace {

// Packed weights unless a plan keeps them, then the moments.
struct DenseSpace {
  void* packed;
  MomentsSpace moments;
  int64_t bytes;
  DenseSpace(const Call& c, const GemmTask& t, void* base)
      : packed(base),
        moments(c.as<Conv2dParams>(), strip_count(t), past(c, base)),
        bytes(front(c) + moments.bytes) {}
  static int64_t front(const Call& c) { return c.prepared ? 0 : 4 * aligned(dense_packed(c) / 4); }
  static void* past(const Call& c, void* base) { return base ? static_cast<char*>(base) + front(c) : base; }
};

}  // namespace

int64_t dense_workspace(const Call& c) {
  GemmTask t = forward_task(whole_window(c.as<Conv2dParams>()));
  plan_gemm(t, lanes(), 1);
  return DenseSpace(c, t, nullptr).bytes;
}

static PackTask dense_pack(const Call& c, const GemmTask& t, void* dst) {
  PackTask w;
  w.B = t.B, w.O = t.O, w.kH = t.kH, w.kW = t.kW, w.C = t.C, w.nc = t.nc;
  w.s_c = 1, w.s_kw = t.C, w.s_kh = t.kW * t.C, w.s_o = t.kH * w.s_kh;
  w.src_b = t.O * w.s_o, w.dst_b = packed_floats(t, lanes()) / t.B;
  w.src = c.in[1].as<float>(), w.dst = static_cast<float*>(dst);
  return w;
}

void dense_prepare(const Call& c, void* dst) {
  GemmTask t = forward_task(whole_window(c.as<Conv2dParams>()));
  plan_gemm(t, lanes(), num_threads());
  run_pack(dense_pack(c, t, dst), *kernels());
}

void dense_run(const Call& c) {
  const Conv2dParams p = whole_window(c.as<Conv2dParams>());
  const KernelTable& k = *kernels();
  if (p.N == 0) return;
  GemmTask t = forward_task(p);
  plan_gemm(t, k.vector_floats, num_threads());
  t.w = static_cast<const float*>(c.prepared ? c.prepared : c.workspace);
  t.w_b = packed_floats(t, k.vector_floats) / t.B;
  t.x = c.in[0].as<float>(), t.y = c.out[0].as<float>();
  t.bias = p.has_bias ? c.in[2].as<float>() : nullptr;
  t.norm = norm_in(c, norm_in_at(p));
  t.residual = p.has_residual ? c.in[c.in.size() - 1].as<float>() : nullptr;
  choose_stream(t, p.N * p.oH * p.oW * p.O, p.O);
  const DenseSpace space(c, t, c.workspace);
  t.moments = space.moments.out;
  if (c.prepared)
    run_gemm(t, k);
  else
    run_pack_and_gemm(dense_pack(c, t, c.workspace), t, k);
  space.moments.merge(c);
}

// ---- dense backward to data ----

// The bias there is one of the channels, not of the pixels.
static Conv2dParams data_params(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  return c.in.size() > 2 ? p : whole_window(p);
}

namespace {

// A task for each residue modulo the stride.
struct DataPlan {
  std::vector<GemmTask> tasks;
  std::vector<PackTask> packs;
  int64_t floats = 0;  // packed weights
  bool fits = true;
  // Addresses may be null.
  DataPlan(const Conv2dParams& p, int threads, const float* w, float* packed, float* dx) {
    for_each_residue(p, lanes(), [&](GemmTask& t, PackTask& q, int64_t src, int64_t dst) {
      fits = fits && plan_gemm(t, lanes(), threads);
      q.nc = t.nc;
      if (w) q.src = w + src;
      if (packed) t.w = q.dst = packed + floats;
      if (dx) t.y = dx + dst;
      floats += aligned(packed_floats(t, lanes()));
      tasks.push_back(t), packs.push_back(q);
    });
  }
};

}  // namespace

const char* dense_bwd_data_declines(const Call& c) {
  if (const char* why = declines_common(c)) return why;
  return DataPlan(data_params(c), 1, nullptr, nullptr, nullptr).fits ? nullptr : "window too large";
}

int64_t dense_bwd_data_packed(const Call& c) {
  return 4 * DataPlan(data_params(c), 1, nullptr, nullptr, nullptr).floats;
}

int64_t dense_bwd_data_workspace(const Call& c) { return c.prepared ? 0 : dense_bwd_data_packed(c); }

void dense_bwd_data_prepare(const Call& c, void* dst) {
  const DataPlan plan(data_params(c), 1, c.in[1].as<float>(), static_cast<float*>(dst), nullptr);
  run_packs(plan.packs, *kernels());
}

void dense_bwd_data_run(const Call& c) {
  const Conv2dParams p = data_params(c);
  if (p.N == 0) return;
  const KernelTable& k = *kernels();
  float* packed = static_cast<float*>(c.prepared ? const_cast<void*>(c.prepared) : c.workspace);
  DataPlan plan(p, num_threads(), c.in[1].as<float>(), packed, c.out[0].as<float>());
  for (GemmTask& t : plan.tasks) {
    t.x = c.in[0].as<float>();
    t.bias = c.in.size() > 2 ? c.in[2].as<float>() : nullptr;
    choose_stream(t, p.N * p.H * p.W * p.C, p.C);
  }
  // Pixels that no tap meets, of less than a line each: all are cleared at once.
  const auto untapped = [](const GemmTask& t) { return t.kH * t.kW == 0; };
  if (p.C < kAlign && c.in.size() <= 2 && std::any_of(plan.tasks.begin(), plan.tasks.end(), untapped)) {
    float* dx = c.out[0].as<float>();
    parallel_for(p.N * p.H * p.W * p.C, 16 * 1024,
                 [&](int64_t b, int64_t e, int) { std::fill(dx + b, dx + e, 0.0f); });
    std::erase_if(plan.tasks, untapped);
    std::erase_if(plan.packs, [](const PackTask& w) { return w.kH * w.kW == 0; });
  }
  // Large weights are packed by those who read them, right before.
  if (!c.prepared && (plan.tasks.size() == 1 || plan.floats > kL2Weights)) {
    for (size_t i = 0; i < plan.tasks.size(); ++i) run_pack_and_gemm(plan.packs[i], plan.tasks[i], k);
    return;
  }
  if (!c.prepared) run_packs(plan.packs, k);
  run_gemms(plan.tasks, plan.floats, k);
}

// ---- dense backward to weights ----

int64_t dense_weights_sums(const WeightsGradTask& t) {
  return t.chunks > 1 || t.o_inner ? aligned(t.chunks * t.B * t.w_b) : 0;
}

void dense_weights_finish(const WeightsGradTask& t, float* dw) {
  if (t.dw == dw) return;
  const KernelTable& k = *kernels();
  const int64_t total = t.B * t.w_b;
  float* sum = t.o_inner ? t.dw : dw;
  if (t.chunks > 1)
    parallel_for(total, 16 * 1024,
                 [&](int64_t b, int64_t e, int) { k.sum_arrays(t.dw, total, t.chunks, sum, b, e); });
  if (t.o_inner)
    for (int64_t g = 0; g < t.B; ++g)
      parallel_for(t.O, 64, [&](int64_t b, int64_t e, int) {
        k.transpose_matrix(sum + g * t.w_b, t.O, t.w_b / t.O, dw + g * t.w_b, b, e);
      });
}

const char* dense_bwd_weights_declines(const Call& c) {
  if (const char* why = declines_common(c, {.norm_in = true})) return why;
  if (const char* why = norm_of_whole_window(c)) return why;
  WeightsGradTask t = weights_task(whole_window(c.as<Conv2dParams>()));
  return plan_weights_grad(t, 1, lanes(), 1) ? nullptr : "window too large";
}

int64_t dense_bwd_weights_workspace(const Call& c) {
  WeightsGradTask t = weights_task(whole_window(c.as<Conv2dParams>()));
  plan_weights_grad(t, 1, lanes(), 1);
  const int64_t sums = dense_weights_sums(t);
  return sums ? 4 * (sums + aligned(t.chunks * t.B * t.O)) : 0;
}

void dense_bwd_weights_run(const Call& c) {
  const Conv2dParams p = whole_window(c.as<Conv2dParams>());
  const KernelTable& k = *kernels();
  WeightsGradTask t = weights_task(p);
  plan_weights_grad(t, 1, k.vector_floats, num_threads());
  float* dw = c.out[0].as<float>();
  float* dbias = c.out.size() > 1 ? c.out[1].as<float>() : nullptr;
  const int64_t total = t.B * t.w_b, biases = t.B * t.O;
  if (p.N * p.oH * p.oW == 0) {
    std::memset(dw, 0, static_cast<size_t>(total) * 4);
    if (dbias) std::memset(dbias, 0, static_cast<size_t>(biases) * 4);
    return;
  }
  t.x = c.in[0].as<float>(), t.dy = c.in[1].as<float>(), t.dw = dw, t.dbias = dbias, t.norm = norm_in(c, 2);
  const int64_t sums = dense_weights_sums(t);
  if (sums) {
    t.dw = static_cast<float*>(c.workspace);
    if (dbias) t.dbias = t.dw + sums;
  }
  const int64_t items = t.chunks * t.B * t.nc * t.groups;
  with_scratch(items, 1, kGradFloats, [&](int64_t b, int64_t e, float* s) { k.conv2d_weights_grad(t, s, b, e); });
  dense_weights_finish(t, dw);
  if (sums && dbias) k.sum_arrays(t.dbias, biases, t.chunks, dbias, 0, biases);
}

namespace {

constexpr Implementation kForward[] = {
    {"product", product_declines, nullptr, product_run},
    {"subsampled", subsampled_declines, subsampled_workspace, subsampled_run},
    {"trimmed", trimmed_declines, trimmed_workspace, trimmed_run},
    {"depthwise", depthwise_declines, depthwise_workspace, depthwise_run},
    {"group_lanes", group_lanes_declines, group_lanes_workspace, group_lanes_run},
    {"planes", planes_declines, planes_workspace, planes_run},
    {"winograd", winograd_declines, winograd_workspace, winograd_run, winograd_prepared, winograd_prepare},
    {"winograd2x2", winograd2x2_declines, winograd2x2_workspace, winograd2x2_run},
    {"winograd_parities", parities_declines, parities_workspace, parities_run},
    {"phases", phases_declines, phases_workspace, phases_run},
    {"few_outputs", few_outputs_declines, few_outputs_workspace, few_outputs_run},
    {"merged_groups", merged_declines, merged_workspace, merged_run},
    {"dense", dense_declines, dense_workspace, dense_run, dense_packed, dense_prepare},
    {"pairs", pairs_declines, pairs_workspace, pairs_run, pairs_packed, pairs_prepare},
    {"depthwise_half", depthwise_half_declines, depthwise_half_workspace, depthwise_half_run,
     depthwise_half_packed, depthwise_half_prepare, depthwise_half_packs},
    ViaFloat32<conv2d_list>::entry(),
    {"ref", nullptr, nullptr, ref::conv2d},
};
constexpr Implementation kBwdData[] = {
    {"product", product_bwd_data_declines, nullptr, product_bwd_data_run},
    {"subsampled", subsampled_bwd_data_declines, subsampled_bwd_data_workspace, subsampled_bwd_data_run},
    {"trimmed", trimmed_bwd_data_declines, trimmed_bwd_data_workspace, trimmed_bwd_data_run},
    {"depthwise", depthwise_bwd_data_declines, depthwise_bwd_data_workspace, depthwise_bwd_data_run},
    {"group_lanes", group_lanes_bwd_data_declines, group_lanes_bwd_data_workspace, group_lanes_bwd_data_run},
    {"planes", planes_bwd_data_declines, planes_bwd_data_workspace, planes_bwd_data_run},
    {"winograd", winograd_bwd_data_declines, winograd_bwd_data_workspace, winograd_bwd_data_run},
    {"winograd2x2", winograd2x2_bwd_data_declines, winograd2x2_bwd_data_workspace, winograd2x2_bwd_data_run},
    {"winograd_parities", parities_bwd_data_declines, parities_bwd_data_workspace, parities_bwd_data_run},
    {"columns", columns_bwd_data_declines, columns_bwd_data_workspace, columns_bwd_data_run},
    {"phases", phases_bwd_data_declines, phases_bwd_data_workspace, phases_bwd_data_run},
    {"narrow", narrow_bwd_data_declines, narrow_bwd_data_workspace, narrow_bwd_data_run},
    {"few_outputs", few_outputs_bwd_data_declines, few_outputs_bwd_data_workspace, few_outputs_bwd_data_run},
    {"merged_groups", merged_bwd_data_declines, merged_bwd_data_workspace, merged_bwd_data_run},
    {"dense", dense_bwd_data_declines, dense_bwd_data_workspace, dense_bwd_data_run, dense_bwd_data_packed,
     dense_bwd_data_prepare},
    {"pairs", pairs_bwd_data_declines, pairs_bwd_data_workspace, pairs_bwd_data_run, pairs_bwd_data_packed,
     pairs_bwd_data_prepare},
    ViaFloat32<conv2d_bwd_data_list>::entry(),
    {"ref", nullptr, nullptr, ref::conv2d_bwd_data},
};
constexpr Implementation kBwdWeights[] = {
    {"product", product_bwd_weights_declines, nullptr, product_bwd_weights_run},
    {"subsampled", subsampled_bwd_weights_declines, subsampled_bwd_weights_workspace, subsampled_bwd_weights_run},
    {"depthwise", depthwise_bwd_weights_declines, depthwise_bwd_weights_workspace, depthwise_bwd_weights_run},
    {"group_lanes", group_lanes_bwd_weights_declines, group_lanes_bwd_weights_workspace,
     group_lanes_bwd_weights_run},
    {"planes", planes_bwd_weights_declines, planes_bwd_weights_workspace, planes_bwd_weights_run},
    {"winograd", winograd_bwd_weights_declines, winograd_bwd_weights_workspace, winograd_bwd_weights_run},
    {"winograd2x2", winograd2x2_bwd_weights_declines, winograd2x2_bwd_weights_workspace,
     winograd2x2_bwd_weights_run},
    {"winograd_parities", parities_bwd_weights_declines, parities_bwd_weights_workspace, parities_bwd_weights_run},
    {"phases", phases_bwd_weights_declines, phases_bwd_weights_workspace, phases_bwd_weights_run},
    {"taps", taps_bwd_weights_declines, taps_bwd_weights_workspace, taps_bwd_weights_run},
    {"merged_groups", merged_bwd_weights_declines, merged_bwd_weights_workspace, merged_bwd_weights_run},
    {"dense", dense_bwd_weights_declines, dense_bwd_weights_workspace, dense_bwd_weights_run},
    {"pairs", pairs_bwd_weights_declines, pairs_bwd_weights_workspace, pairs_bwd_weights_run},
    ViaFloat32<conv2d_bwd_weights_list>::entry(),
    {"ref", nullptr, nullptr, ref::conv2d_bwd_weights},
};

}  // namespace

List conv2d_list() { return kForward; }
List conv2d_bwd_data_list() { return kBwdData; }
List conv2d_bwd_weights_list() { return kBwdWeights; }

}  // namespace fastcnn::cpu
