// What it is: images of few channels to planes and back; see planes.h. What it is not: products.
#include "backend/cpu/kernels/planes.h"

#include "backend/cpu/kernels/strip.h"

namespace fastcnn::cpu::FASTCNN_ISA {
namespace {

constexpr int64_t kAheadFloats = 512;

#if defined(__AVX512F__)
// Vectors of C neighbouring pixels to C planes, or planes to vectors: each result takes one source after the other
// beside what it has so far.
template <int C>
FASTCNN_OP void weave(const vf* v, const vi (*from)[PlaneSplit::kMost - 1], vf* r) {
#pragma GCC unroll 4
  for (int c = 0; c < C; ++c) {
    r[c] = v[0];
#pragma GCC unroll 4
    for (int j = 1; j < C; ++j)
      r[c] = _mm512_permutex2var_ps(r[c], reinterpret_cast<__m512i>(from[c][j - 1]), v[j]);
  }
}
// Of `count` pixels, the floats of vector j.
FASTCNN_OP int floats_of(int count, int C, int j) {
  const int n = count * C - j * kLanes;
  return n < 0 ? 0 : n < kLanes ? n : kLanes;
}

template <int C>
__attribute__((noinline)) void unweave_row(const PlaneSplit& k, const float* s, int64_t count, float* d,
                                           int64_t plane) {
  vf v[C], r[C];
  for (int64_t i = 0; i < count; i += kLanes) {
    const int n = lanes_at(i, count);
    prefetch(s + i * C + kAheadFloats);
#pragma GCC unroll 4
    for (int j = 0; j < C; ++j) v[j] = get(s + i * C + j * kLanes, floats_of(n, C, j));
    weave<C>(v, k.to, r);
#pragma GCC unroll 4
    for (int j = 0; j < C; ++j) put(d + i + j * plane, r[j], n);
  }
}
template <int C>
__attribute__((noinline)) void weave_row(const PlaneSplit& k, const float* s, int64_t plane, int64_t count,
                                         float* d, bool stream) {
  vf v[C], r[C];
  for (int64_t i = 0; i < count; i += kLanes) {
    const int n = lanes_at(i, count);
#pragma GCC unroll 4
    for (int j = 0; j < C; ++j) v[j] = get(s + i + j * plane, n);
    weave<C>(v, k.back, r);
#pragma GCC unroll 4
    for (int j = 0; j < C; ++j) put(d + i * C + j * kLanes, r[j], floats_of(n, C, j), stream);
  }
}

// r[0..3] as four rows of each quarter of a vector: transposed.
FASTCNN_OP void transpose_quarters(vf* r) {
  const vf a = _mm512_unpacklo_ps(r[0], r[1]), b = _mm512_unpackhi_ps(r[0], r[1]);
  const vf c = _mm512_unpacklo_ps(r[2], r[3]), d = _mm512_unpackhi_ps(r[2], r[3]);
  r[0] = _mm512_shuffle_ps(a, c, 0x44), r[1] = _mm512_shuffle_ps(a, c, 0xee);
  r[2] = _mm512_shuffle_ps(b, d, 0x44), r[3] = _mm512_shuffle_ps(b, d, 0xee);
}
FASTCNN_OP __mmask8 first_of_eight(int n) { return static_cast<__mmask8>((1u << n) - 1); }

// At most eight channels, pixels anywhere: two in a vector.
__attribute__((noinline)) void eight_to_planes(const float* s, int64_t step, int count, int C, float* d,
                                               int64_t plane) {
  const __mmask8 mask = first_of_eight(C);
  auto pixel = [&](int i) __attribute__((always_inline)) {
    prefetch(s + i * step + kAheadFloats);
    return i < count ? _mm256_maskz_loadu_ps(mask, s + i * step) : _mm256_setzero_ps();
  };
  vf r[2][4];  // of 8 pixels: channels j and j + 4 by turns of four pixels
#pragma GCC unroll 2
  for (int h = 0; h < 2; ++h) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i)
      r[h][i] = _mm512_insertf32x8(_mm512_castps256_ps512(pixel(8 * h + i)), pixel(8 * h + i + 4), 1);
    transpose_quarters(r[h]);
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    if (j < C) put(d + j * plane, _mm512_shuffle_f32x4(r[0][j], r[1][j], 0x88), count);
    if (j + 4 < C) put(d + (j + 4) * plane, _mm512_shuffle_f32x4(r[0][j], r[1][j], 0xdd), count);
  }
}
__attribute__((noinline)) void eight_to_pixels(const float* s, int64_t plane, int count, int C, float* d,
                                               int64_t step) {
  const __mmask8 mask = first_of_eight(C);
  vf low[4], high[4];  // channels 0 to 3 and 4 to 7 of pixels i, i + 4, i + 8, i + 12
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    low[j] = j < C ? get(s + j * plane, count) : zero();
    high[j] = j + 4 < C ? get(s + (j + 4) * plane, count) : zero();
  }
  transpose_quarters(low);
  transpose_quarters(high);
  const __m512i first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
  const __m512i second = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
  auto write = [&](int i, __m256 v) __attribute__((always_inline)) {
    if (i < count) _mm256_mask_storeu_ps(d + i * step, mask, v);
  };
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m512d l = _mm512_castps_pd(low[i]), h = _mm512_castps_pd(high[i]);
    const vf a = _mm512_castpd_ps(_mm512_permutex2var_pd(l, first, h));
    const vf b = _mm512_castpd_ps(_mm512_permutex2var_pd(l, second, h));
    write(i, _mm512_castps512_ps256(a)), write(i + 4, _mm512_extractf32x8_ps(a, 1));
    write(i + 8, _mm512_castps512_ps256(b)), write(i + 12, _mm512_extractf32x8_ps(b, 1));
  }
}
#endif

// Of any number of channels.
__attribute__((noinline)) void blocks_transposed(const float* s, int64_t s_row, int64_t rows, int64_t cols,
                                                 float* d, int64_t d_row) {
  for (int64_t c = 0; c < cols; c += kLanes)
    for (int64_t i = 0; i < rows; i += kLanes)
      transpose_block(s + i * s_row + c, s_row, lanes_at(i, rows), lanes_at(c, cols), d + c * d_row + i, d_row);
}

template <Act A>
__attribute__((noinline)) void norm_planes(const NormIn& norm, int64_t channels, int64_t count, float* d,
                                           int64_t plane) {
  for (int64_t c = 0; c < channels; ++c) {
    const vf mean = set1(norm.mean[c]), scale = set1(norm.scale[c]), shift = set1(norm.shift[c]);
    float* p = d + c * plane;
    for (int64_t i = 0; i < count; i += kLanes) {
      const int n = lanes_at(i, count);
      put(p + i, act_fwd<A>(fma(sub(get(p + i, n), mean), scale, shift), 0, 0), n);
    }
  }
}
void norm_planes(const NormIn& norm, int64_t channels, int64_t count, float* d, int64_t plane) {
  switch (norm.act) {
    case Act::relu: return norm_planes<Act::relu>(norm, channels, count, d, plane);
    case Act::relu6: return norm_planes<Act::relu6>(norm, channels, count, d, plane);
    default: return norm_planes<Act::none>(norm, channels, count, d, plane);
  }
}

}  // namespace

PlaneSplit::PlaneSplit(int64_t channels) : C(channels) {
#if defined(__AVX512F__)
  if (C > kMost) return;
  const auto n = static_cast<int>(C);
  for (int c = 0; c < n; ++c)
    for (int j = 1; j < n; ++j) {
      alignas(64) int32_t forth[kLanes], back_[kLanes];
      for (int l = 0; l < kLanes; ++l) {
        // Where lane l of plane c, or of vector c of pixels, is found: source v, lane i.
        const int at = l * n + c, pixel = (c * kLanes + l) / n, of = (c * kLanes + l) % n;
        const auto lane = [&](int v, int i) { return v == j ? kLanes + i : j == 1 && v == 0 ? i : l; };
        forth[l] = lane(at / kLanes, at % kLanes), back_[l] = lane(of, pixel);
      }
      __builtin_memcpy(&to[c][j - 1], forth, sizeof(forth));
      __builtin_memcpy(&back[c][j - 1], back_, sizeof(back_));
    }
#endif
}

void PlaneSplit::to_planes(const float* s, int64_t step, int64_t count, float* d, int64_t plane) const {
#if defined(__AVX512F__)
  if (step == C) switch (C) {
      case 1: return unweave_row<1>(*this, s, count, d, plane);
      case 2: return unweave_row<2>(*this, s, count, d, plane);
      case 3: return unweave_row<3>(*this, s, count, d, plane);
      case 4: return unweave_row<4>(*this, s, count, d, plane);
    }
  if (C <= 8) {
    for (int64_t i = 0; i < count; i += kLanes)
      eight_to_planes(s + i * step, step, lanes_at(i, count), static_cast<int>(C), d + i, plane);
    return;
  }
#endif
  blocks_transposed(s, step, count, C, d, plane);
}

void PlaneSplit::to_pixels(const float* s, int64_t plane, int64_t count, float* d, int64_t step,
                           bool stream) const {
#if defined(__AVX512F__)
  stream = stream && reinterpret_cast<uintptr_t>(d) % 64 == 0;
  if (step == C) switch (C) {
      case 1: return weave_row<1>(*this, s, plane, count, d, stream);
      case 2: return weave_row<2>(*this, s, plane, count, d, stream);
      case 3: return weave_row<3>(*this, s, plane, count, d, stream);
      case 4: return weave_row<4>(*this, s, plane, count, d, stream);
    }
  if (C <= 8) {
    for (int64_t i = 0; i < count; i += kLanes)
      eight_to_pixels(s + i, plane, lanes_at(i, count), static_cast<int>(C), d + i * step, step);
    return;
  }
#endif
  blocks_transposed(s, plane, C, count, d, step);
}

static void copy_image(const PlanesTask& t, const PlaneLayout& g, const PlaneSplit& split, const float* x,
                       int64_t h0, const NormIn& norm, float* d) {
  for (int64_t fh = 0; fh < g.phases_h; ++fh)
    for (int64_t fw = 0; fw < g.phases_w; ++fw) {
      // Columns [a, b) of a row lie inside the image.
      const int64_t first = fw - t.pL;
      int64_t a = first < 0 ? ceil_div(-first, t.sW) : 0, b = t.W > first ? ceil_div(t.W - first, t.sW) : 0;
      if (b > g.pitch) b = g.pitch;
      if (a > b) a = b;
      for (int64_t r = 0; r < g.rows; ++r, d += g.pitch) {
        const int64_t h = (h0 + r) * t.sH - t.pT + fh;
        const bool in = h >= 0 && h < t.H;
        const int64_t from = in ? a : g.pitch, to = in ? b : g.pitch;
        for (int64_t c = 0; c < t.C; ++c) {
          zero_pad(d + c * g.x_plane, from);
          zero_pad(d + c * g.x_plane + to, g.pitch - to);
        }
        if (from >= to) continue;
        split.to_planes(x + h * t.x_h + (first + from * t.sW) * t.x_w, t.sW * t.x_w, to - from, d + from,
                        g.x_plane);
        if (norm.on) norm_planes(norm, t.C, to - from, d + from, g.x_plane);
      }
    }
}

void copy_planes(const PlanesTask& t, const PlaneLayout& g, const PlaneSplit& split, const PlaneStrip& strip,
                 int64_t group, float* d) {
  const NormIn norm = norm_from(t.norm, group * t.x_b);
  for (int64_t n = 0; n < strip.images; ++n)
    copy_image(t, g, split, t.x + (strip.n0 + n) * t.x_n + group * t.x_b, strip.h0, norm, d + n * g.x_image);
  for (int64_t c = 0; c < t.C; ++c) zero_pad(d + c * g.x_plane + strip.images * g.x_image, kLanes);
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
