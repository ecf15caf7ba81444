// What it is: the communicator of the process as a Python function, and who we are. What it is not: MPI, which is
// fastcnn/distributed.py's.
#include "fastcnn/distributed.h"

#include <pybind11/numpy.h>

#include <memory>

#include "args.h"

namespace fastcnn::bindings {
namespace {

// The last holder may be a thread without the GIL, or outlive the interpreter.
std::shared_ptr<py::object> shared(py::object f) {
  return {new py::object(std::move(f)), [](py::object* held) {
            if (!Py_IsInitialized()) return;
            py::gil_scoped_acquire gil;
            delete held;
          }};
}

void set_communicator(int64_t rank, int64_t world_size, const py::object& all_reduce) {
  distributed::Communicator c;
  c.rank = rank, c.world_size = world_size;
  if (!all_reduce.is_none()) {
    c.all_reduce = [held = shared(all_reduce)](void* data, int64_t count, DType dtype) {
      py::gil_scoped_acquire gil;
      // Over the memory itself: a base that owns nothing keeps NumPy from copying.
      py::array array(py::dtype(dtype_name(dtype)), {count}, {}, data, py::capsule(data, [](void*) {}));
      (*held)(array);
    };
  }
  distributed::set_communicator(std::move(c));
}

}  // namespace

void bind_distributed(py::module_& m) {
  m.def("set_communicator", &set_communicator, py::arg("rank"), py::arg("world_size"), py::arg("all_reduce"),
        "all_reduce(array) adds a 1-D NumPy array up over all processes, in place.");
  m.def("rank", &distributed::rank);
  m.def("world_size", &distributed::world_size);
}

}  // namespace fastcnn::bindings
