// What it is: the gradient of dense convolution weights, float32: strips and channel blocks around grad_tile.h.
// The order of every sum (strips of a chunk, rows, columns, then chunks) does not depend on threads.
#include "backend/cpu/kernels/grad_tile.h"
#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/strip.h"

namespace fastcnn::cpu::FASTCNN_ISA {
namespace {

// dbias of `n` channels over the pixels of a strip.
void add_bias_grad(const Walk& k, const float* dy, int64_t y_n, int64_t y_h, int64_t y_w, int64_t n, float* out) {
  for (int64_t o = 0; o < n; o += kLanes) {
    const int m = static_cast<int>(n - o < kLanes ? n - o : kLanes);
    vf s = k.first ? zero() : loadn(out + o, m);
    for (int64_t i = 0; i < k.nn; ++i)
      for (int64_t h = 0; h < k.hh; ++h) {
        const float* p = dy + i * y_n + h * y_h + o;
        for (int64_t w = 0; w < k.ww; ++w) s = add(s, loadn(p + w * y_w, m));
      }
    storen(out + o, s, m);
  }
}

}  // namespace

void conv2d_weights_grad(const WeightsGradTask& t, int64_t begin, int64_t end) {
  alignas(64) float scratch[kScratchFloats + kScratchSlack];
  const int64_t strips_h = ceil_div(t.oH, t.ohb), strips_w = ceil_div(t.oW, t.owb);
  const int64_t strips = ceil_div(t.N, t.nb) * strips_h * strips_w;
  const int64_t depth = t.kH * t.kW * t.C;
  // Vectors of dy are read in place only where no vector reaches past a pixel.
  const bool copy_dy = t.o_inner && t.O % kLanes != 0;
  const int64_t dy_w = copy_dy ? ceil_div(t.O, kLanes) * kLanes : t.y_w;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t group = item % t.groups, cb = item / t.groups % t.nc, batch = item / t.groups / t.nc % t.B,
                  chunk = item / t.groups / t.nc / t.B;
    const int64_t o0 = t.O * group / t.groups, on = t.O * (group + 1) / t.groups - o0;
    const int64_t c0 = t.C * cb / t.nc, cn = t.C * (cb + 1) / t.nc - c0;
    float* dw = t.dw + (chunk * t.B + batch) * t.w_b;
    const int64_t last = strips * (chunk + 1) / t.chunks;
    int first = 1;
    for (int64_t strip = strips * chunk / t.chunks; strip < last; ++strip, first = 0) {
      const int64_t n0 = strip / (strips_h * strips_w) * t.nb, oh0 = strip / strips_w % strips_h * t.ohb,
                    ow0 = strip % strips_w * t.owb;
      Walk k;
      k.once = t.kH * t.kW == 1;
      k.nn = t.N - n0 < t.nb ? t.N - n0 : t.nb, k.hh = t.oH - oh0 < t.ohb ? t.oH - oh0 : t.ohb,
      k.ww = t.oW - ow0 < t.owb ? t.oW - ow0 : t.owb, k.first = first;
      const int64_t rows = (k.hh - 1) * t.sH + (t.kH - 1) * t.dH + 1,
                    cols = (k.ww - 1) * t.sW + (t.kW - 1) * t.dW + 1;
      const int64_t image = rows * cols * cn;
      for (int64_t n = 0; n < k.nn; ++n)
        pack_strip(t, 1, t.x + batch * t.x_b + (n0 + n) * t.x_n + c0, rows, cols, oh0 * t.sH - t.pT,
                   ow0 * t.sW - t.pL, cn, scratch + n * image, norm_from(t.norm, batch * t.x_b + c0));
      const float* dy = t.dy + batch * t.y_b + n0 * t.y_n + oh0 * t.y_h + ow0 * t.y_w;
      if (t.dbias && cb == 0)
        add_bias_grad(k, dy + o0, t.y_n, t.y_h, t.y_w, on, t.dbias + (chunk * t.B + batch) * t.O + o0);
      int64_t dy_n = t.y_n, dy_h = t.y_h;
      if (copy_dy) {
        float* d = scratch + k.nn * image;
        for (int64_t n = 0; n < k.nn; ++n)
          for (int64_t h = 0; h < k.hh; ++h)
            for (int64_t w = 0; w < k.ww; ++w)
              copy_floats(d + ((n * k.hh + h) * k.ww + w) * dy_w, dy + n * t.y_n + h * t.y_h + w * t.y_w, t.O);
        dy = d;
        dy_h = k.ww * dy_w, dy_n = k.hh * dy_h;
      }
      Ahead ahead;
      if (k.once && t.N * t.oH == 1 && strip + 1 < last && on == t.y_w && cn == t.x_w &&
          t.oW * (t.x_w + t.y_w) > 128 * 1024) {
        const int64_t next = ow0 + t.owb, pixels = t.oW - next < t.owb ? t.oW - next : t.owb;
        ahead.next[0] = reinterpret_cast<const char*>(t.dy + next * t.y_w);
        ahead.next[1] = reinterpret_cast<const char*>(t.x + next * t.x_w);
        ahead.lines[0] = pixels * t.y_w / 16, ahead.lines[1] = pixels * t.x_w / 16;
      }
      const int64_t runs_w = t.merge ? 1 : t.kW, run = t.merge ? t.kW * cn : cn;
      const int64_t ih0 = oh0 * t.sH - t.pT, all_rows = k.hh;
      for (int64_t kh = 0; kh < t.kH; ++kh) {
        // Rows [h0, h1) of the strip see this tap row inside the image; the others would add zeros.
        int64_t h0 = 0, h1 = all_rows;
        while (h0 < h1 && ih0 + h0 * t.sH + kh * t.dH < 0) ++h0;
        while (h1 > h0 && ih0 + (h1 - 1) * t.sH + kh * t.dH >= t.H) --h1;
        k.hh = h1 - h0;
        const float* dy_kh = dy + h0 * dy_h;
        for (int64_t kw = 0; kw < runs_w; ++kw) {
          const float* a = scratch + (kh * t.dH + h0 * t.sH) * cols * cn + kw * t.dW * cn;
          const int64_t at = (kh * t.kW + kw) * t.C + c0;
          if (t.o_inner) {
            k.s_n = image, k.s_h = t.sH * cols * cn, k.s_w = t.sW * cn;
            k.v_n = dy_n, k.v_h = dy_h, k.v_w = dy_w, k.out = t.O;
            grad_block<float>(k, a, run, dy_kh + o0, on, dw + at * t.O + o0, ahead);
          } else {
            k.s_n = dy_n, k.s_h = dy_h, k.s_w = dy_w;
            k.v_n = image, k.v_h = t.sH * cols * cn, k.v_w = t.sW * cn, k.out = depth;
            grad_block<float>(k, dy_kh + o0, on, a, run, dw + o0 * depth + at, ahead);
          }
        }
      }
    }
  }
}

void sum_arrays(const float* in, int64_t stride, int64_t count, float* out, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; i += kLanes) {
    const int n = static_cast<int>(end - i < kLanes ? end - i : kLanes);
    vf s = loadn(in + i, n);
    for (int64_t j = 1; j < count; ++j) s = add(s, loadn(in + j * stride + i, n));
    storen(out + i, s, n);
  }
}

void transpose_matrix(const float* in, int64_t in_stride, int64_t cols, float* out, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r)
    for (int64_t j = 0; j < cols; ++j) out[r * cols + j] = in[j * in_stride + r];
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
