// What it is: element access for references whose operands may differ in dtype (statistics, losses, weights).
// What it is not: fast; one switch per element.
#pragma once
#include "backend/cpu/ref/ref.h"

namespace fastcnn::cpu::ref {

// Reads element i of a dense floating operand as double.
struct Reader {
  const void* p = nullptr;
  DType t = DType::float32;
  Reader() = default;
  Reader(const Operand& o) : p(o.data), t(o.dtype) {}
  double operator[](int64_t i) const {
    switch (t) {
      case DType::float64: return static_cast<const double*>(p)[i];
      case DType::bfloat16: return to_double(static_cast<const bfloat16*>(p)[i]);
      case DType::float16: return to_double(static_cast<const float16*>(p)[i]);
      default: return static_cast<const float*>(p)[i];
    }
  }
};

struct Writer {
  void* p = nullptr;
  DType t = DType::float32;
  Writer() = default;
  Writer(const Operand& o) : p(o.data), t(o.dtype) {}
  void set(int64_t i, double v) const {
    switch (t) {
      case DType::float64: static_cast<double*>(p)[i] = v; break;
      case DType::bfloat16: static_cast<bfloat16*>(p)[i] = from_double<bfloat16>(v); break;
      case DType::float16: static_cast<float16*>(p)[i] = from_double<float16>(v); break;
      default: static_cast<float*>(p)[i] = static_cast<float>(v);
    }
  }
};

// References of the floating ops accept floating operands only; anything else is a fault of the op layer.
inline void expect_floating(const Operand& o, const char* op) {
  if (!is_floating(o.dtype))
    throw std::logic_error(std::string(op) + ": reference reached with dtype " + dtype_name(o.dtype));
}

}  // namespace fastcnn::cpu::ref
