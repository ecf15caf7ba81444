// What it is: the layout of planes that conv2d_weights_grad_planes and its adaptor share. What it is not: when
// they pay (backend/cpu/conv2d_grad_planes.cpp).
#pragma once
#include <stdint.h>

#include "backend/cpu/kernels/kernel_args.h"

namespace fastcnn {

constexpr int64_t kMostStreams = 512;  // taps x channels
constexpr int64_t kMostLanes = 16;

// A strip of whole rows of `nb` images, each channel a plane of its own. Rows of x lie in phases by the stride,
// and so do columns, so that the pixels one tap meets are neighbours, and rows have the pitch of those of dy,
// which are filled up with zeros: all rows of an image are one run.
struct GradPlanes {
  int64_t phases_h, phases_w, rows, pitch;  // of x, for one image of a strip
  int64_t block, x_plane, y_image, y_plane;
  FASTCNN_INLINE GradPlanes(const WeightsGradTask& t, int64_t nb, int64_t out_rows, int64_t out_cols) {
    const int64_t tall = (t.kH - 1) * t.dH, wide = (t.kW - 1) * t.dW;
    phases_h = tall + 1 < t.sH ? tall + 1 : t.sH, phases_w = wide + 1 < t.sW ? wide + 1 : t.sW;
    rows = out_rows + tall / t.sH, pitch = out_cols + wide / t.sW;
    block = rows * pitch;
    x_plane = odd(nb * phases_h * phases_w * block + kMostLanes);
    y_image = (out_rows * pitch + kMostLanes - 1) / kMostLanes * kMostLanes;
    y_plane = odd(nb * y_image);
  }
  // Planes begin in different sets of a cache.
  static FASTCNN_INLINE int64_t odd(int64_t floats) { return ((floats + 15) / 16 | 1) * 16; }
  FASTCNN_INLINE int64_t floats(const WeightsGradTask& t) const { return t.C * x_plane + t.O * y_plane; }
};

// The sums of a chunk of strips: a vector for each of (O, streams and some to spare), then one for each of O for
// the gradient of the bias.
constexpr int64_t kSpareStreams = 8;
FASTCNN_INLINE int64_t plane_streams(const WeightsGradTask& t) { return t.kH * t.kW * t.C; }
FASTCNN_INLINE int64_t plane_sums(const WeightsGradTask& t) {  // vectors
  return t.O * (plane_streams(t) + kSpareStreams + 1);
}

}  // namespace fastcnn
