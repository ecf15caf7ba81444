// What it is: the gradient of the weights of convolutions with few channels on both sides: pixels in the lanes. x
// and dy are copied to planes of one channel, and each weight is the product of two of them. What it is not: more
// channels, which fill vectors (conv2d_weights_grad.cpp). Sum order of a weight: pixels of a strip lane by lane,
// strips, chunks, lanes; it does not depend on tiles or threads.
#include "backend/cpu/kernels/even_parts.h"
#include "backend/cpu/kernels/grad_planes_args.h"
#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/lanes.h"
#include "backend/cpu/kernels/strip.h"

namespace fastcnn::cpu::FASTCNN_ISA {
namespace {

constexpr int kMostOutputs = kVectorRegs == 32 ? 8 : 4;  // of a tile

// How neighbouring pixels of few channels become planes.
struct Split {
#if defined(__AVX512F__)
  static constexpr int kMost = 4;
  // Plane c of C takes C vectors of pixels one after the other, each beside what it has so far.
  vi from[kMost][kMost - 1];
  explicit Split(int64_t C) {
    if (C > kMost) return;
    for (int c = 0; c < C; ++c)
      for (int j = 1; j < C; ++j) {
        alignas(64) int32_t lane[kLanes];
        for (int l = 0; l < kLanes; ++l) {
          const int at = l * static_cast<int>(C) + c, v = at / kLanes;
          lane[l] = v == j ? kLanes + at % kLanes : j == 1 && v == 0 ? at : l;
        }
        __builtin_memcpy(&from[c][j - 1], lane, sizeof(lane));
      }
  }
  template <int C>
  FASTCNN_OP void block(const float* s, int count, float* d, int64_t plane) const {
    vf v[C];
#pragma GCC unroll 4
    for (int j = 0; j < C; ++j) {
      const int n = count * C - j * kLanes;
      v[j] = count == kLanes ? load(s + j * kLanes) : loadn(s + j * kLanes, n < 0 ? 0 : n < kLanes ? n : kLanes);
    }
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) {
      vf a = v[0];
#pragma GCC unroll 4
      for (int j = 1; j < C; ++j) a = _mm512_permutex2var_ps(a, reinterpret_cast<__m512i>(from[c][j - 1]), v[j]);
      put(d + c * plane, a, count);
    }
  }
  template <int C>
  __attribute__((noinline)) void run(const float* s, int64_t count, float* d, int64_t plane) const {
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) block<C>(s + i * C, kLanes, d + i, plane);
    if (i < count) block<C>(s + i * C, static_cast<int>(count - i), d + i, plane);
  }
  // At most eight channels, pixels anywhere: two in a vector.
  static void transpose_eight(const float* s, int64_t step, int count, int C, float* d, int64_t plane) {
    const auto mask = static_cast<__mmask8>((1u << C) - 1);
    auto pixel = [&](int i) __attribute__((always_inline)) {
      return i < count ? _mm256_maskz_loadu_ps(mask, s + i * step) : _mm256_setzero_ps();
    };
    vf ch[2][4];  // of 8 pixels: channels j and j + 4 by turns of four pixels
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      vf r[4], u[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i)
        r[i] = _mm512_insertf32x8(_mm512_castps256_ps512(pixel(8 * h + i)), pixel(8 * h + i + 4), 1);
      u[0] = _mm512_unpacklo_ps(r[0], r[1]), u[1] = _mm512_unpackhi_ps(r[0], r[1]);
      u[2] = _mm512_unpacklo_ps(r[2], r[3]), u[3] = _mm512_unpackhi_ps(r[2], r[3]);
      ch[h][0] = _mm512_shuffle_ps(u[0], u[2], 0x44), ch[h][1] = _mm512_shuffle_ps(u[0], u[2], 0xee);
      ch[h][2] = _mm512_shuffle_ps(u[1], u[3], 0x44), ch[h][3] = _mm512_shuffle_ps(u[1], u[3], 0xee);
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      if (j < C) put(d + j * plane, _mm512_shuffle_f32x4(ch[0][j], ch[1][j], 0x88), count);
      if (j + 4 < C) put(d + (j + 4) * plane, _mm512_shuffle_f32x4(ch[0][j], ch[1][j], 0xdd), count);
    }
  }
  bool operator()(const float* s, int64_t step, int64_t count, int64_t C, float* d, int64_t plane) const {
    if (C > 8) return false;
    if (step == C) switch (C) {
        case 1: run<1>(s, count, d, plane); return true;
        case 2: run<2>(s, count, d, plane); return true;
        case 3: run<3>(s, count, d, plane); return true;
        case 4: run<4>(s, count, d, plane); return true;
      }
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes)
      transpose_eight(s + i * step, step, kLanes, static_cast<int>(C), d + i, plane);
    if (i < count)
      transpose_eight(s + i * step, step, static_cast<int>(count - i), static_cast<int>(C), d + i, plane);
    return true;
  }
#else
  explicit Split(int64_t) {}
  bool operator()(const float*, int64_t, int64_t, int64_t, float*, int64_t) const { return false; }
#endif
};

// `count` pixels of C channels, `step` floats apart, to rows of planes.
__attribute__((noinline)) void to_planes(const Split& split, const float* s, int64_t step, int64_t count,
                                         int64_t C, float* d, int64_t plane) {
  if (split(s, step, count, C, d, plane)) return;
  for (int64_t c = 0; c < C; c += kLanes)
    for (int64_t i = 0; i < count; i += kLanes)
      transpose_block(s + i * step + c, step, lanes_at(i, count), lanes_at(c, C), d + c * plane + i, plane);
}

FASTCNN_OP void zero_pad(float* d, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) storen(d + i, zero(), lanes_at(i, n));
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

// x that output rows from h0 on of one image meet.
__attribute__((noinline)) void copy_x(const WeightsGradTask& t, const GradPlanes& g, const Split& split,
                                      const float* x, int64_t h0, const NormIn& norm, float* d) {
  const int64_t iw0 = -t.pL;
  for (int64_t fh = 0; fh < g.phases_h; ++fh)
    for (int64_t fw = 0; fw < g.phases_w; ++fw) {
      // Columns [a, b) of a row lie inside the image.
      const int64_t first = iw0 + fw;
      int64_t a = first < 0 ? ceil_div(-first, t.sW) : 0, b = t.W > first ? ceil_div(t.W - first, t.sW) : 0;
      if (b > g.pitch) b = g.pitch;
      if (a > b) a = b;
      for (int64_t r = 0; r < g.rows; ++r, d += g.pitch) {
        const int64_t h = h0 * t.sH - t.pT + r * t.sH + fh;
        const bool in = h >= 0 && h < t.H;
        const int64_t from = in ? a : g.pitch, to = in ? b : g.pitch;
        for (int64_t c = 0; c < t.C; ++c) {
          zero_pad(d + c * g.x_plane, from);
          zero_pad(d + c * g.x_plane + to, g.pitch - to);
        }
        if (from >= to) continue;
        const float* s = x + h * t.x_h + (first + from * t.sW) * t.x_w;
        to_planes(split, s, t.sW * t.x_w, to - from, t.C, d + from, g.x_plane);
        if (norm.on) norm_planes(norm, t.C, to - from, d + from, g.x_plane);
      }
    }
}

__attribute__((noinline)) void copy_dy(const WeightsGradTask& t, const GradPlanes& g, const Split& split,
                                       const float* dy, int64_t rows, float* d) {
  for (int64_t r = 0; r < rows; ++r) {
    to_planes(split, dy + r * t.y_h, t.y_w, t.oW, t.O, d + r * g.pitch, g.y_plane);
    for (int64_t o = 0; o < t.O; ++o) zero_pad(d + o * g.y_plane + r * g.pitch + t.oW, g.pitch - t.oW);
  }
  for (int64_t o = 0; o < t.O; ++o) zero_pad(d + o * g.y_plane + rows * g.pitch, g.y_image - rows * g.pitch);
}

struct Runs {
  int64_t images, floats, x_image, y_image, y_plane, out;  // out: floats from output to output of the sums
};

// A streams of x with B planes of dy; the sums go on from what is there.
template <int A, int B>
void tile(const Runs& k, const float* x, const int32_t* at, const float* dy, float* sums) {
  vf acc[A][B];
#pragma GCC unroll 9
  for (int a = 0; a < A; ++a)
#pragma GCC unroll 8
    for (int b = 0; b < B; ++b) acc[a][b] = load(sums + b * k.out + a * kLanes);
  for (int64_t n = 0; n < k.images; ++n) {
    const float* s[A];
#pragma GCC unroll 9
    for (int a = 0; a < A; ++a) s[a] = x + n * k.x_image + at[a];
    const float* p = dy + n * k.y_image;
    for (int64_t i = 0; i < k.floats; i += kLanes) {
      vf v[A];
#pragma GCC unroll 9
      for (int a = 0; a < A; ++a) v[a] = load(s[a] + i);
#pragma GCC unroll 8
      for (int b = 0; b < B; ++b) {
        const vf w = load(p + b * k.y_plane + i);
#pragma GCC unroll 9
        for (int a = 0; a < A; ++a) acc[a][b] = fma(v[a], w, acc[a][b]);
      }
    }
  }
#pragma GCC unroll 9
  for (int a = 0; a < A; ++a)
#pragma GCC unroll 8
    for (int b = 0; b < B; ++b) store(sums + b * k.out + a * kLanes, acc[a][b]);
}

// The sum of each of `count` vectors.
__attribute__((noinline)) void fold(const float* s, int64_t count, float* d) {
  for (int64_t i = 0; i < count; i += kLanes, s += kLanes * kLanes) {
    const int n = lanes_at(i, count);
    vf v[kLanes];
#pragma GCC unroll 16
    for (int j = 0; j < kLanes; ++j) v[j] = j < n ? load(s + j * kLanes) : zero();
    transpose(v);
#pragma GCC unroll 4
    for (int half = kLanes / 2; half > 0; half /= 2)
#pragma GCC unroll 8
      for (int j = 0; j < half; ++j) v[j] = add(v[j], v[j + half]);
    put(d + i, v[0], n);
  }
}

using TileFn = void (*)(const Runs&, const float*, const int32_t*, const float*, float*);
struct Tile {
  TileFn run;
  int64_t streams;
};
constexpr Tile kTiles[kMostOutputs] = {
    {tile<9, 1>, 9}, {tile<6, 2>, 6}, {tile<3, 3>, 3}, {tile<3, 4>, 3},
#if defined(__AVX512F__) || defined(__aarch64__)
    {tile<3, 5>, 3}, {tile<3, 6>, 3}, {tile<3, 7>, 3}, {tile<3, 8>, 3},
#endif
};

}  // namespace

void conv2d_weights_grad_planes(const WeightsGradTask& t, float* scratch, int64_t begin, int64_t end) {
  const int64_t strips_h = ceil_div(t.oH, t.ohb), strips = ceil_div(t.N, t.nb) * strips_h;
  const int64_t streams = plane_streams(t), size = plane_sums(t) * kLanes;
  const Split of_x(t.C), of_dy(t.O);
  float* sums = scratch;
  float* bias = sums + t.O * (streams + kSpareStreams) * kLanes;
  float* planes = sums + size;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t group = item % t.B, chunk = item / t.B;
    const float* x = t.x + group * t.x_b;
    const float* dy = t.dy + group * t.y_b;
    float* dw = t.dw + chunk * t.B * t.w_b + group * t.w_b;
    zero_floats(sums, size);
    NormIn norm = t.norm;
    if (norm.on) norm.mean += group * t.x_b, norm.scale += group * t.x_b, norm.shift += group * t.x_b;
    for (int64_t strip = strips * chunk / t.chunks; strip < strips * (chunk + 1) / t.chunks; ++strip) {
      const int64_t n0 = strip / strips_h * t.nb, h0 = strip % strips_h * t.ohb;
      const int64_t nn = t.N - n0 < t.nb ? t.N - n0 : t.nb, hh = t.oH - h0 < t.ohb ? t.oH - h0 : t.ohb;
      const GradPlanes g(t, nn, hh, t.oW);
      float* planes_of_dy = planes + t.C * g.x_plane;
      Runs k;
      k.images = nn, k.x_image = g.phases_h * g.phases_w * g.block, k.y_image = g.y_image, k.y_plane = g.y_plane;
      k.floats = ceil_div((hh - 1) * g.pitch + t.oW, kLanes) * kLanes;
      k.out = (streams + kSpareStreams) * kLanes;
      for (int64_t n = 0; n < nn; ++n) {
        copy_x(t, g, of_x, x + (n0 + n) * t.x_n, h0, norm, planes + n * k.x_image);
        copy_dy(t, g, of_dy, dy + (n0 + n) * t.y_n + h0 * t.y_h, hh, planes_of_dy + n * g.y_image);
      }
      for (int64_t c = 0; c < t.C; ++c) zero_pad(planes + c * g.x_plane + nn * k.x_image, kLanes);
      int32_t at[kMostStreams + kSpareStreams];
      int64_t count = 0;
      for (int64_t kh = 0; kh < t.kH; ++kh)
        for (int64_t kw = 0; kw < t.kW; ++kw) {
          const int64_t h = kh * t.dH, w = kw * t.dW;
          const int64_t tap = (h % t.sH * g.phases_w + w % t.sW) * g.block + h / t.sH * g.pitch + w / t.sW;
          for (int64_t c = 0; c < t.C; ++c) at[count++] = static_cast<int32_t>(c * g.x_plane + tap);
        }
      for (int64_t i = 0; i < kSpareStreams; ++i) at[count + i] = 0;
      EvenParts outputs(t.O, ceil_div(t.O, kMostOutputs));
      for (int64_t i = 0; i < outputs.parts; ++i) {
        const int64_t o = outputs.at;
        const Tile& tile = kTiles[outputs.next() - o - 1];
        for (int64_t s = 0; s < streams; s += tile.streams)
          tile.run(k, planes, at + s, planes_of_dy + o * g.y_plane, sums + o * k.out + s * kLanes);
      }
      if (!t.dbias) continue;
      for (int64_t o = 0; o < t.O; ++o) {
        vf s = load(bias + o * kLanes);
        for (int64_t n = 0; n < nn; ++n)
          for (int64_t i = 0; i < k.floats; i += kLanes)
            s = add(s, load(planes_of_dy + o * g.y_plane + n * g.y_image + i));
        store(bias + o * kLanes, s);
      }
    }
    for (int64_t o = 0; o < t.O; ++o)
      fold(sums + o * (streams + kSpareStreams) * kLanes, streams, dw + o * streams);
    if (t.dbias) fold(bias, t.O, t.dbias + chunk * t.B * t.O + group * t.O);
  }
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
