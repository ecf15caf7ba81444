// What it is: gradients of the weights of convolutions with square windows at stride 1 from 16 or 32 channels to
// 16, 32 or 64, 16-bit floats, which memory bounds: strips of whole rows by the copy engine and wgmma
// (kernels/narrow_strips.cuh). What it is not: between 64 channels (conv2d_strips.cu), for devices without wgmma.
#include "backend/cuda/conv2d_narrow_strips.h"

namespace fastcnn::cuda {
namespace {

#if defined(__CUDACC__) && defined(FASTCNN_HAS_SM90A)

NarrowStrips weights_strips(const Conv2dParams& p) {
  return narrow_weights_strips(p, strips_room(), rt::device().multiprocessors);
}
const char* bwd_weights_declines(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  if (const char* why = strips_decline(c)) return why;
  if (!narrow_taken(p.C, p.O, p.kW) || p.C * p.O == 32 * 64) return kNotNarrow;
  if (const char* why = strips_decline(weights_strips(p))) return why;
  return gemm_declines<bwd_weights_sizes, weights_dtypes>(c);
}
int64_t bwd_weights_workspace(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  return conv2d_bias_bytes(c) +
         blocks_for(weights_strips(p).strips) * p.O * p.kH * p.kW * p.C * static_cast<int64_t>(sizeof(float));
}
void bwd_weights(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  const DType t = c.in[0].dtype;
  const NarrowStrips n = weights_strips(p);
  const unsigned blocks = blocks_for(n.strips);
  auto* sums = reinterpret_cast<float*>(static_cast<char*>(c.workspace) + conv2d_bias_bytes(c));
  NarrowMaps maps;
  describe_strips(&maps.dy, t, c.in[1].data, p.N, p.oH, p.oW, p.O, n.strips.rows, n.strips.pitch);
  describe_strips(&maps.x, t, c.in[0].data, p.N, p.H, p.W, p.C, n.strips.rows + n.strips.window - 1,
                  n.strips.pitch);
  with_half(t, [&]<class T>() {
    with_narrow(p.C, p.O, p.kW, [&]<int C, int O, int K>() {
      if constexpr (C * O < 32 * 64) {
        constexpr NarrowShape s = narrow_weights_shape(C, O, K);
        launch("conv2d_bwd_weights", {dim3(blocks), dim3(s.threads()), static_cast<size_t>(n.shared)},
               narrow_strip_weights_kernel<T, C, O, K, s.groups>, maps, n, sums);
      }
    });
    join_into<T>(sums, static_cast<int>(blocks), p.O * p.kH * p.kW * p.C, c.out[0]);
  });
  conv2d_bias_gradient(c);
}

#else  // the executor has no copy engine, other architectures no wgmma

const char* bwd_weights_declines(const Call&) { return "built without code for 9.0a"; }
int64_t bwd_weights_workspace(const Call&) { return 0; }
void bwd_weights(const Call&) { throw std::logic_error("conv2d_bwd_weights: strips without a copy engine"); }

#endif

}  // namespace

Implementation conv2d_bwd_weights_narrow_strips() {
  return {"narrow strips", bwd_weights_declines, bwd_weights_workspace, bwd_weights};
}

}  // namespace fastcnn::cuda
