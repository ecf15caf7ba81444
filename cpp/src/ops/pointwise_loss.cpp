// What it is: losses between two tensors of one shape. Against a target without gradient they are one fused
// kernel; with gradients of both sides, weights, or one number as target they are composed of ops.
#include <cstdio>

#include "graph/emit.h"
#include "ops/loss.h"

namespace fastcnn {

Reduction parse_reduction(const char* op, const std::string& r) {
  if (r == "none") return Reduction::none;
  if (r == "mean") return Reduction::mean;
  if (r == "sum") return Reduction::sum;
  throw ValueError(std::string(op) + ": expected reduction none, mean or sum, got '" + r + "'");
}

Tensor reduced(const Tensor& loss, Reduction r) {
  return r == Reduction::none ? loss : r == Reduction::mean ? mean(loss) : sum(loss);
}

Tensor wide(const char* op, const Tensor& x) {
  check<TypeError>(is_floating(x.dtype()), op, ": expected a floating input, got ", x.dtype(), " of shape ",
                   x.shape());
  return dtype_size(x.dtype()) == 2 ? cast(x, DType::float32) : x;
}

namespace {

const Rule check_target_rule{"check_target",
                             [](TapeNode&, const std::vector<Tensor>& g) { return std::vector<Tensor>{g[0]}; }};

// Data with NaN in it would end as a NaN loss steps later; it is refused where it enters, in plans too.
Tensor without_nan(const char* op, const Tensor& target) {
  CheckTargetParams p;
  std::snprintf(p.op, sizeof p.op, "%s", op);
  Tensor t = contiguous(target);
  return emit1(check_target_rule, OpKind::check_target, p, {t}, {t.shape(), t.dtype()});
}

void check_paired(const char* op, const Tensor& x, const Tensor& target) {
  check(target.shape() == x.shape() || target.ndim() == 0, op, ": expected a target of shape ", x.shape(),
        ", got ", target.shape());
}

}  // namespace

Tensor paired(const char* op, const Tensor& x, const Tensor& target) {
  check_paired(op, x, target);
  Tensor t = cast(target, x.dtype());
  return target.requires_grad() ? t : without_nan(op, t);  // what a net gave may diverge; that is no bad input
}

// ---- fused ----

namespace {

// The loss by d = x - t and its derivatives as ops, for gradients of gradients.
Tensor slope(const PointwiseLossParams& p, const Tensor& x, const Tensor& t) {
  switch (p.loss) {
    case PointLoss::mse: return affine(sub(x, t), 2, 0);
    case PointLoss::l1: return sign(sub(x, t));
    case PointLoss::smooth_l1: return clamp(affine(sub(x, t), 1 / p.beta, 0), -1, 1);
    case PointLoss::huber: return clamp(sub(x, t), -p.beta, p.beta);
    case PointLoss::bce_with_logits: return sub(sigmoid(x), t);
  }
  return {};
}
Tensor curvature(const PointwiseLossParams& p, const Tensor& x, const Tensor& t) {
  auto inside = [&](double height) {
    Tensor beta = full({}, p.beta, x.dtype(), x.device());
    return affine(cast(lt(abs(sub(x, t)), beta), x.dtype()), height, 0);
  };
  switch (p.loss) {
    case PointLoss::mse: return full({}, 2, x.dtype(), x.device());
    case PointLoss::l1: return zeros({}, x.dtype(), x.device());
    case PointLoss::smooth_l1: return inside(1 / p.beta);
    case PointLoss::huber: return inside(1);
    case PointLoss::bce_with_logits: {
      Tensor s = sigmoid(x);
      return mul(s, affine(s, -1, 1));
    }
  }
  return {};
}

std::vector<Tensor> vjp_pointwise_loss_bwd(TapeNode& n, const std::vector<Tensor>& g) {
  const auto& p = n.as<PointwiseLossParams>();
  Tensor dloss = n.input(0), x = n.input(1), t = n.input(2);
  double scale = p.reduction == Reduction::mean ? 1.0 / static_cast<double>(p.count) : 1;
  std::vector<Tensor> r(3);
  if (n.needs(0)) {
    Tensor d = affine(mul(g[0], slope(p, x, t)), scale, 0);
    r[0] = p.reduction == Reduction::none ? d : sum(d);
  }
  if (n.needs(1)) r[1] = affine(mul(mul(g[0], dloss), curvature(p, x, t)), scale, 0);
  return r;
}
const Rule pointwise_loss_bwd_rule{"pointwise_loss", vjp_pointwise_loss_bwd, 0b111};

std::vector<Tensor> vjp_pointwise_loss(TapeNode& n, const std::vector<Tensor>& g) {
  std::vector<Tensor> r(2);
  r[0] = emit1(pointwise_loss_bwd_rule, OpKind::pointwise_loss_bwd, n.params,
               {contiguous(g[0]), n.input(0), n.input(1)}, {n.inputs[0].shape, n.inputs[0].dtype});
  return r;
}
const Rule pointwise_loss_rule{"pointwise_loss", vjp_pointwise_loss, 0b11};

// The loss as one op, or an undefined tensor where that does not fit the target.
Tensor fused(PointLoss loss, const Tensor& x, const Tensor& target, double beta, Reduction r) {
  if (target.requires_grad() || target.shape() != x.shape() || !(beta > 0)) return {};
  PointwiseLossParams p;
  p.loss = loss, p.beta = beta, p.reduction = r, p.count = x.numel();
  return emit1(pointwise_loss_rule, OpKind::pointwise_loss, p,
               {contiguous(x), contiguous(cast(target, x.dtype()))},
               {r == Reduction::none ? x.shape() : Dims{}, x.dtype()});
}

// Of a distance loss: fused, or composed(d, r) of d = x - t.
template <class F>
Tensor distance(PointLoss loss, const Tensor& input, const Tensor& target, double beta,
                const std::string& reduction, F&& composed) {
  const char* op = name_of(loss);
  Reduction r = parse_reduction(op, reduction);
  Tensor x = wide(op, input);
  check_paired(op, x, target);
  if (Tensor y = fused(loss, x, target, beta, r); y.defined()) return y;
  return reduced(composed(sub(x, paired(op, x, target))), r);
}

}  // namespace

Tensor binary_cross_entropy_with_logits(const Tensor& logits, const Tensor& target, const Tensor& weight,
                                        const Tensor& pos_weight, const std::string& reduction) {
  const char* op = "binary_cross_entropy_with_logits";
  Reduction r = parse_reduction(op, reduction);
  Tensor x = wide(op, logits);
  check(target.shape() == x.shape(), op, ": expected a target of shape ", x.shape(), ", got ", target.shape());
  if (!weight.defined() && !pos_weight.defined())
    if (Tensor loss = fused(PointLoss::bce_with_logits, x, target, 1, r); loss.defined()) return loss;
  Tensor t = paired(op, x, target);
  // -log(sigmoid(x)); the threshold lies where the branches agree to the last bit of float64.
  Tensor cost = softplus(neg(x), 1, 40);
  if (pos_weight.defined()) cost = mul(cost, affine(mul(affine(cast(pos_weight, x.dtype()), 1, -1), t), 1, 1));
  Tensor loss = add(mul(affine(t, -1, 1), x), cost);
  if (weight.defined()) loss = mul(loss, cast(weight, x.dtype()));
  check(loss.shape() == x.shape(), op, ": weights do not broadcast to the input's shape ", x.shape());
  return reduced(loss, r);
}

Tensor mse_loss(const Tensor& input, const Tensor& target, const std::string& reduction) {
  return distance(PointLoss::mse, input, target, 1, reduction, [](const Tensor& d) { return square(d); });
}

Tensor l1_loss(const Tensor& input, const Tensor& target, const std::string& reduction) {
  return distance(PointLoss::l1, input, target, 1, reduction, [](const Tensor& d) { return abs(d); });
}

Tensor smooth_l1_loss(const Tensor& input, const Tensor& target, double beta, const std::string& reduction) {
  check(beta >= 0, "smooth_l1_loss: expected beta >= 0, got ", beta);
  return distance(PointLoss::smooth_l1, input, target, beta, reduction, [&](const Tensor& d) {
    Tensor size = abs(d);
    if (beta == 0) return size;
    Tensor m = clamp(size, std::nullopt, beta);  // m (d - m/2) is d^2 / 2 below beta
    return affine(mul(m, sub(size, affine(m, 0.5, 0))), 1 / beta, 0);
  });
}

Tensor huber_loss(const Tensor& input, const Tensor& target, double delta, const std::string& reduction) {
  check(delta > 0, "huber_loss: expected delta > 0, got ", delta);
  return distance(PointLoss::huber, input, target, delta, reduction, [&](const Tensor& d) {
    Tensor size = abs(d), m = clamp(size, std::nullopt, delta);
    return mul(m, sub(size, affine(m, 0.5, 0)));
  });
}

}  // namespace fastcnn
