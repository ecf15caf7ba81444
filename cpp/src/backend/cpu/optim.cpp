// What it is: the ordered CPU implementations of the optimizer steps.
#include <cstring>

#include "backend/cpu/isa.h"
#include "backend/cpu/lists.h"
#include "backend/cpu/ref/ref.h"
#include "backend/cpu/threads.h"

namespace fastcnn::cpu {
namespace {

constexpr int64_t kGrain = 8 * 1024;

const char* declines(const Call& c) {
  if (!kernels()) return "no kernels in this ISA";
  for (const Operand& o : c.in)
    if (o.dtype != DType::float32) return "a tensor is not float32";
  return nullptr;
}

// The outputs are the inputs' memory; where a caller keeps them apart, the state moves first.
float* state(const Operand& in, const Operand& out) {
  if (in.data != out.data) std::memcpy(out.data, in.data, in.numel() * sizeof(float));
  return out.as<float>();
}

void sgd_run(const Call& c) {
  const auto& p = c.as<SgdParams>();
  const float *hyper = c.in.back().as<float>(), *g = c.in[1].as<float>();
  float* w = state(c.in[0], c.out[0]);
  float* momentum = p.has_momentum ? state(c.in[2], c.out[1]) : nullptr;
  parallel_for(c.in[0].numel(), kGrain,
               [&](int64_t b, int64_t e, int) { kernels()->sgd_step(p, hyper, w, g, momentum, b, e); });
}

void adam_run(const Call& c) {
  const auto& p = c.as<AdamParams>();
  const float *hyper = c.in.back().as<float>(), *g = c.in[1].as<float>();
  float *w = state(c.in[0], c.out[0]), *m = state(c.in[2], c.out[1]), *v = state(c.in[3], c.out[2]);
  float* v_max = p.amsgrad ? state(c.in[4], c.out[3]) : nullptr;
  parallel_for(c.in[0].numel(), kGrain,
               [&](int64_t b, int64_t e, int) { kernels()->adam_step(p, hyper, w, g, m, v, v_max, b, e); });
}

void rmsprop_run(const Call& c) {
  const auto& p = c.as<RmspropParams>();
  const float *hyper = c.in.back().as<float>(), *g = c.in[1].as<float>();
  float *w = state(c.in[0], c.out[0]), *v = state(c.in[2], c.out[1]);
  float* momentum = p.has_momentum ? state(c.in[3], c.out[2]) : nullptr;
  int at = p.has_momentum ? 4 : 3;
  float* mean = p.centered ? state(c.in[at], c.out[at - 1]) : nullptr;
  parallel_for(c.in[0].numel(), kGrain, [&](int64_t b, int64_t e, int) {
    kernels()->rmsprop_step(p, hyper, w, g, v, momentum, mean, b, e);
  });
}

void adagrad_run(const Call& c) {
  const auto& p = c.as<AdagradParams>();
  const float *hyper = c.in.back().as<float>(), *g = c.in[1].as<float>();
  float *w = state(c.in[0], c.out[0]), *sum = state(c.in[2], c.out[1]);
  parallel_for(c.in[0].numel(), kGrain,
               [&](int64_t b, int64_t e, int) { kernels()->adagrad_step(p, hyper, w, g, sum, b, e); });
}

void lion_run(const Call& c) {
  const auto& p = c.as<LionParams>();
  const float *hyper = c.in.back().as<float>(), *g = c.in[1].as<float>();
  float *w = state(c.in[0], c.out[0]), *m = state(c.in[2], c.out[1]);
  parallel_for(c.in[0].numel(), kGrain,
               [&](int64_t b, int64_t e, int) { kernels()->lion_step(p, hyper, w, g, m, b, e); });
}

}  // namespace

List sgd_step_list() {
  static const Implementation list[] = {{"simd", declines, nullptr, sgd_run},
                                        {"ref", nullptr, nullptr, ref::sgd_step}};
  return list;
}

List adam_step_list() {
  static const Implementation list[] = {{"simd", declines, nullptr, adam_run},
                                        {"ref", nullptr, nullptr, ref::adam_step}};
  return list;
}

List rmsprop_step_list() {
  static const Implementation list[] = {{"simd", declines, nullptr, rmsprop_run},
                                        {"ref", nullptr, nullptr, ref::rmsprop_step}};
  return list;
}

List adagrad_step_list() {
  static const Implementation list[] = {{"simd", declines, nullptr, adagrad_run},
                                        {"ref", nullptr, nullptr, ref::adagrad_step}};
  return list;
}

List lion_step_list() {
  static const Implementation list[] = {{"simd", declines, nullptr, lion_run},
                                        {"ref", nullptr, nullptr, ref::lion_step}};
  return list;
}

}  // namespace fastcnn::cpu
