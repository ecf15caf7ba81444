// What it is: pooling over N,H,W,C and its gradients where channels fill packs of 16 bytes, in 32-bit indices.
// What it is not: for float64, odd channels and tensors of 2^31 packs (pool.cuh, whose rules these are).
#pragma once
#include "backend/cuda/kernels/fast_div.h"
#include "backend/cuda/kernels/packs.cuh"

namespace fastcnn::cuda {

// One axis; cpu::PoolAxis in 32 bits, `span` is what a window covers, `limit` the end of the padded input.
struct PackedAxis {
  int32_t in = 0, out = 0, span = 0, stride = 0, pad = 0, limit = 0, dilation = 1, adaptive = 0;
  FastDiv by_stride, by_dilation, by_in, by_out;
};
struct PackedPool {
  PackedAxis h, w;
  int32_t packs = 0, units = 0, count_include_pad = 0;
  FastDiv by_packs, by_columns, by_rows;  // of what a thread makes
};
struct PackedWindow {
  int32_t begin, end, padded;
};
FASTCNN_DEVICE PackedWindow window_of(const PackedAxis& a, int32_t o) {
  if (a.adaptive) {
    const int32_t b = a.by_out.quotient(o * a.in), e = a.by_out.quotient((o + 1) * a.in + a.out - 1);
    return {b, e, e - b};
  }
  int32_t b = o * a.stride - a.pad, e = b + a.span;
  if (e > a.limit) e = a.limit;
  const int32_t padded = e - b;
  if (b < 0) b += a.by_dilation.quotient(-b + a.dilation - 1) * a.dilation;
  if (e > a.in) e = a.in;
  return {b, e, padded};
}
struct PackedCover {
  int32_t first, last;
};
FASTCNN_DEVICE PackedCover cover_of(const PackedAxis& a, int32_t i) {
  if (a.adaptive) return {a.by_in.quotient(i * a.out), a.by_in.quotient((i + 1) * a.out - 1)};
  const int32_t top = i + a.pad, last = a.by_stride.quotient(top);
  const int32_t first = top - a.span + 1 <= 0 ? 0 : a.by_stride.quotient(top - a.span + a.stride);
  return {first, last < a.out - 1 ? last : a.out - 1};
}

struct PackedPlace {
  int32_t n, h, w, pack;
  bool there;
};
FASTCNN_DEVICE PackedPlace packed_place(const PackedPool& p) {
  const int64_t i = global_thread();
  PackedPlace at{};
  at.there = i < p.units;
  if (!at.there) return at;
  const int32_t rest = p.by_columns.split(p.by_packs.split(static_cast<int32_t>(i), &at.pack), &at.w);
  at.n = p.by_rows.split(rest, &at.h);
  return at;
}

// K: a square window without dilation, all of whose loads are under way at once; 0: any window.
template <class T, int K>
FASTCNN_KERNEL max_pool_packs(PackedPool p, const T* x, T* y, int32_t* index) {
  follow_previous();
  constexpr int V = Pack<T>::n;
  const PackedPlace o = packed_place(p);
  if (!o.there) return;
  float best[V];
  int32_t at[V];
  auto meet = [&](const Pack<T>& pack, int32_t pixel) {
    float v[V];
    widen(pack, v);
    FASTCNN_UNROLL
    for (int k = 0; k < V; ++k)
      if (v[k] > best[k] || v[k] != v[k]) best[k] = v[k], at[k] = pixel;
  };
  // The first pixel of a window counts even where all are -inf.
  const PackedWindow wh = window_of(p.h, o.h), ww = window_of(p.w, o.w);
  const int32_t first = wh.begin < wh.end && ww.begin < ww.end ? wh.begin * p.w.in + ww.begin : -1;
  FASTCNN_UNROLL
  for (int k = 0; k < V; ++k) best[k] = static_cast<float>(-INFINITY), at[k] = first;
  if constexpr (K > 0) {
    const int32_t h0 = o.h * p.h.stride - p.h.pad, w0 = o.w * p.w.stride - p.w.pad;
    auto there = [&](int a, int b) { return h0 + a >= 0 && h0 + a < p.h.in && w0 + b >= 0 && w0 + b < p.w.in; };
    Pack<T> in[K][K];
    FASTCNN_UNROLL
    for (int a = 0; a < K; ++a) {
      FASTCNN_UNROLL
      for (int b = 0; b < K; ++b) {
        const int64_t pixel = (o.n * p.h.in + h0 + a) * p.w.in + w0 + b;
        in[a][b] = load_pack_if(there(a, b), x + (pixel * p.packs + o.pack) * V);
      }
    }
    FASTCNN_UNROLL
    for (int a = 0; a < K; ++a) {
      FASTCNN_UNROLL
      for (int b = 0; b < K; ++b)
        if (there(a, b)) meet(in[a][b], (h0 + a) * p.w.in + w0 + b);
    }
  } else {
    for (int32_t h = wh.begin; h < wh.end; h += p.h.dilation)
      for (int32_t w = ww.begin; w < ww.end; w += p.w.dilation)
        meet(load_pack(x + (int64_t{(o.n * p.h.in + h) * p.w.in + w} * p.packs + o.pack) * V), h * p.w.in + w);
  }
  const int64_t to = (int64_t{(o.n * p.h.out + o.h) * p.w.out + o.w} * p.packs + o.pack) * V;
  store_pack(y + to, narrow<T>(best));
  FASTCNN_UNROLL
  for (int q = 0; q < V / 4; ++q) {
    Pack<int32_t> four;
    FASTCNN_UNROLL
    for (int k = 0; k < 4; ++k) four.v[k] = at[q * 4 + k];
    store_pack(index + to + q * 4, four);
  }
}

// A thread makes 2x2 pixels, whose covers have most outputs in common. A unit is such a tile.
// R: the outputs along an axis that cover a tile, at most, all of whose loads are under way at once; 0: any
// number.
template <class T, int R>
FASTCNN_KERNEL max_pool_bwd_packs(PackedPool p, const T* dy, const int32_t* index, T* dx) {
  follow_previous();
  constexpr int V = Pack<T>::n;
  const PackedPlace tile = packed_place(p);
  if (!tile.there) return;
  const int32_t h0 = tile.h * 2, w0 = tile.w * 2;
  const int32_t h1 = h0 + 1 < p.h.in ? h0 + 1 : h0, w1 = w0 + 1 < p.w.in ? w0 + 1 : w0;
  const int32_t top = cover_of(p.h, h0).first, bottom = cover_of(p.h, h1).last;
  const int32_t left = cover_of(p.w, w0).first, right = cover_of(p.w, w1).last;
  float sum[2][2][V] = {};
  struct Output {
    Pack<T> g;
    Pack<int32_t> from[V / 4];
  };
  // What is not there adds zeros.
  auto load = [&](int32_t h, int32_t w) {
    Output o;
    const bool there = h <= bottom && w <= right;
    const int64_t at = static_cast<int64_t>((tile.n * p.h.out + h) * p.w.out + w) * p.packs + tile.pack;
    o.g = load_pack_if(there, dy + at * V);
    FASTCNN_UNROLL
    for (int q = 0; q < V / 4; ++q) o.from[q] = load_pack_if(there, index + at * V + q * 4);
    return o;
  };
  auto add = [&](const Output& o) {
    float g[V];
    widen(o.g, g);
    FASTCNN_UNROLL
    for (int a = 0; a < 2; ++a) {
      FASTCNN_UNROLL
      for (int b = 0; b < 2; ++b) {
        const int32_t me = (h0 + a) * p.w.in + w0 + b;
        FASTCNN_UNROLL
        for (int k = 0; k < V; ++k)
          if (o.from[k / 4].v[k % 4] == me) sum[a][b][k] += g[k];
      }
    }
  };
  if constexpr (R > 0) {
    Output all[R][R];
    FASTCNN_UNROLL
    for (int a = 0; a < R; ++a) {
      FASTCNN_UNROLL
      for (int b = 0; b < R; ++b) all[a][b] = load(top + a, left + b);
    }
    FASTCNN_UNROLL
    for (int a = 0; a < R; ++a) {
      FASTCNN_UNROLL
      for (int b = 0; b < R; ++b) add(all[a][b]);
    }
  } else {
    for (int32_t h = top; h <= bottom; ++h)
      for (int32_t w = left; w <= right; ++w) add(load(h, w));
  }
  FASTCNN_UNROLL
  for (int a = 0; a < 2; ++a) {
    FASTCNN_UNROLL
    for (int b = 0; b < 2; ++b) {
      if (h0 + a >= p.h.in || w0 + b >= p.w.in) continue;
      const int64_t pixel = (tile.n * p.h.in + h0 + a) * p.w.in + w0 + b;
      store_pack(dx + (pixel * p.packs + tile.pack) * V, narrow<T>(sum[a][b]));
    }
  }
}

FASTCNN_DEVICE float share_of(const PackedPool& p, const PackedWindow& h, const PackedWindow& w) {
  return 1.f /
         static_cast<float>(p.count_include_pad ? h.padded * w.padded : (h.end - h.begin) * (w.end - w.begin));
}

template <class T>
FASTCNN_KERNEL avg_pool_packs(PackedPool p, const T* x, T* y) {
  follow_previous();
  constexpr int V = Pack<T>::n;
  const PackedPlace o = packed_place(p);
  if (!o.there) return;
  const PackedWindow wh = window_of(p.h, o.h), ww = window_of(p.w, o.w);
  float sum[V] = {};
  for (int32_t h = wh.begin; h < wh.end; ++h)
    for (int32_t w = ww.begin; w < ww.end; ++w) {
      const int64_t pixel = (o.n * p.h.in + h) * p.w.in + w;
      float v[V];
      widen(load_pack(x + (pixel * p.packs + o.pack) * V), v);
      FASTCNN_UNROLL
      for (int k = 0; k < V; ++k) sum[k] += v[k];
    }
  const float share = wh.begin >= wh.end || ww.begin >= ww.end ? 0.f : share_of(p, wh, ww);
  FASTCNN_UNROLL
  for (int k = 0; k < V; ++k) sum[k] *= share;
  const int64_t pixel = (o.n * p.h.out + o.h) * p.w.out + o.w;
  store_pack(y + (pixel * p.packs + o.pack) * V, narrow<T>(sum));
}

// Large windows, the whole map most of all: a block shares the window of one output among its lanes (a power of
// two). Block (packs, lanes), grid (outputs, packs); shared: a value for each thread and channel.
template <class T>
FASTCNN_KERNEL avg_pool_wide(PackedPool p, const T* x, T* y) {
  follow_previous();
  constexpr int V = Pack<T>::n;
  const int lane = static_cast<int>(threadIdx.y), lanes = static_cast<int>(blockDim.y);
  const int32_t pack = static_cast<int32_t>(blockIdx.y * blockDim.x + threadIdx.x);
  int32_t oh, ow;
  const int32_t n = p.by_rows.split(p.by_columns.split(static_cast<int32_t>(blockIdx.x), &ow), &oh);
  const PackedWindow wh = window_of(p.h, oh), ww = window_of(p.w, ow);
  const int32_t width = ww.end > ww.begin ? ww.end - ww.begin : 0;
  const int32_t area = wh.end > wh.begin ? (wh.end - wh.begin) * width : 0;
  const unsigned wide = static_cast<unsigned>(width);
  float sum[V] = {};
  if (pack < p.packs) {
#if defined(__CUDACC__)
#pragma unroll 4
#endif
    for (int32_t i = lane; i < area; i += lanes) {
      const int32_t row = static_cast<int32_t>(static_cast<unsigned>(i) / wide), column = i - row * width;
      const int64_t pixel = (n * p.h.in + wh.begin + row) * p.w.in + ww.begin + column;
      float v[V];
      widen(load_pack(x + (pixel * p.packs + pack) * V), v);
      FASTCNN_UNROLL
      for (int k = 0; k < V; ++k) sum[k] += v[k];
    }
  }
  float* shared = shared_memory<float>();
  const int line = static_cast<int>(blockDim.x), me = lane * line + static_cast<int>(threadIdx.x);
  const int plane = line * lanes;  // a plane for each channel of a pack: no bank conflicts
  FASTCNN_UNROLL
  for (int k = 0; k < V; ++k) shared[k * plane + me] = sum[k];
  for (int half = lanes / 2; half > 0; half /= 2) {
    __syncthreads();
    if (lane >= half) continue;
    FASTCNN_UNROLL
    for (int k = 0; k < V; ++k) shared[k * plane + me] += shared[k * plane + me + half * line];
  }
  if (lane || pack >= p.packs) return;
  const float share = area ? share_of(p, wh, ww) : 0.f;
  FASTCNN_UNROLL
  for (int k = 0; k < V; ++k) sum[k] = shared[k * plane + me] * share;
  store_pack(y + (static_cast<int64_t>(blockIdx.x) * p.packs + pack) * V, narrow<T>(sum));
}

template <class T>
FASTCNN_KERNEL avg_pool_bwd_packs(PackedPool p, const T* dy, T* dx) {
  follow_previous();
  constexpr int V = Pack<T>::n;
  const PackedPlace in = packed_place(p);
  if (!in.there) return;
  const PackedCover ch = cover_of(p.h, in.h), cw = cover_of(p.w, in.w);
  float sum[V] = {};
  for (int32_t h = ch.first; h <= ch.last; ++h) {
    const PackedWindow wh = window_of(p.h, h);
    if (in.h < wh.begin || in.h >= wh.end) continue;
    for (int32_t w = cw.first; w <= cw.last; ++w) {
      const PackedWindow ww = window_of(p.w, w);
      if (in.w < ww.begin || in.w >= ww.end) continue;
      const float share = share_of(p, wh, ww);
      const int64_t pixel = (in.n * p.h.out + h) * p.w.out + w;
      float v[V];
      widen(load_pack(dy + (pixel * p.packs + in.pack) * V), v);
      FASTCNN_UNROLL
      for (int k = 0; k < V; ++k) sum[k] += v[k] * share;
    }
  }
  const int64_t pixel = (in.n * p.h.in + in.h) * p.w.in + in.w;
  store_pack(dx + (pixel * p.packs + in.pack) * V, narrow<T>(sum));
}

}  // namespace fastcnn::cuda
