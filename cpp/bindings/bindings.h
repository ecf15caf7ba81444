// What it is: the parts of the Python module _core, and how Python arguments become C++ ones. Conversion only.
#pragma once
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "fastcnn/tensor.h"

namespace py = pybind11;

namespace fastcnn::bindings {

using TensorClass = py::class_<Tensor>;
// Every op call releases the GIL while it works.
using NoGil = py::call_guard<py::gil_scoped_release>;

void bind_tensor_ops(py::module_& m, TensorClass& c);  // operators, methods and indexing of Tensor
void bind_ops_basic(py::module_& ops);                 // creation, elementwise, reductions, shape, resampling
void bind_ops_1d(py::module_& ops);                    // sequences: convolution, pooling
void bind_ops_3d(py::module_& ops);                    // volumes: convolution, pooling
void bind_ops_composed(py::module_& ops);              // made of other ops
void bind_ops_detect(py::module_& ops);                // boxes
void bind_ops_loss(py::module_& ops);                  // losses
void bind_ops_math(py::module_& ops, TensorClass& c);  // order, running sums, triangles, einsum
void bind_ops_nn(py::module_& ops);                    // convolution, linear, pooling, norms, activations, dropout
void bind_ops_sample(py::module_& ops);                // images at free points
void bind_distributed(py::module_& m);                 // the processes of a job
void bind_optim(py::module_& m);                       // fused optimizer steps
void bind_dlpack(py::module_& m, TensorClass& c);
void bind_compile(py::module_& m);
void bind_session(py::module_& m);
void bind_quantized(py::module_& m, py::module_& ops);  // int8

std::pair<int64_t, int64_t> int_pair(const char* op, const char* what, const py::object& v);  // 3 or (3, 5)
DType dtype_from(const py::object& v);                // fc.float32, "float32", numpy.float32, numpy.dtype
Dims dims_from(const char* op, const py::handle& v);  // 3 or a sequence of ints, at most 8
int64_t int_from(const char* op, const py::handle& v);
std::vector<int64_t> int_list(const char* op, const py::handle& v);  // a sequence of ints

}  // namespace fastcnn::bindings
