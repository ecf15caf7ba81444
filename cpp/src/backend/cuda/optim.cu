// What it is: optimizer steps on CUDA, one launch per op as the op has it (one parameter tensor).
#include "backend/cuda/kernels/optim.cuh"

#include "backend/cuda/dispatch.h"

namespace fastcnn::cuda {
namespace {

void sgd(const Call& c) {
  const auto& q = c.as<SgdParams>();
  with_floating(c.in[0].dtype, "sgd_step", [&]<class T>() {
    launch("sgd_step", for_elements(c.in[0].numel()), sgd_kernel<T>, q, c.in[c.in.size() - 1].as<float>(),
           c.in[0].as<T>(), c.in[1].as<T>(), q.has_momentum ? c.in[2].as<T>() : nullptr, c.out[0].as<T>(),
           q.has_momentum ? c.out[1].as<T>() : nullptr, c.in[0].numel());
  });
}

void adam(const Call& c) {
  const auto& q = c.as<AdamParams>();
  with_floating(c.in[0].dtype, "adam_step", [&]<class T>() {
    const AdamArgs<T> a{q,
                        c.in[c.in.size() - 1].as<float>(),
                        c.in[0].as<T>(),
                        c.in[1].as<T>(),
                        c.in[2].as<T>(),
                        c.in[3].as<T>(),
                        q.amsgrad ? c.in[4].as<T>() : nullptr,
                        c.out[0].as<T>(),
                        c.out[1].as<T>(),
                        c.out[2].as<T>(),
                        q.amsgrad ? c.out[3].as<T>() : nullptr};
    launch("adam_step", for_elements(c.in[0].numel()), adam_kernel<T>, a, c.in[0].numel());
  });
}

void rmsprop(const Call& c) {
  const auto& q = c.as<RmspropParams>();
  const size_t mean = q.has_momentum ? 4 : 3;
  with_floating(c.in[0].dtype, "rmsprop_step", [&]<class T>() {
    const RmspropArgs<T> a{q,
                           c.in[c.in.size() - 1].as<float>(),
                           c.in[0].as<T>(),
                           c.in[1].as<T>(),
                           c.in[2].as<T>(),
                           q.has_momentum ? c.in[3].as<T>() : nullptr,
                           q.centered ? c.in[mean].as<T>() : nullptr,
                           c.out[0].as<T>(),
                           c.out[1].as<T>(),
                           q.has_momentum ? c.out[2].as<T>() : nullptr,
                           q.centered ? c.out[mean - 1].as<T>() : nullptr};
    launch("rmsprop_step", for_elements(c.in[0].numel()), rmsprop_kernel<T>, a, c.in[0].numel());
  });
}

void adagrad(const Call& c) {
  with_floating(c.in[0].dtype, "adagrad_step", [&]<class T>() {
    launch("adagrad_step", for_elements(c.in[0].numel()), adagrad_kernel<T>, c.as<AdagradParams>(),
           c.in[3].as<float>(), c.in[0].as<T>(), c.in[1].as<T>(), c.in[2].as<T>(), c.out[0].as<T>(),
           c.out[1].as<T>(), c.in[0].numel());
  });
}

void lion(const Call& c) {
  with_floating(c.in[0].dtype, "lion_step", [&]<class T>() {
    launch("lion_step", for_elements(c.in[0].numel()), lion_kernel<T>, c.as<LionParams>(), c.in[3].as<float>(),
           c.in[0].as<T>(), c.in[1].as<T>(), c.in[2].as<T>(), c.out[0].as<T>(), c.out[1].as<T>(), c.in[0].numel());
  });
}

const char* declines(const Call& c) {
  for (size_t k = 0; k + 1 < c.in.size(); ++k)
    if (c.in[k].dtype != c.in[0].dtype) return "states of another dtype than the parameter";
  return is_floating(c.in[0].dtype) ? nullptr : "dtype is not floating";
}

}  // namespace

List sgd_step_list() {
  static const Implementation list[] = {{"simt", declines, nullptr, sgd}};
  return list;
}
List adam_step_list() {
  static const Implementation list[] = {{"simt", declines, nullptr, adam}};
  return list;
}
List rmsprop_step_list() {
  static const Implementation list[] = {{"simt", declines, nullptr, rmsprop}};
  return list;
}
List adagrad_step_list() {
  static const Implementation list[] = {{"simt", declines, nullptr, adagrad}};
  return list;
}
List lion_step_list() {
  static const Implementation list[] = {{"simt", declines, nullptr, lion}};
  return list;
}

}  // namespace fastcnn::cuda
