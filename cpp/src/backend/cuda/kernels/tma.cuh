// What it is: copies of whole boxes from global to shared memory by the copy engine (TMA, sm_90), started by one
// thread, and the barriers in shared memory that count their bytes. What it is not: the boxes (tma_feed.h); for
// the executor, which has no copy engine.
#pragma once
#if defined(__CUDACC__)
#include "backend/cuda/device.cuh"

namespace fastcnn::cuda {

// Up to four boxes for A (one per parity of a stride), one for B. By value into the kernel, as the engine wants
// it.
struct TensorMaps {
  CUtensorMap a[4], b;
};

FASTCNN_DEVICE uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

FASTCNN_DEVICE void barrier_init(uint64_t* barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}
FASTCNN_DEVICE void publish_barriers() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
FASTCNN_DEVICE void barrier_expect(uint64_t* barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
}
FASTCNN_DEVICE void barrier_arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
FASTCNN_DEVICE void barrier_wait(uint64_t* barrier, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred done;\nagain:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@done bra ready;\n"
      "bra again;\nready:\n}" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}

// Meets `count` threads of a block at a barrier of their own (1 to 15).
template <int barrier, int count>
FASTCNN_DEVICE void sync_threads() {
  asm volatile("bar.sync %0, %1;" ::"n"(barrier), "n"(count) : "memory");
}

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
FASTCNN_DEVICE void bring_tile(void* shared, const CUtensorMap* map, uint64_t* barrier, int x, int y) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], "
      "[%4];" ::"r"(shared_address(shared)),
      "l"(map), "r"(x), "r"(y), "r"(shared_address(barrier))
      : "memory");
}
FASTCNN_DEVICE void bring_tile(void* shared, const CUtensorMap* map, uint64_t* barrier, int x, int y, int z) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], "
      "[%5];" ::"r"(shared_address(shared)),
      "l"(map), "r"(x), "r"(y), "r"(z), "r"(shared_address(barrier))
      : "memory");
}
FASTCNN_DEVICE void bring_tile(void* shared, const CUtensorMap* map, uint64_t* barrier, int c, int w, int h,
                               int n) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, "
      "%5}], "
      "[%6];" ::"r"(shared_address(shared)),
      "l"(map), "r"(c), "r"(w), "r"(h), "r"(n), "r"(shared_address(barrier))
      : "memory");
}
// Pixels from (n, h, w) on along the rows of the map's box, each moved by (down, right).
FASTCNN_DEVICE void bring_pixels(void* shared, const CUtensorMap* map, uint64_t* barrier, int c, int w, int h,
                                 int n, uint16_t right, uint16_t down) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, "
      "%5}], [%6], {%7, %8};" ::"r"(shared_address(shared)),
      "l"(map), "r"(c), "r"(w), "r"(h), "r"(n), "r"(shared_address(barrier)), "h"(right), "h"(down)
      : "memory");
}
#endif

}  // namespace fastcnn::cuda
#endif
