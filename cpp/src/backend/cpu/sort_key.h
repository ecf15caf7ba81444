// What it is: a value of any dtype as an unsigned number of the same order, for sorts on any device.
// What it is not: a sort.
#pragma once
#include "fastcnn/dtype.h"
#include "fastcnn/params.h"

namespace fastcnn::cpu {

// NaN above all; -0 and 0 are equal.
FASTCNN_INLINE uint32_t sort_key(float v) {
  if (v != v) return ~0u;
  const uint32_t bits = v == 0 ? 0 : __builtin_bit_cast(uint32_t, v);
  return bits >> 31 ? ~bits : bits | 1u << 31;
}
FASTCNN_INLINE uint64_t sort_key(double v) {
  if (v != v) return ~uint64_t(0);
  const uint64_t bits = v == 0 ? 0 : __builtin_bit_cast(uint64_t, v);
  return bits >> 63 ? ~bits : bits | uint64_t(1) << 63;
}
FASTCNN_INLINE uint64_t sort_key(int64_t v) { return static_cast<uint64_t>(v) ^ uint64_t(1) << 63; }
FASTCNN_INLINE uint32_t sort_key(int32_t v) { return static_cast<uint32_t>(v) ^ 1u << 31; }

}  // namespace fastcnn::cpu
