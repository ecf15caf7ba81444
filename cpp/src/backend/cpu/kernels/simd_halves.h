// What it is: rows of bfloat16 as they lie, twice as many in a vector as floats: two rows woven to words of a pair
// each, for dot_pairs, and the sums of such words back to a row. With simd.h and simd_bytes.h it alone names
// intrinsics. What it is not: in the order of the channels: see DepthwiseWords.
#pragma once
#include "backend/cpu/kernels/simd.h"

namespace fastcnn::cpu::FASTCNN_ISA {

constexpr int kHalves = 2 * kLanes;  // of a vector

#if defined(__AVX512F__)

using vh = __m512i;
FASTCNN_OP vh no_halves() { return _mm512_setzero_si512(); }
FASTCNN_OP __mmask32 first_halves(int n) { return static_cast<__mmask32>((uint64_t{1} << n) - 1); }
FASTCNN_OP vh load_halves(const bfloat16* p) { return _mm512_loadu_si512(p); }
FASTCNN_OP vh load_halves(const bfloat16* p, int n) { return _mm512_maskz_loadu_epi16(first_halves(n), p); }
FASTCNN_OP vf weave_low(vh a, vh b) { return _mm512_castsi512_ps(_mm512_unpacklo_epi16(a, b)); }
FASTCNN_OP vf weave_high(vh a, vh b) { return _mm512_castsi512_ps(_mm512_unpackhi_epi16(a, b)); }
FASTCNN_OP vh unweave(vf low, vf high) {
#if defined(__AVX512BF16__)
  const vh both = (vh)_mm512_cvtne2ps_pbh(high, low);
#else
  const vh both = _mm512_inserti64x4(_mm512_castsi256_si512(narrow(low)), narrow(high), 1);
#endif
  return _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7), both);
}
FASTCNN_OP void store_halves(bfloat16* p, vh a) { _mm512_storeu_si512(p, a); }
FASTCNN_OP void store_halves(bfloat16* p, vh a, int n) { _mm512_mask_storeu_epi16(p, first_halves(n), a); }

#elif defined(__AVX2__)

using vh = __m256i;
FASTCNN_OP vh no_halves() { return _mm256_setzero_si256(); }
FASTCNN_OP vh load_halves(const bfloat16* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
FASTCNN_OP vf weave_low(vh a, vh b) { return _mm256_castsi256_ps(_mm256_unpacklo_epi16(a, b)); }
FASTCNN_OP vf weave_high(vh a, vh b) { return _mm256_castsi256_ps(_mm256_unpackhi_epi16(a, b)); }
FASTCNN_OP vh unweave(vf low, vf high) {
  return _mm256_permute4x64_epi64(_mm256_set_m128i(narrow(high), narrow(low)), 0xd8);
}
FASTCNN_OP void store_halves(bfloat16* p, vh a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a); }

#else

typedef uint16_t vh __attribute__((vector_size(16)));
typedef uint16_t vh_unaligned __attribute__((vector_size(16), aligned(2), may_alias));
FASTCNN_OP vh no_halves() { return vh{}; }
FASTCNN_OP vh load_halves(const bfloat16* p) { return *reinterpret_cast<const vh_unaligned*>(p); }
FASTCNN_OP vf weave_low(vh a, vh b) { return (vf)__builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11); }
FASTCNN_OP vf weave_high(vh a, vh b) { return (vf)__builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15); }
FASTCNN_OP void store_halves(bfloat16* p, vh a) { *reinterpret_cast<vh_unaligned*>(p) = a; }
FASTCNN_OP vh unweave(vf low, vf high) {
  bfloat16 t[kHalves];
  store(t, low), store(t + kLanes, high);
  return load_halves(t);
}

#endif

#if !defined(__AVX512F__)
FASTCNN_OP vh load_halves(const bfloat16* p, int n) {
  if (n >= kHalves) return load_halves(p);
  bfloat16 t[kHalves] = {};
  __builtin_memcpy(t, p, static_cast<size_t>(n) * 2);
  return load_halves(t);
}
FASTCNN_OP void store_halves(bfloat16* p, vh a, int n) {
  if (n >= kHalves) return store_halves(p, a);
  bfloat16 t[kHalves];
  store_halves(t, a);
  __builtin_memcpy(p, t, static_cast<size_t>(n) * 2);
}
#endif

// Pixels of three halves to pixels of four, the last of them 0; reads a whole vector. None where there is no such
// shuffle.
#if defined(__AVX512F__)
constexpr int64_t kThrees = kHalves / 4;  // pixels
FASTCNN_OP vh threes_to_fours(const bfloat16* p) {
  const vi at = {0x10000, 2,  0x40003,  5,  0x70006,  8,  0xa0009,  11,
                 0xd000c, 14, 0x10000f, 17, 0x130012, 20, 0x160015, 23};
  return _mm512_maskz_permutexvar_epi16(0x77777777, (vh)at, load_halves(p));
}
#else
constexpr int64_t kThrees = 0;
FASTCNN_OP vh threes_to_fours(const bfloat16*) { return no_halves(); }
#endif

// Two vectors of neighbouring floats.
FASTCNN_OP void store_two(bfloat16* p, vf a, vf b) {
#if defined(__AVX512BF16__)
  store_halves(p, (vh)_mm512_cvtne2ps_pbh(b, a));
#else
  store(p, a), store(p + kLanes, b);
#endif
}
FASTCNN_OP void store_two(float* p, vf a, vf b) { store(p, a), store(p + kLanes, b); }

}  // namespace fastcnn::cpu::FASTCNN_ISA
