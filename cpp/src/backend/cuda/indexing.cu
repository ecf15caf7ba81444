// What it is: index ops, strided scatter, cat and padding on CUDA.
#include "backend/cuda/kernels/indexing.cuh"

#include <algorithm>
#include <cstring>

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
  const int64_t n = y.numel(), total = a.repeated ? x.numel() / a.repeated : 0;
  const auto size = static_cast<int64_t>(dtype_size(y.dtype));
  if (n > total || a.repeated != 1) rt::zero(y.data, static_cast<size_t>(n * size));
  if (total == 0) return;
  if (a.repeated == 1) {  // nothing is added up: a copy into the window
    Operand from = x, to = y;
    from.data = static_cast<char*>(x.data) + a.from * size, to.data = static_cast<char*>(y.data) + a.offset * size;
    from.ndim = to.ndim = a.window.ndim;
    for (int d = 0; d < a.window.ndim; ++d) {
      from.shape[d] = to.shape[d] = a.window.shape[d];
      from.strides[d] = a.window.strides[d], to.strides[d] = a.to[d];
    }
    return copy_elements(from, to);
  }
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

// `value` as an element of y, repeated in 16 bytes.
Pack<uint8_t> fill_bytes(double value, DType t) {
  Pack<uint8_t> bytes;
  auto repeat = [&](auto v) {
    for (size_t at = 0; at < 16; at += sizeof v) std::memcpy(bytes.v + at, &v, sizeof v);
  };
  switch (t) {
    case DType::float32: repeat(static_cast<float>(value)); break;
    case DType::float64: repeat(value); break;
    case DType::bfloat16: repeat(bfloat16(static_cast<float>(value))); break;
    case DType::float16: repeat(float16(static_cast<float>(value))); break;
    case DType::int64: repeat(static_cast<int64_t>(value)); break;
    case DType::int32: repeat(static_cast<int32_t>(value)); break;
    case DType::int8: repeat(static_cast<int8_t>(value)); break;
    case DType::bool_: repeat(static_cast<bool>(value)); break;
    default: repeat(static_cast<uint8_t>(value));
  }
  return bytes;
}

// Dims as y lies in memory, outermost first.
PadArgs pad_args(const PadParams& p, const Operand& x, const Operand& y) {
  PadArgs a;
  a.p = p;
  int order[kMaxDims];
  for (int d = 0; d < y.ndim; ++d) {
    int at = d;
    for (; at > 0 && y.strides[order[at - 1]] < y.strides[d]; --at) order[at] = order[at - 1];
    order[at] = d;
  }
  a.inner.ndim = a.padded.ndim = y.ndim;
  for (int k = 0; k < y.ndim; ++k) {
    const int d = order[k];
    a.p.before[k] = p.before[d], a.p.after[k] = p.after[d];
    a.inner.shape[k] = x.shape[d], a.inner.strides[k] = x.strides[d];
    a.padded.shape[k] = y.shape[d], a.padded.strides[k] = y.strides[d];
  }
  return a;
}
void pad(const Call& c) {
  const auto& p = c.as<PadParams>();
  const Operand &x = c.in[0], &y = c.out[0];
  PadArgs a = pad_args(p, x, y);
  int64_t total = y.numel();
  size_t size = dtype_size(y.dtype);
  if (const int last = y.ndim - 1; last >= 0) {
    // Whole packs are padding or not, and come from one place, where the innermost dim is cut at packs.
    const bool whole = p.mode == PadMode::constant || (a.p.before[last] == 0 && a.p.after[last] == 0);
    auto fits = [&](int64_t k) {
      const auto bytes = static_cast<uintptr_t>(k) * size;
      bool ok = whole && a.inner.strides[last] == 1 && a.padded.strides[last] == 1 &&
                a.inner.shape[last] % k == 0 && a.padded.shape[last] % k == 0 && a.p.before[last] % k == 0 &&
                reinterpret_cast<uintptr_t>(x.data) % bytes == 0 &&
                reinterpret_cast<uintptr_t>(y.data) % bytes == 0;
      for (int d = 0; d < last; ++d) ok &= a.inner.strides[d] % k == 0 && a.padded.strides[d] % k == 0;
      return ok;
    };
    auto k = static_cast<int64_t>(16 / size);
    while (k > 1 && !fits(k)) k /= 2;
    a.inner.shape[last] /= k, a.padded.shape[last] /= k, a.p.before[last] /= k, a.p.after[last] /= k;
    for (int d = 0; d < last; ++d) a.inner.strides[d] /= k, a.padded.strides[d] /= k;
    total /= k, size *= static_cast<size_t>(k);
  }
  const Pack<uint8_t> fill = fill_bytes(p.value, y.dtype);
  with_bytes(size, [&]<class T>() {
    T value;
    std::memcpy(&value, fill.v, sizeof value);
    launch("pad", for_elements(total), pad_kernel<T>, a, x.as<T>(), y.as<T>(), value, total);
  });
}
void pad_bwd(const Call& c) {
  const auto& p = c.as<PadParams>();
  const Operand &dy = c.in[0], &dx = c.out[0];
  bool inside = p.mode == PadMode::constant;  // every element of x is one of y: nothing to add or to leave out
  int64_t first = 0;
  for (int d = 0; d < dx.ndim; ++d) {
    inside &= p.before[d] >= 0 && p.after[d] >= 0;
    first += p.before[d] * dy.strides[d];
  }
  if (inside) {
    Operand part = dy;
    for (int d = 0; d < dx.ndim; ++d) part.shape[d] = dx.shape[d];
    part.data = static_cast<char*>(dy.data) + first * static_cast<int64_t>(dtype_size(dy.dtype));
    return copy_elements(part, dx);
  }
  const PadArgs a{p, dense_of(dx), dense_of(dy)};
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
