// What it is: routing by agreement between capsules (Sabour, Frosst and Hinton 2017) as one op. What it is not:
// the layers around it (python/fastcnn/nn/capsule.py).
#include "ops/decompose.h"
#include "ops/loss.h"
#include "ops/operands.h"

namespace fastcnn {
namespace {

Tensor squash(const Tensor& s) {
  const Tensor squared = sum(mul(s, s), {-1}, true);
  return mul(s, div(squared, mul(affine(squared, 1, 1), sqrt(affine(squared, 1, 1e-8)))));
}

// Procedure 1 in ops: for devices without the kernel and for gradients of gradients.
Tensor routing_formula(const Tensor& u, const Tensor& weight, int64_t iterations) {
  const Dims& w = weight.shape();
  const int64_t n = u.shape()[0], I = w[0], J = w[1], D = w[2], K = w[3];
  Tensor votes = matmul(transpose(u, 0, 1), transpose(reshape(weight, {I, J * D, K}), 1, 2));  // (I, n, J * D)
  votes = transpose(reshape(votes, {I, n * J, D}), 0, 1);                                      // (n * J, I, D)
  Tensor v = squash(affine(sum(votes, {1}, true), 1 / static_cast<double>(J), 0)), logits;
  for (int64_t t = 1; t < iterations; ++t) {
    Tensor agreement = reshape(matmul(votes, transpose(v, 1, 2)), {n, J, I});
    logits = logits.defined() ? add(logits, agreement) : agreement;
    v = squash(matmul(reshape(softmax(logits, 1), {n * J, 1, I}), votes));
  }
  return reshape(v, {n, J, D});
}

std::vector<Tensor> vjp_capsule_routing(TapeNode& n, const std::vector<Tensor>& g);
const Rule capsule_routing_rule{"capsule_routing", vjp_capsule_routing, 0b11};
const Rule capsule_routing_bwd_rule{"capsule_routing"};

std::vector<Tensor> vjp_capsule_routing(TapeNode& n, const std::vector<Tensor>& g) {
  const auto& p = n.as<CapsuleRoutingParams>();
  if (grad_enabled())  // to be differentiated again
    return vjp_by_formula(n, g, 2, [&](const std::vector<Tensor>& in) -> std::vector<Tensor> {
      return {routing_formula(in[0], in[1], p.iterations)};
    });
  const DType t = g[0].dtype();
  return emit(capsule_routing_bwd_rule, OpKind::capsule_routing_bwd, p, {contiguous(g[0]), n.input(0), n.input(1)},
              {{{p.N, p.I, p.K}, t}, {{p.I, p.J, p.D, p.K}, t}});
}

}  // namespace

Tensor capsule_routing(const Tensor& u, const Tensor& weight, int64_t iterations) {
  const char* op = "capsule_routing";
  check_floating(op, "u", u), check_floating(op, "weight", weight);
  check(weight.ndim() == 4 && weight.numel() > 0, op,
        ": expected weight of shape (inputs, outputs, output size, input size) without a size of 0, got ",
        weight.shape());
  const Dims& w = weight.shape();
  check(u.ndim() == 3 && u.shape()[1] == w[0] && u.shape()[2] == w[3], op, ": expected u of shape (N, ", w[0],
        ", ", w[3], ") for weight of shape ", w, ", got ", u.shape());
  check(iterations >= 1 && iterations <= 100, op, ": expected iterations in [1, 100], got ", iterations);
  Tensor a = contiguous(wide(op, u)), b = contiguous(cast(wide(op, weight), a.dtype()));
  if (a.device().type != DeviceType::cpu || a.numel() == 0)
    return cast(routing_formula(a, b, iterations), u.dtype());
  CapsuleRoutingParams p;
  p.N = a.shape()[0], p.I = w[0], p.J = w[1], p.D = w[2], p.K = w[3], p.iterations = iterations;
  return cast(emit1(capsule_routing_rule, OpKind::capsule_routing, p, {a, b}, {{p.N, p.J, p.D}, a.dtype()}),
              u.dtype());
}

}  // namespace fastcnn
