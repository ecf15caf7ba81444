// What it is: convolutions whose stride and dilation have a common divisor, all passes, and gradients of the data
// of 1x1 ones with a stride whose pixels are no whole lines: they read every g-th row and column of the image
// alone, which are an image of their own with stride and dilation divided by g. Whatever takes that one (Winograd,
// planes, …) runs on a copy. What it is not: arithmetic.
#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

#include "backend/cpu/conv2d_adaptors.h"
#include "backend/cpu/conv2d_tasks.h"
#include "backend/cpu/lists.h"
#include "backend/cpu/threads.h"
#include "backend/cpu/workspace.h"

namespace fastcnn::cpu {
namespace {

struct Axis {
  int64_t step, first, size, pad;  // pixels first, first + step, …
  Axis(int64_t image, int64_t taps, int64_t& stride, int64_t& dilation, int64_t before) {
    if (taps == 1) dilation = stride;  // any dilation is the same to one tap
    step = std::gcd(stride, dilation);
    stride /= step, dilation /= step;
    pad = ceil_div(before, step), first = pad * step - before;
    size = std::max<int64_t>(0, ceil_div(image - first, step));
  }
};

struct Subsampled {
  const Conv2dParams& from;
  Conv2dParams p;
  Axis h, w;

  explicit Subsampled(const Conv2dParams& c)
      : from(c), p(c), h(c.H, c.kH, p.sH, p.dH, c.pT), w(c.W, c.kW, p.sW, p.dW, c.pL) {
    p.H = h.size, p.W = w.size, p.pT = h.pad, p.pL = w.pad;
    p.pB = std::max<int64_t>(0, (p.oH - 1) * p.sH + (p.kH - 1) * p.dH + 1 - p.H - p.pT);
    p.pR = std::max<int64_t>(0, (p.oW - 1) * p.sW + (p.kW - 1) * p.dW + 1 - p.W - p.pL);
  }
  int64_t floats() const { return p.N * p.H * p.W * p.C; }

  void take(const float* image, float* part) const {
    parallel_for(p.N * p.H, rows_at_once(), [&](int64_t b, int64_t e, int) {
      for (int64_t row = b; row < e; ++row) {
        const float* src = image + first_of(row);
        float* dst = part + row * p.W * p.C;
        if (w.step == 1)
          std::memcpy(dst, src, bytes(p.W));
        else
          for (int64_t i = 0; i < p.W; ++i) std::memcpy(dst + i * p.C, src + i * w.step * p.C, bytes(1));
      }
    });
  }
  // Pixels that no output sees have the bias alone, or zero.
  void spread(const float* part, const float* bias, float* image) const {
    parallel_for(p.N * from.H, rows_at_once(), [&](int64_t b, int64_t e, int) {
      for (int64_t row = b; row < e; ++row) {
        float* dst = image + row * from.W * p.C;
        if (bias)
          for (int64_t i = 0; i < from.W; ++i) std::memcpy(dst + i * p.C, bias, bytes(1));
        else
          std::memset(dst, 0, bytes(from.W));
        const int64_t y = row % from.H - h.first;
        if (y < 0 || y % h.step != 0) continue;
        const float* src = part + (row / from.H * p.H + y / h.step) * p.W * p.C;
        for (int64_t i = 0; i < p.W; ++i) std::memcpy(dst + (w.first + i * w.step) * p.C, src + i * p.C, bytes(1));
      }
    });
  }

 private:
  size_t bytes(int64_t pixels) const { return static_cast<size_t>(pixels * p.C) * 4; }
  int64_t rows_at_once() const { return ceil_div(8 * 1024, from.W * p.C); }
  int64_t first_of(int64_t row) const {
    return ((row / p.H * from.H + h.first + row % p.H * h.step) * from.W + w.first) * p.C;
  }
};

// The call on the part, whose memory comes first in the workspace; its image is operand `in` or `out`.
struct Part {
  Subsampled s;
  std::vector<Operand> in, out;
  Call call;
  int64_t bytes;
  Part(const Call& c, bool image_out)
      : s(c.as<Conv2dParams>()), in(c.in.begin(), c.in.end()), out(c.out.begin(), c.out.end()), call(c) {
    Carve space(c.workspace);
    Operand& image = image_out ? out[0] : in[0];
    image.data = space.take<float>(s.floats());
    image.shape[2] = s.p.H, image.shape[3] = s.p.W;
    image.strides[0] = s.p.H * s.p.W * s.p.C, image.strides[2] = s.p.W * s.p.C;
    bytes = space.used();
    call.params = &s.p, call.in = in, call.out = out, call.prepared = nullptr;
    call.workspace = c.workspace ? static_cast<char*>(c.workspace) + bytes : nullptr;
  }
  Part(const Part&) = delete;
};

const char* declines(const Call& c, List list, bool image_out) {
  if (const char* why = declines_common(c)) return why;
  const auto& p = c.as<Conv2dParams>();
  if (p.N * p.oH * p.oW * p.C * p.O == 0) return "empty";
  if (p.groups == p.C && p.kH * p.kW <= 4 && p.N * p.H * p.W * p.C >= kStreamFloats)
    return "a few products of pixels that come from memory";
  const Part d(c, image_out);
  if (d.s.h.step * d.s.w.step == 1) return "all pixels are of one kind";
  if (d.s.floats() == 0) return "all taps see padding";
  return first_taker(list, d.call) ? nullptr : "nothing takes the part";
}

int64_t workspace(const Call& c, List list, bool image_out) {
  Call bare = c;
  bare.workspace = nullptr;
  const Part d(bare, image_out);
  const Implementation* i = first_taker(list, d.call);
  return d.bytes + (i->workspace ? i->workspace(d.call) : 0);
}

void run_on_part(const Call& c, List list) {
  const Part d(c, false);
  d.s.take(c.in[0].as<float>(), d.in[0].as<float>());
  first_taker(list, d.call)->run(d.call);
}

}  // namespace

const char* subsampled_declines(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  if (p.kH * p.kW == 1) return "pixels of a single tap are read in place";
  return declines(c, conv2d_list(), false);
}
int64_t subsampled_workspace(const Call& c) { return workspace(c, conv2d_list(), false); }
void subsampled_run(const Call& c) { run_on_part(c, conv2d_list()); }

const char* subsampled_bwd_data_declines(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  if (p.kH * p.kW == 1 && p.C % kAlign == 0) return "pixels of whole lines are written in place";
  return declines(c, conv2d_bwd_data_list(), true);
}
int64_t subsampled_bwd_data_workspace(const Call& c) { return workspace(c, conv2d_bwd_data_list(), true); }
void subsampled_bwd_data_run(const Call& c) {
  const Part d(c, true);
  first_taker(conv2d_bwd_data_list(), d.call)->run(d.call);
  d.s.spread(d.out[0].as<float>(), c.in.size() > 2 ? c.in[2].as<float>() : nullptr, c.out[0].as<float>());
}

const char* subsampled_bwd_weights_declines(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  if (p.kH * p.kW == 1) return "pixels of a single tap are read in place";
  return declines(c, conv2d_bwd_weights_list(), false);
}
int64_t subsampled_bwd_weights_workspace(const Call& c) { return workspace(c, conv2d_bwd_weights_list(), false); }
void subsampled_bwd_weights_run(const Call& c) { run_on_part(c, conv2d_bwd_weights_list()); }

}  // namespace fastcnn::cpu
