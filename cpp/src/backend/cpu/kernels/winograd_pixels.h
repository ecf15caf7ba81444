// What it is: walks over the tiles of a Winograd convolution: which pixels of an image a tile reads, and how
// whole ranges of tiles are transformed. What it is not: the transforms (winograd_transform.h).
#pragma once
#include "backend/cpu/kernels/act.h"
#include "backend/cpu/kernels/kernel_args.h"
#include "backend/cpu/kernels/winograd_args.h"
#include "backend/cpu/kernels/winograd_planes.h"
#include "backend/cpu/kernels/winograd_transform.h"

namespace fastcnn::cpu::FASTCNN_ISA {

// The vectors of the outputs are dealt evenly to t.blocks.
struct WinogradBlock {
  int64_t v0, V;  // first vector, vectors
  FASTCNN_OP WinogradBlock(int64_t channels, int64_t blocks, int64_t b) {
    const int64_t vectors = ceil_div(channels, kLanes);
    v0 = vectors * b / blocks, V = vectors * (b + 1) / blocks - v0;
  }
};

// bfloat16 addresses travel in tasks as those of floats.
template <class T>
FASTCNN_OP const T* values(const float* p) {
  return reinterpret_cast<const T*>(p);
}

struct WinogradTile {
  int64_t n, h, w;  // image, first output row and column
  FASTCNN_OP WinogradTile(const WinogradTask& t, int64_t tile)
      : n(tile / (t.tH * t.tW)), h(tile / t.tW % t.tH * t.m), w(tile % t.tW * t.m) {}
  FASTCNN_OP void next(const WinogradTask& t) {
    if ((w += t.m) < t.m * t.tW) return;
    w = 0;
    if ((h += t.m) < t.m * t.tH) return;
    h = 0, ++n;
  }
};

// Where a tile's window of kSize x kSize pixels lies, pixels outside of the image at `zeros`. Without branches:
// which pixels are outside changes from tile to tile.
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

// An image of which every tile reads a window of pixels, from pT and pL before its place on.
template <class T>
struct WinogradImage {
  const T* p;
  int64_t H, W, C, s_n, s_h, s_w, pT, pL;
};

// Windows of tiles [first, first + count) to planes: tile i of the result goes to place at + i of `places`.
template <class Points, class T>
FASTCNN_OP void transform_tiles(const WinogradTask& t, const WinogradImage<T>& m, int64_t first, int64_t count,
                                float* u, int64_t plane, int64_t at, int64_t places) {
  constexpr int kSize = Points::kSize;
  const int64_t whole = m.C / kLanes * kLanes, block = places * kLanes;
  WinogradTile k(t, first);
  for (int64_t i = 0; i < count; ++i, k.next(t)) {
    const int64_t h0 = k.h - m.pT, w0 = k.w - m.pL;
    const T* p = m.p + k.n * m.s_n + h0 * m.s_h + w0 * m.s_w;
    float* d = u + (at + i) * kLanes;
    int64_t c = 0;
    const bool inside = h0 >= 0 && w0 >= 0 && h0 + kSize <= m.H && w0 + kSize <= m.W;
    if (inside)
      for (; c < whole; c += kLanes, d += block)
        to_planes<Points>(InsidePixels<T>{p + c, m.s_h, m.s_w}, d, plane);
    if (c == m.C) continue;
    const T* pixel[kSize * kSize];
    find_pixels<kSize>(p, m.s_h, m.s_w, h0, w0, m.H, m.W, values<T>(t.zeros), pixel);
    for (; c < m.C; c += kLanes, d += block)
      to_planes<Points>(AnyPixels<T>{pixel, c, lanes_left(m.C, c), kSize}, d, plane);
  }
}

// A window of one vector of channels, normalised, that the transform reads more than once.
struct HeldPixels {
  const float* p;
  FASTCNN_OP vf operator()(int i, int j) const { return load(p + (i * 6 + j) * kLanes); }
};

template <Act A>
static void transform_normalised_tiles(const WinogradTask& t, int64_t first, int64_t count, float* u,
                                       int64_t plane, int64_t at, int64_t places) {
  alignas(64) float held[36 * kLanes];
  WinogradTile k(t, first);
  for (int64_t i = 0; i < count; ++i, k.next(t)) {
    const int64_t h0 = k.h - t.pT, w0 = k.w - t.pL;
    const float *p = t.x + k.n * t.x_n + h0 * t.x_h + w0 * t.x_w, *pixel[36];
    const bool inside = h0 >= 0 && w0 >= 0 && h0 + 6 <= t.H && w0 + 6 <= t.W;
    find_pixels<6>(p, t.x_h, t.x_w, h0, w0, t.H, t.W, t.zeros, pixel);
    float* d = u + (at + i) * kLanes;
    for (int64_t c = 0; c < t.C; c += kLanes, d += places * kLanes) {
      const int n = lanes_left(t.C, c);
      const vf m = loadn(t.norm.mean + c, n), a = loadn(t.norm.scale + c, n), b = loadn(t.norm.shift + c, n);
      for (int j = 0; j < 36; ++j) {
        const vf x = n == kLanes ? load(pixel[j] + c) : loadn(pixel[j] + c, n);
        const vf y = act_fwd<A>(fma(sub(x, m), a, b), 0, 0);
        store(held + j * kLanes, inside || pixel[j] != t.zeros ? y : zero());  // padding lies behind the norm
      }
      to_planes<DataPoints>(HeldPixels{held}, d, plane);
    }
  }
}

template <class T>
FASTCNN_OP WinogradImage<T> input_image(const WinogradTask& t) {
  return WinogradImage<T>{values<T>(t.x), t.H, t.W, t.C, t.x_n, t.x_h, t.x_w, t.pT, t.pL};
}

// Windows of the input, read through the norm where there is one.
template <class T>
FASTCNN_OP void transform_input(const WinogradTask& t, int64_t first, int64_t count, float* u, int64_t plane,
                                int64_t at, int64_t places) {
  if (!t.norm.on) return transform_tiles<DataPoints>(t, input_image<T>(t), first, count, u, plane, at, places);
  switch (t.norm.act) {
    case Act::relu: return transform_normalised_tiles<Act::relu>(t, first, count, u, plane, at, places);
    case Act::relu6: return transform_normalised_tiles<Act::relu6>(t, first, count, u, plane, at, places);
    default: return transform_normalised_tiles<Act::none>(t, first, count, u, plane, at, places);
  }
}

template <class T>
FASTCNN_OP WinogradImage<T> gradient_image(const WinogradTask& t) {
  return WinogradImage<T>{values<T>(t.dy), t.oH, t.oW, t.O, t.y_n, t.y_h, t.y_w, 0, 0};
}
template <class T>
FASTCNN_OP WinogradImage<T> output_image(const WinogradTask& t) {
  return WinogradImage<T>{values<T>(t.y), t.oH, t.oW, t.O, t.y_n, t.y_h, t.y_w, 0, 0};
}

// Tiles of dy.
template <class T>
FASTCNN_OP void transform_gradient(const WinogradTask& t, int64_t first, int64_t count, float* e, int64_t plane,
                                   int64_t at, int64_t places) {
  if (t.m == 4)
    transform_tiles<OutputPoints<4>>(t, gradient_image<T>(t), first, count, e, plane, at, places);
  else
    transform_tiles<OutputPoints<2>>(t, gradient_image<T>(t), first, count, e, plane, at, places);
}

// Asks for the m x m pixels of tiles [begin, end) of an image that no other tile has in the middle of its window, so
// that memory works while the cores multiply: what the transforms touch next lies in the second-level cache then.
template <class T>
FASTCNN_OP void fetch_tiles(const WinogradTask& t, const WinogradImage<T>& m, int64_t begin, int64_t end) {
  WinogradTile k(t, begin);
  for (int64_t i = begin; i < end; ++i, k.next(t)) {
    const int64_t margin = (6 - t.m) / 2;
    const int64_t h0 = k.h - m.pT + (m.pT < margin ? m.pT : margin),
                  w0 = k.w - m.pL + (m.pL < margin ? m.pL : margin);
    for (int64_t h = h0 < 0 ? 0 : h0; h < h0 + t.m && h < m.H; ++h)
      for (int64_t w = w0 < 0 ? 0 : w0; w < w0 + t.m && w < m.W; ++w) {
        const char* p = reinterpret_cast<const char*>(m.p + k.n * m.s_n + h * m.s_h + w * m.s_w);
        for (int64_t b = 0; b < m.C * static_cast<int64_t>(sizeof(T)); b += 64) __builtin_prefetch(p + b, 0, 2);
      }
  }
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
