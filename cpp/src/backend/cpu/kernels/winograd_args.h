// What it is: the struct that the Winograd kernels of stride 1 and their adaptor share, and the layout of what
// they exchange. What it is not: when Winograd pays or how tiles are grouped (backend/cpu/conv2d_winograd.cpp).
#pragma once
#include <stdint.h>

#include "backend/cpu/kernels/kernel_args.h"
#include "fastcnn/params.h"

namespace fastcnn {

// Memory that is read or written soon, asked for while the cores multiply.
struct FetchRange {
  const float* p = nullptr;
  int64_t floats = 0;
};

// The outputs of a convolution in tiles of m x m. Of the grid's rows of tiles the first fH have m rows of outputs,
// the others m - 1, which need no products at infinity. Columns likewise. Tiles are numbered by kind, so that the
// tiles of any product follow each other (rows x columns: whole x narrow, whole x whole, narrow x whole, narrow x
// narrow), within a kind n, row, column.
struct WinogradOutputs {
  int64_t m = 4;                                                    // outputs along a side of a tile
  int64_t N = 0, oH = 0, oW = 0, O = 0, y_n = 0, y_h = 0, y_w = 0;  // strides in floats
  int64_t tH = 0, tW = 0, fH = 0, fW = 0;  // the grid; of it, rows and columns of whole tiles
  float* y = nullptr;
  const float* bias = nullptr;      // (O) or null
  const float* residual = nullptr;  // strides of y, or null
  Act act = Act::none;              // none, relu or relu6
  MomentsOut moments;               // of y, float32; a part is a group of tiles
  int32_t stream = 0;               // float32: y past the caches, where its vectors are lines
};

// One convolution of stride 1 (or one group of it) as F(m x m, r x r): F(4x4, 3x3) or F(2x2, 5x5); m + r is 7.
// Each tile reads a window of 6x6 inputs. A transformed window is 36 planes; a plane of tiles lies as [channels /
// lanes][tile][lanes], missing channels as zeros.
struct WinogradTask : WinogradOutputs {
  int64_t H = 0, W = 0, C = 0, x_n = 0, x_h = 0, x_w = 0;  // input, strides in floats
  int64_t pT = 0, pL = 0;                                  // padding
  // Strides of the weights, w_v from one vector of outputs to the next; a negative w_tap walks them mirrored.
  int64_t w_o = 0, w_tap = 0, w_c = 0, w_v = 0;
  // Of the bf16 kernels: addresses of bfloat16 (x, w, y, bias, residual, dy), strides in elements. dw is float32.
  const float* x = nullptr;
  const float* w = nullptr;
  int32_t whole_pixels = 0;      // pixels of x are whole vectors, of which C channels count
  NormIn norm;                   // float32: x is read through it
  NormSums sums_before;          // float32: y is a gradient; parts as those of moments
  const float* zeros = nullptr;  // as many as the larger of C and O, for pixels outside the image

  // The plan. Output vectors are dealt evenly to `blocks`, tiles to groups of at most `group`; those of the
  // gradient of the weights are whole `unit`s of tiles.
  int64_t blocks = 1, group = 1, unit = 1;
  FetchRange fetch[4];  // by groups
  float* wt = nullptr;  // transformed weights: [block][plane of winograd_plane floats]
  // What a call is about, and the transformed windows shared by threads: planes of `u_plane` floats.
  int64_t tile0 = 0, tiles = 0, u_plane = 0;
  float* u = nullptr;
  int64_t depth = 0;  // input channels whose weights are transformed at a time

  // The gradient of the weights: dw(o, tap, c) at w_o, w_tap, 1.
  const float* dy = nullptr;
  float* e = nullptr;  // transformed dy, like u
  int64_t e_plane = 0;
  float* dw = nullptr;
  float* dbias = nullptr;  // (O), of each chunk, or null
  int64_t chunks = 1;
  float* sums = nullptr;  // of each chunk: [block of C][plane][O, whole blocks of lanes][vectors of the block]
  int64_t sums_chunk = 0;
  int32_t shared =
      0;  // windows, tiles of dy or weights are for all threads: past the caches where a vector is a line
  int32_t add = 0;  // dw += instead of dw =; by groups: sums +=
};

// An odd number of cache lines, so that the planes of one tile spread over all sets of a cache.
FASTCNN_INLINE int64_t winograd_plane(int64_t floats) { return ((floats + 15) / 16 | 1) * 16; }

// Vectors of channels before block b of `blocks`, among which they are dealt evenly.
FASTCNN_INLINE int64_t winograd_vectors_before(int64_t vectors, int64_t blocks, int64_t b) {
  return vectors * b / blocks;
}

}  // namespace fastcnn
