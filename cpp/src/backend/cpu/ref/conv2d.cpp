// What it is: convolution and its two backward passes as the plainest loops, every option and floating dtype.
#include <vector>

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

template <class T>
std::vector<double> doubles(const T* from, int64_t n) {
  std::vector<double> to(static_cast<size_t>(n));
  for (size_t i = 0; i < to.size(); ++i) to[i] = to_double(from[i]);
  return to;
}

// What x stands for: itself, or a batch norm of it (has_norm_in) whose mean is input `at`.
template <class T>
std::vector<double> image(const Conv2dParams& p, const Call& c, const T* x, int64_t at) {
  std::vector<double> v = doubles(x, p.N * p.H * p.W * p.C);
  if (!p.has_norm_in) return v;
  const Reader mean(c.in[at]), affine(c.in[at + 1]);
  int64_t ch = 0;
  for (double& value : v) {
    value = apply_act(p.in_act, (value - mean[ch]) * affine[ch] + affine[p.C + ch]);
    if (++ch == p.C) ch = 0;
  }
  return v;
}

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
    const std::vector<double> x = image(p, c, c.in[0].as<T>(), 2 + p.has_bias),
                              w = doubles(c.in[1].as<T>(), p.O * p.kH * p.kW * g.Cg);
    const T* bias = p.has_bias ? c.in[2].as<T>() : nullptr;
    const T* residual = p.has_residual ? c.in[c.in.size() - 1].as<T>() : nullptr;
    T* y = c.out[0].as<T>();
    for (int64_t n = 0; n < p.N; ++n)
      for (int64_t oh = 0; oh < p.oH; ++oh)
        for (int64_t ow = 0; ow < p.oW; ++ow)
          for (int64_t o = 0; o < p.O; ++o) {
            const int64_t c0 = o / g.Og * g.Cg;
            double s = bias ? to_double(bias[o]) : 0;
            for (int64_t kh = 0; kh < p.kH; ++kh)
              for (int64_t kw = 0; kw < p.kW; ++kw) {
                int64_t h = oh * p.sH - p.pT + kh * p.dH, v = ow * p.sW - p.pL + kw * p.dW;
                if (h < 0 || h >= p.H || v < 0 || v >= p.W) continue;
                const double *from = x.data() + g.x(n, h, v, c0), *by = w.data() + g.w(o, kh, kw, 0);
                for (int64_t i = 0; i < g.Cg; ++i) s += from[i] * by[i];
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
    const std::vector<double> dy = doubles(c.in[0].as<T>(), p.N * p.oH * p.oW * p.O),
                              w = doubles(c.in[1].as<T>(), p.O * p.kH * p.kW * g.Cg);
    const T* bias = c.in.size() > 2 ? c.in[2].as<T>() : nullptr;
    T* dx = c.out[0].as<T>();
    std::vector<double> sums(static_cast<size_t>(p.C));  // of one pixel
    for (int64_t n = 0; n < p.N; ++n)
      for (int64_t h = 0; h < p.H; ++h)
        for (int64_t v = 0; v < p.W; ++v) {
          for (int64_t i = 0; i < p.C; ++i) sums[static_cast<size_t>(i)] = bias ? to_double(bias[i]) : 0;
          for (int64_t kh = 0; kh < p.kH; ++kh) {
            const int64_t a = h + p.pT - kh * p.dH;
            if (a < 0 || a % p.sH || a / p.sH >= p.oH) continue;
            for (int64_t kw = 0; kw < p.kW; ++kw) {
              const int64_t b = v + p.pL - kw * p.dW;
              if (b < 0 || b % p.sW || b / p.sW >= p.oW) continue;
              const double* from = dy.data() + g.y(n, a / p.sH, b / p.sW, 0);
              for (int64_t group = 0, o = 0; group < p.groups; ++group)
                for (const int64_t end = o + g.Og; o < end; ++o) {
                  const double *by = w.data() + g.w(o, kh, kw, 0), d = from[o];
                  double* to = sums.data() + group * g.Cg;
                  for (int64_t i = 0; i < g.Cg; ++i) to[i] += d * by[i];
                }
            }
          }
          for (int64_t i = 0; i < p.C; ++i) dx[g.x(n, h, v, i)] = from_double<T>(sums[i]);
        }
  });
}

void conv2d_bwd_weights(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  const Conv g(p);
  dispatch_floating(c.out[0].dtype, "conv2d_bwd_weights", [&]<class T>() {
    const std::vector<double> x = image(p, c, c.in[0].as<T>(), 2),
                              dy = doubles(c.in[1].as<T>(), p.N * p.oH * p.oW * p.O);
    T* dw = c.out[0].as<T>();
    std::vector<double> sums(static_cast<size_t>(p.O * p.kH * p.kW * g.Cg));
    for (int64_t n = 0; n < p.N; ++n)
      for (int64_t oh = 0; oh < p.oH; ++oh)
        for (int64_t ow = 0; ow < p.oW; ++ow)
          for (int64_t kh = 0; kh < p.kH; ++kh)
            for (int64_t kw = 0; kw < p.kW; ++kw) {
              const int64_t h = oh * p.sH - p.pT + kh * p.dH, v = ow * p.sW - p.pL + kw * p.dW;
              if (h < 0 || h >= p.H || v < 0 || v >= p.W) continue;
              const double* by = dy.data() + g.y(n, oh, ow, 0);
              for (int64_t group = 0, o = 0; group < p.groups; ++group)
                for (const int64_t end = o + g.Og; o < end; ++o) {
                  const double *from = x.data() + g.x(n, h, v, group * g.Cg), d = by[o];
                  double* to = sums.data() + g.w(o, kh, kw, 0);
                  for (int64_t i = 0; i < g.Cg; ++i) to[i] += from[i] * d;
                }
            }
    for (size_t i = 0; i < sums.size(); ++i) dw[i] = from_double<T>(sums[i]);
    if (c.out.size() < 2) return;
    T* db = c.out[1].as<T>();
    for (int64_t o = 0; o < p.O; ++o) {
      double s = 0;
      for (int64_t px = 0; px < p.N * p.oH * p.oW; ++px) s += dy[px * p.O + o];
      db[o] = from_double<T>(s);
    }
  });
}

}  // namespace fastcnn::cpu::ref
