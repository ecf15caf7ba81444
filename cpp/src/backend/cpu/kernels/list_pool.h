// What it is: the rows of the kernel list for pool; see kernels.h. X(name, return type, arguments…)
#pragma once
#include "backend/cpu/kernels/pool_args.h"

#define FASTCNN_KERNELS_POOL(X)                                      \
  X(max_pool, void, const PoolArgs*, int64_t begin, int64_t end)     \
  X(max_pool_bwd, void, const PoolArgs*, int64_t begin, int64_t end) \
  X(avg_pool, void, const PoolArgs*, int64_t begin, int64_t end)     \
  X(avg_pool_bwd, void, const PoolArgs*, int64_t begin, int64_t end)
// Those that convert to bfloat16 or multiply its pairs.
#define FASTCNN_KERNELS_POOL_BF16(X)                                      \
  X(max_pool_bf16, void, const PoolArgs*, int64_t begin, int64_t end)     \
  X(max_pool_bwd_bf16, void, const PoolArgs*, int64_t begin, int64_t end) \
  X(avg_pool_bf16, void, const PoolArgs*, int64_t begin, int64_t end)     \
  X(avg_pool_bwd_bf16, void, const PoolArgs*, int64_t begin, int64_t end)
