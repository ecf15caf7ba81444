// What it is: 1x1 convolutions between at most 32 channels and at most 192, 16-bit floats, on tensor cores
// (mma.sync), which memory bounds: every warp streams tiles of its own through its own ring in shared memory
// beside the block's weights, and waits for nobody. What it is not: for channels whose weights do not fit beside
// the rings; windows (halo.cuh).
#pragma once
#include "backend/cuda/kernels/gemm_load.cuh"
#include "backend/cuda/kernels/gemm_store.cuh"
#include "backend/cuda/kernels/pointwise.h"

namespace fastcnn::cuda {

// `count` rows from row `first` on of those that begin at `from`, by one warp; zeros from row M on.
template <class T>
FASTCNN_DEVICE void bring_rows(const PointwiseRows& g, const T* from, int32_t first, int count, int32_t M, T* to) {
  const T* begin = from + static_cast<int64_t>(first) * g.stride();
  const int lane = static_cast<int>(threadIdx.x) % 32, pieces = count * g.chunks;
  if (first + count <= M) {
    for (int e = lane; e < pieces; e += 32) {
      const int row = g.row(e);
      copy_async16(to + g.place_of(e, row), begin + g.memory_of(e, row), true);
    }
    return;
  }
  FASTCNN_NO_UNROLL
  for (int e = lane; e < pieces; e += 32) {
    const int row = g.row(e);
    const bool inside = first + row < M;
    copy_async16(to + g.place_of(e, row), inside ? begin + g.memory_of(e, row) : from, inside);
  }
}
// As many back, to rows that follow one another in memory.
template <class T>
FASTCNN_DEVICE void store_pieces(const PointwiseRows& g, const T* rows, int32_t first, int count, int32_t M,
                                 T* y) {
  T* begin = y + static_cast<int64_t>(first) * g.stride();
  const int there = (M - first < count ? M - first : count) * g.chunks;
  for (int e = static_cast<int>(threadIdx.x) % 32; e < there; e += 32)
    store_pack(begin + e * 8, load_pack(rows + g.place_of(e, g.row(e))));
}

// Weights (to, from), or (from, to) where `back`, as (to, from) with zeros up to multiples of 16.
template <class T>
FASTCNN_DEVICE void bring_pointwise_weights(const T* w, int32_t from, int32_t to, bool back, T* shared) {
  const int pitch = pointwise_weights_pitch(from), inner = pitch - 1, outer = (to + 15) / 16 * 16;
  const auto threads = static_cast<int>(blockDim.x);
  if (!back) {
    for (int e = static_cast<int>(threadIdx.x); e < outer * inner; e += threads) {
      const int n = e / inner, c = e % inner;
      store_pack(shared + (n * pitch + c) * 8, load_pack_if(n < to && c * 8 < from, w + n * from + c * 8));
    }
    return;
  }
  for (int e = static_cast<int>(threadIdx.x); e < inner * outer; e += threads) {
    const int k = e % (inner * 8), c = e / (inner * 8);
    const Pack<T> v = load_pack_if(k < from && c * 8 < to, w + k * to + c * 8);
    FASTCNN_UNROLL
    for (int i = 0; i < 8; ++i) shared[(c * 8 + i) * pitch * 8 + k] = v.v[i];
  }
}
// 16 channels read from kk * 16 on, 16 made from j * 16 on: two fragments.
template <class T>
FASTCNN_DEVICE void load_pointwise_weights(const T* shared, int pitch, int kk, int j, uint32_t (&r)[4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  load_matrices<false>(shared + ((j * 16 + lane / 16 * 8 + lane % 8) * pitch + kk * 2 + lane / 8 % 2) * 8, r);
}
// 16 rows by 16 channels from kk * 16 on. A last chunk that stands alone has zeros beside it: what lies there in
// shared memory may be no number.
template <class T>
FASTCNN_DEVICE void load_rows(const T* rows, const PointwiseRows& g, int kk, uint32_t (&r)[4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  load_matrices<false>(rows + g.place(lane % 16, kk * 2 + lane / 16), r);
  if (kk * 2 + 1 == g.chunks) r[2] = r[3] = 0;
}

// Rows r and r + 8 of 8 columns from `column` on, as mma leaves them, rounded into a tile; m: of row 0 in memory.
// `more`: bias, residual, relu or relu6.
template <class T, bool more>
FASTCNN_DEVICE void lay_down(const Epilogue<T>& e, const float (&sum)[4], int32_t m, int32_t M, int32_t N,
                             int column, const PointwiseRows& g, T* rows) {
  const int lane = static_cast<int>(threadIdx.x) % 32, n = column + lane % 4 * 2;
  FASTCNN_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int row = half * 8 + lane / 4;
    float a = sum[half * 2], b = sum[half * 2 + 1];
    if constexpr (more) {
      const float least = e.act.act == Act::none ? -INFINITY : 0, most = e.act.act == Act::relu6 ? 6 : INFINITY;
      if (e.bias) add_pair<T>(*reinterpret_cast<const uint32_t*>(e.bias + n), &a, &b);
      if (e.residual && m + row < M)
        add_pair<T>(*reinterpret_cast<const uint32_t*>(e.residual + static_cast<int64_t>(m + row) * N + n), &a,
                    &b);
      a = a < least ? least : a > most ? most : a, b = b < least ? least : b > most ? most : b;
    }
    *reinterpret_cast<uint32_t*>(rows + g.place(row, 0) + n) = to_pair<T>(a, b);
  }
}

// Sums of two columns and of their squares. Rows behind the last are zero.
FASTCNN_DEVICE void add_two_columns(const float (&sum)[4], float* total) {
  total[0] += sum[0] + sum[2], total[1] += sum[1] + sum[3];
  total[2] += sum[0] * sum[0] + sum[2] * sum[2], total[3] += sum[1] * sum[1] + sum[3] * sum[3];
}
// part (2, N): the totals of this block's warps, by way of `shared`, 2 N floats for each.
template <int tiles, int warps>
FASTCNN_DEVICE void leave_sums(float (&totals)[tiles][4], float* shared, float* part, int32_t N) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  wait_copies<0>();
  __syncthreads();  // what lay in `shared` has been read
  FASTCNN_UNROLL
  for (int j = 0; j < tiles; ++j) {
    if (j * 8 >= N) break;
    FASTCNN_UNROLL
    for (int k = 0; k < 4; ++k) {
      FASTCNN_UNROLL
      for (int d = 4; d < 32; d *= 2) totals[j][k] += __shfl_xor_sync(0xffffffffu, totals[j][k], d);
      if (lane < 4) shared[(thread / 32 * 2 + k / 2) * N + j * 8 + lane * 2 + k % 2] = totals[j][k];
    }
  }
  __syncthreads();
  for (int i = thread; i < 2 * N; i += warps * 32) {
    float s = 0;
    FASTCNN_UNROLL
    for (int w = 0; w < warps; ++w) s += shared[w * 2 * N + i];
    part[i] = s;
  }
}

// y (M, N) from x (M, KC * 8), N above kPointwiseNarrow. Weights: bring_pointwise_weights. `most`: above 0, the
// bare product of at most so many channels, and in parts (gridDim.x, 2, N) the sums of its columns (moments.cuh).
// Shared: weights; of each warp the ring and a tile of y.
template <class T, int KC, int most, bool more, int MI, int warps, int stages, int blocks>
FASTCNN_KERNEL_BOUNDS(warps * 32, blocks)
widening_kernel(int32_t M, int32_t N, const T* x, const T* w, bool back, Epilogue<T> epilogue, T* y,
                float* parts) {
  constexpr int steps = (KC + 1) / 2, tile = MI * 16, pitch = pointwise_weights_pitch(KC * 8);
  constexpr bool moments = most > 0;
  const PointwiseRows in(KC * 8, KC * 8), out(N, N);
  const int stage = in.place(tile, 0), lane_warp = static_cast<int>(threadIdx.x) / 32;
  T* weights = shared_memory<T>();
  T* ring = weights + pointwise_weights(KC * 8, N) + lane_warp * (stages * stage + out.place(tile, 0));
  T* made = ring + stages * stage;
  const int32_t tiles = (M + tile - 1) / tile, all = static_cast<int32_t>(gridDim.x) * warps;
  int32_t t = static_cast<int32_t>(blockIdx.x) * warps + lane_warp;
  auto bring = [&](int32_t at, int place) {
    if (at < tiles) bring_rows(in, x, at * tile, tile, M, ring + place);
    commit_copies();  // empty groups too: waiting counts them
  };
  FASTCNN_NO_UNROLL
  for (int s = 0; s < stages - 1; ++s) bring(t + s * all, s * stage);
  bring_pointwise_weights(w, KC * 8, N, back, weights);
  __syncthreads();

  [[maybe_unused]] float totals[moments ? most / 8 : 1][4] = {};
  FASTCNN_NO_UNROLL
  for (int now = 0; t < tiles; t += all, now = now == (stages - 1) * stage ? 0 : now + stage) {
    wait_copies<stages - 2>();
    sync_warp();  // all lanes have brought this tile, and have read the one before
    bring(t + (stages - 1) * all, now == 0 ? (stages - 1) * stage : now - stage);
    uint32_t a[MI][steps][4];
    FASTCNN_UNROLL
    for (int i = 0; i < MI; ++i) FASTCNN_UNROLL
    for (int kk = 0; kk < steps; ++kk) load_rows(ring + now + in.place(i * 16, 0), in, kk, a[i][kk]);
    auto columns = [&](int j, [[maybe_unused]] float* total) {  // 16 of them
      uint32_t b[steps][4];
      FASTCNN_UNROLL
      for (int kk = 0; kk < steps; ++kk) load_pointwise_weights(weights, pitch, kk, j, b[kk]);
      FASTCNN_UNROLL
      for (int i = 0; i < MI; ++i) FASTCNN_UNROLL
      for (int h = 0; h < 2; ++h) {
        float sum[4] = {};
        FASTCNN_UNROLL
        for (int kk = 0; kk < steps; ++kk) multiply_add<T>(sum, a[i][kk], &b[kk][h * 2]);
        if constexpr (moments) add_two_columns(sum, total + h * 4);
        if (j * 16 + h * 8 < N)
          lay_down<T, more>(epilogue, sum, t * tile + i * 16, M, N, j * 16 + h * 8, out,
                            made + out.place(i * 16, 0));
      }
    };
    if constexpr (moments) {
      FASTCNN_UNROLL
      for (int j = 0; j < most / 16; ++j) {
        if (j * 16 >= N) break;
        columns(j, totals[j * 2]);
      }
    } else {
      for (int j = 0; j * 16 < N; ++j) columns(j, nullptr);
    }
    sync_warp();
    store_pieces(out, made, t * tile, tile, M, y);
  }
  if constexpr (moments)
    leave_sums<most / 8, warps>(totals, shared_memory<float>(), parts + static_cast<int64_t>(blockIdx.x) * 2 * N,
                                N);
}

// y (M, NC * 8) from x (M, K). As above.
template <class T, int NC, bool moments, bool more, int MI, int warps, int stages, int blocks>
FASTCNN_KERNEL_BOUNDS(warps * 32, blocks)
narrowing_kernel(int32_t M, int32_t K, const T* x, const T* w, bool back, Epilogue<T> epilogue, T* y,
                 float* parts) {
  constexpr int N = NC * 8, pairs = (NC + 1) / 2, tile = MI * 16;
  const PointwiseRows in(K, K), out(N, N);
  const int stage = in.place(tile, 0), pitch = pointwise_weights_pitch(K);
  const int lane_warp = static_cast<int>(threadIdx.x) / 32;
  T* weights = shared_memory<T>();
  T* ring = weights + pointwise_weights(K, N) + lane_warp * (stages * stage + out.place(tile, 0));
  T* made = ring + stages * stage;
  const int32_t tiles = (M + tile - 1) / tile, all = static_cast<int32_t>(gridDim.x) * warps;
  int32_t t = static_cast<int32_t>(blockIdx.x) * warps + lane_warp;
  auto bring = [&](int32_t at, int place) {
    if (at < tiles) bring_rows(in, x, at * tile, tile, M, ring + place);
    commit_copies();
  };
  FASTCNN_NO_UNROLL
  for (int s = 0; s < stages - 1; ++s) bring(t + s * all, s * stage);
  bring_pointwise_weights(w, K, N, back, weights);
  __syncthreads();

  [[maybe_unused]] float totals[NC][4] = {};
  FASTCNN_NO_UNROLL
  for (int now = 0; t < tiles; t += all, now = now == (stages - 1) * stage ? 0 : now + stage) {
    wait_copies<stages - 2>();
    sync_warp();  // all lanes have brought this tile, and have read the one before
    bring(t + (stages - 1) * all, now == 0 ? (stages - 1) * stage : now - stage);
    float sum[MI][pairs * 2][4] = {};
    for (int kk = 0; kk * 2 < in.chunks; ++kk) {
      uint32_t a[MI][4], b[pairs][4];
      FASTCNN_UNROLL
      for (int j = 0; j < pairs; ++j) load_pointwise_weights(weights, pitch, kk, j, b[j]);
      FASTCNN_UNROLL
      for (int i = 0; i < MI; ++i) {
        load_rows(ring + now + in.place(i * 16, 0), in, kk, a[i]);
        FASTCNN_UNROLL
        for (int j = 0; j < NC; ++j) multiply_add<T>(sum[i][j], a[i], &b[j / 2][j % 2 * 2]);
      }
    }
    FASTCNN_UNROLL
    for (int i = 0; i < MI; ++i) FASTCNN_UNROLL
    for (int j = 0; j < NC; ++j) {
      if constexpr (moments) add_two_columns(sum[i][j], totals[j]);
      lay_down<T, more>(epilogue, sum[i][j], t * tile + i * 16, M, N, j * 8, out, made + out.place(i * 16, 0));
    }
    sync_warp();
    store_pieces(out, made, t * tile, tile, M, y);
  }
  if constexpr (moments)
    leave_sums<NC, warps>(totals, shared_memory<float>(), parts + static_cast<int64_t>(blockIdx.x) * 2 * N, N);
}

// The gradient of the weights: parts (gridDim.x, W * NC * 8) of sums over rows of wide (M, W) by narrow
// (M, NC * 8), the sum of channels a and b at a * of_wide + b * of_narrow. A warp takes one part of the wide
// channels and rows of its own. Shared: of each warp a ring of tiles, wide and narrow rows.
template <class T, int NC, int MI, int warps, int stages, int blocks>
FASTCNN_KERNEL_BOUNDS(warps * 32, blocks)
pointwise_weights_kernel(int32_t M, int32_t W, const T* wide, const T* narrow, int32_t of_wide, int32_t of_narrow,
                         float* parts) {
  constexpr int tile = MI * 16, pairs = (NC + 1) / 2, N = NC * 8;
  const int lane = static_cast<int>(threadIdx.x) % 32, lane_warp = static_cast<int>(threadIdx.x) / 32;
  const int wide_parts = pointwise_parts(W), slices = warps / wide_parts;
  const int part = lane_warp % wide_parts, slice = lane_warp / wide_parts;
  const int first = part * pointwise_part(W) * 16, left = W - first;  // channels
  const int here = left < pointwise_part(W) * 16 ? left : pointwise_part(W) * 16;
  const PointwiseRows a_rows(here, W), b_rows(N, N);
  // The same for all parts, so that rings do not meet.
  const int a_stage = PointwiseRows(pointwise_part(W) * 16, W).place(tile, 0),
            stage = a_stage + b_rows.place(tile, 0);
  T* ring = shared_memory<T>() + lane_warp * stages * stage;
  const int32_t tiles = (M + tile - 1) / tile, all = static_cast<int32_t>(gridDim.x) * slices;
  int32_t t = static_cast<int32_t>(blockIdx.x) * slices + slice;
  if (slice >= slices) t = tiles;
  auto bring = [&](int32_t at, int place) {
    if (at < tiles) {
      bring_rows(a_rows, wide + first, at * tile, tile, M, ring + place);
      bring_rows(b_rows, narrow, at * tile, tile, M, ring + place + a_stage);
    }
    commit_copies();
  };
  FASTCNN_NO_UNROLL
  for (int s = 0; s < stages - 1; ++s) bring(t + s * all, s * stage);
  // Chunks that groups of 16 lack are read where another one lies: their sums go nowhere, and a branch would cost
  // more than the products.
  const int a_row = lane / 16 * 8 + lane % 8, a_chunk = lane / 8 % 2, b_row = lane % 16, b_chunk = lane / 16;

  float sum[kPointwiseSums][NC][4] = {};
  FASTCNN_NO_UNROLL
  for (int now = 0; t < tiles; t += all, now = now == (stages - 1) * stage ? 0 : now + stage) {
    wait_copies<stages - 2>();
    sync_warp();
    bring(t + (stages - 1) * all, now == 0 ? (stages - 1) * stage : now - stage);
    FASTCNN_UNROLL
    for (int k = 0; k < MI; ++k) {
      uint32_t b[pairs][4];
      FASTCNN_UNROLL
      for (int j = 0; j < pairs; ++j) {
        const int chunk = j * 2 + b_chunk < NC ? j * 2 + b_chunk : 0;
        load_matrices<true>(ring + now + a_stage + b_rows.place(k * 16 + b_row, chunk), b[j]);
      }
      uint32_t a[kPointwiseSums][4];
      FASTCNN_UNROLL
      for (int i = 0; i < kPointwiseSums; ++i) {
        const int chunk = i * 2 + a_chunk < a_rows.chunks ? i * 2 + a_chunk : 0;
        load_matrices<true>(ring + now + a_rows.place(k * 16 + a_row, chunk), a[i]);
      }
      FASTCNN_UNROLL
      for (int i = 0; i < kPointwiseSums; ++i) FASTCNN_UNROLL
      for (int j = 0; j < NC; ++j) multiply_add<T>(sum[i][j], a[i], &b[j / 2][j % 2 * 2]);
    }
  }

  // Slices are added by halves, in the same order in every run.
  wait_copies<0>();
  __syncthreads();
  FASTCNN_NO_UNROLL
  for (int n = slices; n > 1; n /= 2) {
    float* others =
        shared_memory<float>() + (slice % (n / 2) * wide_parts + part) * (kPointwiseSums * NC * 4 * 32) + lane;
    auto each = [&](auto&& f) {
      FASTCNN_UNROLL
      for (int i = 0; i < kPointwiseSums; ++i) FASTCNN_UNROLL
      for (int j = 0; j < NC; ++j) FASTCNN_UNROLL
      for (int k = 0; k < 4; ++k) f(sum[i][j][k], others[((i * NC + j) * 4 + k) * 32]);
    };
    if (slice >= n / 2 && slice < n) each([](float& mine, float& there) { there = mine; });
    __syncthreads();
    if (slice < n / 2) each([](float& mine, float& there) { mine += there; });
    __syncthreads();
  }
  if (slice > 0) return;
  float* to = parts + static_cast<int64_t>(blockIdx.x) * W * N;
  FASTCNN_UNROLL
  for (int i = 0; i < kPointwiseSums; ++i) FASTCNN_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int channel = i * 16 + half * 8 + lane / 4;
    if (channel >= here) continue;
    FASTCNN_UNROLL
    for (int j = 0; j < NC; ++j) FASTCNN_UNROLL
    for (int k = 0; k < 2; ++k)
      to[(first + channel) * of_wide + (j * 8 + lane % 4 * 2 + k) * of_narrow] = sum[i][j][half * 2 + k];
  }
}

}  // namespace fastcnn::cuda
