// What it is: fastcnn.ops apart from networks: creation, elementwise, reductions, shape, resampling.
// What it is not: checks of values; those are the ops'. Names and order of arguments are PyTorch's.
#include "args.h"

namespace fastcnn::bindings {
namespace {

// zeros(2, 3), zeros((2, 3)), with dtype=, device=, requires_grad=.
template <class F>
void def_creation(py::module_& ops, const char* name, F make, const char* doc) {
  ops.def(
      name,
      [name, make](const py::args& shape, const py::object& dtype, const py::object& device, bool requires_grad) {
        Dims d = shape_args(name, shape);
        DType t = dtype_or(dtype, DType::float32);
        Device dev = device_from(device);
        Tensor x = without_gil([&] { return make(d, t, dev); });
        if (requires_grad) x.set_requires_grad();
        return x;
      },
      py::arg("dtype") = py::none(), py::arg("device") = py::none(), py::arg("requires_grad") = false, doc);
  std::string like = std::string(name) + "_like";
  ops.def(
      like.c_str(),
      [make](const Tensor& x, const py::object& dtype, const py::object& device, bool requires_grad) {
        DType t = dtype_or(dtype, x.dtype());
        Device dev = device.is_none() ? x.device() : device_from(device);
        Tensor y = without_gil([&] { return make(x.shape(), t, dev); });
        if (requires_grad) y.set_requires_grad();
        return y;
      },
      py::arg("x"), py::arg("dtype") = py::none(), py::arg("device") = py::none(),
      py::arg("requires_grad") = false, "As the op without _like, in the shape, dtype and device of x.");
}

void bind_creation(py::module_& ops) {
  def_creation(ops, "zeros", [](const Dims& d, DType t, Device v) { return zeros(d, t, v); }, "Zeros of a shape.");
  def_creation(ops, "ones", [](const Dims& d, DType t, Device v) { return ones(d, t, v); }, "Ones of a shape.");
  def_creation(
      ops, "rand", [](const Dims& d, DType t, Device v) { return rand(d, t, v); },
      "Uniform random numbers in [0, 1).");
  def_creation(
      ops, "randn", [](const Dims& d, DType t, Device v) { return randn(d, t, v); },
      "Random numbers of the standard normal distribution.");
  auto full_number = [](const char* op, const py::object& v) {
    auto n = number_from(v);
    check<TypeError>(n.has_value(), op, ": expected fill_value as a number, got ",
                     py::repr(v).cast<std::string>());
    return *n;
  };
  ops.def(
      "full",
      [full_number](const py::object& shape, const py::object& value, const py::object& dtype,
                    const py::object& device, bool requires_grad) {
        Number n = full_number("full", value);
        DType natural = PyBool_Check(value.ptr()) ? DType::bool_ : n.is_float ? DType::float32 : DType::int64;
        Dims d = dims_from("full", shape);
        DType t = dtype_or(dtype, natural);
        Tensor x = n.large && t == DType::int64 ? clone(expand(number_tensor(n, t, device_from(device)), d))
                                                : full(d, n.value, t, device_from(device));
        if (requires_grad) x.set_requires_grad();
        return x;
      },
      py::arg("size"), py::arg("fill_value"), py::arg("dtype") = py::none(), py::arg("device") = py::none(),
      py::arg("requires_grad") = false, "fill_value everywhere; dtype as of the value unless given.");
  ops.def(
      "full_like",
      [full_number](const Tensor& x, const py::object& value, const py::object& dtype, bool requires_grad) {
        Tensor y = full(x.shape(), full_number("full_like", value).value, dtype_or(dtype, x.dtype()), x.device());
        if (requires_grad) y.set_requires_grad();
        return y;
      },
      py::arg("x"), py::arg("fill_value"), py::arg("dtype") = py::none(), py::arg("requires_grad") = false,
      "fill_value everywhere, in the shape and dtype of x.");
  ops.def(
      "empty_like",
      [](const Tensor& x, const py::object& dtype) {
        return empty(x.shape(), dtype_or(dtype, x.dtype()), x.device());
      },
      py::arg("x"), py::arg("dtype") = py::none(), "Memory in the shape and dtype of x, whatever stands in it.");
  ops.def(
      "arange",
      [](const py::object& start, const py::object& end, const py::object& step, const py::object& dtype,
         const py::object& device, bool requires_grad) {
        auto number = [](const py::object& v) {
          auto n = number_from(v);
          check<TypeError>(n.has_value(), "arange: expected numbers, got ", py::repr(v).cast<std::string>());
          return *n;
        };
        Number a = end.is_none() ? Number{} : number(start), b = number(end.is_none() ? start : end),
               s = number(step);
        DType t = dtype_or(dtype, a.is_float || b.is_float || s.is_float ? DType::float32 : DType::int64);
        Tensor x;
        if (t == DType::int64 && (a.large || b.large)) {  // count from 0 in doubles, start in int64
          int64_t from = a.large ? a.exact : static_cast<int64_t>(a.value);
          int64_t to = b.large ? b.exact : static_cast<int64_t>(b.value);
          x = add(
              arange(0, static_cast<double>(static_cast<__int128>(to) - from), s.value, t, device_from(device)),
              number_tensor(Number{a.value, false, from, true}, t, device_from(device)));
        } else {
          x = arange(a.value, b.value, s.value, t, device_from(device));
        }
        if (requires_grad) x.set_requires_grad();
        return x;
      },
      py::arg("start"), py::arg("end") = py::none(), py::arg("step") = 1, py::arg("dtype") = py::none(),
      py::arg("device") = py::none(), py::arg("requires_grad") = false,
      "start, start + step, … below end; arange(end) starts at 0.");
  ops.def(
      "randint",
      [](int64_t low, const py::object& high, const py::object& size, const py::object& dtype,
         const py::object& device) {
        // randint(high, size) and randint(low, high, size)
        bool one = size.is_none();
        check<TypeError>(!high.is_none(), "randint: expected randint(high, size) or randint(low, high, size)");
        int64_t a = one ? 0 : low, b = one ? low : high.cast<int64_t>();
        return randint(a, b, dims_from("randint", one ? high : size), dtype_or(dtype, DType::int64),
                       device_from(device));
      },
      py::arg("low"), py::arg("high") = py::none(), py::arg("size") = py::none(), py::arg("dtype") = py::none(),
      py::arg("device") = py::none(), "Random integers in [low, high).");
  ops.def("bernoulli", &bernoulli, NoGil(), py::arg("p"),
          "Ones with the probabilities p, in [0, 1], else zeros; of p's shape and dtype, without gradients. Their "
          "range is\n"
          "checked in eager mode on CPUs alone.");
  ops.def(
      "randperm",
      [](int64_t n, const py::object& dtype, const py::object& device) {
        return randperm(n, dtype_or(dtype, DType::int64), device_from(device));
      },
      py::arg("n"), py::kw_only(), py::arg("dtype") = py::none(), py::arg("device") = py::none(),
      "0 to n - 1 in random order, int64.");
  ops.def(
      "manual_seed",
      [](const py::int_& seed) {
        int overflow = 0;
        long long low = PyLong_AsLongLongAndOverflow(seed.ptr(), &overflow);
        uint64_t value = static_cast<uint64_t>(low);
        if (overflow > 0) {
          value = PyLong_AsUnsignedLongLong(seed.ptr());
          if (PyErr_Occurred())
            PyErr_Clear();
          else
            overflow = 0;
        }
        check(overflow == 0, "manual_seed: expected a seed in [-2**63, 2**64), got ", std::string(py::str(seed)));
        manual_seed(value);
      },
      py::arg("seed"), "Starts the random numbers of all devices anew. A negative seed counts from 2**64.");
  ops.def(
      "random_state", [](const py::object& device) { return random_state(device_from(device)); },
      py::arg("device") = py::none(),
      "int64 (2): seed and counter of a device's generator; the state itself, not a copy.");
}

using Unary = Tensor (*)(const Tensor&);

void def_unary(py::module_& ops, const char* name, Unary op, const char* doc) {
  ops.def(name, [op](const Tensor& x) { return op(x); }, NoGil(), py::arg("x"), doc);
}

void def_pair(py::module_& ops, const char* name, TensorTensor op, const char* doc, bool compares = false) {
  ops.def(
      name,
      [name, op, compares](const py::object& a, const py::object& b) {
        py::object y = pair_any(a, b, op, compares);
        if (y.ptr() == Py_NotImplemented) bad_operands(name, a, b);
        return y;
      },
      py::arg("x"), py::arg("other"), doc);
}

void def_any(py::module_& ops, const char* name, py::object (*op)(const py::object&, const py::object&),
             const char* doc) {
  ops.def(
      name,
      [name, op](const py::object& a, const py::object& b) {
        py::object y = op(a, b);
        if (y.ptr() == Py_NotImplemented) bad_operands(name, a, b);
        return y;
      },
      py::arg("x"), py::arg("other"), doc);
}

void bind_elementwise(py::module_& ops) {
  ops.def(
      "add",
      [](const py::object& a, const py::object& b, const py::object& alpha) {
        return add_scaled("add", a, b, alpha, false);
      },
      py::arg("x"), py::arg("other"), py::kw_only(), py::arg("alpha") = 1,
      "x + alpha * other; operands broadcast, dtypes promote as in PyTorch.");
  ops.def(
      "sub",
      [](const py::object& a, const py::object& b, const py::object& alpha) {
        return add_scaled("sub", a, b, alpha, true);
      },
      py::arg("x"), py::arg("other"), py::kw_only(), py::arg("alpha") = 1, "x - alpha * other.");
  def_any(ops, "mul", mul_any, "x * other.");
  def_any(ops, "div", div_any, "x / other; float32 for integers.");
  def_any(ops, "pow", pow_any, "x ** other.");
  def_pair(ops, "maximum", maximum, "The larger of each pair; NaN wins, ties share the gradient.");
  def_pair(ops, "minimum", minimum, "The smaller of each pair; NaN wins, ties share the gradient.");
  def_pair(ops, "remainder", remainder, "x % other with the sign of other, as Python.");
  def_pair(ops, "floor_divide", floor_divide, "floor(x / other).");
  def_pair(ops, "eq", eq, "x == other, a bool tensor.", true);
  def_pair(ops, "ne", ne, "x != other, a bool tensor.", true);
  def_pair(ops, "lt", lt, "x < other, a bool tensor.", true);
  def_pair(ops, "le", le, "x <= other, a bool tensor.", true);
  def_pair(ops, "gt", gt, "x > other, a bool tensor.", true);
  def_pair(ops, "ge", ge, "x >= other, a bool tensor.", true);
  def_pair(ops, "logical_and", logical_and, "Are both nonzero?");
  def_pair(ops, "logical_or", logical_or, "Is one of them nonzero?");
  def_pair(ops, "logical_xor", logical_xor, "Is exactly one of them nonzero?");
  def_unary(ops, "logical_not", logical_not, "Is x zero?");
  ops.def(
      "where",
      [](const Tensor& condition, const py::object& a, const py::object& b) {
        auto o = operands_from(a, b);
        if (!o) {  // two numbers
          auto n = number_from(a), k = number_from(b);
          if (!n || !k) bad_operands("where", a, b);
          DType t = n->is_float || k->is_float ? DType::float32 : DType::int64;
          return where(condition, full({}, n->value, t, condition.device()),
                       full({}, k->value, t, condition.device()));
        }
        return without_gil([&] { return where(condition, o->a, o->b); });
      },
      py::arg("condition"), py::arg("x"), py::arg("other"), "x where condition (bool) holds, else other.");
  ops.def("clamp", &clamp_any, py::arg("x"), py::arg("min") = py::none(), py::arg("max") = py::none(),
          "min(max(x, min), max); bounds are numbers or tensors, NaN stays NaN.");
  def_unary(ops, "neg", neg, "-x.");
  def_unary(ops, "abs", abs, "|x|; the gradient at 0 is 0.");
  def_unary(ops, "exp", exp, "e ** x.");
  def_unary(ops, "expm1", expm1, "e ** x - 1, exact near 0.");
  def_unary(ops, "log", log, "Natural logarithm.");
  def_unary(ops, "log1p", log1p, "log(1 + x), exact near 0.");
  def_unary(ops, "log2", log2, "Logarithm to base 2.");
  def_unary(ops, "sqrt", sqrt, "Square root.");
  def_unary(ops, "rsqrt", rsqrt, "1 / sqrt(x).");
  def_unary(ops, "square", square, "x * x.");
  def_unary(ops, "reciprocal", reciprocal, "1 / x.");
  def_unary(ops, "sign", sign, "-1, 0 or 1.");
  def_unary(ops, "floor", floor, "Largest integer not above x.");
  def_unary(ops, "ceil", ceil, "Smallest integer not below x.");
  def_unary(ops, "round", round, "Nearest integer, halves to even.");
  def_unary(ops, "sin", sin, "Sine.");
  def_unary(ops, "cos", cos, "Cosine.");
  def_unary(ops, "erf", erf, "Error function.");
  def_unary(ops, "atan", atan, "Inverse tangent, in (-pi/2, pi/2).");
  def_unary(ops, "isnan", isnan, "Is x NaN?");
  def_unary(ops, "isinf", isinf, "Is x +inf or -inf?");
  def_unary(ops, "isfinite", isfinite, "Is x a finite number?");
  ops.def(
      "cast", [](const Tensor& x, const py::object& dtype) { return cast(x, dtype_from(dtype)); }, py::arg("x"),
      py::arg("dtype"), "x in another dtype; x itself if it has it.");
  ops.def("clone", [](const Tensor& x) { return clone(x); }, NoGil(), py::arg("x"), "A copy in new memory.");
}

using Reduce = Tensor (*)(const Tensor&, const std::vector<int>&, bool);

void def_reduce(py::module_& ops, const char* name, Reduce op, const char* doc) {
  ops.def(
      name,
      [name, op](const Tensor& x, const py::object& dim, bool keepdim) {
        std::vector<int> dims = dim_list(name, dim);
        return without_gil([&] { return op(x, dims, keepdim); });
      },
      py::arg("x"), py::arg("dim") = py::none(), py::arg("keepdim") = false, doc);
}

void def_accumulate(py::module_& ops, const char* name, Reduce op, const char* doc) {
  ops.def(
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
      py::arg("x"), py::arg("dim") = py::none(), py::arg("keepdim") = false, py::kw_only(),
      py::arg("dtype") = py::none(), doc);
}

void bind_reductions(py::module_& ops) {
  def_accumulate(ops, "sum", sum, "Sum over dim (int or ints, default all); int64 for integers and bool.");
  def_accumulate(ops, "mean", mean, "Mean over dim (int or ints, default all).");
  def_accumulate(ops, "prod", prod, "Product over dim; exact gradients also where elements are zero.");
  def_reduce(ops, "amax", amax, "Largest element over dim; ties share the gradient.");
  def_reduce(ops, "amin", amin, "Smallest element over dim; ties share the gradient.");
  ops.def("all_reduce", &all_reduce, NoGil(), py::arg("x"),
          "The sum of x over the processes of the job (see fastcnn.distributed), in each the same; x itself where "
          "there is but one. Differentiable: the losses of all processes add up.");
  def_reduce(ops, "any", any, "Is any element nonzero?");
  def_reduce(ops, "all", all, "Are all elements nonzero?");
  ops.def(
      "max", [](const Tensor& x, const py::object& dim, bool keepdim) { return max_any(x, dim, keepdim, true); },
      py::arg("x"), py::arg("dim") = py::none(), py::arg("keepdim") = false,
      "The largest value; with dim (values, indices); with a tensor the elementwise maximum.");
  ops.def(
      "min", [](const Tensor& x, const py::object& dim, bool keepdim) { return max_any(x, dim, keepdim, false); },
      py::arg("x"), py::arg("dim") = py::none(), py::arg("keepdim") = false,
      "The smallest value; with dim (values, indices); with a tensor the elementwise minimum.");
  ops.def(
      "argmax", [](const Tensor& x, std::optional<int> dim, bool keepdim) { return argmax(x, dim, keepdim); },
      NoGil(), py::arg("x"), py::arg("dim") = py::none(), py::arg("keepdim") = false,
      "int64 position of the largest element.");
  ops.def(
      "argmin", [](const Tensor& x, std::optional<int> dim, bool keepdim) { return argmin(x, dim, keepdim); },
      NoGil(), py::arg("x"), py::arg("dim") = py::none(), py::arg("keepdim") = false,
      "int64 position of the smallest element.");
  ops.def("var", &var_any, py::arg("x"), py::arg("dim") = py::none(), py::kw_only(),
          py::arg("correction") = py::none(), py::arg("keepdim") = false, py::arg("unbiased") = py::none(),
          "Variance over dim, divided by n - correction (1 unless given; unbiased=False: 0).");
  ops.def("std", &std_any, py::arg("x"), py::arg("dim") = py::none(), py::kw_only(),
          py::arg("correction") = py::none(), py::arg("keepdim") = false, py::arg("unbiased") = py::none(),
          "The root of var.");
  ops.def(
      "norm",
      [](const Tensor& x, double p, const py::object& dim, bool keepdim) {
        std::vector<int> dims = dim_list("norm", dim);
        return without_gil([&] { return norm(x, p, dims, keepdim); });
      },
      py::arg("x"), py::arg("p") = 2.0, py::arg("dim") = py::none(), py::arg("keepdim") = false,
      "sum(|x| ** p) ** (1 / p); p may be 0 and inf.");
}

void bind_shape(py::module_& ops) {
  ops.def(
      "reshape", [](const Tensor& x, const py::object& shape) { return reshape(x, dims_from("reshape", shape)); },
      py::arg("x"), py::arg("shape"), "x in another shape, elements in logical order; one size may be -1.");
  ops.def(
      "flatten", [](const Tensor& x, int a, int b) { return flatten(x, a, b); }, NoGil(), py::arg("x"),
      py::arg("start_dim") = 0, py::arg("end_dim") = -1, "Dims start_dim to end_dim joined, in logical order.");
  ops.def(
      "unflatten",
      [](const Tensor& x, int dim, const py::object& sizes) {
        return unflatten(x, dim, dims_from("unflatten", sizes));
      },
      py::arg("x"), py::arg("dim"), py::arg("sizes"), "dim split into sizes, of which one may be -1.");
  ops.def("squeeze", &squeeze_any, py::arg("x"), py::arg("dim") = py::none(),
          "Without dims of size 1, or without dim (int or ints) where its size is 1.");
  ops.def(
      "unsqueeze", [](const Tensor& x, int dim) { return unsqueeze(x, dim); }, NoGil(), py::arg("x"),
      py::arg("dim"));
  ops.def(
      "permute", [](const Tensor& x, const py::object& dims) { return permute(x, dim_list("permute", dims)); },
      py::arg("x"), py::arg("dims"), "Dims in another order.");
  ops.def(
      "transpose", [](const Tensor& x, int a, int b) { return transpose(x, a, b); }, NoGil(), py::arg("x"),
      py::arg("dim0"), py::arg("dim1"), "Two dims exchanged.");
  ops.def(
      "expand", [](const Tensor& x, const py::object& shape) { return expand(x, dims_from("expand", shape)); },
      py::arg("x"), py::arg("shape"), "Broadcast as a view; -1 keeps a size.");
  ops.def(
      "narrow", [](const Tensor& x, int dim, int64_t start, int64_t n) { return narrow(x, dim, start, n); },
      NoGil(), py::arg("x"), py::arg("dim"), py::arg("start"), py::arg("length"));
  ops.def(
      "slice",
      [](const Tensor& x, int dim, int64_t a, int64_t b, int64_t step) { return slice(x, dim, a, b, step); },
      NoGil(), py::arg("x"), py::arg("dim"), py::arg("start"), py::arg("end"), py::arg("step") = 1,
      "x[start:end:step] along dim.");
  ops.def(
      "select", [](const Tensor& x, int dim, int64_t i) { return select(x, dim, i); }, NoGil(), py::arg("x"),
      py::arg("dim"), py::arg("index"));
  ops.def(
      "flip", [](const Tensor& x, const py::object& dims) { return flip(x, dim_list("flip", dims)); },
      py::arg("x"), py::arg("dims"), "Backwards along dims.");
  ops.def(
      "cat", [](const std::vector<Tensor>& xs, int dim) { return cat(xs, dim); }, NoGil(), py::arg("tensors"),
      py::arg("dim") = 0, "Tensors joined along dim.");
  ops.def(
      "stack", [](const std::vector<Tensor>& xs, int dim) { return stack(xs, dim); }, NoGil(), py::arg("tensors"),
      py::arg("dim") = 0, "Tensors joined along a new dim.");
  ops.def("split", &split_any, py::arg("x"), py::arg("split_size"), py::arg("dim") = 0,
          "Parts of split_size along dim, or of the sizes in a list.");
  ops.def(
      "index_select", [](const Tensor& x, int dim, const Tensor& i) { return index_select(x, dim, i); }, NoGil(),
      py::arg("x"), py::arg("dim"), py::arg("index"), "x at the positions index (1-D) of dim.");
  ops.def(
      "embedding", &embedding, NoGil(), py::arg("ids"), py::arg("weight"), py::arg("padding_idx") = py::none(),
      "Rows of weight (V, D) at int64 ids (…): (…, D). The row padding_idx gets no gradient. IndexError: an id\n"
      "outside [0, V).");
  ops.def(
      "gather", [](const Tensor& x, int dim, const Tensor& i) { return gather(x, dim, i); }, NoGil(), py::arg("x"),
      py::arg("dim"), py::arg("index"), "x with coordinate dim replaced by index.");
  ops.def(
      "masked_fill", [](const Tensor& x, const Tensor& mask, double v) { return masked_fill(x, mask, v); },
      NoGil(), py::arg("x"), py::arg("mask"), py::arg("value"), "value where mask holds, else x.");
  ops.def(
      "one_hot",
      [](const Tensor& ids, int64_t n, const py::object& dtype) {
        return one_hot(ids, n, dtype_or(dtype, DType::float32));
      },
      py::arg("ids"), py::arg("num_classes") = -1, py::arg("dtype") = py::none(),
      "(…) ids to (…, num_classes), 1 at the id. num_classes=-1: the largest id + 1.");
  ops.def(
      "pad",
      [](const Tensor& x, const py::object& pad_, const std::string& mode, const py::object& value) {
        std::vector<int64_t> pads = int_list("pad", pad_);
        return pad(x, pads, mode, value.is_none() ? 0 : value.cast<double>());
      },
      py::arg("x"), py::arg("pad"), py::arg("mode") = "constant", py::arg("value") = py::none(),
      "(before, after) pairs from the last dim backwards: (left, right, top, bottom); negative numbers crop.\n"
      "mode: constant, reflect, replicate, circular.");
}

template <class T>
std::pair<T, T> one_or_two(const char* op, const char* what, const py::object& v) {
  if (is_sequence(v)) {
    auto s = py::reinterpret_borrow<py::sequence>(v);
    check(s.size() == 1 || s.size() == 2, op, ": expected ", what, " as one or two numbers, got ", s.size());
    return {s[0].cast<T>(), s[s.size() - 1].cast<T>()};
  }
  return {v.cast<T>(), v.cast<T>()};
}

template <class T>
std::array<T, 3> one_or_three(const char* op, const char* what, const py::object& v) {
  if (!is_sequence(v)) return {v.cast<T>(), v.cast<T>(), v.cast<T>()};
  auto s = py::reinterpret_borrow<py::sequence>(v);
  check(s.size() == 3, op, ": expected ", what, " as one or three numbers, got ", s.size());
  return {s[0].cast<T>(), s[1].cast<T>(), s[2].cast<T>()};
}
template <class T>
T only_one(const char* op, const char* what, const py::object& v) {
  if (!is_sequence(v)) return v.cast<T>();
  auto s = py::reinterpret_borrow<py::sequence>(v);
  check(s.size() == 1, op, ": expected ", what, " as one number, got ", s.size());
  return s[0].cast<T>();
}
template <class F>
auto if_given(const py::object& v, F&& convert) -> std::optional<decltype(convert())> {
  if (v.is_none()) return std::nullopt;
  return convert();
}

Tensor interpolate_any(const Tensor& x, const py::object& size, const py::object& scale, const std::string& mode,
                       const py::object& align_corners, bool antialias) {
  constexpr const char *op = "interpolate", *factor = "scale_factor";
  const bool corners = !align_corners.is_none() && align_corners.cast<bool>();
  if (x.ndim() != 3 && x.ndim() != 5) {
    auto s = if_given(size, [&] { return int_pair(op, "size", size); });
    auto f = if_given(scale, [&] { return one_or_two<double>(op, factor, scale); });
    return without_gil([&] { return interpolate(x, s, f, mode, corners, antialias); });
  }
  check(!antialias, op, ": antialias is for images (N, C, H, W), got x of shape ", x.shape());
  if (x.ndim() == 3) {
    auto s = if_given(size, [&] { return only_one<int64_t>(op, "size", size); });
    auto f = if_given(scale, [&] { return only_one<double>(op, factor, scale); });
    return without_gil([&] { return interpolate1d(x, s, f, mode, corners); });
  }
  auto s = if_given(size, [&] { return one_or_three<int64_t>(op, "size", size); });
  auto f = if_given(scale, [&] { return one_or_three<double>(op, factor, scale); });
  return without_gil([&] { return interpolate3d(x, s, f, mode, corners); });
}

void bind_resample(py::module_& ops) {
  ops.def(
      "interpolate", &interpolate_any, py::arg("x"), py::arg("size") = py::none(),
      py::arg("scale_factor") = py::none(), py::arg("mode") = "nearest", py::arg("align_corners") = py::none(),
      py::arg("antialias") = false,
      "x (N, C, H, W) at size (h, w) or times scale_factor. mode: nearest, nearest-exact, area, bilinear, "
      "bicubic.\n"
      "x (N, C, L) at size l with linear in place of bilinear, x (N, C, D, H, W) at (d, h, w) with trilinear.");
  ops.def("pixel_shuffle", &pixel_shuffle, NoGil(), py::arg("x"), py::arg("upscale_factor"),
          "(…, C * r * r, H, W) to (…, C, H * r, W * r) (Shi et al. 2016).");
  ops.def("pixel_unshuffle", &pixel_unshuffle, NoGil(), py::arg("x"), py::arg("downscale_factor"),
          "(…, C, H * r, W * r) to (…, C * r * r, H, W).");
}

}  // namespace

void bind_ops_basic(py::module_& ops) {
  bind_creation(ops);
  bind_elementwise(ops);
  bind_reductions(ops);
  bind_shape(ops);
  bind_resample(ops);
}

}  // namespace fastcnn::bindings
