// What it is: boxes of tensors described to the copy engine (cuTensorMapEncode*, asked of the driver at run time,
// so that nothing links to it). What it is not: which boxes (kernels/tma_feed.h).
#pragma once
#include "backend/cuda/kernels/tma.cuh"
#include "backend/cuda/kernels/tma_feed.h"

#if defined(__CUDACC__)
namespace fastcnn::cuda {

bool has_copy_engine();  // does the driver know the calls?

// `pixels` of 64 channels of an N,H,W,C tensor. Do its limits hold what is asked?
bool pixels_fit(const Window& w, int64_t H, int64_t W, int64_t taps_down, int64_t taps_right);
void describe_pixels(CUtensorMap* map, DType t, const void* data, int64_t N, int64_t H, int64_t W, int64_t C,
                     const Window& w, int pixels);
// Boxes of (z, y, x) of a dense tensor of (Z, Y, X); 2-D where Z is 0.
void describe_tile(CUtensorMap* map, DType t, const void* data, int64_t Z, int64_t Y, int64_t X, int z, int y,
                   int x);

// Boxes of (h, w) pixels of an N,H,W,C tensor: all of 16 or 32 channels, else 64. Chunks of 16 bytes are exchanged
// within the bytes of a pixel.
void describe_strips(CUtensorMap* map, DType t, const void* data, int64_t N, int64_t H, int64_t W, int64_t C,
                     int h, int w);

}  // namespace fastcnn::cuda
#endif
