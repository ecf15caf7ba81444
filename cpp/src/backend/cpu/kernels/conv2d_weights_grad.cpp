// What it is: the gradient of dense convolution weights from float32 or bfloat16 operands, summed in float32:
// strips and channel blocks around grad_tile.h. bfloat16 goes by words of two neighbouring output pixels, an odd
// last pixel of a row beside a 0.
// The order of every sum (strips of a chunk, rows, columns, then chunks) does not depend on threads.
#include "backend/cpu/kernels/grad_panels.h"
#include "backend/cpu/kernels/kernels.h"

namespace fastcnn::cpu::FASTCNN_ISA {
namespace {

// dbias of `n` channels over the pixels of a strip.
template <class T>
void add_bias_grad(const Walk& k, int64_t ww, const T* dy, int64_t y_n, int64_t y_h, int64_t y_w, int64_t n,
                   float* out) {
  for (int64_t o = 0; o < n; o += kLanes) {
    const int m = static_cast<int>(n - o < kLanes ? n - o : kLanes);
    vf s = k.first ? zero() : loadn(out + o, m);
    for (int64_t i = 0; i < k.nn; ++i)
      for (int64_t h = 0; h < k.hh; ++h) {
        const T* p = dy + i * y_n + h * y_h + o;
        for (int64_t w = 0; w < ww; ++w) s = add(s, loadn(p + w * y_w, m));
      }
    storen(out + o, s, m);
  }
}

// n channels of pixels of an image, some of which may lie outside: only addresses are made.
template <class T>
Ahead::Image image_ahead(const T* base, int64_t n, int64_t cols, int64_t col, int64_t rows, int64_t row,
                         int64_t images, int64_t image) {
  constexpr int64_t bytes = sizeof(T);
  Ahead::Image a;
  a.base = reinterpret_cast<uintptr_t>(base);
  if (col == n) n *= cols, cols = 1;
  a.lines = ceil_div(n * bytes, 64), a.cols = cols, a.rows = rows, a.images = images;
  a.col = col * bytes, a.row = row * bytes, a.image = image * bytes;
  return a;
}

// Operands below this many bytes are in L2 anyway.
constexpr int64_t kAheadBytes = 768 * 1024;

constexpr int64_t kMostInPlace = kVectorRegs == 32 ? 64 : 40;
constexpr int64_t kFarPixels = 24;
constexpr int64_t kFewProducts = 16;  // of a vector of dy: short tiles

template <class T>
void weights_grad(const WeightsGradTask& t, float* scratch, int64_t begin, int64_t end) {
  float* more = scratch + kScratchFloats + kScratchSlack;
  constexpr int64_t kPixels = kPerWord<T>;  // of a word
  const int64_t strips_h = ceil_div(t.oH, t.ohb), strips_w = ceil_div(t.oW, t.owb);
  const int64_t strips = ceil_div(t.N, t.nb) * strips_h * strips_w;
  const int64_t depth = t.kH * t.kW * t.C, runs_w = t.merge ? 1 : t.kW;
  // In panels: only the rows of a single tap row, and columns by the step from word to word (GradImage).
  const GradLayout layout(t, kPixels);
  const int64_t row_step = layout.row_step, col_step = layout.col_step;
  // Short tiles have no time for it, and read rows that the hardware runs ahead of.
  const bool fetch = (t.N * t.x_n + t.N * t.y_n) * static_cast<int64_t>(sizeof(T)) > kAheadBytes &&
                     !(t.o_inner && t.kW * t.C < kFewProducts);
  const int64_t burst = fetch ? kFetchPixels : kStripPixels;
  // dy is read in place by a single tap unless its pixels share sets of the caches, where they lie close, and by
  // vectors that do not reach past a pixel. Small tiles come back to each line of a pixel: it must not leave.
  const bool by_pixels = !t.o_inner && ((kVectorRegs == 32 && t.kH * t.kW == 1 && t.y_w % kAliasedFloats != 0) ||
                                        t.y_w <= kMostInPlace);
  // Where few products read dy, they do not pay for a copy; then vectors may reach past the pixels of all strips
  // but the last, into the next one.
  const bool past_pixels = t.o_inner && t.y_w >= kLanes && (t.O % kLanes == 0 || t.kH * t.kW * t.C < kFewProducts);
  // A panel of a single tap is used up before the next one is copied to the same place, which stays in L1.
  const bool by_panels = t.panels && t.kH * t.kW == 1;
  float* rows_of_dy = by_panels ? scratch : more;
  const int64_t room = by_panels ? kScratchFloats : kGradRowFloats;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t group = item % t.groups, cb = item / t.groups % t.nc, batch = item / t.groups / t.nc % t.B,
                  chunk = item / t.groups / t.nc / t.B;
    const int64_t o0 = t.O * group / t.groups, on = t.O * (group + 1) / t.groups - o0;
    const int64_t c0 = t.C * cb / t.nc, cn = t.C * (cb + 1) / t.nc - c0;
    const int64_t run = t.merge ? t.kW * cn : cn, cp = t.panels ? ceil_div(cn, kLanes) * kLanes : cn;
    float* dw = t.dw + (chunk * t.B + batch) * t.w_b;
    const T* x = reinterpret_cast<const T*>(t.x) + batch * t.x_b + c0;
    const T* dy = reinterpret_cast<const T*>(t.dy) + batch * t.y_b + o0;
    const NormIn norm = norm_from(t.norm, batch * t.x_b + c0);
    const int64_t start = strips * chunk / t.chunks, end_of_chunk = strips * (chunk + 1) / t.chunks;
    const int64_t last = t.strip1 ? t.strip1 : end_of_chunk;
    int first = !t.strip1 || t.strip0 == start;
    for (int64_t strip = t.strip1 ? t.strip0 : start; strip < last; ++strip, first = 0) {
      auto origin = [&](int64_t s, int64_t& n0, int64_t& oh0, int64_t& ow0) {
        n0 = s / (strips_h * strips_w) * t.nb, oh0 = s / strips_w % strips_h * t.ohb, ow0 = s % strips_w * t.owb;
      };
      int64_t n0, oh0, ow0;
      origin(strip, n0, oh0, ow0);
      const int64_t nn = t.N - n0 < t.nb ? t.N - n0 : t.nb, hh = t.oH - oh0 < t.ohb ? t.oH - oh0 : t.ohb,
                    ww = t.oW - ow0 < t.owb ? t.oW - ow0 : t.owb;
      GradImage m;
      m.rows = layout.rows(hh), m.cols = layout.cols(ww), m.phases = layout.phases;
      m.ih0 = oh0 * t.sH - t.pT, m.iw0 = ow0 * t.sW - t.pL, m.row_step = row_step, m.col_step = col_step;
      const int64_t line = m.phases * m.cols, image = m.rows * line;
      const T* x0 = x + n0 * t.x_n;
      for (int64_t n = 0; n < nn && !by_panels; ++n) {
        if (t.panels)
          pack_image_panels(t, x0 + n * t.x_n, m, cn, nn * image, n * image, scratch, norm);
        else
          pack_image(t, x0 + n * t.x_n, m, cn, scratch + n * image * cn, norm);
      }
      const T* from = dy + n0 * t.y_n + oh0 * t.y_h + ow0 * t.y_w;
      const bool vectors = t.o_inner && (on % kLanes == 0 || (past_pixels && strip + 1 < strips));
      const bool in_place = kPixels == 1 && (by_pixels || vectors), copies = !in_place && !t.o_inner;
      const int64_t words = ceil_div(ww, kPixels), pixels = nn * hh * words;
      Walk k;
      k.past = first && t.shared, k.first = first, k.nn = nn, k.hh = hh, k.ww = words, k.burst = burst,
      k.few = t.few, k.once = in_place && !t.o_inner && t.kH * t.kW == 1;
      k.far = in_place && t.o_inner && t.kH * t.kW == 1 ? kFarPixels : 0;
      if (t.dbias && cb == 0)
        add_bias_grad(k, ww, from, t.y_n, t.y_h, t.y_w, on, t.dbias + (chunk * t.B + batch) * t.O + o0);

      GradOperand a, d;  // of x and of dy
      a.base = by_panels ? more : scratch, a.pitch = cn, a.pixels = t.panels ? nn * image : 0;
      a.n = image, a.h = t.sH / row_step * line, a.w = t.panels ? 1 : kPixels * t.sW;
      auto pack_dy = [&](auto&& one) {
        for (int64_t n = 0, p = 0; n < nn; ++n)
          for (int64_t h = 0; h < hh; ++h)
            for (int64_t j = 0; j < words; ++j, ++p) {
              const T* low = from + n * t.y_n + h * t.y_h + kPixels * j * t.y_w;
              one(low, kPixels == 2 && 2 * j + 1 < ww ? low + t.y_w : nullptr, p);
            }
      };
      d.n = hh * words, d.h = words, d.w = 1;
      if (in_place) {
        d.base = reinterpret_cast<const float*>(from);
        d.pitch = 1, d.n = t.y_n, d.h = t.y_h, d.w = t.y_w;
      } else if (t.o_inner) {
        d.pixels = pixels;
        float* dst = scratch + ceil_div(nn * image * cp, 16) * 16;
        const EvenParts parts = vector_panels(on);
        pack_dy([&](const T* low, const T* high, int64_t p) {
          pack_vector_panels(low, high, on, parts, pixels, p, dst, AsIs());
        });
        d.base = dst;
      }
      // Output channels by what fits `rows_of_dy`.
      int64_t parts = 1;
      if (copies)
        while (odd_pitch(ceil_div(on, parts)) * pixels > room) ++parts;
      // What comes next is fetched meanwhile: x of the next strip; the next part of dy or the first of the next
      // strip.
      Ahead ahead;
      const T *x1 = nullptr, *dy1 = nullptr;
      if (fetch && strip + 1 < end_of_chunk) {
        int64_t n1, oh1, ow1;
        origin(strip + 1, n1, oh1, ow1);
        x1 = x + n1 * t.x_n + (oh1 * t.sH - t.pT) * t.x_h + (ow1 * t.sW - t.pL) * t.x_w;
        dy1 = dy + n1 * t.y_n + oh1 * t.y_h + ow1 * t.y_w;
      }
      if (t.fetch_dy) dy1 = from + t.fetch_dy;
      const int64_t bursts = ceil_div(nn * hh * words, burst) * t.kH * runs_w;
      auto fetch_x = [&](const T* next, int64_t n, int64_t tiles) {
        ahead.x = image_ahead(next, n, t.kW == 1 ? ww : (ww - 1) * t.sW + 1, t.kW == 1 ? t.sW * t.x_w : t.x_w,
                              m.rows, row_step * t.x_h, nn, t.x_n);
        ahead.x.deal(next ? tiles * bursts : 0);
      };
      auto fetch_dy = [&](const T* next, int64_t n, int64_t tiles) {
        ahead.dy = image_ahead(next, n, ww, t.y_w, hh, t.y_h, nn, t.y_n);
        ahead.dy.deal(next ? tiles * bursts : 0);
      };
      fetch_x(x1, cn, t.o_inner ? grad_tiles(run, on) : parts * grad_tiles(ceil_div(on, parts), run));
      for (int64_t part = 0; part < parts; ++part) {
        const int64_t p0 = on * part / parts, pn = on * (part + 1) / parts - p0;
        fetch_dy(fetch && part + 1 < parts ? from + p0 + pn : dy1, pn,
                 t.o_inner ? grad_tiles(run, on) : grad_tiles(pn, run));
        if (copies) {
          const int64_t pitch = odd_pitch(pn);
          pack_dy([&](const T* low, const T* high, int64_t p) {
            pack_words(low + p0, high ? high + p0 : nullptr, pn, rows_of_dy + p * pitch);
          });
          d.base = rows_of_dy, d.pitch = pitch;
        }
        if (by_panels) {
          k.out = depth;
          EvenParts across = vector_panels(cn);
          for (int64_t v0 = 0, v1; v0 < cn; v0 = v1) {
            v1 = across.next() * kLanes;
            const int64_t vn = (v1 < cn ? v1 : cn) - v0;
            for (int64_t n = 0; n < nn; ++n)
              pack_image_panels(t, x0 + n * t.x_n + v0, m, vn, nn * image, n * image, more, norm_from(norm, v0));
            grad_block<T>(k, d, pn, a, vn, dw + (o0 + p0) * depth + c0 + v0, ahead);
          }
          continue;
        }
        for (int64_t kh = 0; kh < t.kH; ++kh) {
          // Rows [h0, h1) of the strip see this tap row inside the image; the others would add zeros.
          int64_t h0 = 0, h1 = hh;
          while (h0 < h1 && m.ih0 + h0 * t.sH + kh * t.dH < 0) ++h0;
          while (h1 > h0 && m.ih0 + (h1 - 1) * t.sH + kh * t.dH >= t.H) --h1;
          k.hh = h1 - h0;
          for (int64_t kw = 0; kw < runs_w; ++kw) {
            // So do columns [w0, w1), unless all taps of a row are one run.
            int64_t w0 = 0, w1 = ww;
            while (!t.merge && w0 < w1 && m.iw0 + w0 * t.sW + kw * t.dW < 0) ++w0;
            while (!t.merge && w1 > w0 && m.iw0 + (w1 - 1) * t.sW + kw * t.dW >= t.W) --w1;
            w0 /= kPixels;
            k.ww = ceil_div(w1, kPixels) - w0;
            if (!k.first && k.hh * k.ww == 0) continue;
            d.first = h0 * d.h + w0 * d.w;
            a.first =
                kh * t.dH * line + h0 * a.h + kw * t.dW % col_step * m.cols + kw * t.dW / col_step + w0 * a.w;
            const int64_t at = (kh * t.kW + kw) * t.C + c0;
            if (t.o_inner) {
              k.out = t.O;
              grad_block<T>(k, a, run, d, on, dw + at * t.O + o0, ahead);
            } else {
              k.out = depth;
              grad_block<T>(k, d, pn, a, run, dw + (o0 + p0) * depth + at, ahead);
            }
          }
        }
      }
    }
  }
  if (t.shared) fence();
}

template <class T>
void sum(const float* in, int64_t stride, int64_t count, T* out, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; i += kLanes) {
    const int n = static_cast<int>(end - i < kLanes ? end - i : kLanes);
    vf s = loadn(in + i, n);
    for (int64_t j = 1; j < count; ++j) s = add(s, loadn(in + j * stride + i, n));
    storen(out + i, s, n);
  }
}

}  // namespace

void conv2d_weights_grad_bf16(const WeightsGradTask& t, float* scratch, int64_t begin, int64_t end) {
  weights_grad<bfloat16>(t, scratch, begin, end);
}

void sum_arrays_bf16(const float* in, int64_t stride, int64_t count, bfloat16* out, int64_t begin, int64_t end) {
  sum(in, stride, count, out, begin, end);
}

#if FASTCNN_SHARED_HERE
void conv2d_weights_grad(const WeightsGradTask& t, float* scratch, int64_t begin, int64_t end) {
  weights_grad<float>(t, scratch, begin, end);
}

void sum_arrays(const float* in, int64_t stride, int64_t count, float* out, int64_t begin, int64_t end) {
  sum(in, stride, count, out, begin, end);
}

void transpose_matrix(const float* in, int64_t in_stride, int64_t cols, float* out, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; r += kLanes) {
    const int m = static_cast<int>(end - r < kLanes ? end - r : kLanes);
    if (m == 1) {
      for (int64_t j = 0; j < cols; ++j) out[r * cols + j] = in[j * in_stride + r];
      continue;
    }
    for (int64_t j = 0; j < cols; j += kLanes) {
      const int n = static_cast<int>(cols - j < kLanes ? cols - j : kLanes);
      transpose_block(in + j * in_stride + r, in_stride, n, m, out + r * cols + j, cols);
    }
  }
}
#endif

}  // namespace fastcnn::cpu::FASTCNN_ISA
