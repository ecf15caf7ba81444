// What it is: CUDA's execution model on one host thread, for tests: blocks in turn, a fiber per CUDA thread from
// its first barrier on, __syncthreads, warp shuffles,
// asynchronous copies, tensor-core products, atomics, dynamic shared memory (poisoned, guarded). A
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
int64_t& shared_limit();      // bytes of shared memory that a block may have, 227 KiB at first
int64_t launches();           // so far
int64_t recorded_launches();  // handed to the recorder so far

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

// ---- what a warp does as one (backend/cuda/kernels/tensor_core.cuh)
// ------------------------------------------------ Copies are made when they are asked for where threads run in
// descending order, and only once they are waited for where they ascend: a kernel that reads too early, or writes
// over what others still read, gives two results.
void copy_async(void* shared, const void* global, int bytes);  // no global: zeros
void commit_copies();
void wait_copies(int pending);
void sync_warp();

// Each lane brings up to 8 words, sees those of all (words[lane][k]), and leaves.
const uint32_t (*meet_warp(const uint32_t* mine, int count))[8];
void leave_warp();

void load_matrices(const void* row, bool transposed, uint32_t (&r)[4]);

// mma.m16n8k16: the fragments of the PTX ISA. `number` makes 16 bits a float.
template <class F>
void multiply_add(float (&d)[4], const uint32_t (&a)[4], const uint32_t* b, F number) {
  const uint32_t mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
  const auto words = meet_warp(mine, 6);
  auto half = [&](uint32_t word, int odd) { return number(static_cast<uint16_t>(odd ? word >> 16 : word)); };
  for (int i = 0; i < 4; ++i) {
    const int row = lane() / 4 + i / 2 * 8, col = lane() % 4 * 2 + i % 2;
    for (int k = 0; k < 16; ++k) {
      const int of_row = row % 8 * 4 + k % 8 / 2, of_col = col * 4 + k % 8 / 2;
      d[i] += half(words[of_row][row / 8 + k / 8 * 2], k % 2) * half(words[of_col][4 + k / 8], k % 2);
    }
  }
  leave_warp();
}

// mma.m16n8k8 of TF32: words are float32 whose last 13 bits do not count.
inline void multiply_add_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t* b) {
  const uint32_t mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
  const auto words = meet_warp(mine, 6);
  auto number = [](uint32_t word) {
    float v;
    word &= ~0x1fffu;
    std::memcpy(&v, &word, sizeof v);
    return v;
  };
  for (int i = 0; i < 4; ++i) {
    const int row = lane() / 4 + i / 2 * 8, col = lane() % 4 * 2 + i % 2;
    for (int k = 0; k < 8; ++k)
      d[i] += number(words[row % 8 * 4 + k % 4][row / 8 + k / 4 * 2]) * number(words[col * 4 + k % 4][4 + k / 4]);
  }
  leave_warp();
}

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

inline int atomicMax(int* p, int v) {
  const int old = *p;
  if (v > old) *p = v;
  return old;
}
inline int atomicCAS(int* p, int expected, int desired) {
  const int old = *p;
  if (old == expected) *p = desired;
  return old;
}
