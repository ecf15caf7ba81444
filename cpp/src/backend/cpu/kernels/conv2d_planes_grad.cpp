// What it is: the gradient of the weights of convolutions with few channels on both sides: pixels in the lanes. x
// and dy are copied to planes of one channel, and each weight is the product of two of them. What it is not: more
// channels, which fill vectors (conv2d_weights_grad.cpp). Sum order of a weight: pixels of a strip lane by lane,
// strips, chunks, lanes; it does not depend on tiles or threads. An infinity in x may give NaN in taps that do not
// see it: rows of dy end in zeros.
#include "backend/cpu/kernels/even_parts.h"
#include "backend/cpu/kernels/planes.h"
#include "backend/cpu/kernels/strip.h"

namespace fastcnn::cpu::FASTCNN_ISA {
namespace {

constexpr int kMostOutputs = kVectorRegs == 32 ? 8 : 4;  // of a tile

void copy_dy(const PlanesTask& t, const PlaneLayout& g, const PlaneSplit& split, const float* dy, int64_t rows,
             float* d) {
  for (int64_t r = 0; r < rows; ++r) {
    split.to_planes(dy + r * t.y_h, t.y_w, t.oW, d + r * g.pitch, g.y_plane);
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

void conv2d_planes_grad(const PlanesTask& t, float* scratch, int64_t begin, int64_t end) {
  constexpr int64_t kSpare = PlanesTask::kSpareStreams;
  const int64_t strips = ceil_div(t.N, t.nb) * ceil_div(t.oH, t.ohb);
  const int64_t streams = t.streams(), size = t.sums() * kLanes;
  const PlaneSplit of_x(t.C), of_dy(t.O);
  float* sums = scratch;
  float* bias = sums + t.O * (streams + kSpare) * kLanes;
  float* planes = sums + size;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t group = item % t.B, chunk = item / t.B;
    const float* dy = t.dy + group * t.y_b;
    float* dw = t.dw + chunk * t.B * t.w_b + group * t.w_b;
    zero_floats(sums, size);
    for (int64_t part = strips * chunk / t.chunks; part < strips * (chunk + 1) / t.chunks; ++part) {
      const PlaneStrip strip(t, part);
      const PlaneLayout g(t, strip.images, strip.rows);
      float* planes_of_dy = planes + t.C * g.x_plane;
      Runs k;
      k.images = strip.images, k.x_image = g.x_image, k.y_image = g.y_image, k.y_plane = g.y_plane;
      k.floats = ceil_div(g.y_run, kLanes) * kLanes, k.out = (streams + kSpare) * kLanes;
      copy_planes(t, g, of_x, strip, group, planes);
      for (int64_t n = 0; n < strip.images; ++n)
        copy_dy(t, g, of_dy, dy + (strip.n0 + n) * t.y_n + strip.h0 * t.y_h, strip.rows,
                planes_of_dy + n * g.y_image);
      int32_t at[kMostStreams + kSpare];
      g.find_streams(t, at);
      for (int64_t i = 0; i < kSpare; ++i) at[streams + i] = 0;
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
        for (int64_t n = 0; n < strip.images; ++n)
          for (int64_t i = 0; i < k.floats; i += kLanes)
            s = add(s, load(planes_of_dy + o * g.y_plane + n * g.y_image + i));
        store(bias + o * kLanes, s);
      }
    }
    for (int64_t o = 0; o < t.O; ++o) fold(sums + o * (streams + kSpare) * kLanes, streams, dw + o * streams);
    if (t.dbias) fold(bias, t.O, t.dbias + chunk * t.B * t.O + group * t.O);
  }
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
