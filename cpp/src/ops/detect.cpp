// What it is: ops on boxes: IoU of all pairs, non-maximum suppression, features of regions. Boxes are x1 y1 x2 y2.
// What it is not: anchors, matching and losses of detectors (Python), losses between pairs of boxes
// (box_loss.cpp).
#include "graph/trace.h"
#include "ops/decompose.h"
#include "ops/loss.h"
#include "ops/operands.h"

namespace fastcnn {
namespace {

Tensor as_boxes(const char* op, const char* name, const Tensor& t) {
  check_floating(op, name, t);
  check(t.ndim() == 2 && t.shape()[1] == 4, op, ": expected ", name, " of shape (N, 4), got ", t.shape());
  return contiguous(wide(op, t));
}

// Gradients are rare here: by the formula.
std::vector<Tensor> vjp_box_iou(TapeNode& n, const std::vector<Tensor>& g) {
  return vjp_by_formula(n, g, 2, [](const std::vector<Tensor>& in) -> std::vector<Tensor> {
    Tensor a = unsqueeze(in[0], 1), b = unsqueeze(in[1], 0);
    auto low = [](const Tensor& t) { return narrow(t, 2, 0, 2); };
    auto high = [](const Tensor& t) { return narrow(t, 2, 2, 2); };
    Tensor sides = relu(sub(minimum(high(a), high(b)), maximum(low(a), low(b))));
    Tensor size_a = sub(high(a), low(a)), size_b = sub(high(b), low(b));
    auto area = [](const Tensor& s) { return mul(select(s, 2, 0), select(s, 2, 1)); };
    Tensor overlap = area(sides);
    return {div(overlap, sub(add(area(size_a), area(size_b)), overlap))};
  });
}
const Rule box_iou_rule{"box_iou", vjp_box_iou, 0b11};

const Rule nms_rule{"nms"};

std::vector<Tensor> vjp_roi_align(TapeNode& n, const std::vector<Tensor>& g);
std::vector<Tensor> vjp_roi_align_bwd(TapeNode& n, const std::vector<Tensor>& g);
const Rule roi_align_rule{"roi_align", vjp_roi_align, 0b10};
const Rule roi_align_bwd_rule{"roi_align", vjp_roi_align_bwd, 0b10};

// Each is the transpose of the other; boxes get no gradient, as in torchvision.
std::vector<Tensor> vjp_roi_align(TapeNode& n, const std::vector<Tensor>& g) {
  const auto& p = n.as<RoiAlignParams>();
  return {emit1(roi_align_bwd_rule, OpKind::roi_align_bwd, p, {contiguous(g[0]), n.input(1)},
                {{p.N, p.C, p.H, p.W}, g[0].dtype()}),
          {}};
}
std::vector<Tensor> vjp_roi_align_bwd(TapeNode& n, const std::vector<Tensor>& g) {
  const auto& p = n.as<RoiAlignParams>();
  return {emit1(roi_align_rule, OpKind::roi_align, p, {contiguous(g[0]), n.input(1)},
                {{p.K, p.C, p.oH, p.oW}, g[0].dtype()}),
          {}};
}

}  // namespace

Tensor box_iou(const Tensor& boxes1, const Tensor& boxes2) {
  Tensor a = as_boxes("box_iou", "boxes1", boxes1), b = cast(as_boxes("box_iou", "boxes2", boxes2), a.dtype());
  BoxIouParams p;
  p.N = a.shape()[0], p.M = b.shape()[0];
  return emit1(box_iou_rule, OpKind::box_iou, p, {a, b}, {{p.N, p.M}, a.dtype()});
}

Tensor nms(const Tensor& boxes, const Tensor& scores, double iou_threshold, const Tensor& groups,
           std::optional<int64_t> max_output) {
  const char* op = "nms";
  Tensor b = as_boxes(op, "boxes", boxes.detach());
  check_floating(op, "scores", scores);
  NmsParams p;
  p.N = b.shape()[0], p.iou_threshold = iou_threshold, p.has_groups = groups.defined();
  check(iou_threshold >= 0 && iou_threshold <= 1, op, ": expected iou_threshold in [0, 1], got ", iou_threshold);
  check(scores.shape() == Dims{p.N}, op, ": expected scores of shape ", Dims{p.N}, " for boxes of shape ",
        boxes.shape(), ", got ", scores.shape());
  check(!max_output || *max_output >= 0, op, ": expected max_output >= 0, got ", max_output.value_or(0));
  check(max_output || !current_trace(), op,
        ": how many boxes are kept is not known while compile traces; give max_output, which fixes the shape");
  p.limit = max_output.value_or(p.N);
  std::vector<Tensor> in{b, contiguous(cast(scores.detach(), b.dtype()))};
  if (p.has_groups) {
    check<TypeError>(!is_floating(groups.dtype()) && groups.dtype() != DType::bool_, op,
                     ": expected groups of an integer dtype, got ", groups.dtype());
    check(groups.shape() == Dims{p.N}, op, ": expected groups of shape ", Dims{p.N}, " for boxes of shape ",
          boxes.shape(), ", got ", groups.shape());
    in.push_back(contiguous(cast(groups.detach(), DType::int64)));
  }
  std::vector<Tensor> out = emit(nms_rule, OpKind::nms, p, in, {{{p.limit}, DType::int64}, {{}, DType::int64}});
  return max_output ? out[0] : narrow(out[0], 0, 0, static_cast<int64_t>(out[1].item()));
}

Tensor roi_align(const Tensor& x, const Tensor& boxes, std::pair<int64_t, int64_t> size, double spatial_scale,
                 int64_t sampling_ratio, bool aligned) {
  const char* op = "roi_align";
  check_floating(op, "x", x), check_floating(op, "boxes", boxes);
  check(x.ndim() == 4 && x.shape()[2] > 0 && x.shape()[3] > 0, op,
        ": expected x of shape (N, C, H, W) with pixels, got ", x.shape());
  check(boxes.ndim() == 2 && boxes.shape()[1] == 5, op,
        ": expected boxes of shape (K, 5), the number of an image and x1 y1 x2 y2, got ", boxes.shape());
  check_pair(op, "output_size", size, 1);
  check(spatial_scale > 0 && spatial_scale < 1e9, op, ": expected spatial_scale > 0, got ", spatial_scale);
  check(sampling_ratio <= 1024, op, ": expected sampling_ratio <= 1024, got ", sampling_ratio);
  Tensor v = contiguous(wide(op, x));
  RoiAlignParams p;
  p.N = v.shape()[0], p.C = v.shape()[1], p.H = v.shape()[2], p.W = v.shape()[3], p.K = boxes.shape()[0];
  p.oH = size.first, p.oW = size.second;
  p.spatial_scale = spatial_scale, p.sampling_ratio = sampling_ratio, p.aligned = aligned;
  Tensor y = emit1(roi_align_rule, OpKind::roi_align, p, {v, contiguous(cast(boxes.detach(), v.dtype()))},
                   {{p.K, p.C, p.oH, p.oW}, v.dtype()});
  return cast(y, x.dtype());
}

}  // namespace fastcnn
