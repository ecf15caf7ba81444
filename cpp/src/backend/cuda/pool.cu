// What it is: how max and average pooling start on CUDA: packs of channels, else element by element.
#include "backend/cuda/kernels/pool.cuh"

#include <algorithm>

#include "backend/cuda/dispatch.h"
#include "backend/cuda/kernels/pool_packs.cuh"

namespace fastcnn::cuda {
namespace {

const char* declines(const Call& c) {
  return is_floating(c.in[0].dtype) && c.in[0].dtype == c.out[0].dtype ? nullptr : "dtype is not floating";
}

void max_forward(const Call& c) {
  with_floating(c.in[0].dtype, "max_pool2d", [&]<class T>() {
    launch("max_pool2d", for_elements(c.out[0].numel()), max_pool_kernel<T>, c.as<Pool2dParams>(), c.in[0].as<T>(),
           c.out[0].as<T>(), c.out[1].as<int32_t>());
  });
}
void max_backward(const Call& c) {
  with_floating(c.in[0].dtype, "max_pool2d_bwd", [&]<class T>() {
    launch("max_pool2d_bwd", for_elements(c.out[0].numel()), max_pool_bwd_kernel<T>, c.as<Pool2dParams>(),
           c.in[0].as<T>(), c.in[1].as<int32_t>(), c.out[0].as<T>());
  });
}
void gather(const Call& c) {
  with_floating(c.in[0].dtype, "max_pool2d_gather", [&]<class T>() {
    launch("max_pool2d_gather", for_elements(c.out[0].numel()), max_pool_gather_kernel<T>, c.as<Pool2dParams>(),
           c.in[0].as<T>(), c.in[1].as<int32_t>(), c.out[0].as<T>());
  });
}
void avg_forward(const Call& c) {
  with_floating(c.in[0].dtype, "avg_pool2d", [&]<class T>() {
    launch("avg_pool2d", for_elements(c.out[0].numel()), avg_pool_kernel<T>, c.as<Pool2dParams>(), c.in[0].as<T>(),
           c.out[0].as<T>());
  });
}
void avg_backward(const Call& c) {
  with_floating(c.in[0].dtype, "avg_pool2d_bwd", [&]<class T>() {
    launch("avg_pool2d_bwd", for_elements(c.out[0].numel()), avg_pool_bwd_kernel<T>, c.as<Pool2dParams>(),
           c.in[0].as<T>(), c.out[0].as<T>());
  });
}

// ---- packs of channels
// ------------------------------------------------------------------------------------------
const char* packs_decline(const Call& c) {
  const auto& p = c.as<Pool2dParams>();
  if (const char* why = declines(c)) return why;
  const auto size = static_cast<int64_t>(dtype_size(c.in[0].dtype));
  if (size == 8) return "no dtype of packs";
  if (p.C * size % 16) return "channels do not fill packs of 16 bytes";
  constexpr int64_t most = (int64_t{1} << 31) - 512;
  if (p.N * (p.H + 1) * (p.W + 1) * p.C * size / 16 >= most || p.N * p.oH * p.oW * p.C * size / 16 >= most)
    return "more than 2^31 packs";
  if ((p.H + 1) * (p.oH + 1) >= most || (p.W + 1) * (p.oW + 1) >= most) return "a longer side";
  return p.C > 200000 ? "more channels than a grid holds" : nullptr;
}
// Memory that is not aligned goes element by element.
template <void (*packed)(const Call&), void (*single)(const Call&)>
void if_aligned(const Call& c) {
  bool aligned = true;
  for (const Operand& o : c.in) aligned &= aligned16({o.data});
  for (const Operand& o : c.out) aligned &= aligned16({o.data});
  aligned ? packed(c) : single(c);
}

PackedAxis axis_of(const cpu::PoolAxis& a) {
  auto n = [](int64_t v) { return static_cast<int32_t>(v); };
  PackedAxis r;
  r.in = n(a.in), r.out = n(a.out), r.span = n((a.kernel - 1) * a.dilation + 1), r.stride = n(a.stride);
  r.pad = n(a.pad_begin), r.limit = n(a.in + a.pad_end), r.dilation = n(a.dilation), r.adaptive = n(a.adaptive);
  r.by_stride = FastDiv(a.stride), r.by_dilation = FastDiv(a.dilation);
  r.by_in = FastDiv(a.in), r.by_out = FastDiv(a.out);
  return r;
}
// A unit is a pack of one of N * rows * columns.
PackedPool packed_of(const Call& c, int64_t rows, int64_t columns) {
  const auto& p = c.as<Pool2dParams>();
  PackedPool r;
  r.h = axis_of(cpu::pool_rows(p)), r.w = axis_of(cpu::pool_cols(p));
  r.packs = static_cast<int32_t>(p.C * static_cast<int64_t>(dtype_size(c.in[0].dtype)) / 16);
  r.units = static_cast<int32_t>(p.N * rows * columns * r.packs);
  r.count_include_pad = p.count_include_pad != 0;
  r.by_packs = FastDiv(r.packs), r.by_columns = FastDiv(columns), r.by_rows = FastDiv(rows);
  return r;
}
LaunchPlan for_units(const PackedPool& p) { return {dim3(ceil_div(p.units, kThreads)), dim3(kThreads), 0}; }
template <class F>
void with_packed(const Call& c, F&& f) {
  switch (c.in[0].dtype) {
    case DType::bfloat16: return f.template operator()<bfloat16>();
    case DType::float16: return f.template operator()<float16>();
    default: return f.template operator()<float>();
  }
}

void max_forward_packs(const Call& c) {
  const auto& p = c.as<Pool2dParams>();
  const PackedPool r = packed_of(c, p.oH, p.oW);
  const bool square = !p.adaptive && p.kH == p.kW && p.dH == 1 && p.dW == 1;
  with_packed(c, [&]<class T>() {
    const auto kernel = square && p.kH == 3   ? max_pool_packs<T, 3>
                        : square && p.kH == 2 ? max_pool_packs<T, 2>
                                              : max_pool_packs<T, 0>;
    launch("max_pool2d packs", for_units(r), kernel, r, c.in[0].as<T>(), c.out[0].as<T>(), c.out[1].as<int32_t>());
  });
}
void max_backward_packs(const Call& c) {
  const auto& p = c.as<Pool2dParams>();
  const PackedPool r = packed_of(c, ceil_div(p.H, 2), ceil_div(p.W, 2));
  auto few = [](const PackedAxis& a) { return !a.adaptive && a.span + 1 <= 2 * a.stride; };
  with_packed(c, [&]<class T>() {
    const auto kernel = few(r.h) && few(r.w) ? max_pool_bwd_packs<T, 2> : max_pool_bwd_packs<T, 0>;
    launch("max_pool2d_bwd packs", for_units(r), kernel, r, c.in[0].as<T>(), c.in[1].as<int32_t>(),
           c.out[0].as<T>());
  });
}
void avg_forward_packs(const Call& c) {
  const auto& p = c.as<Pool2dParams>();
  const PackedPool r = packed_of(c, p.oH, p.oW);
  const int64_t area = p.adaptive ? int64_t{ceil_div(p.H, p.oH)} * ceil_div(p.W, p.oW) : p.kH * p.kW;
  with_packed(c, [&]<class T>() {
    if (area < 16)
      return launch("avg_pool2d packs", for_units(r), avg_pool_packs<T>, r, c.in[0].as<T>(), c.out[0].as<T>());
    const int64_t outputs = p.N * p.oH * p.oW;
    const bool narrow = outputs * r.packs < 8 * rt::device().multiprocessors;  // else SMs would have no block
    const int64_t width = std::min<int64_t>(narrow ? 4 : 8, r.packs), lanes = width > 4 ? 32 : 64;
    launch("avg_pool2d wide",
           {dim3(static_cast<unsigned>(outputs), ceil_div(r.packs, width)),
            dim3(static_cast<unsigned>(width), static_cast<unsigned>(lanes)),
            static_cast<size_t>(width * lanes) * Pack<T>::n * sizeof(float)},
           avg_pool_wide<T>, r, c.in[0].as<T>(), c.out[0].as<T>());
  });
}
void avg_backward_packs(const Call& c) {
  const auto& p = c.as<Pool2dParams>();
  const PackedPool r = packed_of(c, p.H, p.W);
  with_packed(c, [&]<class T>() {
    launch("avg_pool2d_bwd packs", for_units(r), avg_pool_bwd_packs<T>, r, c.in[0].as<T>(), c.out[0].as<T>());
  });
}

}  // namespace

List max_pool2d_list() {
  static const Implementation list[] = {
      {"simt packs", packs_decline, nullptr, if_aligned<max_forward_packs, max_forward>},
      {"simt", declines, nullptr, max_forward}};
  return list;
}
List max_pool2d_bwd_list() {
  static const Implementation list[] = {
      {"simt packs", packs_decline, nullptr, if_aligned<max_backward_packs, max_backward>},
      {"simt", declines, nullptr, max_backward}};
  return list;
}
List max_pool2d_gather_list() {
  static const Implementation list[] = {{"simt", declines, nullptr, gather}};
  return list;
}
List avg_pool2d_list() {
  static const Implementation list[] = {
      {"simt packs", packs_decline, nullptr, if_aligned<avg_forward_packs, avg_forward>},
      {"simt", declines, nullptr, avg_forward}};
  return list;
}
List avg_pool2d_bwd_list() {
  static const Implementation list[] = {
      {"simt packs", packs_decline, nullptr, if_aligned<avg_backward_packs, avg_backward>},
      {"simt", declines, nullptr, avg_backward}};
  return list;
}

}  // namespace fastcnn::cuda
