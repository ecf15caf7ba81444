// What it is: SGD, Adam/AdamW, RMSprop, Adagrad and Lion steps in one pass over memory; `hyper` is
// StepNumbers::h (step_numbers.h): its slots are listed in params.h.
#include <math.h>

#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/simd.h"

namespace fastcnn::cpu::FASTCNN_ISA {
namespace {

// f(i, n) for every vector of [begin, end), n lanes of it in range.
template <class F>
FASTCNN_OP void each_vector(int64_t begin, int64_t end, F&& f) {
  int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes)
    f(i, [](const float* p) { return load(p); }, [](float* p, vf a) { store(p, a); });
  if (i >= end) return;
  int n = static_cast<int>(end - i);
  f(i, [n](const float* p) { return loadn(p, n); }, [n](float* p, vf a) { storen(p, a, n); });
}

FASTCNN_OP vf factor(int64_t maximize, const float* hyper) { return set1(maximize ? -hyper[8] : hyper[8]); }

FASTCNN_OP float complement(const float* h, int slot) { return h[7] > 0 ? h[7] : 1.0f - h[slot]; }

}  // namespace

void sgd_step(const SgdParams& p, const float* hyper, float* w, const float* g, float* momentum, int64_t begin,
              int64_t end) {
  vf sign = factor(p.maximize, hyper), lr = set1(hyper[0]), decay = set1(hyper[1]), mu = set1(hyper[2]);
  vf keep = set1(1.0f - hyper[7]);
  each_vector(begin, end, [&](int64_t i, auto get, auto put) {
    vf x = get(w + i), d = fma(decay, x, mul(sign, get(g + i)));
    if (p.has_momentum) {
      vf b = p.first_step ? d : fma(mu, get(momentum + i), mul(keep, d));
      put(momentum + i, b);
      d = p.nesterov ? fma(mu, b, d) : b;
    }
    put(w + i, fnma(lr, d, x));
  });
}

void adam_step(const AdamParams& p, const float* hyper, float* w, const float* g, float* m, float* v, float* v_max,
               int64_t begin, int64_t end) {
  const float* h = hyper;
  vf sign = factor(p.maximize, hyper), shrink = set1(p.decoupled ? 1.0f - h[0] * h[1] : 1.0f);
  vf decay = set1(p.decoupled ? 0.0f : h[1]), c1 = set1(1.0f - h[2]), b2 = set1(h[3]), c2 = set1(complement(h, 3));
  vf eps = set1(h[4]), step = set1(h[0] / h[5]), root = set1(1.0f / sqrtf(h[6]));
  each_vector(begin, end, [&](int64_t i, auto get, auto put) {
    vf x = get(w + i), d = fma(decay, x, mul(sign, get(g + i))), m0 = get(m + i);
    vf m1 = fma(c1, sub(d, m0), m0), v1 = fma(b2, get(v + i), mul(mul(c2, d), d));
    put(m + i, m1);
    put(v + i, v1);
    if (p.amsgrad) {
      v1 = vmax(v1, get(v_max + i));
      put(v_max + i, v1);
    }
    vf q = div(m1, fma(vsqrt(v1), root, eps));
    put(w + i, fnma(step, q, mul(shrink, x)));
  });
}

void rmsprop_step(const RmspropParams& p, const float* hyper, float* w, const float* g, float* v, float* momentum,
                  float* mean, int64_t begin, int64_t end) {
  vf sign = factor(p.maximize, hyper), lr = set1(hyper[0]), decay = set1(hyper[1]), alpha = set1(hyper[2]);
  vf mu = set1(hyper[3]), eps = set1(hyper[4]), ca = set1(complement(hyper, 2));
  each_vector(begin, end, [&](int64_t i, auto get, auto put) {
    vf x = get(w + i), d = fma(decay, x, mul(sign, get(g + i)));
    vf var = fma(alpha, get(v + i), mul(mul(ca, d), d));
    put(v + i, var);
    if (p.centered) {
      vf m0 = get(mean + i), m1 = fma(ca, sub(d, m0), m0);
      put(mean + i, m1);
      var = vmax(zero(), fnma(m1, m1, var));
    }
    d = div(d, add(vsqrt(var), eps));
    if (p.has_momentum) {
      d = fma(mu, get(momentum + i), d);
      put(momentum + i, d);
    }
    put(w + i, fnma(lr, d, x));
  });
}

void adagrad_step(const AdagradParams& p, const float* hyper, float* w, const float* g, float* sum, int64_t begin,
                  int64_t end) {
  vf sign = factor(p.maximize, hyper), lr = set1(hyper[0]), decay = set1(hyper[1]), eps = set1(hyper[4]);
  each_vector(begin, end, [&](int64_t i, auto get, auto put) {
    vf x = get(w + i), d = fma(decay, x, mul(sign, get(g + i))), s = fma(d, d, get(sum + i));
    put(sum + i, s);
    put(w + i, fnma(lr, div(d, add(vsqrt(s), eps)), x));
  });
}

void lion_step(const LionParams& p, const float* hyper, float* w, const float* g, float* m, int64_t begin,
               int64_t end) {
  vf sign = factor(p.maximize, hyper), lr = set1(hyper[0]), shrink = set1(1.0f - hyper[0] * hyper[1]);
  vf b1 = set1(hyper[2]), b2 = set1(hyper[3]), c1 = set1(hyper[6]), c2 = set1(hyper[7]), one = set1(1.0f);
  each_vector(begin, end, [&](int64_t i, auto get, auto put) {
    vf d = mul(sign, get(g + i)), m0 = get(m + i), u = fma(b1, m0, mul(c1, d));
    u = select_gt(vabs(u), zero(), copy_sign(one, u), u);  // zero and NaN as they are
    put(m + i, fma(b2, m0, mul(c2, d)));
    put(w + i, fnma(lr, u, mul(shrink, get(w + i))));
  });
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
