// What it is: float32 windows of few numbers (one pixel with few channels, 3x3 of an image): all outputs of a few
// pixels before the next ones, so that results, which are the traffic there, leave in the order of memory. The
// order of each sum is that of gemm_tile.h. What it is not: for tiles that take sums or residuals, or end in part
// of two vectors.
#pragma once
#include "backend/cpu/kernels/gemm_tile.h"

namespace fastcnn::cpu::FASTCNN_ISA {

// Where vectors are whole lines, output blocks in turn leave as fast.
constexpr bool kAcross = kLanes == 8 && kTileV == 2;
constexpr int64_t kAcrossNumbers = 32;

struct AcrossArgs {
  const float* bias;  // or null
  Act act;
  int stream;
  int64_t rows, run;  // of a window: numbers that lie together
  int64_t outputs;    // whole blocks of two vectors
  int64_t a_row, a_step, y_step, pixels;
};

template <int P, bool kRows>  // kRows: windows of several rows; the loop around would cost the others registers
FASTCNN_OP void tile_across(const AcrossArgs& t, const float* a, const float* w, float* y) {
  const vf low = set1(t.act == Act::none ? -__builtin_inff() : 0.0f),
           high = set1(t.act == Act::relu6 ? 6.0f : __builtin_inff());
  for (int64_t o = 0; o < t.outputs; o += 2 * kLanes, y += 2 * kLanes) {
    vf acc[P][2];
    const vf b0 = t.bias ? load(t.bias + o) : zero(), b1 = t.bias ? load(t.bias + o + kLanes) : zero();
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) acc[p][0] = b0, acc[p][1] = b1;
    const float* row = a;
    for (int64_t r = 0; r < (kRows ? t.rows : 1); ++r, row += kRows ? t.a_row : 0)
      for (int64_t c = 0; c < t.run; ++c, w += 2 * kLanes) {
        const vf w0 = load(w), w1 = load(w + kLanes);
#pragma GCC unroll 8
        for (int p = 0; p < P; ++p) {
          const vf s = set1(row[p * t.a_step + c]);
          acc[p][0] = fma(s, w0, acc[p][0]), acc[p][1] = fma(s, w1, acc[p][1]);
        }
      }
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p)
      for (int v = 0; v < 2; ++v) {
        const vf r = vmin(high, vmax(low, acc[p][v]));
        t.stream ? stream(y + p * t.y_step + v * kLanes, r) : store(y + p * t.y_step + v * kLanes, r);
      }
  }
}

// A row of pixels. Where fewer are left than a tile takes, some are made again.
template <bool kRows>
static void row_across(const AcrossArgs& t, const float* a, const float* w, float* y) {
  constexpr int P = 6;
  int64_t i = 0;
  for (; i + P <= t.pixels; i += P) tile_across<P, kRows>(t, a + i * t.a_step, w, y + i * t.y_step);
  if (i < t.pixels && t.pixels >= P) {
    i = t.pixels - P;
    return tile_across<P, kRows>(t, a + i * t.a_step, w, y + i * t.y_step);
  }
  for (; i < t.pixels; ++i) tile_across<1, kRows>(t, a + i * t.a_step, w, y + i * t.y_step);
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
