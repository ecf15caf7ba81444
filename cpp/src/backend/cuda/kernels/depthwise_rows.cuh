// What it is: depthwise convolutions without multiplier, whose channels fill packs of 16 bytes: a thread makes
// four neighbouring columns of a pack of channels, row after row; rows above are still in the first cache. What it
// is not: for other multipliers, dilations, kernels and strides (depthwise.cuh).
#pragma once
#include "backend/cuda/kernels/act.cuh"
#include "backend/cuda/kernels/fast_div.h"
#include "backend/cuda/kernels/packs.cuh"

namespace fastcnn::cuda {

constexpr int kStrip = 4;  // columns of a thread
// In the gradient of the weights, whose sums need more registers.
constexpr int weights_strip(int64_t K, int64_t s) { return K + s > 6 ? 2 : 4; }

// Sizes of what is read (H, W) and what is made (oH, oW). A unit is one strip in `rows` rows; strips start at
// column -first_w, groups of rows at -first_h, so that each starts at phase 0 of a stride's gradient.
struct DepthwiseRows {
  int32_t H = 0, W = 0, oH = 0, oW = 0, C = 0, pT = 0, pL = 0, first_h = 0, first_w = 0, rows = 1, units = 0;
  FastDiv strips, groups;
};

// back: the gradient of the input. Forward, tap k of column i reads column i * s + k; backward, the taps k = i mod
// s read column (i - k) / s, and rows likewise. Block (packs, units), grid (units, packs). Shared: taps and bias
// as rows of the block's channels, in planes of four channels a pack, so that a warp reads 16 bytes a thread
// without bank conflicts.
template <class T, int K, int s, bool back>
FASTCNN_KERNEL_BOUNDS(256, 2)
depthwise_rows(DepthwiseRows p, const T* x, const T* w, const T* bias, const T* residual, ActOf<float> act, T* y) {
  follow_previous();
  constexpr int V = Pack<T>::n, S = kStrip, taps = K * K;
  constexpr int before = back ? (K - 1) / s : 0, columns = back ? (S - 1) / s + before + 1 : (S - 1) * s + K;
  static_assert(K % 2 == 1 && V % 4 == 0 && S % s == 0);
  const int packs = static_cast<int>(blockDim.x), pack = static_cast<int>(threadIdx.x);
  const int line = packs * V, c0 = static_cast<int>(blockIdx.y) * line, c = c0 + pack * V;
  float* weights = shared_memory<float>();
  {
    // Unsigned: divisions by constants are then one multiplication and a shift.
    const unsigned here = static_cast<unsigned>(p.C - c0 < line ? p.C - c0 : line), wide = blockDim.x;
    auto place = [&](unsigned channel) { return (channel % V / 4 * wide + channel / V) * 4 + channel % 4; };
    const unsigned me = threadIdx.y * wide + threadIdx.x, threads = wide * blockDim.y;
    for (unsigned i = me; i < here * taps; i += threads)
      weights[i % taps * static_cast<unsigned>(line) + place(i / taps)] = to_real(w[c0 * taps + i]);
    FASTCNN_NO_UNROLL
    for (unsigned i = me; i < here; i += threads)
      weights[taps * line + place(i)] = bias ? to_real(bias[c0 + i]) : 0.f;
  }
  __syncthreads();
  const int unit = static_cast<int>(blockIdx.x * blockDim.y + threadIdx.y);
  if (c >= p.C || unit >= p.units) return;
  auto load_weights = [&](int tap, float (&v)[V]) {
    FASTCNN_UNROLL
    for (int plane = 0; plane < V / 4; ++plane) {
      const Pack<float> four = load_pack(weights + tap * line + (plane * packs + pack) * 4);
      FASTCNN_UNROLL
      for (int k = 0; k < 4; ++k) v[plane * 4 + k] = four.v[k];
    }
  };
  const int64_t C = p.C;  // steps of 64 bits are one instruction from a pointer on
  int32_t strip, group;
  const int32_t n = p.groups.split(p.strips.split(unit, &strip), &group);
  const int w0 = strip * S - p.first_w, h0 = group * p.rows - p.first_h;
  const int v0 = back ? (w0 + p.pL) / s - before : w0 * s - p.pL;
  uint32_t readable = 0, made = 0;  // a bit for each column
  FASTCNN_UNROLL
  for (int j = 0; j < columns; ++j) readable |= static_cast<uint32_t>(v0 + j >= 0 && v0 + j < p.W) << j;
  FASTCNN_UNROLL
  for (int i = 0; i < S; ++i) made |= static_cast<uint32_t>(w0 + i >= 0 && w0 + i < p.oW) << i;

  // Row `row`, whose taps read the rows from `first` on; a: its phase.
  auto make = [&]<int a>(int row, int first) {
    float sum[S][V];
    load_weights(taps, sum[0]);
    FASTCNN_UNROLL
    for (int i = 1; i < S; ++i) {
      FASTCNN_UNROLL
      for (int k = 0; k < V; ++k) sum[i][k] = sum[0][k];
    }
    FASTCNN_NO_UNROLL  // loads of several rows at once would spill
        for (int q = 0; q < (back ? (K - a + s - 1) / s : K); ++q) {
      const int h = back ? first - q : first + q, kh = back ? a + q * s : q;
      const uint32_t mask = h >= 0 && h < p.H ? readable : 0;
      const T* at = x + static_cast<int64_t>(((n * p.H + h) * p.W + v0) * p.C + c);
      Pack<T> in[columns];
      FASTCNN_UNROLL
      for (int j = 0; j < columns; ++j) in[j] = load_pack_if(mask >> j & 1, at + j * C);
      float wk[K][V];
      FASTCNN_UNROLL
      for (int kw = 0; kw < K; ++kw) load_weights(kh * K + kw, wk[kw]);
      FASTCNN_UNROLL
      for (int j = 0; j < columns; ++j) {
        float v[V];
        widen(in[j], v);
        FASTCNN_UNROLL
        for (int i = 0; i < S; ++i) {
          FASTCNN_UNROLL
          for (int kw = 0; kw < K; ++kw)
            if (back ? (i - kw) % s == 0 && (i - kw) / s + before == j : i * s + kw == j) {
              FASTCNN_UNROLL
              for (int k = 0; k < V; ++k) sum[i][k] += v[k] * wk[kw][k];
            }
        }
      }
    }
    const int64_t to = ((n * p.oH + row) * p.oW + w0) * p.C + c;
    if (residual) {
      FASTCNN_UNROLL
      for (int i = 0; i < S; ++i) {
        float v[V];
        widen(load_pack_if(made >> i & 1, residual + to + i * C), v);
        FASTCNN_UNROLL
        for (int k = 0; k < V; ++k) sum[i][k] += v[k];
      }
    }
    apply_act_to(act, sum);
    FASTCNN_UNROLL
    for (int i = 0; i < S; ++i)
      if (made >> i & 1) store_pack(y + to + i * C, narrow<T>(sum[i]));
  };
  if constexpr (back) {
    const int t0 = (h0 + p.pT) / s;
    for (int r = 0; r < p.rows; r += s) {
      if (h0 + r >= 0 && h0 + r < p.oH) make.template operator()<0>(h0 + r, t0 + r / s);
      if constexpr (s == 2)
        if (h0 + r + 1 < p.oH) make.template operator()<1>(h0 + r + 1, t0 + r / s);
    }
  } else {
    const int end = h0 + p.rows < p.oH ? h0 + p.rows : p.oH;
    FASTCNN_NO_UNROLL
    for (int row = h0; row < end; ++row) make.template operator()<0>(row, row * s - p.pT);
  }
}

// The gradient of the weights, and of the bias where bias_parts is there. A thread sums one row of taps of a pack
// over strips of y; a block's threads (packs, K, lanes) share the rows they read; grid (slices, packs).
// parts (slices, C, taps), bias_parts (slices, C); shared: a value for each thread and channel.
template <class T, int K, int s>
FASTCNN_KERNEL_BOUNDS(256, K == 7 ? 1 : 2)
depthwise_rows_weights(DepthwiseRows p, const T* x, const T* dy, float* parts, float* bias_parts) {
  follow_previous();
  constexpr int V = Pack<T>::n, S = weights_strip(K, s), columns = (S - 1) * s + K;
  const int packs = static_cast<int>(blockDim.x), pack = static_cast<int>(threadIdx.x);
  const int kh = static_cast<int>(threadIdx.y), lane = static_cast<int>(threadIdx.z);
  const int lanes = static_cast<int>(blockDim.z), line = packs * V, c0 = static_cast<int>(blockIdx.y) * line;
  const int c = c0 + pack * V, slices = static_cast<int>(gridDim.x), slice = static_cast<int>(blockIdx.x);
  const int64_t C = p.C;
  float sum[K][V] = {}, of_bias[V] = {};
  const int each = (p.units + slices - 1) / slices, begin = slice * each;
  const int end = c >= p.C ? 0 : begin + each < p.units ? begin + each : p.units;
  FASTCNN_NO_UNROLL
  for (int unit = begin + lane; unit < end; unit += lanes) {
    int32_t strip, row;
    const int32_t n = p.groups.split(p.strips.split(unit, &strip), &row);
    const int w0 = strip * S, v0 = w0 * s - p.pL, h = row * s - p.pT + kh;
    const bool row_there = h >= 0 && h < p.H;
    const T* y_at = dy + ((n * p.oH + row) * p.oW + w0) * p.C + c;
    const T* at = x + static_cast<int64_t>(((n * p.H + h) * p.W + v0) * p.C + c);
    Pack<T> g[S], in[columns];
    FASTCNN_UNROLL
    for (int i = 0; i < S; ++i) g[i] = load_pack_if(w0 + i < p.oW, y_at + i * C);
    FASTCNN_UNROLL
    for (int j = 0; j < columns; ++j) in[j] = load_pack_if(row_there && v0 + j >= 0 && v0 + j < p.W, at + j * C);
    float wide[S][V];
    FASTCNN_UNROLL
    for (int i = 0; i < S; ++i) widen(g[i], wide[i]);
    if (bias_parts && kh == 0) {
      FASTCNN_UNROLL
      for (int i = 0; i < S; ++i) {
        FASTCNN_UNROLL
        for (int k = 0; k < V; ++k) of_bias[k] += wide[i][k];
      }
    }
    FASTCNN_UNROLL
    for (int j = 0; j < columns; ++j) {
      float v[V];
      widen(in[j], v);
      FASTCNN_UNROLL
      for (int i = 0; i < S; ++i) {
        const int kw = j - i * s;
        if (kw < 0 || kw >= K) continue;
        FASTCNN_UNROLL
        for (int k = 0; k < V; ++k) sum[kw][k] += v[k] * wide[i][k];
      }
    }
  }
  float* shared = shared_memory<float>();
  const int threads = packs * K * lanes, me = (lane * K + kh) * packs + pack;
  const int64_t first = static_cast<int64_t>(slice) * p.C + c0;
  auto bring = [&](const float (&v)[V]) {
    __syncthreads();
    FASTCNN_UNROLL
    for (int k = 0; k < V; ++k) shared[me * V + k] = v[k];
    __syncthreads();
  };
  auto total = [&](int i) {
    float t = 0;
    for (int l = 0; l < lanes; ++l) t += shared[l * K * line + i];
    return t;
  };
  FASTCNN_UNROLL
  for (int kw = 0; kw < K; ++kw) {
    bring(sum[kw]);
    for (int i = me; i < K * line; i += threads) {
      const int tap_row = i / line, channel = i - tap_row * line;
      if (c0 + channel < p.C) parts[(first + channel) * (K * K) + tap_row * K + kw] = total(i);
    }
  }
  if (!bias_parts) return;
  bring(of_bias);
  for (int i = me; i < line; i += threads)
    if (c0 + i < p.C) bias_parts[first + i] = total(i);
}

}  // namespace fastcnn::cuda
