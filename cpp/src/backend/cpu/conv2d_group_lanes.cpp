// What it is: when a grouped convolution with few channels in a group (ResNeXt, depthwise ones with several
// outputs for each channel) keeps the outputs of several groups in a vector and permutes its inputs, how its
// weights are packed, and how its strips go to threads. What it is not: arithmetic
// (kernels/conv2d_group_lanes.cpp), or groups that fill half a vector or more (conv2d_merged.cpp, conv2d.cpp).
#include <algorithm>

#include "backend/cpu/conv2d_adaptors.h"
#include "backend/cpu/conv2d_tasks.h"
#include "backend/cpu/moments_plan.h"
#include "backend/cpu/scratch.h"
#include "backend/cpu/strips.h"
#include "backend/cpu/threads.h"
#include "backend/cpu/workspace.h"

namespace fastcnn::cpu {
namespace {

constexpr int64_t kStripFloats = 12 * 1024;    // of a strip of x for one vector: it stays in L1 or near
constexpr int64_t kLongestStrip = 256 * 1024;  // rows that need more are left to others
constexpr int64_t kGradChunks = 8;
constexpr int64_t kFewestProducts = 9;  // of a pixel and vector; below, copies of x cost more than they save

int64_t vectors_of(const GroupLanesTask& t) { return ceil_div(t.O, lanes()); }
int64_t weight_floats(const GroupLanesTask& t) {
  return aligned(vectors_of(t) * t.kH * t.kW * t.inputs * lanes());
}
int64_t strip_floats(const GroupLanesTask& t, int64_t rows) { return t.rows_read(rows) * t.columns() * lanes(); }

void choose_rows(GroupLanesTask& t) {
  t.rows = 1;
  while (t.rows < t.oH && strip_floats(t, t.rows + 1) <= kStripFloats) ++t.rows;
}
// Rows are dealt evenly to strips, of which the longest has:
int64_t scratch_floats(const GroupLanesTask& t) { return strip_floats(t, ceil_div(t.oH, t.strips())); }

GroupLanesTask forward_group_task(const Conv2dParams& p) {
  GroupLanesTask t;
  t.N = p.N, t.H = p.H, t.W = p.W, t.C = p.C, t.x_w = p.C, t.x_h = p.W * p.C, t.x_n = p.H * t.x_h;
  t.oH = p.oH, t.oW = p.oW, t.O = p.O, t.y_w = p.O, t.y_h = p.oW * p.O, t.y_n = p.oH * t.y_h;
  t.kH = p.kH, t.kW = p.kW, t.sH = p.sH, t.sW = p.sW, t.dH = p.dH, t.dW = p.dW, t.pT = p.pT, t.pL = p.pL;
  t.inputs = p.C / p.groups, t.outputs = p.O / p.groups, t.act = p.act.act;
  t.moments.on = p.has_moments != 0;
  choose_rows(t);
  return t;
}

// One dimension of the gradient of the data: pixels r, r + s, … of dx meet taps first, first + s, …, of which
// there are `taps`, in falling order, on pixels of dy from -pad on.
struct DataTaps {
  int64_t first, taps, pad;
  DataTaps(int64_t r, int64_t k, int64_t s, int64_t d, int64_t p)
      : first((r + p) % s),
        taps(first < k ? ceil_div(k - first, s) : 0),
        pad((std::max<int64_t>(taps, 1) - 1) * (s == 1 ? d : 1) - (r + p - first) / s) {}
};

GroupLanesTask data_group_task(const Conv2dParams& p, int64_t rh, int64_t rw) {
  const DataTaps h(rh, p.kH, p.sH, p.dH, p.pT), w(rw, p.kW, p.sW, p.dW, p.pL);
  GroupLanesTask t;
  t.N = p.N, t.H = p.oH, t.W = p.oW, t.C = p.O, t.x_w = p.O, t.x_h = p.oW * p.O, t.x_n = p.oH * t.x_h;
  t.oH = ceil_div(p.H - rh, p.sH), t.oW = ceil_div(p.W - rw, p.sW), t.O = p.C;
  t.y_w = p.sW * p.C, t.y_h = p.sH * p.W * p.C, t.y_n = p.H * p.W * p.C;
  t.kH = h.taps, t.kW = w.taps, t.pT = h.pad, t.pL = w.pad;
  if (t.kH * t.kW == 0) t.kH = t.kW = 0;
  if (p.sH == 1) t.dH = p.dH;
  if (p.sW == 1) t.dW = p.dW;
  t.inputs = p.O / p.groups, t.outputs = p.C / p.groups;
  choose_rows(t);
  return t;
}

// The weights of an output: its first input and tap, and the steps between them.
struct LaneWeights {
  const float* first;
  int64_t kh, kw, c;
};
// weights(output)
template <class F>
void pack_lanes(const GroupLanesTask& t, float* packed, const F& weights) {
  const int64_t L = lanes(), floats = t.kH * t.kW * t.inputs * L;
  parallel_for(vectors_of(t), ceil_div(16 * 1024, floats + 1), [&](int64_t begin, int64_t end, int) {
    for (int64_t o = begin * L; o < end * L; ++o) {
      float* to = packed + o / L * floats + o % L;
      const LaneWeights w = o < t.O ? weights(o) : LaneWeights{};
      for (int64_t kh = 0; kh < t.kH; ++kh)
        for (int64_t kw = 0; kw < t.kW; ++kw)
          for (int64_t c = 0; c < t.inputs; ++c, to += L)
            *to = o < t.O ? w.first[kh * w.kh + kw * w.kw + c * w.c] : 0.0f;
    }
  });
}

// floats: of the whole result.
void run_lanes(GroupLanesTask t, int64_t floats) {
  const KernelTable& k = *kernels();
  t.stream = lanes() == 16 && (floats >= kStreamFloats || hands_result_over_in_memory(4 * floats)) &&
             (reinterpret_cast<uintptr_t>(t.y) | static_cast<uintptr_t>(4 * (t.y_w | t.y_h | t.y_n))) % 64 == 0;
  const int64_t items = t.N * t.strips() * vectors_of(t);
  const int64_t work = ceil_div(t.oH, t.strips()) * t.oW * (t.kH * t.kW * t.inputs + 4) * lanes();
  with_scratch(items, ceil_div(64 * 1024, work), scratch_floats(t),
               [&](int64_t b, int64_t e, float* s) { k.conv2d_group_lanes(t, s, b, e); });
}

// inputs, outputs: along the depth and along the lanes.
const char* lanes_decline(const Conv2dParams& p, int64_t inputs, int64_t outputs) {
  if (p.groups == 1) return "one group";
  if (p.N * p.oH * p.oW * p.H * p.W * p.C * p.O == 0) return "empty";
  if (2 * outputs > lanes() || lanes() % outputs != 0) return "a vector does not hold whole groups";
  if (inputs > outputs) return "more channels in a group than outputs";
  if (inputs != 1 && inputs != 2 && inputs != 4 && inputs != 8) return "a group has not 1, 2, 4 or 8 channels";
  return outputs == 1 ? "depthwise" : nullptr;
}

}  // namespace

const char* group_lanes_declines(const Call& c) {
  if (const char* why = declines_common(c, {.norm_in = true, .moments = true})) return why;
  const auto& p = c.as<Conv2dParams>();
  if (const char* why = lanes_decline(p, p.C / p.groups, p.O / p.groups)) return why;
  if (!fused_act(p)) return "activation is not none, relu or relu6";
  if (p.kH * p.kW * p.C / p.groups < kFewestProducts) return "few products";
  return scratch_floats(forward_group_task(p)) > kLongestStrip ? "long rows" : nullptr;
}
int64_t group_lanes_workspace(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  const GroupLanesTask t = forward_group_task(p);
  return 4 * weight_floats(t) + MomentsSpace(p, t.N * t.strips(), nullptr).bytes;
}
void group_lanes_run(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  GroupLanesTask t = forward_group_task(p);
  float* packed = static_cast<float*>(c.workspace);
  const MomentsSpace moments(p, t.N * t.strips(), packed + weight_floats(t));
  const float* w = c.in[1].as<float>();
  pack_lanes(t, packed,
             [&](int64_t o) { return LaneWeights{w + o * t.kH * t.kW * t.inputs, t.kW * t.inputs, t.inputs, 1}; });
  t.x = c.in[0].as<float>(), t.w = packed, t.y = c.out[0].as<float>();
  t.bias = p.has_bias ? c.in[2].as<float>() : nullptr;
  t.residual = p.has_residual ? c.in[c.in.size() - 1].as<float>() : nullptr;
  t.norm = norm_in(c, norm_in_at(p)), t.moments = moments.out;
  run_lanes(t, p.N * p.oH * p.oW * p.O);
  moments.merge(c);
}

const char* group_lanes_bwd_data_declines(const Call& c) {
  if (const char* why = declines_common(c)) return why;
  const auto& p = c.as<Conv2dParams>();
  if (const char* why = lanes_decline(p, p.O / p.groups, p.C / p.groups)) return why;
  if (p.kH * p.kW * p.O / p.groups < kFewestProducts) return "few products";
  if ((p.sH > 1 && p.dH > 1) || (p.sW > 1 && p.dW > 1)) return "stride and dilation";
  return scratch_floats(data_group_task(p, 0, 0)) > kLongestStrip ? "long rows" : nullptr;
}
int64_t group_lanes_bwd_data_workspace(const Call& c) {
  const auto& p = c.as<Conv2dParams>();  // of the residue with most taps
  GroupLanesTask t = data_group_task(p, 0, 0);
  t.kH = ceil_div(p.kH, p.sH), t.kW = ceil_div(p.kW, p.sW);
  return 4 * weight_floats(t);
}
void group_lanes_bwd_data_run(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  float* packed = static_cast<float*>(c.workspace);
  for (int64_t rh = 0; rh < std::min(p.sH, p.H); ++rh)
    for (int64_t rw = 0; rw < std::min(p.sW, p.W); ++rw) {
      GroupLanesTask t = data_group_task(p, rh, rw);
      const int64_t h0 = DataTaps(rh, p.kH, p.sH, p.dH, p.pT).first,
                    w0 = DataTaps(rw, p.kW, p.sW, p.dW, p.pL).first;
      const float* w =
          c.in[1].as<float>() + ((h0 + p.sH * (t.kH - 1)) * p.kW + w0 + p.sW * (t.kW - 1)) * t.outputs;
      pack_lanes(t, packed, [&](int64_t o) {
        const int64_t filter = o / t.outputs * t.inputs;
        return LaneWeights{w + filter * p.kH * p.kW * t.outputs + o % t.outputs, -p.sH * p.kW * t.outputs,
                           -p.sW * t.outputs, p.kH * p.kW * t.outputs};
      });
      t.x = c.in[0].as<float>(), t.w = packed, t.y = c.out[0].as<float>() + (rh * p.W + rw) * p.C;
      t.bias = c.in.size() > 2 ? c.in[2].as<float>() : nullptr;
      run_lanes(t, p.N * p.H * p.W * p.C);
    }
}

const char* group_lanes_bwd_weights_declines(const Call& c) {
  if (const char* why = declines_common(c, {.norm_in = true})) return why;
  const auto& p = c.as<Conv2dParams>();
  if (const char* why = lanes_decline(p, p.C / p.groups, p.O / p.groups)) return why;
  if (c.out.size() > 1) return "the gradient of the bias is wanted too";
  return scratch_floats(forward_group_task(p)) > kLongestStrip ? "long rows" : nullptr;
}
// Chunks have their own sums, so their number depends on the shape alone.
static int64_t grad_chunks(const GroupLanesTask& t) { return std::min(t.N * t.strips(), kGradChunks); }
int64_t group_lanes_bwd_weights_workspace(const Call& c) {
  const GroupLanesTask t = forward_group_task(c.as<Conv2dParams>());
  return 4 * (grad_chunks(t) + 1) * weight_floats(t);
}
void group_lanes_bwd_weights_run(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  const KernelTable& k = *kernels();
  GroupLanesTask t = forward_group_task(p);
  t.chunks = grad_chunks(t), t.sums = static_cast<float*>(c.workspace);
  t.x = c.in[0].as<float>(), t.dy = c.in[1].as<float>(), t.norm = norm_in(c, 2);
  const int64_t L = lanes(), taps = t.kH * t.kW, size = vectors_of(t) * taps * t.inputs * L;
  with_scratch(t.chunks * vectors_of(t), 1, scratch_floats(t),
               [&](int64_t b, int64_t e, float* s) { k.conv2d_group_lanes_grad(t, s, b, e); });
  float* total = t.sums + t.chunks * size;
  float* dw = c.out[0].as<float>();
  parallel_for(vectors_of(t), ceil_div(4 * 1024, taps * t.inputs * L), [&](int64_t b, int64_t e, int) {
    const int64_t each = taps * t.inputs * L;
    k.sum_arrays(t.sums, size, t.chunks, total, b * each, e * each);
    for (int64_t v = b; v < e; ++v)
      for (int64_t o = v * L; o < std::min((v + 1) * L, t.O); ++o)
        for (int64_t i = 0; i < taps * t.inputs; ++i)
          dw[o * taps * t.inputs + i] = total[v * each + i * L + o - v * L];
  });
}

}  // namespace fastcnn::cpu
