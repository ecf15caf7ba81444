// What it is: the structs that the kernels with pixels in the lanes (conv2d_planes.cpp, conv2d_planes_grad.cpp)
// and their adaptor share. What it is not: when they pay (backend/cpu/conv2d_planes.cpp).
#pragma once
#include <stdint.h>

#include "backend/cpu/kernels/kernel_args.h"

namespace fastcnn {

// A convolution of few channels, strips of whole rows of some images at a time.
struct PlanesTask {
  int64_t B = 1, x_b = 0, y_b = 0, w_b = 0;  // groups of the convolution
  int64_t N = 0, H = 0, W = 0, C = 0, x_n = 0, x_h = 0, x_w = 0;
  int64_t oH = 0, oW = 0, O = 0, y_n = 0, y_h = 0, y_w = 0;
  int64_t kH = 1, kW = 1, sH = 1, sW = 1, dH = 1, dW = 1, pT = 0, pL = 0;
  const float* x = nullptr;
  NormIn norm;                       // x is read through it
  int64_t nb = 1, ohb = 1, owb = 1;  // of a strip

  const float* w = nullptr;  // (B, kH, kW, C, O)
  float* y = nullptr;
  const float* bias = nullptr;  // (B * O) or null
  Act act = Act::none;          // none, relu or relu6
  MomentsOut moments;           // of y; a part is a strip
  int32_t stream = 0;           // y past the caches, where its vectors are lines

  // The gradient of the weights: dy has the strides of y.
  const float* dy = nullptr;
  float* dw = nullptr;     // chunk i at dw + i * B * w_b: (B, O, kH, kW, C)
  float* dbias = nullptr;  // chunk i at dbias + i * B * O, or null
  int64_t chunks = 1;

  FASTCNN_INLINE int64_t streams() const { return kH * kW * C; }  // the planes of x as each tap sees them
  // Of the gradient, vectors of sums: (O, streams and some to spare), then O for the bias.
  FASTCNN_INLINE int64_t sums() const { return O * (streams() + kSpareStreams + 1); }
  static constexpr int64_t kSpareStreams = 8;
};

constexpr int64_t kMostStreams = 1024;
constexpr int64_t kMostPlaneLanes = 16;  // so much behind a plane may be read

// Rows [h0, h0 + rows) of images [n0, n0 + images).
struct PlaneStrip {
  int64_t n0, h0, images, rows;
  FASTCNN_INLINE PlaneStrip(const PlanesTask& t, int64_t strip) {
    const int64_t strips_h = (t.oH + t.ohb - 1) / t.ohb;
    n0 = strip / strips_h * t.nb, h0 = strip % strips_h * t.ohb;
    images = t.N - n0 < t.nb ? t.N - n0 : t.nb, rows = t.oH - h0 < t.ohb ? t.oH - h0 : t.ohb;
  }
};

// A strip, each channel a plane of its own. Rows of x lie in phases by the stride, and so do columns, so that the
// pixels one tap meets are neighbours, and rows have the pitch of those of y, which are filled up with zeros: all
// rows of an image are one run.
struct PlaneLayout {
  int64_t phases_h, phases_w, rows, pitch;  // of x, for one image
  int64_t block, x_image, x_plane, y_run, y_image, y_plane;
  FASTCNN_INLINE PlaneLayout(const PlanesTask& t, int64_t nb, int64_t out_rows) {
    const int64_t tall = (t.kH - 1) * t.dH, wide = (t.kW - 1) * t.dW;
    phases_h = tall + 1 < t.sH ? tall + 1 : t.sH, phases_w = wide + 1 < t.sW ? wide + 1 : t.sW;
    rows = out_rows + tall / t.sH, pitch = t.oW + wide / t.sW;
    block = rows * pitch, x_image = phases_h * phases_w * block;
    x_plane = odd(nb * x_image + kMostPlaneLanes);
    y_run = (out_rows - 1) * pitch + t.oW;
    y_image = (out_rows * pitch + kMostPlaneLanes - 1) / kMostPlaneLanes * kMostPlaneLanes;
    y_plane = odd(nb * y_image + kMostPlaneLanes);
  }
  // Planes begin in different sets of a cache.
  static FASTCNN_INLINE int64_t odd(int64_t floats) { return ((floats + 15) / 16 | 1) * 16; }
  FASTCNN_INLINE int64_t floats(const PlanesTask& t) const { return t.C * x_plane + t.O * y_plane; }
  // Where each stream begins in the planes of x: at[(kh * kW + kw) * C + c].
  FASTCNN_INLINE void find_streams(const PlanesTask& t, int32_t* at) const {
    for (int64_t kh = 0; kh < t.kH; ++kh)
      for (int64_t kw = 0; kw < t.kW; ++kw) {
        const int64_t h = kh * t.dH, w = kw * t.dW;
        const int64_t tap = (h % t.sH * phases_w + w % t.sW) * block + h / t.sH * pitch + w / t.sW;
        for (int64_t c = 0; c < t.C; ++c) *at++ = static_cast<int32_t>(c * x_plane + tap);
      }
  }
};

}  // namespace fastcnn
