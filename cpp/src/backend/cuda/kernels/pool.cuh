// What it is: max and average pooling over N,H,W,C and their gradients: a thread per element with channels
// innermost; gradients gather from the outputs whose windows cover a pixel, so nothing is added atomically.
#pragma once
#include "backend/cpu/kernels/windows.h"
#include "backend/cuda/device.cuh"

namespace fastcnn::cuda {

using cpu::pool_cols;
using cpu::pool_cover;
using cpu::pool_rows;
using cpu::pool_window;
using cpu::PoolCover;
using cpu::PoolWindow;

struct PoolPlace {
  int64_t n, h, w, c;
};
FASTCNN_DEVICE PoolPlace pool_place(int64_t i, int64_t H, int64_t W, int64_t C) {
  PoolPlace p;
  if (((i | H | W | C) >> 32) == 0) {  // 32-bit divisions are several times faster
    uint32_t rest = static_cast<uint32_t>(i), q = rest / static_cast<uint32_t>(C);
    p.c = rest - q * static_cast<uint32_t>(C), rest = q;
    q = rest / static_cast<uint32_t>(W), p.w = rest - q * static_cast<uint32_t>(W), rest = q;
    q = rest / static_cast<uint32_t>(H), p.h = rest - q * static_cast<uint32_t>(H), p.n = q;
    return p;
  }
  p.c = i % C, i /= C;
  p.w = i % W, i /= W;
  p.h = i % H, p.n = i / H;
  return p;
}

template <class T>
FASTCNN_KERNEL max_pool_kernel(Pool2dParams p, const T* x, T* y, int32_t* index) {
  follow_previous();
  const int64_t total = p.N * p.oH * p.oW * p.C;
  for (int64_t i = global_thread(); i < total; i += global_threads()) {
    const PoolPlace o = pool_place(i, p.oH, p.oW, p.C);
    const PoolWindow wh = pool_window(pool_rows(p), o.h), ww = pool_window(pool_cols(p), o.w);
    Real<T> best = static_cast<Real<T>>(-INFINITY);
    int64_t at = -1;
    for (int64_t h = wh.begin; h < wh.end; h += wh.step)
      for (int64_t w = ww.begin; w < ww.end; w += ww.step) {
        const Real<T> v = to_real(x[((o.n * p.H + h) * p.W + w) * p.C + o.c]);
        if (at < 0 || v > best || v != v) best = v, at = h * p.W + w;
      }
    y[i] = from_real<T>(best);
    index[i] = static_cast<int32_t>(at);
  }
}

template <class T>
FASTCNN_KERNEL max_pool_bwd_kernel(Pool2dParams p, const T* dy, const int32_t* index, T* dx) {
  follow_previous();
  const int64_t total = p.N * p.H * p.W * p.C;
  for (int64_t i = global_thread(); i < total; i += global_threads()) {
    const PoolPlace in = pool_place(i, p.H, p.W, p.C);
    const PoolCover ch = pool_cover(pool_rows(p), in.h), cw = pool_cover(pool_cols(p), in.w);
    const int32_t me = static_cast<int32_t>(in.h * p.W + in.w);
    Real<T> s = 0;
    for (int64_t h = ch.first; h <= ch.last; ++h)
      for (int64_t w = cw.first; w <= cw.last; ++w) {
        const int64_t o = ((in.n * p.oH + h) * p.oW + w) * p.C + in.c;
        if (index[o] == me) s += to_real(dy[o]);
      }
    dx[i] = from_real<T>(s);
  }
}

template <class T>
FASTCNN_KERNEL max_pool_gather_kernel(Pool2dParams p, const T* g, const int32_t* index, T* y) {
  follow_previous();
  const int64_t per = p.oH * p.oW * p.C, total = p.N * per;
  for (int64_t i = global_thread(); i < total; i += global_threads())
    y[i] = index[i] < 0 ? from_real<T>(Real<T>(0)) : g[(i / per * p.H * p.W + index[i]) * p.C + i % p.C];
}

template <class R>
FASTCNN_DEVICE R pool_share(const Pool2dParams& p, const PoolWindow& h, const PoolWindow& w) {
  return R(1) / static_cast<R>(p.count_include_pad ? h.padded * w.padded : (h.end - h.begin) * (w.end - w.begin));
}

template <class T>
FASTCNN_KERNEL avg_pool_kernel(Pool2dParams p, const T* x, T* y) {
  follow_previous();
  const int64_t total = p.N * p.oH * p.oW * p.C;
  for (int64_t i = global_thread(); i < total; i += global_threads()) {
    const PoolPlace o = pool_place(i, p.oH, p.oW, p.C);
    const PoolWindow wh = pool_window(pool_rows(p), o.h), ww = pool_window(pool_cols(p), o.w);
    Real<T> s = 0;
    for (int64_t h = wh.begin; h < wh.end; ++h)
      for (int64_t w = ww.begin; w < ww.end; ++w) s += to_real(x[((o.n * p.H + h) * p.W + w) * p.C + o.c]);
    const bool empty = wh.begin >= wh.end || ww.begin >= ww.end;
    y[i] = from_real<T>(empty ? Real<T>(0) : s * pool_share<Real<T>>(p, wh, ww));
  }
}

template <class T>
FASTCNN_KERNEL avg_pool_bwd_kernel(Pool2dParams p, const T* dy, T* dx) {
  follow_previous();
  const int64_t total = p.N * p.H * p.W * p.C;
  for (int64_t i = global_thread(); i < total; i += global_threads()) {
    const PoolPlace in = pool_place(i, p.H, p.W, p.C);
    const PoolCover ch = pool_cover(pool_rows(p), in.h), cw = pool_cover(pool_cols(p), in.w);
    Real<T> s = 0;
    for (int64_t h = ch.first; h <= ch.last; ++h)
      for (int64_t w = cw.first; w <= cw.last; ++w) {
        const PoolWindow wh = pool_window(pool_rows(p), h), ww = pool_window(pool_cols(p), w);
        if (in.h < wh.begin || in.h >= wh.end || in.w < ww.begin || in.w >= ww.end) continue;
        s += to_real(dy[((in.n * p.oH + h) * p.oW + w) * p.C + in.c]) * pool_share<Real<T>>(p, wh, ww);
      }
    dx[i] = from_real<T>(s);
  }
}

}  // namespace fastcnn::cuda
