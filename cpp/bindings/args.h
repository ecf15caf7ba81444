// What it is: Python arguments of ops on tensors: numbers beside tensors, lists of dims, shapes given as *args.
// What it is not: checks of values; those are the ops'.
#pragma once
#include <cmath>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "bindings.h"
#include "fastcnn/ops.h"

namespace fastcnn::bindings {

template <class F>
auto without_gil(F&& f) {
  py::gil_scoped_release release;
  return f();
}

using Maybe = std::optional<Tensor>;
inline Tensor or_empty(const Maybe& t) { return t ? *t : Tensor(); }

inline py::arg_v no(const char* name) { return py::arg(name) = py::none(); }

// One tensor, or with `both` a tuple of two.
inline py::object one_or_both(bool both, const std::function<Tensor()>& value,
                              const std::function<std::pair<Tensor, Tensor>()>& values) {
  if (!both) return py::cast(without_gil(value));
  auto r = without_gil(values);
  return py::make_tuple(r.first, r.second);
}

struct Number {
  double value = 0;
  bool is_float = false;  // a float takes integer tensors to float32, an int does not
  int64_t exact = 0;      // the value of an int that a double does not hold, where `large`
  bool large = false;
  bool is_bool = false;  // True and False leave bool tensors as they are
};

// Ints that a double holds exactly are doubles; others are kept beside, as far as int64 goes.
inline Number number_of_int(PyObject* p) {
  int overflow = 0;
  long long i = PyLong_AsLongLongAndOverflow(p, &overflow);
  if (i == -1 && PyErr_Occurred()) throw py::error_already_set();
  if (overflow) {
    double d = PyLong_AsDouble(p);
    if (d == -1 && PyErr_Occurred()) {
      PyErr_Clear();
      throw ValueError("number: expected an int within the range of float64");
    }
    return {d, false};
  }
  constexpr long long most = 1LL << 53;
  return {static_cast<double>(i), false, i, i > most || i < -most};
}

// Python and NumPy numbers; nothing for anything else.
inline std::optional<Number> number_from(const py::handle& v) {
  PyObject* p = v.ptr();
  if (PyBool_Check(p)) return Number{p == Py_True ? 1.0 : 0.0, false, 0, false, true};
  if (PyFloat_Check(p)) return Number{PyFloat_AS_DOUBLE(p), true};
  if (PyLong_Check(p)) return number_of_int(p);
  if (py::isinstance<Tensor>(v) || !PyNumber_Check(p) || py::hasattr(v, "__len__")) return std::nullopt;
  if (py::hasattr(v, "ndim") && v.attr("ndim").cast<int>() != 0) return std::nullopt;
  bool index = PyIndex_Check(p);
  if (index) {
    auto i = py::reinterpret_steal<py::object>(PyNumber_Index(p));
    if (i) return number_of_int(i.ptr());
    PyErr_Clear();
  }
  double d = PyFloat_AsDouble(p);
  if (d == -1 && PyErr_Occurred()) {
    PyErr_Clear();
    return std::nullopt;
  }
  return Number{d, !index};
}

// The dtype of a number beside x, as PyTorch: the number decides only where x has a lower kind.
inline DType number_type(const Tensor& x, const Number& n) {
  if (is_floating(x.dtype())) return x.dtype();
  if (n.is_float) return DType::float32;
  return x.dtype() == DType::bool_ && !n.is_bool ? DType::int64 : x.dtype();
}
inline Tensor number_tensor(const Number& n, DType dtype, Device device) {
  if (!n.large || dtype != DType::int64 || device.type != DeviceType::cpu) return full({}, n.value, dtype, device);
  Tensor t = empty({}, DType::int64);
  *t.data<int64_t>() = n.exact;
  return t;
}
inline Tensor number_like(const Tensor& x, const Number& n) {
  return number_tensor(n, number_type(x, n), x.device());
}
// May n stand in the double parameters of an op on x?
inline bool fits_double(const Tensor& x, const Number& n) {
  if (x.dtype() == DType::bool_ && n.is_bool) return false;
  return is_floating(x.dtype()) || n.is_float ||
         (!n.large && n.value >= -9007199254740992.0 && n.value <= 9007199254740992.0);
}
// x as an operand of a number: integers become float32 beside a float.
inline Tensor beside(const Tensor& x, const Number& n) {
  return n.is_float && !is_floating(x.dtype()) ? cast(x, DType::float32) : x;
}

inline Device device_from(const py::object& v) {
  if (v.is_none()) return {};
  if (py::isinstance<Device>(v)) return v.cast<Device>();
  return parse_device(py::str(v).cast<std::string>());
}
inline DType dtype_or(const py::object& v, DType otherwise) { return v.is_none() ? otherwise : dtype_from(v); }

inline bool is_sequence(const py::handle& v) {
  return py::isinstance<py::sequence>(v) && !py::isinstance<py::str>(v) && !py::isinstance<Tensor>(v);
}

// f(2, 3), f((2, 3)) and f([2, 3]) alike.
inline Dims shape_args(const char* op, const py::args& args) {
  if (args.size() == 1 && is_sequence(args[0])) return dims_from(op, args[0]);
  return dims_from(op, args);
}

// None: all dims (an empty list), an int, or a sequence of ints.
inline std::vector<int> dim_list(const char* op, const py::object& v) {
  std::vector<int> out;
  if (v.is_none()) return out;
  for (int64_t d : dims_from(op, v)) {
    check<IndexError>(d >= -kMaxDims && d < kMaxDims, op, ": expected dims in [", -kMaxDims, ", ", kMaxDims,
                      "), got ", d);
    out.push_back(static_cast<int>(d));
  }
  return out;
}

// f(0, 1), f((0, 1)) and f([0, 1]) alike.
inline std::vector<int> dims_of_args(const char* op, const py::args& args) {
  if (args.size() == 1 && is_sequence(args[0])) return dim_list(op, args[0]);
  return dim_list(op, args);
}

// A tensor, or what fastcnn.tensor makes of an array or list.
inline std::optional<Tensor> tensor_from(const py::handle& v) {
  if (py::isinstance<Tensor>(v)) return v.cast<Tensor>();
  if (!py::hasattr(v, "__array__") && !py::hasattr(v, "__array_interface__")) return std::nullopt;
  return py::module_::import("fastcnn._core").attr("tensor")(v).cast<Tensor>();
}

using TensorTensor = Tensor (*)(const Tensor&, const Tensor&);

// Both operands of an elementwise op as tensors; at least one must be a tensor. Nothing: not ours to compute.
struct Operands {
  Tensor a, b;
};
inline std::optional<Operands> operands_from(const py::handle& a, const py::handle& b, bool compares = false) {
  std::optional<Tensor> x = tensor_from(a), y = tensor_from(b);
  auto scalar = [&](const Tensor& beside_tensor, const py::handle& v) -> std::optional<Tensor> {
    auto n = number_from(v);
    if (!n) return std::nullopt;
    // Comparisons must not wrap the number into a narrow type: uint8 > -1.
    if (compares && !n->is_float && !is_floating(beside_tensor.dtype()))
      return number_tensor(*n, DType::int64, beside_tensor.device());
    return number_like(beside_tensor, *n);
  };
  if (x && !y)
    y = scalar(*x, b);
  else if (y && !x)
    x = scalar(*y, a);
  if (!x || !y) return std::nullopt;
  return Operands{*x, *y};
}

[[noreturn]] inline void bad_operands(const char* op, const py::handle& a, const py::handle& b) {
  throw TypeError(concat(op, ": expected a tensor with a tensor or a number, got ",
                         py::str(py::type::handle_of(a).attr("__name__")).cast<std::string>(), " and ",
                         py::str(py::type::handle_of(b).attr("__name__")).cast<std::string>()));
}

// Arithmetic with numbers in their cheap forms, for operators and functions alike.
py::object add_any(const py::object& a, const py::object& b);
py::object add_scaled(const char* op, const py::object& a, const py::object& b, const py::object& alpha,
                      bool minus);
py::object sub_any(const py::object& a, const py::object& b);
py::object mul_any(const py::object& a, const py::object& b);
py::object div_any(const py::object& a, const py::object& b);
py::object pow_any(const py::object& a, const py::object& b);
py::object pair_any(const py::object& a, const py::object& b, TensorTensor op, bool compares = false);

Tensor clamp_any(const Tensor& x, const py::object& low, const py::object& high);
Tensor reshape_args(const Tensor& x, const py::args& shape);
py::object split_any(const Tensor& x, const py::object& sizes, int dim);
py::object max_any(const Tensor& x, const py::object& dim, bool keepdim,
                   bool largest);  // value, or (values, indices)
Tensor var_any(const Tensor& x, const py::object& dim, std::optional<double> correction, bool keepdim,
               std::optional<bool> unbiased);
Tensor std_any(const Tensor& x, const py::object& dim, std::optional<double> correction, bool keepdim,
               std::optional<bool> unbiased);
Tensor squeeze_any(const Tensor& x, const py::object& dim);
Tensor matmul_any(const py::object& a, const py::object& b);

void bind_indexing(TensorClass& c);  // __getitem__, __setitem__, __len__, __iter__

}  // namespace fastcnn::bindings
