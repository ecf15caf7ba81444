// What it is: the argument structs of the int8 kernels. What it is not: how weights become this order
// (backend/cpu/quantized_conv2d.cpp) or how work is cut.
#pragma once
#include <stdint.h>

namespace fastcnn::cpu {

constexpr int64_t kQuantizedTaps = 128;    // the most that a kernel takes
constexpr int64_t kQuantizedPixels = 256;  // of a part

// From int32 sums to results; see QuantizedConv2dParams.
struct Requantize {
  const float* multiplier = nullptr;  // by channel, in the order of the kernel
  const float* offset = nullptr;
  const uint8_t* residual = nullptr;  // of y's shape
  float residual_multiplier = 0, low = 0, high = 255;
  int32_t to_float = 0;  // y is float32
  bool to_sums = false;  // y holds the sums, int32, in whole vectors
};

// Words are 32 bits of 4 bytes, or of 2 numbers of 16 bits where the ISA multiplies those (quantized_tile);
// weights and x alike.
//
// A convolution as taps of `words` words that lie together: each output pixel reads one run of them for each tap,
// at x + n*x_n + h*x_h + w*x_w with h = oh*sH - pT + th*dH, w alike, or `zeros` outside of the image. What lies
// behind the numbers of a run in its last word meets weights of 0. Weights: for each group and block of vector
// lanes of channels, for each tap, words for each lane; `start`: what sums start from, -x_zero * (sum of weights).
struct QuantizedConvTask {
  int64_t N = 0, H = 0, W = 0, oH = 0, oW = 0, taps_h = 1, taps_w = 1;
  int64_t sH = 1, sW = 1, pT = 0, pL = 0, dH = 1, dW = 1, words = 0;
  int64_t groups = 1, x_group = 0, O = 0, blocks = 0;  // O, blocks of lanes: of a group
  int64_t x_n = 0, x_h = 0, x_w = 0;                   // bytes
  int64_t y_pixel = 0;                                 // elements between pixels of y
  const uint8_t* x = nullptr;
  const uint8_t* zeros = nullptr;
  const void* w = nullptr;
  const int32_t* start = nullptr;
  Requantize out;
  void* y = nullptr;
  // Work items: (parts of pixels) x (groups x panels), the first slower where pixels_first.
  int64_t tile = 1, panel = 1, panels = 1, part = 1,
          parts = 1;  // pixels of a tile, blocks of a panel, tiles of a part
  int32_t pixels_first = 1;
};

// F(2x2, 3x3) on 16 bits; quantized_winograd.cpp tells how. x: a widened part (2 rows + 2, W, C) of an image; v:
// (16, tiles, C); sums: (16, tiles, width). Results are `channels` outputs from `channel` on of rows of y from
// `oh` on.
struct QuantizedWinogradTask {
  int64_t C = 0, W = 0, rows = 0, columns = 0;  // the latter in tiles
  int64_t oh = 0, oH = 0, oW = 0, O = 0;        // of the image
  int64_t channel = 0, channels = 0, width = 0;
  const int16_t* x = nullptr;
  int16_t* v = nullptr;
  const int32_t* sums = nullptr;
  const int32_t* start = nullptr;  // as those of `out`, of the first channel
  Requantize out;
  void* y = nullptr;  // of the image
};

// Depthwise, in one of three forms; each makes words of 4 or 2 taps, which meet words of weights:
// - words of all taps of a pixel, in their order;
// - pair: words of 4 columns, a row of a window of 3 and of its right neighbour's, both of which they serve;
// - group > 1: as the first, for `group` pixels that lie together as if they were one with more channels.
// w holds for each 4 vectors of channels, each word and each pixel of a pair 4 vectors of words. Channels stand in
// the order that interleaving bytes gives.
struct QuantizedDepthwiseTask {
  int64_t N = 0, C = 0, H = 0, W = 0, oH = 0, oW = 0, kH = 1, kW = 1;
  int64_t sH = 1, sW = 1, pT = 0, pL = 0, dH = 1, dW = 1;
  int64_t group = 1;
  bool pair = false;
  const uint8_t* x = nullptr;
  const uint8_t* zeros = nullptr;  // group * C bytes
  const void* w = nullptr;
  const int32_t* start = nullptr;
  Requantize out;
  void* y = nullptr;
};

}  // namespace fastcnn::cpu
