// What it is: convolutions with few outputs: lanes hold neighbouring inputs of a window, which lie side by side,
// and a tile of P pixels x Q outputs keeps a vector of partial sums for each result. What it is not: for outputs
// that fill half a vector (gemm.cpp keeps them in lanes), or a choice between the two
// (backend/cpu/conv2d_few_outputs.cpp). Sum order of one output: rows of the window, runs, vectors of a run in
// each lane, then the lanes; it does not depend on tiles or threads.
#include "backend/cpu/kernels/act_pixels.h"
#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/simd.h"

namespace fastcnn::cpu::FASTCNN_ISA {
namespace {

constexpr int kMostOutputs = kLanes / 2 < 4 ? kLanes / 2 : 4;  // of a tile; more fill half a vector or are blocks
constexpr int tile_width(int Q) { return kVectorRegs == 32 ? (Q == 4 ? 6 : 8) : Q == 1 ? 8 : Q == 4 ? 2 : 4; }

// What P pixels have in common: the taps of their windows that lie in the image, as rows of runs of floats.
struct Window {
  const float *x, *w;       // of the first pixel and output
  int64_t rows, runs, run;  // run: floats
  int64_t x_row, x_run;     // steps of x
  int64_t w_row, w_run;     // steps of the weights
  int64_t x_pixel, w_o;
};

// The sums of P pixels and Q outputs, lane by lane, to `sums`.
template <int P, int Q>
void add_products(const Window& t, float* sums) {
  vf acc[P][Q];
#pragma GCC unroll 8
  for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
    for (int q = 0; q < Q; ++q) acc[p][q] = zero();
  for (int64_t r = 0; r < t.rows; ++r)
    for (int64_t i = 0; i < t.runs; ++i) {
      const float *x = t.x + r * t.x_row + i * t.x_run, *w = t.w + r * t.w_row + i * t.w_run;
      const auto add_vector = [&](const auto& read) __attribute__((always_inline)) {
        vf b[Q];
#pragma GCC unroll 4
        for (int q = 0; q < Q; ++q) b[q] = read(w + q * t.w_o);
#pragma GCC unroll 8
        for (int p = 0; p < P; ++p) {
          const vf a = read(x + p * t.x_pixel);
#pragma GCC unroll 4
          for (int q = 0; q < Q; ++q) acc[p][q] = fma(a, b[q], acc[p][q]);
        }
      };
      int64_t k = t.run;
      for (; k >= kLanes; k -= kLanes, x += kLanes, w += kLanes)
        add_vector([](const float* from) __attribute__((always_inline)) { return load(from); });
      const int n = static_cast<int>(k);
      if (n > 0) add_vector([n](const float* from) __attribute__((always_inline)) { return loadn(from, n); });
    }
#pragma GCC unroll 8
  for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
    for (int q = 0; q < Q; ++q) store(sums + (p * Q + q) * kLanes, acc[p][q]);
}

// Pixels [skip, P), Q outputs: bias, residual and activation as in gemm_tile.h.
void finish(const GemmTask& t, const float* sums, int64_t P, int64_t Q, int64_t skip, float* y,
            const float* residual, const float* bias) {
  const float high = t.act == Act::relu6 ? 6.0f : __builtin_inff();
  for (int64_t p = skip; p < P; ++p)
    for (int64_t q = 0; q < Q; ++q) {
      const int64_t i = p * t.y_w + q;
      float a = hsum(load(sums + (p * Q + q) * kLanes));
      if (bias) a += bias[q];
      if (residual) a += residual[i];
      if (t.act != Act::none) a = a < 0 ? 0 : a > high ? high : a;
      y[i] = a;
    }
}

constexpr int64_t kLargeImages = 1280 * 1024;  // floats; smaller ones come fast enough without

// Of large images the rows that the next row of outputs adds, under `pixels` windows: groups and tiles are short
// pieces of a row, too short for the hardware to run ahead.
FASTCNN_OP void fetch_below(const GemmTask& t, const float* x, int64_t pixels) {
  if (t.N * t.x_n < kLargeImages) return;
  const int64_t rows = t.sH < t.kH ? t.sH : t.kH, columns = t.sW < t.kW ? t.sW : t.kW;
  if (t.sH > t.kH) x += (t.sH - t.kH) * t.x_h;
  for (int64_t r = 0; r < rows; ++r, x += t.x_h)
    for (int64_t p = 0; p < pixels; ++p)
      for (int64_t k = 0; k < columns; ++k)
        for (int64_t c = 0; c < t.C; c += 16) __builtin_prefetch(x + (p * t.sW + k) * t.x_w + c, 0, 2);
}

struct Tiles {
  int width;  // of the widest; add[1]: half of it, add[2]: one pixel
  void (*add[3])(const Window&, float*);
};
template <int Q>
constexpr Tiles tiles_of() {
  if constexpr (Q <= kMostOutputs) {
    constexpr int P = tile_width(Q);
    return {P, {&add_products<P, Q>, &add_products<P / 2, Q>, &add_products<1, Q>}};
  }
  return {};
}
constexpr Tiles kTiles[4] = {tiles_of<1>(), tiles_of<2>(), tiles_of<3>(), tiles_of<4>()};

}  // namespace

void conv2d_few_outputs(const GemmTask& t, int64_t begin, int64_t end) {
  const int64_t blocks = ceil_div(t.O, kMostOutputs), w_o = t.kH * t.kW * t.C;
  // Pixels whose windows see every column of taps: [lo, hi).
  const int64_t reach = (t.kW - 1) * t.dW, from = ceil_div(t.pL > 0 ? t.pL : 0, t.sW),
                to = t.W - 1 - reach + t.pL < 0 ? 0 : (t.W - 1 - reach + t.pL) / t.sW + 1;
  const int64_t hi = to < t.oW ? to : t.oW, lo = from < hi ? from : hi;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t n = item / t.oH, oh = item % t.oH, ih = oh * t.sH - t.pT;
    const TapsInside rows(ih, t.kH, t.dH, t.H);
    const int64_t kh0 = rows.from, kh1 = rows.to;
    float* row = t.y + n * t.y_n + oh * t.y_h;
    const float* image = t.x + n * t.x_n + (ih + kh0 * t.dH) * t.x_h;
    for (int64_t b = 0; b < t.B * blocks; ++b) {
      const int64_t g = b / blocks, o = t.O * (b % blocks) / blocks, Q = t.O * (b % blocks + 1) / blocks - o;
      const float *x = image + g * t.x_b, *weights = t.w + (g * t.O + o) * w_o;
      const float* bias = t.bias ? t.bias + g * t.O + o : nullptr;
      float* y = row + g * t.y_b + o;
      const float* residual = t.residual ? t.residual + (y - t.y) : nullptr;
      const Tiles& tiles = kTiles[Q - 1];
      const int64_t widths[] = {tiles.width, tiles.width / 2, 1};
      Window w = {};
      w.rows = kh1 - kh0, w.x_row = t.dH * t.x_h, w.w_row = t.kW * t.C, w.x_run = t.dW * t.x_w, w.w_run = t.C;
      w.x_pixel = t.sW * t.x_w, w.w_o = w_o;
      // P pixels from ow on, taps [kw0, kw1) of a row of the window.
      const auto make = [&](int which, int64_t ow, int64_t skip, int64_t kw0, int64_t kw1) {
        const bool together = t.dW == 1 && t.x_w == t.C;
        w.runs = kw1 <= kw0 ? 0 : together ? 1 : kw1 - kw0, w.run = together ? (kw1 - kw0) * t.C : t.C;
        w.x = x + (ow * t.sW - t.pL + kw0 * t.dW) * t.x_w;
        w.w = weights + (kh0 * t.kW + kw0) * t.C;
        alignas(64) float sums[24 * kLanes];
        tiles.add[which](w, sums);
        fetch_below(t, x + (kh1 - kh0) * w.x_row + (ow * t.sW - t.pL) * t.x_w, widths[which]);
        finish(t, sums, widths[which], Q, skip, y + ow * t.y_w, residual ? residual + ow * t.y_w : nullptr, bias);
      };
      for (int64_t i = 0; i < lo + t.oW - hi; ++i) {  // on both sides of them
        const int64_t ow = i < lo ? i : hi + i - lo;
        const TapsInside columns(ow * t.sW - t.pL, t.kW, t.dW, t.W);
        make(2, ow, 0, columns.from, columns.to);
      }
      // The last tile of a row may make pixels again that it does not store.
      for (int64_t ow = lo; ow < hi;) {
        const int which = hi - lo >= widths[0] ? 0 : hi - lo >= widths[1] ? 1 : 2;
        const int64_t at = ow + widths[which] <= hi ? ow : hi - widths[which];
        make(which, at, ow - at, 0, t.kW);
        ow = at + widths[which];
      }
    }
    constexpr int64_t kRow[] = {0};
    if (t.late.act != Act::none) act_pixels(t.late, row, kRow, 1, t.oW * t.y_w);
  }
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
