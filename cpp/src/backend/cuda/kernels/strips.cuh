// What it is: gradients of 3x3 weights by wgmma on strips (strips.h) that the copy engine brings (sm_90a): 64
// output channels by 64 input channels and nine taps in the registers of three groups of warps, one for each row
// of taps, while a block goes through strip after strip. What it is not: the sum over blocks.
#pragma once
#include "backend/cuda/kernels/gemm_store.cuh"
#include "backend/cuda/kernels/strips.h"
#include "backend/cuda/kernels/tma.cuh"
#include "backend/cuda/kernels/wgmma.cuh"

namespace fastcnn::cuda {

constexpr int kStripThreads = 3 * 128 + 32;

#if defined(__CUDACC__)
// Block: (part, blocks of 64 by 64 channels). parts (gridDim.x, O, 9, C).
template <class T>
FASTCNN_KERNEL_BOUNDS(kStripThreads, 1)
strip_weights_kernel(const __grid_constant__ TensorMaps maps, Strips g, int stages, int32_t O, int32_t C,
                     float* parts) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  constexpr int kWarps = 12, kDepth = 64;
  T* shared = shared_memory<T>();
  const int stage = g.stage_pixels() * kDepth, x_at = g.depth() * kDepth;
  auto* full = reinterpret_cast<uint64_t*>(shared + stages * stage);
  uint64_t* empty = full + stages;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int32_t o0 = static_cast<int32_t>(blockIdx.y) / g.columns_of_channels * 64,
                c0 = static_cast<int32_t>(blockIdx.y) % g.columns_of_channels * 64;
  if (threadIdx.x == 0) {
    for (int s = 0; s < stages; ++s) barrier_init(full + s, 1), barrier_init(empty + s, kWarps);
    publish_barriers();
  }
  // Behind what is brought lies what multiplies zeros: it must be numbers.
  for (int s = 0; s < stages; ++s) {
    auto* words = reinterpret_cast<uint32_t*>(shared + s * stage);
    constexpr int per_pixel = kDepth / 2;
    for (int i = g.y_pixels() * per_pixel + static_cast<int>(threadIdx.x); i < x_at / 2; i += kStripThreads)
      words[i] = 0;
    for (int i = x_at / 2 + g.x_pixels() * per_pixel + static_cast<int>(threadIdx.x); i < stage / 2;
         i += kStripThreads)
      words[i] = 0;
  }
  publish_shared();
  __syncthreads();

  if (warp == kWarps) {
    int32_t round = 0;
    for (int32_t t = static_cast<int32_t>(blockIdx.x); lane == 0 && t < g.total();
         t += static_cast<int32_t>(gridDim.x), ++round) {
      const int s = round % stages;
      barrier_wait(empty + s, (round / stages + 1) & 1);
      barrier_expect(full + s, (g.y_pixels() + g.x_pixels()) * 128);
      const Strip strip = strip_of(g, t);
      T* to = shared + s * stage;
      bring_tile(to, &maps.a[0], full + s, o0, 0, strip.row, strip.n);
      bring_tile(to + x_at, &maps.b, full + s, c0, g.left, strip.row + g.top, strip.n);
    }
    return;
  }
  const int down = warp / 4;
  float sum[3][32];
  FASTCNN_UNROLL
  for (int j = 0; j < 3; ++j) FASTCNN_UNROLL
  for (int i = 0; i < 32; ++i) sum[j][i] = 0;
  int32_t round = 0;
  for (int32_t t = static_cast<int32_t>(blockIdx.x); t < g.total();
       t += static_cast<int32_t>(gridDim.x), ++round) {
    const int s = round % stages;
    barrier_wait(full + s, round / stages & 1);
    const T* dy = shared + s * stage;
    const T* x = dy + x_at;
    begin_products();
    for (int k = 0; k < g.depth(); k += 16) FASTCNN_UNROLL
    for (int right = 0; right < 3; ++right)
      multiply_described<T, 64, false, false>(sum[right], line_descriptor_from(dy, k),
                                              line_descriptor_from(x, k + down * g.pitch + right));
    commit_products();
    wait_products<1>();
    if (round > 0 && lane == 0) barrier_arrive(empty + (round - 1) % stages);
  }
  wait_products<0>();
  const int32_t o = o0 + warp % 4 * 16 + lane / 4, c = c0 + lane % 4 * 2;
  FASTCNN_UNROLL
  for (int half = 0; half < 2; ++half) FASTCNN_UNROLL
  for (int right = 0; right < 3; ++right) {
    float* to = parts + ((static_cast<int64_t>(blockIdx.x) * O + o + half * 8) * 9 + down * 3 + right) * C + c;
    FASTCNN_UNROLL
    for (int j = 0; j < 8; ++j)
      *reinterpret_cast<Two<float>*>(to + j * 8) =
          Two<float>{{sum[right][j * 4 + half * 2], sum[right][j * 4 + half * 2 + 1]}};
  }
#endif
}
#endif

}  // namespace fastcnn::cuda
