// What it is: Winograd convolution forward (and backward to data, which is the same with mirrored weights): tiles
// to planes, 36 matrix products, planes to outputs. What it is not: the gradient of the weights
// (conv2d_winograd_grad.cpp), groups and threads (backend/cpu/conv2d_winograd.cpp).
// Sum order of one output: channels in order; it does not depend on tiles, groups, blocks or threads.
#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/norm_sums.h"
#include "backend/cpu/kernels/winograd_finish.h"

namespace fastcnn::cpu::FASTCNN_ISA {
namespace {

// Taps of a vector of outputs, [channel][tap][lanes]. One copy: compilers fuse products and sums as they like, and
// what a plan keeps in this order gives the bits of what is brought into it here.
template <class Points, int r>
__attribute__((noinline)) void packed_taps(const float* taps, int64_t channels, float* dst, int64_t step,
                                           int64_t plane) {
  for (int64_t c = 0; c < channels; ++c, taps += r * r * kLanes, dst += step) {
    for (int i = 0; i < r * r; ++i) prefetch(taps + (8 * r * r + i) * kLanes);
    to_planes<Points>([&](int i, int j) { return load(taps + (i * r + j) * kLanes); }, dst, plane);
  }
}

// Weights of channels [c0, c0 + cn) for one block of outputs to planes of [channel][vectors of the block].
template <class Points, int r, class T>
void transform_taps(const WinogradTask& t, const WinogradBlock& b, int64_t c0, int64_t cn, float* dst,
                    int64_t plane) {
  for (int64_t v = 0; v < b.V; ++v) {
    const int64_t o = (b.v0 + v) * kLanes, step = b.V * kLanes;
    const int n = lanes_left(t.O, o);
    const T* src = values<T>(t.w) + (b.v0 + v) * t.w_v + c0 * t.w_c;
    float* d = dst + v * kLanes;
    if constexpr (sizeof(T) == 4)
      if (t.w_o == 1 && t.w_tap == kLanes && t.w_c == r * r * kLanes) {
        packed_taps<Points, r>(src, cn, d, step, plane);
        continue;
      }
    if (t.w_o == 1) {
      for (int64_t c = 0; c < cn; ++c) {
        const T* s = src + c * t.w_c;
        for (int i = 0; i < r * r; ++i) prefetch(s + 2 * t.w_c + i * t.w_tap);  // many short streams
        to_planes<Points>([&](int i, int j) { return loadn(s + (i * r + j) * t.w_tap, n); }, d + c * step, plane);
      }
      continue;
    }
    for (int64_t c = 0; c < cn; c += kLanes) {
      const int m = lanes_left(cn, c);
      alignas(64) float taps[kLanes][r * r][kLanes];
      for (int i = 0; i < r * r; ++i) {
        const T* s = src + c + i * t.w_tap;
        vf a[kLanes];
        for (int j = 0; j < n; ++j) prefetch(s + j * t.w_o + kLanes);
#pragma GCC unroll 16
        for (int j = 0; j < kLanes; ++j) a[j] = j < n ? loadn(s + j * t.w_o, m) : zero();
        transpose(a);
#pragma GCC unroll 16
        for (int j = 0; j < kLanes; ++j) store(taps[j][i], a[j]);
      }
      packed_taps<Points, r>(&taps[0][0][0], m, d + c * step, step, plane);
    }
  }
}

template <class T, template <class> class Kind = Own>
FASTCNN_OP void transform_weights(const WinogradTask& t, const WinogradBlock& b, int64_t c0, int64_t cn,
                                  float* dst, int64_t plane) {
  if (t.m == 4) return transform_taps<Kind<WeightPoints<SixPoints, 3>>, 3, T>(t, b, c0, cn, dst, plane);
  if constexpr (sizeof(T) == 4)
    if (t.m == 3) return transform_taps<Kind<WeightPoints<SixPoints, 4>>, 4, T>(t, b, c0, cn, dst, plane);
  transform_taps<Kind<WeightPoints<SixPoints, 5>>, 5, T>(t, b, c0, cn, dst, plane);
}

// The gradients of a tile at `offset` go through the norm before them.
template <int m>
FASTCNN_OP void through_norm(const NormSums& s, NormChannels& v, vf (&d)[m][m], int64_t offset, int64_t y_h,
                             int64_t y_w, int64_t rows, int64_t columns, int n) {
  const float *x = s.x + offset, *y = s.y ? s.y + offset : nullptr;
  if (rows >= m && columns >= m && n == kLanes) {
#pragma GCC unroll 4
    for (int r = 0; r < m; ++r)
#pragma GCC unroll 4
      for (int c = 0; c < m; ++c) {
        const int64_t at = r * y_h + c * y_w;
        d[r][c] = v.pass(d[r][c], load(x + at), y ? y + at : nullptr, kLanes);
      }
    return;
  }
  alignas(64) float held[m * m][kLanes];
#pragma GCC unroll 16
  for (int i = 0; i < m * m; ++i) store(held[i], d[i / m][i % m]);
  for (int64_t r = 0; r < (rows < m ? rows : m); ++r)
    for (int64_t c = 0; c < (columns < m ? columns : m); ++c) {
      const int64_t at = r * y_h + c * y_w;
      float* p = held[r * m + c];
      store(p, v.pass(load(p), loadn(x + at, n), y ? y + at : nullptr, n));
    }
#pragma GCC unroll 16
  for (int i = 0; i < m * m; ++i) d[i / m][i % m] = load(held[i]);
}

// The same for gradients that go through the norm before them, which has no bias, activation or moments.
template <int m>
void finish_gradients(const WinogradTask& t, const WinogradBlock& b, const float* planes, int64_t plane,
                      int64_t first, int64_t count, int64_t part) {
  const Epilogue<float> epilogue{Act::none, t.residual, t.y, t.y_h, t.y_w};
  for (int64_t v = 0; v < b.V; ++v) {
    const int64_t o = (b.v0 + v) * kLanes;
    const int n = lanes_left(t.O, o);
    NormChannels channels(t.sums_before, o, n);
    WinogradTile k(t, first);
    for (int64_t i = 0; i < count; ++i, k.next(t)) {
      const float* s = planes + (i * b.V + v) * kLanes;
      vf y[m][m];
      from_planes<OutputPoints<SixPoints, m>>([&](int h, int w) { return load(s + (h * 6 + w) * plane); }, y);
      const int64_t offset = k.n * t.y_n + k.h * t.y_h + k.w * t.y_w + o;
      epilogue.finish(y, zero(), offset, k.rows, k.columns, n,
                      [&](vf(&d)[m][m], int64_t rows, int64_t columns) __attribute__((always_inline)) {
                        through_norm(t.sums_before, channels, d, offset, t.y_h, t.y_w, rows, columns, n);
                      });
    }
    channels.leave(t.sums_before, part, o, n);
  }
}

template <class T>
FASTCNN_OP void finish_tiles(const WinogradTask& t, const WinogradBlock& b, const float* planes, int64_t plane,
                             int64_t first, int64_t count, int64_t part) {
  if constexpr (sizeof(T) == 4)
    if (t.sums_before.on)
      return t.m == 4 ? finish_gradients<4>(t, b, planes, plane, first, count, part)
                      : finish_gradients<2>(t, b, planes, plane, first, count, part);
  if (t.m == 4)
    return finish_outputs<OutputPoints<SixPoints, 4>, T>(t, b.v0, b.V, planes, plane, first, count, part);
  if constexpr (sizeof(T) == 4)
    if (t.m == 3)
      return finish_outputs<OutputPoints<SixPoints, 3>, T>(t, b.v0, b.V, planes, plane, first, count, part);
  finish_outputs<OutputPoints<SixPoints, 2>, T>(t, b.v0, b.V, planes, plane, first, count, part);
}

template <class T>
void weights(const WinogradTask& t, int64_t begin, int64_t end) {
  float* dst = t.wt;
  for (int64_t i = 0; i < end; ++i) {
    const WinogradBlock b(t.O, t.blocks, i);
    const int64_t plane = winograd_plane(t.C * b.V * kLanes);
    if (i >= begin) {
      if (kWholeLines && t.shared)
        transform_weights<T, Shared>(t, b, 0, t.C, dst, plane);
      else
        transform_weights<T>(t, b, 0, t.C, dst, plane);
    }
    dst += 36 * plane;
  }
  if (t.shared) fence();
}

// Groups of tiles [tile0, tile0 + tiles). A group stays in cache from window to output. Products of a plane go
// where the plane before it was: scratch holds 37 planes.
template <class T>
void groups(const WinogradTask& t, float* scratch, int64_t begin, int64_t end) {
  const int64_t parts = ceil_div(t.tiles, t.group);
  const EvenParts blocks(ceil_div(t.O, kLanes), t.blocks);
  const int64_t least = blocks.size;  // vectors of a block, or one more
  const int64_t w_planes[] = {winograd_plane(t.C * least * kLanes), winograd_plane(t.C * (least + 1) * kLanes)};
  RangeFetch ranges(t, 36 * (end - begin));
  for (int64_t item = begin; item < end; ++item) {
    const int64_t first = t.tile0 + t.tiles * item / parts, next = t.tile0 + t.tiles * (item + 1) / parts;
    const int64_t count = next - first, ahead = item + 1 < end ? t.tile0 + t.tiles * (item + 2) / parts - next : 0;
    const int64_t widest = ceil_div(t.C > t.O ? t.C : t.O, kLanes) * kLanes;
    const int64_t plane = winograd_plane(widest * count);
    float* u = scratch + plane;
    transform_input<T>(t, first, count, u, plane, 0, count);
    TileFetch<T> written(t, output_image<T>(t), first, t.stream ? 0 : count, 36),
        read(t, input_image<T>(t), next, ahead, 36);
    const ProductParts parts_of[] = {{t, first, count, least}, {t, first, count, least + 1}};
    for (int64_t i = 0; i < 36; ++i) {
      written.next(), read.next(), ranges.next();
      const float* w = t.wt;
      EvenParts vectors = blocks;
      for (int64_t j = 0; j < t.blocks; ++j) {
        const int64_t v0 = vectors.at, V = vectors.next() - v0, w_plane = w_planes[V - least];
        multiply_tiles(parts_of[V - least], plane_kind(i), u + i * plane, count * kLanes, t.C, w + i * w_plane, V,
                       scratch + i * plane + v0 * count * kLanes, 1);
        w += 36 * w_plane;
      }
    }
    for (int64_t j = 0; j < t.blocks; ++j) {
      const WinogradBlock b(t.O, t.blocks, j);
      finish_tiles<T>(t, b, scratch + b.v0 * count * kLanes, plane, first, count, item);
    }
  }
  if (t.stream) fence();
}

template <class T>
void input(const WinogradTask& t, int64_t begin, int64_t end) {
  if (kWholeLines && t.shared) {
    transform_input<T, Shared>(t, t.tile0 + begin, end - begin, t.u, t.u_plane, begin, t.tiles);
    return fence();
  }
  transform_input<T>(t, t.tile0 + begin, end - begin, t.u, t.u_plane, begin, t.tiles);
}

// The weights of a block are transformed where they are used and never leave the cache of the thread, unless t.wt
// holds all of them.
template <class T>
void blocks(const WinogradTask& t, float* scratch, int64_t begin, int64_t end) {
  const int64_t parts = ceil_div(t.tiles, t.group);
  for (int64_t item = begin; item < end; ++item) {
    const WinogradBlock b(t.O, t.blocks, item);
    const int64_t w_plane = winograd_plane((t.wt ? t.C : t.depth) * b.V * kLanes);
    float* m = t.wt ? scratch : scratch + 36 * w_plane;
    const float* w = t.wt ? t.wt : scratch;
    if (t.wt) w += planes_before(t.O, t.blocks, item, t.C * kLanes);
    for (int64_t g = 0; g < parts; ++g) {
      const int64_t first = t.tiles * g / parts, count = t.tiles * (g + 1) / parts - first;
      const int64_t m_plane = winograd_plane(count * b.V * kLanes);
      const ProductParts tiles(t, t.tile0 + first, count, b.V);
      for (int64_t c = 0; c < t.C; c += t.depth) {
        const int64_t cn = t.C - c < t.depth ? t.C - c : t.depth;
        if (!t.wt && (g == 0 || t.depth < t.C)) transform_weights<T>(t, b, c, cn, scratch, w_plane);
        for (int64_t i = 0; i < 36; ++i) {
          const int64_t ahead = item == begin && i < 35 ? t.u_plane : 0;
          multiply_tiles(tiles, plane_kind(i), t.u + i * t.u_plane + c * t.tiles + first * kLanes,
                         t.tiles * kLanes, cn, w + i * w_plane, b.V, m + i * m_plane, c == 0, ahead);
        }
      }
      finish_tiles<T>(t, b, m, m_plane, t.tile0 + first, count, g);
    }
  }
  if (t.stream) fence();
}

template <class T>
void outputs(const WinogradTask& t, const float* products, int64_t begin, int64_t end) {
  const int64_t parts = ceil_div(t.tiles, t.group);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t g = item % parts, j = item / parts;
    const WinogradBlock b(t.O, t.blocks, j);
    const int64_t first = t.tiles * g / parts, count = t.tiles * (g + 1) / parts - first;
    const float* m = products + planes_before(t.O, t.blocks, j, t.tiles * kLanes) + first * b.V * kLanes;
    finish_tiles<T>(t, b, m, winograd_plane(t.tiles * b.V * kLanes), t.tile0 + first, count, g);
  }
  if (t.stream) fence();
}

}  // namespace

void winograd_outputs_bf16(const WinogradTask& t, const float* products, int64_t begin, int64_t end) {
  outputs<bfloat16>(t, products, begin, end);
}

void winograd_weights_bf16(const WinogradTask& t, int64_t begin, int64_t end) { weights<bfloat16>(t, begin, end); }
void winograd_groups_bf16(const WinogradTask& t, float* scratch, int64_t begin, int64_t end) {
  groups<bfloat16>(t, scratch, begin, end);
}
void winograd_input_bf16(const WinogradTask& t, int64_t begin, int64_t end) { input<bfloat16>(t, begin, end); }
void winograd_blocks_bf16(const WinogradTask& t, float* scratch, int64_t begin, int64_t end) {
  blocks<bfloat16>(t, scratch, begin, end);
}

#if FASTCNN_SHARED_HERE
// Items of one block follow each other, so that its weights of a plane are read once.
void winograd_products(const WinogradTask& t, float* products, int64_t begin, int64_t end) {
  for (int64_t item = begin; item < end; ++item) {
    const int64_t j = item / 36, i = item % 36;
    const WinogradBlock b(t.O, t.blocks, j);
    multiply_tiles(
        {t, t.tile0, t.tiles, b.V}, plane_kind(i), t.u + i * t.u_plane, t.tiles * kLanes, t.C,
        t.wt + planes_before(t.O, t.blocks, j, t.C * kLanes) + i * winograd_plane(t.C * b.V * kLanes), b.V,
        products + planes_before(t.O, t.blocks, j, t.tiles * kLanes) + i * winograd_plane(t.tiles * b.V * kLanes),
        1);
  }
}

void winograd_outputs(const WinogradTask& t, const float* products, int64_t begin, int64_t end) {
  outputs<float>(t, products, begin, end);
}
void winograd_weights(const WinogradTask& t, int64_t begin, int64_t end) { weights<float>(t, begin, end); }
void winograd_groups(const WinogradTask& t, float* scratch, int64_t begin, int64_t end) {
  groups<float>(t, scratch, begin, end);
}
void winograd_input(const WinogradTask& t, int64_t begin, int64_t end) { input<float>(t, begin, end); }
void winograd_blocks(const WinogradTask& t, float* scratch, int64_t begin, int64_t end) {
  blocks<float>(t, scratch, begin, end);
}
#endif

}  // namespace fastcnn::cpu::FASTCNN_ISA
