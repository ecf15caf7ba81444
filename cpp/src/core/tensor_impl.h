// What it is: the inside of Tensor: storage, view, autograd links. What it is not: public.
#pragma once
#include <atomic>
#include <memory>

#include "fastcnn/tensor.h"

namespace fastcnn {

struct TapeNode;

// Memory. Symbolic storages belong to a trace (its id, never reused), have no data and a buffer number there.
struct StorageImpl {
  void* data = nullptr;
  size_t bytes = 0;
  Device device;
  std::shared_ptr<void> owner;  // set: the memory is somebody else's
  uint64_t version = 0;         // counts in-place changes, so that backward can tell
  std::atomic<int> exports{0};  // views outside (NumPy, DLPack) that may write at any time
  std::atomic<uint64_t> exports_ended{0};
  bool readonly = false;
  uint64_t trace = 0;
  int buffer = -1;
  const uint64_t born;  // storages count up: tells what is older than what

  StorageImpl();
  StorageImpl(const StorageImpl&) = delete;
  StorageImpl& operator=(const StorageImpl&) = delete;
  ~StorageImpl();
};
using Storage = std::shared_ptr<StorageImpl>;

Storage allocate_storage(size_t bytes, Device device);
Storage upload_storage(const void* host, size_t bytes, Device device);  // with a copy of host memory
uint64_t storages_born();                                               // the number that the next storage gets

struct TensorImpl {
  Storage storage;
  Dims shape, strides;
  int64_t offset = 0;
  DType dtype = DType::float32;
  bool requires_grad = false;  // leaves only; a tensor with a producer requires grad by having one
  Tensor grad;
  std::shared_ptr<TapeNode> producer;
  int producer_output = 0;

  ~TensorImpl();
};

// Another view of the same storage, without history.
Tensor make_view(const Tensor& base, const Dims& shape, const Dims& strides, int64_t offset);
Tensor make_tensor(Storage storage, const Dims& shape, const Dims& strides, int64_t offset, DType dtype);

}  // namespace fastcnn
