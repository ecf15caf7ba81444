// What it is: arithmetic between tensors, numbers and arrays as Python writes it; results are objects because
// NotImplemented tells Python to ask the other operand.
#include <algorithm>

#include "args.h"
#include "fastcnn/graph.h"

namespace fastcnn::bindings {
namespace {

py::object not_ours() { return py::reinterpret_borrow<py::object>(Py_NotImplemented); }

template <class F>
py::object run(F&& f) {
  return py::cast(without_gil(f));
}

}  // namespace

py::object pair_any(const py::object& a, const py::object& b, TensorTensor op, bool compares) {
  auto o = operands_from(a, b, compares);
  if (!o) return not_ours();
  return run([&] { return op(o->a, o->b); });
}

py::object add_any(const py::object& a, const py::object& b) {
  if (py::isinstance<Tensor>(a))
    if (auto n = number_from(b); n && fits_double(a.cast<Tensor>(), *n))
      return run([&, x = a.cast<Tensor>()] { return affine(beside(x, *n), 1, n->value); });
  if (py::isinstance<Tensor>(b))
    if (auto n = number_from(a); n && fits_double(b.cast<Tensor>(), *n))
      return run([&, x = b.cast<Tensor>()] { return affine(beside(x, *n), 1, n->value); });
  return pair_any(a, b, add);
}

py::object sub_any(const py::object& a, const py::object& b) {
  if (py::isinstance<Tensor>(a))
    if (auto n = number_from(b); n && fits_double(a.cast<Tensor>(), *n))
      return run([&, x = a.cast<Tensor>()] { return affine(beside(x, *n), 1, -n->value); });
  if (py::isinstance<Tensor>(b))
    if (auto n = number_from(a); n && fits_double(b.cast<Tensor>(), *n))
      return run([&, x = b.cast<Tensor>()] { return affine(beside(x, *n), -1, n->value); });
  return pair_any(a, b, sub);
}

py::object add_scaled(const char* op, const py::object& a, const py::object& b, const py::object& alpha,
                      bool minus) {
  auto n = number_from(alpha);
  if (!n) throw TypeError(concat(op, ": expected alpha as a number, got ", py::repr(alpha).cast<std::string>()));
  py::object scaled = n->value == 1 ? b : mul_any(b, alpha);
  if (!py::isinstance<Tensor>(b) && number_from(b) && n->value != 1) scaled = b * alpha;
  py::object y = minus ? sub_any(a, scaled) : add_any(a, scaled);
  if (y.ptr() == Py_NotImplemented) bad_operands(op, a, b);
  return y;
}

py::object mul_any(const py::object& a, const py::object& b) {
  if (py::isinstance<Tensor>(a))
    if (auto n = number_from(b); n && fits_double(a.cast<Tensor>(), *n))
      return run([&, x = a.cast<Tensor>()] { return affine(beside(x, *n), n->value, 0); });
  if (py::isinstance<Tensor>(b))
    if (auto n = number_from(a); n && fits_double(b.cast<Tensor>(), *n))
      return run([&, x = b.cast<Tensor>()] { return affine(beside(x, *n), n->value, 0); });
  return pair_any(a, b, mul);
}

py::object div_any(const py::object& a, const py::object& b) {
  if (py::isinstance<Tensor>(a))
    if (auto n = number_from(b)) return run([&, x = a.cast<Tensor>()] { return div_scalar(x, n->value); });
  if (py::isinstance<Tensor>(b))
    if (auto n = number_from(a)) return run([&, x = b.cast<Tensor>()] { return rdiv_scalar(n->value, x); });
  return pair_any(a, b, div);
}

py::object pow_any(const py::object& a, const py::object& b) {
  if (py::isinstance<Tensor>(a))
    if (auto n = number_from(b)) {
      Tensor x = a.cast<Tensor>();
      if (is_floating(x.dtype()) || n->is_float) return run([&] { return pow_scalar(beside(x, *n), n->value); });
      check(n->value >= 0, "pow: integers cannot be raised to the negative power ", n->value,
            "; cast to float32 first");
      return run([&] { return pow(x, number_like(x, *n)); });
    }
  if (py::isinstance<Tensor>(b))
    if (auto n = number_from(a)) {
      Tensor x = b.cast<Tensor>();
      if (is_floating(x.dtype()) || n->is_float) return run([&] { return rpow_scalar(n->value, beside(x, *n)); });
    }
  return pair_any(a, b, pow);
}

Tensor matmul_any(const py::object& a, const py::object& b) {
  auto x = tensor_from(a), y = tensor_from(b);
  if (!x || !y) bad_operands("matmul", a, b);
  return without_gil([&] { return matmul(*x, *y); });
}

Tensor clamp_any(const Tensor& x, const py::object& low, const py::object& high) {
  check(!low.is_none() || !high.is_none(), "clamp: expected at least one of min and max");
  std::optional<Number> l, h;
  if (!low.is_none()) l = number_from(low);
  if (!high.is_none()) h = number_from(high);
  bool numbers = (low.is_none() || l) && (high.is_none() || h);
  if (numbers) {
    Tensor y = beside(x, Number{0, (l && l->is_float) || (h && h->is_float)});
    return without_gil([&] {
      return clamp(y, l ? std::optional<double>(l->value) : std::nullopt,
                   h ? std::optional<double>(h->value) : std::nullopt);
    });
  }
  Tensor y = x;  // bounds that are tensors; x at a bound has the whole gradient, where maximum would share it
  for (auto [bound, fits] :
       {std::pair{&low, static_cast<TensorTensor>(ge)}, std::pair{&high, static_cast<TensorTensor>(le)}}) {
    if (bound->is_none()) continue;
    auto o = operands_from(py::cast(y), *bound);
    if (!o) bad_operands("clamp", py::cast(y), *bound);
    y = without_gil([&, fits = fits] {
      return where(logical_or(fits(o->a, o->b), isnan(o->a)), o->a, o->b);  // NaN of either stays
    });
  }
  return y;
}

Tensor reshape_args(const Tensor& x, const py::args& args) {
  Dims shape = shape_args("reshape", args);
  return without_gil([&] { return reshape(x, shape); });
}

py::object split_any(const Tensor& x, const py::object& sizes, int dim) {
  std::vector<Tensor> parts;
  if (is_sequence(sizes)) {
    std::vector<int64_t> n;
    n = int_list("split", sizes);
    parts = split(x, n, dim);
  } else {
    parts = split(x, int_from("split", sizes), dim);
  }
  return py::tuple(py::cast(parts));
}

py::object max_any(const Tensor& x, const py::object& dim, bool keepdim, bool largest) {
  if (dim.is_none()) return run([&] { return largest ? amax(x) : amin(x); });
  if (py::isinstance<Tensor>(dim)) return pair_any(py::cast(x), dim, largest ? maximum : minimum);
  int d = dim.cast<int>();
  Tensor values, indices;
  {
    py::gil_scoped_release release;
    indices = largest ? argmax(x, d, true) : argmin(x, d, true);
    values = x.ndim() == 0 ? x : gather(x, d, indices);  // the gradient goes to the one element taken
    if (!keepdim && x.ndim() > 0) {
      indices = squeeze(indices, d);
      values = squeeze(values, d);
    }
  }
  static py::handle tuple_type = py::module_::import("collections")
                                     .attr("namedtuple")("Extreme", py::make_tuple("values", "indices"))
                                     .release();
  return tuple_type(values, indices);
}

namespace {
Tensor spread_any(const char* op, Tensor (*of)(const Tensor&, const std::vector<int>&, double, bool),
                  const Tensor& x, const py::object& dim, std::optional<double> correction, bool keepdim,
                  std::optional<bool> unbiased) {
  check<TypeError>(!correction || !unbiased, op, ": expected correction or unbiased, got both");
  double c = correction.value_or(unbiased.value_or(true) ? 1 : 0);
  std::vector<int> dims = dim_list(op, dim);
  return without_gil([&] { return of(x, dims, c, keepdim); });
}
}  // namespace

Tensor var_any(const Tensor& x, const py::object& dim, std::optional<double> correction, bool keepdim,
               std::optional<bool> unbiased) {
  return spread_any("var", var, x, dim, correction, keepdim, unbiased);
}
Tensor std_any(const Tensor& x, const py::object& dim, std::optional<double> correction, bool keepdim,
               std::optional<bool> unbiased) {
  return spread_any("std", deviation, x, dim, correction, keepdim, unbiased);
}

Tensor squeeze_any(const Tensor& x, const py::object& dim) {
  if (dim.is_none()) return squeeze(x);
  std::vector<int> dims = dim_list("squeeze", dim);
  for (int& d : dims) {
    int n = std::max(x.ndim(), 1);
    check<IndexError>(d >= -n && d < n, "squeeze: expected a dim in [", -n, ", ", n, ") for shape ", x.shape(),
                      ", got ", d);
    if (d < 0) d += n;
  }
  std::sort(dims.rbegin(), dims.rend());  // from the back, so that earlier dims keep their places
  Tensor y = x;
  for (int d : dims) y = squeeze(y, d);
  return y;
}

}  // namespace fastcnn::bindings
