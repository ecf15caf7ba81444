// What it is: plain structs shared by kernels and the code that calls them, where params.h has no fitting one.
#pragma once
#include <stdint.h>

#include "fastcnn/dtype.h"
#include "fastcnn/params.h"

namespace fastcnn {

// A batch norm that is applied as an image is read: x stands for act((x - mean) * scale + shift).
struct NormIn {
  const float *mean = nullptr, *scale = nullptr, *shift = nullptr;  // of the channels
  Act act = Act::none;                                              // none, relu or relu6
  int64_t fetch = 0;  // where x lies in cache: floats from it to what is fetched meanwhile
  int32_t on = 0;     // known before the addresses are
};

// Where a convolution leaves the moments of what it writes. `on` is known before the addresses are.
struct MomentsOut {
  double* part = nullptr;   // (parts, 2, channels): mean and sum of squared deviations of each part of the pixels
  double* count = nullptr;  // (parts): pixels
  int64_t channels = 0;     // of the whole result
  float* sums = nullptr;    // depthwise: shift, sums and squares (3, whole vectors) of a part that is being made
  int32_t fresh = 0;        // depthwise: the part starts here
  int32_t on = 0;
};

// Where an image of gradients goes through the norm before it as it is written: the gradient behind the
// activation, and its sums. x, y and `to` lie as the image does, with its strides.
struct NormSums {
  const float* x = nullptr;                                         // the norm's input
  const float* y = nullptr;                                         // its output, or null: made from x
  const float *mean = nullptr, *scale = nullptr, *shift = nullptr;  // of the channels; the last two without y
  Act act = Act::none;                                              // none, relu or relu6
  // (2, channels) of each part of the pixels, `step` apart: sums of the gradient and of it times (x - mean), which
  // are added to what is there.
  double* part = nullptr;
  int64_t channels = 0, step = 0;
  float* to = nullptr;  // dense: where the gradients go, or null: over the image
  int32_t stream = 0;   // dense: past the caches
  int32_t on = 0;       // known before the addresses are
};

// The channels from `from` on.
FASTCNN_INLINE NormIn norm_from(const NormIn& norm, int64_t from) {
  NormIn n = norm;
  if (n.on) n.mean += from, n.scale += from, n.shift += from;
  return n;
}

// A batch of matrix products whose left rows are windows of an image: every convolution forward and backward to
// data and every matmul is one or a few of these. A matmul is a 1x1 window on one row of M pixels.
struct GemmTask {
  int64_t B = 1, x_b = 0, w_b = 0, y_b = 0,
          bias_b = 0;                          // batch (groups of a convolution) and its strides in floats
  int64_t N = 0, H = 0, W = 0, C = 0;          // input pixels and depth
  int64_t x_n = 0, x_h = 0, x_w = 0, x_c = 1;  // strides in floats
  int64_t oH = 0, oW = 0, O = 0;               // output grid and its channels
  int64_t y_n = 0, y_h = 0, y_w = 0;
  int64_t kH = 1, kW = 1, sH = 1, sW = 1, dH = 1, dW = 1, pT = 0, pL = 0;
  // Of gemm_windows_bf16: addresses of bfloat16 (w: words), strides in elements.
  const float* x = nullptr;
  const float* w = nullptr;  // packed by pack_weights
  float* y = nullptr;
  const float* bias = nullptr;      // (O) or null
  const float* residual = nullptr;  // strides of y, or null
  Act act = Act::none;              // none, relu or relu6
  ActParams late;                   // float32, forward: another activation, of outputs once they are stored
  // The plan: a strip is nb images x ohb rows x owb columns of outputs; its input is copied, padded, to scratch
  // when `pack` is set. Channels are taken in nc blocks. Output blocks are dealt to `groups` separate work items.
  int64_t nb = 1, ohb = 1, owb = 1, nc = 1, groups = 1;
  int32_t stream = 0;           // write y past the caches (aligned rows of whole vectors only)
  int32_t pack = 1, merge = 0;  // merge: the columns of a window are one run of kW*C floats
  int32_t sorted = 0;           // pixels of a strip by the taps that see the image: the others are left out
  int32_t by_strip = 0;         // all batches of a strip follow each other: they read the same lines
  NormIn norm;                  // float32, with pack and x_c of 1
  MomentsOut moments;           // of y, float32; a part is a strip
  NormSums sums_before;         // float32, one batch, vectors of channels at a time: y is a gradient
};

// Weights w(o, kh, kw, c) at src + o*s_o + kh*s_kh + kw*s_kw + c*s_c, for B batches, to the order gemm_windows
// reads.
struct PackTask {
  int64_t B = 1, src_b = 0, dst_b = 0, O = 0, kH = 1, kW = 1, C = 0, nc = 1;
  int shared = 0;  // all threads read them: past the caches where a vector is a line
  int64_t s_o = 0, s_kh = 0, s_kw = 0, s_c = 0;
  const float* src = nullptr;
  float* dst = nullptr;
};

constexpr int64_t kFewRowsOfGrad = 4;  // see WeightsGradTask::few

// Gradient of the weights: dw(o, kh, kw, c) = sum over pixels of dy(pixel, o) * x(pixel moved by the tap, c).
// Pixels are cut into strips as in GemmTask and strips into `chunks`, each with its own partial sum; a final pass
// adds the chunks in order. Input channels are cut into nc blocks, output channels into `groups` ranges.
struct WeightsGradTask {
  int64_t B = 1, x_b = 0, y_b = 0, w_b = 0;  // groups of the convolution
  int64_t N = 0, H = 0, W = 0, C = 0, x_n = 0, x_h = 0, x_w = 0;
  int64_t oH = 0, oW = 0, O = 0, y_n = 0, y_h = 0, y_w = 0;
  int64_t kH = 1, kW = 1, sH = 1, sW = 1, dH = 1, dW = 1, pT = 0, pL = 0;
  const float* x = nullptr;
  const float* dy = nullptr;
  float* dw = nullptr;     // chunk i at dw + i * B * w_b: (B, O, kH, kW, C), or (B, kH, kW, C, O) when o_inner
  float* dbias = nullptr;  // chunk i at dbias + i * B * O, or null
  int64_t nb = 1, ohb = 1, owb = 1, nc = 1, groups = 1, chunks = 1;
  int32_t merge = 0;    // the columns of a window are one run of kW*C floats
  int32_t o_inner = 0;  // vectors over output channels: for few input channels
  int32_t panels = 0;   // x is copied to panels of vectors instead of rows of pixels
  int32_t few = 0;      // one tile of at most kFewRowsOfGrad rows by one vector for each tap row is all of dw
  int32_t shared = 0;   // others have read dw: its first sums go past the caches where a vector is a line
  NormIn norm;          // float32
  // Where `strip1` is not 0: these strips of a chunk alone; the first of a chunk starts its sums.
  int64_t strip0 = 0, strip1 = 0;
  int64_t fetch_dy = 0;  // where dy lies in cache: floats from it to what is fetched meanwhile
};

// How conv2d_weights_grad copies what a strip needs of x. In panels a single tap row keeps every sH-th row only,
// and columns lie in phases by the step from word to word, so that output pixels are neighbours. `pixels`: of a
// word.
struct GradLayout {
  int64_t pixels, row_step, col_step, phases, row, tall, col, reach;
  bool panels;
  FASTCNN_INLINE GradLayout(const WeightsGradTask& t, int64_t pixels_)
      : pixels(pixels_),
        row_step(t.panels && t.kH == 1 ? t.sH : 1),
        col_step(t.panels ? pixels_ * t.sW : 1),
        row(t.sH / row_step),
        tall((t.kH - 1) * t.dH + 1),
        col(t.sW),
        reach((t.kW - 1) * t.dW),
        panels(t.panels) {
    phases = reach + 1 < col_step ? reach + 1 : col_step;
  }
  FASTCNN_INLINE int64_t rows(int64_t out) const { return (out - 1) * row + tall; }
  FASTCNN_INLINE int64_t cols(int64_t out) const {
    return panels ? (out + pixels - 1) / pixels + reach / col_step : (out - 1) * col + reach + 1;
  }
};

// Taps [from, to) of the window that starts at pixel `at` of an axis are inside the image.
struct TapsInside {
  int64_t from = 0, to;
  FASTCNN_INLINE TapsInside(int64_t at, int64_t taps, int64_t dilation, int64_t size) : to(taps) {
    while (from < to && at + from * dilation < 0) ++from;
    while (to > from && at + (to - 1) * dilation >= size) --to;
  }
};

// Neighbours along an axis whose windows have the same taps [k0, k1) inside the image.
struct Alike {
  int64_t first, count, k0, k1;
};
constexpr int64_t kMostSortedTaps = 8;                   // of a window along an axis
constexpr int64_t kMostAlike = 2 * kMostSortedTaps + 1;  // k0 and k1 never rise from one to the next
// Of `outputs`, the first of which starts at `at`; returns how many there are.
FASTCNN_INLINE int64_t cut_alike(int64_t outputs, int64_t at, int64_t stride, int64_t taps, int64_t dilation,
                                 int64_t size, Alike* to) {
  int64_t count = 0;
  for (int64_t i = 0; i < outputs; ++i, at += stride) {
    const TapsInside k(at, taps, dilation, size);
    if (count && to[count - 1].k0 == k.from && to[count - 1].k1 == k.to)
      ++to[count - 1].count;
    else
      to[count++] = Alike{i, 1, k.from, k.to};
  }
  return count;
}

constexpr int64_t kScratchFloats = 48 * 1024;  // per thread, on its stack
constexpr int64_t kStripPixels = 1024;
constexpr int64_t kCachedFloats = 128 * 1024;  // half of L2: of smaller images nothing is fetched ahead
constexpr int64_t kGradRowFloats = 20 * 1024;  // in addition, of dy in weight gradients
constexpr int64_t kGradFloats = kScratchFloats + kGradRowFloats + 128;

FASTCNN_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Blocks of at most `most` vectors that the outputs of gemm_windows and its packed weights are dealt to; an even
// number halves well. Of pairs none is taken apart for that: a single vector of 8 costs more than half of them.
FASTCNN_INLINE int64_t output_blocks(int64_t vectors, int64_t most) {
  const int64_t blocks = ceil_div(vectors, most);
  return blocks > 2 && most > 2 ? blocks + blocks % 2 : blocks;
}

}  // namespace fastcnn
