// What it is: when a convolution with few outputs, as the heads of segmenters, detectors and generators have,
// keeps its inputs in the lanes of vectors instead of its outputs, and how its rows go to threads; and the same
// for the gradient of the data, residue by residue of the stride, where groups have few channels and several times
// as many outputs. What it is not: arithmetic (kernels/conv2d_few_outputs.cpp).
#include <algorithm>

#include "backend/cpu/conv2d_adaptors.h"
#include "backend/cpu/norm_rows.h"
#include "backend/cpu/scratch.h"
#include "backend/cpu/threads.h"

namespace fastcnn::cpu {
namespace {

// In vector multiply-adds of one pixel, the lanes' sum of a result as ten and a vector of a run as a fourth more
// than one (measured); else each tap and input channel takes one, for lanes are enough for all results.
double saved(const GemmTask& t) {  // of a group
  const bool together = t.dW == 1 && t.B == 1;
  const int64_t vectors = together ? t.kH * ceil_div(t.kW * t.C, lanes()) : t.kH * t.kW * ceil_div(t.C, lanes());
  return static_cast<double>(t.kH * t.kW * t.C) -
         1.1 * static_cast<double>(t.O) * (1.25 * static_cast<double>(vectors) + 10);
}

GemmTask rows_task(const Conv2dParams& p) {
  GemmTask t = forward_task(p);
  rows_again(t, p);
  return t;
}

// f(task, places of its taps in the weights, floats of dx before it), one for each residue.
template <class F>
void for_each_rows(const Conv2dParams& p, F f) {
  for_each_residue(p, lanes(), [&](GemmTask t, const PackTask& q, int64_t src, int64_t dst) {
    rows_again(t, p);
    f(t, q, src, dst);
  });
}

int64_t weight_floats(const GemmTask& t) { return aligned(t.B * t.O * t.kH * t.kW * t.C); }

// (B, outputs, kH, kW, inputs), from where a residue's taps lie.
void gather_weights(const GemmTask& t, const PackTask& q, const float* src, float* dst) {
  for (int64_t b = 0; b < t.B; ++b, src += q.src_b)
    for (int64_t o = 0; o < t.O; ++o)
      for (int64_t kh = 0; kh < t.kH; ++kh)
        for (int64_t kw = 0; kw < t.kW; ++kw)
          for (int64_t c = 0; c < t.C; ++c) *dst++ = src[o * q.s_o + kh * q.s_kh + kw * q.s_kw + c * q.s_c];
}

int64_t rows_grain(const GemmTask& t) {
  return ceil_div(32 * 1024, std::max<int64_t>(1, t.oW * t.B * t.O * t.kH * t.kW * t.C));
}

}  // namespace

const char* few_outputs_declines(const Call& c) {
  if (const char* why = declines_common(c, {.norm_in = true})) return why;
  const auto& p = c.as<Conv2dParams>();
  // Five of eight lanes are fewer than dense kernels need to pay; of sixteen it is half (saved() knows no bound).
  if (p.O / p.groups > (lanes() == 8 ? 5 : lanes() / 2)) return "many outputs";
  if (p.N * p.oH * p.oW * p.O * p.C == 0) return "empty";
  const GemmTask t = rows_task(p);
  return saved(t) > 0 ? norm_declines(t) : "too few inputs";
}

int64_t few_outputs_workspace(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  return p.has_norm_in ? 4 * InputNorm::floats(p.C) : 0;
}

void few_outputs_run(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  const KernelTable& k = *kernels();
  GemmTask t = rows_task(p);
  t.x = c.in[0].as<float>(), t.w = c.in[1].as<float>(), t.y = c.out[0].as<float>();
  t.bias = p.has_bias ? c.in[2].as<float>() : nullptr;
  t.residual = p.has_residual ? c.in[c.in.size() - 1].as<float>() : nullptr;
  t.norm = norm_in(c, norm_in_at(p));
  const int64_t rows = t.N * t.oH, grain = rows_grain(t), strip = t.norm.on ? strip_rows(t) : 0;
  if (!t.norm.on)
    return parallel_for(rows, grain, [&](int64_t b, int64_t e, int) { k.conv2d_few_outputs(t, b, e); });
  const InputNorm norm(t.norm, p.C, static_cast<float*>(c.workspace));
  with_scratch(rows, grain, rows_read(t, strip) * t.x_h, [&](int64_t b, int64_t e, float* scratch) {
    HeldRows held{scratch};
    for (int64_t from = b, to; from < e; from = to) {
      to = std::min({e, from + strip, (from / t.oH + 1) * t.oH});
      k.conv2d_few_outputs(norm.on_strip(t, from, to, held), from, to);
    }
  });
}

const char* few_outputs_bwd_data_declines(const Call& c) {
  if (const char* why = declines_common(c)) return why;
  const auto& p = c.as<Conv2dParams>();
  if (2 * p.C / p.groups > lanes()) return "many channels";
  if (p.N * p.oH * p.oW * p.O * p.C == 0) return "empty";
  double all = 0;
  bool taps = true;
  for_each_rows(p, [&](const GemmTask& t, const PackTask&, int64_t, int64_t) {
    all += saved(t), taps = taps && t.kH * t.kW > 0;
  });
  if (!taps) return "pixels of dx that no window sees";  // dense kernels clear all of dx first
  return all > 0 ? nullptr : "too few outputs";
}

int64_t few_outputs_bwd_data_workspace(const Call& c) {
  int64_t floats = 0;
  for_each_rows(c.as<Conv2dParams>(),
                [&](const GemmTask& t, const PackTask&, int64_t, int64_t) { floats += weight_floats(t); });
  return 4 * floats;
}

void few_outputs_bwd_data_run(const Call& c) {
  const KernelTable& k = *kernels();
  float* w = static_cast<float*>(c.workspace);
  for_each_rows(c.as<Conv2dParams>(), [&](GemmTask& t, const PackTask& q, int64_t src, int64_t dst) {
    gather_weights(t, q, c.in[1].as<float>() + src, w);
    t.x = c.in[0].as<float>(), t.y = c.out[0].as<float>() + dst, t.w = w;
    t.bias = c.in.size() > 2 ? c.in[2].as<float>() : nullptr;
    w += weight_floats(t);
    parallel_for(t.N * t.oH, rows_grain(t), [&](int64_t b, int64_t e, int) { k.conv2d_few_outputs(t, b, e); });
  });
}

}  // namespace fastcnn::cpu
