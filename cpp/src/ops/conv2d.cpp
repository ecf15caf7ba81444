// What it is: conv2d and conv_transpose2d: checks, padding forms, shapes, and gradients of any order.
// The two backward passes are ops of their own, each bilinear, so their rules are again the three of them.
#include <algorithm>
#include <tuple>

#include "graph/emit.h"
#include "ops/operands.h"

namespace fastcnn {
namespace {

// ---- the three ops and their rules ----

Tensor emit_conv2d(Conv2dParams p, const Tensor& x, const Tensor& w, const Tensor& bias);
Tensor emit_bwd_data(const Rule& rule, Conv2dParams p, const Tensor& dy, const Tensor& w, const Tensor& bias);
std::vector<Tensor> emit_bwd_weights(Conv2dParams p, const Tensor& x, const Tensor& dy, bool bias);

extern const Rule bwd_data_rule;

Tensor channel_sum(const Tensor& dy) { return sum(dy, {0, 2, 3}); }

std::vector<Tensor> vjp_conv2d(TapeNode& n, const std::vector<Tensor>& g) {
  const auto& p = n.as<Conv2dParams>();
  std::vector<Tensor> r(n.inputs.size());
  const bool bias = r.size() > 2 && n.needs(2);
  if (n.needs(0)) r[0] = emit_bwd_data(bwd_data_rule, p, g[0], n.input(1), {});
  if (n.needs(1)) {
    std::vector<Tensor> dw = emit_bwd_weights(p, n.input(0), g[0], bias);
    r[1] = dw[0];
    if (bias) r[2] = dw[1];
  } else if (bias) {
    r[2] = channel_sum(g[0]);
  }
  return r;
}

std::vector<Tensor> vjp_bwd_data(TapeNode& n, const std::vector<Tensor>& g) {  // dy, w [, bias] -> dx
  const auto& p = n.as<Conv2dParams>();
  std::vector<Tensor> r(n.inputs.size());
  if (n.needs(0)) r[0] = emit_conv2d(p, g[0], n.input(1), {});
  if (n.needs(1)) r[1] = emit_bwd_weights(p, g[0], n.input(0), false)[0];
  if (r.size() > 2 && n.needs(2)) r[2] = channel_sum(g[0]);
  return r;
}

std::vector<Tensor> vjp_bwd_weights(TapeNode& n, const std::vector<Tensor>& g) {  // x, dy -> dw [, dbias]
  const auto& p = n.as<Conv2dParams>();
  std::vector<Tensor> r(2);
  const Tensor dbias = g.size() > 1 ? g[1] : Tensor();
  if (n.needs(0) && g[0].defined()) r[0] = emit_bwd_data(bwd_data_rule, p, n.input(1), g[0], {});
  if (n.needs(1)) {
    if (g[0].defined())
      r[1] = emit_conv2d(p, n.input(0), g[0], dbias);
    else if (dbias.defined())
      r[1] = expand(reshape(dbias, {1, p.O, 1, 1}), n.inputs[1].shape);
  }
  return r;
}

// What to keep for backward depends on who needs a gradient: frozen layers keep nothing.
const Rule& needed(const Rule (&rules)[4], const Tensor& a, const Tensor& b) {
  return rules[(b.requires_grad() ? 1 : 0) | (a.requires_grad() ? 2 : 0)];
}
const Rule conv2d_rules[4] = {
    {"conv2d", vjp_conv2d, 0}, {"conv2d", vjp_conv2d, 1}, {"conv2d", vjp_conv2d, 2}, {"conv2d", vjp_conv2d, 3}};
const Rule transpose_rules[4] = {{"conv_transpose2d", vjp_bwd_data, 0},
                                 {"conv_transpose2d", vjp_bwd_data, 1},
                                 {"conv_transpose2d", vjp_bwd_data, 2},
                                 {"conv_transpose2d", vjp_bwd_data, 3}};
const Rule bwd_data_rule{"conv2d_bwd_data", vjp_bwd_data, 3};
const Rule bwd_weights_rule{"conv2d_bwd_weights", vjp_bwd_weights, 3};

std::vector<Tensor> dense(const Tensor& a, const Tensor& b, const Tensor& bias) {
  std::vector<Tensor> in{contiguous(a), contiguous(b)};
  if (bias.defined()) in.push_back(contiguous(bias));
  return in;
}

Tensor emit_conv2d(Conv2dParams p, const Tensor& x, const Tensor& w, const Tensor& bias) {
  p.has_bias = bias.defined();
  return emit1(needed(conv2d_rules, x, w), OpKind::conv2d, p, dense(x, w, bias),
               {{p.N, p.O, p.oH, p.oW}, x.dtype()});
}

Tensor emit_bwd_data(const Rule& rule, Conv2dParams p, const Tensor& dy, const Tensor& w, const Tensor& bias) {
  p.has_bias = bias.defined();
  return emit1(rule, OpKind::conv2d_bwd_data, p, dense(dy, w, bias), {{p.N, p.C, p.H, p.W}, dy.dtype()});
}

std::vector<Tensor> emit_bwd_weights(Conv2dParams p, const Tensor& x, const Tensor& dy, bool bias) {
  p.has_bias = bias;
  std::vector<OutSpec> out{{{p.O, p.C / p.groups, p.kH, p.kW}, x.dtype()}};
  if (bias) out.push_back({{p.O}, x.dtype()});
  return emit(bwd_weights_rule, OpKind::conv2d_bwd_weights, p, dense(x, dy, {}), out);
}

// ---- checks ----

// Pixels to add before and after an axis so that the output has ceil(in / stride) pixels; the odd one goes
// last.
Pair same_padding(int64_t in, int64_t kernel, int64_t stride, int64_t dilation) {
  int64_t out = (in + stride - 1) / stride;
  int64_t total = std::max<int64_t>(0, (out - 1) * stride + dilation * (kernel - 1) + 1 - in);
  return {total / 2, total - total / 2};
}

// Ranks, dtypes, options; x becomes 4-D. Sizes that depend on the op follow in its function.
void check_operands(const char* op, Tensor& x, Tensor& w, Tensor& bias, const Conv2dOptions& o) {
  check_floating(op, "x", x);
  check_floating(op, "w", w);
  if (bias.defined()) check_floating(op, "bias", bias);
  apply_autocast(x);
  apply_autocast(w);
  apply_autocast(bias);
  check_like(op, "w", w, x);
  if (bias.defined()) check_like(op, "bias", bias, x);
  check(x.ndim() == 4 || x.ndim() == 3, op, ": expected x of shape (N, C, H, W) or (C, H, W), got x of shape ",
        x.shape(), " (w is ", w.shape(), ")");
  check(w.ndim() == 4, op,
        ": expected w with 4 dimensions (out and in channels, kernel height and width), got w of shape ",
        w.shape(), " (x is ", x.shape(), ")");
  for (int64_t d : w.shape())
    check(d >= 1 && d <= kMaxOption, op, ": expected sizes >= 1 in w, got w of shape ", w.shape());
  check_pair(op, "stride", o.stride, 1);
  check_pair(op, "dilation", o.dilation, 1);
  check_pair(op, "padding (top, bottom)", {o.pad_top, o.pad_bottom}, 0);
  check_pair(op, "padding (left, right)", {o.pad_left, o.pad_right}, 0);
  check(o.groups >= 1, op, ": expected groups >= 1, got ", o.groups);
  check(w.shape()[0] % o.groups == 0, op, ": expected groups to divide the ", w.shape()[0], " filters of w ",
        w.shape(), ", got groups=", o.groups);
  check(o.padding.empty() || o.padding == "same" || o.padding == "valid", op,
        ": expected padding as numbers, 'same' or 'valid', got '", o.padding, "'");
  if (x.ndim() == 3) x = unsqueeze(x, 0);
}

Conv2dParams common_params(const Tensor& w, const Conv2dOptions& o) {
  Conv2dParams p;
  p.O = w.shape()[0], p.C = w.shape()[1] * o.groups, p.kH = w.shape()[2], p.kW = w.shape()[3];
  p.sH = o.stride.first, p.sW = o.stride.second;
  // A single tap has no neighbour to be apart from: kernels meet fewer kinds of windows.
  p.dH = p.kH > 1 ? o.dilation.first : 1, p.dW = p.kW > 1 ? o.dilation.second : 1;
  p.groups = o.groups;
  if (o.padding.empty()) p.pT = o.pad_top, p.pB = o.pad_bottom, p.pL = o.pad_left, p.pR = o.pad_right;
  return p;
}

}  // namespace

Tensor conv2d(const Tensor& x_in, const Tensor& w_in, const Tensor& bias_in, const Conv2dOptions& o) {
  Tensor x = x_in, w = w_in, bias = bias_in;
  check_operands("conv2d", x, w, bias, o);
  Conv2dParams p = common_params(w, o);
  check(x.shape()[1] == p.C, "conv2d: expected x with ", p.C, " channels (w is ", w.shape(), ", groups=", p.groups,
        "), got x of shape ", x_in.shape());
  if (bias.defined())
    check(bias.ndim() == 1 && bias.shape()[0] == p.O, "conv2d: expected bias of shape ", Dims{p.O}, " (w is ",
          w.shape(), "), got ", bias.shape());
  check(o.output_padding == Pair{0, 0}, "conv2d: output_padding is an option of conv_transpose2d, got ",
        Dims{o.output_padding.first, o.output_padding.second});
  if (o.padding == "same") {
    std::tie(p.pT, p.pB) = same_padding(x.shape()[2], p.kH, p.sH, p.dH);
    std::tie(p.pL, p.pR) = same_padding(x.shape()[3], p.kW, p.sW, p.dW);
  }
  if (o.padding_mode != "zeros") {
    check(o.padding_mode == "reflect" || o.padding_mode == "replicate" || o.padding_mode == "circular",
          "conv2d: expected padding_mode zeros, reflect, replicate or circular, got '", o.padding_mode, "'");
    if (p.pT | p.pB | p.pL | p.pR) x = pad(x, {p.pL, p.pR, p.pT, p.pB}, o.padding_mode);
    p.pT = p.pB = p.pL = p.pR = 0;
  }
  p.N = x.shape()[0], p.H = x.shape()[2], p.W = x.shape()[3];
  p.oH = conv_out_size(p.H, p.pT, p.pB, p.kH, p.sH, p.dH);
  p.oW = conv_out_size(p.W, p.pL, p.pR, p.kW, p.sW, p.dW);
  check(p.oH >= 1 && p.oW >= 1, "conv2d: the kernel covers ", Dims{p.dH * (p.kH - 1) + 1, p.dW * (p.kW - 1) + 1},
        " pixels, more than the padded image of ", Dims{p.H + p.pT + p.pB, p.W + p.pL + p.pR}, " (x is ",
        x_in.shape(), ", w is ", w.shape(), ", dilation ", Dims{p.dH, p.dW}, ")");
  Tensor y = emit_conv2d(p, x, w, bias);
  return x_in.ndim() == 3 ? squeeze(y, 0) : y;
}

Tensor conv_transpose2d(const Tensor& x_in, const Tensor& w_in, const Tensor& bias_in, const Conv2dOptions& o) {
  Tensor x = x_in, w = w_in, bias = bias_in;
  check_operands("conv_transpose2d", x, w, bias, o);
  check(o.padding != "same", "conv_transpose2d: expected padding as numbers or 'valid', got 'same'");
  check(o.padding_mode == "zeros", "conv_transpose2d: expected padding_mode zeros, got '", o.padding_mode, "'");
  Conv2dParams p = common_params(w, o);  // of the convolution that this one transposes: its output is our x
  check(x.shape()[1] == p.O, "conv_transpose2d: expected x with ", p.O, " channels (w is ", w.shape(),
        ", groups=", p.groups, "), got x of shape ", x_in.shape());
  if (bias.defined())
    check(bias.ndim() == 1 && bias.shape()[0] == p.C, "conv_transpose2d: expected bias of shape ", Dims{p.C},
          " (w is ", w.shape(), ", groups=", p.groups, "), got ", bias.shape());
  check_pair("conv_transpose2d", "output_padding", o.output_padding, 0);
  auto [eH, eW] = o.output_padding;
  auto [dH, dW] = o.dilation;
  check(eH < std::max(p.sH, dH) && eW < std::max(p.sW, dW),
        "conv_transpose2d: expected output_padding smaller than stride or dilation, got output_padding ",
        Dims{eH, eW}, ", stride ", Dims{p.sH, p.sW}, ", dilation ", Dims{dH, dW});
  if (eH >= p.sH) p.dH = dH;  // exported files are held to the same rule
  if (eW >= p.sW) p.dW = dW;
  p.N = x.shape()[0], p.oH = x.shape()[2], p.oW = x.shape()[3];
  check(p.oH >= 1 && p.oW >= 1, "conv_transpose2d: expected an image of at least 1x1, got x of shape ",
        x_in.shape());
  p.H = (p.oH - 1) * p.sH - p.pT - p.pB + p.dH * (p.kH - 1) + 1 + eH;
  p.W = (p.oW - 1) * p.sW - p.pL - p.pR + p.dW * (p.kW - 1) + 1 + eW;
  check(p.H >= 1 && p.W >= 1, "conv_transpose2d: padding leaves an image of ", Dims{p.H, p.W}, " (x is ",
        x_in.shape(), ", w is ", w.shape(), ", padding top, bottom, left, right ", Dims{p.pT, p.pB, p.pL, p.pR},
        ")");
  Tensor y = emit_bwd_data(needed(transpose_rules, x, w), p, x, w, bias);
  return x_in.ndim() == 3 ? squeeze(y, 0) : y;
}

}  // namespace fastcnn
