// What it is: pixels of 1 or 3 channels as vectors, one per channel, each lane one pixel: loads and stores of
// rows, and what is done to pixels between sampling and storing (colour stages, sums, scale and shift).
#pragma once
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
template <int C>
FASTCNN_OP void store_whole(uint8_t* p, const Pixels<C>& v) {
  if constexpr (C == 3)
    store_rgb(p, v.c);
  else
    store(p, v.c[0]);
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

// The hue turned by `turn` of a circle: HSV with the same value and saturation.
FASTCNN_OP void turn_hue(Pixels<3>* v, float turn) {
  const vf r = v->c[0], g = v->c[1], b = v->c[2], one = set1(1);
  const vf top = vmax(r, vmax(g, b)), chroma = sub(top, vmin(r, vmin(g, b)));
  const vf inverse = select_gt(chroma, zero(), div(one, chroma), zero());
  const vf from_g = fma(sub(b, r), inverse, set1(2)), from_b = fma(sub(r, g), inverse, set1(4));
  const vf not_r = select_le(top, g, from_g, from_b);  // top is the largest: equal where not below
  vf hue = add(select_le(top, r, mul(sub(g, b), inverse), not_r), set1(6 * turn));
  hue = fnma(set1(6), vfloor(mul(hue, set1(1.0f / 6))), hue);
  const vf low = sub(top, chroma), two = set1(2);
  const vf part[3] = {sub(vabs(sub(hue, set1(3))), one), sub(two, vabs(sub(hue, two))),
                      sub(two, vabs(sub(hue, set1(4))))};
  for (int c = 0; c < 3; ++c) v->c[c] = fma(chroma, vmax(zero(), vmin(one, part[c])), low);
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
    if constexpr (sizeof(Y) == 1)
      for (int c = 0; c < C; ++c) {
        if (t.first == t.last) v.c[c] = vmin(vmax(v.c[c], zero()), set1(255));  // stages have done that
        v.c[c] = round_even(v.c[c]);
      }
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
