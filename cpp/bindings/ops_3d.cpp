// What it is: fastcnn.ops for volumes (N, C, D, H, W): convolution and pooling. What it is not: checks of values;
// those are the ops'. Names and order of arguments are PyTorch's.
#include <array>

#include "args.h"

namespace fastcnn::bindings {
namespace {

using Triple = std::array<int64_t, 3>;

// 3 or (3, 3, 3)
Triple int_triple(const char* op, const char* what, const py::object& v) {
  if (PyIndex_Check(v.ptr())) {
    const int64_t i = int_from(op, v);
    return {i, i, i};
  }
  if (is_sequence(v) && py::len(v) == 3) {
    auto s = py::reinterpret_borrow<py::sequence>(v);
    return {int_from(op, s[0]), int_from(op, s[1]), int_from(op, s[2])};
  }
  throw TypeError(
      concat(op, ": expected ", what, " as an int or three ints, got ", py::repr(v).cast<std::string>()));
}

// int, (d, h, w), ((front, back), (top, bottom), (left, right)), "same" or "valid"
void set_padding(const char* op, const py::object& padding, Conv3dOptions& o) {
  if (py::isinstance<py::str>(padding)) {
    o.padding = padding.cast<std::string>();
    check(o.padding == "same" || o.padding == "valid", op, ": expected padding as ints, 'same' or 'valid', got '",
          o.padding, "'");
    return;
  }
  if (is_sequence(padding) && py::len(padding) == 3) {
    auto s = py::reinterpret_borrow<py::sequence>(padding);
    for (int i = 0; i < 3; ++i) {
      auto [before, after] = int_pair(op, "padding", s[i]);
      o.pad_before[i] = before, o.pad_after[i] = after;
    }
    return;
  }
  o.pad_before = o.pad_after = int_triple(op, "padding", padding);
}

Conv3dOptions conv_options(const char* op, const py::object& stride, const py::object& padding,
                           const py::object& dilation, int64_t groups) {
  Conv3dOptions o;
  o.stride = int_triple(op, "stride", stride), o.dilation = int_triple(op, "dilation", dilation);
  o.groups = groups;
  set_padding(op, padding, o);
  return o;
}

Pool3dOptions pool_options(const char* op, const py::object& kernel, const py::object& stride,
                           const py::object& padding, const py::object& dilation, bool ceil_mode) {
  Pool3dOptions o;
  o.kernel = int_triple(op, "kernel_size", kernel);
  if (!stride.is_none()) {
    o.stride = int_triple(op, "stride", stride);
    for (int64_t s : o.stride) check(s >= 1, op, ": expected stride >= 1, got ", s);
  }
  o.padding = int_triple(op, "padding", padding), o.dilation = int_triple(op, "dilation", dilation);
  o.ceil_mode = ceil_mode;
  return o;
}

// None keeps a size.
Triple output_size(const char* op, const Tensor& x, const py::object& v) {
  if (!is_sequence(v) || py::len(v) != 3) return int_triple(op, "output_size", v);
  auto s = py::reinterpret_borrow<py::sequence>(v);
  Triple size;
  for (int i = 0; i < 3; ++i) size[i] = s[i].is_none() && x.ndim() >= 3 ? x.size(-3 + i) : int_from(op, s[i]);
  return size;
}

}  // namespace

void bind_ops_3d(py::module_& ops) {
  ops.def(
      "conv3d",
      [](const Tensor& x, const Tensor& w, const Maybe& b, const py::object& stride, const py::object& padding,
         const py::object& dilation, int64_t groups, const std::string& mode) {
        Conv3dOptions o = conv_options("conv3d", stride, padding, dilation, groups);
        o.padding_mode = mode;
        return without_gil([&] { return conv3d(x, w, or_empty(b), o); });
      },
      py::arg("x"), py::arg("w"), no("b"), py::arg("stride") = 1, py::arg("padding") = 0, py::arg("dilation") = 1,
      py::arg("groups") = 1, py::arg("padding_mode") = "zeros",
      "3-D convolution (cross-correlation) of x (N, C, D, H, W) or (C, D, H, W) with w (O, C/groups, kD, kH, kW)\n"
      "and b (O,). padding: int, (d, h, w), ((front, back), (top, bottom), (left, right)), 'valid' or 'same' (as\n"
      "conv2d); padding_mode as conv2d. Returns (N, O, oD, oH, oW), each size as conv2d's. It is conv2d of "
      "frames,\n"
      "kD of them beside each other as channels (a copy of x kD times). ValueError or TypeError as conv2d.");
  ops.def(
      "conv_transpose3d",
      [](const Tensor& x, const Tensor& w, const Maybe& b, const py::object& stride, const py::object& padding,
         const py::object& output_padding, int64_t groups, const py::object& dilation) {
        Conv3dOptions o = conv_options("conv_transpose3d", stride, padding, dilation, groups);
        check(o.padding.empty(), "conv_transpose3d: expected padding as ints, got '", o.padding, "'");
        o.output_padding = int_triple("conv_transpose3d", "output_padding", output_padding);
        return without_gil([&] { return conv_transpose3d(x, w, or_empty(b), o); });
      },
      py::arg("x"), py::arg("w"), no("b"), py::arg("stride") = 1, py::arg("padding") = 0,
      py::arg("output_padding") = 0, py::arg("groups") = 1, py::arg("dilation") = 1,
      "Transposed convolution of x (N, C, D, H, W) or (C, D, H, W) with w (C, O/groups, kD, kH, kW) and b (O,);\n"
      "sizes as conv_transpose2d's.");
  ops.def(
      "max_pool3d",
      [](const Tensor& x, const py::object& kernel, const py::object& stride, const py::object& padding,
         const py::object& dilation, bool ceil_mode, bool return_indices) {
        Pool3dOptions o = pool_options("max_pool3d", kernel, stride, padding, dilation, ceil_mode);
        return one_or_both(
            return_indices, [&] { return max_pool3d(x, o); }, [&] { return max_pool3d_with_indices(x, o); });
      },
      py::arg("x"), py::arg("kernel_size"), no("stride"), py::arg("padding") = 0, py::arg("dilation") = 1,
      py::arg("ceil_mode") = false, py::arg("return_indices") = false,
      "Largest value of each window of x (N, C, D, H, W) or (C, D, H, W), as max_pool2d; with return_indices "
      "also\n"
      "its place in D * H * W, int64.");
  ops.def(
      "avg_pool3d",
      [](const Tensor& x, const py::object& kernel, const py::object& stride, const py::object& padding,
         bool ceil_mode, bool count_include_pad, std::optional<int64_t> divisor) {
        Pool3dOptions o = pool_options("avg_pool3d", kernel, stride, padding, py::int_(1), ceil_mode);
        o.count_include_pad = count_include_pad, o.divisor_override = divisor;
        return without_gil([&] { return avg_pool3d(x, o); });
      },
      py::arg("x"), py::arg("kernel_size"), no("stride"), py::arg("padding") = 0, py::arg("ceil_mode") = false,
      py::arg("count_include_pad") = true, no("divisor_override"),
      "Mean of each window of x (N, C, D, H, W) or (C, D, H, W), as avg_pool2d.");
  ops.def(
      "adaptive_avg_pool3d",
      [](const Tensor& x, const py::object& size) {
        const Triple s = output_size("adaptive_avg_pool3d", x, size);
        return without_gil([&] { return adaptive_avg_pool3d(x, s); });
      },
      py::arg("x"), py::arg("output_size"),
      "Means over a grid of windows of x (N, C, D, H, W); None in (d, h, w) keeps a size.");
  ops.def(
      "adaptive_max_pool3d",
      [](const Tensor& x, const py::object& size, bool return_indices) {
        const Triple s = output_size("adaptive_max_pool3d", x, size);
        return one_or_both(
            return_indices, [&] { return adaptive_max_pool3d(x, s); },
            [&] { return adaptive_max_pool3d_with_indices(x, s); });
      },
      py::arg("x"), py::arg("output_size"), py::arg("return_indices") = false,
      "Maxima over a grid of windows of x (N, C, D, H, W); with return_indices also their places in D * H * W.");
}

}  // namespace fastcnn::bindings
