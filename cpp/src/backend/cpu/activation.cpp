// What it is: the implementation lists of the activations on the CPU and the code that splits them over threads.
#include <algorithm>

#include "backend/cpu/accept.h"
#include "backend/cpu/isa.h"
#include "backend/cpu/lists.h"
#include "backend/cpu/ref/ref.h"
#include "backend/cpu/threads.h"

namespace fastcnn::cpu {
namespace {

constexpr int64_t kBlock = 4096;  // elements; a multiple of any vector, so stream() stays aligned

const char* declines(const Call& c) { return not_simd_float32(c); }

// f(begin, end) over whole blocks of n elements.
template <class F>
void for_elements(int64_t n, F&& f) {
  parallel_for((n + kBlock - 1) / kBlock, 4,
               [&](int64_t b, int64_t e, int) { f(b * kBlock, std::min(e * kBlock, n)); });
}

void forward(const Call& c) {
  const float* x = c.in[0].as<float>();
  float* y = c.out[0].as<float>();
  int64_t n = c.in[0].numel();
  int nt = x != y && streams(y, n * 4);
  for_elements(n, [&](int64_t b, int64_t e) { kernels()->act_forward(&c.as<ActParams>(), x, y, b, e, nt); });
}

void backward(const Call& c) {
  const float *dy = c.in[0].as<float>(), *r = c.in[1].as<float>();
  float* dx = c.out[0].as<float>();
  int64_t n = c.in[0].numel();
  int nt = dx != dy && dx != r && streams(dx, n * 4);
  for_elements(n, [&](int64_t b, int64_t e) { kernels()->act_backward(&c.as<ActParams>(), dy, r, dx, b, e, nt); });
}

void backward2(const Call& c) {
  const float *g = c.in[0].as<float>(), *dy = c.in[1].as<float>(), *r = c.in[2].as<float>();
  for_elements(c.in[0].numel(), [&](int64_t b, int64_t e) {
    kernels()->act_backward2(&c.as<ActParams>(), g, dy, r, c.out[0].as<float>(), b, e);
  });
}

}  // namespace

List activation_list() {
  static const Implementation list[] = {{"simd", declines, nullptr, forward},
                                        {"ref", nullptr, nullptr, ref::activation}};
  return list;
}

List activation_bwd_list() {
  static const Implementation list[] = {{"simd", declines, nullptr, backward},
                                        {"ref", nullptr, nullptr, ref::activation_bwd}};
  return list;
}

List activation_bwd2_list() {
  static const Implementation list[] = {{"simd", declines, nullptr, backward2},
                                        {"ref", nullptr, nullptr, ref::activation_bwd2}};
  return list;
}

}  // namespace fastcnn::cpu
