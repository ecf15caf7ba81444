// What it is: images of few channels to planes, one for each channel, and planes to images. What it is not:
// products (conv2d_planes.cpp, conv2d_planes_grad.cpp).
#pragma once
#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/lanes.h"
#include "backend/cpu/kernels/planes_args.h"

namespace fastcnn::cpu::FASTCNN_ISA {

#if FASTCNN_SHARED_HERE
FASTCNN_OP void zero_pad(float* d, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) storen(d + i, zero(), lanes_at(i, n));
}

// How pixels of C channels become planes, and planes pixels.
struct PlaneSplit {
  explicit PlaneSplit(int64_t C);
  // `count` pixels, `step` floats apart, to rows of planes; and back, past the caches where vectors are lines.
  void to_planes(const float* s, int64_t step, int64_t count, float* d, int64_t plane) const;
  void to_pixels(const float* s, int64_t plane, int64_t count, float* d, int64_t step, bool stream) const;

  int64_t C;
#if defined(__AVX512F__)
  static constexpr int kMost = 4;
  vi to[kMost][kMost - 1], back[kMost][kMost - 1];  // for neighbours of at most so many channels
#endif
};

// What a strip of outputs of a group meets of x; zeros around the images and behind each plane.
void copy_planes(const PlanesTask& t, const PlaneLayout& g, const PlaneSplit& split, const PlaneStrip& strip,
                 int64_t group, float* d);
#endif

}  // namespace fastcnn::cpu::FASTCNN_ISA
