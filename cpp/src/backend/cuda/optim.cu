// What it is: optimizer steps on CUDA: one launch for each op, and in a plan one for all steps that stand together
// (run_many); the search for numbers that are not finite.
#include "backend/cuda/kernels/optim.cuh"

#include <algorithm>

#include "backend/cuda/dispatch.h"

namespace fastcnn::cuda {
namespace {

// Which of the three states a rule has.
struct States {
  bool has[3];
  size_t count() const { return size_t{has[0]} + has[1] + has[2]; }
};
States states_of(const SgdParams& q) { return {{q.has_momentum != 0, false, false}}; }
States states_of(const AdamParams& q) { return {{true, true, q.amsgrad != 0}}; }
States states_of(const RmspropParams& q) { return {{true, q.has_momentum != 0, q.centered != 0}}; }
States states_of(const AdagradParams&) { return {{true, false, false}}; }
States states_of(const LionParams&) { return {{true, false, false}}; }

StepTensor tensor_of(const Call& c, const States& states) {
  StepTensor s{};
  s.in[0] = c.in[0].data, s.in[1] = c.in[1].data, s.out[0] = c.out[0].data, s.n = c.in[0].numel();
  size_t k = 2;
  for (int j = 0; j < 3; ++j)
    if (states.has[j]) s.in[2 + j] = c.in[k].data, s.out[1 + j] = c.out[k - 1].data, ++k;
  s.aligned = 1;
  for (const void* p : s.in) s.aligned &= aligned16({p});
  for (const void* p : s.out) s.aligned &= aligned16({p});
  return s;
}

// All calls, launches of up to `most` tensors that share hyper and scale.
template <class T, template <class> class Rule, int most, class P>
void step(std::span<const Call> calls, const char* name) {
  const Rule<Real<T>> rule{calls[0].as<P>()};
  const States states = states_of(rule.q);
  const size_t at = 2 + states.count();
  auto scale_of = [at](const Call& c) { return c.in.size() > at + 1 ? c.in[at + 1].as<float>() : nullptr; };
  for (size_t i = 0; i < calls.size();) {
    const float *hyper = calls[i].in[at].as<float>(), *scale = scale_of(calls[i]);
    StepTable<most> table;
    for (; i < calls.size() && table.count < most; ++i) {
      if (calls[i].in[at].as<float>() != hyper || scale_of(calls[i]) != scale) break;
      if (calls[i].in[0].numel())
        table.add(tensor_of(calls[i], states), ceil_div(calls[i].in[0].numel(), kPerBlock));
    }
    launch(name, {dim3(static_cast<unsigned>(table.blocks)), dim3(kThreads), sizeof(cpu::StepNumbers)},
           step_kernel<T, Rule, most>, rule, table, hyper, scale);
  }
}
template <template <class> class Rule, class P>
void run_one(const Call& c) {
  with_floating(c.in[0].dtype, "optimizer step",
                [&]<class T>() { step<T, Rule, 1, P>({&c, 1}, "optimizer step"); });
}
template <template <class> class Rule, class P>
void run_all(std::span<const Call> calls) {
  with_floating(calls[0].in[0].dtype, "optimizer step",
                [&]<class T>() { step<T, Rule, kMostTensors, P>(calls, "optimizer steps"); });
}

template <class P>
const char* declines(const Call& c) {
  for (size_t k = 0; k < 2 + states_of(c.as<P>()).count(); ++k)
    if (c.in[k].dtype != c.in[0].dtype) return "states of another dtype than the parameter";
  return is_floating(c.in[0].dtype) ? nullptr : "dtype is not floating";
}

template <template <class> class Rule, class P>
Implementation implementation() {
  return {"simt", declines<P>, nullptr, run_one<Rule, P>, nullptr, nullptr, nullptr, run_all<Rule, P>};
}

void non_finite(const Call& c) {
  rt::zero(c.out[0].data, sizeof(float));
  for (size_t i = 0; i < c.in.size();) {
    FiniteTable table;
    for (; i < c.in.size() && table.count < kMostTensors; ++i)
      if (const Operand& o = c.in[i]; o.numel())
        table.add({o.data, o.numel(), o.dtype}, ceil_div(o.numel(), kPerBlock));
    launch("non_finite", {dim3(static_cast<unsigned>(table.blocks)), dim3(kThreads)}, non_finite_kernel, table,
           c.out[0].as<float>());
  }
}

}  // namespace

List sgd_step_list() {
  static const Implementation list[] = {implementation<SgdRule, SgdParams>()};
  return list;
}
List adam_step_list() {
  static const Implementation list[] = {implementation<AdamRule, AdamParams>()};
  return list;
}
List rmsprop_step_list() {
  static const Implementation list[] = {implementation<RmspropRule, RmspropParams>()};
  return list;
}
List adagrad_step_list() {
  static const Implementation list[] = {implementation<AdagradRule, AdagradParams>()};
  return list;
}
List lion_step_list() {
  static const Implementation list[] = {implementation<LionRule, LionParams>()};
  return list;
}
List non_finite_list() {
  static const Implementation list[] = {{"simt", nullptr, nullptr, non_finite}};
  return list;
}

}  // namespace fastcnn::cuda
