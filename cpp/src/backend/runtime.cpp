// See fastcnn/runtime.h.
#include "fastcnn/runtime.h"

#include <atomic>
#include <cstdlib>

#include "backend/cpu/isa.h"
#include "backend/cpu/peak.h"
#include "backend/cpu/threads.h"
#include "core/allocator.h"
#include "core/tensor_impl.h"
#include "graph/select.h"

namespace fastcnn {

const char* version() { return FASTCNN_VERSION; }
int get_num_threads() { return cpu::num_threads(); }
void set_num_threads(int n) { cpu::set_num_threads(n); }
NumThreadsScope::NumThreadsScope(int n) : saved_(cpu::set_own_threads(n)) {}
NumThreadsScope::~NumThreadsScope() { cpu::restore_own_threads(saved_); }
std::string isa() { return cpu::isa_name(); }
std::vector<std::string> available_isas() { return cpu::available_isas(); }
void set_isa(const std::string& name) { cpu::set_isa(name); }
void record_kernel_choices(bool on) { record_choices(on); }
std::vector<std::string> take_kernel_choices() { return take_choices(); }

namespace {
enum : int { kUnset, kAuto, kDirect };
std::atomic<int> conv_algorithm{kUnset};

int parse_conv_algorithm(const std::string& name, const char* who) {
  check(name == "auto" || name == "direct", who, ": expected 'auto' or 'direct', got '", name, "'");
  return name == "direct" ? kDirect : kAuto;
}
}  // namespace

void set_conv_algorithm(const std::string& name) {
  conv_algorithm = parse_conv_algorithm(name, "set_conv_algorithm");
}
std::string get_conv_algorithm() {
  if (conv_algorithm.load(std::memory_order_relaxed) == kUnset) {
    const char* env = std::getenv("FASTCNN_CONV_ALGORITHM");
    const int chosen = parse_conv_algorithm(env && *env ? env : "auto", "FASTCNN_CONV_ALGORITHM");
    int expected = kUnset;
    conv_algorithm.compare_exchange_strong(expected, chosen);
  }
  return conv_algorithm.load(std::memory_order_relaxed) == kDirect ? "direct" : "auto";
}

namespace {
constexpr const char* kPrecisions[] = {"highest", "high", "medium"};
std::atomic<int> matmul_precision{0};
}  // namespace

void set_float32_matmul_precision(const std::string& name) {
  for (int i = 0; i < 3; ++i)
    if (name == kPrecisions[i]) {
      matmul_precision = i;
      return;
    }
  throw ValueError(
      concat("set_float32_matmul_precision: expected 'highest', 'high' or 'medium', got '", name, "'"));
}
std::string get_float32_matmul_precision() { return kPrecisions[matmul_precision]; }

MachinePeak measure_peak(double seconds) { return cpu::measure_peak(seconds); }

MemoryInfo memory_info() {
  MemoryStats s = caching_allocator().stats();
  return {s.in_use, s.cached, s.peak, s.budget};
}
void reset_peak_memory() { caching_allocator().reset_peak(); }
void release_cached_memory() { caching_allocator().release_cached(); }
void set_memory_budget(int64_t bytes) { caching_allocator().set_budget(bytes); }

namespace {
StorageImpl& storage_of(const char* op, const Tensor& t) {
  check(t.defined(), op, ": expected a tensor, got an empty handle");
  return *t.impl()->storage;
}
}  // namespace
bool is_readonly(const Tensor& t) { return storage_of("is_readonly", t).readonly; }
void set_readonly(const Tensor& t) { storage_of("set_readonly", t).readonly = true; }
MemoryExport::MemoryExport(const Tensor& t) : tensor(t) { ++storage_of("MemoryExport", t).exports; }
MemoryExport::~MemoryExport() {
  ++tensor.impl()->storage->exports_ended;
  --tensor.impl()->storage->exports;
}
const void* identity(const Tensor& t) { return t.impl().get(); }
void write_memory(const Tensor& t, const void* host, size_t bytes) {
  check(!is_readonly(t), "write_memory: the tensor of shape ", t.shape(), " is a view of read-only memory");
  int64_t span = 1;  // from the first element to behind the last
  for (int i = 0; i < t.ndim(); ++i) span += (t.shape()[i] - 1) * t.strides()[i];
  check(t.numel() == 0 || span == t.numel(), "write_memory: expected a dense tensor, got shape ", t.shape(),
        " with strides ", t.strides());
  const size_t own = static_cast<size_t>(t.numel()) * dtype_size(t.dtype());
  check(bytes == own && (host || !bytes), "write_memory: expected the ", own, " bytes of a tensor of shape ",
        t.shape(), ", got ", bytes, host ? "" : " at a null pointer");
  backend_of(t.device()).copy(t.data(), host, bytes, Copy::in);
  bump_version(t);
}
void bump_version(const Tensor& t) { ++storage_of("bump_version", t).version; }

void cuda_synchronize() {
  Backend* b = cuda_backend();
  check(b != nullptr, "cuda.synchronize: no CUDA device is available here (", cuda_unavailable_reason(), ")");
  b->synchronize();
}

std::string show_config() {
  std::string isas;
  for (const std::string& i : available_isas()) isas += (isas.empty() ? "" : ", ") + i;
  return concat("fastcnn ", version(), "\n  compiler: ",
#if defined(__clang__)
                "clang " __clang_version__,
#else
                "g++ " __VERSION__,
#endif
                "\n  cpu kernels: ", isa(), " (available: ", isas, ")\n  threads: ", get_num_threads(),
                " (OpenMP)\n  cuda: ", cuda_build(), ", ", cuda_device_count(), " devices\n");
}

}  // namespace fastcnn
