// What it is: conv2d_bwd on the CPU for dense 1x1 convolutions: strips of pixels, for each of which the gradient
// of the convolution's output is made once in a thread's scratch and read there by the kernels of both backward
// passes. Sums have the order of conv2d_bwd_weights alone. What it is not: arithmetic (kernels/), or depthwise
// (conv2d_bwd_depthwise.cpp).
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
  bool fits = false;
  int64_t strips = 0, most = 1;  // of the weights' plan; as many of them are one of here

  explicit DenseJoint(const Conv2dBwdParams& joint) {
    const Conv2dParams& p = joint.conv;
    for_each_residue(p, lanes(), [&](GemmTask& t, PackTask& q, int64_t, int64_t) { data = t, pack = q; });
    fits = plan_gemm(data, lanes(), 1) && !data.pack;
    data.groups = data.nb = data.ohb = 1;
    weights = weights_task(p);
    weights.norm.on = p.has_norm_in != 0;
    fits = fits && plan_weights_grad(weights, 1, lanes(), 1) && weights.panels;
    strips = strip_count(weights);
    const int64_t pixels = std::min(kStripPixels, kStripFloats / (p.O + p.C * (joint.has_sums ? 2 : 1)));
    most = std::max<int64_t>(1, pixels / weights.owb);
  }
  int64_t packed() const { return aligned(packed_floats(data, lanes())); }
  int64_t partial() const { return weights.chunks > 1 ? aligned(weights.chunks * weights.w_b) : 0; }
};

const char* dense_joint_declines(const Call& c) {
  if (const char* why = declines_common(conv_call(c), {.norm_in = true})) return why;
  if (const char* why = joint_declines(c)) return why;
  const auto& p = c.as<Conv2dBwdParams>().conv;
  if (p.kH * p.kW * p.sH * p.sW * p.groups != 1 || p.oH != p.H || p.oW != p.W || p.pT != 0 || p.pL != 0)
    return "not 1x1 of stride 1";
  if (p.N * p.H * p.W * p.C * p.O == 0) return "empty";
  const DenseJoint j(c.as<Conv2dBwdParams>());
  if (!j.fits) return "no plan of both passes in place";
  // Chunks of the sums are what threads share.
  if (j.weights.chunks < kFewChunks && j.weights.oW * j.weights.w_b > kSmall) return "few partial sums";
  return nullptr;
}

int64_t dense_joint_workspace(const Call& c) {
  const auto& p = c.as<Conv2dBwdParams>();
  const DenseJoint j(p);
  return 4 * (j.packed() + j.partial() + OutputGrad::floats(p.conv.O) + InputSums::floats(p, j.weights.chunks));
}

void dense_joint_run(const Call& c) {
  const auto& p = c.as<Conv2dBwdParams>();
  const KernelTable& k = *kernels();
  DenseJoint j(p);
  float* space = static_cast<float*>(c.workspace);
  j.pack.nc = j.data.nc, j.pack.src = c.in[1].as<float>(), j.pack.dst = space;
  run_pack(j.pack, k);
  j.data.w = space, j.data.y = c.out[0].as<float>();
  space += j.packed();
  choose_stream(j.data, p.conv.N * p.conv.H * p.conv.W * p.conv.C, p.conv.C);
  float* dw = c.out[1].as<float>();
  WeightsGradTask& w = j.weights;
  w.x = c.in[2].as<float>(), w.dw = w.chunks > 1 ? space : dw, w.norm = norm_in(conv_call(c), norm_in_at(p));
  space += j.partial();
  const OutputGrad grad(c, space);
  const InputSums sums(c, norm_in_at(p), space + OutputGrad::floats(p.conv.O));
  const int64_t O = p.conv.O, C = p.conv.C, pixels = j.most * w.owb, held = aligned(pixels * O);
  const int64_t more = sums.on() ? aligned(pixels * C) : 0, room = sums.on() ? aligned(4 * C) : 0;
  with_scratch(w.chunks, 1, held + kGradFloats + more + room, [&](int64_t b, int64_t e, float* dy) {
    float* dx = dy + held + kGradFloats;
    for (int64_t chunk = b; chunk < e; ++chunk) {
      if (sums.on()) sums.clear(chunk);
      const int64_t last = j.strips * (chunk + 1) / w.chunks;
      for (int64_t s = j.strips * chunk / w.chunks, s1; s < last; s = s1) {
        s1 = std::min(s + j.most, last);
        const int64_t from = s * w.owb, to = std::min(s1 * w.owb, w.oW);
        grad.make(from, to, dy);
        GemmTask t = j.data;
        t.W = t.oW = t.owb = to - from, t.x = dy, t.y += from * C;
        t.norm.fetch = floats_between(dy, c.in[0].as<float>() + to * O);
        if (sums.on()) t.y = dx, t.stream = 0;
        k.gemm_windows(t, 0, 1);
        if (sums.on()) sums.add(chunk, from, to, dx, reinterpret_cast<double*>(dx + more));
        WeightsGradTask q = w;
        q.dy = dy - from * O, q.strip0 = s, q.strip1 = s1,
        q.fetch_dy = floats_between(dy, c.in[3].as<float>() + to * O);
        k.conv2d_weights_grad(q, dy + held, chunk * w.nc, (chunk + 1) * w.nc);
      }
    }
  });
  if (w.chunks > 1)
    parallel_for(w.w_b, 16 * 1024,
                 [&](int64_t b, int64_t e, int) { k.sum_arrays(w.dw, w.w_b, w.chunks, dw, b, e); });
  if (sums.on()) sums.finish(w.chunks, c.out[2].as<double>());
}

constexpr Implementation kJoint[] = {
    {"depthwise", depthwise_joint_declines, depthwise_joint_workspace, depthwise_joint_run},
    {"dense", dense_joint_declines, dense_joint_workspace, dense_joint_run},
    {"ref", nullptr, nullptr, ref::conv2d_bwd},
};

}  // namespace

List conv2d_bwd_list() { return kJoint; }

}  // namespace fastcnn::cpu
