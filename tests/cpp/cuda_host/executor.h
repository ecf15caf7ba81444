// What it is: CUDA's execution model on one host thread, for tests: blocks in turn, a fiber per CUDA thread from
// its first barrier on, __syncthreads, warp shuffles, atomics, dynamic shared memory (poisoned, guarded). A
// barrier that not all threads reach is an error. Threads can run in descending order: a kernel whose result then
// differs lacks a barrier. What it is not: fast, or a model of memory latency, caches or warp divergence.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};

extern dim3 threadIdx, blockIdx, blockDim, gridDim;

void __syncthreads();

namespace fastcnn::cuda::host {

void launch(const char* kernel, dim3 grid, dim3 block, size_t shared, const std::function<void()>& body);
void* shared_memory();
uint64_t exchange(uint64_t mine, int lane);  // what `lane` of this warp brought; all lanes call
int lane();

void run_descending(bool on);
int64_t launches();  // so far

// While set, launches and copies are handed to it instead of being run.
extern std::function<void(std::function<void()>)> recorder;
void run_or_record(std::function<void()> work);

// Memory that only kernels and copies may touch: everybody else gets a SIGSEGV.
void* device_allocate(size_t bytes);
void device_free(void* p, size_t bytes) noexcept;
class DeviceAccess {
 public:
  DeviceAccess();
  ~DeviceAccess();
};

template <class T>
T shuffle(T v, int from) {
  static_assert(sizeof(T) <= 8);
  uint64_t bits = 0;
  std::memcpy(&bits, &v, sizeof v);
  bits = exchange(bits, from);
  std::memcpy(&v, &bits, sizeof v);
  return v;
}

}  // namespace fastcnn::cuda::host

template <class T>
T __shfl_xor_sync(unsigned, T v, int mask) {
  return fastcnn::cuda::host::shuffle(v, fastcnn::cuda::host::lane() ^ mask);
}

inline int atomicCAS(int* p, int expected, int desired) {
  const int old = *p;
  if (old == expected) *p = desired;
  return old;
}
