// What it is: grid_sample: images at free points, with gradients to images and points to any order. The op and its
// gradients are fused; what is differentiated once more is a formula: gathers of whole pixels and weighted sums.
// What it is not: augmentation, which needs no gradients (affine_sample in sample.cpp).
#include <utility>
#include <vector>

#include "ops/decompose.h"
#include "ops/loss.h"
#include "ops/operands.h"

namespace fastcnn {
namespace {

constexpr const char* kOp = "grid_sample";

// ---- the formula

// One neighbour along one axis of all points: its place inside the image, and its weight (0 where it is outside).
struct Tap {
  Tensor index, weight;
};

// Folded back at both ends, as often as needed: low and high are where the mirrors stand.
Tensor reflected(const Tensor& x, double low, double high) {
  const double twice = 2 * (high - low);
  if (twice <= 0) return affine(x, 0, low);
  Tensor v = abs(affine(x, 1, -low));
  Tensor from = sub(v, affine(floor(div(v.detach(), number(twice, x))), twice, 0));
  return affine(minimum(from, affine(from, -1, twice)), 1, low);
}

// No gradient beyond the ends, nor at them, as in PyTorch.
Tensor inside(const Tensor& x, int64_t size) {
  const double last = static_cast<double>(size - 1);
  Tensor between = logical_and(gt(x, number(0, x)), lt(x, number(last, x)));
  return where(between, x, clamp(x.detach(), 0, last));
}

Tensor moved_inside(const GridSampleParams& p, const Tensor& x, int64_t size) {
  if (p.padding == GridPadding::zeros) return x;
  if (p.padding == GridPadding::border) return inside(x, size);
  const double n = static_cast<double>(size);
  return inside(p.align_corners ? reflected(x, 0, n - 1) : reflected(x, -0.5, n - 0.5), size);
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

// u: (N, points), -1 and 1 at the ends of the image.
std::vector<Tap> taps(const GridSampleParams& p, const Tensor& u, int64_t size) {
  const double n = static_cast<double>(size);
  Tensor x = affine(u, 1, 1);
  x = p.align_corners ? affine(x, (n - 1) / 2, 0) : affine(x, n / 2, -0.5);
  const DType dtype = u.dtype();
  if (p.mode == Interp::nearest) {
    Tensor at = round(moved_inside(p, x, size).detach());
    return {tap(at, full(u.shape(), 1, dtype, u.device()), size, dtype)};
  }
  if (p.mode == Interp::bilinear) {
    x = moved_inside(p, x, size);
    Tensor at = floor(x.detach()), t = sub(x, at);
    return {tap(at, affine(t, -1, 1), size, dtype), tap(affine(at, 1, 1), t, size, dtype)};
  }
  Tensor at = floor(x.detach());
  std::vector<Tensor> weights = cubic(sub(x, at));
  std::vector<Tap> found;
  for (int k = 0; k < 4; ++k) {
    Tensor place = moved_inside(p, affine(at, 1, k - 1), size);
    if (p.padding == GridPadding::reflection) place = round(place);
    found.push_back(tap(place, weights[static_cast<size_t>(k)], size, dtype));
  }
  return found;
}

Tensor sample_formula(const GridSampleParams& p, const Tensor& x, const Tensor& points) {
  const std::vector<Tap> across = taps(p, select(points, 2, 0), p.W), down = taps(p, select(points, 2, 1), p.H);
  const int64_t total = p.N * p.oH * p.oW;
  Tensor pixels = reshape(permute(x, {0, 2, 3, 1}), {p.N * p.H * p.W, p.C});
  Tensor first = reshape(
      affine(arange(0, static_cast<double>(p.N), 1, DType::int64, x.device()), static_cast<double>(p.H * p.W), 0),
      {p.N, 1});
  Tensor sum;
  for (const Tap& v : down) {
    Tensor row = add(first, affine(v.index, static_cast<double>(p.W), 0));
    for (const Tap& h : across) {
      Tensor at = reshape(add(row, h.index), {total}), weight = reshape(mul(v.weight, h.weight), {total, 1});
      Tensor part = mul(index_select(pixels, 0, at), weight);
      sum = sum.defined() ? add(sum, part) : part;
    }
  }
  return permute(reshape(sum, {p.N, p.oH, p.oW, p.C}), {0, 3, 1, 2});
}

// ---- the ops: dy [, x for dpoints], points -> [dx] [, dpoints]

std::vector<Tensor> vjp_grid_sample_bwd(TapeNode& n, const std::vector<Tensor>& g) {
  const auto p = n.as<GridSampleParams>();
  return vjp_by_formula(n, g, p.has_dgrid ? 3 : 2, [p](const std::vector<Tensor>& in) {
    const Tensor& dy = in[0];
    // dx is the same for every x.
    Tensor x = tape_alias(p.has_dgrid ? in[1] : zeros({p.N, p.C, p.H, p.W}, dy.dtype(), dy.device()));
    Tensor points = tape_alias(in.back());
    std::vector<Tensor> wanted;
    if (p.has_dx) wanted.push_back(x);
    if (p.has_dgrid) wanted.push_back(points);
    return grad({sample_formula(p, x, points)}, wanted, {dy}, true);
  });
}
const Rule grid_sample_bwd_rules[2] = {{"grid_sample_bwd", vjp_grid_sample_bwd, 0b11},
                                       {"grid_sample_bwd", vjp_grid_sample_bwd, 0b111}};

std::vector<Tensor> vjp_grid_sample(TapeNode& n, const std::vector<Tensor>& g) {
  auto p = n.as<GridSampleParams>();
  p.has_dx = n.needs(0), p.has_dgrid = n.needs(1);
  std::vector<Tensor> in{contiguous(g[0])};
  std::vector<OutSpec> out;
  if (p.has_dgrid) in.push_back(n.input(0));
  in.push_back(n.input(1));
  const DType t = g[0].dtype();
  if (p.has_dx) out.push_back({{p.N, p.C, p.H, p.W}, t});
  if (p.has_dgrid) out.push_back({{p.N, p.oH * p.oW, 2}, t});
  std::vector<Tensor> made = emit(grid_sample_bwd_rules[p.has_dgrid], OpKind::grid_sample_bwd, p, in, out);
  return {p.has_dx ? made.front() : Tensor{}, p.has_dgrid ? made.back() : Tensor{}};
}
// x is kept for the gradient of points alone.
const Rule grid_sample_rules[2] = {{"grid_sample", vjp_grid_sample, 0b10}, {"grid_sample", vjp_grid_sample, 0b11}};

GridPadding padding_of(const std::string& mode) {
  if (mode == "zeros") return GridPadding::zeros;
  if (mode == "border") return GridPadding::border;
  if (mode == "reflection") return GridPadding::reflection;
  throw ValueError(concat(kOp, ": expected padding_mode zeros, border or reflection, got '", mode, "'"));
}

Interp mode_of(const std::string& mode) {
  if (mode == "bilinear") return Interp::bilinear;
  if (mode == "nearest") return Interp::nearest;
  if (mode == "bicubic") return Interp::bicubic;
  throw ValueError(concat(kOp, ": expected mode bilinear, nearest or bicubic, got '", mode, "'"));
}

}  // namespace

Tensor grid_sample(const Tensor& x, const Tensor& grid, const std::string& mode, const std::string& padding_mode,
                   bool align_corners) {
  check_floating(kOp, "x", x);
  check_floating(kOp, "grid", grid);
  check(x.ndim() == 4, kOp, ": expected x of shape (N, C, H, W), got ", x.shape());
  GridSampleParams p;
  p.N = x.shape()[0], p.C = x.shape()[1], p.H = x.shape()[2], p.W = x.shape()[3];
  check(grid.ndim() == 4 && grid.shape()[0] == p.N && grid.shape()[3] == 2, kOp, ": expected grid of shape (", p.N,
        ", h, w, 2) for x of shape ", x.shape(), ", got ", grid.shape());
  check(p.H > 0 && p.W > 0, kOp, ": expected images of at least 1x1, got x of shape ", x.shape());
  p.oH = grid.shape()[1], p.oW = grid.shape()[2], p.align_corners = align_corners;
  p.mode = mode_of(mode), p.padding = padding_of(padding_mode);
  // Places need more digits than 16 bits have.
  Tensor v = contiguous(wide(kOp, x));
  // Pairs side by side: four dims would lie with the second one innermost.
  Tensor points = contiguous(reshape(cast(grid, v.dtype()), {p.N, p.oH * p.oW, 2}));
  if (p.mode == Interp::nearest) points = points.detach();
  return cast(emit1(grid_sample_rules[points.requires_grad()], OpKind::grid_sample, p, {v, points},
                    {{p.N, p.C, p.oH, p.oW}, v.dtype()}),
              x.dtype());
}

}  // namespace fastcnn
