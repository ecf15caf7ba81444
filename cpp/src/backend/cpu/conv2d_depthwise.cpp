// What it is: the depthwise implementations of the three convolution passes: declines, workspace, threads.
// What it is not: arithmetic (kernels/conv2d_depthwise.cpp).
#include <cstdint>
#include <cstring>

#include "backend/cpu/conv2d_adaptors.h"
#include "backend/cpu/conv2d_tasks.h"
#include "backend/cpu/threads.h"

namespace fastcnn::cpu {
namespace {

const char* declines(const Call& c) {
  if (const char* why = declines_common(c)) return why;
  const auto& p = c.as<Conv2dParams>();
  if (p.groups != p.C || p.O != p.C) return "not one channel per group";
  if (p.groups == 1) return "one group";
  return nullptr;
}

// The tasks of the dense adaptors have one channel per batch here: turn batches into channels.
template <class Task>
void channels(Task& t, int64_t C) {
  t.B = 1, t.C = t.O = C;
}

int64_t grain(const GemmTask& t) { return ceil_div(16 * 1024, std::max<int64_t>(1, t.oW * t.C)); }

}  // namespace

const char* depthwise_declines(const Call& c) {
  if (const char* why = declines(c)) return why;
  return fused_act(c.as<Conv2dParams>()) ? nullptr : "activation is not none, relu or relu6";
}

int64_t depthwise_workspace(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  return p.C * p.kH * p.kW * 4;
}

void depthwise_run(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  const KernelTable& k = *kernels();
  if (p.N == 0) return;
  GemmTask t = forward_task(p);
  channels(t, p.C);
  float* w = static_cast<float*>(c.workspace);
  k.transpose_matrix(c.in[1].as<float>(), p.kH * p.kW, p.C, w, 0, p.kH * p.kW);
  t.x = c.in[0].as<float>(), t.y = c.out[0].as<float>(), t.w = w;
  t.bias = p.has_bias ? c.in[2].as<float>() : nullptr;
  t.residual = p.has_residual ? c.in[c.in.size() - 1].as<float>() : nullptr;
  choose_stream(t, p.N * p.oH * p.oW * p.C, p.C);
  parallel_for(t.N * t.oH, grain(t), [&](int64_t b, int64_t e, int) { k.conv2d_depthwise(t, b, e); });
}

const char* depthwise_bwd_data_declines(const Call& c) { return declines(c); }

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
  float* packed = static_cast<float*>(c.workspace);
  auto each = [&](auto&& f) {
    float* w = packed;
    for_each_residue(p, lanes(), [&](GemmTask& t, PackTask& q, int64_t src, int64_t dst) {
      channels(t, p.C);
      if (t.kH * t.kW == 0) t.kH = t.kW = 0;
      t.x = c.in[0].as<float>(), t.y = c.out[0].as<float>() + dst, t.w = w;
      t.bias = c.in.size() > 2 ? c.in[2].as<float>() : nullptr;
      choose_stream(t, p.N * p.H * p.W * p.C, p.C);
      f(t, q, src, w);
      w += t.kH * t.kW * p.C;
    });
  };
  each([&](GemmTask& t, PackTask& q, int64_t src, float* w) {
    for (int64_t kh = 0; kh < t.kH; ++kh)
      for (int64_t kw = 0; kw < t.kW; ++kw, w += p.C)
        k.transpose_matrix(c.in[1].as<float>() + src + kh * q.s_kh + kw * q.s_kw, p.kH * p.kW, p.C, w, 0, 1);
  });
  const int64_t rows = ceil_div(p.H, p.sH), band = p.sH * p.sW == 1 ? 1 : 4, bands = ceil_div(rows, band);
  const int64_t least = ceil_div(16 * 1024, std::max<int64_t>(1, band * p.sH * p.W * p.C));
  parallel_for(p.N * bands, least, [&](int64_t b, int64_t e, int) {
    each([&](GemmTask& t, PackTask&, int64_t, float*) {
      if (p.sH * p.sW == 1) k.conv2d_depthwise(t, b, e);
    });
    if (p.sH * p.sW == 1) return;
    for (int64_t i = b; i < e; ++i)
      each([&](GemmTask& t, PackTask&, int64_t, float*) {
        const int64_t n = i / bands, r = i % bands * band;
        if (r < t.oH) k.conv2d_depthwise(t, n * t.oH + r, n * t.oH + std::min(t.oH, r + band));
      });
  });
}

namespace {

WeightsGradTask grad_task(const Conv2dParams& p) {
  WeightsGradTask t = weights_task(p);
  channels(t, p.C);
  t.w_b = p.C * p.kH * p.kW;
  // Chunks depend on the shape alone: they are the order of the sums.
  t.chunks = std::clamp<int64_t>(t.N * t.oH / 4, 1, 32);
  return t;
}

}  // namespace

const char* depthwise_bwd_weights_declines(const Call& c) { return declines(c); }

int64_t depthwise_bwd_weights_workspace(const Call& c) {
  const WeightsGradTask t = grad_task(c.as<Conv2dParams>());
  return 4 * (aligned(t.chunks * t.w_b) + t.chunks * t.C);
}

void depthwise_bwd_weights_run(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  const KernelTable& k = *kernels();
  float* dw = c.out[0].as<float>();
  float* dbias = c.out.size() > 1 ? c.out[1].as<float>() : nullptr;
  WeightsGradTask t = grad_task(p);
  if (p.N * p.oH * p.oW == 0) {
    std::memset(dw, 0, static_cast<size_t>(t.w_b) * 4);
    if (dbias) std::memset(dbias, 0, static_cast<size_t>(t.C) * 4);
    return;
  }
  t.x = c.in[0].as<float>(), t.dy = c.in[1].as<float>(), t.dw = static_cast<float*>(c.workspace);
  t.dbias = dbias ? t.dw + aligned(t.chunks * t.w_b) : nullptr;
  parallel_for(t.chunks, 1, [&](int64_t b, int64_t e, int) { k.conv2d_depthwise_weights_grad(t, b, e); });
  k.sum_arrays(t.dw, t.w_b, t.chunks, t.dw, 0, t.w_b);
  k.transpose_matrix(t.dw, t.C, p.kH * p.kW, dw, 0, t.C);
  if (dbias) k.sum_arrays(t.dbias, t.C, t.chunks, dbias, 0, t.C);
}

}  // namespace fastcnn::cpu
