// What it is: conv2d_bwd on the CPU for depthwise convolutions: strips of rows, for each of which the gradient of
// the convolution's output is made once in a thread's scratch, with the rows around it that the pass to data
// reads. Where the image is read through a norm whose sums are wanted, one kernel gives both gradients and the
// sums; else the two passes follow each other, with the sums of conv2d_bwd_weights alone. What it is not:
// arithmetic (kernels/).
#include <algorithm>
#include <cstring>
#include <vector>

#include "backend/cpu/conv2d_adaptors.h"
#include "backend/cpu/conv2d_bwd.h"
#include "backend/cpu/conv2d_depthwise.h"
#include "backend/cpu/scratch.h"

namespace fastcnn::cpu {
namespace {

// Rows of dx go in bands, one row of each residue modulo the stride; band g belongs to row g of dy.
int64_t bands(const Conv2dParams& p) { return ceil_div(p.H, p.sH); }

constexpr int64_t kJointFloats = 96 * 1024;  // of rows of x and dx in a strip

struct DepthwiseJoint {
  std::vector<GemmTask> data;  // of the residues
  WeightsGradTask weights;
  int64_t packed = 0;            // floats
  int64_t above = 0, below = 0;  // band g reads rows [g - above, g + below] of dy
  int64_t rows = 1;              // of dy, in a strip
  int64_t left = 0, right = 0;   // columns of zeros beside a row of dy, where both gradients are made at once
  bool has_sums, at_once;

  explicit DepthwiseJoint(const Conv2dBwdParams& joint)
      : weights(depthwise_grad_task(joint.conv)),
        has_sums(joint.has_sums != 0),
        at_once(has_sums && weights.norm.on && clamps(joint.conv.in_act.act)) {
    const Conv2dParams& p = joint.conv;
    for_each_depthwise_residue(p, [&](GemmTask& t, PackTask&, int64_t, int64_t) {
      if (t.kH > 0) above = std::max(above, t.pT), below = std::max(below, (t.kH - 1) * t.dH - t.pT);
      left = std::max(left, t.pL), right = std::max(right, t.oW + t.kW - 1 - t.pL - p.oW);
      at_once = at_once && t.dH * t.dW == 1 && t.kH > 0 && t.kW > 0 && t.kW <= 5 && t.kW != 4;
      packed += t.kH * t.kW * p.C;
    });
    if (at_once) {
      rows = weights.oH;
      while (rows > 1 && held_rows() * pitch() > kRowsFloats) --rows;
      rows = ceil_div(weights.oH, ceil_div(weights.oH, rows));
      return;
    }
    left = right = 0;
    rows = strip_rows(weights);
    while (rows > 1 && (held_rows() * weights.y_h > kRowsFloats || x_floats() + dx_floats() > kJointFloats))
      --rows;
  }
  int64_t held_rows() const { return std::min(weights.oH, rows + above + below); }
  int64_t pitch() const { return weights.y_h + (left + right) * weights.C; }  // of held rows
  // Not at once:
  int64_t x_floats() const { return weights.norm.on ? aligned(rows_read(weights, rows) * weights.x_h) : 0; }

  int64_t dx_floats() const { return has_sums ? aligned(rows * weights.sH * weights.x_h) : 0; }

  void pack(const Conv2dParams& p, const float* w, float* dx, float* space) {
    for_each_depthwise_residue(p, [&](GemmTask& t, PackTask& q, int64_t src, int64_t dst) {
      t.w = space, t.y = dx + dst;
      choose_stream(t, p.N * p.H * p.W * p.C, p.C);
      pack_depthwise_residue(p, t, q, w + src, space);
      space += t.kH * t.kW * p.C;
      data.push_back(t);
    });
  }
};

}  // namespace

const char* depthwise_joint_declines(const Call& c) {
  if (const char* why = joint_declines(c)) return why;
  if (const char* why = depthwise_declines_common(conv_call(c), {.norm_in = true, .smooth_in = true})) return why;
  const auto& p = c.as<Conv2dBwdParams>().conv;
  if (p.N * p.C * p.oH * p.oW == 0) return "empty";
  if (bands(p) != p.oH) return "rows of dx and dy do not go together";
  const DepthwiseJoint j(c.as<Conv2dBwdParams>());
  if (const char* why = norm_declines(j.weights)) return why;
  return j.held_rows() * j.pitch() > 2 * kRowsFloats ? "long rows" : nullptr;
}

int64_t depthwise_joint_workspace(const Call& c) {
  const auto& p = c.as<Conv2dBwdParams>();
  const DepthwiseJoint j(p);
  return 4 * (aligned(j.packed) + aligned(j.weights.chunks * j.weights.w_b) + OutputGrad::floats(p.conv.C) +
              InputNorm::floats(p.conv.C) + InputSums::floats(p, j.weights.chunks));
}

namespace {

void run_at_once(const Call& c, DepthwiseJoint& j, float* space) {
  const auto& p = c.as<Conv2dBwdParams>();
  WeightsGradTask& w = j.weights;
  const int64_t C = w.C, row = w.y_h, pitch = j.pitch(), step = ceil_div(C, lanes()) * lanes();
  w.dw = space, space += aligned(w.chunks * w.w_b);
  const OutputGrad grad(c, space);
  space += OutputGrad::floats(C);
  const InputSums sums(c, space);
  const NormSums before = norm_sums(c, nullptr, 0);
  const float *dy = c.in[0].as<float>(), *y = c.in[3].as<float>();
  const int64_t lines = w.N * w.oH, held = aligned(j.held_rows() * pitch);
  const bool fetches = p.conv.N * p.conv.H * p.conv.W * C > kCachedFloats;
  with_scratch(w.chunks, 1, held + 2 * step, [&](int64_t b, int64_t e, float* scratch) {
    HeldRows made{scratch};
    DepthwiseBwdTask once;
    once.sums_step = step;
    for (int64_t r = 0; r < j.held_rows(); ++r) {
      std::fill_n(scratch + r * pitch, j.left * C, 0.0f);
      std::fill_n(scratch + r * pitch + j.left * C + row, j.right * C, 0.0f);
    }
    for (int64_t chunk = b; chunk < e; ++chunk) {
      sums.clear(chunk);
      std::fill_n(w.dw + chunk * w.w_b, w.w_b, 0.0f);
      const int64_t last = lines * (chunk + 1) / w.chunks;
      for (int64_t from = lines * chunk / w.chunks, to; from < last; from = to) {
        const int64_t n = from / w.oH, g0 = from % w.oH;
        to = std::min({last, from + j.rows, from - g0 + w.oH});
        const int64_t g1 = g0 + to - from, h0 = std::max(g0 - j.above, int64_t{0}),
                      h1 = std::min(g1 + j.below, w.oH);
        made.hold(n, h0, h1, pitch, [&](int64_t begin, int64_t end, float* dst) {
          for (int64_t h = begin; h < end; ++h, dst += pitch)
            grad.make((n * w.oH + h) * w.oW, (n * w.oH + h + 1) * w.oW, dst + j.left * C);
        });
        once.sums = scratch + held, once.dw = w.dw + chunk * w.w_b;
        std::fill_n(once.sums, 2 * step, 0.0f);
        const int64_t next = (n * w.oH + g1 + j.below) * row;
        once.fetch_dz = fetches ? dy + next : nullptr, once.fetch_y = y + next;
        for (const GemmTask& t : j.data) {
          GemmTask& q = once.data = t;
          q.x = made.scratch + j.left * C - h0 * pitch, q.x_h = pitch, q.x_n = 0;
          q.sums_before = before, q.sums_before.x += t.y - c.out[0].as<float>();
          once.fetch_x = fetches ? t.y_h : 0;
          kernels()->conv2d_depthwise_bwd(once, n * t.oH + std::min(g0, t.oH), n * t.oH + std::min(g1, t.oH));
          once.dw += t.kH * t.kW * C, once.fetch_dz = nullptr;
        }
        sums.add(chunk, once.sums, step);
      }
    }
  });
  kernels()->sum_arrays(w.dw, w.w_b, w.chunks, w.dw, 0, w.w_b);
  float* dw = c.out[1].as<float>();
  std::fill_n(dw, w.w_b, 0.0f);  // taps that see padding alone are of no residue
  const float* sum = w.dw;
  for_each_depthwise_residue(p.conv, [&](const GemmTask& t, const PackTask& q, int64_t src, int64_t) {
    for (int64_t kh = 0; kh < t.kH; ++kh)
      for (int64_t kw = 0; kw < t.kW; ++kw, sum += C)
        for (int64_t ch = 0; ch < C; ++ch)
          dw[src + kh * q.s_kh + kw * q.s_kw + ch * p.conv.kH * p.conv.kW] = sum[ch];
  });
  sums.finish(w.chunks, c.out[2].as<double>());
}

}  // namespace

void depthwise_joint_run(const Call& c) {
  const auto& p = c.as<Conv2dBwdParams>();
  const KernelTable& k = *kernels();
  DepthwiseJoint j(p);
  float* space = static_cast<float*>(c.workspace);
  j.pack(p.conv, c.in[1].as<float>(), c.out[0].as<float>(), space);
  space += aligned(j.packed);
  if (j.at_once) return run_at_once(c, j, space);
  WeightsGradTask& w = j.weights;
  w.x = c.in[2].as<float>(), w.dw = space, w.norm = norm_in(conv_call(c), norm_in_at(p));
  space += aligned(w.chunks * w.w_b);
  const OutputGrad grad(c, space);
  space += OutputGrad::floats(w.C);
  const InputNorm norm(w.norm, w.C, space);
  const InputSums sums(c, space + InputNorm::floats(w.C));
  const float* dy = c.in[0].as<float>();
  const int64_t lines = w.N * w.oH;
  const int64_t held = j.x_floats() + aligned(j.held_rows() * w.y_h), room = sums.on() ? aligned(4 * w.C) : 0;
  with_scratch(w.chunks, 1, held + j.dx_floats() + room, [&](int64_t b, int64_t e, float* scratch) {
    HeldRows x{scratch}, made{scratch + j.x_floats()};
    float* dx = scratch + held;
    for (int64_t chunk = b; chunk < e; ++chunk) {
      if (sums.on()) sums.clear(chunk);
      WeightsGradTask q = w;
      q.dw += chunk * w.w_b;
      std::memset(q.dw, 0, static_cast<size_t>(w.w_b) * 4);
      const int64_t last = lines * (chunk + 1) / w.chunks;
      for (int64_t from = lines * chunk / w.chunks, to; from < last; from = to) {
        const int64_t n = from / w.oH, first = n * w.oH;
        to = std::min({last, from + j.rows, first + w.oH});
        const int64_t h0 = std::max(from - first - j.above, int64_t{0});
        const int64_t h1 = std::min(to - first + j.below, w.oH);
        made.hold(n, h0, h1, w.y_h, [&](int64_t begin, int64_t end, float* dst) {
          grad.make((first + begin) * w.oW, (first + end) * w.oW, dst);
        });
        q.dy = made.scratch - n * w.y_n - h0 * w.y_h;
        q.fetch_dy = floats_between(q.dy, c.in[3].as<float>()) + (to - from + j.below) * w.y_h;
        k.conv2d_depthwise_weights_grad(w.norm.on ? norm.on_strip(q, from, to, x) : q, from, to);
        const int64_t row0 = n * w.H + (from - first) * w.sH, row1 = n * w.H + std::min((to - first) * w.sH, w.H);
        for (GemmTask t : j.data) {
          if (sums.on()) t.y += floats_between(c.out[0].as<float>() + row0 * w.x_h, dx), t.stream = 0;
          t.x = q.dy;
          t.norm.fetch = floats_between(t.x, dy) + (to - from - 1) * t.x_h;
          k.conv2d_depthwise(t, n * t.oH + std::min(from - first, t.oH), n * t.oH + std::min(to - first, t.oH));
        }
        if (sums.on()) sums.add(chunk, row0 * w.W, row1 * w.W, dx, reinterpret_cast<double*>(dx + j.dx_floats()));
      }
    }
  });
  k.sum_arrays(w.dw, w.w_b, w.chunks, w.dw, 0, w.w_b);
  k.transpose_matrix(w.dw, w.C, p.conv.kH * p.conv.kW, c.out[1].as<float>(), 0, w.C);
  if (sums.on()) sums.finish(w.chunks, c.out[2].as<double>());
}

}  // namespace fastcnn::cpu
