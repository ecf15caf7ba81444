// What it is: y and dx of convolutions with square windows at stride 1 from 16 or 32 channels to 16, 32 or 64,
// 16-bit floats, which memory bounds: strips of whole rows by the copy engine and wgmma
// (kernels/narrow_strips.cuh). What it is not: for devices without them (conv2d_halo.cu), for more channels
// (conv2d_boxes.cu).
#include "backend/cuda/conv2d_narrow_strips.h"

namespace fastcnn::cuda {
namespace {

#if defined(__CUDACC__) && defined(FASTCNN_HAS_SM90A)

NarrowStrips forward_strips(const Conv2dParams& p) {
  return narrow_data_strips(p.N, p.oH, p.oW, p.pT, p.pL, p.kW, p.C, p.O, strips_room(),
                            rt::device().multiprocessors);
}
NarrowStrips bwd_data_strips(const Conv2dParams& p) {
  return narrow_data_strips(p.N, p.H, p.W, p.kH - 1 - p.pT, p.kW - 1 - p.pL, p.kW, p.O, p.C, strips_room(),
                            rt::device().multiprocessors);
}
const char* forward_declines(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  if (const char* why = strips_decline(c)) return why;
  if (!narrow_taken(p.C, p.O, p.kW)) return kNotNarrow;
  if (const char* why = strips_decline(forward_strips(p))) return why;
  return gemm_declines<forward_sizes, one_dtype_or_moments>(c);
}
const char* bwd_data_declines(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  if (const char* why = strips_decline(c)) return why;
  if (!narrow_taken(p.O, p.C, p.kW)) return kNotNarrow;
  if (const char* why = strips_decline(bwd_data_strips(p))) return why;
  return gemm_declines<bwd_data_sizes, one_dtype>(c);
}

// From images of H by W.
template <class T, bool back, bool moments>
void launch_data(const Call& c, const char* name, const NarrowStrips& n, int64_t H, int64_t W, int64_t channels,
                 int64_t made, const Epilogue<T>& e) {
  CUtensorMap map;
  describe_strips(&map, c.in[0].dtype, c.in[0].data, n.strips.images, H, W, channels,
                  n.strips.rows + n.strips.window - 1, n.strips.pitch);
  with_narrow(channels, made, n.strips.window, [&]<int C, int O, int K>() {
    constexpr NarrowShape s = narrow_data_shape(O);
    launch(name, {dim3(blocks_for(n.strips)), dim3(s.threads()), static_cast<size_t>(n.shared)},
           narrow_strip_kernel<T, C, O, K, back, moments, s.groups, s.products>, map, n, c.in[1].as<T>(), e,
           c.out[0].as<T>(), static_cast<float*>(c.workspace));
  });
}
int64_t forward_workspace(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  return p.has_moments ? sums_bytes(blocks_for(forward_strips(p).strips), p.O) : 0;
}
void forward(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  const NarrowStrips n = forward_strips(p);
  with_half(c.in[0].dtype, [&]<class T>() {
    const Epilogue<T> e = forward_epilogue<T>(c);
    if (!p.has_moments) return launch_data<T, false, false>(c, "conv2d", n, p.H, p.W, p.C, p.O, e);
    launch_data<T, false, true>(c, "conv2d", n, p.H, p.W, p.C, p.O, e);
    launch_join_moments(static_cast<float*>(c.workspace), blocks_for(n.strips), p.N * p.oH * p.oW, p.O,
                        c.out[1].as<double>());
  });
}
void bwd_data(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  with_half(c.in[0].dtype, [&]<class T>() {
    launch_data<T, true, false>(c, "conv2d_bwd_data", bwd_data_strips(p), p.oH, p.oW, p.O, p.C,
                                bwd_data_epilogue<T>(c));
  });
}

#else  // the executor has no copy engine, other architectures no wgmma

const char* forward_declines(const Call&) { return "built without code for 9.0a"; }
const char* bwd_data_declines(const Call&) { return "built without code for 9.0a"; }
int64_t forward_workspace(const Call&) { return 0; }
void forward(const Call&) { throw std::logic_error("conv2d: strips without a copy engine"); }
void bwd_data(const Call&) { throw std::logic_error("conv2d_bwd_data: strips without a copy engine"); }

#endif

}  // namespace

Implementation conv2d_narrow_strips() { return {"narrow strips", forward_declines, forward_workspace, forward}; }
Implementation conv2d_bwd_data_narrow_strips() { return {"narrow strips", bwd_data_declines, nullptr, bwd_data}; }

}  // namespace fastcnn::cuda
