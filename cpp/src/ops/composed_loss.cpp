// What it is: losses of detectors, segmentation, capsules and GANs as compositions of ops, which give them
// gradients of any order. What it is not: fused kernels (pointwise_loss.cpp), losses between boxes (box_loss.cpp).
#include "graph/emit.h"
#include "ops/loss.h"

namespace fastcnn {

Tensor focal_loss(const Tensor& input, const Tensor& target, double alpha, double gamma,
                  const std::string& reduction) {
  const char* op = "focal_loss";
  Reduction r = parse_reduction(op, reduction);
  check(gamma >= 0, op, ": expected gamma >= 0, got ", gamma);
  check(alpha <= 1, op, ": expected alpha <= 1 (below 0: no weighting), got ", alpha);
  Tensor x = wide(op, input);
  check(target.shape() == x.shape(), op, ": expected a target of shape ", x.shape(), ", got ", target.shape());
  Tensor t = paired(op, x, target);
  Tensor loss = binary_cross_entropy_with_logits(x, t, {}, {}, "none");
  if (gamma > 0) {
    Tensor missed = add(mul(sigmoid(x), affine(t, -2, 1)), t);  // 1 - p_t
    // Rounding must not take a root of less than 0, nor give a slope without bounds at 0.
    if (gamma != 1 && gamma != 2) missed = clamp(missed, 1e-12, 1);
    loss = mul(loss, gamma == 1 ? missed : gamma == 2 ? square(missed) : pow_scalar(missed, gamma));
  }
  if (alpha >= 0) loss = mul(loss, affine(t, 2 * alpha - 1, 1 - alpha));
  return reduced(loss, r);
}

Tensor dice_loss(const Tensor& x, const Tensor& target, double smooth, bool multilabel, int64_t ignore_index,
                 const std::string& reduction) {
  const char* op = "dice_loss";
  Reduction r = parse_reduction(op, reduction);
  check(smooth >= 0, op, ": expected smooth >= 0, got ", smooth);
  check(x.ndim() >= 2, op, ": expected logits of shape (N, C, …), got ", x.shape());
  const int64_t classes = x.shape()[1];
  Tensor rows, t, p;
  if (is_floating(target.dtype())) {
    check(target.shape() == x.shape(), op, ": expected probabilities of the shape of logits ", x.shape(),
          " (or int64 class ids), got ", target.dtype(), " of shape ", target.shape());
    rows = as_rows(wide(op, x));
    t = as_rows(paired(op, wide(op, x), target));
    p = multilabel || classes == 1 ? sigmoid(rows) : softmax(rows, 1);
  } else {
    check(classes > 1 && !multilabel, op, ": expected probabilities of shape ", x.shape(), " as target",
          classes > 1 ? " of multilabel" : " of one class", ", got ", target.dtype(), " of shape ",
          target.shape());
    ClassLoss c = class_loss(op, x, target, {});
    check_ids(op, c, ignore_index);
    Device device = c.rows.device();
    DType type = c.rows.dtype();
    Tensor known = ne(c.target, full({}, static_cast<double>(ignore_index), DType::int64, device));
    Tensor valid = unsqueeze(cast(known, type), 1);
    p = mul(softmax(c.rows, 1), valid);
    // Ids out of range raise in plans too; ignore_index may be a class.
    t = mul(one_hot(where(known, c.target, zeros({}, DType::int64, device)), classes, type), valid);
  }
  Tensor overlap = sum(mul(p, t), {0}), size = add(sum(p, {0}), sum(t, {0}));
  Tensor dice = div(affine(overlap, 2, smooth), affine(size, 1, smooth));
  return reduced(affine(dice, -1, 1), r);
}

Tensor margin_loss(const Tensor& input, const Tensor& target, double positive, double negative, double down_weight,
                   const std::string& reduction) {
  const char* op = "margin_loss";
  Reduction r = parse_reduction(op, reduction);
  Tensor x = wide(op, input);
  check(x.ndim() == 2 && (target.shape() == Dims{x.shape()[0]} || target.shape() == x.shape()), op,
        ": expected lengths (N, C) and target (N) or (N, C), got ", x.shape(), " and ", target.shape());
  Tensor there = target.ndim() == 2 ? paired(op, x, target) : one_hot(target, x.shape()[1], x.dtype());
  Tensor shorter = square(relu(affine(x, -1, positive))), longer = square(relu(affine(x, 1, -negative)));
  Tensor each = add(mul(there, shorter), mul(affine(there, -down_weight, down_weight), longer));
  return reduced(sum(each, {1}), r);
}

Tensor hinge_gan_loss(const Tensor& input, const std::string& target, const std::string& reduction) {
  const char* op = "hinge_gan_loss";
  Reduction r = parse_reduction(op, reduction);
  Tensor x = wide(op, input);
  if (target == "real") return reduced(relu(affine(x, -1, 1)), r);
  if (target == "fake") return reduced(relu(affine(x, 1, 1)), r);
  if (target == "generator") return reduced(neg(x), r);
  throw ValueError(concat(op, ": expected target real, fake or generator, got '", target, "'"));
}

}  // namespace fastcnn
