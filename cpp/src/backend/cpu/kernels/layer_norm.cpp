// What it is: layer normalisation of rows of contiguous values; statistics in two passes over the row, which is in
// cache. Work items are chunks of chunk_rows rows, so the partial sums of dgamma and dbeta do not depend on
// threads.
#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/lanes.h"

namespace fastcnn::cpu::FASTCNN_ISA {
namespace {

constexpr int64_t kPiece = 4096;  // values summed in float before double takes over

// Sum over [0, n) of term(i, lanes), four accumulators wide; lanes beyond the end must give 0.
template <class F>
FASTCNN_OP double sum_terms(int64_t n, F term) {
  double total = 0;
  for (int64_t p = 0; p < n; p += kPiece) {
    int64_t e = n - p < kPiece ? n : p + kPiece, i = p;
    vf a[4] = {zero(), zero(), zero(), zero()};
    for (; i + 4 * kLanes <= e; i += 4 * kLanes)
      for (int u = 0; u < 4; ++u) a[u] = add(a[u], term(i + u * kLanes, kLanes));
    for (; i + kLanes <= e; i += kLanes) a[0] = add(a[0], term(i, kLanes));
    if (i < e) a[1] = add(a[1], term(i, static_cast<int>(e - i)));
    total += hsum(add(add(a[0], a[1]), add(a[2], a[3])));
  }
  return total;
}

// The first n lanes of v, 0 elsewhere.
FASTCNN_OP vf first_lanes(vf v, int n) {
  alignas(64) float t[kLanes];
  store(t, v);
  return loadn(t, n);
}

template <class F>
FASTCNN_OP void for_vectors(int64_t n, F f) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) f(i, kLanes);
  if (i < n) f(i, static_cast<int>(n - i));
}

#define INLINE_LAMBDA __attribute__((always_inline))

}  // namespace

void layer_norm_rows(const LayerNormArgs* p, int64_t begin, int64_t end) {
  const int64_t n = p->inner, last = end * p->chunk_rows < p->rows ? end * p->chunk_rows : p->rows;
  for (int64_t r = begin * p->chunk_rows; r < last; ++r) {
    const float* x = p->x + r * n;
    float* y = p->y + r * n;
    // A first value as shift keeps the sums small when the mean is large.
    vf k = set1(x[0]);
    double mean = sum_terms(n, [&](int64_t i, int m) INLINE_LAMBDA {
      return m == kLanes ? sub(load(x + i), k) : sub(loadn(x + i, m), first_lanes(k, m));
    });
    mean = mean / static_cast<double>(n) + x[0];
    vf hi = set1(static_cast<float>(mean)), low = set1(static_cast<float>(mean - static_cast<float>(mean)));
    double var = sum_terms(n, [&](int64_t i, int m) INLINE_LAMBDA {
      vf d =
          sub(sub(get(x + i, m), m == kLanes ? hi : first_lanes(hi, m)), m == kLanes ? low : first_lanes(low, m));
      return mul(d, d);
    });
    double s = 1 / __builtin_sqrt(var / static_cast<double>(n) + p->eps);
    p->mean[r] = static_cast<float>(mean);
    p->invstd[r] = static_cast<float>(s);
    vf a = set1(static_cast<float>(s));
    if (p->gamma) {
      for_vectors(n, [&](int64_t i, int m) INLINE_LAMBDA {
        vf z = mul(sub(sub(get(x + i, m), hi), low), a);
        put(y + i, fma(z, get(p->gamma + i, m), get(p->beta + i, m)), m);
      });
    } else {
      for_vectors(
          n, [&](int64_t i, int m) INLINE_LAMBDA { put(y + i, mul(sub(sub(get(x + i, m), hi), low), a), m); });
    }
  }
}

void layer_norm_bwd_rows(const LayerNormArgs* p, int64_t begin, int64_t end) {
  const int64_t n = p->inner;
  for (int64_t chunk = begin; chunk < end; ++chunk) {
    int64_t first = chunk * p->chunk_rows,
            last = first + p->chunk_rows < p->rows ? first + p->chunk_rows : p->rows;
    float* dgamma = p->gamma ? p->part + chunk * 2 * n : nullptr;
    float* dbeta = dgamma + (p->gamma ? n : 0);
    for (int64_t r = first; r < last; ++r) {
      const float *x = p->x + r * n, *dy = p->dy + r * n;
      float* dx = p->dx + r * n;
      vf m = set1(p->mean[r]), s = set1(p->invstd[r]);
      auto scaled = [&](int64_t i, int k) INLINE_LAMBDA {  // dy * gamma; lanes beyond the end are 0
        return p->gamma ? mul(get(dy + i, k), get(p->gamma + i, k)) : get(dy + i, k);
      };
      double sum = sum_terms(n, [&](int64_t i, int k) INLINE_LAMBDA { return scaled(i, k); });
      double dot = sum_terms(
          n, [&](int64_t i, int k) INLINE_LAMBDA { return mul(scaled(i, k), mul(sub(get(x + i, k), m), s)); });
      vf c1 = set1(static_cast<float>(sum / static_cast<double>(n)));
      vf c2 = set1(static_cast<float>(dot / static_cast<double>(n)));
      for_vectors(n, [&](int64_t i, int k) INLINE_LAMBDA {
        vf d = get(dy + i, k), xhat = mul(sub(get(x + i, k), m), s);
        if (p->gamma) {
          vf g = mul(d, xhat);
          put(dgamma + i, r == first ? g : add(get(dgamma + i, k), g), k);
          put(dbeta + i, r == first ? d : add(get(dbeta + i, k), d), k);
        }
        put(dx + i, mul(s, sub(sub(scaled(i, k), c1), mul(xhat, c2))), k);
      });
    }
  }
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
