// What it is: the step from int32 sums to results, in registers. Every float operation is a fused multiply-add or
// a rounding to even, so all ISAs give the same bits. What it is not: stores of bytes (simd_bytes.h).
#pragma once
#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/simd_bytes.h"

namespace fastcnn::cpu::FASTCNN_ISA {

// What store_panel takes of the n sums that belong at element `at` of y, or, if y is float32, stored there.
FASTCNN_OP vi requantized(const Requantize& r, vi sums, vf multiplier, vf offset, void* y, int64_t at, int n) {
  vf value = fused_multiply_add(to_float(sums), multiplier, offset);
  if (r.residual)
    value = fused_multiply_add(to_float(load_lanes(r.residual + at, n)), set1(r.residual_multiplier), value);
  if (!r.to_float) return round_below(value, set1(r.low), set1(r.high));
  storen(static_cast<float*>(y) + at, value, n);
  return sums;
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
