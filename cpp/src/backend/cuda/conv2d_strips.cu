// What it is: gradients of 3x3 weights at stride 1 between 64 channels, 16-bit floats: strips of whole rows by the
// copy engine and wgmma (kernels/strips.h), where boxes would bring x once for each tap. What it is not: for more
// channels, whose products hide what is brought (conv2d_boxes.cu); the kernel would take blocks of 64 by 64.
#include <algorithm>

#include "backend/cuda/conv2d_gemm.h"
#include "backend/cuda/kernels/strips.cuh"
#include "backend/cuda/tensor_map.h"

namespace fastcnn::cuda {
namespace {

#if defined(__CUDACC__) && defined(FASTCNN_HAS_SM90A)

constexpr int64_t kStageBytes = (227 << 10) - 256;  // of shared memory, less the barriers

int64_t channel_blocks(const Conv2dParams& p) { return p.O / 64 * (p.C / 64); }
int parts_of(const Conv2dParams& p, const Strips& g) {
  return static_cast<int>(
      std::clamp<int64_t>(rt::device().multiprocessors / channel_blocks(p), 1, std::max(g.total(), 1)));
}

const char* declines(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  if (const char* why = lines_decline(c.in[0].dtype, p.C % 64 == 0 && p.O % 64 == 0)) return why;
  if (p.groups != 1 || p.kH != 3 || p.kW != 3 || p.sH * p.sW != 1 || p.dH * p.dW != 1)
    return "not 3x3 at stride 1";
  if (channel_blocks(p) != 1) return "channels other than 64";
  if (p.N == 0) return "no images";
  if (!has_copy_engine()) return "the driver has no copy engine";
  for (const Operand& o : c.in)
    if (o.data && !aligned16({o.data})) return "operands not aligned to 16 bytes";
  if (!strips_of(p, kStageBytes).rows) return "rows too long or too short for strips";
  return gemm_declines<bwd_weights_sizes, weights_dtypes>(c);
}
int64_t workspace(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  const int64_t parts = parts_of(p, strips_of(p, kStageBytes));
  return conv2d_bias_bytes(c) + parts * p.O * 9 * p.C * static_cast<int64_t>(sizeof(float));
}
void run(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  const DType t = c.in[0].dtype;
  const Strips g = strips_of(p, kStageBytes);
  const int parts = parts_of(p, g),
            stages = static_cast<int>(std::min<int64_t>(kStageBytes / (g.stage_pixels() * 128), 6));
  auto* sums = reinterpret_cast<float*>(static_cast<char*>(c.workspace) + conv2d_bias_bytes(c));
  with_half(t, [&]<class T>() {
    const auto load = bwd_weights_load<T>(c);
    TensorMaps maps;
    describe_strips(&maps.a[0], t, load.dy, p.N, p.oH, p.oW, p.O, g.rows, g.pitch);
    describe_strips(&maps.b, t, load.x, p.N, p.H, p.W, p.C, g.rows + g.window - 1, g.pitch);
    launch("conv2d_bwd_weights",
           {dim3(static_cast<unsigned>(parts), static_cast<unsigned>(channel_blocks(p))), dim3(kStripThreads),
            static_cast<size_t>(stages) * g.stage_pixels() * 128 + 2 * stages * 8},
           strip_weights_kernel<T>, maps, g, stages, static_cast<int32_t>(p.O), static_cast<int32_t>(p.C), sums);
    launch("gemm_join", for_elements(p.O * 9 * p.C), gemm_join<T, ConvBwdWeights<T>>, load, parts, int64_t{1},
           Epilogue<T>{nullptr, nullptr, {}}, sums, c.out[0].data, wide_result<T>(c.out[0]));
    conv2d_bias_gradient(c);
  });
}

#else  // the executor has no copy engine, other architectures no wgmma

const char* declines(const Call&) { return "built without code for 9.0a"; }
int64_t workspace(const Call&) { return 0; }
void run(const Call&) { throw std::logic_error("conv2d_bwd_weights: strips without a copy engine"); }

#endif

}  // namespace

Implementation conv2d_bwd_weights_strips() { return {"strips", declines, workspace, run}; }

}  // namespace fastcnn::cuda
