// What it is: what the losses share: reductions, the dtype they compute in, targets of the input's shape.
// 16-bit inputs are taken to float32 first: losses and their sums need it.
#pragma once
#include <string>

#include "fastcnn/ops.h"

namespace fastcnn {

Reduction parse_reduction(const char* op, const std::string& r);

Tensor reduced(const Tensor& loss, Reduction r);

// x in the dtype that the loss computes in.
Tensor wide(const char* op, const Tensor& x);

// The target beside x: of x's shape (or one number), of x's dtype, refused where it holds NaN.
Tensor paired(const char* op, const Tensor& x, const Tensor& target);

}  // namespace fastcnn
