// What it is: interpolate and pixel_shuffle: pictures at other sizes. Sampling at free points is sample.cpp.
#include <cmath>

#include "fastcnn/ops.h"
#include "graph/emit.h"
#include "ops/volume.h"

namespace fastcnn {
namespace {

std::vector<Tensor> vjp_interpolate(TapeNode& n, const std::vector<Tensor>& g);
std::vector<Tensor> vjp_interpolate_bwd(TapeNode& n, const std::vector<Tensor>& g);
const Rule interpolate_rule{"interpolate", vjp_interpolate};
const Rule interpolate_bwd_rule{"interpolate", vjp_interpolate_bwd};

// Linear in x: each is the gradient of the other.
std::vector<Tensor> vjp_interpolate(TapeNode& n, const std::vector<Tensor>& g) {
  return {emit1(interpolate_bwd_rule, OpKind::interpolate_bwd, n.params, {contiguous(g[0])},
                {n.inputs[0].shape, g[0].dtype()})};
}
std::vector<Tensor> vjp_interpolate_bwd(TapeNode& n, const std::vector<Tensor>& g) {
  return {emit1(interpolate_rule, OpKind::interpolate, n.params, {contiguous(g[0])},
                {n.inputs[0].shape, g[0].dtype()})};
}

Interp interp_mode(const std::string& mode) {
  if (mode == "nearest") return Interp::nearest;
  if (mode == "nearest-exact") return Interp::nearest_exact;
  if (mode == "bilinear") return Interp::bilinear;
  if (mode == "bicubic") return Interp::bicubic;
  throw ValueError("interpolate: expected mode nearest, nearest-exact, area, bilinear or bicubic, got '" + mode +
                   "'");
}

// Is this a mode of sequences or volumes?
bool one_of(const std::string& mode, const char* smooth) {
  return mode == "nearest" || mode == "nearest-exact" || mode == "area" || mode == smooth;
}

constexpr int64_t kMaxFactor = 1 << 20;  // its square and what follows stay in int64

// (…, C, H, W) as (N, C, H, W).
Tensor as_images(const char* op, const Tensor& x) {
  check(x.ndim() >= 3, op, ": expected x of shape (…, C, H, W), got ", x.shape());
  if (x.ndim() == 4) return x;
  const Dims& s = x.shape();
  int n = s.size();
  int64_t outer = 1;
  for (int d = 0; d < n - 3; ++d) outer *= s[d];
  return reshape(x, {outer, s[n - 3], s[n - 2], s[n - 1]});
}

Tensor like_input(const Tensor& y, const Tensor& x) {
  if (x.ndim() == 4) return y;
  Dims shape = x.shape();
  for (int i = 0; i < 3; ++i) shape[x.ndim() - 3 + i] = y.shape()[1 + i];
  return reshape(y, shape);
}

}  // namespace

Tensor interpolate(const Tensor& x, std::optional<std::pair<int64_t, int64_t>> size,
                   std::optional<std::pair<double, double>> scale, const std::string& mode, bool align_corners,
                   bool antialias) {
  check(x.ndim() == 4, "interpolate: expected x of shape (N, C, H, W), got ", x.shape());
  check(size.has_value() != scale.has_value(), "interpolate: expected either size or scale_factor");
  InterpolateParams p;
  const bool area = mode == "area";  // means of what lies under each new pixel
  p.mode = area ? Interp::nearest : interp_mode(mode);
  bool smooth = p.mode == Interp::bilinear || p.mode == Interp::bicubic;
  check(smooth || !align_corners, "interpolate: align_corners is for bilinear and bicubic, mode is ", mode);
  check(smooth || !antialias, "interpolate: antialias is for bilinear and bicubic, mode is ", mode);
  p.N = x.shape()[0], p.C = x.shape()[1], p.H = x.shape()[2], p.W = x.shape()[3];
  p.align_corners = align_corners;
  p.antialias = antialias;
  if (size) {
    p.oH = size->first, p.oW = size->second;
  } else {
    check(scale->first > 0 && scale->second > 0 && std::isfinite(scale->first) && std::isfinite(scale->second),
          "interpolate: expected scale factors > 0, got (", scale->first, ", ", scale->second, ")");
    check(static_cast<double>(p.H) * scale->first < 9e15 && static_cast<double>(p.W) * scale->second < 9e15,
          "interpolate: scale factors (", scale->first, ", ", scale->second, ") are too large for x of shape ",
          x.shape());
    p.oH = static_cast<int64_t>(std::floor(static_cast<double>(p.H) * scale->first));
    p.oW = static_cast<int64_t>(std::floor(static_cast<double>(p.W) * scale->second));
    p.scale_h = scale->first, p.scale_w = scale->second;
  }
  check(p.H > 0 && p.W > 0 && p.oH > 0 && p.oW > 0, "interpolate: expected sizes > 0, got (", p.H, ", ", p.W,
        ") to (", p.oH, ", ", p.oW, ")");
  if (area) return adaptive_avg_pool2d(x, {p.oH, p.oW});
  return emit1(interpolate_rule, OpKind::interpolate, p, {contiguous(x)}, {{p.N, p.C, p.oH, p.oW}, x.dtype()});
}

Tensor interpolate1d(const Tensor& x, std::optional<int64_t> size, std::optional<double> scale,
                     const std::string& mode, bool align_corners) {
  check(x.ndim() == 3, "interpolate: expected x of shape (N, C, L), got ", x.shape());
  check(one_of(mode, "linear"),
        "interpolate: expected mode nearest, nearest-exact, area or linear "
        "for x of shape ",
        x.shape(), ", got '", mode, "'");
  std::optional<std::pair<int64_t, int64_t>> s;
  std::optional<std::pair<double, double>> f;
  if (size) s = {1, *size};
  if (scale) f = {1, *scale};
  return squeeze(interpolate(unsqueeze(x, 2), s, f, mode == "linear" ? "bilinear" : mode, align_corners), 2);
}

Tensor interpolate3d(const Tensor& x, std::optional<std::array<int64_t, 3>> size,
                     std::optional<std::array<double, 3>> scale, const std::string& mode, bool align_corners) {
  const Tensor v = volume::as_volumes("interpolate", x);
  check(x.ndim() == 5, "interpolate: expected x of shape (N, C, D, H, W), got ", x.shape());
  check(one_of(mode, "trilinear"),
        "interpolate: expected mode nearest, nearest-exact, area or trilinear "
        "for x of shape ",
        x.shape(), ", got '", mode, "'");
  check(size.has_value() != scale.has_value(), "interpolate: expected either size or scale_factor");
  const std::string rule = mode == "trilinear" ? "bilinear" : mode;
  std::optional<std::pair<int64_t, int64_t>> frame, depth;
  std::optional<std::pair<double, double>> frame_scale, depth_scale;
  if (size) frame = {(*size)[1], (*size)[2]};
  if (scale) frame_scale = {(*scale)[1], (*scale)[2]};
  const Tensor y = volume::from_frames(interpolate(volume::as_frames(v), frame, frame_scale, rule, align_corners),
                                       v.shape()[0], v.shape()[2]);
  const Tensor rows = volume::as_rows(y);
  if (size) depth = {(*size)[0], rows.shape()[3]};
  if (scale) depth_scale = {(*scale)[0], 1};
  return volume::from_rows(interpolate(rows, depth, depth_scale, rule, align_corners), y.shape()[3], y.shape()[4]);
}

// Both permute in N,H,W,C order, so the result is channels-last already.
Tensor pixel_shuffle(const Tensor& x, int64_t r) {
  check(r > 0 && r <= kMaxFactor, "pixel_shuffle: expected a factor in [1, ", kMaxFactor, "], got ", r);
  Tensor v = as_images("pixel_shuffle", x);
  int64_t N = v.shape()[0], C = v.shape()[1], H = v.shape()[2], W = v.shape()[3];
  check(C % (r * r) == 0, "pixel_shuffle: expected channels divisible by ", r * r, ", got x of shape ", x.shape());
  Tensor parts = permute(reshape(v, {N, C / (r * r), r, r, H, W}), {0, 4, 2, 5, 3, 1});
  Tensor y = permute(reshape(contiguous(parts), {N, H * r, W * r, C / (r * r)}), {0, 3, 1, 2});
  return r == 1 ? clone(like_input(y, x)) : like_input(y, x);
}

Tensor pixel_unshuffle(const Tensor& x, int64_t r) {
  check(r > 0 && r <= kMaxFactor, "pixel_unshuffle: expected a factor in [1, ", kMaxFactor, "], got ", r);
  Tensor v = as_images("pixel_unshuffle", x);
  int64_t N = v.shape()[0], C = v.shape()[1], H = v.shape()[2], W = v.shape()[3];
  check(H % r == 0 && W % r == 0, "pixel_unshuffle: expected height and width divisible by ", r,
        ", got x of shape ", x.shape());
  Tensor parts = permute(reshape(v, {N, C, H / r, r, W / r, r}), {0, 2, 4, 1, 3, 5});
  Tensor y = permute(reshape(contiguous(parts), {N, H / r, W / r, C * r * r}), {0, 3, 1, 2});
  return r == 1 ? clone(like_input(y, x)) : like_input(y, x);
}

}  // namespace fastcnn
