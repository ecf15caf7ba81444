// What it is: mse, l1, smooth_l1, huber and binary cross entropy on logits, with their sum and their gradient, one
// pass over x and t each. What it is not: the order of partial sums (backend/cpu/pointwise_loss.cpp).
#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/lanes.h"
#include "backend/cpu/kernels/vmath.h"

namespace fastcnn::cpu::FASTCNN_ISA {
namespace {

constexpr int64_t kRun = 64;  // vectors whose sum is float32; their sums add up in float64

template <PointLoss L>
struct Loss {
  vf beta, inv;
  explicit Loss(const PointwiseLossParams& p)
      : beta(set1(static_cast<float>(p.beta))), inv(set1(static_cast<float>(1 / p.beta))) {}

  FASTCNN_OP vf value(vf x, vf t) const {
    if constexpr (L == PointLoss::bce_with_logits) {
      vf e = vexp(sub(zero(), vabs(x)));
      vf soft = add(vmax(zero(), sub(zero(), x)), vlog1p(e));  // -log(sigmoid(x))
      return fma(sub(set1(1), t), x, soft);
    } else {
      vf d = sub(x, t);
      if constexpr (L == PointLoss::mse) return mul(d, d);
      d = vabs(d);
      if constexpr (L == PointLoss::l1) return d;
      vf m = vmin(beta, d);  // m (d - m/2) is d^2/2 below beta and beta (d - beta/2) above
      vf v = mul(m, fnma(set1(0.5f), m, d));
      return L == PointLoss::smooth_l1 ? mul(v, inv) : v;
    }
  }

  FASTCNN_OP vf slope(vf x, vf t) const {
    if constexpr (L == PointLoss::bce_with_logits) {
      vf e = vexp(sub(zero(), vabs(x))), s = div(set1(1), add(set1(1), e));
      return sub(select_gt(zero(), x, mul(e, s), s), t);
    } else {
      vf d = sub(x, t);
      if constexpr (L == PointLoss::mse) return add(d, d);
      if constexpr (L == PointLoss::l1) {
        vf one = copy_sign(select_gt(vabs(d), zero(), set1(1), zero()), d);
        return select_nan(d, d, one);
      }
      if constexpr (L == PointLoss::smooth_l1) return vmin(set1(1), vmax(set1(-1), mul(d, inv)));
      return vmin(beta, vmax(sub(zero(), beta), d));
    }
  }
};

template <class F>
FASTCNN_OP void with_loss(const PointwiseLossParams& p, F&& f) {
  switch (p.loss) {
    case PointLoss::mse: return f(Loss<PointLoss::mse>(p));
    case PointLoss::l1: return f(Loss<PointLoss::l1>(p));
    case PointLoss::smooth_l1: return f(Loss<PointLoss::smooth_l1>(p));
    case PointLoss::huber: return f(Loss<PointLoss::huber>(p));
    case PointLoss::bce_with_logits: return f(Loss<PointLoss::bce_with_logits>(p));
  }
}

}  // namespace

// Sum of the losses of [begin, end); NaN in t adds to *bad.
double pointwise_loss(const PointwiseLossArgs* a, int64_t begin, int64_t end, int* bad) {
  double total = 0;
  with_loss(a->p, [&](auto f) {
    vf nan = zero();
    for (int64_t i = begin; i < end;) {
      vf sum = zero();
      for (int64_t k = 0; k < kRun && i < end; ++k, i += kLanes) {
        int n = lanes_at(i, end);
        vf t = get(a->t + i, n), x = get(a->x + i, n);
        vf v = f.value(x, t);
        nan = select_nan(t, set1(1), nan);
        if (n < kLanes) {  // what lies behind the end counts nothing
          alignas(64) float lane[kLanes];
          store(lane, v);
          for (int j = n; j < kLanes; ++j) lane[j] = 0;
          v = load(lane);
        }
        if (a->loss) put(a->loss + i, v, n);
        sum = add(sum, v);
      }
      total += hsum(sum);
    }
    if (hsum(nan) > 0) *bad = 1;
  });
  return total;
}

void pointwise_loss_bwd(const PointwiseLossArgs* a, int64_t begin, int64_t end) {
  with_loss(a->p, [&](auto f) {
    const bool each = a->p.reduction == Reduction::none;
    vf g = set1(each ? 1 : a->dloss[0] * a->scale);
    for (int64_t i = begin; i < end; i += kLanes) {
      int n = lanes_at(i, end);
      vf v = mul(f.slope(get(a->x + i, n), get(a->t + i, n)), each ? get(a->dloss + i, n) : g);
      if (a->nt && n == kLanes)
        stream(a->dx + i, v);
      else
        put(a->dx + i, v, n);
    }
    if (a->nt) fence();
  });
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
