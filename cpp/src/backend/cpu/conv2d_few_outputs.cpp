// What it is: when a convolution with few outputs, as the heads of segmenters, detectors and generators have,
// keeps its inputs in the lanes of vectors instead of its outputs, and how its rows go to threads. What it is not:
// arithmetic (kernels/conv2d_few_outputs.cpp), or the gradient of the data (conv2d_columns.cpp,
// conv2d_narrow.cpp).
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

// Rows of a 1x1 too, for they are the work items.
GemmTask rows_task(const Conv2dParams& p) {
  GemmTask t = forward_task(p);
  t.N = p.N, t.H = p.H, t.W = p.W, t.oH = p.oH, t.oW = p.oW;
  t.x_h = p.W * p.C, t.x_n = p.H * t.x_h, t.y_h = p.oW * p.O, t.y_n = p.oH * t.y_h;
  return t;
}

}  // namespace

const char* few_outputs_declines(const Call& c) {
  if (const char* why = declines_common(c, {.norm_in = true})) return why;
  const auto& p = c.as<Conv2dParams>();
  if (2 * p.O / p.groups > lanes()) return "many outputs";
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
  const int64_t rows = t.N * t.oH, work = std::max<int64_t>(1, p.oW * p.O * p.kH * p.kW * p.C);
  const int64_t grain = ceil_div(32 * 1024, work), strip = t.norm.on ? strip_rows(t) : 0;
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

}  // namespace fastcnn::cpu
