// What it is: OpenMP behind a static split, with a polite thread count. See threads.h.
#include "backend/cpu/threads.h"

#include <omp.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace fastcnn::cpu {
namespace {

constexpr int kMostThreads = 1024;  // libgomp aborts the process where the system refuses a thread

// CPU quota of the cgroup (v2, then v1) in whole cores, 0 when there is none.
int cgroup_cores() {
  double quota = 0, period = 0;
  if (FILE* f = std::fopen("/sys/fs/cgroup/cpu.max", "r")) {
    char first[32] = {};
    if (std::fscanf(f, "%31s %lf", first, &period) == 2 && std::strcmp(first, "max") != 0)
      quota = std::atof(first);
    std::fclose(f);
  } else {
    if (FILE* q = std::fopen("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "r")) {
      if (std::fscanf(q, "%lf", &quota) != 1) quota = 0;
      std::fclose(q);
    }
    if (FILE* p = std::fopen("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "r")) {
      if (std::fscanf(p, "%lf", &period) != 1) period = 0;
      std::fclose(p);
    }
  }
  if (quota <= 0 || period <= 0) return 0;
  return std::max(1, static_cast<int>(quota / period + 0.5));
}

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
std::atomic<bool> forked_child{false};
thread_local int own_threads = 0;  // 0: as the process

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
#endif
};

}  // namespace

int num_threads() {
  int n = threads.load(std::memory_order_relaxed);
  if (own_threads != 0 && n != 0) return own_threads;
  if (n == 0) {
    // libgomp's workers do not survive fork: a child that asks for threads would wait for ever.
    static const int once = pthread_atfork(nullptr, nullptr, [] { forked_child = true; });
    (void)once;
    n = default_threads();
    threads = n;
  }
  return own_threads != 0 ? own_threads : n;
}

void set_num_threads(int n) {
  check_threads(n);
  num_threads();
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
  if (nt <= 1 || omp_in_parallel() || forked_child.load(std::memory_order_relaxed)) {
    FlushDenormals ftz;
    body(ctx, 0, n, 0);
    return;
  }
#pragma omp parallel num_threads(nt)
  {
    FlushDenormals ftz;
    // The team may be smaller than asked for (OMP_THREAD_LIMIT, dynamic adjustment).
    int got = omp_get_num_threads(), t = omp_get_thread_num();
    int64_t b = n * t / got, e = n * (t + 1) / got;
    if (b < e) body(ctx, b, e, t);
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
