// What it is: affine_sample: images at free points, with colour, for augmentation. What it is not: whole images at
// other sizes with gradients (resample.cpp).
#include "graph/emit.h"
#include "graph/tape.h"
#include "ops/operands.h"

namespace fastcnn {
namespace {

constexpr const char* kOp = "affine_sample";
const Rule rule{kOp};

Interp sample_mode(const std::string& mode) {
  if (mode == "nearest") return Interp::nearest;
  if (mode == "bilinear") return Interp::bilinear;
  if (mode == "bicubic") return Interp::bicubic;
  throw ValueError(concat(kOp, ": expected mode nearest, bilinear or bicubic, got '", mode, "'"));
}

SampleFill sample_fill(const std::string& mode) {
  if (mode == "constant") return SampleFill::constant;
  if (mode == "edge") return SampleFill::edge;
  if (mode == "reflect") return SampleFill::reflect;
  if (mode == "symmetric") return SampleFill::symmetric;
  throw ValueError(concat(kOp, ": expected fill_mode constant, edge, reflect or symmetric, got '", mode, "'"));
}

Tensor operand(const char* name, const Tensor& t, const Dims& shape, const Tensor& x) {
  check<TypeError>(t.dtype() == DType::float32, kOp, ": expected ", name, " of dtype float32, got ", t.dtype());
  check(t.shape() == shape, kOp, ": expected ", name, " of shape ", shape, " for x of shape ", x.shape(), ", got ",
        t.shape());
  return contiguous(t);
}

// (N, 2, 3) as (N, 3, 3).
Tensor whole_matrix(const Tensor& m, const Tensor& x) {
  const int64_t N = x.shape()[0];
  if (m.ndim() == 3 && m.shape()[1] == 3) return operand("matrix", m, {N, 3, 3}, x);
  Tensor top = operand("matrix", m, {N, 2, 3}, x), row = zeros({N, 1, 3}, DType::float32, x.device());
  row = add(row, cast(eq(arange(0, 3, 1, DType::int64, x.device()), full({}, 2, DType::int64, x.device())),
                      DType::float32));
  return contiguous(cat({top, row}, 1));
}

}  // namespace

Tensor affine_sample(const Tensor& x, const Tensor& matrix, const AffineSampleOptions& o) {
  check(x.defined() && matrix.defined(), kOp, ": expected tensors as x and matrix, got an empty handle");
  check(x.ndim() == 4, kOp, ": expected x of shape (N, C, H, W), got ", x.shape());
  check<TypeError>(x.dtype() == DType::uint8 || x.dtype() == DType::float32, kOp,
                   ": expected x of dtype uint8 or float32, got ", x.dtype());
  check(!(x.requires_grad() && grad_enabled()), kOp, ": has no gradient; pass x.detach()");
  AffineSampleParams p;
  p.N = x.shape()[0], p.C = x.shape()[1], p.H = x.shape()[2], p.W = x.shape()[3];
  const Pair size = o.size.value_or(Pair{p.H, p.W});
  check_pair(kOp, "size", size, 1);
  p.oH = size.first, p.oW = size.second;
  check(p.C > 0 && p.H > 0 && p.W > 0, kOp, ": expected images of at least 1x1 and one channel, got x of shape ",
        x.shape());
  p.mode = sample_mode(o.mode), p.fill = sample_fill(o.fill_mode), p.antialias = o.antialias;
  check(!(o.antialias && p.mode == Interp::nearest), kOp,
        ": antialias is for bilinear and bicubic, mode is nearest");
  std::vector<Tensor> in{contiguous(x), whole_matrix(matrix, x)};
  in.push_back(o.fill.defined() ? operand("fill", o.fill, {p.C}, x) : zeros({p.C}, DType::float32, x.device()));
  if ((p.has_displacement = o.displacement.defined()))
    in.push_back(operand("displacement", o.displacement, {p.N, 2, p.oH, p.oW}, x));
  if (o.color.defined()) {
    check(o.color.ndim() == 3, kOp, ": expected color of shape (N, stages, ", sample_stage_floats(p.C), "), got ",
          o.color.shape());
    p.stages = o.color.shape()[1];
    Tensor color = operand("color", o.color, {p.N, p.stages, sample_stage_floats(p.C)}, x);
    if (p.stages) in.push_back(color);
  }
  if ((p.has_norm = o.norm.defined())) in.push_back(operand("norm", o.norm, {2, p.C}, x));
  return emit1(rule, OpKind::affine_sample, p, in,
               {{p.N, p.C, p.oH, p.oW}, p.has_norm ? DType::float32 : x.dtype()});
}

}  // namespace fastcnn
