// What it is: fastcnn.ops of images at free points. What it is not: checks of values; those are the ops'.
#include "args.h"

namespace fastcnn::bindings {
namespace {

// A number for all channels, one number per channel, or a tensor.
Tensor per_channel(const char* what, const py::object& v, int64_t channels) {
  if (py::isinstance<Tensor>(v)) return v.cast<Tensor>();
  if (auto n = number_from(v)) return full({channels}, n->value);
  std::vector<double> values;
  try {
    values = v.cast<std::vector<double>>();
  } catch (const py::cast_error&) {
    throw TypeError(concat("affine_sample: expected ", what, " as a number or one number per channel, got ",
                           py::repr(v).cast<std::string>()));
  }
  check(static_cast<int64_t>(values.size()) == channels, "affine_sample: expected ", what, " of ", channels,
        " channels, got ", values.size(), " values");
  Tensor t = empty({channels}, DType::float32);
  for (int64_t c = 0; c < channels; ++c) t.data<float>()[c] = static_cast<float>(values[c]);
  return t;
}

// values / unit - mean, over std: as scale and shift (2, C).
Tensor normalization(const Tensor& x, const py::object& mean, const py::object& deviation) {
  const int64_t C = x.ndim() == 4 ? x.shape()[1] : 0;
  const double unit = x.dtype() == DType::uint8 ? 255 : 1;
  Tensor m = per_channel("mean", mean.is_none() ? py::object(py::float_(0.0)) : mean, C);
  Tensor s = per_channel("std", deviation.is_none() ? py::object(py::float_(1.0)) : deviation, C),
         t = empty({2, C}, DType::float32);
  for (int64_t c = 0; c < C; ++c) {
    const double width = s.data<float>()[c];
    check(width > 0, "affine_sample: expected std > 0, got ", width);
    t.data<float>()[c] = static_cast<float>(1 / (unit * width));
    t.data<float>()[C + c] = static_cast<float>(-m.data<float>()[c] / width);
  }
  return t;
}

}  // namespace

void bind_ops_sample(py::module_& ops) {
  ops.def(
      "affine_sample",
      [](const Tensor& x, const Tensor& matrix, const py::object& size, const std::string& mode,
         const std::string& fill_mode, const py::object& fill, bool antialias, const Maybe& displacement,
         const Maybe& color, const py::object& mean, const py::object& deviation) {
        AffineSampleOptions o;
        if (!size.is_none()) o.size = int_pair("affine_sample", "size", size);
        o.mode = mode, o.fill_mode = fill_mode, o.antialias = antialias;
        o.fill = to_device(per_channel("fill", fill, x.ndim() == 4 ? x.shape()[1] : 1), x.device());
        o.displacement = or_empty(displacement), o.color = or_empty(color);
        if (!mean.is_none() || !deviation.is_none())
          o.norm = to_device(normalization(x, mean, deviation), x.device());
        return without_gil([&] { return affine_sample(x, matrix, o); });
      },
      py::arg("x"), py::arg("matrix"), py::arg("size") = py::none(), py::arg("mode") = "bilinear",
      py::arg("fill_mode") = "constant", py::arg("fill") = 0.0, py::arg("antialias") = false,
      py::arg("displacement") = py::none(), py::arg("color") = py::none(), py::arg("mean") = py::none(),
      py::arg("std") = py::none(),
      "x (N, C, H, W) uint8 or float32 at free points: pixel (column, row) of image n of the result is x at\n"
      "matrix[n] * (column, row, 1), in pixels of x whose centres have whole coordinates. Not differentiable.\n\n"
      "matrix: float32 (N, 2, 3), or (N, 3, 3) for perspective. size: int or (h, w) of the result, default x's.\n"
      "mode: nearest, bilinear or bicubic. fill_mode: what lies outside x: constant (fill: a number or one per\n"
      "channel), edge, reflect (without repeating the edge) or symmetric (repeating it). antialias: matrices "
      "that\n"
      "only scale and move weigh all pixels that an output pixel covers, as a resize does, and other matrices do\n"
      "not change. displacement: float32 (N, 2, h, w), added to the column and row of each point.\n"
      "color: float32 (N, stages, C*(2C + 1) + 1), stages one after another: A (C, C), B (C, C), c (C) and hue "
      "make\n"
      "A v + B m + c of a pixel v, where m is the image's mean so far, limited to [0, 255] (float32: [0, 1]); "
      "then\n"
      "with 3 channels the hue turns by `hue` of a circle (HSV). mean, std: the result is float32,\n"
      "(x / 255 - mean) / std, or (x - mean) / std of float32 x.\n"
      "Returns (N, C, h, w) of x's dtype. ValueError and TypeError where shapes, dtypes or options do not fit.");
  ops.def(
      "grid_sample",
      [](const Tensor& x, const Tensor& grid, const std::string& mode, const std::string& padding_mode,
         bool align_corners) {
        return without_gil([&] { return grid_sample(x, grid, mode, padding_mode, align_corners); });
      },
      py::arg("x"), py::arg("grid"), py::arg("mode") = "bilinear", py::arg("padding_mode") = "zeros",
      py::arg("align_corners") = false,
      "x (N, C, H, W) at the points of grid (N, h, w, 2), pairs (x, y) where -1 and 1 are the ends of the image:\n"
      "the outer edges of the outermost pixels, or with align_corners their centres. mode: bilinear, nearest or\n"
      "bicubic. padding_mode: what lies outside: zeros, border (the nearest pixel) or reflection. Gradients to\n"
      "both, of any order (the sampler of Spatial Transformer Networks, Jaderberg et al. 2015). Returns (N, C, h, "
      "w)\n"
      "of x's dtype. ValueError and TypeError where shapes, dtypes or options do not fit.");
}

}  // namespace fastcnn::bindings
