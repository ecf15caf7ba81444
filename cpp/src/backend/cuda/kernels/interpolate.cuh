// What it is: interpolate and its transpose over N,H,W,C: the taps of both axes as tables, then a thread per
// element; the gradient gathers from the outputs whose taps meet a pixel, so nothing is added atomically. What it
// is not: the rules of the taps (backend/cpu/interp_axis.h).
#pragma once
#include "backend/cpu/interp_axis.h"
#include "backend/cuda/kernels/pool.cuh"

namespace fastcnn::cuda {

// Taps of one axis: index and weight (out, taps); index[., k] never falls from one output to the next.
template <class R>
struct TapTable {
  int64_t in, out, taps;
  int64_t* index;
  R* weight;

  // The outputs whose taps may meet input i: [first, end).
  FASTCNN_DEVICE int64_t first(int64_t i) const { return lower(i, taps - 1); }
  FASTCNN_DEVICE int64_t end(int64_t i) const { return lower(i + 1, 0); }
  // What output o takes of input i.
  FASTCNN_DEVICE R share(int64_t o, int64_t i) const {
    R s = 0;
    for (int64_t k = o * taps; k < (o + 1) * taps; ++k)
      if (index[k] == i) s += weight[k];
    return s;
  }

 private:
  FASTCNN_DEVICE int64_t lower(int64_t i, int64_t tap) const {  // the first output whose tap is at i or behind
    int64_t low = 0, high = out;
    while (low < high) {
      const int64_t mid = (low + high) / 2;
      if (index[mid * taps + tap] < i)
        low = mid + 1;
      else
        high = mid;
    }
    return low;
  }
};

template <class R>
FASTCNN_KERNEL interp_table(cpu::InterpRule<R> rule, TapTable<R> t) {
  follow_previous();
  for (int64_t o = global_thread(); o < t.out; o += global_threads())
    cpu::interp_position(rule, o, t.index + o * t.taps, t.weight + o * t.taps);
}

template <class T>
FASTCNN_KERNEL interp_pick(InterpolateParams p, TapTable<float> h, TapTable<float> w, const T* x, T* y) {
  follow_previous();
  const int64_t total = p.N * p.oH * p.oW * p.C;
  for (int64_t i = global_thread(); i < total; i += global_threads()) {
    const PoolPlace o = pool_place(i, p.oH, p.oW, p.C);
    y[i] = x[((o.n * p.H + h.index[o.h]) * p.W + w.index[o.w]) * p.C + o.c];
  }
}

// Whole numbers are pictures: rounded and held in [low, high], with sums S in float64, so that ties fall as the
// CPU's.
template <class R, class S>
FASTCNN_KERNEL interp_kernel(InterpolateParams p, TapTable<R> h, TapTable<R> w, const void* x, void* y, DType type,
                             bool whole, S low, S high) {
  follow_previous();
  const int64_t total = p.N * p.oH * p.oW * p.C;
  for (int64_t i = global_thread(); i < total; i += global_threads()) {
    const PoolPlace o = pool_place(i, p.oH, p.oW, p.C);
    S s = 0;
    for (int64_t a = o.h * h.taps; a < (o.h + 1) * h.taps; ++a)
      for (int64_t b = o.w * w.taps; b < (o.w + 1) * w.taps; ++b) {
        const S share = static_cast<S>(h.weight[a]) * static_cast<S>(w.weight[b]);
        if (share != 0)
          s += share * load_as<S>(x, type, ((o.n * p.H + h.index[a]) * p.W + w.index[b]) * p.C + o.c);
      }
    if (whole) {
      s = rint(s);
      s = s < low ? low : s > high ? high : s;
    }
    store_as<S>(y, type, i, s);
  }
}

template <class T>
FASTCNN_KERNEL interp_bwd_kernel(InterpolateParams p, TapTable<Real<T>> h, TapTable<Real<T>> w, const T* dy,
                                 T* dx) {
  follow_previous();
  const int64_t total = p.N * p.H * p.W * p.C;
  for (int64_t i = global_thread(); i < total; i += global_threads()) {
    const PoolPlace in = pool_place(i, p.H, p.W, p.C);
    const int64_t h_end = h.end(in.h), w_first = w.first(in.w), w_end = w.end(in.w);
    Real<T> s = 0;
    for (int64_t oh = h.first(in.h); oh < h_end; ++oh) {
      const Real<T> of_row = h.share(oh, in.h);
      if (of_row == 0) continue;
      Real<T> row = 0;
      for (int64_t ow = w_first; ow < w_end; ++ow) {
        const Real<T> share = w.share(ow, in.w);
        if (share != 0) row += share * to_real(dy[((in.n * p.oH + oh) * p.oW + ow) * p.C + in.c]);
      }
      s += of_row * row;
    }
    dx[i] = from_real<T>(s);
  }
}

}  // namespace fastcnn::cuda
