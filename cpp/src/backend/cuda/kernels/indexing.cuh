// What it is: gathers and their transposes by index tensors, scatters into strided windows, padding. Sums have
// owners: a thread per column of the result adds in the order of the indices, so results are the same in every
// run.
#pragma once
#include "backend/cpu/pad_index.h"
#include "backend/cuda/device.cuh"
#include "backend/cuda/kernels/faults.cuh"

namespace fastcnn::cuda {

// Strides of up to kMaxDims dims; element i counts in row-major order of the logical dims.
struct Dense {
  int32_t ndim = 0;
  int64_t shape[kMaxDims] = {}, strides[kMaxDims] = {};
};
// *rest modulo size, which *rest is divided by.
FASTCNN_DEVICE int64_t split(int64_t* rest, int64_t size) {
  constexpr int64_t most = 0xffffffff;
  int64_t q;
  if (*rest < most)  // 32-bit divisions are several times faster
    q = static_cast<uint32_t>(*rest) / static_cast<uint32_t>(size < most ? size : most);
  else
    q = *rest / size;
  const int64_t r = *rest - q * size;
  *rest = q;
  return r;
}
FASTCNN_DEVICE void unravel(const Dense& d, int64_t i, int64_t (&at)[kMaxDims]) {
  for (int k = d.ndim - 1; k >= 0; --k) at[k] = split(&i, d.shape[k]);
}
FASTCNN_DEVICE int64_t offset_at(const Dense& d, const int64_t (&at)[kMaxDims]) {
  int64_t o = 0;
  for (int k = 0; k < d.ndim; ++k) o += at[k] * d.strides[k];
  return o;
}

struct IndexArgs {
  Dense x, y, index;  // x has the dim that is indexed, y the dim of the indices
  int32_t dim = 0, flat = 0,
          kind = 0;  // flat: one index per position along dim (index_select), negative ones count
  int64_t size = 0, low = 0;
  const int64_t* ids = nullptr;
  ErrorRecord* errors = nullptr;
  // The position along dim for the element at `at` of y; -1 after noting a bad index.
  FASTCNN_DEVICE int64_t source(const int64_t (&at)[kMaxDims]) const {
    const int64_t place = flat ? at[dim] * index.strides[0] : offset_at(index, at);
    const int64_t id = ids[place];
    if (id < low || id >= size) {
      note_fault(errors, Fault::index, kind, id, low, size, place);
      return -1;
    }
    return id < 0 ? id + size : id;
  }
};

template <class T>
FASTCNN_KERNEL gather_kernel(IndexArgs a, const T* x, T* y, int64_t total) {
  follow_previous();
  for (int64_t i = global_thread(); i < total; i += global_threads()) {
    int64_t at[kMaxDims];
    unravel(a.y, i, at);
    const int64_t from = a.source(at), to = offset_at(a.y, at);
    if (from < 0) continue;
    at[a.dim] = from;
    y[to] = x[offset_at(a.x, at)];
  }
}

// sums (dense like the result, W) starts as zeros. `columns` counts the elements of dy with dim fixed.
template <class W>
FASTCNN_KERNEL scatter_columns(IndexArgs a, const void* dy, DType type, W* sums, int64_t columns) {
  follow_previous();
  const int64_t length = a.y.shape[a.dim];
  Dense outer = a.y;
  outer.shape[a.dim] = 1;
  for (int64_t i = global_thread(); i < columns; i += global_threads()) {
    int64_t at[kMaxDims];
    unravel(outer, i, at);
    for (int64_t j = 0; j < length; ++j) {
      at[a.dim] = j;
      const int64_t to = a.source(at), from = offset_at(a.y, at);
      if (to < 0) continue;
      at[a.dim] = to;
      W& s = sums[offset_at(a.x, at)];
      if constexpr (is_same<W, int64_t>)
        s = static_cast<int64_t>(static_cast<uint64_t>(s) + static_cast<uint64_t>(load_as<W>(dy, type, from)));
      else
        s += load_as<W>(dy, type, from);
    }
  }
}

template <class W>
FASTCNN_KERNEL narrow_kernel(const W* x, void* y, DType type, int64_t n) {
  follow_previous();
  for (int64_t i = global_thread(); i < n; i += global_threads()) store_as<W>(y, type, i, x[i]);
}

// x lands in a strided window of y: each place of `window` gets the sum over `repeats`, the dims of x that all go
// to one place (an expand seen backwards). Windows do not overlap otherwise.
struct WindowArgs {
  Dense window, repeats;                  // strides of x
  int64_t from = 0;                       // where the window begins in x
  int64_t offset = 0, to[kMaxDims] = {};  // the same in y; steps above 0
  int64_t repeated = 1;
};
template <class W>
FASTCNN_KERNEL window_kernel(WindowArgs a, const void* x, void* y, DType type, int64_t total) {
  follow_previous();
  for (int64_t i = global_thread(); i < total; i += global_threads()) {
    int64_t at[kMaxDims], to = a.offset;
    unravel(a.window, i, at);
    for (int d = 0; d < a.window.ndim; ++d) to += at[d] * a.to[d];
    const int64_t from = a.from + offset_at(a.window, at);
    W s = load_as<W>(x, type, from);
    for (int64_t k = 1; k < a.repeated; ++k) {
      unravel(a.repeats, k, at);
      s += load_as<W>(x, type, from + offset_at(a.repeats, at));
    }
    store_as<W>(y, type, to, s);
  }
}

// The same where windows overlap: every place of y looks for the elements that land there. `window` has its dims
// in ascending order of `to`; `reach` is how far the dims up to each go together.
struct OverlapArgs {
  WindowArgs w;
  int64_t reach[kMaxDims] = {};
};
template <class W>
FASTCNN_KERNEL overlap_kernel(OverlapArgs a, const void* x, void* y, DType type, int64_t total) {
  follow_previous();
  const int n = a.w.window.ndim;
  for (int64_t o = global_thread(); o < total; o += global_threads()) {
    W sum = 0;
    int64_t at[kMaxDims], last[kMaxDims], rest[kMaxDims + 1], from[kMaxDims + 1];  // dim d searches rest[d + 1]
    rest[n] = o - a.w.offset, from[n] = a.w.from;
    auto open = [&](int d) {  // the indices of dim d that leave what the dims below it reach
      const int64_t step = a.w.to[d], below = d ? a.reach[d - 1] : 0, r = rest[d + 1];
      at[d] = r > below ? (r - below + step - 1) / step : 0;
      last[d] = r < 0 ? -1 : r / step < a.w.window.shape[d] - 1 ? r / step : a.w.window.shape[d] - 1;
    };
    auto take = [&](int64_t place) {
      for (int64_t k = 0; k < a.w.repeated; ++k) {
        int64_t index[kMaxDims];
        unravel(a.w.repeats, k, index);
        const W v = load_as<W>(x, type, place + offset_at(a.w.repeats, index));
        if constexpr (is_same<W, int64_t>)
          sum = static_cast<int64_t>(static_cast<uint64_t>(sum) + static_cast<uint64_t>(v));
        else
          sum += v;
      }
    };
    int d = n - 1;
    if (d < 0) {
      if (rest[n] == 0) take(from[n]);
    } else {
      open(d);
    }
    while (d >= 0 && d < n) {
      if (at[d] > last[d]) {
        if (++d < n) ++at[d];
        continue;
      }
      rest[d] = rest[d + 1] - at[d] * a.w.to[d], from[d] = from[d + 1] + at[d] * a.w.window.strides[d];
      if (d > 0) {
        open(--d);
      } else {
        if (rest[0] == 0) take(from[0]);
        ++at[0];
      }
    }
    store_as<W>(y, type, o, sum);
  }
}

// Of equal indices the last wins: the largest number of a value, from 1, that goes to each place.
FASTCNN_KERNEL put_winner(const int64_t* index, int64_t size, int32_t kind, ErrorRecord* errors, int32_t* winner,
                          int64_t m) {
  follow_previous();
  for (int64_t i = global_thread(); i < m; i += global_threads()) {
    const int64_t id = index[i];
    if (id < 0 || id >= size)
      note_fault(errors, Fault::index, kind, id, 0, size, i);
    else
      atomicMax(&winner[id], static_cast<int32_t>(i + 1));
  }
}
template <class T>
FASTCNN_KERNEL put_kernel(const T* x, const T* values, const int32_t* winner, T* y, int64_t n) {
  follow_previous();
  for (int64_t i = global_thread(); i < n; i += global_threads()) y[i] = winner[i] ? values[winner[i] - 1] : x[i];
}

struct PadArgs {
  PadParams p;
  Dense inner, padded;
};
// T: one element, or neighbours that stay neighbours. Dims as y lies in memory.
template <class T>
FASTCNN_KERNEL pad_kernel(PadArgs a, const T* x, T* y, T value, int64_t total) {
  follow_previous();
  for (int64_t i = global_thread(); i < total; i += global_threads()) {
    int64_t rest = i, from = 0, to = 0;
    for (int d = a.padded.ndim - 1; d >= 0; --d) {
      const int64_t at = split(&rest, a.padded.shape[d]);
      const int64_t s = cpu::pad_source(a.p.mode, at - a.p.before[d], a.inner.shape[d]);
      to += at * a.padded.strides[d];
      from = from < 0 || s < 0 ? -1 : from + s * a.inner.strides[d];
    }
    y[to] = from < 0 ? value : x[from];
  }
}

// Gathers: every element of dx looks through the padded coordinates that may have read it, per axis.
template <class T>
FASTCNN_KERNEL pad_bwd_kernel(PadArgs a, const T* dy, T* dx, int64_t total) {
  follow_previous();
  using R = Real<T>;
  for (int64_t i = global_thread(); i < total; i += global_threads()) {
    int64_t at[kMaxDims], pos[kMaxDims] = {};
    unravel(a.inner, i, at);
    const int64_t to = offset_at(a.inner, at);
    bool one[kMaxDims], any = true;  // one: a single padded coordinate may have read this one
    int64_t count = 1;
    for (int d = 0; d < a.inner.ndim; ++d) {
      one[d] = a.p.mode == PadMode::constant || (a.p.before[d] == 0 && a.p.after[d] == 0);
      pos[d] = at[d] + a.p.before[d];
      if (one[d] && (pos[d] < 0 || pos[d] >= a.padded.shape[d])) any = false;
      if (!one[d]) count *= a.padded.shape[d];
    }
    R s = 0;
    for (int64_t k = 0; any && k < count; ++k) {
      int64_t rest = k;
      bool hit = true;
      for (int d = a.inner.ndim - 1; d >= 0; --d) {
        if (one[d]) continue;
        pos[d] = rest % a.padded.shape[d], rest /= a.padded.shape[d];
        hit &= cpu::pad_source(a.p.mode, pos[d] - a.p.before[d], a.inner.shape[d]) == at[d];
      }
      if (hit) s += to_real(dy[offset_at(a.padded, pos)]);
    }
    dx[to] = from_real<T>(s);
  }
}

}  // namespace fastcnn::cuda
