// What it is: the argument struct of the pooling kernels: windows and covers of both axes as tables, made once a
// call. What it is not: the rules that fill them (windows.h).
#pragma once
#include <stdint.h>

#include "backend/cpu/kernels/windows.h"

namespace fastcnn::cpu {

// Work items: forward (n*oH + oh) * cblocks + cb, backward (n*H + h) * cblocks + cb; a block is kPoolVectors
// vectors of channels, so the split never cuts a sum.
constexpr int kPoolVectors = 4;

struct PoolArgs {
  int64_t C, H, W, oH, oW, cblocks;
  const PoolWindow *rows, *cols;             // of oh, of ow
  const PoolCover *cover_rows, *cover_cols;  // of h, of w: backward only
  const float *row_size, *col_size;          // avg: extents whose product is the divisor, of oh, of ow
  const float* x;                            // max, avg: input; backward: dy
  float* y;                                  // output; backward: dx
  int32_t* index;                            // max
  int nt;                                    // backward: dx goes past the caches
};

}  // namespace fastcnn::cpu
