// What it is: batch normalisation on CUDA, forward, backward and inference: slices of rows, then one pass that
// applies.
#include "backend/cuda/kernels/batch_norm.cuh"

#include <algorithm>

#include "backend/cuda/dispatch.h"

namespace fastcnn::cuda {
namespace {

unsigned columns(int64_t C) { return ceil_div(C, kNormColumns); }
int slices_of(int64_t rows, int64_t C) {
  const int64_t wanted = C ? 512 / columns(C) : 1, most = rows / (4 * kNormRows);
  return static_cast<int>(std::clamp<int64_t>(std::min(wanted, most), 1, 256));
}
LaunchPlan over_slices(int64_t rows, int64_t C, size_t value) {
  return {dim3(columns(C), static_cast<unsigned>(slices_of(rows, C))), dim3(kNormColumns, kNormRows),
          kNormColumns * kNormRows * value};
}

// Statistics and parameters have the real type of the values; moments of a convolution come from CPU plans alone.
const char* stats_decline(const Call& c, size_t first_in, size_t end_in) {
  const DType want = c.in[0].dtype == DType::float64 ? DType::float64 : DType::float32;
  for (size_t k = first_in; k < end_in; ++k)
    if (c.in[k].dtype != want) return "parameters or statistics of another dtype";
  return is_floating(c.in[0].dtype) ? nullptr : "dtype is not floating";
}
const char* forward_declines(const Call& c) {
  const auto& p = c.as<BatchNormParams>();
  if (p.stats_only || p.has_moments) return "statistics apart from the norm";
  return stats_decline(c, 1, 3);
}

int64_t forward_workspace(const Call& c) {
  const auto& p = c.as<BatchNormParams>();
  return slices_of(p.rows, p.C) * p.C * static_cast<int64_t>(sizeof(Moments<double>));
}

void forward(const Call& c) {
  const auto& p = c.as<BatchNormParams>();
  with_floating(c.in[0].dtype, "batch_norm", [&]<class T>() {
    using R = Real<T>;
    auto* parts = static_cast<Moments<R>*>(c.workspace);
    const NormStats<R> s{c.out[1].as<R>(), c.out[2].as<R>(), p.has_affine ? c.out[3].as<R>() : nullptr,
                         c.in[1].as<R>(), c.in[2].as<R>()};
    launch("bn_moments", over_slices(p.rows, p.C, sizeof(Moments<R>)), bn_moments<T>, c.in[0].as<T>(), p.rows, p.C,
           parts);
    launch("bn_finish", for_elements(p.C), bn_finish<R>, parts, slices_of(p.rows, p.C), p.C, p.eps, s);
    launch("bn_apply", for_elements(p.rows * p.C), bn_apply<T>, c.in[0].as<T>(), s.mean, s.invstd, false, p.eps,
           s.gamma, s.beta, p.has_residual ? c.in[3].as<T>() : nullptr, ActOf<R>(p.act), c.out[0].as<T>(), p.rows,
           p.C);
  });
}

void infer(const Call& c) {
  const auto& p = c.as<BatchNormParams>();
  with_floating(c.in[0].dtype, "batch_norm_infer", [&]<class T>() {
    using R = Real<T>;
    launch("bn_apply", for_elements(p.rows * p.C), bn_apply<T>, c.in[0].as<T>(), c.in[3].as<R>(), c.in[4].as<R>(),
           true, p.eps, c.in[1].as<R>(), c.in[2].as<R>(), p.has_residual ? c.in[5].as<T>() : nullptr,
           ActOf<R>(p.act), c.out[0].as<T>(), p.rows, p.C);
  });
}
const char* infer_declines(const Call& c) { return stats_decline(c, 1, 5); }

const char* backward_declines(const Call& c) {
  if (c.as<BatchNormParams>().coef_only) return "coefficients alone";
  return stats_decline(c, 2, 5);
}
int64_t backward_workspace(const Call& c) {
  const auto& p = c.as<BatchNormParams>();
  return (slices_of(p.rows, p.C) + 1) * 2 * p.C * int64_t{8};
}

void backward(const Call& c) {
  const auto& p = c.as<BatchNormParams>();
  with_floating(c.in[0].dtype, "batch_norm_bwd", [&]<class T>() {
    using R = Real<T>;
    const bool act = p.act.act != Act::none;
    const Operand& last = c.in[c.in.size() - 1];
    const BnGrad<T> g{c.in[0].as<T>(), p.has_dy2 ? last.as<T>() : nullptr,
                      c.in[1].as<T>(), act && !p.has_affine ? c.in[5].as<T>() : nullptr,
                      c.in[3].as<R>(), act && p.has_affine ? c.in[5].as<R>() : nullptr,
                      ActOf<R>(p.act)};
    auto* coef = static_cast<R*>(c.workspace);
    R* parts = coef + 2 * p.C;
    const int slices = slices_of(p.rows, p.C);
    const R* invstd = c.in[4].as<R>();
    if (!p.has_sums)
      launch("bn_bwd_sums", over_slices(p.rows, p.C, 2 * sizeof(R)), bn_bwd_sums<T>, g, p.rows, p.C, parts);
    launch("bn_bwd_finish", for_elements(p.C), bn_bwd_finish<R>, parts, slices, p.rows, p.C,
           p.has_sums ? last.as<double>() : nullptr, invstd, c.out[1].as<R>(), c.out[2].as<R>(), coef);
    launch("bn_bwd_apply", for_elements(p.rows * p.C), bn_bwd_apply<T>, g, c.in[2].as<R>(), invstd, coef,
           c.out[0].as<T>(), p.has_residual ? c.out[3].as<T>() : nullptr, p.rows, p.C);
  });
}

void update_running(const Call& c) {
  const auto& p = c.as<BnUpdateParams>();
  if (p.rows == 1)
    throw std::invalid_argument("batch_norm: expected more than 1 value per channel when training, got 1");
  auto run = [&]<class T>() {
    launch("bn_running", for_elements(p.C), bn_running<T>, c.in[0].as<T>(), c.in[1].as<T>(), c.in[2].as<T>(),
           c.in[3].as<T>(), c.in[4].as<int64_t>(), p, c.out[0].as<T>(), c.out[1].as<T>());
  };
  if (c.in[0].dtype == DType::float64)
    run.template operator()<double>();
  else
    run.template operator()<float>();
}
void fold(const Call& c) {
  const auto& p = c.as<FoldParams>();
  const int64_t n = c.in[0].numel();
  with_floating(c.out[0].dtype, "fold_batch_norm", [&]<class T>() {
    launch("bn_fold", for_elements(std::max(n, p.C)), bn_fold<T>, p, n, c.in[0].as<T>(), c.in[1].as<T>(),
           c.in[2].as<T>(), c.in[3].as<T>(), c.in[4].as<T>(), p.has_bias ? c.in[5].as<T>() : nullptr,
           c.out[0].as<T>(), c.out[1].as<T>());
  });
}
const char* running_declines(const Call& c) {
  for (size_t k = 1; k < 4; ++k)
    if (c.in[k].dtype != c.in[0].dtype) return "statistics of several dtypes";
  return c.in[0].dtype == DType::float32 || c.in[0].dtype == DType::float64 ? nullptr : "16-bit statistics";
}

}  // namespace

List batch_norm_list() {
  static const Implementation list[] = {{"simt", forward_declines, forward_workspace, forward}};
  return list;
}
List batch_norm_bwd_list() {
  static const Implementation list[] = {{"simt", backward_declines, backward_workspace, backward}};
  return list;
}
List batch_norm_infer_list() {
  static const Implementation list[] = {{"simt", infer_declines, nullptr, infer}};
  return list;
}
List fold_batch_norm_list() {
  static const Implementation list[] = {{"simt", mixed_floats, nullptr, fold}};
  return list;
}
List bn_update_running_list() {
  static const Implementation list[] = {{"simt", running_declines, nullptr, update_running}};
  return list;
}

}  // namespace fastcnn::cuda
