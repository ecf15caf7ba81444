// What it is: the only place that starts threads. Each has a contiguous share of the work, and who is done takes
// over what others have not begun: a core may run at half its speed for a while (another process, a neighbour on
// its other hardware thread, an efficiency core). Kernels own whole outputs, so no split changes a sum. What it is
// not: a task graph.
#pragma once
#include <cstdint>
#include <type_traits>

namespace fastcnn::cpu {

int num_threads();            // FASTCNN_NUM_THREADS, else OMP_NUM_THREADS, else affinity and cgroup quota
void set_num_threads(int n);  // throws std::invalid_argument for n < 1
// Of the calling thread alone, over the process's number; 0 leaves what is there. Returns what was.
int set_own_threads(int n);
void restore_own_threads(int before);

// Items that are worth a thread, and those that are worth a call: a part that another thread takes over has as
// many.
struct Grain {
  int64_t thread, part;
  Grain(int64_t n) : thread(n), part(n) {}  // NOLINT: a number is both
  Grain(int64_t thread, int64_t part) : thread(thread), part(part) {}
};

// Calls body(ctx, begin, end, thread) for a partition of [0, n); fewer than grain.thread items per thread use
// fewer threads. A thread may be called for several parts.
void parallel_ranges(int64_t n, Grain grain, void (*body)(void*, int64_t, int64_t, int), void* ctx);

template <class F>
void parallel_for(int64_t n, Grain grain, F&& f) {  // f(begin, end, thread)
  using Fn = std::remove_reference_t<F>;
  parallel_ranges(
      n, grain, [](void* c, int64_t b, int64_t e, int t) { (*static_cast<Fn*>(c))(b, e, t); },
      const_cast<void*>(static_cast<const void*>(&f)));
}

// Where every thread is wanted: one part for each.
template <class F>
void parallel_fixed(int64_t n, F&& f) {
  parallel_for(n, {1, n}, f);
}

// Memory of the calling thread, 64-byte aligned, that stays in its cache from call to call; null where there is
// none to be had. Kept until the thread ends.
float* thread_scratch(int64_t floats);

}  // namespace fastcnn::cpu
