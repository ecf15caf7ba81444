// What it is: index ops, strided scatter, cat and padding on CUDA.
#include "backend/cuda/kernels/indexing.cuh"

#include <algorithm>

#include "backend/cuda/dispatch.h"

namespace fastcnn::cuda {
namespace {

Dense dense_of(const Operand& o) {
  Dense d;
  d.ndim = o.ndim;
  for (int k = 0; k < o.ndim; ++k) d.shape[k] = o.shape[k], d.strides[k] = o.strides[k];
  return d;
}

// x: the tensor with the indexed dim; y: the one with a value per index.
IndexArgs args_of(const Call& c, const Operand& x, const Operand& y, bool flat) {
  const auto& p = c.as<IndexParams>();
  IndexArgs a;
  a.x = dense_of(x), a.y = dense_of(y), a.index = dense_of(c.in[1]);
  a.dim = static_cast<int32_t>(p.dim), a.flat = flat, a.kind = static_cast<int32_t>(c.kind);
  a.size = p.size, a.low = flat ? -p.size : 0;
  a.ids = c.in[1].as<int64_t>(), a.errors = rt::error_record();
  return a;
}

template <bool flat>
void take(const Call& c) {
  const Operand &x = c.in[0], &y = c.out[0];
  with_size(y.dtype, [&]<class T>() {
    launch("gather", for_elements(y.numel()), gather_kernel<T>, args_of(c, x, y, flat), x.as<T>(), y.as<T>(),
           y.numel());
  });
}

template <class W>
void add_as(const Call& c, bool flat) {
  const Operand &dy = c.in[0], &dx = c.out[0];
  const int64_t n = dx.numel();
  const bool direct = (dx.dtype == DType::float32 && is_same<W, float>) || dtype_size(dx.dtype) == 8;
  auto* sums = static_cast<W*>(direct ? dx.data : c.workspace);
  if (n) rt::zero(sums, static_cast<size_t>(n) * sizeof(W));
  if (const int64_t total = dy.numel()) {
    const int64_t columns = total / dy.shape[c.as<IndexParams>().dim];
    launch("scatter_add", for_elements(columns), scatter_columns<W>, args_of(c, dx, dy, flat), dy.data, dy.dtype,
           sums, columns);
  }
  if (!direct) launch("narrow", for_elements(n), narrow_kernel<W>, sums, dx.data, dx.dtype, n);
}
template <bool flat>
void add(const Call& c) {
  const DType t = c.out[0].dtype;
  if (t == DType::float64) return add_as<double>(c, flat);
  if (is_floating(t)) return add_as<float>(c, flat);
  add_as<int64_t>(c, flat);
}
int64_t add_workspace(const Call& c) {
  const DType t = c.out[0].dtype;
  return t == DType::float32 || dtype_size(t) == 8 ? 0 : c.out[0].numel() * (is_floating(t) ? 4 : 8);
}

// Dims that go nowhere are repeats, the others must not land in one place twice. Dims that go backwards (flip,
// slices of a negative step) are walked from their other end, so that every `to` is above 0.
bool window_of(const Call& c, WindowArgs* a) {
  const auto& p = c.as<ScatterParams>();
  const Operand& x = c.in[0];
  a->offset = p.offset;
  int order[kMaxDims];  // dims of the window in ascending order of `to`
  for (int d = 0; d < x.ndim; ++d) {
    if (x.shape[d] == 1) continue;
    int64_t step = p.strides[d], stride = x.strides[d];
    Dense& to = step == 0 ? a->repeats : a->window;
    if (step == 0) {
      a->repeated *= x.shape[d];
    } else {
      if (step < 0) {
        a->offset += step * (x.shape[d] - 1), a->from += stride * (x.shape[d] - 1);
        step = -step, stride = -stride;
      }
      a->to[to.ndim] = step;
      int at = to.ndim;
      for (; at > 0 && a->to[order[at - 1]] > step; --at) order[at] = order[at - 1];
      order[at] = to.ndim;
    }
    to.shape[to.ndim] = x.shape[d], to.strides[to.ndim] = stride;
    ++to.ndim;
  }
  int64_t reach = 0;
  for (int i = 0; i < a->window.ndim; ++i) {
    if (a->to[order[i]] <= reach) return false;
    reach += a->to[order[i]] * (a->window.shape[order[i]] - 1);
  }
  return true;
}
// run.template operator()<the type that sums of this dtype are made in>().
template <class F>
void by_sum_type(DType t, F&& run) {
  if (t == DType::float64)
    run.template operator()<double>();
  else if (is_floating(t))
    run.template operator()<float>();
  else
    run.template operator()<int64_t>();
}

const char* scatter_declines(const Call& c) {
  WindowArgs a;
  return window_of(c, &a) ? nullptr : "windows that overlap";
}
void scatter(const Call& c) {
  WindowArgs a;
  window_of(c, &a);
  const Operand &x = c.in[0], &y = c.out[0];
  if (const int64_t n = y.numel()) rt::zero(y.data, static_cast<size_t>(n) * dtype_size(y.dtype));
  const int64_t total = a.repeated ? x.numel() / a.repeated : 0;
  auto run = [&]<class W>() {
    launch("strided_scatter", for_elements(total), window_kernel<W>, a, x.data, y.data, y.dtype, total);
  };
  by_sum_type(y.dtype, run);
}

// Dims of the window in ascending order of where they go.
void scatter_overlapping(const Call& c) {
  OverlapArgs a;
  WindowArgs given;
  window_of(c, &given);
  const Operand &x = c.in[0], &y = c.out[0];
  a.w = given;
  int order[kMaxDims] = {};
  for (int d = 0; d < given.window.ndim; ++d) {
    int at = d;
    for (; at > 0 && given.to[order[at - 1]] > given.to[d]; --at) order[at] = order[at - 1];
    order[at] = d;
  }
  int64_t reach = 0;
  for (int d = 0; d < given.window.ndim; ++d) {
    a.w.window.shape[d] = given.window.shape[order[d]], a.w.window.strides[d] = given.window.strides[order[d]];
    a.w.to[d] = given.to[order[d]];
    a.reach[d] = reach += a.w.to[d] * (a.w.window.shape[d] - 1);
  }
  const int64_t n = y.numel();
  if (x.numel() == 0) {
    if (n) rt::zero(y.data, static_cast<size_t>(n) * dtype_size(y.dtype));
    return;
  }
  auto run = [&]<class W>() {
    launch("strided_scatter", for_elements(n), overlap_kernel<W>, a, x.data, y.data, y.dtype, n);
  };
  by_sum_type(y.dtype, run);
}

const char* put_declines(const Call& c) {
  return c.in[1].numel() >= INT32_MAX ? "more values than int32 counts" : nullptr;
}
int64_t put_workspace(const Call& c) { return c.in[0].numel() * 4; }
void put(const Call& c) {
  const Operand &x = c.in[0], &index = c.in[1], &values = c.in[2], &y = c.out[0];
  auto* winner = static_cast<int32_t*>(c.workspace);
  const int64_t n = x.numel();
  if (n) rt::zero(winner, static_cast<size_t>(n) * 4);
  launch("index_put", for_elements(index.numel()), put_winner, index.as<int64_t>(), n,
         static_cast<int32_t>(c.kind), rt::error_record(), winner, index.numel());
  with_size(y.dtype, [&]<class T>() {
    launch("index_put", for_elements(n), put_kernel<T>, x.as<T>(), values.as<T>(), winner, y.as<T>(), n);
  });
}

void cat(const Call& c) {
  const int64_t dim = c.as<CatParams>().dim;
  const Operand& y = c.out[0];
  int64_t at = 0;
  for (const Operand& x : c.in) {
    Operand part = y;
    part.shape[dim] = x.shape[dim];
    part.data = static_cast<char*>(y.data) + at * y.strides[dim] * static_cast<int64_t>(dtype_size(y.dtype));
    if (x.numel()) copy_elements(x, part);
    at += x.shape[dim];
  }
}
const char* cat_declines(const Call& c) {
  for (const Operand& x : c.in)
    if (x.dtype != c.out[0].dtype) return "inputs of several dtypes";
  return nullptr;
}

template <class T>
T fill_value(double v) {
  if constexpr (is_same<T, bfloat16> || is_same<T, float16>)
    return T(static_cast<float>(v));
  else
    return static_cast<T>(v);
}
void pad(const Call& c) {
  const auto& p = c.as<PadParams>();
  const Operand &x = c.in[0], &y = c.out[0];
  const PadArgs a{p, dense_of(x), dense_of(y)};
  auto run = [&]<class T>() {
    launch("pad", for_elements(y.numel()), pad_kernel<T>, a, x.as<T>(), y.as<T>(), fill_value<T>(p.value),
           y.numel());
  };
  switch (y.dtype) {
    case DType::int64: return run.template operator()<int64_t>();
    case DType::int32: return run.template operator()<int32_t>();
    case DType::int8: return run.template operator()<int8_t>();
    case DType::uint8: return run.template operator()<uint8_t>();
    case DType::bool_: return run.template operator()<bool>();
    default: return with_floating(y.dtype, "pad", run);
  }
}
void pad_bwd(const Call& c) {
  const Operand &dy = c.in[0], &dx = c.out[0];
  const PadArgs a{c.as<PadParams>(), dense_of(dx), dense_of(dy)};
  with_floating(dx.dtype, "pad_bwd", [&]<class T>() {
    launch("pad_bwd", for_elements(dx.numel()), pad_bwd_kernel<T>, a, dy.as<T>(), dx.as<T>(), dx.numel());
  });
}

}  // namespace

List index_select_list() {
  static const Implementation list[] = {{"simt", nullptr, nullptr, take<true>}};
  return list;
}
List gather_list() {
  static const Implementation list[] = {{"simt", nullptr, nullptr, take<false>}};
  return list;
}
List index_add_list() {
  static const Implementation list[] = {{"simt", nullptr, add_workspace, add<true>}};
  return list;
}
List scatter_add_list() {
  static const Implementation list[] = {{"simt", nullptr, add_workspace, add<false>}};
  return list;
}
List index_put_list() {
  static const Implementation list[] = {{"simt", put_declines, put_workspace, put}};
  return list;
}
List strided_scatter_list() {
  static const Implementation list[] = {{"simt", scatter_declines, nullptr, scatter},
                                        {"simt overlapping", nullptr, nullptr, scatter_overlapping}};
  return list;
}
List cat_list() {
  static const Implementation list[] = {{"simt", cat_declines, nullptr, cat}};
  return list;
}
List pad_list() {
  static const Implementation list[] = {{"simt", nullptr, nullptr, pad}};
  return list;
}
List pad_bwd_list() {
  static const Implementation list[] = {{"simt", mixed_floats, nullptr, pad_bwd}};
  return list;
}

}  // namespace fastcnn::cuda
