// What it is: the checks and conversions of operands that network ops share.
// What it is not: shape rules of any one op.
#pragma once
#include <utility>

#include "fastcnn/autocast.h"
#include "fastcnn/ops.h"

namespace fastcnn {

inline Tensor number(double v, const Tensor& like) { return full({}, v, like.dtype(), like.device()); }

// Doubles next to the ends of int64 are whole numbers, so the comparison is exact.
inline bool fits(double value, DType dtype) {
  switch (dtype) {
    case DType::int64: return value >= -9223372036854775808.0 && value < 9223372036854775808.0;
    case DType::int32: return value > -2147483649.0 && value < 2147483648.0;
    case DType::int8: return value > -129 && value < 128;
    case DType::uint8: return value > -1 && value < 256;
    default: return true;
  }
}

constexpr int64_t kMaxOption = int64_t(1)
                               << 30;  // strides, paddings and dilations: sizes built on them stay in int64

inline void check_floating(const char* op, const char* name, const Tensor& t) {
  check(t.defined(), op, ": expected a tensor as ", name, ", got an empty handle");
  check<TypeError>(is_floating(t.dtype()), op, ": expected ", name, " of a floating dtype, got ", t.dtype(),
                   " (shape ", t.shape(), ")");
}

inline void check_like(const char* op, const char* name, const Tensor& t, const Tensor& x,
                       const char* x_name = "x") {
  check<TypeError>(t.dtype() == x.dtype(), op, ": expected ", name, " of dtype ", x.dtype(), " like ", x_name,
                   ", got ", t.dtype());
}

inline void check_vector(const char* op, const char* name, const Tensor& t, int64_t size, const Tensor& x) {
  check(t.ndim() == 1 && t.shape()[0] == size, op, ": expected ", name, " of shape ", Dims{size},
        " for x of shape ", x.shape(), ", got ", t.shape());
}

using Pair = std::pair<int64_t, int64_t>;

inline void check_pair(const char* op, const char* name, Pair v, int64_t low) {
  check(v.first >= low && v.second >= low, op, ": expected ", name, " >= ", low, ", got ",
        Dims{v.first, v.second});
  check(v.first <= kMaxOption && v.second <= kMaxOption, op, ": expected ", name, " <= ", kMaxOption, ", got ",
        Dims{v.first, v.second});
}

// Returns the dims of x before those that are normalised together.
inline int check_normalized_shape(const char* op, const Tensor& x, const Dims& normalized_shape) {
  const int k = normalized_shape.size(), lead = x.ndim() - k;
  bool fits = k >= 1 && lead >= 0;
  for (int i = 0; fits && i < k; ++i) fits = x.shape()[lead + i] == normalized_shape[i];
  check(fits, op, ": expected x whose last dimensions are normalized_shape ", normalized_shape,
        ", got x of shape ", x.shape());
  return lead;
}

// Under autocast operands take its dtype; float64 stays.
inline void apply_autocast(Tensor& t) {
  if (auto to = autocast_dtype();
      to && t.defined() &&
      (t.dtype() == DType::float32 || t.dtype() == DType::bfloat16 || t.dtype() == DType::float16))
    t = cast(t, *to);
}

// Statistics and parameters of norms: float32 beside narrower activations.
inline DType statistics_dtype(DType x) { return x == DType::float64 ? x : DType::float32; }

}  // namespace fastcnn
