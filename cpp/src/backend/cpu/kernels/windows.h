// What it is: which input positions a pooling window covers along one axis, with torch's rules for padding,
// windows that run past the padded edge (ceil_mode) and adaptive windows. Shared by references, adaptors and
// kernels.
#pragma once
#include "fastcnn/params.h"

namespace fastcnn::cpu {

// One axis of a pooling op.
struct PoolAxis {
  int64_t in, out, kernel, stride, pad_begin, pad_end, dilation, adaptive;
};
FASTCNN_INLINE PoolAxis pool_rows(const Pool2dParams& p) {
  return PoolAxis{p.H, p.oH, p.kH, p.sH, p.pT, p.pB, p.dH, p.adaptive};
}
FASTCNN_INLINE PoolAxis pool_cols(const Pool2dParams& p) {
  return PoolAxis{p.W, p.oW, p.kW, p.sW, p.pL, p.pR, p.dW, p.adaptive};
}

// Positions begin, begin+step, … < end inside the input; `padded` is the extent clipped to the padded input only,
// what average pooling divides by with count_include_pad (torch clips to in + pad first, to the input second).
struct PoolWindow {
  int64_t begin, end, step, padded;
};
FASTCNN_INLINE PoolWindow pool_window(const PoolAxis& a, int64_t o) {
  if (a.adaptive) {
    int64_t b = o * a.in / a.out, e = ((o + 1) * a.in + a.out - 1) / a.out;
    return PoolWindow{b, e, 1, e - b};
  }
  int64_t b = o * a.stride - a.pad_begin, e = b + (a.kernel - 1) * a.dilation + 1;
  if (e > a.in + a.pad_end) e = a.in + a.pad_end;
  int64_t padded = e - b;
  if (b < 0) b += (-b + a.dilation - 1) / a.dilation * a.dilation;
  if (e > a.in) e = a.in;
  return PoolWindow{b, e, a.dilation, padded};
}

// How many pixels an average divides by, where it takes int8; at least 1.
FASTCNN_INLINE int64_t pool_divisor(const Pool2dParams& p, const PoolWindow& h, const PoolWindow& w) {
  const int64_t n = p.count_include_pad ? h.padded * w.padded : (h.end - h.begin) * (w.end - w.begin);
  return n > 1 ? n : 1;
}

// Outputs [first, last] whose window may cover input position i; membership is exact without dilation.
struct PoolCover {
  int64_t first, last;
};
FASTCNN_INLINE PoolCover pool_cover(const PoolAxis& a, int64_t i) {
  if (a.adaptive) {  // begin(o) <= i and end(o) > i, both monotone in o
    return PoolCover{i * a.out / a.in, ((i + 1) * a.out - 1) / a.in};
  }
  int64_t span = (a.kernel - 1) * a.dilation + 1, top = i + a.pad_begin;
  int64_t first = top - span + 1 <= 0 ? 0 : (top - span + a.stride) / a.stride;
  int64_t last = top / a.stride;
  return PoolCover{first, last < a.out - 1 ? last : a.out - 1};
}

}  // namespace fastcnn::cpu
