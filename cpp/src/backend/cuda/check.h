// What it is: every CUDA call checked: out of memory is a MemoryError, anything else a RuntimeError with the call
// and what the device had been asked to do last. What it is not: faults that kernels note themselves (faults.h).
#pragma once
#include <cuda_runtime.h>

namespace fastcnn::cuda {

// Errors that break the context come back from every later call: the first is kept, with the op it came with.
void throw_cuda_error(cudaError_t code, const char* call);
const char* last_kernel();

inline void check_cuda(cudaError_t code, const char* call) {
  if (code != cudaSuccess) [[unlikely]]
    throw_cuda_error(code, call);
}
#define FASTCNN_CUDA_CHECK(call) ::fastcnn::cuda::check_cuda((call), #call)

}  // namespace fastcnn::cuda
