// What it is: the dtype of a mixed operation, as PyTorch promotes tensors: a tensor without dimensions decides
// only where its kind (bool, integer, floating) is the higher one.
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

inline int dtype_kind(DType t) { return is_floating(t) ? 2 : t == DType::bool_ ? 0 : 1; }

inline DType promote(const Tensor& a, const Tensor& b) {
  if (a.ndim() == 0 && b.ndim() > 0 && dtype_kind(a.dtype()) <= dtype_kind(b.dtype())) return b.dtype();
  if (b.ndim() == 0 && a.ndim() > 0 && dtype_kind(b.dtype()) <= dtype_kind(a.dtype())) return a.dtype();
  return promote(a.dtype(), b.dtype());
}

}  // namespace fastcnn
