// See verify.h.
#include "session/verify_operands.h"

namespace fastcnn {

void verify_window(const Conv2dParams& p, Operands& c) {
  for (const int64_t v : {p.C, p.O, p.kH, p.kW, p.sH, p.sW, p.dH, p.dW, p.groups}) c.option("sizes", v, 1);
  for (const int64_t v : {p.pT, p.pB, p.pL, p.pR}) c.option("padding", v, 0);
  c.flag("has_bias", p.has_bias);
  c.expect(p.C % p.groups == 0 && p.O % p.groups == 0, "groups that divide ", p.C, " and ", p.O, ", got ",
           p.groups);
  auto axis = [&](int64_t in, int64_t before, int64_t after, int64_t k, int64_t s, int64_t d, int64_t out) {
    c.option("image sizes", in, 1);
    const int64_t most = conv_out_size(in, before, after, k, s, d);
    // A transposed convolution may have extra pixels at its end (output_padding).
    c.expect(out >= 1 && out <= most && most - out < std::max(s, d), "an output of ", most, " pixels, got ", out);
  };
  axis(p.H, p.pT, p.pB, p.kH, p.sH, p.dH, p.oH);
  axis(p.W, p.pL, p.pR, p.kW, p.sW, p.dW, p.oW);
}

void verify_pool_window(const Pool2dParams& p, Operands& c) {
  c.flag("adaptive", p.adaptive), c.flag("count_include_pad", p.count_include_pad);
  for (const int64_t v : {p.kH, p.kW, p.sH, p.sW, p.dH, p.dW, p.oH, p.oW}) c.option("sizes", v, 1);
  auto axis = [&](int64_t in, int64_t before, int64_t after, int64_t k, int64_t s, int64_t d, int64_t out) {
    c.option("image sizes", in, 1);
    if (p.adaptive) return;
    c.option("padding", before, 0), c.option("padding", after, 0);
    const int64_t window = d * (k - 1) + 1, most = conv_out_size(in, before, after + s - 1, k, s, d);
    c.expect(before <= window / 2 && after <= window / 2, "padding of at most half a window of ", window);
    c.expect(out <= most && (out - 1) * s < in + before, "at most ", most, " windows that start inside, got ",
             out);
  };
  axis(p.H, p.pT, p.pB, p.kH, p.sH, p.dH, p.oH);
  axis(p.W, p.pL, p.pR, p.kW, p.sW, p.dW, p.oW);
  c.expect(p.W <= INT_MAX / p.H, "images of fewer than 2^31 pixels");
}

namespace {

void verify_conv(OpKind kind, const Conv2dParams& p, Operands& c) {
  const DType t = c.floating();
  verify_window(p, c);
  const Dims x{p.N, p.C, p.H, p.W}, w{p.O, p.C / p.groups, p.kH, p.kW}, y{p.N, p.O, p.oH, p.oW};
  if (kind == OpKind::conv2d) {
    c.in(x, t), c.in(w, t);
    if (p.has_bias) c.in({p.O}, t);
    c.out(y, t);
  } else if (kind == OpKind::conv2d_bwd_data) {
    c.in(y, t), c.in(w, t);
    if (p.has_bias) c.in({p.C}, t);
    c.out(x, t);
  } else {
    c.in(x, t), c.in(y, t);
    c.out(w, t);
    if (p.has_bias) c.out({p.O}, t);
  }
}

void verify_matmul(const MatmulParams& p, Operands& c) {
  const DType t = c.floating();
  for (const int64_t v : {p.trans_a, p.trans_b, p.a_batched, p.b_batched, p.has_bias}) c.flag("flags", v);
  auto operand = [&](bool batched, int64_t rows, int64_t cols, int64_t transposed) {
    if (transposed) std::swap(rows, cols);
    const bool flat = !batched || (p.batch == 1 && c.rank() == 2);
    c.in(flat ? Dims{rows, cols} : Dims{p.batch, rows, cols}, t);
  };
  operand(p.a_batched, p.M, p.K, p.trans_a);
  operand(p.b_batched, p.K, p.N, p.trans_b);
  if (p.has_bias) c.in({p.N}, t);
  const bool batched = p.a_batched || p.b_batched;
  c.expect(batched || p.batch == 1, "a batch of 1 for matrices, got ", p.batch);
  const OutSpec& y = c.out();
  c.expect(y.dtype == t && (y.shape == Dims{p.batch, p.M, p.N} || (p.batch == 1 && y.shape == Dims{p.M, p.N})),
           "an output of ", p.batch, " matrices ", Dims{p.M, p.N}, ", got ", y.shape);
}

void verify_pool(OpKind kind, const Pool2dParams& p, Operands& c) {
  const DType t = c.floating();
  verify_pool_window(p, c);
  const Dims x{p.N, p.C, p.H, p.W}, y{p.N, p.C, p.oH, p.oW};
  switch (kind) {
    case OpKind::max_pool2d: c.in(x, t), c.out(y, t), c.out(y, DType::int32); break;
    case OpKind::max_pool2d_bwd: c.in(y, t), c.in(y, DType::int32), c.out(x, t); break;
    case OpKind::max_pool2d_gather: c.in(x, t), c.in(y, DType::int32), c.out(y, t); break;
    case OpKind::avg_pool2d: c.in(x, t), c.out(y, t); break;
    default: c.in(y, t), c.out(x, t);
  }
}

void verify_batch_norm(OpKind kind, const BatchNormParams& p, Operands& c) {
  const DType t = c.floating(), s = statistics(t);
  const Dims x = c.peek(kind == OpKind::batch_norm_bwd ? 1 : 0).shape(), v{p.C};
  c.expect((x.size() == 2 || x.size() == 4) && x[1] == p.C && x.numel() == p.rows * p.C, "x of ", p.rows,
           " rows of ", p.C, " channels, got ", x);
  if (kind == OpKind::batch_norm) {
    c.in(x, t), c.in(v, s), c.in(v, s);
    c.out(x, t), c.out(v, s), c.out(v, s);
  } else if (kind == OpKind::batch_norm_bwd) {
    c.in(x, t), c.in(x, t), c.in(v, s), c.in(v, s), c.in(v, s);
    c.out(x, t), c.out(v, s), c.out(v, s);
  } else {
    c.in(x, t);
    for (int i = 0; i < 4; ++i) c.in_floating(v);  // a module in 16 bits keeps its statistics so
    c.out(x, t);
  }
}

void verify_bn_update(const BnUpdateParams& p, Operands& c) {
  const DType s = c.floating();
  const Dims v{p.C};
  c.in(v, s), c.in(v, s);
  c.expect(s == statistics(s), "statistics of a batch in float32 or float64");
  const DType mean = c.in_floating(v), var = c.in_floating(v);  // the running ones keep their module's
  c.expect(p.momentum >= 0 || c.left(), "the number of batches with a cumulative average");
  if (c.left()) {
    const Tensor& n = c.next();
    c.expect(n.numel() == 1 && n.dtype() == DType::int64, "the number of batches as one int64");
  }
  c.out(v, mean), c.out(v, var);
}

void verify_norm(OpKind kind, const NormParams& p, Operands& c) {
  const DType t = c.floating(), s = statistics(t);
  c.flag("affine", p.affine);
  const bool layer = kind == OpKind::layer_norm || kind == OpKind::layer_norm_bwd;
  const bool bwd = kind == OpKind::layer_norm_bwd || kind == OpKind::group_norm_bwd;
  const Dims x = c.peek(bwd ? 1 : 0).shape(), v{layer ? p.inner : p.C};
  if (layer) {
    c.expect(x == Dims{p.outer, p.inner}, "x of shape ", Dims{p.outer, p.inner}, ", got ", x);
  } else {
    c.expect(x.size() == 4 && x[0] == p.N && x[1] == p.C && x[2] * x[3] == p.HW && p.groups >= 1 && p.C >= 1 &&
                 p.C % p.groups == 0,
             "x of ", p.N, " images, ", p.C, " channels in ", p.groups, " groups and ", p.HW, " pixels, got ", x);
  }
  const Dims stat = layer ? Dims{p.outer} : Dims{p.N, p.groups};
  if (bwd) {
    c.in(x, t), c.in(x, t);
    if (p.affine) c.in(v, s);
    c.in(stat, s), c.in(stat, s);
    c.out(x, t);
    if (p.affine) c.out(v, s), c.out(v, s);
  } else {
    c.in(x, t);
    if (p.affine) c.in(v, s), c.in(v, s);
    c.out(x, t), c.out(stat, s), c.out(stat, s);
  }
}

// All inputs and the output of one shape and floating dtype.
void verify_alike(int inputs, Operands& c) {
  const DType t = c.floating();
  const Dims x = c.peek(0).shape();
  for (int i = 0; i < inputs; ++i) c.in(x, t);
  c.out(x, t);
}

void verify_cross_entropy(OpKind kind, const CrossEntropyParams& p, Operands& c) {
  const DType t = c.floating(), s = statistics(t);
  c.flag("has_weight", p.has_weight);
  c.option("classes", p.C, 1);
  const Dims x{p.rows, p.C}, rows{p.rows}, loss = p.reduction == Reduction::none ? rows : Dims{};
  if (kind == OpKind::cross_entropy) {
    c.in(x, t), c.in(rows, DType::int64);
    if (p.has_weight) c.in({p.C}, t);
    c.out(loss, t), c.out(rows, s), c.out({}, s);
  } else {
    c.in(loss, t), c.in(x, t), c.in(rows, DType::int64), c.in(rows, s), c.in({}, s);
    if (p.has_weight) c.in({p.C}, t);
    c.out(x, t);
  }
}

void verify_pointwise(OpKind kind, const PointwiseLossParams& p, Operands& c) {
  const DType t = c.floating();
  const Dims x = c.peek(kind == OpKind::pointwise_loss ? 0 : 1).shape();
  c.expect(x.numel() == p.count, "x of ", p.count, " elements, got ", x);
  const Dims loss = p.reduction == Reduction::none ? x : Dims{};
  if (kind == OpKind::pointwise_loss)
    c.in(x, t), c.in(x, t), c.out(loss, t);
  else
    c.in(loss, t), c.in(x, t), c.in(x, t), c.out(x, t);
}

void verify_unary(const UnaryParams& p, Operands& c) {
  const Tensor& x = c.next();
  const OutSpec& y = c.out();
  const bool predicate = p.op >= Unary::logical_not && p.op <= Unary::isfinite;
  c.expect(y.shape == x.shape(), "an output of shape ", x.shape(), ", got ", y.shape);
  c.expect(p.op == Unary::copy || y.dtype == (predicate ? DType::bool_ : x.dtype()), "an output of ", x.dtype(),
           ", got ", y.dtype);
}

void verify_binary(const BinaryParams& p, Operands& c) {
  const Tensor &a = c.next(), &b = c.next();
  const OutSpec& y = c.out();
  const bool compares = p.op >= Binary::eq;
  c.expect(a.dtype() == b.dtype() && a.shape() == b.shape() && y.shape == a.shape(),
           "operands and result of one dtype and shape, got ", a.dtype(), a.shape(), ", ", b.dtype(), b.shape(),
           " and ", y.shape);
  c.expect(y.dtype == (compares ? DType::bool_ : a.dtype()), "a result of ", a.dtype(), " or bool, got ", y.dtype);
}

void verify_where(Operands& c) {
  const Tensor &m = c.next(), &a = c.next(), &b = c.next();
  const OutSpec& y = c.out();
  c.expect(m.dtype() == DType::bool_ && a.dtype() == b.dtype() && y.dtype == a.dtype(),
           "a bool condition and operands of one dtype");
  c.expect(m.shape() == y.shape && a.shape() == y.shape && b.shape() == y.shape, "operands of shape ", y.shape,
           ", got ", m.shape(), ", ", a.shape(), " and ", b.shape());
}

void verify_reduce(const ReduceParams& p, Operands& c) {
  const Tensor& x = c.next();
  c.expect(x.ndim() >= 32 || p.dims >> x.ndim() == 0, "dims below ", x.ndim());
  Dims kept = x.shape();
  int64_t count = 1;
  int reduced = 0;
  for (int d = 0; d < kept.size(); ++d)
    if (p.dims >> d & 1) count *= kept[d], kept[d] = 1, ++reduced;
  const bool arg = p.op == Reduce::argmax || p.op == Reduce::argmin;
  const bool extreme = arg || p.op == Reduce::max || p.op == Reduce::min;
  c.expect(!arg || reduced == 1, "one dim, got ", reduced);
  c.expect(!extreme || count > 0 || kept.numel() == 0, "at least one element in the dims, got ", x.shape());
  DType t = x.dtype();
  if (arg) t = DType::int64;
  if (p.op == Reduce::any || p.op == Reduce::all) t = DType::bool_;
  if ((p.op == Reduce::sum || p.op == Reduce::prod || p.op == Reduce::sum_squares) && !is_floating(t))
    t = DType::int64;
  c.expect(p.op != Reduce::mean || is_floating(t), "a floating input");
  c.out(kept, t);
}

void verify_scatter(const ScatterParams& p, Operands& c) {
  const Tensor& x = c.next();
  const OutSpec& y = c.out();
  c.flag("accumulate", p.accumulate);
  c.expect(y.dtype == x.dtype(), "an output of ", x.dtype(), ", got ", y.dtype);
  // The first and last place that the window touches.
  int64_t low = p.offset, high = p.offset;
  for (int d = 0; d < x.ndim(); ++d) {
    int64_t reach = 0;
    c.expect(!__builtin_mul_overflow(std::max<int64_t>(x.shape()[d] - 1, 0), p.strides[d], &reach) &&
                 !__builtin_add_overflow(reach < 0 ? low : high, reach, reach < 0 ? &low : &high),
             "a window inside ", y.shape);
  }
  c.expect(x.numel() == 0 || (low >= 0 && high < y.shape.numel()), "a window inside ", y.shape);
}

void verify_index(OpKind kind, const IndexParams& p, Operands& c) {
  const Tensor &x = c.next(), &index = c.next();
  const OutSpec& y = c.out();
  // `wide` has the dim that indices point into, `narrow` one element for each index.
  const bool back = kind == OpKind::index_add || kind == OpKind::scatter_add;
  const Dims wide = back ? y.shape : x.shape(), narrow = back ? x.shape() : y.shape;
  c.expect(y.dtype == x.dtype() && index.dtype() == DType::int64, "an int64 index and an output of ", x.dtype());
  c.expect(
      wide.size() == narrow.size() && p.dim >= 0 && p.dim < wide.size() && wide[static_cast<int>(p.dim)] == p.size,
      "dim ", p.dim, " of ", p.size, " in ", wide, " and ", narrow);
  const bool whole = kind == OpKind::gather || kind == OpKind::scatter_add;
  if (whole)
    c.expect(index.shape() == narrow, "an index of shape ", narrow, ", got ", index.shape());
  else
    c.expect(index.ndim() == 1 && index.shape()[0] == narrow[static_cast<int>(p.dim)], "a 1-D index of ",
             narrow[static_cast<int>(p.dim)], ", got ", index.shape());
  for (int d = 0; d < wide.size(); ++d)
    c.expect(d == p.dim || (whole ? narrow[d] <= wide[d] : narrow[d] == wide[d]), narrow, " within ", wide);
}

void verify_index_put(const IndexParams& p, Operands& c) {
  const Tensor &x = c.next(), &index = c.next(), &values = c.next();
  c.expect(x.ndim() == 1 && p.dim == 0 && p.size == x.shape()[0], "a 1-D operand of ", p.size, ", got ",
           x.shape());
  c.expect(index.ndim() == 1 && index.dtype() == DType::int64 && values.shape() == index.shape() &&
               values.dtype() == x.dtype(),
           "int64 positions and as many values of ", x.dtype(), ", got ", index.shape(), " and ", values.shape());
  c.out(x.shape(), x.dtype());
}

void verify_argsort(const ArgsortParams& p, Operands& c) {
  c.flag("descending", p.descending);
  c.expect(p.kept >= 0 && p.kept <= p.size, "kept values of at most ", p.size, ", got ", p.kept);
  const DType t = c.peek(0).dtype();
  c.in({p.rows, p.size}, t);
  c.out({p.rows, p.kept}, DType::int64);
}

void verify_cumsum(const CumsumParams& p, Operands& c) {
  c.flag("reverse", p.reverse);
  const DType t = c.peek(0).dtype();
  c.expect(is_floating(t) || t == DType::int64, "floats or int64, got ", t);
  c.in({p.rows, p.size}, t);
  c.out({p.rows, p.size}, t);
}

void verify_cat(const CatParams& p, Operands& c) {
  const Tensor& first = c.peek(0);
  Dims shape = first.shape();
  c.expect(p.dim >= 0 && p.dim < shape.size(), "a dim of ", shape, ", got ", p.dim);
  const int dim = static_cast<int>(p.dim);
  int64_t total = 0;
  while (c.left()) {
    const Tensor& x = c.next();
    shape[dim] = x.ndim() == shape.size() ? x.shape()[dim] : -1;
    c.expect(x.shape() == shape && x.dtype() == first.dtype(), "inputs equal apart from dim ", dim, ", got ",
             first.shape(), " and ", x.shape());
    total += shape[dim];
  }
  shape[dim] = total;
  c.out(shape, first.dtype());
}

void verify_pad(OpKind kind, const PadParams& p, Operands& c) {
  const Tensor& x = c.next();
  const OutSpec& y = c.out();
  const Dims small = kind == OpKind::pad ? x.shape() : y.shape, large = kind == OpKind::pad ? y.shape : x.shape();
  c.expect(y.dtype == x.dtype() && small.size() == large.size(), "one dtype and rank");
  for (int d = 0; d < small.size(); ++d) {
    const int64_t b = p.before[d], a = p.after[d], most = std::max(a, b);
    constexpr int64_t limit = int64_t(1) << 40;
    c.expect(b >= -limit && b <= limit && a >= -limit && a <= limit, "padding within 2^40");
    c.expect(large[d] == small[d] + b + a, "a padded size of ", small[d] + b + a, " in dim ", d, ", got ",
             large[d]);
    if (p.mode == PadMode::constant) continue;
    c.expect(b >= 0 && a >= 0 &&
                 (most == 0 || (small[d] > 0 && (p.mode != PadMode::reflect || most < small[d]) &&
                                (p.mode != PadMode::circular || most <= small[d]))),
             "padding that fits dim ", d, " of ", small);
  }
}

void verify_interpolate(OpKind kind, const InterpolateParams& p, Operands& c) {
  const DType t = kind == OpKind::interpolate ? c.peek(0).dtype() : c.floating();
  for (const int64_t v : {p.H, p.W, p.oH, p.oW}) c.option("sizes", v, 1);
  c.flag("align_corners", p.align_corners), c.flag("antialias", p.antialias);
  const bool smooth = p.mode == Interp::bilinear || p.mode == Interp::bicubic;
  c.expect(smooth || (!p.align_corners && !p.antialias), "no align_corners or antialias with nearest");
  auto axis = [&](double scale, int64_t in, int64_t out) {
    c.expect(scale == 0 || (scale > 0 && std::isfinite(scale) &&
                            out == static_cast<int64_t>(std::floor(static_cast<double>(in) * scale))),
             "a scale of ", in, " to ", out, ", got ", scale);
  };
  axis(p.scale_h, p.H, p.oH), axis(p.scale_w, p.W, p.oW);
  const Dims x{p.N, p.C, p.H, p.W}, y{p.N, p.C, p.oH, p.oW};
  c.in(kind == OpKind::interpolate ? x : y, t);
  c.out(kind == OpKind::interpolate ? y : x, t);
}

void verify_sample(const AffineSampleParams& p, Operands& c) {
  const DType t = c.peek(0).dtype(), f = DType::float32;
  for (const int64_t v : {p.C, p.H, p.W, p.oH, p.oW}) c.option("sizes", v, 1);
  c.option("stages", p.stages, 0);
  c.expect(t == f || t == DType::uint8, "x of uint8 or float32");
  c.expect(p.mode != Interp::nearest_exact && (p.mode != Interp::nearest || !p.antialias), "another mode");
  c.in({p.N, p.C, p.H, p.W}, t), c.in({p.N, 3, 3}, f), c.in({p.C}, f);
  if (p.has_displacement) c.in({p.N, 2, p.oH, p.oW}, f);
  if (p.stages) c.in({p.N, p.stages, sample_stage_floats(p.C)}, f);
  if (p.has_norm) c.in({2, p.C}, f);
  c.out({p.N, p.C, p.oH, p.oW}, p.has_norm ? f : t);
}

void verify_grid_sample(OpKind kind, const GridSampleParams& p, Operands& c) {
  const DType t = c.wide();
  for (const int64_t v : {p.H, p.W}) c.option("image sizes", v, 1);
  for (const int64_t v : {p.N, p.C, p.oH, p.oW}) c.option("sizes", v, 0);
  c.flag("align_corners", p.align_corners), c.flag("has_dx", p.has_dx), c.flag("has_dgrid", p.has_dgrid);
  c.expect(p.mode != Interp::nearest_exact, "another mode");
  const Dims x{p.N, p.C, p.H, p.W}, y{p.N, p.C, p.oH, p.oW}, points{p.N, p.oH * p.oW, 2};
  if (kind == OpKind::grid_sample) {
    c.in(x, t), c.in(points, t), c.out(y, t);
    return;
  }
  c.expect(p.has_dx || p.has_dgrid, "a gradient that is made");
  c.in(y, t);
  if (p.has_dgrid) c.in(x, t);
  c.in(points, t);
  if (p.has_dx) c.out(x, t);
  if (p.has_dgrid) c.out(points, t);
}

void verify_boxes(const BoxIouParams& p, Operands& c) {
  const DType t = c.wide();
  c.in({p.N, 4}, t), c.in({p.M, 4}, t), c.out({p.N, p.M}, t);
}

void verify_nms(const NmsParams& p, Operands& c) {
  const DType t = c.wide();
  c.option("limit", p.limit, 0), c.flag("has_groups", p.has_groups);
  c.expect(p.iou_threshold >= 0 && p.iou_threshold <= 1, "iou_threshold in [0, 1], got ", p.iou_threshold);
  c.in({p.N, 4}, t), c.in({p.N}, t);
  if (p.has_groups) c.in({p.N}, DType::int64);
  c.out({p.limit}, DType::int64), c.out({}, DType::int64);
}

void verify_regions(OpKind kind, const RoiAlignParams& p, Operands& c) {
  const DType t = c.wide();
  for (const int64_t v : {p.H, p.W, p.oH, p.oW}) c.option("sizes", v, 1);
  c.flag("aligned", p.aligned);
  c.expect(p.sampling_ratio <= 1024, "sampling_ratio <= 1024, got ", p.sampling_ratio);
  c.expect(p.spatial_scale > 0 && p.spatial_scale < 1e9, "spatial_scale > 0, got ", p.spatial_scale);
  const Dims x{p.N, p.C, p.H, p.W}, y{p.K, p.C, p.oH, p.oW};
  c.in(kind == OpKind::roi_align ? x : y, t), c.in({p.K, 5}, t), c.out(kind == OpKind::roi_align ? y : x, t);
}

void verify_capsules(OpKind kind, const CapsuleRoutingParams& p, Operands& c) {
  const DType t = c.wide();
  for (const int64_t v : {p.N, p.I, p.K, p.J, p.D}) c.option("sizes", v, 1);
  c.expect(p.iterations >= 1 && p.iterations <= 100, "iterations in [1, 100], got ", p.iterations);
  const Dims u{p.N, p.I, p.K}, weight{p.I, p.J, p.D, p.K}, v{p.N, p.J, p.D};
  if (kind == OpKind::capsule_routing) {
    c.in(u, t), c.in(weight, t), c.out(v, t);
    return;
  }
  c.in(v, t), c.in(u, t), c.in(weight, t), c.out(u, t), c.out(weight, t);
}

void verify_dropout(OpKind kind, const DropoutParams& p, Operands& c) {
  const DType t = c.floating();
  const Dims x = c.peek(0).shape();
  c.expect(p.p >= 0 && p.p <= 1, "p in [0, 1], got ", p.p);
  if (p.kind != DropKind::element) {
    int64_t n = 0;
    c.expect(p.N >= 0 && p.C >= 0 && p.HW >= 0 && !__builtin_mul_overflow(p.N, p.C, &n) &&
                 !__builtin_mul_overflow(n, p.HW, &n) && n == x.numel(),
             "sizes that fit ", x);
  }
  c.in(x, t), c.in({2}, DType::int64);
  c.out(x, t);
  if (kind == OpKind::dropout) c.out({2}, DType::int64);
}

void verify_random(const RandomParams& p, Operands& c) {
  c.in({2}, DType::int64);
  const OutSpec& y = c.out();
  const bool whole = p.op == Random::integers || p.op == Random::permutation;
  c.expect(whole || is_floating(y.dtype), "a floating output, got ", y.dtype);
  c.expect(p.op != Random::integers || p.low < p.high, "low < high, got ", p.low, " and ", p.high);
  c.expect(p.op != Random::permutation || (y.shape.size() == 1 && y.dtype == DType::int64), "a 1-D int64 output");
}

// p, g, then `states` like p, hyper; p and the states are written.
void verify_optimizer(int states, Operands& c) {
  const DType t = c.floating();
  const Dims x = c.peek(0).shape();
  for (int i = 0; i < 2 + states; ++i) c.in(x, t);
  c.in({8}, DType::float32);
  for (int i = 0; i < 1 + states; ++i) c.out(x, t);
}

}  // namespace

bool takes_strided(OpKind kind) {
  switch (kind) {
    case OpKind::unary:
    case OpKind::binary:
    case OpKind::where:
    case OpKind::reduce:
    case OpKind::strided_scatter:
    case OpKind::cat: return true;
    default: return false;
  }
}

bool works_in_place(OpKind kind) {
  switch (kind) {
    case OpKind::unary:
    case OpKind::binary:
    case OpKind::fill:
    case OpKind::bn_update_running:
    case OpKind::rng_advance:
    case OpKind::sgd_step:
    case OpKind::adam_step:
    case OpKind::rmsprop_step:
    case OpKind::adagrad_step:
    case OpKind::lion_step: return true;
    default: return false;
  }
}

void verify_node(OpKind kind, const Params& params, const std::vector<Tensor>& in,
                 const std::vector<OutSpec>& out) {
  Operands c(kind, in, out);
  switch (kind) {
    case OpKind::conv2d:
    case OpKind::conv2d_bwd_data:
    case OpKind::conv2d_bwd_weights: verify_conv(kind, params.as<Conv2dParams>(), c); break;
    case OpKind::matmul: verify_matmul(params.as<MatmulParams>(), c); break;
    case OpKind::max_pool2d:
    case OpKind::max_pool2d_bwd:
    case OpKind::max_pool2d_gather:
    case OpKind::avg_pool2d:
    case OpKind::avg_pool2d_bwd: verify_pool(kind, params.as<Pool2dParams>(), c); break;
    case OpKind::quantize:
    case OpKind::dequantize:
    case OpKind::quantized_conv2d:
    case OpKind::quantized_add:
    case OpKind::quantized_pool2d: verify_quantized(kind, params, c); break;
    case OpKind::batch_norm:
    case OpKind::batch_norm_bwd:
    case OpKind::batch_norm_infer: verify_batch_norm(kind, params.as<BatchNormParams>(), c); break;
    case OpKind::bn_update_running: verify_bn_update(params.as<BnUpdateParams>(), c); break;
    case OpKind::layer_norm:
    case OpKind::layer_norm_bwd:
    case OpKind::group_norm:
    case OpKind::group_norm_bwd: verify_norm(kind, params.as<NormParams>(), c); break;
    case OpKind::activation: verify_alike(1, c); break;
    case OpKind::activation_bwd: verify_alike(2, c); break;
    case OpKind::activation_bwd2: verify_alike(3, c); break;
    case OpKind::softmax:
    case OpKind::log_softmax:
    case OpKind::softmax_bwd:
    case OpKind::log_softmax_bwd: {
      const auto& p = params.as<SoftmaxParams>();
      int64_t n = 0;
      c.expect(p.outer >= 0 && p.dim >= 0 && p.inner >= 0 && !__builtin_mul_overflow(p.outer, p.dim, &n) &&
                   !__builtin_mul_overflow(n, p.inner, &n) && n == c.peek(0).numel(),
               "sizes that fit ", c.peek(0).shape());
      verify_alike(kind == OpKind::softmax || kind == OpKind::log_softmax ? 1 : 2, c);
      break;
    }
    case OpKind::cross_entropy:
    case OpKind::cross_entropy_bwd: verify_cross_entropy(kind, params.as<CrossEntropyParams>(), c); break;
    case OpKind::pointwise_loss:
    case OpKind::pointwise_loss_bwd: verify_pointwise(kind, params.as<PointwiseLossParams>(), c); break;
    case OpKind::check_target:
    case OpKind::all_reduce: verify_alike(1, c); break;
    case OpKind::unary: verify_unary(params.as<UnaryParams>(), c); break;
    case OpKind::binary: verify_binary(params.as<BinaryParams>(), c); break;
    case OpKind::where: verify_where(c); break;
    case OpKind::fill: c.out(); break;
    case OpKind::reduce: verify_reduce(params.as<ReduceParams>(), c); break;
    case OpKind::strided_scatter: verify_scatter(params.as<ScatterParams>(), c); break;
    case OpKind::index_select:
    case OpKind::index_add:
    case OpKind::gather:
    case OpKind::scatter_add: verify_index(kind, params.as<IndexParams>(), c); break;
    case OpKind::argsort: verify_argsort(params.as<ArgsortParams>(), c); break;
    case OpKind::cumsum: verify_cumsum(params.as<CumsumParams>(), c); break;
    case OpKind::index_put: verify_index_put(params.as<IndexParams>(), c); break;
    case OpKind::cat: verify_cat(params.as<CatParams>(), c); break;
    case OpKind::pad:
    case OpKind::pad_bwd: verify_pad(kind, params.as<PadParams>(), c); break;
    case OpKind::interpolate:
    case OpKind::interpolate_bwd: verify_interpolate(kind, params.as<InterpolateParams>(), c); break;
    case OpKind::affine_sample: verify_sample(params.as<AffineSampleParams>(), c); break;
    case OpKind::grid_sample:
    case OpKind::grid_sample_bwd: verify_grid_sample(kind, params.as<GridSampleParams>(), c); break;
    case OpKind::box_iou: verify_boxes(params.as<BoxIouParams>(), c); break;
    case OpKind::nms: verify_nms(params.as<NmsParams>(), c); break;
    case OpKind::roi_align:
    case OpKind::roi_align_bwd: verify_regions(kind, params.as<RoiAlignParams>(), c); break;
    case OpKind::capsule_routing:
    case OpKind::capsule_routing_bwd: verify_capsules(kind, params.as<CapsuleRoutingParams>(), c); break;
    case OpKind::dropout:
    case OpKind::dropout_bwd: verify_dropout(kind, params.as<DropoutParams>(), c); break;
    case OpKind::random: verify_random(params.as<RandomParams>(), c); break;
    case OpKind::rng_advance: c.in({2}, DType::int64), c.out({2}, DType::int64); break;
    case OpKind::sgd_step: verify_optimizer(params.as<SgdParams>().has_momentum ? 1 : 0, c); break;
    case OpKind::adam_step: verify_optimizer(params.as<AdamParams>().amsgrad ? 3 : 2, c); break;
    case OpKind::rmsprop_step: {
      const auto& p = params.as<RmspropParams>();
      verify_optimizer(1 + (p.has_momentum ? 1 : 0) + (p.centered ? 1 : 0), c);
      break;
    }
    case OpKind::adagrad_step:
    case OpKind::lion_step: verify_optimizer(1, c); break;
    default: throw ValueError(concat(op_name(kind), ": is no op of files"));
  }
  c.done();
}

}  // namespace fastcnn
