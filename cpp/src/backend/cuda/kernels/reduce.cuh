// What it is: reductions in two deterministic stages: a block takes `columns` outputs and `rows` threads of one
// slice of what is reduced, a second kernel joins the slices in order. What it is not: atomics.
#pragma once
#include "backend/cpu/kernels/eltwise_args.h"
#include "backend/cuda/device.cuh"
#include "backend/cuda/kernels/math.cuh"

namespace fastcnn::cuda {

template <class W>
struct Partial {
  W v;
  int64_t at;  // of argmax, argmin; -1: nothing seen yet
};

template <class W>
FASTCNN_DEVICE void take(Reduce op, Partial<W>& a, W x, int64_t at) {
  if (a.at < 0) {
    a.at = at;
    if (op == Reduce::any || op == Reduce::all)
      a.v = x != 0;
    else
      a.v = x;
    return;
  }
  bool better = false;
  switch (op) {
    case Reduce::prod:
      if constexpr (is_same<W, int64_t>)
        a.v = wrap_mul(a.v, x);
      else
        a.v *= x;
      return;
    case Reduce::any: a.v = a.v != 0 || x != 0; return;
    case Reduce::all: a.v = a.v != 0 && x != 0; return;
    case Reduce::max:
    case Reduce::argmax: better = a.v == a.v && (x > a.v || x != x || (x == a.v && at < a.at)); break;
    case Reduce::min:
    case Reduce::argmin: better = a.v == a.v && (x < a.v || x != x || (x == a.v && at < a.at)); break;
    default:
      if constexpr (is_same<W, int64_t>)
        a.v = wrap_add(a.v, x);
      else
        a.v += x;
      return;
  }
  if (x != x && a.v != a.v) better = at < a.at;  // the first NaN
  if (better) a.v = x, a.at = at;
}

template <class W>
FASTCNN_DEVICE void store_reduced(Reduce op, void* y, DType t, int64_t at, const Partial<W>& a, int64_t count) {
  if (op == Reduce::argmax || op == Reduce::argmin)
    store_as<int64_t>(y, t, at, a.at);
  else if (op == Reduce::mean)
    store_as<double>(y, t, at, static_cast<double>(a.v) / static_cast<double>(count));
  else if (a.at < 0)
    store_as<W>(y, t, at, static_cast<W>(op == Reduce::prod || op == Reduce::all));
  else
    store_as<W>(y, t, at, a.v);
}

FASTCNN_DEVICE int64_t place(const int64_t* shape, const int64_t* strides, int n, int64_t i) {
  int64_t at = 0;
  for (int d = n - 1; d >= 0; --d) {
    const int64_t q = i / shape[d];
    at += (i - q * shape[d]) * strides[d];
    i = q;
  }
  return at;
}

// Block (columns, rows); grid (outputs / columns, slices). With one slice the result is stored, else partials
// (slices, outputs).
template <class W>
FASTCNN_KERNEL reduce_kernel(ReduceLoop l, Reduce op, const void* x, DType x_type, void* y, DType y_type,
                             Partial<W>* partials) {
  follow_previous();
  const int64_t o = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int rows = static_cast<int>(blockDim.y), row = static_cast<int>(threadIdx.y);
  const int64_t slice = (l.count + gridDim.y - 1) / gridDim.y, begin = blockIdx.y * slice;
  const int64_t end = begin + slice < l.count ? begin + slice : l.count;
  Partial<W> a{W(0), -1};
  if (o < l.outputs) {
    const int64_t base = place(l.kept_shape, l.kept_x, l.kept, o);
    for (int64_t r = begin + row; r < end; r += rows) {
      const W v = load_as<W>(x, x_type, base + place(l.shape, l.x, l.reduced, r));
      if constexpr (is_same<W, int64_t>)
        take<W>(op, a, op == Reduce::sum_squares ? wrap_mul(v, v) : v, r);
      else
        take<W>(op, a, op == Reduce::sum_squares ? v * v : v, r);
    }
  }
  Partial<W>* shared = shared_memory<Partial<W>>();
  const int columns = static_cast<int>(blockDim.x), mine = row * columns + static_cast<int>(threadIdx.x);
  shared[mine] = a;
  for (int half = rows / 2; half > 0; half /= 2) {  // rows: a power of two
    __syncthreads();
    if (row < half) {
      const Partial<W> b = shared[mine + half * columns];
      if (b.at >= 0) take<W>(op, shared[mine], b.v, b.at);
    }
  }
  if (row != 0 || o >= l.outputs) return;
  if (gridDim.y == 1)
    store_reduced<W>(op, y, y_type, place(l.kept_shape, l.kept_y, l.kept, o), shared[mine], l.count);
  else
    partials[blockIdx.y * l.outputs + o] = shared[mine];
}

template <class W>
FASTCNN_KERNEL reduce_join(ReduceLoop l, Reduce op, const Partial<W>* partials, int slices, void* y,
                           DType y_type) {
  follow_previous();
  for (int64_t o = global_thread(); o < l.outputs; o += global_threads()) {
    Partial<W> a = partials[o];
    for (int s = 1; s < slices; ++s) {
      const Partial<W> b = partials[s * l.outputs + o];
      if (b.at >= 0) take<W>(op, a, b.v, b.at);
    }
    store_reduced<W>(op, y, y_type, place(l.kept_shape, l.kept_y, l.kept, o), a, l.count);
  }
}

// Losses between two tensors of one shape, summed: one partial per block, joined by loss_join.
template <class T>
FASTCNN_KERNEL point_loss_sum(PointLossOf<Real<T>> f, const T* x, const T* t, int64_t n, Real<T>* partials,
                              ErrorRecord* errors) {
  follow_previous();
  using R = Real<T>;
  Sums<R, 1> s{{R(0)}};
  for (int64_t i = global_thread(); i < n; i += global_threads()) {
    const R target = to_real(t[i]);
    if (target != target)
      note_fault(errors, Fault::nan_target, static_cast<int32_t>(OpKind::pointwise_loss), 0, 0, 0, i);
    s.v[0] += f.value(to_real(x[i]), target);
  }
  s = block_sum(s, shared_memory<Sums<R, 1>>());
  if (threadIdx.x == 0) partials[blockIdx.x] = s.v[0];
}

// *y = scale * sum of `count` partials; one block.
template <class R>
FASTCNN_KERNEL loss_join(const R* partials, int count, R scale, void* y, DType y_type) {
  follow_previous();
  Sums<R, 1> s{{R(0)}};
  for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x)) s.v[0] += partials[i];
  s = block_sum(s, shared_memory<Sums<R, 1>>());
  if (threadIdx.x == 0) store_as<R>(y, y_type, 0, s.v[0] * scale);
}

template <class R>
struct PointLossEach {
  PointLossOf<R> f;
  ErrorRecord* errors;
  FASTCNN_DEVICE R operator()(int64_t i, R x, R t) const {
    if (t != t) note_fault(errors, Fault::nan_target, static_cast<int32_t>(OpKind::pointwise_loss), 0, 0, 0, i);
    return f.value(x, t);
  }
};

// dloss is one number (of dloss_type) or one per element.
template <class R>
struct PointLossSlope {
  PointLossOf<R> f;
  const void* dloss;
  DType dloss_type;
  int64_t each;
  R scale;
  FASTCNN_DEVICE R operator()(int64_t i, R x, R t) const {
    return load_as<R>(dloss, dloss_type, each ? i : 0) * scale * f.slope(x, t);
  }
};

}  // namespace fastcnn::cuda
