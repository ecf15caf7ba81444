// What it is: the copy of a loss target that refuses NaN.
#include <cmath>

#include "backend/cpu/checks.h"
#include "backend/cpu/ref/access.h"

namespace fastcnn::cpu::ref {

void check_target(const Call& c) {
  expect_floating(c.in[0], "check_target");
  Reader x(c.in[0]);
  Writer y(c.out[0]);
  for (int64_t i = 0; i < c.in[0].numel(); ++i) {
    if (std::isnan(x[i])) throw_nan_target(c.as<CheckTargetParams>().op, c.in[0], i);
    y.set(i, x[i]);
  }
}

}  // namespace fastcnn::cpu::ref
