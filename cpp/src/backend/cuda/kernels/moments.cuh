// What it is: mean and variance of the columns of a product, from the fragments that wgmma leaves in registers:
// sums and sums of squares by warp, parts of them in memory, and the kernel that joins those. What it is not:
// shifted sums: float32 sums of at most some thousand values keep 6 or 7 digits of E[x^2], so the variance of
// columns whose mean is r deviations from zero has a relative error of about r^2 * 1e-7, less than rounding the
// values to bfloat16 gives it.
#pragma once
#include "backend/cuda/kernels/gemm_store.cuh"
#include "backend/cuda/kernels/slices.cuh"

namespace fastcnn::cuda {

constexpr int kSummingWarps = 8;  // of a block

// Lanes that differ in `bit` add their values; each keeps half of them, the one with the bit the second.
template <int half, int n>
FASTCNN_DEVICE void halve_lanes(float (&v)[n], unsigned bit) {
  const bool second = threadIdx.x & bit;
  FASTCNN_UNROLL
  for (int k = 0; k < half; ++k) {
    const float give = second ? v[k] : v[k + half], keep = second ? v[k + half] : v[k];
    v[k] = keep + __shfl_xor_sync(0xffffffffu, give, bit);
  }
}

// Adds the sums over this warp's rows to `total`: of lane l and k below BN / 64, total[4k], total[4k+1] are the
// sums of the columns (l/4 * BN/64 + k) * 8 + l%4*2 and the next, total[4k+2], total[4k+3] those of squares.
template <int MI, int BN>
FASTCNN_DEVICE void add_column_sums(const float (&sum)[MI][BN / 2], float (&total)[BN / 16]) {
  float v[BN / 2];
  FASTCNN_UNROLL
  for (int j = 0; j < BN / 8; ++j) FASTCNN_UNROLL
  for (int c = 0; c < 2; ++c) {
    const float a = sum[0][j * 4 + c], b = sum[0][j * 4 + 2 + c];
    float s = a + b, q = a * a + b * b;
    FASTCNN_UNROLL
    for (int i = 1; i < MI; ++i) {
      const float d = sum[i][j * 4 + c], e = sum[i][j * 4 + 2 + c];
      s += d + e, q += d * d + e * e;
    }
    v[j * 4 + c] = s, v[j * 4 + 2 + c] = q;
  }
  halve_lanes<BN / 4>(v, 16);
  halve_lanes<BN / 8>(v, 8);
  halve_lanes<BN / 16>(v, 4);
  FASTCNN_UNROLL
  for (int k = 0; k < BN / 16; ++k) total[k] += v[k];
}

// Rows from M on do not count. m0: of the first row of these 16.
template <int BN>
FASTCNN_DEVICE void clear_rows(float (&sum)[BN / 2], int32_t m0, int32_t M) {
  if (m0 + 16 <= M) return;
  const int32_t m = m0 + static_cast<int>(threadIdx.x) % 32 / 4;
  FASTCNN_UNROLL
  for (int k = 0; k < BN / 2; ++k)
    if (m + k % 4 / 2 * 8 >= M) sum[k] = 0;
}

// part (2, N): this warp's totals; n0: the column of its first.
template <int BN>
FASTCNN_DEVICE void leave_column_sums(const float (&total)[BN / 16], float* part, int32_t n0, int32_t N) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  FASTCNN_UNROLL
  for (int k = 0; k < BN / 64; ++k) {
    const int32_t n = n0 + (lane / 4 * (BN / 64) + k) * 8 + lane % 4 * 2;
    if (n >= N) continue;  // N is even
    *reinterpret_cast<Two<float>*>(part + n) = Two<float>{{total[4 * k], total[4 * k + 1]}};
    *reinterpret_cast<Two<float>*>(part + N + n) = Two<float>{{total[4 * k + 2], total[4 * k + 3]}};
  }
}

// part (2, N): the totals of this block's warps, by way of `shared`, 2 BN floats for each of them. sync: meets all
// of their threads.
template <int BN, class Sync>
FASTCNN_DEVICE void leave_block_sums(const float (&total)[BN / 16], float* shared, float* part, int32_t n0,
                                     int32_t N, const Sync& sync) {
  const int thread = static_cast<int>(threadIdx.x);
  sync();  // what lay in `shared` has been read
  leave_column_sums<BN>(total, shared + thread / 32 * 2 * BN, 0, BN);
  sync();
  FASTCNN_NO_UNROLL
  for (int i = thread; i < 2 * BN; i += 32 * kSummingWarps) {
    float s = 0;
    FASTCNN_UNROLL
    for (int w = 0; w < kSummingWarps; ++w) s += shared[w * 2 * BN + i];
    if (n0 + i % BN < N) part[i / BN * N + n0 + i % BN] = s;
  }
}

// parts (slices, 2, C) to moments (2, C): mean and biased variance of `rows` values.
template <class S>
FASTCNN_KERNEL join_moments(const float* parts, int slices, int64_t rows, int64_t C, S* moments) {
  follow_previous();
  using V = Sums<S, 2>;
  const int64_t c = static_cast<int64_t>(blockIdx.x) * kFinishChannels + threadIdx.x;
  const V all = total_of_slices(
      c < C ? slices : 0, V{{S(0), S(0)}},
      [&](int k) { return V{{S(parts[k * 2 * C + c]), S(parts[(k * 2 + 1) * C + c])}}; },
      [](const V& a, const V& b) { return V{{a.v[0] + b.v[0], a.v[1] + b.v[1]}}; });
  if (threadIdx.y != 0 || c >= C) return;
  const S n = static_cast<S>(rows), mean = all.v[0] / n, var = all.v[1] / n - mean * mean;
  moments[c] = mean, moments[C + c] = var < 0 ? S(0) : var;
}

// parts (grid.y, 2, C): sums over slices of values (rows, C) that another kernel left. Block (32 channels).
template <class T>
FASTCNN_KERNEL sum_values(const T* x, int64_t rows, int64_t C, float* parts) {
  follow_previous();
  const int64_t c = static_cast<int64_t>(blockIdx.x) * 32 + threadIdx.x;
  if (c >= C) return;
  float s = 0, q = 0;
  for (int64_t r = blockIdx.y; r < rows; r += gridDim.y) {
    const float v = to_real(x[r * C + c]);
    s += v, q += v * v;
  }
  parts[blockIdx.y * 2 * C + c] = s, parts[(blockIdx.y * 2 + 1) * C + c] = q;
}

}  // namespace fastcnn::cuda
