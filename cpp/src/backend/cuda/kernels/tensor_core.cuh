// What it is: what a warp does as one on sm_80 and newer: copies from global to shared memory that run on beside
// it (cp.async), 8x8 matrices from shared memory into registers (ldmatrix), a 16x8x16 product (mma.sync); and the
// order of 16-byte chunks in shared memory that keeps ldmatrix free of bank conflicts. Fragments are those of the
// PTX ISA (mma.m16n8k16 with .f16/.bf16, ldmatrix .m8n8.x4); on the host tests/cpp/cuda_host acts them out.
#pragma once
#include "backend/cuda/device.cuh"

namespace fastcnn::cuda {

// 16 bytes; zeros where `inside` is false (`global` must still be an address).
FASTCNN_DEVICE void copy_async16(void* shared, const void* global, bool inside) {
#if defined(__CUDACC__)
  const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  const int bytes = inside ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(bytes) : "memory");
#else
  host::copy_async(shared, inside ? global : nullptr, 16);
#endif
}
FASTCNN_DEVICE void commit_copies() {
#if defined(__CUDACC__)
  asm volatile("cp.async.commit_group;" ::: "memory");
#else
  host::commit_copies();
#endif
}
// Until at most `pending` of this thread's groups are on their way.
template <int pending>
FASTCNN_DEVICE void wait_copies() {
#if defined(__CUDACC__)
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
#else
  host::wait_copies(pending);
#endif
}
FASTCNN_DEVICE void sync_warp() {
#if defined(__CUDACC__)
  __syncwarp();
#else
  host::sync_warp();
#endif
}

// Four 8x8 matrices of 16-bit elements; lane l gives row l % 8 of matrix l / 8 (16 bytes) and gets in r[i]
// elements (l/4, 2(l%4)) and the next one of matrix i, transposed: elements (2(l%4), l/4) and the one below.
template <bool transposed>
FASTCNN_DEVICE void load_matrices(const void* row, uint32_t (&r)[4]) {
#if defined(__CUDACC__)
  const auto at = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  if constexpr (transposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
#else
  host::load_matrices(row, transposed, r);
#endif
}

// d += A B, A (16,16), B (16,8), sums in float32.
template <class T>
FASTCNN_DEVICE void multiply_add(float (&d)[4], const uint32_t (&a)[4], const uint32_t* b) {
#if defined(__CUDACC__)
  if constexpr (is_same<T, bfloat16>)
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  else
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  host::multiply_add(d, a, b, [](uint16_t bits) {
    T v;
    v.bits = bits;
    return to_real(v);
  });
#endif
}

// ---- chunks of 8 elements in shared memory
// ------------------------------------------------------------------------
constexpr int kMmaK = 32, kChunk = 8;  // depth of a stage

// A tile of `rows` by kMmaK, the depth inside: 64-byte rows, two of them to a line of all banks. In elements.
FASTCNN_INLINE int tile_place(int row, int chunk) { return row * kMmaK + (chunk ^ (row / 2 % 4)) * kChunk; }
// A tile of kMmaK by `columns` (64 or more), the depth outside.
template <int columns>
FASTCNN_INLINE int tile_place_across(int k, int chunk) {
  static_assert(columns % 64 == 0);
  return k * columns + (chunk ^ (k % 8)) * kChunk;
}

}  // namespace fastcnn::cuda
