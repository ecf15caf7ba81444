// What it is: Winograd F(4x4, 2x2): windows to planes, 25 matrix products, planes to outputs, and the transpose of
// that for the gradient of the weights. What it is not: parts, groups and threads
// (backend/cpu/conv2d_winograd2x2.cpp). Sum order of one output: parts, channels; it does not depend on the plan.
#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/lanes.h"
#include "backend/cpu/kernels/winograd_finish.h"

namespace fastcnn::cpu::FASTCNN_ISA {
namespace {

FASTCNN_OP int64_t vectors_of(int64_t channels) { return ceil_div(channels, kLanes); }

// Has part q products in planes of a kind? See plane_kind.
FASTCNN_OP bool meets(const Winograd2x2Task& t, int64_t q, int kind) {
  return (!(kind & 1) || t.taps_h[q] == 2) && (!(kind & 2) || t.taps_w[q] == 2);
}

// Vectors of windows [from, to) that meet the weights of an output part in planes of a kind.
struct MetVectors {
  int64_t from = 0, to = 0;
  FASTCNN_OP MetVectors(const Winograd2x2Task& t, int64_t out, int kind) {
    int64_t q = 0;
    while (q < t.parts && !meets(t, q + out, kind)) ++q;
    from = q;
    while (q < t.parts && meets(t, q + out, kind)) ++q;
    from *= vectors_of(t.C), to = q * vectors_of(t.C);
  }
};

// Channels [c, c + kLanes) of a part for V vectors of outputs from o on, to d[channel][V vectors].
template <class Points>
void transform_weights(const Winograd2x2Task& t, int64_t part, int64_t c, int64_t o, int64_t V, float* d,
                       int64_t plane) {
  const int m = lanes_left(t.C, c);
  const bool rows = t.taps_h[part] == 2, columns = t.taps_w[part] == 2;
  const bool has[4] = {true, columns, rows, rows && columns};
  const int64_t tap[4] = {0, t.w_w, t.w_h, t.w_h + t.w_w};
  for (int64_t v = 0; v < V; ++v, o += kLanes, d += kLanes) {
    const int n = lanes_left(t.O, o);
    const float* src = t.w + t.w_part[part] + o * t.w_o + c * t.w_c;
    alignas(64) float taps[4][kLanes][kLanes];  // used where outputs are not contiguous
    if (t.w_o != 1)
      for (int i = 0; i < 4; ++i) {
        if (!has[i]) continue;
        vf r[kLanes];
        for (int j = 0; j < n; ++j) prefetch(src + tap[i] + j * t.w_o + kLanes);  // many short streams
#pragma GCC unroll 16
        for (int j = 0; j < kLanes; ++j) r[j] = j < n ? loadn(src + tap[i] + j * t.w_o, m) : zero();
        transpose(r);
#pragma GCC unroll 16
        for (int j = 0; j < kLanes; ++j) store(taps[i][j], r[j]);
      }
    for (int j = 0; j < kLanes; ++j) {
      if (t.w_o == 1)
        for (int i = 0; i < 4; ++i)
          if (has[i]) prefetch(src + tap[i] + (j + 2) * t.w_c);
      vf g[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i)
        g[i] = !has[i]      ? zero()
               : t.w_o != 1 ? load(taps[i][j])
               : j < m      ? loadn(src + tap[i] + j * t.w_c, n)
                            : zero();
      to_planes<Points>([&](int h, int w) { return g[h * 2 + w]; }, d + j * V * kLanes, plane, rows, columns);
    }
  }
}

// Where the transformed weights of block j begin; blocks of all output parts are numbered together.
int64_t block_at(const Winograd2x2Task& t, int64_t j) {
  const int64_t all = t.parts * vectors_of(t.C) * kLanes * kLanes;
  int64_t at = 0;
  for (int64_t i = 0; i < j; ++i) at += 25 * winograd_plane(all * WinogradBlock(t.O, t.blocks, i % t.blocks).V);
  return at;
}

// What the tiles behind these read, and what these write, a share at a time. Of the pixels that a window shares
// with the ones around it, those in its middle.
class PixelFetch {
 public:
  FASTCNN_OP PixelFetch(const Winograd2x2Task& t, int64_t shares)
      : read_(t, {t.x, t.H, t.W, t.C, t.x_n, t.x_h, t.x_w, 0, 0}, t.tile0 + t.tiles, t.ahead, shares, 4 * t.step,
              t.step, middle(t, t.h0), middle(t, t.w0)),
        written_(t, written(t, t.outs > 1 ? 2 : 1), t.tile0, t.stream ? 0 : t.tiles, shares, t.outs > 1 ? 8 : 4,
                 t.outs > 1 ? 2 : 1, 0, 0) {}
  FASTCNN_OP void next() { read_.next(), written_.next(); }

 private:
  static FASTCNN_OP int64_t middle(const Winograd2x2Task& t, const int64_t* first) {
    return t.parts > 1 ? first[1] + 1 : first[0] + (first[0] < 0);
  }
  // Output parts lie between each other's pixels.
  static FASTCNN_OP WinogradImage<float> written(const Winograd2x2Task& t, int64_t between) {
    return {t.y, between * t.oH, between * t.oW, t.O, t.y_n, t.y_h / between, t.y_w / between, 0, 0};
  }
  TileFetch<float> read_, written_;
};

// The image that an output part is.
WinogradOutputs outputs_of(const Winograd2x2Task& t, int64_t out) {
  WinogradOutputs y = t;
  if (t.outs > 1) y.y += t.part_y[out], y.oH = t.part_oH[out], y.oW = t.part_oW[out];
  return y;
}

}  // namespace

template <class Points>
static void input(const Winograd2x2Task& t, int64_t begin, int64_t end) {
  const int64_t block = t.places * kLanes;
  WinogradTile k(t, t.tile0 + begin);
  for (int64_t i = begin; i < end; ++i, k.next(t))
    for (int64_t q = 0; q < t.parts; ++q) {
      const float* image = t.x + k.n * t.x_n;
      const int64_t h = t.h0[q] + t.step * k.h, w = t.w0[q] + t.step * k.w;
      float* u = t.u + q * vectors_of(t.C) * block + i * kLanes;
      const bool rows = t.outs > 1 || t.taps_h[q] == 2, columns = t.outs > 1 || t.taps_w[q] == 2;
      transform_held_window<Points>(image, t.norm.on ? &t.norm : nullptr, t.H, t.W, t.C, t.x_h, t.x_w, t.step, h,
                                    w, u, block, t.u_plane, rows, columns, 4 * t.step * t.x_w);
    }
}

template <class Points>
static void gradient(const Winograd2x2Task& t, int64_t begin, int64_t end) {
  WinogradTile k(t, t.tile0 + begin);
  for (int64_t i = begin; i < end; ++i, k.next(t))
    transform_held_window<Points>(t.dy + k.n * t.y_n, nullptr, k.h + k.rows, k.w + k.columns, t.O, t.y_h, t.y_w, 1,
                                  k.h, k.w, t.e + i * kLanes, t.places * kLanes, t.e_plane, true, true, 4 * t.y_w);
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

void winograd2x2_weights(const Winograd2x2Task& t, int64_t begin, int64_t end) {
  using Points = WeightPoints<FivePoints, 2>;
  const int64_t in = vectors_of(t.C), all = t.parts * in;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t j = item / all, i = item % all;
    const WinogradBlock b(t.O, t.blocks, j % t.blocks);
    float* d = t.wt + block_at(t, j) + i * kLanes * b.V * kLanes;
    const int64_t part = i / in + j / t.blocks, c = i % in * kLanes, o = b.v0 * kLanes;
    const int64_t plane = winograd_plane(all * kLanes * b.V * kLanes);
    if (kWholeLines && t.shared)
      transform_weights<Shared<Points>>(t, part, c, o, b.V, d, plane);
    else
      transform_weights<Points>(t, part, c, o, b.V, d, plane);
  }
  if (t.shared) fence();
}

// The weights of a block are transformed where they are used and never leave the cache of the thread, unless t.wt
// holds all of them.
void winograd2x2_blocks(const Winograd2x2Task& t, float* scratch, int64_t begin, int64_t end) {
  const int64_t in = vectors_of(t.C), all = t.parts * in, depth = t.wt ? all : t.depth / kLanes;
  PixelFetch fetch(t, 25 * ceil_div(all, depth) * (end - begin));
  for (int64_t item = begin; item < end; ++item) {
    const int64_t j = item / t.groups, g = item % t.groups, out = j / t.blocks;
    const WinogradBlock block(t.O, t.blocks, j % t.blocks);
    const int64_t V = block.V;
    const int64_t first = t.tiles * g / t.groups, count = t.tiles * (g + 1) / t.groups - first;
    const int64_t w_plane = winograd_plane(depth * kLanes * V * kLanes),
                  m_plane = winograd_plane(count * V * kLanes);
    const float* w = t.wt ? t.wt + block_at(t, j) : scratch;
    float* m = t.wt ? scratch : scratch + 25 * w_plane;
    const ProductParts tiles(t, t.tile0 + first, count, V);
    const MetVectors met[] = {{t, out, 0}, {t, out, 1}, {t, out, 2}, {t, out, 3}};
    for (int64_t b = 0; b < all; b += depth) {
      const int64_t n = all - b < depth ? all - b : depth;
      for (int64_t i = 0; i < n && !t.wt; ++i)
        transform_weights<WeightPoints<FivePoints, 2>>(t, (b + i) / in + out, (b + i) % in * kLanes,
                                                       block.v0 * kLanes, V, scratch + i * kLanes * V * kLanes,
                                                       w_plane);
      for (int64_t i = 0; i < 25; ++i) {
        const int kind = plane_kind<FivePoints>(i);
        fetch.next();
        const int64_t from = b < met[kind].from ? met[kind].from : b,
                      to = b + n < met[kind].to ? b + n : met[kind].to;
        if (from < to)
          multiply_tiles(tiles, kind, t.u + i * t.u_plane + (from * t.places + first) * kLanes, t.places * kLanes,
                         (to - from) * kLanes, w + i * w_plane + (from - b) * kLanes * V * kLanes, V,
                         m + i * m_plane, from == met[kind].from, !t.wt && i < 24 ? t.u_plane : 0);
      }
    }
    const bool rows = t.outs == 1 || t.taps_h[out] == 2, columns = t.outs == 1 || t.taps_w[out] == 2;
    finish_outputs<OutputPoints<FivePoints, 4>, float>(outputs_of(t, out), block.v0, V, m, m_plane,
                                                       t.tile0 + first, count, g, rows, columns);
  }
}

namespace {

// Block j of the gradient's sums: vectors of windows [v0, v0 + V), planes of `outputs` rows.
struct SumBlock {
  int64_t v0, V, plane;
  FASTCNN_OP SumBlock(const Winograd2x2Task& t, int64_t j, int64_t outputs) {
    const int64_t in = vectors_of(t.C), dealt = t.apart ? in : t.parts * in;
    const WinogradBlock block(dealt * kLanes, t.blocks, j % t.blocks);
    v0 = j / t.blocks * dealt + block.v0, V = block.V;
    plane = winograd_plane(vectors_of(outputs) * kLanes * V * kLanes);
  }
};
FASTCNN_OP int64_t sum_blocks(const Winograd2x2Task& t) { return (t.apart ? t.parts : 1) * t.blocks; }

// Planes of one block summed over tiles.
void sum_block(const Winograd2x2Task& t, const SumBlock& b, int64_t o0, int64_t on, float* s, int first,
               int64_t e_ahead, int64_t u_ahead) {
  for (int64_t i = 0; i < 25; ++i) {
    const int kind = plane_kind<FivePoints>(i);
    if (meets(t, b.v0 / vectors_of(t.C), kind))
      sum_tiles(t, t.tile0, t.tiles, kind, t.e + i * t.e_plane, t.u + i * t.u_plane + b.v0 * t.places * kLanes,
                t.places, b.V, o0, on, s + i * b.plane, first, i < 24 ? e_ahead : 0, i < 24 ? u_ahead : 0);
  }
}

// Sums of a block, at(row of planes, column of planes) of vector v, to the taps of output o.
template <class Planes>
FASTCNN_OP void finish_taps(const Winograd2x2Task& t, const SumBlock& b, const Planes& at, int64_t v, int64_t o,
                            bool past) {
  const int64_t in = vectors_of(t.C), c = (b.v0 + v) % in * kLanes, q = (b.v0 + v) / in;
  const int64_t tap[4] = {0, t.w_w, t.w_h, t.w_h + t.w_w};
  const int n = lanes_left(t.C, c);
  vf g[2][2];  // of taps that there are, no plane is missing
  from_planes<WeightPoints<FivePoints, 2>>(at, g);
  float* d = t.dw + t.w_part[q] + o * t.w_o + c;
#pragma GCC unroll 2
  for (int h = 0; h < 2; ++h)
#pragma GCC unroll 2
    for (int w = 0; w < 2; ++w) {
      if (h >= t.taps_h[q] || w >= t.taps_w[q]) continue;
      float* to = d + tap[h * 2 + w];
      put(to, t.add ? add(loadn(to, n), g[h][w]) : g[h][w], n, past);
    }
}

}  // namespace

// Sums over all transformed tiles are made in registers and turned to dw while they are in cache. `depth` outputs
// at a time; blocks are of vectors of input channels.
void winograd2x2_gradient_blocks(const Winograd2x2Task& t, float* scratch, int64_t begin, int64_t end) {
  const int64_t ranges = ceil_div(t.O, t.depth), *part = t.w_part;
  // Other threads have read what lay at dw: past the caches, where its vectors are lines.
  const int64_t steps = t.w_o | t.w_w | t.w_h | part[0] | part[1] | part[2] | part[3];
  const bool lines = (reinterpret_cast<uintptr_t>(t.dw) | static_cast<uintptr_t>(steps * 4)) % 64 == 0;
  const bool past = kWholeLines && t.shared && !t.add && lines;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t o0 = item % ranges * t.depth, on = t.O - o0 < t.depth ? t.O - o0 : t.depth, j = item / ranges;
    const SumBlock b(t, j, on);
    const bool first_e = t.shared && j == begin / ranges, first_u = t.shared && (o0 == 0 || item == begin);
    sum_block(t, b, o0, on, scratch, 1, first_e ? t.e_plane : 0, first_u ? t.u_plane : 0);
    for (int64_t o = 0; o < on; ++o)
      for (int64_t v = 0; v < b.V; ++v) {
        const float* s = scratch + (o * b.V + v) * kLanes;
        finish_taps(t, b, [&](int h, int w) { return load(s + (h * 5 + w) * b.plane); }, v, o0 + o, past);
      }
  }
  if (past) fence();
}

// Chunks of all tiles, each with sums of its own in t.sums. A group of windows stays in cache.
void winograd2x2_gradient_groups(const Winograd2x2Task& t, float* scratch, int64_t begin, int64_t end) {
  const int64_t in = t.parts * vectors_of(t.C) * kLanes, out = vectors_of(t.O) * kLanes;
  for (int64_t chunk = begin; chunk < end; ++chunk) {
    const int64_t first = t.tiles * chunk / t.chunks, all = t.tiles * (chunk + 1) / t.chunks - first;
    const int64_t groups = ceil_div(all, t.places);
    for (int64_t g = 0; g < groups; ++g) {
      Winograd2x2Task own = t;
      own.tile0 = first + all * g / groups, own.places = own.tiles = first + all * (g + 1) / groups - own.tile0;
      own.u_plane = winograd_plane(in * own.tiles), own.e_plane = winograd_plane(out * own.tiles);
      own.u = scratch, own.e = scratch + 25 * own.u_plane;
      input<DataPoints<FivePoints>>(own, 0, own.tiles);
      gradient<OutputPoints<FivePoints, 4>>(own, 0, own.tiles);
      float* s = t.sums + chunk * t.sums_chunk;
      for (int64_t j = 0; j < sum_blocks(t); ++j) {
        const SumBlock b(t, j, t.O);
        sum_block(own, b, 0, t.O, s, g == 0, 0, 0);
        s += 25 * b.plane;
      }
    }
  }
}

// Chunks are added in order, then transformed to dw.
void winograd2x2_gradient_finish(const Winograd2x2Task& t, int64_t begin, int64_t end) {
  const float* sums = t.sums;
  for (int64_t j = 0; j < sum_blocks(t); ++j) {
    const SumBlock b(t, j, t.O);
    for (int64_t o = begin; o < end; ++o)
      for (int64_t v = 0; v < b.V; ++v) {
        const float* s = sums + (o * b.V + v) * kLanes;
        finish_taps(
            t, b,
            [&](int h, int w) {
              const float* p = s + (h * 5 + w) * b.plane;
              vf a = load(p);
              for (int64_t k = 1; k < t.chunks; ++k) a = add(a, load(p + k * t.sums_chunk));
              return a;
            },
            v, o, false);
      }
    sums += 25 * b.plane;
  }
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
