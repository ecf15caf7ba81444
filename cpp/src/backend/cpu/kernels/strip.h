// What it is: copies of image windows to a thread's scratch memory, with zeros where a window leaves the
// image.
#pragma once
#include "backend/cpu/kernels/kernel_args.h"
#include "backend/cpu/kernels/simd.h"

namespace fastcnn::cpu::FASTCNN_ISA {

constexpr int64_t kScratchSlack = 64;  // a whole vector may be read at the last float

FASTCNN_OP void copy_floats(float* d, const float* s, int64_t n) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(d + i, load(s + i));
  if (i < n) storen(d + i, loadn(s + i, static_cast<int>(n - i)), static_cast<int>(n - i));
}
FASTCNN_OP void zero_floats(float* d, int64_t n) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(d + i, zero());
  for (; i < n; ++i) d[i] = 0;
}

// Rows of channels [c0, c0+cn) of a window of pixels, zero where it leaves the image, to dst[row][col][cn].
template <class Task>
static void pack_strip(const Task& t, int64_t x_c, const float* x, int64_t rows, int64_t cols, int64_t ih0,
                       int64_t iw0, int64_t cn, float* dst) {
  int64_t left = iw0 < 0 ? (-iw0 < cols ? -iw0 : cols) : 0;
  int64_t right = t.W - iw0 < cols ? (t.W - iw0 > left ? t.W - iw0 : left) : cols;  // [left, right) is inside
  for (int64_t r = 0; r < rows; ++r, dst += cols * cn) {
    int64_t ih = ih0 + r;
    if (ih < 0 || ih >= t.H) {
      zero_floats(dst, cols * cn);
      continue;
    }
    zero_floats(dst, left * cn);
    const float* src = x + ih * t.x_h + (iw0 + left) * t.x_w;
    float* d = dst + left * cn;
    if (x_c != 1) {
      // Transposed: x_w is 1, so a vector of pixels is contiguous.
      int64_t n = right - left;
      for (int64_t j = 0; j < n; j += kLanes) {
        int m = static_cast<int>(n - j < kLanes ? n - j : kLanes);
        for (int64_t c = 0; c < cn; c += kLanes) {
          int q = static_cast<int>(cn - c < kLanes ? cn - c : kLanes);
          vf b[kLanes];
#pragma GCC unroll 16
          for (int i = 0; i < kLanes; ++i) b[i] = i < q ? loadn(src + (c + i) * x_c + j, m) : zero();
          transpose(b);
#pragma GCC unroll 16
          for (int i = 0; i < kLanes; ++i)
            if (i < m) storen(d + (j + i) * cn + c, b[i], q);
        }
      }
    } else if (t.x_w == cn) {
      copy_floats(d, src, (right - left) * cn);
    } else {
      for (int64_t j = left; j < right; ++j, src += t.x_w, d += cn) copy_floats(d, src, cn);
    }
    zero_floats(dst + right * cn, (cols - right) * cn);
  }
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
