// What it is: losses between pairs of boxes as compositions of ops: generalized IoU (Rezatofighi et al. 2019) and
// complete IoU (Zheng et al. 2020).
// What it is not: IoU of all pairs of two sets (detect.cpp).
#include <numbers>

#include "graph/emit.h"
#include "ops/loss.h"

namespace fastcnn {
namespace {

struct Sides {
  Tensor x1, y1, x2, y2;
  Tensor width() const { return sub(x2, x1); }
  Tensor height() const { return sub(y2, y1); }
};

Sides sides(const Tensor& boxes) {
  return {select(boxes, -1, 0), select(boxes, -1, 1), select(boxes, -1, 2), select(boxes, -1, 3)};
}

struct Pairs {
  Sides a, b, hull;  // hull: the smallest box around both
  Tensor iou, unions;
};

Pairs pairs_of(const char* op, const Tensor& boxes1, const Tensor& boxes2, double eps) {
  Tensor first = wide(op, boxes1), second = cast(boxes2, first.dtype());
  check(first.shape() == second.shape() && first.ndim() >= 1 && first.shape()[first.ndim() - 1] == 4, op,
        ": expected two tensors of boxes of one shape (…, 4), got ", boxes1.shape(), " and ", boxes2.shape());
  Pairs p;
  p.a = sides(first), p.b = sides(second);
  p.hull = {minimum(p.a.x1, p.b.x1), minimum(p.a.y1, p.b.y1), maximum(p.a.x2, p.b.x2), maximum(p.a.y2, p.b.y2)};
  Tensor w = relu(sub(minimum(p.a.x2, p.b.x2), maximum(p.a.x1, p.b.x1)));
  Tensor h = relu(sub(minimum(p.a.y2, p.b.y2), maximum(p.a.y1, p.b.y1)));
  Tensor overlap = mul(w, h);
  p.unions = sub(add(mul(p.a.width(), p.a.height()), mul(p.b.width(), p.b.height())), overlap);
  p.iou = div(overlap, affine(p.unions, 1, eps));
  return p;
}

// Mean over pairs; 0 of none, as torchvision has it: a batch without objects must not become NaN.
Tensor of_pairs(const Tensor& each, Reduction r) {
  return r == Reduction::mean && each.numel() == 0 ? sum(each) : reduced(each, r);
}

}  // namespace

Tensor giou_loss(const Tensor& boxes1, const Tensor& boxes2, const std::string& reduction, double eps) {
  Reduction r = parse_reduction("giou_loss", reduction);
  Pairs p = pairs_of("giou_loss", boxes1, boxes2, eps);
  Tensor hull = mul(p.hull.width(), p.hull.height());
  Tensor giou = sub(p.iou, div(sub(hull, p.unions), affine(hull, 1, eps)));
  return of_pairs(affine(giou, -1, 1), r);
}

Tensor ciou_loss(const Tensor& boxes1, const Tensor& boxes2, const std::string& reduction, double eps) {
  Reduction r = parse_reduction("ciou_loss", reduction);
  Pairs p = pairs_of("ciou_loss", boxes1, boxes2, eps);
  Tensor diagonal = add(square(p.hull.width()), square(p.hull.height()));
  Tensor dx = sub(add(p.a.x1, p.a.x2), add(p.b.x1, p.b.x2)), dy = sub(add(p.a.y1, p.a.y2), add(p.b.y1, p.b.y2));
  Tensor distance = affine(add(square(dx), square(dy)), 0.25, 0);
  Tensor apart = div(distance, affine(diagonal, 1, eps));
  Tensor turn = sub(atan(div(p.b.width(), p.b.height())), atan(div(p.a.width(), p.a.height())));
  Tensor shape = affine(square(turn), 4 / (std::numbers::pi * std::numbers::pi), 0);
  Tensor weight =
      div(shape, affine(sub(shape, p.iou), 1, 1 + eps)).detach();  // a constant of the paper's gradient
  return of_pairs(add(affine(sub(apart, p.iou), 1, 1), mul(weight, shape)), r);
}

}  // namespace fastcnn
