// What it is: losses of probabilities, scores and rates, as compositions of ops, which give them gradients of any
// order. What it is not: losses of class ids (loss.cpp) or fused ones (pointwise_loss.cpp).
#include <cmath>

#include "graph/emit.h"
#include "ops/loss.h"
#include "ops/operands.h"

namespace fastcnn {
namespace {

constexpr double kLeastLog = -100;   // PyTorch's bounds: log(0) counts as this,
constexpr double kLeastVar = 1e-12;  // and slopes of the logarithms end here

// In eager mode on the CPU alone, where values are at hand. NaN passes: what a net gave may diverge.
void check_unit(const char* op, const char* name, const Tensor& t) {
  if (t.is_symbolic() || t.device().type != DeviceType::cpu || t.numel() == 0) return;
  GradMode off(false);
  const double low = amin(t).item(), high = amax(t).item();
  check(!(low < 0) && !(high > 1), op, ": expected ", name, " between 0 and 1, got values from ", low, " to ",
        high);
}

// one_hot names itself in its message.
void check_classes(const char* op, const ClassLoss& c) {
  if (c.target.is_symbolic() || c.target.device().type != DeviceType::cpu) return;
  const int64_t* id = c.target.data<int64_t>();
  for (int64_t i = 0; i < c.target.numel(); ++i)
    check<IndexError>(id[i] >= 0 && id[i] < c.classes, op, ": expected class ids in [0, ", c.classes, "), got ",
                      id[i]);
}

Tensor log_at_least(const Tensor& logs) { return clamp(logs, kLeastLog, {}); }

// A composed gradient would be 0 * inf at 0 and 1.
std::vector<Tensor> vjp_bce(TapeNode& n, const std::vector<Tensor>& g) {
  Tensor x = n.input(0), t = n.input(1);
  std::vector<Tensor> r(2);
  if (n.needs(0)) r[0] = mul(g[0], div(sub(x, t), clamp(mul(x, affine(x, -1, 1)), kLeastVar, {})));
  if (n.needs(1)) r[1] = mul(g[0], sub(log_at_least(log1p(neg(x))), log_at_least(log(x))));
  return r;
}
const Rule bce_rule{"binary_cross_entropy", vjp_bce, 0b11};

Tensor bce(const Tensor& x, const Tensor& t) {
  std::vector<Tensor> out(1);
  {
    GradMode off(false);
    out[0] = neg(add(mul(t, log_at_least(log(x))), mul(affine(t, -1, 1), log_at_least(log1p(neg(x))))));
  }
  record_on_tape(bce_rule, Params(), {x, t}, out);
  return out[0];
}

}  // namespace

Tensor binary_cross_entropy(const Tensor& input, const Tensor& target, const Tensor& weight,
                            const std::string& reduction) {
  const char* op = "binary_cross_entropy";
  Reduction r = parse_reduction(op, reduction);
  Tensor x = wide(op, input);
  check(target.shape() == x.shape(), op, ": expected a target of shape ", x.shape(), ", got ", target.shape());
  check_unit(op, "probabilities", x);
  Tensor t = paired(op, x, target);
  check_unit(op, "targets", t);
  Tensor loss = bce(x, t);
  if (weight.defined()) {
    loss = mul(loss, cast(weight, x.dtype()));
    check(loss.shape() == x.shape(), op, ": weight of shape ", weight.shape(),
          " does not broadcast to the input's shape ", x.shape());
  }
  return reduced(loss, r);
}

Tensor soft_margin_loss(const Tensor& input, const Tensor& target, const std::string& reduction) {
  const char* op = "soft_margin_loss";
  Reduction r = parse_reduction(op, reduction);
  Tensor x = wide(op, input);
  // The threshold lies where the branches agree to the last bit of float64.
  return reduced(softplus(neg(mul(paired(op, x, target), x)), 1, 40), r);
}

Tensor multilabel_soft_margin_loss(const Tensor& input, const Tensor& target, const Tensor& weight,
                                   const std::string& reduction) {
  const char* op = "multilabel_soft_margin_loss";
  Reduction r = parse_reduction(op, reduction);
  check(input.ndim() >= 1, op, ": expected logits of shape (…, C), got ()");
  const int64_t classes = input.shape()[input.ndim() - 1];
  if (weight.defined())
    check(weight.shape() == Dims{classes}, op, ": expected a weight of shape ", Dims{classes}, ", got ",
          weight.shape());
  Tensor x = wide(op, input);
  check(target.shape() == x.shape(), op, ": expected a target of shape ", x.shape(), ", got ", target.shape());
  Tensor each = binary_cross_entropy_with_logits(x, paired(op, x, target), weight, {}, "none");
  return reduced(mean(each, {-1}), r);
}

Tensor multi_margin_loss(const Tensor& input, const Tensor& target, int64_t p, double margin, const Tensor& weight,
                         const std::string& reduction) {
  const char* op = "multi_margin_loss";
  Reduction r = parse_reduction(op, reduction);
  check(p == 1 || p == 2, op, ": expected p 1 or 2, got ", p);
  check(input.ndim() == 1 || input.ndim() == 2, op, ": expected scores (N, C) or (C), got shape ", input.shape());
  ClassLoss c = class_loss(op, input, target, weight);
  check_classes(op, c);
  Tensor own = unsqueeze(c.target, 1), others = one_hot(c.target, c.classes, c.rows.dtype());
  Tensor short_of = relu(affine(sub(c.rows, gather(c.rows, 1, own)), 1, margin));
  short_of = mul(p == 1 ? short_of : square(short_of), affine(others, -1, 1));
  Tensor loss = mean(short_of, {1});
  if (weight.defined()) loss = mul(loss, index_select(c.weight, 0, c.target));
  return reduced(reshape(loss, c.shape), r);
}

Tensor poisson_nll_loss(const Tensor& input, const Tensor& target, bool log_input, bool full_loss, double eps,
                        const std::string& reduction) {
  const char* op = "poisson_nll_loss";
  Reduction r = parse_reduction(op, reduction);
  check(eps >= 0, op, ": expected eps >= 0, got ", eps);
  Tensor x = wide(op, input), t = paired(op, x, target);
  Tensor loss = log_input ? sub(exp(x), mul(t, x)) : sub(x, mul(t, log(affine(x, 1, eps))));
  if (full_loss) {  // Stirling's formula of log(t!), for t > 1
    Tensor one = ones({}, x.dtype(), x.device()), many = gt(t, one), n = where(many, t, one);
    Tensor stirling = add(sub(mul(n, log(n)), n), affine(log(affine(n, 2 * M_PI, 0)), 0.5, 0));
    loss = add(loss, where(many, stirling, zeros({}, x.dtype(), x.device())));
  }
  return reduced(loss, r);
}

Tensor gaussian_nll_loss(const Tensor& input, const Tensor& target, const Tensor& var, bool full_loss, double eps,
                         const std::string& reduction) {
  const char* op = "gaussian_nll_loss";
  Reduction r = parse_reduction(op, reduction);
  check(eps > 0, op, ": expected eps > 0, got ", eps);
  Tensor x = wide(op, input), t = paired(op, x, target), v = cast(var, x.dtype());
  const int n = x.ndim();
  Dims per_row = x.shape();
  if (n > 0) per_row[n - 1] = 1;
  if (n > 0 && v.ndim() == n - 1 && n > 1) v = unsqueeze(v, -1);
  check(v.shape() == x.shape() || v.shape() == per_row || var.ndim() == 0, op,
        ": expected a variance of the input's shape ", x.shape(),
        ", of that without its last dim or with 1 there, "
        "or one number, got ",
        var.shape());
  if (!v.is_symbolic() && v.device().type == DeviceType::cpu && v.numel() > 0) {
    GradMode off(false);
    const double low = amin(v).item();
    check(!(low < 0), op, ": expected variances >= 0, got ", low);
  }
  // Not below eps, but with the gradient of the variance itself, as PyTorch.
  v = add(v, sub(clamp(v, eps, {}), v).detach());
  Tensor loss = affine(add(log(v), div(square(sub(x, t)), v)), 0.5, full_loss ? 0.5 * std::log(2 * M_PI) : 0);
  return reduced(loss, r);
}

}  // namespace fastcnn
