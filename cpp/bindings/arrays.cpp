// See arrays.h.
#include "arrays.h"

#include "fastcnn/ops.h"
#include "fastcnn/runtime.h"

namespace fastcnn::bindings {
namespace {

py::dtype numpy_dtype(DType t) {
  if (t == DType::bfloat16) {
    try {
      return py::dtype::from_args(py::module_::import("ml_dtypes").attr("bfloat16"));
    } catch (py::error_already_set&) {
      throw TypeError(
          "numpy: NumPy has no bfloat16 of its own; install ml_dtypes, or cast with .to(fc.float32) first");
    }
  }
  return py::dtype(t == DType::bool_ ? "bool" : dtype_name(t));
}

// Nested lists and numbers as an array; NumPy's own words about ragged lists and huge ints do not name the op.
py::array array_of(const py::object& data) {
  try {
    return py::array(py::module_::import("numpy").attr("asarray")(data));
  } catch (py::error_already_set& e) {
    if (!e.matches(PyExc_ValueError) && !e.matches(PyExc_OverflowError)) throw;
    throw ValueError(concat("tensor: expected numbers or lists of one shape, got data that NumPy refuses (",
                            py::str(e.value()).cast<std::string>(), ")"));
  }
}

// Integers in a list must fit into the dtype; arrays are cast as NumPy casts.
void check_range(const py::array& a, DType want) {
  if (a.dtype().kind() != 'i' || a.size() == 0 || is_floating(want) || want == DType::bool_) return;
  const py::object limits = py::module_::import("numpy").attr("iinfo")(dtype_name(want));
  for (const char* end : {"min", "max"}) {
    const auto value = a.attr(end)().cast<int64_t>();
    check(value >= limits.attr("min").cast<int64_t>() && value <= limits.attr("max").cast<int64_t>(),
          "tensor: the value ", value, " does not fit into ", want);
  }
}

}  // namespace

std::string name_of(const py::handle& v) {
  return py::isinstance<py::str>(v) ? v.cast<std::string>() : py::str(v).cast<std::string>();
}

DType dtype_of_array(const py::array& a) {
  py::object native = a.dtype().byteorder() == '>' ? a.dtype().attr("newbyteorder")("=") : py::object(a.dtype());
  std::string name = py::str(native).cast<std::string>();
  for (int i = 0; i < kDTypeCount; ++i)
    if (name == dtype_name(static_cast<DType>(i))) return static_cast<DType>(i);
  throw TypeError(concat("tensor: NumPy dtype ", name,
                         " is not supported; expected one of float32, bfloat16, float16, "
                         "float64, int64, int32, uint8, int8, bool"));
}

// A tensor over the array's memory where strides allow it.
Tensor wrap_array(const py::array& array, bool writeable_wanted) {
  py::array a = array;
  DType dtype = dtype_of_array(a);
  if (a.ndim() > kMaxDims) throw ValueError(concat("tensor: expected at most 8 dimensions, got ", a.ndim()));
  Dims shape, strides;
  bool whole = !(a.dtype().byteorder() == '>');
  for (int i = 0; i < a.ndim(); ++i) {
    shape.push_back(a.shape(i));
    whole &= a.strides(i) % static_cast<py::ssize_t>(dtype_size(dtype)) == 0;
    strides.push_back(a.strides(i) / static_cast<py::ssize_t>(dtype_size(dtype)));
  }
  whole &= reinterpret_cast<uintptr_t>(a.data()) % dtype_size(dtype) == 0;
  if (!whole)
    return wrap_array(
        py::array(a.attr("astype")(numpy_dtype(dtype).attr("newbyteorder")("="), py::arg("order") = "C")),
        writeable_wanted);
  auto* keep = new py::object(a);
  std::shared_ptr<void> owner(keep, [](void* p) {
    py::gil_scoped_acquire gil;
    delete static_cast<py::object*>(p);
  });
  Tensor t = from_blob(const_cast<void*>(a.data()), shape, strides, dtype, std::move(owner));
  if (!a.writeable()) set_readonly(t);
  return t;
}

py::object to_numpy(const Tensor& t) {
  if (t.device().type != DeviceType::cpu)
    throw ValueError("numpy: copy the tensor to the CPU first, with .to(\"cpu\")");
  void* data = t.data();
  std::vector<py::ssize_t> shape(t.shape().begin(), t.shape().end()), strides;
  for (int64_t s : t.strides()) strides.push_back(s * static_cast<py::ssize_t>(dtype_size(t.dtype())));
  py::capsule owner =
      is_readonly(t)
          ? py::capsule(new Tensor(t.detach()), [](void* p) { delete static_cast<Tensor*>(p); })
          : py::capsule(new MemoryExport(t.detach()), [](void* p) { delete static_cast<MemoryExport*>(p); });
  py::array a(numpy_dtype(t.dtype()), shape, strides, data, owner);
  if (is_readonly(t)) a.attr("flags").attr("writeable") = false;
  return a;
}

Tensor tensor_of(const py::object& data, const py::object& dtype, const py::object& device, bool requires_grad) {
  Tensor t;
  if (py::isinstance<Tensor>(data)) {
    t = data.cast<Tensor>().detach();
  } else {
    bool is_array = py::isinstance<py::array>(data);
    py::array a = is_array ? py::reinterpret_borrow<py::array>(data) : array_of(data);
    // Python floats are float32 here, as in PyTorch; NumPy arrays keep their dtype.
    const bool written_out = !is_array && !py::hasattr(data, "dtype");
    if (written_out && a.dtype().kind() == 'f') a = py::array(a.attr("astype")("float32"));
    if (written_out && !dtype.is_none()) check_range(a, dtype_from(dtype));
    t = wrap_array(a, false);
  }
  DType want = dtype.is_none() ? t.dtype() : dtype_from(dtype);
  Device dev = device.is_none() ? t.device() : parse_device(name_of(device));
  {
    py::gil_scoped_release nogil;
    t = want == t.dtype() ? clone(t) : cast(t, want);
    if (t.device() != dev) t = to_device(t, dev);
    t = t.detach();
  }
  if (requires_grad) t.set_requires_grad();
  return t;
}

Tensor constant_of(const py::object& data, const py::object& device) {
  const Tensor t = py::isinstance<Tensor>(data) ? data.cast<Tensor>() : wrap_array(array_of(data), false);
  const Device dev = parse_device(name_of(device));
  py::gil_scoped_release nogil;
  return constant(t, dev);
}

}  // namespace fastcnn::bindings
