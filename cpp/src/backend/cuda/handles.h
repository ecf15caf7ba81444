// What it is: owners of CUDA objects: one template, a destroy function each.
#pragma once
#include <cuda_runtime.h>

#include <utility>

namespace fastcnn::cuda {

template <class H, cudaError_t (*destroy)(H)>
class Handle {
 public:
  Handle() = default;
  explicit Handle(H h) : h_(h) {}
  Handle(Handle&& o) noexcept : h_(std::exchange(o.h_, nullptr)) {}
  Handle& operator=(Handle&& o) noexcept {
    std::swap(h_, o.h_);
    return *this;
  }
  ~Handle() {
    if (h_) (void)destroy(h_);  // nothing to tell anybody in a destructor
  }
  H get() const { return h_; }
  H* out() { return &h_; }

 private:
  H h_ = nullptr;
};

using Stream = Handle<cudaStream_t, cudaStreamDestroy>;
using Event = Handle<cudaEvent_t, cudaEventDestroy>;
using Graph = Handle<cudaGraph_t, cudaGraphDestroy>;
using GraphExec = Handle<cudaGraphExec_t, cudaGraphExecDestroy>;

}  // namespace fastcnn::cuda
