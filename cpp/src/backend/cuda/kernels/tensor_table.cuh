// What it is: a table of tensors (pointers, sizes) that one launch takes: each block works on a stretch of one of
// them. What it is not: which tensors go together (optim.cu, elementwise.cu, batch_norm.cu).
#pragma once
#include "backend/cuda/device.cuh"

#if defined(__CUDACC__)
#define FASTCNN_GRID_CONSTANT __grid_constant__
#else
#define FASTCNN_GRID_CONSTANT
#endif

namespace fastcnn::cuda {

// Arguments of a kernel are 4 KiB, from CUDA 12.1 on 32764 bytes.
#if defined(CUDART_VERSION) && CUDART_VERSION < 12010
constexpr int kMostTensors = 40;
#else
constexpr int kMostTensors = 350;
#endif

template <class Entry, int most>
struct TensorTable {
  Entry tensor[most];
  int32_t first_block[most];
  int32_t count = 0, blocks = 0;
  FASTCNN_DEVICE int of_block(int32_t block) const {  // the last that begins at or before it
    if constexpr (most == 1) return 0;
    int low = 0, high = count - 1;
    while (low < high) {
      const int middle = (low + high + 1) / 2;
      if (first_block[middle] <= block)
        low = middle;
      else
        high = middle - 1;
    }
    return low;
  }
  void add(const Entry& entry, int64_t entry_blocks) {
    tensor[count] = entry;
    first_block[count] = blocks;
    blocks += static_cast<int32_t>(entry_blocks);
    ++count;
  }
};

}  // namespace fastcnn::cuda
