// What it is: what the files of the CUDA convolutions give to one another. What it is not: the lists of ops
// (lists.h).
#pragma once
#include "backend/cuda/lists.h"

namespace fastcnn::cuda {

// The bias gradient of a conv2d_bwd_weights call (its second result, if any), and what of the beginning of the
// call's workspace that takes.
int64_t conv2d_bias_bytes(const Call& c);
void conv2d_bias_gradient(const Call& c);

// By the copy engine and wgmma.
Implementation conv2d_boxes();
Implementation conv2d_bwd_data_boxes();
Implementation conv2d_bwd_weights_boxes();
Implementation conv2d_bwd_weights_strips();

// Few channels, memory bound: every pixel is brought once for all taps.
Implementation conv2d_narrow_strips();
Implementation conv2d_bwd_data_narrow_strips();
Implementation conv2d_bwd_weights_narrow_strips();
Implementation conv2d_halo();
Implementation conv2d_bwd_data_halo();
Implementation conv2d_bwd_weights_halo();

// 1x1, few channels on one side, memory bound.
Implementation conv2d_pointwise();
Implementation conv2d_bwd_data_pointwise();
Implementation conv2d_bwd_weights_pointwise();

// Channels that do not fill runs of 16 bytes, by way of copies.
Implementation conv2d_widened();
Implementation conv2d_bwd_data_widened();
Implementation conv2d_bwd_weights_widened();

// Few channels and a stride: squares of pixels made channels.
Implementation conv2d_space_to_depth();
Implementation conv2d_bwd_weights_space_to_depth();

}  // namespace fastcnn::cuda
