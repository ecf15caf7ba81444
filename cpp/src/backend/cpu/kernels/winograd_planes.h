// What it is: what all Winograd kernels share: how transforms read the pixels of a window, and the products of planes.
// What it is not: transforms, or which tiles and channels meet (conv2d_winograd*.cpp).
#pragma once
#include "backend/cpu/kernels/gemm_tile.h"

namespace fastcnn::cpu::FASTCNN_ISA {

FASTCNN_OP int lanes_left(int64_t channels, int64_t c) {
  return static_cast<int>(channels - c < kLanes ? channels - c : kLanes);
}

// A window whose pixels lie at fixed steps.
template <class T>
struct InsidePixels {
  const T* p;
  int64_t h, w;
  FASTCNN_OP vf operator()(int i, int j) const { return load(p + i * h + j * w); }
};
// Pixels anywhere (outside of the image: zeros); lanes from n on read as 0.
template <class T>
struct AnyPixels {
  const T* const* p;
  int64_t c;
  int n, columns;
  FASTCNN_OP vf operator()(int i, int j) const { return loadn(p[i * columns + j] + c, n); }
};

// ---- windows times weights ----

// P tiles x V vectors of one plane: m (+)= u * w. Tiles are kLanes floats apart and channels of a tile in runs of
// kLanes, so that one address reaches all rows.
template <int P, int V>
static void plane_tile(const float* u, int64_t u_block, int64_t C, const float* w, float* m, int first) {
  vf acc[P][V];
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) acc[p][v] = first ? zero() : load(m + (p * V + v) * kLanes);
  for (; C > 0; C -= kLanes, u += u_block) {
    const int64_t n = C < kLanes ? C : kLanes;
    for (int64_t k = 0; k < n; ++k, w += V * kLanes) {
      vf b[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) b[v] = load(w + v * kLanes);
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p) {
        const vf s = set1(u[p * kLanes + k]);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) acc[p][v] = fma(s, b[v], acc[p][v]);
      }
    }
  }
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) store(m + (p * V + v) * kLanes, acc[p][v]);
}

using PlaneTileFn = void (*)(const float*, int64_t, int64_t, const float*, float*, int);
#define TILES4(V, p) &plane_tile<p, V>, &plane_tile<p + 1, V>, &plane_tile<p + 2, V>, &plane_tile<p + 3, V>
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr PlaneTileFn kPlaneTiles[3][16] = {
    {TILES4(1, 1), TILES4(1, 5), TILES4(1, 9), TILES4(1, 13)},
    {TILES4(2, 1), TILES4(2, 5), TILES4(2, 9), &plane_tile<13, 2>, &plane_tile<14, 2>},
    {TILES4(3, 1), TILES4(3, 5), &plane_tile<9, 3>}};
#else
constexpr PlaneTileFn kPlaneTiles[2][16] = {{TILES4(1, 1), TILES4(1, 5)},
                                            {TILES4(2, 1), &plane_tile<5, 2>, &plane_tile<6, 2>}};
#endif
#undef TILES4

// m[tile][V vectors] (+)= sum over C channels of u[channel][tile] * w[channel][V vectors].
FASTCNN_OP void multiply_plane(const float* u, int64_t u_block, int64_t tiles, int64_t C, const float* w, int64_t V,
                               float* m, int first) {
  const int64_t parts = ceil_div(tiles, tile_pixels(static_cast<int>(V)));
  for (int64_t i = 0; i < parts; ++i) {
    const int64_t p0 = tiles * i / parts, P = tiles * (i + 1) / parts - p0;
    kPlaneTiles[V - 1][P - 1](u + p0 * kLanes, u_block, C, w, m + p0 * V * kLanes, first);
  }
}

// ---- windows times tiles of dy ----

// Rows of the register tile: a divisor of kLanes, so that a tile lies in one block of e.
FASTCNN_OP constexpr int sum_rows(int V) { return V == 1 ? kLanes : kLanes == 16 ? 8 : 4; }

// s[p][v] (+)= sum over tiles of e[tile][p] * u[v][tile].
template <int V>
static void sum_tile(const float* e, const float* u, int64_t u_block, int64_t tiles, float* s, int first) {
  constexpr int P = sum_rows(V);
  vf acc[P][V];
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) acc[p][v] = first ? zero() : load(s + (p * V + v) * kLanes);
  for (int64_t k = 0; k < tiles; ++k, e += kLanes, u += kLanes) {
    vf b[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) b[v] = load(u + v * u_block);
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) {
      const vf a = set1(e[p]);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) acc[p][v] = fma(a, b[v], acc[p][v]);
    }
  }
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) store(s + (p * V + v) * kLanes, acc[p][v]);
}

using SumTileFn = void (*)(const float*, const float*, int64_t, int64_t, float*, int);
constexpr SumTileFn kSumTiles[3] = {&sum_tile<1>, &sum_tile<2>, &sum_tile<3>};

// Outputs [o0, o0 + on) x V vectors of one plane, o0 a multiple of kLanes; e and u are planes of `places` tiles, u
// from its first vector on. s has whole blocks of kLanes rows.
FASTCNN_OP void sum_plane(const float* e, const float* u, int64_t places, int64_t tiles, int64_t V, int64_t o0,
                          int64_t on, float* s, int first) {
  for (int64_t p = 0, P = sum_rows(static_cast<int>(V)); p < on; p += P)
    kSumTiles[V - 1](e + (o0 + p) / kLanes * places * kLanes + (o0 + p) % kLanes, u, places * kLanes, tiles,
                     s + p * V * kLanes, first);
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
