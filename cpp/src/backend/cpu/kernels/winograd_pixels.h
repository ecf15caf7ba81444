// What it is: walks over the tiles of a Winograd convolution of stride 1: which pixels of an image a tile reads,
// and how whole ranges of tiles are transformed. What it is not: the transforms (winograd_transform.h).
#pragma once
#include "backend/cpu/kernels/act.h"
#include "backend/cpu/kernels/even_parts.h"
#include "backend/cpu/kernels/kernel_args.h"
#include "backend/cpu/kernels/winograd_args.h"
#include "backend/cpu/kernels/winograd_planes.h"

namespace fastcnn::cpu::FASTCNN_ISA {

// The vectors of the outputs are dealt evenly to t.blocks.
struct WinogradBlock {
  int64_t v0, V;  // first vector, vectors
  FASTCNN_OP WinogradBlock(int64_t channels, int64_t blocks, int64_t b) {
    const int64_t vectors = ceil_div(channels, kLanes);
    v0 = winograd_vectors_before(vectors, blocks, b);
    V = winograd_vectors_before(vectors, blocks, b + 1) - v0;
  }
};

// Where the planes of a block begin whose vectors take `floats` in a plane.
FASTCNN_OP int64_t planes_before(int64_t channels, int64_t blocks, int64_t b, int64_t floats) {
  EvenParts vectors(ceil_div(channels, kLanes), blocks);
  int64_t at = 0;
  for (int64_t j = 0; j < b; ++j) {
    const int64_t v0 = vectors.at;
    at += 36 * winograd_plane(floats * (vectors.next() - v0));
  }
  return at;
}

// A walk over tiles in their order.
struct WinogradTile {
  int64_t n = 0, h = 0, w = 0;    // image, first output row and column
  int64_t rows = 0, columns = 0;  // of outputs inside of the image

  __attribute__((noinline)) WinogradTile(const WinogradOutputs& t, int64_t tile) {
    for (enter(t, 0); kind_ < 4; enter(t, kind_ + 1)) {
      const int64_t wide = c1_ - c0_, grid = wide * (r1_ - r0_), size = t.N * grid;
      if (tile < size) {
        n = tile / grid, r_ = r0_ + tile % grid / wide, c_ = c0_ + tile % wide;
        place(t);
        return;
      }
      tile -= size;
    }
  }
  FASTCNN_OP void next(const WinogradOutputs& t) {
    if (++c_ == c1_) return next_row(t);
    w += own_w_;
    columns = own_w_ < t.oW - w ? own_w_ : t.oW - w;
  }

 private:
  int kind_ = 0;
  int64_t r_ = 0, c_ = 0, r0_ = 0, r1_ = 0, c0_ = 0, c1_ = 0;  // place in the grid of tiles, limits of the kind
  int64_t own_h_ = 0, own_w_ = 0;                              // sides of its tiles

  void enter(const WinogradOutputs& t, int kind) {
    const bool short_rows = kind >= 2, short_columns = kind % 3 == 0;
    kind_ = kind, n = 0;
    r0_ = r_ = short_rows ? t.fH : 0, r1_ = short_rows ? t.tH : t.fH, own_h_ = short_rows ? t.m - 1 : t.m;
    c0_ = c_ = short_columns ? t.fW : 0, c1_ = short_columns ? t.tW : t.fW, own_w_ = short_columns ? t.m - 1 : t.m;
  }
  void place(const WinogradOutputs& t) {
    h = r0_ * t.m + (r_ - r0_) * own_h_, rows = own_h_ < t.oH - h ? own_h_ : t.oH - h;
    w = c0_ * t.m + (c_ - c0_) * own_w_, columns = own_w_ < t.oW - w ? own_w_ : t.oW - w;
  }
  __attribute__((noinline)) void next_row(const WinogradOutputs& t) {
    c_ = c0_;
    if (++r_ == r1_) {
      r_ = r0_;
      if (++n == t.N) do
          enter(t, kind_ + 1);
        while (kind_ < 4 && (r0_ == r1_ || c0_ == c1_));
    }
    place(t);
  }
};

// The tiles [first, first + count) that a product takes, as [from, from + count) of them.
struct PlaneTiles {
  int64_t from, count;
};
// kind: 1 for points at infinity of rows, 2 of columns, 3 of both.
template <class Set = SixPoints>
FASTCNN_OP int plane_kind(int64_t plane) {
  return (plane / Set::kSide == Set::kInfinity) + 2 * (plane % Set::kSide == Set::kInfinity);
}
FASTCNN_OP PlaneTiles tiles_of_plane(const WinogradOutputs& t, int64_t first, int64_t count, int kind) {
  const int64_t whole = t.N * t.fH * (t.tW - t.fW), rows = t.N * t.fH * t.tW, columns = whole + t.N * t.tH * t.fW;
  const int64_t from = kind & 2 ? whole : 0, to = kind & 1 ? rows : kind & 2 ? columns : t.N * t.tH * t.tW;
  const int64_t a = from < first ? first : from, b = to < first + count ? to : first + count;
  return a < b ? PlaneTiles{a - first, b - a} : PlaneTiles{0, 0};
}

// Register tiles of the four kinds of products of tiles [first, first + count) with V vectors.
struct ProductParts {
  PlaneTiles tiles[4];
  EvenParts parts[4];
  __attribute__((noinline)) ProductParts(const WinogradOutputs& t, int64_t first, int64_t count, int64_t V)
      : tiles{tiles_of_plane(t, first, count, 0), tiles_of_plane(t, first, count, 1),
              tiles_of_plane(t, first, count, 2), tiles_of_plane(t, first, count, 3)},
        parts{plane_parts(tiles[0].count, V), plane_parts(tiles[1].count, V), plane_parts(tiles[2].count, V),
              plane_parts(tiles[3].count, V)} {}
};
// A plane of a kind; u and m: of the first tile.
FASTCNN_OP void multiply_tiles(const ProductParts& p, int kind, const float* u, int64_t u_block, int64_t C,
                               const float* w, int64_t V, float* m, int first, int64_t ahead = 0) {
  const int64_t from = p.tiles[kind].from;
  multiply_plane(u + from * kLanes, u_block, p.parts[kind], C, w, V, m + from * V * kLanes, first, ahead);
}

// Sums of a plane of a kind over tiles [first, first + count); e and u: of the first tile. See sum_plane.
FASTCNN_OP void sum_tiles(const WinogradOutputs& t, int64_t first, int64_t count, int kind, const float* e,
                          const float* u, int64_t places, int64_t V, int64_t o0, int64_t on, float* s, int fresh,
                          int64_t e_ahead = 0, int64_t u_ahead = 0) {
  const PlaneTiles q = tiles_of_plane(t, first, count, kind);
  sum_plane(e + q.from * kLanes, u + q.from * kLanes, places, q.count, V, o0, on, s, fresh, e_ahead, u_ahead);
}

// An image of which every tile reads a window of pixels, from pT and pL before its place on.
template <class T>
struct WinogradImage {
  const T* p;
  int64_t H, W, C, s_n, s_h, s_w, pT, pL;
  bool outputs = false;  // a tile sees its own outputs alone
};

// Windows of tiles [first, first + count) to planes: tile i of the result goes to place at + i of `places`.
template <class Points, class T>
__attribute__((noinline)) void transform_tiles(const WinogradTask& t, const WinogradImage<T>& m, int64_t first,
                                               int64_t count, float* u, int64_t plane, int64_t at,
                                               int64_t places) {
  WinogradTile k(t, first);
  for (int64_t i = 0; i < count; ++i, k.next(t)) {
    const T* image = m.p + k.n * m.s_n;
    const int64_t H = m.outputs ? k.h + k.rows : m.H, W = m.outputs ? k.w + k.columns : m.W;
    float* d = u + (at + i) * kLanes;
    if constexpr (sizeof(T) == 4)
      transform_window<Points>(image, H, W, m.C, m.s_h, m.s_w, k.h - m.pT, k.w - m.pL, values<T>(t.zeros), d,
                               places * kLanes, plane);
    else  // pixels are made floats once
      transform_held_window<Points>(image, nullptr, H, W, m.C, m.s_h, m.s_w, 1, k.h - m.pT, k.w - m.pL, d,
                                    places * kLanes, plane);
  }
}

template <class Points>
__attribute__((noinline)) void transform_normalised_tiles(const WinogradTask& t, int64_t first, int64_t count,
                                                          float* u, int64_t plane, int64_t at, int64_t places) {
  WinogradTile k(t, first);
  for (int64_t i = 0; i < count; ++i, k.next(t))
    transform_held_window<Points>(t.x + k.n * t.x_n, &t.norm, t.H, t.W, t.C, t.x_h, t.x_w, 1, k.h - t.pT,
                                  k.w - t.pL, u + (at + i) * kLanes, places * kLanes, plane);
}

template <class T>
FASTCNN_OP WinogradImage<T> input_image(const WinogradTask& t) {
  const int64_t C = t.whole_pixels ? ceil_div(t.C, kLanes) * kLanes : t.C;
  return WinogradImage<T>{values<T>(t.x), t.H, t.W, C, t.x_n, t.x_h, t.x_w, t.pT, t.pL};
}

// Windows of the input, read through the norm where there is one.
template <class T, template <class> class Kind = Own>
FASTCNN_OP void transform_input(const WinogradTask& t, int64_t first, int64_t count, float* u, int64_t plane,
                                int64_t at, int64_t places) {
  using Points = Kind<DataPoints<SixPoints>>;
  if (t.norm.on) return transform_normalised_tiles<Points>(t, first, count, u, plane, at, places);
  transform_tiles<Points>(t, input_image<T>(t), first, count, u, plane, at, places);
}

template <class T>
FASTCNN_OP WinogradImage<T> gradient_image(const WinogradTask& t) {
  return WinogradImage<T>{values<T>(t.dy), t.oH, t.oW, t.O, t.y_n, t.y_h, t.y_w, 0, 0, true};
}
template <class T>
FASTCNN_OP WinogradImage<T> output_image(const WinogradTask& t) {
  return WinogradImage<T>{values<T>(t.y), t.oH, t.oW, t.O, t.y_n, t.y_h, t.y_w, 0, 0};
}

// Tiles of dy.
template <class T, template <class> class Kind = Own>
FASTCNN_OP void transform_gradient(const WinogradTask& t, int64_t first, int64_t count, float* e, int64_t plane,
                                   int64_t at, int64_t places) {
  if (t.m == 4)
    transform_tiles<Kind<OutputPoints<SixPoints, 4>>>(t, gradient_image<T>(t), first, count, e, plane, at, places);
  else
    transform_tiles<Kind<OutputPoints<SixPoints, 2>>>(t, gradient_image<T>(t), first, count, e, plane, at, places);
}

// Asks for the pixels of tiles of an image that no other tile has in the middle of its window, so that memory
// works while the cores multiply: what the transforms touch next lies in the second-level cache then.
template <class T>
class TileFetch {
 public:
  // Tiles [first, first + count), a share after each of `shares` calls of next(). Of a tile whose outputs begin in
  // row h, `side` rows from h * step + top on; columns likewise.
  FASTCNN_OP TileFetch(const WinogradOutputs& t, const WinogradImage<T>& image, int64_t first, int64_t count,
                       int64_t shares, int64_t side, int64_t step, int64_t top, int64_t left)
      : t_(t), m_(image), k_(t, first), parts_(count, shares), side_(side), step_(step), top_(top), left_(left) {}
  FASTCNN_OP TileFetch(const WinogradOutputs& t, const WinogradImage<T>& image, int64_t first, int64_t count,
                       int64_t shares)
      : TileFetch(t, image, first, count, shares, t.m, 1, middle(t, image.pT), middle(t, image.pL)) {}
  FASTCNN_OP void next() {
    int64_t i = parts_.at;
    for (const int64_t end = parts_.next(); i < end; ++i, k_.next(t_)) {
      const int64_t h0 = k_.h * step_ + top_, w0 = k_.w * step_ + left_;
      for (int64_t h = h0 < 0 ? 0 : h0; h < h0 + side_ && h < m_.H; ++h)
        for (int64_t w = w0 < 0 ? 0 : w0; w < w0 + side_ && w < m_.W; ++w) {
          const char* p = reinterpret_cast<const char*>(m_.p + k_.n * m_.s_n + h * m_.s_h + w * m_.s_w);
          for (int64_t b = 0; b < m_.C * static_cast<int64_t>(sizeof(T)); b += 64) __builtin_prefetch(p + b, 0, 2);
        }
    }
  }

 private:
  static FASTCNN_OP int64_t middle(const WinogradOutputs& t, int64_t pad) {
    return pad < (6 - t.m) / 2 ? 0 : (6 - t.m) / 2 - pad;
  }
  const WinogradOutputs& t_;
  const WinogradImage<T> m_;
  WinogradTile k_;
  EvenParts parts_;
  const int64_t side_, step_, top_, left_;
};

// The same for the ranges of memory that a call asks for.
class RangeFetch {
 public:
  FASTCNN_OP RangeFetch(const WinogradTask& t, int64_t shares)
      : t_(t), parts_{of(t, 0, shares), of(t, 1, shares), of(t, 2, shares), of(t, 3, shares)} {}
  FASTCNN_OP void next() {
    for (int i = 0; i < 4; ++i) {
      if (t_.fetch[i].floats == 0) continue;
      int64_t line = parts_[i].at;
      for (const int64_t end = parts_[i].next(); line < end; ++line)
        __builtin_prefetch(t_.fetch[i].p + 16 * line, 0, 2);
    }
  }

 private:
  static FASTCNN_OP EvenParts of(const WinogradTask& t, int i, int64_t shares) {
    return EvenParts(ceil_div(t.fetch[i].floats, 16), t.fetch[i].floats ? shares : 1);
  }
  const WinogradTask& t_;
  EvenParts parts_[4];
};

}  // namespace fastcnn::cpu::FASTCNN_ISA
