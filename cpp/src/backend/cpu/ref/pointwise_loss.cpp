// What it is: naive losses between two tensors of one shape and their gradient.
#include <algorithm>
#include <cmath>

#include "backend/cpu/checks.h"
#include "backend/cpu/ref/access.h"

namespace fastcnn::cpu::ref {
namespace {

double value(const PointwiseLossParams& p, double x, double t) {
  double d = x - t;
  switch (p.loss) {
    case PointLoss::mse: return d * d;
    case PointLoss::l1: return std::abs(d);
    case PointLoss::smooth_l1: return std::abs(d) < p.beta ? d * d / (2 * p.beta) : std::abs(d) - p.beta / 2;
    case PointLoss::huber: return std::abs(d) < p.beta ? d * d / 2 : p.beta * (std::abs(d) - p.beta / 2);
    case PointLoss::bce_with_logits:
      return (1 - t) * x + std::max(std::isnan(x) ? x : 0.0, -x) + std::log1p(std::exp(-std::abs(x)));
  }
  return d;
}

double slope(const PointwiseLossParams& p, double x, double t) {
  double d = x - t;
  if (std::isnan(d)) return d;
  switch (p.loss) {
    case PointLoss::mse: return 2 * d;
    case PointLoss::l1: return d > 0 ? 1 : d < 0 ? -1 : 0;
    case PointLoss::smooth_l1: return std::clamp(d / p.beta, -1.0, 1.0);
    case PointLoss::huber: return std::clamp(d, -p.beta, p.beta);
    case PointLoss::bce_with_logits: return 1 / (1 + std::exp(-x)) - t;
  }
  return d;
}

}  // namespace

void pointwise_loss(const Call& c) {
  const auto& p = c.as<PointwiseLossParams>();
  expect_floating(c.in[0], name_of(p.loss));
  Reader x(c.in[0]), t(c.in[1]);
  Writer y(c.out[0]);
  double total = 0;
  for (int64_t i = 0; i < p.count; ++i) {
    if (std::isnan(t[i])) throw_nan_target(name_of(p.loss), c.in[1], i);
    double v = value(p, x[i], t[i]);
    if (p.reduction == Reduction::none) y.set(i, v);
    total += v;
  }
  if (p.reduction == Reduction::mean) y.set(0, total / static_cast<double>(p.count));
  if (p.reduction == Reduction::sum) y.set(0, total);
}

void pointwise_loss_bwd(const Call& c) {
  const auto& p = c.as<PointwiseLossParams>();
  expect_floating(c.in[1], name_of(p.loss));
  Reader dloss(c.in[0]), x(c.in[1]), t(c.in[2]);
  Writer dx(c.out[0]);
  for (int64_t i = 0; i < p.count; ++i) {
    double g = p.reduction == Reduction::none ? dloss[i] : dloss[0];
    if (p.reduction == Reduction::mean) g /= static_cast<double>(p.count);
    dx.set(i, g * slope(p, x[i], t[i]));
  }
}

}  // namespace fastcnn::cpu::ref
