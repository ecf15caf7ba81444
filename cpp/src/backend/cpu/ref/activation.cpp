// What it is: naive activation, its derivative and its second derivative.
#include "backend/cpu/ref/access.h"
#include "backend/cpu/ref/act.h"

namespace fastcnn::cpu::ref {
namespace {

// The parameters as the tensor's dtype sees them, so that a value at a kink is at the kink.
ActParams parameters(const Call& c) {
  ActParams p = c.as<ActParams>();
  if (c.in[0].dtype != DType::float64) p.alpha = static_cast<float>(p.alpha), p.beta = static_cast<float>(p.beta);
  return p;
}

}  // namespace

void activation(const Call& c) {
  ActParams p = parameters(c);
  expect_floating(c.in[0], "activation");
  Reader x(c.in[0]);
  Writer y(c.out[0]);
  for (int64_t i = 0, n = c.in[0].numel(); i < n; ++i) y.set(i, apply_act(p, x[i]));
}

void activation_bwd(const Call& c) {
  ActParams p = parameters(c);
  expect_floating(c.in[0], "activation_bwd");
  Reader dy(c.in[0]), r(c.in[1]);
  Writer dx(c.out[0]);
  for (int64_t i = 0, n = c.in[0].numel(); i < n; ++i) dx.set(i, act_bwd(p, dy[i], r[i]));
}

void activation_bwd2(const Call& c) {
  ActParams p = parameters(c);
  expect_floating(c.in[0], "activation_bwd2");
  Reader g(c.in[0]), dy(c.in[1]), r(c.in[2]);
  Writer out(c.out[0]);
  for (int64_t i = 0, n = c.in[0].numel(); i < n; ++i) out.set(i, g[i] * dy[i] * act_second(p, r[i]));
}

}  // namespace fastcnn::cpu::ref
