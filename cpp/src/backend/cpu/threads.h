// What it is: the only place that starts threads. Work is split statically and contiguously, in the same way for
// any thread count as far as results go: kernels own whole outputs, so a split never changes a sum. What it is
// not: no task graph, no work stealing.
#pragma once
#include <cstdint>
#include <type_traits>

namespace fastcnn::cpu {

int num_threads();            // FASTCNN_NUM_THREADS, else OMP_NUM_THREADS, else affinity and cgroup quota
void set_num_threads(int n);  // throws std::invalid_argument for n < 1
// Of the calling thread alone, over the process's number; 0 leaves what is there. Returns what was.
int set_own_threads(int n);
void restore_own_threads(int before);

// Calls body(ctx, begin, end, thread) for a partition of [0, n); fewer than `grain` items per thread use fewer
// threads.
void parallel_ranges(int64_t n, int64_t grain, void (*body)(void*, int64_t, int64_t, int), void* ctx);

template <class F>
void parallel_for(int64_t n, int64_t grain, F&& f) {  // f(begin, end, thread)
  using Fn = std::remove_reference_t<F>;
  parallel_ranges(
      n, grain, [](void* c, int64_t b, int64_t e, int t) { (*static_cast<Fn*>(c))(b, e, t); },
      const_cast<void*>(static_cast<const void*>(&f)));
}

// Memory of the calling thread, 64-byte aligned, that stays in its cache from call to call; null where there is
// none to be had. Kept until the thread ends.
float* thread_scratch(int64_t floats);

}  // namespace fastcnn::cpu
