// What it is: the naive binary, where and fill: one element at a time, in double (int64 for integers and bool).
#include "backend/cpu/ref/convert.h"

namespace fastcnn::cpu::ref {
namespace {

[[noreturn]] void zero_division(const char* op) {
  throw std::domain_error(std::string("binary ") + op + ": integer division by zero");
}

int64_t int_floor_div(int64_t a, int64_t b) {
  if (b == 0) zero_division("floor_div");
  if (b == -1) return wrap_sub(0, a);  // INT64_MIN / -1 traps
  int64_t q = a / b;
  return a % b != 0 && (a < 0) != (b < 0) ? q - 1 : q;
}
int64_t int_mod(int64_t a, int64_t b) {
  if (b == 0) zero_division("mod");
  if (b == -1) return 0;
  int64_t r = a % b;
  return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}
int64_t int_pow(int64_t a, int64_t b) {
  if (b < 0) return a == 1 ? 1 : a == -1 ? (b % 2 ? -1 : 1) : 0;
  int64_t r = 1;
  for (; b; b >>= 1, a = wrap_mul(a, a))
    if (b & 1) r = wrap_mul(r, a);
  return r;
}

double float_mod(double a, double b) {
  double r = std::fmod(a, b);
  return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}
double float_floor_div(double a, double b) {
  if (b == 0) return a / b;
  double r = std::fmod(a, b), q = (a - r) / b;
  if (r != 0 && (r < 0) != (b < 0)) q -= 1;
  if (q == 0) return std::copysign(0.0, a / b);
  double f = std::floor(q);
  return q - f > 0.5 ? f + 1 : f;
}

template <class W>
W arithmetic(Binary op, W a, W b) {
  constexpr bool is_int = std::is_integral_v<W>;
  switch (op) {
    case Binary::add:
      if constexpr (is_int)
        return wrap_add(a, b);
      else
        return a + b;
    case Binary::sub:
      if constexpr (is_int)
        return wrap_sub(a, b);
      else
        return a - b;
    case Binary::mul:
      if constexpr (is_int)
        return wrap_mul(a, b);
      else
        return a * b;
    case Binary::div:
      if constexpr (is_int) {
        if (b == 0) zero_division("div");
        return b == -1 ? wrap_sub(0, a) : a / b;
      } else
        return a / b;
    case Binary::pow:
      if constexpr (is_int)
        return int_pow(a, b);
      else
        return std::pow(a, b);
    case Binary::maximum: return a != a ? a : b != b ? b : a > b ? a : b;
    case Binary::minimum: return a != a ? a : b != b ? b : a < b ? a : b;
    case Binary::mod:
      if constexpr (is_int)
        return int_mod(a, b);
      else
        return float_mod(a, b);
    case Binary::floor_div:
      if constexpr (is_int)
        return int_floor_div(a, b);
      else
        return float_floor_div(a, b);
    case Binary::eq: return a == b;
    case Binary::ne: return a != b;
    case Binary::lt: return a < b;
    case Binary::le: return a <= b;
    case Binary::gt: return a > b;
    case Binary::ge: return a >= b;
    case Binary::logical_and: return a != 0 && b != 0;
    case Binary::logical_or: return a != 0 || b != 0;
    case Binary::logical_xor: return (a != 0) != (b != 0);
    case Binary::count: break;
  }
  throw std::logic_error("binary: unknown op " + std::to_string(static_cast<int>(op)));
}

}  // namespace

void binary(const Call& c) {
  Binary op = c.as<BinaryParams>().op;
  const Operand &a = c.in[0], &b = c.in[1], &y = c.out[0];
  if (a.dtype != b.dtype)
    throw std::logic_error(std::string("binary: operands of one dtype expected, got ") + dtype_name(a.dtype) +
                           " and " + dtype_name(b.dtype));
  dispatch_all(a.dtype, [&]<class T>() {
    dispatch_all(y.dtype, [&]<class U>() {
      for_each_index(y, [&](const int64_t* idx) {
        auto u = load(a.as<T>()[offset_of(a, idx)]);
        auto v = load(b.as<T>()[offset_of(b, idx)]);
        y.as<U>()[offset_of(y, idx)] = store<U>(arithmetic(op, u, v));
      });
    });
  });
}

void where(const Call& c) {
  const Operand &cond = c.in[0], &a = c.in[1], &b = c.in[2], &y = c.out[0];
  dispatch_size(y.dtype, [&]<class T>() {
    for_each_index(y, [&](const int64_t* idx) {
      bool yes = cond.as<uint8_t>()[offset_of(cond, idx)] != 0;
      y.as<T>()[offset_of(y, idx)] = yes ? a.as<T>()[offset_of(a, idx)] : b.as<T>()[offset_of(b, idx)];
    });
  });
}

void fill(const Call& c) {
  const auto& p = c.as<FillParams>();
  const Operand& y = c.out[0];
  int64_t n = y.numel();
  dispatch_all(y.dtype, [&]<class T>() {
    for (int64_t i = 0; i < n; ++i) y.as<T>()[i] = store<T>(p.arange ? p.value + p.step * double(i) : p.value);
  });
}

}  // namespace fastcnn::cpu::ref
