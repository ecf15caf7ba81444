// What it is: how 3x3 depthwise convolutions between batch norms start (kernels/depthwise_norm.cuh): who takes
// them, rows of a unit, blocks, the joins of their sums. What it is not: depthwise convolutions alone
// (conv2d_depthwise.cu).
#include "backend/cuda/kernels/depthwise_norm.cuh"

#include "backend/cuda/conv2d_depthwise.h"
#include "backend/cuda/conv2d_gemm.h"

namespace fastcnn::cuda {
namespace {

// ---- who takes what
// -----------------------------------------------------------------------------------------------
bool clamps(const ActParams& a) {
  return a.act == Act::none || a.act == Act::relu || a.act == Act::relu6 || a.act == Act::hardtanh;
}
Clamp clamp_of(const ActParams& a) {
  if (a.act == Act::relu) return {0, INFINITY};
  if (a.act == Act::relu6) return {0, 6};
  if (a.act == Act::hardtanh) return {static_cast<float>(a.alpha), static_cast<float>(a.beta)};
  return {};
}
const char* window_declines(const Conv2dParams& p, DType t) {
  if (!is_half(t)) return "not a 16-bit float between norms";
  if (p.kH != 3) return "not 3x3 between norms";
  return p.N * p.oH * p.oW * p.C == 0 || p.N * p.H * p.W == 0 ? "no images between norms" : nullptr;
}
// Images have one dtype, vectors of norms are float32.
bool all_are(std::span<const Operand> some, DType t) {
  return std::all_of(some.begin(), some.end(), [&](const Operand& o) { return o.dtype == t; });
}
const char* unaligned(std::initializer_list<const void*> images) {
  return aligned16(images) ? nullptr : "expected images at multiples of 16 bytes";
}

// ---- units
// -------------------------------------------------------------------------------------------------------
int64_t floor_half(int64_t v) { return v >= 0 ? v / 2 : -((1 - v) / 2); }

// Quads of a block: as few idle threads as may be, whole sectors of 32 bytes.
int quads_of_block(int64_t quads, int64_t threads) {
  int64_t best = 1, best_value = -1;
  for (int64_t w = std::min<int64_t>(quads, 64); w >= 1; --w) {
    if (w % 4 && w != quads) continue;
    const int64_t value = 100000 * quads / (ceil_div(quads, w) * w) * (threads / w * w) / threads;
    if (value > best_value) best = w, best_value = value;
  }
  return static_cast<int>(best);
}

struct BetweenPlan {
  DepthwiseRows rows;
  LaunchPlan launch;
};
// An image is cut into strips of `columns` and groups of `steps`, rows or pairs of them; a unit reads `extra`
// steps that it does not make.
BetweenPlan plan_between(const Conv2dParams& p, const BetweenShape& shape, int64_t columns, int64_t steps,
                         int64_t extra, int64_t constants) {
  BetweenPlan b;
  DepthwiseRows& r = b.rows;
  r.H = static_cast<int32_t>(p.H), r.W = static_cast<int32_t>(p.W), r.C = static_cast<int32_t>(p.C);
  r.oH = static_cast<int32_t>(p.oH), r.oW = static_cast<int32_t>(p.oW);
  r.pT = static_cast<int32_t>(p.pT), r.pL = static_cast<int32_t>(p.pL);
  const int64_t quads = p.C / kQuad, width = quads_of_block(quads, shape.threads), lanes = shape.threads / width,
                chunks = ceil_div(quads, width), strips = ceil_div(columns, shape.columns),
                most = std::max<int64_t>(shape.blocks * rt::device().multiprocessors / chunks, 1);
  // Rows that let all lanes end together, and read few twice.
  int64_t best = -1;
  for (int64_t rows = 1; rows <= steps; ++rows) {
    const int64_t units = p.N * strips * ceil_div(steps, rows),
                  time = ceil_div(units, most * lanes) * (rows + extra);
    if (best < 0 || time < best) best = time, r.rows = static_cast<int32_t>(rows);
  }
  const int64_t groups = ceil_div(steps, r.rows);
  r.strips = FastDiv(strips), r.groups = FastDiv(groups), r.units = static_cast<int32_t>(p.N * strips * groups);
  b.launch = {dim3(static_cast<unsigned>(std::min<int64_t>(most, ceil_div(r.units, lanes))),
                   static_cast<unsigned>(chunks)),
              dim3(static_cast<unsigned>(width), static_cast<unsigned>(lanes)),
              static_cast<size_t>(between_shared(constants, width, lanes))};
  return b;
}
BetweenPlan forward_between(const Conv2dParams& p) {
  return plan_between(p, kBetweenForward, p.oW, p.oH, p.sH == 1 ? 2 : 1, kForwardLines);
}
BetweenPlan back_between(const Conv2dParams& p) {
  if (p.sH == 1) return plan_between(p, kBetweenBack, p.W, p.H, 2, kBackLines);
  const int64_t first_h = floor_half(p.pT - 1), first_w = floor_half(p.pL - 1);
  BetweenPlan b = plan_between(p, kBetweenBack, floor_half(p.W + p.pL - 2) - first_w + 1,
                               floor_half(p.H + p.pT - 2) - first_h + 1, 1, kBackLines);
  b.rows.first_h = static_cast<int32_t>(first_h), b.rows.first_w = static_cast<int32_t>(first_w);
  return b;
}

// f.template operator()<T, stride>()
template <class F>
void with_stride(const Call& c, int64_t stride, F&& f) {
  with_half(c.in[0].dtype,
            [&]<class T>() { stride == 1 ? f.template operator()<T, 1>() : f.template operator()<T, 2>(); });
}

// ---- both gradients
// -----------------------------------------------------------------------------------------------
const char* joint_declines(const Call& c) {
  if (c.out.size() < 2) return "the weights' gradient alone";
  const auto& p = c.as<Conv2dBwdParams>();
  const DType t = c.in[0].dtype;
  Call conv = c;
  conv.params = &p.conv;
  if (const char* why = depthwise_rows_decline(conv)) return why;
  if (const char* why = window_declines(p.conv, t)) return why;
  if (p.has_residual) return "sums of a norm with a residual";
  if (!clamps(p.norm_act) || (p.conv.has_norm_in && !clamps(p.conv.in_act))) return "an activation without bounds";
  if (!all_are(c.in.first(4), t) || c.out[0].dtype != t || !all_are(c.in.subspan(4), DType::float32))
    return "operands of other dtypes";
  if (c.out[1].dtype != t && c.out[1].dtype != DType::float32) return "gradients of weights of another dtype";
  return p.has_sums && c.out[2].dtype != DType::float64 ? "sums of another dtype" : nullptr;
}
int64_t parts_of(const Conv2dParams& p, bool sums) {
  return int64_t{back_between(p).launch.grid.x} * (sums ? 11 : 9) * p.C * int64_t{sizeof(float)};
}
int64_t joint_workspace(const Call& c) {
  const auto& p = c.as<Conv2dBwdParams>();
  return parts_of(p.conv, p.has_sums);
}
NormBefore before_of(const Conv2dParams& p, const Call& c, size_t at) {
  if (!p.has_norm_in) return {nullptr, nullptr, {}};
  return {c.in[at].as<float>(), c.in[at + 1].as<float>(), clamp_of(p.in_act)};
}
// dx and sums may be null.
template <class T, int s>
void launch_back(const Conv2dParams& p, const NormBehind<T>& behind, const T* w, const T* x,
                 const NormBefore& before, T* dx, float* parts, const Operand& dw, double* sums) {
  constexpr BetweenShape k = kBetweenBack;
  const BetweenPlan b = back_between(p);
  const int64_t n = (sums ? 11 : 9) * p.C;
  const int slices = static_cast<int>(b.launch.grid.x);
  launch("conv2d_bwd depthwise between norms", b.launch,
         depthwise_between_bwd<T, s, k.columns, k.threads, k.blocks>, b.rows, behind, w, x, before,
         sums != nullptr, dx, parts);
  const LaunchPlan join{dim3(ceil_div(n, 32)), dim3(32, 16), 32 * 16 * sizeof(float)};
  if (dw.dtype == DType::float32)
    launch("join_between", join, join_between<float>, parts, slices, p.C, n, dw.as<float>(), sums);
  else
    launch("join_between", join, join_between<T>, parts, slices, p.C, n, dw.as<T>(), sums);
}
void joint(const Call& c) {
  const auto& p = c.as<Conv2dBwdParams>();
  const bool act = p.norm_act.act != Act::none;
  if (const char* why = unaligned({c.in[0].data, c.in[2].data, c.in[3].data, c.out[0].data}))
    throw std::logic_error(std::string("conv2d_bwd depthwise: ") + why);
  with_stride(c, p.conv.sH, [&]<class T, int s>() {
    const NormBehind<T> behind{c.in[0].as<T>(),     c.in[3].as<T>(),
                               c.in[4].as<float>(), act ? c.in[6].as<float>() : nullptr,
                               c.in[5].as<float>(), clamp_of(p.norm_act)};
    launch_back<T, s>(p.conv, behind, c.in[1].as<T>(), c.in[2].as<T>(), before_of(p.conv, c, act ? 7 : 6),
                      c.out[0].as<T>(), static_cast<float*>(c.workspace), c.out[1],
                      p.has_sums ? c.out[2].as<double>() : nullptr);
  });
}

}  // namespace

// ---- forward, and the gradient of the weights
// ----------------------------------------------------------------------
const char* depthwise_norm_decline(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  const DType t = c.in[0].dtype;
  if (const char* why = window_declines(p, t)) return why;
  if (p.has_residual || p.act.act != Act::none) return "a residual or an activation between norms";
  if (p.has_norm_in && !clamps(p.in_act)) return "an activation without bounds";
  const size_t first = static_cast<size_t>(2 + p.has_bias);
  if (!all_are(c.in.first(first), t) || c.out[0].dtype != t || !all_are(c.in.subspan(first), DType::float32))
    return "operands of other dtypes";
  return p.has_moments && c.out[1].dtype != DType::float64 ? "moments of another dtype" : nullptr;
}
int64_t depthwise_norm_workspace(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  return p.has_moments ? sums_bytes(forward_between(p).launch.grid.x, p.C) : 0;
}
void depthwise_norm_forward(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  const BetweenPlan b = forward_between(p);
  const int64_t rows = p.N * p.oH * p.oW;
  auto* parts = p.has_moments ? static_cast<float*>(c.workspace) : nullptr;
  if (const char* why = unaligned({c.in[0].data, c.out[0].data})) {
    if (p.has_norm_in) throw std::logic_error(std::string("conv2d depthwise between norms: ") + why);
    depthwise_forward_elements(c);
    with_half(c.in[0].dtype, [&]<class T>() {
      launch_sum_values(c.out[0].as<T>(), b.launch.grid.x, rows, p.C, parts, c.out[1].as<double>());
    });
    return;
  }
  const NormBefore before = before_of(p, c, static_cast<size_t>(2 + p.has_bias));
  with_stride(c, p.sH, [&]<class T, int s>() {
    constexpr BetweenShape k = kBetweenForward;
    launch("conv2d depthwise between norms", b.launch, depthwise_between<T, s, k.columns, k.threads, k.blocks>,
           b.rows, c.in[0].as<T>(), c.in[1].as<T>(), p.has_bias ? c.in[2].as<T>() : nullptr, before,
           c.out[0].as<T>(), parts);
  });
  if (parts) launch_join_moments(parts, b.launch.grid.x, rows, p.C, c.out[1].as<double>());
}

const char* depthwise_norm_bwd_weights_decline(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  const DType t = c.in[0].dtype;
  if (const char* why = window_declines(p, t)) return why;
  if (!clamps(p.in_act)) return "an activation without bounds";
  if (c.out.size() > 1) return "the gradient of a bias behind a norm";
  if (!all_are(c.in.first(2), t) || !all_are(c.in.subspan(2), DType::float32)) return "operands of other dtypes";
  return c.out[0].dtype == t || c.out[0].dtype == DType::float32 ? nullptr : "a result of another dtype";
}
int64_t depthwise_norm_bwd_weights_workspace(const Call& c) { return parts_of(c.as<Conv2dParams>(), false); }
void depthwise_norm_bwd_weights(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  if (const char* why = unaligned({c.in[0].data, c.in[1].data}))
    throw std::logic_error(std::string("conv2d_bwd_weights depthwise between norms: ") + why);
  with_stride(c, p.sH, [&]<class T, int s>() {
    const T* dy = c.in[1].as<T>();
    launch_back<T, s>(p, {dy, dy, nullptr, nullptr, nullptr, {}}, nullptr, c.in[0].as<T>(), before_of(p, c, 2),
                      nullptr, static_cast<float*>(c.workspace), c.out[0], nullptr);
  });
}

List conv2d_bwd_list() {
  static const Implementation list[] = {{"simt depthwise between norms", joint_declines, joint_workspace, joint}};
  return list;
}

}  // namespace fastcnn::cuda
