// What it is: tensors of what NumPy and Python hold, and the way back.
#pragma once
#include <pybind11/numpy.h>

#include "bindings.h"

namespace fastcnn::bindings {

std::string name_of(const py::handle& v);
DType dtype_of_array(const py::array& a);
Tensor wrap_array(const py::array& array,
                  bool writeable_wanted);  // over the array's memory where strides allow it
Tensor tensor_of(const py::object& data, const py::object& dtype, const py::object& device, bool requires_grad);
Tensor constant_of(const py::object& data, const py::object& device);
py::object to_numpy(const Tensor& t);  // over the tensor's memory

}  // namespace fastcnn::bindings
