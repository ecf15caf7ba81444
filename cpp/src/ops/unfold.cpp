// What it is: windows of images as columns and back (im2col, col2im), and what max pooling kept put back in its
// place. Compositions of index ops, which are each other's gradients. What it is not: how convolutions compute.
#include "graph/emit.h"
#include "ops/index.h"
#include "ops/operands.h"

namespace fastcnn {
namespace {

struct Windows {
  int64_t H = 0, W = 0, oH = 0, oW = 0;  // the padded image, windows along each axis
  int64_t taps = 0;
};

Windows windows(const char* op, const UnfoldOptions& o, Pair image) {
  check_pair(op, "kernel_size", o.kernel, 1);
  check_pair(op, "dilation", o.dilation, 1);
  check_pair(op, "padding", o.padding, 0);
  check_pair(op, "stride", o.stride, 1);
  Windows w;
  w.H = image.first + 2 * o.padding.first, w.W = image.second + 2 * o.padding.second;
  w.oH = conv_out_size(image.first, o.padding.first, o.padding.first, o.kernel.first, o.stride.first,
                       o.dilation.first);
  w.oW = conv_out_size(image.second, o.padding.second, o.padding.second, o.kernel.second, o.stride.second,
                       o.dilation.second);
  check(w.oH >= 1 && w.oW >= 1, op, ": a window of ",
        Dims{o.dilation.first * (o.kernel.first - 1) + 1, o.dilation.second * (o.kernel.second - 1) + 1},
        " pixels is larger than the padded image of ", Dims{w.H, w.W});
  w.taps = o.kernel.first * o.kernel.second;
  return w;
}

// Where each tap of each window lies in the padded plane: int64 (taps * windows), windows fastest.
Tensor positions(const UnfoldOptions& o, const Windows& w, Device device) {
  auto along = [&](int64_t taps, int64_t dilation, int64_t count, int64_t stride, int64_t step) {
    auto line = [&](int64_t n, int64_t each) {
      return affine(arange(0, static_cast<double>(n), 1, DType::int64, device), static_cast<double>(each * step),
                    0);
    };
    return add(unsqueeze(line(taps, dilation), 1), line(count, stride));
  };
  Tensor y = along(o.kernel.first, o.dilation.first, w.oH, o.stride.first, w.W);
  Tensor x = along(o.kernel.second, o.dilation.second, w.oW, o.stride.second, 1);
  y = reshape(y, {o.kernel.first, 1, w.oH, 1});
  x = reshape(x, {1, o.kernel.second, 1, w.oW});
  return reshape(add(y, x), {-1});
}

// (N, C, H, W) as (N, H * W, C): the way images lie in memory.
Tensor rows_of(const Tensor& x) {
  return reshape(permute(x, {0, 2, 3, 1}), {x.shape()[0], x.shape()[2] * x.shape()[3], x.shape()[1]});
}
Tensor image_of(const Tensor& rows, int64_t H, int64_t W) {
  return permute(reshape(rows, {rows.shape()[0], H, W, rows.shape()[2]}), {0, 3, 1, 2});
}

std::vector<Tensor> vjp_max_unpool(TapeNode& n, const std::vector<Tensor>& g) {
  const Dims& x = n.inputs[0].shape;
  return {contiguous(image_of(gather(rows_of(g[0]), 1, n.input(1)), x[2], x[3])), Tensor()};
}
const Rule max_unpool_rule{"max_unpool2d", vjp_max_unpool, 0b10};

}  // namespace

Tensor unfold(const Tensor& x_in, const UnfoldOptions& o) {
  const char* op = "unfold";
  check_floating(op, "x", x_in);
  check(x_in.ndim() == 4 || x_in.ndim() == 3, op, ": expected x of shape (N, C, H, W) or (C, H, W), got ",
        x_in.shape());
  Tensor x = x_in.ndim() == 3 ? unsqueeze(x_in, 0) : x_in;
  const int64_t N = x.shape()[0], C = x.shape()[1];
  Windows w = windows(op, o, {x.shape()[2], x.shape()[3]});
  const Pair p = o.padding;
  if (p.first || p.second) x = pad(x, {p.second, p.second, p.first, p.first});
  Tensor taken = index_select(rows_of(x), 1, positions(o, w, x.device()));
  Tensor y = reshape(permute(taken, {0, 2, 1}), {N, C * w.taps, w.oH * w.oW});
  return x_in.ndim() == 3 ? squeeze(y, 0) : y;
}

Tensor fold(const Tensor& x_in, std::pair<int64_t, int64_t> size, const UnfoldOptions& o) {
  const char* op = "fold";
  check_floating(op, "x", x_in);
  check(x_in.ndim() == 3 || x_in.ndim() == 2, op,
        ": expected x of shape (N, C * kH * kW, L) or (C * kH * kW, L), got ", x_in.shape());
  check_pair(op, "output_size", size, 1);
  Windows w = windows(op, o, size);
  Tensor x = x_in.ndim() == 2 ? unsqueeze(x_in, 0) : x_in;
  const int64_t N = x.shape()[0], C = x.shape()[1] / w.taps, L = w.oH * w.oW;
  check(x.shape()[1] % w.taps == 0 && x.shape()[2] == L, op, ": expected x with a multiple of ", w.taps,
        " rows and ", L, " columns for output_size ", Dims{size.first, size.second}, ", got shape ", x_in.shape());
  Tensor rows = permute(reshape(x, {N, C, w.taps * L}), {0, 2, 1});
  Tensor image = image_of(index_sum(rows, 1, positions(o, w, x.device()), w.H * w.W), w.H, w.W);
  image = narrow(narrow(image, 2, o.padding.first, size.first), 3, o.padding.second, size.second);
  return contiguous(x_in.ndim() == 2 ? squeeze(image, 0) : image);
}

Tensor max_unpool2d(const Tensor& x, const Tensor& indices, std::pair<int64_t, int64_t> size) {
  const char* op = "max_unpool2d";
  check_floating(op, "x", x);
  check(x.ndim() == 4 || x.ndim() == 3, op, ": expected x of shape (N, C, H, W) or (C, H, W), got ", x.shape());
  check<TypeError>(indices.dtype() == DType::int64, op, ": expected int64 indices, got ", indices.dtype());
  check(indices.shape() == x.shape(), op, ": expected indices of shape ", x.shape(), ", got ", indices.shape());
  check_pair(op, "output_size", size, 1);
  const bool single = x.ndim() == 3;
  const Tensor image = single ? unsqueeze(x, 0) : x, at = single ? unsqueeze(indices, 0) : indices;
  const int64_t N = image.shape()[0], C = image.shape()[1], pixels = size.first * size.second,
                total = N * C * pixels;
  Device device = x.device();
  if (!at.is_symbolic() && device.type == DeviceType::cpu && at.numel() > 0) {
    const double low = amin(at).item(), high = amax(at).item();
    check<IndexError>(low >= 0 && high < static_cast<double>(pixels), op, ": expected indices in [0, ", pixels,
                      ") for output_size ", Dims{size.first, size.second}, ", got ", low < 0 ? low : high);
  }
  std::vector<Tensor> out{zeros({N, C, size.first, size.second}, x.dtype(), device)};
  if (total > 0 && x.numel() > 0) {
    const Tensor rows = contiguous(rows_of(at.detach()));
    {
      GradMode off(false);
      auto line = [&](int64_t n, int64_t step) {
        return affine(arange(0, static_cast<double>(n), 1, DType::int64, device), static_cast<double>(step), 0);
      };
      auto number = [&](int64_t v) { return full({}, static_cast<double>(v), DType::int64, device); };
      const Tensor start = add(reshape(line(N, pixels * C), {N, 1, 1}), line(C, 1));
      // In plans a place outside its image is one outside of all, which index_put refuses.
      const Tensor bad = logical_or(lt(rows, number(0)), ge(rows, number(pixels)));
      const Tensor place = where(bad, number(total), add(affine(rows, static_cast<double>(C), 0), start));
      const Tensor flat = index_put(zeros({total}, x.dtype(), device), reshape(place, {-1}),
                                    reshape(rows_of(image.detach()), {-1}));
      out[0] = contiguous(image_of(reshape(flat, {N, pixels, C}), size.first, size.second));
    }
    record_on_tape(max_unpool_rule, Params(), {image, rows}, out);
  }
  return single ? squeeze(out[0], 0) : out[0];
}

}  // namespace fastcnn
