// What it is: the processes of one job, and how tensors are added up over them. What it is not: a transport: MPI,
// NCCL or sockets are the caller's, given once as a function. The op is all_reduce (ops.h).
#pragma once
#include <cstdint>
#include <functional>

#include "fastcnn/tensor.h"

namespace fastcnn::distributed {

struct Communicator {
  int64_t rank = 0, world_size = 1;
  // In place: `data` (count numbers) becomes the sum over all processes, of the same bits in each. Called in the
  // thread that runs the op, in the same order in every process; may throw, and the op throws that on.
  std::function<void(void* data, int64_t count, DType dtype)> all_reduce;
};

// ValueError: a rank outside [0, world_size), or no function where there are others. Communicator{}: alone again.
// Compiled functions keep the communicator's size as they found it when they were traced: set it before.
FASTCNN_API void set_communicator(Communicator c);
FASTCNN_API int64_t rank();
FASTCNN_API int64_t world_size();

}  // namespace fastcnn::distributed
