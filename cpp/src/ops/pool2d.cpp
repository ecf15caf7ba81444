// What it is: max, average, adaptive, global and lp pooling with torch's window rules; gradients of any
// order.
#include <algorithm>
#include <climits>
#include <cmath>

#include "graph/emit.h"
#include "ops/operands.h"

namespace fastcnn {
namespace {

// ---- rules: pooling with fixed choices is linear, so each op's gradient is the other's value ----

Tensor emit_max_bwd(const Pool2dParams& p, const Tensor& dy, const Tensor& index);
Tensor emit_gather(const Pool2dParams& p, const Tensor& g, const Tensor& index);
Tensor emit_avg(const Pool2dParams& p, const Tensor& x);
Tensor emit_avg_bwd(const Pool2dParams& p, const Tensor& dy);

std::vector<Tensor> vjp_max(TapeNode& n, const std::vector<Tensor>& g) {
  return {emit_max_bwd(n.as<Pool2dParams>(), g[0], n.output(1).detach())};
}
std::vector<Tensor> vjp_max_bwd(TapeNode& n, const std::vector<Tensor>& g) {
  return {emit_gather(n.as<Pool2dParams>(), g[0], n.input(1)), Tensor()};
}
std::vector<Tensor> vjp_gather(TapeNode& n, const std::vector<Tensor>& g) {
  return {emit_max_bwd(n.as<Pool2dParams>(), g[0], n.input(1)), Tensor()};
}
std::vector<Tensor> vjp_avg(TapeNode& n, const std::vector<Tensor>& g) {
  return {emit_avg_bwd(n.as<Pool2dParams>(), g[0])};
}
std::vector<Tensor> vjp_avg_bwd(TapeNode& n, const std::vector<Tensor>& g) {
  return {emit_avg(n.as<Pool2dParams>(), g[0])};
}

const Rule max_rule{"max_pool2d", vjp_max, 0, 2};
const Rule max_bwd_rule{"max_pool2d_bwd", vjp_max_bwd, 2};
const Rule gather_rule{"max_pool2d_gather", vjp_gather, 2};
const Rule avg_rule{"avg_pool2d", vjp_avg};
const Rule avg_bwd_rule{"avg_pool2d_bwd", vjp_avg_bwd};

Dims x_shape(const Pool2dParams& p) { return {p.N, p.C, p.H, p.W}; }
Dims y_shape(const Pool2dParams& p) { return {p.N, p.C, p.oH, p.oW}; }

Tensor emit_max_bwd(const Pool2dParams& p, const Tensor& dy, const Tensor& index) {
  return emit1(max_bwd_rule, OpKind::max_pool2d_bwd, p, {contiguous(dy), index}, {x_shape(p), dy.dtype()});
}
Tensor emit_gather(const Pool2dParams& p, const Tensor& g, const Tensor& index) {
  return emit1(gather_rule, OpKind::max_pool2d_gather, p, {contiguous(g), index}, {y_shape(p), g.dtype()});
}
Tensor emit_avg(const Pool2dParams& p, const Tensor& x) {
  return emit1(avg_rule, OpKind::avg_pool2d, p, {contiguous(x)}, {y_shape(p), x.dtype()});
}
Tensor emit_avg_bwd(const Pool2dParams& p, const Tensor& dy) {
  return emit1(avg_bwd_rule, OpKind::avg_pool2d_bwd, p, {contiguous(dy)}, {x_shape(p), dy.dtype()});
}

// ---- checks ----

Tensor batched(const char* op, const Tensor& x) {
  check_floating(op, "x", x);
  check(x.ndim() == 4 || x.ndim() == 3, op, ": expected x of shape (N, C, H, W) or (C, H, W), got ", x.shape());
  return x.ndim() == 3 ? unsqueeze(x, 0) : x;
}
Tensor as_given(const Tensor& y, const Tensor& x) { return x.ndim() == 3 ? squeeze(y, 0) : y; }

// With ceil_mode the last window must still start inside the image or the padding before it.
int64_t pooled_size(int64_t in, int64_t pad, int64_t kernel, int64_t stride, int64_t dilation, bool ceil_mode) {
  if (!ceil_mode) return conv_out_size(in, pad, pad, kernel, stride, dilation);
  int64_t span = in + 2 * pad - dilation * (kernel - 1) - 1 + stride - 1;
  if (span < 0) return 0;
  int64_t out = span / stride + 1;
  return (out - 1) * stride >= in + pad ? out - 1 : out;
}

Pool2dParams window_params(const char* op, const Tensor& x, const Pool2dOptions& o) {
  Pair stride = o.stride == Pair{0, 0} ? o.kernel : o.stride;
  check_pair(op, "kernel_size", o.kernel, 1);
  check_pair(op, "stride", stride, 1);
  check_pair(op, "padding", o.padding, 0);
  check_pair(op, "dilation", o.dilation, 1);
  Pool2dParams p;
  p.N = x.shape()[0], p.C = x.shape()[1], p.H = x.shape()[2], p.W = x.shape()[3];
  p.kH = o.kernel.first, p.kW = o.kernel.second, p.sH = stride.first, p.sW = stride.second;
  p.pT = p.pB = o.padding.first, p.pL = p.pR = o.padding.second;
  p.dH = o.dilation.first, p.dW = o.dilation.second;
  p.count_include_pad = o.count_include_pad;
  const Dims span{p.dH * (p.kH - 1) + 1, p.dW * (p.kW - 1) + 1};
  check(p.pT <= span[0] / 2 && p.pL <= span[1] / 2, op, ": expected padding of at most half the window of ", span,
        " pixels, got ", Dims{p.pT, p.pL});
  p.oH = pooled_size(p.H, p.pT, p.kH, p.sH, p.dH, o.ceil_mode);
  p.oW = pooled_size(p.W, p.pL, p.kW, p.sW, p.dW, o.ceil_mode);
  check(p.oH >= 1 && p.oW >= 1, op, ": the window of ", span, " pixels is larger than the padded image of ",
        Dims{p.H + 2 * p.pT, p.W + 2 * p.pL}, " (x is ", x.shape(), ")");
  return p;
}

Pool2dParams adaptive_params(const char* op, const Tensor& x, Pair size) {
  check_pair(op, "output_size", size, 1);
  Pool2dParams p;
  p.N = x.shape()[0], p.C = x.shape()[1], p.H = x.shape()[2], p.W = x.shape()[3];
  check(p.H >= 1 && p.W >= 1, op, ": expected an image of at least 1x1, got x of shape ", x.shape());
  p.oH = size.first, p.oW = size.second, p.adaptive = 1;
  return p;
}

std::vector<Tensor> run_max(const char* op, const Tensor& x, const Pool2dParams& p) {
  check(p.H == 0 || p.W <= INT_MAX / p.H, op, ": expected images of fewer than 2^31 pixels, got x of shape ",
        x.shape());
  return emit(max_rule, OpKind::max_pool2d, p, {contiguous(x)},
              {{y_shape(p), x.dtype()}, {y_shape(p), DType::int32}});
}

}  // namespace

Tensor max_pool2d(const Tensor& x, const Pool2dOptions& o) {
  Tensor b = batched("max_pool2d", x);
  return as_given(run_max("max_pool2d", b, window_params("max_pool2d", b, o))[0], x);
}

std::pair<Tensor, Tensor> max_pool2d_with_indices(const Tensor& x, const Pool2dOptions& o) {
  Tensor b = batched("max_pool2d", x);
  std::vector<Tensor> y = run_max("max_pool2d", b, window_params("max_pool2d", b, o));
  return {as_given(y[0], x), as_given(cast(y[1], DType::int64), x)};
}

Tensor avg_pool2d(const Tensor& x, const Pool2dOptions& o) {
  check(o.dilation == Pair{1, 1}, "avg_pool2d: expected dilation 1, got ",
        Dims{o.dilation.first, o.dilation.second});
  Tensor b = batched("avg_pool2d", x);
  Pool2dParams p = window_params("avg_pool2d", b, o);
  if (!o.divisor_override) return as_given(emit_avg(p, b), x);
  check(*o.divisor_override != 0, "avg_pool2d: expected divisor_override other than 0");
  // Means of windows that are whole, in an image with its zeros around it, are sums by a factor.
  const int64_t bottom = std::max<int64_t>(0, (p.oH - 1) * p.sH + p.kH - p.H - p.pT);
  const int64_t right = std::max<int64_t>(0, (p.oW - 1) * p.sW + p.kW - p.W - p.pL);
  if (p.pT || p.pL || bottom || right) b = pad(b, {p.pL, right, p.pT, bottom});
  p.H = b.shape()[2], p.W = b.shape()[3];
  p.pT = p.pB = p.pL = p.pR = 0, p.count_include_pad = true;
  const double area = static_cast<double>(p.kH * p.kW), divisor = static_cast<double>(*o.divisor_override);
  return as_given(affine(emit_avg(p, b), area / divisor, 0), x);
}

Tensor lp_pool2d(const Tensor& x, double p, const Pool2dOptions& o) {
  check(p > 0, "lp_pool2d: expected norm_type > 0, got ", p);
  if (std::isinf(p)) return max_pool2d(abs(x), o);
  check(o.dilation == Pair{1, 1} && o.padding == Pair{0, 0}, "lp_pool2d: expected dilation 1 and padding 0, got ",
        Dims{o.dilation.first, o.dilation.second}, " and ", Dims{o.padding.first, o.padding.second});
  Tensor b = batched("lp_pool2d", x);
  Tensor mean = emit_avg(window_params("lp_pool2d", b, o), pow_scalar(b, p));
  Tensor total = affine(mean, static_cast<double>(o.kernel.first * o.kernel.second), 0);
  if (p == 1) return as_given(total, x);
  // The root has an infinite slope at 0; windows of zeros (common after relu) get gradient 0 instead of NaN.
  Tensor zero = zeros({}, total.dtype(), total.device()), some = ne(total, zero);
  Tensor root = pow_scalar(where(some, total, ones({}, total.dtype(), total.device())), 1 / p);
  return as_given(where(some, root, zero), x);
}

Tensor adaptive_avg_pool2d(const Tensor& x, std::pair<int64_t, int64_t> size) {
  Tensor b = batched("adaptive_avg_pool2d", x);
  return as_given(emit_avg(adaptive_params("adaptive_avg_pool2d", b, size), b), x);
}

Tensor adaptive_max_pool2d(const Tensor& x, std::pair<int64_t, int64_t> size) {
  Tensor b = batched("adaptive_max_pool2d", x);
  return as_given(run_max("adaptive_max_pool2d", b, adaptive_params("adaptive_max_pool2d", b, size))[0], x);
}

std::pair<Tensor, Tensor> adaptive_max_pool2d_with_indices(const Tensor& x, std::pair<int64_t, int64_t> size) {
  Tensor b = batched("adaptive_max_pool2d", x);
  std::vector<Tensor> y = run_max("adaptive_max_pool2d", b, adaptive_params("adaptive_max_pool2d", b, size));
  return {as_given(y[0], x), as_given(cast(y[1], DType::int64), x)};
}

Tensor global_avg_pool2d(const Tensor& x) {
  Tensor b = batched("global_avg_pool2d", x);
  return as_given(emit_avg(adaptive_params("global_avg_pool2d", b, {1, 1}), b), x);
}

}  // namespace fastcnn
