// What it is: quantize, dequantize and quantized_conv2d: checks and shapes. What it is not: differentiable, or the
// choice of scales (python/fastcnn/quantization). Graphs of quantised models hold more ops (op_kinds.h).
#include <cmath>

#include "graph/emit.h"
#include "ops/operands.h"

namespace fastcnn {
namespace {

const Rule quantize_rule{"quantize"};
const Rule dequantize_rule{"dequantize"};
const Rule conv_rule{"quantized_conv2d"};

void check_dtype(const char* op, const char* name, const Tensor& t, DType want) {
  check(t.defined(), op, ": expected a tensor as ", name, ", got an empty handle");
  check<TypeError>(t.dtype() == want, op, ": expected ", name, " of ", want, ", got ", t.dtype(), " (shape ",
                   t.shape(), ")");
}

void check_byte(const char* op, const char* name, int64_t v) {
  check(v >= 0 && v <= 255, op, ": expected ", name, " in [0, 255], got ", v);
}

QuantizeParams scale_and_zero(const char* op, double scale, int64_t zero) {
  check(std::isfinite(scale) && scale > 0, op, ": expected a finite scale > 0, got ", scale);
  check_byte(op, "zero", zero);
  return {scale, zero};
}

}  // namespace

Tensor quantize(const Tensor& x, double scale, int64_t zero) {
  check_dtype("quantize", "x", x, DType::float32);
  return emit1(quantize_rule, OpKind::quantize, scale_and_zero("quantize", scale, zero), {contiguous(x)},
               {x.shape(), DType::uint8});
}

Tensor dequantize(const Tensor& x, double scale, int64_t zero) {
  check_dtype("dequantize", "x", x, DType::uint8);
  return emit1(dequantize_rule, OpKind::dequantize, scale_and_zero("dequantize", scale, zero), {contiguous(x)},
               {x.shape(), DType::float32});
}

Tensor quantized_conv2d(const Tensor& x, const Tensor& w, const Tensor& multiplier, const Tensor& offset,
                        const Conv2dOptions& o, const QuantizedConv2dOptions& q) {
  constexpr const char* op = "quantized_conv2d";
  check_dtype(op, "x", x, DType::uint8), check_dtype(op, "w", w, DType::int8);
  check_dtype(op, "multiplier", multiplier, DType::float32), check_dtype(op, "offset", offset, DType::float32);
  check(x.ndim() == 4 && w.ndim() == 4, op, ": expected x (N, C, H, W) and w (O, C/groups, kH, kW), got x ",
        x.shape(), " and w ", w.shape());
  for (const int64_t d : w.shape())
    check(d >= 1 && d <= kMaxOption, op, ": expected sizes >= 1 in w, got w of shape ", w.shape());
  check_pair(op, "stride", o.stride, 1), check_pair(op, "dilation", o.dilation, 1);
  check_pair(op, "padding (top, bottom)", {o.pad_top, o.pad_bottom}, 0);
  check_pair(op, "padding (left, right)", {o.pad_left, o.pad_right}, 0);
  check(o.padding.empty() && o.padding_mode == "zeros" && o.output_padding == Pair{0, 0}, op,
        ": expected padding as numbers, of zeros");
  QuantizedConv2dParams params;
  Conv2dParams& p = params.conv;
  p.N = x.shape()[0], p.C = x.shape()[1], p.H = x.shape()[2], p.W = x.shape()[3];
  p.O = w.shape()[0], p.kH = w.shape()[2], p.kW = w.shape()[3], p.groups = o.groups;
  p.sH = o.stride.first, p.sW = o.stride.second, p.dH = o.dilation.first, p.dW = o.dilation.second;
  p.pT = o.pad_top, p.pB = o.pad_bottom, p.pL = o.pad_left, p.pR = o.pad_right;
  check(o.groups >= 1 && p.O % o.groups == 0 && w.shape()[1] * o.groups == p.C, op, ": expected x with ",
        w.shape()[1], " * groups channels and filters that groups divide, got x ", x.shape(), ", w ", w.shape(),
        ", groups=", o.groups);
  const int64_t depth = w.shape()[1] * p.kH;  // each at most 2^30
  check(depth <= kMostQuantizedDepth && depth * p.kW <= kMostQuantizedDepth, op, ": expected sums of at most ",
        kMostQuantizedDepth, " products, which int32 holds, got w ", w.shape());
  check_vector(op, "multiplier", multiplier, p.O, x), check_vector(op, "offset", offset, p.O, x);
  p.oH = conv_out_size(p.H, p.pT, p.pB, p.kH, p.sH, p.dH);
  p.oW = conv_out_size(p.W, p.pL, p.pR, p.kW, p.sW, p.dW);
  check(p.oH >= 1 && p.oW >= 1, op, ": the kernel covers more pixels than the padded image has (x is ", x.shape(),
        ", w is ", w.shape(), ")");
  check_byte(op, "x_zero", q.x_zero), check_byte(op, "low", q.low), check_byte(op, "high", q.high);
  check(q.low <= q.high, op, ": expected low <= high, got ", q.low, " and ", q.high);
  check(std::isfinite(q.residual_multiplier), op, ": expected a finite residual_multiplier, got ",
        q.residual_multiplier);
  params.x_zero = q.x_zero, params.low = q.low, params.high = q.high;
  params.residual_multiplier = q.residual_multiplier;
  const Dims y{p.N, p.O, p.oH, p.oW};
  std::vector<Tensor> in{contiguous(x), contiguous(w), contiguous(multiplier), contiguous(offset)};
  if (q.residual.defined()) {
    check_dtype(op, "residual", q.residual, DType::uint8);
    check(q.residual.shape() == y, op, ": expected residual of shape ", y, " like the result, got ",
          q.residual.shape());
    p.has_residual = 1;
    in.push_back(contiguous(q.residual));
  }
  return emit1(conv_rule, OpKind::quantized_conv2d, params, in, {y, q.to_float ? DType::float32 : DType::uint8});
}

}  // namespace fastcnn
