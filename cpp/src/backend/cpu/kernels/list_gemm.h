// What it is: the rows of the kernel list for gemm; see kernels.h. X(name, return type, arguments…)
#pragma once
#define FASTCNN_KERNELS_GEMM(X)                                          \
  /* items: B * groups * strips */                                       \
  X(gemm_windows, void, const GemmTask& t, int64_t begin, int64_t end)   \
  /* items: B * C where s_o is 1, else B * vectors of O */               \
  X(pack_weights, void, const PackTask& t, int64_t begin, int64_t end)   \
  /* items: columns of y; at most kFewRows rows */                       \
  X(matmul_few_rows, void, const FewTask& t, int64_t begin, int64_t end) \
  /* items: rows of y; b_n is 1 */                                       \
  X(matmul_outer, void, const FewTask& t, int64_t begin, int64_t end)
// Those that convert to bfloat16 or multiply its pairs.
#define FASTCNN_KERNELS_GEMM_BF16(X)                                                                              \
  /* the same on bfloat16, every pointer but that of packed weights; nc is 1; items of the second: B * pairs of C \
   */                                                                                                             \
  X(gemm_windows_bf16, void, const GemmTask& t, int64_t begin, int64_t end)                                       \
  X(pack_weights_bf16, void, const PackTask& t, int64_t begin, int64_t end)
