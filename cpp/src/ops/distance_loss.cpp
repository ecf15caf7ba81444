// What it is: distances and similarities of vectors and the losses that rank by them, as compositions of ops,
// which give them gradients of any order. What it is not: losses between a value and its target.
#include "ops/dims.h"
#include "ops/loss.h"

namespace fastcnn {
namespace {

// Shapes that broadcast together, with the name of the op in the message.
void check_broadcast(const char* op, const Tensor& a, const Tensor& b) {
  const int n = a.ndim(), m = b.ndim();
  bool fits = true;
  for (int i = 1; i <= n && i <= m; ++i) {
    const int64_t p = a.shape()[n - i], q = b.shape()[m - i];
    fits &= p == q || p == 1 || q == 1;
  }
  check(fits, op, ": expected shapes that broadcast, got ", a.shape(), " and ", b.shape());
}

// Both in the dtype that the op computes in.
struct Two {
  Tensor a, b;
};
Two two(const char* op, const Tensor& a, const Tensor& b) {
  check_broadcast(op, a, b);
  return {wide(op, a), wide(op, b)};
}

Tensor hinge(const Tensor& x) { return clamp(x, 0, {}); }

Tensor distance(const Tensor& a, const Tensor& b, double p, double eps, bool keepdim = false) {
  return norm(affine(sub(a, b), 1, eps), p, {-1}, keepdim);
}

DType narrow_type(const Tensor& a, const Tensor& b, const Tensor& wide_result) {
  return a.dtype() == b.dtype() ? a.dtype() : wide_result.dtype();
}

// x, and 0 where the target is value.
Tensor where_not(const Tensor& target, double value, const Tensor& x) {
  Tensor is = eq(target, full({}, value, target.dtype(), target.device()));
  return where(is, zeros({}, x.dtype(), x.device()), x);
}

}  // namespace

Tensor pairwise_distance(const Tensor& x1, const Tensor& x2, double p, double eps, bool keepdim) {
  const char* op = "pairwise_distance";
  check(p >= 0, op, ": expected p >= 0, got ", p);
  check(x1.ndim() >= 1 || x2.ndim() >= 1, op, ": expected vectors (…, D), got shapes ", x1.shape(), " and ",
        x2.shape());
  Two v = two(op, x1, x2);
  Tensor d = distance(v.a, v.b, p, eps, keepdim);
  return cast(d, narrow_type(x1, x2, d));
}

Tensor cosine_similarity(const Tensor& x1, const Tensor& x2, int dim, double eps) {
  const char* op = "cosine_similarity";
  check(eps >= 0, op, ": expected eps >= 0, got ", eps);
  Two v = two(op, x1, x2);
  const Tensor& larger = x1.ndim() >= x2.ndim() ? x1 : x2;
  const int from_end = wrap_dim(op, dim, larger.shape()) - (larger.ndim() ? larger.ndim() : 1);
  if (larger.ndim() == 0) v = {unsqueeze(v.a, 0), unsqueeze(v.b, 0)};
  while (v.a.ndim() < v.b.ndim()) v.a = unsqueeze(v.a, 0);
  while (v.b.ndim() < v.a.ndim()) v.b = unsqueeze(v.b, 0);
  auto unit = [&](const Tensor& x) {  // not below eps, but with the gradient of the length itself, as PyTorch
    Tensor length = norm(x, 2, {from_end}, true);
    return div(x, add(length, sub(clamp(length, eps, {}), length).detach()));
  };
  Tensor s = sum(mul(unit(v.a), unit(v.b)), {from_end});
  return cast(s, narrow_type(x1, x2, s));
}

Tensor triplet_margin_loss(const Tensor& anchor, const Tensor& positive, const Tensor& negative, double margin,
                           double p, double eps, bool swap, const std::string& reduction) {
  const char* op = "triplet_margin_loss";
  Reduction r = parse_reduction(op, reduction);
  check(margin > 0, op, ": expected margin > 0, got ", margin);
  check(p >= 0, op, ": expected p >= 0, got ", p);
  check(anchor.ndim() >= 1 && anchor.ndim() == positive.ndim() && anchor.ndim() == negative.ndim(), op,
        ": expected three tensors (…, D) of one rank, got shapes ", anchor.shape(), ", ", positive.shape(),
        " and ", negative.shape());
  check_broadcast(op, positive, negative);
  Two near = two(op, anchor, positive), far = two(op, anchor, negative);
  Tensor to_far = distance(far.a, far.b, p, eps);
  if (swap) to_far = minimum(to_far, distance(near.b, far.b, p, eps));
  return reduced(hinge(affine(sub(distance(near.a, near.b, p, eps), to_far), 1, margin)), r);
}

Tensor margin_ranking_loss(const Tensor& x1, const Tensor& x2, const Tensor& target, double margin,
                           const std::string& reduction) {
  const char* op = "margin_ranking_loss";
  Reduction r = parse_reduction(op, reduction);
  check(x1.ndim() == x2.ndim() && x1.ndim() == target.ndim(), op,
        ": expected three tensors of one rank, got shapes ", x1.shape(), ", ", x2.shape(), " and ",
        target.shape());
  Two v = two(op, x1, x2);
  Tensor d = sub(v.a, v.b);
  check_broadcast(op, d, target);
  return reduced(hinge(affine(mul(d, cast(target, d.dtype())), -1, margin)), r);
}

Tensor hinge_embedding_loss(const Tensor& input, const Tensor& target, double margin,
                            const std::string& reduction) {
  const char* op = "hinge_embedding_loss";
  Reduction r = parse_reduction(op, reduction);
  Tensor x = wide(op, input), t = paired(op, x, target);
  // As PyTorch: a target that is neither counts as both.
  return reduced(add(where_not(t, 1, hinge(affine(x, -1, margin))), where_not(t, -1, x)), r);
}

Tensor cosine_embedding_loss(const Tensor& x1, const Tensor& x2, const Tensor& target, double margin,
                             const std::string& reduction) {
  const char* op = "cosine_embedding_loss";
  Reduction r = parse_reduction(op, reduction);
  check(x1.shape() == x2.shape() && (x1.ndim() == 1 || x1.ndim() == 2) &&
            target.shape() == (x1.ndim() == 2 ? Dims{x1.shape()[0]} : Dims{}),
        op, ": expected vectors (N, D), (N, D) and target (N), or (D), (D) and (), got shapes ", x1.shape(), ", ",
        x2.shape(), " and ", target.shape());
  Two v = two(op, x1, x2);
  auto squares = [](const Tensor& x) { return affine(sum(square(x), {-1}), 1, 1e-12); };
  Tensor cosine = div(sum(mul(v.a, v.b), {-1}), sqrt(mul(squares(v.a), squares(v.b))));
  Tensor t = cast(target, cosine.dtype()), zero = zeros({}, cosine.dtype(), cosine.device());
  auto where_is = [&](double value, const Tensor& x) {
    return where(eq(t, full({}, value, t.dtype(), t.device())), x, zero);
  };
  return reduced(add(where_is(1, affine(cosine, -1, 1)), where_is(-1, hinge(affine(cosine, 1, -margin)))), r);
}

}  // namespace fastcnn
