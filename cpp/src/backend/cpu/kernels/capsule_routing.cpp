// What it is: routing by agreement of one sample whose votes stay in cache through all rounds, and its gradient.
// What it is not: threads (backend/cpu/capsule_routing.cpp). Work items of the rounds are samples, of the
// gradients of the operands input capsules; every sum goes through capsules or samples in order, so any split
// gives the same numbers.
#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/lanes.h"
#include "backend/cpu/kernels/vmath.h"

namespace fastcnn::cpu::FASTCNN_ISA {
namespace {

constexpr float kSquashEps = 1e-8f;  // of squared lengths: the root has no gradient at 0

FASTCNN_OP float dot(const float* a, const float* b, int64_t n) {
  vf s = mul(load(a), load(b));
  for (int64_t i = kLanes; i < n; i += kLanes) s = fma(load(a + i), load(b + i), s);
  return hsum(s);
}
FASTCNN_OP void add_scaled(float f, const float* a, float* y, int64_t n) {
  const vf s = set1(f);
  for (int64_t i = 0; i < n; i += kLanes) store(y + i, fma(s, load(a + i), load(y + i)));
}
FASTCNN_OP void clear(float* y, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) store(y + i, zero());
}

struct Sizes {
  int64_t I, J, K, wide, row, padded;  // row: votes of an input capsule; padded: shares of it
  explicit Sizes(const CapsuleArgs& a)
      : I(a.p.I), J(a.p.J), K(a.p.K), wide(a.wide), row(J * wide), padded((J + kLanes - 1) / kLanes * kLanes) {}
};

// votes[i][j] = weight[i][j] u[i]; their sum over i to `sum`.
void cast_votes(const CapsuleArgs& a, const Sizes& z, int64_t n, float* votes, float* sum) {
  clear(sum, z.row);
  for (int64_t i = 0; i < z.I; ++i) {
    const float *u = a.u + (n * z.I + i) * z.K, *w = a.packed + i * z.K * z.row;
    float* to = votes + i * z.row;
    for (int64_t q = 0; q < z.row; q += kLanes) {
      vf s = mul(set1(u[0]), load(w + q));
      for (int64_t k = 1; k < z.K; ++k) s = fma(set1(u[k]), load(w + k * z.row + q), s);
      store(to + q, s);
      store(sum + q, add(load(sum + q), s));
    }
  }
}

// Equation 1 of the paper: v = s |s|^2 / ((1 + |s|^2) |s|).
void squash(const Sizes& z, const float* s, float* v) {
  for (int64_t j = 0; j < z.J; ++j, s += z.wide, v += z.wide) {
    const float q = dot(s, s, z.wide), f = q / ((1 + q) * __builtin_sqrtf(q + kSquashEps));
    for (int64_t d = 0; d < z.wide; d += kLanes) store(v + d, mul(set1(f), load(s + d)));
  }
}
void squash_bwd(const Sizes& z, const float* s, const float* dv, float* ds) {
  for (int64_t j = 0; j < z.J; ++j, s += z.wide, dv += z.wide, ds += z.wide) {
    const float q = dot(s, s, z.wide), h = 1 / ((1 + q) * __builtin_sqrtf(q + kSquashEps)), f = q * h;
    const float slope = h - f / (1 + q) - f / (2 * (q + kSquashEps)), along = 2 * slope * dot(s, dv, z.wide);
    for (int64_t d = 0; d < z.wide; d += kLanes)
      store(ds + d, fma(set1(along), load(s + d), mul(set1(f), load(dv + d))));
  }
}

// Softmax of J values; `padded` floats, those behind J become 0.
FASTCNN_OP void softmax(const float* x, float* y, int64_t J) {
  vf top = set1(-kInf);
  for (int64_t j = 0; j < J; j += kLanes) {
    const int n = lanes_at(j, J);
    alignas(64) float held[kLanes];
    store(held, set1(x[j]));
    storen(held, loadn(x + j, n), n);
    top = vmax(load(held), top);
  }
  const vf m = set1(hmax(top));
  vf sum = zero();
  for (int64_t j = 0; j < J; j += kLanes) {
    const int n = lanes_at(j, J);
    alignas(64) float held[kLanes];
    store(held, zero());
    storen(held, vexp(sub(loadn(x + j, n), m)), n);
    store(y + j, load(held));
    sum = add(sum, load(held));
  }
  const vf scale = set1(1 / hsum(sum));
  for (int64_t j = 0; j < J; j += kLanes) store(y + j, mul(load(y + j), scale));
}

// One round: logits grow by how well votes agree with v, and their softmax weighs the votes in `sum`. share_step:
// 0 where the shares need not be kept.
void round(const Sizes& z, const float* votes, const float* v, float* logits, float* shares, int64_t share_step,
           float* sum) {
  clear(sum, z.row);
  for (int64_t i = 0; i < z.I; ++i, votes += z.row, logits += z.padded, shares += share_step) {
    for (int64_t j = 0; j < z.J; ++j) logits[j] += dot(votes + j * z.wide, v + j * z.wide, z.wide);
    softmax(logits, shares, z.J);
    for (int64_t j = 0; j < z.J; ++j) add_scaled(shares[j], votes + j * z.wide, sum + j * z.wide, z.wide);
  }
}

void scale(const Sizes& z, float* sum) {  // the first round: every share is 1 / J
  const vf share = set1(1.0f / static_cast<float>(z.J));
  for (int64_t q = 0; q < z.row; q += kLanes) store(sum + q, mul(share, load(sum + q)));
}

}  // namespace

// Input capsules [begin, end).
void capsule_pack(const CapsuleArgs* a, int64_t begin, int64_t end) {
  const Sizes z(*a);
  const int64_t D = a->p.D;
  for (int64_t i = begin; i < end; ++i) {
    float* to = a->packed + i * z.K * z.row;
    clear(to, z.K * z.row);
    const float* w = a->weight + i * z.J * D * z.K;
    for (int64_t d = 0; d < D; ++d)
      for (int64_t k = 0; k < z.K; ++k)
        for (int64_t j = 0; j < z.J; ++j) to[k * z.row + j * z.wide + d] = *w++;
  }
}

void capsule_route(const CapsuleArgs* a, float* scratch, int64_t begin, int64_t end) {
  const Sizes z(*a);
  float *votes = scratch, *logits = votes + z.I * z.row, *sum = logits + z.I * z.padded, *v = sum + z.row,
        *share = v + z.row;
  for (int64_t n = begin; n < end; ++n) {
    cast_votes(*a, z, n, votes, sum);
    scale(z, sum);
    squash(z, sum, v);
    clear(logits, z.I * z.padded);
    for (int64_t t = 1; t < a->p.iterations; ++t) {
      round(z, votes, v, logits, share, 0, sum);
      squash(z, sum, v);
    }
    for (int64_t j = 0; j < z.J; ++j)
      for (int64_t d = 0; d < a->p.D; ++d) a->v[(n * z.J + j) * a->p.D + d] = v[j * z.wide + d];
  }
}

// Samples [begin, end): gradients of their votes.
void capsule_route_bwd(const CapsuleArgs* a, float* scratch, int64_t begin, int64_t end) {
  const Sizes z(*a);
  const int64_t T = a->p.iterations, D = a->p.D, all = z.I * z.padded;
  float *votes = scratch, *logits = votes + z.I * z.row, *shares = logits + all;  // of round t: shares + t * all
  float *dlogits = shares + T * all, *sums = dlogits + T * all, *vs = sums + T * z.row, *dsums = vs + T * z.row,
        *dv = dsums + T * z.row;
  for (int64_t n = begin; n < end; ++n) {
    cast_votes(*a, z, n, votes, sums);
    scale(z, sums);
    squash(z, sums, vs);
    clear(logits, all);
    for (int64_t t = 1; t < T; ++t) {
      round(z, votes, vs + (t - 1) * z.row, logits, shares + t * all, z.padded, sums + t * z.row);
      squash(z, sums + t * z.row, vs + t * z.row);
    }
    clear(dv, z.row);
    for (int64_t j = 0; j < z.J; ++j)
      for (int64_t d = 0; d < D; ++d) dv[j * z.wide + d] = a->dv[(n * z.J + j) * D + d];
    for (int64_t t = T - 1; t >= 0; --t) {
      float *ds = dsums + t * z.row, *dl = dlogits + t * all;
      squash_bwd(z, sums + t * z.row, dv, ds);
      if (t == 0) break;
      // Logits of a round are those of the round before and the agreement with its result.
      const float *share = shares + t * all, *later = t + 1 < T ? dl + all : nullptr, *vote = votes;
      clear(dv, z.row);
      for (int64_t i = 0; i < z.I; ++i, vote += z.row, share += z.padded, dl += z.padded) {
        float inner = 0;
        for (int64_t j = 0; j < z.J; ++j) {
          dl[j] = dot(vote + j * z.wide, ds + j * z.wide, z.wide);
          inner += share[j] * dl[j];
        }
        for (int64_t j = 0; j < z.J; ++j) {
          dl[j] = share[j] * (dl[j] - inner) + (later ? later[i * z.padded + j] : 0);
          add_scaled(dl[j], vote + j * z.wide, dv + j * z.wide, z.wide);
        }
      }
    }
    float* dvotes = a->dvotes + n * z.I * z.row;
    const vf first = set1(1.0f / static_cast<float>(z.J));
    for (int64_t i = 0; i < z.I; ++i)
      for (int64_t j = 0; j < z.J; ++j)
        for (int64_t d = 0; d < z.wide; d += kLanes, dvotes += kLanes) {
          const int64_t at = j * z.wide + d;
          vf g = mul(first, load(dsums + at));
          for (int64_t t = 1; t < T; ++t) {
            const int64_t one = t * all + i * z.padded + j;
            g = fma(set1(shares[one]), load(dsums + t * z.row + at), g);
            g = fma(set1(dlogits[one]), load(vs + (t - 1) * z.row + at), g);
          }
          store(dvotes, g);
        }
  }
}

// Input capsules [begin, end): gradients of u and of the weights, from those of the votes.
void capsule_operand_grads(const CapsuleArgs* a, float* scratch, int64_t begin, int64_t end) {
  const Sizes z(*a);
  const int64_t D = a->p.D;
  for (int64_t i = begin; i < end; ++i) {
    const float* w = a->packed + i * z.K * z.row;
    clear(scratch, z.K * z.row);
    for (int64_t n = 0; n < a->p.N; ++n) {
      const float *g = a->dvotes + (n * z.I + i) * z.row, *u = a->u + (n * z.I + i) * z.K;
      float* du = a->du + (n * z.I + i) * z.K;
      for (int64_t k = 0; k < z.K; ++k) {
        du[k] = dot(w + k * z.row, g, z.row);
        add_scaled(u[k], g, scratch + k * z.row, z.row);
      }
    }
    float* dw = a->dweight + i * z.J * D * z.K;
    for (int64_t d = 0; d < D; ++d)
      for (int64_t k = 0; k < z.K; ++k)
        for (int64_t j = 0; j < z.J; ++j) *dw++ = scratch[k * z.row + j * z.wide + d];
  }
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
