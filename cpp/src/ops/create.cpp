// What it is: tensors from nothing: fills and ranges. Random ones are in random.cpp.
#include <cmath>

#include "fastcnn/ops.h"
#include "graph/emit.h"

namespace fastcnn {

namespace {

// Doubles next to the ends of int64 are whole numbers, so the comparison is exact.
bool fits(double value, DType dtype) {
  switch (dtype) {
    case DType::int64: return value >= -9223372036854775808.0 && value < 9223372036854775808.0;
    case DType::int32: return value > -2147483649.0 && value < 2147483648.0;
    case DType::int8: return value > -129 && value < 128;
    case DType::uint8: return value > -1 && value < 256;
    default: return true;
  }
}

}  // namespace

Tensor full(const Dims& shape, double value, DType dtype, Device device) {
  check(fits(value, dtype), "full: the value ", value, " does not fit into ", dtype);
  checked_numel("full", shape, dtype);
  Tensor t = new_tensor(shape, dtype, device);
  emit_into(OpKind::fill, FillParams{value}, {}, {t});
  return t;
}
Tensor zeros(const Dims& shape, DType dtype, Device device) { return full(shape, 0, dtype, device); }
Tensor ones(const Dims& shape, DType dtype, Device device) { return full(shape, 1, dtype, device); }

Tensor arange(double start, double end, double step, DType dtype, Device device) {
  check(step != 0 && std::isfinite(start) && std::isfinite(end) && std::isfinite(step),
        "arange: expected finite numbers and step != 0, got start=", start, " end=", end, " step=", step);
  double n = std::ceil((end - start) / step);
  Dims shape{n > 0 ? static_cast<int64_t>(n) : 0};
  checked_numel("arange", shape, dtype);
  Tensor t = new_tensor(shape, dtype, device);
  emit_into(OpKind::fill, FillParams{start, 1, step}, {}, {t});
  return t;
}

}  // namespace fastcnn
