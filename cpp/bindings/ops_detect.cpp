// What it is: fastcnn.ops of boxes. What it is not: checks of values; those are the ops'.
#include "args.h"

namespace fastcnn::bindings {
namespace {

// (K, 5) as it is; a list of (L, 4), one for each image, with the number of the image before each box.
Tensor numbered_boxes(const py::object& boxes) {
  if (py::isinstance<Tensor>(boxes)) return boxes.cast<Tensor>();
  std::vector<Tensor> parts;
  try {
    parts = boxes.cast<std::vector<Tensor>>();
  } catch (const py::cast_error&) {
    throw TypeError(concat("roi_align: expected boxes as a tensor (K, 5) or a list of tensors (L, 4), got ",
                           py::str(py::type::handle_of(boxes).attr("__name__")).cast<std::string>()));
  }
  check(!parts.empty(), "roi_align: expected boxes of at least one image, got an empty list");
  for (size_t i = 0; i < parts.size(); ++i) {
    Tensor& t = parts[i];
    check(t.ndim() == 2 && t.shape()[1] == 4, "roi_align: expected boxes of shape (L, 4) for image ", i, ", got ",
          t.shape());
    t = cat({full({t.shape()[0], 1}, static_cast<double>(i), t.dtype(), t.device()), t}, 1);
  }
  return cat(parts, 0);
}

}  // namespace

void bind_ops_detect(py::module_& ops) {
  ops.def("box_iou", &box_iou, NoGil(), py::arg("boxes1"), py::arg("boxes2"),
          "Intersection over union of all pairs of boxes (N, 4) and (M, 4), x1 y1 x2 y2: (N, M). NaN where both "
          "boxes\n"
          "are empty.");
  ops.def(
      "nms",
      [](const Tensor& boxes, const Tensor& scores, double iou_threshold, const Maybe& groups,
         std::optional<int64_t> max_output) {
        return without_gil([&] { return nms(boxes, scores, iou_threshold, or_empty(groups), max_output); });
      },
      py::arg("boxes"), py::arg("scores"), py::arg("iou_threshold"), py::arg("groups") = py::none(),
      py::arg("max_output") = py::none(),
      "Non-maximum suppression: numbers (int64) of the boxes (N, 4), x1 y1 x2 y2, that are kept, best of scores "
      "(N,)\n"
      "first: a box goes whose IoU with a kept one is above iou_threshold. groups (N,), integer: boxes of "
      "different\n"
      "groups (classes, images) do not meet. max_output: exactly so many numbers come back, -1 behind the last "
      "kept;\n"
      "the shape does not depend on values then, which compile needs. Not differentiable.");
  ops.def(
      "roi_align",
      [](const Tensor& x, const py::object& boxes, const py::object& output_size, double spatial_scale,
         int64_t sampling_ratio, bool aligned) {
        Tensor b = numbered_boxes(boxes);
        auto size = int_pair("roi_align", "output_size", output_size);
        return without_gil([&] { return roi_align(x, b, size, spatial_scale, sampling_ratio, aligned); });
      },
      py::arg("x"), py::arg("boxes"), py::arg("output_size"), py::arg("spatial_scale") = 1.0,
      py::arg("sampling_ratio") = -1, py::arg("aligned") = false,
      "Features of regions of x (N, C, H, W): (K, C, h, w) for output_size int or (h, w) (He et al. 2017). boxes: "
      "(K, 5)\n"
      "of the number of an image and x1 y1 x2 y2, or a list with (L, 4) for each image; spatial_scale takes them "
      "to\n"
      "pixels of x. sampling_ratio: samples of a bin along an axis, <= 0: one for each pixel that the bin spans.\n"
      "aligned: pixel centres lie at halves, and regions smaller than a pixel stay so. Differentiable in x.\n"
      "ValueError: a box that is not finite or of no image.");
}

}  // namespace fastcnn::bindings
