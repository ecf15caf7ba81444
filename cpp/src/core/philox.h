// What it is: Philox4x32-10, the counter-based generator of Salmon et al. 2011 ("Parallel random numbers: as easy
// as 1, 2, 3"), and how its words become numbers. Plain functions for CPU kernels, references and CUDA alike. What
// it is not: a state. A random number is a pure function of (seed, stream, element), so results depend on no
// thread count, no ISA and no order. Generator state is int64[2] = {seed, counter}.
//   key      = the 64-bit seed: word 0 low half, word 1 high half
//   counter  = words 0, 1: block index (64 bit); words 2, 3: stream = counter + delta (64 bit); one stream per
//   random
//              op of a step: delta counts the ops that ran before it, rng_advance moves counter after the step
//   block    = 4 words; float32, bfloat16 and float16 take element i from word i % 4 of block i / 4; float64 and
//              integers take words 2*(i%2), 2*(i%2)+1 of block i / 2 (low half first)
//   element  = position in memory of the dense tensor
//   uniform  = top 24 bits (float32), 53 (float64), 8 (bfloat16), 11 (float16) times 2^-bits: in [0, 1)
//   normal   = Box-Muller on uniforms (u1, u2) of neighbouring elements (2k, 2k+1): r = sqrt(-2 log(1 - u1)),
//              element 2k = r cos(2 pi u2), element 2k+1 = r sin(2 pi u2); 16-bit floats use the float32 rule
//   integers = low + floor(u64 * (high - low) / 2^64)
//   dropout  = decision i keeps its elements where the float32 uniform of element i is >= p
#pragma once
#include <stdint.h>

#include "fastcnn/params.h"

#if defined(__CUDACC__)
#define FASTCNN_PHILOX __host__ __device__ __forceinline__
#else
#define FASTCNN_PHILOX FASTCNN_INLINE
#endif

namespace fastcnn {

struct PhiloxBlock {
  uint32_t w[4];
};

FASTCNN_PHILOX PhiloxBlock philox(uint64_t seed, uint64_t stream, uint64_t block) {
  uint32_t c0 = static_cast<uint32_t>(block), c1 = static_cast<uint32_t>(block >> 32);
  uint32_t c2 = static_cast<uint32_t>(stream), c3 = static_cast<uint32_t>(stream >> 32);
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    uint64_t p0 = uint64_t{0xD2511F53u} * c0, p1 = uint64_t{0xCD9E8D57u} * c2;
    uint32_t n0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0, n2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<uint32_t>(p1);
    c3 = static_cast<uint32_t>(p0);
    c0 = n0;
    c2 = n2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

FASTCNN_PHILOX float philox_uniform24(uint32_t w) {  // signed conversion: exact, and one instruction on any ISA
  return static_cast<float>(static_cast<int32_t>(w >> 8)) * 5.9604644775390625e-8f;
}
FASTCNN_PHILOX float philox_uniform_bits(uint32_t w, int bits) {
  return static_cast<float>(w >> (32 - bits)) / static_cast<float>(1u << bits);
}
FASTCNN_PHILOX uint64_t philox_u64(const PhiloxBlock& b, int half) {  // half: 0 or 1
  return b.w[2 * half] | uint64_t{b.w[2 * half + 1]} << 32;
}
FASTCNN_PHILOX double philox_uniform53(uint64_t u) {
  return static_cast<double>(static_cast<int64_t>(u >> 11)) * 1.1102230246251565e-16;
}
FASTCNN_PHILOX uint64_t philox_below(uint64_t u, uint64_t n) {  // floor(u * n / 2^64) without 128-bit types
  uint64_t ul = u & 0xffffffffu, uh = u >> 32, nl = n & 0xffffffffu, nh = n >> 32;
  uint64_t mid = uh * nl + (ul * nl >> 32), low = ul * nh + (mid & 0xffffffffu);
  return uh * nh + (mid >> 32) + (low >> 32);
}

// Threshold form of dropout's test: word w keeps exactly when (w >> 8) >= philox_threshold(p).
FASTCNN_PHILOX uint32_t philox_threshold(double p) {
  double t = p * 16777216.0;
  if (!(t > 0)) return 0;
  if (t >= 16777216.0) return 1u << 24;
  uint32_t i = static_cast<uint32_t>(t);
  return static_cast<double>(i) < t ? i + 1 : i;
}

}  // namespace fastcnn
