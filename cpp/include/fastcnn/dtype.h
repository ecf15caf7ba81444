// What it is: the element types of the contract, their sizes and names, and the two 16-bit float types.
// What it is not: no promotion rules (ops/promote) and no arithmetic beyond conversion.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "fastcnn/params.h"

namespace fastcnn {

enum class DType : uint8_t { float32, bfloat16, float16, float64, int64, int32, uint8, int8, bool_ };
constexpr int kDTypeCount = 9;

FASTCNN_INLINE size_t dtype_size(DType t) {
  constexpr size_t sizes[kDTypeCount] = {4, 2, 2, 8, 8, 4, 1, 1, 1};
  return sizes[static_cast<int>(t)];
}
FASTCNN_INLINE const char* dtype_name(DType t) {
  constexpr const char* names[kDTypeCount] = {"float32", "bfloat16", "float16", "float64", "int64",
                                              "int32",   "uint8",    "int8",    "bool"};
  return names[static_cast<int>(t)];
}
FASTCNN_INLINE bool is_floating(DType t) { return t <= DType::float64; }

// Round-to-nearest-even bfloat16; NaN stays NaN.
struct bfloat16 {
  uint16_t bits = 0;
  bfloat16() = default;
  FASTCNN_INLINE explicit bfloat16(float f) {
    uint32_t u;
    __builtin_memcpy(&u, &f, 4);
    if ((u & 0x7fffffffu) > 0x7f800000u)
      bits = static_cast<uint16_t>((u >> 16) | 0x40);
    else
      bits = static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1)) >> 16);
  }
  FASTCNN_INLINE explicit operator float() const {
    uint32_t u = static_cast<uint32_t>(bits) << 16;
    float f;
    __builtin_memcpy(&f, &u, 4);
    return f;
  }
};

// IEEE half precision, software conversion with round-to-nearest-even.
struct float16 {
  uint16_t bits = 0;
  float16() = default;
  FASTCNN_INLINE explicit float16(float f) {
    uint32_t u;
    __builtin_memcpy(&u, &f, 4);
    uint32_t sign = (u >> 16) & 0x8000u, mag = u & 0x7fffffffu;
    if (mag > 0x7f800000u)
      bits = static_cast<uint16_t>(sign | 0x7e00u);
    else if (mag >= 0x477ff000u)
      bits = static_cast<uint16_t>(sign | 0x7c00u);
    else if (mag < 0x38800000u) {  // subnormal half: let a float addition do the rounding
      float t;
      __builtin_memcpy(&t, &mag, 4);
      t += 0.5f;
      uint32_t r;
      __builtin_memcpy(&r, &t, 4);
      bits = static_cast<uint16_t>(sign | (r - 0x3f000000u));
    } else {
      uint32_t r = mag + 0xfffu + ((mag >> 13) & 1);
      bits = static_cast<uint16_t>(sign | ((r - 0x38000000u) >> 13));
    }
  }
  FASTCNN_INLINE explicit operator float() const {
    uint32_t sign = (bits & 0x8000u) << 16, mag = bits & 0x7fffu, u;
    if (mag >= 0x7c00u)
      u = sign | 0x7f800000u | ((mag & 0x3ffu) << 13);
    else if (mag >= 0x400u)
      u = sign | ((mag << 13) + 0x38000000u);
    else {
      float t = static_cast<float>(mag) * 5.9604644775390625e-8f;  // 2^-24
      __builtin_memcpy(&u, &t, 4);
      u |= sign;
    }
    float f;
    __builtin_memcpy(&f, &u, 4);
    return f;
  }
};

}  // namespace fastcnn
