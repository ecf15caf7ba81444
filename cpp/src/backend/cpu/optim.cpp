// What it is: the ordered CPU implementations of the optimizer steps, and of the search for gradients that are not
// finite.
#include <atomic>
#include <cstring>

#include "backend/cpu/isa.h"
#include "backend/cpu/lists.h"
#include "backend/cpu/ref/ref.h"
#include "backend/cpu/step_numbers.h"
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

// `states` tensors stand between gradient and hyper.
StepNumbers numbers_of(const Call& c, size_t states, bool counts = false) {
  const float* scale = c.in.size() > states + 3 ? c.in[states + 3].as<float>() : nullptr;
  return step_numbers(c.in[states + 2].as<float>(), scale, counts);
}

void sgd_run(const Call& c) {
  const auto& p = c.as<SgdParams>();
  const StepNumbers n = numbers_of(c, p.has_momentum ? 1 : 0);
  const float* g = c.in[1].as<float>();
  float* w = state(c.in[0], c.out[0]);
  float* momentum = p.has_momentum ? state(c.in[2], c.out[1]) : nullptr;
  if (n.skip) return;
  parallel_for(c.in[0].numel(), kGrain,
               [&](int64_t b, int64_t e, int) { kernels()->sgd_step(p, n.h, w, g, momentum, b, e); });
}

void adam_run(const Call& c) {
  const auto& p = c.as<AdamParams>();
  const StepNumbers n = numbers_of(c, p.amsgrad ? 3 : 2, true);
  const float* g = c.in[1].as<float>();
  float *w = state(c.in[0], c.out[0]), *m = state(c.in[2], c.out[1]), *v = state(c.in[3], c.out[2]);
  float* v_max = p.amsgrad ? state(c.in[4], c.out[3]) : nullptr;
  if (n.skip) return;
  parallel_for(c.in[0].numel(), kGrain,
               [&](int64_t b, int64_t e, int) { kernels()->adam_step(p, n.h, w, g, m, v, v_max, b, e); });
}

void rmsprop_run(const Call& c) {
  const auto& p = c.as<RmspropParams>();
  const StepNumbers n = numbers_of(c, 1 + (p.has_momentum ? 1 : 0) + (p.centered ? 1 : 0));
  const float* g = c.in[1].as<float>();
  float *w = state(c.in[0], c.out[0]), *v = state(c.in[2], c.out[1]);
  float* momentum = p.has_momentum ? state(c.in[3], c.out[2]) : nullptr;
  int at = p.has_momentum ? 4 : 3;
  float* mean = p.centered ? state(c.in[at], c.out[at - 1]) : nullptr;
  if (n.skip) return;
  parallel_for(c.in[0].numel(), kGrain,
               [&](int64_t b, int64_t e, int) { kernels()->rmsprop_step(p, n.h, w, g, v, momentum, mean, b, e); });
}

void adagrad_run(const Call& c) {
  const auto& p = c.as<AdagradParams>();
  const StepNumbers n = numbers_of(c, 1);
  const float* g = c.in[1].as<float>();
  float *w = state(c.in[0], c.out[0]), *sum = state(c.in[2], c.out[1]);
  if (n.skip) return;
  parallel_for(c.in[0].numel(), kGrain,
               [&](int64_t b, int64_t e, int) { kernels()->adagrad_step(p, n.h, w, g, sum, b, e); });
}

void lion_run(const Call& c) {
  const auto& p = c.as<LionParams>();
  const StepNumbers n = numbers_of(c, 1);
  const float* g = c.in[1].as<float>();
  float *w = state(c.in[0], c.out[0]), *m = state(c.in[2], c.out[1]);
  if (n.skip) return;
  parallel_for(c.in[0].numel(), kGrain,
               [&](int64_t b, int64_t e, int) { kernels()->lion_step(p, n.h, w, g, m, b, e); });
}

// Exponents of all ones, OR-ed together: a loop that the compiler turns into vectors.
const char* finite_declines(const Call& c) {
  for (const Operand& o : c.in)
    if (o.dtype != DType::float32) return "a tensor is not float32";
  return nullptr;
}
void non_finite_run(const Call& c) {
  std::atomic<bool> found{false};
  for (const Operand& o : c.in) {
    const auto* bits = o.as<uint32_t>();
    parallel_for(o.numel(), 4 * kGrain, [&](int64_t b, int64_t e, int) {
      uint32_t any = 0;
      for (int64_t i = b; i < e; ++i) any |= (bits[i] & 0x7f800000u) == 0x7f800000u;
      if (any) found.store(true, std::memory_order_relaxed);
    });
  }
  *c.out[0].as<float>() = found ? 1.0f : 0.0f;
}

}  // namespace

List non_finite_list() {
  static const Implementation list[] = {{"bits", finite_declines, nullptr, non_finite_run},
                                        {"ref", nullptr, nullptr, ref::non_finite}};
  return list;
}

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
