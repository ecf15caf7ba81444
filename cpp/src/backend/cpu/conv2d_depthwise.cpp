// What it is: the depthwise implementations of the three convolution passes: declines, workspace, threads.
// What it is not: arithmetic (kernels/conv2d_depthwise.cpp).
#include <cstdint>
#include <cstring>
#include <vector>

#include "backend/cpu/conv2d_adaptors.h"
#include "backend/cpu/conv2d_depthwise.h"
#include "backend/cpu/moments_plan.h"
#include "backend/cpu/scratch.h"
#include "backend/cpu/threads.h"

namespace fastcnn::cpu {
namespace {

constexpr int64_t kMomentPixels = 256;  // of a part of the moments

int64_t grain(const GemmTask& t) { return ceil_div(16 * 1024, std::max<int64_t>(1, t.oW * t.C)); }

GemmTask depthwise_task(const Conv2dParams& p) {
  GemmTask t = forward_task(p);
  by_channel(t, p);
  return t;
}

}  // namespace

const char* depthwise_declines(const Call& c) {
  if (const char* why = depthwise_declines_common(c, {.norm_in = true, .smooth_in = true, .moments = true}))
    return why;
  return norm_declines(depthwise_task(c.as<Conv2dParams>()));
}

namespace {

// Rows of outputs go to threads in strips of one image: what a normalised piece of the image is made for, and a
// part of the moments.
struct DepthwiseStrips {
  int64_t rows, per_image, count;
  explicit DepthwiseStrips(const GemmTask& t) : rows(1) {
    if (t.norm.on) rows = strip_rows(t);
    if (t.moments.on) rows = std::min(t.oH, rows * ceil_div(kMomentPixels, rows * t.oW));
    per_image = ceil_div(t.oH, rows), count = t.N * per_image;
  }
};

struct DepthwiseSpace {
  float *w, *norm;
  MomentsSpace moments;
  int64_t bytes;
  DepthwiseSpace(const Conv2dParams& p, int64_t parts, void* base) : DepthwiseSpace(p, parts, Carve(base)) {}

 private:
  DepthwiseSpace(const Conv2dParams& p, int64_t parts, Carve c)
      : w(c.take<float>(p.C * p.kH * p.kW)),
        norm(c.take<float>(p.has_norm_in ? InputNorm::floats(p.C) : 0)),
        moments(p, parts, c.take<char>(0)),
        bytes(c.used() + moments.bytes) {}
};

}  // namespace

int64_t depthwise_workspace(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  return DepthwiseSpace(p, DepthwiseStrips(depthwise_task(p)).count, nullptr).bytes;
}

void depthwise_run(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  const KernelTable& k = *kernels();
  if (p.N == 0) return;
  GemmTask t = depthwise_task(p);
  const DepthwiseStrips strips(t);
  const DepthwiseSpace space(p, strips.count, c.workspace);
  k.transpose_matrix(c.in[1].as<float>(), p.kH * p.kW, p.C, space.w, 0, p.kH * p.kW);
  t.x = c.in[0].as<float>(), t.y = c.out[0].as<float>(), t.w = space.w;
  t.bias = p.has_bias ? c.in[2].as<float>() : nullptr;
  t.residual = p.has_residual ? c.in[c.in.size() - 1].as<float>() : nullptr;
  t.norm = norm_in(c, norm_in_at(p));
  choose_stream(t, p.N * p.oH * p.oW * p.C, p.C);
  if (!t.norm.on && !t.moments.on) {
    parallel_for(t.N * t.oH, grain(t), [&](int64_t b, int64_t e, int) { k.conv2d_depthwise(t, b, e); });
    return;
  }
  const InputNorm norm(t.norm, p.C, space.norm);
  const int64_t rows = t.norm.on ? strip_rows(t) : t.oH;
  const int64_t held_floats = t.norm.on ? rows_read(t, rows) * t.x_h : 0,
                sums = p.has_moments ? 3 * aligned(p.C) : 0;
  with_scratch(strips.count, ceil_div(grain(t), strips.rows), aligned(held_floats) + sums,
               [&](int64_t b, int64_t e, float* scratch) {
                 HeldRows held{scratch};
                 GemmTask q = t;
                 q.moments = space.moments.out;
                 if (q.moments.on) q.moments.sums = scratch + aligned(held_floats);
                 for (int64_t i = b; i < e; ++i) {
                   const int64_t image = i / strips.per_image * t.oH;
                   const int64_t first = image + i % strips.per_image * strips.rows;
                   const int64_t last = std::min(first + strips.rows, image + t.oH);
                   for (int64_t from = first, to; from < last; from = to) {
                     to = std::min(last, from + rows);
                     q.moments.fresh = from == first;
                     k.conv2d_depthwise(t.norm.on ? norm.on_strip(q, from, to, held) : q, from, to);
                   }
                   if (!q.moments.on) continue;
                   MomentsOut part = q.moments;
                   part.part += i * 2 * p.C;
                   part.count[i] = static_cast<double>((last - first) * t.oW);
                   k.conv2d_depthwise_moments(part, part.count[i]);
                 }
               });
  space.moments.merge(c);
}

const char* depthwise_bwd_data_declines(const Call& c) { return depthwise_declines_common(c); }

int64_t depthwise_bwd_data_workspace(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  int64_t floats = 0;
  for_each_residue(p, lanes(), [&](GemmTask& t, PackTask&, int64_t, int64_t) { floats += t.kH * t.kW * p.C; });
  return floats * 4;
}

// All residues of a band of rows are done before the next band: they read the same rows of dy and fill the lines
// of dx between them.
void depthwise_bwd_data_run(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  const KernelTable& k = *kernels();
  if (p.N == 0) return;
  std::vector<GemmTask> tasks;
  float* w = static_cast<float*>(c.workspace);
  for_each_depthwise_residue(p, [&](GemmTask& t, PackTask& q, int64_t src, int64_t dst) {
    t.x = c.in[0].as<float>(), t.y = c.out[0].as<float>() + dst, t.w = w;
    t.bias = c.in.size() > 2 ? c.in[2].as<float>() : nullptr;
    choose_stream(t, p.N * p.H * p.W * p.C, p.C);
    pack_depthwise_residue(p, t, q, c.in[1].as<float>() + src, w);
    w += t.kH * t.kW * p.C;
    tasks.push_back(t);
  });
  const int64_t rows = ceil_div(p.H, p.sH), band = p.sH * p.sW == 1 ? 1 : 4, bands = ceil_div(rows, band);
  const int64_t least = ceil_div(16 * 1024, std::max<int64_t>(1, band * p.sH * p.W * p.C));
  parallel_for(p.N * bands, least, [&](int64_t b, int64_t e, int) {
    if (p.sH * p.sW == 1) return k.conv2d_depthwise(tasks[0], b, e);
    for (int64_t i = b; i < e; ++i)
      for (const GemmTask& t : tasks) {
        const int64_t n = i / bands, r = i % bands * band;
        if (r < t.oH) k.conv2d_depthwise(t, n * t.oH + r, n * t.oH + std::min(t.oH, r + band));
      }
  });
}

const char* depthwise_bwd_weights_declines(const Call& c) {
  if (const char* why = depthwise_declines_common(c, {.norm_in = true, .smooth_in = true})) return why;
  return norm_declines(depthwise_grad_task(c.as<Conv2dParams>()));
}

int64_t depthwise_bwd_weights_workspace(const Call& c) {
  const WeightsGradTask t = depthwise_grad_task(c.as<Conv2dParams>());
  return 4 * (aligned(t.chunks * t.w_b) + aligned(t.chunks * t.C) + (t.norm.on ? InputNorm::floats(t.C) : 0));
}

void depthwise_bwd_weights_run(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  const KernelTable& k = *kernels();
  float* dw = c.out[0].as<float>();
  float* dbias = c.out.size() > 1 ? c.out[1].as<float>() : nullptr;
  WeightsGradTask t = depthwise_grad_task(p);
  if (p.N * p.oH * p.oW == 0) {
    std::memset(dw, 0, static_cast<size_t>(t.w_b) * 4);
    if (dbias) std::memset(dbias, 0, static_cast<size_t>(t.C) * 4);
    return;
  }
  t.x = c.in[0].as<float>(), t.dy = c.in[1].as<float>(), t.dw = static_cast<float*>(c.workspace);
  t.dbias = dbias ? t.dw + aligned(t.chunks * t.w_b) : nullptr;
  t.norm = norm_in(c, 2);
  const InputNorm norm(t.norm, t.C, t.dw + aligned(t.chunks * t.w_b) + aligned(t.chunks * t.C));
  const int64_t rows = t.N * t.oH, strip = t.norm.on ? strip_rows(t) : rows;
  auto work = [&](int64_t b, int64_t e, float* scratch) {
    HeldRows held{scratch};
    for (int64_t chunk = b; chunk < e; ++chunk) {
      WeightsGradTask q = t;
      q.dw += chunk * t.w_b;
      std::memset(q.dw, 0, static_cast<size_t>(t.w_b) * 4);
      if (q.dbias) std::memset(q.dbias += chunk * t.C, 0, static_cast<size_t>(t.C) * 4);
      const int64_t last = rows * (chunk + 1) / t.chunks;
      for (int64_t from = rows * chunk / t.chunks, to; from < last; from = to) {
        to = std::min(last, from + strip);
        if (t.norm.on) to = std::min(to, (from / t.oH + 1) * t.oH);
        k.conv2d_depthwise_weights_grad(t.norm.on ? norm.on_strip(q, from, to, held) : q, from, to);
      }
    }
  };
  if (t.norm.on)
    with_scratch(t.chunks, 1, rows_read(t, strip) * t.x_h, work);
  else
    parallel_for(t.chunks, 1, [&](int64_t b, int64_t e, int) { work(b, e, nullptr); });
  k.sum_arrays(t.dw, t.w_b, t.chunks, t.dw, 0, t.w_b);
  k.transpose_matrix(t.dw, t.C, p.kH * p.kW, dw, 0, t.C);
  if (dbias) k.sum_arrays(t.dbias, t.C, t.chunks, dbias, 0, t.C);
}

}  // namespace fastcnn::cpu
