// What it is: convolutions of stride 2 with larger square windows as convolutions of stride 1: the four parities
// of rows and columns of the image become channels, the taps of one parity a window of 3x3 (of 5 and 6), 4x4 (of 7
// and 8, the first layer of residual nets; forward alone) or 5x5 (of 9 and 10), which Winograd computes. Windows
// of odd size get a last row and column of zeros. What it is not: arithmetic (conv2d_winograd.cpp), or 3x3 and 4x4
// windows, which have transforms of their own (conv2d_winograd2x2.cpp).
#include <algorithm>
#include <cstring>

#include "fastcnn/runtime.h"

#include "backend/cpu/conv2d_adaptors.h"
#include "backend/cpu/conv2d_tasks.h"
#include "backend/cpu/conv2d_winograd.h"
#include "backend/cpu/moments_plan.h"
#include "backend/cpu/threads.h"
#include "backend/cpu/workspace.h"

namespace fastcnn::cpu {
namespace {

// The convolution of stride 1. Its image holds what padding would add: pixel (i, j), channels of parity (r, s), is
// pixel (2 i + r - pT, 2 j + s - pL) of x or zero.
Conv2dParams parities_of(const Conv2dParams& p) {
  Conv2dParams q = p;
  q.kH = q.kW = ceil_div(p.kH, 2);
  q.sH = q.sW = 1, q.pT = q.pB = q.pL = q.pR = 0;
  q.C = 4 * p.C, q.H = p.oH + q.kH - 1, q.W = p.oW + q.kW - 1;
  return q;
}
// `pitch` floats for each pixel: its channels, or whole vectors of them.
int64_t image_floats(const Conv2dParams& q, int64_t pitch) { return q.N * q.H * q.W * pitch; }
int64_t weight_floats(const Conv2dParams& q) { return q.O * q.kH * q.kW * q.C; }

const char* cannot(const Call& c, Can can = {}) {
  if (const char* why = declines_common(c, can)) return why;
  if (get_conv_algorithm() == "direct") return "conv algorithm is direct";
  const auto& p = c.as<Conv2dParams>();
  if (p.sH != 2 || p.sW != 2 || p.kH != p.kW) return "not a square window of stride 2";
  if (p.kH < 5 || p.kH > 10) return "window is not 5 to 10";
  if (p.dH != 1 || p.dW != 1 || p.groups != 1) return "dilation or groups";
  if (std::max(std::max(p.pT, p.pB), std::max(p.pL, p.pR)) >= p.kH) return "padding of the window's size or more";
  return p.N * p.oH * p.oW * p.H * p.W == 0 ? "no pixels" : nullptr;
}

void copy_or_clear(float* dst, const float* src, int64_t floats) {
  const size_t bytes = static_cast<size_t>(floats) * 4;
  if (src)
    std::memcpy(dst, src, bytes);
  else
    std::memset(dst, 0, bytes);
}

// Of few channels without a call for each pixel.
void copy_pair(float* dst, const float* src, int64_t floats) {
  if (floats == 6)
    std::memcpy(dst, src, 6 * sizeof(float));
  else if (floats == 2)
    std::memcpy(dst, src, 2 * sizeof(float));
  else
    std::memcpy(dst, src, static_cast<size_t>(floats) * sizeof(float));
}

// Both columns of a pair lie side by side in x, as do their parts.
void split_image(const Conv2dParams& p, const Conv2dParams& q, const float* x, int64_t pitch, float* split) {
  const int64_t pair = 2 * p.C;
  parallel_for(p.N * q.H, ceil_div(8 * 1024, q.W * pitch), [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      float* d = split + row * q.W * pitch;
      const int64_t n = row / q.H, h0 = 2 * (row % q.H) - p.pT;
      for (int64_t j = 0; j < q.W; ++j, d += pitch) {
        const int64_t w = 2 * j - p.pL;
        for (int64_t r = 0; r < 2; ++r) {
          const int64_t h = h0 + r;
          const float* s = h >= 0 && h < p.H ? x + ((n * p.H + h) * p.W + w) * p.C : nullptr;
          if (s && w >= 0 && w + 1 < p.W)
            copy_pair(d + r * pair, s, pair);
          else
            for (int64_t c = 0; c < 2; ++c)
              copy_or_clear(d + r * pair + c * p.C, s && w + c >= 0 && w + c < p.W ? s + c * p.C : nullptr, p.C);
        }
        for (int64_t c = 2 * pair; c < pitch; ++c) d[c] = 0;
      }
    }
  });
}

// The transpose: pixels that no window reaches are zero.
void join_image(const Conv2dParams& p, const Conv2dParams& q, const float* split, float* x) {
  parallel_for(p.N * p.H, ceil_div(8 * 1024, p.W * p.C), [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t n = row / p.H, h = row % p.H + p.pT;
      for (int64_t w = p.pL; w < p.W + p.pL; ++w) {
        const int64_t i = h / 2, j = w / 2, part = h % 2 * 2 + w % 2;
        const float* s = split + ((n * q.H + i) * q.W + j) * q.C + part * p.C;
        copy_or_clear(x + (row * p.W + w - p.pL) * p.C, i < q.H && j < q.W ? s : nullptr, p.C);
      }
    }
  });
}

// Calls f(tap of w or -1, tap and parity of the split weights).
template <class F>
void for_each_tap(const Conv2dParams& p, const Conv2dParams& q, F&& f) {
  for (int64_t i = 0; i < q.kH; ++i)
    for (int64_t j = 0; j < q.kW; ++j)
      for (int64_t part = 0; part < 4; ++part) {
        const int64_t h = 2 * i + part / 2, w = 2 * j + part % 2;
        f(h < p.kH && w < p.kW ? h * p.kW + w : -1, (i * q.kW + j) * 4 + part);
      }
}

int64_t filters_at_a_time(const Conv2dParams& q) { return ceil_div(8 * 1024, q.kH * q.kW * q.C); }

void split_weights(const Conv2dParams& p, const Conv2dParams& q, const float* w, float* split) {
  parallel_for(p.O, filters_at_a_time(q), [&](int64_t begin, int64_t end, int) {
    for (int64_t o = begin; o < end; ++o)
      for_each_tap(p, q, [&](int64_t from, int64_t to) {
        copy_or_clear(split + (o * q.kH * q.kW * 4 + to) * p.C,
                      from < 0 ? nullptr : w + (o * p.kH * p.kW + from) * p.C, p.C);
      });
  });
}

void join_weights(const Conv2dParams& p, const Conv2dParams& q, const float* split, float* w) {
  parallel_for(p.O, filters_at_a_time(q), [&](int64_t begin, int64_t end, int) {
    for (int64_t o = begin; o < end; ++o)
      for_each_tap(p, q, [&](int64_t to, int64_t from) {
        if (to >= 0)
          copy_or_clear(w + (o * p.kH * p.kW + to) * p.C, split + (o * q.kH * q.kW * 4 + from) * p.C, p.C);
      });
  });
}

// A call of the convolution of stride 1; its workspace follows the image and the weights.
struct Split {
  const Conv2dParams p, q;
  const int64_t pitch;  // of the image
  Operand in[5], out[5];
  float *image, *weights;
  int64_t bytes;
  Call call;
  explicit Split(const Call& c, bool whole_vectors = false)
      : p(c.as<Conv2dParams>()), q(parities_of(p)), pitch(whole_vectors ? winograd_padded(q.C) : q.C), call(c) {
    std::copy(c.in.begin(), c.in.end(), in);
    std::copy(c.out.begin(), c.out.end(), out);
    Carve carve(c.workspace);
    image = carve.take<float>(image_floats(q, pitch)), weights = carve.take<float>(weight_floats(q));
    bytes = carve.used();
    call.params = &q, call.in = {in, c.in.size()}, call.out = {out, c.out.size()};
    call.workspace = c.workspace ? static_cast<char*>(c.workspace) + bytes : nullptr;
  }
  Split(const Split&) = delete;
};

}  // namespace

const char* parities_cannot(const Call& c) { return cannot(c, {.moments = true}); }
const char* parities_bwd_cannot(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  if (const char* why = cannot(c)) return why;
  return p.kH == 7 || p.kH == 8 ? "window is 7 or 8" : nullptr;
}

const char* parities_declines(const Call& c) {
  if (const char* why = parities_cannot(c)) return why;
  const auto& p = c.as<Conv2dParams>();
  return winograd_not_worth_it(parities_of(p), WinogradPass::forward, p.kH * p.kW);
}
namespace {

struct Forward {
  Split split;
  WinogradTask task;
  MomentsSpace moments;
  explicit Forward(const Call& c) : split(c, true), task(task_of(split)), moments(moments_of(split, task)) {}
  int64_t bytes() const { return split.bytes + winograd_windows_workspace(task, false) + moments.bytes; }

 private:
  static WinogradTask task_of(const Split& s) {
    WinogradTask t = winograd_task(s.q);
    t.whole_pixels = 1, t.x_w = s.pitch, t.x_h = s.q.W * t.x_w, t.x_n = s.q.H * t.x_h, t.act = s.q.act.act;
    t.x = s.image, t.w = s.weights;
    return t;
  }
  static MomentsSpace moments_of(const Split& s, const WinogradTask& t) {
    char* base = static_cast<char*>(s.call.workspace);
    return {s.p, winograd_parts(t, false), base ? base + winograd_windows_workspace(t, false) : nullptr};
  }
};

}  // namespace

int64_t parities_workspace(const Call& c) {
  Call plan = c;
  plan.workspace = nullptr;
  return Forward(plan).bytes();
}
void parities_run(const Call& c) {
  Forward f(c);
  const Conv2dParams& p = f.split.p;
  split_image(p, f.split.q, c.in[0].as<float>(), f.split.pitch, f.split.image);
  split_weights(p, f.split.q, c.in[1].as<float>(), f.split.weights);
  f.task.y = c.out[0].as<float>();
  f.task.bias = p.has_bias ? c.in[2].as<float>() : nullptr;
  f.task.residual = p.has_residual ? c.in[c.in.size() - 1].as<float>() : nullptr;
  f.task.moments = f.moments.out;
  run_winograd(f.task, false, f.split.call.workspace);
  f.moments.merge(c);
}

const char* parities_bwd_data_declines(const Call& c) {
  if (const char* why = parities_bwd_cannot(c)) return why;
  if (c.in.size() > 2) return "bias";
  const auto& p = c.as<Conv2dParams>();
  return winograd_not_worth_it(parities_of(p), WinogradPass::bwd_data, p.kH * p.kW);
}
int64_t parities_bwd_data_workspace(const Call& c) {
  const Split s(c);
  return s.bytes + winograd_bwd_data_workspace(s.call);
}
void parities_bwd_data_run(const Call& c) {
  Split s(c);
  split_weights(s.p, s.q, c.in[1].as<float>(), s.weights);
  s.in[1].data = s.weights, s.out[0].data = s.image;
  winograd_bwd_data_run(s.call);
  join_image(s.p, s.q, s.image, c.out[0].as<float>());
}

const char* parities_bwd_weights_declines(const Call& c) {
  if (const char* why = parities_bwd_cannot(c)) return why;
  const auto& p = c.as<Conv2dParams>();
  return winograd_not_worth_it(parities_of(p), WinogradPass::bwd_weights, p.kH * p.kW);
}
int64_t parities_bwd_weights_workspace(const Call& c) {
  const Split s(c);
  return s.bytes + winograd_bwd_weights_workspace(s.call);
}
void parities_bwd_weights_run(const Call& c) {
  Split s(c);
  split_image(s.p, s.q, c.in[0].as<float>(), s.pitch, s.image);
  s.in[0].data = s.image, s.out[0].data = s.weights;
  winograd_bwd_weights_run(s.call);
  join_weights(s.p, s.q, s.weights, c.out[0].as<float>());
}

}  // namespace fastcnn::cpu
