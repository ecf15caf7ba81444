// What it is: the register tile of every dense kernel: P pixels x V vectors of outputs, all of them held in
// registers over the whole depth. What it is not: it knows nothing of padding, strips or threads; offsets
// come from the caller.
#pragma once
#include "backend/cpu/kernels/kernel_args.h"
#include "backend/cpu/kernels/moments.h"
#include "backend/cpu/kernels/simd_halves.h"

namespace fastcnn::cpu::FASTCNN_ISA {

// Vectors and pixels of the largest tiles: accumulators + one row of weights + one broadcast fill the
// registers.
constexpr int kTileV = kVectorRegs == 32 ? 3 : 2;
FASTCNN_OP constexpr int tile_pixels(int V) {
  return kVectorRegs == 32 ? (V == 3 ? 9 : V == 2 ? 14 : 16) : (V == 2 ? 6 : 8);
}

// Pixels multiples of 4 KiB apart lie in one set of a first-level cache of 64 sets of lines of 64 bytes, which has
// eight ways or more.
constexpr int64_t kAliasedFloats = 1024;

// The depth is counted in words of four bytes: a float32 or two neighbouring bfloat16.
template <class T>
constexpr int64_t kPerWord = static_cast<int64_t>(sizeof(float) / sizeof(T));

template <class T>
FASTCNN_OP vf multiply_add(vf a, vf b, vf c) {
  if constexpr (kPerWord<T> == 2)
    return dot_pairs(a, b, c);
  else
    return fma(a, b, c);
}

// Where only the lower half of a vector is wanted, some processors do half the work.
#if defined(__AVX512F__)
constexpr bool kHalfVectors = true;
FASTCNN_OP vf fma_low(vf a, vf b, vf c) {
  return _mm512_castps256_ps512(
      _mm256_fmadd_ps(_mm512_castps512_ps256(a), _mm512_castps512_ps256(b), _mm512_castps512_ps256(c)));
}
#else
constexpr bool kHalfVectors = false;
FASTCNN_OP vf fma_low(vf a, vf b, vf c) { return fma(a, b, c); }
#endif

// The products of words [k, end) of P pixels and V vectors; kHalf: the last one has lanes in its lower half only.
template <bool kHalf, class T, int P, int V>
FASTCNN_OP const float* multiply_words(vf (&acc)[P][V], const float* const (&ap)[P], const float* w, int64_t& k,
                                       int64_t end, int64_t next) {
  for (; k < end; ++k, w += V * kLanes) {
    if (V > 1 && kPerWord<T> == 2) prefetch(w + next);
    vf b[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) b[v] = load(w + v * kLanes);
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) {
      const vf s = set1(ap[p][k]);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v)
        acc[p][v] = kHalf && v == V - 1 ? fma_low(s, b[v], acc[p][v]) : multiply_add<T>(s, b[v], acc[p][v]);
    }
  }
  return w;
}

constexpr int64_t kPiece = 16;  // words of the depth between two fetches: a line of the cache

// What results meet where they are stored, at their offsets, and where that is: fetched while the last words of
// the depth are multiplied, for it comes from memory, and the tile would wait for it.
template <class T>
struct Soon {
  static constexpr int64_t kWords = 128;  // of the depth, the last ones, beside which it is fetched
  static constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(T));
  const T* at[4] = {};
  int count = 0;
  int64_t from = 0, pixels = 0;  // the first word; of so many pixels with each piece
  FASTCNN_OP void add(const T* p) { at[count++] = p; }
  FASTCNN_OP void deal(int64_t run, int64_t P) {
    from = run > kWords ? (run - kWords) / kPiece * kPiece : 0;
    pixels = ceil_div(P, ceil_div(run - from, kPiece));
  }
};

// Weights that the next block of outputs reads: so many lines with each piece of the depth.
struct FetchedWeights {
  const float* at = nullptr;
  int64_t lines = 0;
};

template <class T>
struct TileArgs {
  int64_t n1, s1, n2, s2, run;  // a window is n1 x n2 runs of `run` words, s1 and s2 apart
  int64_t left_out;             // weights of the taps that each of the n1 leaves out
  int first, last;              // first block of the depth: start from the bias or 0; last: residual, activation
  const T* bias;
  const T* residual;  // offsets as for y
  Act act;
  int tail;                // lanes of the last vector
  int64_t ahead;           // not 0: words from a pixel of this tile to one of a tile to come, fetched meanwhile,
  int64_t ahead0, ahead1;  // these of the depth, from a multiple of kPiece on
  int flat;                // that tile's pixels follow each other: its lines are fetched in their order
  int64_t next;            // bfloat16: from weights of this block to those that are fetched meanwhile
  FetchedWeights fetch;
  int64_t tiles;  // so many, one after the other
  int stream;     // write y past the caches: whole vectors at multiples of a vector only
  float* sums;    // float32: MomentSums of y of each vector, or null
  int fresh;      // they start with this tile
  Soon<T> soon;
};

template <int P, int V, class T>
FASTCNN_OP void one_tile(const TileArgs<T>& t, const float* a, const int64_t* a_off, const float* w, T* y,
                         const int64_t* y_off) {
  vf acc[P][V];
  if (t.first && t.bias) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      vf b = v == V - 1 && t.tail < kLanes ? loadn(t.bias + v * kLanes, t.tail) : load(t.bias + v * kLanes);
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p) acc[p][v] = b;
    }
  } else if (t.first) {
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) acc[p][v] = zero();
  } else {
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v)
        acc[p][v] = v == V - 1 && t.tail < kLanes ? loadn(y + y_off[p] + v * kLanes, t.tail)
                                                  : load(y + y_off[p] + v * kLanes);
  }
  const float* fetched = t.fetch.at;
  for (int64_t r1 = 0; r1 < t.n1; ++r1, w += t.left_out)
    for (int64_t r2 = 0; r2 < t.n2; ++r2) {
      const float* ar = a + r1 * t.s1 + r2 * t.s2;
      const float* ap[P];
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p) ap[p] = ar + a_off[p];
      int64_t run = t.run;
      int64_t soon = t.soon.count && r1 == t.n1 - 1 && r2 == t.n2 - 1 ? 0 : P;
      for (int64_t k = 0; k < run;) {
        if (t.ahead && k >= t.ahead0 && k < t.ahead1) {
          if (kPerWord<T> == 1 && t.flat) {
#pragma GCC unroll 1
            for (int p = 0; p < P; ++p) prefetch(ap[0] + t.ahead + k * P + p * kPiece);
          } else {
#pragma GCC unroll 16
            for (int p = 0; p < P; ++p) prefetch(ap[p] + k + t.ahead);
          }
        }
        if (kFetches && kPerWord<T> == 1) {
#pragma GCC unroll 1
          for (int64_t i = t.fetch.lines; i > 0; --i, fetched += kPiece) __builtin_prefetch(fetched, 0, 2);
        }
        if (kFetches && soon < P && k >= t.soon.from)
          for (const int64_t end = soon + t.soon.pixels < P ? soon + t.soon.pixels : P; soon < end; ++soon)
#pragma GCC unroll 1
            for (int i = 0; i < t.soon.count; ++i)
#pragma GCC unroll 1
              for (int64_t v = 0; v < V * kLanes; v += Soon<T>::kLine) prefetch(t.soon.at[i] + y_off[soon] + v);
        const int64_t end = run - k < kPiece ? run : k + kPiece;
        if (kHalfVectors && kPerWord<T> == 1 && t.tail <= kLanes / 2)
          w = multiply_words<true, T>(acc, ap, w, k, end, t.next);
        else
          w = multiply_words<false, T>(acc, ap, w, k, end, t.next);
      }
    }
  if (t.last) {
    if (t.residual) {
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
          const T* q = t.residual + y_off[p] + v * kLanes;
          acc[p][v] = add(acc[p][v], v == V - 1 && t.tail < kLanes ? loadn(q, t.tail) : load(q));
        }
    }
    // The usual case: each result is stored before the next is bounded, so that stores begin early.
    if (kPerWord<T> == 1 && t.act != Act::none && !t.stream && t.tail == kLanes && !t.sums) {
      const vf low = zero(), high = set1(t.act == Act::relu6 ? 6.0f : __builtin_inff());
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
          acc[p][v] = vmin(high, vmax(low, acc[p][v]));
          store(y + y_off[p] + v * kLanes, acc[p][v]);
        }
      return;
    }
    if (t.act != Act::none) {
      const vf low = zero();
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) acc[p][v] = vmax(low, acc[p][v]);
    }
    if (t.act == Act::relu6) {
      const vf high = set1(6);
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) acc[p][v] = vmin(high, acc[p][v]);
    }
  }
  if (kPerWord<T> == 1 && t.stream && t.last) {
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) stream(y + y_off[p] + v * kLanes, acc[p][v]);
  } else {
    const bool two = kPerWord<T> == 2 && (V > 2 || (V == 2 && t.tail == kLanes));
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        if (two && v == 0)
          store_two(y + y_off[p], acc[p][0], acc[p][V > 1]);
        else if (two && v == 1)
          continue;
        else if (v == V - 1 && t.tail < kLanes)
          storen(y + y_off[p] + v * kLanes, acc[p][v], t.tail);
        else
          store(y + y_off[p] + v * kLanes, acc[p][v]);
      }
  }
  // After the stores: the accumulators are free for differences.
  if (kPerWord<T> == 2 || !t.sums) return;
  const auto value = [&](int v) __attribute__((always_inline)) {
    return [&, v](int p) __attribute__((always_inline)) { return acc[p][v]; };
  };
  if (t.fresh) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) store_moments(t.sums + v * 3 * kLanes, kLanes, start_moments(P, value(v)));
  }
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) add_moments_at(t.sums + v * 3 * kLanes, kLanes, P, value(v));
}

template <int P, int V, class T>
static void gemm_tile(const TileArgs<T>& t, const float* a, const int64_t* a_off, const float* w, T* y,
                      const int64_t* y_off) {
  for (int64_t i = t.tiles; i > 0; --i, a_off += P, y_off += P) one_tile<P, V>(t, a, a_off, w, y, y_off);
}

template <class T>
using GemmTileFn = void (*)(const TileArgs<T>&, const float*, const int64_t*, const float*, T*, const int64_t*);

}  // namespace fastcnn::cpu::FASTCNN_ISA
