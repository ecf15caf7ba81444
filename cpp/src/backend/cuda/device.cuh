// What it is: the thin layer that kernels are written on: CUDA's own names under nvcc, the executor's
// (tests/cpp/cuda_host) under a C++ compiler; element types as numbers; 16-byte vectors; sums over a block.
// What it is not: a kernel. Kernels use dynamic shared memory alone, so that the executor can poison and guard it.
#pragma once
#include <math.h>
#include <stdint.h>

#include "fastcnn/dtype.h"
#include "fastcnn/params.h"

#if defined(__CUDACC__)
#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#define FASTCNN_KERNEL __global__ void
#define FASTCNN_KERNEL_BOUNDS(threads, blocks) __global__ void __launch_bounds__(threads, blocks)
#define FASTCNN_DEVICE __device__ __forceinline__
#define FASTCNN_UNROLL _Pragma("unroll")
#define FASTCNN_NO_UNROLL _Pragma("unroll 1")
#else
#include "cuda_host/executor.h"
#define FASTCNN_KERNEL void
#define FASTCNN_KERNEL_BOUNDS(threads, blocks) void
#define FASTCNN_DEVICE inline
#define FASTCNN_UNROLL
#define FASTCNN_NO_UNROLL
#endif

namespace fastcnn::cuda {

// ---- numbers
// ----------------------------------------------------------------------------------------------------
template <class T>
struct RealOf {
  using type = float;
};
template <>
struct RealOf<double> {
  using type = double;
};
template <class T>
using Real = typename RealOf<T>::type;  // what a type is computed in

template <class A, class B>
inline constexpr bool is_same = false;
template <class A>
inline constexpr bool is_same<A, A> = true;

FASTCNN_DEVICE float to_real(float v) { return v; }
FASTCNN_DEVICE double to_real(double v) { return v; }
FASTCNN_DEVICE float to_real(bfloat16 v) { return static_cast<float>(v); }
FASTCNN_DEVICE float to_real(float16 v) {
#if defined(__CUDA_ARCH__)
  return __half2float(__ushort_as_half(v.bits));
#else
  return static_cast<float>(v);
#endif
}
template <class T>
FASTCNN_DEVICE T from_real(Real<T> v) {
  if constexpr (is_same<T, float> || is_same<T, double>) {
    return v;
  } else {
#if defined(__CUDA_ARCH__)
    if constexpr (is_same<T, float16>) {
      float16 h;
      h.bits = __half_as_ushort(__float2half_rn(v));
      return h;
    } else {
      bfloat16 b;
      b.bits = __bfloat16_as_ushort(__float2bfloat16_rn(v));
      return b;
    }
    if constexpr (is_same<T, bfloat16>) {
      bfloat16 h;
      asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(h.bits) : "f"(v));
      return h;
    }
#endif
    return T(v);
  }
}

// Double to integer as x86 and PyTorch on the CPU do it: out of range gives the smallest.
FASTCNN_DEVICE int64_t to_int64(double v) {
  return v >= -9223372036854775808.0 && v < 9223372036854775808.0 ? static_cast<int64_t>(v) : INT64_MIN;
}
FASTCNN_DEVICE int32_t to_int32(double v) {
  return v > -2147483649.0 && v < 2147483648.0 ? static_cast<int32_t>(v) : INT32_MIN;
}

// Element i of an operand whose dtype is known at run time only, as W: int64_t, float or double.
template <class W>
FASTCNN_DEVICE W load_as(const void* p, DType t, int64_t i) {
  switch (t) {
    case DType::float32: return static_cast<W>(static_cast<const float*>(p)[i]);
    case DType::bfloat16: return static_cast<W>(to_real(static_cast<const bfloat16*>(p)[i]));
    case DType::float16: return static_cast<W>(to_real(static_cast<const float16*>(p)[i]));
    case DType::float64: return static_cast<W>(static_cast<const double*>(p)[i]);
    case DType::int64: return static_cast<W>(static_cast<const int64_t*>(p)[i]);
    case DType::int32: return static_cast<W>(static_cast<const int32_t*>(p)[i]);
    case DType::int8: return static_cast<W>(static_cast<const int8_t*>(p)[i]);
    default: return static_cast<W>(static_cast<const uint8_t*>(p)[i]);
  }
}
template <class W>
FASTCNN_DEVICE void store_as(void* p, DType t, int64_t i, W v) {
  constexpr bool whole = is_same<W, int64_t>;
  switch (t) {
    case DType::float32: static_cast<float*>(p)[i] = static_cast<float>(v); return;
    case DType::bfloat16: static_cast<bfloat16*>(p)[i] = from_real<bfloat16>(static_cast<float>(v)); return;
    case DType::float16: static_cast<float16*>(p)[i] = from_real<float16>(static_cast<float>(v)); return;
    case DType::float64: static_cast<double*>(p)[i] = static_cast<double>(v); return;
    case DType::bool_: static_cast<uint8_t*>(p)[i] = v != 0; return;
    case DType::int32:
      if constexpr (whole)
        static_cast<int32_t*>(p)[i] = static_cast<int32_t>(v);
      else
        static_cast<int32_t*>(p)[i] = to_int32(v);
      return;
    default: break;
  }
  int64_t w;
  if constexpr (whole)
    w = v;
  else
    w = to_int64(v);
  if (t == DType::int64)
    static_cast<int64_t*>(p)[i] = w;
  else
    static_cast<uint8_t*>(p)[i] = static_cast<uint8_t>(w);  // int8 has the same bits
}

// ---- 16 bytes at once
// -------------------------------------------------------------------------------------------
template <class T>
struct alignas(16) Pack {
  static constexpr int n = 16 / sizeof(T);
  T v[n];
};

// ---- one kernel after another
// -----------------------------------------------------------------------------------
// From compute capability 9.0 on a kernel is put on the device while the last blocks of the one before it run
// (launch.h). Every kernel begins with follow_previous(), before it returns or touches global memory: the next one
// may start once all blocks of this one have, and this one goes on when the one before, which has waited in its
// turn, is complete and what it wrote is seen. A kernel with much to prepare waits after that instead.
FASTCNN_DEVICE void let_next_start() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}
FASTCNN_DEVICE void await_previous() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
FASTCNN_DEVICE void follow_previous() {
  let_next_start();
  await_previous();
}

// ---- where this thread is
// ---------------------------------------------------------------------------------------
FASTCNN_DEVICE int64_t global_thread() { return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; }
FASTCNN_DEVICE int64_t global_threads() { return static_cast<int64_t>(gridDim.x) * blockDim.x; }

template <class T>
FASTCNN_DEVICE T* shared_memory() {
#if defined(__CUDACC__)
  extern __shared__ __align__(1024) unsigned char bytes[];  // wgmma reads lines of 128 bytes, eight at a time
  return reinterpret_cast<T*>(bytes);
#else
  return static_cast<T*>(host::shared_memory());
#endif
}

// ---- sums over a block
// ------------------------------------------------------------------------------------------ `combine` must be
// symmetric; the tree is fixed, so every thread gets the same bits in every run. `scratch`: one value per warp.
// The block is one row of whole warps.
template <class V, class F>
FASTCNN_DEVICE V block_combine(V v, V* scratch, F combine) {
  for (int d = 16; d > 0; d >>= 1) v = combine(v, v.from_lane_xor(d));
  const int warps = static_cast<int>(blockDim.x + 31) / 32, warp = static_cast<int>(threadIdx.x) / 32;
  __syncthreads();  // scratch may be in use by a call before
  if (threadIdx.x % 32 == 0) scratch[warp] = v;
  __syncthreads();
  V all = scratch[0];
  for (int w = 1; w < warps; ++w) all = combine(all, scratch[w]);
  return all;
}

template <class R, int N>
struct Sums {
  R v[N];
  FASTCNN_DEVICE Sums from_lane_xor(int d) const {
    Sums o;
    for (int k = 0; k < N; ++k) o.v[k] = __shfl_xor_sync(0xffffffffu, v[k], d);
    return o;
  }
};
template <class R, int N>
FASTCNN_DEVICE Sums<R, N> block_sum(const Sums<R, N>& v, Sums<R, N>* scratch) {
  return block_combine(v, scratch, [](const Sums<R, N>& a, const Sums<R, N>& b) {
    Sums<R, N> s;
    for (int k = 0; k < N; ++k) s.v[k] = a.v[k] + b.v[k];
    return s;
  });
}
template <class R>
FASTCNN_DEVICE Sums<R, 1> block_max(const Sums<R, 1>& v, Sums<R, 1>* scratch) {  // NaN wins
  return block_combine(v, scratch, [](const Sums<R, 1>& a, const Sums<R, 1>& b) {
    return a.v[0] != a.v[0] || a.v[0] > b.v[0] ? a : b;
  });
}

}  // namespace fastcnn::cuda
