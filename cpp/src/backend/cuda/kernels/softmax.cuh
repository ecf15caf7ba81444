// What it is: softmax and log_softmax with their gradients, and cross entropy on class ids: a block per row.
#pragma once
#include "backend/cuda/device.cuh"
#include "backend/cuda/kernels/faults.cuh"

namespace fastcnn::cuda {

template <class R>
FASTCNN_DEVICE R minus_infinity() {
  return static_cast<R>(-INFINITY);
}

template <class R>
struct RowStats {
  R max, sum;  // of x; of exp(x - max)
};

template <class T>
FASTCNN_DEVICE RowStats<Real<T>> row_stats(const T* x, int64_t n, int64_t step) {
  using R = Real<T>;
  auto* scratch = shared_memory<Sums<R, 1>>();
  Sums<R, 1> m{{minus_infinity<R>()}}, s{{R(0)}};
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
    const R v = to_real(x[i * step]);
    if (v > m.v[0] || v != v) m.v[0] = v;
  }
  m = block_max(m, scratch);
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) s.v[0] += exp(to_real(x[i * step]) - m.v[0]);
  s = block_sum(s, scratch);
  return {m.v[0], s.v[0]};
}

// Rows (outer, inner) of dim elements, inner apart.
FASTCNN_DEVICE int64_t row_base(const SoftmaxParams& p, int64_t row) {
  return row / p.inner * p.dim * p.inner + row % p.inner;
}

template <class T>
FASTCNN_KERNEL softmax_kernel(SoftmaxParams p, bool log_form, const T* x, T* y) {
  follow_previous();
  using R = Real<T>;
  for (int64_t row = blockIdx.x; row < p.outer * p.inner; row += gridDim.x) {
    const int64_t base = row_base(p, row);
    const RowStats<R> s = row_stats(x + base, p.dim, p.inner);
    const R shift = log(s.sum);
    for (int64_t i = threadIdx.x; i < p.dim; i += blockDim.x) {
      const R d = to_real(x[base + i * p.inner]) - s.max;
      y[base + i * p.inner] = from_real<T>(log_form ? d - shift : exp(d) / s.sum);
    }
  }
}

template <class T>
FASTCNN_KERNEL softmax_bwd_kernel(SoftmaxParams p, bool log_form, const T* dy, const T* y, T* dx) {
  follow_previous();
  using R = Real<T>;
  for (int64_t row = blockIdx.x; row < p.outer * p.inner; row += gridDim.x) {
    const int64_t base = row_base(p, row);
    Sums<R, 1> s{{R(0)}};
    for (int64_t i = threadIdx.x; i < p.dim; i += blockDim.x) {
      const int64_t at = base + i * p.inner;
      s.v[0] += log_form ? to_real(dy[at]) : to_real(dy[at]) * to_real(y[at]);
    }
    s = block_sum(s, shared_memory<Sums<R, 1>>());
    for (int64_t i = threadIdx.x; i < p.dim; i += blockDim.x) {
      const int64_t at = base + i * p.inner;
      const R g = to_real(dy[at]), v = to_real(y[at]);
      dx[at] = from_real<T>(log_form ? g - exp(v) * s.v[0] : v * (g - s.v[0]));
    }
  }
}

// Weights, losses and sums of rows are float32, or float64 beside float64; logits and the loss have T.
template <class R>
struct CrossEntropyArgs {
  CrossEntropyParams p;
  const int64_t* target;
  const void* weight;
  DType weight_type;
  ErrorRecord* errors;
  FASTCNN_DEVICE R class_weight(int64_t k) const {
    return p.has_weight ? load_as<R>(weight, weight_type, k) : R(1);
  }
  // Is the row's target a class? Notes those that are neither a class nor ignore_index.
  FASTCNN_DEVICE bool counts(int64_t row, int32_t kind) const {
    const int64_t t = target[row];
    if (t == p.ignore_index) return false;
    if (t >= 0 && t < p.C) return true;
    if (threadIdx.x == 0) note_fault(errors, Fault::class_id, kind, t, 0, p.C, row);
    return false;
  }
};

// rows (2, rows): loss and weight of each row.
template <class T>
FASTCNN_KERNEL cross_entropy_rows(CrossEntropyArgs<Real<T>> a, const T* logits, void* lse, DType lse_type,
                                  Real<T>* rows) {
  follow_previous();
  using R = Real<T>;
  auto* scratch = shared_memory<Sums<R, 1>>();
  const int64_t C = a.p.C;
  const R eps = static_cast<R>(a.p.label_smoothing);
  for (int64_t row = blockIdx.x; row < a.p.rows; row += gridDim.x) {
    const T* x = logits + row * C;
    const RowStats<R> s = row_stats(x, C, 1);
    const R l = s.max - s.max != 0 ? s.max : s.max + log(s.sum);  // infinite or NaN
    const bool counts = a.counts(row, static_cast<int32_t>(OpKind::cross_entropy));
    Sums<R, 1> smooth{{R(0)}};
    if (counts && eps > 0) {
      for (int64_t k = threadIdx.x; k < C; k += blockDim.x) smooth.v[0] += a.class_weight(k) * (l - to_real(x[k]));
      smooth = block_sum(smooth, scratch);
    }
    if (threadIdx.x == 0) {
      R v = 0, w = 0;
      if (counts) {
        w = a.class_weight(a.target[row]);
        v = w * (l - to_real(x[a.target[row]]));
        if (eps > 0) v = (1 - eps) * v + eps / static_cast<R>(C) * smooth.v[0];
      }
      store_as<R>(lse, lse_type, row, l);
      rows[row] = v, rows[a.p.rows + row] = w;
    }
  }
}

// One block: the sums of rows, and the losses themselves where none are reduced.
template <class R>
FASTCNN_KERNEL cross_entropy_join(CrossEntropyParams p, const R* rows, void* loss, DType loss_type,
                                  void* weight_sum, DType weight_sum_type) {
  follow_previous();
  Sums<R, 2> s{{R(0), R(0)}};
  for (int64_t i = threadIdx.x; i < p.rows; i += blockDim.x) {
    s.v[0] += rows[i], s.v[1] += rows[p.rows + i];
    if (p.reduction == Reduction::none) store_as<R>(loss, loss_type, i, rows[i]);
  }
  s = block_sum(s, shared_memory<Sums<R, 2>>());
  if (threadIdx.x != 0) return;
  store_as<R>(weight_sum, weight_sum_type, 0, s.v[1]);
  if (p.reduction == Reduction::mean) store_as<R>(loss, loss_type, 0, s.v[0] / s.v[1]);
  if (p.reduction == Reduction::sum) store_as<R>(loss, loss_type, 0, s.v[0]);
}

template <class T>
FASTCNN_KERNEL cross_entropy_bwd_kernel(CrossEntropyArgs<Real<T>> a, const void* dloss, DType dloss_type,
                                        const T* logits, const void* lse, DType lse_type, const void* weight_sum,
                                        T* dx) {
  follow_previous();
  using R = Real<T>;
  const int64_t C = a.p.C;
  const R eps = static_cast<R>(a.p.label_smoothing), spread = eps / static_cast<R>(C);
  Sums<R, 1> all{{R(0)}};
  if (a.p.has_weight && eps > 0) {
    for (int64_t k = threadIdx.x; k < C; k += blockDim.x) all.v[0] += a.class_weight(k);
    all = block_sum(all, shared_memory<Sums<R, 1>>());
  } else {
    all.v[0] = static_cast<R>(C);
  }
  for (int64_t row = blockIdx.x; row < a.p.rows; row += gridDim.x) {
    const bool counts = a.counts(row, static_cast<int32_t>(OpKind::cross_entropy_bwd));
    R g = 0, w = 0, l = 0;
    if (counts) {
      g = load_as<R>(dloss, dloss_type, a.p.reduction == Reduction::none ? row : 0);
      if (a.p.reduction == Reduction::mean) g /= load_as<R>(weight_sum, lse_type, 0);
      w = a.class_weight(a.target[row]), l = load_as<R>(lse, lse_type, row);
    }
    for (int64_t k = threadIdx.x; k < C; k += blockDim.x) {
      R d = 0;
      if (counts) {
        const R prob = exp(to_real(logits[row * C + k]) - l);
        d = (1 - eps) * w * (prob - (k == a.target[row] ? R(1) : R(0)));
        if (eps > 0) d += spread * (prob * all.v[0] - a.class_weight(k));
        d *= g;
      }
      dx[row * C + k] = from_real<T>(d);
    }
  }
}

}  // namespace fastcnn::cuda
