// What it is: DLPack both ways, without copies: __dlpack__, __dlpack_device__, from_dlpack (array API 2023.12).
#include "dlpack.h"

#include "bindings.h"
#include "fastcnn/ops.h"
#include "fastcnn/runtime.h"

namespace fastcnn::bindings {
namespace {

DLDataType dl_dtype(DType t) {
  switch (t) {
    case DType::float32: return {kDLFloat, 32, 1};
    case DType::float64: return {kDLFloat, 64, 1};
    case DType::float16: return {kDLFloat, 16, 1};
    case DType::bfloat16: return {kDLBfloat, 16, 1};
    case DType::int64: return {kDLInt, 64, 1};
    case DType::int32: return {kDLInt, 32, 1};
    case DType::int8: return {kDLInt, 8, 1};
    case DType::uint8: return {kDLUInt, 8, 1};
    case DType::bool_: return {kDLBool, 8, 1};
  }
  return {};
}

DType dtype_of(DLDataType t) {
  if (t.lanes == 1)
    for (int i = 0; i < kDTypeCount; ++i) {
      DLDataType d = dl_dtype(static_cast<DType>(i));
      if (d.code == t.code && d.bits == t.bits) return static_cast<DType>(i);
    }
  PyErr_Format(PyExc_BufferError, "from_dlpack: element type (code %d, %d bits, %d lanes) is not supported",
               t.code, t.bits, t.lanes);
  throw py::error_already_set();
}

// What an exported capsule keeps alive.
struct Export {
  Tensor tensor;
  std::optional<MemoryExport> writer;
  int64_t shape[kMaxDims], strides[kMaxDims];
  DLManagedTensor plain;
  DLManagedTensorVersioned versioned;

  void fill(DLTensor& t) {
    for (int i = 0; i < tensor.ndim(); ++i) {
      shape[i] = tensor.shape()[i];
      strides[i] = tensor.strides()[i];
    }
    t.data = tensor.data();
    t.device = {tensor.device().type == DeviceType::cpu ? kDLCPU : kDLCUDA, tensor.device().index};
    t.ndim = tensor.ndim();
    t.dtype = dl_dtype(tensor.dtype());
    t.shape = shape;
    t.strides = strides;
    t.byte_offset = 0;
  }
};

[[noreturn]] void buffer_error(const char* message) {
  PyErr_SetString(PyExc_BufferError, message);
  throw py::error_already_set();
}

std::pair<int64_t, int64_t> int_tuple(const char* what, const py::object& v) {
  if (py::isinstance<py::tuple>(v) && py::len(v) == 2) return int_pair("__dlpack__", what, v);
  throw TypeError(
      concat("__dlpack__: expected ", what, " as a tuple of two ints, got ", py::repr(v).cast<std::string>()));
}

std::pair<int64_t, int64_t> device_pair(const Tensor& t) {
  return {t.device().type == DeviceType::cpu ? kDLCPU : kDLCUDA, t.device().index};
}

// The consumer's stream waits for what is queued here. None is the legacy default stream, -1 asks for nothing.
void wait_on(const py::object& stream) {
  int64_t s = 1;
  if (!stream.is_none()) {
    if (!py::isinstance<py::int_>(stream))
      throw TypeError("__dlpack__: expected stream as an int or None, got " +
                      py::repr(stream).cast<std::string>());
    s = stream.cast<int64_t>();
  }
  if (s == -1) return;
  if (s <= 0) {
    const std::string message = "__dlpack__: expected stream None, -1, 1, 2 or a handle, got " + std::to_string(s);
    buffer_error(message.c_str());
  }
  py::gil_scoped_release nogil;
  cuda_order_streams(static_cast<uintptr_t>(s), false);
}

py::object to_dlpack(const Tensor& self, const py::object& stream, const py::object& max_version,
                     const py::object& dl_device, const py::object& copy) {
  if (self.is_symbolic()) buffer_error("__dlpack__: the tensor has no values while compile traces the function");
  if (self.device().type == DeviceType::cpu && !stream.is_none())
    buffer_error("__dlpack__: expected stream=None for a CPU tensor");
  const bool keep = !copy.is_none() && !copy.cast<bool>();
  bool copied = !copy.is_none() && copy.cast<bool>();
  Tensor t = self.detach();
  if (!dl_device.is_none() && int_tuple("dl_device", dl_device) != device_pair(t)) {
    if (int_tuple("dl_device", dl_device).first != kDLCPU)
      buffer_error("__dlpack__: expected dl_device as the tensor's own or the CPU; use .to(device) first");
    if (keep) buffer_error("__dlpack__: another device needs a copy, and copy=False forbids it");
    py::gil_scoped_release nogil;
    t = to_device(t, Device{});
    copied = true;
  } else if (copied) {
    py::gil_scoped_release nogil;
    t = clone(t);
  }
  if (t.device().type == DeviceType::cuda) wait_on(stream);
  bool versioned = !max_version.is_none() && int_tuple("max_version", max_version).first >= 1;
  bool readonly = is_readonly(t);
  if (readonly && !versioned)
    buffer_error("__dlpack__: the memory is read-only and the consumer does not speak DLPack 1.0; clone() first");
  auto e = std::make_unique<Export>();
  e->tensor = t;
  if (!readonly) e->writer.emplace(t);
  if (versioned) {
    e->fill(e->versioned.dl_tensor);
    e->versioned.version = {1, 0};
    e->versioned.flags = (readonly ? kDLFlagReadOnly : 0) | (copied ? kDLFlagCopied : 0);
    e->versioned.manager_ctx = e.get();
    e->versioned.deleter = [](DLManagedTensorVersioned* m) { delete static_cast<Export*>(m->manager_ctx); };
    return py::reinterpret_steal<py::object>(
        PyCapsule_New(&e.release()->versioned, "dltensor_versioned", [](PyObject* c) {
          if (!PyCapsule_IsValid(c, "dltensor_versioned")) return;  // consumed
          auto* m = static_cast<DLManagedTensorVersioned*>(PyCapsule_GetPointer(c, "dltensor_versioned"));
          m->deleter(m);
        }));
  }
  e->fill(e->plain.dl_tensor);
  e->plain.manager_ctx = e.get();
  e->plain.deleter = [](DLManagedTensor* m) { delete static_cast<Export*>(m->manager_ctx); };
  return py::reinterpret_steal<py::object>(PyCapsule_New(&e.release()->plain, "dltensor", [](PyObject* c) {
    if (!PyCapsule_IsValid(c, "dltensor")) return;
    auto* m = static_cast<DLManagedTensor*>(PyCapsule_GetPointer(c, "dltensor"));
    m->deleter(m);
  }));
}

Tensor import_tensor(const DLTensor& t, std::shared_ptr<void> owner, bool readonly) {
  Device device;
  if (t.device.device_type == kDLCUDA || t.device.device_type == kDLCUDAManaged) {
    if (cuda_device_count() == 0) {
      const std::string message = "from_dlpack: got CUDA memory, but " + cuda_unavailable_reason();
      buffer_error(message.c_str());
    }
    if (t.device.device_id != 0) buffer_error("from_dlpack: expected memory of the first visible CUDA device");
    device = {DeviceType::cuda, 0};
  } else if (t.device.device_type != kDLCPU && t.device.device_type != kDLCUDAHost) {
    const std::string message =
        "from_dlpack: expected CPU or CUDA memory, got device type " + std::to_string(t.device.device_type);
    buffer_error(message.c_str());
  }
  if (t.ndim > kMaxDims) buffer_error("from_dlpack: more than 8 dimensions");
  DType dtype = dtype_of(t.dtype);
  Dims shape, strides;
  for (int i = 0; i < t.ndim; ++i) shape.push_back(t.shape[i]);
  if (t.strides) {
    for (int i = 0; i < t.ndim; ++i) strides.push_back(t.strides[i]);
  } else {
    strides = Dims(t.ndim, 1);
    for (int i = t.ndim - 2; i >= 0; --i) strides[i] = strides[i + 1] * shape[i + 1];
  }
  Tensor out =
      from_blob(static_cast<char*>(t.data) + t.byte_offset, shape, strides, dtype, std::move(owner), device);
  if (readonly) set_readonly(out);
  return out;
}

Tensor from_dlpack(const py::object& obj, const py::object& device, const py::object& copy) {
  std::optional<Device> wanted;
  if (!device.is_none())
    wanted =
        py::isinstance<Device>(device) ? device.cast<Device>() : parse_device(py::str(device).cast<std::string>());
  if (!py::hasattr(obj, "__dlpack__"))
    throw TypeError("from_dlpack: expected an object with __dlpack__, got " +
                    py::str(py::type::handle_of(obj).attr("__name__")).cast<std::string>());
  py::object capsule;
  py::dict ask;  // CUDA memory is ready for the stream of this library
  if (py::hasattr(obj, "__dlpack_device__") && cuda_device_count() > 0 &&
      int_tuple("what __dlpack_device__ gives", obj.attr("__dlpack_device__")()).first == kDLCUDA)
    ask["stream"] = py::int_(cuda_stream());
  try {
    capsule = obj.attr("__dlpack__")(py::arg("max_version") = py::make_tuple(1, 0), **ask);
  } catch (py::error_already_set& e) {
    if (!e.matches(PyExc_TypeError)) throw;
    capsule = obj.attr("__dlpack__")(**ask);  // a producer older than DLPack 1.0
  }
  PyObject* c = capsule.ptr();
  Tensor out;
  if (PyCapsule_IsValid(c, "dltensor_versioned")) {
    auto* m = static_cast<DLManagedTensorVersioned*>(PyCapsule_GetPointer(c, "dltensor_versioned"));
    if (m->version.major != 1) buffer_error("from_dlpack: this DLPack major version is not supported");
    PyCapsule_SetName(c, "used_dltensor_versioned");
    std::shared_ptr<void> owner(m, [](void* p) {
      py::gil_scoped_acquire gil;  // the deleter may be Python's
      auto* v = static_cast<DLManagedTensorVersioned*>(p);
      if (v->deleter) v->deleter(v);
    });
    out = import_tensor(m->dl_tensor, std::move(owner), m->flags & kDLFlagReadOnly);
  } else if (PyCapsule_IsValid(c, "dltensor")) {
    auto* m = static_cast<DLManagedTensor*>(PyCapsule_GetPointer(c, "dltensor"));
    PyCapsule_SetName(c, "used_dltensor");
    std::shared_ptr<void> owner(m, [](void* p) {
      py::gil_scoped_acquire gil;
      auto* v = static_cast<DLManagedTensor*>(p);
      if (v->deleter) v->deleter(v);
    });
    out = import_tensor(m->dl_tensor, std::move(owner), false);
  } else {
    buffer_error("from_dlpack: __dlpack__ did not return an unused DLPack capsule");
  }
  const bool elsewhere = wanted && *wanted != out.device();
  if (elsewhere && !copy.is_none() && !copy.cast<bool>())
    buffer_error("from_dlpack: another device needs a copy, and copy=False forbids it");
  py::gil_scoped_release nogil;
  if (elsewhere) return to_device(out, *wanted);
  return !copy.is_none() && copy.cast<bool>() ? clone(out) : out;
}

}  // namespace

void bind_dlpack(py::module_& m, TensorClass& c) {
  c.def("__dlpack__", &to_dlpack, py::kw_only(), py::arg("stream") = py::none(),
        py::arg("max_version") = py::none(), py::arg("dl_device") = py::none(), py::arg("copy") = py::none(),
        "The tensor as a DLPack capsule, without a copy (array API standard). BufferError where that is "
        "impossible.");
  c.def("__dlpack_device__", [](const Tensor& t) {
    const auto [type, index] = device_pair(t);
    return py::make_tuple(type, index);
  });
  m.def("from_dlpack", &from_dlpack, py::arg("obj"), py::kw_only(), py::arg("device") = py::none(),
        py::arg("copy") = py::none(),
        "A tensor over the memory of any DLPack producer (PyTorch, NumPy, CuPy, JAX …), without a copy.");
}

}  // namespace fastcnn::bindings
