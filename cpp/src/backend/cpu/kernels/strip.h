// What it is: copies of image windows to a thread's scratch memory, with zeros where a window leaves the
// image.
#pragma once
#include "backend/cpu/kernels/act.h"
#include "backend/cpu/kernels/kernel_args.h"
#include "backend/cpu/kernels/simd_halves.h"

namespace fastcnn::cpu::FASTCNN_ISA {

constexpr int64_t kScratchSlack = 64;  // a whole vector may be read at the last float

FASTCNN_OP void copy_floats(float* d, const float* s, int64_t n) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(d + i, load(s + i));
  if (i < n) storen(d + i, loadn(s + i, static_cast<int>(n - i)), static_cast<int>(n - i));
}
// n rows of m floats as m rows of n: at most a vector of each; rows are s_row and d_row apart.
FASTCNN_OP void transpose_block(const float* s, int64_t s_row, int n, int m, float* d, int64_t d_row) {
  vf b[kLanes];
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) b[i] = i < n ? loadn(s + i * s_row, m) : zero();
  transpose(b);
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i)
    if (i < m) storen(d + i * d_row, b[i], n);
}
FASTCNN_OP void zero_floats(float* d, int64_t n) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(d + i, zero());
  for (; i < n; ++i) d[i] = 0;
}

// P pixels of cn channels, normalised with the arithmetic of norm_apply.
template <Act A, int P>
FASTCNN_OP void norm_pixels(const float* mean, const float* scale, const float* shift, float* d, const float* s,
                            int64_t s_w, int64_t cn) {
  int64_t c = 0;
  for (; c + kLanes <= cn; c += kLanes) {
    const vf m = load(mean + c), a = load(scale + c), b = load(shift + c);
#pragma GCC unroll 4
    for (int i = 0; i < P; ++i) store(d + i * cn + c, act_fwd<A>(fma(sub(load(s + i * s_w + c), m), a, b), 0, 0));
  }
  if (c == cn) return;
  const int n = static_cast<int>(cn - c);
  const vf m = loadn(mean + c, n), a = loadn(scale + c, n), b = loadn(shift + c, n);
#pragma GCC unroll 4
  for (int i = 0; i < P; ++i)
    storen(d + i * cn + c, act_fwd<A>(fma(sub(loadn(s + i * s_w + c, n), m), a, b), 0, 0), n);
}
template <Act A>
static void norm_row(const NormIn& p, float* d, const float* s, int64_t s_w, int64_t cn, int64_t pixels) {
  const float *mean = p.mean, *scale = p.scale, *shift = p.shift;
  int64_t i = 0;
  for (; i + 4 <= pixels; i += 4) norm_pixels<A, 4>(mean, scale, shift, d + i * cn, s + i * s_w, s_w, cn);
  for (; i + 2 <= pixels; i += 2) norm_pixels<A, 2>(mean, scale, shift, d + i * cn, s + i * s_w, s_w, cn);
  for (; i < pixels; ++i) norm_pixels<A, 1>(mean, scale, shift, d + i * cn, s + i * s_w, s_w, cn);
}
FASTCNN_OP void norm_copy(const NormIn& p, float* d, const float* s, int64_t s_w, int64_t cn, int64_t pixels) {
  switch (p.act) {
    case Act::relu: return norm_row<Act::relu>(p, d, s, s_w, cn, pixels);
    case Act::relu6: return norm_row<Act::relu6>(p, d, s, s_w, cn, pixels);
    default: return norm_row<Act::none>(p, d, s, s_w, cn, pixels);
  }
}

// Rows of channels [c0, c0+cn) of a window of pixels, zero where it leaves the image, to dst[row][col][cn].
template <class Task>
static void pack_strip(const Task& t, int64_t x_c, const float* x, int64_t rows, int64_t cols, int64_t ih0,
                       int64_t iw0, int64_t cn, float* dst, const NormIn& norm) {
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
          transpose_block(src + c * x_c + j, x_c, q, m, d + j * cn + c, cn);
        }
      }
    } else if (norm.on) {
      norm_copy(norm, d, src, t.x_w, cn, right - left);
    } else if (t.x_w == cn) {
      copy_floats(d, src, (right - left) * cn);
    } else {
      for (int64_t j = left; j < right; ++j, src += t.x_w, d += cn) copy_floats(d, src, cn);
    }
    zero_floats(dst + right * cn, (cols - right) * cn);
  }
}

// n words of two bfloat16 each, from any even address.
FASTCNN_OP vf load_words(const bfloat16* p, int64_t n) {
  if (n >= kLanes) {
    vf a;
    __builtin_memcpy(&a, p, sizeof a);
    return a;
  }
  float t[kLanes] = {};
  __builtin_memcpy(t, p, static_cast<size_t>(n) * 4);
  return load(t);
}
// C bfloat16 to ceil(C/2) words, an odd one beside a 0.
FASTCNN_OP void copy_words(float* d, const bfloat16* s, int64_t C) {
  int64_t i = 0;
  for (; i + 2 * kLanes <= C; i += 2 * kLanes, d += kLanes) store(d, load_words(s + i, kLanes));
  for (; i + 2 <= C; i += 2, ++d) __builtin_memcpy(d, s + i, 4);
  if (i < C) {
    const uint32_t word = s[i].bits;
    __builtin_memcpy(d, &word, 4);
  }
}

// The same for bfloat16, as words of two neighbouring channels: dst[row][col][ceil(C/2)].
template <class Task>
static void pack_strip(const Task& t, int64_t x_c, const bfloat16* x, int64_t rows, int64_t cols, int64_t ih0,
                       int64_t iw0, int64_t C, float* dst, const NormIn&) {
  const int64_t cn = ceil_div(C, 2);
  int64_t left = iw0 < 0 ? (-iw0 < cols ? -iw0 : cols) : 0;
  int64_t right = t.W - iw0 < cols ? (t.W - iw0 > left ? t.W - iw0 : left) : cols;
  for (int64_t r = 0; r < rows; ++r, dst += cols * cn) {
    int64_t ih = ih0 + r;
    if (ih < 0 || ih >= t.H) {
      zero_floats(dst, cols * cn);
      continue;
    }
    zero_floats(dst, left * cn);
    const bfloat16* src = x + ih * t.x_h + (iw0 + left) * t.x_w;
    float* d = dst + left * cn;
    if (x_c != 1) {
      for (int64_t j = left; j < right; ++j, src += t.x_w, d += cn)
        for (int64_t i = 0; i < cn; ++i) {
          uint32_t word = src[2 * i * x_c].bits;
          if (2 * i + 1 < C) word |= static_cast<uint32_t>(src[(2 * i + 1) * x_c].bits) << 16;
          __builtin_memcpy(d + i, &word, 4);
        }
    } else if (t.x_w == C && C % 2 == 0) {
      copy_words(d, src, (right - left) * C);
    } else {
      int64_t j = left;
      if (kThrees && C == 3 && t.x_w == 3)
        for (; j + 2 * kThrees <= right; j += kThrees, src += 3 * kThrees, d += 2 * kThrees)
          store_halves(reinterpret_cast<bfloat16*>(d), threes_to_fours(src));
      if (C == 3)  // images: eight bytes at a time, the last two of them belong to the next pixel
        for (; j + 1 < right; ++j, src += t.x_w, d += 2) {
          uint64_t words;
          __builtin_memcpy(&words, src, 8);
          words &= 0xffffffffffff;
          __builtin_memcpy(d, &words, 8);
        }
      for (; j < right; ++j, src += t.x_w, d += cn) copy_words(d, src, C);
    }
    zero_floats(dst + right * cn, (cols - right) * cn);
  }
}
}  // namespace fastcnn::cpu::FASTCNN_ISA
