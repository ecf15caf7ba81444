// What it is: element conversion of the references: load to a wide number, store with PyTorch's casting rules.
// What it is not: a promotion rule. Integers travel as int64 (exact, wrapping), everything else as double.
#pragma once
#include <cmath>
#include <limits>
#include <type_traits>

#include "backend/cpu/ref/ref.h"

namespace fastcnn::cpu::ref {

template <class T>
using Wide = std::conditional_t<std::is_integral_v<T>, int64_t, double>;

template <class T>
inline Wide<T> load(T v) {
  if constexpr (std::is_integral_v<T>)
    return static_cast<int64_t>(v);
  else
    return to_double(v);
}

// double -> integer without undefined behaviour: what x86 conversion instructions give (and PyTorch shows).
inline int64_t to_int64(double v) {
  if (!(v >= -9223372036854775808.0 && v < 9223372036854775808.0)) return std::numeric_limits<int64_t>::min();
  return static_cast<int64_t>(v);
}
inline int32_t to_int32(double v) {
  if (!(v > -2147483649.0 && v < 2147483648.0)) return std::numeric_limits<int32_t>::min();
  return static_cast<int32_t>(v);
}

template <class U, class W>
inline U store(W v) {
  if constexpr (std::is_same_v<U, bool>)
    return v != 0;
  else if constexpr (std::is_same_v<U, int32_t> && std::is_floating_point_v<W>)
    return to_int32(v);
  else if constexpr (std::is_integral_v<U>) {
    if constexpr (std::is_floating_point_v<W>)
      return static_cast<U>(to_int64(v));
    else
      return static_cast<U>(v);
  } else if constexpr (std::is_same_v<U, float> || std::is_same_v<U, double>)
    return static_cast<U>(v);
  else
    return U(static_cast<float>(v));
}

// A double that stands for one integer.
inline bool integral(double v) { return std::fabs(v) < 9007199254740992.0 && v == std::floor(v); }

// Integer arithmetic that wraps.
inline int64_t wrap_add(int64_t a, int64_t b) { return static_cast<int64_t>(uint64_t(a) + uint64_t(b)); }
inline int64_t wrap_sub(int64_t a, int64_t b) { return static_cast<int64_t>(uint64_t(a) - uint64_t(b)); }
inline int64_t wrap_mul(int64_t a, int64_t b) { return static_cast<int64_t>(uint64_t(a) * uint64_t(b)); }

// Same bytes, another place: for ops that only move elements.
template <class F>
void dispatch_size(DType t, F&& f) {
  switch (dtype_size(t)) {
    case 1: return f.template operator()<uint8_t>();
    case 2: return f.template operator()<uint16_t>();
    case 4: return f.template operator()<uint32_t>();
    default: return f.template operator()<uint64_t>();
  }
}

template <class F>
void for_each_index(const Operand& o, F&& f) {
  for_each_index(o.shape, o.ndim, static_cast<F&&>(f));
}

}  // namespace fastcnn::cpu::ref
