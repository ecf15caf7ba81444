// What it is: tensors from nothing: fills and ranges. Random ones are in random.cpp.
#include <cmath>

#include "graph/emit.h"
#include "ops/operands.h"

namespace fastcnn {

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
  double n = std::max(std::ceil((end - start) / step), 0.0);
  check(n < 0x1p62, "arange: expected fewer than 2^62 numbers, got ", n, " from start=", start, " end=", end,
        " step=", step);
  check(n == 0 || (fits(start, dtype) && fits(start + (n - 1) * step, dtype)), "arange: the numbers from ", start,
        " to ", start + (n - 1) * step, " do not fit into ", dtype);
  Dims shape{static_cast<int64_t>(n)};
  checked_numel("arange", shape, dtype);
  Tensor t = new_tensor(shape, dtype, device);
  emit_into(OpKind::fill, FillParams{start, 1, step}, {}, {t});
  return t;
}

Tensor linspace(double start, double end, int64_t count, DType dtype, Device device) {
  check(count >= 0, "linspace: expected steps >= 0, got ", count);
  check(std::isfinite(start) && std::isfinite(end), "linspace: expected finite numbers, got start=", start,
        " end=", end);
  if (count < 2) return full({count}, start, dtype, device);
  Tensor t = new_tensor({count - 1}, dtype, device);
  emit_into(OpKind::fill, FillParams{start, 1, (end - start) / static_cast<double>(count - 1)}, {}, {t});
  return cat({t, full({1}, end, dtype, device)}, 0);  // the end itself, without the rounding of steps
}

Tensor eye(int64_t rows, int64_t columns, DType dtype, Device device) {
  check(rows >= 0 && columns >= 0, "eye: expected sizes >= 0, got ", rows, " and ", columns);
  const auto line = [&](int64_t n, Dims shape) {
    return reshape(arange(0, static_cast<double>(n), 1, DType::int64, device), shape);
  };
  return cast(eq(line(rows, {rows, 1}), line(columns, {1, columns})), dtype);
}

}  // namespace fastcnn
