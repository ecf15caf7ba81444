// What it is: layer, group and instance normalisation on CUDA.
#include "backend/cuda/kernels/norm.cuh"

#include <algorithm>

#include "backend/cuda/dispatch.h"

namespace fastcnn::cuda {
namespace {

NormIndex index_of(const NormParams& p, bool group) {
  if (!group) return {p.outer, p.inner, 0, 0, 0, 0};
  return {p.N * p.groups, p.HW * (p.C / p.groups), p.HW, p.C, p.groups, p.C / p.groups};
}
int64_t channels_of(const NormParams& p, bool group) { return group ? p.C : p.inner; }
int slices_of(const NormParams& p, bool group) {
  const int64_t rows = group ? p.N * p.HW : p.outer, blocks = ceil_div(channels_of(p, group), kThreads);
  return static_cast<int>(std::clamp<int64_t>(std::min(blocks ? 512 / blocks : 1, rows / 32), 1, 256));
}

LaunchPlan per_set(const NormIndex& ix, size_t value) {
  unsigned threads = 32;
  while (threads < kThreads && threads * 4 < static_cast<uint64_t>(ix.count)) threads *= 2;
  return {dim3(static_cast<unsigned>(std::min<int64_t>(ix.sets, 65536))), dim3(threads), threads / 32 * value};
}

template <bool group>
void forward(const Call& c) {
  const auto& p = c.as<NormParams>();
  with_floating(c.in[0].dtype, "norm", [&]<class T>() {
    using R = Real<T>;
    const NormIndex ix = index_of(p, group);
    launch("norm_forward", per_set(ix, sizeof(R)), norm_forward<T>, ix, p.eps, c.in[0].as<T>(),
           p.affine ? c.in[1].as<R>() : nullptr, p.affine ? c.in[2].as<R>() : nullptr, c.out[0].as<T>(),
           c.out[1].as<R>(), c.out[2].as<R>());
  });
}

template <bool group>
int64_t backward_workspace(const Call& c) {
  const auto& p = c.as<NormParams>();
  return p.affine ? slices_of(p, group) * 2 * channels_of(p, group) * int64_t{8} : 0;
}

template <bool group>
void backward(const Call& c) {
  const auto& p = c.as<NormParams>();
  with_floating(c.in[0].dtype, "norm_bwd", [&]<class T>() {
    using R = Real<T>;
    const NormIndex ix = index_of(p, group);
    const R* gamma = p.affine ? c.in[2].as<R>() : nullptr;
    const R *mean = c.in[p.affine ? 3 : 2].as<R>(), *invstd = c.in[p.affine ? 4 : 3].as<R>();
    launch("norm_backward", per_set(ix, 2 * sizeof(R)), norm_backward<T>, ix, c.in[0].as<T>(), c.in[1].as<T>(),
           gamma, mean, invstd, c.out[0].as<T>());
    if (!p.affine) return;
    auto* parts = static_cast<R*>(c.workspace);
    const int64_t channels = channels_of(p, group);
    const int slices = slices_of(p, group);
    launch("norm_affine_sums",
           {dim3(ceil_div(channels, kThreads), static_cast<unsigned>(slices)), dim3(kThreads), 0},
           norm_affine_sums<T>, ix, channels, c.in[0].as<T>(), c.in[1].as<T>(), mean, invstd, parts);
    launch("norm_affine_join", for_elements(channels), norm_affine_join<R>, parts, slices, channels,
           c.out[1].as<R>(), c.out[2].as<R>());
  });
}

const char* declines(const Call& c) {
  const DType want = c.in[0].dtype == DType::float64 ? DType::float64 : DType::float32;
  for (size_t k = 1; k < c.out.size(); ++k)
    if (c.out[k].dtype != want) return "statistics of another dtype";
  return is_floating(c.in[0].dtype) ? nullptr : "dtype is not floating";
}

}  // namespace

List layer_norm_list() {
  static const Implementation list[] = {{"simt", declines, nullptr, forward<false>}};
  return list;
}
List layer_norm_bwd_list() {
  static const Implementation list[] = {{"simt", declines, backward_workspace<false>, backward<false>}};
  return list;
}
List group_norm_list() {
  static const Implementation list[] = {{"simt", declines, nullptr, forward<true>}};
  return list;
}
List group_norm_bwd_list() {
  static const Implementation list[] = {{"simt", declines, backward_workspace<true>, backward<true>}};
  return list;
}

}  // namespace fastcnn::cuda
