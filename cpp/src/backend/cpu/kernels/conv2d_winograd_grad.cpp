// What it is: the gradient of the weights by the transpose of Winograd's algorithm: windows of x and tiles of dy
// to planes, one product summed over tiles per plane, planes to taps. What it is not: groups and threads
// (backend/cpu/conv2d_winograd.cpp). The order of every sum (tiles, then chunks or calls) is fixed by the task.
#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/lanes.h"
#include "backend/cpu/kernels/winograd_pixels.h"

namespace fastcnn::cpu::FASTCNN_ISA {
namespace {

FASTCNN_OP int64_t padded(int64_t channels) { return ceil_div(channels, kLanes) * kLanes; }

// Sums of dy over all pixels of tiles [first, first + count), channels [o0, o1), added to out.
template <class T>
void add_bias_gradient(const WinogradTask& t, int64_t first, int64_t count, int64_t o0, int64_t o1, int fresh,
                       float* out) {
  for (int64_t o = o0; o < o1; o += kLanes) {
    const int n = lanes_left(o1, o);
    vf s = fresh ? zero() : loadn(out + o, n);
    WinogradTile k(t, first);
    for (int64_t i = 0; i < count; ++i, k.next(t)) {
      const T* p = values<T>(t.dy) + k.n * t.y_n + k.h * t.y_h + k.w * t.y_w + o;
      for (int64_t r = 0; r < k.rows; ++r)
        for (int64_t c = 0; c < k.columns; ++c) s = add(s, loadn(p + r * t.y_h + c * t.y_w, n));
    }
    storen(out + o, s, n);
  }
}

// Sums in planes, at(row, column), to the taps of one vector of input channels.
template <int r, class Planes>
FASTCNN_OP void finish_taps(const Planes& at, float* d, int64_t tap, int n, bool add_to, bool past) {
  vf g[r][r];
  from_planes<WeightPoints<SixPoints, r>>(at, g);
#pragma GCC unroll 5
  for (int i = 0; i < r; ++i)
#pragma GCC unroll 5
    for (int j = 0; j < r; ++j, d += tap) put(d, add_to ? add(loadn(d, n), g[i][j]) : g[i][j], n, past);
}
template <class Planes>
FASTCNN_OP void store_gradient(const WinogradTask& t, const Planes& at, int64_t o, int64_t c, bool add_to,
                               bool past = false) {
  float* d = t.dw + o * t.w_o + c;
  const int n = lanes_left(t.C, c);
  t.m == 4 ? finish_taps<3>(at, d, t.w_tap, n, add_to, past) : finish_taps<5>(at, d, t.w_tap, n, add_to, past);
}

// Chunks of tiles [tile0, tile0 + tiles), all of them whole. A group of windows stays in cache; the sums of a
// chunk are read and written once per group.
template <class T>
void gradient_groups(const WinogradTask& t, float* scratch, int64_t begin, int64_t end) {
  const int64_t on = padded(t.O), all = t.tile0 + t.tiles, units = ceil_div(t.tiles, t.unit);
  const auto tile = [&](int64_t unit) { return t.tile0 + (unit < units ? unit * t.unit : t.tiles); };
  for (int64_t chunk = begin; chunk < end; ++chunk) {
    const int64_t first = units * chunk / t.chunks, last = units * (chunk + 1) / t.chunks,
                  groups = ceil_div((last - first) * t.unit, t.group);
    float* sums = t.sums + chunk * t.sums_chunk;
    RangeFetch ranges(t, 36);
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t at = tile(first + (last - first) * g / groups),
                    next = tile(first + (last - first) * (g + 1) / groups), count = next - at;
      const int64_t ahead = all - next < count ? all - next : count;
      const int64_t u_plane = winograd_plane(padded(t.C) * count), e_plane = winograd_plane(on * count);
      float *u = scratch, *e = scratch + 36 * u_plane, *s = sums;
      const int fresh = g == 0 && !t.add;
      transform_input<T>(t, at, count, u, u_plane, 0, count);
      transform_gradient<T>(t, at, count, e, e_plane, 0, count);
      TileFetch<T> read(t, input_image<T>(t), next, ahead, 36), read_dy(t, gradient_image<T>(t), next, ahead, 36);
      for (int64_t j = 0; j < t.blocks; ++j) {
        const WinogradBlock b(t.C, t.blocks, j);
        for (int64_t i = 0; i < 36; ++i, s += on * b.V * kLanes) {
          if (j == 0) {
            read.next(), read_dy.next();
            if (g == 0) ranges.next();
          }
          sum_plane(e + i * e_plane, u + i * u_plane + b.v0 * count * kLanes, count, count, b.V, 0, on, s, fresh);
        }
      }
      if (t.dbias) add_bias_gradient<T>(t, at, count, 0, t.O, fresh, t.dbias + chunk * t.O);
    }
  }
}

template <class T>
void gradient_input(const WinogradTask& t, int64_t begin, int64_t end) {
  if (kWholeLines && t.shared) {
    transform_input<T, Shared>(t, t.tile0 + begin, end - begin, t.u, t.u_plane, begin, t.tiles);
    transform_gradient<T, Shared>(t, t.tile0 + begin, end - begin, t.e, t.e_plane, begin, t.tiles);
    return fence();
  }
  transform_input<T>(t, t.tile0 + begin, end - begin, t.u, t.u_plane, begin, t.tiles);
  transform_gradient<T>(t, t.tile0 + begin, end - begin, t.e, t.e_plane, begin, t.tiles);
}

// Sums over all transformed tiles are made in registers and turned to dw while they are in cache.
template <class T>
void gradient_blocks(const WinogradTask& t, float* scratch, int64_t begin, int64_t end) {
  const int64_t parts = ceil_div(t.O, t.depth);  // t.depth outputs at a time, a multiple of kLanes
  // Other threads have read what lay at dw: past the caches, where its vectors are lines.
  const bool lines = (reinterpret_cast<uintptr_t>(t.dw) | static_cast<uintptr_t>((t.w_o | t.w_tap) * 4)) % 64 == 0;
  const bool past = kWholeLines && t.shared && !t.add && lines;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t part = item % parts, o0 = part * t.depth, o1 = o0 + t.depth < t.O ? o0 + t.depth : t.O;
    const WinogradBlock b(t.C, t.blocks, item / parts);
    const int64_t on = padded(o1 - o0), plane = winograd_plane(on * b.V * kLanes);
    const bool first_e = item / parts == begin / parts, first_u = part == 0 || item == begin;
    for (int64_t i = 0; i < 36; ++i)
      sum_tiles(t, t.tile0, t.tiles, plane_kind(i), t.e + i * t.e_plane,
                t.u + i * t.u_plane + b.v0 * t.tiles * kLanes, t.tiles, b.V, o0, on, scratch + i * plane, 1,
                first_e && i < 35 ? t.e_plane : 0, first_u && i < 35 ? t.u_plane : 0);
    for (int64_t o = o0; o < o1; ++o)
      for (int64_t v = 0; v < b.V; ++v) {
        const int64_t c = (b.v0 + v) * kLanes;
        const float* s = scratch + ((o - o0) * b.V + v) * kLanes;
        store_gradient(t, [&](int h, int w) { return load(s + (h * 6 + w) * plane); }, o, c, t.add, past);
      }
    if (t.dbias && item < parts) add_bias_gradient<T>(t, t.tile0, t.tiles, o0, o1, !t.add, t.dbias);
  }
  if (past) fence();
}

// T: of dy, whose sum is the gradient of the bias.
template <class T>
void gradient_sums(const WinogradTask& t, int64_t begin, int64_t end) {
  const int64_t on = padded(t.O), share = padded(ceil_div(t.O, 36));
  const int first = t.tile0 == 0;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t i = item % 36;
    const WinogradBlock b(t.C, t.blocks, item / 36);
    sum_tiles(t, t.tile0, t.tiles, plane_kind(i), t.e + i * t.e_plane,
              t.u + i * t.u_plane + b.v0 * t.tiles * kLanes, t.tiles, b.V, 0, on,
              t.sums + (36 * b.v0 + i * b.V) * on * kLanes, first);
    const int64_t o0 = i * share, o1 = o0 + share < t.O ? o0 + share : t.O;
    if (t.dbias && item < 36 && o0 < o1) add_bias_gradient<T>(t, t.tile0, t.tiles, o0, o1, first, t.dbias);
  }
}

}  // namespace

// Chunks are added in order, then transformed to dw.
void winograd_gradient_finish(const WinogradTask& t, int64_t begin, int64_t end) {
  const int64_t on = padded(t.O);
  for (int64_t o = begin; o < end; ++o)
    for (int64_t j = 0; j < t.blocks; ++j) {
      const WinogradBlock b(t.C, t.blocks, j);
      const int64_t plane = on * b.V * kLanes;
      for (int64_t v = 0; v < b.V; ++v) {
        const int64_t c = (b.v0 + v) * kLanes;
        const float* s = t.sums + 36 * on * b.v0 * kLanes + (o * b.V + v) * kLanes;
        store_gradient(
            t,
            [&](int h, int w) {
              vf a = load(s + (h * 6 + w) * plane);
              for (int64_t k = 1; k < t.chunks; ++k) a = add(a, load(s + k * t.sums_chunk + (h * 6 + w) * plane));
              return a;
            },
            o, c, false);
      }
    }
}

void winograd_gradient_groups(const WinogradTask& t, float* scratch, int64_t begin, int64_t end) {
  gradient_groups<float>(t, scratch, begin, end);
}
void winograd_gradient_groups_bf16(const WinogradTask& t, float* scratch, int64_t begin, int64_t end) {
  gradient_groups<bfloat16>(t, scratch, begin, end);
}
void winograd_gradient_sums(const WinogradTask& t, int64_t begin, int64_t end) {
  gradient_sums<float>(t, begin, end);
}
void winograd_gradient_sums_bf16(const WinogradTask& t, int64_t begin, int64_t end) {
  gradient_sums<bfloat16>(t, begin, end);
}
void winograd_gradient_input(const WinogradTask& t, int64_t begin, int64_t end) {
  gradient_input<float>(t, begin, end);
}
void winograd_gradient_input_bf16(const WinogradTask& t, int64_t begin, int64_t end) {
  gradient_input<bfloat16>(t, begin, end);
}
void winograd_gradient_blocks(const WinogradTask& t, float* scratch, int64_t begin, int64_t end) {
  gradient_blocks<float>(t, scratch, begin, end);
}
void winograd_gradient_blocks_bf16(const WinogradTask& t, float* scratch, int64_t begin, int64_t end) {
  gradient_blocks<bfloat16>(t, scratch, begin, end);
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
