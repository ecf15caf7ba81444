// What it is: what four warps do as one on sm_90a: a 64 x N x 16 product of 16-bit floats that are read from
// shared memory by descriptors while the warps go on (wgmma), and where its operands lie there: lines of 128
// bytes, chunks of 16 bytes exchanged so that neither writing nor reading meets a bank twice. The maps are those
// of the PTX ISA (wgmma, 128-byte swizzle, K-major and MN-major); on the host the product is taken from the same
// places at once. What it is not: TMA; for other architectures than 9.0a.
#pragma once
#include "backend/cuda/kernels/tensor_core.cuh"

namespace fastcnn::cuda {

constexpr int kLineDepth = 64;  // of a stage, in elements: 128 bytes

// Row `mn` of a tile whose depth lies inside; chunk of 8 along the depth. In elements.
FASTCNN_INLINE int line_place(int mn, int chunk) { return (mn * 8 + (chunk ^ (mn % 8))) * 8; }
// Row `k` of a tile whose depth lies outside; chunk of 8 along the rows or columns: blocks of 64 by 8.
FASTCNN_INLINE int line_place_across(int k, int chunk) {
  return ((chunk / 8 * 8 + k / 8) * 64 + k % 8 * 8 + (chunk % 8 ^ (k % 8))) * 8;
}
template <bool along_k>
FASTCNN_INLINE int line_at(int mn, int k) {
  return along_k ? line_place(mn, k / 8) + k % 8 : line_place_across(k, mn / 8) + mn % 8;
}

#if defined(__CUDACC__)
// Of an operand from row or column `mn` (a multiple of 64, or 0) and depth `k` (a multiple of 16) on.
template <bool along_k>
FASTCNN_DEVICE uint64_t line_descriptor(const void* tile, int mn, int k) {
  const auto base = static_cast<uint32_t>(__cvta_generic_to_shared(tile));
  const uint32_t at = base + (along_k ? mn * 128 + k * 2 : mn / 64 * 8192 + k / 8 * 1024);
  constexpr uint64_t across = along_k ? 1 : 8192 >> 4, groups = 1024 >> 4, swizzle = uint64_t{1} << 62;
  return (at & 0x3ffff) >> 4 | across << 16 | groups << 32 | swizzle;
}
// Of rows of `bytes` (32, 64 or 128), whose chunks are exchanged by the address, from any row on: of an operand's
// rows or columns, or of its depth, of which `across` bytes further are the next ones of the other side.
template <int bytes>
FASTCNN_DEVICE uint64_t row_descriptor(uint32_t at, int across) {
  static_assert(bytes == 32 || bytes == 64 || bytes == 128);
  constexpr uint64_t groups = bytes * 8 >> 4, swizzle = bytes == 128 ? 1 : bytes == 64 ? 2 : 3;
  return (at & 0x3ffff) >> 4 | static_cast<uint64_t>(across >> 4) << 16 | groups << 32 | swizzle << 62;
}
// Of an operand of 64 rows or columns whose depth lies outside, from any depth `k` on: the exchange of chunks goes
// by the address, so a tile may be entered between its groups of 8.
FASTCNN_DEVICE uint64_t line_descriptor_from(const void* tile, int k) {
  const uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(tile)) + k * 128;
  return (at & 0x3ffff) >> 4 | uint64_t{8192 >> 4} << 16 | uint64_t{1024 >> 4} << 32 | uint64_t{1} << 62;
}
#endif

// What ordinary and asynchronous copies wrote is seen by wgmma after this and a barrier.
FASTCNN_DEVICE void publish_shared() {
#if defined(__CUDACC__)
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}
// The number, of which the compiler knows nothing.
FASTCNN_DEVICE int32_t hidden(int32_t v) {
#if defined(__CUDACC__)
  asm volatile("" : "+r"(v));
#endif
  return v;
}
// Registers of a group of four warps given back to, and taken from, the block.
template <int count>
FASTCNN_DEVICE void keep_registers() {
#if defined(__CUDACC__) && defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(count));
#endif
}
template <int count>
FASTCNN_DEVICE void take_registers() {
#if defined(__CUDACC__) && defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(count));
#endif
}
FASTCNN_DEVICE void begin_products() {
#if defined(__CUDACC__) && defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}
FASTCNN_DEVICE void commit_products() {
#if defined(__CUDACC__) && defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}
template <int pending>
FASTCNN_DEVICE void wait_products() {
#if defined(__CUDACC__) && defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
#endif
}

// d += A B with A (64,16) from row `m` on, B (16,N), both from depth k on. Of thread t and the 8 columns j: d[4j],
// d[4j+1] are row t%128/32*16 + t%32/4, columns 8j + t%4*2 and the next; d[4j+2], d[4j+3] the row 8 further.
#if defined(__CUDACC__)
template <class T, int N, bool a_along_k, bool b_along_k>
FASTCNN_DEVICE void multiply_described(float (&d)[N / 2], uint64_t a, uint64_t b) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define FASTCNN_WGMMA_ACC8(i)                                                                                 \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
      "+f"(d[i + 7])
#define FASTCNN_WGMMA_ACC32(i) \
  FASTCNN_WGMMA_ACC8(i), FASTCNN_WGMMA_ACC8(i + 8), FASTCNN_WGMMA_ACC8(i + 16), FASTCNN_WGMMA_ACC8(i + 24)
#define FASTCNN_WGMMA_16(TYPE)                                                                                 \
  asm volatile("{.reg .pred p; setp.eq.b32 p, 0, 0; wgmma.mma_async.sync.aligned.m64n16k16.f32." TYPE "." TYPE \
               " {"                                                                                            \
               "%0,%1,%2,%3,%4,%5,%6,%7"                                                                       \
               "}, %8, %9, p, 1, 1, %10, %11;}"                                                                \
               : FASTCNN_WGMMA_ACC8(0)                                                                         \
               : "l"(a), "l"(b), "n"(a_along_k ? 0 : 1), "n"(b_along_k ? 0 : 1))
#define FASTCNN_WGMMA_32(TYPE)                                                                                 \
  asm volatile("{.reg .pred p; setp.eq.b32 p, 0, 0; wgmma.mma_async.sync.aligned.m64n32k16.f32." TYPE "." TYPE \
               " {"                                                                                            \
               "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"                                         \
               "}, %16, %17, p, 1, 1, %18, %19;}"                                                              \
               : FASTCNN_WGMMA_ACC8(0), FASTCNN_WGMMA_ACC8(8)                                                  \
               : "l"(a), "l"(b), "n"(a_along_k ? 0 : 1), "n"(b_along_k ? 0 : 1))
#define FASTCNN_WGMMA_48(TYPE)                                                                                 \
  asm volatile("{.reg .pred p; setp.eq.b32 p, 0, 0; wgmma.mma_async.sync.aligned.m64n48k16.f32." TYPE "." TYPE \
               " {"                                                                                            \
               "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"                                        \
               "%16,%17,%18,%19,%20,%21,%22,%23"                                                               \
               "}, %24, %25, p, 1, 1, %26, %27;}"                                                              \
               : FASTCNN_WGMMA_ACC8(0), FASTCNN_WGMMA_ACC8(8), FASTCNN_WGMMA_ACC8(16)                          \
               : "l"(a), "l"(b), "n"(a_along_k ? 0 : 1), "n"(b_along_k ? 0 : 1))
#define FASTCNN_WGMMA_96(TYPE)                                                                                 \
  asm volatile("{.reg .pred p; setp.eq.b32 p, 0, 0; wgmma.mma_async.sync.aligned.m64n96k16.f32." TYPE "." TYPE \
               " {"                                                                                            \
               "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"                                        \
               "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"                              \
               "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"                               \
               "}, %48, %49, p, 1, 1, %50, %51;}"                                                              \
               : FASTCNN_WGMMA_ACC32(0), FASTCNN_WGMMA_ACC8(32), FASTCNN_WGMMA_ACC8(40)                        \
               : "l"(a), "l"(b), "n"(a_along_k ? 0 : 1), "n"(b_along_k ? 0 : 1))
#define FASTCNN_WGMMA_64(TYPE)                                                                                 \
  asm volatile("{.reg .pred p; setp.eq.b32 p, 0, 0; wgmma.mma_async.sync.aligned.m64n64k16.f32." TYPE "." TYPE \
               " {"                                                                                            \
               "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"                                        \
               "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"                               \
               "}, %32, %33, p, 1, 1, %34, %35;}"                                                              \
               : FASTCNN_WGMMA_ACC32(0)                                                                        \
               : "l"(a), "l"(b), "n"(a_along_k ? 0 : 1), "n"(b_along_k ? 0 : 1))
#define FASTCNN_WGMMA_128(TYPE)                                                                                 \
  asm volatile("{.reg .pred p; setp.eq.b32 p, 0, 0; wgmma.mma_async.sync.aligned.m64n128k16.f32." TYPE "." TYPE \
               " {"                                                                                             \
               "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"                                         \
               "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"                               \
               "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"                               \
               "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"                                \
               "}, %64, %65, p, 1, 1, %66, %67;}"                                                               \
               : FASTCNN_WGMMA_ACC32(0), FASTCNN_WGMMA_ACC32(32)                                                \
               : "l"(a), "l"(b), "n"(a_along_k ? 0 : 1), "n"(b_along_k ? 0 : 1))
#define FASTCNN_WGMMA_256(TYPE)                                                                                 \
  asm volatile("{.reg .pred p; setp.eq.b32 p, 0, 0; wgmma.mma_async.sync.aligned.m64n256k16.f32." TYPE "." TYPE \
               " {"                                                                                             \
               "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"                                         \
               "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"                               \
               "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"                               \
               "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63,"                               \
               "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,"                               \
               "%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95,"                               \
               "%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,"                   \
               "%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"                \
               "}, %128, %129, p, 1, 1, %130, %131;}"                                                           \
               : FASTCNN_WGMMA_ACC32(0), FASTCNN_WGMMA_ACC32(32), FASTCNN_WGMMA_ACC32(64),                      \
                 FASTCNN_WGMMA_ACC32(96)                                                                        \
               : "l"(a), "l"(b), "n"(a_along_k ? 0 : 1), "n"(b_along_k ? 0 : 1))
  static_assert(N == 16 || N == 32 || N == 48 || N == 64 || N == 96 || N == 128 || N == 256);
  if constexpr (is_same<T, bfloat16>) {
    if constexpr (N == 16) FASTCNN_WGMMA_16("bf16");
    if constexpr (N == 32) FASTCNN_WGMMA_32("bf16");
    if constexpr (N == 48) FASTCNN_WGMMA_48("bf16");
    if constexpr (N == 64) FASTCNN_WGMMA_64("bf16");
    if constexpr (N == 96) FASTCNN_WGMMA_96("bf16");
    if constexpr (N == 128) FASTCNN_WGMMA_128("bf16");
    if constexpr (N == 256) FASTCNN_WGMMA_256("bf16");
  } else {
    if constexpr (N == 16) FASTCNN_WGMMA_16("f16");
    if constexpr (N == 32) FASTCNN_WGMMA_32("f16");
    if constexpr (N == 48) FASTCNN_WGMMA_48("f16");
    if constexpr (N == 64) FASTCNN_WGMMA_64("f16");
    if constexpr (N == 96) FASTCNN_WGMMA_96("f16");
    if constexpr (N == 128) FASTCNN_WGMMA_128("f16");
    if constexpr (N == 256) FASTCNN_WGMMA_256("f16");
  }
#undef FASTCNN_WGMMA_16
#undef FASTCNN_WGMMA_32
#undef FASTCNN_WGMMA_48
#undef FASTCNN_WGMMA_64
#undef FASTCNN_WGMMA_96
#undef FASTCNN_WGMMA_128
#undef FASTCNN_WGMMA_256
#undef FASTCNN_WGMMA_ACC32
#undef FASTCNN_WGMMA_ACC8
#endif
}
template <class T, int N, bool a_along_k, bool b_along_k>
FASTCNN_DEVICE void multiply_lines(float (&d)[N / 2], const T* A, int m, const T* B, int k) {
  multiply_described<T, N, a_along_k, b_along_k>(d, line_descriptor<a_along_k>(A, m, k),
                                                 line_descriptor<b_along_k>(B, 0, k));
}
#else
template <class T, int N, bool a_along_k, bool b_along_k>
void multiply_lines(float (&d)[N / 2], const T* A, int m, const T* B, int k) {
  const int t = static_cast<int>(threadIdx.x) % 128;
  for (int i = 0; i < N / 2; ++i) {
    const int row = m + t / 32 * 16 + t % 32 / 4 + i % 4 / 2 * 8, col = i / 4 * 8 + t % 4 * 2 + i % 2;
    for (int s = k; s < k + 16; ++s)
      d[i] += to_real(A[line_at<a_along_k>(row, s)]) * to_real(B[line_at<b_along_k>(col, s)]);
  }
}
#endif

// A stage: MI times 64 rows from `row` on, all of its depth.
template <class T, int MI, int BN, bool a_along_k, bool b_along_k>
FASTCNN_DEVICE void multiply_stage(float (&sum)[MI][BN / 2], const T* A, int row, const T* B) {
  begin_products();
  FASTCNN_UNROLL
  for (int k = 0; k < kLineDepth; k += 16) FASTCNN_UNROLL
  for (int i = 0; i < MI; ++i) multiply_lines<T, BN, a_along_k, b_along_k>(sum[i], A, row + i * 64, B, k);
  commit_products();
}

}  // namespace fastcnn::cuda
