// What it is: convolutions with one input channel per group, any multiplier: a thread per element, channels
// innermost; the weight gradient in slices of pixels. What it is not: tiled; neighbouring windows meet in the
// cache.
#pragma once
#include "backend/cuda/kernels/act.cuh"
#include "backend/cuda/kernels/pool.cuh"

namespace fastcnn::cuda {

// What the lanes (y) of a block of 32 columns say together, for lane 0. Lanes: a power of two. Shared: a value for
// each thread.
template <class R>
FASTCNN_DEVICE R total_of_lanes(R mine) {
  const int lane = static_cast<int>(threadIdx.y), lanes = static_cast<int>(blockDim.y);
  R* shared = shared_memory<R>() + lane * 32 + static_cast<int>(threadIdx.x);
  *shared = mine;
  for (int half = lanes / 2; half > 0; half /= 2) {
    __syncthreads();
    if (lane < half) *shared += shared[half * 32];
  }
  return *shared;
}

template <class T>
FASTCNN_KERNEL depthwise_forward(Conv2dParams p, const T* x, const T* w, const T* bias, const T* residual,
                                 ActOf<Real<T>> act, T* y) {
  const int64_t total = p.N * p.oH * p.oW * p.O, Og = p.O / p.groups;
  for (int64_t i = global_thread(); i < total; i += global_threads()) {
    const PoolPlace o = pool_place(i, p.oH, p.oW, p.O);
    Real<T> s = bias ? to_real(bias[o.c]) : Real<T>(0);
    for (int64_t kh = 0; kh < p.kH; ++kh) {
      const int64_t h = o.h * p.sH - p.pT + kh * p.dH;
      if (h < 0 || h >= p.H) continue;
      for (int64_t kw = 0; kw < p.kW; ++kw) {
        const int64_t v = o.w * p.sW - p.pL + kw * p.dW;
        if (v < 0 || v >= p.W) continue;
        s += to_real(x[((o.n * p.H + h) * p.W + v) * p.C + o.c / Og]) * to_real(w[(o.c * p.kH + kh) * p.kW + kw]);
      }
    }
    if (residual) s += to_real(residual[i]);
    y[i] = from_real<T>(apply_act(act, s));
  }
}

template <class T>
FASTCNN_KERNEL depthwise_bwd_data(Conv2dParams p, const T* dy, const T* w, const T* bias, T* dx) {
  const int64_t total = p.N * p.H * p.W * p.C, Og = p.O / p.groups;
  for (int64_t i = global_thread(); i < total; i += global_threads()) {
    const PoolPlace in = pool_place(i, p.H, p.W, p.C);
    Real<T> s = bias ? to_real(bias[in.c]) : Real<T>(0);
    for (int64_t kh = 0; kh < p.kH; ++kh) {
      const int64_t a = in.h + p.pT - kh * p.dH;
      if (a < 0 || a % p.sH || a / p.sH >= p.oH) continue;
      for (int64_t kw = 0; kw < p.kW; ++kw) {
        const int64_t b = in.w + p.pL - kw * p.dW;
        if (b < 0 || b % p.sW || b / p.sW >= p.oW) continue;
        const int64_t at = ((in.n * p.oH + a / p.sH) * p.oW + b / p.sW) * p.O;
        for (int64_t o = in.c * Og; o < (in.c + 1) * Og; ++o)
          s += to_real(dy[at + o]) * to_real(w[(o * p.kH + kh) * p.kW + kw]);
      }
    }
    dx[i] = from_real<T>(s);
  }
}

// Block (32 channels, 8 pixels), grid (channels, taps, slices); parts (slices, O, taps).
template <class T>
FASTCNN_KERNEL depthwise_bwd_weights(Conv2dParams p, const T* x, const T* dy, Real<T>* parts) {
  using R = Real<T>;
  const int64_t o = static_cast<int64_t>(blockIdx.x) * 32 + threadIdx.x, Og = p.O / p.groups, taps = p.kH * p.kW;
  const int64_t kh = blockIdx.y / p.kW, kw = blockIdx.y % p.kW, pixels = p.N * p.oH * p.oW;
  const int64_t per = (pixels + gridDim.z - 1) / gridDim.z, begin = blockIdx.z * per;
  const int64_t end = begin + per < pixels ? begin + per : pixels;
  R s = 0;
  if (o < p.O)
    for (int64_t i = begin + threadIdx.y; i < end; i += 8) {
      const int64_t ow = i % p.oW, rest = i / p.oW, oh = rest % p.oH, n = rest / p.oH;
      const int64_t h = oh * p.sH - p.pT + kh * p.dH, v = ow * p.sW - p.pL + kw * p.dW;
      if (h < 0 || h >= p.H || v < 0 || v >= p.W) continue;
      s += to_real(x[((n * p.H + h) * p.W + v) * p.C + o / Og]) * to_real(dy[i * p.O + o]);
    }
  s = total_of_lanes(s);
  if (threadIdx.y == 0 && o < p.O) parts[(blockIdx.z * p.O + o) * taps + blockIdx.y] = s;
}

// y[i] = sum of parts[s][i] over s. Block (32 values, lanes of slices: a power of two), grid (values).
template <class T, class R>
FASTCNN_KERNEL join_slices(const R* parts, int slices, int64_t n, void* y) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * 32 + threadIdx.x;
  const int lane = static_cast<int>(threadIdx.y), lanes = static_cast<int>(blockDim.y);
  R s = 0;
  if (i < n)
    for (int k = lane; k < slices; k += lanes) s += parts[k * n + i];
  s = total_of_lanes(s);
  if (lane == 0 && i < n) static_cast<T*>(y)[i] = from_real<T>(s);
}

// Sums of columns of (rows, C): the bias gradient. Block (32 channels, 8 rows), grid (channels, slices).
template <class T>
FASTCNN_KERNEL column_sums(const T* x, int64_t rows, int64_t C, Real<T>* parts) {
  using R = Real<T>;
  const int64_t c = static_cast<int64_t>(blockIdx.x) * 32 + threadIdx.x;
  const int64_t per = (rows + gridDim.y - 1) / gridDim.y, begin = blockIdx.y * per;
  const int64_t end = begin + per < rows ? begin + per : rows;
  R s = 0;
  if (c < C)
    for (int64_t r = begin + threadIdx.y; r < end; r += 8) s += to_real(x[r * C + c]);
  s = total_of_lanes(s);
  if (threadIdx.y == 0 && c < C) parts[blockIdx.y * C + c] = s;
}

}  // namespace fastcnn::cuda
