// What it is: backward to data (and so the transposed convolution) with few channels in its result, as the last
// layer of a generator has: neighbouring pixels of a row share the lanes of one vector, since their channels are
// contiguous; weights that a pixel does not see are zero. What it is not: arithmetic (kernels/gemm.cpp).
#include <algorithm>
#include <cstring>

#include "backend/cpu/conv2d_adaptors.h"
#include "backend/cpu/conv2d_tasks.h"
#include "backend/cpu/threads.h"
#include "backend/cpu/workspace.h"

namespace fastcnn::cpu {
namespace {

struct Columns {
  int64_t q = 0;              // pixels of dx in a vector, a multiple of the stride
  int64_t first = 0, kW = 0;  // the columns of dy they see: [first, first + kW) from that of their first pixel on
  explicit Columns(const Conv2dParams& p) {
    for (q = lanes() / p.C / p.sW * p.sW; q > 0 && p.W % q != 0;) q -= p.sW;
    if (q <= 0) return;
    int64_t last = 0;
    bool any = false;
    for (int64_t r = 0; r < q; ++r)
      for (int64_t kw = 0; kw < p.kW; ++kw) {
        if ((r + p.pL - kw) % p.sW != 0) continue;
        const int64_t at = (r + p.pL - kw) / p.sW;
        first = any ? std::min(first, at) : at, last = any ? std::max(last, at) : at, any = true;
      }
    kW = any ? last - first + 1 : 0;
  }
};

// f(task, pack, floats of dx before it, residue) for each residue of rows.
template <class F>
void for_each_row(const Conv2dParams& p, F&& f) {
  const Columns k(p);
  for (int64_t rh = 0; rh < std::min(p.sH, p.H); ++rh) {
    const Residue h = residue(rh, p.H, p.kH, p.sH, p.dH, p.pT);
    GemmTask t;
    t.C = p.O, t.O = k.q * p.C;
    t.N = p.N, t.H = p.oH, t.W = p.oW, t.x_w = p.O, t.x_h = p.oW * p.O, t.x_n = p.oH * t.x_h;
    t.oH = h.out, t.oW = p.W / k.q, t.y_w = t.O, t.y_h = p.sH * p.W * p.C, t.y_n = p.H * p.W * p.C;
    t.kH = h.count, t.kW = k.kW, t.dH = t.kH == 1 ? 1 : h.dilation, t.pT = h.pad, t.sW = k.q / p.sW,
    t.pL = -k.first;
    PackTask w;
    w.O = t.O, w.C = t.C, w.kH = t.kH, w.kW = t.kW;
    w.s_o = 1, w.s_c = t.O, w.s_kw = t.C * t.O, w.s_kh = t.kW * w.s_kw;
    f(t, w, rh * p.W * p.C, h);
  }
}

int64_t wide_floats(const GemmTask& t) { return t.kH * t.kW * t.C * t.O; }

void widen(const Conv2dParams& p, const GemmTask& t, const Residue& h, const float* w, float* wide) {
  std::memset(wide, 0, static_cast<size_t>(wide_floats(t)) * 4);
  const int64_t q = t.O / p.C;
  for (int64_t i = 0; i < t.kH; ++i)
    for (int64_t j = 0; j < t.kW; ++j)
      for (int64_t r = 0; r < q; ++r) {
        const int64_t kh = h.first + (h.count - 1 - i) * h.step, kw = r + p.pL - (j - t.pL) * p.sW;
        if (kw < 0 || kw >= p.kW) continue;
        for (int64_t o = 0; o < p.O; ++o)
          std::memcpy(wide + ((i * t.kW + j) * p.O + o) * t.O + r * p.C, w + ((o * p.kH + kh) * p.kW + kw) * p.C,
                      static_cast<size_t>(p.C) * 4);
      }
}

struct Memory {
  float *wide, *packed, *bias;
  int64_t bytes;
  Memory(const Conv2dParams& p, void* base) {
    int64_t most = 0, floats = 0;
    for_each_row(p, [&](const GemmTask& t, const PackTask&, int64_t, const Residue&) {
      most = std::max(most, wide_floats(t)), floats = std::max(floats, packed_floats(t, lanes()));
    });
    Carve c(base);
    wide = c.take<float>(most), packed = c.take<float>(floats), bias = c.take<float>(lanes());
    bytes = c.used();
  }
};

}  // namespace

const char* narrow_bwd_data_declines(const Call& c) {
  if (const char* why = declines_common(c)) return why;
  const auto& p = c.as<Conv2dParams>();
  if (p.groups != 1 || p.dW != 1) return "groups or dilated columns";
  if (p.C * 2 > lanes()) return "many channels";
  const Columns k(p);
  if (k.q <= p.sW && k.q * p.C < lanes() / 2) return "no number of pixels that divides a row fills a vector";
  if (k.q <= 0 || 5 * k.kW * p.sW > 4 * k.q * p.kW) return "too few weights are shared";
  bool fits = true;
  for_each_row(
      p, [&](GemmTask& t, const PackTask&, int64_t, const Residue&) { fits = fits && plan_gemm(t, lanes(), 1); });
  return fits ? nullptr : "window too large";
}

int64_t narrow_bwd_data_workspace(const Call& c) { return Memory(c.as<Conv2dParams>(), nullptr).bytes; }

void narrow_bwd_data_run(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  if (p.N == 0) return;
  const KernelTable& k = *kernels();
  const Memory m(p, c.workspace);
  for_each_row(p, [&](GemmTask& t, PackTask& w, int64_t dst, const Residue& h) {
    plan_gemm(t, k.vector_floats, num_threads());
    widen(p, t, h, c.in[1].as<float>(), m.wide);
    w.nc = t.nc, w.src = m.wide, t.w = w.dst = m.packed;
    if (c.in.size() > 2) {
      for (int64_t i = 0; i < t.O; ++i) m.bias[i] = c.in[2].as<float>()[i % p.C];
      t.bias = m.bias;
    }
    t.x = c.in[0].as<float>(), t.y = c.out[0].as<float>() + dst;
    run_pack_and_gemm(w, t, k);
  });
}

}  // namespace fastcnn::cpu
