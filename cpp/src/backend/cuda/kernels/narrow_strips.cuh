// What it is: convolutions of 16 and 32 channels (16-bit floats, square windows at stride 1), which memory bounds,
// by wgmma on strips of rows (strips.h) that the copy engine brings once for all taps (sm_90a): a tap is another
// place to begin at in a strip. Every group of four warps takes strips of its own, so that one multiplies while
// another stores. What it is not: the joins of sums; for other devices (halo.cuh).
#pragma once
#include "backend/cuda/kernels/halo.cuh"
#include "backend/cuda/kernels/narrow_strips.h"
#include "backend/cuda/kernels/tma.cuh"
#include "backend/cuda/kernels/wgmma.cuh"

namespace fastcnn::cuda {

#if defined(__CUDACC__)

// Makes the barriers of all stages, of what has come and of what has been read, and meets the block; the latter.
FASTCNN_DEVICE uint64_t* begin_stages(const NarrowStrips& n, uint64_t* full) {
  uint64_t* empty = full + n.stages;
  if (threadIdx.x == 0) {
    for (int s = 0; s < n.stages; ++s) barrier_init(full + s, 1), barrier_init(empty + s, 4);
    publish_barriers();
  }
  __syncthreads();
  return empty;
}
// What the asking warp does: all of this block's strips, `bytes` each, into stage after stage by bring(strip,
// stage).
template <class Bring>
FASTCNN_DEVICE void ask_for_strips(const NarrowStrips& n, int lane, uint64_t* full, uint64_t* empty,
                                   uint32_t bytes, const Bring& bring) {
  const auto grid = static_cast<int32_t>(gridDim.x);
  int32_t stage = 0, phase = 1;
  for (int32_t t = static_cast<int32_t>(blockIdx.x); lane == 0 && t < n.strips.total(); t += grid) {
    const Strip strip = strip_of(n.strips, t);
    barrier_wait(empty + stage, phase);
    barrier_expect(full + stage, bytes);
    bring(strip, stage);
    if (++stage == n.stages) stage = 0, phase ^= 1;
  }
}

// The weights between C channels read and O made into shared memory, chunks of a row exchanged as the copy engine
// does it: (tap, made, read), or where back (read, taps, made) lie, (tap, read, made).
template <int C, int O, int taps, bool back, int threads, class T>
FASTCNN_DEVICE void place_narrow_weights(const T* w, T* to) {
  constexpr int inner = back ? O : C, outer = back ? C : O, chunks = inner / 8, mask = chunks - 1;
  for (int e = static_cast<int>(threadIdx.x); e < outer * taps * chunks; e += threads) {
    const int chunk = e % chunks, tap = e / chunks % taps, row = e / chunks / taps;
    const int at = (tap * outer + row) * inner * 2 + chunk * 16;
    reinterpret_cast<Pack<T>*>(to)[(at ^ ((at >> 7 & mask) << 4)) / 16] = reinterpret_cast<const Pack<T>*>(w)[e];
  }
}

// y, (images, height, width, O), from x. Shared: weights, stages, what products read beyond, barriers. `moments`:
// the bare product, and in parts (gridDim.x, 2, O) the sums of its channels (moments.cuh).
// back: the gradient of x at stride 1, C the channels of dy, whose taps go the other way.
template <class T, int C, int O, int K, bool back, bool moments, int groups, int products>
FASTCNN_KERNEL_BOUNDS(groups * 128 + 32, 1)
narrow_strip_kernel(const __grid_constant__ CUtensorMap map, NarrowStrips n, const T* w, Epilogue<T> epilogue,
                    T* y, float* parts) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  constexpr int pixel = C * 2, taps = K * K, weights = (taps * C * O * 2 + 1023) / 1024 * 1024;
  const Strips& g = n.strips;
  char* shared = shared_memory<char>();
  auto* full = reinterpret_cast<uint64_t*>(shared + n.shared - kNarrowBarriers);
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  uint64_t* empty = begin_stages(n, full);

  const auto grid = static_cast<int32_t>(gridDim.x);
  if (warp == groups * 4) {
    ask_for_strips(n, lane, full, empty, g.x_pixels() * pixel, [&](const Strip& strip, int stage) {
      bring_tile(shared + weights + stage * n.stage, &map, full + stage, 0, g.left, strip.row + g.top, strip.n);
    });
    return;
  }
  place_narrow_weights<C, O, taps, back, groups * 128>(w, reinterpret_cast<T*>(shared));
  publish_shared();
  sync_threads<1, groups * 128>();
  const int group = warp / 4;
  [[maybe_unused]] float totals[O / 2] = {};
  const uint32_t weights_at = shared_address(shared);
  int32_t round = group;  // of this block's strips
  for (int32_t t = static_cast<int32_t>(blockIdx.x) + group * grid; t < g.total();
       t += groups * grid, round += groups) {
    const int stage = round % n.stages;
    const Strip strip = strip_of(g, t);
    const int32_t left = g.height - strip.row, count = left < g.rows ? left : g.rows,
                  first = (strip.n * g.height + strip.row) * g.width;
    const uint32_t x_at = weights_at + weights + stage * n.stage;
    barrier_wait(full + stage, round / n.stages & 1);
    for (int32_t m = 0; m < g.y_pixels(); m += products * 64) {
      float sum[products][O / 8][4];
      FASTCNN_UNROLL
      for (int i = 0; i < products; ++i) FASTCNN_UNROLL
      for (int j = 0; j < O / 8; ++j) FASTCNN_UNROLL
      for (int k = 0; k < 4; ++k) sum[i][j][k] = 0;
      begin_products();
      FASTCNN_UNROLL
      for (int tap = 0; tap < taps; ++tap) FASTCNN_UNROLL
      for (int kk = 0; kk < C / 16; ++kk) {
        const uint64_t a = row_descriptor<pixel>(x_at + (m + tap / K * g.pitch + tap % K) * pixel + kk * 32, 16);
        const uint64_t b = back ? row_descriptor<O * 2>(weights_at + ((taps - 1 - tap) * C + kk * 16) * O * 2, 16)
                                : row_descriptor<pixel>(weights_at + tap * O * pixel + kk * 32, 16);
        FASTCNN_UNROLL
        for (int i = 0; i < products; ++i)
          multiply_described<T, O, true, !back>(reinterpret_cast<float (&)[O / 2]>(sum[i]),
                                                a + static_cast<uint64_t>(i * 64 * pixel / 16), b);
      }
      commit_products();
      wait_products<0>();
      if (m + products * 64 >= g.y_pixels() && lane == 0) barrier_arrive(empty + stage);
      auto place = [&](int i, int half) -> int64_t {
        int32_t column;
        const int32_t row = g.by_pitch.split(m + i * 64 + warp % 4 * 16 + lane / 4 + half * 8, &column);
        return row < count && column < g.width ? static_cast<int64_t>(first + row * g.width + column) * O : -1;
      };
      if constexpr (moments) {
        FASTCNN_UNROLL
        for (int i = 0; i < products; ++i) {
          const int64_t upper = place(i, 0), lower = place(i, 1);
          const auto at = [&](int half) { return half ? lower : upper; };
          add_halo_sums<O>(sum[i], at, totals);
          store_halo<T, O, false>(epilogue, sum[i], at, y);
        }
      } else {
        store_halos<T, O, products>(epilogue, sum, place, y);
      }
    }
  }
  if constexpr (moments)
    leave_halo_sums<O, groups * 4>(totals, reinterpret_cast<float*>(shared), parts + int64_t{blockIdx.x} * 2 * O,
                                   O, 0, sync_threads<1, groups * 128>);
#endif
}

// The gradient of the weights: parts (gridDim.x, O, K, K, C). A product has shifts of dy's channels above each
// other and, beside, those of x for all taps down (narrow_strips.h); its depth are pixels.
struct NarrowMaps {
  CUtensorMap dy, x;
};
template <class T, int C, int O, int K, int groups>
FASTCNN_KERNEL_BOUNDS(groups * 128 + 32, 1)
narrow_strip_weights_kernel(const __grid_constant__ NarrowMaps maps, NarrowStrips n, float* parts) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  constexpr int shifts = narrow_shifts(O), columns = narrow_columns(O, K), N = K * C;
  const Strips& g = n.strips;
  char* shared = shared_memory<char>();
  auto* full = reinterpret_cast<uint64_t*>(shared + n.shared - kNarrowBarriers);
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int dy_begin = kNarrowStep * O * 2, dy_end = dy_begin + g.y_pixels() * O * 2;
  const int x_at = static_cast<int>(whole_kib(narrow_dy_room(g) * O * 2));
  const int x_begin = x_at + kNarrowStep * C * 2, x_end = x_begin + g.x_pixels() * C * 2;
  uint64_t* empty = begin_stages(n, full);

  const auto grid = static_cast<int32_t>(gridDim.x);
  if (warp == groups * 4) {
    ask_for_strips(n, lane, full, empty, dy_end - dy_begin + x_end - x_begin, [&](const Strip& strip, int stage) {
      char* to = shared + stage * n.stage;
      bring_tile(to + dy_begin, &maps.dy, full + stage, 0, 0, strip.row, strip.n);
      bring_tile(to + x_begin, &maps.x, full + stage, 0, g.left, strip.row + g.top, strip.n);
    });
    return;
  }
  // Around what is brought lies what multiplies zeros: it must be numbers.
  for (int s = 0; s < n.stages; ++s) {
    auto* words = reinterpret_cast<uint32_t*>(shared + s * n.stage);
    auto clear = [&](int from, int to) {
      for (int i = from / 4 + static_cast<int>(threadIdx.x); i < to / 4; i += groups * 128) words[i] = 0;
    };
    clear(0, dy_begin), clear(dy_end, x_begin), clear(x_end, n.stage);
  }
  publish_shared();
  sync_threads<1, groups * 128>();
  const int group = warp / 4;
  float sum[columns][N / 2];
  FASTCNN_UNROLL
  for (int j = 0; j < columns; ++j) FASTCNN_UNROLL
  for (int k = 0; k < N / 2; ++k) sum[j][k] = 0;
  const uint32_t base = shared_address(shared);
  int32_t round = group;
  for (int32_t t = static_cast<int32_t>(blockIdx.x) + group * grid; t < g.total();
       t += groups * grid, round += groups) {
    const int stage = round % n.stages;
    const uint32_t dy = base + stage * n.stage, x = dy + x_at;
    barrier_wait(full + stage, round / n.stages & 1);
    begin_products();
    for (int q = -kNarrowStep; q < g.depth(); q += kNarrowStep) {
      const uint64_t b = row_descriptor<C * 2>(x + narrow_x_pixel(g, q, 0) * C * 2, g.pitch * C * 2);
      FASTCNN_UNROLL
      for (int j = 0; j < columns; ++j)
        multiply_described<T, N, false, false>(
            sum[j], row_descriptor<O * 2>(dy + narrow_dy_pixel(q, j * shifts) * O * 2, O * 2), b);
    }
    commit_products();
    wait_products<0>();
    if (lane == 0) barrier_arrive(empty + stage);
  }

  // Groups are added one after the other.
  auto* others = reinterpret_cast<float*>(shared) + threadIdx.x % 128;
  FASTCNN_NO_UNROLL
  for (int s = 1; s < groups; ++s) {
    auto each = [&](auto&& f) {
      FASTCNN_UNROLL
      for (int j = 0; j < columns; ++j) FASTCNN_UNROLL
      for (int k = 0; k < N / 2; ++k) f(sum[j][k], others[(j * (N / 2) + k) * 128]);
    };
    sync_threads<1, groups * 128>();  // what lay there has been read
    if (group == s) each([](float& mine, float& there) { there = mine; });
    sync_threads<1, groups * 128>();
    if (group == 0) each([](float& mine, float& there) { mine += there; });
  }
  if (group > 0) return;
  FASTCNN_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int row = warp * 16 + lane / 4 + half * 8, o = row % O;
    FASTCNN_UNROLL
    for (int j = 0; j < columns; ++j) {
      const int right = K - 1 - (j * shifts + row / O);
      if (right < 0) continue;
      FASTCNN_UNROLL
      for (int k = 0; k < N / 8; ++k) {
        const int column = k * 8 + lane % 4 * 2;
        *reinterpret_cast<Two<float>*>(parts + (((int64_t{blockIdx.x} * O + o) * K + column / C) * K + right) * C +
                                       column % C) =
            Two<float>{{sum[j][k * 4 + half * 2], sum[j][k * 4 + half * 2 + 1]}};
      }
    }
  }
#endif
}
#endif

}  // namespace fastcnn::cuda
