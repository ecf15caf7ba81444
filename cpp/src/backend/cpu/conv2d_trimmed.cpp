// What it is: conv2d and conv2d_bwd_data without the outer taps of a window that see nothing but padding, as those
// of dilations beyond the image's size or of images a pixel wide: the dense and depthwise kernels get the other
// taps and less padding. What it is not: arithmetic. Gradients of weights: conv2d_taps.cpp.
#include <algorithm>
#include <cstring>
#include <vector>

#include "backend/cpu/conv2d_adaptors.h"
#include "backend/cpu/conv2d_span.h"
#include "backend/cpu/conv2d_tasks.h"
#include "backend/cpu/threads.h"

namespace fastcnn::cpu {
namespace {

// Taps [from, to) of an axis that see the image for some output.
struct Live {
  int64_t from, to;
  Live(int64_t taps, int64_t size, int64_t outputs, int64_t stride, int64_t dilation, int64_t before)
      : from(0), to(taps) {
    auto dead = [&](int64_t tap) { return TapSpan(tap, size, outputs, stride, dilation, before).count() == 0; };
    while (from < to && dead(from)) ++from;
    while (to > from && dead(to - 1)) --to;
  }
};

struct Trimmed {
  Conv2dParams p;
  Live rows, columns;
  int64_t taps, Cg;

  explicit Trimmed(const Conv2dParams& c)
      : p(c),
        rows(c.kH, c.H, c.oH, c.sH, c.dH, c.pT),
        columns(c.kW, c.W, c.oW, c.sW, c.dW, c.pL),
        taps(c.kH * c.kW),
        Cg(c.C / c.groups) {
    p.kH = rows.to - rows.from, p.kW = columns.to - columns.from;
    p.pT -= rows.from * p.dH, p.pB -= (c.kH - rows.to) * p.dH;
    p.pL -= columns.from * p.dW, p.pR -= (c.kW - columns.to) * p.dW;
    if (p.kH == 1) p.dH = 1;
    if (p.kW == 1) p.dW = 1;
  }
  int64_t floats() const { return p.O * p.kH * p.kW * Cg; }
  const char* declines() const {
    if (p.kH * p.kW == taps) return "all taps see the image";
    if (p.kH * p.kW == 0) return "no tap sees the image";
    return std::min({p.pT, p.pB, p.pL, p.pR}) < 0 ? "the image reaches beyond the other taps" : nullptr;
  }
};

void copy_live(const Trimmed& t, const Conv2dParams& from, const float* w, float* live) {
  const int64_t row = t.p.kW * t.Cg;
  parallel_for(t.p.O, 64, [&](int64_t b, int64_t e, int) {
    for (int64_t o = b; o < e; ++o)
      for (int64_t kh = 0; kh < t.p.kH; ++kh)
        std::memcpy(live + (o * t.p.kH + kh) * row,
                    w + (o * t.taps + (t.rows.from + kh) * from.kW + t.columns.from) * t.Cg,
                    static_cast<size_t>(row) * 4);
  });
}

constexpr InnerPass kForward = {{depthwise_declines, depthwise_workspace, depthwise_run},
                                {dense_declines, dense_workspace, dense_run},
                                {.moments = true}};
constexpr InnerPass kBwdData = {
    {depthwise_bwd_data_declines, depthwise_bwd_data_workspace, depthwise_bwd_data_run},
    {dense_bwd_data_declines, dense_bwd_data_workspace, dense_bwd_data_run},
    {}};

Call inner_call(const Call& c, const Trimmed& t) {
  Call d = c;
  d.params = &t.p;
  return d;
}
const char* declines(const Call& c, const InnerPass& pass) {
  if (const char* why = declines_common(c, pass.can)) return why;
  const auto& p = c.as<Conv2dParams>();
  if (p.N * p.oH * p.oW * p.C * p.O == 0) return "empty";
  const Trimmed t(p);
  if (const char* why = t.declines()) return why;
  const Call d = inner_call(c, t);
  return pass.of(d).declines(d);
}

int64_t workspace(const Call& c, const InnerPass& pass) {
  const Trimmed t(c.as<Conv2dParams>());
  const Call d = inner_call(c, t);
  return aligned(t.floats()) * 4 + pass.of(d).workspace(d);
}

void run(const Call& c, const InnerPass& pass) {
  const auto& p = c.as<Conv2dParams>();
  const Trimmed t(p);
  std::vector<Operand> in(c.in.begin(), c.in.end());
  float* live = static_cast<float*>(c.workspace);
  copy_live(t, p, c.in[1].as<float>(), live);
  in[1].data = live;
  Call d = inner_call(c, t);
  d.in = in, d.workspace = live + aligned(t.floats());
  pass.of(d).run(d);
}

}  // namespace

const char* trimmed_declines(const Call& c) { return declines(c, kForward); }
int64_t trimmed_workspace(const Call& c) { return workspace(c, kForward); }
void trimmed_run(const Call& c) { run(c, kForward); }

const char* trimmed_bwd_data_declines(const Call& c) { return declines(c, kBwdData); }
int64_t trimmed_bwd_data_workspace(const Call& c) { return workspace(c, kBwdData); }
void trimmed_bwd_data_run(const Call& c) { run(c, kBwdData); }

}  // namespace fastcnn::cpu
