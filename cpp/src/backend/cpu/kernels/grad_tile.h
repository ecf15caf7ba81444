// What it is: the register tile of weight gradients: P x V vectors of dw held in registers while it walks the
// pixels of a strip. P words of one operand are broadcast, V vectors of words of the other are loaded; a word is
// the float of a pixel or the bfloat16 of two neighbouring ones. What it is not: no strip is cut or packed here.
#pragma once
#include "backend/cpu/kernels/gemm_tile.h"

namespace fastcnn::cpu::FASTCNN_ISA {

// A 1x1 window passes only once over the broadcast operand: the tiles to come read the lines behind this one.
constexpr int kAheadFloats = 32;

struct Walk {
  int64_t nn, hh, ww;
  int64_t s_n, s_h, s_w;  // steps of the broadcast operand
  int64_t v_n, v_h, v_w;  // steps of the vector operand
  int64_t out;            // floats between rows of the result
  int first, tail, once;
};

template <class T, int P, int V, bool kAhead>
static void grad_tile(const Walk& k, const float* s, const float* v, float* out) {
  vf acc[P][V];
  if (k.first) {
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
      for (int i = 0; i < V; ++i) acc[p][i] = zero();
  } else {
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
      for (int i = 0; i < V; ++i)
        acc[p][i] = i == V - 1 && k.tail < kLanes ? loadn(out + p * k.out + i * kLanes, k.tail)
                                                  : load(out + p * k.out + i * kLanes);
  }
  for (int64_t n = 0; n < k.nn; ++n)
    for (int64_t h = 0; h < k.hh; ++h) {
      const float* sp = s + n * k.s_n + h * k.s_h;
      const float* vp = v + n * k.v_n + h * k.v_h;
      for (int64_t w = 0; w < k.ww; ++w) {
        if (kAhead) prefetch(sp + kAheadFloats);
        vf b[V];
#pragma GCC unroll 4
        for (int i = 0; i < V; ++i) b[i] = load(vp + i * kLanes);
#pragma GCC unroll 16
        for (int p = 0; p < P; ++p) {
          vf a = set1(sp[p]);
#pragma GCC unroll 4
          for (int i = 0; i < V; ++i) acc[p][i] = multiply_add<T>(a, b[i], acc[p][i]);
        }
        sp += k.s_w;
        vp += k.v_w;
      }
    }
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
    for (int i = 0; i < V; ++i) {
      if (i == V - 1 && k.tail < kLanes)
        storen(out + p * k.out + i * kLanes, acc[p][i], k.tail);
      else
        store(out + p * k.out + i * kLanes, acc[p][i]);
    }
}

using GradTileFn = void (*)(const Walk&, const float*, const float*, float*);
#define TILES4(V, p)                                                                             \
  &grad_tile<T, p, V, kAhead>, &grad_tile<T, p + 1, V, kAhead>, &grad_tile<T, p + 2, V, kAhead>, \
      &grad_tile<T, p + 3, V, kAhead>
template <class T, bool kAhead>
struct GradTiles {
#if defined(__AVX512F__) || defined(__aarch64__)
  static constexpr GradTileFn at[3][16] = {
      {TILES4(1, 1), TILES4(1, 5), TILES4(1, 9), TILES4(1, 13)},
      {TILES4(2, 1), TILES4(2, 5), TILES4(2, 9), &grad_tile<T, 13, 2, kAhead>, &grad_tile<T, 14, 2, kAhead>},
      {TILES4(3, 1), TILES4(3, 5), &grad_tile<T, 9, 3, kAhead>}};
#else
  static constexpr GradTileFn at[2][16] = {
      {TILES4(1, 1), TILES4(1, 5)}, {TILES4(2, 1), &grad_tile<T, 5, 2, kAhead>, &grad_tile<T, 6, 2, kAhead>}};
#endif
};
#undef TILES4

// What the next strip of a 1x1 window reads, fetched to L2 in equal shares while the tiles of this one run: each
// tile touches a line or two of every pixel, too short a run for the hardware to see.
struct Ahead {
  const char* next[2] = {};
  int64_t lines[2] = {};
  FASTCNN_OP void fetch(int64_t shares) {
    for (int i = 0; i < 2; ++i) {
      const int64_t n = ceil_div(lines[i], shares);
      for (int64_t j = 0; j < n; ++j) __builtin_prefetch(next[i] + j * 64, 0, 2);
      next[i] += n * 64;
    }
  }
};

// A block of the result: `rows` broadcast values by `cols` floats of vectors.
template <class T>
static void grad_block(Walk k, const float* s, int64_t rows, const float* v, int64_t cols, float* out,
                       Ahead ahead = {}) {
  const int64_t vectors = ceil_div(cols, kLanes), blocks = ceil_div(vectors, kTileV);
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t v0 = vectors * b / blocks, V = vectors * (b + 1) / blocks - v0;
    const int64_t left = cols - (v0 + V - 1) * kLanes;
    k.tail = static_cast<int>(left < kLanes ? left : kLanes);
    const int64_t tiles = ceil_div(rows, tile_pixels(static_cast<int>(V)));
    for (int64_t i = 0; i < tiles; ++i) {
      const int64_t p0 = rows * i / tiles, P = rows * (i + 1) / tiles - p0;
      if (ahead.next[0]) ahead.fetch(tiles * blocks);
      (k.once ? GradTiles<T, true>::at : GradTiles<T, false>::at)[V - 1][P - 1](k, s + p0, v + v0 * kLanes,
                                                                                out + p0 * k.out + v0 * kLanes);
    }
  }
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
