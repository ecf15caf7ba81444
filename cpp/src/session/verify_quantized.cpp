// The int8 ops of verify.h.
#include "session/verify_operands.h"

namespace fastcnn {
namespace {

void verify_zero(const char* name, int64_t zero, const Operands& c) {
  c.expect(zero >= 0 && zero <= 255, name, " in [0, 255], got ", zero);
}
void verify_limits(int64_t low, int64_t high, const Operands& c) {
  c.expect(0 <= low && low <= high && high <= 255, "0 <= low <= high <= 255, got ", low, " and ", high);
}
void verify_finite(double v, const Operands& c) { c.expect(std::isfinite(v), "finite factors, got ", v); }

// One output of shape y: bytes or floats.
void bytes_or_floats(const Dims& y, Operands& c) {
  const OutSpec& out = c.out();
  c.expect(out.shape == y && (out.dtype == DType::uint8 || out.dtype == DType::float32), "an output of shape ", y,
           " and uint8 or float32, got ", out.shape, " and ", out.dtype);
}

void verify_quantize(OpKind kind, const QuantizeParams& p, Operands& c) {
  const DType from = kind == OpKind::quantize ? DType::float32 : DType::uint8;
  const DType to = kind == OpKind::quantize ? DType::uint8 : DType::float32;
  c.expect(std::isfinite(p.scale) && p.scale > 0, "a finite scale > 0, got ", p.scale);
  verify_zero("zero", p.zero, c);
  const Dims x = c.peek(0).shape();
  c.in(x, from), c.out(x, to);
}

void verify_quantized_conv(const QuantizedConv2dParams& q, Operands& c) {
  const Conv2dParams& p = q.conv;
  verify_window(p, c);
  c.expect(!p.has_bias, "no bias: it is part of the offset");
  c.flag("has_residual", p.has_residual);
  verify_zero("x_zero", q.x_zero, c), verify_limits(q.low, q.high, c), verify_finite(q.residual_multiplier, c);
  const int64_t depth = p.C / p.groups;
  c.expect(depth <= kMostQuantizedDepth && p.kH <= kMostQuantizedDepth && p.kW <= kMostQuantizedDepth &&
               depth * p.kH * p.kW <= kMostQuantizedDepth,
           "sums of at most ", kMostQuantizedDepth, " products, got ", Dims{depth, p.kH, p.kW});
  const Dims y{p.N, p.O, p.oH, p.oW};
  c.in({p.N, p.C, p.H, p.W}, DType::uint8), c.in({p.O, depth, p.kH, p.kW}, DType::int8);
  c.in({p.O}, DType::float32), c.in({p.O}, DType::float32);
  if (p.has_residual) c.in(y, DType::uint8);
  bytes_or_floats(y, c);
}

void verify_quantized_add(const QuantizedAddParams& p, Operands& c) {
  c.flag("has_b", p.has_b), verify_limits(p.low, p.high, c);
  for (const double v : {p.a_multiplier, p.b_multiplier, p.offset}) verify_finite(v, c);
  const Dims x = c.peek(0).shape();
  c.in(x, DType::uint8);
  if (p.has_b) c.in(x, DType::uint8);
  c.out(x, DType::uint8);
}

void verify_quantized_pool(const QuantizedPool2dParams& q, Operands& c) {
  const Pool2dParams& p = q.pool;
  verify_pool_window(p, c);
  c.flag("max", q.max), verify_zero("x_zero", q.x_zero, c);
  c.expect(q.max || p.adaptive || (p.dH == 1 && p.dW == 1), "averages without dilation");
  // Sums of all pixels of a window fit into int32.
  c.expect(p.W <= (INT_MAX / 255) / p.H, "images of fewer than 2^23 pixels, got ", Dims{p.H, p.W});
  verify_finite(q.multiplier, c), verify_finite(q.offset, c);
  const Dims x{p.N, p.C, p.H, p.W}, y{p.N, p.C, p.oH, p.oW};
  c.in(x, DType::uint8);
  if (q.max)
    c.out(y, DType::uint8);
  else
    bytes_or_floats(y, c);
}

}  // namespace

void verify_quantized(OpKind kind, const Params& params, Operands& c) {
  switch (kind) {
    case OpKind::quantized_conv2d: return verify_quantized_conv(params.as<QuantizedConv2dParams>(), c);
    case OpKind::quantized_add: return verify_quantized_add(params.as<QuantizedAddParams>(), c);
    case OpKind::quantized_pool2d: return verify_quantized_pool(params.as<QuantizedPool2dParams>(), c);
    default: return verify_quantize(kind, params.as<QuantizeParams>(), c);
  }
}

}  // namespace fastcnn
