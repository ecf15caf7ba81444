// What it is: how far apart pixels lie in the scratch of conv2d_weights_grad_bf16; its plan needs the same number.
#pragma once
#include "backend/cpu/kernels/kernel_args.h"

namespace fastcnn::cpu {

// Words from one pixel pair to the next: an odd number of cache lines, so that walking over pixels meets every set
// of the cache. Few words, and those of a merged window, stay dense.
FASTCNN_INLINE int64_t pair_pitch(int64_t words) { return words <= 16 ? words : (ceil_div(words, 16) | 1) * 16; }

}  // namespace fastcnn::cpu
