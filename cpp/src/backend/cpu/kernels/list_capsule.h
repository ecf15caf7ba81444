// What it is: the rows of the kernel list for capsules; see kernels.h. X(name, return type, arguments…)
#pragma once
#include "backend/cpu/kernels/capsule_args.h"

#define FASTCNN_KERNELS_CAPSULE(X)                                                           \
  X(capsule_pack, void, const CapsuleArgs*, int64_t begin, int64_t end)                      \
  X(capsule_route, void, const CapsuleArgs*, float* scratch, int64_t begin, int64_t end)     \
  X(capsule_route_bwd, void, const CapsuleArgs*, float* scratch, int64_t begin, int64_t end) \
  X(capsule_operand_grads, void, const CapsuleArgs*, float* scratch, int64_t begin, int64_t end)
