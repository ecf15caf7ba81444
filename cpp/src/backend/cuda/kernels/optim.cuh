// What it is: SGD, Adam/AdamW, RMSprop, Adagrad and Lion steps, a thread per parameter; the rates lie in device
// memory (hyper, see params.h), so that a recorded step sees them change.
#pragma once
#include "backend/cuda/device.cuh"

namespace fastcnn::cuda {

// 1 - decay as the host gave it in slot 7, else derived.
FASTCNN_DEVICE float complement(const float* h, int slot) { return h[7] > 0 ? h[7] : 1.0f - h[slot]; }

template <class T>
FASTCNN_KERNEL sgd_kernel(SgdParams q, const float* h, const T* p, const T* grad, const T* momentum, T* p_out,
                          T* momentum_out, int64_t n) {
  using R = Real<T>;
  const R lr = h[0], wd = h[1], mu = h[2], damp = h[7];
  for (int64_t i = global_thread(); i < n; i += global_threads()) {
    const R w = to_real(p[i]);
    R g = to_real(grad[i]);
    if (q.maximize) g = -g;
    g += wd * w;
    if (q.has_momentum) {
      const R b = q.first_step ? g : mu * to_real(momentum[i]) + (1 - damp) * g;
      momentum_out[i] = from_real<T>(b);
      g = q.nesterov ? g + mu * b : b;
    }
    p_out[i] = from_real<T>(w - lr * g);
  }
}

template <class T>
struct AdamArgs {
  AdamParams q;
  const float* h;
  const T *p, *grad, *m, *v, *vmax;
  T *p_out, *m_out, *v_out, *vmax_out;
};
template <class T>
FASTCNN_KERNEL adam_kernel(AdamArgs<T> a, int64_t n) {
  using R = Real<T>;
  const float* h = a.h;
  const R lr = h[0], wd = h[1], b1 = h[2], b2 = h[3], eps = h[4], bc1 = h[5], c2 = complement(h, 3);
  const R root = sqrt(static_cast<R>(h[6]));
  for (int64_t i = global_thread(); i < n; i += global_threads()) {
    R w = to_real(a.p[i]), g = to_real(a.grad[i]), m = to_real(a.m[i]), v = to_real(a.v[i]);
    if (a.q.maximize) g = -g;
    if (a.q.decoupled)
      w *= 1 - lr * wd;
    else
      g += wd * w;
    m += (1 - b1) * (g - m);
    v = b2 * v + c2 * g * g;
    R second = v;
    if (a.q.amsgrad) {
      second = fmax(to_real(a.vmax[i]), v);
      a.vmax_out[i] = from_real<T>(second);
    }
    a.m_out[i] = from_real<T>(m), a.v_out[i] = from_real<T>(v);
    a.p_out[i] = from_real<T>(w - lr / bc1 * m / (sqrt(second) / root + eps));
  }
}

template <class T>
struct RmspropArgs {
  RmspropParams q;
  const float* h;
  const T *p, *grad, *v, *momentum, *mean;
  T *p_out, *v_out, *momentum_out, *mean_out;
};
template <class T>
FASTCNN_KERNEL rmsprop_kernel(RmspropArgs<T> a, int64_t n) {
  using R = Real<T>;
  const float* h = a.h;
  const R lr = h[0], wd = h[1], alpha = h[2], mu = h[3], eps = h[4], ca = complement(h, 2);
  for (int64_t i = global_thread(); i < n; i += global_threads()) {
    const R w = to_real(a.p[i]);
    R g = to_real(a.grad[i]), v = to_real(a.v[i]);
    if (a.q.maximize) g = -g;
    g += wd * w;
    v = alpha * v + ca * g * g;
    a.v_out[i] = from_real<T>(v);
    R var = v;
    if (a.q.centered) {
      R mean = to_real(a.mean[i]);
      mean += ca * (g - mean);
      a.mean_out[i] = from_real<T>(mean);
      var = fmax(v - mean * mean, R(0));
    }
    R d = g / (sqrt(var) + eps);
    if (a.q.has_momentum) {
      d += mu * to_real(a.momentum[i]);
      a.momentum_out[i] = from_real<T>(d);
    }
    a.p_out[i] = from_real<T>(w - lr * d);
  }
}

template <class T>
FASTCNN_KERNEL adagrad_kernel(AdagradParams q, const float* h, const T* p, const T* grad, const T* sum, T* p_out,
                              T* sum_out, int64_t n) {
  using R = Real<T>;
  const R lr = h[0], wd = h[1], eps = h[4];
  for (int64_t i = global_thread(); i < n; i += global_threads()) {
    const R w = to_real(p[i]);
    R g = to_real(grad[i]);
    if (q.maximize) g = -g;
    g += wd * w;
    const R s = to_real(sum[i]) + g * g;
    sum_out[i] = from_real<T>(s);
    p_out[i] = from_real<T>(w - lr * g / (sqrt(s) + eps));
  }
}

template <class T>
FASTCNN_KERNEL lion_kernel(LionParams q, const float* h, const T* p, const T* grad, const T* m, T* p_out, T* m_out,
                           int64_t n) {
  using R = Real<T>;
  const R lr = h[0], wd = h[1], b1 = h[2], b2 = h[3], c1 = h[6], c2 = h[7];
  for (int64_t i = global_thread(); i < n; i += global_threads()) {
    const R w = to_real(p[i]), m0 = to_real(m[i]);
    R g = to_real(grad[i]);
    if (q.maximize) g = -g;
    R u = b1 * m0 + c1 * g;
    if (fabs(u) > 0) u = u > 0 ? R(1) : R(-1);  // zero and NaN as they are
    m_out[i] = from_real<T>(b2 * m0 + c2 * g);
    p_out[i] = from_real<T>(w * (1 - lr * wd) - lr * u);
  }
}

}  // namespace fastcnn::cuda
