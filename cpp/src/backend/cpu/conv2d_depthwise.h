// What it is: what the depthwise adaptors share: tasks whose batches are channels, and passes to data by
// residues. What it is not: an adaptor (conv2d_depthwise.cpp,
// conv2d_bwd_depthwise.cpp).
#pragma once
#include <cstdint>

#include "backend/cpu/conv2d_tasks.h"
#include "backend/cpu/norm_rows.h"

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
