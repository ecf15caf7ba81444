// What it is: naive routing by agreement (Sabour, Frosst and Hinton 2017, procedure 1) and its gradient, in
// double.
#include <cmath>
#include <vector>

#include "backend/cpu/ref/access.h"

namespace fastcnn::cpu::ref {
namespace {

using Values = std::vector<double>;
constexpr double kSquashEps = 1e-8;

// All rounds of one sample.
struct Routing {
  const CapsuleRoutingParams& p;
  Values votes;                          // (I,J,D)
  std::vector<Values> shares, sums, vs;  // of each round: (I,J), (J,D), (J,D)

  Routing(const CapsuleRoutingParams& params, const Reader& u, const Reader& w, int64_t n)
      : p(params), votes(p.I * p.J * p.D, 0.0) {
    for (int64_t i = 0; i < p.I; ++i)
      for (int64_t o = 0; o < p.J * p.D; ++o)
        for (int64_t k = 0; k < p.K; ++k) votes[i * p.J * p.D + o] += w[at(i, o, k)] * u[(n * p.I + i) * p.K + k];
    Values logits(p.I * p.J, 0.0);
    for (int64_t t = 0; t < p.iterations; ++t) {
      if (t > 0) for_votes([&](int64_t ij, int64_t jd, double vote) { logits[ij] += vote * vs[t - 1][jd]; });
      Values share(p.I * p.J), sum(p.J * p.D, 0.0), v(p.J * p.D);
      for (int64_t i = 0; i < p.I; ++i) {
        double top = logits[i * p.J], total = 0;
        for (int64_t j = 0; j < p.J; ++j) top = std::max(top, logits[i * p.J + j]);
        for (int64_t j = 0; j < p.J; ++j) total += share[i * p.J + j] = std::exp(logits[i * p.J + j] - top);
        for (int64_t j = 0; j < p.J; ++j) share[i * p.J + j] /= total;
      }
      for_votes([&](int64_t ij, int64_t jd, double vote) { sum[jd] += share[ij] * vote; });
      for (int64_t j = 0; j < p.J; ++j) {
        const double q = dot(sum, sum, j);
        for (int64_t d = 0; d < p.D; ++d)
          v[j * p.D + d] = sum[j * p.D + d] * q / ((1 + q) * std::sqrt(q + kSquashEps));
      }
      shares.push_back(share), sums.push_back(sum), vs.push_back(v);
    }
  }

  // Of weight (i, o / D, o % D, k) in memory, which is channels-last as all tensors of four dims are.
  int64_t at(int64_t i, int64_t o, int64_t k) const { return ((i * p.D + o % p.D) * p.K + k) * p.J + o / p.D; }

  template <class F>
  void for_votes(F&& f) const {  // f(share or logit, place in (J,D), vote)
    for (int64_t i = 0; i < p.I; ++i)
      for (int64_t j = 0; j < p.J; ++j)
        for (int64_t d = 0; d < p.D; ++d) f(i * p.J + j, j * p.D + d, votes[(i * p.J + j) * p.D + d]);
  }
  double dot(const Values& a, const Values& b, int64_t j) const {
    double s = 0;
    for (int64_t d = 0; d < p.D; ++d) s += a[j * p.D + d] * b[j * p.D + d];
    return s;
  }

  // Gradients of the votes (I,J,D) from that of the last result.
  Values gradient(Values dv) const {
    Values dvotes(votes.size(), 0.0), dlogits(p.I * p.J, 0.0);
    for (int64_t t = p.iterations - 1; t >= 0; --t) {
      Values ds(p.J * p.D), dshare(p.I * p.J, 0.0);
      for (int64_t j = 0; j < p.J; ++j) {
        const double q = dot(sums[t], sums[t], j), root = std::sqrt(q + kSquashEps);
        const double factor = q / ((1 + q) * root);
        const double slope = 1 / ((1 + q) * (1 + q) * root) - q / (2 * (1 + q) * root * root * root);
        const double along = 2 * slope * dot(sums[t], dv, j);
        for (int64_t d = 0; d < p.D; ++d)
          ds[j * p.D + d] = factor * dv[j * p.D + d] + along * sums[t][j * p.D + d];
      }
      for_votes([&](int64_t ij, int64_t jd, double vote) {
        dvotes[ij * p.D + jd % p.D] += shares[t][ij] * ds[jd];
        dshare[ij] += vote * ds[jd];
      });
      if (t == 0) break;
      for (int64_t i = 0; i < p.I; ++i) {
        double inner = 0;
        for (int64_t j = 0; j < p.J; ++j) inner += shares[t][i * p.J + j] * dshare[i * p.J + j];
        for (int64_t j = 0; j < p.J; ++j)
          dlogits[i * p.J + j] += shares[t][i * p.J + j] * (dshare[i * p.J + j] - inner);
      }
      std::fill(dv.begin(), dv.end(), 0.0);
      for_votes([&](int64_t ij, int64_t jd, double vote) {
        dvotes[ij * p.D + jd % p.D] += dlogits[ij] * vs[t - 1][jd];
        dv[jd] += dlogits[ij] * vote;
      });
    }
    return dvotes;
  }
};

}  // namespace

void capsule_routing(const Call& c) {
  const auto& p = c.as<CapsuleRoutingParams>();
  const Reader u(c.in[0]), w(c.in[1]);
  for (int64_t n = 0; n < p.N; ++n) {
    const Routing r(p, u, w, n);
    for (int64_t o = 0; o < p.J * p.D; ++o) Writer(c.out[0]).set(n * p.J * p.D + o, r.vs.back()[o]);
  }
}

void capsule_routing_bwd(const Call& c) {
  const auto& p = c.as<CapsuleRoutingParams>();
  const Reader dv(c.in[0]), u(c.in[1]), w(c.in[2]);
  const int64_t row = p.J * p.D;
  Values dw(p.I * row * p.K, 0.0);
  for (int64_t n = 0; n < p.N; ++n) {
    Values last(row);
    for (int64_t o = 0; o < row; ++o) last[o] = dv[n * row + o];
    const Routing r(p, u, w, n);
    const Values dvotes = r.gradient(last);
    for (int64_t i = 0; i < p.I; ++i)
      for (int64_t k = 0; k < p.K; ++k) {
        double sum = 0;
        for (int64_t o = 0; o < row; ++o) {
          sum += w[r.at(i, o, k)] * dvotes[i * row + o];
          dw[r.at(i, o, k)] += u[(n * p.I + i) * p.K + k] * dvotes[i * row + o];
        }
        Writer(c.out[0]).set((n * p.I + i) * p.K + k, sum);
      }
  }
  for (size_t i = 0; i < dw.size(); ++i) Writer(c.out[1]).set(static_cast<int64_t>(i), dw[i]);
}

}  // namespace fastcnn::cpu::ref
