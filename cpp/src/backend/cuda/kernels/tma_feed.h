// What it is: which boxes of x, dy and the weights the copy engine brings for a tile and a step of the depth, for
// the three passes of a convolution: plain functions of the problem, for the kernel, for the host that describes
// the boxes to the engine and for tests that walk every element. What it is not: the copies (tma.cuh).
//
// A step is 64 of the depth. Boxes of pixels: the engine walks `count` pixels from (n, h, w) on through a window
// of the image (rows of `columns` pixels from `left` on in strides, `rows` of them from `top` on), then through
// the next image, and gives 64 channels of each, zeros outside.
#pragma once
#include "backend/cuda/kernels/gemm_load.cuh"

namespace fastcnn::cuda {

constexpr int kBoxDepth = 64;

struct Window {  // of an image of H by W
  int32_t top, left, rows, columns, stride_h, stride_w;
};
struct PixelBox {
  int32_t c, w, h, n, right, down;
};
struct WeightBox {
  int32_t c, tap, o;
};

FASTCNN_INLINE int32_t blocks_of(int32_t channels) { return (channels + kBoxDepth - 1) / kBoxDepth; }

template <class Load>
struct Feed;

// A: 64 channels of BM pixels of x at a tap; B: those of BN rows of the weights.
template <class T>
struct Feed<ConvForward<T>> {
  using Load = ConvForward<T>;
  using Problem = typename Load::Problem;
  FASTCNN_INLINE static int32_t steps(const Load& l, const Problem&) { return l.s.taps * blocks_of(l.s.C); }
  FASTCNN_INLINE static Window window(const Load& l, int32_t) {
    return {-l.s.pT, -l.s.pL, l.s.oH, l.s.oW, l.s.sH, l.s.sW};
  }
  FASTCNN_INLINE static PixelBox a(const Load& l, const Problem&, int32_t m, int32_t step) {
    const int32_t blocks = blocks_of(l.s.C), tap = step / blocks, c = (step - tap * blocks) * kBoxDepth;
    int32_t ow, oh, kw;
    const int32_t n = l.s.by_oH.split(l.s.by_oW.split(m, &ow), &oh), kh = l.s.by_kW.split(tap, &kw);
    return {c, ow * l.s.sW - l.s.pL, oh * l.s.sH - l.s.pT, n, kw * l.s.dW, kh * l.s.dH};
  }
  FASTCNN_INLINE static WeightBox b(const Load& l, const Problem&, int32_t n, int32_t step) {
    const int32_t blocks = blocks_of(l.s.C), tap = step / blocks;
    return {(step - tap * blocks) * kBoxDepth, tap, n};
  }
};

// A: 64 channels of BM pixels of dy at a tap of the parity; B: (64 of O, a tap, 64 of C) each.
template <class T>
struct Feed<ConvBwdData<T>> {
  using Load = ConvBwdData<T>;
  using Problem = typename Load::Problem;
  FASTCNN_INLINE static int32_t steps(const Load& l, const Problem& q) {
    return q.h.taps * q.w.taps * blocks_of(l.s.O);
  }
  FASTCNN_INLINE static Window window(const Load& l, int32_t parity) {
    const Problem& q = l.known[parity];
    return {q.h.out - last(q.h), q.w.out - last(q.w), q.h.count, q.w.count, 1, 1};
  }
  FASTCNN_INLINE static PixelBox a(const Load& l, const Problem& q, int32_t m, int32_t step) {
    const int32_t blocks = blocks_of(l.s.O), tap = step / blocks, o = (step - tap * blocks) * kBoxDepth;
    int32_t i, j, tj;
    const int32_t n = q.by_count_h.split(q.by_count_w.split(m, &j), &i), ti = q.by_taps_w.split(tap, &tj);
    return {o, q.w.out - last(q.w) + j,       q.h.out - last(q.h) + i,
            n, last(q.w) - tj * q.w.out_step, last(q.h) - ti * q.h.out_step};
  }
  FASTCNN_INLINE static WeightBox b(const Load& l, const Problem& q, int32_t n, int32_t step) {
    const int32_t blocks = blocks_of(l.s.O), tap = step / blocks;
    int32_t tj;
    const int32_t ti = q.by_taps_w.split(tap, &tj);
    return {n, (q.h.tap + ti * q.h.tap_step) * l.s.kW + q.w.tap + tj * q.w.tap_step,
            (step - tap * blocks) * kBoxDepth};
  }

 private:
  FASTCNN_INLINE static int32_t last(const Parity& p) { return p.taps > 0 ? (p.taps - 1) * p.out_step : 0; }
};

// A: 64 channels of 64 pixels of dy each; B: 64 channels of 64 pixels of x at a tap each, behind the last column
// none.
template <class T>
struct Feed<ConvBwdWeights<T>> {
  using Load = ConvBwdWeights<T>;
  using Problem = typename Load::Problem;
  FASTCNN_INLINE static int32_t steps(const Load&, const Problem& q) { return blocks_of(q.K); }
  FASTCNN_INLINE static Window window(const Load& l, int32_t) {
    return {-l.s.pT, -l.s.pL, l.s.oH, l.s.oW, l.s.sH, l.s.sW};
  }
  FASTCNN_INLINE static PixelBox b(const Load& l, const Problem& q, int32_t column, int32_t step) {
    int32_t ow, oh, kw, c = 0;
    const int32_t n = l.s.by_oH.split(l.s.by_oW.split(step * kBoxDepth, &ow), &oh);
    int32_t kh = l.s.by_kW.split(l.s.by_Cg.split(column, &c), &kw);
    if (column >= q.N) c = l.s.C, kh = kw = 0;
    return {c, ow * l.s.sW - l.s.pL, oh * l.s.sH - l.s.pT, n, kw * l.s.dW, kh * l.s.dH};
  }
};

}  // namespace fastcnn::cuda
