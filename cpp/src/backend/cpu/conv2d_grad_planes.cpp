// What it is: when the gradient of weights with few channels on both sides keeps pixels in the lanes, how its
// images are cut into strips, and how those go to threads. What it is not: arithmetic
// (kernels/conv2d_weights_grad_planes.cpp), or channels that fill vectors (conv2d.cpp).
#include <algorithm>

#include "backend/cpu/conv2d_adaptors.h"
#include "backend/cpu/conv2d_tasks.h"
#include "backend/cpu/grad_plan.h"
#include "backend/cpu/kernels/grad_planes_args.h"
#include "backend/cpu/scratch.h"
#include "backend/cpu/strips.h"
#include "backend/cpu/threads.h"

namespace fastcnn::cpu {
namespace {

constexpr int64_t kStripFloats = 16 * 1024;   // of all planes
constexpr int64_t kLeastPixels = 512;         // of a chunk, whose sums cost as much as some pixels
constexpr int64_t kLongestStrip = 32 * 1024;  // of rows that are long
constexpr int64_t kMostChunks = 16;
constexpr int64_t kMostChannels = 16;
constexpr double kFewCycles = 4000;  // that are not worth it

WeightsGradTask planes_task(const Conv2dParams& p) {
  WeightsGradTask t = weights_task(p);
  rows_again(t, p);
  auto fits = [&](int64_t nb, int64_t ohb, int64_t owb) {
    return owb == t.oW && GradPlanes(t, nb, ohb, owb).floats(t) <= kStripFloats &&
           nb * ohb * owb <= std::max(kLeastPixels, t.N * t.oH * t.oW / 4);
  };
  t.owb = t.oW, t.nb = t.ohb = 1;
  if (fits(1, 1, t.oW)) cut_strips(t, t.oW, 1, fits);
  t.chunks = std::clamp<int64_t>(std::min(t.N * t.oH * t.oW / kLeastPixels, strip_count(t)), 1, kMostChunks);
  while (t.chunks & (t.chunks - 1)) t.chunks &= t.chunks - 1;  // powers of two divide among threads
  return t;
}

int64_t strip_floats(const WeightsGradTask& t) { return GradPlanes(t, t.nb, t.ohb, t.oW).floats(t); }
int64_t sums_of_chunks(const WeightsGradTask& t) { return t.chunks > 1 ? aligned(t.chunks * t.B * t.w_b) : 0; }

// Cycles of a group on one thread, from timings of some hundred shapes on Zen 4; what matters is their order.
double planes_cycles(const WeightsGradTask& t, bool contiguous) {
  const GradPlanes g(t, t.nb, t.ohb, t.oW);
  const auto whole = [](int64_t n) { return ceil_div(n, lanes()) * lanes(); };
  const auto copy = [&](int64_t channels, bool dense) {  // of a pixel
    if (dense && channels <= 4) return 1 + static_cast<double>(channels * channels) / 16;
    return channels <= 8 ? 4.5 : 7.0;
  };
  const auto L = static_cast<double>(lanes());
  const auto strips = static_cast<double>(strip_count(t)), images = strips * static_cast<double>(t.nb);
  const auto products = static_cast<double>(t.ohb * g.pitch * t.O * ceil_div(plane_streams(t), 3) * 3) / L;
  const auto x = static_cast<double>(g.rows * g.phases_h * g.phases_w * whole(g.pitch)) * copy(t.C, contiguous);
  const auto dy = static_cast<double>(t.ohb * whole(t.oW)) * copy(t.O, t.B == 1);
  const auto sums = static_cast<double>(t.O * (plane_streams(t) + kSpareStreams));
  const double more = lanes() == 16 ? 1 : 1.5;  // of shorter vectors: products are faster, loads are not
  return more * (images * (products + x + dy) + sums * (8 * static_cast<double>(t.chunks) + 3 * strips));
}
double dense_cycles(const WeightsGradTask& t) {
  WeightsGradTask d = t;
  plan_weights_grad(d, 1, lanes(), 1);
  // Of a tap, or a row of taps: `rows` are broadcast to vectors. A tile takes some cycles apart from its products,
  // which wait for each other where there are few.
  const int64_t run = d.merge ? t.kW * t.C : t.C, rows = d.o_inner ? run : t.O;
  const int64_t products = rows * ceil_div(d.o_inner ? t.O : run, lanes()), tiles = ceil_div(products, 24);
  const int64_t cycles = t.kH * (d.merge ? 1 : t.kW) * (std::max(products, 4 * tiles) + 3 * tiles);
  return static_cast<double>(t.N * t.oH * t.oW * (cycles + 10) + 3000);
}

}  // namespace

const char* planes_bwd_weights_declines(const Call& c) {
  if (const char* why = declines_common(c, {.norm_in = true})) return why;
  const auto& p = c.as<Conv2dParams>();
  const int64_t C = p.C / std::max<int64_t>(1, p.groups), O = p.O / std::max<int64_t>(1, p.groups);
  if (p.N * p.oH * p.oW * p.H * p.W * p.C * p.O == 0) return "empty";
  if (C > kMostChannels || O > kMostChannels || p.kH * p.kW * C > kMostStreams) return "many channels";
  if (p.kH * p.kW == 1 && p.groups * p.sH == 1) return "1x1";
  const WeightsGradTask t = planes_task(p);
  if (strip_floats(t) > kLongestStrip) return "long rows";
  return planes_cycles(t, p.groups * p.sW == 1) + kFewCycles > dense_cycles(t) ? "channels fill vectors better"
                                                                               : nullptr;
}

int64_t planes_bwd_weights_workspace(const Call& c) {
  const WeightsGradTask t = planes_task(c.as<Conv2dParams>());
  const int64_t sums = sums_of_chunks(t);
  return sums ? 4 * (sums + aligned(t.chunks * t.B * t.O)) : 0;
}

void planes_bwd_weights_run(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  const KernelTable& k = *kernels();
  WeightsGradTask t = planes_task(p);
  float* dw = c.out[0].as<float>();
  float* dbias = c.out.size() > 1 ? c.out[1].as<float>() : nullptr;
  t.x = c.in[0].as<float>(), t.dy = c.in[1].as<float>(), t.norm = norm_in(c, 2), t.dw = dw, t.dbias = dbias;
  if (const int64_t sums = sums_of_chunks(t)) {
    t.dw = static_cast<float*>(c.workspace);
    if (dbias) t.dbias = t.dw + sums;
  }
  const int64_t work = t.N * t.oH * t.oW * t.O * (plane_streams(t) + 8) / t.chunks;
  with_scratch(t.chunks * t.B, ceil_div(64 * 1024, work + 1), plane_sums(t) * lanes() + strip_floats(t),
               [&](int64_t b, int64_t e, float* s) { k.conv2d_weights_grad_planes(t, s, b, e); });
  const int64_t total = t.B * t.w_b;
  if (t.dw != dw) k.sum_arrays(t.dw, total, t.chunks, dw, 0, total);
  if (t.dbias != dbias) k.sum_arrays(t.dbias, p.O, t.chunks, dbias, 0, p.O);
}

}  // namespace fastcnn::cpu
