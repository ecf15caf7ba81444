// What it is: dim arguments of ops: negative dims, lists of dims, row-major strides.
#pragma once
#include <cstdint>
#include <vector>

#include "fastcnn/tensor.h"

namespace fastcnn {

// dim in [-ndim, ndim) to [0, ndim); a scalar counts as one dim, as in PyTorch.
inline int wrap_dim(const char* op, int dim, const Dims& shape) {
  int n = shape.size() ? shape.size() : 1;
  check<IndexError>(dim >= -n && dim < n, op, ": expected a dim in [", -n, ", ", n - 1, "] for shape ", shape,
                    ", got ", dim);
  return dim < 0 ? dim + n : dim;
}

// Bit d set: dim d is in the list; an empty list means all dims.
inline uint32_t dims_mask(const char* op, const std::vector<int>& dims, const Dims& shape) {
  if (dims.empty()) return (1u << shape.size()) - 1;
  uint32_t mask = 0;
  for (int d : dims) {
    uint32_t bit = 1u << wrap_dim(op, d, shape);
    check(!(mask & bit), op, ": dim ", d, " appears more than once for shape ", shape);
    mask |= bit;
  }
  return mask & ((1u << shape.size()) - 1);
}

inline Dims row_major_strides(const Dims& shape) {
  Dims s(shape.size(), 1);
  for (int i = shape.size() - 2; i >= 0; --i) s[i] = s[i + 1] * shape[i + 1];
  return s;
}

}  // namespace fastcnn
