// What it is: how a kernel starts: grid, block and dynamic shared bytes as one value that the device and the
// executor of the tests both take. What it is not: a choice of those numbers (each op's .cu).
#pragma once
#include "backend/cuda/device.cuh"
#include "backend/cuda/runtime.h"

namespace fastcnn::cuda {

struct LaunchPlan {
  dim3 grid, block;
  size_t shared = 0;  // bytes, dynamic
};

#if defined(__CUDACC__)
// `args`: where each argument lies. Throws what the launch reported, with the kernel's name. The kernel may start
// before the one queued last has ended (device.cuh: follow_previous).
void launch_kernel(const char* name, const LaunchPlan& plan, const void* kernel, void** args);

template <class... P, class... A>
void launch(const char* name, const LaunchPlan& plan, void (*kernel)(P...), const A&... args) {
  if (plan.grid.x == 0 || plan.grid.y == 0 || plan.grid.z == 0) return;
  [&](P... values) {
    void* all[] = {&values...};
    launch_kernel(name, plan, reinterpret_cast<const void*>(kernel), all);
  }(static_cast<P>(args)...);
}
#else
template <class... P, class... A>
void launch(const char* name, const LaunchPlan& plan, void (*kernel)(P...), const A&... args) {
  if (plan.grid.x == 0 || plan.grid.y == 0 || plan.grid.z == 0) return;
  host::launch(name, plan.grid, plan.block, plan.shared, [=] { kernel(static_cast<P>(args)...); });
}
#endif

constexpr int kThreads = 256;

// One thread per element, `per_thread` neighbours each, at most 2^16 blocks: kernels walk in grid strides.
inline LaunchPlan for_elements(int64_t n, int64_t per_thread = 1) {
  const int64_t threads = (n + per_thread - 1) / per_thread, blocks = (threads + kThreads - 1) / kThreads;
  return {dim3(static_cast<unsigned>(blocks < 65536 ? blocks : 65536)), dim3(kThreads), 0};
}
// Packs that kernels take `at_once` (over_packs in kernels/map.cuh): fewer threads once one each would fill a
// device.
inline LaunchPlan for_packs(int64_t packs, int at_once) {
  constexpr int64_t device = 132 * 2048;
  if (packs <= device) return for_elements(packs > 0 ? packs : 1);
  return for_elements(packs <= device * at_once ? device : (packs + at_once - 1) / at_once);
}
inline unsigned ceil_div(int64_t a, int64_t b) { return static_cast<unsigned>((a + b - 1) / b); }

}  // namespace fastcnn::cuda
