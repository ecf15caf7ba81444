// What it is: all that the backend asks of a CUDA device: memory, copies, waiting, recording. runtime.cpp answers
// with the CUDA runtime; tests/cpp/cuda_host answers with host memory and an executor, so that everything above
// this line runs on a machine without a GPU. What it is not: kernels or their launches (launch.h).
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

namespace fastcnn::cuda {

struct ErrorRecord;

namespace rt {

struct DeviceInfo {
  std::string name;
  int major = 0, minor = 0, multiprocessors = 0;
  int64_t memory = 0, shared = 0;  // bytes; shared: that a block may have
};

std::string build();                      // what was compiled in: "CUDA 13.0"
int device_count(std::string* why_none);  // never throws; the reason where there is none
const DeviceInfo& device();               // the one in use

// Memory in the order of the stream: allocate never waits for what runs, free is valid while the last reader runs.
void* allocate(size_t bytes);  // MemoryError
void deallocate(void* p, size_t bytes) noexcept;
int64_t bytes_in_use();

void copy_in(void* device, const void* host, size_t bytes);   // `host` may change once this returns
void copy_out(void* host, const void* device, size_t bytes);  // waits
void copy_within(void* to, const void* from, size_t bytes);
// Memory with a copy of host memory that may change once this returns. Large ones travel on a stream of their own,
// beside the work that is queued, by way of pinned memory; what is queued from now on waits for them.
void* upload(const void* host, size_t bytes);
void zero(void* device, size_t bytes);
void synchronize();
uintptr_t stream();                                    // a cudaStream_t
void order_streams(uintptr_t other, bool ours_waits);  // see fastcnn/runtime.h

// Pinned memory that kernels write and the host reads: one per process, zero at first.
ErrorRecord* error_record();

class Recording {
 public:
  virtual ~Recording() = default;
  virtual void replay() = 0;
  virtual int launches() const = 0;  // of kernels
  virtual int nodes() const = 0;     // those, copies and fills
};
std::unique_ptr<Recording> record(const std::function<void()>& work);

}  // namespace rt
}  // namespace fastcnn::cuda
