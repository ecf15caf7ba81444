// What it is: naive dropout, its backward pass, random fills and the counter step; the rules stand in
// core/philox.h.
#include "backend/cpu/ref/convert.h"
#include "core/philox.h"

namespace fastcnn::cpu::ref {
namespace {

// The decision that element `i` of the dense tensor belongs to. Rank 4 has channels innermost, other ranks
// row-major.
int64_t decision(const DropoutParams& p, int ndim, int64_t i) {
  switch (p.kind) {
    case DropKind::element: return i;
    case DropKind::channel: return ndim == 4 ? i / (p.HW * p.C) * p.C + i % p.C : i / p.HW;
    case DropKind::sample: return i / (p.HW * p.C);
  }
  throw std::logic_error("dropout: unknown kind");
}

void drop(const DropoutParams& p, const Operand& x, const Operand& y, uint64_t seed, uint64_t stream) {
  double scale = p.p < 1 ? 1.0 / (1.0 - p.p) : 0.0;
  uint32_t threshold = philox_threshold(p.p);
  dispatch_floating(x.dtype, "dropout", [&]<class T>() {
    int64_t n = x.numel();
    for (int64_t i = 0; i < n; ++i) {
      int64_t f = decision(p, x.ndim, i);
      bool keep = (philox(seed, stream, f / 4).w[f % 4] >> 8) >= threshold;
      y.as<T>()[i] = keep ? store<T>(load(x.as<T>()[i]) * scale) : store<T>(0.0);
    }
  });
}

template <class T>
double uniform01(uint64_t seed, uint64_t stream, int64_t i) {
  if constexpr (std::is_same_v<T, double>) return philox_uniform53(philox_u64(philox(seed, stream, i / 2), i % 2));
  uint32_t w = philox(seed, stream, i / 4).w[i % 4];
  if constexpr (std::is_same_v<T, bfloat16>) return philox_uniform_bits(w, 8);
  if constexpr (std::is_same_v<T, float16>) return philox_uniform_bits(w, 11);
  return philox_uniform24(w);
}

template <class T>
double normal01(uint64_t seed, uint64_t stream, int64_t i) {
  using Rule = std::conditional_t<std::is_same_v<T, double>, double, float>;
  double u1 = uniform01<Rule>(seed, stream, i & ~int64_t{1}), u2 = uniform01<Rule>(seed, stream, i | 1);
  double r = std::sqrt(-2.0 * std::log(1.0 - u1)), a = 6.283185307179586476925 * u2;
  return i % 2 ? r * std::sin(a) : r * std::cos(a);
}

}  // namespace

void dropout(const Call& c) {
  const auto& p = c.as<DropoutParams>();
  const int64_t* state = c.in[1].as<int64_t>();
  int64_t* saved = c.out[1].as<int64_t>();
  saved[0] = state[0];
  saved[1] = wrap_add(state[1], p.delta);
  drop(p, c.in[0], c.out[0], saved[0], saved[1]);
}

void dropout_bwd(const Call& c) {
  const int64_t* saved = c.in[1].as<int64_t>();
  drop(c.as<DropoutParams>(), c.in[0], c.out[0], saved[0], saved[1]);
}

void random(const Call& c) {
  const auto& p = c.as<RandomParams>();
  const int64_t* state = c.in[0].as<int64_t>();
  uint64_t seed = state[0], stream = wrap_add(state[1], p.delta);
  const Operand& y = c.out[0];
  int64_t n = y.numel();
  if (p.op == Random::permutation) throw std::logic_error("random: permutation is not a kernel");
  dispatch_all(y.dtype, [&]<class T>() {
    T* yd = y.as<T>();
    if (p.op == Random::integers) {
      int64_t low = to_int64(p.low);
      uint64_t range = static_cast<uint64_t>(wrap_sub(to_int64(p.high), low));
      for (int64_t i = 0; i < n; ++i) {
        uint64_t u = philox_u64(philox(seed, stream, i / 2), i % 2);
        yd[i] = store<T>(wrap_add(low, static_cast<int64_t>(philox_below(u, range))));
      }
      return;
    }
    if constexpr (!std::is_integral_v<T>) {
      for (int64_t i = 0; i < n; ++i) {
        if (p.op == Random::normal) {
          yd[i] = store<T>(p.low + p.high * normal01<T>(seed, stream, i));
        } else {
          T v = store<T>(p.low + (p.high - p.low) * uniform01<T>(seed, stream, i));
          yd[i] = to_double(v) < p.high ? v : store<T>(p.low);  // rounding may reach the open end
        }
      }
    } else {
      throw std::logic_error(std::string("random: floating dtype expected, got ") + dtype_name(y.dtype));
    }
  });
}

void rng_advance(const Call& c) {
  const int64_t* in = c.in[0].as<int64_t>();
  int64_t* out = c.out[0].as<int64_t>();
  out[0] = in[0];
  out[1] = wrap_add(in[1], c.as<RngAdvanceParams>().count);
}

}  // namespace fastcnn::cpu::ref
