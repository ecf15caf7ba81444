// What it is: the depthwise implementations of the three convolution passes: declines, workspace, threads.
// What it is not: arithmetic (kernels/conv2d_depthwise.cpp).
#include <cstdint>
#include <cstring>

#include "backend/cpu/conv2d_adaptors.h"
#include "backend/cpu/conv2d_tasks.h"
#include "backend/cpu/norm_plan.h"
#include "backend/cpu/row_strips.h"
#include "backend/cpu/scratch.h"
#include "backend/cpu/threads.h"

namespace fastcnn::cpu {
namespace {

const char* declines(const Call& c, bool norm_in = false) {
  if (const char* why = declines_common(c, norm_in)) return why;
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

// ---- a batch norm applied on load: strips of rows are normalised to a thread's scratch and read there ----

constexpr int64_t kStripFloats = 64 * 1024;  // a quarter of L2

// Rows of outputs in a strip.
template <class Task>
int64_t strip_rows(const Task& t) {
  int64_t rows = 1;
  while (rows < t.oH && rows_read(t, rows + 1) * t.x_h <= kStripFloats) ++rows;
  return ceil_div(t.oH, ceil_div(t.oH, rows));
}
template <class Task>
const char* norm_declines(const Task& t) {
  return t.norm.on && rows_read(t, 1) * t.x_h > 2 * kStripFloats ? "input norm of long rows" : nullptr;
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
  Task on_strip(const Task& t, int64_t from, int64_t to, HeldRows& held) const {
    held.hold(t, from, to, [&](int64_t n, int64_t first, int64_t last, float* y) {
      NormApplyArgs a = args_;
      a.s.rows = a.s.chunk_rows = (last - first) * t.W;
      a.x = t.x + n * t.x_n + first * t.x_h, a.y = y;
      kernels()->norm_apply(&a, 0, 1);
    });
    Task q = t;
    q.x = held.scratch - held.n * t.x_n - held.h0 * t.x_h;
    const auto far = reinterpret_cast<intptr_t>(t.x) - reinterpret_cast<intptr_t>(q.x);
    q.norm.fetch = far / 4 + (to - from) * t.sH * t.x_h;
    return q;
  }

 private:
  NormApplyArgs args_;
};

GemmTask depthwise_task(const Conv2dParams& p) {
  GemmTask t = forward_task(p);
  channels(t, p.C);
  return t;
}

}  // namespace

const char* depthwise_declines(const Call& c) {
  if (const char* why = declines(c, true)) return why;
  return norm_declines(depthwise_task(c.as<Conv2dParams>()));
}

int64_t depthwise_workspace(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  return 4 * (aligned(p.C * p.kH * p.kW) + (p.has_norm_in ? InputNorm::floats(p.C) : 0));
}

void depthwise_run(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  const KernelTable& k = *kernels();
  if (p.N == 0) return;
  GemmTask t = depthwise_task(p);
  float* w = static_cast<float*>(c.workspace);
  k.transpose_matrix(c.in[1].as<float>(), p.kH * p.kW, p.C, w, 0, p.kH * p.kW);
  t.x = c.in[0].as<float>(), t.y = c.out[0].as<float>(), t.w = w;
  t.bias = p.has_bias ? c.in[2].as<float>() : nullptr;
  t.residual = p.has_residual ? c.in[c.in.size() - 1].as<float>() : nullptr;
  t.norm = norm_in(c, norm_in_at(p));
  choose_stream(t, p.N * p.oH * p.oW * p.C, p.C);
  if (!t.norm.on) {
    parallel_for(t.N * t.oH, grain(t), [&](int64_t b, int64_t e, int) { k.conv2d_depthwise(t, b, e); });
    return;
  }
  const InputNorm norm(t.norm, p.C, w + aligned(p.C * p.kH * p.kW));
  const int64_t rows = strip_rows(t), strips = ceil_div(t.oH, rows);
  with_scratch(t.N * strips, ceil_div(grain(t), rows), rows_read(t, rows) * t.x_h,
               [&](int64_t b, int64_t e, float* scratch) {
                 HeldRows held{scratch};
                 for (int64_t i = b; i < e; ++i) {
                   const int64_t image = i / strips * t.oH, from = image + i % strips * rows,
                                 to = std::min(from + rows, image + t.oH);
                   k.conv2d_depthwise(norm.on_strip(t, from, to, held), from, to);
                 }
               });
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
  t.norm.on = p.has_norm_in != 0;
  return t;
}

}  // namespace

const char* depthwise_bwd_weights_declines(const Call& c) {
  if (const char* why = declines(c, true)) return why;
  return norm_declines(grad_task(c.as<Conv2dParams>()));
}

int64_t depthwise_bwd_weights_workspace(const Call& c) {
  const WeightsGradTask t = grad_task(c.as<Conv2dParams>());
  return 4 * (aligned(t.chunks * t.w_b) + aligned(t.chunks * t.C) + (t.norm.on ? InputNorm::floats(t.C) : 0));
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
