// What it is: the arguments of elementwise and reduction kernels that params.h has no struct for.
#pragma once
#include <stdint.h>

#include "fastcnn/dtype.h"
#include "fastcnn/params.h"

namespace fastcnn {

// Strided operands walked together after collapsing dims; operand 0 is the output, the last dim is innermost.
struct EltLoop {
  int32_t ndim = 1, operands = 0;
  int64_t total = 0;
  int64_t shape[kMaxDims] = {};
  int64_t strides[4][kMaxDims] = {};  // in elements
};

constexpr int64_t kReduceColumns = 256;

// Dims of a reduction, outermost first, merged within their kind. Output o is the o-th index tuple of the kept
// dims.
struct ReduceLoop {
  int32_t kept = 0, reduced = 0;
  int64_t outputs = 1, count = 1;  // products of the two shapes
  int64_t kept_shape[kMaxDims] = {}, kept_x[kMaxDims] = {}, kept_y[kMaxDims] = {};
  int64_t shape[kMaxDims] = {}, x[kMaxDims] = {};
};

}  // namespace fastcnn
