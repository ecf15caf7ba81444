// What it is: convolution and its two backward passes as the plainest loops, every option and floating dtype.
#include "backend/cpu/ref/access.h"
#include "backend/cpu/ref/act.h"
#include "backend/cpu/ref/ref.h"

namespace fastcnn::cpu::ref {
namespace {

struct Conv {
  const Conv2dParams& p;
  int64_t Cg, Og;
  explicit Conv(const Conv2dParams& q) : p(q), Cg(q.C / q.groups), Og(q.O / q.groups) {}
  int64_t x(int64_t n, int64_t h, int64_t w, int64_t c) const { return ((n * p.H + h) * p.W + w) * p.C + c; }
  int64_t y(int64_t n, int64_t h, int64_t w, int64_t o) const { return ((n * p.oH + h) * p.oW + w) * p.O + o; }
  int64_t w(int64_t o, int64_t kh, int64_t kw, int64_t i) const { return ((o * p.kH + kh) * p.kW + kw) * Cg + i; }
};

// What a value of x stands for: itself, or a batch norm of it (has_norm_in) whose mean is input `at`.
struct Input {
  const Conv2dParams& p;
  Reader mean, affine;
  Input(const Conv2dParams& q, const Call& c, int64_t at) : p(q) {
    if (p.has_norm_in) mean = c.in[at], affine = c.in[at + 1];
  }
  double operator()(double x, int64_t ch) const {
    return p.has_norm_in ? apply_act(p.in_act, (x - mean[ch]) * affine[ch] + affine[p.C + ch]) : x;
  }
};

// Mean and biased variance of each channel.
template <class T>
void moments(const Conv2dParams& p, const T* y, double* to) {
  const int64_t rows = p.N * p.oH * p.oW;
  for (int64_t o = 0; o < p.O; ++o) {
    double mean = 0, var = 0;
    for (int64_t r = 0; r < rows; ++r) mean += to_double(y[r * p.O + o]);
    if (rows) mean /= static_cast<double>(rows);
    for (int64_t r = 0; r < rows; ++r) {
      const double d = to_double(y[r * p.O + o]) - mean;
      var += d * d;
    }
    to[o] = mean, to[p.O + o] = rows ? var / static_cast<double>(rows) : 0;
  }
}

}  // namespace

void conv2d(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  const Conv g(p);
  dispatch_floating(c.out[0].dtype, "conv2d", [&]<class T>() {
    const T *x = c.in[0].as<T>(), *w = c.in[1].as<T>();
    const T* bias = p.has_bias ? c.in[2].as<T>() : nullptr;
    const T* residual = p.has_residual ? c.in[c.in.size() - 1].as<T>() : nullptr;
    T* y = c.out[0].as<T>();
    const Input input(p, c, 2 + p.has_bias);
    for (int64_t n = 0; n < p.N; ++n)
      for (int64_t oh = 0; oh < p.oH; ++oh)
        for (int64_t ow = 0; ow < p.oW; ++ow)
          for (int64_t o = 0; o < p.O; ++o) {
            double s = bias ? to_double(bias[o]) : 0;
            for (int64_t kh = 0; kh < p.kH; ++kh)
              for (int64_t kw = 0; kw < p.kW; ++kw) {
                int64_t h = oh * p.sH - p.pT + kh * p.dH, v = ow * p.sW - p.pL + kw * p.dW;
                if (h < 0 || h >= p.H || v < 0 || v >= p.W) continue;
                for (int64_t i = 0; i < g.Cg; ++i) {
                  const int64_t ch = o / g.Og * g.Cg + i;
                  s += input(to_double(x[g.x(n, h, v, ch)]), ch) * to_double(w[g.w(o, kh, kw, i)]);
                }
              }
            int64_t at = g.y(n, oh, ow, o);
            if (residual) s += to_double(residual[at]);
            y[at] = from_double<T>(apply_act(p.act, s));
          }
    if (p.has_moments) moments(p, y, c.out[1].as<double>());
  });
}

void conv2d_bwd_data(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  const Conv g(p);
  dispatch_floating(c.out[0].dtype, "conv2d_bwd_data", [&]<class T>() {
    const T *dy = c.in[0].as<T>(), *w = c.in[1].as<T>();
    const T* bias = c.in.size() > 2 ? c.in[2].as<T>() : nullptr;
    T* dx = c.out[0].as<T>();
    for (int64_t n = 0; n < p.N; ++n)
      for (int64_t h = 0; h < p.H; ++h)
        for (int64_t v = 0; v < p.W; ++v)
          for (int64_t i = 0; i < p.C; ++i) {
            double s = bias ? to_double(bias[i]) : 0;
            for (int64_t kh = 0; kh < p.kH; ++kh)
              for (int64_t kw = 0; kw < p.kW; ++kw) {
                int64_t a = h + p.pT - kh * p.dH, b = v + p.pL - kw * p.dW;
                if (a < 0 || b < 0 || a % p.sH || b % p.sW || a / p.sH >= p.oH || b / p.sW >= p.oW) continue;
                for (int64_t o = i / g.Cg * g.Og; o < (i / g.Cg + 1) * g.Og; ++o)
                  s += to_double(dy[g.y(n, a / p.sH, b / p.sW, o)]) * to_double(w[g.w(o, kh, kw, i % g.Cg)]);
              }
            dx[g.x(n, h, v, i)] = from_double<T>(s);
          }
  });
}

void conv2d_bwd_weights(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  const Conv g(p);
  dispatch_floating(c.out[0].dtype, "conv2d_bwd_weights", [&]<class T>() {
    const T *x = c.in[0].as<T>(), *dy = c.in[1].as<T>();
    T* dw = c.out[0].as<T>();
    const Input input(p, c, 2);
    for (int64_t o = 0; o < p.O; ++o) {
      for (int64_t kh = 0; kh < p.kH; ++kh)
        for (int64_t kw = 0; kw < p.kW; ++kw)
          for (int64_t i = 0; i < g.Cg; ++i) {
            double s = 0;
            const int64_t ch = o / g.Og * g.Cg + i;
            for (int64_t n = 0; n < p.N; ++n)
              for (int64_t oh = 0; oh < p.oH; ++oh)
                for (int64_t ow = 0; ow < p.oW; ++ow) {
                  int64_t h = oh * p.sH - p.pT + kh * p.dH, v = ow * p.sW - p.pL + kw * p.dW;
                  if (h < 0 || h >= p.H || v < 0 || v >= p.W) continue;
                  s += input(to_double(x[g.x(n, h, v, ch)]), ch) * to_double(dy[g.y(n, oh, ow, o)]);
                }
            dw[g.w(o, kh, kw, i)] = from_double<T>(s);
          }
      if (c.out.size() < 2) continue;
      double s = 0;
      for (int64_t px = 0; px < p.N * p.oH * p.oW; ++px) s += to_double(dy[px * p.O + o]);
      c.out[1].as<T>()[o] = from_double<T>(s);
    }
  });
}

}  // namespace fastcnn::cpu::ref
