// What it is: what the depthwise adaptors share: tasks whose batches are channels, and strips of rows that are
// made in a thread's scratch before the kernels read them there. What it is not: an adaptor (conv2d_depthwise.cpp,
// conv2d_bwd_depthwise.cpp).
#pragma once
#include <cstdint>

#include "backend/cpu/conv2d_tasks.h"
#include "backend/cpu/norm_plan.h"
#include "backend/cpu/row_strips.h"

namespace fastcnn::cpu {

inline const char* depthwise_declines_common(const Call& c, Can can = {}) {
  if (const char* why = declines_common(c, can)) return why;
  const auto& p = c.as<Conv2dParams>();
  if (p.groups != p.C || p.O != p.C) return "not one channel per group";
  if (p.groups == 1) return "one group";
  return nullptr;
}

// ---- bfloat16, by conv2d_depthwise_bf16 ----

const char* depthwise_bf16_declines(const Conv2dParams& p);
int64_t depthwise_bf16_floats(const Conv2dParams& p);  // of the weights in that kernel's order, with their bias
void pack_depthwise_bf16(const Conv2dParams& p, const bfloat16* w, const bfloat16* bias, float* dst);

// ---- a batch norm applied on load: strips of rows are normalised to a thread's scratch and read there ----

constexpr int64_t kRowsFloats = 64 * 1024;  // a quarter of L2

// Rows of outputs in a strip.
template <class Task>
int64_t strip_rows(const Task& t) {
  int64_t rows = 1;
  while (rows < t.oH && rows_read(t, rows + 1) * t.x_h <= kRowsFloats) ++rows;
  return ceil_div(t.oH, ceil_div(t.oH, rows));
}
template <class Task>
const char* norm_declines(const Task& t) {
  return t.norm.on && rows_read(t, 1) * t.x_h > 2 * kRowsFloats ? "input norm of long rows" : nullptr;
}

class InputNorm {
 public:
  static int64_t floats(int64_t C) { return 3 * aligned(norm_shape(1, 1, C).period); }
  // Tables of the period of norm_apply in `space`; nothing to do where `n` is off.
  InputNorm(const NormIn& n, int64_t C, float* space) : args_{} {
    if (!n.on) return;
    NormShape& s = args_.s = norm_shape(1, 1, C);
    const float* from[] = {n.mean, n.scale, n.shift};
    const float** to[] = {&args_.mean, &args_.scale, &args_.shift};
    for (int i = 0; i < 3; ++i, space += aligned(s.period)) {
      std::copy_n(from[i], C, space);
      tile(s, space);
      *to[i] = space;
    }
    args_.act.act = n.act;
  }
  // The task on rows [from, to) of outputs (n, oh) of one image, which read normalised rows in `held`.
  template <class Task>
  Task on_strip(const Task& t, int64_t from, int64_t to, HeldRows<float>& held) const {
    held.hold_for(t, from, to, [&](int64_t n, int64_t begin, int64_t end, float* dst) {
      NormApplyArgs a = args_;
      a.s.rows = a.s.chunk_rows = (end - begin) * t.W;
      a.x = t.x + n * t.x_n + begin * t.x_h, a.y = dst;
      kernels()->norm_apply(&a, 0, 1);
    });
    Task q = t;
    q.x = held.scratch - held.n * t.x_n - held.h0 * t.x_h;
    q.norm.fetch = floats_between(q.x, t.x) + (to - from) * t.sH * t.x_h;
    return q;
  }

 private:
  NormApplyArgs args_;
};

// The passes to data of each residue modulo the stride: f(task, pack, floats from w to its first tap, floats from
// dx to its first pixel).
template <class F>
void for_each_depthwise_residue(const Conv2dParams& p, F&& f) {
  for_each_residue(p, lanes(), [&](GemmTask& t, PackTask& q, int64_t src, int64_t dst) {
    by_channel(t, p);
    if (t.kH * t.kW == 0) t.kH = t.kW = 0;
    f(t, q, src, dst);
  });
}
inline void pack_depthwise_residue(const Conv2dParams& p, const GemmTask& t, const PackTask& q, const float* src,
                                   float* w) {
  for (int64_t kh = 0; kh < t.kH; ++kh)
    for (int64_t kw = 0; kw < t.kW; ++kw, w += p.C)
      kernels()->transpose_matrix(src + kh * q.s_kh + kw * q.s_kw, p.kH * p.kW, p.C, w, 0, 1);
}

inline WeightsGradTask depthwise_grad_task(const Conv2dParams& p) {
  WeightsGradTask t = weights_task(p);
  by_channel(t, p);
  t.w_b = p.C * p.kH * p.kW;
  // Chunks depend on the shape alone: they are the order of the sums. Few pixels have few: their sums go from
  // thread to thread, and take as long as the pixels where cores are far apart.
  const int64_t most = std::clamp<int64_t>(t.N * t.oH * t.oW / 4096 * 8, 8, 32);
  t.chunks = std::clamp<int64_t>(t.N * t.oH / 4, 1, most);
  t.norm.on = p.has_norm_in != 0;
  return t;
}

}  // namespace fastcnn::cpu
