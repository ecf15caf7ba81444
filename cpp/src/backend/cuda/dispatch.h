// What it is: what launch code shared by ops needs: the C++ type of a dtype, dense or strided, aligned or not.
// What it is not: device code.
#pragma once
#include <stdexcept>
#include <string>

#include "backend/backend.h"
#include "backend/cpu/loop_plan.h"
#include "backend/cuda/kernels/faults.cuh"
#include "backend/cuda/kernels/map.cuh"
#include "backend/cuda/launch.h"
#include "backend/cuda/lists.h"

namespace fastcnn::cuda {

using cpu::plan_loop;

// Calls f.template operator()<T>() with the C++ type of a floating dtype.
template <class F>
void with_floating(DType t, const char* op, F&& f) {
  switch (t) {
    case DType::float32: return f.template operator()<float>();
    case DType::float64: return f.template operator()<double>();
    case DType::bfloat16: return f.template operator()<bfloat16>();
    case DType::float16: return f.template operator()<float16>();
    default: throw std::logic_error(std::string(op) + ": floating dtype expected");
  }
}
inline bool is_half(DType t) { return t == DType::bfloat16 || t == DType::float16; }
template <class F>
void with_half(DType t, F&& f) {
  if (t == DType::bfloat16) return f.template operator()<bfloat16>();
  return f.template operator()<float16>();
}
// The same bytes, another place.
template <class F>
void with_size(DType t, F&& f) {
  switch (dtype_size(t)) {
    case 1: return f.template operator()<uint8_t>();
    case 2: return f.template operator()<uint16_t>();
    case 4: return f.template operator()<uint32_t>();
    default: return f.template operator()<uint64_t>();
  }
}

// Elements of 1 to 16 bytes.
template <class F>
void with_bytes(size_t size, F&& f) {
  switch (size) {
    case 1: return f.template operator()<uint8_t>();
    case 2: return f.template operator()<uint16_t>();
    case 4: return f.template operator()<uint32_t>();
    case 8: return f.template operator()<uint64_t>();
    default: return f.template operator()<Pack<uint32_t>>();
  }
}

inline bool aligned16(std::initializer_list<const void*> pointers) {
  for (const void* p : pointers)
    if (reinterpret_cast<uintptr_t>(p) % 16) return false;
  return true;
}

// Do all operands hold the same elements in the same order without gaps?
inline bool all_dense(const EltLoop& l) {
  if (l.ndim != 1) return false;
  for (int k = 0; k < l.operands; ++k)
    if (l.strides[k][0] != 1) return false;
  return true;
}

inline const char* mixed_floats(const Call& c) {
  for (const Operand& o : c.in)
    if (o.dtype != c.out[0].dtype) return "operands of several dtypes";
  return is_floating(c.out[0].dtype) ? nullptr : "dtype is not floating";
}

// y[i] = f(i, inputs[i]...) on dense operands of type T.
template <class T, int N, class F>
void launch_dense(const char* name, const DenseIn& in, void* y, int64_t n, const F& f) {
  bool aligned = aligned16({y});
  for (int k = 0; k < N; ++k) aligned &= aligned16({in.p[k]});
  const int64_t packs = aligned ? n / Pack<T>::n : 0;
  launch(name, for_elements(n, aligned ? Pack<T>::n : 1), dense_map<T, N, F>, in, y, n, packs, f);
}

// f.template operator()<A>() with an activation that kernels are compiled for; false for the others.
template <class F>
bool with_common_act(Act act, F&& f) {
  switch (act) {
    case Act::none: return f.template operator()<Act::none>(), true;
    case Act::relu: return f.template operator()<Act::relu>(), true;
    case Act::relu6: return f.template operator()<Act::relu6>(), true;
    case Act::leaky_relu: return f.template operator()<Act::leaky_relu>(), true;
    case Act::silu: return f.template operator()<Act::silu>(), true;
    case Act::hardswish: return f.template operator()<Act::hardswish>(), true;
    default: return false;
  }
}

// The same for a functor that is short enough to be compiled into many packs; false where operands are not
// aligned.
template <class T, int N, class F>
bool launch_packs(const char* name, const DenseIn& in, void* y, int64_t n, const F& f) {
  bool aligned = aligned16({y});
  for (int k = 0; k < N; ++k) aligned &= aligned16({in.p[k]});
  if (!aligned) return false;
  launch(name, for_packs(n / Pack<T>::n, kPacksPerThread<N>), dense_packs<T, N, F>, in, y, n, f);
  return true;
}

// A strided copy of elements of one dtype; used by cat and strided_scatter too.
void copy_elements(const Operand& x, const Operand& y);

}  // namespace fastcnn::cuda
