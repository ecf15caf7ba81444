// What it is: Winograd F(4x4, 2x2) for the points +-1/2, +-5/4, infinity, whose rounding errors are a third of
// those of 0, +-1, 2: windows to planes, 25 matrix products, planes to outputs, and the transpose of that for the
// gradient of the weights. What it is not: parts, groups and threads (backend/cpu/conv2d_winograd2x2.cpp). Sum
// order of one output: parts, channels; it does not depend on the plan. With M(x) = (x^2 - a^2) (x^2 - b^2), a row
// of the data transform is M / (x - point), a row of the weight transform (1, point) / M'(point), a column of the
// output transform (1, point, point^2, point^3).
#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/winograd_planes.h"

namespace fastcnn::cpu::FASTCNN_ISA {
namespace {

FASTCNN_OP int64_t vectors_of(int64_t channels) { return ceil_div(channels, kLanes); }

// ---- one-dimensional transforms; point i is a, -a, b, -b, infinity ----

constexpr float kA = 0.5f, kB = 1.25f, kA2 = kA * kA, kB2 = kB * kB;
constexpr float kDA = 2 * kA * (kA2 - kB2), kDB = 2 * kB * (kB2 - kA2);  // M' at a and b; at -a and -b negative

FASTCNN_OP vf data_point(int i, vf d0, vf d1, vf d2, vf d3, vf d4) {
  if (i == 4) return fma(set1(kA2 * kB2), d0, fnma(set1(kA2 + kB2), d2, d4));
  const vf other = set1(i < 2 ? kB2 : kA2), odd = fnma(other, d1, d3), even = fnma(other, d0, d2);
  return i % 2 == 0 ? fma(set1(i < 2 ? kA : kB), even, odd) : fnma(set1(i < 2 ? kA : kB), even, odd);
}
FASTCNN_OP vf gradient_point(int i, vf e0, vf e1, vf e2, vf e3) {
  if (i == 4) return e3;
  const vf p = set1(i < 2 ? kA : kB), p2 = set1(i < 2 ? kA2 : kB2), even = fma(p2, e2, e0), odd = fma(p2, e3, e1);
  return i % 2 == 0 ? fma(p, odd, even) : fnma(p, odd, even);
}
FASTCNN_OP vf weight_point(int i, vf g0, vf g1) {
  if (i == 4) return g1;
  const float d = i < 2 ? kDA : kDB, p = i < 2 ? kA : kB;
  return fma(set1(p / d), g1, mul(set1(i % 2 == 0 ? 1 / d : -1 / d), g0));
}
FASTCNN_OP void weight_gradient(const vf* t, vf* g) {
  g[0] = fma(set1(1 / kDB), sub(t[2], t[3]), mul(set1(1 / kDA), sub(t[0], t[1])));
  g[1] = fma(set1(kB / kDB), add(t[2], t[3]), fma(set1(kA / kDA), add(t[0], t[1]), t[4]));
}
FASTCNN_OP void output_points(const vf* m, vf* y) {
  const vf s1 = add(m[0], m[1]), d1 = sub(m[0], m[1]), s2 = add(m[2], m[3]), d2 = sub(m[2], m[3]);
  y[0] = add(s1, s2);
  y[1] = fma(set1(kB), d2, mul(set1(kA), d1));
  y[2] = fma(set1(kB2), s2, mul(set1(kA2), s1));
  y[3] = fma(set1(kB2 * kB), d2, fma(set1(kA2 * kA), d1, m[4]));
}

// ---- windows to planes ----

// Rows of the result one after the other: pixels are loaded again from L1 instead of spilled.
template <class Pixels>
FASTCNN_OP void data_transform(const Pixels& at, float* u, int64_t plane) {
#pragma GCC unroll 5
  for (int i = 0; i < 5; ++i) {
    vf r[5];
#pragma GCC unroll 5
    for (int j = 0; j < 5; ++j) {
      const vf none = zero();
      r[j] = data_point(i, at(0, j), i < 4 ? at(1, j) : none, at(2, j), i < 4 ? at(3, j) : none,
                        i == 4 ? at(4, j) : none);
    }
#pragma GCC unroll 5
    for (int j = 0; j < 5; ++j) store(u + (i * 5 + j) * plane, data_point(j, r[0], r[1], r[2], r[3], r[4]));
  }
}
template <class Pixels>
FASTCNN_OP void gradient_transform(const Pixels& at, float* u, int64_t plane) {
#pragma GCC unroll 5
  for (int i = 0; i < 5; ++i) {
    vf r[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const vf none = zero();
      r[j] =
          gradient_point(i, i < 4 ? at(0, j) : none, i < 4 ? at(1, j) : none, i < 4 ? at(2, j) : none, at(3, j));
    }
#pragma GCC unroll 5
    for (int j = 0; j < 5; ++j) store(u + (i * 5 + j) * plane, gradient_point(j, r[0], r[1], r[2], r[3]));
  }
}

struct Tile {
  int64_t n, h, w;  // image, first output row and column
  FASTCNN_OP Tile(const Winograd2x2Task& t, int64_t tile)
      : n(tile / (t.tH * t.tW)), h(tile / t.tW % t.tH * 4), w(tile % t.tW * 4) {}
};

// kSize x kSize pixels from (h, w) on, `step` apart, of one image of H x W x C, to place `d` of a plane.
template <int kSize>
FASTCNN_OP void transform_window(const float* image, int64_t H, int64_t W, int64_t C, int64_t s_h, int64_t s_w,
                                 int64_t step, int64_t h, int64_t w, const float* zeros, float* d, int64_t block,
                                 int64_t plane) {
  const float* p = image + h * s_h + w * s_w;
  const int64_t whole = C / kLanes * kLanes, reach = (kSize - 1) * step;
  int64_t c = 0;
  if (h >= 0 && w >= 0 && h + reach < H && w + reach < W)
    for (; c < whole; c += kLanes, d += block) {
      const InsidePixels<float> pixels{p + c, step * s_h, step * s_w};
      if constexpr (kSize == 5)
        data_transform(pixels, d, plane);
      else
        gradient_transform(pixels, d, plane);
    }
  if (c == C) return;
  const float* pixel[25];
  for (int64_t i = 0; i < kSize; ++i)
    for (int64_t j = 0; j < kSize; ++j) {
      const int64_t r = h + i * step, q = w + j * step;
      pixel[i * 5 + j] = r >= 0 && r < H && q >= 0 && q < W ? image + r * s_h + q * s_w : zeros;
    }
  for (; c < C; c += kLanes, d += block) {
    const AnyPixels<float> pixels{pixel, c, lanes_left(C, c), 5};
    if constexpr (kSize == 5)
      data_transform(pixels, d, plane);
    else
      gradient_transform(pixels, d, plane);
  }
}

// ---- weights and outputs ----

FASTCNN_OP void weight_transform(const vf* g, float* d, int64_t plane) {  // g: 4 taps, row by row
#pragma GCC unroll 5
  for (int i = 0; i < 5; ++i) {
    const vf a = weight_point(i, g[0], g[2]), b = weight_point(i, g[1], g[3]);
#pragma GCC unroll 5
    for (int j = 0; j < 5; ++j) store(d + (i * 5 + j) * plane, weight_point(j, a, b));
  }
}

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
      weight_transform(g, d + j * V * kLanes, plane);
    }
  }
}

// Planes of tiles [first, first + count), V vectors of outputs from o on; bias, residual, activation as in
// gemm_tile.h.
void finish_tiles(const Winograd2x2Task& t, const float* m, int64_t plane, int64_t first, int64_t count, int64_t o,
                  int64_t V) {
  const vf low = set1(t.act == Act::none ? -__builtin_inff() : 0.0f),
           high = set1(t.act == Act::relu6 ? 6.0f : __builtin_inff());
  for (int64_t i = 0; i < count; ++i) {
    const Tile k(t, first + i);
    const int64_t rows = t.oH - k.h < 4 ? t.oH - k.h : 4, columns = t.oW - k.w < 4 ? t.oW - k.w : 4;
    for (int64_t v = 0; v < V; ++v) {
      const int64_t c = o + v * kLanes, offset = k.n * t.y_n + k.h * t.y_h + k.w * t.y_w + c;
      const int n = lanes_left(t.O, c);
      const float* s = m + (i * V + v) * kLanes;
      vf a[4][5];
#pragma GCC unroll 5
      for (int j = 0; j < 5; ++j) {
        vf r[5], y[4];
#pragma GCC unroll 5
        for (int h = 0; h < 5; ++h) r[h] = load(s + (h * 5 + j) * plane);
        output_points(r, y);
#pragma GCC unroll 4
        for (int h = 0; h < 4; ++h) a[h][j] = y[h];
      }
      const vf bias = t.bias ? loadn(t.bias + c, n) : zero();
#pragma GCC unroll 4
      for (int h = 0; h < 4; ++h) {
        if (h >= rows) continue;
        vf y[4];
        output_points(a[h], y);
#pragma GCC unroll 4
        for (int w = 0; w < 4; ++w) {
          if (w >= columns) continue;
          const int64_t at = offset + h * t.y_h + w * t.y_w;
          vf r = add(y[w], bias);
          if (t.residual) r = add(r, loadn(t.residual + at, n));
          r = vmin(high, vmax(low, r));
          if (n == kLanes)
            store(t.y + at, r);
          else
            storen(t.y + at, r, n);
        }
      }
    }
  }
}

}  // namespace

void winograd2x2_input(const Winograd2x2Task& t, int64_t begin, int64_t end) {
  const int64_t block = t.places * kLanes;
  for (int64_t i = begin; i < end; ++i) {
    const Tile k(t, t.tile0 + i);
    for (int64_t q = 0; q < t.parts; ++q)
      transform_window<5>(t.x + k.n * t.x_n, t.H, t.W, t.C, t.x_h, t.x_w, t.step, t.h0[q] + t.step * k.h,
                          t.w0[q] + t.step * k.w, t.zeros, t.u + q * vectors_of(t.C) * block + i * kLanes, block,
                          t.u_plane);
  }
}

void winograd2x2_gradient(const Winograd2x2Task& t, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    const Tile k(t, t.tile0 + i);
    transform_window<4>(t.dy + k.n * t.y_n, t.oH, t.oW, t.O, t.y_h, t.y_w, 1, k.h, k.w, t.zeros, t.e + i * kLanes,
                        t.places * kLanes, t.e_plane);
  }
}

// The weights of a block are transformed where they are used and never leave the cache of the thread.
void winograd2x2_blocks(const Winograd2x2Task& t, float* scratch, int64_t begin, int64_t end) {
  const int64_t vectors = vectors_of(t.O), in = vectors_of(t.C), all = t.parts * in, depth = t.depth / kLanes;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t j = item / t.groups, g = item % t.groups;
    const int64_t v0 = vectors * j / t.blocks, V = vectors * (j + 1) / t.blocks - v0;
    const int64_t first = t.tiles * g / t.groups, count = t.tiles * (g + 1) / t.groups - first;
    const int64_t w_plane = winograd_plane(t.depth * V * kLanes),
                  m_plane = winograd_plane(count * V * kLanes);
    float* m = scratch + 25 * w_plane;
    for (int64_t b = 0; b < all; b += depth) {
      const int64_t n = all - b < depth ? all - b : depth;
      for (int64_t i = 0; i < n; ++i)
        transform_weights(t, (b + i) / in, (b + i) % in * kLanes, v0 * kLanes, V,
                          scratch + i * kLanes * V * kLanes, w_plane);
      for (int64_t i = 0; i < 25; ++i)
        multiply_plane(t.u + i * t.u_plane + (b * t.places + first) * kLanes, t.places * kLanes, count, n * kLanes,
                       scratch + i * w_plane, V, m + i * m_plane, b == 0);
    }
    finish_tiles(t, m, m_plane, t.tile0 + first, count, v0 * kLanes, V);
  }
}

// Sums over all transformed tiles are made in registers and turned to dw while they are in cache. `depth` outputs
// at a time; blocks are of vectors of input channels.
void winograd2x2_gradient_blocks(const Winograd2x2Task& t, float* scratch, int64_t begin, int64_t end) {
  const int64_t in = vectors_of(t.C), vectors = t.parts * in, ranges = ceil_div(t.O, t.depth);
  const int64_t tap[4] = {0, t.w_w, t.w_h, t.w_h + t.w_w};
  for (int64_t item = begin; item < end; ++item) {
    const int64_t o0 = item % ranges * t.depth, on = t.O - o0 < t.depth ? t.O - o0 : t.depth, j = item / ranges;
    const int64_t v0 = vectors * j / t.blocks, V = vectors * (j + 1) / t.blocks - v0;
    const int64_t plane = winograd_plane(vectors_of(on) * kLanes * V * kLanes);
    for (int64_t i = 0; i < 25; ++i)
      sum_plane(t.e + i * t.e_plane, t.u + i * t.u_plane + v0 * t.places * kLanes, t.places, t.tiles, V, o0, on,
                scratch + i * plane, 1);
    for (int64_t o = 0; o < on; ++o)
      for (int64_t v = 0; v < V; ++v) {
        const float* s = scratch + (o * V + v) * kLanes;
        const int64_t c = (v0 + v) % in * kLanes;
        const int n = lanes_left(t.C, c);
        vf a[5][2];
#pragma GCC unroll 5
        for (int h = 0; h < 5; ++h) {
          vf r[5];
#pragma GCC unroll 5
          for (int w = 0; w < 5; ++w) r[w] = load(s + (h * 5 + w) * plane);
          weight_gradient(r, a[h]);
        }
        float* d = t.dw + t.w_part[(v0 + v) / in] + (o0 + o) * t.w_o + c;
#pragma GCC unroll 2
        for (int w = 0; w < 2; ++w) {
          const vf r[5] = {a[0][w], a[1][w], a[2][w], a[3][w], a[4][w]};
          vf g[2];
          weight_gradient(r, g);
#pragma GCC unroll 2
          for (int h = 0; h < 2; ++h) {
            float* at = d + tap[h * 2 + w];
            storen(at, t.add ? add(loadn(at, n), g[h]) : g[h], n);
          }
        }
      }
  }
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
