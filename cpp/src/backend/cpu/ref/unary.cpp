// What it is: the naive unary op: one element at a time, in double (int64 between integer dtypes).
#include "backend/cpu/ref/convert.h"

namespace fastcnn::cpu::ref {
namespace {

// Integer in, integer out, for the ops that stay exact there.
bool unary_int(const UnaryParams& p, int64_t x, int64_t* y) {
  switch (p.op) {
    case Unary::copy:
    case Unary::floor:
    case Unary::ceil:
    case Unary::round: *y = x; return true;
    case Unary::affine:
      if (!integral(p.alpha) || !integral(p.beta)) return false;
      *y = wrap_add(wrap_mul(int64_t(p.alpha), x), int64_t(p.beta));
      return true;
    case Unary::clamp: {
      int64_t lo = p.alpha <= -9.2e18 ? INT64_MIN : to_int64(std::ceil(p.alpha));
      int64_t hi = p.beta >= 9.2e18 ? INT64_MAX : to_int64(std::floor(p.beta));
      *y = x < lo ? lo : x;
      *y = *y > hi ? hi : *y;
      return true;
    }
    case Unary::abs: *y = x < 0 ? wrap_sub(0, x) : x; return true;
    case Unary::square: *y = wrap_mul(x, x); return true;
    case Unary::sign: *y = (x > 0) - (x < 0); return true;
    case Unary::logical_not: *y = x == 0; return true;
    case Unary::isnan:
    case Unary::isinf: *y = 0; return true;
    case Unary::isfinite: *y = 1; return true;
    default: return false;
  }
}

double unary_float(const UnaryParams& p, double x) {
  switch (p.op) {
    case Unary::copy: return x;
    case Unary::affine: return p.beta == 0 ? p.alpha * x : p.alpha * x + p.beta;  // -0 stays
    case Unary::rdiv: return p.alpha / x;
    case Unary::pow:  // PyTorch takes the roots by sqrt, which differs at -inf and -0
      if (p.alpha == 0.5) return std::sqrt(x);
      if (p.alpha == -0.5) return 1.0 / std::sqrt(x);
      return std::pow(x, p.alpha);
    case Unary::rpow: return std::pow(p.alpha, x);
    case Unary::clamp: {
      if (std::isnan(x)) return x;
      double y = x < p.alpha ? p.alpha : x;
      return y > p.beta ? p.beta : y;
    }
    case Unary::abs: return std::fabs(x);
    case Unary::exp: return std::exp(x);
    case Unary::expm1: return std::expm1(x);
    case Unary::log: return std::log(x);
    case Unary::log1p: return std::log1p(x);
    case Unary::log2: return std::log2(x);
    case Unary::sqrt: return std::sqrt(x);
    case Unary::rsqrt: return 1.0 / std::sqrt(x);
    case Unary::square: return x * x;
    case Unary::reciprocal: return 1.0 / x;
    case Unary::sign: return double((x > 0) - (x < 0));  // NaN gives 0, as in PyTorch
    case Unary::floor: return std::floor(x);
    case Unary::ceil: return std::ceil(x);
    case Unary::round: return std::nearbyint(x);
    case Unary::sin: return std::sin(x);
    case Unary::cos: return std::cos(x);
    case Unary::erf: return std::erf(x);
    case Unary::atan: return std::atan(x);
    case Unary::logical_not: return x == 0;
    case Unary::isnan: return std::isnan(x);
    case Unary::isinf: return std::isinf(x);
    case Unary::isfinite: return std::isfinite(x);
    case Unary::clamp_mask: return x >= p.alpha && x <= p.beta;
    case Unary::count: break;
  }
  throw std::logic_error("unary: unknown op " + std::to_string(static_cast<int>(p.op)));
}

}  // namespace

void unary(const Call& c) {
  const auto& p = c.as<UnaryParams>();
  const Operand &x = c.in[0], &y = c.out[0];
  dispatch_all(x.dtype, [&]<class T>() {
    dispatch_all(y.dtype, [&]<class U>() {
      const T* xd = x.as<T>();
      U* yd = y.as<U>();
      for_each_index(y, [&](const int64_t* idx) {
        auto v = load(xd[offset_of(x, idx)]);
        U& out = yd[offset_of(y, idx)];
        if constexpr (std::is_integral_v<T>) {
          int64_t r;
          if ((std::is_integral_v<U> || p.op == Unary::copy) && unary_int(p, v, &r)) {
            out = store<U>(r);
            return;
          }
        }
        out = store<U>(unary_float(p, static_cast<double>(v)));
      });
    });
  });
}

}  // namespace fastcnn::cpu::ref
