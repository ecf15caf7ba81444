// What it is: what the slices of a reduction over rows say together, in an order that their number alone decides.
// What it is not: the slices (batch_norm.cuh, moments.cuh).
#pragma once
#include "backend/cuda/launch.h"

namespace fastcnn::cuda {

// What the slices of a channel say together, for lane 0. Block (kFinishChannels, lanes), lanes a power of two:
// each lane takes every lanes-th slice, four at once, then the lanes are joined in a tree. Shared: a V per thread.
constexpr int kFinishChannels = 8;
template <class V, class Get, class Join>
FASTCNN_DEVICE V total_of_slices(int slices, const V& nothing, const Get& get, const Join& join) {
  const int lanes = static_cast<int>(blockDim.y), lane = static_cast<int>(threadIdx.y);
  V all = nothing;
  for (int k = lane; k < slices; k += 4 * lanes) {
    V v[4];
    FASTCNN_UNROLL
    for (int u = 0; u < 4; ++u) v[u] = k + u * lanes < slices ? get(k + u * lanes) : nothing;
    FASTCNN_UNROLL
    for (int u = 0; u < 4; ++u) all = join(all, v[u]);
  }
  V* mine = shared_memory<V>() + lane * kFinishChannels + static_cast<int>(threadIdx.x);
  *mine = all;
  for (int half = lanes / 2; half > 0; half /= 2) {
    __syncthreads();
    if (lane < half) *mine = join(*mine, mine[half * kFinishChannels]);
  }
  return *mine;
}

inline LaunchPlan finish_plan(int64_t slices, int64_t C, size_t value) {
  unsigned lanes = 4;
  while (lanes < 128 && lanes * 4 < slices) lanes *= 2;
  return {dim3(ceil_div(C, kFinishChannels)), dim3(kFinishChannels, lanes), kFinishChannels * lanes * value};
}

}  // namespace fastcnn::cuda
