// What it is: the passes of batch_norm.cuh that read whole tensors, where rows are 16-byte packs: a thread keeps
// its channels, and their constants in registers, and walks rows with several loads in flight. The activation is
// known when it is compiled. What it is not: float64, channels that do not fill packs, rare activations
// (batch_norm.cuh).
#pragma once
#include "backend/cuda/kernels/batch_norm.cuh"
#include "backend/cuda/kernels/packs.cuh"
#include "graph/op_kinds.h"

namespace fastcnn::cuda {

constexpr int kPackThreads = 256;

// Block: `columns` packs of channels by `group` rows at once. Grid (chunks of `columns`, slices); slices take
// tiles of `unroll` groups in turn, so that all blocks read near each other.
struct RowTiles {
  int64_t rows = 0, tiles = 0;
  int32_t packs = 0, columns = 1, group = 1;  // packs: of a row
};

struct PackThread {
  int column, row, pack;
  bool works;
  FASTCNN_DEVICE explicit PackThread(const RowTiles& t)
      : column(static_cast<int>(threadIdx.x) % t.columns),
        row(static_cast<int>(threadIdx.x) / t.columns),
        pack(static_cast<int>(blockIdx.x) * t.columns + column),
        works(row < t.group && pack < t.packs) {}
};

// f<N>(at, step): N packs, at + k * step. `last_first`: from the end, which is what the pass before has left in
// L2.
template <int unroll, class F>
FASTCNN_DEVICE void over_rows(const RowTiles& t, const PackThread& me, bool last_first, const F& f) {
  const int64_t step = static_cast<int64_t>(t.group) * t.packs, tile_rows = static_cast<int64_t>(t.group) * unroll;
  for (int64_t k = blockIdx.y; k < t.tiles; k += gridDim.y) {
    const int64_t row = (last_first ? t.tiles - 1 - k : k) * tile_rows;
    const int64_t at = (row + me.row) * t.packs + me.pack;
    if (row + tile_rows <= t.rows) {
      f.template operator()<unroll>(at, step);
    } else {
      FASTCNN_NO_UNROLL
      for (int u = 0; u < unroll; ++u)
        if (row + u * t.group + me.row < t.rows) f.template operator()<1>(at + u * step, step);
    }
  }
}

// W numbers from the first channel of this thread's pack on.
template <int W>
FASTCNN_DEVICE void load_channels(const float* p, int pack, float (&v)[W]) {
  FASTCNN_UNROLL
  for (int k = 0; k < W / 4; ++k) {
    const Pack<float> q = load_pack(p + static_cast<int64_t>(pack) * W + 4 * k);
    FASTCNN_UNROLL
    for (int j = 0; j < 4; ++j) v[4 * k + j] = q.v[j];
  }
}

// The rows of a block joined in a tree: join(mine, other) for places of shared memory. Value k of a thread lies at
// k * kPackThreads + place, so neighbours meet no bank conflicts.
template <class F>
FASTCNN_DEVICE void join_rows(const RowTiles& t, const PackThread& me, const F& join) {
  const int place = static_cast<int>(threadIdx.x);
  for (int left = t.group; left > 1;) {
    const int half = (left + 1) / 2;
    __syncthreads();
    if (me.row < left - half) join(place, place + half * t.columns);
    left = half;
  }
  __syncthreads();
}
// store(place of the pack's column, number in the pack, channel) for every channel of the block, neighbours at
// once.
template <int W, class F>
FASTCNN_DEVICE void store_channels(const RowTiles& t, const F& store) {
  const int first = static_cast<int>(blockIdx.x) * t.columns * W;
  for (int i = static_cast<int>(threadIdx.x); i < t.columns * W; i += kPackThreads)
    if (first + i < t.packs * W) store(i / W, i % W, static_cast<int64_t>(first) + i);
}

// parts (slices, C). Shared: 1 + 2 * W values per thread.
template <class T>
FASTCNN_KERNEL_BOUNDS(kPackThreads, 4)
bn_moments_packs(RowTiles t, const T* x, Moments<float>* parts) {
  constexpr int W = Pack<T>::n;
  const PackThread me(t);
  float shift[W] = {}, s[W] = {}, q[W] = {};
  int n = 0;
  if (me.works) {
    // Sums around a value of the channel: no cancellation where the mean is far from zero.
    const int64_t row = static_cast<int64_t>(blockIdx.y) * t.group + me.row;
    widen(load_pack(x + ((row < t.rows ? row : t.rows - 1) * t.packs + me.pack) * W), shift);
    over_rows<4>(t, me, true, [&]<int N>(int64_t at, int64_t step) {
      Pack<T> p[N];
      FASTCNN_UNROLL
      for (int u = 0; u < N; ++u) p[u] = load_pack(x + (at + u * step) * W);
      FASTCNN_UNROLL
      for (int u = 0; u < N; ++u) {
        float v[W];
        widen(p[u], v);
        FASTCNN_UNROLL
        for (int j = 0; j < W; ++j) {
          const float d = v[j] - shift[j];
          s[j] += d, q[j] += d * d;
        }
      }
      n += N;
    });
  }
  float* shared = shared_memory<float>() + threadIdx.x;
  const float count = static_cast<float>(n);
  shared[0] = count;
  FASTCNN_UNROLL
  for (int j = 0; j < W; ++j) {
    const float d = n ? s[j] / count : 0.0f;
    shared[(1 + 2 * j) * kPackThreads] = n ? shift[j] + d : 0.0f;
    shared[(2 + 2 * j) * kPackThreads] = n ? q[j] - s[j] * d : 0.0f;
  }
  shared = shared_memory<float>();
  join_rows(t, me, [&](int a, int b) {  // merge() with the quotients once
    const float na = shared[a], nb = shared[b], all = na + nb;
    if (nb == 0) return;
    const float part = nb / all, cross = na * nb / all;
    FASTCNN_UNROLL
    for (int j = 0; j < W; ++j) {
      const int m = (1 + 2 * j) * kPackThreads, m2 = m + kPackThreads;
      const float d = shared[m + b] - shared[m + a];
      shared[m + a] += d * part;
      shared[m2 + a] += shared[m2 + b] + d * d * cross;
    }
    shared[a] = all;
  });
  const int64_t C = static_cast<int64_t>(t.packs) * W;
  store_channels<W>(t, [&](int column, int j, int64_t c) {
    const int m = (1 + 2 * j) * kPackThreads + column;
    parts[blockIdx.y * C + c] = {shared[column], shared[m], shared[m + kPackThreads]};
  });
}

template <class T, Act A, bool has_residual>
FASTCNN_KERNEL_BOUNDS(kPackThreads, 3)
bn_apply_packs(RowTiles t, const T* x, const float* mean, const float* spread, bool is_variance, double eps,
               const float* gamma, const float* beta, const T* residual, ActOf<float> act, T* y) {
  constexpr int W = Pack<T>::n;
  const PackThread me(t);
  if (!me.works) return;
  act.act = A;
  float m[W], scale[W], g[W], b[W];
  load_channels(mean, me.pack, m), load_channels(spread, me.pack, scale);
  load_channels(gamma, me.pack, g), load_channels(beta, me.pack, b);
  FASTCNN_UNROLL
  for (int j = 0; j < W; ++j)
    scale[j] = (is_variance ? 1 / sqrt(scale[j] + static_cast<float>(eps)) : scale[j]) * g[j];
  over_rows<has_residual ? 2 : 4>(t, me, false, [&]<int N>(int64_t at, int64_t step) {
    Pack<T> p[N];
    [[maybe_unused]] Pack<T> r[N];
    FASTCNN_UNROLL
    for (int u = 0; u < N; ++u) {
      p[u] = load_pack(x + (at + u * step) * W);
      if constexpr (has_residual) r[u] = load_pack(residual + (at + u * step) * W);
    }
    FASTCNN_UNROLL
    for (int u = 0; u < N; ++u) {
      float v[W];
      [[maybe_unused]] float w[W];
      widen(p[u], v);
      if constexpr (has_residual) widen(r[u], w);
      FASTCNN_UNROLL
      for (int j = 0; j < W; ++j) {
        float z = (v[j] - m[j]) * scale[j] + b[j];
        if constexpr (has_residual) z += w[j];
        v[j] = apply_act(act, z);
      }
      store_pack(y + (at + u * step) * W, narrow<T>(v));
    }
  });
}

// What the slope of the activation is taken from.
enum class SlopeFrom { none, y, x };

// BnGrad for the packs of one thread: its channels' constants, N packs of the operands and dz out of them.
template <class T, Act A, SlopeFrom from>
struct PackGrad {
  static constexpr int W = Pack<T>::n;
  float mean[W], scale[W], shift[W];
  FASTCNN_DEVICE PackGrad(const BnGrad<T>& g, int packs, int pack) {
    load_channels(g.mean, pack, mean);
    if constexpr (from == SlopeFrom::x)
      load_channels(g.affine, pack, scale), load_channels(g.affine + packs * W, pack, shift);
  }
  // f(k, dz, x - mean) for N packs.
  template <int N, class F>
  FASTCNN_DEVICE void each(const BnGrad<T>& g, int64_t at, int64_t step, const F& f) const {
    Pack<T> dy[N], more[N] = {}, x[N], y[N] = {};
    FASTCNN_UNROLL
    for (int u = 0; u < N; ++u) {
      const int64_t i = (at + u * step) * W;
      dy[u] = load_pack(g.dy + i), x[u] = load_pack(g.x + i);
      if (g.dy2) more[u] = load_pack(g.dy2 + i);
      if constexpr (from == SlopeFrom::y) y[u] = load_pack(g.y + i);
    }
    ActOf<float> act = g.act;
    act.act = A;
    FASTCNN_UNROLL
    for (int u = 0; u < N; ++u) {
      float dz[W], v[W], w[W];
      widen(dy[u], dz), widen(x[u], v);
      if (g.dy2) {
        widen(more[u], w);
        FASTCNN_UNROLL
        for (int j = 0; j < W; ++j) dz[j] += w[j];
      }
      if constexpr (from == SlopeFrom::y) widen(y[u], w);
      FASTCNN_UNROLL
      for (int j = 0; j < W; ++j) {
        v[j] -= mean[j];
        if constexpr (from == SlopeFrom::x) {
          const float z = v[j] * scale[j] + shift[j];
          w[j] = act_bwd_uses_output(A) ? apply_act(act, z) : z;
        }
        if constexpr (from != SlopeFrom::none) dz[j] = act_slope(act, dz[j], w[j]);
      }
      f(at + u * step, dz, v);
    }
  }
};

// How many blocks of sums a processor holds and what each thread has in flight: eight channels with an affine map,
// or with an output to read and dz to store, need more than 80 registers.
template <class T, SlopeFrom from>
struct SumsShape {
  static constexpr bool heavy = from != SlopeFrom::none && Pack<T>::n == 8;
  static constexpr int blocks = heavy ? 2 : 3, unroll = heavy ? 4 : 2;
};

// parts (slices, 2, C) as bn_bwd_sums makes them. `made`: where dz is stored, or null. Shared: 2 * W values per
// thread.
template <class T, Act A, SlopeFrom from>
FASTCNN_KERNEL_BOUNDS(kPackThreads, (SumsShape<T, from>::blocks))
bn_bwd_sums_packs(RowTiles t, BnGrad<T> g, float* parts, T* made) {
  constexpr int W = Pack<T>::n;
  const PackThread me(t);
  float sum[W] = {}, dot[W] = {};
  if (me.works) {
    const PackGrad<T, A, from> grad(g, t.packs, me.pack);
    over_rows<SumsShape<T, from>::unroll>(t, me, true, [&]<int N>(int64_t at, int64_t step) {
      grad.template each<N>(g, at, step, [&](int64_t i, const float (&dz)[W], const float (&x)[W]) {
        if (made) store_pack(made + i * W, narrow<T>(dz));
        FASTCNN_UNROLL
        for (int j = 0; j < W; ++j) sum[j] += dz[j], dot[j] += dz[j] * x[j];
      });
    });
  }
  float* shared = shared_memory<float>();
  FASTCNN_UNROLL
  for (int j = 0; j < W; ++j) {
    shared[j * kPackThreads + threadIdx.x] = sum[j];
    shared[(W + j) * kPackThreads + threadIdx.x] = dot[j];
  }
  join_rows(t, me, [&](int a, int b) {
    FASTCNN_UNROLL
    for (int j = 0; j < 2 * W; ++j) shared[j * kPackThreads + a] += shared[j * kPackThreads + b];
  });
  const int64_t C = static_cast<int64_t>(t.packs) * W;
  store_channels<W>(t, [&](int column, int j, int64_t c) {
    parts[blockIdx.y * 2 * C + c] = shared[j * kPackThreads + column];
    parts[(blockIdx.y * 2 + 1) * C + c] = shared[(W + j) * kPackThreads + column];
  });
}

template <class T, Act A, SlopeFrom from>
FASTCNN_KERNEL_BOUNDS(kPackThreads, 2)
bn_bwd_apply_packs(RowTiles t, BnGrad<T> g, const float* gamma, const float* invstd, const float* coef, T* dx,
                   T* dresidual) {
  constexpr int W = Pack<T>::n;
  const PackThread me(t);
  if (!me.works) return;
  float scale[W], k[W], constant[W], slope[W];
  load_channels(gamma, me.pack, scale), load_channels(invstd, me.pack, k);
  load_channels(coef, me.pack, constant), load_channels(coef + t.packs * W, me.pack, slope);
  FASTCNN_UNROLL
  for (int j = 0; j < W; ++j) scale[j] *= k[j];
  const PackGrad<T, A, from> grad(g, t.packs, me.pack);
  over_rows<2>(t, me, false, [&]<int N>(int64_t at, int64_t step) {
    grad.template each<N>(g, at, step, [&](int64_t i, const float (&dz)[W], const float (&x)[W]) {
      float d[W];
      FASTCNN_UNROLL
      for (int j = 0; j < W; ++j) d[j] = scale[j] * (dz[j] - constant[j] - x[j] * slope[j]);
      store_pack(dx + i * W, narrow<T>(d));
      if (dresidual) store_pack(dresidual + i * W, narrow<T>(dz));
    });
  });
}

}  // namespace fastcnn::cuda
