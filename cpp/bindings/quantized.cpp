// What it is: int8 ops of fastcnn.ops and graphs as functions, for fastcnn/quantization: conversion only.
#include "bindings.h"
#include "fastcnn/ops.h"
#include "fastcnn/session.h"

namespace fastcnn::bindings {

void bind_quantized(py::module_& m, py::module_& ops) {
  ops.def("quantize", &quantize, NoGil(), py::arg("x"), py::arg("scale"), py::arg("zero"),
          "uint8 clamp(round(x / scale) + zero, 0, 255) of x float32, halves to even, NaN as 0.\n"
          "TypeError for another dtype; ValueError unless scale > 0 and 0 <= zero <= 255.");
  ops.def("dequantize", &dequantize, NoGil(), py::arg("x"), py::arg("scale"), py::arg("zero"),
          "float32 (x - zero) * scale of x uint8: the inverse of quantize, within scale / 2.");
  ops.def(
      "quantized_conv2d",
      [](const Tensor& x, const Tensor& w, const Tensor& multiplier, const Tensor& offset,
         const py::object& stride, const py::object& padding, const py::object& dilation, int64_t groups,
         int64_t x_zero, int64_t low, int64_t high, const std::optional<Tensor>& residual,
         double residual_multiplier, bool to_float) {
        Conv2dOptions o;
        o.stride = int_pair("quantized_conv2d", "stride", stride);
        o.dilation = int_pair("quantized_conv2d", "dilation", dilation);
        std::tie(o.pad_top, o.pad_left) = int_pair("quantized_conv2d", "padding", padding);
        o.pad_bottom = o.pad_top, o.pad_right = o.pad_left, o.groups = groups;
        QuantizedConv2dOptions q;
        q.x_zero = x_zero, q.low = low, q.high = high, q.to_float = to_float;
        q.residual = residual ? *residual : Tensor(), q.residual_multiplier = residual_multiplier;
        py::gil_scoped_release release;
        return quantized_conv2d(x, w, multiplier, offset, o, q);
      },
      py::arg("x"), py::arg("w"), py::arg("multiplier"), py::arg("offset"), py::arg("stride") = 1,
      py::arg("padding") = 0, py::arg("dilation") = 1, py::arg("groups") = 1, py::arg("x_zero") = 0,
      py::arg("low") = 0, py::arg("high") = 255, py::arg("residual") = py::none(),
      py::arg("residual_multiplier") = 0.0, py::arg("to_float") = false,
      "Convolution of x (N, C, H, W) uint8 with w (O, C/groups, kH, kW) int8; multiplier, offset (O,) float32.\n\n"
      "acc = sum of (x - x_zero) * w in int32; v = acc * multiplier + offset [+ residual * residual_multiplier], "
      "each\n"
      "step rounded once; the result is uint8 clamp(round(v), low, high), halves to even, or v with to_float. "
      "Padding\n"
      "(int or (h, w)) stands for zeros, whose byte is x_zero. The same bits on every CPU and thread count.\n"
      "TypeError for other dtypes; ValueError if shapes do not fit or int32 could overflow.");
  py::class_<GraphFunction>(m, "GraphFunction", "A graph as JSON (docs/embed.md) with its tensors, to be called.")
      .def(py::init([](const std::string& json, const std::vector<std::pair<std::string, Tensor>>& tensors) {
             std::vector<NamedTensor> named;
             for (const auto& [name, tensor] : tensors) named.push_back({name, tensor});
             return GraphFunction(json, named);
           }),
           py::arg("json"), py::arg("tensors"))
      .def(
          "__call__", [](const GraphFunction& f, const std::vector<Tensor>& inputs) { return f(inputs); }, NoGil(),
          py::arg("inputs"));
}

}  // namespace fastcnn::bindings
