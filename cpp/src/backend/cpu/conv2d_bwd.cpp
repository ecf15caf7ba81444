// What it is: conv2d_bwd on the CPU for dense 1x1 convolutions: strips of pixels, for each of which the gradient
// of the convolution's output is made once in a thread's scratch and read there by the kernels of both backward
// passes; or, where threads share large weights, that gradient as a whole and the passes one after the other. Sums
// have the order of conv2d_bwd_weights alone. What it is not: arithmetic (kernels/), depthwise
// (conv2d_bwd_depthwise.cpp), Winograd (conv2d_bwd_winograd.cpp) or one gradient (conv2d_bwd_weights_alone.cpp).
#include <algorithm>
#include <cstring>

#include "backend/cpu/conv2d_adaptors.h"
#include "backend/cpu/conv2d_bwd.h"
#include "backend/cpu/gemm_plan.h"
#include "backend/cpu/grad_plan.h"
#include "backend/cpu/lists.h"
#include "backend/cpu/ref/ref.h"
#include "backend/cpu/scratch.h"
#include "backend/cpu/strips.h"

namespace fastcnn::cpu {
namespace {

// Of pixels of x and y: L2 holds them made, and those of the next strip as they are.
constexpr int64_t kStripFloats = 32 * 1024;
constexpr int64_t kFewChunks = 4;        // fewer leave threads without work
constexpr int64_t kSmall = 1024 * 1024;  // multiply-adds that one thread may do

struct DenseJoint {
  GemmTask data;
  PackTask pack;
  WeightsGradTask weights;
  bool fits = false, by_strips = false;
  int64_t strips = 0, most = 1;  // of the weights' plan; as many of them are one of here

  explicit DenseJoint(const Conv2dBwdParams& joint, int threads) {
    const Conv2dParams& p = joint.conv;
    for_each_residue(p, lanes(), [&](GemmTask& t, PackTask& q, int64_t, int64_t) { data = t, pack = q; });
    weights = weights_task(p);
    weights.norm.on = p.has_norm_in != 0;
    fits = plan_weights_grad(weights, 1, lanes(), 1) && (weights.panels || weights.o_inner);
    strips = strip_count(weights);
    const int64_t pixels = std::min(kStripPixels, kStripFloats / (p.O + p.C * (joint.has_sums ? 2 : 1)));
    most = std::max<int64_t>(1, pixels / weights.owb);
    data.sums_before.on = joint.has_sums != 0;
    GemmTask whole = data;
    fits = fits && plan_gemm(data, lanes(), 1);
    // Chunks of the sums are what threads share.
    by_strips = fits && !data.pack && (weights.chunks >= kFewChunks || weights.oW * weights.w_b <= kSmall);
    if (by_strips)
      data.groups = data.nb = data.ohb = 1;
    else if (fits)
      plan_gemm(data = whole, lanes(), threads);
  }
  // That have sums of their own: chunks of strips, or strips of the plan.
  int64_t parts() const { return by_strips ? weights.chunks : strip_count(data); }
};

struct DenseSpace {
  float *packed, *grad, *partial, *dy;
  double* part;
  void* rest;  // of conv2d_bwd_weights alone
  int64_t bytes;
  DenseSpace(const Call& c, const DenseJoint& j) {
    const auto& p = c.as<Conv2dBwdParams>();
    Carve w(c.workspace);
    packed = w.take<float>(packed_floats(j.data, lanes()));
    grad = w.take<float>(OutputGrad::floats(p.conv.O));
    part = w.take<double>(p.has_sums ? j.parts() * 2 * p.conv.C : 0);
    partial = w.take<float>(j.by_strips ? dense_weights_sums(j.weights) : 0);
    dy = w.take<float>(j.by_strips ? 0 : c.in[0].numel());
    rest = w.take<char>(j.by_strips ? 0 : dense_bwd_weights_workspace(WeightsCall(c, nullptr, nullptr).call));
    bytes = w.used();
  }
};

const char* dense_joint_declines(const Call& c) {
  if (const char* why = declines_common(conv_call(c), {.norm_in = true})) return why;
  if (const char* why = joint_declines(c)) return why;
  const auto& p = c.as<Conv2dBwdParams>().conv;
  if (p.kH * p.kW * p.sH * p.sW * p.groups != 1 || p.oH != p.H || p.oW != p.W || p.pT != 0 || p.pL != 0)
    return "not 1x1 of stride 1";
  if (p.N * p.H * p.W * p.C * p.O == 0) return "empty";
  return DenseJoint(c.as<Conv2dBwdParams>(), 1).fits ? nullptr : "no plan of both passes in panels";
}

int64_t dense_joint_workspace(const Call& c) {
  Call plan = c;
  plan.workspace = nullptr;
  return DenseSpace(plan, DenseJoint(c.as<Conv2dBwdParams>(), 1)).bytes;
}

void run_strips(const Call& c, DenseJoint& j, const DenseSpace& space) {
  const auto& p = c.as<Conv2dBwdParams>();
  const KernelTable& k = *kernels();
  run_pack(j.pack, k);
  choose_stream(j.data, p.conv.N * p.conv.H * p.conv.W * p.conv.C, p.conv.C);
  float* dw = c.out[1].as<float>();
  WeightsGradTask& w = j.weights;
  w.x = c.in[2].as<float>(), w.dw = dense_weights_sums(w) ? space.partial : dw;
  w.norm = norm_in(conv_call(c), norm_in_at(p));
  const OutputGrad grad(c, space.grad);
  const NormSums& sums = j.data.sums_before;
  const float* dy2 = p.has_dy2 ? norm_before(c).dy2 : nullptr;
  const int64_t O = p.conv.O, C = p.conv.C, pixels = j.most * w.owb, held = aligned(pixels * O);
  const int64_t more = sums.on ? aligned(pixels * C) : 0;
  with_scratch(w.chunks, 1, held + kGradFloats + more, [&](int64_t b, int64_t e, float* dy) {
    for (int64_t chunk = b; chunk < e; ++chunk) {
      const int64_t last = j.strips * (chunk + 1) / w.chunks;
      for (int64_t s = j.strips * chunk / w.chunks, s1; s < last; s = s1) {
        s1 = std::min(s + j.most, last);
        const int64_t from = s * w.owb, to = std::min(s1 * w.owb, w.oW);
        grad.make(from, to, dy);
        GemmTask t = j.data;
        t.W = t.oW = t.owb = to - from, t.x = dy, t.y += from * C;
        t.norm.fetch = floats_between(dy, c.in[0].as<float>() + to * O);
        if (sums.on) {  // results go from scratch through the norm
          NormSums& n = t.sums_before;
          n.part += chunk * 2 * C, n.step = 0, n.to = t.y, n.stream = t.stream;
          n.x += from * C;
          if (n.y) n.y += from * C;
          if (dy2) t.residual = dy2 + from * C;
          t.y = dy + held + kGradFloats, t.stream = 0;
        }
        k.gemm_windows(t, 0, 1);
        WeightsGradTask q = w;
        q.dy = dy - from * O, q.strip0 = s, q.strip1 = s1,
        q.fetch_dy = floats_between(dy, c.in[3].as<float>() + to * O);
        k.conv2d_weights_grad(q, dy + held, chunk * w.nc, (chunk + 1) * w.nc);
      }
    }
  });
  dense_weights_finish(w, dw);
}

void run_whole(const Call& c, DenseJoint& j, const DenseSpace& space) {
  const auto& p = c.as<Conv2dBwdParams>();
  make_whole(OutputGrad(c, space.grad), p.conv, space.dy);
  j.data.x = space.dy;
  if (p.has_dy2) j.data.residual = norm_before(c).dy2;
  if (!p.has_sums) choose_stream(j.data, p.conv.N * p.conv.H * p.conv.W * p.conv.C, p.conv.C);
  run_pack_and_gemm(j.pack, j.data, *kernels());
  dense_bwd_weights_run(WeightsCall(c, space.dy, space.rest).call);
}

void dense_joint_run(const Call& c) {
  const auto& p = c.as<Conv2dBwdParams>();
  DenseJoint j(p, num_threads());
  const DenseSpace space(c, j);
  j.pack.nc = j.data.nc, j.pack.src = c.in[1].as<float>(), j.pack.dst = space.packed;
  j.data.w = space.packed, j.data.y = c.out[0].as<float>();
  j.data.sums_before = norm_sums(c, space.part, 2 * p.conv.C);
  clear_norm_sums(j.data.sums_before, j.parts());
  j.by_strips ? run_strips(c, j, space) : run_whole(c, j, space);
  merge_norm_sums(j.data.sums_before, j.parts(), p.has_sums ? c.out[2].as<double>() : nullptr);
}

constexpr Implementation kJoint[] = {
    {"depthwise", depthwise_joint_declines, depthwise_joint_workspace, depthwise_joint_run},
    {"winograd", winograd_joint_declines, winograd_joint_workspace, winograd_joint_run},
    {"dense", dense_joint_declines, dense_joint_workspace, dense_joint_run},
    {"weights_alone", weights_alone_declines, weights_alone_workspace, weights_alone_run},
    {"ref", nullptr, nullptr, ref::conv2d_bwd},
};

}  // namespace

List conv2d_bwd_list() { return kJoint; }

}  // namespace fastcnn::cpu
