// See executor.h.
#include "cuda_host/executor.h"

#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <exception>
#include <map>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace fastcnn::cuda::host {

std::function<void(std::function<void()>)> recorder;

namespace {

constexpr size_t kStack = 256 << 10, kGuard = 64;
bool descending = false;
int64_t launch_count = 0, recorded_count = 0;

struct AsyncCopy {
  void* to;
  const void* from;  // nullptr: zeros
  int bytes;
  void run() const {
    if (from)
      std::memcpy(to, from, static_cast<size_t>(bytes));
    else
      std::memset(to, 0, static_cast<size_t>(bytes));
  }
};

struct Thread {
  enum class State { fresh, ready, block_barrier, warp_barrier, done } state = State::fresh;
  int fiber = -1;
  std::vector<AsyncCopy> open;                       // copies of the group that is being made
  std::vector<std::vector<AsyncCopy>> on_their_way;  // groups, oldest first
};

struct Fiber {
  std::unique_ptr<char[]> stack{new char[kStack]};
  ucontext_t start{};
  jmp_buf at;
  bool started = false;
};

// One block at a time. Fibers outlive blocks: a thread that never waits leaves its fiber to the next.
struct Block {
  std::vector<Thread> threads;
  std::vector<std::unique_ptr<Fiber>> fibers;
  std::vector<int> free;
  jmp_buf scheduler;
  ucontext_t scheduler_context;
  const std::function<void()>* body = nullptr;
  std::exception_ptr error;
  int current = -1, count = 0, at_barrier = 0;
  struct Warp {
    uint64_t slot[32];
    uint32_t words[32][8];
    int arrived = 0, lanes = 0;
  };
  std::vector<Warp> warps;
  std::vector<unsigned char> shared;
  size_t shared_bytes = 0;
} block;

void set_thread(int t) {
  block.current = t;
  const unsigned i = static_cast<unsigned>(t);
  threadIdx = dim3(i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y));
}

void fiber_main(int index) {
  Fiber& f = *block.fibers[static_cast<size_t>(index)];
  for (;;) {
    try {
      (*block.body)();
    } catch (...) {
      block.error = std::current_exception();
    }
    block.threads[static_cast<size_t>(block.current)].state = Thread::State::done;
    if (!_setjmp(f.at)) _longjmp(block.scheduler, 1);
  }
}

// Runs thread t until it waits or ends.
void resume(int t) {
  Thread& thread = block.threads[static_cast<size_t>(t)];
  set_thread(t);
  if (thread.fiber < 0) {
    if (block.free.empty()) {
      block.fibers.push_back(std::make_unique<Fiber>());
      block.free.push_back(static_cast<int>(block.fibers.size()) - 1);
    }
    thread.fiber = block.free.back();
    block.free.pop_back();
  }
  Fiber& f = *block.fibers[static_cast<size_t>(thread.fiber)];
  thread.state = Thread::State::ready;
  if (!_setjmp(block.scheduler)) {
    if (f.started) _longjmp(f.at, 1);
    f.started = true;
    getcontext(&f.start);
    f.start.uc_stack.ss_sp = f.stack.get();
    f.start.uc_stack.ss_size = kStack;
    f.start.uc_link = nullptr;
    makecontext(&f.start, reinterpret_cast<void (*)()>(fiber_main), 1, thread.fiber);
    setcontext(&f.start);
  }
  if (thread.state == Thread::State::done) block.free.push_back(thread.fiber), thread.fiber = -1;
}

void wait(Thread::State why) {
  Thread& t = block.threads[static_cast<size_t>(block.current)];
  t.state = why;
  Fiber& f = *block.fibers[static_cast<size_t>(t.fiber)];
  if (!_setjmp(f.at)) _longjmp(block.scheduler, 1);
}

void release(int first, int last, Thread::State from) {
  for (int t = first; t < last; ++t)
    if (block.threads[static_cast<size_t>(t)].state == from)
      block.threads[static_cast<size_t>(t)].state = Thread::State::ready;
}

void run_block(const char* kernel) {
  const int n = block.count;
  block.threads.assign(static_cast<size_t>(n), {});
  block.warps.assign(static_cast<size_t>((n + 31) / 32), {});
  for (int w = 0; w < static_cast<int>(block.warps.size()); ++w)
    block.warps[static_cast<size_t>(w)].lanes = std::min(32, n - w * 32);
  block.at_barrier = 0;
  std::fill(block.shared.begin(), block.shared.end(), static_cast<unsigned char>(0xff));
  for (int left = n; left > 0;) {
    bool moved = false;
    for (int i = 0; i < n; ++i) {
      const int t = descending ? n - 1 - i : i;
      Thread::State s = block.threads[static_cast<size_t>(t)].state;
      if (s != Thread::State::fresh && s != Thread::State::ready) continue;
      resume(t);
      moved = true;
      if (block.error) std::rethrow_exception(std::exchange(block.error, nullptr));
      left -= block.threads[static_cast<size_t>(t)].state == Thread::State::done;
    }
    if (!moved)
      throw std::logic_error(std::string(kernel) + ": " + std::to_string(left) + " of " + std::to_string(n) +
                             " threads wait for others that have left the block or another barrier");
  }
  for (size_t i = block.shared_bytes; i < block.shared.size(); ++i)
    if (block.shared[i] != 0xff)
      throw std::logic_error(std::string(kernel) + ": wrote past its " + std::to_string(block.shared_bytes) +
                             " bytes of shared memory");
}

// ---- device memory
// ----------------------------------------------------------------------------------------------
struct Heap {
  static constexpr size_t kBytes = size_t(64) << 30;
  char* base = nullptr;
  size_t top = 0;
  std::map<size_t, std::vector<void*>> free;
  int open = 0;
  std::recursive_mutex mutex;
  Heap() {
    void* p = mmap(nullptr, kBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    base = static_cast<char*>(p);
  }
  void protect(int how) {
    if (top) mprotect(base, top, how);
  }
};
Heap& heap() {
  static auto* h = new Heap;  // never destroyed: tensors may be freed after main
  return *h;
}
size_t rounded(size_t bytes) { return (std::max<size_t>(bytes, 1) + 4095) / 4096 * 4096; }

}  // namespace

void launch(const char* kernel, dim3 grid, dim3 block_dim, size_t shared, const std::function<void()>& body) {
  if (block_dim.x * block_dim.y * block_dim.z > 1024 || block_dim.z > 64 ||
      static_cast<int64_t>(shared) > shared_limit() || grid.y > 65535 || grid.z > 65535 || grid.x > 2147483647u)
    throw std::logic_error(std::string(kernel) + ": a launch that no device takes");
  recorded_count += recorder != nullptr;
  run_or_record([=] {
    std::lock_guard<std::recursive_mutex> lock(heap().mutex);
    DeviceAccess open;
    ++launch_count;
    blockDim = block_dim, gridDim = grid;
    block.count = static_cast<int>(block_dim.x * block_dim.y * block_dim.z);
    block.body = &body;
    block.shared_bytes = shared;
    block.shared.resize(shared + kGuard);
    const int64_t blocks = int64_t(grid.x) * grid.y * grid.z;
    for (int64_t i = 0; i < blocks; ++i) {
      const auto b = static_cast<uint64_t>(descending ? blocks - 1 - i : i);
      blockIdx = dim3(static_cast<unsigned>(b % grid.x), static_cast<unsigned>(b / grid.x % grid.y),
                      static_cast<unsigned>(b / grid.x / grid.y));
      run_block(kernel);
    }
  });
}

void* shared_memory() { return block.shared.data(); }
int lane() { return block.current % 32; }

namespace {

Block::Warp& this_warp() { return block.warps[static_cast<size_t>(block.current / 32)]; }
void warp_barrier() {
  Block::Warp& warp = this_warp();
  if (warp.lanes != 32) throw std::logic_error("a warp acts as one: the block is no multiple of 32 threads");
  if (++warp.arrived < warp.lanes) return wait(Thread::State::warp_barrier);
  warp.arrived = 0;
  const int first = block.current / 32 * 32;
  release(first, first + warp.lanes, Thread::State::warp_barrier);
}
Thread& this_thread() { return block.threads[static_cast<size_t>(block.current)]; }

}  // namespace

uint64_t exchange(uint64_t mine, int from) {
  this_warp().slot[lane()] = mine;
  warp_barrier();
  const uint64_t theirs = this_warp().slot[from];
  warp_barrier();
  return theirs;
}

void sync_warp() { warp_barrier(); }
const uint32_t (*meet_warp(const uint32_t* mine, int count))[8] {
  std::copy(mine, mine + count, this_warp().words[lane()]);
  warp_barrier();
  return this_warp().words;
}
void leave_warp() { warp_barrier(); }

void copy_async(void* shared, const void* global, int bytes) {
  if (reinterpret_cast<uintptr_t>(shared) % 16 || reinterpret_cast<uintptr_t>(global) % 16)
    throw std::logic_error("cp.async: 16 bytes that are not aligned");
  const AsyncCopy copy{shared, global, bytes};
  if (descending)
    copy.run();
  else
    this_thread().open.push_back(copy);
}
void commit_copies() {
  Thread& t = this_thread();
  t.on_their_way.push_back(std::exchange(t.open, {}));
}
void wait_copies(int pending) {
  auto& groups = this_thread().on_their_way;
  while (static_cast<int>(groups.size()) > pending) {
    for (const AsyncCopy& c : groups.front()) c.run();
    groups.erase(groups.begin());
  }
}

void load_matrices(const void* row, bool transposed, uint32_t (&r)[4]) {
  const auto at = reinterpret_cast<uintptr_t>(row);
  if (at % 16) throw std::logic_error("ldmatrix: a row that is not aligned");
  const uint32_t mine[2] = {static_cast<uint32_t>(at), static_cast<uint32_t>(at >> 32)};
  const auto words = meet_warp(mine, 2);
  auto element = [&](int matrix, int i, int j) {
    const uint32_t* w = words[matrix * 8 + i];
    return static_cast<uint32_t>(reinterpret_cast<const uint16_t*>(w[0] | static_cast<uintptr_t>(w[1]) << 32)[j]);
  };
  const int i = lane() / 4, j = lane() % 4 * 2;
  for (int m = 0; m < 4; ++m)
    r[m] =
        transposed ? element(m, j, i) | element(m, j + 1, i) << 16 : element(m, i, j) | element(m, i, j + 1) << 16;
  leave_warp();
}

void run_descending(bool on) { descending = on; }
int64_t& shared_limit() {
  static int64_t bytes = 227 << 10;
  return bytes;
}
int64_t launches() { return launch_count; }
int64_t recorded_launches() { return recorded_count; }

void run_or_record(std::function<void()> work) {
  if (recorder)
    recorder(std::move(work));
  else
    work();
}

DeviceAccess::DeviceAccess() {
  Heap& h = heap();
  h.mutex.lock();
  if (h.open++ == 0) h.protect(PROT_READ | PROT_WRITE);
}
DeviceAccess::~DeviceAccess() {
  Heap& h = heap();
  if (--h.open == 0) h.protect(PROT_NONE);
  h.mutex.unlock();
}

void* device_allocate(size_t bytes) {
  Heap& h = heap();
  std::lock_guard<std::recursive_mutex> lock(h.mutex);
  const size_t size = rounded(bytes);
  void* p;
  if (auto it = h.free.find(size); it != h.free.end() && !it->second.empty()) {
    p = it->second.back();
    it->second.pop_back();
  } else {
    if (h.top + size > Heap::kBytes) return nullptr;
    p = h.base + h.top;
    h.top += size;
  }
  DeviceAccess open;
  std::memset(p, 0xff, size);  // NaN, for whoever reads what nobody wrote
  return p;
}
void device_free(void* p, size_t bytes) noexcept {
  Heap& h = heap();
  std::lock_guard<std::recursive_mutex> lock(h.mutex);
  h.free[rounded(bytes)].push_back(p);
}

}  // namespace fastcnn::cuda::host

void __syncthreads() {
  using namespace fastcnn::cuda::host;
  if (++block.at_barrier < block.count) return wait(Thread::State::block_barrier);
  block.at_barrier = 0;
  release(0, block.count, Thread::State::block_barrier);
}
