// What it is: what a warp does as one on sm_80 and newer: copies from global to shared memory that run on beside
// it (cp.async), 8x8 matrices from shared memory into registers (ldmatrix), a 16x8x16 product of 16-bit floats or
// a 16x8x8 product of TF32 (mma.sync); and the order of 16-byte chunks in shared memory that keeps reading free of
// bank conflicts. Fragments are those of the PTX ISA (mma.m16n8k16 with .f16/.bf16, mma.m16n8k8 with .tf32,
// ldmatrix .m8n8.x4); on the host tests/cpp/cuda_host acts them out.
#pragma once
#include "backend/cuda/device.cuh"

namespace fastcnn::cuda {

// 16 bytes; zeros where `inside` is false (`global` must still be an address). `keep`: in the first-level cache,
// for what the same block reads again.
template <bool keep = false>
FASTCNN_DEVICE void copy_async16(void* shared, const void* global, bool inside) {
#if defined(__CUDACC__)
  const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  const int bytes = inside ? 16 : 0;
  if constexpr (keep)
    asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(bytes) : "memory");
  else
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

// The bits of a float32 rounded to the 10 bits of mantissa that TF32 has, ties away from zero.
FASTCNN_DEVICE uint32_t to_tf32(uint32_t bits) {
#if defined(__CUDACC__)
  uint32_t r;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(__uint_as_float(bits)));
  return r;
#else
  return (bits & 0x7f800000u) == 0x7f800000u ? bits : (bits + 0x1000u) & ~0x1fffu;
#endif
}

// d += A B, sums in float32: A (16,16), B (16,8) of 16-bit floats; T = float: A (16,8), B (8,8) of TF32.
template <class T>
FASTCNN_DEVICE void multiply_add(float (&d)[4], const uint32_t (&a)[4], const uint32_t* b) {
#if defined(__CUDACC__)
  if constexpr (is_same<T, float>)
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  else if constexpr (is_same<T, bfloat16>)
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
  if constexpr (is_same<T, float>)
    host::multiply_add_tf32(d, a, b);
  else
    host::multiply_add(d, a, b, [](uint16_t bits) {
      T v;
      v.bits = bits;
      return to_real(v);
    });
#endif
}

// ---- chunks of 16 bytes in shared memory
// ------------------------------------------------------------------------
template <class T>
struct MmaType {
  static constexpr int chunk = 16 / sizeof(T);               // elements
  static constexpr int depth = 4 * chunk, step = 2 * chunk;  // of a stage, of a product
};

// A tile of `rows` by the depth of a stage, the depth inside: 64-byte rows, two of them to a line of all banks. In
// elements.
template <class T>
FASTCNN_INLINE int tile_place(int row, int chunk) {
  return (row * 4 + (chunk ^ (row / 2 % 4))) * MmaType<T>::chunk;
}
// A tile of that depth by `columns` (64 or more), the depth outside. ldmatrix takes 8 rows of 16-bit floats; TF32
// is read word by word, by a warp from 4 rows.
template <class T, int columns>
FASTCNN_INLINE int tile_place_across(int k, int chunk) {
  static_assert(columns % 64 == 0);
  return k * columns + (chunk ^ (sizeof(T) == 2 ? k % 8 : k % 4 * 2)) * MmaType<T>::chunk;
}

// ---- fragments of a tile
// ------------------------------------------------------------------------
// (16, step) of A from row `row` and depth `kk` on.
template <class T, bool along_k, int rows>
FASTCNN_DEVICE void load_a(const T* tile, int row, int kk, uint32_t (&r)[4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  constexpr int chunk = MmaType<T>::chunk;
  if constexpr (along_k) {
    load_matrices<false>(tile + tile_place<T>(row + lane % 16, kk / chunk + lane / 16), r);
  } else if constexpr (sizeof(T) == 2) {
    load_matrices<true>(
        tile + tile_place_across<T, rows>(kk + lane / 16 * 8 + lane % 8, row / chunk + lane / 8 % 2), r);
  } else {
    FASTCNN_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int k = kk + lane % 4 + i / 2 * 4, at = row + lane / 4 + i % 2 * 8;
      r[i] = reinterpret_cast<const uint32_t*>(tile)[tile_place_across<T, rows>(k, at / chunk) + at % chunk];
    }
  }
  if constexpr (is_same<T, float>) {
    FASTCNN_UNROLL
    for (int i = 0; i < 4; ++i) r[i] = to_tf32(r[i]);
  }
}
// Two of B, (step, 8) each, from column `column` on: r[0], r[1] and r[2], r[3].
template <class T, bool along_k, int columns>
FASTCNN_DEVICE void load_b(const T* tile, int column, int kk, uint32_t (&r)[4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  constexpr int chunk = MmaType<T>::chunk;
  if constexpr (along_k) {
    load_matrices<false>(tile + tile_place<T>(column + lane / 16 * 8 + lane % 8, kk / chunk + lane / 8 % 2), r);
  } else if constexpr (sizeof(T) == 2) {
    load_matrices<true>(tile + tile_place_across<T, columns>(kk + lane % 16, column / chunk + lane / 16), r);
  } else {
    FASTCNN_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int k = kk + lane % 4 + i % 2 * 4, at = column + lane / 4 + i / 2 * 8;
      r[i] = reinterpret_cast<const uint32_t*>(tile)[tile_place_across<T, columns>(k, at / chunk) + at % chunk];
    }
  }
  if constexpr (is_same<T, float>) {
    FASTCNN_UNROLL
    for (int i = 0; i < 4; ++i) r[i] = to_tf32(r[i]);
  }
}

}  // namespace fastcnn::cuda
