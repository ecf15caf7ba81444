// What it is: activations and softmax with their gradients. Smooth activations have a second derivative as a
// kernel; those that differentiate from their output, and softmax, go on by elementary ops to any order.
#include <vector>

#include "graph/emit.h"
#include "ops/dims.h"
#include "ops/operands.h"
#include "ops/volume.h"

namespace fastcnn {
namespace {

Tensor emit_bwd(const ActParams& p, const Tensor& dy, const Tensor& r);
Tensor emit_bwd2(const ActParams& p, const Tensor& g, const Tensor& dy, const Tensor& r);

const char* const names[] = {"identity",    "relu",     "relu6",   "leaky_relu", "elu",      "selu",
                             "celu",        "gelu",     "gelu",    "silu",       "mish",     "hardswish",
                             "hardsigmoid", "hardtanh", "sigmoid", "tanh",       "softplus", "softsign"};
static_assert(sizeof(names) / sizeof(*names) == static_cast<size_t>(Act::count));

bool piecewise_linear(Act a) {
  return a == Act::none || a == Act::relu || a == Act::relu6 || a == Act::leaky_relu || a == Act::hardtanh ||
         a == Act::hardsigmoid;
}

std::vector<Tensor> vjp_act(TapeNode& n, const std::vector<Tensor>& g) {
  const auto& p = n.as<ActParams>();
  return {emit_bwd(p, g[0], act_bwd_uses_output(p.act) ? n.output(0) : n.input(0))};
}

std::vector<Tensor> vjp_act_bwd(TapeNode& n, const std::vector<Tensor>& g) {  // dy, r -> dy * f'
  const auto& p = n.as<ActParams>();
  std::vector<Tensor> d(2);
  Tensor dy = n.input(0), r = n.input(1);
  if (n.needs(0)) d[0] = emit_bwd(p, g[0], r);
  if (!n.needs(1) || piecewise_linear(p.act)) return d;
  // Where r is the output y, f' = h(y), and h'(y) is wanted: y has its own way back to x.
  if (p.act == Act::sigmoid)
    d[1] = mul(mul(g[0], dy), affine(r, -2, 1));
  else if (p.act == Act::tanh)
    d[1] = mul(mul(g[0], dy), affine(r, -2, 0));
  else
    d[1] = emit_bwd2(p, g[0], dy, r);
  return d;
}

std::vector<Tensor> vjp_act_bwd2(TapeNode& n, const std::vector<Tensor>& g) {  // g, dy, x -> g * dy * f''
  const auto& p = n.as<ActParams>();
  std::vector<Tensor> d(3);
  Tensor x = n.input(2);
  if (n.needs(0)) d[0] = emit_bwd2(p, g[0], n.input(1), x);
  if (n.needs(1)) d[1] = emit_bwd2(p, n.input(0), g[0], x);
  // The third derivative; hardswish is piecewise quadratic and has none.
  check(!n.needs(2) || p.act == Act::hardswish, names[static_cast<int>(p.act)],
        ": the third derivative is not available; compose the activation from exp, log, erf, … to get it");
  return d;
}

const Rule bwd_rule{"activation_bwd", vjp_act_bwd, 3};
const Rule bwd2_rule{"activation_bwd2", vjp_act_bwd2, 7};

const Rule& act_rule(Act a) {
  static const auto* rules = [] {
    auto* r = new std::vector<Rule>;
    for (int i = 0; i < static_cast<int>(Act::count); ++i) {
      bool output = act_bwd_uses_output(static_cast<Act>(i));
      r->push_back({names[i], vjp_act, output ? 0u : 1u, output ? 1u : 0u});
    }
    return r;
  }();
  return (*rules)[static_cast<size_t>(a)];
}

Tensor emit_bwd(const ActParams& p, const Tensor& dy, const Tensor& r) {
  return emit1(bwd_rule, OpKind::activation_bwd, p, {contiguous(dy), contiguous(r)}, {r.shape(), r.dtype()});
}
Tensor emit_bwd2(const ActParams& p, const Tensor& g, const Tensor& dy, const Tensor& r) {
  return emit1(bwd2_rule, OpKind::activation_bwd2, p, {contiguous(g), contiguous(dy), contiguous(r)},
               {r.shape(), r.dtype()});
}

Tensor act(Act a, const Tensor& x, double alpha = 0, double beta = 0) {
  return activation(x, ActParams{a, 0, alpha, beta});
}

// ---- softmax ----

std::vector<Tensor> vjp_softmax(TapeNode& n, const std::vector<Tensor>& g);
std::vector<Tensor> vjp_softmax_bwd(TapeNode& n, const std::vector<Tensor>& g);
std::vector<Tensor> vjp_log_softmax_bwd(TapeNode& n, const std::vector<Tensor>& g);
const Rule softmax_rule{"softmax", vjp_softmax, 0, 1};
const Rule log_softmax_rule{"log_softmax", vjp_softmax, 0, 1};
const Rule softmax_bwd_rule{"softmax_bwd", vjp_softmax_bwd, 3};
const Rule log_softmax_bwd_rule{"log_softmax_bwd", vjp_log_softmax_bwd, 3};

// The dim a softmax ran over, found again from its params: kept in the params' own terms of memory order.
struct SoftmaxTape {
  SoftmaxParams p;
  int64_t dim = 0;
};

Tensor emit_softmax_bwd(bool log, const SoftmaxTape& s, const Tensor& dy_in, const Tensor& y) {
  Tensor dy = contiguous(dy_in);
  const Rule& rule = log ? log_softmax_bwd_rule : softmax_bwd_rule;
  std::vector<Tensor> out = emit(Rule{rule.name}, log ? OpKind::log_softmax_bwd : OpKind::softmax_bwd, s.p,
                                 {dy, y}, {{y.shape(), y.dtype()}});
  record_on_tape(rule, s, {dy, y}, out);
  return std::move(out[0]);
}

std::vector<Tensor> vjp_softmax(TapeNode& n, const std::vector<Tensor>& g) {
  return {emit_softmax_bwd(n.rule == &log_softmax_rule, n.as<SoftmaxTape>(), g[0], n.output(0))};
}

std::vector<Tensor> vjp_softmax_bwd(TapeNode& n,
                                    const std::vector<Tensor>& g) {  // dy, y -> y * (dy - sum(dy*y))
  const auto& s = n.as<SoftmaxTape>();
  const std::vector<int> dim{static_cast<int>(s.dim)};
  std::vector<Tensor> d(2);
  Tensor dy = n.input(0), y = n.input(1);
  if (n.needs(0)) d[0] = emit_softmax_bwd(false, s, g[0], y);
  if (n.needs(1))
    d[1] = sub(mul(g[0], sub(dy, sum(mul(dy, y), dim, true))), mul(dy, sum(mul(g[0], y), dim, true)));
  return d;
}

std::vector<Tensor> vjp_log_softmax_bwd(TapeNode& n,
                                        const std::vector<Tensor>& g) {  // dy, y -> dy - exp(y) * sum(dy)
  const std::vector<int> dim{static_cast<int>(n.as<SoftmaxTape>().dim)};
  std::vector<Tensor> d(2);
  Tensor dy = n.input(0), prob = exp(n.input(1));
  if (n.needs(0)) d[0] = sub(g[0], sum(mul(g[0], prob), dim, true));
  if (n.needs(1)) d[1] = neg(mul(mul(g[0], prob), sum(dy, dim, true)));
  return d;
}

Tensor softmax_family(const Rule& rule, OpKind kind, const Tensor& x_in, int dim_in) {
  check_floating(rule.name, "x", x_in);
  const int nd = x_in.ndim();
  if (nd == 0) {
    check<IndexError>(dim_in == 0 || dim_in == -1, rule.name, ": expected dim -1 or 0 for a scalar, got ", dim_in);
    return reshape(softmax_family(rule, kind, reshape(x_in, {1}), 0), {});
  }
  const int dim = dim_in < 0 ? dim_in + nd : dim_in;
  check<IndexError>(dim >= 0 && dim < nd, rule.name, ": expected dim in [", -nd, ", ", nd, ") for x of shape ",
                    x_in.shape(), ", got ", dim_in);
  Tensor x = contiguous(x_in);
  // Sizes of the memory order: (N,H,W,C) for images, as numbered else.
  static const int image[4] = {0, 2, 3, 1};
  SoftmaxTape s;
  s.dim = dim;
  s.p.outer = s.p.inner = 1;
  bool after = false;
  for (int i = 0; i < nd; ++i) {
    int d = nd == 4 ? image[i] : i;
    if (d == dim) {
      s.p.dim = x.shape()[d];
      after = true;
    } else {
      (after ? s.p.inner : s.p.outer) *= x.shape()[d];
    }
  }
  std::vector<Tensor> out = emit(Rule{rule.name}, kind, s.p, {x}, {{x.shape(), x.dtype()}});
  record_on_tape(rule, s, {x}, out);
  return std::move(out[0]);
}

}  // namespace

Tensor activation(const Tensor& x, const ActParams& p) {
  check(p.act >= Act::none && p.act < Act::count, "activation: unknown activation ", static_cast<int>(p.act));
  const char* name = names[static_cast<int>(p.act)];
  if (p.act == Act::none) return x;
  if (x.defined() && !is_floating(x.dtype())) {
    if (p.act == Act::sigmoid || p.act == Act::tanh) return activation(cast(x, DType::float32), p);
    if (p.act == Act::relu && x.dtype() != DType::bool_) return clamp(x, 0, {});
  }
  check_floating(name, "x", x);
  // (N, H, W, C) as a linear layer gives it lies dense, but not in the order of images: one run needs no copy.
  if (x.ndim() == 4 && !x.is_contiguous() && x.strides() == row_major_strides(x.shape()))
    return reshape(activation(reshape(x, {-1}), p), x.shape());
  if (volume::lies_channels_last(x)) return volume::from_images(activation(volume::as_images(x), p), x);
  return emit1(act_rule(p.act), OpKind::activation, p, {contiguous(x)}, {x.shape(), x.dtype()});
}

Tensor relu(const Tensor& x) { return act(Act::relu, x); }
Tensor relu6(const Tensor& x) { return act(Act::relu6, x); }
Tensor leaky_relu(const Tensor& x, double negative_slope) { return act(Act::leaky_relu, x, negative_slope); }
Tensor elu(const Tensor& x, double alpha) { return act(Act::elu, x, alpha); }
Tensor selu(const Tensor& x) { return act(Act::selu, x); }
Tensor celu(const Tensor& x, double alpha) {
  check(alpha != 0, "celu: expected alpha other than 0");
  return act(Act::celu, x, alpha);
}
Tensor gelu(const Tensor& x, const std::string& approximate) {
  check(approximate == "none" || approximate == "tanh", "gelu: expected approximate 'none' or 'tanh', got '",
        approximate, "'");
  return act(approximate == "tanh" ? Act::gelu_tanh : Act::gelu, x);
}
Tensor silu(const Tensor& x) { return act(Act::silu, x); }
Tensor mish(const Tensor& x) { return act(Act::mish, x); }
Tensor hardswish(const Tensor& x) { return act(Act::hardswish, x); }
Tensor hardsigmoid(const Tensor& x) { return act(Act::hardsigmoid, x); }
Tensor hardtanh(const Tensor& x, double low, double high) {
  check(low <= high, "hardtanh: expected min_val <= max_val, got ", low, " and ", high);
  return act(Act::hardtanh, x, low, high);
}
Tensor sigmoid(const Tensor& x) { return act(Act::sigmoid, x); }
Tensor tanh(const Tensor& x) { return act(Act::tanh, x); }
Tensor softplus(const Tensor& x, double beta, double threshold) {
  check(beta != 0, "softplus: expected beta other than 0");
  return act(Act::softplus, x, beta, threshold);
}
Tensor softsign(const Tensor& x) { return act(Act::softsign, x); }

// He et al. 2015: x where positive, else weight * x with one weight, or one per channel.
Tensor prelu(const Tensor& x, const Tensor& weight) {
  check_floating("prelu", "x", x);
  check_floating("prelu", "weight", weight);
  const int64_t C = x.ndim() >= 2 ? x.shape()[1] : 1;
  check(weight.ndim() <= 1 && (weight.numel() == 1 || weight.numel() == C),
        "prelu: expected weight of shape (1,) or ", Dims{C}, " for x of shape ", x.shape(), ", got ",
        weight.shape());
  Tensor w = cast(weight, x.dtype());
  if (weight.numel() == 1) {
    w = reshape(w, {});
  } else {
    Dims shape(x.ndim(), 1);
    shape[1] = C;
    w = reshape(w, shape);
  }
  return where(gt(x, zeros({}, x.dtype(), x.device())), x, mul(x, w));
}

Tensor softmax(const Tensor& x, int dim) { return softmax_family(softmax_rule, OpKind::softmax, x, dim); }
Tensor log_softmax(const Tensor& x, int dim) {
  return softmax_family(log_softmax_rule, OpKind::log_softmax, x, dim);
}

}  // namespace fastcnn
