// What it is: pooling of volumes (N, C, D, H, W) or (C, D, H, W): each frame, then along the depth. Windows are
// products of ranges, so maxima, means and what they are divided by come out the same.
// What it is not: kernels or gradients of its own; those are the 2-D ops'.
#include "ops/operands.h"
#include "ops/volume.h"

namespace fastcnn {
namespace {

using namespace volume;

struct Parts {
  Pool2dOptions frame, depth;
  bool frames = true, along = true;  // is there anything to do?
};

Parts parts_of(const char* op, const Tensor& x, const Pool3dOptions& o) {
  std::array<int64_t, 3> stride = o.stride;
  if (stride == std::array<int64_t, 3>{0, 0, 0}) stride = o.kernel;
  check_triple(op, "kernel_size", o.kernel, 1);
  check_triple(op, "stride", stride, 1);
  check_triple(op, "padding", o.padding, 0);
  check_triple(op, "dilation", o.dilation, 1);
  Dims span{0, 0, 0}, padded{0, 0, 0};
  for (int i = 0; i < 3; ++i) {
    span[i] = o.dilation[i] * (o.kernel[i] - 1) + 1;
    padded[i] = x.shape()[2 + i] + 2 * o.padding[i];
    check(o.padding[i] <= span[i] / 2, op, ": expected padding of at most half the window of ", span[i],
          " places, got ", o.padding[i]);
  }
  for (int i = 0; i < 3; ++i)
    check(span[i] <= padded[i] || (o.ceil_mode && span[i] < padded[i] + stride[i]), op, ": the window of ", span,
          " is larger than the padded volume of ", padded, " (x is ", x.shape(), ")");
  Parts p;
  p.frame.kernel = {o.kernel[1], o.kernel[2]}, p.frame.stride = {stride[1], stride[2]};
  p.frame.padding = {o.padding[1], o.padding[2]}, p.frame.dilation = {o.dilation[1], o.dilation[2]};
  p.depth.kernel = {o.kernel[0], 1}, p.depth.stride = {stride[0], 1};
  p.depth.padding = {o.padding[0], 0}, p.depth.dilation = {o.dilation[0], 1};
  for (Pool2dOptions* q : {&p.frame, &p.depth})
    q->ceil_mode = o.ceil_mode, q->count_include_pad = o.count_include_pad;
  p.frames = o.kernel[1] * o.kernel[2] * stride[1] * stride[2] > 1 || o.padding[1] || o.padding[2];
  p.along = o.kernel[0] * stride[0] > 1 || o.padding[0];
  if (!p.frames && !p.along) p.frames = true;  // a tensor of its own
  return p;
}

// Both steps of one rule; x (N, C, D, H, W).
template <class Frame, class Depth>
Tensor in_two_steps(const Tensor& x, bool frames, bool along, const Frame& frame, const Depth& depth) {
  Tensor y = frames ? from_frames(frame(as_frames(x)), x.shape()[0], x.shape()[2]) : x;
  return along ? from_rows(depth(as_rows(y)), y.shape()[3], y.shape()[4]) : y;
}

// Places in a frame, then of what the depth picked, as places in the volume.
template <class Frame, class Depth>
Both with_places(const Tensor& x, const Frame& frame, const Depth& depth) {
  const int64_t N = x.shape()[0], D = x.shape()[2], HW = x.shape()[3] * x.shape()[4];
  Both y = frame(as_frames(x));
  const int64_t oH = y.first.shape()[2], oW = y.first.shape()[3], plane = oH * oW;
  Both z = depth(as_rows(from_frames(y.first, N, D)));
  const Tensor places = as_rows(from_frames(y.second, N, D));
  const Tensor d = floor_divide(z.second, full({}, static_cast<double>(plane), DType::int64, x.device()));
  return {from_rows(z.first, oH, oW),
          from_rows(add(affine(d, static_cast<double>(HW), 0), gather(places, 2, d)), oH, oW)};
}

Tensor checked_volumes(const char* op, const Tensor& x, const std::array<int64_t, 3>& size) {
  const Tensor v = as_volumes(op, x);
  check_triple(op, "output_size", size, 1);
  check(v.shape()[2] >= 1 && v.shape()[3] >= 1 && v.shape()[4] >= 1, op,
        ": expected a volume of at least 1x1x1, got x of shape ", x.shape());
  return v;
}

}  // namespace

Tensor max_pool3d(const Tensor& x, const Pool3dOptions& o) {
  const Tensor v = as_volumes("max_pool3d", x);
  const Parts p = parts_of("max_pool3d", v, o);
  return as_given(in_two_steps(
                      v, p.frames, p.along, [&](const Tensor& t) { return max_pool2d(t, p.frame); },
                      [&](const Tensor& t) { return max_pool2d(t, p.depth); }),
                  x);
}

std::pair<Tensor, Tensor> max_pool3d_with_indices(const Tensor& x, const Pool3dOptions& o) {
  const Tensor v = as_volumes("max_pool3d", x);
  const Parts p = parts_of("max_pool3d", v, o);
  return as_given(with_places(
                      v, [&](const Tensor& t) { return max_pool2d_with_indices(t, p.frame); },
                      [&](const Tensor& t) { return max_pool2d_with_indices(t, p.depth); }),
                  x);
}

Tensor avg_pool3d(const Tensor& x, const Pool3dOptions& o) {
  const Tensor v = as_volumes("avg_pool3d", x);
  check(o.dilation == std::array<int64_t, 3>{1, 1, 1}, "avg_pool3d: expected dilation 1, got ",
        Dims{o.dilation[0], o.dilation[1], o.dilation[2]});
  Parts p = parts_of("avg_pool3d", v, o);
  if (o.divisor_override) {
    check(*o.divisor_override != 0, "avg_pool3d: expected divisor_override other than 0");
    p.frames = p.along = true;
    p.frame.divisor_override = o.divisor_override, p.depth.divisor_override = 1;
  }
  return as_given(in_two_steps(
                      v, p.frames, p.along, [&](const Tensor& t) { return avg_pool2d(t, p.frame); },
                      [&](const Tensor& t) { return avg_pool2d(t, p.depth); }),
                  x);
}

Tensor adaptive_avg_pool3d(const Tensor& x, std::array<int64_t, 3> size) {
  const Tensor v = checked_volumes("adaptive_avg_pool3d", x, size);
  return as_given(in_two_steps(
                      v, true, size[0] != v.shape()[2],
                      [&](const Tensor& t) { return adaptive_avg_pool2d(t, {size[1], size[2]}); },
                      [&](const Tensor& t) { return adaptive_avg_pool2d(t, {size[0], t.shape()[3]}); }),
                  x);
}

Tensor adaptive_max_pool3d(const Tensor& x, std::array<int64_t, 3> size) {
  const Tensor v = checked_volumes("adaptive_max_pool3d", x, size);
  return as_given(in_two_steps(
                      v, true, size[0] != v.shape()[2],
                      [&](const Tensor& t) { return adaptive_max_pool2d(t, {size[1], size[2]}); },
                      [&](const Tensor& t) { return adaptive_max_pool2d(t, {size[0], t.shape()[3]}); }),
                  x);
}

std::pair<Tensor, Tensor> adaptive_max_pool3d_with_indices(const Tensor& x, std::array<int64_t, 3> size) {
  const Tensor v = checked_volumes("adaptive_max_pool3d", x, size);
  return as_given(
      with_places(
          v, [&](const Tensor& t) { return adaptive_max_pool2d_with_indices(t, {size[1], size[2]}); },
          [&](const Tensor& t) { return adaptive_max_pool2d_with_indices(t, {size[0], t.shape()[3]}); }),
      x);
}

}  // namespace fastcnn
