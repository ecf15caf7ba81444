// What it is: faults that only a kernel can see (a class id out of range, a NaN target): the kernel notes the
// first (kernels/faults.cuh) and goes on without touching memory; the host throws at the next wait. What it is
// not: errors of the CUDA runtime (check.h).
#pragma once
#include <cstdint>

namespace fastcnn::cuda {

enum class Fault : int32_t { none, class_id, index, nan_target, zero_division, boxes };

struct ErrorRecord {
  int32_t fault;  // Fault; the first writer wins
  int32_t op;     // OpKind
  int64_t value, low, high, position;
};

// Throws what kernels noted, and clears it; the stream has been waited for.
void throw_device_faults();

}  // namespace fastcnn::cuda
