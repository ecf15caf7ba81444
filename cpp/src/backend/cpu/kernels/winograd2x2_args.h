// What it is: the struct that the F(4x4, 2x2) Winograd kernels and their adaptor share, and the layout of what
// they exchange. What it is not: when it pays or how tiles are grouped (backend/cpu/conv2d_winograd2x2.cpp).
#pragma once
#include <stdint.h>

#include "backend/cpu/kernels/winograd_args.h"

namespace fastcnn {

// Sums of 2x2 convolutions of stride 1, as a 4x4 or 3x3 convolution of stride 2 is one: of its taps those of equal
// parity meet pixels of equal parity. Forward adds 4 parts of the input, one for each parity of a pixel; backward
// to data is made in 4 parts of the output, one for each parity of dx, which share their windows of dy (3x3) or
// are tasks of their own (4x4). A tile is 4x4 outputs and reads from each part a window of 5x5 pixels, `step`
// apart. A part that has one row of taps (3x3) has zeros at infinity, whose products are left out; columns
// likewise. A transformed window is 25 planes; a plane lies as [part][channels / lanes][tile][lanes], missing
// channels as zeros. Parts are in an order in which those that meet a plane follow each other.
struct Winograd2x2Task : WinogradOutputs {
  int64_t H = 0, W = 0, C = 0, x_n = 0, x_h = 0, x_w = 0;      // input, strides in floats
  int64_t parts = 1, outs = 1;                                 // of the input, of the output: one of them is 1
  int64_t step = 1, h0[4] = {}, w0[4] = {};                    // of an input part: the pixel output 0 meets first
  int64_t part_y[4] = {}, part_oH[4] = {}, part_oW[4] = {};    // of an output part: offset in y, its rows, columns
  int64_t taps_h[4] = {2, 2, 2, 2}, taps_w[4] = {2, 2, 2, 2};  // rows and columns of a part's taps: 1 or 2
  int64_t w_part[4] = {}, w_h = 0, w_w = 0, w_o = 0, w_c = 0;  // weights: first tap of a part, strides
  const float* x = nullptr;
  const float* w = nullptr;
  NormIn norm;  // x is read through it

  // The plan: tiles [tile0, tile0 + tiles) are transformed together; their outputs are made in `groups` of tiles
  // and `blocks` of channels of each output part. The weights of `depth` channels, a multiple of the lanes, are
  // transformed at a time, unless wt holds all of them.
  int64_t tile0 = 0, tiles = 0, groups = 1, blocks = 1, depth = 0;
  float* u = nullptr;  // transformed windows, `places` tiles in a plane
  int64_t places = 0, u_plane = 0;
  float* wt = nullptr;  // transformed weights: [output part][block][plane of winograd_plane floats]
  int64_t ahead = 0;    // tiles behind these whose pixels are asked for meanwhile

  // The gradient of the weights: dy is the output image, dw has the strides of w. Vectors of all parts are dealt
  // to blocks together, or where they have different planes (apart), those of each part.
  const float* dy = nullptr;
  float* e = nullptr;  // transformed tiles of dy
  int64_t e_plane = 0;
  float* dw = nullptr;
  int32_t apart = 0;
  int64_t chunks = 1;     // by groups of at most `places` tiles
  float* sums = nullptr;  // of each chunk: [block][plane of winograd_plane floats][O, whole vectors][vectors]
  int64_t sums_chunk = 0;
  int32_t shared = 0;  // as in WinogradTask
  int32_t add = 0;     // dw += instead of dw =
};

}  // namespace fastcnn
