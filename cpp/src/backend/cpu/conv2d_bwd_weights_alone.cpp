// What it is: conv2d_bwd on the CPU where nothing asks for the gradient of x (the first layer of a net): strips of
// conv2d_bwd_weights, for each of which the gradient of the convolution's output is made in a thread's scratch and
// read there. Sums have the order of conv2d_bwd_weights alone. What it is not: arithmetic (kernels/), or a plan
// (grad_plan.cpp).
#include <cstring>
#include <vector>

#include "backend/cpu/conv2d_adaptors.h"
#include "backend/cpu/conv2d_bwd.h"
#include "backend/cpu/grad_plan.h"
#include "backend/cpu/lists.h"
#include "backend/cpu/scratch.h"
#include "backend/cpu/strips.h"

namespace fastcnn::cpu {
namespace {

// The call with operands where those of both gradients are: x stands for the weights, which are not read.
struct AsBoth {
  std::vector<Operand> in, out;
  Call call;
  explicit AsBoth(const Call& c) : in(c.in.begin(), c.in.end()), out{c.in[1], c.out[0]}, call(c) {
    in.insert(in.begin() + 1, c.in[1]);
    call.in = in, call.out = out;
  }
  AsBoth(const AsBoth&) = delete;
};

struct Alone {
  WeightsGradTask weights;
  bool fits;
  explicit Alone(const Conv2dParams& p) : weights(weights_task(p)) {
    weights.norm.on = p.has_norm_in != 0;
    fits = plan_weights_grad(weights, 1, lanes(), 1);
  }
  // Pixels of a strip are neighbours, and no other item reads them.
  bool whole_rows() const {
    const WeightsGradTask& w = weights;
    return w.B * w.nc == 1 && w.owb == w.oW && (w.nb == 1 || w.ohb == w.oH);
  }
  int64_t strips() const { return strip_count(weights); }
  int64_t pixels() const { return weights.nb * weights.ohb * weights.owb; }
};

struct AloneSpace {
  float *grad, *sums;
  int64_t bytes;
  AloneSpace(const Call& c, const Alone& a) {
    Carve w(c.workspace);
    grad = w.take<float>(OutputGrad::floats(a.weights.O));
    sums = w.take<float>(dense_weights_sums(a.weights));
    bytes = w.used();
  }
};

}  // namespace

const char* weights_alone_declines(const Call& c) {
  if (c.out.size() > 1) return "both gradients";
  if (const char* why = declines_common(conv_call(c), {.norm_in = true})) return why;
  if (const char* why = activation_declines(c.as<Conv2dBwdParams>())) return why;
  const auto& p = c.as<Conv2dBwdParams>().conv;
  if (p.N * p.oH * p.oW == 0) return "empty";
  const AsBoth all(c);
  const WeightsCall alone(all.call, nullptr, nullptr);
  for (const Implementation& k : conv2d_bwd_weights_list())
    if (!k.declines || !k.declines(alone.call)) {
      if (std::strcmp(k.name, "dense") != 0) return "another kernel takes the weights' gradient";
      break;
    }
  const Alone a(p);
  if (!a.fits || whole_window(p).C != p.C) return "no plan";
  return a.whole_rows() ? nullptr : "strips of parts of rows";
}

int64_t weights_alone_workspace(const Call& c) {
  Call plan = c;
  plan.workspace = nullptr;
  return AloneSpace(plan, Alone(c.as<Conv2dBwdParams>().conv)).bytes;
}

void weights_alone_run(const Call& c) {
  const auto& p = c.as<Conv2dBwdParams>();
  const KernelTable& k = *kernels();
  Alone a(p.conv);
  const AsBoth all(c);
  const AloneSpace space(c, a);
  const OutputGrad grad(all.call, space.grad);
  WeightsGradTask& w = a.weights;
  float* dw = c.out[0].as<float>();
  w.x = c.in[1].as<float>(), w.dw = dense_weights_sums(w) ? space.sums : dw;
  w.norm = norm_in(conv_call(all.call), norm_in_at(p));
  const float* y = c.in[2].as<float>();
  const int64_t strips = a.strips(), strips_h = ceil_div(w.oH, w.ohb), held = aligned(a.pixels() * w.O);
  // The first pixel of a strip.
  auto first = [&](int64_t s) { return (s / strips_h * w.nb * w.oH + s % strips_h * w.ohb) * w.oW; };
  with_scratch(w.chunks, 1, held + kGradFloats, [&](int64_t b, int64_t e, float* dy) {
    for (int64_t chunk = b; chunk < e; ++chunk)
      for (int64_t s = strips * chunk / w.chunks; s < strips * (chunk + 1) / w.chunks; ++s) {
        const int64_t from = first(s), to = s + 1 < strips ? first(s + 1) : w.N * w.oH * w.oW;
        grad.make(from, to, dy);
        WeightsGradTask q = w;
        q.dy = dy - from * w.O, q.strip0 = s, q.strip1 = s + 1;
        q.fetch_dy = floats_between(dy, y + to * w.O);
        k.conv2d_weights_grad(q, dy + held, chunk, chunk + 1);
      }
  });
  dense_weights_finish(w, dw);
}

}  // namespace fastcnn::cpu
