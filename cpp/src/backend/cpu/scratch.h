// What it is: a parallel loop whose threads have scratch memory of their own, outside of the plan's arena, since
// the number of threads may change between plan and run.
#pragma once
#include <atomic>
#include <string>

#include "backend/cpu/threads.h"
#include "fastcnn/error.h"

namespace fastcnn::cpu {

// f(begin, end, scratch) on each thread's own memory.
template <class F>
void with_scratch(int64_t items, Grain grain, int64_t floats, F&& f) {
  std::atomic<bool> failed{false};
  parallel_for(items, grain, [&](int64_t b, int64_t e, int) {
    if (float* s = thread_scratch(floats))
      f(b, e, s);
    else
      failed = true;
  });
  if (failed)
    throw MemoryError("conv2d: expected " + std::to_string(floats * 4) +
                      " bytes of scratch memory for each thread");
}

}  // namespace fastcnn::cpu
