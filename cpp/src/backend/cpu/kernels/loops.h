// What it is: how elementwise kernels walk strided operands: blocks of rows, and rows staged through a small
// buffer when they are not dense float32. What it is not: the collapsing of dims (backend/cpu/loop_plan.h).
#pragma once
#include "backend/cpu/kernels/eltwise_args.h"
#include "backend/cpu/kernels/simd.h"

namespace fastcnn::cpu::FASTCNN_ISA {

constexpr int64_t kStage = 512;  // elements of one staging buffer: stays in L1

template <class A, class B>
inline constexpr bool same_type = false;
template <class A>
inline constexpr bool same_type<A, A> = true;
template <class T>
inline constexpr bool half_type = same_type<T, bfloat16> || same_type<T, float16>;
template <class T>
inline constexpr bool float_type = half_type<T> || same_type<T, float> || same_type<T, double>;

// One element to another dtype, as the reference does it (ref/convert.h).
template <class To, class From>
FASTCNN_OP To cast_to(From v) {
  if constexpr (same_type<To, From>)
    return v;
  else if constexpr (half_type<From>)
    return cast_to<To>(static_cast<float>(v));
  else if constexpr (same_type<To, bool>)
    return v != 0;
  else if constexpr (half_type<To>)
    return To(static_cast<float>(v));
  else if constexpr (float_type<From> && !float_type<To>) {
    // Out of range gives the smallest integer, as x86 does. A float of 2^31 or more has zeros in its low byte, so
    // eight bits may go through int32.
    if constexpr (same_type<To, int64_t> || (same_type<From, double> && !same_type<To, int32_t>)) {
      bool in = v >= static_cast<From>(-9223372036854775808.0) && v < static_cast<From>(9223372036854775808.0);
      return static_cast<To>(in ? static_cast<int64_t>(v) : INT64_MIN);
    } else {
      bool in = v > static_cast<From>(-2147483649.0) && v < static_cast<From>(2147483648.0);
      if constexpr (same_type<From, float>) in = v >= -2147483648.0f && v < 2147483648.0f;
      return static_cast<To>(in ? static_cast<int32_t>(v) : INT32_MIN);
    }
  } else
    return static_cast<To>(v);
}

// Calls f.template operator()<T>() with the C++ type of t.
template <class F>
FASTCNN_OP void with_type(DType t, F&& f) {
  switch (t) {
    case DType::float32: return f.template operator()<float>();
    case DType::bfloat16: return f.template operator()<bfloat16>();
    case DType::float16: return f.template operator()<float16>();
    case DType::float64: return f.template operator()<double>();
    case DType::int64: return f.template operator()<int64_t>();
    case DType::int32: return f.template operator()<int32_t>();
    case DType::uint8: return f.template operator()<uint8_t>();
    case DType::int8: return f.template operator()<int8_t>();
    case DType::bool_: return f.template operator()<bool>();
  }
}

// Elements [begin, end) of the loop as blocks of whole rows (or one part of a row): f(offset[N], rows, n). Rows of
// a block are strides[.][ndim-2] apart, elements of a row strides[.][ndim-1].
template <int N, class F>
FASTCNN_OP void walk_blocks(const EltLoop& l, int64_t begin, int64_t end, F&& f) {
  int last = l.ndim - 1;
  int64_t n = l.shape[last], block_rows = last > 0 ? l.shape[last - 1] : 1;
  while (begin < end) {
    int64_t row = begin / n, col = begin - row * n, left = end - begin, rows = 1, len = n;
    int64_t off[N], index = row;
    for (int k = 0; k < N; ++k) off[k] = col * l.strides[k][last];
    for (int d = last - 1; d >= 0; --d) {
      int64_t q = index / l.shape[d], i = index - q * l.shape[d];
      for (int k = 0; k < N; ++k) off[k] += i * l.strides[k][d];
      index = q;
    }
    if (col != 0 || left < n) {
      len = n - col < left ? n - col : left;
    } else {
      rows = block_rows - (last > 0 ? row % block_rows : 0);
      if (rows > left / n) rows = left / n;
    }
    f(static_cast<const int64_t*>(off), rows, len);
    begin += rows * len;
  }
}

// Defined once, in copy.cpp, so that the many loops that use them stay small.
// n elements of `size` bytes, `stride` elements apart (0: one repeated), to dense y.
void gather_row(const void* x, int64_t stride, size_t size, void* y, int64_t n);
// Dense to dense, any two dtypes.
void convert_row(const void* x, DType x_type, void* y, DType y_type, int64_t n);
// At most kStage elements of any stride and dtype as dense float32: the row itself when it is that, else buf.
const float* stage_floats(const void* x, DType t, int64_t offset, int64_t stride, int64_t n, float* buf);

FASTCNN_OP const char* at(const void* p, DType t, int64_t offset) {
  return static_cast<const char*>(p) + offset * static_cast<int64_t>(dtype_size(t));
}
FASTCNN_OP char* at(void* p, DType t, int64_t offset) {
  return static_cast<char*>(p) + offset * static_cast<int64_t>(dtype_size(t));
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
