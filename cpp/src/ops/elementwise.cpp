// What it is: elementwise ops with broadcasting, casts, copies, in-place updates, and their gradient rules.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>

#include "core/memory_ranges.h"
#include "fastcnn/ops.h"
#include "graph/emit.h"
#include "graph/select.h"
#include "graph/trace.h"
#include "ops/operands.h"
#include "ops/promote.h"
#include "ops/volume.h"

namespace fastcnn {
namespace {

Dims broadcast_shapes(const char* op, const Dims& a, const Dims& b) {
  Dims out(std::max(a.size(), b.size()), 1);
  for (int i = 0; i < out.size(); ++i) {
    int64_t x = i < out.size() - a.size() ? 1 : a[i - (out.size() - a.size())];
    int64_t y = i < out.size() - b.size() ? 1 : b[i - (out.size() - b.size())];
    check(x == y || x == 1 || y == 1, op, ": shapes ", a, " and ", b, " do not broadcast");
    out[i] = x == 1 ? y : x;
  }
  return out;
}

// Strides of 0 along broadcast dims, without a tape entry: rules undo broadcasts with sum_to.
Tensor broadcast_view(const Tensor& x, const Dims& shape) {
  if (x.shape() == shape) return x.detach();
  Dims strides(shape.size(), 0);
  int lead = shape.size() - x.ndim();
  for (int i = 0; i < x.ndim(); ++i) strides[lead + i] = x.shape()[i] == 1 ? 0 : x.strides()[i];
  return noted_view("expand", Params(), x, shape, strides, x.offset());
}

// The tape must see the operands themselves, the kernel their broadcast views.
Tensor emit_broadcast(const Rule& rule, OpKind kind, const Params& params, const std::vector<Tensor>& operands,
                      const Dims& shape, DType dtype) {
  std::vector<Tensor> views;
  for (const Tensor& t : operands) views.push_back(broadcast_view(t, shape));
  Rule untaped{rule.name};
  std::vector<Tensor> out = emit(untaped, kind, params, views, {{shape, dtype}});
  if (rule.vjp) record_on_tape(rule, params, operands, out);
  return std::move(out[0]);
}

const Rule& binary_rule(Binary op);

Tensor binary(const char* name, Binary op, Tensor a, Tensor b) {
  bool compares = op >= Binary::eq && op <= Binary::logical_xor;
  DType t = promote(a, b);
  // An integer that stands alone must not wrap around in the narrow type that it is compared with.
  if (compares && !is_floating(t)) t = promote(a.dtype(), b.dtype());
  if (t == DType::bool_ && op == Binary::add) return logical_or(a, b);
  if (op == Binary::div && !is_floating(t)) t = DType::float32;
  if (t == DType::bool_ && !compares && op != Binary::maximum && op != Binary::minimum && op != Binary::mul)
    t = DType::int64;
  a = cast(a, t);
  b = cast(b, t);
  Dims shape = broadcast_shapes(name, a.shape(), b.shape());
  if (a.shape() == b.shape() && volume::lies_channels_last(a) && volume::lies_channels_last(b))
    return volume::from_images(binary(name, op, volume::as_images(a), volume::as_images(b)), a);
  if (compares) return emit_broadcast(Rule{name}, OpKind::binary, BinaryParams{op}, {a, b}, shape, DType::bool_);
  return emit_broadcast(binary_rule(op), OpKind::binary, BinaryParams{op}, {a, b}, shape, t);
}

std::vector<Tensor> vjp_add(TapeNode& n, const std::vector<Tensor>& g) {
  return {n.needs(0) ? sum_to(g[0], n.inputs[0].shape) : Tensor(),
          n.needs(1) ? sum_to(g[0], n.inputs[1].shape) : Tensor()};
}
std::vector<Tensor> vjp_sub(TapeNode& n, const std::vector<Tensor>& g) {
  return {n.needs(0) ? sum_to(g[0], n.inputs[0].shape) : Tensor(),
          n.needs(1) ? neg(sum_to(g[0], n.inputs[1].shape)) : Tensor()};
}
std::vector<Tensor> vjp_mul(TapeNode& n, const std::vector<Tensor>& g) {
  return {n.needs(0) ? sum_to(mul(g[0], n.input(1)), n.inputs[0].shape) : Tensor(),
          n.needs(1) ? sum_to(mul(g[0], n.input(0)), n.inputs[1].shape) : Tensor()};
}
std::vector<Tensor> vjp_div(TapeNode& n, const std::vector<Tensor>& g) {
  Tensor a = n.input(0), b = n.input(1), ga = div(g[0], b);
  return {n.needs(0) ? sum_to(ga, n.inputs[0].shape) : Tensor(),
          n.needs(1) ? neg(sum_to(mul(ga, div(a, b)), n.inputs[1].shape)) : Tensor()};
}
std::vector<Tensor> vjp_pow(TapeNode& n, const std::vector<Tensor>& g) {
  Tensor a = n.input(0), b = n.input(1);
  std::vector<Tensor> r(2);
  if (n.needs(0)) {
    // b == 0 gives 0, also where a is 0 and a^(b-1) is infinite.
    Tensor d = where(eq(b, zeros({}, b.dtype(), b.device())), zeros({}, a.dtype(), a.device()),
                     mul(b, pow(a, affine(b, 1, -1))));
    r[0] = sum_to(mul(g[0], d), n.inputs[0].shape);
  }
  if (n.needs(1)) {
    Tensor zero = zeros({}, a.dtype(), a.device());
    Tensor d = where(logical_and(eq(a, zero), ge(b, zero)), zero, mul(pow(a, b), log(a)));
    r[1] = sum_to(mul(g[0], d), n.inputs[1].shape);
  }
  return r;
}
// Ties share the gradient, as PyTorch does.
std::vector<Tensor> vjp_extremum(TapeNode& n, const std::vector<Tensor>& g) {
  Tensor a = n.input(0), b = n.input(1);
  bool is_max = n.as<BinaryParams>().op == Binary::maximum;
  Tensor half = affine(cast(eq(a, b), a.dtype()), 0.5, 0);
  std::vector<Tensor> r(2);
  for (int i = 0; i < 2; ++i) {
    if (!n.needs(i)) continue;
    Tensor wins = (i == 0) == is_max ? gt(a, b) : lt(a, b);
    r[i] = sum_to(mul(g[0], add(cast(wins, a.dtype()), half)), n.inputs[i].shape);
  }
  return r;
}
std::vector<Tensor> vjp_mod(TapeNode& n, const std::vector<Tensor>& g) {
  std::vector<Tensor> r(2);
  if (n.needs(0)) r[0] = sum_to(g[0], n.inputs[0].shape);
  if (n.needs(1)) r[1] = neg(sum_to(mul(g[0], floor_divide(n.input(0), n.input(1)).detach()), n.inputs[1].shape));
  return r;
}

const Rule& binary_rule(Binary op) {
  static const Rule rules[] = {{"add", vjp_add},
                               {"sub", vjp_sub},
                               {"mul", vjp_mul, 3},
                               {"div", vjp_div, 3},
                               {"pow", vjp_pow, 3},
                               {"maximum", vjp_extremum, 3},
                               {"minimum", vjp_extremum, 3},
                               {"remainder", vjp_mod, 3}};
  static const Rule none{"floor_divide"};
  return op <= Binary::mod ? rules[static_cast<int>(op)] : none;
}

std::vector<Tensor> vjp_where(TapeNode& n, const std::vector<Tensor>& g) {
  Tensor zero = zeros({}, g[0].dtype(), g[0].device());
  Tensor c = n.input(0);
  return {Tensor(), n.needs(1) ? sum_to(where(c, g[0], zero), n.inputs[1].shape) : Tensor(),
          n.needs(2) ? sum_to(where(c, zero, g[0]), n.inputs[2].shape) : Tensor()};
}
const Rule where_rule{"where", vjp_where, 1};

// ---- one input ----

Tensor derivative(TapeNode& n, const Tensor& g) {
  const UnaryParams& p = n.as<UnaryParams>();
  double a = p.alpha;
  auto x = [&] { return n.input(0); };
  auto y = [&] { return n.output(0); };
  switch (p.op) {
    case Unary::affine: return affine(g, a, 0);
    case Unary::rdiv: return affine(div(g, square(x())), -a, 0);
    case Unary::pow: return a == 0 ? affine(g, 0, 0) : mul(g, affine(pow_scalar(x(), a - 1), a, 0));
    case Unary::rpow: return mul(g, affine(y(), std::log(a), 0));
    case Unary::clamp: {
      UnaryParams m = p;
      m.op = Unary::clamp_mask;
      static const Rule mask_rule{"clamp_mask"};
      Tensor in = x();
      return mul(g, emit1(mask_rule, OpKind::unary, m, {in.detach()}, {in.shape(), in.dtype()}));
    }
    case Unary::abs: return mul(g, sign(x()));
    case Unary::exp: return mul(g, y());
    case Unary::expm1: return mul(g, affine(y(), 1, 1));
    case Unary::log: return div(g, x());
    case Unary::log1p: return div(g, affine(x(), 1, 1));
    case Unary::log2: return affine(div(g, x()), 1 / std::log(2.0), 0);
    case Unary::sqrt: return affine(div(g, y()), 0.5, 0);
    case Unary::rsqrt: return affine(mul(g, mul(y(), square(y()))), -0.5, 0);
    case Unary::square: return mul(g, affine(x(), 2, 0));
    case Unary::reciprocal: return neg(mul(g, square(y())));
    case Unary::sin: return mul(g, cos(x()));
    case Unary::cos: return neg(mul(g, sin(x())));
    case Unary::erf: return mul(g, affine(exp(neg(square(x()))), 1.1283791670955126, 0));
    case Unary::atan: return div(g, affine(square(x()), 1, 1));
    default: return affine(g, 0, 0);  // sign, floor, ceil, round: flat
  }
}

std::vector<Tensor> vjp_unary(TapeNode& n, const std::vector<Tensor>& g) { return {derivative(n, g[0])}; }
std::vector<Tensor> vjp_copy(TapeNode& n, const std::vector<Tensor>& g) { return {cast(g[0], n.inputs[0].dtype)}; }

const Rule copy_rule{"copy", vjp_copy};

std::vector<Tensor> vjp_to_device(TapeNode& n, const std::vector<Tensor>& g) {
  return {to_device(g[0], n.inputs[0].device)};
}
const Rule to_device_rule{"to", vjp_to_device};

bool needs_input(Unary op) {
  switch (op) {
    case Unary::affine:
    case Unary::rpow:
    case Unary::exp:
    case Unary::expm1:
    case Unary::sqrt:
    case Unary::rsqrt:
    case Unary::reciprocal:
    case Unary::sign:
    case Unary::floor:
    case Unary::ceil:
    case Unary::round: return false;
    default: return true;
  }
}
bool needs_output(Unary op) {
  return op == Unary::rpow || op == Unary::exp || op == Unary::expm1 || op == Unary::sqrt || op == Unary::rsqrt ||
         op == Unary::reciprocal;
}

// Rules live as long as the program: tape nodes keep their address.
const Rule& unary_rule(Unary op) {
  static const char* const names[] = {"copy",  "affine", "rdiv",  "pow",   "pow",  "clamp", "abs",    "exp",
                                      "expm1", "log",    "log1p", "log2",  "sqrt", "rsqrt", "square", "reciprocal",
                                      "sign",  "floor",  "ceil",  "round", "sin",  "cos",   "erf",    "atan"};
  static const auto* rules = [] {
    auto* r = new std::vector<Rule>;
    for (int i = 0; i <= static_cast<int>(Unary::atan); ++i)
      r->push_back({names[i], vjp_unary, needs_input(Unary(i)) ? 1u : 0u, needs_output(Unary(i)) ? 1u : 0u});
    return r;
  }();
  return (*rules)[static_cast<int>(op)];
}

Tensor unary(Unary op, const Tensor& x, double alpha = 0, double beta = 0, bool integers_too = false) {
  const Rule& rule = unary_rule(op);
  Tensor in = x;
  if (!is_floating(x.dtype()) && !integers_too) in = cast(x, DType::float32);
  if (volume::lies_channels_last(in))
    return volume::from_images(unary(op, volume::as_images(in), alpha, beta, integers_too), in);
  return emit1(rule, OpKind::unary, UnaryParams{op, 0, alpha, beta}, {in}, {in.shape(), in.dtype()});
}

// Integers are whole already.
Tensor rounded(Unary op, const Tensor& x) { return is_floating(x.dtype()) ? unary(op, x) : clone(x); }

Tensor predicate(const char* name, Unary op, const Tensor& x) {
  return emit1(Rule{name}, OpKind::unary, UnaryParams{op}, {x.detach()}, {x.shape(), DType::bool_});
}

bool integral(double v) { return v == static_cast<double>(static_cast<int64_t>(v)); }

void check_in_place(const char* op, const Tensor& dst) {
  check(!dst.impl()->storage->readonly, op, ": the tensor of shape ", dst.shape(),
        " is a view of read-only memory; clone() it first");
  check(!(grad_enabled() && dst.requires_grad()), op,
        ": a tensor that requires gradients cannot be changed in place; do it under no_grad");
}

// One value for several elements would be the last one written, or be added to several times.
void check_own_elements(const char* op, const Tensor& dst) {
  check(!dst.overlaps(), op, ": elements of the tensor of shape ", dst.shape(),
        " share memory (it is expanded); clone() it first");
}

// src as an operand of an update of dst, which has its shape: a copy where it is other elements of the same
// memory, for those that are read late would be new ones already.
Tensor operand_of_update(const Tensor& src, const Tensor& dst) {
  const bool one_storage = src.impl()->storage == dst.impl()->storage;
  if (!one_storage && (src.is_symbolic() || dst.is_symbolic())) return src;
  const MemoryRange from = range_of(src), to = range_of(dst);
  const bool same_places = from.begin == to.begin && src.strides() == dst.strides();
  return from.meets(to) && !same_places ? clone(src) : src;
}

void write(const Tensor& dst, const Tensor& src) {
  Dims shape = broadcast_shapes("copy_", dst.shape(), src.shape());
  check(shape == dst.shape(), "copy_: shape ", src.shape(), " does not broadcast into ", dst.shape());
  const Tensor from = operand_of_update(broadcast_view(src.detach(), shape), dst);
  emit_into(OpKind::unary, UnaryParams{Unary::copy}, {from}, {dst.detach()});
}

void binary_in_place(const char* name, Binary op, const Tensor& dst, const Tensor& src) {
  check_in_place(name, dst);
  check_own_elements(name, dst);
  check(!(grad_enabled() && src.requires_grad()), name,
        ": gradients do not flow through in-place ops; use the form "
        "without underscore, or no_grad");
  Dims shape = broadcast_shapes(name, dst.shape(), src.shape());
  check(shape == dst.shape(), name, ": shape ", src.shape(), " does not broadcast into ", dst.shape());
  Tensor d = dst.detach();
  if (!d.is_contiguous()) {  // kernels write dense tensors: compute beside and copy back
    copy_(d, binary(name, op, d, src));
    return;
  }
  const Tensor from = operand_of_update(broadcast_view(cast(src.detach(), dst.dtype()), shape), d);
  emit_into(OpKind::binary, BinaryParams{op}, {d, from}, {d});
}

}  // namespace

Tensor add(const Tensor& a, const Tensor& b) { return binary("add", Binary::add, a, b); }
Tensor sub(const Tensor& a, const Tensor& b) { return binary("sub", Binary::sub, a, b); }
Tensor mul(const Tensor& a, const Tensor& b) { return binary("mul", Binary::mul, a, b); }
Tensor div(const Tensor& a, const Tensor& b) { return binary("div", Binary::div, a, b); }
Tensor pow(const Tensor& a, const Tensor& b) { return binary("pow", Binary::pow, a, b); }
Tensor maximum(const Tensor& a, const Tensor& b) { return binary("maximum", Binary::maximum, a, b); }
Tensor minimum(const Tensor& a, const Tensor& b) { return binary("minimum", Binary::minimum, a, b); }
Tensor remainder(const Tensor& a, const Tensor& b) { return binary("remainder", Binary::mod, a, b); }
Tensor floor_divide(const Tensor& a, const Tensor& b) { return binary("floor_divide", Binary::floor_div, a, b); }
Tensor eq(const Tensor& a, const Tensor& b) { return binary("eq", Binary::eq, a, b); }
Tensor ne(const Tensor& a, const Tensor& b) { return binary("ne", Binary::ne, a, b); }
Tensor lt(const Tensor& a, const Tensor& b) { return binary("lt", Binary::lt, a, b); }
Tensor le(const Tensor& a, const Tensor& b) { return binary("le", Binary::le, a, b); }
Tensor gt(const Tensor& a, const Tensor& b) { return binary("gt", Binary::gt, a, b); }
Tensor ge(const Tensor& a, const Tensor& b) { return binary("ge", Binary::ge, a, b); }
Tensor logical_and(const Tensor& a, const Tensor& b) { return binary("logical_and", Binary::logical_and, a, b); }
Tensor logical_or(const Tensor& a, const Tensor& b) { return binary("logical_or", Binary::logical_or, a, b); }
Tensor logical_xor(const Tensor& a, const Tensor& b) { return binary("logical_xor", Binary::logical_xor, a, b); }
Tensor logical_not(const Tensor& x) { return predicate("logical_not", Unary::logical_not, x); }
Tensor isnan(const Tensor& x) { return predicate("isnan", Unary::isnan, x); }
Tensor isinf(const Tensor& x) { return predicate("isinf", Unary::isinf, x); }
Tensor isfinite(const Tensor& x) { return predicate("isfinite", Unary::isfinite, x); }

Tensor where(const Tensor& condition, const Tensor& a, const Tensor& b) {
  check<TypeError>(condition.dtype() == DType::bool_, "where: expected a bool condition, got ", condition.dtype());
  DType t = promote(a, b);
  Tensor x = cast(a, t), y = cast(b, t);
  Dims shape = broadcast_shapes("where", broadcast_shapes("where", condition.shape(), x.shape()), y.shape());
  return emit_broadcast(where_rule, OpKind::where, FillParams{}, {condition, x, y}, shape, t);
}

Tensor affine(const Tensor& x, double alpha, double beta) {
  if (x.dtype() == DType::bool_) return affine(cast(x, DType::int64), alpha, beta);
  return unary(Unary::affine, x, alpha, beta, integral(alpha) && integral(beta));
}
Tensor neg(const Tensor& x) { return affine(x, -1, 0); }
Tensor pow_scalar(const Tensor& x, double e) {
  if (e == 2) return square(x);
  if (e == 0.5) return sqrt(x);
  if (e == 1) return affine(x, 1, 0);
  return unary(Unary::pow, x, e);
}
Tensor rpow_scalar(double base, const Tensor& x) {
  if (base != 0) return unary(Unary::rpow, x, base);
  Tensor e = is_floating(x.dtype()) ? x : cast(x, DType::float32);  // log(0) is no slope: pow's rule knows
  return pow(full({}, base, e.dtype(), e.device()), e);
}
Tensor rdiv_scalar(double numerator, const Tensor& x) { return unary(Unary::rdiv, x, numerator); }
Tensor div_scalar(const Tensor& x, double divisor) {
  // Dividing by a power of two is multiplying exactly; else rounding asks for a division. Traces hold one form: an
  // exported file divides by batch sizes of any kind.
  if (is_floating(x.dtype()) && dtype_size(x.dtype()) == 2)  // which may not hold the divisor
    return cast(div(cast(x, DType::float32), full({}, divisor, DType::float32, x.device())), x.dtype());
  int exponent = 0;
  if (!current_trace() && is_floating(x.dtype()) && std::frexp(divisor, &exponent) == 0.5 &&
      std::abs(exponent) < 100)
    return affine(x, 1 / divisor, 0);
  return div(x, full({}, divisor, is_floating(x.dtype()) ? x.dtype() : DType::float32, x.device()));
}
Tensor clamp(const Tensor& x, std::optional<double> low, std::optional<double> high) {
  check(low || high, "clamp: expected at least one of min and max");
  constexpr double inf = std::numeric_limits<double>::infinity();
  if (std::isnan(low.value_or(0)) || std::isnan(high.value_or(0))) return unary(Unary::affine, x, 0, NAN);
  if (x.dtype() == DType::bool_) return clamp(cast(x, DType::int64), low, high);
  return unary(Unary::clamp, x, low.value_or(-inf), high.value_or(inf),
               integral(low.value_or(0)) && integral(high.value_or(0)));
}
Tensor abs(const Tensor& x) { return unary(Unary::abs, x, 0, 0, true); }
Tensor exp(const Tensor& x) { return unary(Unary::exp, x); }
Tensor expm1(const Tensor& x) { return unary(Unary::expm1, x); }
Tensor log(const Tensor& x) { return unary(Unary::log, x); }
Tensor log1p(const Tensor& x) { return unary(Unary::log1p, x); }
Tensor log2(const Tensor& x) { return unary(Unary::log2, x); }
Tensor sqrt(const Tensor& x) { return unary(Unary::sqrt, x); }
Tensor rsqrt(const Tensor& x) { return unary(Unary::rsqrt, x); }
Tensor square(const Tensor& x) {
  if (x.dtype() == DType::bool_) return cast(x, DType::int64);
  return unary(Unary::square, x, 0, 0, true);
}
Tensor reciprocal(const Tensor& x) { return unary(Unary::reciprocal, x); }
Tensor sign(const Tensor& x) { return unary(Unary::sign, x, 0, 0, true); }
Tensor floor(const Tensor& x) { return rounded(Unary::floor, x); }
Tensor ceil(const Tensor& x) { return rounded(Unary::ceil, x); }
Tensor round(const Tensor& x) { return rounded(Unary::round, x); }
Tensor sin(const Tensor& x) { return unary(Unary::sin, x); }
Tensor cos(const Tensor& x) { return unary(Unary::cos, x); }
Tensor erf(const Tensor& x) { return unary(Unary::erf, x); }
Tensor atan(const Tensor& x) { return unary(Unary::atan, x); }

Tensor cast(const Tensor& x, DType dtype) {
  if (x.dtype() == dtype) return x;
  return emit1(copy_rule, OpKind::unary, UnaryParams{Unary::copy}, {x}, {x.shape(), dtype});
}
Tensor clone(const Tensor& x) {
  return emit1(copy_rule, OpKind::unary, UnaryParams{Unary::copy}, {x}, {x.shape(), x.dtype()});
}
Tensor contiguous(const Tensor& x) { return x.is_contiguous() ? x : clone(x); }

Tensor to_device(const Tensor& x, Device device) {
  if (x.device() == device) return x;
  check(!current_trace(), "to: compile cannot record a copy from ", x.device(), " to ", device,
        "; move it out of the compiled function");
  const Tensor from = contiguous(x.detach());
  const size_t bytes = static_cast<size_t>(x.numel()) * dtype_size(x.dtype());
  std::vector<Tensor> out;
  if (device.type == DeviceType::cuda) {
    backend_of(device);  // an error where there is none
    out.push_back(make_tensor(upload_storage(from.data(), bytes, device), x.shape(), canonical_strides(x.shape()),
                              0, x.dtype()));
  } else {
    out.push_back(empty(x.shape(), x.dtype(), device));
    backend_of(x.device()).copy(out[0].data(), from.data(), bytes, Copy::out);
  }
  record_on_tape(to_device_rule, UnaryParams{}, {x}, out);
  return std::move(out[0]);
}
Tensor constant(const Tensor& x, Device device) {
  check(!x.is_symbolic(), "constant: expected values that are there, got a result of shape ", x.shape(),
        " of the function that is being compiled");
  TraceScope outside(nullptr);
  const Tensor values = x.detach();
  return (x.device() == device ? clone(values) : to_device(values, device)).detach();
}

void copy_(const Tensor& dst, const Tensor& src) {
  check_in_place("copy_", dst);
  check_own_elements("copy_", dst);
  write(dst, src);
}
void fill_(const Tensor& dst, double value) {
  check_in_place("fill_", dst);
  check(fits(value, dst.dtype()), "fill_: the value ", value, " does not fit into ", dst.dtype());
  if (dst.is_contiguous())
    emit_into(OpKind::fill, FillParams{value}, {}, {dst.detach()});
  else
    write(dst, full({}, value, dst.dtype(), dst.device()));
}
void add_(const Tensor& dst, const Tensor& src) { binary_in_place("add_", Binary::add, dst, src); }
void sub_(const Tensor& dst, const Tensor& src) { binary_in_place("sub_", Binary::sub, dst, src); }
void mul_(const Tensor& dst, const Tensor& src) { binary_in_place("mul_", Binary::mul, dst, src); }
void affine_(const Tensor& dst, double alpha, double beta) {
  check_in_place("affine_", dst);
  check_own_elements("affine_", dst);
  Tensor d = dst.detach();
  if (!d.is_contiguous()) return copy_(d, affine(d, alpha, beta));
  emit_into(OpKind::unary, UnaryParams{Unary::affine, 0, alpha, beta}, {d}, {d});
}

}  // namespace fastcnn
