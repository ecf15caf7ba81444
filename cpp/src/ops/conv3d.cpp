// What it is: convolution of volumes (N, C, D, H, W) or (C, D, H, W) by convolution of images: what a kernel sees
// of several frames stands as channels of one. What it is not: kernels or gradients of its own; those are
// conv2d's.
#include <algorithm>

#include "graph/emit.h"
#include "ops/operands.h"
#include "ops/volume.h"

namespace fastcnn {
namespace {

using namespace volume;

// Fewer channels than this in a group are summed frame by frame: with the frames beside each other, groups
// of few channels would leave the kernels that are made for them (depthwise ones above all).
constexpr int64_t kFewestJoined = 16;

constexpr const char* const axes[] = {"depth", "height", "width"};

// What conv2d would find, in the words of the caller. transposed: w is (C, O/groups, kD, kH, kW).
void check_conv(const char* op, const Tensor& x, const Tensor& w, const Tensor& bias, const Conv3dOptions& o,
                bool transposed) {
  check_floating(op, "w", w);
  if (!autocast_dtype()) check_like(op, "w", w, x);
  check(w.ndim() == 5, op,
        ": expected w with 5 dimensions (out and in channels, kernel depth, height and width), got w of shape ",
        w.shape(), " (x is ", x.shape(), ")");
  check(o.groups >= 1, op, ": expected groups >= 1, got ", o.groups);
  check_triple(op, "stride", o.stride, 1);
  check_triple(op, "dilation", o.dilation, 1);
  check_triple(op, "padding", o.pad_before, 0);
  check_triple(op, "padding", o.pad_after, 0);
  const int64_t C = transposed ? w.shape()[0] : w.shape()[1] * o.groups,
                O = transposed ? w.shape()[1] * o.groups : w.shape()[0];
  check(x.size(-4) == C, op, ": expected x with ", C, " channels (w is ", w.shape(), ", groups=", o.groups,
        "), got x of shape ", x.shape());
  check((transposed ? C : O) % o.groups == 0, op, ": expected ", transposed ? "in" : "out",
        " channels divisible by groups=", o.groups, ", got w of shape ", w.shape());
  if (bias.defined()) {
    check_floating(op, "bias", bias);
    if (!autocast_dtype()) check_like(op, "bias", bias, x);
    check(bias.ndim() == 1 && bias.shape()[0] == O, op, ": expected bias of shape ", Dims{O}, " (w is ", w.shape(),
          "), got ", bias.shape());
  }
  check(!transposed || (x.size(-3) >= 1 && x.size(-2) >= 1 && x.size(-1) >= 1), op,
        ": expected a volume of at least 1x1x1, got x of shape ", x.shape());
  for (int i = 0; i < 3; ++i) {
    const int64_t span = o.dilation[i] * (w.shape()[2 + i] - 1) + 1;
    check(w.shape()[2 + i] >= 1, op, ": expected a kernel of at least 1x1x1, got w of shape ", w.shape());
    if (transposed || o.padding == "same") continue;
    check(span <= x.size(-3 + i) + o.pad_before[i] + o.pad_after[i], op, ": the kernel covers ", span,
          " places in ", axes[i], ", more than the padded volume of ",
          x.size(-3 + i) + o.pad_before[i] + o.pad_after[i], " (x is ", x.shape(), ", w is ", w.shape(), ")");
  }
}

// "same" and "valid" as numbers.
void settle_padding(const Tensor& x, const Tensor& w, Conv3dOptions& o) {
  check_triple("conv3d", "stride", o.stride, 1);
  check_triple("conv3d", "dilation", o.dilation, 1);
  if (o.padding.empty()) return;
  check(o.padding == "same" || o.padding == "valid", "conv3d: expected padding 'same' or 'valid', got '",
        o.padding, "'");
  for (int i = 0; i < 3; ++i) {
    const int64_t in = x.size(-3 + i), s = o.stride[i], span = o.dilation[i] * (w.shape()[2 + i] - 1) + 1;
    const int64_t all = o.padding == "valid" ? 0 : std::max<int64_t>(0, ((in + s - 1) / s - 1) * s + span - in);
    o.pad_before[i] = all / 2, o.pad_after[i] = all - all / 2;
  }
  o.padding.clear();
}

Conv2dOptions of_frames(const Conv3dOptions& o) {
  Conv2dOptions r;
  r.stride = {o.stride[1], o.stride[2]}, r.dilation = {o.dilation[1], o.dilation[2]};
  r.pad_top = o.pad_before[1], r.pad_bottom = o.pad_after[1];
  r.pad_left = o.pad_before[2], r.pad_right = o.pad_after[2];
  r.output_padding = {o.output_padding[1], o.output_padding[2]}, r.groups = o.groups;
  return r;
}

// What sums over taps would be rounded to one by one: x's dtype or autocast's, if it has 16 bits.
std::optional<DType> sums_in_16_bits(const Tensor& x) {
  DType t = x.dtype();
  if (const auto to = autocast_dtype(); to && t != DType::float64) t = *to;
  return dtype_size(t) == 2 ? std::optional(t) : std::nullopt;
}

template <class F>
Tensor in_float32(const Tensor& x, const Tensor& w, const Tensor& bias, DType result, const F& run) {
  const Autocast off(std::nullopt);
  auto wide = [](const Tensor& t) { return t.defined() ? cast(t, DType::float32) : t; };
  return cast(run(wide(x), wide(w), wide(bias)), result);
}

// Windows of one pixel: frames are rows of an image whose columns are the pixels.
Tensor along_depth(const Tensor& x, const Tensor& w, const Tensor& bias, const Conv3dOptions& o) {
  Conv2dOptions r;
  r.stride = {o.stride[0], 1}, r.dilation = {o.dilation[0], 1}, r.groups = o.groups;
  r.pad_top = o.pad_before[0], r.pad_bottom = o.pad_after[0];
  const Dims k = w.shape();
  return from_rows(conv2d(as_rows(x), reshape(w, {k[0], k[1], k[2], 1}), bias, r), x.shape()[3], x.shape()[4]);
}

// Frames d, d + stride, ... of (N, D, H, W, C), `count` of them.
Tensor every(const Tensor& frames, int64_t d, int64_t stride, int64_t count) {
  return slice(frames, 1, d, d + (count - 1) * stride + 1, stride);
}

// ---- frames beside each other: a gradient of slices would write each of them as a volume ----

struct JoinParams {
  int64_t taps, stride, dilation, before, after;
  // The frame of the result in which frame i is tap k, or -1.
  int64_t place(int64_t i, int64_t k, int64_t frames) const {
    const int64_t at = i + before - k * dilation;
    return at >= 0 && at % stride == 0 && at / stride < frames ? at / stride : -1;
  }
};

// Frame i of the gradient is the sum of what taps made of it; frames with the same taps go together.
std::vector<Tensor> vjp_join(TapeNode& n, const std::vector<Tensor>& g) {
  const auto& p = n.as<JoinParams>();
  const Dims shape = n.inputs[0].shape;  // (N, D, H, W, C)
  const int64_t D = shape[1], C = shape[4], oD = g[0].shape()[1];
  auto alike = [&](int64_t i, int64_t j) {
    for (int64_t k = 0; k < p.taps; ++k)
      if ((p.place(i, k, oD) < 0) != (p.place(j, k, oD) < 0)) return false;
    return p.stride == 1;
  };
  std::vector<Tensor> pieces;
  for (int64_t i = 0, end; i < D; i = end) {
    for (end = i + 1; end < D && alike(i, end);) ++end;
    Tensor piece;
    for (int64_t k = 0; k < p.taps; ++k) {
      const int64_t at = p.place(i, k, oD);
      if (at < 0) continue;
      const Tensor part = narrow(narrow(g[0], 1, at, end - i), 4, k * C, C);
      piece = piece.defined() ? add(piece, part) : part;
    }
    if (!piece.defined()) piece = zeros({shape[0], end - i, shape[2], shape[3], C}, g[0].dtype(), g[0].device());
    pieces.push_back(piece);
  }
  return {pieces.size() == 1 ? contiguous(pieces[0]) : cat(pieces, 1)};
}
const Rule join_rule{"conv3d", vjp_join};

// (N, D, H, W, C) to (N, oD, H, W, taps * C): what each window sees of frames.
Tensor join_frames(const Tensor& frames, const JoinParams& p) {
  std::vector<Tensor> joined;
  {
    GradMode off(false);
    Tensor x = frames.detach();
    if (p.before || p.after) x = pad(x, {0, 0, 0, 0, 0, 0, p.before, p.after});
    const int64_t last = (x.shape()[1] - p.dilation * (p.taps - 1) - 1) / p.stride * p.stride;
    std::vector<Tensor> taps;
    for (int64_t k = 0; k < p.taps; ++k)
      taps.push_back(slice(x, 1, k * p.dilation, k * p.dilation + last + 1, p.stride));
    joined.push_back(cat(taps, 4));
  }
  record_on_tape(join_rule, p, {frames}, joined);
  return joined[0];
}

// (O, C, kD, kH, kW) as (O, kD * C, kH, kW).
Tensor joined_kernels(const Tensor& w) {
  const Dims k = w.shape();
  return permute(reshape(contiguous(permute(w, {0, 3, 4, 2, 1})), {k[0], k[3], k[4], k[2] * k[1]}), {0, 3, 1, 2});
}

Tensor run_conv(const Tensor& x, const Tensor& w, const Tensor& bias, const Conv3dOptions& o) {
  const Dims k = w.shape();
  const bool one_pixel = k[3] * k[4] == 1 && o.stride[1] * o.stride[2] == 1 && o.pad_before[1] == 0 &&
                         o.pad_after[1] == 0 && o.pad_before[2] == 0 && o.pad_after[2] == 0;
  if (one_pixel && k[2] > 1) return along_depth(x, w, bias, o);

  Tensor frames = channels_last(x);  // (N, D, H, W, C)
  if (k[2] > 1) frames = contiguous(frames);
  const int64_t N = x.shape()[0], C = x.shape()[1], H = x.shape()[3], W = x.shape()[4], G = o.groups;
  const int64_t D = x.shape()[2] + o.pad_before[0] + o.pad_after[0];
  const int64_t oD = (D - o.dilation[0] * (k[2] - 1) - 1) / o.stride[0] + 1;
  auto convolved = [&](const Tensor& t, const Tensor& kernels, const Tensor& b) {  // t (N, oD, H, W, channels)
    const Tensor images = permute(reshape(t, {N * oD, H, W, t.shape()[4]}), {0, 3, 1, 2});
    return from_frames(conv2d(images, kernels, b, of_frames(o)), N, oD);
  };
  if (k[2] == 1 || (G > 1 && C / G < kFewestJoined)) {
    if (const auto narrow_type = k[2] > 1 ? sums_in_16_bits(x) : std::nullopt)
      return in_float32(x, w, bias, *narrow_type, [&](auto&&... wide) { return run_conv(wide..., o); });
    if (D != x.shape()[2]) frames = pad(frames, {0, 0, 0, 0, 0, 0, o.pad_before[0], o.pad_after[0]});
    Tensor y;
    for (int64_t kd = 0; kd < k[2]; ++kd) {
      const Tensor tap = every(frames, kd * o.dilation[0], o.stride[0], oD);
      const Tensor kernels = reshape(narrow(w, 2, kd, 1), {k[0], k[1], k[3], k[4]});
      y = kd == 0 ? convolved(tap, kernels, bias) : add(convolved(tap, kernels, {}), y);
    }
    return y;
  }
  Tensor joined = join_frames(frames, {k[2], o.stride[0], o.dilation[0], o.pad_before[0], o.pad_after[0]});
  if (G > 1)  // channels: group, frame, channel of the group; as in w
    joined = reshape(permute(reshape(joined, {N, oD, H, W, k[2], G, C / G}), {0, 1, 2, 3, 5, 4, 6}),
                     {N, oD, H, W, k[2] * C});
  return convolved(joined, joined_kernels(w), bias);
}

// Frames of (N, D, H, W, C) with stride - 1 empty ones between them.
Tensor spread(const Tensor& frames, int64_t stride) {
  if (stride == 1) return frames;
  const Dims s = frames.shape();
  Tensor wide = pad(unsqueeze(frames, 2), {0, 0, 0, 0, 0, 0, 0, stride - 1});
  return narrow(reshape(wide, {s[0], s[1] * stride, s[2], s[3], s[4]}), 1, 0, (s[1] - 1) * stride + 1);
}

Tensor run_transposed(const Tensor& x, const Tensor& w, const Tensor& bias, const Conv3dOptions& o) {
  const Dims k = w.shape();
  if (const auto narrow_type = k[2] > 1 ? sums_in_16_bits(x) : std::nullopt)
    return in_float32(x, w, bias, *narrow_type, [&](auto&&... wide) { return run_transposed(wide..., o); });
  const int64_t N = x.shape()[0], D = x.shape()[2], G = o.groups, each = k[1], K = k[2];
  // What each frame gives to the K frames that it touches: channels group, frame, channel of the group.
  const Tensor kernels = joined_kernels(w);
  const Tensor z = conv_transpose2d(as_frames(x), kernels, {}, of_frames(o));
  const int64_t H = z.shape()[2], W = z.shape()[3];
  const Tensor parts = reshape(permute(z, {0, 2, 3, 1}), {N, D, H, W, G, K, each});
  const int64_t all = (D - 1) * o.stride[0] + o.dilation[0] * (K - 1) + 1;
  Tensor y;
  if (K == o.stride[0] && o.dilation[0] == 1) {  // no two frames meet
    y = reshape(permute(parts, {0, 1, 5, 2, 3, 4, 6}), {N, D * K, H, W, G * each});
  } else {
    for (int64_t kd = 0; kd < K; ++kd) {
      Tensor part = spread(reshape(narrow(parts, 5, kd, 1), {N, D, H, W, G * each}), o.stride[0]);
      const int64_t before = kd * o.dilation[0];
      part = pad(part, {0, 0, 0, 0, 0, 0, before, all - before - part.shape()[1]});
      y = kd == 0 ? part : add(y, part);
    }
  }
  const int64_t left = -o.pad_before[0], right = o.output_padding[0] - o.pad_after[0];
  if (left || right) y = pad(y, {0, 0, 0, 0, 0, 0, left, right});
  y = channels_first(y);
  return bias.defined() ? add(y, cast(reshape(bias, {1, bias.shape()[0], 1, 1, 1}), y.dtype())) : y;
}

}  // namespace

Tensor conv3d(const Tensor& x, const Tensor& w, const Tensor& bias, const Conv3dOptions& options) {
  Conv3dOptions o = options;
  Tensor v = as_volumes("conv3d", x);
  if (w.defined() && w.ndim() == 5) settle_padding(x, w, o);
  check_conv("conv3d", x, w, bias, o, false);
  check(o.output_padding == std::array<int64_t, 3>{0, 0, 0},
        "conv3d: output_padding is an option of conv_transpose3d");
  if (o.padding_mode != "zeros") {
    check(o.padding_mode == "reflect" || o.padding_mode == "replicate" || o.padding_mode == "circular",
          "conv3d: expected padding_mode zeros, reflect, replicate or circular, got '", o.padding_mode, "'");
    v = pad(v, {o.pad_before[2], o.pad_after[2], o.pad_before[1], o.pad_after[1], o.pad_before[0], o.pad_after[0]},
            o.padding_mode);
    o.pad_before = o.pad_after = {};
  }
  return as_given(run_conv(v, w, bias, o), x);
}

Tensor conv_transpose3d(const Tensor& x, const Tensor& w, const Tensor& bias, const Conv3dOptions& o) {
  const Tensor v = as_volumes("conv_transpose3d", x);
  check_conv("conv_transpose3d", x, w, bias, o, true);
  check(o.padding.empty() || o.padding == "valid", "conv_transpose3d: expected padding as numbers, got '",
        o.padding, "'");
  check(o.padding_mode == "zeros", "conv_transpose3d: expected padding_mode zeros, got '", o.padding_mode, "'");
  for (int i = 0; i < 3; ++i) {
    check(o.output_padding[i] >= 0 && o.output_padding[i] < std::max(o.stride[i], o.dilation[i]),
          "conv_transpose3d: expected output_padding smaller than stride or dilation, got output_padding ",
          o.output_padding[i], ", stride ", o.stride[i], ", dilation ", o.dilation[i], " in ", axes[i]);
    const int64_t size = (x.size(-3 + i) - 1) * o.stride[i] - o.pad_before[i] - o.pad_after[i] +
                         o.dilation[i] * (w.shape()[2 + i] - 1) + 1 + o.output_padding[i];
    check(size >= 1, "conv_transpose3d: expected a result of at least 1x1x1, got ", size, " in ", axes[i],
          " (x is ", x.shape(), ", w is ", w.shape(), ")");
  }
  return as_given(run_transposed(v, w, bias, o), x);
}

}  // namespace fastcnn
