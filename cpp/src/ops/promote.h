// What it is: the dtype of a mixed operation, as PyTorch promotes tensors (both with dimensions).
#pragma once
#include "fastcnn/tensor.h"

namespace fastcnn {

inline DType promote(DType a, DType b) {
  if (a == b) return a;
  bool fa = is_floating(a), fb = is_floating(b);
  if (fa != fb) return fa ? a : b;
  if (fa) {
    if (a == DType::float64 || b == DType::float64) return DType::float64;
    return DType::float32;  // also bfloat16 with float16
  }
  auto rank = [](DType t) {
    switch (t) {
      case DType::bool_: return 0;
      case DType::uint8:
      case DType::int8: return 1;
      case DType::int32: return 3;
      default: return 4;
    }
  };
  if (rank(a) == 1 && rank(b) == 1) return DType::int32;  // uint8 with int8: PyTorch's int16 does not exist here
  return rank(a) >= rank(b) ? a : b;
}

}  // namespace fastcnn
