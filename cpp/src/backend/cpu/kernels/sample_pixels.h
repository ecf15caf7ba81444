// What it is: pixels of 1 or 3 channels as vectors, one per channel, each lane one pixel: loads and stores of
// rows, and what is done to pixels between sampling and storing (colour stages, sums, scale and shift).
#pragma once
#include <math.h>
#include <string.h>

#include "backend/cpu/kernels/lanes.h"
#include "backend/cpu/kernels/sample_args.h"

namespace fastcnn::cpu::FASTCNN_ISA {
namespace {

template <int C>
struct Pixels {
  vf c[C];
};

template <int C>
FASTCNN_OP void load_whole(const uint8_t* p, Pixels<C>* v) {
  if constexpr (C == 3)
    load_rgb(p, v->c);
  else
    v->c[0] = load(p);
}
template <int C>
FASTCNN_OP void load_whole(const float* p, Pixels<C>* v) {
  if constexpr (C == 1) {
    v->c[0] = load(p);
  } else {
    float t[3][kLanes];
    for (int i = 0; i < kLanes; ++i)
      for (int c = 0; c < 3; ++c) t[c][i] = p[3 * i + c];
    for (int c = 0; c < 3; ++c) v->c[c] = load(t[c]);
  }
}
#if defined(__AVX512F__)
// Three channels in [0, 255], rounded: a float of 2^23 and more ends in the bits of an integer. Stored in two
// pieces, since a load just behind a masked store waits for it.
FASTCNN_OP void store_rounded(uint8_t* p, const vf* v) {
  typedef uint8_t Bytes __attribute__((vector_size(64)));
  const vf whole = set1(8388608);
  const vi rgb = ((vi)add(v[0], whole) & 255) | (vi)add(v[1], whole) << 8 | (vi)add(v[2], whole) << 16;
#define FASTCNN_CLOSE(i) \
  i, i + 1, i + 2, i + 4, i + 5, i + 6, i + 8, i + 9, i + 10, i + 12, i + 13, i + 14, i, i, i, i
  const Bytes close = __builtin_shufflevector((Bytes)rgb, (Bytes)rgb, FASTCNN_CLOSE(0), FASTCNN_CLOSE(16),
                                              FASTCNN_CLOSE(32), FASTCNN_CLOSE(48));
#undef FASTCNN_CLOSE
  const vi words =
      __builtin_shufflevector((vi)close, (vi)close, 0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, 0, 0, 0, 0);
  const auto most = __builtin_shufflevector(words, words, 0, 1, 2, 3, 4, 5, 6, 7);
  const auto rest = __builtin_shufflevector(words, words, 8, 9, 10, 11);
  memcpy(p, &most, sizeof(most));
  memcpy(p + sizeof(most), &rest, sizeof(rest));
}
#else
FASTCNN_OP void store_rounded(uint8_t* p, const vf* v) {
  const vf rounded[] = {round_even(v[0]), round_even(v[1]), round_even(v[2])};
  store_rgb(p, rounded);
}
#endif

template <int C>
FASTCNN_OP void store_whole(uint8_t* p, const Pixels<C>& v) {  // values in [0, 255], rounded here
  if constexpr (C == 3)
    store_rounded(p, v.c);
  else
    store(p, round_even(v.c[0]));
}
template <int C>
FASTCNN_OP void store_whole(float* p, const Pixels<C>& v) {
  if constexpr (C == 1) {
    store(p, v.c[0]);
  } else {
    float t[3][kLanes];
    for (int c = 0; c < 3; ++c) store(t[c], v.c[c]);
    for (int i = 0; i < kLanes; ++i)
      for (int c = 0; c < 3; ++c) p[3 * i + c] = t[c][i];
  }
}

// n pixels at p; the other lanes are 0.
template <int C, class T>
FASTCNN_OP void load_pixels(const T* p, int n, Pixels<C>* v) {
  if (n == kLanes) return load_whole(p, v);
  T t[C * kLanes] = {};
  memcpy(t, p, sizeof(T) * C * n);
  load_whole(t, v);
}
template <int C, class T>
FASTCNN_OP void store_pixels(T* p, int n, const Pixels<C>& v) {
  if (n == kLanes) return store_whole(p, v);
  T t[C * kLanes];
  store_whole(t, v);
  memcpy(p, t, sizeof(T) * C * n);
}

// The hue turned by `turn` of a circle: HSV with the same value and saturation. Hues are in sixths of a circle
// times the chroma, so that nothing is divided.
FASTCNN_OP void turn_hue(Pixels<3>* v, float turn) {
  const vf r = v->c[0], g = v->c[1], b = v->c[2];
  const vf top = vmax(r, vmax(g, b)), low = vmin(r, vmin(g, b)), chroma = sub(top, low);
  const vf two = add(chroma, chroma), whole = mul(set1(6), chroma);
  const vf from_g = add(sub(b, r), two), from_b = add(sub(r, g), add(two, two));
  const vf not_r = select_le(top, g, from_g, from_b);  // top is the largest: equal where not below
  vf hue = fma(set1(6 * (turn - floorf(turn))), chroma, select_le(top, r, sub(g, b), not_r));
  hue = select_le(whole, hue, sub(hue, whole), hue);
  hue = select_gt(zero(), hue, add(hue, whole), hue);
  const vf below = sub(low, chroma), above = add(low, two);
  const vf part[3] = {add(vabs(fnma(set1(3), chroma, hue)), below), sub(above, vabs(sub(hue, two))),
                      sub(above, vabs(fnma(set1(4), chroma, hue)))};
  for (int c = 0; c < 3; ++c) v->c[c] = vmax(low, vmin(top, part[c]));
}

template <int C>
FASTCNN_OP void run_stages(const SampleTask& t, Pixels<C>* v) {
  const vf top = set1(t.x_float ? 1.0f : 255.0f);
  for (int64_t s = t.first; s < t.last; ++s) {
    const float* k = t.stage + s * resolved_stage_floats(C);
    const Pixels<C> before = *v;
    for (int a = 0; a < C; ++a) {
      vf sum = set1(k[C * C + a]);
      for (int b = 0; b < C; ++b) sum = fma(set1(k[a * C + b]), before.c[b], sum);
      v->c[a] = vmin(vmax(sum, zero()), top);
    }
    if constexpr (C == 3)
      if (k[C * C + C] != 0) turn_hue(v, k[C * C + C]);
  }
}

// What stands between sampled values and memory, for one row: call put for its pixels in order, then end.
template <class Y, int C>
struct RowEnd {
  const SampleTask& t;
  int64_t oy;
  Pixels<C> sums;
  FASTCNN_OP RowEnd(const SampleTask& task, int64_t row) : t(task), oy(row) {
    for (int c = 0; c < C; ++c) sums.c[c] = zero();
  }
  FASTCNN_OP void put(int64_t ox, int n, Pixels<C> v) {
    run_stages(t, &v);
    if (t.sums)
      for (int c = 0; c < C; ++c) {
        vf part = v.c[c];
        if (n < kLanes) {
          float lanes[kLanes];
          store(lanes, part);
          part = loadn(lanes, n);
        }
        sums.c[c] = add(sums.c[c], part);
      }
    if (t.norm)
      for (int c = 0; c < C; ++c) v.c[c] = fma(v.c[c], set1(t.norm[c]), set1(t.norm[C + c]));
    Y* row = static_cast<Y*>(t.y) + (oy * t.p.oW + ox) * C;
    if (sizeof(Y) == 1 && t.first == t.last)  // stages have done that
      for (int c = 0; c < C; ++c) v.c[c] = vmin(vmax(v.c[c], zero()), set1(255));
    store_pixels(row, n, v);
  }
  FASTCNN_OP void end() {
    if (t.sums)
      for (int c = 0; c < C; ++c) t.sums[oy * C + c] = hsum(sums.c[c]);
  }
};

// f.template operator()<X, Y>() with the types of a task.
template <class F>
FASTCNN_OP void with_types(const SampleTask& t, F f) {
  if (t.x_float) return f.template operator()<float, float>();
  if (t.y_float) return f.template operator()<uint8_t, float>();
  f.template operator()<uint8_t, uint8_t>();
}

}  // namespace
}  // namespace fastcnn::cpu::FASTCNN_ISA
