// What it is: depthwise_pointwise on the CPU. A thread walks down its rows of outputs in strips: it makes the rows
// that the depthwise convolution reads, runs that and then the last 1x1 convolution, all in scratch memory that
// stays in its cache. The kernels are those of the parts, and so are the sums. What it is not: arithmetic.
#include <algorithm>

#include "backend/cpu/conv2d_tasks.h"
#include "backend/cpu/lists.h"
#include "backend/cpu/ref/ref.h"
#include "backend/cpu/row_strips.h"
#include "backend/cpu/scratch.h"
#include "backend/cpu/strips.h"
#include "backend/cpu/threads.h"

namespace fastcnn::cpu {
namespace {

constexpr int64_t kStripFloats = 96 * 1024;  // of what lies between, beside the weights in L2
constexpr int64_t kWeightsFloats = 512 * 1024;
constexpr int64_t kProductPixels = 512;  // of one call of the dense kernel

struct Tasks {
  const DepthwisePointwiseParams& p;
  GemmTask expand, depthwise, pointwise;
  int64_t expand_floats = 0, depthwise_floats = 0, pointwise_floats = 0;  // of weights in the kernels' order
  int64_t rows = 1;                                                       // of outputs in a strip

  explicit Tasks(const Call& c) : p(c.as<DepthwisePointwiseParams>()) {
    const Conv2dParams d = depthwise_part(p);
    depthwise = forward_task(d);
    by_channel(depthwise, d);
    depthwise_floats = aligned(p.E * p.kH * p.kW);
    pointwise = dense(pointwise_part(p), pointwise_floats);
    if (p.has_expand) expand = dense(expand_part(p), expand_floats);
    while (rows < p.oH && strip_floats(rows + 1) <= kStripFloats) ++rows;
  }
  int64_t held_floats(int64_t out) const {
    return p.has_expand ? aligned(std::min(p.H, rows_read(depthwise, out)) * p.W * p.E) : 0;
  }
  int64_t strip_floats(int64_t out) const { return held_floats(out) + out * p.oW * p.E; }
  int64_t weights_floats() const { return expand_floats + depthwise_floats + pointwise_floats; }
  // Where the shares of two threads meet inside an image, both make the rows that both read.
  int64_t rows_made_twice() const {
    const int64_t overlap = std::max<int64_t>(0, rows_read(depthwise, 1) - p.sH), threads = num_threads();
    int64_t n = 0;
    for (int64_t i = 1; i < threads; ++i) n += p.N * p.oH * i / threads % p.oH ? overlap : 0;
    return n;
  }

 private:
  static GemmTask dense(const Conv2dParams& q, int64_t& floats) {
    GemmTask t = forward_task(q);
    t.N = t.H = t.oH = 1, t.W = t.oW = q.N * q.oH * q.oW;
    plan_gemm(t, lanes(), 1);
    t.groups = 1;
    floats = aligned(packed_floats(t, lanes()));
    return t;
  }
};

const char* declines(const Call& c) {
  if (!kernels()) return "isa is ref";
  const auto& p = c.as<DepthwisePointwiseParams>();
  for (const Operand& o : c.in)
    if (o.dtype != DType::float32) return "dtype is not float32";
  const Tasks t(c);
  if (t.strip_floats(1) > 2 * kStripFloats) return "long rows";
  if (t.weights_floats() > kWeightsFloats) return "weights that each strip would read from afar";
  if (p.N * p.oH < 3 * num_threads()) return "few rows for the threads";
  if (p.has_expand && 12 * t.rows_made_twice() > p.N * p.H) return "threads would make too many rows twice";
  return nullptr;
}

int64_t prepared_bytes(const Call& c) { return 4 * Tasks(c).weights_floats(); }
int64_t workspace(const Call& c) { return c.prepared ? 0 : prepared_bytes(c); }
uint32_t prepared_operands(const Call& c) {
  const auto& p = c.as<DepthwisePointwiseParams>();
  return (p.has_expand ? 1u << 1 : 0u) | 1u << depthwise_at(p) | 1u << pointwise_at(p);
}

void pack(const GemmTask& t, const float* src, float* dst, const KernelTable& k) {
  PackTask w;
  w.O = t.O, w.C = t.C, w.nc = t.nc, w.s_c = 1, w.s_o = w.s_kh = w.s_kw = t.C;
  w.src = src, w.dst = dst;
  run_pack(w, k);
}

void prepare(const Call& c, void* to) {
  const KernelTable& k = *kernels();
  const Tasks t(c);
  float* dst = static_cast<float*>(to);
  if (t.p.has_expand) pack(t.expand, c.in[1].as<float>(), dst, k);
  dst += t.expand_floats;
  const int64_t taps = t.p.kH * t.p.kW;
  k.transpose_matrix(c.in[depthwise_at(t.p)].as<float>(), taps, t.p.E, dst, 0, taps);
  pack(t.pointwise, c.in[pointwise_at(t.p)].as<float>(), dst + t.depthwise_floats, k);
}

// The 1x1 convolution t of pixels that lie side by side.
void on_pixels(GemmTask t, const float* x, float* y, const float* residual, int64_t pixels, const KernelTable& k) {
  for (int64_t at = 0, n = even(pixels, kProductPixels); at < pixels; at += n) {
    t.W = t.oW = t.owb = std::min(n, pixels - at);
    t.x = x + at * t.x_w, t.y = y + at * t.y_w, t.residual = residual ? residual + at * t.y_w : nullptr;
    k.gemm_windows(t, 0, 1);
  }
}

void run(const Call& c) {
  const auto& p = c.as<DepthwisePointwiseParams>();
  const KernelTable& k = *kernels();
  if (p.N == 0) return;
  if (!c.prepared) prepare(c, c.workspace);
  Tasks t(c);
  const float* w = static_cast<const float*>(c.prepared ? c.prepared : c.workspace);
  t.expand.w = w, t.depthwise.w = w + t.expand_floats, t.pointwise.w = w + t.expand_floats + t.depthwise_floats;
  auto bias = [&](int weights, int64_t has) { return has ? c.in[weights + 1].as<float>() : nullptr; };
  t.expand.bias = bias(1, p.has_expand && p.expand_bias);
  t.depthwise.bias = bias(depthwise_at(p), p.depthwise_bias);
  t.pointwise.bias = bias(pointwise_at(p), p.pointwise_bias);
  const float* x = c.in[0].as<float>();
  const float* residual = p.has_residual ? c.in[c.in.size() - 1].as<float>() : nullptr;
  float* y = c.out[0].as<float>();
  t.pointwise.y = y;
  choose_stream(t.pointwise, p.N * p.oH * p.oW * p.O, p.O);
  const int64_t held_floats = t.held_floats(t.rows), row = p.oW * p.E;
  const int64_t work = p.oW * p.E * (p.O + (p.has_expand ? p.sH * p.sW * p.C : 0));
  with_scratch(p.N * p.oH, ceil_div(128 * 1024, std::max<int64_t>(work, 1)), held_floats + t.rows * row,
               [&](int64_t begin, int64_t end, float* scratch) {
                 HeldRows held{scratch};
                 float* deep = scratch + held_floats;
                 for (int64_t from = begin, to; from < end; from = to) {
                   const int64_t image = from / p.oH, last = std::min(end, (image + 1) * p.oH);
                   to = from + even(last - from, t.rows);
                   GemmTask d = t.depthwise;
                   d.x = x + image * d.x_n;
                   if (p.has_expand) {
                     held.hold_for(d, from, to, [&](int64_t n, int64_t h0, int64_t h1, float* rows) {
                       const int64_t at = (n * p.H + h0) * p.W;
                       on_pixels(t.expand, x + at * p.C, rows, nullptr, (h1 - h0) * p.W, k);
                     });
                     d.x = held.scratch - held.h0 * d.x_h;
                     d.x_n = 0;  // nothing to fetch from memory
                   }
                   const int64_t oh = from - image * p.oH;
                   d.y = deep - oh * row;
                   k.conv2d_depthwise(d, oh, oh + to - from);
                   const int64_t at = from * p.oW;
                   on_pixels(t.pointwise, deep, y + at * p.O, residual ? residual + at * p.O : nullptr,
                             (to - from) * p.oW, k);
                 }
               });
}

constexpr Implementation kList[] = {
    {"strips", declines, workspace, run, prepared_bytes, prepare, prepared_operands},
    {"ref", nullptr, nullptr, ref::depthwise_pointwise},
};

}  // namespace

List depthwise_pointwise_list() { return kList; }

}  // namespace fastcnn::cpu
