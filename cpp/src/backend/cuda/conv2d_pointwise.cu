// What it is: 1x1 convolutions of 16-bit floats between at most 32 channels and at most 192 (the ends of inverted
// bottlenecks), which memory bounds: products of many rows and a few columns (kernels/pointwise.cuh). What it is
// not: for more channels (conv2d_boxes.cu), windows (conv2d_halo.cu), activations that need more than a minimum.
#include <algorithm>

#include "backend/cuda/conv2d_depthwise.h"
#include "backend/cuda/conv2d_gemm.h"
#include "backend/cuda/kernels/pointwise.cuh"

namespace fastcnn::cuda {
namespace {

constexpr int64_t kReserved = 1 << 10;  // bytes of each block's shared memory

int64_t rows_of(const Conv2dParams& p) { return p.N * p.H * p.W; }
int32_t narrow_int(int64_t v) { return static_cast<int32_t>(v); }

// ---- how large
// --------------------------------------------------------------------------------------------------
struct PointwisePlan {
  unsigned blocks;
  int64_t shared;  // bytes of a block
};
PointwisePlan plan_of(const PointwiseShape& s, int64_t shared, int64_t rows, int64_t tiles_at_once) {
  const int64_t here = std::min<int64_t>(s.blocks, rt::device().shared / (shared + kReserved)),
                tiles = ceil_div(rows, s.rows());
  return {static_cast<unsigned>(std::clamp<int64_t>(here * rt::device().multiprocessors, 1,
                                                    std::max<int64_t>(ceil_div(tiles, tiles_at_once), 1))),
          shared};
}
int most_of(int64_t to, bool moments) { return !moments ? 0 : to <= 96 ? 96 : kPointwiseWide; }
bool widens(int64_t to) { return to > kPointwiseNarrow; }
PointwisePlan data_plan(int64_t rows, int64_t from, int64_t to, bool moments) {
  const PointwiseShape s = widens(to) ? widening_shape(most_of(to, moments)) : narrowing_shape();
  const PointwiseRows in(narrow_int(from), narrow_int(from)), out(narrow_int(to), narrow_int(to));
  const int64_t warp = s.stages * in.place(s.rows(), 0) + out.place(s.rows(), 0);
  return plan_of(s, 2 * (pointwise_weights(narrow_int(from), narrow_int(to)) + s.warps * warp), rows, s.warps);
}
PointwisePlan forward_plan(const Conv2dParams& p) { return data_plan(rows_of(p), p.C, p.O, p.has_moments); }
PointwisePlan bwd_data_plan(const Conv2dParams& p) { return data_plan(rows_of(p), p.O, p.C, false); }
PointwisePlan weights_plan(const Conv2dParams& p) {
  constexpr PointwiseShape s = pointwise_weights_shape();
  const int32_t wide = narrow_int(std::max(p.C, p.O)), narrow = narrow_int(std::min(p.C, p.O)),
                parts = pointwise_parts(wide);
  const int64_t stage = PointwiseRows(pointwise_part(wide) * 16, wide).place(s.rows(), 0) +
                        PointwiseRows(narrow, narrow).place(s.rows(), 0),
                sums = int64_t{s.warps} / 2 * kPointwiseSums * 16 * narrow * 4;
  return plan_of(s, std::max(s.warps * s.stages * stage * 2, sums), rows_of(p), s.warps / parts);
}

// ---- who takes what
// -----------------------------------------------------------------------------------------------
const char* common_declines(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  if (!is_half(c.in[0].dtype)) return "not a 16-bit float";
  if (p.groups != 1) return "groups";
  if (p.kH * p.kW * p.sH * p.sW != 1 || p.pT || p.pB || p.pL || p.pR) return "not 1x1 at stride 1 without padding";
  if (p.C % 8 || p.O % 8 || p.C <= 0 || p.O <= 0) return "channels do not fill 16 bytes";
  if (std::min(p.C, p.O) > kPointwiseNarrow || std::max(p.C, p.O) > kPointwiseWide)
    return "more channels than 32 on one side and 192 on the other";
  if (rows_of(p) < kPointwiseRows * rt::device().multiprocessors) return "few pixels";
  for (const Operand& o : c.in)
    if (o.data && !aligned16({o.data})) return "operands not aligned to 16 bytes";
  for (const Operand& o : c.out)
    if (o.data && !aligned16({o.data})) return "results not aligned to 16 bytes";
  return nullptr;
}
const char* fits(const PointwisePlan& plan) {
  return plan.shared + kReserved <= rt::device().shared ? nullptr : "more shared memory than the device has";
}
const char* forward_declines(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  if (const char* why = common_declines(c)) return why;
  if (p.act.act != Act::none && p.act.act != Act::relu && p.act.act != Act::relu6)
    return "activations other than relu and relu6";
  if (const char* why = fits(forward_plan(p))) return why;
  return gemm_declines<forward_sizes, one_dtype_or_moments>(c);
}
const char* bwd_data_declines(const Call& c) {
  if (const char* why = common_declines(c)) return why;
  if (const char* why = fits(bwd_data_plan(c.as<Conv2dParams>()))) return why;
  return gemm_declines<bwd_data_sizes, one_dtype>(c);
}
const char* bwd_weights_declines(const Call& c) {
  if (const char* why = common_declines(c)) return why;
  if (const char* why = fits(weights_plan(c.as<Conv2dParams>()))) return why;
  return gemm_declines<bwd_weights_sizes, weights_dtypes>(c);
}

// f.template operator()<chunks>() of the narrow side.
template <class F>
void with_chunks(int64_t channels, F&& f) {
  switch (channels / 8) {
    case 1: return f.template operator()<1>();
    case 2: return f.template operator()<2>();
    case 3: return f.template operator()<3>();
    default: return f.template operator()<4>();
  }
}

// ---- y, dx
// --------------------------------------------------------------------------------------------------------
template <class T, bool moments, bool more>
void launch_data(const Call& c, const char* name, const PointwisePlan& plan, int64_t from, int64_t to, bool back,
                 const Epilogue<T>& e) {
  const int32_t rows = narrow_int(rows_of(c.as<Conv2dParams>()));
  auto start = [&](const PointwiseShape& s, auto kernel, int64_t channels) {
    launch(name, {dim3(plan.blocks), dim3(static_cast<unsigned>(s.threads())), static_cast<size_t>(plan.shared)},
           kernel, rows, narrow_int(channels), c.in[0].as<T>(), c.in[1].as<T>(), back, e, c.out[0].as<T>(),
           static_cast<float*>(c.workspace));
  };
  if (!widens(to)) {
    return with_chunks(to, [&]<int NC>() {
      constexpr PointwiseShape s = narrowing_shape();
      start(s, narrowing_kernel<T, NC, moments, more, s.groups, s.warps, s.stages, s.blocks>, from);
    });
  }
  auto widen = [&]<int most>() {
    with_chunks(from, [&]<int KC>() {
      constexpr PointwiseShape s = widening_shape(most);
      start(s, widening_kernel<T, KC, most, more, s.groups, s.warps, s.stages, s.blocks>, to);
    });
  };
  if constexpr (moments)
    most_of(to, true) == 96 ? widen.template operator()<96>() : widen.template operator()<kPointwiseWide>();
  else
    widen.template operator()<0>();
}
template <class T>
void launch_bare(const Call& c, const char* name, const PointwisePlan& plan, int64_t from, int64_t to, bool back,
                 const Epilogue<T>& e) {
  e.bias || e.residual || e.act.act != Act::none ? launch_data<T, false, true>(c, name, plan, from, to, back, e)
                                                 : launch_data<T, false, false>(c, name, plan, from, to, back, e);
}
int64_t forward_workspace(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  return p.has_moments ? sums_bytes(forward_plan(p).blocks, p.O) : 0;
}
void forward(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  const PointwisePlan plan = forward_plan(p);
  with_half(c.in[0].dtype, [&]<class T>() {
    const Epilogue<T> e = forward_epilogue<T>(c);
    if (!p.has_moments) return launch_bare<T>(c, "conv2d", plan, p.C, p.O, false, e);
    launch_data<T, true, false>(c, "conv2d", plan, p.C, p.O, false, e);
    launch_join_moments(static_cast<float*>(c.workspace), plan.blocks, rows_of(p), p.O, c.out[1].as<double>());
  });
}
void bwd_data(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  with_half(c.in[0].dtype, [&]<class T>() {
    launch_bare<T>(c, "conv2d_bwd_data", bwd_data_plan(p), p.O, p.C, true, bwd_data_epilogue<T>(c));
  });
}

// ---- dw, dbias
// ----------------------------------------------------------------------------------------------------
int64_t bwd_weights_workspace(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  return conv2d_bias_bytes(c) + weights_plan(p).blocks * p.O * p.C * static_cast<int64_t>(sizeof(float));
}
void bwd_weights(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  const PointwisePlan plan = weights_plan(p);
  auto* sums = reinterpret_cast<float*>(static_cast<char*>(c.workspace) + conv2d_bias_bytes(c));
  with_half(c.in[0].dtype, [&]<class T>() {
    const T *x = c.in[0].as<T>(), *dy = c.in[1].as<T>();
    const bool more_made = p.O > p.C;  // the wide side is dy's
    with_chunks(std::min(p.C, p.O), [&]<int NC>() {
      constexpr PointwiseShape s = pointwise_weights_shape();
      launch("conv2d_bwd_weights", {dim3(plan.blocks), dim3(s.threads()), static_cast<size_t>(plan.shared)},
             pointwise_weights_kernel<T, NC, s.groups, s.warps, s.stages, s.blocks>, narrow_int(rows_of(p)),
             narrow_int(std::max(p.C, p.O)), more_made ? dy : x, more_made ? x : dy,
             narrow_int(more_made ? p.C : 1), narrow_int(more_made ? 1 : p.C), sums);
    });
    join_into<T>(sums, static_cast<int>(plan.blocks), p.O * p.C, c.out[0]);
  });
  conv2d_bias_gradient(c);
}

}  // namespace

Implementation conv2d_pointwise() { return {"narrow 1x1", forward_declines, forward_workspace, forward}; }
Implementation conv2d_bwd_data_pointwise() { return {"narrow 1x1", bwd_data_declines, nullptr, bwd_data}; }
Implementation conv2d_bwd_weights_pointwise() {
  return {"narrow 1x1", bwd_weights_declines, bwd_weights_workspace, bwd_weights};
}

}  // namespace fastcnn::cuda
