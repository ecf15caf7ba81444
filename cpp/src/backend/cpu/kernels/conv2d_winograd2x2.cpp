// What it is: Winograd F(4x4, 2x2): windows to planes, 25 matrix products, planes to outputs, and the transpose of
// that for the gradient of the weights. What it is not: parts, groups and threads
// (backend/cpu/conv2d_winograd2x2.cpp). Sum order of one output: parts, channels; it does not depend on the plan.
#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/lanes.h"
#include "backend/cpu/kernels/winograd_planes.h"

namespace fastcnn::cpu::FASTCNN_ISA {
namespace {

FASTCNN_OP int64_t vectors_of(int64_t channels) { return ceil_div(channels, kLanes); }

struct Tile {
  int64_t n, h, w;  // image, first output row and column
  FASTCNN_OP Tile(const Winograd2x2Task& t, int64_t tile)
      : n(tile / (t.tH * t.tW)), h(tile / t.tW % t.tH * 4), w(tile % t.tW * 4) {}
};

// Channels [c, c + kLanes) of a part for V vectors of outputs from o on, to d[channel][V vectors].
void transform_weights(const Winograd2x2Task& t, int64_t part, int64_t c, int64_t o, int64_t V, float* d,
                       int64_t plane) {
  const int m = lanes_left(t.C, c);
  const int64_t tap[4] = {0, t.w_w, t.w_h, t.w_h + t.w_w};
  for (int64_t v = 0; v < V; ++v, o += kLanes, d += kLanes) {
    const int n = lanes_left(t.O, o);
    const float* src = t.w + t.w_part[part] + o * t.w_o + c * t.w_c;
    alignas(64) float taps[4][kLanes][kLanes];  // used where outputs are not contiguous
    if (t.w_o != 1)
      for (int i = 0; i < 4; ++i) {
        vf r[kLanes];
#pragma GCC unroll 16
        for (int j = 0; j < kLanes; ++j) r[j] = j < n ? loadn(src + tap[i] + j * t.w_o, m) : zero();
        transpose(r);
#pragma GCC unroll 16
        for (int j = 0; j < kLanes; ++j) store(taps[i][j], r[j]);
      }
    for (int j = 0; j < kLanes; ++j) {
      vf g[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i)
        g[i] = t.w_o != 1 ? load(taps[i][j]) : j < m ? loadn(src + tap[i] + j * t.w_c, n) : zero();
      to_planes<WeightPoints<FivePoints, 2>>([&](int h, int w) { return g[h * 2 + w]; }, d + j * V * kLanes,
                                             plane);
    }
  }
}

// Planes of tiles [first, first + count) to outputs, V vectors from o on.
void finish_tiles(const Winograd2x2Task& t, const float* m, int64_t plane, int64_t first, int64_t count, int64_t o,
                  int64_t V) {
  const Epilogue<float> epilogue{t.act, t.residual, t.y, t.y_h, t.y_w};
  for (int64_t v = 0; v < V; ++v) {
    const int64_t c = o + v * kLanes;
    const int n = lanes_left(t.O, c);
    const vf bias = t.bias ? loadn(t.bias + c, n) : zero();
    for (int64_t i = 0; i < count; ++i) {
      const Tile k(t, first + i);
      const float* s = m + (i * V + v) * kLanes;
      vf y[4][4];
      from_planes<OutputPoints<FivePoints, 4>>([&](int h, int w) { return load(s + (h * 5 + w) * plane); }, y);
      epilogue.finish(y, bias, k.n * t.y_n + k.h * t.y_h + k.w * t.y_w + c, t.oH - k.h < 4 ? t.oH - k.h : 4,
                      t.oW - k.w < 4 ? t.oW - k.w : 4, n);
    }
  }
}

}  // namespace

template <class Points>
static void input(const Winograd2x2Task& t, int64_t begin, int64_t end) {
  const int64_t block = t.places * kLanes;
  for (int64_t i = begin; i < end; ++i) {
    const Tile k(t, t.tile0 + i);
    for (int64_t q = 0; q < t.parts; ++q)
      transform_window<Points>(t.x + k.n * t.x_n, t.H, t.W, t.C, t.x_h, t.x_w, t.step, t.h0[q] + t.step * k.h,
                               t.w0[q] + t.step * k.w, t.zeros, t.u + q * vectors_of(t.C) * block + i * kLanes,
                               block, t.u_plane);
  }
}

template <class Points>
static void gradient(const Winograd2x2Task& t, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    const Tile k(t, t.tile0 + i);
    transform_window<Points>(t.dy + k.n * t.y_n, t.oH, t.oW, t.O, t.y_h, t.y_w, 1, k.h, k.w, t.zeros,
                             t.e + i * kLanes, t.places * kLanes, t.e_plane);
  }
}

// Windows of x, and tiles of dy, to planes.
void winograd2x2_input(const Winograd2x2Task& t, int64_t begin, int64_t end) {
  using Points = DataPoints<FivePoints>;
  if (!kWholeLines || !t.shared) return input<Points>(t, begin, end);
  input<Shared<Points>>(t, begin, end);
  fence();
}
void winograd2x2_gradient(const Winograd2x2Task& t, int64_t begin, int64_t end) {
  using Points = OutputPoints<FivePoints, 4>;
  if (!kWholeLines || !t.shared) return gradient<Points>(t, begin, end);
  gradient<Shared<Points>>(t, begin, end);
  fence();
}

// The weights of a block are transformed where they are used and never leave the cache of the thread.
void winograd2x2_blocks(const Winograd2x2Task& t, float* scratch, int64_t begin, int64_t end) {
  const int64_t vectors = vectors_of(t.O), in = vectors_of(t.C), all = t.parts * in, depth = t.depth / kLanes;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t j = item / t.groups, g = item % t.groups;
    const int64_t v0 = vectors * j / t.blocks, V = vectors * (j + 1) / t.blocks - v0;
    const int64_t first = t.tiles * g / t.groups, count = t.tiles * (g + 1) / t.groups - first;
    const int64_t w_plane = winograd_plane(t.depth * V * kLanes), m_plane = winograd_plane(count * V * kLanes);
    float* m = scratch + 25 * w_plane;
    const EvenParts tiles = plane_parts(count, V);
    const bool fresh = t.shared && j == begin / t.groups;  // windows that this thread has not read yet
    for (int64_t b = 0; b < all; b += depth) {
      const int64_t n = all - b < depth ? all - b : depth;
      for (int64_t i = 0; i < n; ++i)
        transform_weights(t, (b + i) / in, (b + i) % in * kLanes, v0 * kLanes, V,
                          scratch + i * kLanes * V * kLanes, w_plane);
      for (int64_t i = 0; i < 25; ++i)
        multiply_plane(t.u + i * t.u_plane + (b * t.places + first) * kLanes, t.places * kLanes, tiles, n * kLanes,
                       scratch + i * w_plane, V, m + i * m_plane, b == 0, fresh && i < 24 ? t.u_plane : 0);
    }
    finish_tiles(t, m, m_plane, t.tile0 + first, count, v0 * kLanes, V);
  }
}

// Sums over all transformed tiles are made in registers and turned to dw while they are in cache. `depth` outputs
// at a time; blocks are of vectors of input channels.
void winograd2x2_gradient_blocks(const Winograd2x2Task& t, float* scratch, int64_t begin, int64_t end) {
  const int64_t in = vectors_of(t.C), vectors = t.parts * in, ranges = ceil_div(t.O, t.depth);
  const int64_t tap[4] = {0, t.w_w, t.w_h, t.w_h + t.w_w}, *part = t.w_part;
  // Other threads have read what lay at dw: past the caches, where its vectors are lines.
  const int64_t steps = t.w_o | t.w_w | t.w_h | part[0] | part[1] | part[2] | part[3];
  const bool lines = (reinterpret_cast<uintptr_t>(t.dw) | static_cast<uintptr_t>(steps * 4)) % 64 == 0;
  const bool past = kWholeLines && t.shared && !t.add && lines;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t o0 = item % ranges * t.depth, on = t.O - o0 < t.depth ? t.O - o0 : t.depth, j = item / ranges;
    const int64_t v0 = vectors * j / t.blocks, V = vectors * (j + 1) / t.blocks - v0;
    const int64_t plane = winograd_plane(vectors_of(on) * kLanes * V * kLanes);
    const bool first_e = t.shared && j == begin / ranges, first_u = t.shared && (o0 == 0 || item == begin);
    for (int64_t i = 0; i < 25; ++i)
      sum_plane(t.e + i * t.e_plane, t.u + i * t.u_plane + v0 * t.places * kLanes, t.places, t.tiles, V, o0, on,
                scratch + i * plane, 1, first_e && i < 24 ? t.e_plane : 0, first_u && i < 24 ? t.u_plane : 0);
    for (int64_t o = 0; o < on; ++o)
      for (int64_t v = 0; v < V; ++v) {
        const float* s = scratch + (o * V + v) * kLanes;
        const int64_t c = (v0 + v) % in * kLanes;
        const int n = lanes_left(t.C, c);
        vf g[2][2];
        from_planes<WeightPoints<FivePoints, 2>>([&](int h, int w) { return load(s + (h * 5 + w) * plane); }, g);
        float* d = t.dw + t.w_part[(v0 + v) / in] + (o0 + o) * t.w_o + c;
#pragma GCC unroll 2
        for (int h = 0; h < 2; ++h)
#pragma GCC unroll 2
          for (int w = 0; w < 2; ++w) {
            float* at = d + tap[h * 2 + w];
            put(at, t.add ? add(loadn(at, n), g[h][w]) : g[h][w], n, past);
          }
      }
  }
  if (past) fence();
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
