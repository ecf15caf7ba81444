// What it is: OpenMP behind a static split, with a polite thread count, also in forked children. See threads.h.
#include "backend/cpu/threads.h"

#include <omp.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>

#include "core/cgroup.h"

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

// ThreadSanitizer does not see the futexes of libgomp: begin and end of a region are told to it.
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#define FASTCNN_UNCHECKED_THREADS __attribute__((no_sanitize("thread")))
#define FASTCNN_HAPPENS_BEFORE(p) __tsan_release(p)
#define FASTCNN_HAPPENS_AFTER(p) __tsan_acquire(p)
#else
#define FASTCNN_UNCHECKED_THREADS
#define FASTCNN_HAPPENS_BEFORE(p)
#define FASTCNN_HAPPENS_AFTER(p)
#endif

namespace fastcnn::cpu {
namespace {

constexpr int kMostThreads = 1024;  // libgomp aborts the process where the system refuses a thread

int default_threads() {
  for (const char* name : {"FASTCNN_NUM_THREADS", "OMP_NUM_THREADS"}) {
    const char* v = std::getenv(name);
    if (v && std::atoi(v) > 0) return std::min(std::atoi(v), kMostThreads);
  }
  cpu_set_t set;
  int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : omp_get_num_procs();
  int quota = cgroup_cores();
  return std::max(1, quota ? std::min(n, quota) : n);
}

std::atomic<int> threads{0};
thread_local int own_threads = 0;  // 0: as the process
thread_local bool lost_team = false;

void check_threads(int n) {
  if (n < 1 || n > kMostThreads)
    throw std::invalid_argument("set_num_threads: expected n in [1, " + std::to_string(kMostThreads) + "], got " +
                                std::to_string(n));
}

// Denormal operands cost up to 100x; flush them inside kernels only, the caller's mode comes back.
struct FlushDenormals {
#if defined(__SSE__)
  unsigned saved = _mm_getcsr();
  FlushDenormals() { _mm_setcsr(saved | 0x8040u); }
  ~FlushDenormals() { _mm_setcsr(saved); }
#elif defined(__aarch64__)
  uint64_t saved;
  FlushDenormals() {
    asm volatile("mrs %0, fpcr" : "=r"(saved));
    asm volatile("msr fpcr, %0" ::"r"(saved | uint64_t(1) << 24));
  }
  ~FlushDenormals() { asm volatile("msr fpcr, %0" ::"r"(saved)); }
#endif
};

using Body = void (*)(void*, int64_t, int64_t, int);

FASTCNN_UNCHECKED_THREADS void run_team(int64_t n, int nt, Body body, void* ctx) {
  FASTCNN_HAPPENS_BEFORE(ctx);
#pragma omp parallel num_threads(nt)
  {
    FASTCNN_HAPPENS_AFTER(ctx);
    {
      FlushDenormals ftz;
      // The team may be smaller than asked for (OMP_THREAD_LIMIT, dynamic adjustment).
      int got = omp_get_num_threads(), t = omp_get_thread_num();
      int64_t b = n * t / got, e = n * (t + 1) / got;
      if (b < e) body(ctx, b, e, t);
    }
    FASTCNN_HAPPENS_BEFORE(ctx);
  }
  FASTCNN_HAPPENS_AFTER(ctx);
}

// The thread that forked has lost its workers in the child, where libgomp would wait for them for ever. A new
// thread has none to lose: it leads the teams in the place of the one that forked.
class Leader {
 public:
  Leader() {
    std::thread([this] { lead(); }).detach();
  }
  void run(int64_t n, int nt, Body body, void* ctx) {  // of one thread alone
    std::unique_lock<std::mutex> lock(mutex_);
    job_ = {n, nt, body, ctx};
    changed_.notify_all();
    changed_.wait(lock, [this] { return job_.body == nullptr; });
  }

 private:
  struct Job {
    int64_t n = 0;
    int nt = 0;
    Body body = nullptr;
    void* ctx = nullptr;
  };
  void lead() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return job_.body != nullptr; });
      run_team(job_.n, job_.nt, job_.body, job_.ctx);
      job_.body = nullptr;
      changed_.notify_all();
    }
  }
  std::mutex mutex_;
  std::condition_variable changed_;
  Job job_;
};
Leader* leader = nullptr;  // of a forked child; never destroyed

// Before main: other libraries may have used the same libgomp before the first region here.
[[maybe_unused]] const int fork_handler = pthread_atfork(nullptr, nullptr, [] {
  lost_team = true;
  leader = nullptr;  // that of the parent is no thread of this process
});

bool have_leader() {
  if (leader == nullptr) try {
      leader = new Leader;
    } catch (const std::system_error&) {  // the system gives no more threads
      return false;
    }
  return true;
}

}  // namespace

int num_threads() {
  if (own_threads != 0) return own_threads;
  int n = threads.load(std::memory_order_relaxed);
  if (n == 0) threads = n = default_threads();
  return n;
}

void set_num_threads(int n) {
  check_threads(n);
  threads = n;
}

int set_own_threads(int n) {
  if (n != 0) check_threads(n);
  const int before = own_threads;
  if (n != 0) own_threads = n;
  return before;
}
void restore_own_threads(int before) { own_threads = before; }

void parallel_ranges(int64_t n, int64_t grain, void (*body)(void*, int64_t, int64_t, int), void* ctx) {
  if (n <= 0) return;
  int64_t most = (n + std::max<int64_t>(grain, 1) - 1) / std::max<int64_t>(grain, 1);
  int nt = static_cast<int>(std::min<int64_t>(num_threads(), most));
  if (nt <= 1 || omp_in_parallel() || (lost_team && !have_leader())) {
    FlushDenormals ftz;
    body(ctx, 0, n, 0);
  } else if (lost_team) {
    leader->run(n, nt, body, ctx);
  } else {
    run_team(n, nt, body, ctx);
  }
}

float* thread_scratch(int64_t floats) {
  struct Memory {
    float* p = nullptr;
    int64_t floats = 0;
    ~Memory() { std::free(p); }
  };
  thread_local Memory m;
  if (m.floats < floats) {
    std::free(m.p);
    // Of small pages, which the kernel scatters, some would share sets of the second-level cache by chance.
    constexpr int64_t kHugePage = 2 << 20;
    const int64_t bytes = (floats * 4 + kHugePage - 1) / kHugePage * kHugePage;
    m.p = static_cast<float*>(std::aligned_alloc(kHugePage, static_cast<size_t>(bytes)));
#if defined(MADV_HUGEPAGE)
    if (m.p) madvise(m.p, static_cast<size_t>(bytes), MADV_HUGEPAGE);
#endif
    m.floats = m.p ? bytes / 4 : 0;
  }
  return m.p;
}

}  // namespace fastcnn::cpu
