// What it is: dilated convolutions of stride 1 that keep the image's size, all passes, as plain ones: pixels whose
// coordinates leave the same rests when divided by the dilation see each other alone, so that each such part of
// the image is an image of its own (space to batch). Winograd takes them, and windows are narrow again. What it is
// not: arithmetic.
#include <algorithm>
#include <cstring>
#include <vector>

#include "backend/cpu/conv2d_adaptors.h"
#include "backend/cpu/conv2d_span.h"
#include "backend/cpu/conv2d_tasks.h"
#include "backend/cpu/threads.h"

namespace fastcnn::cpu {
namespace {

constexpr InnerPass kForward = {{winograd_declines, winograd_workspace, winograd_run},
                                {dense_declines, dense_workspace, dense_run},
                                {.moments = true}};
constexpr InnerPass kBwdData = {{winograd_bwd_data_declines, winograd_bwd_data_workspace, winograd_bwd_data_run},
                                {dense_bwd_data_declines, dense_bwd_data_workspace, dense_bwd_data_run},
                                {}};
constexpr InnerPass kBwdWeights = {
    {winograd_bwd_weights_declines, winograd_bwd_weights_workspace, winograd_bwd_weights_run},
    {dense_bwd_weights_declines, dense_bwd_weights_workspace, dense_bwd_weights_run},
    {}};

struct Phases {
  const Conv2dParams& from;
  Conv2dParams p;

  explicit Phases(const Conv2dParams& c) : from(c), p(c) {
    p.N = c.N * c.dH * c.dW, p.H = p.oH = ceil_div(c.H, c.dH), p.W = p.oW = ceil_div(c.W, c.dW);
    p.pT /= c.dH, p.pB /= c.dH, p.pL /= c.dW, p.pR /= c.dW;
    p.dH = p.dW = 1;
  }
  bool whole() const { return from.H % from.dH == 0 && from.W % from.dW == 0; }
  int64_t floats(int64_t channels) const { return aligned(p.N * p.H * p.W * channels); }

  // (N, H, W, C) as its parts, or back; where the image ends before its parts do, zeros.
  void part(const float* image, float* parts, int64_t C) const {
    each_row([&](int64_t row, int64_t at, int64_t x, bool inside) {
      for (int64_t k = 0; k < p.W; ++k, x += from.dW) {
        float* dst = parts + (row * p.W + k) * C;
        if (inside && x < from.W)
          std::memcpy(dst, image + (at + x) * C, static_cast<size_t>(C) * 4);
        else
          std::memset(dst, 0, static_cast<size_t>(C) * 4);
      }
    });
  }
  void join(const float* parts, float* image, int64_t C) const {
    each_row([&](int64_t row, int64_t at, int64_t x, bool inside) {
      for (int64_t k = 0; inside && k < p.W && x < from.W; ++k, x += from.dW)
        std::memcpy(image + (at + x) * C, parts + (row * p.W + k) * C, static_cast<size_t>(C) * 4);
    });
  }

 private:
  // f(row of the parts, first pixel of the image's row, first column, is there such a row)
  template <class F>
  void each_row(F f) const {
    parallel_for(p.N * p.H, 4, [&](int64_t b, int64_t e, int) {
      for (int64_t row = b; row < e; ++row) {
        const int64_t r = row % p.H, part = row / p.H, phase = part % (from.dH * from.dW);
        const int64_t n = part / (from.dH * from.dW), y = r * from.dH + phase / from.dW;
        f(row, (n * from.H + y) * from.W, phase % from.dW, y < from.H);
      }
    });
  }
};

Call inner_call(const Call& c, const Phases& f) {
  Call d = c;
  d.params = &f.p;
  return d;
}

const char* declines(const Call& c, const InnerPass& pass) {
  if (const char* why = declines_common(c, pass.can)) return why;
  const auto& p = c.as<Conv2dParams>();
  if (p.dH * p.dW == 1) return "dilation is 1";
  if (p.sH * p.sW != 1 || p.oH != p.H || p.oW != p.W) return "not of stride 1 with a result of the image's size";
  if (p.pT % p.dH != 0 || p.pL % p.dW != 0) return "padding is no multiple of dilation";
  if (p.has_residual) return "residual";
  if (p.N * p.H * p.W * p.C * p.O == 0) return "empty";
  const Phases f(p);
  if (p.has_moments && !f.whole()) return "moments, and dilation does not divide the image";
  const Call d = inner_call(c, f);
  const Conv2dParams& q = f.p;
  const int64_t live = live_taps(q.oH, q.H, q.kH, 1, 1, q.pT) * live_taps(q.oW, q.W, q.kW, 1, 1, q.pL);
  if (2 * live < q.oH * q.oW * q.kH * q.kW) return "most taps see padding, which dense kernels leave out";
  if (!pass.first.declines(d)) return nullptr;
  if (std::max((p.kH - 1) * p.dH, (p.kW - 1) * p.dW) <= kNearTaps) return "taps are near each other";
  return pass.second.declines(d);
}

// Parts of the operand of C channels, then of that of O channels, then what the kernels need.
int64_t workspace(const Call& c, const InnerPass& pass) {
  const Phases f(c.as<Conv2dParams>());
  const Call d = inner_call(c, f);
  return 4 * (f.floats(f.p.C) + f.floats(f.p.O)) + pass.of(d).workspace(d);
}

struct Run {
  Phases f;
  float *of_c, *of_o;
  std::vector<Operand> in, out;
  Call d;
  explicit Run(const Call& c)
      : f(c.as<Conv2dParams>()), in(c.in.begin(), c.in.end()), out(c.out.begin(), c.out.end()), d(c) {
    of_c = static_cast<float*>(c.workspace), of_o = of_c + f.floats(f.p.C);
    d.params = &f.p, d.in = in, d.out = out, d.workspace = of_o + f.floats(f.p.O);
  }
  void operator()(const InnerPass& pass) { pass.of(d).run(d); }
};

// Of C channels to O channels, or back.
void image_to_image(const Call& c, const InnerPass& pass, bool back) {
  Run r(c);
  float *from = back ? r.of_o : r.of_c, *to = back ? r.of_c : r.of_o;
  const int64_t of_from = back ? r.f.p.O : r.f.p.C, of_to = back ? r.f.p.C : r.f.p.O;
  r.f.part(c.in[0].as<float>(), from, of_from);
  r.in[0].data = from, r.out[0].data = to;
  r(pass);
  r.f.join(to, c.out[0].as<float>(), of_to);
}

}  // namespace

const char* phases_declines(const Call& c) { return declines(c, kForward); }
int64_t phases_workspace(const Call& c) { return workspace(c, kForward); }
void phases_run(const Call& c) { image_to_image(c, kForward, false); }

const char* phases_bwd_data_declines(const Call& c) { return declines(c, kBwdData); }
int64_t phases_bwd_data_workspace(const Call& c) { return workspace(c, kBwdData); }
void phases_bwd_data_run(const Call& c) { image_to_image(c, kBwdData, true); }

const char* phases_bwd_weights_declines(const Call& c) { return declines(c, kBwdWeights); }
int64_t phases_bwd_weights_workspace(const Call& c) { return workspace(c, kBwdWeights); }
void phases_bwd_weights_run(const Call& c) {
  Run r(c);
  r.f.part(c.in[0].as<float>(), r.of_c, r.f.p.C);
  r.f.part(c.in[1].as<float>(), r.of_o, r.f.p.O);
  r.in[0].data = r.of_c, r.in[1].data = r.of_o;
  r(kBwdWeights);
}

}  // namespace fastcnn::cpu
