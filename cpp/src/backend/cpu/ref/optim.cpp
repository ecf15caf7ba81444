// What it is: naive SGD, Adam/AdamW, RMSprop, Adagrad and Lion steps, in double; the formulas of PyTorch's
// torch.optim where it has them.
#include <algorithm>
#include <cmath>

#include "backend/cpu/ref/convert.h"
#include "backend/cpu/step_numbers.h"

namespace fastcnn::cpu::ref {
namespace {

// 1 - decay as the host gave it in slot 7 (float32(1 - 0.999) is 80 times closer than 1 - float32(0.999)), else
// derived.
double complement(const float* h, int decay_slot) { return h[7] > 0 ? h[7] : 1.0 - h[decay_slot]; }

// The numbers of the step; where it is left out, the states go to the outputs as they are. `states` tensors stand
// between gradient and hyper.
StepNumbers begin_step(const Call& c, size_t states, bool counts = false) {
  const float* scale = c.in.size() > states + 3 ? c.in[states + 3].as<float>() : nullptr;
  const StepNumbers n = step_numbers(c.in[states + 2].as<float>(), scale, counts);
  for (size_t k = 0; n.skip && k < c.out.size(); ++k)
    dispatch_floating(c.in[0].dtype, "optimizer step", [&]<class T>() {
      const T* from = c.in[k ? k + 1 : 0].as<T>();
      std::copy(from, from + c.in[0].numel(), c.out[k].as<T>());
    });
  return n;
}

}  // namespace

void sgd_step(const Call& c) {
  const auto& q = c.as<SgdParams>();
  const StepNumbers step = begin_step(c, q.has_momentum ? 1 : 0);
  if (step.skip) return;
  const float* h = step.h;
  double lr = h[0], wd = h[1], mu = h[2], damp = h[7];
  dispatch_floating(c.in[0].dtype, "sgd_step", [&]<class T>() {
    int64_t n = c.in[0].numel();
    for (int64_t i = 0; i < n; ++i) {
      double p = load(c.in[0].as<T>()[i]), g = h[8] * load(c.in[1].as<T>()[i]);
      if (q.maximize) g = -g;
      g += wd * p;
      if (q.has_momentum) {
        double b = q.first_step ? g : mu * load(c.in[2].as<T>()[i]) + (1 - damp) * g;
        c.out[1].as<T>()[i] = store<T>(b);
        g = q.nesterov ? g + mu * b : b;
      }
      c.out[0].as<T>()[i] = store<T>(p - lr * g);
    }
  });
}

void adam_step(const Call& c) {
  const auto& q = c.as<AdamParams>();
  const StepNumbers step = begin_step(c, q.amsgrad ? 3 : 2, true);
  if (step.skip) return;
  const float* h = step.h;
  double lr = h[0], wd = h[1], b1 = h[2], b2 = h[3], eps = h[4], bc1 = h[5], bc2 = h[6], c2 = complement(h, 3);
  dispatch_floating(c.in[0].dtype, "adam_step", [&]<class T>() {
    int64_t n = c.in[0].numel();
    for (int64_t i = 0; i < n; ++i) {
      double p = load(c.in[0].as<T>()[i]), g = h[8] * load(c.in[1].as<T>()[i]);
      double m = load(c.in[2].as<T>()[i]), v = load(c.in[3].as<T>()[i]);
      if (q.maximize) g = -g;
      if (q.decoupled)
        p *= 1 - lr * wd;
      else
        g += wd * p;
      m += (1 - b1) * (g - m);
      v = b2 * v + c2 * g * g;
      double second = v;
      if (q.amsgrad) {
        second = std::fmax(load(c.in[4].as<T>()[i]), v);
        c.out[3].as<T>()[i] = store<T>(second);
      }
      c.out[1].as<T>()[i] = store<T>(m);
      c.out[2].as<T>()[i] = store<T>(v);
      c.out[0].as<T>()[i] = store<T>(p - lr / bc1 * m / (std::sqrt(second) / std::sqrt(bc2) + eps));
    }
  });
}

void rmsprop_step(const Call& c) {
  const auto& q = c.as<RmspropParams>();
  const StepNumbers step = begin_step(c, 1 + (q.has_momentum ? 1 : 0) + (q.centered ? 1 : 0));
  if (step.skip) return;
  const float* h = step.h;
  double lr = h[0], wd = h[1], alpha = h[2], mu = h[3], eps = h[4], ca = complement(h, 2);
  int at_mean = 3 + (q.has_momentum ? 1 : 0);
  dispatch_floating(c.in[0].dtype, "rmsprop_step", [&]<class T>() {
    int64_t n = c.in[0].numel();
    for (int64_t i = 0; i < n; ++i) {
      double p = load(c.in[0].as<T>()[i]), g = h[8] * load(c.in[1].as<T>()[i]), v = load(c.in[2].as<T>()[i]);
      if (q.maximize) g = -g;
      g += wd * p;
      v = alpha * v + ca * g * g;
      c.out[1].as<T>()[i] = store<T>(v);
      double var = v;
      if (q.centered) {
        double mean = load(c.in[at_mean].as<T>()[i]);
        mean += ca * (g - mean);
        c.out[at_mean - 1].as<T>()[i] = store<T>(mean);
        var = std::fmax(v - mean * mean, 0.0);
      }
      double d = g / (std::sqrt(var) + eps);
      if (q.has_momentum) {
        d += mu * load(c.in[3].as<T>()[i]);
        c.out[2].as<T>()[i] = store<T>(d);
      }
      c.out[0].as<T>()[i] = store<T>(p - lr * d);
    }
  });
}

void adagrad_step(const Call& c) {
  const auto& q = c.as<AdagradParams>();
  const StepNumbers step = begin_step(c, 1);
  if (step.skip) return;
  const float* h = step.h;
  double lr = h[0], wd = h[1], eps = h[4];
  dispatch_floating(c.in[0].dtype, "adagrad_step", [&]<class T>() {
    int64_t n = c.in[0].numel();
    for (int64_t i = 0; i < n; ++i) {
      double p = load(c.in[0].as<T>()[i]), g = h[8] * load(c.in[1].as<T>()[i]), sum = load(c.in[2].as<T>()[i]);
      if (q.maximize) g = -g;
      g += wd * p;
      sum += g * g;
      c.out[1].as<T>()[i] = store<T>(sum);
      c.out[0].as<T>()[i] = store<T>(p - lr * g / (std::sqrt(sum) + eps));
    }
  });
}

void lion_step(const Call& c) {
  const auto& q = c.as<LionParams>();
  const StepNumbers step = begin_step(c, 1);
  if (step.skip) return;
  const float* h = step.h;
  double lr = h[0], wd = h[1], b1 = h[2], b2 = h[3], c1 = h[6], c2 = h[7];
  dispatch_floating(c.in[0].dtype, "lion_step", [&]<class T>() {
    int64_t n = c.in[0].numel();
    for (int64_t i = 0; i < n; ++i) {
      double p = load(c.in[0].as<T>()[i]), g = h[8] * load(c.in[1].as<T>()[i]), m = load(c.in[2].as<T>()[i]);
      if (q.maximize) g = -g;
      double u = b1 * m + c1 * g;
      if (std::fabs(u) > 0) u = u > 0 ? 1 : -1;  // zero and NaN as they are
      c.out[1].as<T>()[i] = store<T>(b2 * m + c2 * g);
      c.out[0].as<T>()[i] = store<T>(p * (1 - lr * wd) - lr * u);
    }
  });
}

void non_finite(const Call& c) {
  bool found = false;
  for (const Operand& o : c.in)
    dispatch_floating(o.dtype, "non_finite", [&]<class T>() {
      for (int64_t i = 0; i < o.numel(); ++i) found |= !std::isfinite(to_double(o.as<T>()[i]));
    });
  *c.out[0].as<float>() = found ? 1.0f : 0.0f;
}

}  // namespace fastcnn::cpu::ref
