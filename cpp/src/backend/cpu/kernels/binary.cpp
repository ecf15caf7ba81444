// What it is: binary elementwise ops and where. Arithmetic of float32 and 16-bit floats runs in float32 vectors;
// comparisons, integers and float64 in plain loops over dense rows that the compiler vectorises.
// What it is not: integer division and powers (the reference).
#include <math.h>

#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/loops.h"

namespace fastcnn::cpu::FASTCNN_ISA {
namespace {

struct Add {
  FASTCNN_OP vf operator()(vf a, vf b) const { return add(a, b); }
};
struct Sub {
  FASTCNN_OP vf operator()(vf a, vf b) const { return sub(a, b); }
};
struct Mul {
  FASTCNN_OP vf operator()(vf a, vf b) const { return mul(a, b); }
};
struct Div {
  FASTCNN_OP vf operator()(vf a, vf b) const { return div(a, b); }
};
struct Max {  // vmax gives b when a is NaN
  FASTCNN_OP vf operator()(vf a, vf b) const { return select_nan(a, a, vmax(a, b)); }
};
struct Min {
  FASTCNN_OP vf operator()(vf a, vf b) const { return select_nan(a, a, vmin(a, b)); }
};
FASTCNN_OP float mod_one(float a, float b) {
  float r = fmodf(a, b);
  return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}
FASTCNN_OP float floor_div_one(float a, float b) {
  if (b == 0) return a / b;
  float r = fmodf(a, b), q = (a - r) / b;
  if (r != 0 && (r < 0) != (b < 0)) q -= 1;
  if (q == 0) return copysignf(0.0f, a / b);
  float f = floorf(q);
  return q - f > 0.5f ? f + 1 : f;
}
FASTCNN_OP float pow_one(float a, float b) { return powf(a, b); }
template <Binary Op>
struct Lanes {
  FASTCNN_OP vf operator()(vf a, vf b) const {
    float s[kLanes], t[kLanes];
    store(s, a);
    store(t, b);
    for (int i = 0; i < kLanes; ++i) {
      if constexpr (Op == Binary::pow)
        s[i] = pow_one(s[i], t[i]);
      else if constexpr (Op == Binary::mod)
        s[i] = mod_one(s[i], t[i]);
      else
        s[i] = floor_div_one(s[i], t[i]);
    }
    return load(s);
  }
};

// Scalar operands (stride 0) stay in a register.
template <bool ScalarA, bool ScalarB, class Op>
FASTCNN_OP void map_row(Op op, const float* a, const float* b, float* y, int64_t n) {
  vf va = ScalarA ? set1(a[0]) : zero(), vb = ScalarB ? set1(b[0]) : zero();
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(y + i, op(ScalarA ? va : load(a + i), ScalarB ? vb : load(b + i)));
  if (i < n) {
    int m = static_cast<int>(n - i);
    storen(y + i, op(ScalarA ? va : loadn(a + i, m), ScalarB ? vb : loadn(b + i, m)), m);
  }
}

struct Args {
  const EltLoop& l;
  const void *a, *b;
  DType type;
  void* y;
  DType y_type;
  int64_t begin, end;
  int64_t stride(int operand) const { return l.strides[operand][l.ndim - 1]; }
  int64_t row(int operand) const { return l.ndim > 1 ? l.strides[operand][l.ndim - 2] : 0; }
};

// Dense rows of a few channels against one row of b: b is repeated until its period is whole vectors.
template <class Op>
FASTCNN_OP void map_few_channels(Op op, const float* a, const float* b, float* y, int64_t rows, int64_t n) {
  float tile[kLanes * kLanes];
  int64_t period = n * kLanes, total = rows * n, i = 0;
  for (int64_t j = 0; j < period; ++j) tile[j] = b[j % n];
  for (; i + period <= total; i += period)
    for (int64_t j = 0; j < period; j += kLanes) store(y + i + j, op(load(a + i + j), load(tile + j)));
  for (int64_t j = 0; i < total; i += kLanes, j += kLanes) {
    int m = total - i < kLanes ? static_cast<int>(total - i) : kLanes;
    storen(y + i, op(loadn(a + i, m), load(tile + j)), m);
  }
}

template <class Op>
void run(const Args& q, Op op) {
  int64_t sa = q.stride(1), sb = q.stride(2), ra = q.row(1), rb = q.row(2), ry = q.row(0);
  bool f32 = q.type == DType::float32, direct = f32 && (sa == 0 || sa == 1) && (sb == 0 || sb == 1);
  walk_blocks<3>(q.l, q.begin, q.end, [&](const int64_t* off, int64_t rows, int64_t n) {
    if (direct) {
      const float *a = static_cast<const float*>(q.a) + off[1], *b = static_cast<const float*>(q.b) + off[2];
      float* y = static_cast<float*>(q.y) + off[0];
      if (n < kLanes && rows >= kLanes && sa == 1 && sb == 1 && rb == 0 && ra == n && ry == n)
        return map_few_channels(op, a, b, y, rows, n);
      for (int64_t r = 0; r < rows; ++r, a += ra, b += rb, y += ry) {
        if (sa && sb)
          map_row<false, false>(op, a, b, y, n);
        else if (sa)
          map_row<false, true>(op, a, b, y, n);
        else if (sb)
          map_row<true, false>(op, a, b, y, n);
        else
          map_row<true, true>(op, a, b, y, n);
      }
      return;
    }
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t i = 0; i < n; i += kStage) {
        float ab[kStage], bb[kStage], yb[kStage];
        int64_t m = n - i < kStage ? n - i : kStage, oy = off[0] + r * ry + i;
        const float* a = stage_floats(q.a, q.type, off[1] + r * ra + i * sa, sa, m, ab);
        const float* b = stage_floats(q.b, q.type, off[2] + r * rb + i * sb, sb, m, bb);
        map_row<false, false>(op, a, b, f32 ? static_cast<float*>(q.y) + oy : yb, m);
        if (!f32) convert_row(yb, DType::float32, at(q.y, q.type, oy), q.type, m);
      }
  });
}

// A row of T as dense T: itself or a copy in buf; 16-bit floats come as float32.
template <class T>
FASTCNN_OP const T* stage(const void* x, DType t, int64_t offset, int64_t stride, int64_t n, T* buf) {
  if constexpr (same_type<T, float>) return stage_floats(x, t, offset, stride, n, buf);
  const T* p = static_cast<const T*>(x) + offset;
  if (stride == 1) return p;
  gather_row(p, stride, sizeof(T), buf, n);
  return buf;
}

// y[i] = f(a[i], b[i]) on dense rows of T.
template <class T, class U, class F>
FASTCNN_OP void run_typed(const Args& q, F f) {
  int64_t sa = q.stride(1), sb = q.stride(2), ra = q.row(1), rb = q.row(2), ry = q.row(0);
  walk_blocks<3>(q.l, q.begin, q.end, [&](const int64_t* off, int64_t rows, int64_t n) {
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t i = 0; i < n; i += kStage) {
        T ab[kStage], bb[kStage];
        int64_t m = n - i < kStage ? n - i : kStage;
        const T* a = stage(q.a, q.type, off[1] + r * ra + i * sa, sa, m, ab);
        const T* b = stage(q.b, q.type, off[2] + r * rb + i * sb, sb, m, bb);
        U* y = static_cast<U*>(q.y) + off[0] + r * ry + i;
        f(a, b, y, m);
      }
  });
}

// The switch is per row of up to kStage elements: one walk serves all ops.
template <class T>
void compare(const Args& q, Binary op) {
  run_typed<T, uint8_t>(q, [op](const T* a, const T* b, uint8_t* y, int64_t n) {
#define FASTCNN_COMPARE(expr)                            \
  for (int64_t i = 0; i < n; ++i) y[i] = (expr) ? 1 : 0; \
  return
    switch (op) {
      case Binary::eq: FASTCNN_COMPARE(a[i] == b[i]);
      case Binary::ne: FASTCNN_COMPARE(a[i] != b[i]);
      case Binary::lt: FASTCNN_COMPARE(a[i] < b[i]);
      case Binary::le: FASTCNN_COMPARE(a[i] <= b[i]);
      case Binary::gt: FASTCNN_COMPARE(a[i] > b[i]);
      case Binary::ge: FASTCNN_COMPARE(a[i] >= b[i]);
      case Binary::logical_and: FASTCNN_COMPARE((a[i] != 0) & (b[i] != 0));
      case Binary::logical_or: FASTCNN_COMPARE((a[i] != 0) | (b[i] != 0));
      case Binary::logical_xor: FASTCNN_COMPARE((a[i] != 0) ^ (b[i] != 0));
      default: return;
    }
#undef FASTCNN_COMPARE
  });
}

// U: the unsigned type that wraps, or T itself for float64.
template <class T, class U>
void arithmetic(const Args& q, Binary op) {
  run_typed<T, T>(q, [op](const T* a, const T* b, T* y, int64_t n) {
#define FASTCNN_ARITHMETIC(expr)                                           \
  for (int64_t i = 0; i < n; ++i) {                                        \
    [[maybe_unused]] U u = static_cast<U>(a[i]), v = static_cast<U>(b[i]); \
    y[i] = static_cast<T>(expr);                                           \
  }                                                                        \
  return
    switch (op) {
      case Binary::add: FASTCNN_ARITHMETIC(u + v);
      case Binary::sub: FASTCNN_ARITHMETIC(u - v);
      case Binary::mul: FASTCNN_ARITHMETIC(u * v);
      case Binary::maximum: FASTCNN_ARITHMETIC(a[i] != a[i] || a[i] > b[i] ? a[i] : b[i]);
      case Binary::minimum: FASTCNN_ARITHMETIC(a[i] != a[i] || a[i] < b[i] ? a[i] : b[i]);
      case Binary::div:
        if constexpr (same_type<T, double>) FASTCNN_ARITHMETIC(a[i] / b[i]);
        return;
      default: return;
    }
#undef FASTCNN_ARITHMETIC
  });
}

}  // namespace

void binary_map(const EltLoop& loop, Binary op, const void* a, const void* b, DType type, void* y, DType y_type,
                int64_t begin, int64_t end) {
  Args q{loop, a, b, type, y, y_type, begin, end};
  if (op >= Binary::eq) {
    switch (type) {
      case DType::float64: return compare<double>(q, op);
      case DType::int64: return compare<int64_t>(q, op);
      case DType::int32: return compare<int32_t>(q, op);
      case DType::int8: return compare<int8_t>(q, op);
      case DType::uint8:
      case DType::bool_: return compare<uint8_t>(q, op);
      default: return compare<float>(q, op);
    }
  }
  switch (type) {
    case DType::float64: return arithmetic<double, double>(q, op);
    case DType::int64: return arithmetic<int64_t, uint64_t>(q, op);
    case DType::int32: return arithmetic<int32_t, uint32_t>(q, op);
    case DType::int8: return arithmetic<int8_t, uint8_t>(q, op);
    case DType::uint8:
    case DType::bool_: return arithmetic<uint8_t, uint8_t>(q, op);
    default: break;
  }
  switch (op) {
    case Binary::add: return run(q, Add{});
    case Binary::sub: return run(q, Sub{});
    case Binary::mul: return run(q, Mul{});
    case Binary::div: return run(q, Div{});
    case Binary::maximum: return run(q, Max{});
    case Binary::minimum: return run(q, Min{});
    case Binary::pow: return run(q, Lanes<Binary::pow>{});
    case Binary::mod: return run(q, Lanes<Binary::mod>{});
    case Binary::floor_div: return run(q, Lanes<Binary::floor_div>{});
    default: return;
  }
}

namespace {

template <class T>
void where_rows(const EltLoop& l, const uint8_t* cond, const T* a, const T* b, T* y, int64_t begin, int64_t end) {
  int last = l.ndim - 1;
  int64_t s[4], row[4];
  for (int k = 0; k < 4; ++k) s[k] = l.strides[k][last], row[k] = last ? l.strides[k][last - 1] : 0;
  walk_blocks<4>(l, begin, end, [&](const int64_t* off, int64_t rows, int64_t n) {
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t i = 0; i < n; i += kStage) {
        uint8_t cb[kStage];
        T ab[kStage], bb[kStage];
        int64_t m = n - i < kStage ? n - i : kStage;
        const uint8_t* c = cond + off[1] + r * row[1] + i * s[1];
        const T *u = a + off[2] + r * row[2] + i * s[2], *v = b + off[3] + r * row[3] + i * s[3];
        if (s[1] != 1) gather_row(c, s[1], 1, cb, m), c = cb;
        if (s[2] != 1) gather_row(u, s[2], sizeof(T), ab, m), u = ab;
        if (s[3] != 1) gather_row(v, s[3], sizeof(T), bb, m), v = bb;
        T* out = y + off[0] + r * row[0] + i;
        for (int64_t j = 0; j < m; ++j) out[j] = c[j] ? u[j] : v[j];
      }
  });
}

}  // namespace

void where_map(const EltLoop& loop, const uint8_t* cond, const void* a, const void* b, void* y, int64_t size,
               int64_t begin, int64_t end) {
  auto go = [&]<class T>() {
    where_rows(loop, cond, static_cast<const T*>(a), static_cast<const T*>(b), static_cast<T*>(y), begin, end);
  };
  switch (size) {
    case 1: return go.template operator()<uint8_t>();
    case 2: return go.template operator()<uint16_t>();
    case 4: return go.template operator()<uint32_t>();
    default: return go.template operator()<uint64_t>();
  }
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
