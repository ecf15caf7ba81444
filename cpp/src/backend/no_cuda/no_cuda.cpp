// What it is: the absence of CUDA as a folder: "built without CUDA".
#include "backend/backend.h"
#include "fastcnn/runtime.h"

namespace fastcnn {

Backend* cuda_backend() { return nullptr; }
const char* cuda_build() { return "none (built without CUDA)"; }
int cuda_device_count() { return 0; }
std::string cuda_unavailable_reason() { return "built without CUDA"; }
int64_t cuda_memory_allocated() { return 0; }
uintptr_t cuda_stream() { return 0; }
void cuda_order_streams(uintptr_t, bool) {}

}  // namespace fastcnn
