// What it is: backend/cuda/runtime.h on the executor: device memory that the host cannot touch, copies, recordings
// as lists of closures. What it is not: part of the library; FASTCNN_CUDA=HOST builds it for tests alone.
#include "backend/cuda/runtime.h"

#include <cstring>
#include <utility>
#include <vector>

#include "backend/cuda/faults.h"
#include "cuda_host/executor.h"
#include "fastcnn/error.h"

namespace fastcnn::cuda::rt {
namespace {

int64_t in_use = 0;

class HostRecording final : public Recording {
 public:
  std::vector<std::function<void()>> work;
  void replay() override {
    for (auto& w : work) w();
  }
  int kernels = 0;
  int launches() const override { return kernels; }
  int nodes() const override { return static_cast<int>(work.size()); }
};

}  // namespace

std::string build() { return "host executor for tests"; }
int device_count(std::string*) { return 1; }
const DeviceInfo& device() {
  static DeviceInfo info{"host executor", 9, 0, 4, int64_t(64) << 30, 0};
  info.shared = host::shared_limit();
  return info;
}

void* allocate(size_t bytes) {
  if (host::recorder) throw std::logic_error("allocate: inside a recording");
  void* p = host::device_allocate(bytes);
  if (!p) throw MemoryError(concat("cuda: out of memory asking for ", bytes, " bytes; ", in_use, " bytes in use"));
  in_use += static_cast<int64_t>(bytes);
  return p;
}
void deallocate(void* p, size_t bytes) noexcept {
  host::device_free(p, bytes);
  in_use -= static_cast<int64_t>(bytes);
}
int64_t bytes_in_use() { return in_use; }

void copy_in(void* device, const void* from, size_t bytes) {
  if (host::recorder) throw std::logic_error("copy_in: inside a recording");
  host::DeviceAccess open;
  std::memcpy(device, from, bytes);
}
void* upload(const void* from, size_t bytes) {
  void* p = allocate(bytes);
  copy_in(p, from, bytes);
  return p;
}
uintptr_t stream() { return 2; }  // work runs when it is queued: any order is kept
void order_streams(uintptr_t, bool) {}
void copy_out(void* to, const void* device, size_t bytes) {
  if (host::recorder) throw std::logic_error("copy_out: inside a recording");
  host::DeviceAccess open;
  std::memcpy(to, device, bytes);
}
void copy_within(void* to, const void* from, size_t bytes) {
  host::run_or_record([=] {
    host::DeviceAccess open;
    std::memcpy(to, from, bytes);
  });
}
void zero(void* device, size_t bytes) {
  host::run_or_record([=] {
    host::DeviceAccess open;
    std::memset(device, 0, bytes);
  });
}
void synchronize() {
  if (host::recorder) throw std::logic_error("synchronize: inside a recording");
}

ErrorRecord* error_record() {
  static ErrorRecord record{};
  return &record;
}

std::unique_ptr<Recording> record(const std::function<void()>& work) {
  auto r = std::make_unique<HostRecording>();
  const int64_t before = host::recorded_launches();
  host::recorder = [&](std::function<void()> w) { r->work.push_back(std::move(w)); };
  try {
    work();
  } catch (...) {
    host::recorder = nullptr;
    throw;
  }
  host::recorder = nullptr;
  r->kernels = static_cast<int>(host::recorded_launches() - before);
  return r;
}

}  // namespace fastcnn::cuda::rt
