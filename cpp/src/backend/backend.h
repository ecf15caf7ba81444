// What it is: the only door between the graph and a device: memory, the ordered implementations of each op,
// launch. What it is not: it knows no gradient rule and no tensor; operands are raw pointers with shapes and
// strides.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "fastcnn/dtype.h"
#include "fastcnn/params.h"

namespace fastcnn {

enum class OpKind : uint16_t;

// One tensor as a kernel sees it. `data` is null while an implementation is being chosen.
struct Operand {
  void* data = nullptr;
  DType dtype = DType::float32;
  int32_t ndim = 0;
  int64_t shape[kMaxDims] = {};
  int64_t strides[kMaxDims] = {};  // in elements

  int64_t numel() const {
    int64_t n = 1;
    for (int i = 0; i < ndim; ++i) n *= shape[i];
    return n;
  }
  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
};

struct Call {
  OpKind kind{};
  const void* params = nullptr;
  std::span<const Operand> in, out;
  void* workspace = nullptr;  // 64-byte aligned, as many bytes as workspace() asked for
  // What prepare() made of the weights; while planning, any non-null value: in declines(), where it could be made.
  const void* prepared = nullptr;
  template <class P>
  const P& as() const {
    return *static_cast<const P*>(params);
  }
};

// One way to run an op. Lists are ordered best first and end in the naive reference, which never declines.
struct Implementation {
  const char* name;
  const char* (*declines)(const Call&);  // why not, or nullptr when it accepts; may be nullptr itself: accepts all
  int64_t (*workspace)(const Call&);     // bytes; nullptr: none
  void (*run)(const Call&);
  // Optional: weights brought into the kernel's own order once, where a plan knows that they seldom change. run()
  // then finds them in call.prepared and must not read the operands.
  int64_t (*prepared_bytes)(const Call&) = nullptr;  // 0: not for this call
  void (*prepare)(const Call&, void* dst) = nullptr;
  uint32_t (*prepared_operands)(const Call&) = nullptr;  // a bit for each that prepare() reads; nullptr: operand 1
  // Optional: calls none of which reads or writes what another writes, as one, if `joins` says so of the first and
  // each other; nullptr: those of one dtype and equal params.
  void (*run_many)(std::span<const Call>) = nullptr;
  bool (*joins)(const Call& first,
                const Call& other) = nullptr;  // on shapes alone; plans move such calls together
};

// Where the two ends of a copy are: host to device, device to host, device to device.
enum class Copy { in, out, within };

// Launches put down once, to be started again as one: the same memory every time.
class Recording {
 public:
  virtual ~Recording() = default;
  virtual void replay() = 0;
  virtual int launches() const = 0;  // of kernels
  virtual int nodes() const = 0;     // those, copies and fills
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual const char* name() const = 0;
  virtual std::span<const Implementation> implementations(OpKind kind) const = 0;
  virtual void* allocate(size_t bytes) = 0;  // 64-byte aligned; throws std::bad_alloc-derived fastcnn::MemoryError
  virtual void deallocate(void* p, size_t bytes) noexcept = 0;
  virtual void copy(void* dst, const void* src, size_t bytes, Copy kind) = 0;  // host memory is free afterwards
  virtual void synchronize() = 0;
  // The launches of what is called, not run; nullptr where steps are as cheap one by one.
  virtual std::unique_ptr<Recording> record(const std::function<void()>&) { return nullptr; }
  // Memory with a copy of what `host` holds, which is free afterwards; deallocate() takes it back. A device copies
  // beside the work that is queued.
  virtual void* upload(const void* host, size_t bytes) {
    void* p = allocate(bytes);
    copy(p, host, bytes, Copy::in);
    return p;
  }
};

Backend& cpu_backend();
Backend* cuda_backend();  // nullptr: built without CUDA, or no device

}  // namespace fastcnn
