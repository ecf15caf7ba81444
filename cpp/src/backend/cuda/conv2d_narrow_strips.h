// What it is: what both files of narrow strips ask of a call, and the choice of a kernel. What it is not: launches
// (conv2d_narrow_strips.cu, conv2d_narrow_strips_weights.cu).
#pragma once
#include <algorithm>

#include "backend/cuda/conv2d_depthwise.h"
#include "backend/cuda/conv2d_gemm.h"
#include "backend/cuda/kernels/narrow_strips.cuh"
#include "backend/cuda/tensor_map.h"

#if defined(__CUDACC__) && defined(FASTCNN_HAS_SM90A)
namespace fastcnn::cuda {

// Bytes of shared memory of a block.
inline int64_t strips_room() { return rt::device().shared - (1 << 10); }
inline unsigned blocks_for(const Strips& g) {
  return static_cast<unsigned>(std::min<int64_t>(g.total(), rt::device().multiprocessors));
}
inline const char* strips_decline(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  if (const char* why = lines_decline(c.in[0].dtype, p.C % 16 == 0 && p.O % 16 == 0)) return why;
  if (p.groups != 1 || p.kH != p.kW || p.sH * p.sW != 1 || p.dH * p.dW != 1) return "no square window at stride 1";
  if (p.N * p.oH * p.oW == 0 || p.H * p.W == 0) return "no images";  // the engine knows no empty tensor
  if (!has_copy_engine()) return "the driver has no copy engine";
  for (const Operand& o : c.in)
    if (o.data && !aligned16({o.data})) return "operands not aligned to 16 bytes";
  for (const Operand& o : c.out)
    if (o.data && !aligned16({o.data})) return "results not aligned to 16 bytes";
  return nullptr;
}
inline const char* strips_decline(const NarrowStrips& n) {
  return n.strips.rows && n.shared <= strips_room() ? nullptr : "rows too long for strips";
}
constexpr const char* kNotNarrow = "not 2x2 or 3x3 of 16 channels, 4x4 of 16 to 64 or 3x3 of 32, to 16, 32 or 64";

// f.template operator()<C, O, K>() of those that narrow_taken.
template <int C, int K, class F>
void with_made(int64_t made, F&& f) {
  if (made == 64) return f.template operator()<C, 64, K>();
  if constexpr (K < 4) made == 16 ? f.template operator()<C, 16, K>() : f.template operator()<C, 32, K>();
}
template <class F>
void with_narrow(int64_t channels, int64_t made, int64_t window, F&& f) {
  if (channels == 32)
    with_made<32, 3>(made, f);
  else if (window == 2)
    with_made<16, 2>(made, f);
  else if (window == 3)
    with_made<16, 3>(made, f);
  else
    with_made<16, 4>(made, f);
}

}  // namespace fastcnn::cuda
#endif
