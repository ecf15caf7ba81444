// What it is: how depthwise convolutions start: rows of packs where channels and kernel allow it, else elements;
// blocks, rows of a thread and slices. What it is not: the kernels (depthwise_rows.cuh, depthwise.cuh).
#include "backend/cuda/conv2d_depthwise.h"

#include "backend/cuda/kernels/depthwise_rows.cuh"

namespace fastcnn::cuda {

// ---- a thread per element
// ---------------------------------------------------------------------------------------
namespace {
int slices_of_elements(const Conv2dParams& p) {
  const int64_t blocks = int64_t{ceil_div(p.O, 32)} * p.kH * p.kW, most = p.N * p.oH * p.oW / 64;
  return static_cast<int>(std::clamp<int64_t>(std::min<int64_t>(blocks ? 1024 / blocks : 1, most), 1, 256));
}
template <class T>
const T* forward_residual(const Call& c) {
  return c.as<Conv2dParams>().has_residual ? c.in[c.in.size() - 1].as<T>() : nullptr;
}
template <class T>
const T* third(const Call& c, bool there) {
  return there ? c.in[2].as<T>() : nullptr;
}
}  // namespace

void depthwise_forward_elements(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  with_floating(c.out[0].dtype, "conv2d", [&]<class T>() {
    launch("conv2d depthwise", for_elements(c.out[0].numel()), depthwise_forward<T>, p, c.in[0].as<T>(),
           c.in[1].as<T>(), third<T>(c, p.has_bias), forward_residual<T>(c), ActOf<Real<T>>(p.act),
           c.out[0].as<T>());
  });
}
void depthwise_bwd_data_elements(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  with_floating(c.out[0].dtype, "conv2d_bwd_data", [&]<class T>() {
    launch("conv2d_bwd_data depthwise", for_elements(c.out[0].numel()), depthwise_bwd_data<T>, p, c.in[0].as<T>(),
           c.in[1].as<T>(), third<T>(c, c.in.size() > 2), c.out[0].as<T>());
  });
}
int64_t depthwise_bwd_weights_elements_workspace(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  return slices_of_elements(p) * p.O * p.kH * p.kW * int64_t{8};
}
void depthwise_bwd_weights_elements(const Call& c, void* workspace) {
  const auto& p = c.as<Conv2dParams>();
  with_floating(c.in[0].dtype, "conv2d_bwd_weights", [&]<class T>() {
    auto* parts = static_cast<Real<T>*>(workspace);
    const int slices = slices_of_elements(p);
    const auto taps = static_cast<unsigned>(p.kH * p.kW);
    launch("conv2d_bwd_weights depthwise",
           {dim3(ceil_div(p.O, 32), taps, static_cast<unsigned>(slices)), dim3(32, 8), 256 * sizeof(Real<T>)},
           depthwise_bwd_weights<T>, p, c.in[0].as<T>(), c.in[1].as<T>(), parts);
    join_into<T>(parts, slices, p.O * taps, c.out[0]);
  });
}

// ---- rows of packs
// ----------------------------------------------------------------------------------------------
namespace {

// Packs of a block, of which a thread holds `each` times one: as few idle threads as may be, long runs of
// channels.
int packs_of_block(int64_t packs, int64_t each, int64_t most) {
  if (packs <= 8) return static_cast<int>(packs);
  int64_t best = 0, best_value = -1;
  for (int64_t w = std::min<int64_t>(packs, most); w >= 8; --w) {
    if (w % 2 && w != packs) continue;  // whole sectors of 32 bytes
    const int64_t value = 100000 * packs / (ceil_div(packs, w) * w) * (256 / (w * each) * w * each) / 256;
    if (value > best_value) best = w, best_value = value;
  }
  return static_cast<int>(best);
}

int64_t packs_of(const Call& c) {
  return c.as<Conv2dParams>().C * static_cast<int64_t>(dtype_size(c.in[0].dtype)) / 16;
}

// F gets T, K, stride; what depthwise_rows_decline lets through.
template <class F>
void with_rows(const Call& c, F&& f) {
  const auto& p = c.as<Conv2dParams>();
  auto of_size = [&]<class T>() {
    if (p.kH == 7)
      f.template operator()<T, 7, 1>();
    else if (p.kH == 5)
      p.sH == 2 ? f.template operator()<T, 5, 2>() : f.template operator()<T, 5, 1>();
    else
      p.sH == 2 ? f.template operator()<T, 3, 2>() : f.template operator()<T, 3, 1>();
  };
  switch (c.in[0].dtype) {
    case DType::bfloat16: return of_size.template operator()<bfloat16>();
    case DType::float16: return of_size.template operator()<float16>();
    default: return of_size.template operator()<float>();
  }
}

int64_t strips_of(const DepthwiseRows& r, int strip) { return ceil_div(r.oW + r.first_w, strip); }
int64_t groups_of(const DepthwiseRows& r) { return ceil_div(r.oH + r.first_h, r.rows); }
void divide(DepthwiseRows& r, int64_t N, int strip) {
  const int64_t strips = strips_of(r, strip), groups = groups_of(r);
  r.strips = FastDiv(strips), r.groups = FastDiv(groups), r.units = static_cast<int32_t>(N * strips * groups);
}

// Forward or, with the sides exchanged, back.
DepthwiseRows rows_of(const Call& c, bool back) {
  const auto& p = c.as<Conv2dParams>();
  DepthwiseRows r;
  r.H = static_cast<int32_t>(back ? p.oH : p.H), r.W = static_cast<int32_t>(back ? p.oW : p.W);
  r.oH = static_cast<int32_t>(back ? p.H : p.oH), r.oW = static_cast<int32_t>(back ? p.W : p.oW);
  r.C = static_cast<int32_t>(p.C), r.pT = static_cast<int32_t>(p.pT), r.pL = static_cast<int32_t>(p.pL);
  if (back) r.first_h = static_cast<int32_t>(p.pT % p.sH), r.first_w = static_cast<int32_t>(p.pL % p.sW);
  return r;
}

// A thread walks down as many rows as leave the device four times the threads that it holds at once.
void launch_rows(const char* name, const Call& c, bool back) {
  const auto& p = c.as<Conv2dParams>();
  DepthwiseRows r = rows_of(c, back);
  const int64_t packs = packs_of(c), wanted = int64_t{4 * 512} * rt::device().multiprocessors;
  const auto least = static_cast<int32_t>(back ? p.sH : 1);
  for (r.rows = 8; r.rows > least; r.rows /= 2)
    if (p.N * strips_of(r, kStrip) * groups_of(r) * packs >= wanted) break;
  divide(r, p.N, kStrip);
  const int width = packs_of_block(packs, 1, p.kH == 7 ? 24 : 32), units = 256 / width;
  with_rows(c, [&]<class T, int K, int s>() {
    const LaunchPlan plan{dim3(ceil_div(r.units, units), ceil_div(packs, width)),
                          dim3(static_cast<unsigned>(width), static_cast<unsigned>(units)),
                          (K * K + 1) * static_cast<size_t>(width) * Pack<T>::n * sizeof(float)};
    auto run = [&](auto kernel, const T* bias, const T* residual, const ActOf<float>& act) {
      launch(name, plan, kernel, r, c.in[0].as<T>(), c.in[1].as<T>(), bias, residual, act, c.out[0].as<T>());
    };
    if (back)
      run(depthwise_rows<T, K, s, true>, third<T>(c, c.in.size() > 2), nullptr, {});
    else
      run(depthwise_rows<T, K, s, false>, third<T>(c, p.has_bias), forward_residual<T>(c), ActOf<float>(p.act));
  });
}
bool in_packs(const Call& c) {
  for (const Operand& o : c.in)
    if (!aligned16({o.data})) return false;
  return aligned16({c.out[0].data});
}

// One row of a thread: a block is (packs, K, lanes). Slices: two blocks for each multiprocessor, all at once.
struct WeightsPlan {
  DepthwiseRows rows;
  int width, lanes, slices;
  unsigned chunks;
};
WeightsPlan weights_plan(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  WeightsPlan w;
  w.rows = rows_of(c, false);
  divide(w.rows, p.N, weights_strip(p.kH, p.sH));
  const int64_t packs = packs_of(c);
  w.width = packs_of_block(packs, p.kH, 24);
  w.lanes = std::min(256 / (w.width * static_cast<int>(p.kH)), 64);  // the most that a block has in z
  w.chunks = ceil_div(packs, w.width);
  const int64_t wanted = 2 * rt::device().multiprocessors / w.chunks, most = w.rows.units / (2 * w.lanes);
  w.slices = static_cast<int>(std::clamp<int64_t>(std::min(wanted, most), 1, 1024));
  return w;
}

}  // namespace

const char* depthwise_rows_decline(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  const DType t = c.in[0].dtype;
  if (p.C != p.groups || p.O != p.C) return "not one channel in and out per group";
  if (t == DType::float64 || !is_floating(t)) return "no dtype of packs";
  if (p.C * static_cast<int64_t>(dtype_size(t)) % 16 || p.C == 0) return "channels do not fill packs of 16 bytes";
  if (p.kH != p.kW || (p.kH != 3 && p.kH != 5 && p.kH != 7)) return "kernel is not 3x3, 5x5 or 7x7";
  if (p.sH != p.sW || p.sH > 2 || (p.kH == 7 && p.sH != 1)) return "another stride";
  if (p.dH != 1 || p.dW != 1) return "dilation";
  constexpr int64_t most = (int64_t{1} << 31) - (1 << 24);  // a strip may begin before the first pixel
  if (p.N * (p.H + 8) * (p.W + 8) * p.C >= most || p.N * (p.oH + 8) * (p.oW + 8) * p.C >= most)
    return "more than 2^31 elements";
  return p.C > 500000 ? "more channels than a grid holds" : nullptr;
}
// Memory that is not aligned is for the other kernels, which take every such call.
void depthwise_forward_rows(const Call& c) {
  in_packs(c) ? launch_rows("conv2d depthwise rows", c, false) : depthwise_forward_elements(c);
}
void depthwise_bwd_data_rows(const Call& c) {
  in_packs(c) ? launch_rows("conv2d_bwd_data depthwise rows", c, true) : depthwise_bwd_data_elements(c);
}

int64_t depthwise_bwd_weights_rows_workspace(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  const int64_t values = p.kH * p.kW + (c.out.size() > 1);
  return weights_plan(c).slices * p.C * values * static_cast<int64_t>(sizeof(float));
}
void depthwise_bwd_weights_rows(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  const WeightsPlan w = weights_plan(c);
  const auto width = static_cast<unsigned>(w.width), lanes = static_cast<unsigned>(w.lanes);
  auto* parts = static_cast<float*>(c.workspace);
  float* bias_parts = c.out.size() > 1 ? parts + w.slices * p.C * p.kH * p.kW : nullptr;
  with_rows(c, [&]<class T, int K, int s>() {
    launch("conv2d_bwd_weights depthwise rows",
           {dim3(static_cast<unsigned>(w.slices), w.chunks), dim3(width, K, lanes),
            width * K * lanes * Pack<T>::n * sizeof(float)},
           depthwise_rows_weights<T, K, s>, w.rows, c.in[0].as<T>(), c.in[1].as<T>(), parts, bias_parts);
    join_into<T>(parts, w.slices, p.C * K * K, c.out[0]);
    if (bias_parts) join_into<T>(bias_parts, w.slices, p.C, c.out[1]);
  });
}

}  // namespace fastcnn::cuda
