// What it is: when a convolution with few channels on both sides keeps pixels in the lanes, in each of its passes,
// how its images are cut into strips, and how those go to threads. What it is not: arithmetic
// (kernels/conv2d_planes.cpp, conv2d_planes_grad.cpp), or channels that fill vectors (conv2d.cpp).
#include <algorithm>
#include <vector>

#include "backend/cpu/conv2d_adaptors.h"
#include "backend/cpu/conv2d_tasks.h"
#include "backend/cpu/grad_plan.h"
#include "backend/cpu/moments_plan.h"
#include "backend/cpu/scratch.h"
#include "backend/cpu/strips.h"
#include "backend/cpu/threads.h"

namespace fastcnn::cpu {
namespace {

constexpr int64_t kStripFloats = 16 * 1024;   // of all planes
constexpr int64_t kLongestStrip = 32 * 1024;  // of rows that are long
constexpr int64_t kLeastPixels = 512;         // of a strip or chunk, which cost as much as some pixels
constexpr int64_t kFewestStrips = 4;
constexpr int64_t kMostChunks = 16;
constexpr int64_t kMostChannels = 32;
constexpr int64_t kMostGradOutputs = 128;
constexpr int64_t kMostSums = 256 * 1024;  // floats of a chunk, in L2
constexpr double kFewCycles = 4000;        // that are not worth it

// A task of the dense kernels on planes.
template <class Task>
PlanesTask on_planes(const Task& d) {
  PlanesTask t;
  t.B = d.B, t.x_b = d.x_b, t.y_b = d.y_b, t.w_b = d.kH * d.kW * d.C * d.O;
  t.N = d.N, t.H = d.H, t.W = d.W, t.C = d.C, t.x_n = d.x_n, t.x_h = d.x_h, t.x_w = d.x_w;
  t.oH = d.oH, t.oW = d.oW, t.O = d.O, t.y_n = d.y_n, t.y_h = d.y_h, t.y_w = d.y_w;
  t.kH = d.kH, t.kW = d.kW, t.sH = d.sH, t.sW = d.sW, t.dH = d.dH, t.dW = d.dW, t.pT = d.pT, t.pL = d.pL;
  return t;
}

int64_t strip_floats(const PlanesTask& t) { return PlaneLayout(t, t.nb, t.ohb).floats(t); }

// Pixels of a 1x1 are one row: rows of some hundred pixels again.
void even_rows(PlanesTask& t) {
  if (t.N * t.oH * t.kH * t.kW * t.sH * t.sW != 1 || t.W != t.oW) return;
  int64_t length = std::min<int64_t>(t.oW, 512);
  while (t.oW % length != 0) --length;
  if (2 * length < t.oW && length < 2 * lanes()) return;  // one long row then
  t.H = t.oH = t.oW / length, t.W = t.oW = length;
  t.x_h = length * t.x_w, t.y_h = length * t.y_w;
}

PlanesTask cut(PlanesTask t) {
  even_rows(t);
  auto fits = [&](int64_t nb, int64_t ohb, int64_t owb) {
    return owb == t.oW && PlaneLayout(t, nb, ohb).floats(t) <= kStripFloats &&
           nb * ohb * owb <= std::max(kLeastPixels, t.N * t.oH * t.oW / kFewestStrips);
  };
  t.owb = t.oW, t.nb = t.ohb = 1;
  if (fits(1, 1, t.oW)) cut_strips(t, t.oW, 1, fits);
  return t;
}

// inputs, outputs: of a group, as the pass has them.
const char* planes_decline(const Conv2dParams& p, int64_t inputs, int64_t outputs, int64_t most_outputs) {
  if (p.N * p.oH * p.oW * p.H * p.W * p.C * p.O == 0) return "empty";
  if (inputs > kMostChannels || outputs > most_outputs) return "many channels";
  return p.kH * p.kW * inputs > kMostStreams ? "many products" : nullptr;
}

// Cycles on one thread, from timings of some hundred shapes on Zen 4; what matters is their order.
struct Cycles {
  double per_image;  // of a strip: copies
  double images, strips;
  explicit Cycles(const PlanesTask& t, bool x_alike, bool y_alike) {
    const PlaneLayout g(t, t.nb, t.ohb);
    strips = static_cast<double>(strip_count(t)), images = strips * static_cast<double>(t.nb);
    per_image = static_cast<double>(g.rows * g.phases_h * g.phases_w * whole(g.pitch)) * copy(t.C, x_alike) +
                static_cast<double>(t.ohb * whole(t.oW)) * copy(t.O, y_alike);
  }
  static int64_t whole(int64_t n) { return ceil_div(n, lanes()) * lanes(); }
  static double copy(int64_t channels, bool alike) {  // of a pixel; alike: neighbours lie side by side
    if (alike && channels <= 4) return 1 + static_cast<double>(channels * channels) / 16;
    return channels <= 8 ? 4.5 : 7 * static_cast<double>(ceil_div(channels, int64_t{16}));
  }
  // Shorter vectors make products faster, but not loads.
  static double more(double short_vectors) { return lanes() == 16 ? 1 : short_vectors; }
};

// ---- forward and backward to data ----

// One convolution of stride 1 for each residue of dx, or the whole of y.
struct Part {
  PlanesTask task;
  PackTask weights;
  int64_t from, to;  // floats before its weights and results
};

std::vector<Part> forward_parts(const Conv2dParams& p) {
  const GemmTask d = forward_task(p);
  PackTask w;
  w.O = d.O, w.C = d.C, w.s_c = 1, w.s_kw = d.C, w.s_kh = d.kW * d.C, w.s_o = d.kH * w.s_kh, w.src_b = d.O * w.s_o;
  PlanesTask t = cut(on_planes(d));
  t.act = d.act;
  return {{t, w, 0, 0}};
}

std::vector<Part> data_parts(const Conv2dParams& p) {
  std::vector<Part> parts;
  for_each_residue(p, lanes(), [&](const GemmTask& t, const PackTask& w, int64_t from, int64_t to) {
    if (t.oH * t.oW > 0) parts.push_back({cut(on_planes(t)), w, from, to});
  });
  return parts;
}

double planes_cycles(const PlanesTask& t) {
  const Cycles c(t, t.x_w == t.C && t.sW == 1, t.y_w == t.O);
  const PlaneLayout g(t, t.nb, t.ohb);
  const auto products = static_cast<double>(Cycles::whole(g.y_run) * t.streams() * t.O) / lanes();
  return Cycles::more(1.5) * (c.images * (products + c.per_image) + 300 * c.strips) + kFewCycles;
}
// The part of an axis' taps that lie inside the image.
double inside(int64_t outputs, int64_t stride, int64_t taps, int64_t dilation, int64_t pad, int64_t size) {
  int64_t count = 0;
  for (int64_t i = 0; i < outputs; ++i) {
    const TapsInside k(i * stride - pad, taps, dilation, size);
    count += k.to - k.from;
  }
  return static_cast<double>(count) / static_cast<double>(outputs * taps);
}
// With outputs in the lanes, or with a row of taps.
double dense_cycles(const PlanesTask& t) {
  const int64_t outputs = t.streams() * ceil_div(t.O, lanes());
  const int64_t taps = t.O * t.kH * (t.dW == 1 ? ceil_div(t.kW * t.C, lanes()) : t.kW * ceil_div(t.C, lanes()));
  const double products = std::min(1.1 * static_cast<double>(outputs), 1.6 * static_cast<double>(taps + 6 * t.O));
  return static_cast<double>(t.N * t.oH * t.oW) *
         (12 + products * inside(t.oH, t.sH, t.kH, t.dH, t.pT, t.H) * inside(t.oW, t.sW, t.kW, t.dW, t.pL, t.W));
}

const char* parts_decline(const std::vector<Part>& parts) {
  // Pixels of several parts are written one by one; more channels have Winograd, and others that use most of a
  // vector.
  const PlanesTask& first = parts[0].task;
  double planes = 0, dense = 0, margin = (parts.size() > 1 ? 1.6 : 1) * (std::max(first.C, first.O) > 8 ? 2 : 1);
  for (const Part& k : parts) {
    if (k.task.kH * k.task.kW == 0) return "pixels of dx that no window sees";
    if (strip_floats(k.task) > kLongestStrip) return "long rows";
    planes += planes_cycles(k.task), dense += dense_cycles(k.task);
  }
  return planes * margin > dense ? "channels fill vectors better" : nullptr;
}

int64_t parts_workspace(const std::vector<Part>& parts) {
  int64_t floats = 0;
  for (const Part& k : parts) floats = std::max(floats, k.task.B * k.task.w_b);
  return 4 * aligned(floats);
}

// A large result leaves the caches before it is read.
bool streams_result(int64_t floats) {
  return lanes() == 16 && (floats >= kStreamFloats || hands_result_over_in_memory(4 * floats));
}

// w, y: of the whole.
void run_parts(const std::vector<Part>& parts, const Call& c, const PlanesTask& with, const float* w, float* y) {
  const KernelTable& k = *kernels();
  auto* packed = static_cast<float*>(c.workspace);
  for (const Part& part : parts) {
    PlanesTask t = part.task;
    const PackTask& from = part.weights;
    float* to = packed;
    for (int64_t b = 0; b < t.B; ++b)
      for (int64_t kh = 0; kh < t.kH; ++kh)
        for (int64_t kw = 0; kw < t.kW; ++kw)
          for (int64_t i = 0; i < t.C; ++i)
            for (int64_t o = 0; o < t.O; ++o)
              *to++ =
                  w[part.from + b * from.src_b + o * from.s_o + kh * from.s_kh + kw * from.s_kw + i * from.s_c];
    t.x = c.in[0].as<float>(), t.w = packed, t.y = y + part.to, t.bias = with.bias, t.norm = with.norm,
    t.moments = with.moments, t.stream = with.stream;
    const int64_t items = strip_count(t) * t.B,
                  work = t.N * t.oH * t.oW * t.O * (t.streams() + 8) / strip_count(t);
    with_scratch(items, ceil_div(64 * 1024, work + 1), strip_floats(t),
                 [&](int64_t b, int64_t e, float* s) { k.conv2d_planes(t, s, b, e); });
  }
}

// ---- backward to weights ----

PlanesTask weights_planes(const Conv2dParams& p) {
  PlanesTask t = cut(on_planes(weights_task(p)));
  t.chunks = std::clamp<int64_t>(std::min(t.N * t.oH * t.oW / kLeastPixels, strip_count(t)), 1, kMostChunks);
  while (t.chunks & (t.chunks - 1)) t.chunks &= t.chunks - 1;  // powers of two divide among threads
  return t;
}

int64_t sums_of_chunks(const PlanesTask& t) { return t.chunks > 1 ? aligned(t.chunks * t.B * t.w_b) : 0; }

double grad_cycles(const PlanesTask& t) {
  const Cycles c(t, t.x_w == t.C && t.sW == 1, t.y_w == t.O);
  const PlaneLayout g(t, t.nb, t.ohb);
  const auto products = static_cast<double>(t.ohb * g.pitch * t.O * ceil_div(t.streams(), 3) * 3) / lanes();
  const auto sums = static_cast<double>(t.sums()) * (8 * static_cast<double>(t.chunks) + 3 * c.strips);
  return Cycles::more(1.3) * (c.images * (products + c.per_image) + sums) + kFewCycles;
}
double dense_grad_cycles(const Conv2dParams& p) {
  WeightsGradTask t = weights_task(p);
  plan_weights_grad(t, 1, lanes(), 1);
  // Of a tap, or a row of taps: `rows` are broadcast to vectors. A tile takes some cycles apart from its products,
  // which wait for each other where there are few.
  const int64_t run = t.merge ? t.kW * t.C : t.C, rows = t.o_inner ? run : t.O;
  const int64_t products = rows * ceil_div(t.o_inner ? t.O : run, lanes()), tiles = ceil_div(products, 24);
  const bool few = t.few && (t.o_inner ? t.O : run) % lanes() == 0;  // whole vectors are read in place
  const int64_t tile = few ? products + 1 : std::max(products, 4 * tiles) + 3 * tiles;
  const int64_t cycles = t.kH * (t.merge ? 1 : t.kW) * tile + (!few ? 10 : t.o_inner ? 3 : 6);
  return static_cast<double>(t.N * t.oH * t.oW * cycles + 3000);
}

}  // namespace

const char* planes_declines(const Call& c) {
  if (const char* why = declines_common(c, {.norm_in = true, .moments = true})) return why;
  const auto& p = c.as<Conv2dParams>();
  if (const char* why = planes_decline(p, p.C / p.groups, p.O / p.groups, kMostChannels)) return why;
  if (p.has_residual) return "residual";
  if (!fused_act(p)) return "activation is not none, relu or relu6";
  return parts_decline(forward_parts(p));
}
int64_t planes_workspace(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  const std::vector<Part> parts = forward_parts(p);
  return parts_workspace(parts) + MomentsSpace(p, strip_count(parts[0].task), nullptr).bytes;
}
void planes_run(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  const std::vector<Part> parts = forward_parts(p);
  const MomentsSpace moments(p, strip_count(parts[0].task),
                             static_cast<char*>(c.workspace) + parts_workspace(parts));
  PlanesTask with;
  with.bias = p.has_bias ? c.in[2].as<float>() : nullptr, with.norm = norm_in(c, norm_in_at(p));
  with.moments = moments.out, with.stream = streams_result(p.N * p.oH * p.oW * p.O);
  run_parts(parts, c, with, c.in[1].as<float>(), c.out[0].as<float>());
  moments.merge(c);
}

const char* planes_bwd_data_declines(const Call& c) {
  if (const char* why = declines_common(c)) return why;
  const auto& p = c.as<Conv2dParams>();
  if (const char* why = planes_decline(p, p.O / p.groups, p.C / p.groups, kMostChannels)) return why;
  return parts_decline(data_parts(p));
}
int64_t planes_bwd_data_workspace(const Call& c) { return parts_workspace(data_parts(c.as<Conv2dParams>())); }
void planes_bwd_data_run(const Call& c) {
  PlanesTask with;
  const auto& p = c.as<Conv2dParams>();
  with.bias = c.in.size() > 2 ? c.in[2].as<float>() : nullptr, with.stream = streams_result(p.N * p.H * p.W * p.C);
  run_parts(data_parts(c.as<Conv2dParams>()), c, with, c.in[1].as<float>(), c.out[0].as<float>());
}

const char* planes_bwd_weights_declines(const Call& c) {
  if (const char* why = declines_common(c, {.norm_in = true})) return why;
  const auto& p = c.as<Conv2dParams>();
  if (const char* why = planes_decline(p, p.C / p.groups, p.O / p.groups, kMostGradOutputs)) return why;
  const PlanesTask t = weights_planes(p);
  if (strip_floats(t) > kLongestStrip) return "long rows";
  if (t.sums() * lanes() > kMostSums) return "many weights";
  const bool transforms = p.kH * p.kW == 9 && p.sH * p.sW * p.dH * p.dW == 1;  // Winograd multiplies less
  const double margin = std::max(t.C, t.O) <= 8 ? 1 : transforms ? 1.5 : 1.2;
  return grad_cycles(t) * margin > dense_grad_cycles(p) ? "channels fill vectors better" : nullptr;
}
int64_t planes_bwd_weights_workspace(const Call& c) {
  const PlanesTask t = weights_planes(c.as<Conv2dParams>());
  const int64_t sums = sums_of_chunks(t);
  return sums ? 4 * (sums + aligned(t.chunks * t.B * t.O)) : 0;
}
void planes_bwd_weights_run(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  const KernelTable& k = *kernels();
  PlanesTask t = weights_planes(p);
  float* dw = c.out[0].as<float>();
  float* dbias = c.out.size() > 1 ? c.out[1].as<float>() : nullptr;
  t.x = c.in[0].as<float>(), t.dy = c.in[1].as<float>(), t.norm = norm_in(c, 2), t.dw = dw, t.dbias = dbias;
  if (const int64_t sums = sums_of_chunks(t)) {
    t.dw = static_cast<float*>(c.workspace);
    if (dbias) t.dbias = t.dw + sums;
  }
  const int64_t work = t.N * t.oH * t.oW * t.O * (t.streams() + 8) / t.chunks;
  with_scratch(t.chunks * t.B, ceil_div(64 * 1024, work + 1), t.sums() * lanes() + strip_floats(t),
               [&](int64_t b, int64_t e, float* s) { k.conv2d_planes_grad(t, s, b, e); });
  const int64_t total = t.B * t.w_b;
  if (t.dw != dw) k.sum_arrays(t.dw, total, t.chunks, dw, 0, total);
  if (t.dbias != dbias) k.sum_arrays(t.dbias, p.O, t.chunks, dbias, 0, p.O);
}

}  // namespace fastcnn::cpu
