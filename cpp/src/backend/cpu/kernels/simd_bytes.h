// What it is: bytes and int32 sums of the ISA this file is compiled for: words of 4 bytes, or of 2 bytes widened
// to 16 bits, times words of as many weights into int32 lanes, exactly, and what leads there and back. With simd.h
// and simd_halves.h it alone names intrinsics. What it is not: saturating: every product and sum is the whole
// number, so all ISAs give the same bits.
#pragma once
#include <string.h>

#include "backend/cpu/kernels/simd.h"

namespace fastcnn::cpu::FASTCNN_ISA {

constexpr int kBytes = 4 * kLanes;  // of a vector
typedef int16_t vs __attribute__((vector_size(kBytes)));
typedef uint8_t vb __attribute__((vector_size(kBytes)));
typedef int32_t vi_unaligned __attribute__((vector_size(kBytes), aligned(1), may_alias));

FASTCNN_OP vi set1_int(int32_t a) { return vi{} + a; }
FASTCNN_OP vi load_int(const void* p) { return *static_cast<const vi_unaligned*>(p); }
FASTCNN_OP void store_int(void* p, vi a) { *static_cast<vi_unaligned*>(p) = a; }

// ---- words of 32 bits: numbers of x times numbers of w, summed into int32 lanes ----

#if defined(__AVX512VNNI__)

// Four of them, as they lie in memory.
typedef int8_t Number;
FASTCNN_OP vi dot(vi acc, vi x, vi w) { return (vi)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)x, (__m512i)w); }

#else

// Two of 16 bits. Products of two bytes and their neighbours' would overflow 16 bits, and to widen bytes at each
// product takes longer than the product.
typedef int16_t Number;
FASTCNN_OP vi multiply_add_pairs(vi a, vi b) {
#if defined(__AVX512BW__)
  return (vi)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  return (vi)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
  return (vi)__builtin_ia32_pmaddwd128((vs)a, (vs)b);
#else
  return ((a << 16) >> 16) * ((b << 16) >> 16) + (a >> 16) * (b >> 16);
#endif
}
FASTCNN_OP vi dot(vi acc, vi x, vi w) { return acc + multiply_add_pairs(x, w); }

#endif

constexpr int kNumbers = 4 / sizeof(Number);  // of a word

FASTCNN_OP vi broadcast_word(const uint8_t* p) {
  int32_t word;
  memcpy(&word, p, 4);
  return set1_int(word);
}

// ---- int32 and float; fused_multiply_add rounds once on every ISA ----

#if defined(__AVX512F__)

FASTCNN_OP vi round_to_int(vf a) { return (vi)_mm512_cvtps_epi32(a); }
FASTCNN_OP vf fused_multiply_add(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
// The first n lanes from and to single bytes.
FASTCNN_OP vi load_lanes(const uint8_t* p, int n) {
  if (n == kLanes) return (vi)_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return (vi)_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(first_n(n), p));
}
FASTCNN_OP void store_lanes(uint8_t* p, vi a, int n) {
  const __m128i b = _mm512_cvtepi32_epi8((__m512i)a);  // in a register: narrowing stores are slow on Zen 4
  if (n == kLanes)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), b);
  else
    _mm_mask_storeu_epi8(p, first_n(n), b);
}

#elif defined(__AVX2__)

FASTCNN_OP vi round_to_int(vf a) { return (vi)_mm256_cvtps_epi32(a); }
FASTCNN_OP vf fused_multiply_add(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
FASTCNN_OP vi load_lanes(const uint8_t* p, int n) {
  if (n == 8) return (vi)_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  uint8_t t[8] = {};
  memcpy(t, p, static_cast<size_t>(n < 8 ? n : 8));
  return (vi)_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(t)));
}
FASTCNN_OP void store_lanes(uint8_t* p, vi a, int n) {
  const __m256i h = _mm256_packus_epi32((__m256i)a, (__m256i)a), b = _mm256_packus_epi16(h, h);
  const __m128i low = _mm256_castsi256_si128(b), high = _mm256_extracti128_si256(b, 1);
  const int64_t bytes = _mm_cvtsi128_si64(_mm_unpacklo_epi32(low, high));
  memcpy(p, &bytes, static_cast<size_t>(n < 8 ? n : 8));
}

#else

FASTCNN_OP vi round_to_int(vf a) { return __builtin_convertvector(round_even(a), vi); }
FASTCNN_OP vf fused_multiply_add(vf a, vf b, vf c) {
  vf r;
  for (int i = 0; i < kLanes; ++i) r[i] = __builtin_fmaf(a[i], b[i], c[i]);
  return r;
}
FASTCNN_OP vi load_lanes(const uint8_t* p, int n) {
  vi r{};
  for (int i = 0; i < kLanes && i < n; ++i) r[i] = p[i];
  return r;
}
FASTCNN_OP void store_lanes(uint8_t* p, vi a, int n) {
  for (int i = 0; i < kLanes && i < n; ++i) p[i] = static_cast<uint8_t>(a[i]);
}

#endif

// ---- whole vectors of bytes ----

#if !defined(__AVX512F__)

// The first n < kBytes bytes from or to memory, in pieces of 16, 8, 4, 2 and 1.
FASTCNN_OP void copy_pieces(uint8_t* to, const uint8_t* from, int64_t n) {
#pragma GCC unroll 5
  for (int piece = kBytes / 2; piece > 0; piece /= 2)
    if (n & piece) memcpy(to, from, static_cast<size_t>(piece)), to += piece, from += piece;
}

#endif

// The first n bytes; the others are 0.
FASTCNN_OP vi load_bytes(const uint8_t* p, int64_t n) {
  if (n >= kBytes) return load_int(p);
#if defined(__AVX512F__)
  return (vi)_mm512_maskz_loadu_epi8((__mmask64{1} << n) - 1, p);
#else
#if defined(__AVX2__)
  if (n == 16) return (vi)_mm256_zextsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#endif
  uint8_t t[kBytes] = {};
  copy_pieces(t, p, n);
  return load_int(t);
#endif
}

// Bytes of kNumbers vectors as words of numbers: out[i] lane l holds byte c of each of them,
// c = 16 * (l / 4) + 4 * i + l % 4.
FASTCNN_OP void interleave(const vi* x, vi out[4]) {
#if defined(__AVX512F__)
#define FASTCNN_UNPACK(half, size, x, y) (vi) _mm512_unpack##half##_epi##size((__m512i)(x), (__m512i)(y))
#elif defined(__AVX2__)
#define FASTCNN_UNPACK(half, size, x, y) (vi) _mm256_unpack##half##_epi##size((__m256i)(x), (__m256i)(y))
#else
#define FASTCNN_UNPACK(half, size, x, y) unpack_##half##_##size(x, y)
  const auto unpack_lo_8 = [](vi a, vi b) __attribute__((always_inline)) {
    return (vi)__builtin_shufflevector((vb)a, (vb)b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  };
  const auto unpack_hi_8 = [](vi a, vi b) __attribute__((always_inline)) {
    return (vi)__builtin_shufflevector((vb)a, (vb)b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  };
#endif
  const vi ab_lo = FASTCNN_UNPACK(lo, 8, x[0], x[1]), ab_hi = FASTCNN_UNPACK(hi, 8, x[0], x[1]);
#if defined(__AVX512VNNI__)
  const vi cd_lo = FASTCNN_UNPACK(lo, 8, x[2], x[3]), cd_hi = FASTCNN_UNPACK(hi, 8, x[2], x[3]);
  out[0] = FASTCNN_UNPACK(lo, 16, ab_lo, cd_lo), out[1] = FASTCNN_UNPACK(hi, 16, ab_lo, cd_lo);
  out[2] = FASTCNN_UNPACK(lo, 16, ab_hi, cd_hi), out[3] = FASTCNN_UNPACK(hi, 16, ab_hi, cd_hi);
#else
  out[0] = FASTCNN_UNPACK(lo, 8, ab_lo, vi{}), out[1] = FASTCNN_UNPACK(hi, 8, ab_lo, vi{});
  out[2] = FASTCNN_UNPACK(lo, 8, ab_hi, vi{}), out[3] = FASTCNN_UNPACK(hi, 8, ab_hi, vi{});
#endif
#undef FASTCNN_UNPACK
}

// ---- results: numbers to bytes, not below `low` ----

#if defined(__AVX2__)

// Not above `high`. What is below 0 is left to the saturating steps of pack, as is NaN, which becomes INT_MIN
// here.
FASTCNN_OP vi round_below(vf value, vf low, vf high) { return round_to_int(vmin(high, value)); }

// The bytes of 4 vectors, the same 128 bits of each side by side.
FASTCNN_OP vi pack(vi a, vi b, vi c, vi d, uint8_t low) {
#if defined(__AVX512F__)
  const __m512i bytes =
      _mm512_packus_epi16(_mm512_packs_epi32((__m512i)a, (__m512i)b), _mm512_packs_epi32((__m512i)c, (__m512i)d));
  return (vi)_mm512_max_epu8(bytes, _mm512_set1_epi8(static_cast<char>(low)));
#else
  const __m256i bytes =
      _mm256_packus_epi16(_mm256_packs_epi32((__m256i)a, (__m256i)b), _mm256_packs_epi32((__m256i)c, (__m256i)d));
  return (vi)_mm256_max_epu8(bytes, _mm256_set1_epi8(static_cast<char>(low)));
#endif
}

#else

FASTCNN_OP vi round_below(vf value, vf low, vf high) { return round_to_int(vmin(vmax(value, low), high)); }

#endif

// Lanes of V vectors from round_below as their first n bytes.
template <int V>
FASTCNN_OP void store_panel(uint8_t* p, const vi* a, int n, uint8_t low) {
#if defined(__AVX512F__)
  const vi lanes = {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15};
  const __m512i b = _mm512_permutexvar_epi32(
      (__m512i)lanes, (__m512i)pack(a[0], a[V > 1], a[V > 2 ? 2 : 0], a[V > 3 ? 3 : 0], low));
  if (n < V * kLanes) {
    _mm512_mask_storeu_epi8(p, (__mmask64{1} << n) - 1, b);
  } else if constexpr (V == 4) {
    _mm512_storeu_si512(p, b);
  } else {
    if constexpr (V > 1) _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_castsi512_si256(b));
    if constexpr (V == 3) _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 32), _mm512_extracti32x4_epi32(b, 2));
    if constexpr (V == 1) _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_castsi512_si128(b));
  }
#elif defined(__AVX2__)
  static_assert(V <= 2);
  const __m256i b = _mm256_permutevar8x32_epi32((__m256i)pack(a[0], a[V > 1], a[0], a[V > 1], low),
                                                _mm256_setr_epi32(0, 4, 1, 5, 0, 4, 1, 5));
  if (n == 16) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(b));
  } else {
    uint8_t t[16];
    _mm_storeu_si128(reinterpret_cast<__m128i*>(t), _mm256_castsi256_si128(b));
    copy_pieces(p, t, n);
  }
#else
  for (int v = 0; v < V; ++v) store_lanes(p + v * kLanes, a[v], n - v * kLanes);
#endif
}

// The same twice, of two pixels.
template <int V>
FASTCNN_OP void store_panels(uint8_t* p, uint8_t* q, const vi* a, const vi* b, int n, uint8_t low) {
#if defined(__AVX2__) && !defined(__AVX512F__)
  if (n == 16) {
    const __m256i both = _mm256_permutevar8x32_epi32((__m256i)pack(a[0], a[V > 1], b[0], b[V > 1], low),
                                                     _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(both));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(q), _mm256_extracti128_si256(both, 1));
    return;
  }
#endif
  store_panel<V>(p, a, n, low), store_panel<V>(q, b, n, low);
}

// The same of 4 vectors whose lanes are in the order that interleave gives.
FASTCNN_OP void store_bytes(uint8_t* p, const vi v[4], int64_t n, uint8_t low) {
#if defined(__AVX512F__)
  const __m512i b = (__m512i)pack(v[0], v[1], v[2], v[3], low);
  if (n >= kBytes)
    _mm512_storeu_si512(p, b);
  else
    _mm512_mask_storeu_epi8(p, (__mmask64{1} << n) - 1, b);
#else
  uint8_t t[kBytes];
#if defined(__AVX2__)
  const __m256i b = (__m256i)pack(v[0], v[1], v[2], v[3], low);
  if (n >= kBytes) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), b);
    return;
  }
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(t), b);
#else
  for (int i = 0; i < 4; ++i)
    for (int l = 0; l < kLanes; ++l) t[4 * i + l] = static_cast<uint8_t>(v[i][l]);
  if (n >= kBytes) {
    memcpy(p, t, kBytes);
    return;
  }
#endif
  copy_pieces(p, t, n);
#endif
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
