// What it is: the implementation lists of the activations on the CPU and the code that splits them over threads.
#include <algorithm>

#include "backend/cpu/accept.h"
#include "backend/cpu/isa.h"
#include "backend/cpu/lists.h"
#include "backend/cpu/ref/ref.h"
#include "backend/cpu/threads.h"
#include "backend/cpu/via_float32.h"

namespace fastcnn::cpu {
namespace {

constexpr int64_t kBlock = 4096;  // elements; a multiple of any vector, so stream() stays aligned

// f(begin, end) over whole blocks of n elements.
template <class F>
void for_elements(int64_t n, F&& f) {
  parallel_for((n + kBlock - 1) / kBlock, 4,
               [&](int64_t b, int64_t e, int) { f(b * kBlock, std::min(e * kBlock, n)); });
}

template <class T, class Kernel>
void forward_with(const Call& c, Kernel kernel) {
  const T* x = c.in[0].as<T>();
  T* y = c.out[0].as<T>();
  int64_t n = c.in[0].numel();
  int nt = x != y && streams(y, n * static_cast<int64_t>(sizeof(T)));
  for_elements(n, [&](int64_t b, int64_t e) { kernel(&c.as<ActParams>(), x, y, b, e, nt); });
}
void forward(const Call& c) {
  if (c.in[0].dtype == DType::bfloat16)
    forward_with<bfloat16>(c, kernels()->act_forward_bf16);
  else
    forward_with<float>(c, kernels()->act_forward);
}

template <class T, class Kernel>
void backward_with(const Call& c, Kernel kernel) {
  const T *dy = c.in[0].as<T>(), *r = c.in[1].as<T>();
  T* dx = c.out[0].as<T>();
  int64_t n = c.in[0].numel();
  int nt = dx != dy && dx != r && streams(dx, n * static_cast<int64_t>(sizeof(T)));
  for_elements(n, [&](int64_t b, int64_t e) { kernel(&c.as<ActParams>(), dy, r, dx, b, e, nt); });
}
void backward(const Call& c) {
  if (c.in[0].dtype == DType::bfloat16)
    backward_with<bfloat16>(c, kernels()->act_backward_bf16);
  else
    backward_with<float>(c, kernels()->act_backward);
}

void backward2(const Call& c) {
  const float *g = c.in[0].as<float>(), *dy = c.in[1].as<float>(), *r = c.in[2].as<float>();
  for_elements(c.in[0].numel(), [&](int64_t b, int64_t e) {
    kernels()->act_backward2(&c.as<ActParams>(), g, dy, r, c.out[0].as<float>(), b, e);
  });
}

}  // namespace

List activation_list() {
  static const Implementation list[] = {{"simd", not_simd_float, nullptr, forward},
                                        ViaFloat32<activation_list>::entry(),
                                        {"ref", nullptr, nullptr, ref::activation}};
  return list;
}

List activation_bwd_list() {
  static const Implementation list[] = {{"simd", not_simd_float, nullptr, backward},
                                        ViaFloat32<activation_bwd_list>::entry(),
                                        {"ref", nullptr, nullptr, ref::activation_bwd}};
  return list;
}

List activation_bwd2_list() {
  static const Implementation list[] = {{"simd", not_simd_float32, nullptr, backward2},
                                        ViaFloat32<activation_bwd2_list>::entry(),
                                        {"ref", nullptr, nullptr, ref::activation_bwd2}};
  return list;
}

}  // namespace fastcnn::cpu
