// What it is: the softmax family and cross entropy on CUDA: threads per row.
#include "backend/cuda/kernels/softmax.cuh"

#include "backend/cuda/dispatch.h"

namespace fastcnn::cuda {
namespace {

// A block per row, as many warps as the row has use for.
LaunchPlan for_rows(int64_t rows, int64_t dim, size_t value) {
  unsigned threads = 32;
  while (threads < kThreads && threads * 4 < static_cast<uint64_t>(dim)) threads *= 2;
  return {dim3(static_cast<unsigned>(rows < 65536 ? rows : 65536)), dim3(threads), threads / 32 * value};
}

template <bool log_form>
void forward(const Call& c) {
  const auto& p = c.as<SoftmaxParams>();
  if (p.dim == 0) return;
  with_floating(c.out[0].dtype, "softmax", [&]<class T>() {
    launch("softmax", for_rows(p.outer * p.inner, p.dim, sizeof(Real<T>)), softmax_kernel<T>, p, log_form,
           c.in[0].as<T>(), c.out[0].as<T>());
  });
}
template <bool log_form>
void backward(const Call& c) {
  const auto& p = c.as<SoftmaxParams>();
  if (p.dim == 0) return;
  with_floating(c.out[0].dtype, "softmax_bwd", [&]<class T>() {
    launch("softmax_bwd", for_rows(p.outer * p.inner, p.dim, sizeof(Real<T>)), softmax_bwd_kernel<T>, p, log_form,
           c.in[0].as<T>(), c.in[1].as<T>(), c.out[0].as<T>());
  });
}

template <class R>
CrossEntropyArgs<R> entropy_args(const Call& c, size_t target, size_t weight) {
  const auto& p = c.as<CrossEntropyParams>();
  const bool w = p.has_weight;
  return {p, c.in[target].as<int64_t>(), w ? c.in[weight].data : nullptr, w ? c.in[weight].dtype : DType::float32,
          rt::error_record()};
}

int64_t entropy_workspace(const Call& c) { return c.as<CrossEntropyParams>().rows * 16; }

void cross_entropy_run(const Call& c) {
  const auto& p = c.as<CrossEntropyParams>();
  with_floating(c.in[0].dtype, "cross_entropy", [&]<class T>() {
    using R = Real<T>;
    auto* rows = static_cast<R*>(c.workspace);
    launch("cross_entropy", for_rows(p.rows, p.C, sizeof(R)), cross_entropy_rows<T>, entropy_args<R>(c, 1, 2),
           c.in[0].as<T>(), c.out[1].data, c.out[1].dtype, rows);
    launch("cross_entropy_join", {dim3(1), dim3(kThreads), kThreads / 32 * 2 * sizeof(R)}, cross_entropy_join<R>,
           p, rows, c.out[0].data, c.out[0].dtype, c.out[2].data, c.out[2].dtype);
  });
}

void cross_entropy_bwd_run(const Call& c) {
  const auto& p = c.as<CrossEntropyParams>();
  with_floating(c.out[0].dtype, "cross_entropy_bwd", [&]<class T>() {
    launch("cross_entropy_bwd", for_rows(p.rows, p.C, sizeof(Real<T>)), cross_entropy_bwd_kernel<T>,
           entropy_args<Real<T>>(c, 2, 5), c.in[0].data, c.in[0].dtype, c.in[1].as<T>(), c.in[3].data,
           c.in[3].dtype, c.in[4].data, c.out[0].as<T>());
  });
}
const char* entropy_bwd_declines(const Call& c) {
  if (c.in[1].dtype != c.out[0].dtype) return "gradient of another dtype than the logits";
  return c.in[3].dtype == c.in[4].dtype ? nullptr : "lse and weight_sum of two dtypes";
}

}  // namespace

List softmax_list() {
  static const Implementation list[] = {{"simt", mixed_floats, nullptr, forward<false>}};
  return list;
}
List log_softmax_list() {
  static const Implementation list[] = {{"simt", mixed_floats, nullptr, forward<true>}};
  return list;
}
List softmax_bwd_list() {
  static const Implementation list[] = {{"simt", mixed_floats, nullptr, backward<false>}};
  return list;
}
List log_softmax_bwd_list() {
  static const Implementation list[] = {{"simt", mixed_floats, nullptr, backward<true>}};
  return list;
}
List cross_entropy_list() {
  static const Implementation list[] = {{"simt", nullptr, entropy_workspace, cross_entropy_run}};
  return list;
}
List cross_entropy_bwd_list() {
  static const Implementation list[] = {{"simt", entropy_bwd_declines, nullptr, cross_entropy_bwd_run}};
  return list;
}

}  // namespace fastcnn::cuda
