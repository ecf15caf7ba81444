// What it is: reductions over dims and their gradient rules. Kernels give the keepdim form; dropping dims is a
// view.
#include <cmath>
#include <limits>

#include "fastcnn/ops.h"
#include "graph/emit.h"
#include "ops/dims.h"

namespace fastcnn {
namespace {

Dims kept(const Dims& shape, uint32_t mask) {
  Dims out = shape;
  for (int d = 0; d < out.size(); ++d)
    if (mask >> d & 1) out[d] = 1;
  return out;
}
Dims dropped(const Dims& shape, uint32_t mask) {
  Dims out;
  for (int d = 0; d < shape.size(); ++d)
    if (!(mask >> d & 1)) out.push_back(shape[d]);
  return out;
}
int64_t count(const Dims& shape, uint32_t mask) {
  int64_t n = 1;
  for (int d = 0; d < shape.size(); ++d)
    if (mask >> d & 1) n *= shape[d];
  return n;
}

Tensor drop(const Tensor& kept_form, const Dims& shape, uint32_t mask, bool keepdim) {
  return keepdim ? kept_form : reshape(kept_form, dropped(shape, mask));
}

Tensor reduce(const Rule& rule, Reduce op, const Tensor& x, uint32_t mask, DType dtype) {
  return emit1(rule, OpKind::reduce, ReduceParams{op, mask}, {x}, {kept(x.shape(), mask), dtype});
}

std::vector<Tensor> vjp_sum(TapeNode& n, const std::vector<Tensor>& g) {
  return {expand(g[0], n.inputs[0].shape)};
}
std::vector<Tensor> vjp_mean(TapeNode& n, const std::vector<Tensor>& g) {
  double scale = 1.0 / static_cast<double>(count(n.inputs[0].shape, n.as<ReduceParams>().dims));
  return {expand(affine(g[0], scale, 0), n.inputs[0].shape)};
}
// Elements that tie share the gradient evenly.
std::vector<Tensor> vjp_extreme(TapeNode& n, const std::vector<Tensor>& g) {
  Tensor x = n.input(0).detach(), mask = cast(eq(x, n.output(0).detach()), x.dtype());
  Tensor ties = reduce(Rule{"sum"}, Reduce::sum, mask, n.as<ReduceParams>().dims, x.dtype());
  return {mul(mask, div(g[0], ties))};
}

const Rule sum_rule{"sum", vjp_sum};
const Rule mean_rule{"mean", vjp_mean};
const Rule amax_rule{"amax", vjp_extreme, 1, 1};
const Rule amin_rule{"amin", vjp_extreme, 1, 1};

DType sum_type(DType t) { return is_floating(t) ? t : DType::int64; }

void check_some(const char* op, const Tensor& x, uint32_t mask) {
  check(count(x.shape(), mask) != 0 || dropped(x.shape(), mask).numel() == 0, op,
        ": expected at least one element in the reduced dims, got shape ", x.shape());
}

Tensor extreme(const Rule& rule, Reduce op, const Tensor& x, const std::vector<int>& dims, bool keepdim) {
  uint32_t mask = dims_mask(rule.name, dims, x.shape());
  check_some(rule.name, x, mask);
  return drop(reduce(rule, op, x, mask, x.dtype()), x.shape(), mask, keepdim);
}

Tensor arg_extreme(const char* name, Reduce op, const Tensor& x, std::optional<int> dim, bool keepdim) {
  Rule rule{name};
  if (!dim) {
    check_some(name, x, (1u << x.ndim()) - 1);
    Tensor at = reduce(rule, op, reshape(x.detach(), {x.numel()}), 1, DType::int64);
    return reshape(at, keepdim ? Dims(x.ndim(), 1) : Dims{});
  }
  int d = wrap_dim(name, *dim, x.shape());
  if (x.ndim() == 0) return zeros({}, DType::int64, x.device());
  check_some(name, x, 1u << d);
  return drop(reduce(rule, op, x.detach(), 1u << d, DType::int64), x.shape(), 1u << d, keepdim);
}

Tensor truth(const char* name, Reduce op, const Tensor& x, const std::vector<int>& dims, bool keepdim) {
  uint32_t mask = dims_mask(name, dims, x.shape());
  return drop(reduce(Rule{name}, op, x.detach(), mask, DType::bool_), x.shape(), mask, keepdim);
}

// Product over one dim by halves: its gradient is exact at zeros, to any order, where y / x is not.
Tensor prod_by_halves(Tensor x, int d) {
  while (x.shape()[d] > 1) {
    int64_t n = x.shape()[d], half = n / 2;
    Tensor y = mul(narrow(x, d, 0, half), narrow(x, d, half, half));
    x = n % 2 ? cat({y, narrow(x, d, n - 1, 1)}, d) : y;
  }
  return x;
}

struct VarParams {
  uint32_t dims;
  int32_t pad_;
  double divisor;
};
std::vector<Tensor> vjp_var(TapeNode& n, const std::vector<Tensor>& g) {
  const VarParams& p = n.as<VarParams>();
  Tensor x = n.input(0), mean = reduce(mean_rule, Reduce::mean, x, p.dims, x.dtype());
  return {mul(sub(x, mean), affine(g[0], 2.0 / p.divisor, 0))};
}
const Rule var_rule{"var", vjp_var, 1};

// 0 where all elements are equal, as in PyTorch; the root's own slope there is infinite.
std::vector<Tensor> vjp_deviation(TapeNode& n, const std::vector<Tensor>& g) {
  const VarParams& p = n.as<VarParams>();
  Tensor x = n.input(0), y = n.output(0), zero = zeros({}, x.dtype(), x.device());
  Tensor flat = eq(y.detach(), zero), safe = where(flat, full({}, 1, x.dtype(), x.device()), y);
  Tensor mean = reduce(mean_rule, Reduce::mean, x, p.dims, x.dtype());
  return {mul(sub(x, mean), where(flat, zero, affine(div(g[0], safe), 1 / p.divisor, 0)))};
}
const Rule deviation_rule{"std", vjp_deviation, 1, 1};

struct NormParam {
  double p;
};
// dy/dx = sign(x) |x|^(p-1) y^(1-p), 0 where y is 0.
std::vector<Tensor> vjp_norm(TapeNode& n, const std::vector<Tensor>& g) {
  double p = n.as<NormParam>().p;
  Tensor x = n.input(0), y = n.output(0), zero = zeros({}, x.dtype(), x.device());
  Tensor flat = eq(y.detach(), zero), safe = where(flat, full({}, 1, x.dtype(), x.device()), y);
  if (p == 2) return {mul(x, where(flat, zero, div(g[0], safe)))};
  Tensor size = abs(x);
  if (p < 1) size = where(eq(size, zero), full({}, 1, x.dtype(), x.device()), size);  // sign(x) makes it 0
  Tensor slope = mul(sign(x), pow_scalar(size, p - 1));
  return {mul(slope, where(flat, zero, mul(g[0], pow_scalar(safe, 1 - p))))};
}
const Rule norm_rule{"norm", vjp_norm, 1, 1};

// What `f` computes, without a tape, then put on the tape under one rule.
template <class F>
Tensor as_one(const Rule& rule, const Params& params, const Tensor& x, F&& f) {
  std::vector<Tensor> out;
  {
    GradMode off(false);
    out.push_back(f(x.detach()));
  }
  record_on_tape(rule, params, {x}, out);
  return out[0];
}

// 16-bit floats are too coarse for what lies between two steps.
Tensor wide(const Tensor& x) { return dtype_size(x.dtype()) == 2 ? cast(x, DType::float32) : x; }

void check_floating(const char* op, const Tensor& x) {
  check<TypeError>(is_floating(x.dtype()), op, ": expected a floating dtype, got ", x.dtype(), " (shape ",
                   x.shape(), ")");
}

// What `last` makes of the variance; var and std.
Tensor spread(const char* op, const Rule& rule, const Tensor& x, const std::vector<int>& dims, double correction,
              bool keepdim, Tensor (*last)(const Tensor&)) {
  check_floating(op, x);
  uint32_t mask = dims_mask(op, dims, x.shape());
  double n = static_cast<double>(count(x.shape(), mask)), divisor = std::fmax(n - correction, 0.0);
  Tensor y = as_one(rule, VarParams{mask, 0, divisor}, x, [&](const Tensor& v) {
    Tensor w = wide(v),
           d = sub(w, reduce(mean_rule, Reduce::mean, w, mask, w.dtype()));  // two passes: no cancellation
    return cast(last(affine(reduce(Rule{op}, Reduce::sum_squares, d, mask, w.dtype()), 1 / divisor, 0)),
                v.dtype());
  });
  return drop(y, x.shape(), mask, keepdim);
}

}  // namespace

Tensor sum(const Tensor& x, const std::vector<int>& dims, bool keepdim) {
  uint32_t mask = dims_mask("sum", dims, x.shape());
  return drop(reduce(sum_rule, Reduce::sum, x, mask, sum_type(x.dtype())), x.shape(), mask, keepdim);
}

Tensor mean(const Tensor& x, const std::vector<int>& dims, bool keepdim) {
  check_floating("mean", x);
  uint32_t mask = dims_mask("mean", dims, x.shape());
  return drop(reduce(mean_rule, Reduce::mean, x, mask, x.dtype()), x.shape(), mask, keepdim);
}

Tensor prod(const Tensor& x, const std::vector<int>& dims, bool keepdim) {
  static const Rule rule{"prod"};
  uint32_t mask = dims_mask("prod", dims, x.shape());
  if (!(grad_enabled() && x.requires_grad()) || x.numel() == 0)
    return drop(reduce(rule, Reduce::prod, x.detach(), mask, sum_type(x.dtype())), x.shape(), mask, keepdim);
  // 16-bit products would be rounded at each halving.
  Tensor y = dtype_size(x.dtype()) == 2 ? cast(x, DType::float32) : x;
  for (int d = 0; d < x.ndim(); ++d)
    if (mask >> d & 1) y = prod_by_halves(y, d);
  return drop(cast(y, x.dtype()), x.shape(), mask, keepdim);
}

Tensor amax(const Tensor& x, const std::vector<int>& dims, bool keepdim) {
  return extreme(amax_rule, Reduce::max, x, dims, keepdim);
}
Tensor amin(const Tensor& x, const std::vector<int>& dims, bool keepdim) {
  return extreme(amin_rule, Reduce::min, x, dims, keepdim);
}
Tensor any(const Tensor& x, const std::vector<int>& dims, bool keepdim) {
  return truth("any", Reduce::any, x, dims, keepdim);
}
Tensor all(const Tensor& x, const std::vector<int>& dims, bool keepdim) {
  return truth("all", Reduce::all, x, dims, keepdim);
}
Tensor non_finite(const std::vector<Tensor>& xs) {
  check(!xs.empty(), "non_finite: expected at least one tensor");
  std::vector<Tensor> in;
  for (const Tensor& x : xs) {
    check_floating("non_finite", x);
    in.push_back(contiguous(x.detach()));
  }
  return emit1(Rule{"non_finite"}, OpKind::non_finite, FillParams{}, in, {{}, DType::float32});
}
Tensor argmax(const Tensor& x, std::optional<int> dim, bool keepdim) {
  return arg_extreme("argmax", Reduce::argmax, x, dim, keepdim);
}
Tensor argmin(const Tensor& x, std::optional<int> dim, bool keepdim) {
  return arg_extreme("argmin", Reduce::argmin, x, dim, keepdim);
}

Tensor var(const Tensor& x, const std::vector<int>& dims, double correction, bool keepdim) {
  return spread("var", var_rule, x, dims, correction, keepdim, [](const Tensor& v) { return v; });
}

Tensor deviation(const Tensor& x, const std::vector<int>& dims, double correction, bool keepdim) {
  return spread("std", deviation_rule, x, dims, correction, keepdim, [](const Tensor& v) { return sqrt(v); });
}

Tensor norm(const Tensor& x, double p, const std::vector<int>& dims, bool keepdim) {
  check_floating("norm", x);
  check(p >= 0, "norm: expected p >= 0, got ", p);
  uint32_t mask = dims_mask("norm", dims, x.shape());
  if (std::isinf(p)) return amax(abs(x), dims, keepdim);
  if (p == 1) return sum(abs(x), dims, keepdim);
  if (p == 0) return sum(cast(ne(x, zeros({}, x.dtype(), x.device())), x.dtype()), dims, keepdim);
  Tensor y = as_one(norm_rule, NormParam{p}, x, [&](const Tensor& v) {
    Tensor w = wide(v);
    if (p == 2) return cast(sqrt(reduce(Rule{"norm"}, Reduce::sum_squares, w, mask, w.dtype())), v.dtype());
    Tensor s = reduce(Rule{"norm"}, Reduce::sum, pow_scalar(abs(w), p), mask, w.dtype());
    return cast(pow_scalar(s, 1 / p), v.dtype());
  });
  return drop(y, x.shape(), mask, keepdim);
}

}  // namespace fastcnn
