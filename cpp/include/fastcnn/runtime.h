// What it is: the switches of the process: threads, ISA, memory, version.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "fastcnn/tensor.h"

namespace fastcnn {

FASTCNN_API const char* version();
FASTCNN_API std::string show_config();  // version, compiler, ISA in use, threads, CUDA build and devices

FASTCNN_API int get_num_threads();
FASTCNN_API void set_num_threads(int n);
// Work that this thread starts while the scope lasts uses n threads; 0 changes nothing.
class FASTCNN_API NumThreadsScope {
 public:
  explicit NumThreadsScope(int n);
  ~NumThreadsScope();
  NumThreadsScope(const NumThreadsScope&) = delete;

 private:
  int saved_;
};

FASTCNN_API std::string isa();  // in use: ref, portable, avx2, avx512, avx512bf16
FASTCNN_API std::vector<std::string> available_isas();
FASTCNN_API void set_isa(const std::string& name);  // lowers (or raises) the ISA of kernels chosen from now on
FASTCNN_API void record_kernel_choices(bool on);    // for tests: which implementation each op took
FASTCNN_API std::vector<std::string> take_kernel_choices();
// For tests: off, plans made from now on leave the statistics of a batch norm to it, whose sums have eager's
// order.
FASTCNN_API void give_conv2d_moments(bool on);
// For tests and comparisons: off, plans made from now on store what batch norms make for convolutions.
FASTCNN_API void apply_norms_on_load(bool on);

// "auto" (at first, or what FASTCNN_CONV_ALGORITHM says): convolutions of float32 may run as Winograd, F(4x4,
// 3x3), F(2x2, 5x5) or F(4x4, 2x2) of 4x4 with stride 2, whose rounding errors are up to five times those of the
// sum. "direct": always the sum of products. For implementations chosen from now on; a compiled function makes a
// new plan.
FASTCNN_API void set_conv_algorithm(const std::string& name);
FASTCNN_API std::string get_conv_algorithm();

// "highest" (at first): products of float32 are those of float32. "high", "medium": on CUDA the operands of matrix
// products and convolutions are rounded to TF32 (10 bits of mantissa) and multiplied by tensor cores, sums stay
// float32; the CPU computes as before. For implementations chosen from now on, as above.
FASTCNN_API void set_float32_matmul_precision(const std::string& name);
FASTCNN_API std::string get_float32_matmul_precision();

struct MemoryInfo {
  int64_t in_use = 0, cached = 0, peak = 0, budget = 0;  // bytes
};
FASTCNN_API MemoryInfo memory_info();
FASTCNN_API void reset_peak_memory();
FASTCNN_API void release_cached_memory();
FASTCNN_API void set_memory_budget(int64_t bytes);  // most bytes that the caching allocator keeps for reuse

// What the machine can do with the threads and the ISA in use: multiply-adds in registers, streams through memory
// (stores past the caches). bfloat16 is 0 where the ISA has no such instruction.
struct MachinePeak {
  int threads = 0;
  std::string isa;
  double float32_gflops = 0, bfloat16_gflops = 0;
  double triad_gbytes = 0, copy_gbytes = 0;  // GB/s
  double round_trip_ns = 0;  // of a cache line, first to last thread and back; 0: one thread, or busy cores
};
FASTCNN_API MachinePeak measure_peak(double seconds = 0.4);

FASTCNN_API int cuda_device_count();                // 0 or 1: the first visible device is the one in use
FASTCNN_API std::string cuda_unavailable_reason();  // "" where there is a device
FASTCNN_API int64_t cuda_memory_allocated();        // bytes of tensors and plans on the device
FASTCNN_API void cuda_synchronize();                // waits, and throws what kernels found; ValueError: no device
FASTCNN_API const char* cuda_build();
// The stream that all work of this library is queued on, as a cudaStream_t; 0 where there is no device.
FASTCNN_API uintptr_t cuda_stream();
// What is queued on `stream` (a cudaStream_t; 1: the legacy default one, 2: that of the thread) from now on waits
// for what this library has queued, or with ours_waits the other way round.
FASTCNN_API void cuda_order_streams(uintptr_t stream, bool ours_waits);

// Tensors over read-only memory refuse in-place ops.
FASTCNN_API bool is_readonly(const Tensor& t);
FASTCNN_API void set_readonly(const Tensor& t);
FASTCNN_API const void* identity(const Tensor& t);  // equal for handles of one tensor
// Memory was changed behind autograd's back: code that writes through data() says so here, or plans that keep
// prepared weights go on with the old ones.
FASTCNN_API void bump_version(const Tensor& t);
// Host memory into a dense tensor on any device, now: compile does not record it.
FASTCNN_API void write_memory(const Tensor& t, const void* host, size_t bytes);

// Lives as long as somebody outside (NumPy, DLPack) may write the memory of a tensor.
class FASTCNN_API MemoryExport {
 public:
  explicit MemoryExport(const Tensor& t);
  ~MemoryExport();
  MemoryExport(const MemoryExport&) = delete;
  MemoryExport& operator=(const MemoryExport&) = delete;
  const Tensor tensor;
};

}  // namespace fastcnn
