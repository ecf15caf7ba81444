// What it is: gemm_windows, the dense engine of convolutions and matmuls, and the packing of its weights.
// What it is not: it takes the plan (strips, blocks) as given; backend/cpu/gemm_plan.h makes it.
// Sum order of one output: channel block, kh, kw, channel; it does not depend on tiles, strips or threads.
#include "backend/cpu/kernels/act_pixels.h"
#include "backend/cpu/kernels/even_parts.h"
#include "backend/cpu/kernels/gemm_across.h"
#include "backend/cpu/kernels/gemm_line.h"
#include "backend/cpu/kernels/gemm_tile.h"
#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/norm_sums.h"
#include "backend/cpu/kernels/strip.h"

namespace fastcnn::cpu::FASTCNN_ISA {
namespace {

// Several vectors of bfloat16 take fewer pixels than the registers hold: their rounding overlaps the next tile's
// products, and fewer rows are read at a time.
constexpr int kShortTile = 7;
template <class T>
FASTCNN_OP constexpr int most_pixels(int V) {
  return kPerWord<T> == 2 && V > 1 && tile_pixels(V) > kShortTile ? kShortTile : tile_pixels(V);
}

template <class T, int V, int P>
constexpr GemmTileFn<T> tile_or_null() {
  if constexpr (P <= most_pixels<T>(V)) return &gemm_tile<P, V, T>;
  return nullptr;
}
template <class T>
struct Tiles {
#define TILES4(V, p) \
  tile_or_null<T, V, p>(), tile_or_null<T, V, p + 1>(), tile_or_null<T, V, p + 2>(), tile_or_null<T, V, p + 3>()
#define TILES16(V) {TILES4(V, 1), TILES4(V, 5), TILES4(V, 9), TILES4(V, 13)}
  static constexpr GemmTileFn<T> at[kTileV][16] = {
      TILES16(1),
      TILES16(2),
#if defined(__AVX512F__) || defined(__aarch64__)
      TILES16(3),
#endif
  };
#undef TILES16
#undef TILES4
};

constexpr int64_t kFetchFloats = 16;
constexpr int64_t kShortDepth = 64;   // words: results' places are fetched at once, not beside the last products
constexpr int64_t kLineAhead = 1024;  // products, vectors of them: what memory takes to answer
constexpr int64_t kFetchedBlock = 32 * 1024;    // floats: weights that fit L2 beside those in use
constexpr int64_t kFetchedWeights = 16 * 1024;  // of fewer, nothing is fetched
// Rows at a time of pixels that share a set of the cache.
constexpr int kAliasedTile = tile_pixels(kTileV) < 8 ? tile_pixels(kTileV) : 8;

// The vectors of O are dealt evenly to blocks of at most kTileV.
struct OutBlocks {
  int64_t vectors, blocks;
  FASTCNN_OP explicit OutBlocks(int64_t O)
      : vectors(ceil_div(O, kLanes)), blocks(output_blocks(vectors, kTileV)) {}
  FASTCNN_OP int64_t first(int64_t b) const { return vectors * b / blocks; }
  // The first vector of the block that vector v is in, and the end of it.
  FASTCNN_OP void around(int64_t v, int64_t& first, int64_t& end) const {
    EvenParts parts(vectors, blocks);
    do first = parts.at;
    while ((end = parts.next()) <= v);
  }
};

// Pixels of a strip that follow each other and whose windows have the same taps [kh0, kh1) x [kw0, kw1) inside the
// image, or tap rows where columns are not looked at.
struct Segment {
  int64_t first, pixels, kh0, kh1, kw0, kw1;
};

// Of each pixel of a strip, in order.
FASTCNN_OP void pixel_offsets(int64_t* to, int64_t nn, int64_t hh, int64_t ww, int64_t s_n, int64_t s_h,
                              int64_t s_w) {
  for (int64_t n = 0; n < nn; ++n)
    for (int64_t h = 0; h < hh; ++h, to += ww) {
      const int64_t first = n * s_n + h * s_h;
      for (int64_t w = 0; w < ww; ++w) to[w] = first + w * s_w;
    }
}

int64_t cut_segments(const GemmTask& t, int64_t nn, int64_t hh, int64_t ww, int64_t ih0, Segment* s) {
  int64_t count = 0;
  for (int64_t n = 0, p = 0; n < nn; ++n)
    for (int64_t h = 0; h < hh; ++h, p += ww) {
      const TapsInside k(ih0 + h * t.sH, t.kH, t.dH, t.H);
      if (count && s[count - 1].kh0 == k.from && s[count - 1].kh1 == k.to)
        s[count - 1].pixels += ww;
      else
        s[count++] = {p, ww, k.from, k.to, 0, t.kW};
    }
  return count;
}

// A strip's pixels sorted by the taps that they see; of those that see the same, image after image.
struct Sorted {
  Alike row[kMostAlike], column[kMostAlike];
  int64_t rows, columns, images;
  __attribute__((noinline)) Sorted(const GemmTask& t, int64_t nn, int64_t hh, int64_t ww, int64_t ih0, int64_t iw0)
      : rows(cut_alike(hh, ih0, t.sH, t.kH, t.dH, t.H, row)),
        columns(cut_alike(ww, iw0, t.sW, t.kW, t.dW, t.W, column)),
        images(nn) {}
  template <class F>
  FASTCNN_OP void each(F f) const {
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < columns; ++c) f(row[r], column[c]);
  }
  __attribute__((noinline)) void offsets(int64_t* to, int64_t s_n, int64_t s_h, int64_t s_w) const {
    each([&](const Alike& r, const Alike& c) {
      int64_t* from = to;
      pixel_offsets(to, images, r.count, c.count, s_n, s_h, s_w);
      to += images * r.count * c.count;
      for (; from < to; ++from) *from += r.first * s_h + c.first * s_w;
    });
  }
  __attribute__((noinline)) int64_t segments(Segment* s) const {
    int64_t count = 0, p = 0;
    each([&](const Alike& r, const Alike& c) {
      s[count++] = {p, images * r.count * c.count, r.k0, r.k1, c.k0, c.k1};
      p += images * r.count * c.count;
    });
    return count;
  }
};

// The sums of V vectors of channels from `o` on, `left` of them, to the part of a strip.
FASTCNN_OP void leave_moments(const GemmTask& t, int64_t strip, int64_t o, int64_t V, int64_t left, int64_t pixels,
                              const float* sums) {
  const double n = static_cast<double>(pixels);
  double* mean = t.moments.part + strip * 2 * t.moments.channels + o;
  for (int64_t v = 0; v < V; ++v, left -= kLanes)
    close_moments(sums + v * 3 * kLanes, kLanes, left < kLanes ? left : kLanes, n, mean + v * kLanes,
                  mean + t.moments.channels + v * kLanes);
  if (o == 0) t.moments.count[strip] = n;
}

// P pixels of `channels` channels from o on, which a dense kernel has just stored at y + y_off[p]; `at` is where y
// is in the image. sums: two vectors for each of channels, which start with this tile where it is `fresh`.
[[maybe_unused]] void norm_pixels(const NormSums& s, float* y, int64_t at, const int64_t* y_off, int64_t P,
                                  int64_t o, int64_t channels, float* sums, int fresh) {
  float* to = s.to ? s.to + at : y;
  for (int64_t v = 0; v < channels; v += kLanes, sums += 2 * kLanes) {
    const int n = static_cast<int>(channels - v < kLanes ? channels - v : kLanes);
    NormChannels c(s, o + v, n);
    if (!fresh) c.sum = load(sums), c.dot = load(sums + kLanes);
    for (int64_t p = 0; p < P; ++p) {
      const int64_t i = y_off[p] + v;
      const float* out = s.y ? s.y + at + i : nullptr;
      if (n == kLanes) {
        const vf d = c.pass(load(y + i), load(s.x + at + i), out, kLanes);
        s.stream ? stream(to + i, d) : store(to + i, d);
      } else {
        storen(to + i, c.pass(loadn(y + i, n), loadn(s.x + at + i, n), out, n), n);
      }
    }
    store(sums, c.sum), store(sums + kLanes, c.dot);
  }
}

// Whether results of `channels` in are stored all outputs of a pixel after each other.
[[maybe_unused]] bool goes_across(const GemmTask& t, int64_t channels) {
  const int64_t taps = t.kH * t.kW;
  return (taps == 1 || (t.pack && t.merge)) && t.nc == 1 && taps * channels <= kAcrossNumbers &&
         t.O % (2 * kLanes) == 0 && !t.sorted && !t.norm.on && !t.residual && !t.moments.on && !t.sums_before.on &&
         t.late.act == Act::none && t.N * t.oH * t.oW * t.y_w > kCachedFloats;
}

template <class T>
void windows(const GemmTask& t, int64_t begin, int64_t end) {
  alignas(64) float scratch[kScratchFloats + kScratchSlack];
  alignas(64) float sums[3 * kTileV * kLanes];
  int64_t a_off[kStripPixels], y_off[kStripPixels];
  Segment segment[kStripPixels];
  const OutBlocks blocks(t.O);
  const int64_t strips_n = ceil_div(t.N, t.nb), strips_h = ceil_div(t.oH, t.ohb), strips_w = ceil_div(t.oW, t.owb);
  const int64_t strips = strips_n * strips_h * strips_w;
  const int64_t taps = t.kH * t.kW, depth = ceil_div(t.C, kPerWord<T>);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t batch = t.by_strip ? item % t.B : item / strips / t.groups,
                  part = t.by_strip ? item / t.B : item % (strips * t.groups), strip = part % strips,
                  group = part / strips;
    const int64_t n0 = strip / (strips_h * strips_w) * t.nb, oh0 = strip / strips_w % strips_h * t.ohb,
                  ow0 = strip % strips_w * t.owb;
    const int64_t nn = t.N - n0 < t.nb ? t.N - n0 : t.nb, hh = t.oH - oh0 < t.ohb ? t.oH - oh0 : t.ohb,
                  ww = t.oW - ow0 < t.owb ? t.oW - ow0 : t.owb;
    const int64_t rows = (hh - 1) * t.sH + (t.kH - 1) * t.dH + 1, cols = (ww - 1) * t.sW + (t.kW - 1) * t.dW + 1;
    const int64_t ih0 = oh0 * t.sH - t.pT, iw0 = ow0 * t.sW - t.pL;
    const T* x = reinterpret_cast<const T*>(t.x) + batch * t.x_b + n0 * t.x_n;
    const int64_t y0 = batch * t.y_b + n0 * t.y_n + oh0 * t.y_h + ow0 * t.y_w;
    T* y = reinterpret_cast<T*>(t.y) + y0;
    const T* residual = t.residual ? reinterpret_cast<const T*>(t.residual) + y0 : nullptr;
    const Sorted sorted(t, nn, t.sorted ? hh : 0, t.sorted ? ww : 0, ih0, iw0);
    const auto offsets = [&](int64_t* to, int64_t s_n, int64_t s_h, int64_t s_w) {
      t.sorted ? sorted.offsets(to, s_n, s_h, s_w) : pixel_offsets(to, nn, hh, ww, s_n, s_h, s_w);
    };
    offsets(y_off, t.y_n, t.y_h, t.y_w);
    const int64_t segments = t.sorted ? sorted.segments(segment) : cut_segments(t, nn, hh, ww, ih0, segment);
    const int64_t b0 = blocks.blocks * group / t.groups, b1 = blocks.blocks * (group + 1) / t.groups;
    const int64_t padded = blocks.vectors * kLanes;
    for (int64_t c = 0; c < t.nc; ++c) {
      const int64_t c0 = depth * c / t.nc, cn = depth * (c + 1) / t.nc - c0;
      const float* a;
      int64_t a_n, a_h, a_w;
      // Pixels of a 1x1 window are normalised tile by tile, right before the first block reads them.
      // Not where some are padding, which no norm changes.
      const bool by_tile =
          t.norm.on && taps == 1 && t.N * t.oH == 1 && t.H == 1 && t.sW == 1 && t.oW == t.W && (t.pT | t.pL) == 0;
      const NormIn norm = norm_from(t.norm, batch * t.x_b + c0);
      if (by_tile) {
        a = scratch;
        a_w = cn, a_h = a_n = 0;
      } else if (t.pack) {
        for (int64_t n = 0; n < nn; ++n)
          pack_strip(t, t.x_c, x + n * t.x_n + c0 * kPerWord<T> * t.x_c, rows, cols, ih0, iw0,
                     kPerWord<T> == 1 ? cn : t.C, scratch + n * rows * cols * cn, norm);
        a = scratch;
        a_w = cn, a_h = cols * cn, a_n = rows * cols * cn;
      } else {
        a = reinterpret_cast<const float*>(x + c0 * kPerWord<T> + ih0 * t.x_h + iw0 * t.x_w);
        a_w = t.x_w / kPerWord<T>, a_h = t.x_h / kPerWord<T>, a_n = t.x_n / kPerWord<T>;
      }
      if (c == 0 || t.pack) offsets(a_off, a_n, t.sH * a_h, t.sW * a_w);
      const bool aliased = kPerWord<T> == 1 && t.sW * a_w % kAliasedFloats == 0;
      TileArgs<T> args;
      args.s1 = t.dH * a_h;
      if (t.merge)
        args.n2 = 1, args.s2 = 0, args.run = t.kW * cn;
      else
        args.n2 = t.kW, args.s2 = t.dW * a_w, args.run = cn;
      args.sums = t.moments.on && c == t.nc - 1 ? sums : nullptr;
      args.first = c == 0, args.last = c == t.nc - 1, args.act = t.act, args.stream = t.stream;
      const float* wc = t.w + batch * t.w_b + taps * c0 * padded;
      // Rows that are read in place come from memory once: each block asks for its share of the next strip's.
      const int64_t ahead = strips_w > 1 ? t.owb * t.sW * a_w : strips_h > 1 ? t.ohb * t.sH * a_h : t.nb * a_n;
      // Long rows of pixels are many short streams, which the hardware does not run ahead of; short ones side by
      // side are one.
      const bool one_stream = taps == 1 && t.sW * a_w == cn && !t.norm.fetch;
      const int64_t fetched = one_stream ? 8 * kFetchFloats : kFetchFloats;
      const int64_t lines = kPerWord<T> == 2 && !t.pack && strips > 1 ? ceil_div(cn, kPiece) : 0;
      if constexpr (kAcross && kPerWord<T> == 1)
        if (goes_across(t, cn)) {
          const int64_t o0 = 2 * kLanes * b0;
          const AcrossArgs row{t.bias ? t.bias + batch * t.bias_b + o0 : nullptr,
                               t.act,
                               t.stream,
                               t.kH,
                               t.kW * cn,
                               2 * kLanes * (b1 - b0),
                               t.dH * a_h,
                               t.sW * a_w,
                               t.y_w,
                               ww};
          for (int64_t n = 0; n < nn; ++n)
            for (int64_t h = 0; h < hh; ++h)
              (t.kH > 1 ? row_across<true> : row_across<false>)(row, a + n * a_n + h * t.sH * a_h,
                                                                wc + taps * cn * o0,
                                                                y + o0 + n * t.y_n + h * t.y_h);
          continue;
        }
      for (int64_t b = b0; b < b1; ++b) {
        const int64_t v0 = blocks.first(b), V = blocks.first(b + 1) - v0, o0 = v0 * kLanes;
        args.bias = t.bias ? reinterpret_cast<const T*>(t.bias) + batch * t.bias_b + o0 : nullptr;
        args.residual = residual ? residual + o0 : nullptr;
        const int64_t left = t.O - o0 - (V - 1) * kLanes;
        args.tail = static_cast<int>(left < kLanes ? left : kLanes);
        const float* wb = wc + taps * cn * o0;
        args.fresh = 1;
        args.soon = Soon<T>();
        if (args.last && args.residual) args.soon.add(args.residual);
        if constexpr (kPerWord<T> == 1)
          if (args.last && t.sums_before.on) {
            args.soon.add(t.sums_before.x + y0 + o0);
            if (t.sums_before.y) args.soon.add(t.sums_before.y + y0 + o0);
          }
        if (!args.stream && t.N * t.y_n > kCachedFloats) args.soon.add(y + o0);
        if (args.soon.count && args.run > 0) args.soon.deal(args.run, most_pixels<T>(static_cast<int>(V)));
        // Weights that this thread has not read yet, or that leave L2 from strip to strip: the tiles would wait
        // for them, so those of the block before ask for them, a few lines at a time.
        const int64_t floats = taps * cn * V * kLanes, all = t.O * taps * t.C;
        args.fetch = FetchedWeights();
        if (kPerWord<T> == 1 && !t.by_strip && all > kFetchedWeights && floats <= kFetchedBlock &&
            (item == begin || strip == 0 || all > 4 * kCachedFloats)) {
          if (b + 1 < b1)
            args.fetch.at = wb + floats;
          else if (c + 1 < t.nc)
            args.fetch.at =
                wc + taps * cn * padded + taps * (depth * (c + 2) / t.nc - c0 - cn) * blocks.first(b0) * kLanes;
          else if (item + 1 < end && strip + 1 == strips && t.nc == 1)
            args.fetch.at = wb + floats;
          const int64_t windows = t.merge ? t.kH * ceil_div(t.kW * cn, kPiece) : taps * ceil_div(cn, kPiece);
          const int64_t tiles = ceil_div(nn * hh * ww, most_pixels<T>(static_cast<int>(V)));
          if (args.fetch.at && windows > 0) args.fetch.lines = ceil_div(floats, kPiece * tiles * windows);
        }
        const float* const fetch_end = args.fetch.at + (args.fetch.lines ? floats : 0);
        for (int64_t j = 0; j < segments; ++j) {
          const Segment& g = segment[j];
          const int64_t most = aliased ? kAliasedTile : most_pixels<T>(static_cast<int>(V));
          const int64_t tiles = ceil_div(g.pixels, most);
          const int64_t columns = g.kw1 - g.kw0;
          args.n1 = g.kh1 - g.kh0, args.left_out = (t.kW - columns) * cn * V * kLanes;
          if (t.merge)
            args.run = columns * cn;
          else
            args.n2 = columns;
          const float* as = a + g.kh0 * args.s1 + g.kw0 * t.dW * a_w;
          const float* ws = wb + (g.kh0 * t.kW + g.kw0) * cn * V * kLanes;
          if (kPerWord<T> == 2 && !lines) {
            const int64_t most_p = ceil_div(g.pixels, tiles);
            // A single strip reads each block of weights for the first time: tiles of the one before fetch them.
            const bool fetches = strips == 1 && tiles > V;
            for (int64_t p0 = 0, i = 0; p0 < g.pixels; ++i) {
              const int64_t left = g.pixels - p0, P = left < most_p ? left : most_p;
              args.ahead = 0, args.flat = 0, args.next = fetches && i < V ? (taps * cn * V + i) * kLanes : 0;
              args.tiles = args.next ? 1 : left / P;
              const int64_t at = g.first + p0;
              Tiles<T>::at[V - 1][P - 1](args, as, a_off + at, ws, y + o0, y_off + at);
              p0 += args.tiles * P;
            }
            continue;
          }
          const bool together =
              kPerWord<T> == 1 && !by_tile && t.late.act == Act::none && !t.sums_before.on && !args.sums;
          const bool even_steps = together && args.n2 == 1 && t.nc == 1 && !t.sorted;
          args.tiles = 1, args.next = 0, args.ahead0 = 0, args.ahead1 = args.run, args.flat = one_stream;
          if (lines) {
            args.ahead = ahead, args.ahead0 = lines * (b - b0) / (b1 - b0) * kPiece;
            args.ahead1 = lines * (b + 1 - b0) / (b1 - b0) * kPiece;
          }
          // Larger tiles first, so that tiles of one size follow each other: one call where nothing is done
          // between.
          const int64_t larger = g.pixels % tiles;
          for (int64_t i = 0, p0 = g.first; i < tiles; i += args.tiles) {
            const int64_t P = g.pixels / tiles + (i < larger);
            if (together) args.tiles = args.fetch.lines ? 1 : i < larger ? larger - i : tiles - i;
            if (kPerWord<T> == 1) {
              args.ahead = !t.pack && !t.sorted && b == b0 && cn >= fetched ? P * t.sW * t.x_w : 0;
              if (args.ahead && t.norm.fetch) args.ahead = t.norm.fetch;
            }
            const float* at = as;
            if (kPerWord<T> == 1 && by_tile) {
              float* to = scratch + a_off[p0];
              if (b1 - b0 == 1) to = scratch, at = scratch - a_off[p0];  // one place for all tiles
              if (b == b0) {
                const float* from = reinterpret_cast<const float*>(x + c0 + (iw0 + p0) * t.x_w);
                norm_copy(norm, to, from, t.x_w, cn, P);
                args.ahead = t.x_w == cn ? from - to + P * cn : 0;
              }
            }
            if constexpr (kPerWord<T> == 1) {
              LineTileFn line = nullptr;
              if (even_steps && !args.fetch.lines && !args.ahead && (ww >= 2 * P || ww == g.pixels) &&
                  (!args.soon.count || (!residual && taps * cn <= kShortDepth)))
                line = line_tile(V, P, args.tail);
              const int64_t in_row = line ? (ww - p0 % ww) / P : 0;
              if (line && in_row == 0) args.tiles = 1;  // the one that crosses to the next row
              if (in_row > 0) {
                if (args.tiles > in_row) args.tiles = in_row;
                const LineArgs l{args.bias,
                                 residual ? args.residual + y_off[p0] : nullptr,
                                 args.act,
                                 args.stream,
                                 args.n1,
                                 args.s1,
                                 args.run,
                                 t.sW * a_w,
                                 t.y_w,
                                 args.tiles,
                                 args.soon.count > 0 ? kLineAhead / (taps * cn * P * V + 1) * P * t.y_w : -1};
                line(l, at + a_off[p0], ws, y + o0 + y_off[p0]);
                p0 += args.tiles * P;
                continue;
              }
            }
            Tiles<T>::at[V - 1][P - 1](args, at, a_off + p0, ws, y + o0, y_off + p0);
            if constexpr (kPerWord<T> == 1) {
              const int64_t channels = (V - 1) * kLanes + args.tail;
              if (args.last && t.late.act != Act::none) act_pixels(t.late, y + o0, y_off + p0, P, channels);
              if (args.last && t.sums_before.on)
                norm_pixels(t.sums_before, y + o0, y0 + o0, y_off + p0, P, o0, channels, sums, args.fresh);
            }
            args.fresh = 0;
            args.fetch.at += args.fetch.lines * args.n1 * args.n2 * ceil_div(args.run, kPiece) * kPiece;
            if (args.fetch.at >= fetch_end) args.fetch.lines = 0;
            p0 += args.tiles * P;
          }
        }
        if (kPerWord<T> == 1 && args.last && t.sums_before.on && !args.fresh)
          for (int64_t v = 0; v < V; ++v)
            leave_norm_sums(t.sums_before, strip, o0 + v * kLanes, v == V - 1 ? args.tail : kLanes,
                            sums + 2 * v * kLanes);
        if (args.sums) leave_moments(t, strip, batch * t.bias_b + o0, V, t.O - o0, nn * hh * ww, sums);
      }
    }
  }
  if (t.stream || t.sums_before.stream) fence();
}

// Packed weights, which all threads read.
FASTCNN_OP void put_packed(const PackTask& t, float* d, vf a) {
  if (kWholeLines && t.shared)
    stream(d, a);
  else
    store(d, a);
}

}  // namespace

void gemm_windows_bf16(const GemmTask& t, int64_t begin, int64_t end) { windows<bfloat16>(t, begin, end); }
#if FASTCNN_SHARED_HERE
void gemm_windows(const GemmTask& t, int64_t begin, int64_t end) { windows<float>(t, begin, end); }

namespace {

// Output channels are contiguous: whole rows of them are read once and dealt to the blocks.
void pack_rows(const PackTask& t, int64_t begin, int64_t end) {
  const OutBlocks blocks(t.O);
  const int64_t taps = t.kH * t.kW, padded = blocks.vectors * kLanes;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t batch = item / t.C, c = item % t.C;
    int64_t cb = c * t.nc / t.C;
    while (t.C * (cb + 1) / t.nc <= c) ++cb;
    while (t.C * cb / t.nc > c) --cb;
    const int64_t c0 = t.C * cb / t.nc, cn = t.C * (cb + 1) / t.nc - c0;
    float* dst = t.dst + batch * t.dst_b + taps * c0 * padded;
    for (int64_t i = 0; i < taps; ++i) {
      const int64_t tap = t.s_kw < 0 || t.s_kh < 0 ? taps - 1 - i : i;  // in the order of memory
      const float* s = t.src + batch * t.src_b + c * t.s_c + tap / t.kW * t.s_kh + tap % t.kW * t.s_kw;
      for (int64_t b = 0; b < blocks.blocks; ++b) {
        const int64_t v0 = blocks.first(b), V = blocks.first(b + 1) - v0;
        float* d = dst + taps * cn * v0 * kLanes + (tap * cn + c - c0) * V * kLanes;
        for (int64_t o = v0 * kLanes; o < (v0 + V) * kLanes; o += kLanes, d += kLanes)
          put_packed(t, d, loadn(s + o, static_cast<int>(t.O - o < kLanes ? t.O - o : kLanes)));
      }
    }
  }
  if (t.shared) fence();
}

}  // namespace

// dst: [batch][channel block][output block][kh][kw][c][vectors of the block]
void pack_weights(const PackTask& t, int64_t begin, int64_t end) {
  if (t.s_o == 1) return pack_rows(t, begin, end);
  const OutBlocks blocks(t.O);
  const int64_t taps = t.kH * t.kW, padded = blocks.vectors * kLanes;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t batch = item / blocks.vectors, v = item % blocks.vectors;
    int64_t v0, v1;
    blocks.around(v, v0, v1);
    const int64_t step = (v1 - v0) * kLanes;
    const int64_t o0 = v * kLanes;
    const int n = static_cast<int>(t.O - o0 < kLanes ? t.O - o0 : kLanes);
    const float* src = t.src + batch * t.src_b + o0 * t.s_o;
    for (int64_t c = 0; c < t.nc; ++c) {
      const int64_t c0 = t.C * c / t.nc, cn = t.C * (c + 1) / t.nc - c0;
      float* d = t.dst + batch * t.dst_b + taps * (c0 * padded + cn * v0 * kLanes) + (v - v0) * kLanes;
      for (int64_t kh = 0; kh < t.kH; ++kh)
        for (int64_t kw = 0; kw < t.kW; ++kw, d += cn * step) {
          const float* s = src + kh * t.s_kh + kw * t.s_kw + c0 * t.s_c;
          if (t.s_c == 1) {
            for (int64_t i = 0; i < cn; i += kLanes) {
              const int m = static_cast<int>(cn - i < kLanes ? cn - i : kLanes);
              vf r[kLanes];
#pragma GCC unroll 16
              for (int j = 0; j < kLanes; ++j) r[j] = j < n ? loadn(s + j * t.s_o + i, m) : zero();
              transpose(r);
#pragma GCC unroll 16
              for (int j = 0; j < kLanes; ++j)
                if (j < m) put_packed(t, d + (i + j) * step, r[j]);
            }
          } else {
            for (int64_t i = 0; i < cn; ++i)
              for (int j = 0; j < kLanes; ++j) d[i * step + j] = j < n ? s[j * t.s_o + i * t.s_c] : 0.0f;
          }
        }
    }
  }
  if (t.shared) fence();
}
#endif

namespace {

// A word of channels 2i and 2i+1, 0 for one past the end, s_c apart.
FASTCNN_OP uint32_t word_at(const bfloat16* s, int64_t s_c, int64_t i, int64_t C) {
  const uint32_t low = s[2 * i * s_c].bits;
  return 2 * i + 1 < C ? low | static_cast<uint32_t>(s[(2 * i + 1) * s_c].bits) << 16 : low;
}

// Output channels are contiguous: two rows of them are interleaved.
void pack_row_pairs(const PackTask& t, int64_t begin, int64_t end) {
  const OutBlocks blocks(t.O);
  const int64_t taps = t.kH * t.kW, depth = ceil_div(t.C, 2);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t batch = item / depth, i = item % depth;
    const bool both = 2 * i + 1 < t.C;
    for (int64_t tap = 0; tap < taps; ++tap) {
      const bfloat16* s = reinterpret_cast<const bfloat16*>(t.src) + batch * t.src_b + 2 * i * t.s_c +
                          tap / t.kW * t.s_kh + tap % t.kW * t.s_kw;
      for (int64_t b = 0; b < blocks.blocks; ++b) {
        const int64_t v0 = blocks.first(b), V = blocks.first(b + 1) - v0;
        float* d = t.dst + batch * t.dst_b + (taps * depth * v0 + (tap * depth + i) * V) * kLanes;
        for (int64_t o = v0 * kLanes; o < (v0 + V) * kLanes; o += kLanes, d += kLanes) {
          const int n = static_cast<int>(t.O - o < kLanes ? t.O - o : kLanes);
          put_packed(t, d, make_pair(loadn(s + o, n), both ? loadn(s + t.s_c + o, n) : zero()));
        }
      }
    }
  }
  if (t.shared) fence();
}

}  // namespace

// dst: [batch][output block][kh][kw][channel pair][vectors of the block], an odd last channel beside a 0
void pack_weights_bf16(const PackTask& t, int64_t begin, int64_t end) {
  if (t.s_o == 1) return pack_row_pairs(t, begin, end);
  const OutBlocks blocks(t.O);
  const int64_t taps = t.kH * t.kW, depth = ceil_div(t.C, 2);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t batch = item / blocks.vectors, v = item % blocks.vectors;
    int64_t v0, v1;
    blocks.around(v, v0, v1);
    const int64_t step = (v1 - v0) * kLanes;
    const int64_t o0 = v * kLanes;
    const int n = static_cast<int>(t.O - o0 < kLanes ? t.O - o0 : kLanes);
    const bfloat16* src = reinterpret_cast<const bfloat16*>(t.src) + batch * t.src_b + o0 * t.s_o;
    float* d = t.dst + batch * t.dst_b + (taps * depth * v0 + v - v0) * kLanes;
    for (int64_t tap = 0; tap < taps; ++tap, d += depth * step) {
      const bfloat16* s = src + tap / t.kW * t.s_kh + tap % t.kW * t.s_kw;
      const int64_t whole = t.s_c == 1 ? t.C / 2 : 0;
      for (int64_t i = 0; i < whole; i += kLanes) {
        const int m = static_cast<int>(whole - i < kLanes ? whole - i : kLanes);
        vf r[kLanes];
#pragma GCC unroll 16
        for (int j = 0; j < kLanes; ++j) r[j] = j < n ? load_words(s + j * t.s_o + 2 * i, m) : zero();
        transpose(r);
#pragma GCC unroll 16
        for (int j = 0; j < kLanes; ++j)
          if (j < m) put_packed(t, d + (i + j) * step, r[j]);
      }
      for (int64_t i = whole; i < depth; ++i)
        for (int j = 0; j < kLanes; ++j) {
          const uint32_t word = j < n ? word_at(s + j * t.s_o, t.s_c, i, t.C) : 0;
          __builtin_memcpy(d + i * step + j, &word, 4);
        }
    }
  }
  if (t.shared) fence();
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
