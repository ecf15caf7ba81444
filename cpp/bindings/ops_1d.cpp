// What it is: fastcnn.ops for sequences (N, C, L): convolution and pooling. What it is not: checks of values;
// those are the ops'. Names and order of arguments are PyTorch's.
#include <tuple>

#include "args.h"

namespace fastcnn::bindings {
namespace {

// 3 or (3,)
int64_t one_int(const char* op, const char* what, const py::object& v) {
  if (PyIndex_Check(v.ptr())) return int_from(op, v);
  if (py::isinstance<py::sequence>(v) && !py::isinstance<py::str>(v) && py::len(v) == 1)
    return int_from(op, py::reinterpret_borrow<py::sequence>(v)[0]);
  throw TypeError(concat(op, ": expected ", what, " as an int, got ", py::repr(v).cast<std::string>()));
}

Conv1dOptions conv_options(const char* op, const py::object& stride, const py::object& padding,
                           const py::object& dilation, int64_t groups) {
  Conv1dOptions o;
  o.stride = one_int(op, "stride", stride), o.dilation = one_int(op, "dilation", dilation), o.groups = groups;
  if (py::isinstance<py::str>(padding)) {
    o.padding = padding.cast<std::string>();
    check(o.padding == "same" || o.padding == "valid", op,
          ": expected padding as an int, (left, right), 'same' or 'valid', got '", o.padding, "'");
  } else {
    std::tie(o.pad_left, o.pad_right) = int_pair(op, "padding", padding);
  }
  return o;
}

Pool1dOptions pool_options(const char* op, const py::object& kernel, const py::object& stride,
                           const py::object& padding, const py::object& dilation, bool ceil_mode) {
  Pool1dOptions o;
  o.kernel = one_int(op, "kernel_size", kernel);
  if (!stride.is_none()) {
    o.stride = one_int(op, "stride", stride);
    check(o.stride >= 1, op, ": expected stride >= 1, got ", o.stride);
  }
  o.padding = one_int(op, "padding", padding), o.dilation = one_int(op, "dilation", dilation);
  o.ceil_mode = ceil_mode;
  return o;
}

}  // namespace

void bind_ops_1d(py::module_& ops) {
  ops.def(
      "conv1d",
      [](const Tensor& x, const Tensor& w, const Maybe& b, const py::object& stride, const py::object& padding,
         const py::object& dilation, int64_t groups, const std::string& mode) {
        Conv1dOptions o = conv_options("conv1d", stride, padding, dilation, groups);
        o.padding_mode = mode;
        return without_gil([&] { return conv1d(x, w, or_empty(b), o); });
      },
      py::arg("x"), py::arg("w"), no("b"), py::arg("stride") = 1, py::arg("padding") = 0, py::arg("dilation") = 1,
      py::arg("groups") = 1, py::arg("padding_mode") = "zeros",
      "1-D convolution (cross-correlation) of x (N, C, L) or (C, L) with w (O, C/groups, k) and b (O,): conv2d "
      "of\n"
      "images of one row. padding: int, (left, right), 'valid' or 'same' (as conv2d); padding_mode as conv2d.\n"
      "Returns (N, O, oL) with oL = (L + left + right - dilation*(k - 1) - 1) // stride + 1. ValueError or "
      "TypeError "
      "as\n"
      "conv2d.");
  ops.def(
      "conv_transpose1d",
      [](const Tensor& x, const Tensor& w, const Maybe& b, const py::object& stride, const py::object& padding,
         const py::object& output_padding, int64_t groups, const py::object& dilation) {
        Conv1dOptions o = conv_options("conv_transpose1d", stride, padding, dilation, groups);
        o.output_padding = one_int("conv_transpose1d", "output_padding", output_padding);
        return without_gil([&] { return conv_transpose1d(x, w, or_empty(b), o); });
      },
      py::arg("x"), py::arg("w"), no("b"), py::arg("stride") = 1, py::arg("padding") = 0,
      py::arg("output_padding") = 0, py::arg("groups") = 1, py::arg("dilation") = 1,
      "Transposed convolution of x (N, C, L) or (C, L) with w (C, O/groups, k) and b (O,): conv_transpose2d of "
      "images "
      "of\n"
      "one row. Returns (N, O, oL) with oL = (L - 1)*stride - left - right + dilation*(k - 1) + 1 + "
      "output_padding.");
  ops.def(
      "max_pool1d",
      [](const Tensor& x, const py::object& kernel, const py::object& stride, const py::object& padding,
         const py::object& dilation, bool ceil_mode, bool return_indices) {
        Pool1dOptions o = pool_options("max_pool1d", kernel, stride, padding, dilation, ceil_mode);
        return one_or_both(
            return_indices, [&] { return max_pool1d(x, o); }, [&] { return max_pool1d_with_indices(x, o); });
      },
      py::arg("x"), py::arg("kernel_size"), no("stride"), py::arg("padding") = 0, py::arg("dilation") = 1,
      py::arg("ceil_mode") = false, py::arg("return_indices") = false,
      "Largest value of each window of x (N, C, L) or (C, L), as max_pool2d; with return_indices also its place, "
      "int64.");
  ops.def(
      "lp_pool1d",
      [](const Tensor& x, double norm_type, const py::object& kernel, const py::object& stride, bool ceil_mode) {
        Pool1dOptions o = pool_options("lp_pool1d", kernel, stride, py::int_(0), py::int_(1), ceil_mode);
        return without_gil([&] { return lp_pool1d(x, norm_type, o); });
      },
      py::arg("x"), py::arg("norm_type"), py::arg("kernel_size"), no("stride"), py::arg("ceil_mode") = false,
      "(sum of x**norm_type)**(1/norm_type) over each window of x (N, C, L) or (C, L), as lp_pool2d.");
  ops.def(
      "avg_pool1d",
      [](const Tensor& x, const py::object& kernel, const py::object& stride, const py::object& padding,
         bool ceil_mode, bool count_include_pad) {
        Pool1dOptions o = pool_options("avg_pool1d", kernel, stride, padding, py::int_(1), ceil_mode);
        o.count_include_pad = count_include_pad;
        return without_gil([&] { return avg_pool1d(x, o); });
      },
      py::arg("x"), py::arg("kernel_size"), no("stride"), py::arg("padding") = 0, py::arg("ceil_mode") = false,
      py::arg("count_include_pad") = true, "Mean of each window of x (N, C, L) or (C, L), as avg_pool2d.");
  ops.def(
      "adaptive_avg_pool1d",
      [](const Tensor& x, const py::object& size) {
        const int64_t s = one_int("adaptive_avg_pool1d", "output_size", size);
        return without_gil([&] { return adaptive_avg_pool1d(x, s); });
      },
      py::arg("x"), py::arg("output_size"),
      "Means over output_size windows of x (N, C, L), as adaptive_avg_pool2d.");
  ops.def(
      "adaptive_max_pool1d",
      [](const Tensor& x, const py::object& size, bool return_indices) {
        const int64_t s = one_int("adaptive_max_pool1d", "output_size", size);
        return one_or_both(
            return_indices, [&] { return adaptive_max_pool1d(x, s); },
            [&] { return adaptive_max_pool1d_with_indices(x, s); });
      },
      py::arg("x"), py::arg("output_size"), py::arg("return_indices") = false,
      "Maxima over output_size windows of x (N, C, L); with return_indices also their places, int64.");
}

}  // namespace fastcnn::bindings
