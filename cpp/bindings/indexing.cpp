// What it is: x[...] and x[...] = v as PyTorch reads them, with negative steps: ints, slices, None, Ellipsis
// (views), index arrays and bool masks (copies). Masks are read on the host, so not inside
// compile.
#include <algorithm>

#include "args.h"
#include "fastcnn/autograd.h"

namespace fastcnn::bindings {
namespace {

struct Item {
  enum class Kind { integer, slice, none, ellipsis, indices } kind;
  int64_t index = 0;
  py::object slice{};
  std::vector<Tensor>
      indices{};  // one per dim they stand for: an index tensor has one, a mask as many as its rank
  Dims mask{};    // shape of the mask that the indices come from
  int dims() const {
    return kind == Kind::indices                          ? static_cast<int>(indices.size())
           : kind == Kind::integer || kind == Kind::slice ? 1
                                                          : 0;
  }
};

Item item_from(const py::handle& v) {
  if (v.is_none()) return {Item::Kind::none};
  if (v.ptr() == Py_Ellipsis) return {Item::Kind::ellipsis};
  if (PySlice_Check(v.ptr())) return {Item::Kind::slice, 0, py::reinterpret_borrow<py::object>(v)};
  bool is_array = py::isinstance<Tensor>(v) || is_sequence(v) || py::hasattr(v, "__array__");
  if (!PyBool_Check(v.ptr()) && PyIndex_Check(v.ptr()) &&
      (!is_array || (py::hasattr(v, "ndim") && !py::isinstance<Tensor>(v) && v.attr("ndim").cast<int>() == 0))) {
    int64_t i = PyNumber_AsSsize_t(v.ptr(), PyExc_IndexError);  // IndexError where int64 is too small
    if (i == -1 && PyErr_Occurred()) throw py::error_already_set();
    return {Item::Kind::integer, i};
  }
  if (is_array && !PyBool_Check(v.ptr())) {
    Tensor t = py::isinstance<Tensor>(v) ? v.cast<Tensor>()
                                         : py::module_::import("fastcnn._core").attr("tensor")(v).cast<Tensor>();
    if (t.numel() == 0 && is_floating(t.dtype())) t = cast(t, DType::int64);  // []
    check<IndexError>(t.dtype() != DType::uint8,
                      "index: a uint8 tensor may mean a mask or places; give it .bool() or .long()");
    if (t.dtype() == DType::bool_) return {Item::Kind::indices, 0, {}, nonzero(t), t.shape()};
    if (!is_floating(t.dtype())) return {Item::Kind::indices, 0, {}, {cast(t.detach(), DType::int64)}};
    throw IndexError(concat("index: expected an integer or bool tensor, got ", t.dtype()));
  }
  throw TypeError("index: expected ints, slices, None, Ellipsis, integer tensors or bool masks, got " +
                  py::repr(v).cast<std::string>());
}

std::vector<Item> items_from(const Tensor& x, const py::object& key) {
  std::vector<Item> items;
  if (py::isinstance<py::tuple>(key)) {
    for (py::handle h : py::reinterpret_borrow<py::tuple>(key)) items.push_back(item_from(h));
  } else {
    items.push_back(item_from(key));
  }
  int dims = 0, ellipses = 0;
  for (const Item& i : items) {
    dims += i.dims();
    ellipses += i.kind == Item::Kind::ellipsis;
  }
  if (ellipses > 1) throw IndexError("index: expected at most one Ellipsis");
  if (dims > x.ndim()) throw IndexError(concat("index: ", dims, " indices are too many for shape ", x.shape()));
  if (!ellipses) items.push_back({Item::Kind::ellipsis});
  for (Item& i : items)  // positions may come from the host
    for (Tensor& t : i.indices) t = to_device(t, x.device());
  return items;
}

Tensor take_slice(const Tensor& x, int dim, const py::object& s) {
  Py_ssize_t start, stop, step;
  if (PySlice_Unpack(s.ptr(), &start, &stop, &step) != 0) throw py::error_already_set();
  py::gil_scoped_release release;
  return slice(x, dim, start, stop, step);
}

void check_broadcast(const Dims& a, const Dims& b) {
  bool fits = true;
  for (int i = 1; i <= std::min(a.size(), b.size()); ++i) {
    const int64_t m = a[a.size() - i], n = b[b.size() - i];
    fits = fits && (m == n || m == 1 || n == 1);
  }
  check<IndexError>(fits, "index: expected index tensors whose shapes broadcast, got ", a, " and ", b);
}

// Index tensors for neighbouring dims first, first + 1, …: one index into these dims made one.
Tensor take_indices(const Tensor& x, int first, const std::vector<Tensor>& indices) {
  py::gil_scoped_release release;
  int k = static_cast<int>(indices.size());
  Tensor at;
  for (int i = 0; i < k; ++i) {
    if (at.defined()) check_broadcast(at.shape(), indices[i].shape());
    int64_t n = x.shape()[first + i];
    Tensor index = indices[i];
    if (k > 1) {  // a linear index would hide what is out of range
      if (index.numel() > 0 && !index.is_symbolic()) {
        double low = amin(index).item(), high = amax(index).item();
        check<IndexError>(low >= static_cast<double>(-n) && high < static_cast<double>(n),
                          "index: expected indices in [", -n, ", ", n, ") for dim ", first + i, " of shape ",
                          x.shape(), ", got ", high < static_cast<double>(n) ? low : high);
      }
      const Tensor zero = zeros({}, DType::int64, index.device()),
                   size = full({}, n, DType::int64, index.device());
      Tensor wrapped = where(lt(index, zero), affine(index, 1, static_cast<double>(n)), index);
      if (index.is_symbolic())  // values unknown: out of range here is out of range for all dims together
        wrapped = where(logical_and(ge(wrapped, zero), lt(wrapped, size)), wrapped,
                        full({}, static_cast<double>(x.numel()), DType::int64, index.device()));
      index = wrapped;
    }
    at = i == 0 ? index : add(affine(at, static_cast<double>(n), 0), index);
  }
  Tensor y = k > 1 ? flatten(x, first, first + k - 1) : x;
  y = index_select(y, first, reshape(at, {at.numel()}));
  Dims shape;
  for (int d = 0; d < first; ++d) shape.push_back(y.shape()[d]);
  for (int64_t n : at.shape()) shape.push_back(n);
  for (int d = first + 1; d < y.ndim(); ++d) shape.push_back(y.shape()[d]);
  return reshape(y, shape);
}

bool has_indices(const std::vector<Item>& items) {
  return std::any_of(items.begin(), items.end(), [](const Item& i) { return i.kind == Item::Kind::indices; });
}

Tensor get(const Tensor& x, const std::vector<Item>& items) {
  int used = 0;
  for (const Item& i : items) used += i.dims();
  Tensor y = x;
  int d = 0;
  std::vector<Tensor> indices;
  std::vector<int> places;  // the dim of each index tensor; ints are views first, as in PyTorch
  for (const Item& i : items) {
    switch (i.kind) {
      case Item::Kind::integer: y = select(y, d, i.index); break;
      case Item::Kind::slice: y = take_slice(y, d++, i.slice); break;
      case Item::Kind::none: y = unsqueeze(y, d++); break;
      case Item::Kind::ellipsis: d += x.ndim() - used; break;
      case Item::Kind::indices:
        for (int k = 0; k < i.mask.size(); ++k)
          check<IndexError>(i.mask[k] == y.shape()[d + k], "index: mask of shape ", i.mask,
                            " does not fit x of shape ", x.shape(), " at dim ", d);
        for (const Tensor& t : i.indices) {
          indices.push_back(t);
          places.push_back(d++);
        }
        break;
    }
  }
  if (places.empty()) return y;
  if (places.back() - places.front() + 1 == static_cast<int>(places.size()))
    return take_indices(y, places.front(), indices);
  std::vector<int> order = places;  // dims apart from each other: what they pick comes first, as in NumPy
  for (int k = 0; k < y.ndim(); ++k)
    if (std::find(places.begin(), places.end(), k) == places.end()) order.push_back(k);
  return take_indices(permute(y, order), 0, indices);
}

Tensor value_tensor(const Tensor& x, const py::object& value) {
  if (auto n = number_from(value)) return full({}, n->value, x.dtype(), x.device());
  if (py::isinstance<Tensor>(value)) return to_device(value.cast<Tensor>().detach(), x.device());
  return to_device(py::module_::import("fastcnn._core").attr("tensor")(value).cast<Tensor>(), x.device());
}

void set(const Tensor& self, const py::object& key, const py::object& value) {
  check(!(is_grad_enabled() && self.requires_grad()),
        "setitem: a tensor that requires gradients cannot be changed in place; do it under no_grad");
  check(!(is_grad_enabled() && py::isinstance<Tensor>(value) && value.cast<Tensor>().requires_grad()),
        "setitem: gradients do not flow through in-place ops; build the tensor with cat or where, or use no_grad");
  NoGrad off;
  Tensor x = self.detach(), v = value_tensor(x, value);
  if (py::isinstance<Tensor>(key) && key.cast<Tensor>().dtype() == DType::bool_ && v.numel() == 1) {
    Tensor mask = key.cast<Tensor>();  // without reading the mask, so also inside compile
    check<IndexError>(mask.ndim() <= x.ndim(), "setitem: mask of shape ", mask.shape(),
                      " does not fit x of shape ", x.shape());
    for (int d = 0; d < mask.ndim(); ++d)
      check<IndexError>(mask.shape()[d] == x.shape()[d], "setitem: mask of shape ", mask.shape(),
                        " does not fit x of shape ", x.shape());
    Dims shape = mask.shape();
    while (shape.size() < x.ndim()) shape.push_back(1);
    without_gil([&] { copy_(x, where(reshape(mask, shape), cast(reshape(v, {}), x.dtype()), x)); });
    return;
  }
  std::vector<Item> items = items_from(x, key);
  if (!has_indices(items)) {
    Tensor part = get(x, items);
    auto number = number_from(value);
    without_gil([&] {
      if (part.overlaps() && number)
        fill_(part, number->value);  // one value for all, also where they share memory
      else if (part.numel() > 0)
        copy_(part, v);
    });
    return;
  }
  // Positions of a tensor that counts its elements say where each value goes.
  Tensor places =
      get(reshape(arange(0, static_cast<double>(x.numel()), 1, DType::int64, x.device()), x.shape()), items);
  without_gil([&] {
    Tensor from = contiguous(reshape(expand(v, places.shape()), {v.numel() == 0 ? 0 : places.numel()}));
    Tensor at = contiguous(reshape(places, {places.numel()}));
    copy_(x, reshape(index_put(reshape(x.detach(), {x.numel()}), at, from), x.shape()));
  });
}

}  // namespace

void bind_indexing(TensorClass& c) {
  c.def("__getitem__",
        [](const Tensor& x, const py::object& key) {
          if (PyLong_CheckExact(key.ptr())) {  // the common case, and iteration
            int64_t i = PyNumber_AsSsize_t(key.ptr(), PyExc_IndexError);
            if (i == -1 && PyErr_Occurred()) throw py::error_already_set();
            return select(x, 0, i);
          }
          return get(x, items_from(x, key));
        })
      .def("__setitem__", &set)
      .def("__contains__",
           [](const Tensor& x, const py::object& v) {
             auto o = operands_from(py::cast(x), v, true);
             return o && any(eq(o->a, o->b)).item() != 0;
           })
      .def("__len__",
           [](const Tensor& x) {
             if (x.ndim() == 0) throw TypeError("len: a tensor of shape () has no length");
             return x.shape()[0];
           })
      .def("__iter__", [](const Tensor& x) {
        if (x.ndim() == 0) throw TypeError("iter: a tensor of shape () cannot be iterated over");
        py::list rows;
        for (int64_t i = 0; i < x.shape()[0]; ++i) rows.append(select(x, 0, i));
        return py::iter(rows);
      });
}

}  // namespace fastcnn::bindings
