// What it is: fc.ops and Tensor methods for order, running sums, triangles, repetition, einsum and comparison by
// tolerance. What it is not: checks of values; those are the ops'.
#include "args.h"

namespace fastcnn::bindings {
namespace {

py::tuple both(const std::pair<Tensor, Tensor>& r) { return py::make_tuple(r.first, r.second); }

Tensor cumsum_as(const Tensor& x, int dim, const py::object& dtype) {
  const DType t = dtype_or(dtype, x.dtype());
  const bool asked = !dtype.is_none();
  return without_gil([&] {
    Tensor y = cumsum(cast(x, t), dim);
    return asked ? cast(y, t) : y;
  });
}
py::tuple sort_both(const Tensor& x, int dim, bool descending, bool) {  // always stable
  return both(without_gil([&] { return sort(x, dim, descending); }));
}
py::tuple topk_both(const Tensor& x, int64_t k, int dim, bool largest, bool) {  // always sorted
  return both(without_gil([&] { return topk(x, k, dim, largest); }));
}
py::tuple tuple_of(const std::vector<Tensor>& parts) {
  py::tuple r(parts.size());
  for (size_t i = 0; i < parts.size(); ++i) r[i] = py::cast(parts[i]);
  return r;
}
// f(a, b) and f([a, b]) alike.
std::vector<Tensor> tensors_of(const py::args& args) {
  const bool list = args.size() == 1 && !py::isinstance<Tensor>(args[0]);
  return list ? args[0].cast<std::vector<Tensor>>() : args.cast<std::vector<Tensor>>();
}
py::object unique_of(const Tensor& x, bool sorted, bool return_inverse, bool return_counts) {  // always sorted
  const Unique u = without_gil([&] { return unique(x); });
  if (!return_inverse && !return_counts) return py::cast(u.values);
  if (!return_counts) return py::make_tuple(u.values, u.inverse);
  if (!return_inverse) return py::make_tuple(u.values, u.counts);
  return py::make_tuple(u.values, u.inverse, u.counts);
}
py::object nonzero_of(const Tensor& x, bool as_tuple) {
  const std::vector<Tensor> at = without_gil([&] { return nonzero(x); });
  return as_tuple ? py::object(tuple_of(at)) : py::cast(stack(at, 1));
}

constexpr const char* kArgsort =
    "Places (int64) of the elements along dim, the smallest first; equal ones in their order, NaN as the largest.";
constexpr const char* kSort = "(values, indices): the elements along dim in order and their places, as argsort.";
constexpr const char* kTopk =
    "(values, indices): the k largest (or smallest) along dim, in order, and their places.";
constexpr const char* kCumsum = "Running sums along dim; of integers and bools int64.";
constexpr const char* kTril = "x with zeros above a diagonal of each matrix: 0 the main one, above it positive.";
constexpr const char* kTriu = "x with zeros below a diagonal of each matrix.";
constexpr const char* kInterleave = "Each element `repeats` times along dim.";
constexpr const char* kNonzero =
    "Places of the elements that are not zero, (count, ndim), or with as_tuple a vector per dim. Not inside "
    "compile.";
constexpr const char* kUnique =
    "The different elements of all of x in order, (count,); with return_inverse also where in them each element "
    "lies, "
    "with\n"
    "return_counts how often each occurs, int64. Each NaN is one of its own. Not inside compile.";
constexpr const char* kMaskedSelect =
    "Elements of x where mask (bool, broadcast with x) is true, (count,). Not inside compile.";
constexpr const char* kScatterAdd =
    "x with src added at index along dim: y[index[i][j]][j] += src[i][j] for dim 0; src like index or larger.";
constexpr const char* kIsclose = "|a - b| <= atol + rtol * |b|, per element; infinities only where equal.";
constexpr const char* kAllclose = "Are all elements of isclose true?";

}  // namespace

void bind_ops_math(py::module_& ops, TensorClass& c) {
  const auto dim_last = py::arg("dim") = -1;
  ops.def("argsort", &argsort, NoGil(), py::arg("x"), dim_last, py::arg("descending") = false, kArgsort);
  ops.def("sort", &sort_both, py::arg("x"), dim_last, py::arg("descending") = false, py::arg("stable") = true,
          kSort);
  ops.def("topk", &topk_both, py::arg("x"), py::arg("k"), dim_last, py::arg("largest") = true,
          py::arg("sorted") = true, kTopk);
  ops.def("cumsum", &cumsum_as, py::arg("x"), py::arg("dim"), py::kw_only(), py::arg("dtype") = py::none(),
          kCumsum);
  ops.def("tril", &tril, NoGil(), py::arg("x"), py::arg("diagonal") = 0, kTril);
  ops.def("triu", &triu, NoGil(), py::arg("x"), py::arg("diagonal") = 0, kTriu);
  ops.def("repeat_interleave", &repeat_interleave, NoGil(), py::arg("x"), py::arg("repeats"), py::arg("dim"),
          kInterleave);
  ops.def(
      "tile",
      [](const Tensor& x, const py::object& dims) {
        std::vector<int64_t> times =
            PyIndex_Check(dims.ptr()) ? std::vector<int64_t>{int_from("tile", dims)} : int_list("tile", dims);
        while (static_cast<int>(times.size()) < x.ndim()) times.insert(times.begin(), 1);
        return without_gil([&] { return repeat(x, times); });
      },
      py::arg("x"), py::arg("dims"),
      "x repeated dims[i] times along each dim, the last dims where dims are fewer.");
  ops.def("outer", &outer, NoGil(), py::arg("a"), py::arg("b"), "Products of all pairs of two vectors: (M, N).");
  ops.def("isclose", &isclose, NoGil(), py::arg("a"), py::arg("b"), py::arg("rtol") = 1e-5, py::arg("atol") = 1e-8,
          py::arg("equal_nan") = false, kIsclose);
  ops.def("allclose", &allclose, NoGil(), py::arg("a"), py::arg("b"), py::arg("rtol") = 1e-5,
          py::arg("atol") = 1e-8, py::arg("equal_nan") = false, kAllclose);
  ops.def("unique", &unique_of, py::arg("x"), py::arg("sorted") = true, py::arg("return_inverse") = false,
          py::arg("return_counts") = false, kUnique);
  ops.def("masked_select", &masked_select, NoGil(), py::arg("x"), py::arg("mask"), kMaskedSelect);
  ops.def("scatter_add", &scatter_add, NoGil(), py::arg("x"), py::arg("dim"), py::arg("index"), py::arg("src"),
          kScatterAdd);
  ops.def("nonzero", &nonzero_of, py::arg("x"), py::kw_only(), py::arg("as_tuple") = false, kNonzero);
  ops.def(
      "meshgrid",
      [](const py::args& args, const std::string& indexing) {
        const std::vector<Tensor> axes = tensors_of(args);
        return tuple_of(without_gil([&] { return meshgrid(axes, indexing); }));
      },
      py::arg("indexing") = "ij",
      "Grids of the coordinates that vectors give, one per vector: each of shape (len of all), for 'xy' with the "
      "first\n"
      "two dims swapped.");
  ops.def(
      "einsum",
      [](const std::string& equation, const py::args& args) {
        const std::vector<Tensor> operands = tensors_of(args);
        return without_gil([&] { return einsum(equation, operands); });
      },
      py::arg("equation"),
      "Sums of products over named dims: einsum('bij,bjk->bik', a, b). A dim that the result does not name is "
      "summed;\n"
      "a letter twice in an operand takes its diagonal; '...' stands for dims that are broadcast. Operands from "
      "left "
      "to\n"
      "right, each pair as one product of matrices. ValueError if the equation or sizes do not fit.");
  ops.def(
      "linspace",
      [](double start, double end, int64_t steps, const py::object& dtype, const py::object& device) {
        return linspace(start, end, steps, dtype_or(dtype, DType::float32), device_from(device));
      },
      py::arg("start"), py::arg("end"), py::arg("steps"), py::kw_only(), py::arg("dtype") = py::none(),
      py::arg("device") = py::none(), "steps numbers from start to end, which is the last of them.");
  ops.def(
      "eye",
      [](int64_t n, std::optional<int64_t> m, const py::object& dtype, const py::object& device) {
        return eye(n, m.value_or(n), dtype_or(dtype, DType::float32), device_from(device));
      },
      py::arg("n"), py::arg("m") = py::none(), py::kw_only(), py::arg("dtype") = py::none(),
      py::arg("device") = py::none(), "Ones on the main diagonal of (n, m), zeros elsewhere.");

  c.def("argsort", &argsort, NoGil(), dim_last, py::arg("descending") = false, kArgsort);
  c.def("sort", &sort_both, dim_last, py::arg("descending") = false, py::arg("stable") = true, kSort);
  c.def("topk", &topk_both, py::arg("k"), dim_last, py::arg("largest") = true, py::arg("sorted") = true, kTopk);
  c.def("cumsum", &cumsum_as, py::arg("dim"), py::kw_only(), py::arg("dtype") = py::none(), kCumsum);
  c.def("tril", &tril, NoGil(), py::arg("diagonal") = 0, kTril);
  c.def("triu", &triu, NoGil(), py::arg("diagonal") = 0, kTriu);
  c.def("repeat_interleave", &repeat_interleave, NoGil(), py::arg("repeats"), py::arg("dim"), kInterleave);
  c.def(
      "repeat",
      [](const Tensor& x, const py::args& args) {
        const Dims d = shape_args("repeat", args);
        return without_gil([&] { return repeat(x, {d.begin(), d.end()}); });
      },
      "The whole tensor repeat(*numbers) times along each dim; numbers beyond its dims make new ones in front.");
  c.def("isclose", &isclose, NoGil(), py::arg("other"), py::arg("rtol") = 1e-5, py::arg("atol") = 1e-8,
        py::arg("equal_nan") = false, kIsclose);
  c.def("allclose", &allclose, NoGil(), py::arg("other"), py::arg("rtol") = 1e-5, py::arg("atol") = 1e-8,
        py::arg("equal_nan") = false, kAllclose);
  c.def("unique", &unique_of, py::arg("sorted") = true, py::arg("return_inverse") = false,
        py::arg("return_counts") = false, kUnique);
  c.def("masked_select", &masked_select, NoGil(), py::arg("mask"), kMaskedSelect);
  c.def("scatter_add", &scatter_add, NoGil(), py::arg("dim"), py::arg("index"), py::arg("src"), kScatterAdd);
  c.def("bernoulli", &bernoulli, NoGil(), "As fastcnn.bernoulli(x).");
  c.def("nonzero", &nonzero_of, py::kw_only(), py::arg("as_tuple") = false, kNonzero);
  c.def(
      "logsumexp",
      [](const Tensor& x, const py::object& dim, bool keepdim) {
        std::vector<int> dims = dim_list("logsumexp", dim);
        return without_gil([&] { return logsumexp(x, dims, keepdim); });
      },
      py::arg("dim"), py::arg("keepdim") = false, "log(sum(exp(x))) over dim, without overflow.");
}

}  // namespace fastcnn::bindings
