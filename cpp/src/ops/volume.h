// What it is: volumes (N, C, D, H, W) as what 2-D ops take: frames, and images whose rows are frames; and tensors
// whose channels lie innermost. What it is not: ops.
#pragma once
#include <array>
#include <vector>

#include "ops/operands.h"

namespace fastcnn::volume {  // its names are short

// (N, C, ...) as (N, ..., C), and back.
inline Tensor channels_last(const Tensor& x) {
  std::vector<int> order{0};
  for (int d = 2; d < x.ndim(); ++d) order.push_back(d);
  order.push_back(1);
  return permute(x, order);
}
inline Tensor channels_first(const Tensor& x) {
  std::vector<int> order{0, x.ndim() - 1};
  for (int d = 1; d < x.ndim() - 1; ++d) order.push_back(d);
  return permute(x, order);
}

// Does a sequence or volume lie dense with its channels innermost, as results of convolutions do? Ops that take
// elements in any order run on as_images(x) then, without a copy.
inline bool lies_channels_last(const Tensor& x) {
  const int n = x.ndim();
  if ((n != 3 && n != 5) || x.is_contiguous()) return false;
  int64_t step = 1;
  for (int i = 0; i < n; ++i) {
    const int d = i == 0 ? 1 : i == n - 1 ? 0 : n - i;  // channels, then from the last dim to the first
    if (x.shape()[d] != 1 && x.strides()[d] != step) return false;
    step *= x.shape()[d];
  }
  return true;
}

inline void check_triple(const char* op, const char* name, const std::array<int64_t, 3>& v, int64_t low) {
  const Dims dims{v[0], v[1], v[2]};
  for (int64_t i : v) {
    check(i >= low, op, ": expected ", name, " >= ", low, ", got ", dims);
    check(i <= kMaxOption, op, ": expected ", name, " <= ", kMaxOption, ", got ", dims);
  }
}

inline Tensor as_volumes(const char* op, const Tensor& x) {
  check_floating(op, "x", x);
  check(x.ndim() == 5 || x.ndim() == 4, op, ": expected x of shape (N, C, D, H, W) or (C, D, H, W), got ",
        x.shape());
  return x.ndim() == 4 ? unsqueeze(x, 0) : x;
}
inline Tensor as_given(const Tensor& y, const Tensor& x) { return x.ndim() == 4 ? squeeze(y, 0) : y; }
using Both = std::pair<Tensor, Tensor>;
inline Both as_given(const Both& y, const Tensor& x) { return {as_given(y.first, x), as_given(y.second, x)}; }

// (N, C, D, H, W) as (N * D, C, H, W), and back.
inline Tensor as_frames(const Tensor& x) {
  const Dims s = x.shape();
  return permute(reshape(contiguous(channels_last(x)), {s[0] * s[2], s[3], s[4], s[1]}), {0, 3, 1, 2});
}
inline Tensor from_frames(const Tensor& y, int64_t N, int64_t D) {
  const Dims s = y.shape();
  return channels_first(reshape(permute(y, {0, 2, 3, 1}), {N, D, s[2], s[3], s[1]}));
}

// Sequences as images of one row, volumes as frames, and back: the values that convolutions gave, so that plans
// join them with what comes after.
inline Tensor as_images(const Tensor& x) { return x.ndim() == 3 ? unsqueeze(x, 2) : as_frames(x); }
inline Tensor from_images(const Tensor& y, const Tensor& like) {
  return like.ndim() == 3 ? squeeze(y, 2) : from_frames(y, like.shape()[0], like.shape()[2]);
}

// (N, C, D, H, W) as (N, C, D, H * W), and back.
inline Tensor as_rows(const Tensor& x) {
  const Dims s = x.shape();
  return permute(reshape(contiguous(channels_last(x)), {s[0], s[2], s[3] * s[4], s[1]}), {0, 3, 1, 2});
}
inline Tensor from_rows(const Tensor& y, int64_t H, int64_t W) {
  const Dims s = y.shape();
  return channels_first(reshape(permute(y, {0, 2, 3, 1}), {s[0], s[2], H, W, s[1]}));
}

}  // namespace fastcnn::volume
