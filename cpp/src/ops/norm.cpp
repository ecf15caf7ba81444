// What it is: batch, layer, group, instance and local response normalisation with their gradients.
// Kernels see channels innermost; ranks other than 2 and 4 are brought there by a reshape. The backward
// kernels are differentiated again by formulas of elementary ops (decompose.h).
#include "graph/emit.h"
#include "ops/decompose.h"
#include "ops/operands.h"
#include "ops/volume.h"

namespace fastcnn {
namespace {

// (C) as something that broadcasts over the channels of (N,C) or (N,C,H,W).
Tensor per_channel(const Tensor& v, int ndim) { return ndim == 2 ? v : reshape(v, {1, v.shape()[0], 1, 1}); }

// Parameters of norms in the statistics' dtype; missing ones are the neutral value.
Tensor parameter(const Tensor& t, const Dims& shape, double neutral, const Tensor& x) {
  DType dtype = statistics_dtype(x.dtype());
  return t.defined() ? contiguous(cast(t, dtype)) : full(shape, neutral, dtype, x.device());
}

void check_eps(const char* op, double eps) { check(eps >= 0, op, ": expected eps >= 0, got ", eps); }

// (N,C), (N,C,L), (N,C,D,H,W), … as (N,C) or (N,C,H,W), dense.
Tensor channels_inner(const Tensor& x) {
  if (x.ndim() == 2 || x.ndim() == 4) return contiguous(x);
  int64_t rest = 1;
  for (int i = 2; i < x.ndim(); ++i) rest *= x.shape()[i];
  return contiguous(reshape(x, {x.shape()[0], x.shape()[1], rest, 1}));
}
Tensor like_input(const Tensor& y, const Tensor& x) { return y.shape() == x.shape() ? y : reshape(y, x.shape()); }

// xhat and 1/std over `dims`, biased variance, made of elementary ops.
struct Normalised {
  Tensor xhat, invstd;
};
Normalised normalise(const Tensor& x, const std::vector<int>& dims, double eps) {
  Tensor centred = sub(x, mean(x, dims, true));
  Tensor invstd = rsqrt(affine(mean(square(centred), dims, true), 1, eps));
  return {mul(centred, invstd), invstd};
}

// dx of y = xhat when dxhat arrives.
Tensor normalise_bwd(const Normalised& s, const Tensor& dxhat, const std::vector<int>& dims) {
  Tensor r = sub(dxhat, mean(dxhat, dims, true));
  return mul(s.invstd, sub(r, mul(s.xhat, mean(mul(dxhat, s.xhat), dims, true))));
}

// ---- batch_norm ----

std::vector<int> all_but_channels(const Tensor& x) {
  return x.ndim() == 2 ? std::vector<int>{0} : std::vector<int>{0, 2, 3};
}

std::vector<Tensor> vjp_batch_norm_bwd(TapeNode& n,
                                       const std::vector<Tensor>& g) {  // dy, x, gamma, mean, invstd
  const double eps = n.as<BatchNormParams>().eps;
  return vjp_by_formula(n, g, 3, [eps](const std::vector<Tensor>& in) {
    DType wide = statistics_dtype(in[1].dtype());
    Tensor dy = cast(in[0], wide), x = cast(in[1], wide);
    const std::vector<int> dims = all_but_channels(x);
    Normalised s = normalise(x, dims, eps);
    Tensor dx = normalise_bwd(s, mul(dy, per_channel(in[2], x.ndim())), dims);
    return std::vector<Tensor>{cast(dx, in[1].dtype()), sum(mul(dy, s.xhat), dims), sum(dy, dims)};
  });
}
const Rule batch_norm_bwd_rule{"batch_norm_bwd", vjp_batch_norm_bwd, 7};

std::vector<Tensor> vjp_batch_norm(TapeNode& n, const std::vector<Tensor>& g) {  // x, gamma, beta
  Tensor x = n.input(0), gamma = n.input(1);
  return emit(batch_norm_bwd_rule, OpKind::batch_norm_bwd, n.params,
              {contiguous(g[0]), x, gamma, n.output(1).detach(), n.output(2).detach()},
              {{x.shape(), x.dtype()}, {gamma.shape(), gamma.dtype()}, {gamma.shape(), gamma.dtype()}});
}
const Rule batch_norm_rule{"batch_norm", vjp_batch_norm, 3, 6};

std::vector<Tensor> vjp_batch_norm_infer(TapeNode& n,
                                         const std::vector<Tensor>& g) {  // x, gamma, beta, mean, var
  const double eps = n.as<BatchNormParams>().eps;
  const int nd = static_cast<int>(n.inputs[0].shape.size());
  DType dtype = n.inputs[0].dtype, wide = n.inputs[1].dtype;
  std::vector<Tensor> r(5);
  Tensor invstd = rsqrt(affine(cast(n.input(4), wide).detach(), 1, eps));
  Tensor dy = cast(g[0], wide);
  const std::vector<int> dims = nd == 2 ? std::vector<int>{0} : std::vector<int>{0, 2, 3};
  if (n.needs(0)) r[0] = cast(mul(dy, per_channel(mul(n.input(1), invstd), nd)), dtype);
  if (n.needs(1)) {
    Tensor centred = sub(cast(n.input(0), wide), per_channel(cast(n.input(3), wide).detach(), nd));
    r[1] = mul(sum(mul(dy, centred), dims), invstd);
  }
  if (n.needs(2)) r[2] = sum(dy, dims);
  return r;
}
const Rule batch_norm_infer_rule{"batch_norm", vjp_batch_norm_infer, 1 | 2 | 8 | 16};
const Rule batch_norm_frozen_rule{"batch_norm", vjp_batch_norm_infer, 2 | 16};  // gamma needs no gradient

// ---- layer_norm, group_norm: dy, x [, gamma], mean, invstd -> dx [, dgamma, dbeta] ----

std::vector<Tensor> vjp_layer_norm_bwd(TapeNode& n, const std::vector<Tensor>& g) {
  const NormParams p = n.as<NormParams>();
  return vjp_by_formula(n, g, p.affine ? 3 : 2, [p](const std::vector<Tensor>& in) {
    DType wide = statistics_dtype(in[1].dtype());
    Tensor dy = cast(in[0], wide), x = cast(in[1], wide);
    Normalised s = normalise(x, {1}, p.eps);
    std::vector<Tensor> out{cast(normalise_bwd(s, p.affine ? mul(dy, in[2]) : dy, {1}), in[1].dtype())};
    if (p.affine) {
      out.push_back(sum(mul(dy, s.xhat), {0}));
      out.push_back(sum(dy, {0}));
    }
    return out;
  });
}
std::vector<Tensor> vjp_group_norm_bwd(TapeNode& n, const std::vector<Tensor>& g) {
  const NormParams p = n.as<NormParams>();
  return vjp_by_formula(n, g, p.affine ? 3 : 2, [p](const std::vector<Tensor>& in) {
    DType wide = statistics_dtype(in[1].dtype());
    const Dims shape = in[1].shape(), grouped{p.N, p.groups, p.C / p.groups * p.HW};
    Tensor dy = cast(in[0], wide), x = cast(in[1], wide);
    Normalised s = normalise(reshape(x, grouped), {2}, p.eps);
    Tensor dxhat = p.affine ? mul(dy, per_channel(in[2], 4)) : dy;
    std::vector<Tensor> out{cast(reshape(normalise_bwd(s, reshape(dxhat, grouped), {2}), shape), in[1].dtype())};
    if (p.affine) {
      out.push_back(sum(mul(dy, reshape(s.xhat, shape)), {0, 2, 3}));
      out.push_back(sum(dy, {0, 2, 3}));
    }
    return out;
  });
}
const Rule layer_norm_bwd_rules[2] = {{"layer_norm_bwd", vjp_layer_norm_bwd, 3},
                                      {"layer_norm_bwd", vjp_layer_norm_bwd, 7}};
const Rule group_norm_bwd_rules[2] = {{"group_norm_bwd", vjp_group_norm_bwd, 3},
                                      {"group_norm_bwd", vjp_group_norm_bwd, 7}};

std::vector<Tensor> norm_bwd(TapeNode& n, const std::vector<Tensor>& g, const Rule (&rules)[2], OpKind kind) {
  const bool affine = n.as<NormParams>().affine;
  Tensor x = n.input(0);
  std::vector<Tensor> in{contiguous(g[0]), x};
  std::vector<OutSpec> out{{x.shape(), x.dtype()}};
  if (affine) {
    in.push_back(n.input(1));
    out.insert(out.end(), 2, {in[2].shape(), in[2].dtype()});
  }
  in.push_back(n.output(1).detach());
  in.push_back(n.output(2).detach());
  return emit(rules[affine], kind, n.params, in, out);
}
std::vector<Tensor> vjp_layer_norm(TapeNode& n, const std::vector<Tensor>& g) {
  return norm_bwd(n, g, layer_norm_bwd_rules, OpKind::layer_norm_bwd);
}
std::vector<Tensor> vjp_group_norm(TapeNode& n, const std::vector<Tensor>& g) {
  return norm_bwd(n, g, group_norm_bwd_rules, OpKind::group_norm_bwd);
}
const Rule layer_norm_rules[2] = {{"layer_norm", vjp_layer_norm, 1, 6}, {"layer_norm", vjp_layer_norm, 3, 6}};
const Rule group_norm_rules[2] = {{"group_norm", vjp_group_norm, 1, 6}, {"group_norm", vjp_group_norm, 3, 6}};

Tensor grouped(const char* op, const Tensor& x, int64_t groups, const Tensor& gamma, const Tensor& beta,
               double eps) {
  check_floating(op, "x", x);
  check_eps(op, eps);
  check(x.ndim() >= 2, op, ": expected x of shape (N, C, ...), got ", x.shape());
  const int64_t C = x.shape()[1];
  check(C >= 1, op, ": expected at least 1 channel, got x of shape ", x.shape());
  check(groups >= 1 && C % groups == 0, op, ": expected groups to divide the ", C, " channels of x ", x.shape(),
        ", got ", groups);
  for (auto [name, t] : {std::pair<const char*, const Tensor&>{"weight", gamma}, {"bias", beta}})
    if (t.defined()) {
      check_floating(op, name, t);
      check_vector(op, name, t, C, x);
    }
  Tensor in = x.ndim() == 2 ? reshape(x, {x.shape()[0], C, 1, 1}) : channels_inner(x);
  in = contiguous(in);
  NormParams p;
  p.N = in.shape()[0], p.HW = in.shape()[2] * in.shape()[3], p.C = C, p.groups = groups, p.eps = eps;
  p.affine = gamma.defined() || beta.defined();
  std::vector<Tensor> operands{in};
  if (p.affine) {
    operands.push_back(parameter(gamma, {C}, 1, x));
    operands.push_back(parameter(beta, {C}, 0, x));
  }
  DType stats = statistics_dtype(x.dtype());
  return like_input(emit(group_norm_rules[p.affine], OpKind::group_norm, p, operands,
                         {{in.shape(), x.dtype()}, {{p.N, groups}, stats}, {{p.N, groups}, stats}})[0],
                    x);
}

}  // namespace

Tensor batch_norm(const Tensor& x, const Tensor& running_mean, const Tensor& running_var, const Tensor& gamma_in,
                  const Tensor& beta_in, bool training, double momentum, double eps,
                  const Tensor& num_batches_tracked) {
  check_floating("batch_norm", "x", x);
  check_eps("batch_norm", eps);
  check(x.ndim() >= 2, "batch_norm: expected x of shape (N, C, ...), got ", x.shape());
  const int64_t C = x.shape()[1];
  for (auto [name, t] : {std::pair<const char*, const Tensor&>{"running_mean", running_mean},
                         {"running_var", running_var},
                         {"weight", gamma_in},
                         {"bias", beta_in}})
    if (t.defined()) {
      check_floating("batch_norm", name, t);
      check_vector("batch_norm", name, t, C, x);
    }
  check(running_mean.defined() == running_var.defined(),
        "batch_norm: expected both running_mean and running_var, or neither");
  check(training || running_mean.defined(), "batch_norm: expected running_mean and running_var when not training");

  const bool framed = x.ndim() == 3 || x.ndim() == 5;
  Tensor in = framed ? contiguous(volume::as_images(x)) : channels_inner(x);
  auto given = [&](const Tensor& y) { return framed ? volume::from_images(y, x) : like_input(y, x); };
  Tensor gamma = parameter(gamma_in, {C}, 1, x), beta = parameter(beta_in, {C}, 0, x);
  BatchNormParams p;
  p.rows = C ? x.numel() / C : 0, p.C = C, p.eps = eps;
  if (!training) {
    const Rule& rule = gamma.requires_grad() ? batch_norm_infer_rule : batch_norm_frozen_rule;
    return given(emit1(rule, OpKind::batch_norm_infer, p,
                       {in, gamma, beta, contiguous(running_mean), contiguous(running_var)},
                       {in.shape(), x.dtype()}));
  }
  check(p.rows != 1, "batch_norm: expected more than 1 value per channel when training, got x of shape ",
        x.shape());
  check(momentum <= 1, "batch_norm: expected momentum in [0, 1], got ", momentum);
  std::vector<Tensor> y = emit(batch_norm_rule, OpKind::batch_norm, p, {in, gamma, beta},
                               {{in.shape(), x.dtype()}, {{C}, gamma.dtype()}, {{C}, gamma.dtype()}});
  if (running_mean.defined()) {
    GradMode off(false);
    check(running_mean.is_contiguous() && running_var.is_contiguous(),
          "batch_norm: expected dense running_mean and running_var");
    check(momentum >= 0 || num_batches_tracked.defined(),
          "batch_norm: expected num_batches_tracked with momentum=None (cumulative average)");
    Tensor m = running_mean.detach(), v = running_var.detach();
    std::vector<Tensor> state{y[1].detach(), y[2].detach(), m, v};
    if (num_batches_tracked.defined()) {
      check<TypeError>(num_batches_tracked.dtype() == DType::int64 && num_batches_tracked.numel() == 1,
                       "batch_norm: expected num_batches_tracked as one int64, got ", num_batches_tracked.dtype(),
                       " of shape ", num_batches_tracked.shape());
      state.push_back(num_batches_tracked.detach());
    }
    emit_into(OpKind::bn_update_running, BnUpdateParams{p.rows, C, eps, momentum}, state, {m, v});
  }
  return given(y[0]);
}

Tensor layer_norm(const Tensor& x, const Dims& normalized_shape, const Tensor& gamma_in, const Tensor& beta_in,
                  double eps) {
  check_floating("layer_norm", "x", x);
  check_eps("layer_norm", eps);
  const int k = normalized_shape.size(), lead = check_normalized_shape("layer_norm", x, normalized_shape);
  for (auto [name, t] : {std::pair<const char*, const Tensor&>{"weight", gamma_in}, {"bias", beta_in}})
    if (t.defined()) {
      check_floating("layer_norm", name, t);
      check(t.shape() == normalized_shape, "layer_norm: expected ", name, " of shape ", normalized_shape,
            " (x is ", x.shape(), "), got ", t.shape());
    }
  // The order of the normalised values is free: (C,H,W) of an image is taken as it lies in memory, H,W,C.
  const bool image = x.ndim() == 4 && k == 3;
  auto flat = [&](const Tensor& t) {
    return reshape(image ? permute(t, {1, 2, 0}) : t, {normalized_shape.numel()});
  };
  NormParams p;
  p.inner = normalized_shape.numel();
  p.outer = 1;
  for (int i = 0; i < lead; ++i) p.outer *= x.shape()[i];
  p.affine = gamma_in.defined() || beta_in.defined();
  p.eps = eps;
  Tensor laid = image ? permute(x, {0, 2, 3, 1}) : x;
  std::vector<Tensor> operands{contiguous(reshape(laid, {p.outer, p.inner}))};
  if (p.affine) {
    operands.push_back(parameter(gamma_in.defined() ? flat(gamma_in) : Tensor(), {p.inner}, 1, x));
    operands.push_back(parameter(beta_in.defined() ? flat(beta_in) : Tensor(), {p.inner}, 0, x));
  }
  DType stats = statistics_dtype(x.dtype());
  Tensor y = emit(layer_norm_rules[p.affine], OpKind::layer_norm, p, operands,
                  {{{p.outer, p.inner}, x.dtype()}, {{p.outer}, stats}, {{p.outer}, stats}})[0];
  y = reshape(y, laid.shape());
  return image ? permute(y, {0, 3, 1, 2}) : y;
}

Tensor group_norm(const Tensor& x, int64_t groups, const Tensor& gamma, const Tensor& beta, double eps) {
  return grouped("group_norm", x, groups, gamma, beta, eps);
}

Tensor instance_norm(const Tensor& x, const Tensor& gamma, const Tensor& beta, double eps) {
  check(x.ndim() >= 3, "instance_norm: expected x of shape (N, C, L), (N, C, H, W) or more dimensions, got ",
        x.shape());
  int64_t spatial = 1;
  for (int i = 2; i < x.ndim(); ++i) spatial *= x.shape()[i];
  check(spatial != 1, "instance_norm: expected more than 1 pixel per channel, got x of shape ", x.shape());
  return grouped("instance_norm", x, x.shape()[1], gamma, beta, eps);
}

// Krizhevsky et al. 2012: x / (k + alpha * mean of squares over `size` neighbouring channels)^beta.
Tensor local_response_norm(const Tensor& x, int64_t size, double alpha, double beta, double k) {
  check_floating("local_response_norm", "x", x);
  check(x.ndim() >= 3, "local_response_norm: expected x of shape (N, C, ...) with 3 or more dimensions, got ",
        x.shape());
  check(size >= 1 && size <= kMaxOption, "local_response_norm: expected size >= 1, got ", size);
  const int64_t C = x.shape()[1];
  std::vector<int64_t> pads(static_cast<size_t>(2 * (x.ndim() - 1)),
                            0);  // last dim first; channels come last
  pads[pads.size() - 2] = size / 2;
  pads[pads.size() - 1] = (size - 1) / 2;
  Tensor squares = pad(square(x), pads), total = narrow(squares, 1, 0, C);
  for (int64_t i = 1; i < size; ++i) total = add(total, narrow(squares, 1, i, C));
  Tensor base = affine(total, alpha / static_cast<double>(size), k);
  return mul(x, pow_scalar(base, -beta));
}

}  // namespace fastcnn
