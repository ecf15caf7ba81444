// What it is: convolutions whose groups have few channels: each channel of a group is spread over the lanes of its
// outputs by a permutation of one vector of x, so that a vector of outputs takes as many products as a group has
// channels. What it is not: packing, strips and threads (backend/cpu/conv2d_group_lanes.cpp). Sum order of one
// output: taps, channels; of a gradient: rows and columns of a strip, strips. Neither depends on tiles or threads.
#include "backend/cpu/kernels/even_parts.h"
#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/lanes.h"
#include "backend/cpu/kernels/moments.h"

namespace fastcnn::cpu::FASTCNN_ISA {
namespace {

constexpr int kMostPixels = kVectorRegs == 32 ? 12 : 6;  // of a tile

// Where the lanes of a vector of outputs find channel c of their groups.
template <int kInputs>
struct Spread {
  vi from[kInputs];
  FASTCNN_OP explicit Spread(const GroupLanesTask& t) {
    alignas(64) int32_t lane[kLanes];
    for (int c = 0; c < kInputs; ++c) {
      for (int l = 0; l < kLanes; ++l)
        lane[l] = static_cast<int32_t>((l / static_cast<int>(t.outputs) * kInputs + c) % kLanes);
      __builtin_memcpy(&from[c], lane, sizeof(lane));
    }
  }
};

// What output rows [h0, h1) of image n read for vector v, a vector for each pixel, zeros around the image.
// Meanwhile memory brings what is copied next: the vector behind this one, or the first one of the rows below.
void copy_rows(const GroupLanesTask& t, int64_t n, int64_t h0, int64_t h1, int64_t v, float* to) {
  const int64_t c = v * kLanes / t.outputs * t.inputs, columns = t.columns(), rows = t.rows_read(h1 - h0);
  const int m = lanes_at(c, t.C);
  vf mean = zero(), scale = zero(), shift = zero();
  if (t.norm.on)
    mean = loadn(t.norm.mean + c, m), scale = loadn(t.norm.scale + c, m), shift = loadn(t.norm.shift + c, m);
  const vf low = set1(t.norm.act == Act::none ? -__builtin_inff() : 0.0f);
  const vf high = set1(t.norm.act == Act::relu6 ? 6.0f : __builtin_inff());
  const int64_t beside = kLanes / t.outputs * t.inputs;
  const int64_t next = c + beside < t.C ? beside : (h1 - h0) * t.sH * t.x_h - c;
  const int64_t from = t.pL < 0         ? 0
                       : t.pL < columns ? t.pL
                                        : columns,  // columns [from, to1) lie inside
      inside = t.W + t.pL < columns ? t.W + t.pL : columns, to1 = inside > from ? inside : from;
  for (int64_t r = 0; r < rows; ++r, to += columns * kLanes) {
    const int64_t h = h0 * t.sH - t.pT + r;
    const bool in = h >= 0 && h < t.H;
    const int64_t a = in ? from : columns, b = in ? to1 : columns;
    for (int64_t w = 0; w < a; ++w) store(to + w * kLanes, zero());
    const float* p = t.x + n * t.x_n + h * t.x_h - t.pL * t.x_w + c;
    if (t.norm.on)
      for (int64_t w = a; w < b; ++w) {
        prefetch(p + w * t.x_w + next);
        store(to + w * kLanes, vmin(high, vmax(low, fma(sub(get(p + w * t.x_w, m), mean), scale, shift))));
      }
    else
      for (int64_t w = a; w < b; ++w) {
        prefetch(p + w * t.x_w + next);
        store(to + w * kLanes, get(p + w * t.x_w, m));
      }
    for (int64_t w = b; w < columns; ++w) store(to + w * kLanes, zero());
  }
}

// P pixels of a row: x is their first window in a strip, at the first pixel's offset in y.
template <int kInputs, int P>
void tile(const GroupLanesTask& t, const float* x, const float* w, int64_t at, vf bias, int n, bool fresh,
          MomentSums& sums) {
  const Spread<kInputs> spread(t);
  const int64_t row = t.columns() * kLanes, step = t.sW * kLanes;
  vf acc[P];
#pragma GCC unroll 12
  for (int p = 0; p < P; ++p) acc[p] = bias;
  for (int64_t kh = 0; kh < t.kH; ++kh)
    for (int64_t kw = 0; kw < t.kW; ++kw, w += kInputs * kLanes) {
      const float* s = x + kh * t.dH * row + kw * t.dW * kLanes;
      vf b[kInputs];
#pragma GCC unroll 8
      for (int c = 0; c < kInputs; ++c) b[c] = load(w + c * kLanes);
#pragma GCC unroll 12
      for (int p = 0; p < P; ++p) {
        const vf a = load(s + p * step);
#pragma GCC unroll 8
        for (int c = 0; c < kInputs; ++c) acc[p] = fma(permute(a, spread.from[c]), b[c], acc[p]);
      }
    }
  if (t.residual) {
#pragma GCC unroll 12
    for (int p = 0; p < P; ++p) acc[p] = add(acc[p], get(t.residual + at + p * t.y_w, n));
  }
  if (t.act != Act::none) {
    const vf high = set1(t.act == Act::relu6 ? 6.0f : __builtin_inff());
#pragma GCC unroll 12
    for (int p = 0; p < P; ++p) acc[p] = vmin(high, vmax(zero(), acc[p]));
  }
#pragma GCC unroll 12
  for (int p = 0; p < P; ++p) put(t.y + at + p * t.y_w, acc[p], n, t.stream);
  if (t.moments.on) {
    const auto value = [&](int i) __attribute__((always_inline)) { return acc[i]; };
    if (fresh) sums = start_moments(P, value);
    add_moments(sums, P, value);
  }
}

using TileFn = void (*)(const GroupLanesTask&, const float*, const float*, int64_t, vf, int, bool, MomentSums&);
template <int kInputs>
struct Tiles {
#define TILES2(p) &tile<kInputs, p>, &tile<kInputs, p + 1>
  static constexpr TileFn at[kMostPixels] = {TILES2(1), TILES2(3),
                                             TILES2(5),
#if defined(__AVX512F__) || defined(__aarch64__)
                                             TILES2(7), TILES2(9),
                                             TILES2(11)
#endif
  };
#undef TILES2
};

template <int kInputs>
void forward(const GroupLanesTask& t, float* scratch, int64_t begin, int64_t end) {
  const int64_t vectors = ceil_div(t.O, kLanes), strips = t.strips(), taps = t.kH * t.kW;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t v = item % vectors, part = item / vectors, image = part / strips, strip = part % strips;
    const int64_t h0 = t.oH * strip / strips, h1 = t.oH * (strip + 1) / strips, o = v * kLanes;
    const int n = lanes_at(o, t.O);
    copy_rows(t, image, h0, h1, v, scratch);
    const vf bias = t.bias ? loadn(t.bias + o, n) : zero();
    MomentSums sums{zero(), zero(), zero()};
    for (int64_t h = h0; h < h1; ++h) {
      EvenParts pixels(t.oW, ceil_div(t.oW, kMostPixels));
      for (int64_t i = 0; i < pixels.parts; ++i) {
        const int64_t w = pixels.at, P = pixels.next() - w;
        Tiles<kInputs>::at[P - 1](t, scratch + ((h - h0) * t.sH * t.columns() + w * t.sW) * kLanes,
                                  t.w + v * taps * kInputs * kLanes, image * t.y_n + h * t.y_h + w * t.y_w + o,
                                  bias, n, h == h0 && i == 0, sums);
      }
    }
    if (!t.moments.on) continue;
    const auto pixels = static_cast<double>((h1 - h0) * t.oW);
    if (v == 0) t.moments.count[part] = pixels;
    alignas(64) float held[3 * kLanes];
    store_moments(held, kLanes, sums);
    double* mean = t.moments.part + part * 2 * t.moments.channels + o;
    close_moments(held, kLanes, n, pixels, mean, mean + t.moments.channels);
  }
  if (t.stream) fence();
}

// Taps [kw, kw + kTaps) of a row of the window over the rows of a strip, added to `sums`.
template <int kInputs, int kTaps>
void sum_taps(const GroupLanesTask& t, const float* x, const float* dy, int64_t rows, int n, float* sums) {
  const Spread<kInputs> spread(t);
  const int64_t row = t.sH * t.columns() * kLanes, step = t.sW * kLanes;
  vf acc[kTaps][kInputs];
#pragma GCC unroll 3
  for (int k = 0; k < kTaps; ++k)
#pragma GCC unroll 8
    for (int c = 0; c < kInputs; ++c) acc[k][c] = load(sums + (k * kInputs + c) * kLanes);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t w = 0; w < t.oW; ++w) {
      const vf d = get(dy + r * t.y_h + w * t.y_w, n);
      const float* s = x + r * row + w * step;
#pragma GCC unroll 3
      for (int k = 0; k < kTaps; ++k) {
        const vf a = load(s + k * t.dW * kLanes);
#pragma GCC unroll 8
        for (int c = 0; c < kInputs; ++c) acc[k][c] = fma(permute(a, spread.from[c]), d, acc[k][c]);
      }
    }
#pragma GCC unroll 3
  for (int k = 0; k < kTaps; ++k)
#pragma GCC unroll 8
    for (int c = 0; c < kInputs; ++c) store(sums + (k * kInputs + c) * kLanes, acc[k][c]);
}

template <int kInputs>
void gradient(const GroupLanesTask& t, float* scratch, int64_t begin, int64_t end) {
  constexpr int kTaps = kVectorRegs == 32 && kInputs <= 4 ? 3 : 1;  // that registers hold
  const int64_t vectors = ceil_div(t.O, kLanes), strips = t.strips(), all = t.N * strips;
  const int64_t size = t.kH * t.kW * kInputs * kLanes;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t v = item % vectors, chunk = item / vectors, o = v * kLanes;
    const int n = lanes_at(o, t.O);
    float* sums = t.sums + item * size;
    for (int64_t i = 0; i < size; i += kLanes) store(sums + i, zero());
    for (int64_t part = all * chunk / t.chunks; part < all * (chunk + 1) / t.chunks; ++part) {
      const int64_t image = part / strips, strip = part % strips;
      const int64_t h0 = t.oH * strip / strips, h1 = t.oH * (strip + 1) / strips;
      copy_rows(t, image, h0, h1, v, scratch);
      const float* dy = t.dy + image * t.y_n + h0 * t.y_h + o;
      for (int64_t kh = 0; kh < t.kH; ++kh)
        for (int64_t kw = 0; kw < t.kW;) {
          const float* x = scratch + (kh * t.dH * t.columns() + kw * t.dW) * kLanes;
          float* to = sums + (kh * t.kW + kw) * kInputs * kLanes;
          const bool several = kw + kTaps <= t.kW;
          several ? sum_taps<kInputs, kTaps>(t, x, dy, h1 - h0, n, to)
                  : sum_taps<kInputs, 1>(t, x, dy, h1 - h0, n, to);
          kw += several ? kTaps : 1;
        }
    }
  }
}

// f(Int<channels of a group>()); at least two groups are in a vector.
template <class F>
FASTCNN_OP void by_inputs(const GroupLanesTask& t, const F& f) {
  if (t.inputs == 1) return f(Int<1>());
  if (t.inputs == 2) return f(Int<2>());
  if constexpr (kLanes >= 8)
    if (t.inputs == 4) return f(Int<4>());
  if constexpr (kLanes >= 16) f(Int<8>());
}

}  // namespace

void conv2d_group_lanes(const GroupLanesTask& t, float* scratch, int64_t begin, int64_t end) {
  by_inputs(t, [&](auto n) { forward<decltype(n)::value>(t, scratch, begin, end); });
}
void conv2d_group_lanes_grad(const GroupLanesTask& t, float* scratch, int64_t begin, int64_t end) {
  by_inputs(t, [&](auto n) { gradient<decltype(n)::value>(t, scratch, begin, end); });
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
