// What it is: CUDA as a Backend: op kind to list, memory and copies from runtime.h, faults of kernels as
// exceptions.
#include <stdexcept>
#include <string>

#include "backend/cuda/faults.h"
#include "backend/cuda/lists.h"
#include "backend/cuda/runtime.h"
#include "fastcnn/error.h"
#include "fastcnn/runtime.h"

namespace fastcnn {
namespace cuda {
namespace {

class CudaRecording final : public fastcnn::Recording {
 public:
  std::unique_ptr<rt::Recording> inner;
  void replay() override { inner->replay(); }
  int launches() const override { return inner->launches(); }
  int nodes() const override { return inner->nodes(); }
};

class CudaBackend final : public Backend {
 public:
  const char* name() const override { return "cuda"; }
  std::span<const Implementation> implementations(OpKind kind) const override {
    switch (kind) {
#define FASTCNN_CASE(k) \
  case OpKind::k: return k##_list();
      FASTCNN_CUDA_OPS(FASTCNN_CASE)
#undef FASTCNN_CASE
      default: return {};
    }
  }
  void* allocate(size_t bytes) override { return rt::allocate(bytes); }
  void deallocate(void* p, size_t bytes) noexcept override { rt::deallocate(p, bytes); }
  void copy(void* dst, const void* src, size_t bytes, Copy kind) override {
    if (bytes == 0) return;
    switch (kind) {
      case Copy::in: return rt::copy_in(dst, src, bytes);
      case Copy::within: return rt::copy_within(dst, src, bytes);
      case Copy::out: rt::copy_out(dst, src, bytes); return throw_device_faults();
    }
  }
  void* upload(const void* host, size_t bytes) override { return rt::upload(host, bytes); }
  void synchronize() override {
    rt::synchronize();
    throw_device_faults();
  }
  std::unique_ptr<fastcnn::Recording> record(const std::function<void()>& work) override {
    auto r = std::make_unique<CudaRecording>();
    r->inner = rt::record(work);
    return r;
  }
};

}  // namespace
}  // namespace cuda

Backend* cuda_backend() {
  if (cuda::rt::device_count(nullptr) == 0) return nullptr;
  static auto* b = new cuda::CudaBackend;  // never destroyed: tensors in statics may be freed later
  return b;
}

const char* cuda_build() {
  static const std::string text = [] {
    std::string why, t = cuda::rt::build();
    if (cuda::rt::device_count(&why) == 0) t += ", " + why;
    return t;
  }();
  return text.c_str();
}
int cuda_device_count() { return cuda::rt::device_count(nullptr); }
std::string cuda_unavailable_reason() {
  std::string why;
  return cuda::rt::device_count(&why) ? "" : why;
}
int64_t cuda_memory_allocated() { return cuda::rt::bytes_in_use(); }
uintptr_t cuda_stream() { return cuda::rt::device_count(nullptr) ? cuda::rt::stream() : 0; }
void cuda_order_streams(uintptr_t stream, bool ours_waits) { cuda::rt::order_streams(stream, ours_waits); }

}  // namespace fastcnn
