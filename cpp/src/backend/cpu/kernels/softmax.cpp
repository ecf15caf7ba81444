// What it is: softmax, log_softmax, their backward passes and cross entropy on class ids. Rows of contiguous
// values go lane-wise along the row; other dims go lane-wise across neighbouring rows. Work items are whole rows
// (or columns of a vector's width), so any split gives the same numbers.
#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/lanes.h"
#include "backend/cpu/kernels/vmath.h"

namespace fastcnn::cpu::FASTCNN_ISA {
namespace {

constexpr float kLane[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

FASTCNN_OP vf get_or(const float* p, int n, vf fill) {
  if (n == kLanes) return load(p);
  return select_gt(set1(static_cast<float>(n)), load(kLane), loadn(p, n), fill);
}

// NaN is skipped here; exp(NaN - max) brings it back.
FASTCNN_OP float row_max(const float* x, int64_t n) {
  vf m = set1(-kInf);
  for (int64_t i = 0; i < n; i += kLanes) m = vmax(get_or(x + i, lanes_at(i, n), set1(-kInf)), m);
  return hmax(m);
}

FASTCNN_OP void softmax_row(const float* x, float* y, int64_t n, bool log) {
  vf m = set1(row_max(x, n)), sum = zero();
  for (int64_t i = 0; i < n; i += kLanes) {
    int k = lanes_at(i, n);
    vf e = vexp(sub(get_or(x + i, k, set1(-kInf)), m));
    if (!log) put(y + i, e, k);
    sum = add(sum, e);
  }
  vf s = set1(hsum(sum)), ls = log ? vlog(s) : zero();
  for (int64_t i = 0; i < n; i += kLanes) {
    int k = lanes_at(i, n);
    put(y + i, log ? sub(sub(get(x + i, k), m), ls) : div(get(y + i, k), s), k);
  }
}

// One vector of columns of a (dim, inner) matrix; n lanes are in use.
FASTCNN_OP void softmax_columns(const float* x, float* y, int64_t dim, int64_t inner, int n, bool log) {
  vf m = set1(-kInf), sum = zero();
  for (int64_t d = 0; d < dim; ++d) m = vmax(get(x + d * inner, n), m);
  for (int64_t d = 0; d < dim; ++d) {
    vf e = vexp(sub(get(x + d * inner, n), m));
    if (!log) put(y + d * inner, e, n);
    sum = add(sum, e);
  }
  vf ls = log ? vlog(sum) : zero();
  for (int64_t d = 0; d < dim; ++d)
    put(y + d * inner, log ? sub(sub(get(x + d * inner, n), m), ls) : div(get(y + d * inner, n), sum), n);
}

FASTCNN_OP vf bwd_term(vf dy, vf y, bool log) { return log ? dy : mul(dy, y); }
FASTCNN_OP vf bwd_value(vf dy, vf y, vf sum, bool log) {
  return log ? fnma(vexp(y), sum, dy) : mul(y, sub(dy, sum));
}

}  // namespace

// Items: rows when inner is 1, else outer * vectors of the inner extent.
void softmax_forward(const SoftmaxParams* p, const float* x, float* y, int log, int64_t begin, int64_t end) {
  if (p->inner == 1) {
    for (int64_t r = begin; r < end; ++r) softmax_row(x + r * p->dim, y + r * p->dim, p->dim, log != 0);
    return;
  }
  int64_t vectors = (p->inner + kLanes - 1) / kLanes;
  for (int64_t item = begin; item < end; ++item) {
    int64_t col = item % vectors * kLanes, off = item / vectors * p->dim * p->inner + col;
    softmax_columns(x + off, y + off, p->dim, p->inner, lanes_at(col, p->inner), log != 0);
  }
}

void softmax_backward(const SoftmaxParams* p, const float* dy, const float* y, float* dx, int log, int64_t begin,
                      int64_t end) {
  if (p->inner == 1) {
    for (int64_t r = begin; r < end; ++r) {
      int64_t off = r * p->dim;
      vf sum = zero();
      for (int64_t i = 0; i < p->dim; i += kLanes) {
        int k = lanes_at(i, p->dim);
        sum = add(sum, bwd_term(get(dy + off + i, k), get(y + off + i, k), log != 0));
      }
      sum = set1(hsum(sum));
      for (int64_t i = 0; i < p->dim; i += kLanes) {
        int k = lanes_at(i, p->dim);
        put(dx + off + i, bwd_value(get(dy + off + i, k), get(y + off + i, k), sum, log != 0), k);
      }
    }
    return;
  }
  int64_t vectors = (p->inner + kLanes - 1) / kLanes;
  for (int64_t item = begin; item < end; ++item) {
    int64_t col = item % vectors * kLanes, off = item / vectors * p->dim * p->inner + col;
    int n = lanes_at(col, p->inner);
    vf sum = zero();
    for (int64_t d = 0; d < p->dim; ++d)
      sum = add(sum, bwd_term(get(dy + off + d * p->inner, n), get(y + off + d * p->inner, n), log != 0));
    for (int64_t d = 0; d < p->dim; ++d) {
      int64_t i = off + d * p->inner;
      put(dx + i, bwd_value(get(dy + i, n), get(y + i, n), sum, log != 0), n);
    }
  }
}

// Rows [begin, end): lse and the unreduced loss, 0 for ignored rows. Logarithms are taken a vector of rows at a
// time.
void cross_entropy_rows(const CrossEntropyArgs* a, int64_t begin, int64_t end) {
  const int64_t C = a->p.C;
  const float eps = static_cast<float>(a->p.label_smoothing), spread = eps / static_cast<float>(C);
  for (int64_t r0 = begin; r0 < end; r0 += kLanes) {
    int rows = lanes_at(r0, end);
    alignas(64) float base[kLanes], sums[kLanes], smooth[kLanes];
    for (int k = 0; k < kLanes; ++k) sums[k] = 1;
    for (int k = 0; k < rows; ++k) {
      const float* x = a->x + (r0 + k) * C;
      float top = row_max(x, C);
      // A row of -inf (or with +inf) has that as its log-sum-exp; subtracting it would give NaN.
      base[k] = top - top == 0 ? top : 0;
      vf m = set1(base[k]), sum = zero(), s = zero();
      for (int64_t i = 0; i < C; i += kLanes) {
        int n = lanes_at(i, C);
        vf v = get_or(x + i, n, set1(-kInf));
        sum = add(sum, vexp(sub(v, m)));
        if (eps > 0) {
          vf d = sub(m, get_or(x + i, n, m));
          s = add(s, a->weight ? mul(d, get(a->weight + i, n)) : d);
        }
      }
      sums[k] = hsum(sum);
      smooth[k] = eps > 0 ? hsum(s) : 0;
    }
    store(sums, vlog(load(sums)));
    for (int k = 0; k < rows; ++k) {
      int64_t r = r0 + k, t = a->target[r];
      a->lse[r] = base[k] + sums[k];
      float loss = 0;
      if (t != a->p.ignore_index) {
        loss = (a->weight ? a->weight[t] : 1) * ((base[k] - a->x[r * C + t]) + sums[k]);
        if (eps > 0)
          loss = (1 - eps) * loss + spread * (smooth[k] + sums[k] * static_cast<float>(a->weight_total));
      }
      a->loss[r] = loss;
    }
  }
}

void cross_entropy_bwd_rows(const CrossEntropyArgs* a, int64_t begin, int64_t end) {
  const int64_t C = a->p.C;
  const double eps = a->p.label_smoothing, spread = eps / static_cast<double>(C);
  for (int64_t r = begin; r < end; ++r) {
    const float* x = a->x + r * C;
    float* dx = a->dx + r * C;
    if (a->target[r] == a->p.ignore_index) {
      for (int64_t i = 0; i < C; i += kLanes) put(dx + i, zero(), lanes_at(i, C));
      continue;
    }
    double g = a->dloss[a->p.reduction == Reduction::none ? r : 0] * a->scale;
    double w = a->weight ? a->weight[a->target[r]] : 1;
    vf lse = set1(a->lse[r]);
    vf prob = set1(static_cast<float>(g * ((1 - eps) * w + (eps > 0 ? spread * a->weight_total : 0))));
    vf each = set1(static_cast<float>(g * spread));
    for (int64_t i = 0; i < C; i += kLanes) {
      int k = lanes_at(i, C);
      vf v = mul(prob, vexp(sub(get(x + i, k), lse)));
      if (eps > 0) v = sub(v, a->weight ? mul(each, get(a->weight + i, k)) : each);
      put(dx + i, v, k);
    }
    dx[a->target[r]] -= static_cast<float>(g * (1 - eps) * w);
  }
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
