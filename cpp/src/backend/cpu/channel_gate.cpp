// What it is: the implementation lists of channel_scale and channel_dot on the CPU: the passes of normalisation
// with a table for each image, without a mean. What it is not: arithmetic (kernels/batch_norm.cpp).
#include <algorithm>

#include "backend/cpu/accept.h"
#include "backend/cpu/lists.h"
#include "backend/cpu/norm_plan.h"
#include "backend/cpu/ref/ref.h"

namespace fastcnn::cpu {
namespace {

const char* declines(const Call& c) {
  if (const char* why = not_simd_float32(c)) return why;
  return c.in[0].numel() == 0 ? "no elements" : nullptr;
}

NormShape shape_of(const ChannelParams& p) { return norm_shape(p.N, p.rows, p.C); }

struct Tables {
  float *zero, *scale, *shift;
  double* part;
  int64_t bytes;
  Tables(const NormShape& s, void* base) {
    Carve w(base);
    zero = w.take<float>(s.images * s.period);
    scale = w.take<float>(s.images * s.period);
    shift = w.take<float>(s.images * s.period);
    part = w.take<double>(s.images * s.chunks * 2 * s.C);
    bytes = w.used();
  }
};
int64_t workspace(const Call& c) { return Tables(shape_of(c.as<ChannelParams>()), nullptr).bytes; }

void scale(const Call& c) {
  const auto& p = c.as<ChannelParams>();
  const NormShape s = shape_of(p);
  const Tables t(s, c.workspace);
  const float* by = c.in[1].as<float>();
  const float* plus = p.has_shift ? c.in[2].as<float>() : nullptr;
  const auto factor = static_cast<float>(p.shift);
  std::fill_n(t.zero, s.images * s.period, 0.0f);
  for (int64_t n = 0; n < p.N; ++n)
    for (int64_t ch = 0; ch < p.C; ++ch) {
      t.scale[n * s.period + ch] = by[n * p.C + ch];
      t.shift[n * s.period + ch] = plus ? factor * plus[n * p.C + ch] : 0;
    }
  for (float* table : {t.scale, t.shift}) tile(s, table);
  const auto* x = c.in[0].as<float>();
  auto* y = c.out[0].as<float>();
  const NormApplyArgs a{s, x, nullptr, y, t.zero, t.scale, t.shift, {}, x != y && norm_streams(s, y)};
  for_chunks(s, [&](int64_t b, int64_t e) { kernels()->norm_apply(&a, b, e); });
}

void dot(const Call& c) {
  const auto& p = c.as<ChannelParams>();
  const NormShape s = shape_of(p);
  const Tables t(s, c.workspace);
  std::fill_n(t.zero, s.images * s.period, 0.0f);
  NormBwdSumsArgs a{};
  a.s = s, a.dy = c.in[0].as<float>(), a.x = c.in[1].as<float>(), a.mean = t.zero, a.part = t.part;
  for_chunks(s, [&](int64_t b, int64_t e) { kernels()->norm_bwd_sums(&a, b, e); });
  float* y = c.out[0].as<float>();
  for (int64_t n = 0; n < p.N; ++n)
    for (int64_t ch = 0; ch < p.C; ++ch) {
      double sum = 0;
      for (int64_t k = 0; k < s.chunks; ++k) sum += t.part[((n * s.chunks + k) * 2 + 1) * p.C + ch];
      y[n * p.C + ch] = static_cast<float>(sum);
    }
}

}  // namespace

List channel_scale_list() {
  static const Implementation list[] = {{"simd", declines, workspace, scale},
                                        {"ref", nullptr, nullptr, ref::channel_scale}};
  return list;
}

List channel_dot_list() {
  static const Implementation list[] = {{"simd", declines, workspace, dot},
                                        {"ref", nullptr, nullptr, ref::channel_dot}};
  return list;
}

}  // namespace fastcnn::cpu
