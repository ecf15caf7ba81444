// What it is: convolutions of few channels (16 to 64), 16-bit floats, on tensor cores (mma.sync), which memory and
// not arithmetic bounds: a block brings a tile of x with its halo (halo.h) once and takes all taps from there,
// while the next one is on its way. What it is not: for many channels, whose weights do not fit beside a tile.
#pragma once
#include "backend/cuda/kernels/gemm_load.cuh"
#include "backend/cuda/kernels/gemm_store.cuh"
#include "backend/cuda/kernels/halo.h"

namespace fastcnn::cuda {

constexpr int kHaloThreads = 128, kHaloStages = 2, kHaloWeightStages = 3;
// Blocks on a multiprocessor, as registers allow.
constexpr int halo_blocks(int64_t C, int64_t O) { return C * O > 512 ? 3 : 4; }
constexpr int halo_weight_blocks(int64_t C) { return C > 16 ? 1 : 2; }
// How a block works: groups of 16 pixels of a warp, warps, tiles in shared memory, blocks on a multiprocessor (as
// registers allow), pieces of 16 bytes a thread brings whose places it keeps.
struct HaloShape {
  int groups, warps, stages, blocks, held;
  constexpr int threads() const { return warps * 32; }
  constexpr int pixels() const { return groups * warps * 16; }
};
// Few large blocks: each pays for clearing its memory, its weights and a first tile that nothing hides. The first
// two were timed on an H100 beside others (27 to 22 and 27 to 20 us for 512 images of ResNet-20's layers).
constexpr HaloShape halo_shape(int64_t C, int64_t O) {
  return C == 16 && O == 16 ? HaloShape{4, 8, 2, 2, 5}
         : C == 16          ? HaloShape{4, 4, 2, 3, 6}
                            : HaloShape{2, 8, 2, 2, 4};
}

// The pixels of tile `t` into planes of chunks at `to`. `channels` / 8 chunks a pixel.
template <int channels, class T>
FASTCNN_DEVICE void bring_halo(const Halo& g, const HaloTile& t, const T* x, T* to) {
  constexpr unsigned chunks = channels / 8;
  const T* from = x + static_cast<int64_t>(t.from) * channels;
  const unsigned all = static_cast<unsigned>(g.pixels_brought()) * chunks;
  for (unsigned e = threadIdx.x; e < all; e += blockDim.x) {
    const auto pixel = static_cast<int32_t>(e / chunks), chunk = static_cast<int32_t>(e % chunks);
    const bool there = t.from + pixel >= t.begin && t.from + pixel < t.end;
    copy_async16(to + (chunk * g.plane + g.place_brought(pixel)) * 8, there ? from + e * 8u : x, there);
  }
}
// As bring_halo, for a kernel's every tile: where a thread's pieces lie in shared memory is the same in all of
// them, so the first `held` places are kept (two divisions each cost more than the copy).
template <int channels, int threads, int held>
struct HaloPieces {
  static constexpr int chunks = channels / 8;
  int at[held];
  FASTCNN_DEVICE static int place(const Halo& g, int e) {
    return (e % chunks * g.plane + g.place_brought(e / chunks)) * 8;
  }
  FASTCNN_DEVICE explicit HaloPieces(const Halo& g) {
    FASTCNN_UNROLL
    for (int k = 0; k < held; ++k) at[k] = place(g, static_cast<int>(threadIdx.x) + k * threads);
  }
  template <class T>
  FASTCNN_DEVICE void bring(const Halo& g, const HaloTile& t, const T* x, T* to) const {
    const int mine = static_cast<int>(threadIdx.x), all = g.pixels_brought() * chunks;
    const int64_t from = static_cast<int64_t>(t.from) * channels + mine * 8;
    const int before = mine - (t.begin - t.from) * chunks;
    const auto there = static_cast<unsigned>(t.end - t.begin) * chunks;
    auto copy = [&](int k, int place) {
      const bool here = static_cast<unsigned>(before + k) < there;
      copy_async16(to + place, here ? x + from + k * 8 : x, here);
    };
    FASTCNN_UNROLL
    for (int k = 0; k < held; ++k)
      if (mine + k * threads < all) copy(k * threads, at[k]);
    FASTCNN_NO_UNROLL
    for (int k = held * threads; mine + k < all; k += threads) copy(k, place(g, mine + k));
  }
};
// Zeros, 16 bytes at once.
template <class T>
FASTCNN_DEVICE void clear_shared(T* at, int elements) {
  for (int i = static_cast<int>(threadIdx.x); i < elements / 8; i += static_cast<int>(blockDim.x))
    reinterpret_cast<Pack<uint32_t>*>(at)[i] = Pack<uint32_t>{};
}

// The weights between C channels read and O made, with taps; back: as (C, taps, all made) lie, else as (O, taps,
// C). In shared memory they are (tap, chunk, row). `first`: channel made; `made`: of them in memory.
template <int C, int O, int taps, bool back, class T>
FASTCNN_DEVICE void bring_halo_weights(const T* w, int first, int made, T* to) {
  constexpr int inner = back ? O : C, outer = back ? C : O, chunks = inner / 8, per_row = taps * chunks;
  for (int e = static_cast<int>(threadIdx.x); e < outer * per_row; e += static_cast<int>(blockDim.x)) {
    const int row = e / per_row, rest = e % per_row;
    const T* from =
        back ? w + (row * taps + rest / chunks) * made + first + rest % chunks * 8 : w + first * taps * C + e * 8;
    copy_async16(to + (rest * outer + row) * 8, from, true);
  }
}
// 16 channels read from kk * 16 on, 16 made from j * 16 on: two fragments.
template <int C, int O, bool back, class T>
FASTCNN_DEVICE void load_halo_weights(const T* w, int tap, int kk, int j, uint32_t (&r)[4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if constexpr (back)
    load_matrices<true>(w + ((tap * (O / 8) + j * 2 + lane / 16) * C + kk * 16 + lane % 16) * 8, r);
  else
    load_matrices<false>(w + ((tap * (C / 8) + kk * 2 + lane / 8 % 2) * O + j * 16 + lane / 16 * 8 + lane % 8) * 8,
                         r);
}

// 16 pixels by O channels, as mma leaves them: words 2h and 2h + 1 of sum[j] are pixel h * 8 + lane / 4, channels
// j * 8 + lane % 4 * 2 and the next one. at(h): where that pixel's channels begin, negative: nowhere.
template <class T, int O, bool more, class At>
FASTCNN_DEVICE void store_halo(const Epilogue<T>& e, float (&sum)[O / 8][4], const At& at, T* y) {
  constexpr int NT = O / 8;
  const int in_four = static_cast<int>(threadIdx.x) % 4;
  if constexpr (more) {
    FASTCNN_UNROLL
    for (int j = 0; j < NT; ++j) {
      const int o = j * 8 + in_four * 2;
      if (e.bias) {
        const float b0 = to_real(e.bias[o]), b1 = to_real(e.bias[o + 1]);
        sum[j][0] += b0, sum[j][1] += b1, sum[j][2] += b0, sum[j][3] += b1;
      }
      if (e.residual) {
        FASTCNN_UNROLL
        for (int half = 0; half < 2; ++half)
          if (at(half) >= 0)
            add_pair<T>(*reinterpret_cast<const uint32_t*>(e.residual + at(half) + o), &sum[j][half * 2],
                        &sum[j][half * 2 + 1]);
      }
    }
    float all[1][NT * 4];  // one row: one copy of the formulas
    FASTCNN_UNROLL
    for (int k = 0; k < NT * 4; ++k) all[0][k] = sum[k / 4][k % 4];
    apply_act_to(e.act, all);
    FASTCNN_UNROLL
    for (int k = 0; k < NT * 4; ++k) sum[k / 4][k % 4] = all[0][k];
  }
  FASTCNN_UNROLL
  for (int first = 0; first < 2 * NT; first += 4) {
    uint32_t r[4];
    FASTCNN_UNROLL
    for (int k = 0; k < 4; ++k) {
      const int half = (first + k) / NT, j = (first + k) % NT;
      r[k] = to_pair<T>(sum[j][half * 2], sum[j][half * 2 + 1]);
    }
    turn_four(r);
    const int64_t to = at((first + in_four) / NT);
    if (to >= 0)
      *reinterpret_cast<Pack<uint32_t>*>(y + to + (first + in_four) % NT * 8) =
          Pack<uint32_t>{{r[0], r[1], r[2], r[3]}};
  }
}
// The MI groups of 16 pixels of a warp; at(i, h).
template <class T, int O, int MI, class At>
FASTCNN_DEVICE void store_halos(const Epilogue<T>& e, float (&sum)[MI][O / 8][4], const At& at, T* y) {
  if (!e.bias && !e.residual && e.act.act == Act::none) {
    FASTCNN_UNROLL
    for (int i = 0; i < MI; ++i) store_halo<T, O, false>(e, sum[i], [&](int half) { return at(i, half); }, y);
    return;
  }
  FASTCNN_NO_UNROLL  // the formulas of all activations stand here once
      for (int i = 0; i < MI; ++i) {
    store_halo<T, O, true>(e, sum[0], [&](int half) { return at(i, half); }, y);
    FASTCNN_UNROLL
    for (int k = 0; k + 1 < MI; ++k) FASTCNN_UNROLL
    for (int j = 0; j < O / 8; ++j) FASTCNN_UNROLL
    for (int n = 0; n < 4; ++n) sum[k][j][n] = sum[k + 1][j][n];
  }
}

// Adds the values of 16 pixels that at(h) places to sums of channels: of lane l, totals[4 * j] and the next are
// those of channels j * 8 + l % 4 * 2 and the next, the two behind them those of squares.
template <int O, class At>
FASTCNN_DEVICE void add_halo_sums(const float (&sum)[O / 8][4], const At& at, float (&totals)[O / 2]) {
  FASTCNN_UNROLL
  for (int half = 0; half < 2; ++half) {
    if (at(half) < 0) continue;
    FASTCNN_UNROLL
    for (int j = 0; j < O / 8; ++j) FASTCNN_UNROLL
    for (int c = 0; c < 2; ++c) {
      const float v = sum[j][half * 2 + c];
      totals[j * 4 + c] += v, totals[j * 4 + 2 + c] += v * v;
    }
  }
}
// part (2, made) from channel o0 on: the sums of all warps, by way of `shared`, 2 O floats for each. sync: meets
// all of their threads.
template <int O, int warps, class Sync>
FASTCNN_DEVICE void leave_halo_sums(float (&totals)[O / 2], float* shared, float* part, int32_t made, int o0,
                                    const Sync& sync) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  FASTCNN_UNROLL
  for (int k = 0; k < O / 2; ++k) FASTCNN_UNROLL
  for (int d = 4; d < 32; d *= 2) totals[k] += __shfl_xor_sync(0xffffffffu, totals[k], d);
  sync();  // what lay in `shared` has been read
  if (lane < 4) {
    FASTCNN_UNROLL
    for (int k = 0; k < O / 2; ++k)
      shared[thread / 32 * 2 * O + k % 4 / 2 * O + k / 4 * 8 + lane * 2 + k % 2] = totals[k];
  }
  sync();
  if (thread >= 2 * O) return;
  float s = 0;
  FASTCNN_UNROLL
  for (int w = 0; w < warps; ++w) s += shared[w * 2 * O + thread];
  part[thread / O * made + o0 + thread % O] = s;
}

// y from x at `C` channels to `made`, of which a block makes O; back: the gradient of x at stride 1, C the
// channels of dy, whose taps go the other way. Shared: weights, then stages. Grid: (walkers over tiles, blocks of
// O channels). `moments`: the bare product, and in parts (gridDim.x, 2, made) the sums of its channels
// (moments.cuh). MI to held: HaloShape.
template <class T, int C, int O, int K, bool back, bool moments, int MI, int warps, int stages, int blocks,
          int held>
FASTCNN_KERNEL_BOUNDS(warps * 32, blocks)
halo_kernel(Halo g, int32_t made, const T* x, const T* w, Epilogue<T> epilogue, T* y, float* parts) {
  constexpr int taps = K * K, KC = C / 16, NT = O / 8, weights = taps * C * O;
  constexpr bool kept = taps * KC * NT * 2 <= 36;  // all weights in registers
  T* shared = shared_memory<T>();
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int stage = g.plane * C, o0 = static_cast<int>(blockIdx.y) * O;
  const HaloPieces<C, warps * 32, held> pieces(g);
  const auto grid = static_cast<int32_t>(gridDim.x);
  auto t = static_cast<int32_t>(blockIdx.x);
  auto bring = [&](int32_t tile, int place) {
    if (tile < g.tiles) pieces.bring(g, g.tile(tile), x, shared + weights + place);
    commit_copies();  // empty groups too: waiting counts them
  };
  // The first tile leaves as soon as its own place is clear; weights come with it.
  clear_shared(shared + weights, stage);
  bring_halo_weights<C, O, taps, back>(w, o0, made, shared);
  __syncthreads();
  bring(t, 0);
  clear_shared(shared + weights + stage, (stages - 1) * stage);
  __syncthreads();
  FASTCNN_UNROLL
  for (int s = 1; s < stages - 1; ++s) bring(t + s * grid, s * stage);

  auto load_weights = [&](int tap, int kk, int j, uint32_t (&r)[4]) {
    load_halo_weights<C, O, back>(shared, back ? taps - 1 - tap : tap, kk, j, r);
  };
  constexpr int keep = kept ? taps * KC * (NT / 2) : 1;
  uint32_t kept_w[keep][4];
  int at[MI];  // what this lane reads for tap (0, 0), in elements
  FASTCNN_UNROLL
  for (int i = 0; i < MI; ++i)
    at[i] = weights + (lane / 16 * g.plane + g.place_read((warp * MI + i) * 16 + lane % 16)) * 8;
  if (epilogue.bias) epilogue.bias += o0;

  if constexpr (kept) {
    wait_copies<stages - 2>();
    __syncthreads();
    FASTCNN_UNROLL
    for (int k = 0; k < keep; ++k) load_weights(k / (NT / 2) / KC, k / (NT / 2) % KC, k % (NT / 2), kept_w[k]);
  }
  [[maybe_unused]] float totals[O / 2] = {};
  FASTCNN_NO_UNROLL
  for (int now = 0; t < g.tiles; t += grid, now = now == (stages - 1) * stage ? 0 : now + stage) {
    wait_copies<stages - 2>();
    __syncthreads();  // all have brought this tile, and have read the one before
    bring(t + (stages - 1) * grid, now == 0 ? (stages - 1) * stage : now - stage);
    const HaloTile tile_now = g.tile(t);
    float sum[MI][NT][4] = {};
    FASTCNN_UNROLL
    for (int tap = 0; tap < taps; ++tap) {
      FASTCNN_UNROLL
      for (int kk = 0; kk < KC; ++kk) {
        const int shift = now + (kk * 2 * g.plane + tap / K * g.pitch + tap % K) * 8;
        uint32_t b[NT / 2][4], a[MI][4];
        if constexpr (!kept) {
          FASTCNN_UNROLL
          for (int j = 0; j < NT / 2; ++j) load_weights(tap, kk, j, b[j]);
        }
        FASTCNN_UNROLL
        for (int i = 0; i < MI; ++i) load_matrices<false>(shared + at[i] + shift, a[i]);
        FASTCNN_UNROLL
        for (int i = 0; i < MI; ++i) {
          FASTCNN_UNROLL
          for (int j = 0; j < NT; ++j) {
            if constexpr (kept)
              multiply_add<T>(sum[i][j], a[i], &kept_w[(tap * KC + kk) * (NT / 2) + j / 2][j % 2 * 2]);
            else
              multiply_add<T>(sum[i][j], a[i], &b[j / 2][j % 2 * 2]);
          }
        }
      }
    }
    const int32_t m0 = warp * MI * 16 + lane / 4;
    auto place = [&](int i, int half) {
      const int32_t m = m0 + i * 16 + half * 8;
      return m < tile_now.count ? static_cast<int64_t>(tile_now.to + m) * made + o0 : -1;
    };
    if constexpr (moments) {
      FASTCNN_UNROLL
      for (int i = 0; i < MI; ++i) {
        add_halo_sums<O>(sum[i], [&](int half) { return place(i, half); }, totals);
        store_halo<T, O, false>(epilogue, sum[i], [&](int half) { return place(i, half); }, y);
      }
    } else {
      store_halos<T, O, MI>(epilogue, sum, place, y);
    }
  }
  if constexpr (moments)
    leave_halo_sums<O, warps>(totals, shared_memory<float>(), parts + static_cast<int64_t>(blockIdx.x) * 2 * made,
                              made, o0, [] { __syncthreads(); });
}

// The gradient of the weights: parts (gridDim.x, made, K, K, C), of which a block makes O. Warps: (slices of a
// tile's pixels, rows of taps). `most`: pixels of dy of a tile, in shared memory behind those of x.
template <class T, int C, int O, int K, int slices, int most>
FASTCNN_KERNEL_BOUNDS(slices * K * 32, halo_weight_blocks(C))
halo_weights_kernel(Halo g, int32_t made, const T* x, const T* dy, float* parts) {
  constexpr int OM = O / 16, CN = C / 8, dy_plane = most + 64 / O, steps = most / 16 / slices;
  constexpr int threads = slices * K * 32, stages = kHaloWeightStages;
  static_assert(steps * 16 * slices == most);
  T* shared = shared_memory<T>();
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int kh = warp % K, slice = warp / K;
  const int dy_at = g.plane * C, stage = dy_at + dy_plane * O, o0 = static_cast<int>(blockIdx.y) * O;
  clear_shared(shared, stages * stage);
  __syncthreads();
  auto bring = [&](int32_t t, int s) {
    if (t < g.tiles) {
      const HaloTile tile = g.tile(t);
      bring_halo<C>(g, tile, x, shared + s * stage);
      const T* from = dy + static_cast<int64_t>(tile.to) * made + o0;
      const auto there = static_cast<unsigned>(tile.count) * (O / 8);
      for (unsigned e = threadIdx.x; e < most * (O / 8); e += threads)
        copy_async16(shared + s * stage + dy_at + (e % (O / 8) * dy_plane + e / (O / 8)) * 8,
                     e < there ? from + e / (O / 8) * static_cast<unsigned>(made) + e % (O / 8) * 8u : dy,
                     e < there);
    }
    commit_copies();  // empty groups too: waiting counts them
  };
  const auto grid = static_cast<int32_t>(gridDim.x);
  auto t = static_cast<int32_t>(blockIdx.x);
  for (int s = 0; s < stages - 1; ++s) bring(t + s * grid, s);
  int at[steps];
  FASTCNN_UNROLL
  for (int k = 0; k < steps; ++k)
    at[k] = (lane / 16 * g.plane + kh * g.pitch + g.place_read((slice * steps + k) * 16 + lane % 16)) * 8;
  const int a_at = dy_at + (lane / 8 % 2 * dy_plane + slice * steps * 16 + lane / 16 * 8 + lane % 8) * 8;

  float sum[OM][K][CN][4] = {};
  for (int s = 0; t < g.tiles; t += grid, s = s + 1 == stages ? 0 : s + 1) {
    wait_copies<stages - 2>();
    __syncthreads();
    bring(t + (stages - 1) * grid, s == 0 ? stages - 1 : s - 1);  // into what everybody has read one tile ago
    const T* now = shared + s * stage;
    FASTCNN_UNROLL
    for (int k = 0; k < steps; ++k) {
      uint32_t a[OM][4];
      FASTCNN_UNROLL
      for (int i = 0; i < OM; ++i) load_matrices<true>(now + a_at + (i * 2 * dy_plane + k * 16) * 8, a[i]);
      FASTCNN_UNROLL
      for (int kw = 0; kw < K; ++kw) {
        FASTCNN_UNROLL
        for (int j = 0; j < CN / 2; ++j) {
          uint32_t b[4];
          load_matrices<true>(now + at[k] + (j * 2 * g.plane + kw) * 8, b);
          FASTCNN_UNROLL
          for (int i = 0; i < OM; ++i) {
            multiply_add<T>(sum[i][kw][j * 2], a[i], &b[0]);
            multiply_add<T>(sum[i][kw][j * 2 + 1], a[i], &b[2]);
          }
        }
      }
    }
  }

  // Slices are added one after the other.
  wait_copies<0>();
  __syncthreads();
  float* others = shared_memory<float>() + kh * 32 + lane;
  FASTCNN_NO_UNROLL
  for (int s = 1; s < slices; ++s) {
    auto each = [&](auto&& f) {
      FASTCNN_UNROLL
      for (int i = 0; i < OM; ++i) FASTCNN_UNROLL
      for (int kw = 0; kw < K; ++kw) FASTCNN_UNROLL
      for (int j = 0; j < CN; ++j) FASTCNN_UNROLL
      for (int n = 0; n < 4; ++n) f(sum[i][kw][j][n], others[(((i * K + kw) * CN + j) * 4 + n) * (K * 32)]);
    };
    if (slice == s) each([](float& mine, float& there) { there = mine; });
    __syncthreads();
    if (slice == 0) each([](float& mine, float& there) { mine += there; });
    __syncthreads();
  }
  if (slice > 0) return;
  FASTCNN_UNROLL
  for (int i = 0; i < OM; ++i) FASTCNN_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int o = o0 + i * 16 + half * 8 + lane / 4;
    float* to = parts + ((static_cast<int64_t>(blockIdx.x) * made + o) * K + kh) * K * C + lane % 4 * 2;
    FASTCNN_UNROLL
    for (int kw = 0; kw < K; ++kw) FASTCNN_UNROLL
    for (int j = 0; j < CN; ++j)
      *reinterpret_cast<Two<float>*>(to + kw * C + j * 8) =
          Two<float>{{sum[i][kw][j][half * 2], sum[i][kw][j][half * 2 + 1]}};
  }
}

}  // namespace fastcnn::cuda
