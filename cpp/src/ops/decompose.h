// What it is: the gradient of an op by way of a formula made of differentiable ops: how fused backward
// kernels are differentiated again. What it is not: fast; second order only runs where somebody asks for it.
#pragma once
#include <vector>

#include "fastcnn/autograd.h"
#include "graph/emit.h"

namespace fastcnn {

// The same values as a fresh point of the tape: gradients stop there when asked for, and go on to the history
// of x when the result is differentiated again.
Tensor tape_alias(const Tensor& x);

// `build` maps the first `variables` inputs of the node to its outputs (fewer are fine); the rest are
// functions of those (statistics) and get no gradient.
template <class F>
std::vector<Tensor> vjp_by_formula(TapeNode& n, const std::vector<Tensor>& g, int variables, F&& build) {
  const bool again = grad_enabled();
  std::vector<Tensor> result(n.inputs.size()), in, wanted, outs, out_grads;
  std::vector<int> where;
  {
    GradMode on(true);
    for (int i = 0; i < variables; ++i) {
      Tensor t = n.input(i);
      if (n.needs(i)) {
        t = tape_alias(t);
        wanted.push_back(t);
        where.push_back(i);
      } else if (!again) {
        t = t.detach();
      }
      in.push_back(t);
    }
    std::vector<Tensor> y = build(in);
    for (size_t k = 0; k < y.size(); ++k) {
      if (!g[k].defined() || !y[k].requires_grad()) continue;
      outs.push_back(y[k]);
      out_grads.push_back(g[k]);
    }
  }
  if (outs.empty() || wanted.empty()) return result;
  std::vector<Tensor> got = grad(outs, wanted, out_grads, again, false, true);
  for (size_t k = 0; k < got.size(); ++k) result[where[k]] = got[k];
  return result;
}

}  // namespace fastcnn
