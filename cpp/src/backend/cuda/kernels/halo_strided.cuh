// What it is: the gradient of x of a 3x3 convolution at stride 2 from tiles of dy with their halo (halo.h): two by
// two pixels of x for each one of a grid, each of the four with the taps of its parity. What it is not: stride 1
// (halo.cuh).
#pragma once
#include "backend/cuda/kernels/halo.cuh"

namespace fastcnn::cuda {

// Pixel (r, c) of the grid stands for x's (2r + qh, 2c + qw), q its parity. Along a side, with padding 2a + b,
// taps k = q + b mod 2 meet it: pixel r + a + b - 1 + i of dy by tap q - b + 2 - 2i, i = 0, 1.
struct HaloParities {
  Halo g;                                           // of dy, windows (2, 2), and the grid
  int32_t H = 0, W = 0, odd_top = 0, odd_left = 0;  // of x; b of the padding
  FastDiv by_grid_rows;
  FASTCNN_INLINE static int32_t before(int64_t padding) {  // of dy, 1 - a - b; less than 0: not possible
    return static_cast<int32_t>(1 - (padding / 2 + padding % 2));
  }
  FASTCNN_INLINE static int32_t tap(int32_t q, int32_t odd, int32_t i) { return q - odd + 2 - 2 * i; }
  // The upper left pixel of x of the grid's pixel i; bit 0: it has none below, bit 1: none beside it.
  FASTCNN_INLINE int32_t pixel(int32_t i, uint32_t* ends) const {
    int32_t column, row;
    const int32_t n = by_grid_rows.split(g.by_oW.split(i, &column), &row);
    *ends = static_cast<uint32_t>(2 * row + 1 >= H) | static_cast<uint32_t>(2 * column + 1 >= W) << 1;
    return (n * H + 2 * row) * W + 2 * column;
  }
};

// As halo_kernel, back. Grid: (walkers over tiles, blocks of O channels).
template <class T, int C, int O, int MI>
FASTCNN_KERNEL_BOUNDS(kHaloThreads, halo_blocks(C, O))
halo_strided_back_kernel(HaloParities p, int32_t made, const T* dy, const T* w, Epilogue<T> epilogue, T* dx) {
  constexpr int taps = 9, KC = C / 16, NT = O / 8, weights = taps * C * O;
  T* shared = shared_memory<T>();
  const Halo& g = p.g;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int stage = g.plane * C, o0 = static_cast<int>(blockIdx.y) * O;
  clear_shared(shared + weights, kHaloStages * stage);
  bring_halo_weights<C, O, taps, true>(w, o0, made, shared);
  __syncthreads();
  auto t = static_cast<int32_t>(blockIdx.x);
  HaloTile tile = g.tile(t);
  bring_halo<C>(g, tile, dy, shared + weights);
  commit_copies();
  int at[MI];
  FASTCNN_UNROLL
  for (int i = 0; i < MI; ++i)
    at[i] = weights + (lane / 16 * g.plane + g.place_read((warp * MI + i) * 16 + lane % 16)) * 8;
  if (epilogue.bias) epilogue.bias += o0;

  FASTCNN_NO_UNROLL
  for (int now = 0;; now = stage - now) {
    wait_copies<0>();
    __syncthreads();  // all have brought this tile, and have read the one before
    const int32_t next = t + static_cast<int32_t>(gridDim.x);
    const HaloTile tile_now = tile;
    if (next < g.tiles) {
      tile = g.tile(next);
      bring_halo<C>(g, tile, dy, shared + weights + (stage - now));
      commit_copies();
    }
    int32_t pixel[MI][2];  // of x, -1: none
    uint32_t ends = 0;     // two bits each
    FASTCNN_UNROLL
    for (int i = 0; i < MI; ++i) FASTCNN_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int32_t m = (warp * MI + i) * 16 + half * 8 + lane / 4;
      uint32_t here;
      const int32_t first = p.pixel(tile_now.to + m, &here);
      pixel[i][half] = m < tile_now.count ? first : -1;
      ends |= here << (i * 4 + half * 2);
    }
    FASTCNN_NO_UNROLL
    for (int parity = 0; parity < 4; ++parity) {
      const int32_t qh = parity / 2, qw = parity % 2;
      float sum[MI][NT][4] = {};
      FASTCNN_UNROLL
      for (int place = 0; place < 4; ++place) {
        const int32_t kh = p.tap(qh, p.odd_top, place / 2), kw = p.tap(qw, p.odd_left, place % 2);
        if (!below(kh, 3) || !below(kw, 3)) continue;
        FASTCNN_UNROLL
        for (int kk = 0; kk < KC; ++kk) {
          const int shift = now + (kk * 2 * g.plane + place / 2 * g.pitch + place % 2) * 8;
          uint32_t b[NT / 2][4], a[MI][4];
          FASTCNN_UNROLL
          for (int j = 0; j < NT / 2; ++j) load_halo_weights<C, O, true>(shared, kh * 3 + kw, kk, j, b[j]);
          FASTCNN_UNROLL
          for (int i = 0; i < MI; ++i) load_matrices<false>(shared + at[i] + shift, a[i]);
          FASTCNN_UNROLL
          for (int i = 0; i < MI; ++i) FASTCNN_UNROLL
          for (int j = 0; j < NT; ++j) multiply_add<T>(sum[i][j], a[i], &b[j / 2][j % 2 * 2]);
        }
      }
      store_halos<T, O, MI>(
          epilogue, sum,
          [&](int i, int half) {
            int32_t first = -1;
            FASTCNN_UNROLL
            for (int k = 0; k < 2 * MI; ++k)
              if (k == i * 2 + half) first = pixel[k / 2][k % 2];
            const uint32_t end = ends >> (i * 4 + half * 2);
            return first < 0 || (qh & end & 1) || (qw & end >> 1 & 1)
                       ? -1
                       : static_cast<int64_t>(first + qh * p.W + qw) * made + o0;
          },
          dx);
    }
    if (next >= g.tiles) return;
    t = next;
  }
}

}  // namespace fastcnn::cuda
