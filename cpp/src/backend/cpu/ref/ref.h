// What it is: what the naive references share: dispatch over dtypes, a wide accumulator, strided indexing.
// What it is not: fast. A reference is the plainest loop that is right for any stride, dtype and option.
#pragma once
#include <cstdint>
#include <stdexcept>
#include <string>

#include "backend/backend.h"
#include "graph/op_kinds.h"

namespace fastcnn::cpu::ref {

#define FASTCNN_REF_DECL(kind, params) void kind(const Call& c);
FASTCNN_OPS(FASTCNN_REF_DECL)
#undef FASTCNN_REF_DECL

// Element as a number and back, for any dtype; accumulation type: double for double and integers wide enough.
template <class T>
inline double to_double(T v) {
  return static_cast<double>(v);
}
template <>
inline double to_double(bfloat16 v) {
  return static_cast<float>(v);
}
template <>
inline double to_double(float16 v) {
  return static_cast<float>(v);
}
template <class T>
inline T from_double(double v) {
  return static_cast<T>(v);
}
template <>
inline bfloat16 from_double(double v) {
  return bfloat16(static_cast<float>(v));
}
template <>
inline float16 from_double(double v) {
  return float16(static_cast<float>(v));
}
template <>
inline bool from_double(double v) {
  return v != 0;
}

// Calls f.template operator()<T>() with the C++ type of a dtype.
template <class F>
void dispatch_floating(DType t, const char* op, F&& f) {
  switch (t) {
    case DType::float32: return f.template operator()<float>();
    case DType::float64: return f.template operator()<double>();
    case DType::bfloat16: return f.template operator()<bfloat16>();
    case DType::float16: return f.template operator()<float16>();
    default: throw std::logic_error(std::string(op) + ": reference reached with dtype " + dtype_name(t));
  }
}
template <class F>
void dispatch_all(DType t, F&& f) {
  switch (t) {
    case DType::float32: return f.template operator()<float>();
    case DType::float64: return f.template operator()<double>();
    case DType::bfloat16: return f.template operator()<bfloat16>();
    case DType::float16: return f.template operator()<float16>();
    case DType::int64: return f.template operator()<int64_t>();
    case DType::int32: return f.template operator()<int32_t>();
    case DType::uint8: return f.template operator()<uint8_t>();
    case DType::int8: return f.template operator()<int8_t>();
    case DType::bool_: return f.template operator()<bool>();
  }
}

// Walks all index tuples of a shape in row-major order of the logical dims: f(index).
template <class F>
void for_each_index(const int64_t* shape, int ndim, F&& f) {
  int64_t idx[kMaxDims] = {};
  for (int i = 0; i < ndim; ++i)
    if (shape[i] == 0) return;
  for (;;) {
    f(static_cast<const int64_t*>(idx));
    int d = ndim - 1;
    while (d >= 0 && ++idx[d] == shape[d]) idx[d--] = 0;
    if (d < 0) return;
  }
}
inline int64_t offset_of(const Operand& o, const int64_t* idx) {
  int64_t off = 0;
  for (int i = 0; i < o.ndim; ++i) off += idx[i] * o.strides[i];
  return off;
}

}  // namespace fastcnn::cpu::ref
