// What it is: what all Winograd kernels share: windows of pixels to planes, the products of planes, and the
// epilogue of a tile. What it is not: which tiles and channels meet (conv2d_winograd*.cpp).
#pragma once
#include "backend/cpu/kernels/even_parts.h"
#include "backend/cpu/kernels/gemm_tile.h"
#include "backend/cpu/kernels/kernel_args.h"
#include "backend/cpu/kernels/winograd_transform.h"

namespace fastcnn::cpu::FASTCNN_ISA {

FASTCNN_OP int lanes_left(int64_t channels, int64_t c) {
  return static_cast<int>(channels - c < kLanes ? channels - c : kLanes);
}

// bfloat16 addresses travel in tasks as those of floats.
template <class T>
FASTCNN_OP const T* values(const float* p) {
  return reinterpret_cast<const T*>(p);
}

// ---- windows to planes ----

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

// Where a window of kSize x kSize pixels lies, of which the first is at p, in row h0 and column w0; pixels outside
// of the image at `zeros`. Without branches: which pixels are outside changes from tile to tile.
template <int kSize, class T>
FASTCNN_OP void find_pixels(const T* p, int64_t s_h, int64_t s_w, int64_t h0, int64_t w0, int64_t H, int64_t W,
                            const T* zeros, const T** pixel) {
  const uintptr_t z = reinterpret_cast<uintptr_t>(zeros), first = reinterpret_cast<uintptr_t>(p);
  uintptr_t column[kSize];
#pragma GCC unroll 6
  for (int w = 0; w < kSize; ++w)
    column[w] = -static_cast<uintptr_t>(static_cast<uint64_t>(w0 + w) < static_cast<uint64_t>(W));
#pragma GCC unroll 6
  for (int h = 0; h < kSize; ++h) {
    const uintptr_t row = -static_cast<uintptr_t>(static_cast<uint64_t>(h0 + h) < static_cast<uint64_t>(H));
#pragma GCC unroll 6
    for (int w = 0; w < kSize; ++w) {
      const uintptr_t at = first + static_cast<uintptr_t>(h * s_h + w * s_w) * sizeof(T);
      pixel[h * kSize + w] = reinterpret_cast<const T*>(z + ((at - z) & row & column[w]));
    }
  }
}

// The window of an image H x W x C whose first pixel is in row h and column w to planes: vectors of channels are
// `block` apart.
template <class Points, class T>
FASTCNN_OP void transform_window(const T* image, int64_t H, int64_t W, int64_t C, int64_t s_h, int64_t s_w,
                                 int64_t h, int64_t w, const T* zeros, float* d, int64_t block, int64_t plane) {
  constexpr int kSize = Points::kSize;
  const T* p = image + h * s_h + w * s_w;
  const int64_t whole = C / kLanes * kLanes;
  int64_t c = 0;
  if (h >= 0 && w >= 0 && h + kSize <= H && w + kSize <= W)
    for (; c < whole; c += kLanes, d += block) to_planes<Points>(InsidePixels<T>{p + c, s_h, s_w}, d, plane);
  if (c == C) return;
  const T* pixel[kSize * kSize];
  find_pixels<kSize>(p, s_h, s_w, h, w, H, W, zeros, pixel);
  for (; c < C; c += kLanes, d += block)
    to_planes<Points>(AnyPixels<T>{pixel, c, lanes_left(C, c), kSize}, d, plane);
}

// Rows [r0, r1) and columns [c0, c1) of a window that lie in its image; its pixels are `step` apart.
struct WindowPart {
  int r0, r1, c0, c1;
  FASTCNN_OP WindowPart(int size, int64_t step, int64_t h, int64_t w, int64_t H, int64_t W)
      : r0(before(h, step, size)),
        r1(before(h - H, step, size)),
        c0(before(w, step, size)),
        c1(before(w - W, step, size)) {}
  FASTCNN_OP bool whole(int size) const { return r0 == 0 && c0 == 0 && r1 == size && c1 == size; }

 private:
  // Pixels from `first` on, `step` apart, that are below zero, at most `size`.
  static FASTCNN_OP int before(int64_t first, int64_t step, int size) {
    if (first >= 0) return 0;
    const int64_t n = step == 1 ? -first : step == 2 ? (1 - first) / 2 : ceil_div(-first, step);
    return n < size ? static_cast<int>(n) : size;
  }
};

// A window of one vector of channels, held for a transform that reads its pixels more than once: one address
// reaches all of them.
template <int kSize>
struct HeldPixels {
  alignas(64) float at[kSize * kSize * kLanes];
  FASTCNN_OP vf operator()(int i, int j) const { return load(at + (i * kSize + j) * kLanes); }

  // p: the first pixel, rows and columns s_h and s_w apart; each goes through f. Those outside of the image are 0.
  // What lies `ahead` of a whole window is asked for meanwhile.
  template <class T, class F>
  FASTCNN_OP void fill(const T* p, int64_t s_h, int64_t s_w, const WindowPart& part, int n, int64_t ahead,
                       const F& f) {
    if (n == kLanes && part.whole(kSize)) {
      float* d = at;
      for (int i = 0; i < kSize; ++i, p += s_h, d += kSize * kLanes) {
#pragma GCC unroll 6
        for (int j = 0; j < kSize; ++j) {
          if (ahead) prefetch(p + ahead + j * s_w);
          store(d + j * kLanes, f(load(p + j * s_w)));
        }
      }
      return;
    }
#pragma GCC unroll 36
    for (int i = 0; i < kSize * kSize; ++i) store(at + i * kLanes, zero());
    for (int i = part.r0; i < part.r1; ++i)
      for (int j = part.c0; j < part.c1; ++j)
        store(at + (i * kSize + j) * kLanes, f(loadn(p + i * s_h + j * s_w, n)));
  }
};

// The same by way of a copy, of pixels `step` apart that may be read through a norm, behind which padding lies:
// for five points faster than addresses of their own for each pixel, for six not. Activations are bounds here: one
// copy for all of them. rows, columns: see to_planes.
template <class Points, class T>
FASTCNN_OP void transform_held_window(const T* image, const NormIn* norm, int64_t H, int64_t W, int64_t C,
                                      int64_t s_h, int64_t s_w, int64_t step, int64_t h, int64_t w, float* d,
                                      int64_t block, int64_t plane, bool rows = true, bool columns = true,
                                      int64_t ahead = 0) {
  constexpr int kSize = Points::kSize;
  const WindowPart part(kSize, step, h, w, H, W);
  const T* p = image + h * s_h + w * s_w;
  HeldPixels<kSize> held;
  for (int64_t c = 0; c < C; c += kLanes, d += block) {
    const int n = lanes_left(C, c);
    if (norm) {
      const vf low = set1(norm->act == Act::none ? -__builtin_inff() : 0.0f);
      const vf high = set1(norm->act == Act::relu6 ? 6.0f : __builtin_inff());
      const vf m = loadn(norm->mean + c, n), a = loadn(norm->scale + c, n), b = loadn(norm->shift + c, n);
      held.fill(p + c, step * s_h, step * s_w, part, n, ahead,
                [&](vf x) __attribute__((always_inline)) { return vmin(high, vmax(low, fma(sub(x, m), a, b))); });
    } else {
      held.fill(p + c, step * s_h, step * s_w, part, n, ahead,
                [](vf x) __attribute__((always_inline)) { return x; });
    }
    to_planes<Points>(held, d, plane, rows, columns);
  }
}

// ---- windows times weights ----

// P tiles x V vectors of one plane: m (+)= u * w. Tiles are kLanes floats apart and channels of a tile in runs of
// kLanes, so that one address reaches all rows. Rows `ahead`, of a plane to come, are fetched meanwhile.
template <int P, int V>
static void plane_tile(const float* u, int64_t u_block, int64_t C, const float* w, float* m, int first,
                       int64_t ahead) {
  vf acc[P][V];
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) acc[p][v] = first ? zero() : load(m + (p * V + v) * kLanes);
  for (; C > 0; C -= kLanes, u += u_block) {
    const int64_t n = C < kLanes ? C : kLanes;
    if (kWholeLines && ahead)
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p) prefetch(u + ahead + p * kLanes);
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

using PlaneTileFn = void (*)(const float*, int64_t, int64_t, const float*, float*, int, int64_t);
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

// The register tiles of a group of tiles and V vectors.
FASTCNN_OP EvenParts plane_parts(int64_t tiles, int64_t V) {
  EvenParts parts(tiles, tiles ? ceil_div(tiles, tile_pixels(static_cast<int>(V))) : 1);
  if (tiles == 0) parts.parts = 0;
  return parts;
}

// m[tile][V vectors] (+)= sum over C channels of u[channel][tile] * w[channel][V vectors].
FASTCNN_OP void multiply_plane(const float* u, int64_t u_block, EvenParts parts, int64_t C, const float* w,
                               int64_t V, float* m, int first, int64_t ahead = 0) {
  for (int64_t i = 0; i < parts.parts; ++i) {
    const int64_t p0 = parts.at, P = parts.next() - p0;
    kPlaneTiles[V - 1][P - 1](u + p0 * kLanes, u_block, C, w, m + p0 * V * kLanes, first, ahead);
  }
}

// ---- windows times tiles of dy ----

// Rows of the register tile: a divisor of kLanes, so that a tile lies in one block of e.
FASTCNN_OP constexpr int sum_rows(int V) { return V == 1 ? kLanes : kLanes == 16 ? 8 : 4; }

// s[p][v] (+)= sum over tiles of e[tile][p] * u[v][tile], which is rounded for itself: the sum of many groups of
// tiles is as exact as one of a group. What lies e_ahead and u_ahead, in a plane to come, is fetched meanwhile.
template <int V>
static void sum_tile(const float* e, const float* u, int64_t u_block, int64_t tiles, float* s, int first,
                     int64_t e_ahead, int64_t u_ahead) {
  constexpr int P = sum_rows(V);
  vf acc[P][V];
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) acc[p][v] = zero();
  for (int64_t k = 0; k < tiles; ++k, e += kLanes, u += kLanes) {
    if (kWholeLines && e_ahead) prefetch(e + e_ahead);
    if (kWholeLines && u_ahead)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) prefetch(u + v * u_block + u_ahead);
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
  if (!first) {
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) acc[p][v] = add(load(s + (p * V + v) * kLanes), acc[p][v]);
  }
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) store(s + (p * V + v) * kLanes, acc[p][v]);
}

using SumTileFn = void (*)(const float*, const float*, int64_t, int64_t, float*, int, int64_t, int64_t);
constexpr SumTileFn kSumTiles[3] = {&sum_tile<1>, &sum_tile<2>, &sum_tile<3>};

// Outputs [o0, o0 + on) x V vectors of one plane, o0 a multiple of kLanes; e and u are planes of `places` tiles, u
// from its first vector on. s has whole blocks of kLanes rows.
FASTCNN_OP void sum_plane(const float* e, const float* u, int64_t places, int64_t tiles, int64_t V, int64_t o0,
                          int64_t on, float* s, int first, int64_t e_ahead = 0, int64_t u_ahead = 0) {
  for (int64_t p = 0, P = sum_rows(static_cast<int>(V)); p < on; p += P)
    kSumTiles[V - 1](e + (o0 + p) / kLanes * places * kLanes + (o0 + p) % kLanes, u, places * kLanes, tiles,
                     s + p * V * kLanes, first, (o0 + p) % kLanes ? 0 : e_ahead, p ? 0 : u_ahead);
}

// ---- planes to outputs ----

// What sees outputs before they are stored and changes nothing.
struct PassOutputs {
  template <class Values>
  FASTCNN_OP void operator()(Values&, int64_t, int64_t) const {}
};

// Bias, residual and activation as in gemm_tile.h; an image of outputs whose pixels lie y_h and y_w apart.
template <class T>
struct Epilogue {
  Act act;
  const T* residual;  // or null; offsets as for y
  T* y;
  int64_t y_h, y_w;
  bool past = false;  // the caches

  // The outputs of one tile and n channels at `offset`; those beyond its rows and columns are left.
  // through(v, rows, columns) sees them before they are stored.
  template <int m, class Through = PassOutputs>
  FASTCNN_OP void finish(vf (&v)[m][m], vf bias, int64_t offset, int64_t rows, int64_t columns, int n,
                         const Through& through = {}) const {
    const vf low = set1(act == Act::none ? -__builtin_inff() : 0.0f),
             high = set1(act == Act::relu6 ? 6.0f : __builtin_inff());
    const bool whole = rows == m && columns == m && n == kLanes;
#pragma GCC unroll 4
    for (int r = 0; r < m; ++r)
#pragma GCC unroll 4
      for (int c = 0; c < m; ++c) v[r][c] = add(v[r][c], bias);
    if (residual) {
      const T* q = residual + offset;
#pragma GCC unroll 4
      for (int r = 0; r < m; ++r)
#pragma GCC unroll 4
        for (int c = 0; c < m; ++c) {
          if (whole)
            v[r][c] = add(v[r][c], load(q + r * y_h + c * y_w));
          else if (r < rows && c < columns)
            v[r][c] = add(v[r][c], loadn(q + r * y_h + c * y_w, n));
        }
    }
    if (act != Act::none) {
#pragma GCC unroll 4
      for (int r = 0; r < m; ++r)
#pragma GCC unroll 4
        for (int c = 0; c < m; ++c) v[r][c] = vmin(high, vmax(low, v[r][c]));
    }
    through(v, rows, columns);
    T* d = y + offset;
    if constexpr (kWholeLines && sizeof(T) == 4)
      if (past && n == kLanes) {
#pragma GCC unroll 4
        for (int r = 0; r < m; ++r)
#pragma GCC unroll 4
          for (int c = 0; c < m; ++c)
            if (r < rows && c < columns) stream(d + r * y_h + c * y_w, v[r][c]);
        return;
      }
    if (whole) {
#pragma GCC unroll 4
      for (int r = 0; r < m; ++r)
#pragma GCC unroll 4
        for (int c = 0; c < m; ++c) store(d + r * y_h + c * y_w, v[r][c]);
      return;
    }
#pragma GCC unroll 4
    for (int r = 0; r < m; ++r)
#pragma GCC unroll 4
      for (int c = 0; c < m; ++c)
        if (r < rows && c < columns) storen(d + r * y_h + c * y_w, v[r][c], n);
  }
};

}  // namespace fastcnn::cpu::FASTCNN_ISA
