// What it is: how a kernel notes a fault (backend/cuda/faults.h).
#pragma once
#include "backend/cuda/device.cuh"
#include "backend/cuda/faults.h"
#include "graph/op_kinds.h"

namespace fastcnn::cuda {

FASTCNN_DEVICE void note_fault(ErrorRecord* r, Fault f, int32_t op, int64_t value, int64_t low, int64_t high,
                               int64_t position) {
  if (atomicCAS(&r->fault, 0, static_cast<int32_t>(f)) != 0) return;
  r->op = op, r->value = value, r->low = low, r->high = high, r->position = position;
}

}  // namespace fastcnn::cuda
