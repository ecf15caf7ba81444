// See runtime.h: the CUDA runtime behind it. One device, the first that is visible; one stream.
#include "backend/cuda/runtime.h"

#include <atomic>
#include <cstring>
#include <mutex>
#include <stdexcept>
#include <utility>
#include <vector>

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

// Pinned memory for copies that run beside the work: filled by the host, read by the copy stream, taken again once
// that is done. Grows to the largest copy.
struct Staging {
  void* memory = nullptr;
  size_t bytes = 0;
  Event read;
  Staging() { FASTCNN_CUDA_CHECK(cudaEventCreateWithFlags(read.out(), cudaEventDisableTiming)); }
  void* take(size_t wanted) {
    FASTCNN_CUDA_CHECK(cudaEventSynchronize(read.get()));
    if (bytes < wanted) {
      if (memory) FASTCNN_CUDA_CHECK(cudaFreeHost(std::exchange(memory, nullptr)));
      bytes = 0;
      FASTCNN_CUDA_CHECK(cudaHostAlloc(&memory, wanted, cudaHostAllocDefault));
      bytes = wanted;
    }
    return memory;
  }
};

struct State {
  rt::DeviceInfo info;
  Stream stream, copies;
  Event order;
  Staging staging[4];  // images and targets of two batches
  int next_staging = 0;
  std::mutex upload_mutex;
  ErrorRecord* record = nullptr;
  State() {
    FASTCNN_CUDA_CHECK(cudaSetDevice(0));
    cudaDeviceProp p;
    FASTCNN_CUDA_CHECK(cudaGetDeviceProperties(&p, 0));
    info = {p.name,
            p.major,
            p.minor,
            p.multiProcessorCount,
            static_cast<int64_t>(p.totalGlobalMem),
            static_cast<int64_t>(p.sharedMemPerBlockOptin)};
    FASTCNN_CUDA_CHECK(cudaStreamCreateWithFlags(stream.out(), cudaStreamNonBlocking));
    FASTCNN_CUDA_CHECK(cudaStreamCreateWithFlags(copies.out(), cudaStreamNonBlocking));
    FASTCNN_CUDA_CHECK(cudaEventCreateWithFlags(order.out(), cudaEventDisableTiming));
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
  int count = 0, kernels = 0;
  void replay() override {
    last = "a recorded step";
    FASTCNN_CUDA_CHECK(cudaGraphLaunch(exec.get(), state().stream.get()));
  }
  int launches() const override { return kernels; }
  int nodes() const override { return count; }
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
void allow_shared(const char* name, const void* kernel, size_t bytes) {
  last = name;
  FASTCNN_CUDA_CHECK(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)));
}
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

namespace {
void* allocate_on(size_t bytes, cudaStream_t stream) {
  void* p = nullptr;
  const cudaError_t e = cudaMallocAsync(&p, bytes ? bytes : 1, stream);
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
}  // namespace

void* allocate(size_t bytes) { return allocate_on(bytes, current_stream()); }
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
void* upload(const void* host, size_t bytes) {
  constexpr size_t kSmall = 64 << 10;  // below it a second stream costs more than the copy
  if (bytes < kSmall) {
    void* p = allocate(bytes);
    copy_in(p, host, bytes);
    return p;
  }
  State& s = state();
  std::lock_guard<std::mutex> lock(s.upload_mutex);
  Staging& from = s.staging[s.next_staging++ % 4];
  std::memcpy(from.take(bytes), host, bytes);
  void* p = allocate_on(bytes, s.copies.get());
  FASTCNN_CUDA_CHECK(cudaMemcpyAsync(p, from.memory, bytes, cudaMemcpyHostToDevice, s.copies.get()));
  FASTCNN_CUDA_CHECK(cudaEventRecord(from.read.get(), s.copies.get()));
  FASTCNN_CUDA_CHECK(cudaStreamWaitEvent(s.stream.get(), from.read.get(), 0));
  return p;
}
uintptr_t stream() { return reinterpret_cast<uintptr_t>(current_stream()); }
void order_streams(uintptr_t other, bool ours_waits) {
  State& s = state();
  std::lock_guard<std::mutex> lock(s.upload_mutex);
  auto theirs = reinterpret_cast<cudaStream_t>(other);
  FASTCNN_CUDA_CHECK(cudaEventRecord(s.order.get(), ours_waits ? theirs : s.stream.get()));
  FASTCNN_CUDA_CHECK(cudaStreamWaitEvent(ours_waits ? s.stream.get() : theirs, s.order.get(), 0));
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
  size_t count = 0;
  FASTCNN_CUDA_CHECK(cudaGraphGetNodes(graph.get(), nullptr, &count));
  std::vector<cudaGraphNode_t> nodes(count);
  FASTCNN_CUDA_CHECK(cudaGraphGetNodes(graph.get(), nodes.data(), &count));
  r->count = static_cast<int>(count);
  for (cudaGraphNode_t node : nodes) {
    cudaGraphNodeType type;
    FASTCNN_CUDA_CHECK(cudaGraphNodeGetType(node, &type));
    r->kernels += type == cudaGraphNodeTypeKernel;
  }
  FASTCNN_CUDA_CHECK(cudaGraphInstantiate(r->exec.out(), graph.get(), 0));
  return r;
}

}  // namespace rt
}  // namespace fastcnn::cuda
