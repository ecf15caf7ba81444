// What it is: naive layer normalisation (Ba et al. 2016) and group normalisation (Wu & He 2018); instance
// normalisation is groups == C. Group-normalised tensors are (N, HW, C) in memory.
#include <algorithm>
#include <cmath>
#include <vector>

#include "backend/cpu/ref/access.h"

namespace fastcnn::cpu::ref {
namespace {

// One normalised set: `count` elements whose memory index and affine parameter index come from at(i), channel(i).
template <class At, class Channel>
void forward_set(const Call& c, const NormParams& p, int64_t set, int64_t count, At at, Channel channel) {
  Reader x(c.in[0]), gamma, beta;
  if (p.affine) gamma = c.in[1], beta = c.in[2];
  Writer y(c.out[0]), mean(c.out[1]), invstd(c.out[2]);
  double m = 0, v = 0, n = static_cast<double>(std::max<int64_t>(count, 1));
  for (int64_t i = 0; i < count; ++i) m += x[at(i)];
  m /= n;
  for (int64_t i = 0; i < count; ++i) v += (x[at(i)] - m) * (x[at(i)] - m);
  double s = 1 / std::sqrt(v / n + p.eps);
  mean.set(set, m);
  invstd.set(set, s);
  for (int64_t i = 0; i < count; ++i) {
    double z = (x[at(i)] - m) * s;
    y.set(at(i), p.affine ? z * gamma[channel(i)] + beta[channel(i)] : z);
  }
}

template <class At, class Channel>
void backward_set(const Call& c, const NormParams& p, int64_t set, int64_t count, double* dgamma, double* dbeta,
                  At at, Channel channel) {
  Reader dy(c.in[0]), x(c.in[1]), gamma, mean(c.in[p.affine ? 3 : 2]), invstd(c.in[p.affine ? 4 : 3]);
  if (p.affine) gamma = c.in[2];
  Writer dx(c.out[0]);
  double m = mean[set], s = invstd[set], sum = 0, dot = 0, n = static_cast<double>(std::max<int64_t>(count, 1));
  for (int64_t i = 0; i < count; ++i) {
    double d = dy[at(i)], xhat = (x[at(i)] - m) * s;
    if (p.affine) {
      dgamma[channel(i)] += d * xhat;
      dbeta[channel(i)] += d;
      d *= gamma[channel(i)];
    }
    sum += d;
    dot += d * xhat;
  }
  for (int64_t i = 0; i < count; ++i) {
    double d = dy[at(i)] * (p.affine ? gamma[channel(i)] : 1);
    dx.set(at(i), s * (d - sum / n - (x[at(i)] - m) * s * dot / n));
  }
}

void store_affine(const Call& c, const std::vector<double>& dgamma, const std::vector<double>& dbeta) {
  Writer g(c.out[1]), b(c.out[2]);
  for (size_t i = 0; i < dgamma.size(); ++i) {
    g.set(static_cast<int64_t>(i), dgamma[i]);
    b.set(static_cast<int64_t>(i), dbeta[i]);
  }
}

}  // namespace

void layer_norm(const Call& c) {
  const auto& p = c.as<NormParams>();
  expect_floating(c.in[0], "layer_norm");
  for (int64_t o = 0; o < p.outer; ++o)
    forward_set(c, p, o, p.inner, [&](int64_t i) { return o * p.inner + i; }, [](int64_t i) { return i; });
}

void layer_norm_bwd(const Call& c) {
  const auto& p = c.as<NormParams>();
  expect_floating(c.in[0], "layer_norm_bwd");
  std::vector<double> dgamma(p.affine ? p.inner : 0), dbeta(dgamma.size());
  for (int64_t o = 0; o < p.outer; ++o)
    backward_set(
        c, p, o, p.inner, dgamma.data(), dbeta.data(), [&](int64_t i) { return o * p.inner + i; },
        [](int64_t i) { return i; });
  if (p.affine) store_affine(c, dgamma, dbeta);
}

void group_norm(const Call& c) {
  const auto& p = c.as<NormParams>();
  expect_floating(c.in[0], "group_norm");
  int64_t cg = p.C / p.groups;
  for (int64_t n = 0; n < p.N; ++n)
    for (int64_t g = 0; g < p.groups; ++g)
      forward_set(
          c, p, n * p.groups + g, p.HW * cg,
          [&](int64_t i) { return (n * p.HW + i / cg) * p.C + g * cg + i % cg; },
          [&](int64_t i) { return g * cg + i % cg; });
}

void group_norm_bwd(const Call& c) {
  const auto& p = c.as<NormParams>();
  expect_floating(c.in[0], "group_norm_bwd");
  int64_t cg = p.C / p.groups;
  std::vector<double> dgamma(p.affine ? p.C : 0), dbeta(dgamma.size());
  for (int64_t n = 0; n < p.N; ++n)
    for (int64_t g = 0; g < p.groups; ++g)
      backward_set(
          c, p, n * p.groups + g, p.HW * cg, dgamma.data(), dbeta.data(),
          [&](int64_t i) { return (n * p.HW + i / cg) * p.C + g * cg + i % cg; },
          [&](int64_t i) { return g * cg + i % cg; });
  if (p.affine) store_affine(c, dgamma, dbeta);
}

}  // namespace fastcnn::cpu::ref
