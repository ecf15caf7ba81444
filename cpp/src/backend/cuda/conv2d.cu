// What it is: the three convolution passes on CUDA: depthwise kernels, else implicit GEMM: on tensor cores for
// 16-bit floats and TF32, on plain multiply-adds (strict float32, float64) for the others.
#include <algorithm>

#include "backend/cuda/conv2d_gemm.h"
#include "backend/cuda/conv2d_depthwise.h"

namespace fastcnn::cuda {
namespace {

// ---- y
// ------------------------------------------------------------------------------------------------------------
MmaPlan forward_plan(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  return mma_plan(forward_sizes(p), in_chunks(p.C, c), true, depth_of(c.in[0].dtype));
}

void forward_depthwise_rows(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  p.has_norm_in || p.has_moments ? depthwise_norm_forward(c) : depthwise_forward_rows(c);
}
void forward_mma(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  with_mma(c.out[0].dtype, [&]<class T>() {
    launch_mma<T>("conv2d", forward_load<T>(c), forward_sizes(p), forward_plan(c), in_chunks(p.C, c),
                  {c.in[0].data, c.in[1].data}, forward_epilogue<T>(c), c.workspace, c.out[0], in_chunks(p.O, c));
  });
}
// wgmma, sm_90a.
template <Sizes (*sizes)(const Conv2dParams&), const char* (*dtypes)(const Call&), bool (*chunked)(const Call&)>
const char* conv_lines_decline(const Call& c) {
  if (const char* why = lines_decline(c.in[0].dtype, chunked(c))) return why;
  return mma_declines<sizes, dtypes>(c);
}
bool forward_chunked(const Call& c) { return in_chunks(c.as<Conv2dParams>().C, c); }
bool narrow_windows(const Conv2dParams& p) { return p.kH * p.kW > 1 && p.C / p.groups <= 32; }

TilePlan forward_line_plan(const Call& c) { return line_plan(forward_sizes(c.as<Conv2dParams>()), true); }
// With moments: every row of tiles leaves sums, which are joined then.
int64_t moments_slices(const Sizes& s) { return ceil_div(s.M, kLineCosts[0].m); }
template <class T>
void forward_moments(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  const Sizes s = forward_sizes(p);
  const ConvForward<T> load = forward_load<T>(c);
  const Epilogue<T> e = forward_epilogue<T>(c);
  const Destination to = destination<T>(s, 1, e, c.out[0], in_chunks(p.O, c), c.workspace);
  const int64_t slices = moments_slices(s);
  if (aligned16({c.in[0].data, c.in[1].data})) {
    with_line_tile(forward_line_plan(c).tile, narrow_windows(p), [&]<class Tile>() {
      launch_line_tile<T, ConvForward<T>, Tile, true>("conv2d", load, s, 1, e, c.in[0].as<T>(), to);
    });
  } else {
    launch_mma<T>("conv2d", load, s, MmaPlan{}, false, {c.in[0].data, c.in[1].data}, e, nullptr, c.out[0],
                  in_chunks(p.O, c));
    return launch_sum_values(c.out[0].as<T>(), slices, s.M, s.N, to.parts, c.out[1].as<double>());
  }
  launch_join_moments(to.parts, slices, s.M, s.N, c.out[1].as<double>());
}
void forward_lines(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  with_half(c.out[0].dtype, [&]<class T>() {
    if (p.has_moments) return forward_moments<T>(c);
    launch_lines<T>("conv2d", forward_load<T>(c), forward_sizes(p), forward_line_plan(c), narrow_windows(p),
                    {c.in[0].data, c.in[1].data}, forward_epilogue<T>(c), c.workspace, c.out[0],
                    in_chunks(p.O, c));
  });
}
int64_t forward_lines_workspace(const Call& c) {
  const Sizes s = forward_sizes(c.as<Conv2dParams>());
  return c.as<Conv2dParams>().has_moments ? sums_bytes(moments_slices(s), s.N)
                                          : parts_bytes(s, forward_line_plan(c).splits, 4);
}
const char* forward_lines_decline(const Call& c) {
  if (const char* why = conv_lines_decline<forward_sizes, one_dtype_or_moments, forward_chunked>(c)) return why;
  const auto& p = c.as<Conv2dParams>();
  if (!p.has_moments) return nullptr;
  if (p.groups > 1) return "moments of groups";
  return forward_line_plan(c).splits > 1 ? "moments of parts of the depth" : nullptr;
}
int64_t forward_mma_workspace(const Call& c) {
  return parts_bytes(forward_sizes(c.as<Conv2dParams>()), forward_plan(c).splits, 4);
}
void forward_simt(const Call& c) {
  const Sizes s = forward_sizes(c.as<Conv2dParams>());
  with_floating(c.out[0].dtype, "conv2d", [&]<class T>() {
    launch_simt<T>("conv2d", forward_load<T>(c), s, simt_splits(s), forward_epilogue<T>(c), c.workspace, c.out[0]);
  });
}
template <Sizes (*sizes)(const Conv2dParams&)>
int64_t simt_workspace(const Call& c) {
  const Sizes s = sizes(c.as<Conv2dParams>());
  return parts_bytes(s, simt_splits(s), 8);
}

// ---- dx
// -----------------------------------------------------------------------------------------------------------
MmaPlan bwd_data_plan(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  return mma_plan(bwd_data_sizes(p), bwd_chunked(c), one_parity(p), depth_of(c.in[0].dtype));
}

void bwd_data_mma(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  with_mma(c.out[0].dtype, [&]<class T>() {
    launch_mma<T>("conv2d_bwd_data", bwd_data_load<T>(c), bwd_data_sizes(p), bwd_data_plan(c), bwd_chunked(c),
                  {c.in[0].data, c.in[1].data}, bwd_data_epilogue<T>(c), c.workspace, c.out[0], in_chunks(p.C, c));
  });
}
TilePlan bwd_data_line_plan(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  return line_plan(bwd_data_sizes(p), one_parity(p));
}
void bwd_data_lines(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  with_half(c.out[0].dtype, [&]<class T>() {
    launch_lines<T>("conv2d_bwd_data", bwd_data_load<T>(c), bwd_data_sizes(p), bwd_data_line_plan(c),
                    narrow_windows(p), {c.in[0].data, c.in[1].data}, bwd_data_epilogue<T>(c), c.workspace,
                    c.out[0], in_chunks(p.C, c));
  });
}
int64_t bwd_data_lines_workspace(const Call& c) {
  return parts_bytes(bwd_data_sizes(c.as<Conv2dParams>()), bwd_data_line_plan(c).splits, 4);
}
int64_t bwd_data_mma_workspace(const Call& c) {
  return parts_bytes(bwd_data_sizes(c.as<Conv2dParams>()), bwd_data_plan(c).splits, 4);
}
int bwd_data_splits(const Conv2dParams& p) { return one_parity(p) ? simt_splits(bwd_data_sizes(p)) : 1; }
void bwd_data_simt(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  with_floating(c.out[0].dtype, "conv2d_bwd_data", [&]<class T>() {
    launch_simt<T>("conv2d_bwd_data", bwd_data_load<T>(c), bwd_data_sizes(p), bwd_data_splits(p),
                   bwd_data_epilogue<T>(c), c.workspace, c.out[0]);
  });
}
int64_t bwd_data_simt_workspace(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  return parts_bytes(bwd_data_sizes(p), bwd_data_splits(p), 8);
}

// ---- dw, dbias
// ----------------------------------------------------------------------------------------------------
int bias_slices(const Conv2dParams& p) {
  const int64_t most = p.N * p.oH * p.oW / 32, blocks = ceil_div(p.O, 32);
  return static_cast<int>(std::clamp<int64_t>(std::min<int64_t>(blocks ? 512 / blocks : 1, most), 1, 256));
}

int64_t bias_bytes(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  return c.out.size() > 1 ? (bias_slices(p) * p.O * int64_t{8} + 15) / 16 * 16 : 0;
}
int64_t depthwise_weights_workspace(const Call& c) {
  return bias_bytes(c) + depthwise_bwd_weights_elements_workspace(c);
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
  join_into<T>(parts, slices, p.O, c.out[1]);
}

void* after_bias(const Call& c) { return static_cast<char*>(c.workspace) + bias_bytes(c); }
MmaPlan bwd_weights_plan(const Call& c) {
  return mma_plan(bwd_weights_sizes(c.as<Conv2dParams>()), bwd_chunked(c), true, depth_of(c.in[0].dtype));
}

void bwd_weights_mma(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  with_mma(c.in[0].dtype, [&]<class T>() {
    launch_mma<T>("conv2d_bwd_weights", bwd_weights_load<T>(c), bwd_weights_sizes(p), bwd_weights_plan(c),
                  bwd_chunked(c), {c.in[0].data, c.in[1].data}, Epilogue<T>{nullptr, nullptr, {}}, after_bias(c),
                  c.out[0], in_chunks(p.C, c));
    bias_gradient<T>(c);
  });
}
TilePlan bwd_weights_line_plan(const Call& c) { return line_plan(bwd_weights_sizes(c.as<Conv2dParams>()), true); }
void bwd_weights_lines(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  with_half(c.in[0].dtype, [&]<class T>() {
    launch_lines<T>("conv2d_bwd_weights", bwd_weights_load<T>(c), bwd_weights_sizes(p), bwd_weights_line_plan(c),
                    false, {c.in[0].data, c.in[1].data}, Epilogue<T>{nullptr, nullptr, {}}, after_bias(c),
                    c.out[0], in_chunks(p.C, c));
    bias_gradient<T>(c);
  });
}
int64_t bwd_weights_lines_workspace(const Call& c) {
  return bias_bytes(c) + parts_bytes(bwd_weights_sizes(c.as<Conv2dParams>()), bwd_weights_line_plan(c).splits, 4);
}
int64_t bwd_weights_mma_workspace(const Call& c) {
  return bias_bytes(c) + parts_bytes(bwd_weights_sizes(c.as<Conv2dParams>()), bwd_weights_plan(c).splits, 4);
}
void bwd_weights_simt(const Call& c) {
  const Sizes s = bwd_weights_sizes(c.as<Conv2dParams>());
  with_floating(c.in[0].dtype, "conv2d_bwd_weights", [&]<class T>() {
    launch_simt<T>("conv2d_bwd_weights", bwd_weights_load<T>(c), s, simt_splits(s),
                   Epilogue<T>{nullptr, nullptr, {}}, after_bias(c), c.out[0]);
    bias_gradient<T>(c);
  });
}
int64_t bwd_weights_simt_workspace(const Call& c) { return bias_bytes(c) + simt_workspace<bwd_weights_sizes>(c); }
void bwd_weights_depthwise(const Call& c) {
  depthwise_bwd_weights_elements(c, after_bias(c));
  with_floating(c.in[0].dtype, "conv2d_bwd_weights", [&]<class T>() { bias_gradient<T>(c); });
}
// Memory that is not aligned goes to the kernel above: room for either.
int64_t depthwise_rows_weights_workspace(const Call& c) {
  if (c.as<Conv2dParams>().has_norm_in) return depthwise_norm_bwd_weights_workspace(c);
  return std::max(depthwise_bwd_weights_rows_workspace(c), depthwise_weights_workspace(c));
}
void bwd_weights_depthwise_rows(const Call& c) {
  if (c.as<Conv2dParams>().has_norm_in) return depthwise_norm_bwd_weights(c);
  aligned16({c.in[0].data, c.in[1].data}) ? depthwise_bwd_weights_rows(c) : bwd_weights_depthwise(c);
}

}  // namespace

int64_t conv2d_bias_bytes(const Call& c) { return bias_bytes(c); }
void conv2d_bias_gradient(const Call& c) {
  with_floating(c.in[0].dtype, "conv2d_bwd_weights", [&]<class T>() { bias_gradient<T>(c); });
}

List conv2d_list() {
  static const Implementation list[] = {
      {"simt depthwise rows", depthwise_rows_declines<one_dtype, depthwise_norm_decline>, depthwise_norm_workspace,
       forward_depthwise_rows},
      {"simt depthwise", depthwise_declines<one_dtype>, nullptr, depthwise_forward_elements},
      conv2d_space_to_depth(),
      conv2d_widened(),
      conv2d_pointwise(),
      conv2d_narrow_strips(),
      conv2d_boxes(),
      conv2d_halo(),
      {"wgmma", forward_lines_decline, forward_lines_workspace, forward_lines},
      {"tensor cores", mma_declines<forward_sizes, one_dtype>, forward_mma_workspace, forward_mma},
      {"simt gemm", gemm_declines<forward_sizes, one_dtype>, simt_workspace<forward_sizes>, forward_simt}};
  return list;
}
List conv2d_bwd_data_list() {
  static const Implementation list[] = {
      {"simt depthwise rows", depthwise_rows_declines<one_dtype, one_dtype>, nullptr, depthwise_bwd_data_rows},
      {"simt depthwise", depthwise_declines<one_dtype>, nullptr, depthwise_bwd_data_elements},
      conv2d_bwd_data_widened(),
      conv2d_bwd_data_pointwise(),
      conv2d_bwd_data_narrow_strips(),
      conv2d_bwd_data_boxes(),
      conv2d_bwd_data_halo(),
      {"wgmma", conv_lines_decline<bwd_data_sizes, one_dtype, bwd_chunked>, bwd_data_lines_workspace,
       bwd_data_lines},
      {"tensor cores", mma_declines<bwd_data_sizes, one_dtype>, bwd_data_mma_workspace, bwd_data_mma},
      {"simt gemm", gemm_declines<bwd_data_sizes, one_dtype>, bwd_data_simt_workspace, bwd_data_simt}};
  return list;
}
List conv2d_bwd_weights_list() {
  static const Implementation list[] = {
      {"simt depthwise rows", depthwise_rows_declines<weights_dtypes, depthwise_norm_bwd_weights_decline>,
       depthwise_rows_weights_workspace, bwd_weights_depthwise_rows},
      {"simt depthwise", depthwise_declines<weights_dtypes>, depthwise_weights_workspace, bwd_weights_depthwise},
      conv2d_bwd_weights_space_to_depth(),
      conv2d_bwd_weights_widened(),
      conv2d_bwd_weights_pointwise(),
      conv2d_bwd_weights_strips(),
      conv2d_bwd_weights_narrow_strips(),
      conv2d_bwd_weights_boxes(),
      conv2d_bwd_weights_halo(),
      {"wgmma", conv_lines_decline<bwd_weights_sizes, weights_dtypes, bwd_chunked>, bwd_weights_lines_workspace,
       bwd_weights_lines},
      {"tensor cores", mma_declines<bwd_weights_sizes, weights_dtypes>, bwd_weights_mma_workspace,
       bwd_weights_mma},
      {"simt gemm", gemm_declines<bwd_weights_sizes, weights_dtypes>, bwd_weights_simt_workspace,
       bwd_weights_simt}};
  return list;
}

}  // namespace fastcnn::cuda
