// See cost.h.
#include "graph/cost.h"

#include <algorithm>

#include "graph/op_kinds.h"

namespace fastcnn {
namespace {

int64_t bytes_of(const Operand& o) {
  int64_t n = 1;
  for (int i = 0; i < o.ndim; ++i)
    if (o.strides[i] != 0 || o.shape[i] == 0) n *= o.shape[i];
  return n * static_cast<int64_t>(dtype_size(o.dtype));
}

int64_t numel(std::span<const Operand> list) { return list.empty() ? 0 : list[0].numel(); }

// Updates in place read and write the same memory; both directions count.
int64_t flops_of(const Call& c) {
  const int64_t in = numel(c.in), out = numel(c.out);
  switch (c.kind) {
    case OpKind::conv2d:
    case OpKind::conv2d_bwd_data:
    case OpKind::conv2d_bwd_weights: {
      const auto& p = c.as<Conv2dParams>();
      const int64_t norm = p.has_norm_in ? 3 * in : 0;
      const int64_t moments = c.kind == OpKind::conv2d && p.has_moments ? 3 * out : 0;
      return norm + moments + 2 * p.N * p.oH * p.oW * p.O * (p.C / std::max<int64_t>(p.groups, 1)) * p.kH * p.kW;
    }
    case OpKind::depthwise_pointwise: {
      const auto& p = c.as<DepthwisePointwiseParams>();
      const int64_t expand = p.has_expand ? p.H * p.W * p.C : 0, rest = p.oH * p.oW * (p.kH * p.kW + p.O);
      return 2 * p.N * p.E * (expand + rest);
    }
    case OpKind::conv2d_bwd: {  // a product for each gradient; 5 per value of y to make its gradient
      const Conv2dParams& p = c.as<Conv2dBwdParams>().conv;
      const bool both = c.out.size() > 1;
      const int64_t of_x = (p.has_norm_in ? 3 : 0) + (c.out.size() > 2 ? 4 : 0);
      const int64_t norm = 5 * in + of_x * c.in[both ? 2 : 1].numel();
      return norm +
             (both ? 4 : 2) * p.N * p.oH * p.oW * p.O * (p.C / std::max<int64_t>(p.groups, 1)) * p.kH * p.kW;
    }
    case OpKind::quantized_conv2d: {
      const Conv2dParams& p = c.as<QuantizedConv2dParams>().conv;
      return 2 * out * (p.C / std::max<int64_t>(p.groups, 1)) * p.kH * p.kW;
    }
    case OpKind::matmul: {
      const auto& p = c.as<MatmulParams>();
      return 2 * std::max<int64_t>(p.batch, 1) * p.M * p.N * p.K;
    }
    case OpKind::max_pool2d:
    case OpKind::avg_pool2d:
    case OpKind::avg_pool2d_bwd: {
      const auto& p = c.as<Pool2dParams>();
      return p.adaptive ? std::max(in, out) : p.N * p.C * p.oH * p.oW * p.kH * p.kW;
    }
    // Counted per element of x from the formulas: sums, then normalise and scale.
    case OpKind::batch_norm: {
      const auto& p = c.as<BatchNormParams>();
      return (p.has_moments ? 0 : 4) * in + (p.stats_only ? 0 : 3) * in;
    }
    case OpKind::batch_norm_bwd: {
      const auto& p = c.as<BatchNormParams>();
      return ((p.has_sums ? 0 : 4) + (p.coef_only ? 0 : 5)) * in;
    }
    case OpKind::layer_norm:
    case OpKind::group_norm: return 7 * in;
    case OpKind::layer_norm_bwd:
    case OpKind::group_norm_bwd: return 11 * in;
    case OpKind::batch_norm_infer:
    case OpKind::channel_scale:
    case OpKind::channel_dot: return 2 * in;
    case OpKind::softmax:
    case OpKind::log_softmax:
    case OpKind::softmax_bwd:
    case OpKind::log_softmax_bwd: return 4 * in;
    case OpKind::cross_entropy: return 4 * in;
    case OpKind::cross_entropy_bwd: return 4 * out;
    case OpKind::pointwise_loss:
    case OpKind::pointwise_loss_bwd: return 2 * c.as<PointwiseLossParams>().count;
    case OpKind::fold_batch_norm: return in;
    case OpKind::sgd_step: return 6 * in;
    case OpKind::adam_step: return 14 * in;
    case OpKind::rmsprop_step: return 10 * in;
    case OpKind::adagrad_step:
    case OpKind::lion_step: return 8 * in;
    case OpKind::reduce: return in;
    case OpKind::interpolate: return 8 * out;
    case OpKind::interpolate_bwd: return 8 * in;
    case OpKind::affine_sample: return 8 * out + 7 * out * c.as<AffineSampleParams>().stages;
    case OpKind::grid_sample:
    case OpKind::grid_sample_bwd: {  // a product and a sum of each pixel that a point takes, two for the grid
      const auto& p = c.as<GridSampleParams>();
      const int64_t taps = p.mode == Interp::nearest ? 1 : p.mode == Interp::bilinear ? 4 : 16;
      const int64_t sums = c.kind == OpKind::grid_sample ? 1 : p.has_dx + 2 * p.has_dgrid;
      return 2 * sums * taps * p.N * p.C * p.oH * p.oW;
    }
    case OpKind::capsule_routing:
    case OpKind::capsule_routing_bwd: {
      // Votes and each round read u or votes once; the gradient makes them again, and those of both operands.
      const auto& p = c.as<CapsuleRoutingParams>();
      const int64_t votes = p.N * p.I * p.J * p.D, forward = votes * (2 * p.K + 4 * (p.iterations - 1));
      return c.kind == OpKind::capsule_routing ? forward : forward + votes * (4 * p.K + 8 * (p.iterations - 1));
    }
    case OpKind::unary: return c.as<UnaryParams>().op == Unary::copy ? 0 : out;
    case OpKind::check_target:
    case OpKind::fill:
    case OpKind::strided_scatter:
    case OpKind::index_select:
    case OpKind::gather:
    case OpKind::cat:
    case OpKind::pad:
    case OpKind::max_pool2d_gather:
    case OpKind::rng_advance:
    case OpKind::bn_update_running: return 0;
    default: return std::max(in, out);
  }
}

}  // namespace

Cost cost_of(const Call& call) {
  Cost cost;
  cost.flops = flops_of(call);
  for (const auto& side : {call.in, call.out})
    for (const Operand& o : side) cost.bytes += bytes_of(o);
  if (call.kind == OpKind::batch_norm) {
    const auto& p = call.as<BatchNormParams>();
    if (p.stats_only && p.has_moments) cost.bytes -= bytes_of(call.in[0]);  // never read
  }
  if (call.kind == OpKind::batch_norm_bwd) {  // coefficients of given sums: no image is read
    const auto& p = call.as<BatchNormParams>();
    if (p.has_sums && p.coef_only) cost.bytes -= bytes_of(call.in[0]) + bytes_of(call.in[1]);
  }
  return cost;
}

}  // namespace fastcnn
