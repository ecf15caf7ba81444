// What it is: the register tiles of gemm_tile.h for float32 windows of one pixel, the whole depth at once, of
// pixels an even step apart: no addresses are loaded between tiles and nothing is asked there but what a call
// needs, so that the products of the next tile enter the core while the results of this one leave it. With 16
// channels in, what gemm_tile does between tiles holds a core up for a third of its time. What it is not: for
// tiles that take sums, fetch, or end in part of a vector.
#pragma once
#include "backend/cpu/kernels/gemm_tile.h"

namespace fastcnn::cpu::FASTCNN_ISA {

struct LineArgs {
  const float* bias;      // or null
  const float* residual;  // offsets as for y, or null
  Act act;
  int stream;
  int64_t rows, row_step, run;  // a window is so many runs of floats, row_step apart
  int64_t a_step, y_step;
  int64_t tiles;
  int64_t fetch;  // floats from y to results' places that are fetched meanwhile, or -1
};

// Pixels p at p * step from a moving one: odd multiples in registers, the others as they are scaled.
template <int P, class T>
struct Steps {
  intptr_t odd[(P + 1) / 2];
  FASTCNN_OP explicit Steps(int64_t step) {
#pragma GCC unroll 8
    for (int i = 0; i < (P + 1) / 2; ++i) {
      odd[i] = step * static_cast<int64_t>(sizeof(float)) * (2 * i + 1);
#if defined(__x86_64__)
      __asm__("" : "+r"(odd[i]));
#endif
    }
  }
  FASTCNN_OP T* at(T* first, int p) const {
    int scale = 1;
    while (p != 0 && p % 2 == 0) p /= 2, scale *= 2;
    return p == 0 ? first : reinterpret_cast<T*>(reinterpret_cast<intptr_t>(first) + odd[p / 2] * scale);
  }
};

template <int P, int V>
static void line_tiles(const LineArgs& t, const float* a, const float* w, float* y) {
  const Steps<P, const float> from(t.a_step);
  const Steps<P, float> to(t.y_step);
  const float* residual = t.residual;
  for (int64_t tile = t.tiles; tile > 0; --tile) {
    vf acc[P][V];
    if (t.bias) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        const vf b = load(t.bias + v * kLanes);
#pragma GCC unroll 16
        for (int p = 0; p < P; ++p) acc[p][v] = b;
      }
    } else {
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) acc[p][v] = zero();
    }
    if (kFetches && t.fetch >= 0) {
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) prefetch(to.at(y + t.fetch, p) + v * kLanes);
    }
    const float *row = a, *wk = w;
    for (int64_t r = t.rows; r > 0; --r, row += t.row_step) {
      const float* ak = row;
      for (int64_t k = t.run; k > 0; --k, ++ak, wk += V * kLanes) {
        vf b[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) b[v] = load(wk + v * kLanes);
#pragma GCC unroll 16
        for (int p = 0; p < P; ++p) {
          const vf s = set1(*from.at(ak, p));
#pragma GCC unroll 4
          for (int v = 0; v < V; ++v) acc[p][v] = fma(s, b[v], acc[p][v]);
        }
      }
    }
    if (residual) {
      const Steps<P, const float> meets(t.y_step);
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) acc[p][v] = add(acc[p][v], load(meets.at(residual, p) + v * kLanes));
      residual += P * t.y_step;
    }
    const vf low = set1(t.act == Act::none ? -__builtin_inff() : 0.0f),
             high = set1(t.act == Act::relu6 ? 6.0f : __builtin_inff());
    if (t.stream) {
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) stream(to.at(y, p) + v * kLanes, vmin(high, vmax(low, acc[p][v])));
    } else {
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) store(to.at(y, p) + v * kLanes, vmin(high, vmax(low, acc[p][v])));
    }
    a += P * t.a_step, y += P * t.y_step;
  }
}

using LineTileFn = void (*)(const LineArgs&, const float*, const float*, float*);
// Tiles of most pixels alone: the others are what is left of a line, or lines too short to matter.
template <int V, int P>
constexpr LineTileFn line_tile_or_null() {
  constexpr int most = V <= kTileV ? tile_pixels(V) : 0;
  if constexpr (P <= most && 8 * P > 7 * most) return &line_tiles<P, V>;
  return nullptr;
}
// (vectors, pixels), from 1 on.
#define LINES4(V, p)                                                                       \
  line_tile_or_null<V, p>(), line_tile_or_null<V, p + 1>(), line_tile_or_null<V, p + 2>(), \
      line_tile_or_null<V, p + 3>()
#define LINES16(V) {LINES4(V, 1), LINES4(V, 5), LINES4(V, 9), LINES4(V, 13)}
constexpr LineTileFn kLineTiles[3][16] = {LINES16(1), LINES16(2), LINES16(3)};
#undef LINES16
#undef LINES4
FASTCNN_OP LineTileFn line_tile(int64_t V, int64_t P, int tail) {
  return tail == kLanes ? kLineTiles[V - 1][P - 1] : nullptr;
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
