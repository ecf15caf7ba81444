// What it is: naive softmax family and cross entropy on class ids, with torch's meaning of weight, ignore_index
// and label smoothing (Szegedy et al. 2016).
#include <algorithm>
#include <cmath>
#include <limits>

#include "backend/cpu/ref/access.h"
#include "backend/cpu/ref/targets.h"

namespace fastcnn::cpu::ref {
namespace {

// NaN wins, so that a NaN logit makes its whole row NaN.
double row_max(const Reader& x, int64_t base, int64_t count, int64_t step) {
  double m = -std::numeric_limits<double>::infinity();
  for (int64_t i = 0; i < count; ++i) {
    double v = x[base + i * step];
    if (v > m || std::isnan(v)) m = v;
    if (std::isnan(m)) break;
  }
  return m;
}

// log(sum(exp(x))) of one row; a row of -inf gives -inf.
double log_sum_exp(const Reader& x, int64_t base, int64_t count, int64_t step) {
  double m = row_max(x, base, count, step), s = 0;
  if (std::isinf(m)) return m;
  for (int64_t i = 0; i < count; ++i) s += std::exp(x[base + i * step] - m);
  return m + std::log(s);
}

template <class F>
void for_each_row(const SoftmaxParams& p, F&& f) {
  for (int64_t o = 0; o < p.outer; ++o)
    for (int64_t i = 0; i < p.inner; ++i) f(o * p.dim * p.inner + i);
}

}  // namespace

void softmax(const Call& c) {
  const auto& p = c.as<SoftmaxParams>();
  expect_floating(c.in[0], "softmax");
  Reader x(c.in[0]);
  Writer y(c.out[0]);
  for_each_row(p, [&](int64_t base) {
    double m = row_max(x, base, p.dim, p.inner), s = 0;
    for (int64_t d = 0; d < p.dim; ++d) s += std::exp(x[base + d * p.inner] - m);
    for (int64_t d = 0; d < p.dim; ++d) y.set(base + d * p.inner, std::exp(x[base + d * p.inner] - m) / s);
  });
}

void log_softmax(const Call& c) {
  const auto& p = c.as<SoftmaxParams>();
  expect_floating(c.in[0], "log_softmax");
  Reader x(c.in[0]);
  Writer y(c.out[0]);
  for_each_row(p, [&](int64_t base) {
    double m = row_max(x, base, p.dim, p.inner), s = 0;
    for (int64_t d = 0; d < p.dim; ++d) s += std::exp(x[base + d * p.inner] - m);
    for (int64_t d = 0; d < p.dim; ++d) y.set(base + d * p.inner, x[base + d * p.inner] - m - std::log(s));
  });
}

void softmax_bwd(const Call& c) {
  const auto& p = c.as<SoftmaxParams>();
  expect_floating(c.in[0], "softmax_bwd");
  Reader dy(c.in[0]), y(c.in[1]);
  Writer dx(c.out[0]);
  for_each_row(p, [&](int64_t base) {
    double dot = 0;
    for (int64_t d = 0; d < p.dim; ++d) dot += dy[base + d * p.inner] * y[base + d * p.inner];
    for (int64_t d = 0; d < p.dim; ++d) {
      int64_t i = base + d * p.inner;
      dx.set(i, y[i] * (dy[i] - dot));
    }
  });
}

void log_softmax_bwd(const Call& c) {
  const auto& p = c.as<SoftmaxParams>();
  expect_floating(c.in[0], "log_softmax_bwd");
  Reader dy(c.in[0]), y(c.in[1]);
  Writer dx(c.out[0]);
  for_each_row(p, [&](int64_t base) {
    double sum = 0;
    for (int64_t d = 0; d < p.dim; ++d) sum += dy[base + d * p.inner];
    for (int64_t d = 0; d < p.dim; ++d) {
      int64_t i = base + d * p.inner;
      dx.set(i, dy[i] - std::exp(y[i]) * sum);
    }
  });
}

void cross_entropy(const Call& c) {
  const auto& p = c.as<CrossEntropyParams>();
  expect_floating(c.in[0], "cross_entropy");
  Reader x(c.in[0]), weight;
  const int64_t* target = c.in[1].as<int64_t>();
  if (p.has_weight) weight = c.in[2];
  Writer loss(c.out[0]), lse(c.out[1]), weight_sum(c.out[2]);
  check_targets(p, target);
  double total = 0, wsum = 0, eps = p.label_smoothing;
  for (int64_t r = 0; r < p.rows; ++r) {
    double l = log_sum_exp(x, r * p.C, p.C, 1), v = 0;
    lse.set(r, l);
    if (target[r] != p.ignore_index) {
      double w = p.has_weight ? weight[target[r]] : 1;
      v = w * (l - x[r * p.C + target[r]]);
      if (eps > 0) {
        double smooth = 0;
        for (int64_t k = 0; k < p.C; ++k) smooth += (p.has_weight ? weight[k] : 1) * (l - x[r * p.C + k]);
        v = (1 - eps) * v + eps / static_cast<double>(p.C) * smooth;
      }
      wsum += w;
    }
    if (p.reduction == Reduction::none) loss.set(r, v);
    total += v;
  }
  weight_sum.set(0, wsum);
  if (p.reduction == Reduction::mean) loss.set(0, total / wsum);  // no valid target: 0/0 = NaN, as in torch
  if (p.reduction == Reduction::sum) loss.set(0, total);
}

void cross_entropy_bwd(const Call& c) {
  const auto& p = c.as<CrossEntropyParams>();
  expect_floating(c.in[1], "cross_entropy_bwd");
  Reader dloss(c.in[0]), x(c.in[1]), lse(c.in[3]), weight_sum(c.in[4]), weight;
  const int64_t* target = c.in[2].as<int64_t>();
  if (p.has_weight) weight = c.in[5];
  Writer dx(c.out[0]);
  check_targets(p, target);
  double eps = p.label_smoothing, all = p.has_weight ? 0 : static_cast<double>(p.C);
  for (int64_t k = 0; p.has_weight && k < p.C; ++k) all += weight[k];
  for (int64_t r = 0; r < p.rows; ++r) {
    if (target[r] == p.ignore_index) {
      for (int64_t k = 0; k < p.C; ++k) dx.set(r * p.C + k, 0);
      continue;
    }
    double g = dloss[p.reduction == Reduction::none ? r : 0];
    if (p.reduction == Reduction::mean) g /= weight_sum[0];
    double w = p.has_weight ? weight[target[r]] : 1, spread = eps / static_cast<double>(p.C);
    for (int64_t k = 0; k < p.C; ++k) {
      double prob = std::exp(x[r * p.C + k] - lse[r]);
      double d = (1 - eps) * w * (prob - (k == target[r] ? 1 : 0));
      if (eps > 0) d += spread * (prob * all - (p.has_weight ? weight[k] : 1));
      dx.set(r * p.C + k, g * d);
    }
  }
}

}  // namespace fastcnn::cpu::ref
