// What it is: reductions and pointwise losses on CUDA: the shape of blocks and the number of slices.
#include "backend/cuda/kernels/reduce.cuh"

#include <algorithm>

#include "backend/cuda/dispatch.h"

namespace fastcnn::cuda {
namespace {

struct ReducePlan {
  ReduceLoop loop;
  LaunchPlan launch;
  int slices = 1;
};

// Dims in memory order of x, neighbours of one kind merged. argmax counts along its one dim, so order is kept
// there.
ReducePlan plan_reduce(const Call& c) {
  const uint32_t dims = c.as<ReduceParams>().dims;
  const Operand &x = c.in[0], &y = c.out[0];
  ReducePlan p;
  ReduceLoop& l = p.loop;
  int order[kMaxDims];
  for (int d = 0; d < x.ndim; ++d) {
    int at = d;
    for (; at > 0 && x.strides[order[at - 1]] < x.strides[d]; --at) order[at] = order[at - 1];
    order[at] = d;
  }
  for (int i = 0; i < x.ndim; ++i) {
    const int d = order[i];
    if (dims >> d & 1) {
      l.count *= x.shape[d];
      if (x.shape[d] == 1) continue;
      if (l.reduced && l.x[l.reduced - 1] == x.strides[d] * x.shape[d]) {
        l.shape[l.reduced - 1] *= x.shape[d], l.x[l.reduced - 1] = x.strides[d];
      } else {
        l.shape[l.reduced] = x.shape[d], l.x[l.reduced++] = x.strides[d];
      }
    } else {
      l.outputs *= x.shape[d];
      if (x.shape[d] == 1) continue;
      if (l.kept && l.kept_x[l.kept - 1] == x.strides[d] * x.shape[d] &&
          l.kept_y[l.kept - 1] == y.strides[d] * x.shape[d]) {
        l.kept_shape[l.kept - 1] *= x.shape[d];
        l.kept_x[l.kept - 1] = x.strides[d], l.kept_y[l.kept - 1] = y.strides[d];
      } else {
        l.kept_shape[l.kept] = x.shape[d], l.kept_x[l.kept] = x.strides[d], l.kept_y[l.kept++] = y.strides[d];
      }
    }
  }
  // Neighbouring threads read neighbouring memory: along outputs where those are innermost, else along what is
  // reduced.
  const bool outputs_inner = l.kept > 0 && (l.reduced == 0 || l.kept_x[l.kept - 1] < l.x[l.reduced - 1]);
  unsigned columns = outputs_inner ? 32 : 1, rows = kThreads / columns;
  while (rows > 1 && rows / 2 >= static_cast<uint64_t>(std::max<int64_t>(l.count, 1))) rows /= 2;
  const unsigned blocks = ceil_div(l.outputs, columns);
  const int64_t wanted = blocks ? 512 / blocks : 1, most = l.count / (8 * rows);
  p.slices = static_cast<int>(std::clamp<int64_t>(std::min(wanted, most), 1, 256));
  p.launch = {dim3(blocks, static_cast<unsigned>(p.slices)), dim3(columns, rows), 0};
  return p;
}

int64_t reduce_workspace(const Call& c) {
  const ReducePlan p = plan_reduce(c);
  return p.slices > 1 ? p.slices * p.loop.outputs * static_cast<int64_t>(sizeof(Partial<double>)) : 0;
}

template <class W>
void reduce_as(const Call& c) {
  ReducePlan p = plan_reduce(c);
  const Reduce op = c.as<ReduceParams>().op;
  p.launch.shared = sizeof(Partial<W>) * p.launch.block.x * p.launch.block.y;
  auto* partials = static_cast<Partial<W>*>(c.workspace);
  launch("reduce", p.launch, reduce_kernel<W>, p.loop, op, c.in[0].data, c.in[0].dtype, c.out[0].data,
         c.out[0].dtype, partials);
  if (p.slices > 1)
    launch("reduce_join", for_elements(p.loop.outputs), reduce_join<W>, p.loop, op, partials, p.slices,
           c.out[0].data, c.out[0].dtype);
}

void reduce_run(const Call& c) {
  const DType t = c.in[0].dtype;
  if (t == DType::float64) return reduce_as<double>(c);
  if (is_floating(t)) return reduce_as<float>(c);
  reduce_as<int64_t>(c);
}

// The number along the one reduced dim is what argmax gives, so it must not have been merged or reordered.
const char* reduce_declines(const Call& c) {
  const auto& p = c.as<ReduceParams>();
  const bool arg = p.op == Reduce::argmax || p.op == Reduce::argmin;
  return arg && (p.dims & (p.dims - 1)) ? "positions along several dims" : nullptr;
}

unsigned loss_blocks(int64_t n) { return static_cast<unsigned>(std::clamp<int64_t>((n + 2047) / 2048, 1, 512)); }

int64_t loss_workspace(const Call& c) {
  const auto& p = c.as<PointwiseLossParams>();
  return p.reduction == Reduction::none ? 0 : loss_blocks(p.count) * int64_t{8};
}

void pointwise_loss_run(const Call& c) {
  const auto& p = c.as<PointwiseLossParams>();
  with_floating(c.in[0].dtype, "pointwise_loss", [&]<class T>() {
    using R = Real<T>;
    const PointLossOf<R> f{p.loss, static_cast<R>(p.beta)};
    if (p.reduction == Reduction::none)
      return launch_dense<T, 2>("pointwise_loss", DenseIn{{c.in[0].data, c.in[1].data}}, c.out[0].data, p.count,
                                PointLossEach<R>{f, rt::error_record()});
    auto* partials = static_cast<R*>(c.workspace);
    const unsigned blocks = loss_blocks(p.count);
    const size_t shared = kThreads / 32 * sizeof(R);
    launch("pointwise_loss", {dim3(blocks), dim3(kThreads), shared}, point_loss_sum<T>, f, c.in[0].as<T>(),
           c.in[1].as<T>(), p.count, partials, rt::error_record());
    const R scale = p.reduction == Reduction::mean ? R(1) / static_cast<R>(p.count) : R(1);
    launch("loss_join", {dim3(1), dim3(kThreads), shared}, loss_join<R>, partials, static_cast<int>(blocks), scale,
           c.out[0].data, c.out[0].dtype);
  });
}

void pointwise_loss_bwd_run(const Call& c) {
  const auto& p = c.as<PointwiseLossParams>();
  with_floating(c.in[1].dtype, "pointwise_loss_bwd", [&]<class T>() {
    using R = Real<T>;
    const R scale = p.reduction == Reduction::mean ? R(1) / static_cast<R>(p.count) : R(1);
    launch_dense<T, 2>(
        "pointwise_loss_bwd", DenseIn{{c.in[1].data, c.in[2].data}}, c.out[0].data, p.count,
        PointLossSlope<R>{
            {p.loss, static_cast<R>(p.beta)}, c.in[0].data, c.in[0].dtype, p.reduction == Reduction::none, scale});
  });
}
const char* same_type_in(const Call& c) {
  const size_t first = c.in.size() - 2;
  return c.in[first].dtype == c.in[first + 1].dtype ? nullptr : "x and target of two dtypes";
}

}  // namespace

List reduce_list() {
  static const Implementation list[] = {{"simt", reduce_declines, reduce_workspace, reduce_run}};
  return list;
}
List pointwise_loss_list() {
  static const Implementation list[] = {{"simt", same_type_in, loss_workspace, pointwise_loss_run}};
  return list;
}
List pointwise_loss_bwd_list() {
  static const Implementation list[] = {{"simt", same_type_in, nullptr, pointwise_loss_bwd_run}};
  return list;
}

}  // namespace fastcnn::cuda
