// What it is: conv2d_bwd_weights for windows whose taps lie far apart (DeepLab's dilations of 12 to 36): each tap
// is a 1x1 convolution between the part of the image that it sees and the outputs that see it, which are copied
// and given to the dense kernels. A tap that sees nothing but padding has the gradient zero. What it is not:
// arithmetic, or a gain for near taps, which share what they read.
#include <algorithm>
#include <cstring>

#include "backend/cpu/conv2d_adaptors.h"
#include "backend/cpu/conv2d_span.h"
#include "backend/cpu/conv2d_tasks.h"
#include "backend/cpu/isa.h"
#include "backend/cpu/threads.h"

namespace fastcnn::cpu {
namespace {

constexpr int64_t kMostTaps = 49;
constexpr int64_t kBiasRows = 256;  // of one partial sum

struct Tap {
  TapSpan y, x;
  Conv2dParams p;  // the 1x1 convolution

  Tap(const Conv2dParams& c, int64_t kh, int64_t kw)
      : y(kh, c.H, c.oH, c.sH, c.dH, c.pT), x(kw, c.W, c.oW, c.sW, c.dW, c.pL), p(c) {
    p.H = p.oH = y.count(), p.W = p.oW = x.count();
    p.kH = p.kW = p.sH = p.sW = p.dH = p.dW = 1, p.pT = p.pB = p.pL = p.pR = 0;
  }
  bool live() const { return p.H > 0 && p.W > 0; }
  int64_t pixels() const { return p.N * p.H * p.W; }
};

template <class F>
void for_each_tap(const Conv2dParams& p, F f) {
  for (int64_t kh = 0; kh < p.kH; ++kh)
    for (int64_t kw = 0; kw < p.kW; ++kw) f(Tap(p, kh, kw), kh * p.kW + kw);
}

Call of_tap(const Call& c, const Tap& t) {
  Call d = c;
  d.params = &t.p, d.out = c.out.first(1);
  return d;
}

struct Space {
  int64_t x = 0, dy = 0, dw, bias, inner = 0;  // floats
  explicit Space(const Call& c) {
    const auto& p = c.as<Conv2dParams>();
    for_each_tap(p, [&](const Tap& t, int64_t) {
      if (!t.live()) return;
      x = std::max(x, aligned(t.pixels() * p.C)), dy = std::max(dy, aligned(t.pixels() * p.O));
      inner = std::max(inner, dense_bwd_weights_workspace(of_tap(c, t)) / 4);
    });
    dw = aligned(p.O * (p.C / p.groups));
    bias = c.out.size() > 1 ? aligned(ceil_div(p.N * p.oH * p.oW, kBiasRows) * p.O) : 0;
  }
  int64_t bytes() const { return 4 * (x + dy + dw + bias + inner); }
};

// Rows of (N, H, W, C) that a tap meets, one behind the other.
void copy_part(const float* from, int64_t H, int64_t W, int64_t C, const Tap& t, int64_t y0, int64_t x0,
               int64_t sH, int64_t sW, float* to) {
  const int64_t rows = t.p.H, columns = t.p.W;
  parallel_for(t.p.N * rows, 4, [&](int64_t b, int64_t e, int) {
    for (int64_t i = b; i < e; ++i) {
      const float* src = from + ((i / rows * H + y0 + i % rows * sH) * W + x0) * C;
      float* dst = to + i * columns * C;
      if (sW == 1) {
        std::memcpy(dst, src, static_cast<size_t>(columns * C) * 4);
      } else {
        for (int64_t k = 0; k < columns; ++k)
          std::memcpy(dst + k * C, src + k * sW * C, static_cast<size_t>(C) * 4);
      }
    }
  });
}

void sum_bias(const Call& c, float* partial) {
  const auto& p = c.as<Conv2dParams>();
  const int64_t rows = p.N * p.oH * p.oW, parts = ceil_div(rows, kBiasRows);
  const KernelTable& k = *kernels();
  const auto* dy = c.in[1].as<float>();
  parallel_for(parts, 4, [&](int64_t b, int64_t e, int) {
    for (int64_t i = b; i < e; ++i)
      k.sum_arrays(dy + i * kBiasRows * p.O, p.O, std::min(kBiasRows, rows - i * kBiasRows), partial + i * p.O, 0,
                   p.O);
  });
  k.sum_arrays(partial, p.O, parts, c.out[1].as<float>(), 0, p.O);
}

}  // namespace

const char* taps_bwd_weights_declines(const Call& c) {
  if (const char* why = declines_common(c, {})) return why;
  const auto& p = c.as<Conv2dParams>();
  if (std::max((p.kH - 1) * p.dH, (p.kW - 1) * p.dW) <= kNearTaps) return "taps are near each other";
  if (p.dH == 1 && p.dW == 1) return "dilation is 1";
  if (p.kH * p.kW > kMostTaps) return "many taps";
  if (p.N * p.oH * p.oW * p.C * p.O == 0) return "empty";
  const char* why = nullptr;
  for_each_tap(p, [&](const Tap& t, int64_t) {
    if (!why && t.live()) why = dense_bwd_weights_declines(of_tap(c, t));
  });
  return why;
}

int64_t taps_bwd_weights_workspace(const Call& c) { return Space(c).bytes(); }

void taps_bwd_weights_run(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  const Space space(c);
  float* x = static_cast<float*>(c.workspace);
  float* dy = x + space.x;
  float* dw = dy + space.dy;
  float* bias = dw + space.dw;
  Operand in[2] = {c.in[0], c.in[1]}, out[1] = {c.out[0]};
  in[0].data = x, in[1].data = dy, out[0].data = dw;
  const int64_t Cg = p.C / p.groups, taps = p.kH * p.kW;
  auto* all = c.out[0].as<float>();
  for_each_tap(p, [&](const Tap& t, int64_t tap) {
    if (t.live()) {
      copy_part(c.in[0].as<float>(), p.H, p.W, p.C, t, t.y.first, t.x.first, p.sH, p.sW, x);
      copy_part(c.in[1].as<float>(), p.oH, p.oW, p.O, t, t.y.from, t.x.from, 1, 1, dy);
      Call d = of_tap(c, t);
      d.in = in, d.out = out, d.workspace = bias + space.bias;
      dense_bwd_weights_run(d);
    } else {
      std::memset(dw, 0, static_cast<size_t>(p.O * Cg) * 4);
    }
    parallel_for(p.O, 64, [&](int64_t b, int64_t e, int) {
      for (int64_t o = b; o < e; ++o)
        std::memcpy(all + (o * taps + tap) * Cg, dw + o * Cg, static_cast<size_t>(Cg) * 4);
    });
  });
  if (c.out.size() > 1) sum_bias(c, bias);
}

}  // namespace fastcnn::cpu
