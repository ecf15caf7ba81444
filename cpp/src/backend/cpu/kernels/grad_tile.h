// What it is: the register tile of weight gradients: P x V vectors of dw held in registers while it walks the
// pixels of a strip. P words of one operand are broadcast, V vectors of words of the other are loaded; a word is
// the float of a pixel or the bfloat16 of two neighbouring ones. What it is not: no strip is cut or packed here.
#pragma once
#include "backend/cpu/kernels/even_parts.h"
#include <stdint.h>

#include "backend/cpu/kernels/gemm_tile.h"

namespace fastcnn::cpu::FASTCNN_ISA {

// A single tap passes once over the rows of dy: the tiles to come read the lines behind this one. Others ask for a
// line that they have, which costs less than another copy of all tiles.
constexpr int kOnceFloats = 32;

struct Walk {
  int64_t nn, hh, ww;
  int64_t s_n, s_h, s_w;  // steps of the broadcast operand
  int64_t v_n, v_h, v_w;  // steps of the vector operand
  int64_t out;            // floats between rows of the result
  int first, tail, once;
  int past;       // results go past the caches where vectors are lines
  int few;        // float32: the whole gradient of a tap row is at most kFewRowsOfGrad rows of one vector
  int64_t burst;  // pixels between two fetches
  int64_t far;    // pixels ahead that vectors are fetched, or 0
};

// What the next strip reads, fetched to L2 in equal shares while the tiles of this one run.
struct Ahead {
  struct Image {
    uintptr_t base = 0;
    int64_t lines = 0, cols = 0, rows = 0, images = 0, col = 0, row = 0, image = 0;  // counts; steps in bytes
    int64_t share = 0, line = 0, c = 0, r = 0, i = 0;
    FASTCNN_OP void fetch() {
      uintptr_t p = base + static_cast<uintptr_t>(i * image + r * row + c * col);
      for (int64_t left = share; left > 0 && i < images; --left) {
        __builtin_prefetch(reinterpret_cast<const void*>(p + static_cast<uintptr_t>(line * 64)), 0, 2);
        if (++line < lines) continue;
        line = 0;
        if (++c == cols) c = 0, ++r;
        if (r == rows) r = 0, ++i;
        p = base + static_cast<uintptr_t>(i * image + r * row + c * col);
      }
    }
    void deal(int64_t times) { share = times ? ceil_div(lines * cols * rows * images, times) : 0; }
  };
  Image x, dy;
  FASTCNN_OP void fetch() {
    if (x.share) x.fetch();
    if (dy.share) dy.fetch();
  }
};

// Pixels between two fetches: more at once would wait for each other; small tiles are done with them sooner.
constexpr int64_t kFetchPixels = kVectorRegs == 32 ? 16 : 48;

template <class T, int P, int V>
static void grad_tile(const Walk& k, const float* s, const float* v, float* out, Ahead& ahead) {
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
  // Vectors of a panel are one line of each pixel, which the hardware does not run ahead of.
  const int64_t far = k.far * k.v_w, step = far ? k.v_w : k.s_w, once = k.once ? kOnceFloats : 0;
  int soon = 0;      // rows of the next tile of the result, fetched a few at a time: it goes on from what is there
  int64_t left = 0;  // pixels until the next fetch
  for (int64_t n = 0; n < k.nn; ++n)
    for (int64_t h = 0; h < k.hh; ++h) {
      const float* sp = s + n * k.s_n + h * k.s_h;
      const float* vp = v + n * k.v_n + h * k.v_h;
      for (int64_t w = 0; w < k.ww;) {
        if (left == 0) {
          left = k.burst;
          ahead.fetch();
#pragma GCC unroll 1
          for (const int end = soon + 2 < P ? soon + 2 : P; kFetches && soon < end; ++soon)
#pragma GCC unroll 4
            for (int i = 0; i < V; ++i) prefetch(out + (P + soon) * k.out + i * kLanes);
        }
        const int64_t w1 = k.ww - w < left ? k.ww : w + left;
        left -= w1 - w;
        const float* soonest = far ? vp + far : sp + once;
        for (; w < w1; ++w) {
          prefetch(soonest), soonest += step;
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
    }
  const bool past =
      kWholeLines && k.past && (reinterpret_cast<uintptr_t>(out) | static_cast<uintptr_t>(k.out * 4)) % 64 == 0;
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
    for (int i = 0; i < V; ++i) {
      if (i == V - 1 && k.tail < kLanes)
        storen(out + p * k.out + i * kLanes, acc[p][i], k.tail);
      else if (past)
        stream(out + p * k.out + i * kLanes, acc[p][i]);
      else
        store(out + p * k.out + i * kLanes, acc[p][i]);
    }
}

using GradTileFn = void (*)(const Walk&, const float*, const float*, float*, Ahead&);
#define TILES4(V, p) &grad_tile<T, p, V>, &grad_tile<T, p + 1, V>, &grad_tile<T, p + 2, V>, &grad_tile<T, p + 3, V>
template <class T>
struct GradTiles {
#if defined(__AVX512F__) || defined(__aarch64__)
  static constexpr GradTileFn at[3][16] = {
      {TILES4(1, 1), TILES4(1, 5), TILES4(1, 9), TILES4(1, 13)},
      {TILES4(2, 1), TILES4(2, 5), TILES4(2, 9), &grad_tile<T, 13, 2>, &grad_tile<T, 14, 2>},
      {TILES4(3, 1), TILES4(3, 5), &grad_tile<T, 9, 3>}};
#else
  static constexpr GradTileFn at[2][16] = {{TILES4(1, 1), TILES4(1, 5)},
                                           {TILES4(2, 1), &grad_tile<T, 5, 2>, &grad_tile<T, 6, 2>}};
#endif
};
#undef TILES4

// A row of words in panels of vectors.
FASTCNN_OP EvenParts vector_panels(int64_t words) {
  const int64_t vectors = ceil_div(words, kLanes);
  return EvenParts(vectors, ceil_div(vectors, kTileV));
}

// Words from one pixel to the next in a copy: an odd number of cache lines, so that walking over pixels meets
// every set of the cache. Few words stay dense.
FASTCNN_OP int64_t odd_pitch(int64_t words) { return words <= 16 ? words : (ceil_div(words, 16) | 1) * 16; }

// An operand as it lies: a word of pixel p at base + p * pitch, or, where `pixels` is not 0, in panels of so many
// pixels each, so that a tile reads one dense run. Steps are counted in pixels.
struct GradOperand {
  const float* base = nullptr;
  int64_t pitch = 0, pixels = 0;
  int64_t first = 0, n = 0, h = 0, w = 0;  // the first pixel of a walk and its steps
  FASTCNN_OP const float* at(int64_t word, int64_t words) const {
    return pixels ? base + word * pixels + first * words : base + word + first * pitch;
  }
  FASTCNN_OP int64_t step(int64_t words) const { return pixels ? words : pitch; }
};

// Where a tile is all there is: its few sums would wait for each other, so neighbouring pixels have their own.
template <int P>
static void few_tile(const Walk& k, const float* s, const float* v, float* out) {
  constexpr int kSums = 4;
  vf acc[kSums][P];
#pragma GCC unroll 4
  for (int u = 0; u < kSums; ++u)
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) acc[u][p] = zero();
  for (int64_t n = 0; n < k.nn; ++n)
    for (int64_t h = 0; h < k.hh; ++h) {
      const float* sp = s + n * k.s_n + h * k.s_h;
      const float* vp = v + n * k.v_n + h * k.v_h;
      int64_t w = 0;
      for (; w + kSums <= k.ww; w += kSums, sp += kSums * k.s_w, vp += kSums * k.v_w)
#pragma GCC unroll 4
        for (int u = 0; u < kSums; ++u)
#pragma GCC unroll 4
          for (int p = 0; p < P; ++p) acc[u][p] = fma(set1(sp[u * k.s_w + p]), load(vp + u * k.v_w), acc[u][p]);
      for (; w < k.ww; ++w, sp += k.s_w, vp += k.v_w)
#pragma GCC unroll 4
        for (int p = 0; p < P; ++p) acc[0][p] = fma(set1(sp[p]), load(vp), acc[0][p]);
    }
#pragma GCC unroll 4
  for (int p = 0; p < P; ++p) {
    vf sum = add(add(acc[0][p], acc[1][p]), add(acc[2][p], acc[3][p]));
    if (!k.first) sum = add(sum, loadn(out + p * k.out, k.tail));
    storen(out + p * k.out, sum, k.tail);
  }
}

// How often grad_block fetches for one pixel row.
FASTCNN_OP int64_t grad_tiles(int64_t rows, int64_t cols) {
  EvenParts across = vector_panels(cols);
  int64_t tiles = 0;
  for (int64_t v0 = 0, v1; (v1 = across.next()) <= ceil_div(cols, kLanes) && v1 > v0; v0 = v1)
    tiles += ceil_div(rows, tile_pixels(static_cast<int>(v1 - v0)));
  return tiles;
}

// A block of the result: `rows` broadcast words by `cols` words of vectors.
template <class T>
static void grad_block(Walk k, const GradOperand& s, int64_t rows, const GradOperand& v, int64_t cols, float* out,
                       Ahead& ahead) {
  EvenParts across = vector_panels(cols);
  k.s_n = s.n * s.pitch, k.s_h = s.h * s.pitch, k.s_w = s.w * s.pitch;
  for (int64_t b = 0, v0 = 0, v1; b < across.parts; ++b, v0 = v1) {
    v1 = across.next();
    const int64_t V = v1 - v0, left = cols - (v1 - 1) * kLanes, v_step = v.step(V * kLanes);
    const float* vp = v.at(v0 * kLanes, V * kLanes);
    k.tail = static_cast<int>(left < kLanes ? left : kLanes);
    k.v_n = v.n * v_step, k.v_h = v.h * v_step, k.v_w = v.w * v_step;
    // Rows with no pixel between them are one row.
    if (k.hh == 1 || (k.v_h == k.ww * k.v_w && k.s_h == k.ww * k.s_w)) {
      k.ww *= k.hh, k.hh = 1;
      if (k.v_n == k.ww * k.v_w && k.s_n == k.ww * k.s_w) k.ww *= k.nn, k.nn = 1;
    }
    if constexpr (kPerWord<T> == 1)
      if (k.few) {
        constexpr void (*kTiles[])(const Walk&, const float*, const float*, float*) = {&few_tile<1>, &few_tile<2>,
                                                                                       &few_tile<3>, &few_tile<4>};
        return kTiles[rows - 1](k, s.at(0, 0), vp, out);
      }
    EvenParts down(rows, ceil_div(rows, tile_pixels(static_cast<int>(V))));
    for (int64_t i = 0, p0 = 0, p1; i < down.parts; ++i, p0 = p1) {
      p1 = down.next();
      GradTiles<T>::at[V - 1][p1 - p0 - 1](k, s.at(p0, 0), vp, out + p0 * k.out + v0 * kLanes, ahead);
    }
  }
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
