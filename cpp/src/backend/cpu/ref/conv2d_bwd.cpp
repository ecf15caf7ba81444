// What it is: both gradients of a convolution before a batch norm, as its parts: the gradient of the convolution's
// output from coef, then the references of the two backward passes. What it is not: one pass.
#include <algorithm>
#include <cstddef>
#include <vector>

#include "backend/cpu/ref/access.h"
#include "backend/cpu/ref/act.h"

namespace fastcnn::cpu::ref {

void conv2d_bwd(const Call& given) {
  const auto& p = given.as<Conv2dBwdParams>();
  Call c = given;
  std::vector<Operand> in(given.in.begin(), given.in.end());
  const bool both = given.out.size() > 1;
  if (!both) in.insert(in.begin() + 1, Operand{});  // where the weights would be
  c.in = in;
  expect_floating(c.in[0], "conv2d_bwd");
  const Reader dy(c.in[0]), y(c.in[3]), mean(c.in[4]), coef(c.in[5]);
  const bool act = p.norm_act.act != Act::none;
  Reader affine;
  if (act) affine = c.in[6];
  const int64_t O = p.conv.O, n = p.conv.N * p.conv.oH * p.conv.oW * O;
  std::vector<std::byte> memory(static_cast<size_t>(n) * dtype_size(c.in[0].dtype));
  Operand grad = c.in[0];
  grad.data = memory.data();
  const Writer g(grad);
  for (int64_t i = 0; i < n; ++i) {
    const int64_t o = i % O;
    const double centred = y[i] - mean[o];
    const double z = act ? centred * affine[o] + affine[O + o] : 0;
    const double dz = act ? act_bwd_from_input(p.norm_act, dy[i], z) : dy[i];
    g.set(i, coef[o] * dz + coef[O + o] * centred + coef[2 * O + o]);
  }
  Call part = c;
  part.params = &p.conv;
  if (both) {
    const Operand data[] = {grad, c.in[1]};
    part.in = data, part.out = c.out.first(1);
    conv2d_bwd_data(part);
  }
  const size_t at = act ? 7 : 6;
  std::vector<Operand> weights{c.in[2], grad};
  if (p.conv.has_norm_in) weights.insert(weights.end(), c.in.begin() + at, c.in.begin() + at + 2);
  part.in = weights, part.out = c.out.subspan(both, 1);
  conv2d_bwd_weights(part);
  if (!p.has_sums) return;
  const Reader x(c.in[2]), dx(c.out[0]), norm_x(c.in[p.has_residual ? at : 2]), mean_in(c.in[at + p.has_residual]);
  Reader affine_in, dy2;
  if (!p.has_residual) affine_in = c.in[at + 1];
  if (p.has_dy2) dy2 = c.in[at + 2];
  const Writer dz(c.out[0]), sums(c.out[2]);
  const int64_t C = p.conv.C, pixels = p.conv.N * p.conv.H * p.conv.W;
  for (int64_t ch = 0; ch < C; ++ch) {
    double sum = 0, dot = 0;
    for (int64_t i = ch; i < pixels * C; i += C) {
      const double centred = norm_x[i] - mean_in[ch], d = dx[i] + (p.has_dy2 ? dy2[i] : 0);
      const double g = p.has_residual
                           ? act_bwd(p.out_act, d, x[i])
                           : act_bwd_from_input(p.conv.in_act, d, centred * affine_in[ch] + affine_in[C + ch]);
      dz.set(i, g);
      sum += g, dot += g * centred;
    }
    sums.set(ch, sum), sums.set(C + ch, dot);
  }
}

}  // namespace fastcnn::cpu::ref
