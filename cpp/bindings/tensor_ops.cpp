// What it is: operators and methods of Tensor; indexing is indexing.cpp. Conversion only: each calls the op of its
// name.
#include "args.h"
#include "fastcnn/autograd.h"
#include "fastcnn/graph.h"

namespace fastcnn::bindings {
namespace {

using Unary = Tensor (*)(const Tensor&);
using Reduce = Tensor (*)(const Tensor&, const std::vector<int>&, bool);

void def_unary(TensorClass& c, const char* name, Unary op) {
  c.def(name, [op](const Tensor& x) { return op(x); }, NoGil());
}

void def_reduce(TensorClass& c, const char* name, Reduce op, const char* doc) {
  c.def(
      name,
      [name, op](const Tensor& x, const py::object& dim, bool keepdim) {
        std::vector<int> dims = dim_list(name, dim);
        return without_gil([&] { return op(x, dims, keepdim); });
      },
      py::arg("dim") = py::none(), py::arg("keepdim") = false, doc);
}

// Sums, means and products may be asked for in another dtype.
void def_accumulate(TensorClass& c, const char* name, Reduce op, const char* doc) {
  c.def(
      name,
      [name, op](const Tensor& x, const py::object& dim, bool keepdim, const py::object& dtype) {
        std::vector<int> dims = dim_list(name, dim);
        const DType t = dtype_or(dtype, x.dtype());
        const bool asked = !dtype.is_none();
        return without_gil([&] {
          Tensor y = op(cast(x, t), dims, keepdim);
          return asked ? cast(y, t) : y;
        });
      },
      py::arg("dim") = py::none(), py::arg("keepdim") = false, py::kw_only(), py::arg("dtype") = py::none(), doc);
}

using Any = py::object (*)(const py::object&, const py::object&);

void def_arithmetic(TensorClass& c, const char* method, const char* left, const char* right, Any op) {
  c.def(left, [op](const py::object& a, const py::object& b) { return op(a, b); }, py::is_operator());
  c.def(right, [op](const py::object& a, const py::object& b) { return op(b, a); }, py::is_operator());
  if (!method) return;
  c.def(
      method,
      [method, op](const py::object& a, const py::object& b) {
        py::object y = op(a, b);
        if (y.ptr() == Py_NotImplemented) bad_operands(method, a, b);
        return y;
      },
      py::arg("other"));
}

template <TensorTensor op>
py::object pairwise(const py::object& a, const py::object& b) {
  return pair_any(a, b, op);
}

void def_compare(TensorClass& c, const char* method, const char* name, TensorTensor op) {
  c.def(
      name, [op](const py::object& a, const py::object& b) { return pair_any(a, b, op, true); },
      py::is_operator());
  c.def(
      method,
      [method, op](const py::object& a, const py::object& b) {
        py::object y = pair_any(a, b, op, true);
        if (y.ptr() == Py_NotImplemented) bad_operands(method, a, b);
        return y;
      },
      py::arg("other"));
}

// bool tensors only: bits of integers are not an op of this library.
template <TensorTensor op>
py::object logical(const py::object& a, const py::object& b) {
  auto o = operands_from(a, b);
  if (!o) return py::reinterpret_borrow<py::object>(Py_NotImplemented);
  check<TypeError>(o->a.dtype() == DType::bool_ && o->b.dtype() == DType::bool_,
                   "&, |, ^: expected bool tensors, got ", o->a.dtype(), " and ", o->b.dtype());
  return py::cast(without_gil([&] { return op(o->a, o->b); }));
}

// The Python object `self` becomes t, which has history: `out += shortcut` in a model works, and whoever holds the
// object sees it. Memory stays as it is.
py::object become(const char* name, const py::object& self, const Tensor& t) {
  Tensor& x = self.cast<Tensor&>();
  check(!(x.is_leaf() && x.requires_grad()), name,
        ": a leaf that requires gradients cannot be changed in place; do it under no_grad");
  check(!is_tracing() || x.is_symbolic(), name,
        ": a compiled function cannot change a tensor from outside, of shape ", x.shape(),
        ", into a sum with gradients; use the plain operator, or .detach() what is added");
  check(!x.is_part(), name, ": x of shape ", x.shape(),
        " is a part of another tensor, which gradients do not flow through; use the plain operator, or no_grad");
  check(t.shape() == x.shape() && is_floating(t.dtype()) == is_floating(x.dtype()), name, ": the result of shape ",
        t.shape(), " and ", t.dtype(), " does not fit in place of ", x.shape(), " and ", x.dtype());
  x = cast(t, x.dtype());
  return self;
}

// x += y: the memory of x changes, unless history is being kept.
void def_in_place(TensorClass& c, const char* name, Any op, void (*in_place)(const Tensor&, const Tensor&)) {
  c.def(
      name,
      [name, op, in_place](const py::object& self, const py::object& other) -> py::object {
        Tensor x = self.cast<Tensor>();
        bool history =
            is_grad_enabled() &&
            (x.requires_grad() || (py::isinstance<Tensor>(other) && other.cast<Tensor>().requires_grad()));
        if (history) {
          py::object y = op(self, other);
          return y.ptr() == Py_NotImplemented ? y : become(name, self, y.cast<Tensor>());
        }
        auto o = operands_from(self, other);
        if (!o) return py::reinterpret_borrow<py::object>(Py_NotImplemented);
        check<TypeError>(is_floating(x.dtype()) || !is_floating(o->b.dtype()), name, ": a ", o->b.dtype(),
                         " result does not fit into a tensor of ", x.dtype());
        without_gil([&] { in_place(x, o->b); });
        return self;
      },
      py::is_operator());
}

void div_into(const Tensor& x, const Tensor& y) {
  check<TypeError>(is_floating(x.dtype()), "div_: expected a floating tensor, got ", x.dtype());
  check(!(is_grad_enabled() && x.requires_grad()),
        "div_: a tensor that requires gradients cannot be changed in place; do "
        "it under no_grad");
  NoGrad off;
  Tensor q = div(x, y);
  check(q.shape() == x.shape(), "div_: shape ", y.shape(), " does not broadcast into ", x.shape());
  copy_(x, q);
}

// Operators whose in-place form is the plain one, copied back.
void def_in_place_by_copy(TensorClass& c, const char* name, Any op) {
  c.def(
      name,
      [name, op](const py::object& self, const py::object& other) -> py::object {
        Tensor x = self.cast<Tensor>();
        py::object y = op(self, other);
        if (y.ptr() == Py_NotImplemented) return y;
        Tensor t = y.cast<Tensor>();
        check(t.shape() == x.shape(), name, ": the result of shape ", t.shape(), " does not fit in place of ",
              x.shape());
        check<TypeError>(t.dtype() == x.dtype(), name, ": a ", t.dtype(), " result does not fit into a tensor of ",
                         x.dtype());
        if (t.requires_grad()) return become(name, self, t);
        without_gil([&] { copy_(x, t); });
        return self;
      },
      py::is_operator());
}

void def_update(TensorClass& c, const char* name, void (*op)(const Tensor&, const Tensor&), bool scaled) {
  auto run = [name, op](const py::object& self, const py::object& other, double alpha) {
    auto o = operands_from(self, other);
    if (!o) bad_operands(name, self, other);
    Tensor x = self.cast<Tensor>();
    check<TypeError>(is_floating(x.dtype()) || !is_floating(o->b.dtype()), name, ": a ", o->b.dtype(),
                     " result does not fit into a tensor of ", x.dtype());
    without_gil([&] { op(x, alpha == 1 ? o->b : affine(o->b, alpha, 0)); });
    return self;
  };
  if (scaled)
    c.def(name, run, py::arg("other"), py::arg("alpha") = 1.0, "In place; returns self.");
  else
    c.def(
        name, [run](const py::object& s, const py::object& o) { return run(s, o, 1); }, py::arg("other"),
        "In place; returns self.");
}

void bind_operators(TensorClass& c) {
  def_arithmetic(c, nullptr, "__add__", "__radd__", add_any);
  c.def(
      "add",
      [](const py::object& a, const py::object& b, const py::object& alpha) {
        return add_scaled("add", a, b, alpha, false);
      },
      py::arg("other"), py::kw_only(), py::arg("alpha") = 1);
  def_arithmetic(c, nullptr, "__sub__", "__rsub__", sub_any);
  c.def(
      "sub",
      [](const py::object& a, const py::object& b, const py::object& alpha) {
        return add_scaled("sub", a, b, alpha, true);
      },
      py::arg("other"), py::kw_only(), py::arg("alpha") = 1);
  def_arithmetic(c, "mul", "__mul__", "__rmul__", mul_any);
  def_arithmetic(c, "div", "__truediv__", "__rtruediv__", div_any);
  def_arithmetic(c, "floor_divide", "__floordiv__", "__rfloordiv__", pairwise<floor_divide>);
  def_arithmetic(c, "remainder", "__mod__", "__rmod__", pairwise<remainder>);
  def_arithmetic(c, nullptr, "__and__", "__rand__", logical<logical_and>);
  def_arithmetic(c, nullptr, "__or__", "__ror__", logical<logical_or>);
  def_arithmetic(c, nullptr, "__xor__", "__rxor__", logical<logical_xor>);
  def_arithmetic(c, nullptr, "__matmul__", "__rmatmul__", [](const py::object& a, const py::object& b) {
    if (!tensor_from(a) || !tensor_from(b)) return py::reinterpret_borrow<py::object>(Py_NotImplemented);
    return py::cast(matmul_any(a, b));
  });
  c.def("matmul", &matmul_any, py::arg("other"));
  // pow() may be called with a modulus, which is refused.
  auto power = [](const py::object& a, const py::object& b, const py::object& mod) {
    return mod.is_none() ? pow_any(a, b) : py::reinterpret_borrow<py::object>(Py_NotImplemented);
  };
  c.def("__pow__", power, py::arg("exponent"), py::arg("mod") = py::none(), py::is_operator());
  c.def(
      "__rpow__",
      [power](const py::object& a, const py::object& b, const py::object& mod) { return power(b, a, mod); },
      py::arg("base"), py::arg("mod") = py::none(), py::is_operator());
  c.def(
      "pow",
      [](const py::object& a, const py::object& b) {
        py::object y = pow_any(a, b);
        if (y.ptr() == Py_NotImplemented) bad_operands("pow", a, b);
        return y;
      },
      py::arg("exponent"));

  def_compare(c, "eq", "__eq__", eq);
  def_compare(c, "ne", "__ne__", ne);
  def_compare(c, "lt", "__lt__", lt);
  def_compare(c, "le", "__le__", le);
  def_compare(c, "gt", "__gt__", gt);
  def_compare(c, "ge", "__ge__", ge);

  def_in_place(c, "__iadd__", add_any, add_);
  def_in_place(c, "__isub__", sub_any, sub_);
  def_in_place(c, "__imul__", mul_any, mul_);
  def_in_place(c, "__itruediv__", div_any, div_into);
  def_in_place_by_copy(c, "__ifloordiv__", pairwise<floor_divide>);
  def_in_place_by_copy(c, "__imod__", pairwise<remainder>);
  def_in_place_by_copy(c, "__ipow__", pow_any);
  def_in_place_by_copy(c, "__iand__", logical<logical_and>);
  def_in_place_by_copy(c, "__ior__", logical<logical_or>);
  def_in_place_by_copy(c, "__ixor__", logical<logical_xor>);

  c.def(
       "__neg__", [](const Tensor& x) { return neg(x); }, NoGil())
      .def("__pos__", [](const Tensor& x) { return x; })
      .def(
          "__abs__", [](const Tensor& x) { return abs(x); }, NoGil())
      .def("__invert__",
           [](const Tensor& x) {
             check<TypeError>(x.dtype() == DType::bool_, "~: expected a bool tensor, got ", x.dtype());
             return logical_not(x);
           })
      .def("__bool__",
           [](const Tensor& x) {
             check(x.numel() == 1, "bool: the truth of a tensor of shape ", x.shape(),
                   " is ambiguous; use any() or all()");
             return x.item() != 0;
           })
      .def("__float__", [](const Tensor& x) { return x.item(); })
      .def("__int__", [](const py::object& x) { return py::int_(x.attr("item")()); })
      .def("__index__", [](const py::object& x) {
        Tensor t = x.cast<Tensor>();
        check<TypeError>(t.numel() == 1 && !is_floating(t.dtype()) && t.dtype() != DType::bool_,
                         "index: expected an integer tensor with one element, got ", t.dtype(), " of shape ",
                         t.shape());
        return x.attr("item")();
      });
  c.attr("__array_priority__") = 1000;  // NumPy leaves array + tensor to us
}

void bind_elementwise(TensorClass& c) {
  def_unary(c, "neg", neg);
  def_unary(c, "abs", abs);
  def_unary(c, "exp", exp);
  def_unary(c, "expm1", expm1);
  def_unary(c, "log", log);
  def_unary(c, "log1p", log1p);
  def_unary(c, "log2", log2);
  def_unary(c, "sqrt", sqrt);
  def_unary(c, "rsqrt", rsqrt);
  def_unary(c, "square", square);
  def_unary(c, "reciprocal", reciprocal);
  def_unary(c, "sign", sign);
  def_unary(c, "floor", floor);
  def_unary(c, "ceil", ceil);
  def_unary(c, "round", round);
  def_unary(c, "sin", sin);
  def_unary(c, "cos", cos);
  def_unary(c, "erf", erf);
  def_unary(c, "atan", atan);
  def_unary(c, "tanh", tanh);
  def_unary(c, "sigmoid", sigmoid);
  def_unary(c, "relu", relu);
  def_unary(c, "isnan", isnan);
  def_unary(c, "isinf", isinf);
  def_unary(c, "isfinite", isfinite);
  def_unary(c, "logical_not", logical_not);
  c.def(
       "softmax", [](const Tensor& x, int dim) { return softmax(x, dim); }, NoGil(), py::arg("dim"))
      .def(
          "log_softmax", [](const Tensor& x, int dim) { return log_softmax(x, dim); }, NoGil(), py::arg("dim"))
      .def("clamp", &clamp_any, py::arg("min") = py::none(), py::arg("max") = py::none(),
           "min(max(x, min), max); bounds are numbers or tensors, NaN stays NaN.")
      .def("clip", &clamp_any, py::arg("min") = py::none(), py::arg("max") = py::none())
      .def(
          "maximum", [](const py::object& a, const py::object& b) { return pairwise<maximum>(a, b); },
          py::arg("other"))
      .def(
          "minimum", [](const py::object& a, const py::object& b) { return pairwise<minimum>(a, b); },
          py::arg("other"))
      .def(
          "logical_and", [](const py::object& a, const py::object& b) { return pairwise<logical_and>(a, b); },
          py::arg("other"))
      .def(
          "logical_or", [](const py::object& a, const py::object& b) { return pairwise<logical_or>(a, b); },
          py::arg("other"))
      .def(
          "logical_xor", [](const py::object& a, const py::object& b) { return pairwise<logical_xor>(a, b); },
          py::arg("other"))
      .def(
          "where",
          [](const Tensor& x, const Tensor& condition, const py::object& other) {
            auto o = operands_from(py::cast(x), other);
            if (!o) bad_operands("where", py::cast(x), other);
            return without_gil([&] { return where(condition, o->a, o->b); });
          },
          py::arg("condition"), py::arg("other"), "x where condition holds, else other.")
      .def(
          "masked_fill",
          [](const Tensor& x, const Tensor& mask, double value) { return masked_fill(x, mask, value); }, NoGil(),
          py::arg("mask"), py::arg("value"));
  for (auto [name, dtype] :
       {std::pair{"float", DType::float32}, std::pair{"double", DType::float64}, std::pair{"half", DType::float16},
        std::pair{"bfloat16", DType::bfloat16}, std::pair{"long", DType::int64}, std::pair{"int", DType::int32},
        std::pair{"bool", DType::bool_}})
    c.def(name, [dtype = dtype](const Tensor& x) { return cast(x, dtype); }, NoGil());
  c.def(
       "type_as", [](const Tensor& x, const Tensor& other) { return cast(x, other.dtype()); }, NoGil(),
       py::arg("other"))
      .def(
          "cpu", [](const Tensor& x) { return to_device(x, Device{}); }, NoGil())
      .def("cuda", [](const Tensor& x) { return to_device(x, parse_device("cuda")); }, NoGil());
}

void bind_reductions(TensorClass& c) {
  def_accumulate(c, "sum", sum, "Sum over dim (int or ints, default all); int64 for integers and bool.");
  def_accumulate(c, "mean", mean, "Mean over dim (int or ints, default all).");
  def_accumulate(c, "prod", prod, "Product over dim (int or ints, default all).");
  def_reduce(c, "amax", amax, "Largest element over dim; ties share the gradient.");
  def_reduce(c, "amin", amin, "Smallest element over dim; ties share the gradient.");
  def_reduce(c, "any", any, "Is any element nonzero?");
  def_reduce(c, "all", all, "Are all elements nonzero?");
  c.def(
       "max", [](const Tensor& x, const py::object& dim, bool keepdim) { return max_any(x, dim, keepdim, true); },
       py::arg("dim") = py::none(), py::arg("keepdim") = false,
       "The largest value; with dim (values, indices); with a tensor the elementwise maximum.")
      .def(
          "min",
          [](const Tensor& x, const py::object& dim, bool keepdim) { return max_any(x, dim, keepdim, false); },
          py::arg("dim") = py::none(), py::arg("keepdim") = false,
          "The smallest value; with dim (values, indices); with a tensor the elementwise minimum.")
      .def(
          "argmax", [](const Tensor& x, std::optional<int> dim, bool keepdim) { return argmax(x, dim, keepdim); },
          NoGil(), py::arg("dim") = py::none(), py::arg("keepdim") = false)
      .def(
          "argmin", [](const Tensor& x, std::optional<int> dim, bool keepdim) { return argmin(x, dim, keepdim); },
          NoGil(), py::arg("dim") = py::none(), py::arg("keepdim") = false)
      .def("var", &var_any, py::arg("dim") = py::none(), py::kw_only(), py::arg("correction") = py::none(),
           py::arg("keepdim") = false, py::arg("unbiased") = py::none(),
           "Variance over dim, divided by n - correction (1 unless given; unbiased=False: 0).")
      .def("std", &std_any, py::arg("dim") = py::none(), py::kw_only(), py::arg("correction") = py::none(),
           py::arg("keepdim") = false, py::arg("unbiased") = py::none(), "The root of var.")
      .def(
          "norm",
          [](const Tensor& x, double p, const py::object& dim, bool keepdim) {
            std::vector<int> dims = dim_list("norm", dim);
            return without_gil([&] { return norm(x, p, dims, keepdim); });
          },
          py::arg("p") = 2.0, py::arg("dim") = py::none(), py::arg("keepdim") = false);
}

void bind_shape(TensorClass& c) {
  c.def("reshape", &reshape_args, "A view where strides allow it, else a copy; one size may be -1.")
      .def("view", &reshape_args, "As reshape.")
      .def(
          "reshape_as", [](const Tensor& x, const Tensor& o) { return reshape(x, o.shape()); }, NoGil(),
          py::arg("other"))
      .def(
          "view_as", [](const Tensor& x, const Tensor& o) { return reshape(x, o.shape()); }, NoGil(),
          py::arg("other"))
      .def(
          "flatten", [](const Tensor& x, int a, int b) { return flatten(x, a, b); }, NoGil(),
          py::arg("start_dim") = 0, py::arg("end_dim") = -1)
      .def(
          "unflatten",
          [](const Tensor& x, int dim, const py::object& sizes) {
            return unflatten(x, dim, dims_from("unflatten", sizes));
          },
          py::arg("dim"), py::arg("sizes"))
      .def("squeeze", &squeeze_any, py::arg("dim") = py::none())
      .def("t",
           [](const Tensor& x) {
             check(x.ndim() <= 2, "t: expected at most 2 dimensions, got shape ", x.shape());
             return x.ndim() == 2 ? transpose(x, 0, 1) : x;
           })
      .def(
          "unsqueeze", [](const Tensor& x, int dim) { return unsqueeze(x, dim); }, NoGil(), py::arg("dim"))
      .def(
          "transpose", [](const Tensor& x, int a, int b) { return transpose(x, a, b); }, NoGil(), py::arg("dim0"),
          py::arg("dim1"))
      .def("permute",
           [](const Tensor& x, const py::args& dims) { return permute(x, dims_of_args("permute", dims)); })
      .def("expand", [](const Tensor& x, const py::args& shape) { return expand(x, shape_args("expand", shape)); })
      .def(
          "expand_as", [](const Tensor& x, const Tensor& o) { return expand(x, o.shape()); }, py::arg("other"))
      .def(
          "narrow",
          [](const Tensor& x, int dim, int64_t start, int64_t length) { return narrow(x, dim, start, length); },
          py::arg("dim"), py::arg("start"), py::arg("length"))
      .def(
          "select", [](const Tensor& x, int dim, int64_t index) { return select(x, dim, index); }, py::arg("dim"),
          py::arg("index"))
      .def("flip", [](const Tensor& x, const py::args& dims) { return flip(x, dims_of_args("flip", dims)); })
      .def("split", &split_any, py::arg("split_size"), py::arg("dim") = 0)
      .def(
          "chunk",
          [](const Tensor& x, int64_t chunks, int dim) {
            check(chunks > 0, "chunk: expected at least one chunk, got ", chunks);
            return split_any(x, py::int_(std::max<int64_t>(1, (x.size(dim) + chunks - 1) / chunks)), dim);
          },
          py::arg("chunks"), py::arg("dim") = 0)
      .def(
          "unbind",
          [](const Tensor& x, int dim) {
            py::tuple parts(x.size(dim));
            for (int64_t i = 0; i < x.size(dim); ++i) parts[i] = py::cast(select(x, dim, i));
            return parts;
          },
          py::arg("dim") = 0)
      .def(
          "index_select",
          [](const Tensor& x, int dim, const Tensor& index) { return index_select(x, dim, index); }, NoGil(),
          py::arg("dim"), py::arg("index"))
      .def(
          "gather", [](const Tensor& x, int dim, const Tensor& index) { return gather(x, dim, index); }, NoGil(),
          py::arg("dim"), py::arg("index"))
      .def_property_readonly(
          "T",
          [](const Tensor& x) {
            std::vector<int> dims;
            for (int d = x.ndim() - 1; d >= 0; --d) dims.push_back(d);
            return permute(x, dims);
          },
          "All dims reversed.")
      .def_property_readonly(
          "mT",
          [](const Tensor& x) {
            check(x.ndim() >= 2, "mT: expected a matrix or a stack of them, got shape ", x.shape());
            return transpose(x, -2, -1);
          },
          "The last two dims exchanged.");
}

void bind_updates(TensorClass& c) {
  def_update(c, "add_", add_, true);
  def_update(c, "sub_", sub_, true);
  def_update(c, "mul_", mul_, false);
  def_update(c, "div_", div_into, false);
  c.def(
       "copy_",
       [](const py::object& self, const py::object& src) {
         Tensor x = self.cast<Tensor>();
         auto t = tensor_from(src);
         if (!t) bad_operands("copy_", self, src);
         check(!(is_grad_enabled() && t->requires_grad()),
               "copy_: gradients do not flow through in-place ops; use no_grad");
         without_gil([&] { copy_(x, x.device() == t->device() ? *t : to_device(*t, x.device())); });
         return self;
       },
       py::arg("src"), "Takes over the values of src, cast and broadcast; returns self.")
      .def("zero_",
           [](const py::object& self) {
             fill_(self.cast<Tensor>(), 0);
             return self;
           })
      .def(
          "fill_",
          [](const py::object& self, double value) {
            fill_(self.cast<Tensor>(), value);
            return self;
          },
          py::arg("value"))
      .def(
          "clamp_",
          [](const py::object& self, const py::object& low, const py::object& high) {
            Tensor x = self.cast<Tensor>();
            check(!(is_grad_enabled() && x.requires_grad()),
                  "clamp_: a tensor that requires gradients cannot be changed in "
                  "place; do it under no_grad");
            NoGrad off;
            copy_(x, clamp_any(x, low, high));
            return self;
          },
          py::arg("min") = py::none(), py::arg("max") = py::none());
}

}  // namespace

void bind_tensor_ops(py::module_& m, TensorClass& c) {
  (void)m;
  bind_operators(c);
  bind_elementwise(c);
  bind_reductions(c);
  bind_shape(c);
  bind_updates(c);
  bind_indexing(c);
}

}  // namespace fastcnn::bindings
