// See runtime.h: the CUDA runtime behind it. One device, the first that is visible; one stream.
#include "backend/cuda/runtime.h"

#include <atomic>
#include <mutex>
#include <stdexcept>

#include "backend/cuda/check.h"
#include "backend/cuda/faults.h"
#include "backend/cuda/handles.h"
#include "backend/cuda/launch.h"
#include "fastcnn/error.h"

namespace fastcnn::cuda {
namespace {

constexpr int kOldest = 80;  // compute capability 8.0: the oldest that code is made for

std::atomic<const char*> last{"no kernel yet"};
std::atomic<int64_t> in_use{0};

std::mutex broken_mutex;
std::string broken;  // what the context died of

struct State {
  rt::DeviceInfo info;
  Stream stream;
  ErrorRecord* record = nullptr;
  State() {
    FASTCNN_CUDA_CHECK(cudaSetDevice(0));
    cudaDeviceProp p;
    FASTCNN_CUDA_CHECK(cudaGetDeviceProperties(&p, 0));
    info = {p.name, p.major, p.minor, p.multiProcessorCount, static_cast<int64_t>(p.totalGlobalMem)};
    FASTCNN_CUDA_CHECK(cudaStreamCreateWithFlags(stream.out(), cudaStreamNonBlocking));
    cudaMemPool_t pool;
    FASTCNN_CUDA_CHECK(cudaDeviceGetDefaultMemPool(&pool, 0));
    uint64_t keep = UINT64_MAX;  // freed blocks stay with the pool across waits
    FASTCNN_CUDA_CHECK(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep));
    void* pinned;
    FASTCNN_CUDA_CHECK(cudaHostAlloc(&pinned, sizeof(ErrorRecord), cudaHostAllocMapped));
    record = new (pinned) ErrorRecord{};
  }
};
State& state() {
  static auto* s = new State;  // never destroyed: the driver may be gone before statics are
  return *s;
}

class CudaRecording final : public rt::Recording {
 public:
  GraphExec exec;
  int count = 0;
  void replay() override {
    last = "a recorded step";
    FASTCNN_CUDA_CHECK(cudaGraphLaunch(exec.get(), state().stream.get()));
  }
  int launches() const override { return count; }
};

}  // namespace

void throw_cuda_error(cudaError_t code, const char* call) {
  (void)cudaGetLastError();  // clears what is not sticky
  if (code == cudaErrorMemoryAllocation) {
    size_t free = 0, total = 0;
    (void)cudaMemGetInfo(&free, &total);
    throw MemoryError(concat("cuda: out of memory in ", call, "; ", in_use.load(),
                             " bytes are in use by tensors, ", free, " of ", total,
                             " bytes are free on the device"));
  }
  std::lock_guard<std::mutex> lock(broken_mutex);
  std::string message = concat("cuda: ", cudaGetErrorString(code), " (", cudaGetErrorName(code), ") in ", call,
                               "; the last kernel queued was ", last.load());
  const bool sticky = code == cudaErrorIllegalAddress || code == cudaErrorLaunchFailure ||
                      code == cudaErrorMisalignedAddress || code == cudaErrorHardwareStackError ||
                      code == cudaErrorIllegalInstruction || code == cudaErrorLaunchTimeout;
  if (sticky && broken.empty()) broken = message;
  throw std::runtime_error(
      broken.empty() || broken == message
          ? message
          : concat("cuda: the device cannot be used any more in this process; it failed first "
                   "with: ",
                   broken));
}
const char* last_kernel() { return last.load(); }

cudaStream_t current_stream() { return state().stream.get(); }
void check_launch(const char* kernel) {
  last = kernel;
  FASTCNN_CUDA_CHECK(cudaGetLastError());
}

namespace rt {

std::string build() { return concat("CUDA ", CUDART_VERSION / 1000, ".", CUDART_VERSION % 1000 / 10); }

int device_count(std::string* why) {
  struct Found {
    int count = 0;
    std::string why;
  };
  static const Found found = [] {
    Found f;
    int n = 0, driver = 0;
    if (cudaError_t e = cudaGetDeviceCount(&n); e != cudaSuccess) {
      (void)cudaGetLastError();
      f.why = cudaGetErrorString(e);
      if (e == cudaErrorInsufficientDriver && cudaDriverGetVersion(&driver) == cudaSuccess)
        f.why += driver == 0 ? " (no driver is installed)"
                             : concat(" (the driver supports CUDA ", driver / 1000, ".", driver % 1000 / 10,
                                      ", this build needs ", CUDART_VERSION / 1000, ".x)");
      return f;
    }
    if (n == 0) {
      f.why = "no CUDA device is visible";
      return f;
    }
    int major = 0, minor = 0;
    if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0) != cudaSuccess ||
        cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0) != cudaSuccess) {
      (void)cudaGetLastError();
      f.why = "the first device does not answer";
      return f;
    }
    if (major * 10 + minor < kOldest) {
      f.why = concat("the first device has compute capability ", major, ".", minor, ", this build needs 8.0");
      return f;
    }
    f.count = 1;
    return f;
  }();
  if (why) *why = found.why;
  return found.count;
}

const DeviceInfo& device() { return state().info; }

void* allocate(size_t bytes) {
  void* p = nullptr;
  const cudaError_t e = cudaMallocAsync(&p, bytes ? bytes : 1, current_stream());
  if (e == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();
    size_t free = 0, total = 0;
    (void)cudaMemGetInfo(&free, &total);
    throw MemoryError(concat("cuda: out of memory asking for ", bytes, " bytes; ", in_use.load(),
                             " bytes are in use by tensors, ", free, " of ", total,
                             " bytes are free on the device"));
  }
  check_cuda(e, "cudaMallocAsync");
  in_use += static_cast<int64_t>(bytes);
  return p;
}
void deallocate(void* p, size_t bytes) noexcept {
  (void)cudaFreeAsync(p, current_stream());  // a broken context is reported by the next call that may throw
  in_use -= static_cast<int64_t>(bytes);
}
int64_t bytes_in_use() { return in_use; }

void copy_in(void* device, const void* host, size_t bytes) {  // pageable memory is staged before the call returns
  FASTCNN_CUDA_CHECK(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, current_stream()));
}
void copy_out(void* host, const void* device, size_t bytes) {
  FASTCNN_CUDA_CHECK(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, current_stream()));
  synchronize();
}
void copy_within(void* to, const void* from, size_t bytes) {
  FASTCNN_CUDA_CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, current_stream()));
}
void zero(void* device, size_t bytes) { FASTCNN_CUDA_CHECK(cudaMemsetAsync(device, 0, bytes, current_stream())); }
void synchronize() { FASTCNN_CUDA_CHECK(cudaStreamSynchronize(current_stream())); }

ErrorRecord* error_record() { return state().record; }

std::unique_ptr<Recording> record(const std::function<void()>& work) {
  auto r = std::make_unique<CudaRecording>();
  Graph graph;
  FASTCNN_CUDA_CHECK(cudaStreamBeginCapture(current_stream(), cudaStreamCaptureModeThreadLocal));
  try {
    work();
  } catch (...) {
    (void)cudaStreamEndCapture(current_stream(), graph.out());  // the first error is the one to tell
    (void)cudaGetLastError();
    throw;
  }
  FASTCNN_CUDA_CHECK(cudaStreamEndCapture(current_stream(), graph.out()));
  size_t nodes = 0;
  FASTCNN_CUDA_CHECK(cudaGraphGetNodes(graph.get(), nullptr, &nodes));
  r->count = static_cast<int>(nodes);
  FASTCNN_CUDA_CHECK(cudaGraphInstantiate(r->exec.out(), graph.get(), 0));
  return r;
}

}  // namespace rt
}  // namespace fastcnn::cuda
