// What it is: convolutions of bytes: tiles of pixels times vectors of output channels, int32 sums in registers
// over the whole depth, and the step back to bytes in the same registers. What it is not: copies of the image:
// pixels are read where they lie.
#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/requantize.h"

namespace fastcnn::cpu::FASTCNN_ISA {
namespace {

// Sums, weights and one word of x in registers.
#if defined(__AVX512F__)
constexpr int kTile = 6, kPanel = 4;
#elif defined(__AVX2__)
constexpr int kTile = 6, kPanel = 2;
#else
constexpr int kTile = 2, kPanel = 2;
#endif

struct Place {
  const char* w;
  int64_t w_block;       // bytes from one block of channels to the next
  const int32_t* start;  // these two by padded channel
  const float *multiplier, *offset;
  int64_t y;  // element of the first pixel
  int tail;   // channels of the last vector
};

// Where the windows of a part lie, which all its panels share.
struct Windows {
  const uint8_t* base[kQuantizedPixels];  // of pixels
  int count[kQuantizedPixels];            // pixels of tiles
  bool inside[kQuantizedPixels];          // of the image, their windows
};

// Where the pixels of a tile lie: at base[pixel] + shift + offsets[tap] if their windows are inside of the image;
// otherwise pointers holds all taps, pixel innermost.
struct TileWindows {
  const uint8_t* const* base;
  int64_t shift;
  int64_t offsets[kQuantizedTaps];
  const uint8_t* pointers[kQuantizedTaps * kTile];
  bool inside;
};

// From sums to results; tail: channels of the last vector.
template <int P, int V>
FASTCNN_OP void finish(const QuantizedConvTask& t, vi acc[P][V], const Place& at, const Requantize& r, int tail) {
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) {
    const vf multiplier = load(at.multiplier + v * kLanes), offset = load(at.offset + v * kLanes);
    const int n = v == V - 1 ? tail : kLanes;
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p)
      acc[p][v] = requantized(r, acc[p][v], multiplier, offset, t.y, at.y + p * t.y_pixel + v * kLanes, n);
  }
  if (r.to_float) return;
  const auto least = static_cast<uint8_t>(__builtin_rintf(r.low));
  const int n = (V - 1) * kLanes + tail;
  uint8_t* y = static_cast<uint8_t*>(t.y) + at.y;
#pragma GCC unroll 4
  for (int p = 0; p + 1 < P; p += 2, y += 2 * t.y_pixel)
    store_panels<V>(y, y + t.y_pixel, acc[p], acc[p + 1], n, least);
  if constexpr (P % 2) store_panel<V>(y, acc[P - 1], n, least);
}

template <int P, int V>
void tile(const QuantizedConvTask& t, const TileWindows& at_x, int64_t taps, const Place& at) {
  vi acc[P][V];
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) {
    const vi start = load_int(at.start + v * kLanes);
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) acc[p][v] = start;
  }
  const char* w = at.w;
  for (int64_t tap = 0; tap < taps; ++tap) {
    const uint8_t* x[P];
    if (at_x.inside) {
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) x[p] = at_x.base[p] + (at_x.offsets[tap] + at_x.shift);
    } else {
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) x[p] = at_x.pointers[tap * P + p];
    }
    for (int64_t k = 0; k < t.words; ++k) {
      vi b[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) b[v] = load_int(w + v * at.w_block);
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) {
        const vi a = broadcast_word(x[p] + 4 * k);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) acc[p][v] = dot(acc[p][v], a, b[v]);
      }
      w += kBytes;
    }
  }
  const Requantize& r = t.out;
  if (r.to_sums) {
    int32_t* y = static_cast<int32_t*>(t.y) + at.y;
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) store_int(y + p * t.y_pixel + v * kLanes, acc[p][v]);
    return;
  }
  // Three copies, two of them without tests of each vector.
  if (r.to_float || at.tail < kLanes)
    finish<P, V>(t, acc, at, r, at.tail);
  else if (const uint8_t* residual = r.residual)
    finish<P, V>(t, acc, at, {r.multiplier, r.offset, residual, r.residual_multiplier, r.low, r.high, 0}, kLanes);
  else
    finish<P, V>(t, acc, at, {r.multiplier, r.offset, nullptr, 0, r.low, r.high, 0}, kLanes);
}

using TileFn = void (*)(const QuantizedConvTask&, const TileWindows&, int64_t, const Place&);

template <int P>
TileFn tile_of(int v) {
  if constexpr (kPanel == 4) {
    constexpr TileFn fn[] = {tile<P, 1>, tile<P, 2>, tile<P, 3>, tile<P, 4>};
    return fn[v - 1];
  } else {
    constexpr TileFn fn[] = {tile<P, 1>, tile<P, 2>};
    return fn[v - 1];
  }
}
TileFn tile_of(int p, int v) {
  switch (p) {
    case 1: return tile_of<1>(v);
    case 2: return tile_of<2>(v);
#if defined(__AVX2__)
    case 3: return tile_of<3>(v);
    case 4: return tile_of<4>(v);
    case 5: return tile_of<5>(v);
    case 6: return tile_of<6>(v);
#endif
  }
  return nullptr;
}

// The place of the first window of a tile, and where the next one begins.
struct Pixel {
  int64_t n, oh, ow;
  void next(const QuantizedConvTask& t) {
    if (++ow < t.oW) return;
    ow = 0;
    if (++oh == t.oH) oh = 0, ++n;
  }
};

// The taps of `count` pixels from `at` on.
void find_taps(const QuantizedConvTask& t, Pixel at, int64_t count, TileWindows& out) {
  for (int64_t p = 0; p < count; ++p, at.next(t)) {
    const int64_t h0 = at.oh * t.sH - t.pT, w0 = at.ow * t.sW - t.pL;
    const uint8_t** o = out.pointers + p;
    for (int64_t th = 0, tap = 0; th < t.taps_h; ++th) {
      const int64_t h = h0 + th * t.dH;
      const bool row = h >= 0 && h < t.H;
      for (int64_t tw = 0; tw < t.taps_w; ++tw, ++tap, o += count) {
        const int64_t w = w0 + tw * t.dW;
        *o = row && w >= 0 && w < t.W ? out.base[p] + (out.offsets[tap] + out.shift) : t.zeros;
      }
    }
  }
}

Pixel pixel_of(const QuantizedConvTask& t, int64_t i) { return {i / t.oW / t.oH, i / t.oW % t.oH, i % t.oW}; }

// Tiles [begin, end), of almost equal height.
void find_windows(const QuantizedConvTask& t, int64_t pixels, int64_t tiles, int64_t begin, int64_t end,
                  Windows& out) {
  int64_t i = pixels * begin / tiles;
  Pixel at = pixel_of(t, i);
  const uint8_t** base = out.base;
  for (int64_t k = begin; k < end; ++k) {
    bool inside = true;
    const int64_t last = pixels * (k + 1) / tiles;
    out.count[k - begin] = static_cast<int>(last - i);
    for (; i < last; ++i, at.next(t)) {
      const int64_t h0 = at.oh * t.sH - t.pT, w0 = at.ow * t.sW - t.pL;
      *base++ = t.x + at.n * t.x_n + h0 * t.x_h + w0 * t.x_w;
      inside &= h0 >= 0 && w0 >= 0 && h0 + (t.taps_h - 1) * t.dH < t.H && w0 + (t.taps_w - 1) * t.dW < t.W;
    }
    out.inside[k - begin] = inside;
  }
}

// Part i of n of what is read next.
void fetch_part(const char* p, int64_t bytes, int64_t i, int64_t n) {
  for (int64_t at = bytes * i / n / 64 * 64; at < bytes * (i + 1) / n; at += 64) __builtin_prefetch(p + at, 0, 3);
}

}  // namespace

void quantized_tile(int64_t* pixels, int64_t* vectors, int64_t* numbers) {
  *pixels = kTile, *vectors = kPanel, *numbers = kNumbers;
}

void quantized_widen(const uint8_t* x, int16_t* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = x[i];
}

void quantized_conv2d(const QuantizedConvTask& t, int64_t begin, int64_t end) {
  Windows windows;
  TileWindows some;
  for (int64_t th = 0, tap = 0; th < t.taps_h; ++th)
    for (int64_t tw = 0; tw < t.taps_w; ++tw) some.offsets[tap++] = th * t.dH * t.x_h + tw * t.dW * t.x_w;
  const int64_t taps = t.taps_h * t.taps_w, pixels = t.N * t.oH * t.oW, tiles = (pixels + t.tile - 1) / t.tile;
  const int64_t columns = t.groups * t.panels, w_block = taps * t.words * kBytes;
  for (int64_t item = begin, held = -1; item < end; ++item) {
    const int64_t part = t.pixels_first ? item / columns : item % t.parts;
    const int64_t column = t.pixels_first ? item % columns : item / t.parts;
    const int64_t group = column / t.panels, panel = column % t.panels;
    // Panels of almost equal width.
    const int64_t b0 = t.blocks * panel / t.panels, b1 = t.blocks * (panel + 1) / t.panels;
    const int64_t block = group * t.blocks + b0, channel = b0 * kLanes;
    Place at;
    at.w = static_cast<const char*>(t.w) + block * w_block, at.w_block = w_block;
    at.start = t.start + block * kLanes;
    at.multiplier = t.out.multiplier + block * kLanes, at.offset = t.out.offset + block * kLanes;
    const int64_t left = t.O - (b1 - 1) * kLanes;
    at.tail = static_cast<int>(left < kLanes ? left : kLanes);
    const int64_t first_tile = part * t.part;
    const int64_t last_tile = first_tile + t.part < tiles ? first_tile + t.part : tiles;
    if (part != held) find_windows(t, pixels, tiles, first_tile, last_tile, windows);
    held = part;
    some.shift = group * t.x_group;
    int64_t first = pixels * first_tile / tiles;
    some.base = windows.base;
    for (int64_t i = first_tile; i < last_tile; ++i) {
      const int count = windows.count[i - first_tile];
      some.inside = windows.inside[i - first_tile];
      if (!some.inside) find_taps(t, pixel_of(t, first), count, some);
      at.y = first * t.y_pixel + group * t.O + channel;
      if (t.out.to_sums)  // few tiles share a panel of Winograd's weights
        fetch_part(at.w + (b1 - b0) * w_block, (b1 - b0) * w_block, i - first_tile, last_tile - first_tile);
      tile_of(count, static_cast<int>(b1 - b0))(t, some, taps, at);
      first += count, some.base += count;
    }
  }
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
