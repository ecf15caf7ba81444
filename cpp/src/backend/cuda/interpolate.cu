// What it is: interpolate and its gradient on CUDA.
#include "backend/cuda/kernels/interpolate.cuh"

#include "backend/cuda/dispatch.h"

namespace fastcnn::cuda {
namespace {

constexpr int64_t kTapBytes = 16;  // of a tap: an index and a weight of up to 8 bytes

int64_t workspace(const Call& c) {
  const auto& p = c.as<InterpolateParams>();
  // A support that float32 and float64 round to different counts differs by two taps at most.
  return (p.oH * (cpu::interp_rows<double>(p).taps + 2) + p.oW * (cpu::interp_columns<double>(p).taps + 2)) *
         kTapBytes;
}

// Both tables at the start of the workspace, filled.
template <class R>
void tables(const Call& c, TapTable<R>* h, TapTable<R>* w) {
  const auto& p = c.as<InterpolateParams>();
  const cpu::InterpRule<R> rows = cpu::interp_rows<R>(p), columns = cpu::interp_columns<R>(p);
  auto* index = static_cast<int64_t*>(c.workspace);
  *h = {p.H, p.oH, rows.taps, index, nullptr};
  *w = {p.W, p.oW, columns.taps, index + p.oH * rows.taps, nullptr};
  h->weight = reinterpret_cast<R*>(w->index + p.oW * columns.taps);
  w->weight = h->weight + p.oH * rows.taps;
  launch("interp_table", for_elements(p.oH), interp_table<R>, rows, *h);
  launch("interp_table", for_elements(p.oW), interp_table<R>, columns, *w);
}

void forward(const Call& c) {
  const auto& p = c.as<InterpolateParams>();
  const Operand &x = c.in[0], &y = c.out[0];
  if (y.numel() == 0 || x.numel() == 0) return;
  if (p.mode == Interp::nearest || p.mode == Interp::nearest_exact) {
    TapTable<float> h, w;
    tables(c, &h, &w);
    return with_size(y.dtype, [&]<class T>() {
      launch("interpolate", for_elements(y.numel()), interp_pick<T>, p, h, w, x.as<T>(), y.as<T>());
    });
  }
  const bool whole = !is_floating(y.dtype), with_sign = y.dtype == DType::int8;
  auto run = [&]<class R, class S>() {
    TapTable<R> h, w;
    tables(c, &h, &w);
    launch("interpolate", for_elements(y.numel()), interp_kernel<R, S>, p, h, w, x.data, y.data, y.dtype, whole,
           S(with_sign ? -128 : 0), S(with_sign ? 127 : 255));
  };
  if (y.dtype == DType::float64) return run.template operator()<double, double>();
  if (whole) return run.template operator()<float, double>();
  run.template operator()<float, float>();
}
const char* forward_declines(const Call& c) {
  const auto& p = c.as<InterpolateParams>();
  if (c.in[0].dtype != c.out[0].dtype) return "a result of another dtype";
  if (p.mode == Interp::nearest || p.mode == Interp::nearest_exact || is_floating(c.out[0].dtype)) return nullptr;
  return dtype_size(c.out[0].dtype) == 1 && c.out[0].dtype != DType::bool_ ? nullptr
                                                                           : "whole numbers of many bytes";
}

void backward(const Call& c) {
  const auto& p = c.as<InterpolateParams>();
  const Operand& dx = c.out[0];
  if (dx.numel() == 0) return;
  if (c.in[0].numel() == 0) return rt::zero(dx.data, static_cast<size_t>(dx.numel()) * dtype_size(dx.dtype));
  with_floating(dx.dtype, "interpolate_bwd", [&]<class T>() {
    TapTable<Real<T>> h, w;
    tables(c, &h, &w);
    launch("interpolate_bwd", for_elements(dx.numel()), interp_bwd_kernel<T>, p, h, w, c.in[0].as<T>(),
           dx.as<T>());
  });
}

}  // namespace

List interpolate_list() {
  static const Implementation list[] = {{"simt", forward_declines, workspace, forward}};
  return list;
}
List interpolate_bwd_list() {
  static const Implementation list[] = {{"simt", mixed_floats, workspace, backward}};
  return list;
}

}  // namespace fastcnn::cuda
