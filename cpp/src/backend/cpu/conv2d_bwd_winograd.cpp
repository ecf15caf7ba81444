// What it is: conv2d_bwd on the CPU for Winograd convolutions whose images keep their size: strips of whole rows
// of tiles, for each of which the gradient of the convolution's output is made once in a thread's scratch and read
// there by both passes; or, with many channels, that gradient as a whole and the passes one after the other. Sums
// have the order of conv2d_bwd_weights alone. What it is not: arithmetic (kernels/), or the plans of the passes
// (conv2d_winograd.cpp).
#include <algorithm>
#include <cstring>

#include "backend/cpu/conv2d_adaptors.h"
#include "backend/cpu/conv2d_bwd.h"
#include "backend/cpu/conv2d_winograd.h"
#include "backend/cpu/scratch.h"
#include "backend/cpu/strips.h"

namespace fastcnn::cpu {
namespace {

struct Pixels {
  int64_t from, to;
};
// What rows [row0, row1) of tiles of all images see of rows of W pixels, `above` and `below` their own.
Pixels pixels_seen(const WinogradTask& t, int64_t row0, int64_t row1, int64_t above, int64_t below) {
  const int64_t last = row1 - 1;
  const int64_t first = std::max<int64_t>(row0 % t.tH * t.m - above, 0);
  const int64_t end = std::min((last % t.tH + 1) * t.m + below, t.H);
  return {(row0 / t.tH * t.H + first) * t.W, (last / t.tH * t.H + end) * t.W};
}

struct WinogradJoint {
  WinogradTask data, weights;
  WinogradPlan data_plan, weights_plan;
  int64_t rows = 0, strip_rows = 1;  // of tiles: all, most of a strip
  int64_t before, behind;            // rows of dy that dx sees above and below its own; x the other way round
  bool by_strips;                    // transformed weights and their sums stay in cache

  explicit WinogradJoint(const Conv2dBwdParams& joint)
      : data(winograd_bwd_data_task(joint.conv)),
        weights(winograd_task(joint.conv)),
        before(joint.conv.kH - 1 - joint.conv.pT),
        behind(joint.conv.pT) {
    data.sums_before.on = joint.has_sums != 0;
    data_plan = plan_winograd(data, 1, false);
    weights_plan = plan_winograd_gradient(weights, 1);
    weights.norm.on = joint.conv.has_norm_in != 0;
    rows = weights.N * weights.tH;
    strip_rows = weights.group / std::max<int64_t>(1, weights.tW);
    by_strips = data_plan.order == WinogradOrder::groups && weights_plan.order == WinogradOrder::groups &&
                weights.unit == weights.tW;
    if (by_strips) data.group = even(weights.group, kGroupTiles);
  }
  int64_t channels() const { return std::max(winograd_padded(data.C), winograd_padded(data.O)); }
  int64_t dy_floats() const {
    return aligned((strip_rows * weights.m + before + behind) * weights.oW * weights.O);
  }
  int64_t scratch() const {
    return dy_floats() + std::max(37 * winograd_plane(channels() * data.group), weights_plan.scratch);
  }
};

struct JointSpace {
  float *zeros = nullptr, *wt = nullptr, *sums = nullptr, *grad, *dy = nullptr;
  double* part;
  void* rest = nullptr;  // of one pass after the other
  int64_t parts, bytes;
  JointSpace(const Call& c, const WinogradJoint& j) {
    const auto& p = c.as<Conv2dBwdParams>();
    Carve w(c.workspace);
    grad = w.take<float>(OutputGrad::floats(p.conv.O));
    parts = j.by_strips ? j.weights.chunks : winograd_parts(j.data, false);
    part = w.take<double>(p.has_sums ? parts * 2 * p.conv.C : 0);
    if (j.by_strips) {
      zeros = w.take<float>(j.channels());
      wt = w.take<float>(winograd_weight_floats(j.data));
      sums = w.take<float>(j.weights.chunks * j.weights.sums_chunk);
    } else {
      dy = w.take<float>(c.in[0].numel());
      rest = w.take<char>(std::max(winograd_windows_workspace(j.data, false),
                                   winograd_bwd_weights_workspace(WeightsCall(c, nullptr, nullptr).call)));
    }
    bytes = w.used();
  }
};

FetchRange pixels_of(const float* image, Pixels p, int64_t channels) {
  return {image + p.from * channels, image ? std::max<int64_t>(p.to - p.from, 0) * channels : 0};
}

}  // namespace

const char* winograd_joint_declines(const Call& c) {
  if (const char* why = joint_declines(c)) return why;
  if (const char* why = winograd_passes_decline(conv_call(c))) return why;
  const auto& p = c.as<Conv2dBwdParams>().conv;
  if (p.groups != 1) return "groups";
  if (p.oH != p.H || p.oW != p.W) return "images of another size";
  return nullptr;
}

int64_t winograd_joint_workspace(const Call& c) {
  Call plan = c;
  plan.workspace = nullptr;
  return JointSpace(plan, WinogradJoint(c.as<Conv2dBwdParams>())).bytes;
}

namespace {

void run_strips(const Call& c, WinogradJoint& j, const JointSpace& space) {
  const auto& p = c.as<Conv2dBwdParams>();
  const KernelTable& k = *kernels();
  const int64_t C = p.conv.C, O = p.conv.O;
  std::memset(space.zeros, 0, static_cast<size_t>(j.channels()) * 4);
  const OutputGrad grad(c, space.grad);
  WinogradTask &d = j.data, &w = j.weights;
  d.zeros = w.zeros = space.zeros, d.wt = space.wt;
  transform_winograd_weights(d, false);
  const float *dz = c.in[0].as<float>(), *y = c.in[3].as<float>();
  w.x = c.in[2].as<float>(), w.dw = c.out[1].as<float>(), w.norm = norm_in(conv_call(c), norm_in_at(p));
  with_scratch(w.chunks, 1, j.scratch(), [&](int64_t b, int64_t e, float* scratch) {
    float* dy = scratch + j.scratch() - j.dy_floats();
    for (int64_t chunk = b; chunk < e; ++chunk) {
      const int64_t first = j.rows * chunk / w.chunks, last = j.rows * (chunk + 1) / w.chunks;
      const int64_t strips = ceil_div(last - first, j.strip_rows);
      WinogradTask data = d, weights = w;
      data.sums_before.part += chunk * 2 * C, data.sums_before.step = 0;
      Pixels held{0, 0};
      weights.chunks = 1, weights.sums = space.sums + chunk * w.sums_chunk;
      for (int64_t s = 0; s < strips; ++s) {
        const int64_t row0 = first + (last - first) * s / strips, row1 = first + (last - first) * (s + 1) / strips;
        const int64_t row2 = std::min(row1 + row1 - row0, last);
        const Pixels seen = pixels_seen(d, row0, row1, j.before, j.behind);
        // Rows that the strip before has left are moved.
        const int64_t kept = s > 0 ? held.to - seen.from : 0;
        if (kept > 0)
          std::memmove(dy, dy + (seen.from - held.from) * O, static_cast<size_t>(kept * O) * sizeof(float));
        grad.make(seen.from + kept, seen.to, dy + kept * O);
        held = seen;
        const float* image = dy - seen.from * O;
        weights.tile0 = data.tile0 = row0 * w.tW, weights.tiles = data.tiles = (row1 - row0) * w.tW;
        weights.group = weights.tiles, weights.dy = image, weights.add = s > 0;
        // What the next strip reads and this one has not.
        const Pixels own = pixels_seen(d, row0, row1, 0, 0);
        Pixels x{own.to, own.to}, next{seen.to, seen.to};
        if (row2 > row1)
          x.to = pixels_seen(d, row1, row2, 0, j.before).to, next.to = pixels_seen(d, row1, row2, 0, j.behind).to;
        weights.fetch[0] = pixels_of(w.x, x, C);
        weights.fetch[1] = pixels_of(p.has_residual ? d.sums_before.x : nullptr, own, C);
        weights.fetch[2] = pixels_of(d.residual, own, C);
        k.winograd_gradient_groups(weights, scratch, 0, 1);
        data.x = image;
        data.fetch[0] = pixels_of(dz, next, O), data.fetch[1] = pixels_of(y, next, O);
        k.winograd_groups(data, scratch, 0, ceil_div(data.tiles, data.group));
      }
    }
  });
  w.sums = space.sums;
  parallel_for(O, ceil_div(1024, C), [&](int64_t b, int64_t e, int) { k.winograd_gradient_finish(w, b, e); });
}

}  // namespace

void winograd_joint_run(const Call& c) {
  const auto& p = c.as<Conv2dBwdParams>();
  WinogradJoint j(p);
  const JointSpace space(c, j);
  WinogradTask& d = j.data;
  d.y = c.out[0].as<float>(), d.w = c.in[1].as<float>() - (p.conv.kH * p.conv.kW - 1) * d.w_tap;
  d.sums_before = norm_sums(c, space.part, 2 * p.conv.C);
  if (p.has_dy2) d.residual = norm_before(c).dy2;
  const NormSums sums = d.sums_before;
  clear_norm_sums(sums, space.parts);
  if (j.by_strips) {
    run_strips(c, j, space);
  } else {
    make_whole(OutputGrad(c, space.grad), p.conv, space.dy);
    d.x = space.dy;
    run_winograd(d, false, space.rest);
    winograd_bwd_weights_run(WeightsCall(c, space.dy, space.rest).call);
  }
  merge_norm_sums(sums, space.parts, p.has_sums ? c.out[2].as<double>() : nullptr);
}

}  // namespace fastcnn::cpu
