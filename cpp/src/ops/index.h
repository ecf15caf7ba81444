// What it is: what other ops need of index.cpp beyond the public ops.
#pragma once
#include "fastcnn/tensor.h"

namespace fastcnn {

// The transpose of index_select: zeros of `size` along dim, to which x is added at the positions index.
Tensor index_sum(const Tensor& x, int dim, const Tensor& index, int64_t size);

}  // namespace fastcnn
