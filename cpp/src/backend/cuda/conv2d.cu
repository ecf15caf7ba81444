// What it is: the three convolution passes on CUDA: depthwise kernels, else the implicit GEMM of gemm.cuh.
// What it is not: tensor cores; every pass is strict float32 (float64 beside float64).
#include <algorithm>

#include "backend/cuda/dispatch.h"
#include "backend/cuda/kernels/depthwise.cuh"
#include "backend/cuda/kernels/gemm.cuh"

namespace fastcnn::cuda {
namespace {

template <class T>
LaunchPlan tiles(const GemmShape& g, int64_t problems) {
  return {dim3(ceil_div(g.M, kTileM), ceil_div(g.N, kTileN), static_cast<unsigned>(problems * g.splits)),
          dim3(kThreadsPerTile), kTileValues * sizeof(Real<T>)};
}

const char* one_dtype(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  if (p.has_norm_in || p.has_moments) return "a batch norm inside";
  for (const Operand& o : c.in)
    if (o.dtype != c.in[0].dtype) return "operands of several dtypes";
  for (const Operand& o : c.out)
    if (o.dtype != c.in[0].dtype) return "a result of another dtype";
  return is_floating(c.in[0].dtype) ? nullptr : "dtype is not floating";
}
const char* gemm_declines(const Call& c) {
  return c.as<Conv2dParams>().groups > 65535 / 64 ? "more groups than a grid holds" : one_dtype(c);
}
const char* depthwise_declines(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  if (p.C != p.groups) return "several channels per group";
  return p.kH * p.kW > 65535 ? "more taps than a grid holds" : one_dtype(c);
}

void forward(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  with_floating(c.out[0].dtype, "conv2d", [&]<class T>() {
    const GemmShape g{p.N * p.oH * p.oW, p.O / p.groups, conv_depth(p), 1};
    const Epilogue<T> e{p.has_bias ? c.in[2].as<T>() : nullptr,
                        p.has_residual ? c.in[c.in.size() - 1].as<T>() : nullptr, ActOf<Real<T>>(p.act)};
    launch("conv2d", tiles<T>(g, p.groups), gemm_kernel<T, ConvForward<T>>,
           ConvForward<T>{p, c.in[0].as<T>(), c.in[1].as<T>()}, g, e, c.out[0].as<T>(), nullptr);
  });
}
void forward_depthwise(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  with_floating(c.out[0].dtype, "conv2d", [&]<class T>() {
    launch("conv2d depthwise", for_elements(c.out[0].numel()), depthwise_forward<T>, p, c.in[0].as<T>(),
           c.in[1].as<T>(), p.has_bias ? c.in[2].as<T>() : nullptr,
           p.has_residual ? c.in[c.in.size() - 1].as<T>() : nullptr, ActOf<Real<T>>(p.act), c.out[0].as<T>());
  });
}

void bwd_data(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  with_floating(c.out[0].dtype, "conv2d_bwd_data", [&]<class T>() {
    const GemmShape g{p.N * p.H * p.W, p.C / p.groups, p.kH * p.kW * (p.O / p.groups), 1};
    const Epilogue<T> e{c.in.size() > 2 ? c.in[2].as<T>() : nullptr, nullptr, {}};
    launch("conv2d_bwd_data", tiles<T>(g, p.groups), gemm_kernel<T, ConvBwdData<T>>,
           ConvBwdData<T>{p, c.in[0].as<T>(), c.in[1].as<T>()}, g, e, c.out[0].as<T>(), nullptr);
  });
}
void bwd_data_depthwise(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  with_floating(c.out[0].dtype, "conv2d_bwd_data", [&]<class T>() {
    launch("conv2d_bwd_data depthwise", for_elements(c.out[0].numel()), depthwise_bwd_data<T>, p, c.in[0].as<T>(),
           c.in[1].as<T>(), c.in.size() > 2 ? c.in[2].as<T>() : nullptr, c.out[0].as<T>());
  });
}

// Pixels are deep and weights few: the depth is split until the device is full.
GemmShape weights_shape(const Conv2dParams& p) {
  GemmShape g{p.O / p.groups, conv_depth(p), p.N * p.oH * p.oW, 1};
  const int64_t blocks = int64_t{ceil_div(g.M, kTileM)} * ceil_div(g.N, kTileN) * p.groups;
  const int64_t wanted = blocks ? 264 / blocks : 1, most = g.K / (8 * kTileK);
  g.splits = static_cast<int>(std::clamp<int64_t>(std::min(wanted, most), 1, 64));
  return g;
}
int weights_slices(const Conv2dParams& p) {
  const int64_t blocks = int64_t{ceil_div(p.O, 32)} * p.kH * p.kW, most = p.N * p.oH * p.oW / 64;
  return static_cast<int>(std::clamp<int64_t>(std::min<int64_t>(blocks ? 1024 / blocks : 1, most), 1, 256));
}
int bias_slices(const Conv2dParams& p) {
  const int64_t most = p.N * p.oH * p.oW / 32, blocks = ceil_div(p.O, 32);
  return static_cast<int>(std::clamp<int64_t>(std::min<int64_t>(blocks ? 512 / blocks : 1, most), 1, 256));
}

int64_t bias_bytes(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  return c.out.size() > 1 ? bias_slices(p) * p.O * int64_t{8} : 0;
}
int64_t weights_workspace(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  const GemmShape g = weights_shape(p);
  return bias_bytes(c) + (g.splits > 1 ? g.splits * p.groups * g.M * g.N * int64_t{8} : 0);
}
int64_t depthwise_weights_workspace(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  return bias_bytes(c) + weights_slices(p) * p.O * p.kH * p.kW * int64_t{8};
}

template <class T>
void bias_gradient(const Call& c) {
  if (c.out.size() < 2) return;
  const auto& p = c.as<Conv2dParams>();
  auto* parts = static_cast<Real<T>*>(c.workspace);
  const int slices = bias_slices(p);
  launch("column_sums",
         {dim3(ceil_div(p.O, 32), static_cast<unsigned>(slices)), dim3(32, 8), 256 * sizeof(Real<T>)},
         column_sums<T>, c.in[1].as<T>(), p.N * p.oH * p.oW, p.O, parts);
  launch("join_slices", for_elements(p.O), join_slices<T>, parts, slices, p.O, c.out[1].as<T>());
}

void bwd_weights(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  with_floating(c.out[0].dtype, "conv2d_bwd_weights", [&]<class T>() {
    const GemmShape g = weights_shape(p);
    const ConvBwdWeights<T> load{p, c.in[0].as<T>(), c.in[1].as<T>()};
    auto* parts = reinterpret_cast<Real<T>*>(static_cast<char*>(c.workspace) + bias_bytes(c));
    launch("conv2d_bwd_weights", tiles<T>(g, p.groups), gemm_kernel<T, ConvBwdWeights<T>>, load, g,
           Epilogue<T>{nullptr, nullptr, {}}, c.out[0].as<T>(), parts);
    if (g.splits > 1)
      launch("gemm_join", for_elements(p.groups * g.M * g.N), gemm_join<T, ConvBwdWeights<T>>, load, g, p.groups,
             parts, c.out[0].as<T>());
    bias_gradient<T>(c);
  });
}
void bwd_weights_depthwise(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  with_floating(c.out[0].dtype, "conv2d_bwd_weights", [&]<class T>() {
    auto* parts = reinterpret_cast<Real<T>*>(static_cast<char*>(c.workspace) + bias_bytes(c));
    const int slices = weights_slices(p);
    const auto taps = static_cast<unsigned>(p.kH * p.kW);
    launch("conv2d_bwd_weights depthwise",
           {dim3(ceil_div(p.O, 32), taps, static_cast<unsigned>(slices)), dim3(32, 8), 256 * sizeof(Real<T>)},
           depthwise_bwd_weights<T>, p, c.in[0].as<T>(), c.in[1].as<T>(), parts);
    launch("join_slices", for_elements(p.O * taps), join_slices<T>, parts, slices, p.O * taps, c.out[0].as<T>());
    bias_gradient<T>(c);
  });
}

GemmShape matmul_shape(const MatmulParams& p) { return {p.M, p.N, p.K, 1}; }
void matmul(const Call& c) {
  const auto& p = c.as<MatmulParams>();
  with_floating(c.out[0].dtype, "matmul", [&]<class T>() {
    const GemmShape g = matmul_shape(p);
    const Epilogue<T> e{p.has_bias ? c.in[2].as<T>() : nullptr, nullptr, ActOf<Real<T>>(p.act)};
    launch("matmul", tiles<T>(g, p.batch), gemm_kernel<T, MatmulLoad<T>>,
           MatmulLoad<T>{p, c.in[0].as<T>(), c.in[1].as<T>()}, g, e, c.out[0].as<T>(), nullptr);
  });
}
const char* matmul_declines(const Call& c) {
  return c.as<MatmulParams>().batch > 65535 ? "more matrices than a grid holds" : mixed_floats(c);
}

}  // namespace

List conv2d_list() {
  static const Implementation list[] = {{"simt depthwise", depthwise_declines, nullptr, forward_depthwise},
                                        {"simt gemm", gemm_declines, nullptr, forward}};
  return list;
}
List conv2d_bwd_data_list() {
  static const Implementation list[] = {{"simt depthwise", depthwise_declines, nullptr, bwd_data_depthwise},
                                        {"simt gemm", gemm_declines, nullptr, bwd_data}};
  return list;
}
List conv2d_bwd_weights_list() {
  static const Implementation list[] = {
      {"simt depthwise", depthwise_declines, depthwise_weights_workspace, bwd_weights_depthwise},
      {"simt gemm", gemm_declines, weights_workspace, bwd_weights}};
  return list;
}
List matmul_list() {
  static const Implementation list[] = {{"simt gemm", matmul_declines, nullptr, matmul}};
  return list;
}

}  // namespace fastcnn::cuda
