// What it is: the gradient of dense convolution weights from bfloat16 operands, summed in float32. Both operands
// of a strip are copied to scratch as words of two neighbouring output pixels, so that one instruction takes both.
// Sum order as in conv2d_weights_grad.cpp, by pairs of pixels; an odd last pixel of a row is paired with 0.
#include "backend/cpu/kernels/grad_pitch.h"
#include "backend/cpu/kernels/grad_tile.h"
#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/strip.h"

namespace fastcnn::cpu::FASTCNN_ISA {
namespace {

// Words of two rows of n values each; a missing row is 0.
FASTCNN_OP void pair_rows(const bfloat16* low, const bfloat16* high, int64_t n, float* d) {
  int64_t i = 0;
  if (low && high)
    for (; i + kLanes <= n; i += kLanes) store(d + i, make_pair(load(low + i), load(high + i)));
  for (; i < n; i += kLanes) {
    const int m = static_cast<int>(n - i < kLanes ? n - i : kLanes);
    storen(d + i, make_pair(low ? loadn(low + i, m) : zero(), high ? loadn(high + i, m) : zero()), m);
  }
}

// Channels [c0, c0+cn) of a window of x: column j of dst pairs input columns `pitch`*j and `pitch`*j + sW, both
// below `cols`. dst[row][col][cn].
void pack_input(const WeightsGradTask& t, const bfloat16* x, int64_t rows, int64_t cols, int64_t pitch,
                int64_t ih0, int64_t iw0, int64_t cn, int64_t cp, float* dst) {
  const int64_t left = iw0 < 0 ? (-iw0 < cols ? -iw0 : cols) : 0;
  const int64_t right =
      t.W - iw0 < cols ? (t.W - iw0 > left ? t.W - iw0 : left) : cols;  // [left, right) is inside
  const int64_t pairs = ceil_div(cols, pitch);
  for (int64_t r = 0; r < rows; ++r, dst += pairs * cp) {
    const int64_t ih = ih0 + r;
    if (ih < 0 || ih >= t.H || left >= right) {
      zero_floats(dst, pairs * cp);
      continue;
    }
    const bfloat16* row = x + ih * t.x_h + iw0 * t.x_w;
    auto inside = [&](int64_t col) { return col >= left && col < right; };
    const bool dense = pitch == 1 && t.x_w == cn && cp == cn;
    for (int64_t j = 0; j < pairs;) {
      const int64_t col = j * pitch;
      int64_t run = 1;
      if (dense && col >= left && col + t.sW < right) run = right - t.sW - col;
      pair_rows(inside(col) ? row + col * t.x_w : nullptr,
                inside(col + t.sW) ? row + (col + t.sW) * t.x_w : nullptr, run * cn, dst + j * cp);
      j += run;
    }
  }
}

// dbias of `n` channels from the words of a strip.
void add_bias_grad(const float* dy, int64_t pairs, int64_t pitch, int64_t n, bool first, float* out) {
  for (int64_t o = 0; o < n; o += kLanes) {
    const int m = static_cast<int>(n - o < kLanes ? n - o : kLanes);
    vf low = first ? zero() : loadn(out + o, m), high = zero();
    for (int64_t i = 0; i < pairs; ++i) {
      const vf word = loadn(dy + i * pitch + o, m);
      low = add(low, low_of_pair(word));
      high = add(high, high_of_pair(word));
    }
    storen(out + o, add(low, high), m);
  }
}

}  // namespace

void conv2d_weights_grad_bf16(const WeightsGradTask& t, int64_t begin, int64_t end) {
  alignas(64) float scratch[kScratchFloats + kScratchSlack];
  const int64_t strips_h = ceil_div(t.oH, t.ohb), strips_w = ceil_div(t.oW, t.owb);
  const int64_t strips = ceil_div(t.N, t.nb) * strips_h * strips_w;
  const int64_t depth = t.kH * t.kW * t.C;
  // One tap column: only the columns of pairs are stored.
  const int64_t pitch = t.kW == 1 ? 2 * t.sW : 1;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t group = item % t.groups, cb = item / t.groups % t.nc, batch = item / t.groups / t.nc % t.B,
                  chunk = item / t.groups / t.nc / t.B;
    const int64_t o0 = t.O * group / t.groups, on = t.O * (group + 1) / t.groups - o0;
    const int64_t c0 = t.C * cb / t.nc, cn = t.C * (cb + 1) / t.nc - c0;
    const int64_t cp = t.merge ? cn : pair_pitch(cn), op = pair_pitch(on);
    float* dw = t.dw + (chunk * t.B + batch) * t.w_b;
    const int64_t last = strips * (chunk + 1) / t.chunks;
    int first = 1;
    for (int64_t strip = strips * chunk / t.chunks; strip < last; ++strip, first = 0) {
      const int64_t n0 = strip / (strips_h * strips_w) * t.nb, oh0 = strip / strips_w % strips_h * t.ohb,
                    ow0 = strip % strips_w * t.owb;
      const int64_t nn = t.N - n0 < t.nb ? t.N - n0 : t.nb, hh = t.oH - oh0 < t.ohb ? t.oH - oh0 : t.ohb,
                    ww = t.oW - ow0 < t.owb ? t.oW - ow0 : t.owb;
      const int64_t rows = (hh - 1) * t.sH + (t.kH - 1) * t.dH + 1, cols = (ww - 1) * t.sW + (t.kW - 1) * t.dW + 1;
      const int64_t line = ceil_div(cols, pitch) * cp, image = rows * line;
      const int64_t ih0 = oh0 * t.sH - t.pT, iw0 = ow0 * t.sW - t.pL;
      for (int64_t n = 0; n < nn; ++n)
        pack_input(t, reinterpret_cast<const bfloat16*>(t.x) + batch * t.x_b + (n0 + n) * t.x_n + c0, rows, cols,
                   pitch, ih0, iw0, cn, cp, scratch + n * image);
      const int64_t pairs = ceil_div(ww, 2), dy_h = pairs * op, dy_n = hh * dy_h;
      float* dy = scratch + nn * image;
      const bfloat16* from =
          reinterpret_cast<const bfloat16*>(t.dy) + batch * t.y_b + n0 * t.y_n + oh0 * t.y_h + ow0 * t.y_w + o0;
      for (int64_t n = 0; n < nn; ++n)
        for (int64_t h = 0; h < hh; ++h)
          for (int64_t j = 0; j < pairs; ++j) {
            const bfloat16* low = from + n * t.y_n + h * t.y_h + 2 * j * t.y_w;
            pair_rows(low, 2 * j + 1 < ww ? low + t.y_w : nullptr, on, dy + n * dy_n + h * dy_h + j * op);
          }
      if (t.dbias && cb == 0)
        add_bias_grad(dy, nn * hh * pairs, op, on, first, t.dbias + (chunk * t.B + batch) * t.O + o0);
      Walk k;
      k.once = t.kH * t.kW == 1, k.first = first, k.nn = nn, k.ww = pairs;
      const int64_t runs_w = t.merge ? 1 : t.kW, run = t.merge ? t.kW * cn : cn;
      const int64_t x_w = pitch == 1 ? 2 * t.sW * cp : cp;
      for (int64_t kh = 0; kh < t.kH; ++kh) {
        // Rows [h0, h1) of the strip see this tap row inside the image; the others would add zeros.
        int64_t h0 = 0, h1 = hh;
        while (h0 < h1 && ih0 + h0 * t.sH + kh * t.dH < 0) ++h0;
        while (h1 > h0 && ih0 + (h1 - 1) * t.sH + kh * t.dH >= t.H) --h1;
        k.hh = h1 - h0;
        const float* dy_kh = dy + h0 * dy_h;
        for (int64_t kw = 0; kw < runs_w; ++kw) {
          const float* a = scratch + (kh * t.dH + h0 * t.sH) * line + kw * t.dW * cp;
          const int64_t at = (kh * t.kW + kw) * t.C + c0;
          if (t.o_inner) {
            k.s_n = image, k.s_h = t.sH * line, k.s_w = x_w;
            k.v_n = dy_n, k.v_h = dy_h, k.v_w = op, k.out = t.O;
            grad_block<bfloat16>(k, a, run, dy_kh, on, dw + at * t.O + o0);
          } else {
            k.s_n = dy_n, k.s_h = dy_h, k.s_w = op;
            k.v_n = image, k.v_h = t.sH * line, k.v_w = x_w, k.out = depth;
            grad_block<bfloat16>(k, dy_kh, on, a, run, dw + o0 * depth + at);
          }
        }
      }
    }
  }
}

void sum_arrays_bf16(const float* in, int64_t stride, int64_t count, bfloat16* out, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; i += kLanes) {
    const int n = static_cast<int>(end - i < kLanes ? end - i : kLanes);
    vf s = loadn(in + i, n);
    for (int64_t j = 1; j < count; ++j) s = add(s, loadn(in + j * stride + i, n));
    storen(out + i, s, n);
  }
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
