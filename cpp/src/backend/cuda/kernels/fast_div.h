// What it is: division of 31-bit numbers by a divisor that many threads share, as one multiplication and one shift
// (Granlund, Montgomery 1994). What it is not: for divisors that change from element to element.
#pragma once
#include <stdint.h>

#include "fastcnn/params.h"

namespace fastcnn::cuda {

struct FastDiv {
  uint32_t multiplier = 0x80000000u, shift = 31;
  int32_t divisor = 1;
  FastDiv() = default;
  FASTCNN_INLINE explicit FastDiv(int64_t d) : divisor(d > 0 ? static_cast<int32_t>(d) : 1) {
    const auto u = static_cast<uint64_t>(divisor);
    while (shift < 62 && (uint64_t(1) << (shift - 31)) < u) ++shift;
    multiplier = static_cast<uint32_t>(((uint64_t(1) << shift) + u - 1) / u);
  }
  // n in [0, 2^31)
  FASTCNN_INLINE int32_t quotient(int32_t n) const {
    return static_cast<int32_t>((static_cast<uint64_t>(static_cast<uint32_t>(n)) * multiplier) >> shift);
  }
  FASTCNN_INLINE int32_t split(int32_t n, int32_t* remainder) const {
    const int32_t q = quotient(n);
    *remainder = n - q * divisor;
    return q;
  }
};

}  // namespace fastcnn::cuda
