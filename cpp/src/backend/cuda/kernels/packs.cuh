// What it is: 16 bytes of neighbouring channels as float32 numbers and back, rounded by the device's own
// instructions. What it is not: for float64, whose kernels go element by element.
#pragma once
#include "backend/cuda/device.cuh"

namespace fastcnn::cuda {

template <class T>
FASTCNN_DEVICE Pack<T> load_pack(const T* p) {
  return *reinterpret_cast<const Pack<T>*>(p);
}
// Zeros where `there` is false.
template <class T>
FASTCNN_DEVICE Pack<T> load_pack_if(bool there, const T* p) {
  Pack<uint32_t> r = {};
  if (there) {
    const Pack<T> loaded = *reinterpret_cast<const Pack<T>*>(p);
    __builtin_memcpy(&r, &loaded, 16);
  }
  Pack<T> pack;
  __builtin_memcpy(static_cast<void*>(&pack), &r, 16);
  return pack;
}
template <class T>
FASTCNN_DEVICE void store_pack(T* p, const Pack<T>& v) {
  *reinterpret_cast<Pack<T>*>(p) = v;
}

template <class T>
FASTCNN_DEVICE void widen(const Pack<T>& p, float (&v)[Pack<T>::n]) {
#if defined(__CUDA_ARCH__)
  if constexpr (is_same<T, bfloat16>) {  // by words: halves of a register are not extracted one by one
    uint32_t w[4];
    __builtin_memcpy(w, &p, 16);
    FASTCNN_UNROLL
    for (int k = 0; k < 4; ++k) {
      v[2 * k] = __uint_as_float(w[k] << 16);
      v[2 * k + 1] = __uint_as_float(w[k] & 0xffff0000u);
    }
    return;
  }
#endif
  FASTCNN_UNROLL
  for (int k = 0; k < Pack<T>::n; ++k) v[k] = to_real(p.v[k]);
}

// Two numbers as 16-bit floats in a word.
template <class T>
FASTCNN_DEVICE uint32_t to_pair(float a, float b) {
#if defined(__CUDA_ARCH__)
  uint32_t pair;
  if constexpr (is_same<T, bfloat16>)
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(b), "f"(a));
  else
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(b), "f"(a));
  return pair;
#else
  return static_cast<uint32_t>(from_real<T>(a).bits) | static_cast<uint32_t>(from_real<T>(b).bits) << 16;
#endif
}
template <class T>
FASTCNN_DEVICE Pack<T> narrow(const float (&v)[Pack<T>::n]) {
  Pack<T> p;
#if defined(__CUDA_ARCH__)
  if constexpr (!is_same<T, float>) {  // two at a time: bfloat16's constructor is eight instructions
    uint32_t w[4];
    FASTCNN_UNROLL
    for (int k = 0; k < 4; ++k) w[k] = to_pair<T>(v[2 * k], v[2 * k + 1]);
    __builtin_memcpy(static_cast<void*>(&p), w, 16);
    return p;
  }
#endif
  FASTCNN_UNROLL
  for (int k = 0; k < Pack<T>::n; ++k) p.v[k] = from_real<T>(v[k]);
  return p;
}

}  // namespace fastcnn::cuda
