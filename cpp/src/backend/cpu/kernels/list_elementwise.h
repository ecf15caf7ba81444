// What it is: the rows of the kernel list for elementwise; see kernels.h. X(name, return type, arguments…)
// Elementwise kernels work on the output elements [begin, end) in the order of their EltLoop.
#pragma once
#include "backend/cpu/kernels/eltwise_args.h"

#define FASTCNN_KERNELS_ELEMENTWISE(X)                                                                            \
  X(unary_map, void, const EltLoop& loop, const UnaryParams& p, const void* x, DType x_type, void* y,             \
    DType y_type, int64_t begin, int64_t end)                                                                     \
  X(binary_map, void, const EltLoop& loop, Binary op, const void* a, const void* b, DType type, void* y,          \
    DType y_type, int64_t begin, int64_t end)                                                                     \
  X(where_map, void, const EltLoop& loop, const uint8_t* cond, const void* a, const void* b, void* y,             \
    int64_t size, int64_t begin, int64_t end)                                                                     \
  X(copy_map, void, const EltLoop& loop, const void* x, DType x_type, void* y, DType y_type, int64_t begin,       \
    int64_t end, int nt)                                                                                          \
  /* y[r*ldy + c] = x[c*ldx + r] for rows r in [begin, end), all cols */                                          \
  X(copy_transposed, void, const void* x, int64_t ldx, DType x_type, void* y, int64_t ldy, DType y_type,          \
    int64_t cols, int64_t begin, int64_t end)                                                                     \
  /* Reductions: item = output * chunks + chunk; each writes its partial result, the caller adds them in order.   \
   */                                                                                                             \
  X(reduce_runs, void, const ReduceLoop& loop, Reduce op, const void* x, DType x_type, int64_t chunk,             \
    float* partial, int64_t begin, int64_t end)                                                                   \
  /* The innermost kept dim is dense: items are (outer output, chunk of rows, block of kReduceColumns columns) */ \
  X(reduce_columns, void, const ReduceLoop& loop, Reduce op, const void* x, DType x_type, int64_t chunk,          \
    float* partial, int64_t begin, int64_t end)                                                                   \
  /* Sums: int64 partials for integers and bool, double for float64 */                                            \
  X(reduce_wide, void, const ReduceLoop& loop, Reduce op, const void* x, DType x_type, int64_t chunk,             \
    void* partial, int64_t begin, int64_t end)                                                                    \
  X(reduce_arg, void, const ReduceLoop& loop, Reduce op, const void* x, DType x_type, int64_t* y, int64_t begin,  \
    int64_t end)                                                                                                  \
  /* Words of Philox blocks [begin, end), four each, to words */                                                  \
  X(philox_words, void, uint64_t seed, uint64_t stream, uint32_t* words, int64_t begin, int64_t end)              \
  /* float32 uniform and normal numbers [begin, end); begin is a multiple of 4, y is the whole tensor */          \
  X(random_floats, void, Random op, double low, double high, uint64_t seed, uint64_t stream, float* y,            \
    int64_t begin, int64_t end)                                                                                   \
  /* One decision per element */                                                                                  \
  X(drop_elements, void, uint32_t threshold, float scale, uint64_t seed, uint64_t stream, const void* x, void* y, \
    DType type, int64_t begin, int64_t end)                                                                       \
  /* y[r, c] = x[r, c] * scale[c], 0 where scale is 0, for dense rows [begin, end) of n floats */                 \
  X(drop_columns, void, const float* scale, const void* x, void* y, DType type, int64_t n, int64_t begin,         \
    int64_t end)                                                                                                  \
  /* y[0..n) = sum over t of weight[t] * x[offset[t] + 0..n) */                                                   \
  X(combine_rows, void, const float* x, const int64_t* offset, const float* weight, int64_t taps, float* y,       \
    int64_t n)                                                                                                    \
  /* Pixels of C floats: y[o] = sum over start[o] <= t < start[o+1] of weight[t] * x[index[t]] */                 \
  X(combine_pixels, void, const float* x, const int64_t* start, const int64_t* index, const float* weight,        \
    int64_t outputs, int64_t C, float* y)                                                                         \
  X(add_into, void, float* y, const float* x, int64_t n)
