// What it is: OpenMP behind even shares of which idle threads take over the rest, with a polite thread count, also
// in forked children. See threads.h.
#include "backend/cpu/threads.h"

#include <omp.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>
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

// What is left of a thread's share, in pieces [front, back): the thread takes from the front, which its cache
// knows from the last layer, others from the back.
class alignas(128) Share {
 public:
  void fill(uint32_t pieces) { left_.store(pieces, std::memory_order_relaxed); }
  // A part of what is left, of `least` pieces where there are so many: large parts first, since each costs a call,
  // small ones last, so that none is waited for.
  uint32_t take(bool own, uint32_t least, uint32_t* first) {
    uint64_t left = left_.load(std::memory_order_relaxed);
    for (;;) {
      const auto front = static_cast<uint32_t>(left >> 32), back = static_cast<uint32_t>(left), all = back - front;
      if (all == 0) return 0;
      const uint32_t part = std::min(std::max((all + 1) / 2, least), all);
      const uint64_t then = own ? left + (uint64_t(part) << 32) : left - part;
      if (!left_.compare_exchange_weak(left, then, std::memory_order_relaxed)) continue;
      *first = own ? front : back - part;
      return part;
    }
  }

 private:
  std::atomic<uint64_t> left_{0};
};

constexpr int64_t kPieces = 12;      // of a share, at most
constexpr int64_t kCallNs = 50'000;  // one call's work: less is not worth dividing

// One for each thread of the teams that the calling thread leads; null where there is no memory for them.
Share* shares_of_team(int nt) {
  thread_local std::unique_ptr<Share[]> shares;
  thread_local int count = 0;
  if (count < nt) {
    shares.reset(new (std::nothrow) Share[static_cast<size_t>(nt)]);
    count = shares ? nt : 0;
  }
  return shares.get();
}

struct Region {
  int64_t n;
  int nt;
  Body body;
  void* ctx;
  int64_t pieces;  // of each share; 1: shares are not divided
  Share* shares;

  void part(int64_t share, int64_t b, int64_t e, int thread) const {
    const int64_t from = n * share / nt, length = n * (share + 1) / nt - from;
    b = from + length * b / pieces, e = from + length * e / pieces;
    if (b < e) body(ctx, b, e, thread);
  }
  void run(int thread, int got) const {
    if (pieces == 1) {
      // The team may be smaller than asked for (OMP_THREAD_LIMIT, dynamic adjustment).
      const int64_t b = n * thread / got, e = n * (thread + 1) / got;
      if (b < e) body(ctx, b, e, thread);
      return;
    }
    using Clock = std::chrono::steady_clock;
    uint32_t least = 1;  // pieces that are worth a call, after the first one
    for (int i = 0; i < nt; ++i) {
      const int of = (thread + i) % nt;
      uint32_t first;
      while (const uint32_t count = shares[of].take(i == 0, least, &first)) {
        const auto start = Clock::now();
        part(of, first, first + count, thread);
        const int64_t ns = std::chrono::nanoseconds(Clock::now() - start).count();
        least = static_cast<uint32_t>(std::min(kPieces, kCallNs * count / std::max<int64_t>(ns, 1) + 1));
      }
    }
  }
};

FASTCNN_UNCHECKED_THREADS void run_team(const Region& r) {
  FASTCNN_HAPPENS_BEFORE(r.ctx);
#pragma omp parallel num_threads(r.nt)
  {
    FASTCNN_HAPPENS_AFTER(r.ctx);
    {
      FlushDenormals ftz;
      r.run(omp_get_thread_num(), omp_get_num_threads());
    }
    FASTCNN_HAPPENS_BEFORE(r.ctx);
  }
  FASTCNN_HAPPENS_AFTER(r.ctx);
}

// The thread that forked has lost its workers in the child, where libgomp would wait for them for ever. A new
// thread has none to lose: it leads the teams in the place of the one that forked.
class Leader {
 public:
  Leader() {
    std::thread([this] { lead(); }).detach();
  }
  void run(const Region& r) {  // of one thread alone
    std::unique_lock<std::mutex> lock(mutex_);
    job_ = &r;
    changed_.notify_all();
    changed_.wait(lock, [this] { return job_ == nullptr; });
  }

 private:
  void lead() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return job_ != nullptr; });
      run_team(*job_);
      job_ = nullptr;
      changed_.notify_all();
    }
  }
  std::mutex mutex_;
  std::condition_variable changed_;
  const Region* job_ = nullptr;
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

void parallel_ranges(int64_t n, Grain grain, void (*body)(void*, int64_t, int64_t, int), void* ctx) {
  if (n <= 0) return;
  const int64_t least = std::max<int64_t>(grain.thread, 1);
  const int nt = static_cast<int>(std::min<int64_t>(num_threads(), (n + least - 1) / least));
  if (nt <= 1 || omp_in_parallel() || (lost_team && !have_leader())) {
    FlushDenormals ftz;
    body(ctx, 0, n, 0);
    return;
  }
  Region r{n, nt, body, ctx, std::clamp<int64_t>(n / nt / std::max<int64_t>(grain.part, 1), 1, kPieces), nullptr};
  if (r.pieces > 1) {
    r.shares = shares_of_team(nt);
    if (r.shares)
      for (int t = 0; t < nt; ++t) r.shares[t].fill(static_cast<uint32_t>(r.pieces));
    else
      r.pieces = 1;
  }
  lost_team ? leader->run(r) : run_team(r);
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
