// What it is: unary elementwise ops in float32 vectors; other element types pass through a staging buffer.
// What it is not: copies and casts (copy.cpp), integer arithmetic and float64 (the reference).
#include <math.h>

#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/loops.h"
#include "backend/cpu/kernels/trig.h"
#include "backend/cpu/kernels/vmath.h"

namespace fastcnn::cpu::FASTCNN_ISA {
namespace {

// Ops without a vector form run lane by lane.
template <float (*F)(float)>
struct Lanes {
  FASTCNN_OP vf operator()(vf x) const {
    float t[kLanes];
    store(t, x);
    for (int i = 0; i < kLanes; ++i) t[i] = F(t[i]);
    return load(t);
  }
};
struct Exp {
  FASTCNN_OP vf operator()(vf x) const { return vexp(x); }
};
struct Expm1 {
  FASTCNN_OP vf operator()(vf x) const { return vexpm1(x); }
};
struct Log {
  FASTCNN_OP vf operator()(vf x) const { return vlog(x); }
};
struct Log1p {
  FASTCNN_OP vf operator()(vf x) const { return vlog1p(x); }
};
struct Erf {
  FASTCNN_OP vf operator()(vf x) const { return verf(x); }
};
struct Affine {
  vf a, b;
  FASTCNN_OP vf operator()(vf x) const { return fma(x, a, b); }
};
struct Scale {  // apart from Affine: x*a + 0 would turn -0 into 0
  vf a;
  FASTCNN_OP vf operator()(vf x) const { return mul(x, a); }
};
struct Rdiv {
  vf a;
  FASTCNN_OP vf operator()(vf x) const { return div(a, x); }
};
struct Clamp {
  vf lo, hi;
  FASTCNN_OP vf operator()(vf x) const { return vmin(hi, vmax(lo, x)); }
};
struct ClampMask {
  vf lo, hi;
  FASTCNN_OP vf operator()(vf x) const { return select_le(lo, x, select_le(x, hi, set1(1), zero()), zero()); }
};
struct Abs {
  FASTCNN_OP vf operator()(vf x) const { return vabs(x); }
};
struct Sqrt {
  FASTCNN_OP vf operator()(vf x) const { return vsqrt(x); }
};
struct Rsqrt {
  FASTCNN_OP vf operator()(vf x) const { return div(set1(1), vsqrt(x)); }
};
struct Square {
  FASTCNN_OP vf operator()(vf x) const { return mul(x, x); }
};
struct Round {
  FASTCNN_OP vf operator()(vf x) const { return round_even(x); }
};
struct Sign {
  FASTCNN_OP vf operator()(vf x) const {
    return select_gt(x, zero(), set1(1), select_gt(zero(), x, set1(-1), zero()));
  }
};
struct LogicalNot {  // NaN is not zero
  FASTCNN_OP vf operator()(vf x) const { return select_le(vabs(x), zero(), set1(1), zero()); }
};
struct IsNan {
  FASTCNN_OP vf operator()(vf x) const { return select_nan(x, set1(1), zero()); }
};
struct IsInf {
  FASTCNN_OP vf operator()(vf x) const {
    return select_gt(vabs(x), set1(3.4028234663852886e38f), set1(1), zero());
  }
};
struct IsFinite {
  FASTCNN_OP vf operator()(vf x) const {
    return select_le(vabs(x), set1(3.4028234663852886e38f), set1(1), zero());
  }
};
template <bool Cos>
struct Trig {  // huge and non-finite arguments are rare: the whole vector goes to the math library
  FASTCNN_OP vf operator()(vf x) const {
    vf big = select_le(vabs(x), set1(kTrigRange), zero(), set1(1));
    if (hmax(big) == 0) return Cos ? vcos(x) : vsin(x);
    float t[kLanes];
    store(t, x);
    for (int i = 0; i < kLanes; ++i) t[i] = Cos ? cosf(t[i]) : sinf(t[i]);
    return load(t);
  }
};
struct Pow {
  float e;
  FASTCNN_OP vf operator()(vf x) const {
    float t[kLanes];
    store(t, x);
    for (int i = 0; i < kLanes; ++i) t[i] = powf(t[i], e);
    return load(t);
  }
};
struct Rpow {
  float base;
  FASTCNN_OP vf operator()(vf x) const {
    float t[kLanes];
    store(t, x);
    for (int i = 0; i < kLanes; ++i) t[i] = powf(base, t[i]);
    return load(t);
  }
};

template <class Op>
FASTCNN_OP void map_row(Op op, const float* x, float* y, int64_t n) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(y + i, op(load(x + i)));
  if (i < n) storen(y + i, op(loadn(x + i, static_cast<int>(n - i))), static_cast<int>(n - i));
}

struct Args {
  const EltLoop& l;
  const void* x;
  DType x_type;
  void* y;
  DType y_type;
  int64_t begin, end;
};

template <class Op>
void run(const Args& a, Op op) {
  int last = a.l.ndim - 1;
  int64_t sx = a.l.strides[1][last], rx = last ? a.l.strides[1][last - 1] : 0,
          ry = last ? a.l.strides[0][last - 1] : 0;
  bool direct_y = a.y_type == DType::float32, direct = direct_y && a.x_type == DType::float32 && sx == 1;
  walk_blocks<2>(a.l, a.begin, a.end, [&](const int64_t* off, int64_t rows, int64_t n) {
    if (direct) {
      const float* x = static_cast<const float*>(a.x) + off[1];
      float* y = static_cast<float*>(a.y) + off[0];
      for (int64_t r = 0; r < rows; ++r) map_row(op, x + r * rx, y + r * ry, n);
      return;
    }
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t i = 0; i < n; i += kStage) {
        float xb[kStage], yb[kStage];
        int64_t m = n - i < kStage ? n - i : kStage, oy = off[0] + r * ry + i;
        const float* x = stage_floats(a.x, a.x_type, off[1] + r * rx + i * sx, sx, m, xb);
        map_row(op, x, direct_y ? static_cast<float*>(a.y) + oy : yb, m);
        if (!direct_y) convert_row(yb, DType::float32, at(a.y, a.y_type, oy), a.y_type, m);
      }
  });
}

}  // namespace

void unary_map(const EltLoop& loop, const UnaryParams& p, const void* x, DType x_type, void* y, DType y_type,
               int64_t begin, int64_t end) {
  Args a{loop, x, x_type, y, y_type, begin, end};
  float alpha = static_cast<float>(p.alpha), beta = static_cast<float>(p.beta);
  switch (p.op) {
    case Unary::affine:
      if (beta == 0 && !signbit(beta)) return run(a, Scale{set1(alpha)});
      return run(a, Affine{set1(alpha), set1(beta)});
    case Unary::rdiv: return run(a, Rdiv{set1(alpha)});
    case Unary::reciprocal: return run(a, Rdiv{set1(1)});
    case Unary::clamp: return run(a, Clamp{set1(alpha), set1(beta)});
    case Unary::clamp_mask: return run(a, ClampMask{set1(alpha), set1(beta)});
    case Unary::abs: return run(a, Abs{});
    case Unary::sqrt: return run(a, Sqrt{});
    case Unary::rsqrt: return run(a, Rsqrt{});
    case Unary::square: return run(a, Square{});
    case Unary::sign: return run(a, Sign{});
    case Unary::round: return run(a, Round{});
    case Unary::logical_not: return run(a, LogicalNot{});
    case Unary::isnan: return run(a, IsNan{});
    case Unary::isinf: return run(a, IsInf{});
    case Unary::isfinite: return run(a, IsFinite{});
    case Unary::pow:
      if (alpha == 2) return run(a, Square{});
      if (alpha == 0.5f) return run(a, Sqrt{});
      if (alpha == -0.5f) return run(a, Rsqrt{});
      if (alpha == -1) return run(a, Rdiv{set1(1)});
      return run(a, Pow{alpha});
    case Unary::rpow: return run(a, Rpow{alpha});
    case Unary::exp: return run(a, Exp{});
    case Unary::expm1: return run(a, Expm1{});
    case Unary::log: return run(a, Log{});
    case Unary::log1p: return run(a, Log1p{});
    case Unary::log2: return run(a, Lanes<log2f>{});
    case Unary::floor: return run(a, Lanes<floorf>{});
    case Unary::ceil: return run(a, Lanes<ceilf>{});
    case Unary::sin: return run(a, Trig<false>{});
    case Unary::cos: return run(a, Trig<true>{});
    case Unary::erf: return run(a, Erf{});
    case Unary::atan: return run(a, Lanes<atanf>{});
    case Unary::copy:
    case Unary::count: break;  // refused by the caller
  }
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
