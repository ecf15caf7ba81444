// What it is: convolution params as the tasks of the kernels, for the dense and the depthwise adaptors.
// What it is not: plans (gemm_plan.cpp, conv2d.cpp) or pointers.
#pragma once
#include <algorithm>
#include <cstdint>
#include <numeric>

#include "backend/backend.h"
#include "backend/cpu/gemm_plan.h"
#include "backend/cpu/isa.h"
#include "backend/cpu/norm_plan.h"

namespace fastcnn::cpu {

constexpr int64_t kAlign = 16;  // floats; every part of a workspace starts on a cache line
inline int64_t aligned(int64_t floats) { return ceil_div(floats, kAlign) * kAlign; }

// From one array to another.
inline int64_t floats_between(const float* from, const float* to) {
  return (reinterpret_cast<intptr_t>(to) - reinterpret_cast<intptr_t>(from)) / 4;
}

inline int lanes() { return kernels()->vector_floats; }

// Kernels that normalise what they read in their own loops know these; the passes of batch norms know smooth ones
// too.
inline bool clamps(Act a) { return a == Act::none || a == Act::relu || a == Act::relu6; }

inline const char* norm_in_declines(const Call& c, bool smooth_too = false) {
  const auto& p = c.as<Conv2dParams>();
  const Act a = p.in_act.act;
  return p.has_norm_in && !clamps(a) && !(smooth_too && smooth(a)) ? "activation of the input norm" : nullptr;
}

// In the registers of a kernel; dense and depthwise kernels apply others to what they have just stored.
inline bool fused_act(const Conv2dParams& p) { return clamps(p.act.act); }

// What the adaptor can do where the call asks for it: read x through a batch norm (and a smooth activation), give
// the moments of y.
struct Can {
  bool norm_in = false, smooth_in = false, moments = false;
};
inline const char* declines_common(const Call& c, Can can = {}) {
  if (!kernels()) return "isa is ref";
  const auto& p = c.as<Conv2dParams>();
  if (p.has_norm_in && !can.norm_in) return "input norm";
  if (p.has_moments && !can.moments) return "moments";
  if (p.has_moments && !fused_act(p)) return "moments behind an activation that is applied late";
  if (p.has_moments && p.N * p.oH * p.oW == 0) return "moments of no pixels";
  if (const char* why = norm_in_declines(c, can.smooth_in)) return why;
  for (const Operand& o : c.in)
    if (o.dtype != DType::float32) return "dtype is not float32";
  return nullptr;
}

// The batch norm that x is read through; its mean is input `at`.
inline NormIn norm_in(const Call& c, int64_t at) {
  const auto& p = c.as<Conv2dParams>();
  NormIn n;
  n.on = p.has_norm_in != 0, n.act = p.in_act.act;
  if (!n.on) return n;
  n.mean = c.in[at].as<float>(), n.scale = c.in[at + 1].as<float>();
  if (n.scale) n.shift = n.scale + p.C;  // no address yet in a plan that is being made
  return n;
}
inline int64_t norm_in_at(const Conv2dParams& p) { return 2 + p.has_bias; }  // of conv2d

// Past some size the result leaves the caches before it is read: do not read its lines in first. Lines that are
// written in halves, with others between them, leave in halves too: an eighth of the speed.
constexpr int64_t kStreamFloats = 3 * 1024 * 1024;
inline void choose_stream(GemmTask& t, int64_t floats, int64_t channels) {  // of the whole result
  t.stream = (floats >= kStreamFloats || hands_result_over_in_memory(4 * floats)) && t.nc == 1 &&
             t.late.act == Act::none && (t.O | channels) % 16 == 0 && reinterpret_cast<uintptr_t>(t.y) % 64 == 0;
}

// A window as large as the image is a product of matrices: one pixel with all of it as channels.
inline Conv2dParams whole_window(Conv2dParams p) {
  if (p.oH * p.oW != 1 || p.kH != p.H || p.kW != p.W || (p.pT | p.pL) != 0 || p.groups != 1) return p;
  if ((p.dH != 1 && p.kH > 1) || (p.dW != 1 && p.kW > 1)) return p;
  p.C *= p.H * p.W;
  p.H = p.W = p.kH = p.kW = p.sH = p.sW = p.dH = p.dW = 1, p.pB = p.pR = 0;
  return p;
}

// The pixels of a padded 1x1 are not one row: its results have more of them than its image.
inline bool pixels_are_one_row(const Conv2dParams& p) {
  return p.kH * p.kW * p.sH * p.sW == 1 && p.oH == p.H && p.oW == p.W && p.pT == 0 && p.pL == 0;
}

inline GemmTask forward_task(const Conv2dParams& p) {
  GemmTask t;
  t.B = p.groups, t.x_b = t.C = p.C / p.groups, t.y_b = t.bias_b = t.O = p.O / p.groups;
  t.kH = p.kH, t.kW = p.kW, t.sH = p.sH, t.sW = p.sW, t.dH = p.dH, t.dW = p.dW, t.pT = p.pT, t.pL = p.pL;
  t.x_w = p.C, t.y_w = p.O;
  if (pixels_are_one_row(p)) {
    t.N = t.H = t.oH = 1;
    t.W = t.oW = p.N * p.H * p.W;
  } else {
    t.N = p.N, t.H = p.H, t.W = p.W, t.oH = p.oH, t.oW = p.oW;
  }
  t.x_h = t.W * p.C, t.x_n = t.H * t.x_h;
  t.y_h = t.oW * p.O, t.y_n = t.oH * t.y_h;
  if (fused_act(p))
    t.act = p.act.act;
  else
    t.late = p.act;
  t.norm.on = p.has_norm_in != 0, t.moments.on = p.has_moments != 0;
  return t;
}

inline WeightsGradTask weights_task(const Conv2dParams& p) {
  WeightsGradTask t;
  t.B = p.groups, t.x_b = t.C = p.C / p.groups, t.y_b = t.O = p.O / p.groups, t.w_b = t.O * t.C * p.kH * p.kW;
  t.shared = hands_over_in_memory(4 * t.B * t.w_b);
  t.kH = p.kH, t.kW = p.kW, t.sH = p.sH, t.sW = p.sW, t.dH = p.dH, t.dW = p.dW, t.pT = p.pT, t.pL = p.pL;
  t.x_w = p.C, t.y_w = p.O;
  if (pixels_are_one_row(p)) {
    t.N = t.H = t.oH = 1;
    t.W = t.oW = p.N * p.H * p.W;
  } else {
    t.N = p.N, t.H = p.H, t.W = p.W, t.oH = p.oH, t.oW = p.oW;
  }
  t.x_h = t.W * p.C, t.x_n = t.H * t.x_h;
  t.y_h = t.oW * p.O, t.y_n = t.oH * t.y_h;
  return t;
}

// Of the plan of a dense weights' gradient (conv2d.cpp): floats of sums that lie apart from dw, 0 where t.dw is
// dw; and what is left to do when the kernel has left them at t.dw.
int64_t dense_weights_sums(const WeightsGradTask& t);
void dense_weights_finish(const WeightsGradTask& t, float* dw);

// dx rows of one residue modulo the stride see every step-th tap: each pair of residues is a stride-1
// convolution of dy with those taps, mirrored.

struct Residue {
  int64_t count = 0, first = 0, step = 1;  // taps: first, first + step, …
  int64_t pad = 0, dilation = 1;           // of the mirrored convolution
  int64_t out = 0;                         // how many rows of dx
};

inline Residue residue(int64_t r, int64_t size, int64_t k, int64_t s, int64_t d, int64_t pad) {
  Residue q;
  const int64_t g = std::gcd(s, d);
  q.step = s / g, q.dilation = d / g;
  q.out = r < size ? ceil_div(size - r, s) : 0;
  for (int64_t i = k - 1; i >= 0; --i)
    if ((r + pad - i * d) % s == 0) q.first = i, ++q.count;
  const int64_t last = q.first + (q.count - 1) * q.step;
  q.pad = q.count ? -((r + pad - last * d) / s) : 0;
  return q;
}

template <class F>
void for_each_residue(const Conv2dParams& p, int lanes, F&& f) {  // f(task, pack, floats of packed weights)
  const int64_t Cg = p.C / p.groups, Og = p.O / p.groups;
  for (int64_t rh = 0; rh < std::min(p.sH, p.H); ++rh)
    for (int64_t rw = 0; rw < std::min(p.sW, p.W); ++rw) {
      const Residue h = residue(rh, p.H, p.kH, p.sH, p.dH, p.pT), w = residue(rw, p.W, p.kW, p.sW, p.dW, p.pL);
      GemmTask t;
      PackTask q;
      t.B = q.B = p.groups, t.x_b = t.C = q.C = Og, t.y_b = t.bias_b = t.O = q.O = Cg;
      t.N = p.N, t.H = p.oH, t.W = p.oW, t.x_w = p.O, t.x_h = p.oW * p.O, t.x_n = p.oH * t.x_h;
      t.oH = h.out, t.oW = w.out, t.y_w = p.sW * p.C, t.y_h = p.sH * p.W * p.C, t.y_n = p.H * p.W * p.C;
      t.kH = q.kH = h.count, t.kW = q.kW = w.count, t.dH = h.dilation, t.dW = w.dilation, t.pT = h.pad,
      t.pL = w.pad;
      if (t.kH == 1) t.dH = 1;
      if (t.kW == 1) t.dW = 1;
      if (pixels_are_one_row(p)) {
        t.N = t.H = t.oH = 1;
        t.W = t.oW = p.N * p.H * p.W;
      }
      q.s_o = 1, q.s_kw = -w.step * Cg, q.s_kh = -h.step * p.kW * Cg, q.s_c = p.kH * p.kW * Cg;
      q.src_b = Og * q.s_c, q.dst_b = t.w_b = packed_floats(t, lanes) / t.B;
      // Offsets until the pointers are known: the last tap of each axis comes first.
      const int64_t src = ((h.first + (h.count - 1) * h.step) * p.kW + w.first + (w.count - 1) * w.step) * Cg;
      f(t, q, src, (rh * p.W + rw) * p.C);
    }
}

// Where a 1x1 has become one row of all pixels: rows again, for kernels whose work items they are.
template <class Task>
void rows_again(Task& t, const Conv2dParams& p) {
  if (!pixels_are_one_row(p)) return;
  t.N = p.N, t.H = t.oH = p.H, t.W = t.oW = p.W;
  t.x_h = p.W * t.x_w, t.x_n = p.H * t.x_h, t.y_h = p.W * t.y_w, t.y_n = p.H * t.y_h;
}

// For depthwise kernels. The tasks of the dense adaptors have one channel per batch here: turn batches into
// channels.
template <class Task>
void by_channel(Task& t, const Conv2dParams& p) {
  t.B = 1, t.C = t.O = p.C;
  rows_again(t, p);
}

}  // namespace fastcnn::cpu
