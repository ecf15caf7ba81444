// What it is: the arithmetic and the memory traffic that an op needs at least, from its params and operands: the
// one model behind describe() and profile(). What it is not: a measurement; caches, packing and workspaces do not
// count.
#pragma once
#include "backend/backend.h"

namespace fastcnn {

struct Cost {
  int64_t flops =
      0;  // of the direct algorithm: a fast one (Winograd) may show more per second than the machine has
  int64_t bytes = 0;  // each operand read or written once; broadcast operands at the size they have in memory
};
Cost cost_of(const Call& call);

}  // namespace fastcnn
