// What it is: layer and group normalisation: a block per set of elements that share a mean. Both are one kernel
// with an index: element i of set s lies at at(s, i) and has the affine parameters channel(s, i).
#pragma once
#include "backend/cuda/device.cuh"

namespace fastcnn::cuda {

struct NormIndex {
  int64_t sets, count;         // elements per set
  int64_t HW, C, groups, per;  // group norm; groups == 0: layer norm over `count` neighbours
  FASTCNN_DEVICE int64_t at(int64_t s, int64_t i) const {
    if (groups == 0) return s * count + i;
    return (s / groups * HW + i / per) * C + s % groups * per + i % per;
  }
  FASTCNN_DEVICE int64_t channel(int64_t s, int64_t i) const {
    return groups == 0 ? i : s % groups * per + i % per;
  }
};

template <class T>
FASTCNN_KERNEL norm_forward(NormIndex ix, double eps, const T* x, const Real<T>* gamma, const Real<T>* beta, T* y,
                            Real<T>* mean, Real<T>* invstd) {
  follow_previous();
  using R = Real<T>;
  auto* scratch = shared_memory<Sums<R, 1>>();
  const R n = static_cast<R>(ix.count > 0 ? ix.count : 1);
  for (int64_t s = blockIdx.x; s < ix.sets; s += gridDim.x) {
    Sums<R, 1> a{{R(0)}}, b{{R(0)}};
    for (int64_t i = threadIdx.x; i < ix.count; i += blockDim.x) a.v[0] += to_real(x[ix.at(s, i)]);
    const R m = block_sum(a, scratch).v[0] / n;
    for (int64_t i = threadIdx.x; i < ix.count; i += blockDim.x) {
      const R d = to_real(x[ix.at(s, i)]) - m;
      b.v[0] += d * d;
    }
    const R inv = 1 / sqrt(block_sum(b, scratch).v[0] / n + static_cast<R>(eps));
    if (threadIdx.x == 0) mean[s] = m, invstd[s] = inv;
    for (int64_t i = threadIdx.x; i < ix.count; i += blockDim.x) {
      const int64_t at = ix.at(s, i), c = ix.channel(s, i);
      const R z = (to_real(x[at]) - m) * inv;
      y[at] = from_real<T>(gamma ? z * gamma[c] + beta[c] : z);
    }
  }
}

template <class T>
FASTCNN_KERNEL norm_backward(NormIndex ix, const T* dy, const T* x, const Real<T>* gamma, const Real<T>* mean,
                             const Real<T>* invstd, T* dx) {
  follow_previous();
  using R = Real<T>;
  const R n = static_cast<R>(ix.count > 0 ? ix.count : 1);
  for (int64_t s = blockIdx.x; s < ix.sets; s += gridDim.x) {
    const R m = mean[s], inv = invstd[s];
    Sums<R, 2> a{{R(0), R(0)}};
    for (int64_t i = threadIdx.x; i < ix.count; i += blockDim.x) {
      const int64_t at = ix.at(s, i);
      const R d = to_real(dy[at]) * (gamma ? gamma[ix.channel(s, i)] : R(1));
      a.v[0] += d, a.v[1] += d * (to_real(x[at]) - m) * inv;
    }
    a = block_sum(a, shared_memory<Sums<R, 2>>());
    for (int64_t i = threadIdx.x; i < ix.count; i += blockDim.x) {
      const int64_t at = ix.at(s, i);
      const R d = to_real(dy[at]) * (gamma ? gamma[ix.channel(s, i)] : R(1));
      dx[at] = from_real<T>(inv * (d - a.v[0] / n - (to_real(x[at]) - m) * inv * a.v[1] / n));
    }
  }
}

// A thread per affine parameter and slice of what it sums over; parts (slices, 2, channels).
template <class T>
FASTCNN_KERNEL norm_affine_sums(NormIndex ix, int64_t channels, const T* dy, const T* x, const Real<T>* mean,
                                const Real<T>* invstd, Real<T>* parts) {
  follow_previous();
  using R = Real<T>;
  const int64_t c = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (c >= channels) return;
  // Rows of `channels` neighbours: the sets of a layer norm, the pixels of a group norm.
  const int64_t rows = ix.groups == 0 ? ix.sets : ix.sets / ix.groups * ix.HW;
  const int64_t per = (rows + gridDim.y - 1) / gridDim.y, begin = blockIdx.y * per;
  const int64_t end = begin + per < rows ? begin + per : rows;
  R dot = 0, sum = 0;
  for (int64_t r = begin; r < end; ++r) {
    const int64_t s = ix.groups == 0 ? r : r / ix.HW * ix.groups + c / ix.per, at = r * channels + c;
    const R d = to_real(dy[at]);
    dot += d * (to_real(x[at]) - mean[s]) * invstd[s], sum += d;
  }
  parts[blockIdx.y * 2 * channels + c] = dot, parts[(blockIdx.y * 2 + 1) * channels + c] = sum;
}

template <class S>
FASTCNN_KERNEL norm_affine_join(const S* parts, int slices, int64_t channels, S* dgamma, S* dbeta) {
  follow_previous();
  for (int64_t c = global_thread(); c < channels; c += global_threads()) {
    S dot = 0, sum = 0;
    for (int k = 0; k < slices; ++k) dot += parts[k * 2 * channels + c], sum += parts[(k * 2 + 1) * channels + c];
    dgamma[c] = dot, dbeta[c] = sum;
  }
}

}  // namespace fastcnn::cuda
