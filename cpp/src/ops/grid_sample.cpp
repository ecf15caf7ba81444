// What it is: grid_sample: images at free points, with gradients to images and points to any order, as gathers of
// whole pixels and weighted sums. What it is not: one fused kernel; augmentation, which needs no gradients, has
// affine_sample (sample.cpp).
#include <utility>
#include <vector>

#include "fastcnn/ops.h"
#include "ops/operands.h"

namespace fastcnn {
namespace {

constexpr const char* kOp = "grid_sample";
enum class Outside { zeros, border, reflection };

// One neighbour along one axis of all points: its place inside the image, and its weight (0 where it is outside).
struct Tap {
  Tensor index, weight;
};

Tensor number(double v, const Tensor& like) { return full({}, v, like.dtype(), like.device()); }

// Folded back at both ends, as often as needed: low and high are where the mirrors stand.
Tensor reflected(const Tensor& x, double low, double high) {
  const double span = high - low;
  if (span <= 0) return affine(x, 0, low);
  Tensor v = abs(affine(x, 1, -low)), times = floor(affine(v.detach(), 1 / span, 0));
  Tensor extra = sub(v, affine(times, span, 0));
  Tensor even = eq(affine(floor(affine(times, 0.5, 0)), 2, 0), times);
  return where(even, affine(extra, 1, low), affine(extra, -1, high));
}

// No gradient beyond the ends, nor at them, as in PyTorch.
Tensor inside(const Tensor& x, int64_t size) {
  const double last = static_cast<double>(size - 1);
  Tensor between = logical_and(gt(x, number(0, x)), lt(x, number(last, x)));
  return where(between, x, clamp(x.detach(), 0, last));
}

Tensor moved_inside(const Tensor& x, int64_t size, Outside outside, bool align_corners) {
  if (outside == Outside::zeros) return x;
  if (outside == Outside::border) return inside(x, size);
  const double n = static_cast<double>(size);
  return inside(align_corners ? reflected(x, 0, n - 1) : reflected(x, -0.5, n - 0.5), size);
}

// `at`: whole numbers. NaN is outside.
Tap tap(const Tensor& at, const Tensor& weight, int64_t size, DType dtype) {
  Tensor zero = number(0, at), last = number(static_cast<double>(size - 1), at);
  Tensor within = logical_and(ge(at, zero), le(at, last));
  Tensor index = cast(where(within, at, zero), DType::int64);
  return {index, where(within, cast(weight, dtype), zeros({}, dtype, at.device()))};
}

// Cubic convolution (Keys 1981), a = -0.75: weights of the pixels at -1, 0, 1 and 2 for t in [0, 1).
std::vector<Tensor> cubic(const Tensor& t) {
  constexpr double a = -0.75;
  auto near = [](const Tensor& u) { return affine(mul(affine(u, a + 2, -(a + 3)), mul(u, u)), 1, 1); };
  auto far = [](const Tensor& u) {  // u in [1, 2)
    return affine(mul(affine(mul(affine(u, a, -5 * a), u), 1, 8 * a), u), 1, -4 * a);
  };
  return {far(affine(t, 1, 1)), near(t), near(affine(t, -1, 1)), far(affine(t, -1, 2))};
}

// g: (N, oH, oW) in [-1, 1] over the image.
std::vector<Tap> taps(const Tensor& g, int64_t size, const std::string& mode, Outside outside,
                      bool align_corners) {
  const double n = static_cast<double>(size);
  Tensor x = align_corners ? affine(g, (n - 1) / 2, (n - 1) / 2) : affine(g, n / 2, (n - 1) / 2);
  const DType dtype = g.dtype();
  if (mode == "nearest") {
    Tensor at = round(moved_inside(x, size, outside, align_corners).detach());
    return {tap(at, full(g.shape(), 1, dtype, g.device()), size, dtype)};
  }
  if (mode == "bilinear") {
    x = moved_inside(x, size, outside, align_corners);
    Tensor at = floor(x.detach()), t = sub(x, at);
    return {tap(at, affine(t, -1, 1), size, dtype), tap(affine(at, 1, 1), t, size, dtype)};
  }
  Tensor at = floor(x.detach());
  std::vector<Tensor> weights = cubic(sub(x, at));
  std::vector<Tap> found;
  for (int k = 0; k < 4; ++k) {
    Tensor place = moved_inside(affine(at, 1, k - 1), size, outside, align_corners);
    found.push_back(
        tap(outside == Outside::reflection ? round(place) : place, weights[static_cast<size_t>(k)], size, dtype));
  }
  return found;
}

Outside outside_of(const std::string& mode) {
  if (mode == "zeros") return Outside::zeros;
  if (mode == "border") return Outside::border;
  if (mode == "reflection") return Outside::reflection;
  throw ValueError(concat(kOp, ": expected padding_mode zeros, border or reflection, got '", mode, "'"));
}

}  // namespace

Tensor grid_sample(const Tensor& x, const Tensor& grid, const std::string& mode, const std::string& padding_mode,
                   bool align_corners) {
  check_floating(kOp, "x", x);
  check_floating(kOp, "grid", grid);
  check(x.ndim() == 4, kOp, ": expected x of shape (N, C, H, W), got ", x.shape());
  const int64_t N = x.shape()[0], C = x.shape()[1], H = x.shape()[2], W = x.shape()[3];
  check(grid.ndim() == 4 && grid.shape()[0] == N && grid.shape()[3] == 2, kOp, ": expected grid of shape (", N,
        ", h, w, 2) for x of shape ", x.shape(), ", got ", grid.shape());
  check(mode == "bilinear" || mode == "nearest" || mode == "bicubic", kOp,
        ": expected mode bilinear, nearest or bicubic, got '", mode, "'");
  check(H > 0 && W > 0, kOp, ": expected images of at least 1x1, got x of shape ", x.shape());
  const Outside outside = outside_of(padding_mode);
  // Places need more digits than 16 bits have.
  const DType dtype = x.dtype() == DType::float64 ? DType::float64 : DType::float32;
  Tensor g = cast(grid, dtype);
  const int64_t oH = g.shape()[1], oW = g.shape()[2], points = N * oH * oW;
  const std::vector<Tap> across = taps(select(g, 3, 0), W, mode, outside, align_corners);
  const std::vector<Tap> down = taps(select(g, 3, 1), H, mode, outside, align_corners);
  Tensor pixels = reshape(permute(cast(x, dtype), {0, 2, 3, 1}), {N * H * W, C});
  Tensor first = reshape(
      affine(arange(0, static_cast<double>(N), 1, DType::int64, x.device()), static_cast<double>(H * W), 0),
      {N, 1, 1});
  Tensor sum;
  for (const Tap& v : down) {
    Tensor row = add(first, affine(v.index, static_cast<double>(W), 0));
    for (const Tap& h : across) {
      Tensor at = reshape(add(row, h.index), {points}), weight = reshape(mul(v.weight, h.weight), {points, 1});
      Tensor part = mul(index_select(pixels, 0, at), weight);
      sum = sum.defined() ? add(sum, part) : part;
    }
  }
  return cast(permute(reshape(sum, {N, oH, oW, C}), {0, 3, 1, 2}), x.dtype());
}

}  // namespace fastcnn
