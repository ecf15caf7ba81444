// What it is: naive batch normalisation (Ioffe & Szegedy 2015) with torch.nn.BatchNorm2d's meaning: biased
// variance in the forward pass, unbiased variance in the running statistics.
#include <algorithm>
#include <cmath>
#include <vector>

#include "backend/cpu/ref/access.h"
#include "backend/cpu/ref/act.h"

namespace fastcnn::cpu::ref {

void batch_norm(const Call& c) {
  const auto& p = c.as<BatchNormParams>();
  expect_floating(c.in[0], "batch_norm");
  Reader x(c.in[0]), gamma(c.in[1]), beta(c.in[2]), res;
  if (p.has_residual) res = c.in[3];
  Reader moments;
  if (p.has_moments) moments = c.in[c.in.size() - 1];
  const int64_t first = p.stats_only ? 0 : 1;
  Writer y, mean(c.out[first]), invstd(c.out[first + 1]);
  if (!p.stats_only) y = c.out[0];
  for (int64_t ch = 0; ch < p.C; ++ch) {
    double m = 0, v = 0;
    for (int64_t r = 0; r < p.rows; ++r) m += x[r * p.C + ch];
    if (p.rows) m /= static_cast<double>(p.rows);
    for (int64_t r = 0; r < p.rows; ++r) v += (x[r * p.C + ch] - m) * (x[r * p.C + ch] - m);
    if (p.rows) v /= static_cast<double>(p.rows);
    if (p.has_moments) m = moments[ch], v = moments[p.C + ch];
    double s = 1 / std::sqrt(v + p.eps);
    mean.set(ch, m);
    invstd.set(ch, s);
    if (p.has_affine) {
      Writer affine(c.out[first + 2]);
      affine.set(ch, s * gamma[ch]);
      affine.set(p.C + ch, beta[ch] - (m - Reader(c.out[first])[ch]) * s * gamma[ch]);
    }
    for (int64_t r = 0; r < p.rows && !p.stats_only; ++r) {
      int64_t i = r * p.C + ch;
      double z = (x[i] - m) * s * gamma[ch] + beta[ch];
      if (p.has_residual) z += res[i];
      y.set(i, apply_act(p.act, z));
    }
  }
}

void fold_batch_norm(const Call& c) {
  const auto& p = c.as<FoldParams>();
  expect_floating(c.in[0], "fold_batch_norm");
  Reader w(c.in[0]), gamma(c.in[1]), beta(c.in[2]), mean(c.in[3]), var(c.in[4]), bias;
  if (p.has_bias) bias = c.in[5];
  Writer folded(c.out[0]), shift(c.out[1]);
  std::vector<double> scale(static_cast<size_t>(p.C));
  for (int64_t ch = 0; ch < p.C; ++ch) {
    scale[ch] = gamma[ch] / std::sqrt(var[ch] + p.eps);
    shift.set(ch, beta[ch] + ((p.has_bias ? bias[ch] : 0) - mean[ch]) * scale[ch]);
  }
  for (int64_t i = 0, n = c.in[0].numel(); i < n; ++i)
    folded.set(i, w[i] * scale[i / p.block * p.step + i % p.inner]);
}

void batch_norm_bwd(const Call& c) {
  const auto& p = c.as<BatchNormParams>();
  expect_floating(c.in[0], "batch_norm_bwd");
  if (!p.has_affine && !act_invertible_mask(p.act))
    throw std::logic_error("batch_norm_bwd: this activation cannot be differentiated from its output");
  Reader dy(c.in[0]), x(c.in[1]), gamma(c.in[2]), mean(c.in[3]), invstd(c.in[4]), y;
  bool act = p.act.act != Act::none;
  Reader dy2, sums;
  if (p.has_sums) sums = c.in[c.in.size() - 1];
  if (act) y = c.in[5];  // or the affine map of the forward pass
  if (p.has_dy2) dy2 = c.in[c.in.size() - 1];
  auto dz_at = [&](int64_t i, int64_t ch) {
    double d = p.has_dy2 ? dy[i] + dy2[i] : dy[i];
    if (!act) return d;
    if (!p.has_affine) return act_bwd(p.act, d, y[i]);
    return act_bwd_from_input(p.act, d, (x[i] - mean[ch]) * y[ch] + y[p.C + ch]);
  };
  Writer dx(c.out[0]), dgamma(c.out[1]), dbeta(c.out[2]), dres;
  if (p.has_residual) dres = c.out[3];
  for (int64_t ch = 0; ch < p.C; ++ch) {
    double m = mean[ch], s = invstd[ch], sum = 0, dot = 0, n = static_cast<double>(std::max<int64_t>(p.rows, 1));
    for (int64_t r = 0; r < p.rows && !p.has_sums; ++r) {
      int64_t i = r * p.C + ch;
      double dz = dz_at(i, ch);
      sum += dz;
      dot += dz * (x[i] - m) * s;
    }
    if (p.has_sums) sum = sums[ch], dot = sums[p.C + ch] * s;
    dgamma.set(ch, dot);
    dbeta.set(ch, sum);
    if (p.coef_only) {
      dx.set(ch, gamma[ch] * s);
      dx.set(p.C + ch, -gamma[ch] * s * s * dot / n);
      dx.set(2 * p.C + ch, -gamma[ch] * s * sum / n);
    }
    for (int64_t r = 0; r < p.rows; ++r) {
      int64_t i = r * p.C + ch;
      double dz = dz_at(i, ch);
      if (!p.coef_only) dx.set(i, gamma[ch] * s * (dz - sum / n - (x[i] - m) * s * dot / n));
      if (p.has_residual) dres.set(i, dz);
    }
  }
}

void batch_norm_infer(const Call& c) {
  const auto& p = c.as<BatchNormParams>();
  expect_floating(c.in[0], "batch_norm_infer");
  Reader x(c.in[0]), gamma(c.in[1]), beta(c.in[2]), mean(c.in[3]), var(c.in[4]), res;
  if (p.has_residual) res = c.in[5];
  Writer y(c.out[0]);
  for (int64_t r = 0; r < p.rows; ++r)
    for (int64_t ch = 0; ch < p.C; ++ch) {
      int64_t i = r * p.C + ch;
      double z = (x[i] - mean[ch]) / std::sqrt(var[ch] + p.eps) * gamma[ch] + beta[ch];
      if (p.has_residual) z += res[i];
      y.set(i, apply_act(p.act, z));
    }
}

void bn_update_running(const Call& c) {
  const auto& p = c.as<BnUpdateParams>();
  if (p.rows == 1)
    throw std::invalid_argument("batch_norm: expected more than 1 value per channel when training, got 1");
  Reader mean(c.in[0]), invstd(c.in[1]), old_mean(c.in[2]), old_var(c.in[3]);
  Writer run_mean(c.out[0]), run_var(c.out[1]);
  double f = p.momentum;
  if (f < 0) f = 1.0 / static_cast<double>(std::max<int64_t>(*c.in[4].as<int64_t>(), 1));
  if (p.rows == 0) f = 0;
  double unbias = p.rows > 1 ? static_cast<double>(p.rows) / static_cast<double>(p.rows - 1) : 1;
  for (int64_t ch = 0; ch < p.C; ++ch) {
    double var = std::max(0.0, 1 / (invstd[ch] * invstd[ch]) - p.eps);
    if (std::isnan(invstd[ch])) var = invstd[ch];  // max(0, NaN) would hide it
    run_mean.set(ch, (1 - f) * old_mean[ch] + (f ? f * mean[ch] : 0));
    run_var.set(ch, (1 - f) * old_var[ch] + (f ? f * var * unbias : 0));
  }
}

}  // namespace fastcnn::cpu::ref
