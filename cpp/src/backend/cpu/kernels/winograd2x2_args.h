// What it is: the struct that the F(4x4, 2x2) Winograd kernels and their adaptor share, and the layout of what
// they exchange. What it is not: when it pays or how tiles are grouped (backend/cpu/conv2d_winograd2x2.cpp).
#pragma once
#include <stdint.h>

#include "fastcnn/params.h"

namespace fastcnn {

// Sums of 2x2 convolutions of stride 1, as a 4x4 convolution of stride 2 is one: of its taps those of equal parity
// meet pixels of equal parity. Forward adds 4 parts, one for each parity of a pixel; backward to data is 4 tasks
// of one part, one for each parity of dx. A tile is 4x4 outputs and reads from each part a window of 5x5 pixels,
// `step` apart. A transformed window is 25 planes; a plane lies as [part][channels / lanes][tile][lanes], missing
// channels as zeros.
struct Winograd2x2Task {
  int64_t N = 0, H = 0, W = 0, C = 0, x_n = 0, x_h = 0, x_w = 0;  // input, strides in floats
  int64_t oH = 0, oW = 0, O = 0, y_n = 0, y_h = 0, y_w = 0;       // output
  int64_t parts = 1, step = 1, h0[4] = {}, w0[4] = {};            // the pixel that output 0 meets first
  int64_t tH = 0, tW = 0;                                         // grid of tiles
  int64_t w_part[4] = {}, w_h = 0, w_w = 0, w_o = 0, w_c = 0;     // weights: first tap of a part, strides
  const float* x = nullptr;
  const float* w = nullptr;
  float* y = nullptr;
  const float* bias = nullptr;      // (O) or null
  const float* residual = nullptr;  // strides of y, or null
  Act act = Act::none;              // none, relu or relu6
  const float* zeros = nullptr;     // as many as the larger of C and O, for pixels outside the image

  // The plan: tiles [tile0, tile0 + tiles) are transformed together; their outputs are made in `groups` of tiles
  // and `blocks` of channels. The weights of `depth` channels, a multiple of the lanes, are transformed at a time.
  int64_t tile0 = 0, tiles = 0, groups = 1, blocks = 1, depth = 0;
  float* u = nullptr;  // transformed windows, `places` tiles in a plane
  int64_t places = 0, u_plane = 0;

  // The gradient of the weights: dy is the output image, dw has the strides of w.
  const float* dy = nullptr;
  float* e = nullptr;  // transformed tiles of dy
  int64_t e_plane = 0;
  float* dw = nullptr;
  int32_t shared = 0;  // as in WinogradTask
  int32_t add = 0;     // dw += instead of dw =
};

}  // namespace fastcnn
