// What it is: the one vector type that kernels are written on, float lanes of the ISA this file is compiled for:
// 16 (AVX-512), 8 (AVX2+FMA) or 4 (GCC vectors: SSE, NEON, anything). What it is not: no kernel names an
// intrinsic; what an ISA does differently is done here. Partial vectors: loadn/storen touch only the first n
// lanes; the others read as 0.
#pragma once
#include <stdint.h>

#include "fastcnn/dtype.h"

#if defined(__AVX512F__) || defined(__AVX2__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // g++ 12 sees its own _mm512_undefined_ps as a mistake
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif

namespace fastcnn::cpu::FASTCNN_ISA {

// A number that a template takes from an argument.
template <int N>
struct Int {
  static constexpr int value = N;
};

#define FASTCNN_OP FASTCNN_INLINE

#if defined(__AVX512F__)

constexpr int kLanes = 16;
constexpr int kVectorRegs = 32;
using vf = __m512;
typedef int32_t vi __attribute__((vector_size(64)));
FASTCNN_OP vf zero() { return _mm512_setzero_ps(); }
FASTCNN_OP vf set1(float a) { return _mm512_set1_ps(a); }
FASTCNN_OP vf load(const float* p) { return _mm512_loadu_ps(p); }
FASTCNN_OP void store(float* p, vf a) { _mm512_storeu_ps(p, a); }
FASTCNN_OP void stream(float* p, vf a) { _mm512_stream_ps(p, a); }  // p 64-byte aligned; follow with fence()
FASTCNN_OP void fence() { _mm_sfence(); }
FASTCNN_OP __mmask16 first_n(int n) { return static_cast<__mmask16>((1u << n) - 1); }
FASTCNN_OP vf loadn(const float* p, int n) { return _mm512_maskz_loadu_ps(first_n(n), p); }
FASTCNN_OP void storen(float* p, vf a, int n) { _mm512_mask_storeu_ps(p, first_n(n), a); }
FASTCNN_OP vf add(vf a, vf b) { return _mm512_add_ps(a, b); }
FASTCNN_OP vf sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
FASTCNN_OP vf mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
FASTCNN_OP vf div(vf a, vf b) { return _mm512_div_ps(a, b); }
FASTCNN_OP vf fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }    // a*b+c
FASTCNN_OP vf fnma(vf a, vf b, vf c) { return _mm512_fnmadd_ps(a, b, c); }  // c-a*b
FASTCNN_OP vf vmax(vf a, vf b) {
  return _mm512_max_ps(a, b);
}  // NaN in a gives b: put the maybe-NaN operand second
FASTCNN_OP vf vmin(vf a, vf b) { return _mm512_min_ps(a, b); }
FASTCNN_OP vf vsqrt(vf a) { return _mm512_sqrt_ps(a); }
FASTCNN_OP vf select_gt(vf a, vf b, vf yes, vf no) {  // a > b ? yes : no
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_GT_OQ), no, yes);
}
template <int kHalf>  // runs of 2 * kHalf lanes with their halves swapped
FASTCNN_OP vf swap_halves(vf a) {
  if constexpr (kHalf == 8) return _mm512_shuffle_f32x4(a, a, 0x4e);
  if constexpr (kHalf == 4) return _mm512_shuffle_f32x4(a, a, 0xb1);
  return _mm512_permute_ps(a, kHalf == 2 ? 0x4e : 0xb1);
}
FASTCNN_OP float hsum(vf a) { return _mm512_reduce_add_ps(a); }
FASTCNN_OP float hmax(vf a) { return _mm512_reduce_max_ps(a); }
FASTCNN_OP vf round_even(vf a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
FASTCNN_OP vf scale2(vf a, vf n) { return _mm512_scalef_ps(a, n); }  // a * 2^n, n integral
FASTCNN_OP vf vabs(vf a) { return _mm512_abs_ps(a); }
FASTCNN_OP vf copy_sign(vf a, vf sign) {  // |a| with the sign of `sign`
  __m512i s = _mm512_castps_si512(sign), m = _mm512_castps_si512(a);
  return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(_mm512_set1_epi32(INT32_MIN), s, m, 0xCA));
}
FASTCNN_OP vf select_le(vf a, vf b, vf yes, vf no) {  // a <= b ? yes : no; NaN gives no
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LE_OQ), no, yes);
}
FASTCNN_OP vf select_nan(vf a, vf yes, vf no) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), no, yes);
}
FASTCNN_OP vf set1_bits(int32_t a) {
  return _mm512_castsi512_ps(_mm512_set1_epi32(a));
}  // int32 lanes kept in a vf
FASTCNN_OP vf select_same_bits(vf a, vf b, vf yes, vf no) {
  return _mm512_mask_blend_ps(_mm512_cmpeq_epi32_mask(_mm512_castps_si512(a), _mm512_castps_si512(b)), no, yes);
}
FASTCNN_OP vf exponent(vf a) { return _mm512_getexp_ps(a); }  // floor(log2(a)) of a positive normal a
FASTCNN_OP vf mantissa(vf a) { return _mm512_getmant_ps(a, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_zero); }  // in [1, 2)
FASTCNN_OP void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

#elif defined(__AVX2__)

constexpr int kLanes = 8;
constexpr int kVectorRegs = 16;
using vf = __m256;
typedef int32_t vi __attribute__((vector_size(32)));
FASTCNN_OP vf zero() { return _mm256_setzero_ps(); }
FASTCNN_OP vf set1(float a) { return _mm256_set1_ps(a); }
FASTCNN_OP vf load(const float* p) { return _mm256_loadu_ps(p); }
FASTCNN_OP void store(float* p, vf a) { _mm256_storeu_ps(p, a); }
FASTCNN_OP void stream(float* p, vf a) { _mm256_stream_ps(p, a); }
FASTCNN_OP void fence() { _mm_sfence(); }
FASTCNN_OP __m256i first_n(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
FASTCNN_OP vf loadn(const float* p, int n) { return n >= 8 ? load(p) : _mm256_maskload_ps(p, first_n(n)); }
FASTCNN_OP void storen(float* p, vf a, int n) {
  if (n >= 8) return store(p, a);
  __m128 rest = _mm256_castps256_ps128(a);  // vmaskmov stores are microcoded on AMD
  if (n & 4) _mm_storeu_ps(p, rest), p += 4, rest = _mm256_extractf128_ps(a, 1);
  if (n & 2) _mm_storel_pi(reinterpret_cast<__m64*>(p), rest), p += 2, rest = _mm_movehl_ps(rest, rest);
  if (n & 1) _mm_store_ss(p, rest);
}
FASTCNN_OP vf add(vf a, vf b) { return _mm256_add_ps(a, b); }
FASTCNN_OP vf sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
FASTCNN_OP vf mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
FASTCNN_OP vf div(vf a, vf b) { return _mm256_div_ps(a, b); }
FASTCNN_OP vf fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
FASTCNN_OP vf fnma(vf a, vf b, vf c) { return _mm256_fnmadd_ps(a, b, c); }
FASTCNN_OP vf vmax(vf a, vf b) { return _mm256_max_ps(a, b); }
FASTCNN_OP vf vmin(vf a, vf b) { return _mm256_min_ps(a, b); }
FASTCNN_OP vf vsqrt(vf a) { return _mm256_sqrt_ps(a); }
FASTCNN_OP vf select_gt(vf a, vf b, vf yes, vf no) {
  return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_GT_OQ));
}
template <int kHalf>  // runs of 2 * kHalf lanes with their halves swapped
FASTCNN_OP vf swap_halves(vf a) {
  if constexpr (kHalf == 4) return _mm256_permute2f128_ps(a, a, 1);
  return _mm256_permute_ps(a, kHalf == 2 ? 0x4e : 0xb1);
}
FASTCNN_OP float hsum(vf a) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
FASTCNN_OP float hmax(vf a) {
  __m128 s = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
FASTCNN_OP vf round_even(vf a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
FASTCNN_OP vf scale2(vf a, vf n) {
  __m256i e = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
  return _mm256_mul_ps(a, _mm256_castsi256_ps(e));
}
FASTCNN_OP vf vabs(vf a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
FASTCNN_OP vf copy_sign(vf a, vf sign) {
  return _mm256_or_ps(vabs(a), _mm256_and_ps(_mm256_set1_ps(-0.0f), sign));
}
FASTCNN_OP vf select_le(vf a, vf b, vf yes, vf no) {
  return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_LE_OQ));
}
FASTCNN_OP vf select_nan(vf a, vf yes, vf no) {
  return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, a, _CMP_UNORD_Q));
}
FASTCNN_OP vf set1_bits(int32_t a) { return _mm256_castsi256_ps(_mm256_set1_epi32(a)); }
FASTCNN_OP vf select_same_bits(vf a, vf b, vf yes, vf no) {
  __m256i m = _mm256_cmpeq_epi32(_mm256_castps_si256(a), _mm256_castps_si256(b));
  return _mm256_blendv_ps(no, yes, _mm256_castsi256_ps(m));
}
FASTCNN_OP vf exponent(vf a) {
  __m256i e = _mm256_and_si256(_mm256_srli_epi32(_mm256_castps_si256(a), 23), _mm256_set1_epi32(255));
  return _mm256_cvtepi32_ps(_mm256_sub_epi32(e, _mm256_set1_epi32(127)));
}
FASTCNN_OP vf mantissa(vf a) {
  __m256i m = _mm256_and_si256(_mm256_castps_si256(a), _mm256_set1_epi32(0x007fffff));
  return _mm256_castsi256_ps(_mm256_or_si256(m, _mm256_set1_epi32(0x3f800000)));
}
FASTCNN_OP void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

#else

constexpr int kLanes = 4;
#if defined(__aarch64__)
constexpr int kVectorRegs = 32;
#else
constexpr int kVectorRegs = 16;
#endif
typedef float vf __attribute__((vector_size(16)));
typedef float vf_unaligned __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t vi __attribute__((vector_size(16)));
FASTCNN_OP vf zero() { return vf{0, 0, 0, 0}; }
FASTCNN_OP vf set1(float a) { return vf{a, a, a, a}; }
FASTCNN_OP vf load(const float* p) { return *reinterpret_cast<const vf_unaligned*>(p); }
FASTCNN_OP void store(float* p, vf a) { *reinterpret_cast<vf_unaligned*>(p) = a; }
FASTCNN_OP void stream(float* p, vf a) { store(p, a); }
FASTCNN_OP void fence() {}
FASTCNN_OP vf loadn(const float* p, int n) {
  vf r = zero();
  for (int i = 0; i < 4 && i < n; ++i) r[i] = p[i];
  return r;
}
FASTCNN_OP void storen(float* p, vf a, int n) {
  for (int i = 0; i < 4 && i < n; ++i) p[i] = a[i];
}
FASTCNN_OP vf add(vf a, vf b) { return a + b; }
FASTCNN_OP vf sub(vf a, vf b) { return a - b; }
FASTCNN_OP vf mul(vf a, vf b) { return a * b; }
FASTCNN_OP vf div(vf a, vf b) { return a / b; }
FASTCNN_OP vf fma(vf a, vf b, vf c) { return a * b + c; }
FASTCNN_OP vf fnma(vf a, vf b, vf c) { return c - a * b; }
FASTCNN_OP vf vmax(vf a, vf b) { return a > b ? a : b; }
FASTCNN_OP vf vmin(vf a, vf b) { return a < b ? a : b; }
FASTCNN_OP vf vsqrt(vf a) {
  return vf{__builtin_sqrtf(a[0]), __builtin_sqrtf(a[1]), __builtin_sqrtf(a[2]), __builtin_sqrtf(a[3])};
}
FASTCNN_OP vf select_gt(vf a, vf b, vf yes, vf no) { return a > b ? yes : no; }
template <int kHalf>  // runs of 2 * kHalf lanes with their halves swapped
FASTCNN_OP vf swap_halves(vf a) {
  return kHalf == 2 ? vf{a[2], a[3], a[0], a[1]} : vf{a[1], a[0], a[3], a[2]};
}
FASTCNN_OP float hsum(vf a) { return (a[0] + a[2]) + (a[1] + a[3]); }
FASTCNN_OP float hmax(vf a) {
  float x = a[0] > a[2] ? a[0] : a[2], y = a[1] > a[3] ? a[1] : a[3];
  return x > y ? x : y;
}
FASTCNN_OP vf round_even(vf a) {
  return vf{__builtin_rintf(a[0]), __builtin_rintf(a[1]), __builtin_rintf(a[2]), __builtin_rintf(a[3])};
}
FASTCNN_OP vf scale2(vf a, vf n) {
  vi e = (__builtin_convertvector(n, vi) + 127) << 23;
  vf s;
  __builtin_memcpy(&s, &e, 16);
  return a * s;
}
FASTCNN_OP vf vabs(vf a) { return (vf)((vi)a & 0x7fffffff); }
FASTCNN_OP vf copy_sign(vf a, vf sign) { return (vf)(((vi)a & 0x7fffffff) | ((vi)sign & INT32_MIN)); }
FASTCNN_OP vf select_le(vf a, vf b, vf yes, vf no) { return a <= b ? yes : no; }
FASTCNN_OP vf select_nan(vf a, vf yes, vf no) { return a == a ? no : yes; }
FASTCNN_OP vf set1_bits(int32_t a) { return (vf)vi{a, a, a, a}; }
FASTCNN_OP vf select_same_bits(vf a, vf b, vf yes, vf no) { return (vi)a == (vi)b ? yes : no; }
FASTCNN_OP vf exponent(vf a) { return __builtin_convertvector((((vi)a >> 23) & 255) - 127, vf); }
FASTCNN_OP vf mantissa(vf a) { return (vf)(((vi)a & 0x007fffff) | 0x3f800000); }
FASTCNN_OP void prefetch(const void* p) { __builtin_prefetch(p); }

#endif

// 64-bit unsigned lanes, half as many as floats; + ^ & << >> are GCC's operators.
typedef uint64_t vu __attribute__((vector_size(kLanes * 4)));
FASTCNN_OP vu mul_low32(vu a, vu b) {  // product of the low halves
#if defined(__AVX512F__)
  return (vu)_mm512_mul_epu32((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  return (vu)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
  return (vu)__builtin_ia32_pmuludq128((vi)a, (vi)b);
#else
  return (a & 0xffffffffu) * (b & 0xffffffffu);
#endif
}

// In-register transpose of kLanes vectors: log2(kLanes) rounds of interleaving each row with the one half way
// down.
FASTCNN_OP void transpose(vf r[kLanes]) {
#if defined(__AVX512F__)
#define FASTCNN_LO 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define FASTCNN_HI 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif defined(__AVX2__)
#define FASTCNN_LO 0, 8, 1, 9, 2, 10, 3, 11
#define FASTCNN_HI 4, 12, 5, 13, 6, 14, 7, 15
#else
#define FASTCNN_LO 0, 4, 1, 5
#define FASTCNN_HI 2, 6, 3, 7
#endif
  vf t[kLanes];
#pragma GCC unroll 4
  for (int round = 1; round < kLanes; round *= 2) {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) t[i] = r[i];
#pragma GCC unroll 16
    for (int i = 0; i < kLanes / 2; ++i) {
      r[2 * i] = __builtin_shufflevector(t[i], t[i + kLanes / 2], FASTCNN_LO);
      r[2 * i + 1] = __builtin_shufflevector(t[i], t[i + kLanes / 2], FASTCNN_HI);
    }
  }
#undef FASTCNN_LO
#undef FASTCNN_HI
}

// ---- bfloat16: rows of it load and store as floats (stores round to nearest even); a pair, two of them in one
// lane with the first in the low half, multiplies as a whole ----

#if defined(__AVX512F__)

FASTCNN_OP vf widen(__m256i a) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(a), 16)); }
FASTCNN_OP vf load(const bfloat16* p) { return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
FASTCNN_OP vf loadn(const bfloat16* p, int n) { return widen(_mm256_maskz_loadu_epi16(first_n(n), p)); }
FASTCNN_OP __m256i narrow(vf a) {
#if defined(__AVX512BF16__)
  return (__m256i)_mm512_cvtneps_pbh(a);
#else
  const __m512i u = _mm512_castps_si512(a), odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
  const __m512i r = _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd);
  const __m512i nan = _mm512_or_si512(u, _mm512_set1_epi32(0x400000));
  const __mmask16 is_nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_mask_blend_epi32(is_nan, r, nan), 16));
#endif
}
FASTCNN_OP void store(bfloat16* p, vf a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow(a)); }
FASTCNN_OP void storen(bfloat16* p, vf a, int n) { _mm256_mask_storeu_epi16(p, first_n(n), narrow(a)); }
FASTCNN_OP void stream(bfloat16* p, vf a) { _mm256_stream_si256(reinterpret_cast<__m256i*>(p), narrow(a)); }
FASTCNN_OP vf low_of_pair(vf a) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(a), 16)); }
FASTCNN_OP vf high_of_pair(vf a) {
  return _mm512_castsi512_ps(
      _mm512_and_si512(_mm512_castps_si512(a), _mm512_set1_epi32(static_cast<int>(0xffff0000))));
}
FASTCNN_OP vf make_pair(vf low, vf high) {  // of floats that are exact in bfloat16
  return _mm512_castsi512_ps(
      _mm512_or_si512(_mm512_srli_epi32(_mm512_castps_si512(low), 16), _mm512_castps_si512(high)));
}

#elif defined(__AVX2__)

FASTCNN_OP vf widen(__m128i a) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(a), 16)); }
FASTCNN_OP vf load(const bfloat16* p) { return widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
FASTCNN_OP vf loadn(const bfloat16* p, int n) {
  if (n >= 8) return load(p);
  alignas(16) uint16_t t[8] = {};
  for (int i = 0; i < n; ++i) t[i] = p[i].bits;
  return widen(_mm_load_si128(reinterpret_cast<const __m128i*>(t)));
}
FASTCNN_OP __m128i narrow(vf a) {
  const __m256i u = _mm256_castps_si256(a), odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
  const __m256i r = _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), odd);
  const __m256i nan = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
  const vf is_nan = _mm256_cmp_ps(a, a, _CMP_UNORD_Q);
  const __m256i h = _mm256_srli_epi32(_mm256_castps_si256(_mm256_blendv_ps((vf)r, (vf)nan, is_nan)), 16);
  return _mm256_castsi256_si128(_mm256_permute4x64_epi64(_mm256_packus_epi32(h, h), 0x08));
}
FASTCNN_OP void store(bfloat16* p, vf a) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrow(a)); }
FASTCNN_OP void storen(bfloat16* p, vf a, int n) {
  if (n >= 8) return store(p, a);
  __m128i rest = narrow(a);
  if (n & 4) _mm_storel_epi64(reinterpret_cast<__m128i*>(p), rest), p += 4, rest = _mm_srli_si128(rest, 8);
  if (n & 2) _mm_storeu_si32(p, rest), p += 2, rest = _mm_srli_si128(rest, 4);
  if (n & 1) p->bits = static_cast<uint16_t>(_mm_cvtsi128_si32(rest));
}
FASTCNN_OP void stream(bfloat16* p, vf a) { _mm_stream_si128(reinterpret_cast<__m128i*>(p), narrow(a)); }
FASTCNN_OP vf low_of_pair(vf a) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(a), 16)); }
FASTCNN_OP vf high_of_pair(vf a) { return _mm256_and_ps(a, set1_bits(static_cast<int>(0xffff0000))); }
FASTCNN_OP vf make_pair(vf low, vf high) {
  return _mm256_or_ps(_mm256_castsi256_ps(_mm256_srli_epi32(_mm256_castps_si256(low), 16)), high);
}

#else

FASTCNN_OP vf loadn(const bfloat16* p, int n) {
  vf r = zero();
  for (int i = 0; i < 4 && i < n; ++i) r[i] = static_cast<float>(p[i]);
  return r;
}
FASTCNN_OP vf load(const bfloat16* p) { return loadn(p, 4); }
FASTCNN_OP void storen(bfloat16* p, vf a, int n) {
  for (int i = 0; i < 4 && i < n; ++i) p[i] = bfloat16(a[i]);
}
FASTCNN_OP void store(bfloat16* p, vf a) { storen(p, a, 4); }
FASTCNN_OP void stream(bfloat16* p, vf a) { store(p, a); }
typedef uint32_t vw __attribute__((vector_size(16)));
FASTCNN_OP vf low_of_pair(vf a) { return (vf)((vw)a << 16); }
FASTCNN_OP vf high_of_pair(vf a) { return (vf)((vw)a & 0xffff0000u); }
FASTCNN_OP vf make_pair(vf low, vf high) { return (vf)((vw)low >> 16 | (vw)high); }

#endif

// ---- pixels: int32 lanes, gathers, bytes as floats; + - * & | << >> of vi are GCC's operators ----

FASTCNN_OP vi to_int(vf a) { return __builtin_convertvector(a, vi); }  // towards zero; |a| < 2^31
FASTCNN_OP vf to_float(vi a) { return __builtin_convertvector(a, vf); }

#if defined(__AVX512F__)

FASTCNN_OP vf vfloor(vf a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }
FASTCNN_OP bool any_gt(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ) != 0; }
FASTCNN_OP vi vmin(vi a, vi b) { return (vi)_mm512_min_epi32((__m512i)a, (__m512i)b); }
FASTCNN_OP vi gather_bytes(const uint8_t* p, vi offset) {
  return (vi)_mm512_i32gather_epi32((__m512i)offset, p, 1);
}
FASTCNN_OP vf gather(const float* p, vi index) { return _mm512_i32gather_ps((__m512i)index, p, 4); }
FASTCNN_OP vf permute(vf a, vi from) { return _mm512_permutexvar_ps((__m512i)from, a); }  // lane i: a[from[i]]
FASTCNN_OP vf load(const uint8_t* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
// Integral values in [0, 255].
FASTCNN_OP void store(uint8_t* p, vf a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvttps_epi32(a)));
}
// 3 * kLanes bytes as three channels, and back.
FASTCNN_OP void load_rgb(const uint8_t* p, vf* v) {
  const __m512i groups = _mm512_setr_epi32(0, 1, 2, 0, 3, 4, 5, 0, 6, 7, 8, 0, 9, 10, 11, 0);
  const __m512i spread =
      _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, -1, 9, 10, 11, -1));
  const __m512i bytes = _mm512_maskz_loadu_epi32(0xfff, p), low = _mm512_set1_epi32(255);
  const __m512i rgb = _mm512_shuffle_epi8(_mm512_permutexvar_epi32(groups, bytes), spread);
  v[0] = _mm512_cvtepi32_ps(_mm512_and_si512(rgb, low));
  v[1] = _mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srli_epi32(rgb, 8), low));
  v[2] = _mm512_cvtepi32_ps(_mm512_srli_epi32(rgb, 16));
}
FASTCNN_OP void store_rgb(uint8_t* p, const vf* v) {
  const __m512i groups = _mm512_setr_epi32(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, 3, 7, 11, 15);
  const __m512i close =
      _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1));
  const __m512i r = _mm512_cvttps_epi32(v[0]), g = _mm512_cvttps_epi32(v[1]), b = _mm512_cvttps_epi32(v[2]);
  const __m512i rgb = _mm512_or_si512(r, _mm512_or_si512(_mm512_slli_epi32(g, 8), _mm512_slli_epi32(b, 16)));
  _mm512_mask_storeu_epi32(p, 0xfff, _mm512_permutexvar_epi32(groups, _mm512_shuffle_epi8(rgb, close)));
}

#elif defined(__AVX2__)

FASTCNN_OP vf vfloor(vf a) { return _mm256_floor_ps(a); }
FASTCNN_OP bool any_gt(vf a, vf b) { return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ)) != 0; }
FASTCNN_OP vi vmin(vi a, vi b) { return (vi)_mm256_min_epi32((__m256i)a, (__m256i)b); }
FASTCNN_OP vi gather_bytes(const uint8_t* p, vi offset) {
  return (vi)_mm256_i32gather_epi32(reinterpret_cast<const int*>(p), (__m256i)offset, 1);
}
FASTCNN_OP vf gather(const float* p, vi index) { return _mm256_i32gather_ps(p, (__m256i)index, 4); }
FASTCNN_OP vf permute(vf a, vi from) { return _mm256_permutevar8x32_ps(a, (__m256i)from); }
FASTCNN_OP vf load(const uint8_t* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
FASTCNN_OP void store(uint8_t* p, vf a) {
  const __m256i i = _mm256_packus_epi32(_mm256_cvttps_epi32(a), _mm256_setzero_si256());
  const __m256i b = _mm256_permute4x64_epi64(i, 0x08);
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p),
                   _mm_packus_epi16(_mm256_castsi256_si128(b), _mm_setzero_si128()));
}
FASTCNN_OP void load_rgb(const uint8_t* p, vf* v) {
  const __m128i first = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  const __m128i last = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8));  // bytes 12… of p start at 4
  const __m128i spread = _mm_setr_epi8(0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, -1, 9, 10, 11, -1);
  const __m128i later = _mm_setr_epi8(4, 5, 6, -1, 7, 8, 9, -1, 10, 11, 12, -1, 13, 14, 15, -1);
  const __m256i rgb = _mm256_set_m128i(_mm_shuffle_epi8(last, later), _mm_shuffle_epi8(first, spread));
  const __m256i low = _mm256_set1_epi32(255);
  v[0] = _mm256_cvtepi32_ps(_mm256_and_si256(rgb, low));
  v[1] = _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(rgb, 8), low));
  v[2] = _mm256_cvtepi32_ps(_mm256_srli_epi32(rgb, 16));
}
FASTCNN_OP void store_rgb(uint8_t* p, const vf* v) {
  const __m256i close =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1));
  const __m256i groups = _mm256_setr_epi32(0, 1, 2, 4, 5, 6, 3, 7);
  const __m256i r = _mm256_cvttps_epi32(v[0]), g = _mm256_cvttps_epi32(v[1]), b = _mm256_cvttps_epi32(v[2]);
  const __m256i rgb = _mm256_or_si256(r, _mm256_or_si256(_mm256_slli_epi32(g, 8), _mm256_slli_epi32(b, 16)));
  const __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(rgb, close), groups);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(bytes));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p + 16), _mm256_extracti128_si256(bytes, 1));
}

#else

FASTCNN_OP vf vfloor(vf a) {
  return vf{__builtin_floorf(a[0]), __builtin_floorf(a[1]), __builtin_floorf(a[2]), __builtin_floorf(a[3])};
}
FASTCNN_OP bool any_gt(vf a, vf b) { return a[0] > b[0] || a[1] > b[1] || a[2] > b[2] || a[3] > b[3]; }
FASTCNN_OP vi vmin(vi a, vi b) { return a < b ? a : b; }
FASTCNN_OP vi gather_bytes(const uint8_t* p, vi offset) {
  vi r;
  for (int i = 0; i < 4; ++i) {
    int32_t word;
    __builtin_memcpy(&word, p + offset[i], 4);
    r[i] = word;
  }
  return r;
}
FASTCNN_OP vf gather(const float* p, vi index) { return vf{p[index[0]], p[index[1]], p[index[2]], p[index[3]]}; }
FASTCNN_OP vf permute(vf a, vi from) { return __builtin_shuffle(a, from); }
FASTCNN_OP vf load(const uint8_t* p) { return to_float(vi{p[0], p[1], p[2], p[3]}); }
FASTCNN_OP void store(uint8_t* p, vf a) {
  for (int i = 0; i < 4; ++i) p[i] = static_cast<uint8_t>(a[i]);
}
FASTCNN_OP void load_rgb(const uint8_t* p, vf* v) {
  for (int c = 0; c < 3; ++c) v[c] = to_float(vi{p[c], p[3 + c], p[6 + c], p[9 + c]});
}
FASTCNN_OP void store_rgb(uint8_t* p, const vf* v) {
  for (int i = 0; i < 4; ++i)
    for (int c = 0; c < 3; ++c) p[3 * i + c] = static_cast<uint8_t>(v[c][i]);
}

#endif

FASTCNN_OP vf loadn(const uint8_t* p, int n) {
  uint8_t t[kLanes] = {};
  for (int i = 0; i < n; ++i) t[i] = p[i];
  return load(t);
}

// c + both products of each lane's pairs, in float32.
FASTCNN_OP vf dot_pairs(vf a, vf b, vf c) {
#if defined(__AVX512BF16__)
  return _mm512_dpbf16_ps(c, (__m512bh)a, (__m512bh)b);
#else
  return fma(high_of_pair(a), high_of_pair(b), fma(low_of_pair(a), low_of_pair(b), c));
#endif
}

// For processors that few still have: less code for one size or border, instead of a copy of what is hot for each.
#ifdef FASTCNN_SMALLEST
constexpr bool kFewCopies = true;
#else
constexpr bool kFewCopies = false;
#endif
constexpr bool kWholeLines = kLanes == 16;  // a vector is a line of the cache
// Whether loops ask for memory that they need later; the build for old processors is small rather than fast.
constexpr bool kFetches = kLanes > 4 || kVectorRegs > 16;

}  // namespace fastcnn::cpu::FASTCNN_ISA
