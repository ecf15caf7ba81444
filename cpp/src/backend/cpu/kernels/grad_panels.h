// What it is: the operands of a weight gradient copied to the panels that grad_tile.h reads: a word is the float
// of a pixel or the bfloat16 of two pixels, one above the other. What it is not: which pixels of an image belong
// to a strip is the caller's matter, but for windows that leave the image.
#pragma once
#include "backend/cpu/kernels/grad_tile.h"
#include "backend/cpu/kernels/strip.h"

namespace fastcnn::cpu::FASTCNN_ISA {

// n values from channel i on as words. A missing bfloat16 row is 0.
FASTCNN_OP vf grad_words(const float* low, const float*, int64_t i) { return load(low + i); }
FASTCNN_OP vf grad_words(const float* low, const float*, int64_t i, int n) { return loadn(low + i, n); }
FASTCNN_OP vf grad_words(const bfloat16* low, const bfloat16* high, int64_t i) {
  return make_pair(low ? load(low + i) : zero(), high ? load(high + i) : zero());
}
FASTCNN_OP vf grad_words(const bfloat16* low, const bfloat16* high, int64_t i, int n) {
  return make_pair(low ? loadn(low + i, n) : zero(), high ? loadn(high + i, n) : zero());
}

// What is done to words of x on the way; `channels` has it for one vector of them.
struct AsIs {
  FASTCNN_OP AsIs channels(int64_t, int) const { return {}; }
  FASTCNN_OP vf operator()(vf a) const { return a; }
};
template <Act A>
struct Normalised {
  const NormIn& norm;
  struct Vector {
    vf mean, scale, shift;
    FASTCNN_OP vf operator()(vf a) const { return act_fwd<A>(fma(sub(a, mean), scale, shift), 0, 0); }
  };
  FASTCNN_OP Vector channels(int64_t c, int n) const {
    if (n >= kLanes) return {load(norm.mean + c), load(norm.scale + c), load(norm.shift + c)};
    return {loadn(norm.mean + c, n), loadn(norm.scale + c, n), loadn(norm.shift + c, n)};
  }
};

// One pixel's n channels, the p-th of `pixels`, to panels of vectors; the last vector is filled up with zeros.
template <class T, class Norm>
FASTCNN_OP void pack_vector_panels(const T* low, const T* high, int64_t n, EvenParts parts, int64_t pixels,
                                   int64_t p, float* dst, const Norm& norm) {
  const int64_t vectors = ceil_div(n, kLanes);
  for (int64_t v = 0, end; v < vectors; v = end) {
    end = parts.next();
    float* d = dst + (v * pixels + p * (end - v)) * kLanes;
    for (int64_t j = v; j < end; ++j, d += kLanes) {
      const int64_t c = j * kLanes, left = n - c;
      if (left >= kLanes)
        store(d, norm.channels(c, kLanes)(grad_words(low, high, c)));
      else
        store(d, norm.channels(c, static_cast<int>(left))(grad_words(low, high, c, static_cast<int>(left))));
    }
  }
}

// n channels as words.
template <class T>
FASTCNN_OP void pack_words(const T* low, const T* high, int64_t n, float* d) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(d + i, grad_words(low, high, i));
  if (i < n) storen(d + i, grad_words(low, high, i, static_cast<int>(n - i)), static_cast<int>(n - i));
}

// `count` pixels of zeros from the p-th on.
FASTCNN_OP void zero_vector_panels(int64_t n, EvenParts parts, int64_t pixels, int64_t p, int64_t count,
                                   float* dst) {
  const int64_t vectors = ceil_div(n, kLanes);
  for (int64_t v = 0, end; v < vectors; v = end) {
    end = parts.next();
    zero_floats(dst + (v * pixels + p * (end - v)) * kLanes, count * (end - v) * kLanes);
  }
}

// Which pixels of x a strip copies. Row i is input row ih0 + i * row_step. In panels, a row has `phases` runs of
// `cols` columns, so that output pixels lie side by side: column j of phase f is input column iw0 + f + j *
// col_step. In bfloat16 the word of an input column holds that one and the one sW further.
struct GradImage {
  int64_t rows, cols, phases;  // as copied
  int64_t ih0, iw0, row_step, col_step;
};

// `count` pixels to one panel of V vectors, the last of them of `tail` words; rows and words are `step` apart.
template <int V, class T, class Norm>
static void pack_panel(const T* low, const T* high, int64_t step, int64_t count, int tail, float* d,
                       const Norm& norm) {
  using Vector = decltype(norm.channels(0, 0));
  Vector f[V];
  for (int v = 0; v < V; ++v) f[v] = norm.channels(v * kLanes, v == V - 1 ? tail : kLanes);
  for (int64_t i = 0; i < count; ++i, low += step, high += step, d += V * kLanes) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v)
      store(d + v * kLanes,
            f[v](v == V - 1 ? grad_words(low, high, v * kLanes, tail) : grad_words(low, high, v * kLanes)));
  }
}

// The image is the one of panels of `pixels` that starts at pixel p.
template <class T, class Norm>
static void image_panels(const WeightsGradTask& t, const T* x, const GradImage& m, int64_t cn, int64_t pixels,
                         int64_t p, float* dst, const Norm& norm) {
  const EvenParts parts = vector_panels(cn);
  auto inside = [&](int64_t col) { return col >= 0 && col < t.W; };
  for (int64_t r = 0; r < m.rows; ++r, p += m.phases * m.cols) {
    const int64_t ih = m.ih0 + r * m.row_step;
    if (ih < 0 || ih >= t.H) {
      zero_vector_panels(cn, parts, pixels, p, m.phases * m.cols, dst);
      continue;
    }
    const T* row = x + ih * t.x_h;
    int64_t j = 0;
    if (parts.parts == 1 && m.phases == 1 && m.iw0 >= 0) {
      // The usual panel of a single tap: all columns whose words lie inside at once.
      const int64_t past = t.W - (kPerWord<T> - 1) * t.sW - m.iw0;
      j = past <= 0 ? 0 : ceil_div(past, m.col_step) < m.cols ? ceil_div(past, m.col_step) : m.cols;
      const T* a = row + m.iw0 * t.x_w;
      const int64_t V = ceil_div(cn, kLanes);
      const int tail = static_cast<int>(cn - (V - 1) * kLanes);
      (V == 1 ? pack_panel<1, T, Norm>
       : V == 2
           ? pack_panel<2, T, Norm>
           : pack_panel<3, T, Norm>)(a, a + t.sW * t.x_w, m.col_step * t.x_w, j, tail, dst + p * V * kLanes, norm);
    }
    for (; j < m.cols; ++j)
      for (int64_t f = 0; f < m.phases; ++f) {
        const int64_t low = m.iw0 + f + j * m.col_step, high = low + t.sW;
        const T* a = inside(low) ? row + low * t.x_w : nullptr;
        const T* b = kPerWord<T> == 2 && inside(high) ? row + high * t.x_w : nullptr;
        if (a || b)
          pack_vector_panels(a, b, cn, parts, pixels, p + f * m.cols + j, dst, norm);
        else
          zero_vector_panels(cn, parts, pixels, p + f * m.cols + j, 1, dst);
      }
  }
}

[[maybe_unused]] static void pack_image_panels(const WeightsGradTask& t, const float* x, const GradImage& m,
                                               int64_t cn, int64_t pixels, int64_t p, float* dst,
                                               const NormIn& norm) {
  if (!norm.on) return image_panels(t, x, m, cn, pixels, p, dst, AsIs());
  switch (norm.act) {
    case Act::relu: return image_panels(t, x, m, cn, pixels, p, dst, Normalised<Act::relu>{norm});
    case Act::relu6: return image_panels(t, x, m, cn, pixels, p, dst, Normalised<Act::relu6>{norm});
    default: return image_panels(t, x, m, cn, pixels, p, dst, Normalised<Act::none>{norm});
  }
}
static void pack_image_panels(const WeightsGradTask& t, const bfloat16* x, const GradImage& m, int64_t cn,
                              int64_t pixels, int64_t p, float* dst, const NormIn&) {
  image_panels(t, x, m, cn, pixels, p, dst, AsIs());
}

// The same without panels: the words of a pixel, then those of the next.
[[maybe_unused]] static void pack_image(const WeightsGradTask& t, const float* x, const GradImage& m, int64_t cn,
                                        float* dst, const NormIn& norm) {
  pack_strip(t, 1, x, m.rows, m.cols, m.ih0, m.iw0, cn, dst, norm);
}
static void pack_image(const WeightsGradTask& t, const bfloat16* x, const GradImage& m, int64_t cn, float* dst,
                       const NormIn&) {
  auto inside = [&](int64_t col) { return col >= 0 && col < t.W; };
  for (int64_t r = 0; r < m.rows; ++r, dst += m.cols * cn) {
    const int64_t ih = m.ih0 + r;
    if (ih < 0 || ih >= t.H) {
      zero_floats(dst, m.cols * cn);
      continue;
    }
    const bfloat16* row = x + ih * t.x_h;
    for (int64_t j = 0, run; j < m.cols; j += run) {
      const int64_t low = m.iw0 + j, high = low + t.sW;
      run = 1;
      if (t.x_w == cn && inside(low) && inside(high)) run = t.W - high < m.cols - j ? t.W - high : m.cols - j;
      const bfloat16* a = inside(low) ? row + low * t.x_w : nullptr;
      const bfloat16* b = inside(high) ? row + high * t.x_w : nullptr;
      pack_words(a, b, run * cn, dst + j * cn);
    }
  }
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
