// What it is: any activation on outputs that a kernel has stored a moment ago, for activations that are too long
// for its registers. What it is not: a pass over memory; activation.cpp does those, with the same arithmetic.
#pragma once
#include "backend/cpu/kernels/act.h"

namespace fastcnn::cpu::FASTCNN_ISA {

template <Act A>
FASTCNN_OP void act_pixels_loop(const ActParams& p, float* y, const int64_t* y_off, int64_t pixels, int64_t n) {
  const float alpha = static_cast<float>(p.alpha), beta = static_cast<float>(p.beta);
  for (int64_t i = 0; i < pixels; ++i) {
    float* r = y + y_off[i];
    int64_t c = 0;
    for (; c + kLanes <= n; c += kLanes) store(r + c, act_fwd<A>(load(r + c), alpha, beta));
    const int m = static_cast<int>(n - c);
    if (m > 0) storen(r + c, act_fwd<A>(loadn(r + c, m), alpha, beta), m);
  }
}

// n neighbouring floats at y + y_off[i] for each pixel i.
__attribute__((noinline)) inline void act_pixels(const ActParams& p, float* y, const int64_t* y_off,
                                                 int64_t pixels, int64_t n) {
  switch (p.act) {
#define FASTCNN_ACT_CASE(a) \
  case Act::a: return act_pixels_loop<Act::a>(p, y, y_off, pixels, n);
    FASTCNN_ACTS(FASTCNN_ACT_CASE)
#undef FASTCNN_ACT_CASE
    default: return;
  }
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
