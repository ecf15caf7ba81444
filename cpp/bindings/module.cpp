// What it is: the Python module _core: dtypes, Tensor, grad mode, runtime switches.
// What it is not: ops (ops_*.cpp, tensor_ops.cpp), exchange with NumPy (arrays.cpp), DLPack (dlpack.cpp) or
// compile (compile.cpp).
#include <pybind11/numpy.h>

#include <cstring>
#include <span>
#include <system_error>

#include "arrays.h"
#include "bindings.h"
#include "fastcnn/autograd.h"
#include "fastcnn/ops.h"
#include "fastcnn/runtime.h"

namespace fastcnn::bindings {

int64_t int_from(const char* op, const py::handle& v) {
  PyObject* p = v.ptr();
  if (PyFloat_Check(p) || !PyIndex_Check(p))
    throw TypeError(concat(op, ": expected an int, got ", py::repr(v).cast<std::string>()));
  auto i = py::reinterpret_steal<py::object>(PyNumber_Index(p));
  if (!i) throw py::error_already_set();
  int overflow = 0;
  long long value = PyLong_AsLongLongAndOverflow(i.ptr(), &overflow);
  check(!overflow, op, ": expected an int that fits into int64, got ", py::repr(v).cast<std::string>());
  return value;
}

std::vector<int64_t> int_list(const char* op, const py::handle& v) {
  if (!py::isinstance<py::sequence>(v) || py::isinstance<py::str>(v) || py::isinstance<Tensor>(v))
    throw TypeError(concat(op, ": expected a sequence of ints, got ", py::repr(v).cast<std::string>()));
  std::vector<int64_t> out;
  // Objects, not handles: arrays make their items as they are asked for them.
  for (const py::object h : py::reinterpret_borrow<py::sequence>(v)) out.push_back(int_from(op, h));
  return out;
}

std::pair<int64_t, int64_t> int_pair(const char* op, const char* what, const py::object& v) {
  if (PyIndex_Check(v.ptr())) {
    int64_t i = int_from(op, v);
    return {i, i};
  }
  if (py::isinstance<py::sequence>(v) && !py::isinstance<py::str>(v)) {
    auto s = py::reinterpret_borrow<py::sequence>(v);
    if (s.size() == 2) return {int_from(op, s[0]), int_from(op, s[1])};
    if (s.size() == 1) return {int_from(op, s[0]), int_from(op, s[0])};
  }
  throw TypeError(
      concat(op, ": expected ", what, " as an int or a pair of ints, got ", py::repr(v).cast<std::string>()));
}

Dims dims_from(const char* op, const py::handle& v) {
  if (!py::isinstance<py::sequence>(v) && PyIndex_Check(v.ptr())) return Dims{int_from(op, v)};
  std::vector<int64_t> list = int_list(op, v);
  check(list.size() <= kMaxDims, op, ": expected at most ", kMaxDims, " dimensions, got ", list.size());
  return Dims(std::span<const int64_t>(list));
}

namespace {

py::object item(const Tensor& t) {
  double v = t.item();
  switch (t.dtype()) {
    case DType::bool_: return py::bool_(v != 0);
    case DType::int64: return py::int_(*to_device(t.detach(), Device{}).data<int64_t>());
    case DType::int32:
    case DType::uint8:
    case DType::int8: return py::int_(static_cast<int64_t>(v));
    default: return py::float_(v);
  }
}

std::string repr(const Tensor& t) {
  std::string tail =
      concat(", dtype=", t.dtype(), t.device().type == DeviceType::cpu ? "" : concat(", device=", t.device()),
             t.requires_grad() ? ", requires_grad=True" : "");
  if (t.is_symbolic()) return concat("tensor(<traced by compile>, shape=", t.shape(), tail, ")");
  Tensor shown = to_device(t.detach(), Device{});
  if (t.dtype() == DType::bfloat16) shown = cast(shown, DType::float32);
  py::object a = to_numpy(shown);
  std::string body = py::module_::import("numpy")
                         .attr("array2string")(a, py::arg("separator") = ", ", py::arg("prefix") = "tensor(")
                         .cast<std::string>();
  return concat("tensor(", body, tail, ")");
}

Tensor to(const Tensor& self, const py::args& args, const py::kwargs& kwargs) {
  Tensor t = self;
  auto one = [&](const py::handle& v) {
    if (v.is_none()) return;
    py::object o = py::reinterpret_borrow<py::object>(v);
    if (py::isinstance<Tensor>(o)) {
      t = to_device(cast(t, o.cast<Tensor>().dtype()), o.cast<Tensor>().device());
    } else if (py::isinstance<Device>(o)) {
      t = to_device(t, o.cast<Device>());
    } else if (py::isinstance<py::str>(o) &&
               (o.cast<std::string>() == "cpu" || o.cast<std::string>().rfind("cuda", 0) == 0)) {
      t = to_device(t, parse_device(o.cast<std::string>()));
    } else {
      t = cast(t, dtype_from(o));
    }
  };
  for (const py::handle& a : args) one(a);
  for (const auto& [key, value] : kwargs) {
    std::string k = py::str(key);
    if (k != "dtype" && k != "device" && k != "copy")
      throw TypeError("to: expected dtype, device or copy, got '" + k + "'");
    if (k == "copy") {
      if (value.cast<bool>() && t.impl() == self.impl()) t = clone(t);
    } else {
      one(value);
    }
  }
  return t;
}

}  // namespace

DType dtype_from(const py::object& v) {
  if (py::isinstance<DType>(v)) return v.cast<DType>();
  std::string name;
  if (py::isinstance<py::str>(v))
    name = v.cast<std::string>();
  else if (py::hasattr(v, "__name__"))
    name = py::str(v.attr("__name__"));  // numpy.float32, float, int
  else
    name = py::str(v).cast<std::string>();
  if (auto dot = name.rfind('.'); dot != std::string::npos) name = name.substr(dot + 1);
  if (name == "float" || name == "half" || name == "double" || name == "long" || name == "int" || name == "bool_")
    name = name == "float"    ? "float32"
           : name == "half"   ? "float16"
           : name == "double" ? "float64"
           : name == "bool_"  ? "bool"
                              : "int64";
  for (int i = 0; i < kDTypeCount; ++i)
    if (name == dtype_name(static_cast<DType>(i))) return static_cast<DType>(i);
  throw TypeError("dtype: expected float32, bfloat16, float16, float64, int64, int32, uint8, int8 or bool, got " +
                  py::repr(v).cast<std::string>());
}

}  // namespace fastcnn::bindings

using namespace fastcnn;            // NOLINT
using namespace fastcnn::bindings;  // NOLINT

PYBIND11_MODULE(_core, m) {
  m.doc() = "The compiled core of fastcnn: tensors, ops with gradients, compile.";
  py::register_exception_translator([](std::exception_ptr p) {
    // Paths in messages may hold bytes that are no UTF-8.
    const auto text = [](const char* what) {
      return py::reinterpret_steal<py::object>(
          PyUnicode_DecodeUTF8(what, static_cast<Py_ssize_t>(std::strlen(what)), "backslashreplace"));
    };
    try {
      if (p) std::rethrow_exception(p);
    } catch (const TypeError& e) {
      PyErr_SetString(PyExc_TypeError, e.what());
    } catch (const MemoryError& e) {
      PyErr_SetString(PyExc_MemoryError, e.what());
    } catch (const py::cast_error&) {  // an argument of another type than the conversion asked for
      PyErr_SetString(PyExc_TypeError, "argument: expected another type of value; see the function's signature");
    } catch (const std::system_error& e) {  // OSError chooses its subclass by the number
      PyErr_SetObject(PyExc_OSError, py::make_tuple(e.code().value(), text(e.what())).ptr());
    } catch (const std::invalid_argument& e) {
      PyErr_SetObject(PyExc_ValueError, text(e.what()).ptr());
    }
  });

  auto dtype = py::class_<DType>(m, "dtype", "Element type of a tensor.");
  dtype.def(py::init([](const py::object& v) { return dtype_from(v); }))
      .def("__repr__", [](DType t) { return std::string("fastcnn.") + dtype_name(t); })
      .def("__str__", [](DType t) { return std::string(dtype_name(t)); })
      .def("__hash__", [](DType t) { return static_cast<int>(t); })
      .def("__eq__",
           [](DType a, const py::object& o) {
             if (py::isinstance<DType>(o)) return a == o.cast<DType>();
             try {
               return a == dtype_from(o);
             } catch (const TypeError&) {
               return false;
             }
           })
      .def("__reduce__",
           [](DType t) {
             return py::make_tuple(py::module_::import("fastcnn._core").attr("dtype"),
                                   py::make_tuple(dtype_name(t)));
           })
      .def_property_readonly("name", [](DType t) { return std::string(dtype_name(t)); })
      .def_property_readonly("itemsize", [](DType t) { return dtype_size(t); })
      .def_property_readonly("is_floating_point", [](DType t) { return is_floating(t); });
  for (int i = 0; i < kDTypeCount; ++i) {
    DType t = static_cast<DType>(i);
    m.attr(t == DType::bool_ ? "bool" : dtype_name(t)) = py::cast(t);
  }

  py::class_<Device>(m, "device", "Where a tensor lives: 'cpu' or 'cuda:N'.")
      .def(py::init([](const std::string& s) { return parse_device(s); }))
      .def_property_readonly("type", [](const Device& d) { return d.type == DeviceType::cpu ? "cpu" : "cuda"; })
      .def_readonly("index", &Device::index)
      .def("__repr__", [](const Device& d) { return concat("device('", d, "')"); })
      .def("__str__", [](const Device& d) { return concat(d); })
      .def("__hash__", [](const Device& d) { return static_cast<int>(d.type) * 1024 + d.index; })
      .def("__eq__",
           [](const Device& d, const py::object& o) {
             if (py::isinstance<Device>(o)) return d == o.cast<Device>();
             if (!py::isinstance<py::str>(o)) return false;
             std::string s = o.cast<std::string>();
             return s == concat(d) || (s == "cuda" && d.type == DeviceType::cuda && d.index == 0);
           })
      .def(py::pickle([](const Device& d) { return py::make_tuple(concat(d)); },
                      [](const py::tuple& t) { return parse_device(t[0].cast<std::string>()); }));

  TensorClass c(m, "Tensor", "A strided view of memory on a device, with its place in autograd.");
  c.def(py::init([](const Tensor& t) { return t; }), py::arg("other"), "Another handle of the same tensor.")
      .def_property_readonly("shape",
                             [](const Tensor& t) {
                               py::tuple s(t.ndim());
                               for (int i = 0; i < t.ndim(); ++i) s[i] = py::int_(t.shape()[i]);
                               return s;
                             })
      .def(
          "size",
          [](const Tensor& t, const py::object& dim) -> py::object {
            if (!dim.is_none()) return py::int_(t.size(dim.cast<int>()));
            return py::cast(t).attr("shape");
          },
          py::arg("dim") = py::none())
      .def(
          "stride",
          [](const Tensor& t) {
            py::tuple s(t.ndim());
            for (int i = 0; i < t.ndim(); ++i) s[i] = py::int_(t.strides()[i]);
            return s;
          },
          "Strides in elements.")
      .def_property_readonly("ndim", &Tensor::ndim)
      .def("dim", &Tensor::ndim)
      .def("numel", &Tensor::numel)
      .def("element_size", [](const Tensor& t) { return dtype_size(t.dtype()); })
      .def_property_readonly(
          "nbytes", [](const Tensor& t) { return t.numel() * static_cast<int64_t>(dtype_size(t.dtype())); })
      .def_property_readonly("dtype", &Tensor::dtype)
      .def_property_readonly("device", &Tensor::device)
      .def_property("requires_grad", &Tensor::requires_grad, [](Tensor& t, bool on) { t.set_requires_grad(on); })
      .def(
          "requires_grad_", [](Tensor& t, bool on) { return t.set_requires_grad(on); },
          py::arg("requires_grad") = true)
      .def_property_readonly("is_leaf", &Tensor::is_leaf)
      .def_property(
          "grad",
          [](const Tensor& t) -> py::object {
            Tensor g = t.grad();
            return g.defined() ? py::cast(g) : py::none();
          },
          [](const Tensor& t, const py::object& g) { t.set_grad(g.is_none() ? Tensor() : g.cast<Tensor>()); })
      .def(
          "backward",
          [](const Tensor& t, const py::object& g, bool retain_graph, bool create_graph) {
            std::vector<Tensor> grads;
            if (!g.is_none()) grads.push_back(g.cast<Tensor>());
            py::gil_scoped_release nogil;
            backward({t}, grads, create_graph, retain_graph);
          },
          py::arg("grad") = py::none(), py::arg("retain_graph") = false, py::arg("create_graph") = false,
          "Adds the gradients of this tensor with respect to all leaves to their .grad.")
      .def("detach", &Tensor::detach, "The same memory without history.")
      .def(
          "clone", [](const Tensor& t) { return clone(t); }, NoGil(),
          "A copy in new memory; gradients flow through.")
      .def(
          "contiguous", [](const Tensor& t) { return contiguous(t); }, NoGil())
      .def("is_contiguous", &Tensor::is_contiguous,
           "Dense in canonical layout: channels-last for 4-D, else row-major.")
      .def_property_readonly("is_symbolic", &Tensor::is_symbolic)
      .def("data_ptr", [](const Tensor& t) { return reinterpret_cast<uintptr_t>(t.data()); })
      .def("to", &to,
           "to('cpu' | 'cuda' | dtype | tensor, dtype=, device=, copy=): the tensor itself if nothing changes.")
      .def("numpy", &to_numpy, "A NumPy view of the same memory.")
      .def(
          "__array__",
          [](const Tensor& t, const py::object& dtype, const py::object& copy) -> py::object {
            py::object a = to_numpy(t);
            bool never = !copy.is_none() && !copy.cast<bool>();
            if (!dtype.is_none()) {
              check(!never || py::module_::import("numpy").attr("dtype")(dtype).equal(a.attr("dtype")),
                    "__array__: copy=False, but another dtype than ", t.dtype(), " needs a copy");
              a = a.attr("astype")(dtype, py::arg("copy") = false);
            }
            if (!copy.is_none() && copy.cast<bool>()) a = a.attr("copy")();
            return a;
          },
          py::arg("dtype") = py::none(), py::arg("copy") = py::none())
      .def("item", &item, "The one element as a Python number.")
      .def("tolist",
           [](const Tensor& t) {
             return to_numpy(t.dtype() == DType::bfloat16 ? cast(t.detach(), DType::float32) : t).attr("tolist")();
           })
      .def("__repr__", &repr)
      .def("__format__",
           [](const Tensor& t, const std::string& spec) -> py::object {
             if (spec.empty() || t.ndim() > 0 || t.is_symbolic()) {
               check<TypeError>(spec.empty(),
                                "format: expected a tensor of shape () for a format of numbers, got ", t.shape());
               return py::str(repr(t));
             }
             return item(t).attr("__format__")(spec);
           })
      .def("__hash__", [](const Tensor& t) { return reinterpret_cast<intptr_t>(identity(t)) >> 4; })
      .def(
          "is_same", [](const Tensor& a, const Tensor& b) { return identity(a) == identity(b); },
          "Handles of one tensor?")
      .def("__deepcopy__",
           [](const Tensor& t, const py::dict&) {
             Tensor n = clone(t.detach());
             if (t.is_leaf() && t.requires_grad()) {
               n.set_requires_grad();
               if (const Tensor grad = t.grad(); grad.defined()) n.set_grad(clone(grad.detach()));
             }
             return n;
           })
      .def("__reduce__",
           [](const Tensor& t) {
             return py::make_tuple(
                 py::module_::import("fastcnn._core").attr("tensor"),
                 py::make_tuple(to_numpy(t), t.dtype(), py::none(), t.requires_grad() && t.is_leaf()));
           })
      .def(
          "_reseat", [](Tensor& t, const Tensor& other) { t = other; }, py::arg("other"),
          "This handle becomes one of another tensor: how parameters change dtype or device in place.");
  bind_dlpack(m, c);
  bind_tensor_ops(m, c);

  m.def("constant", &constant_of, py::arg("data"), py::arg("device"),
        "A copy of the values of an array or Tensor, made now: a constant where a function is being compiled.");
  m.def("tensor", &tensor_of, py::arg("data"), py::arg("dtype") = py::none(), py::arg("device") = py::none(),
        py::arg("requires_grad") = false,
        "A new tensor with a copy of data: a NumPy array, number, nested list or Tensor.");
  m.def(
      "from_numpy",
      [](const py::object& a) {
        check<TypeError>(py::isinstance<py::array>(a), "from_numpy: expected a NumPy array, got ",
                         py::str(py::type::handle_of(a).attr("__name__")).cast<std::string>());
        return wrap_array(py::reinterpret_borrow<py::array>(a), false);
      },
      py::arg("array"), "A tensor over the memory of a NumPy array, without a copy where strides allow it.");
  m.def(
      "empty",
      [](const py::args& shape, const py::object& dtype, const py::object& device, bool requires_grad) {
        Dims d = shape.size() == 1 ? dims_from("empty", shape[0]) : dims_from("empty", shape);
        Tensor t = empty(d, dtype.is_none() ? DType::float32 : dtype_from(dtype),
                         device.is_none() ? Device{} : parse_device(name_of(device)));
        if (requires_grad) t.set_requires_grad();
        return t;
      },
      py::arg("dtype") = py::none(), py::arg("device") = py::none(), py::arg("requires_grad") = false,
      "Memory of a shape, whatever stands in it.");

  m.def(
      "grad",
      [](const py::object& outputs, const py::object& inputs, const py::object& grad_outputs, bool create_graph,
         bool retain_graph, bool allow_unused) {
        auto list = [](const char* what, const py::object& v) {
          std::vector<Tensor> r;
          if (v.is_none()) return r;
          if (py::isinstance<Tensor>(v)) return std::vector<Tensor>{v.cast<Tensor>()};
          const auto refuse = [&](const py::handle& got) {
            throw TypeError(concat("grad: expected ", what, " as a tensor or a sequence of tensors, got ",
                                   py::repr(got).cast<std::string>()));
          };
          if (!py::isinstance<py::iterable>(v)) refuse(v);
          for (py::handle h : v) {
            if (!h.is_none() && !py::isinstance<Tensor>(h)) refuse(h);
            r.push_back(h.is_none() ? Tensor() : h.cast<Tensor>());
          }
          return r;
        };
        std::vector<Tensor> o = list("outputs", outputs), i = list("inputs", inputs),
                            g = list("grad_outputs", grad_outputs), r;
        {
          py::gil_scoped_release nogil;
          r = grad(o, i, g, create_graph, retain_graph, allow_unused);
        }
        py::tuple t(r.size());
        for (size_t k = 0; k < r.size(); ++k) t[k] = r[k].defined() ? py::cast(r[k]) : py::none();
        return t;
      },
      py::arg("outputs"), py::arg("inputs"), py::arg("grad_outputs") = py::none(), py::arg("create_graph") = false,
      py::arg("retain_graph") = false, py::arg("allow_unused") = false,
      "Gradients of sum(outputs * grad_outputs) with respect to inputs, as a tuple. With create_graph=True they "
      "can be\n"
      "differentiated again.");
  m.def("is_grad_enabled", &is_grad_enabled);
  m.def("set_grad_enabled", &set_grad_enabled, py::arg("on"), "Returns the mode that was.");

  m.def("version", &version);
  m.def("show_config", &show_config, "Version, compiler, ISA in use, threads, CUDA build and devices.");
  m.def("get_num_threads", &get_num_threads);
  m.def("set_num_threads", &set_num_threads, py::arg("n"));
  py::class_<NumThreadsScope>(m, "NumThreadsScope", "While it lives, work that its thread starts uses n threads.")
      .def(py::init<int>(), py::arg("n"));
  m.def("isa", &isa, "CPU kernels in use: ref, portable, avx2, avx512 or avx512bf16.");
  m.def("available_isas", &available_isas);
  m.def("set_isa", &set_isa, py::arg("name"));
  m.def("get_conv_algorithm", &get_conv_algorithm);
  m.def("set_conv_algorithm", &set_conv_algorithm, py::arg("name"),
        "'auto': float32 convolutions of 3x3, 5x5 and 4x4 with stride 2 may run as Winograd, which rounds up to "
        "five times as much;\n"
        "'direct': never. The environment's FASTCNN_CONV_ALGORITHM sets the first value.");
  m.def("set_float32_matmul_precision", &set_float32_matmul_precision, py::arg("precision"),
        "'highest' (at first): float32 products are those of float32. 'high', 'medium': on CUDA matrix products "
        "and\n"
        "convolutions of float32 round their operands to TF32 (10 bits of mantissa) for the tensor cores and sum "
        "in\n"
        "float32; the CPU computes as before.");
  m.def("get_float32_matmul_precision", &get_float32_matmul_precision, "'highest', 'high' or 'medium'.");
  m.def("record_kernel_choices", &record_kernel_choices, py::arg("on"));
  m.def("give_conv2d_moments", &give_conv2d_moments, py::arg("on"),
        "For tests: off, plans made from now on sum the statistics of batch norms in eager's order.");
  m.def("apply_norms_on_load", &apply_norms_on_load, py::arg("on"),
        "For tests and comparisons: off, plans made from now on store what batch norms make for convolutions.");
  m.def("take_kernel_choices", &take_kernel_choices, "'op:implementation' of each op run since recording began.");
  m.def(
      "memory_info",
      [] {
        MemoryInfo i = memory_info();
        py::dict d;
        d["in_use"] = i.in_use;
        d["cached"] = i.cached;
        d["peak"] = i.peak;
        d["budget"] = i.budget;
        return d;
      },
      "Bytes of tensor memory on the CPU: in_use, cached for reuse, peak, budget of the cache.");
  m.def("reset_peak_memory", &reset_peak_memory);
  m.def("release_cached_memory", &release_cached_memory);
  m.def("set_memory_budget", &set_memory_budget, py::arg("bytes"));
  m.def(
      "measure_peak",
      [](double seconds) {
        MachinePeak p;
        {
          py::gil_scoped_release nogil;
          p = measure_peak(seconds);
        }
        py::dict d;
        d["threads"] = p.threads, d["isa"] = p.isa;
        d["float32_gflops"] = p.float32_gflops, d["bfloat16_gflops"] = p.bfloat16_gflops;
        d["triad_gbytes"] = p.triad_gbytes, d["copy_gbytes"] = p.copy_gbytes;
        d["round_trip_ns"] = p.round_trip_ns;
        return d;
      },
      py::arg("seconds") = 0.4,
      "What the machine can do with the threads and the ISA in use: float32_gflops, bfloat16_gflops (0: no such "
      "instruction), triad_gbytes and copy_gbytes per second, round_trip_ns of a cache line from the first thread "
      "to "
      "the last and back (0: one thread, or busy cores).");
  m.def(
      "write_",
      [](const Tensor& t, const py::array& values) {
        const auto bytes = static_cast<size_t>(t.numel()) * dtype_size(t.dtype());
        check(t.is_contiguous() && dtype_of_array(values) == t.dtype() && (values.flags() & py::array::c_style) &&
                  static_cast<size_t>(values.nbytes()) == bytes,
              "write_: expected as many values of one dtype in row-major order, got ", values.nbytes(),
              " bytes for a tensor of shape ", t.shape(), " and ", t.dtype());
        write_memory(t, values.data(), bytes);
      },
      py::arg("tensor"), py::arg("values"),
      "Copies host memory into a tensor on any device, now: no op, so compile does not record it.");
  m.def(
      "zero_memory_",
      [](const Tensor& t) {
        check(t.is_contiguous(), "zero_memory_: expected a tensor in canonical layout, got strides ", t.strides());
        const std::string zeros(static_cast<size_t>(t.numel()) * dtype_size(t.dtype()), '\0');
        write_memory(t, zeros.data(), zeros.size());
      },
      py::arg("tensor"), "Zero bytes into a tensor on any device, now: no op, so compile does not record it.");
  m.def("cuda_device_count", &cuda_device_count);
  m.def("cuda_build", &cuda_build);
  m.def("cuda_stream", &cuda_stream);
  m.def("cuda_unavailable_reason", &cuda_unavailable_reason);
  m.def("cuda_memory_allocated", &cuda_memory_allocated);
  m.def("cuda_synchronize", &cuda_synchronize, py::call_guard<py::gil_scoped_release>());

  py::module_ ops = m.def_submodule("ops", "Every op as a function; names and arguments as in PyTorch.");
  bind_ops_basic(ops);
  bind_ops_nn(ops);
  bind_ops_1d(ops);
  bind_ops_3d(ops);
  bind_ops_math(ops, c);
  bind_ops_loss(ops);
  bind_ops_composed(ops);
  bind_ops_detect(ops);
  bind_ops_sample(ops);
  bind_optim(m);
  bind_distributed(m);
  bind_compile(m);
  bind_session(m);
  bind_quantized(m, ops);
}
