// What it is: the transforms of F(2x2, 3x3) in whole numbers: of data, 16 bits, and of sums, 32 bits, with the
// step back to bytes. What it is not: the products between them (quantized_conv2d.cpp).
#include "backend/cpu/kernels/requantize.h"

namespace fastcnn::cpu::FASTCNN_ISA {
namespace {

typedef int16_t vs_unaligned __attribute__((vector_size(kBytes), aligned(1), may_alias));
FASTCNN_OP vs load_short(const int16_t* p) { return *reinterpret_cast<const vs_unaligned*>(p); }
FASTCNN_OP void store_short(int16_t* p, vs a) { *reinterpret_cast<vs_unaligned*>(p) = a; }

// B^T d B of 4x4 pixels, a vector of channels.
FASTCNN_OP void transform_data(const int16_t* x, int64_t row, int64_t pixel, int16_t* v, int64_t position) {
  vs d[4][4];
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const vs a = load_short(x + j * pixel), b = load_short(x + row + j * pixel);
    const vs c = load_short(x + 2 * row + j * pixel), e = load_short(x + 3 * row + j * pixel);
    d[0][j] = a - c, d[1][j] = b + c, d[2][j] = c - b, d[3][j] = b - e;
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    store_short(v + (4 * i) * position, d[i][0] - d[i][2]);
    store_short(v + (4 * i + 1) * position, d[i][1] + d[i][2]);
    store_short(v + (4 * i + 2) * position, d[i][2] - d[i][1]);
    store_short(v + (4 * i + 3) * position, d[i][1] - d[i][3]);
  }
}

// A^T m A / 4 + start of one tile: 2x2 sums.
FASTCNN_OP void transform_sums(const int32_t* m, int64_t position, vi start, vi out[4]) {
  vi t[2][4];
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const vi a = load_int(m + j * position), b = load_int(m + (4 + j) * position);
    const vi c = load_int(m + (8 + j) * position), e = load_int(m + (12 + j) * position);
    t[0][j] = a + b + c, t[1][j] = b - c - e;
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    out[2 * i] = ((t[i][0] + t[i][1] + t[i][2]) >> 2) + start;
    out[2 * i + 1] = ((t[i][1] - t[i][2] - t[i][3]) >> 2) + start;
  }
}

// V vectors of one tile, of which the last has `tail` channels.
template <int V>
void finish_tile(const QuantizedWinogradTask& t, const int32_t* m, int64_t position, int64_t c, int tail,
                 int64_t oh, int64_t ow) {
  vi sums[V][4];
#pragma GCC unroll 2
  for (int v = 0; v < V; ++v)
    transform_sums(m + c + v * kLanes, position, load_int(t.start + c + v * kLanes), sums[v]);
  const auto least = static_cast<uint8_t>(__builtin_rintf(t.out.low));
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const int64_t h = oh + i / 2, w = ow + i % 2;
    if (h >= t.oH || w >= t.oW) continue;
    const int64_t y = (h * t.oW + w) * t.O + t.channel + c;
    vi bytes[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v)
      bytes[v] = requantized(t.out, sums[v][i], load(t.out.multiplier + c + v * kLanes),
                             load(t.out.offset + c + v * kLanes), t.y, y + v * kLanes, v == V - 1 ? tail : kLanes);
    if (!t.out.to_float) store_panel<V>(static_cast<uint8_t*>(t.y) + y, bytes, (V - 1) * kLanes + tail, least);
  }
}

}  // namespace

void quantized_winograd_data(const QuantizedWinogradTask& t) {
  constexpr int64_t kStep = 2 * kLanes;
  const int64_t row = t.W * t.C, position = t.rows * t.columns * t.C;
  for (int64_t i = 0; i < t.rows; ++i)
    for (int64_t j = 0; j < t.columns; ++j) {
      const int64_t tile = (i * t.columns + j) * t.C;
      const int16_t* x = t.x + (2 * i * t.W + 2 * j) * t.C;
      for (int64_t c = 0; c < t.C; c += kStep) {
        const int64_t at = c + kStep <= t.C ? c : t.C - kStep;  // the last vector overlaps the one before
        transform_data(x + at, row, t.C, t.v + tile + at, position);
      }
    }
}

void quantized_winograd_result(const QuantizedWinogradTask& t) {
  const int64_t tiles = t.rows * t.columns, position = tiles * t.width;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const int32_t* m = t.sums + tile * t.width;
    const int64_t oh = t.oh + 2 * (tile / t.columns), ow = 2 * (tile % t.columns);
    int64_t c = 0;
    for (; c + 2 * kLanes <= t.channels; c += 2 * kLanes) finish_tile<2>(t, m, position, c, kLanes, oh, ow);
    for (; c < t.channels; c += kLanes) {
      const int64_t left = t.channels - c;
      finish_tile<1>(t, m, position, c, static_cast<int>(left < kLanes ? left : kLanes), oh, ow);
    }
  }
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
