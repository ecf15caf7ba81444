// What it is: batch normalisation over rows (rows, C) with C innermost: moments in one read by merged parts (Chan
// et al. 1983), sums of the backward pass, and the passes that apply them with activation and residual. What it is
// not: running statistics over devices.
#pragma once
#include "backend/cuda/kernels/act.cuh"
#include "backend/cuda/kernels/slices.cuh"
#include "backend/cuda/kernels/tensor_table.cuh"

namespace fastcnn::cuda {

constexpr int kNormColumns = 32, kNormRows = 8;

template <class R>
struct Moments {
  R n, mean, m2;  // m2: sum of squares around the mean
};

template <class R>
FASTCNN_DEVICE Moments<R> merge(const Moments<R>& a, const Moments<R>& b) {
  if (a.n == 0) return b;
  if (b.n == 0) return a;
  const R n = a.n + b.n, d = b.mean - a.mean;
  return {n, a.mean + d * (b.n / n), a.m2 + b.m2 + d * d * (a.n * b.n / n)};
}

// The rows of a slice: [begin, end).
FASTCNN_DEVICE void slice_of(int64_t rows, int64_t* begin, int64_t* end) {
  const int64_t per = (rows + gridDim.y - 1) / gridDim.y;
  *begin = blockIdx.y * per;
  *end = *begin + per < rows ? *begin + per : rows;
}

// Block (32 channels, 8 rows), grid (channels, slices); parts (slices, C).
template <class T>
FASTCNN_KERNEL bn_moments(const T* x, int64_t rows, int64_t C, Moments<Real<T>>* parts) {
  using R = Real<T>;
  const int64_t c = static_cast<int64_t>(blockIdx.x) * kNormColumns + threadIdx.x;
  int64_t begin, end;
  slice_of(rows, &begin, &end);
  Moments<R> m{0, 0, 0};
  if (c < C) {
    // Sums around the first value this thread meets: no cancellation where the mean is far from zero.
    R shift = 0, s = 0, q = 0;
    int64_t n = 0;
    for (int64_t r = begin + threadIdx.y; r < end; r += kNormRows, ++n) {
      const R v = to_real(x[r * C + c]);
      if (n == 0) shift = v;
      s += v - shift, q += (v - shift) * (v - shift);
    }
    if (n) {
      const R count = static_cast<R>(n), d = s / count;
      m = {count, shift + d, q - s * d};
    }
  }
  auto* shared = shared_memory<Moments<R>>();
  const int at = static_cast<int>(threadIdx.y) * kNormColumns + static_cast<int>(threadIdx.x);
  shared[at] = m;
  for (int half = kNormRows / 2; half > 0; half /= 2) {
    __syncthreads();
    if (static_cast<int>(threadIdx.y) < half) shared[at] = merge(shared[at], shared[at + half * kNormColumns]);
  }
  if (threadIdx.y == 0 && c < C) parts[blockIdx.y * C + c] = shared[at];
}

// Statistics have type S: float, or double beside double.
template <class S>
FASTCNN_DEVICE S invstd_of(S var, S eps) {
  return 1 / sqrt((var < 0 ? S(0) : var) + eps);
}
template <class S>
struct NormStats {
  S *mean, *invstd, *affine;  // affine (2, C) may be null
  const S *gamma, *beta;
  FASTCNN_DEVICE void set(int64_t c, int64_t C, S m, S inv) const {
    mean[c] = m, invstd[c] = inv;
    if (affine) affine[c] = inv * gamma[c], affine[C + c] = beta[c];
  }
};

template <class S>
FASTCNN_KERNEL bn_finish(const Moments<S>* parts, int slices, int64_t C, double eps, NormStats<S> s) {
  using M = Moments<S>;
  const int64_t c = static_cast<int64_t>(blockIdx.x) * kFinishChannels + threadIdx.x;
  const M m = total_of_slices(
      c < C ? slices : 0, M{0, 0, 0}, [&](int k) { return parts[k * C + c]; },
      [](const M& a, const M& b) { return merge(a, b); });
  if (threadIdx.y == 0 && c < C) s.set(c, C, m.mean, invstd_of(m.n > 0 ? m.m2 / m.n : S(0), static_cast<S>(eps)));
}

// From moments (2, C) that a convolution gave.
template <class S>
FASTCNN_KERNEL bn_take_moments(const double* moments, int64_t C, double eps, NormStats<S> s) {
  for (int64_t c = global_thread(); c < C; c += global_threads())
    s.set(c, C, static_cast<S>(moments[c]), invstd_of(static_cast<S>(moments[C + c]), static_cast<S>(eps)));
}

// y = act((x - mean) * scale + beta + residual) with scale = spread * gamma: spread is invstd, or a variance.
template <class T>
FASTCNN_KERNEL bn_apply(const T* x, const Real<T>* mean, const Real<T>* spread, bool is_variance, double eps,
                        const Real<T>* gamma, const Real<T>* beta, const T* residual, ActOf<Real<T>> act, T* y,
                        int64_t rows, int64_t C) {
  using R = Real<T>;
  const int64_t n = rows * C;
  for (int64_t i = global_thread(); i < n; i += global_threads()) {
    const int64_t c = n <= 0x7fffffff ? static_cast<int32_t>(i) % static_cast<int32_t>(C) : i % C;
    const R inv = is_variance ? 1 / sqrt(spread[c] + static_cast<R>(eps)) : spread[c];
    R z = (to_real(x[i]) - mean[c]) * (inv * gamma[c]) + beta[c];
    if (residual) z += to_real(residual[i]);
    y[i] = from_real<T>(apply_act(act, z));
  }
}

// The gradient before the activation.
template <class T>
struct BnGrad {
  using R = Real<T>;
  const T *dy, *dy2, *x, *y;  // dy2 and y may be null
  const R *mean, *affine;     // affine (2, C): makes y from x
  ActOf<R> act;
  FASTCNN_DEVICE R operator()(int64_t i, int64_t c, int64_t C) const {
    R d = to_real(dy[i]);
    if (dy2) d += to_real(dy2[i]);
    if (act.act == Act::none) return d;
    if (!affine) return act_slope(act, d, to_real(y[i]));
    const R z = (to_real(x[i]) - mean[c]) * affine[c] + affine[C + c];
    return act_slope(act, d, act_bwd_uses_output(act.act) ? apply_act(act, z) : z);
  }
};

// parts (slices, 2, C): sums of dz and dz * (x - mean).
template <class T>
FASTCNN_KERNEL bn_bwd_sums(BnGrad<T> g, int64_t rows, int64_t C, Real<T>* parts) {
  using R = Real<T>;
  const int64_t c = static_cast<int64_t>(blockIdx.x) * kNormColumns + threadIdx.x;
  int64_t begin, end;
  slice_of(rows, &begin, &end);
  R sum = 0, dot = 0;
  if (c < C)
    for (int64_t r = begin + threadIdx.y; r < end; r += kNormRows) {
      const int64_t i = r * C + c;
      const R dz = g(i, c, C);
      sum += dz, dot += dz * (to_real(g.x[i]) - g.mean[c]);
    }
  R* shared = shared_memory<R>();
  constexpr int plane = kNormColumns * kNormRows;
  const int at = static_cast<int>(threadIdx.y) * kNormColumns + static_cast<int>(threadIdx.x);
  shared[at] = sum, shared[plane + at] = dot;
  for (int half = kNormRows / 2; half > 0; half /= 2) {
    __syncthreads();
    if (static_cast<int>(threadIdx.y) < half)
      for (int k = 0; k < 2; ++k) shared[k * plane + at] += shared[k * plane + at + half * kNormColumns];
  }
  if (threadIdx.y == 0 && c < C)
    for (int k = 0; k < 2; ++k) parts[(blockIdx.y * 2 + k) * C + c] = shared[k * plane + at];
}

// dgamma, dbeta, and coef (2, C): what bn_bwd_apply takes off dz; with gamma (3, C): dx = coef[0] dz + coef[1] (x
// - mean) + coef[2]. `given`: the sums, float64, in place of parts.
template <class S>
FASTCNN_KERNEL bn_bwd_finish(const S* parts, int slices, int64_t rows, int64_t C, const double* given,
                             const S* gamma, const S* invstd, S* dgamma, S* dbeta, S* coef) {
  using V = Sums<S, 2>;
  const int64_t c = static_cast<int64_t>(blockIdx.x) * kFinishChannels + threadIdx.x;
  V all = total_of_slices(
      c < C && !given ? slices : 0, V{{S(0), S(0)}},
      [&](int k) { return V{{parts[k * 2 * C + c], parts[(k * 2 + 1) * C + c]}}; },
      [](const V& a, const V& b) { return V{{a.v[0] + b.v[0], a.v[1] + b.v[1]}}; });
  if (threadIdx.y != 0 || c >= C) return;
  if (given) all = {{static_cast<S>(given[c]), static_cast<S>(given[C + c])}};
  const S sum = all.v[0], dot = all.v[1], n = static_cast<S>(rows > 0 ? rows : 1);
  dgamma[c] = dot * invstd[c], dbeta[c] = sum;
  const S mean = sum / n, slope = dot * invstd[c] * invstd[c] / n;
  if (gamma) {
    const S scale = gamma[c] * invstd[c];
    coef[c] = scale, coef[C + c] = -scale * slope, coef[2 * C + c] = -scale * mean;
  } else {
    coef[c] = mean, coef[C + c] = slope;
  }
}

template <class T>
FASTCNN_KERNEL bn_bwd_apply(BnGrad<T> g, const Real<T>* gamma, const Real<T>* invstd, const Real<T>* coef, T* dx,
                            T* dresidual, int64_t rows, int64_t C) {
  using R = Real<T>;
  const int64_t n = rows * C;
  for (int64_t i = global_thread(); i < n; i += global_threads()) {
    const int64_t c = n <= 0x7fffffff ? static_cast<int32_t>(i) % static_cast<int32_t>(C) : i % C;
    const R dz = g(i, c, C);
    dx[i] = from_real<T>(gamma[c] * invstd[c] * (dz - coef[c] - (to_real(g.x[i]) - g.mean[c]) * coef[C + c]));
    if (dresidual) dresidual[i] = from_real<T>(dz);
  }
}

// Vectors over channels, each of a floating dtype known at run time only: running statistics keep the dtype of
// their module, whatever that of the images.
struct ChannelVectors {
  const void* p[4];
  DType t[4];
  template <class W>
  FASTCNN_DEVICE W load(int k, int64_t c) const {
    return load_as<W>(p[k], t[k], c);
  }
};

// wide (4, C): the vectors in the real type that the passes over images take.
template <class S>
FASTCNN_KERNEL bn_widen(ChannelVectors in, int64_t C, S* wide) {
  for (int64_t c = global_thread(); c < C; c += global_threads())
    for (int k = 0; k < 4; ++k) wide[k * C + c] = in.load<S>(k, c);
}

// in: mean and invstd of the batch, mean and variance so far; the latter two are replaced. A block takes
// kRunningChannels of one norm.
struct RunningNorm {
  ChannelVectors in;
  int32_t C;
  void *mean, *var;
  const int64_t* batches;  // momentum < 0
  int64_t rows;
  double eps, momentum;
};
template <int most>
using RunningTable = TensorTable<RunningNorm, most>;
constexpr int kRunningChannels = 256, kMostNorms = kMostTensors < 300 ? kMostTensors : 300;
static_assert(sizeof(RunningTable<kMostNorms>) <= (kMostTensors < 300 ? 4096 : 32764));

template <int most>
FASTCNN_KERNEL bn_running(const FASTCNN_GRID_CONSTANT RunningTable<most> table) {
  const int t = table.of_block(static_cast<int32_t>(blockIdx.x));
  const RunningNorm& s = table.tensor[t];
  const int32_t c = (static_cast<int32_t>(blockIdx.x) - table.first_block[t]) * kRunningChannels +
                    static_cast<int32_t>(threadIdx.x);
  if (c >= s.C) return;
  double f = s.momentum;
  if (f < 0) f = 1.0 / static_cast<double>(*s.batches > 1 ? *s.batches : 1);
  if (s.rows == 0) f = 0;
  const double unbias = s.rows > 1 ? static_cast<double>(s.rows) / static_cast<double>(s.rows - 1) : 1;
  const double mean = s.in.load<double>(0, c), inv = s.in.load<double>(1, c);
  double var = 1 / (inv * inv) - s.eps;
  if (var < 0) var = 0;
  store_as(s.mean, s.in.t[2], c, (1 - f) * s.in.load<double>(2, c) + (f ? f * mean : 0));
  store_as(s.var, s.in.t[3], c, (1 - f) * s.in.load<double>(3, c) + (f ? f * var * unbias : 0));
}

// Inference folded into the weights before it; see FoldParams.
template <class T>
FASTCNN_KERNEL bn_fold(FoldParams p, int64_t n, const T* w, const T* gamma, const T* beta, const T* mean,
                       const T* var, const T* bias, T* folded, T* shift) {
  using R = Real<T>;
  auto scale = [&](int64_t c) { return to_real(gamma[c]) / sqrt(to_real(var[c]) + static_cast<R>(p.eps)); };
  for (int64_t i = global_thread(); i < n || i < p.C; i += global_threads()) {
    if (i < n) folded[i] = from_real<T>(to_real(w[i]) * scale(i / p.block * p.step + i % p.inner));
    if (i < p.C)
      shift[i] = from_real<T>(to_real(beta[i]) + ((bias ? to_real(bias[i]) : R(0)) - to_real(mean[i])) * scale(i));
  }
}

}  // namespace fastcnn::cuda
