// What it is: convolution and pooling of sequences (N, C, L) or (C, L): the 2-D ops on images of one row.
// What it is not: kernels or gradients of their own; those are the 2-D ops'.
#include "ops/operands.h"

namespace fastcnn {
namespace {

Tensor as_image(const char* op, const Tensor& x) {
  check_floating(op, "x", x);
  check(x.ndim() == 3 || x.ndim() == 2, op, ": expected x of shape (N, C, L) or (C, L), got ", x.shape());
  return unsqueeze(x, -2);
}
Tensor as_sequence(const Tensor& y) { return squeeze(y, -2); }
std::pair<Tensor, Tensor> as_sequence(const std::pair<Tensor, Tensor>& y) {
  return {as_sequence(y.first), as_sequence(y.second)};
}

void check_range(const char* op, const char* name, int64_t v, int64_t low) {
  check(v >= low, op, ": expected ", name, " >= ", low, ", got ", v);
  check(v <= kMaxOption, op, ": expected ", name, " <= ", kMaxOption, ", got ", v);
}

// What conv2d would find, in the words of the caller. transposed: w is (C, O/groups, k).
void check_conv(const char* op, const Tensor& x, const Tensor& w, const Tensor& bias, const Conv1dOptions& o,
                bool transposed) {
  check_floating(op, "w", w);
  check(w.ndim() == 3, op, ": expected w with 3 dimensions (out and in channels, kernel length), got w of shape ",
        w.shape(), " (x is ", x.shape(), ")");
  check_range(op, "groups", o.groups, 1);
  check_range(op, "stride", o.stride, 1);
  check_range(op, "dilation", o.dilation, 1);
  check_range(op, "padding", o.pad_left, 0);
  check_range(op, "padding", o.pad_right, 0);
  const int64_t C = transposed ? w.shape()[0] : w.shape()[1] * o.groups,
                O = transposed ? w.shape()[1] * o.groups : w.shape()[0];
  check(x.size(-2) == C, op, ": expected x with ", C, " channels (w is ", w.shape(), ", groups=", o.groups,
        "), got x of shape ", x.shape());
  if (bias.defined())
    check(bias.ndim() == 1 && bias.shape()[0] == O, op, ": expected bias of shape ", Dims{O}, " (w is ", w.shape(),
          "), got ", bias.shape());
  const int64_t span = o.dilation * (w.shape()[2] - 1) + 1;
  if (transposed || o.padding == "same") return;
  check(span <= x.size(-1) + o.pad_left + o.pad_right, op, ": the kernel covers ", span,
        " places, more than the padded sequence of ", x.size(-1) + o.pad_left + o.pad_right, " (x is ", x.shape(),
        ", w is ", w.shape(), ", dilation ", o.dilation, ")");
}

Conv2dOptions in_a_row(const Conv1dOptions& o) {
  Conv2dOptions r;
  r.stride = {1, o.stride}, r.dilation = {1, o.dilation}, r.output_padding = {0, o.output_padding};
  r.pad_left = o.pad_left, r.pad_right = o.pad_right, r.padding = o.padding;
  r.groups = o.groups, r.padding_mode = o.padding_mode;
  return r;
}

Pool2dOptions in_a_row(const char* op, const Tensor& x, const Pool1dOptions& o) {
  const int64_t stride = o.stride ? o.stride : o.kernel;
  check_range(op, "kernel_size", o.kernel, 1);
  check_range(op, "stride", stride, 1);
  check_range(op, "padding", o.padding, 0);
  check_range(op, "dilation", o.dilation, 1);
  const int64_t span = o.dilation * (o.kernel - 1) + 1;
  check(o.padding <= span / 2, op, ": expected padding of at most half the window of ", span, " places, got ",
        o.padding);
  check(span <= x.size(-1) + 2 * o.padding || o.ceil_mode, op, ": the window of ", span,
        " places is larger than the padded sequence of ", x.size(-1) + 2 * o.padding, " (x is ", x.shape(), ")");
  Pool2dOptions r;
  r.kernel = {1, o.kernel}, r.stride = {1, stride}, r.padding = {0, o.padding}, r.dilation = {1, o.dilation};
  r.ceil_mode = o.ceil_mode, r.count_include_pad = o.count_include_pad;
  return r;
}

}  // namespace

Tensor conv1d(const Tensor& x, const Tensor& w, const Tensor& bias, const Conv1dOptions& o) {
  const Tensor image = as_image("conv1d", x);
  check_conv("conv1d", x, w, bias, o, false);
  return as_sequence(conv2d(image, unsqueeze(w, -2), bias, in_a_row(o)));
}

Tensor conv_transpose1d(const Tensor& x, const Tensor& w, const Tensor& bias, const Conv1dOptions& o) {
  const Tensor image = as_image("conv_transpose1d", x);
  check_conv("conv_transpose1d", x, w, bias, o, true);
  check(o.output_padding >= 0 && o.output_padding < std::max(o.stride, o.dilation),
        "conv_transpose1d: expected output_padding smaller than stride or dilation, got output_padding ",
        o.output_padding, ", stride ", o.stride, ", dilation ", o.dilation);
  return as_sequence(conv_transpose2d(image, unsqueeze(w, -2), bias, in_a_row(o)));
}

Tensor max_pool1d(const Tensor& x, const Pool1dOptions& o) {
  const Tensor image = as_image("max_pool1d", x);
  return as_sequence(max_pool2d(image, in_a_row("max_pool1d", x, o)));
}
std::pair<Tensor, Tensor> max_pool1d_with_indices(const Tensor& x, const Pool1dOptions& o) {
  const Tensor image = as_image("max_pool1d", x);
  return as_sequence(max_pool2d_with_indices(image, in_a_row("max_pool1d", x, o)));
}
Tensor lp_pool1d(const Tensor& x, double p, const Pool1dOptions& o) {
  const Tensor image = as_image("lp_pool1d", x);
  return as_sequence(lp_pool2d(image, p, in_a_row("lp_pool1d", x, o)));
}
Tensor avg_pool1d(const Tensor& x, const Pool1dOptions& o) {
  const Tensor image = as_image("avg_pool1d", x);
  check(o.dilation == 1, "avg_pool1d: expected dilation 1, got ", o.dilation);
  return as_sequence(avg_pool2d(image, in_a_row("avg_pool1d", x, o)));
}
Tensor adaptive_avg_pool1d(const Tensor& x, int64_t size) {
  const Tensor image = as_image("adaptive_avg_pool1d", x);
  check_range("adaptive_avg_pool1d", "output_size", size, 1);
  return as_sequence(adaptive_avg_pool2d(image, {1, size}));
}
Tensor adaptive_max_pool1d(const Tensor& x, int64_t size) {
  const Tensor image = as_image("adaptive_max_pool1d", x);
  check_range("adaptive_max_pool1d", "output_size", size, 1);
  return as_sequence(adaptive_max_pool2d(image, {1, size}));
}
std::pair<Tensor, Tensor> adaptive_max_pool1d_with_indices(const Tensor& x, int64_t size) {
  const Tensor image = as_image("adaptive_max_pool1d", x);
  check_range("adaptive_max_pool1d", "output_size", size, 1);
  return as_sequence(adaptive_max_pool2d_with_indices(image, {1, size}));
}

}  // namespace fastcnn
