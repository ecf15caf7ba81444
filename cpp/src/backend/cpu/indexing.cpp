// What it is: the ordered CPU implementations of strided_scatter, index_select, index_add, gather, scatter_add,
// index_put and cat.
#include <algorithm>
#include <cstring>

#include "backend/cpu/accept.h"
#include "backend/cpu/checks.h"
#include "backend/cpu/copy.h"
#include "backend/cpu/isa.h"
#include "backend/cpu/lists.h"
#include "backend/cpu/ref/convert.h"
#include "backend/cpu/ref/ref.h"
#include "backend/cpu/threads.h"

namespace fastcnn::cpu {
namespace {

const char* no_kernels(const Call&) { return kernels() ? nullptr : "no kernels in this ISA"; }

void zero_fill(const Operand& y) {
  int64_t bytes = y.numel() * static_cast<int64_t>(dtype_size(y.dtype));
  parallel_for(bytes, 64 * 1024, [&](int64_t b, int64_t e, int) { std::memset(y.as<char>() + b, 0, e - b); });
}

const char* declines_scatter(const Call& c) {
  if (!kernels()) return "no kernels in this ISA";
  if (c.as<ScatterParams>().accumulate) return "windows that overlap";
  return c.in[0].dtype == c.out[0].dtype ? nullptr : "two dtypes";
}

void scatter_run(const Call& c) {
  const auto& p = c.as<ScatterParams>();
  const Operand &x = c.in[0], &y = c.out[0];
  if (x.numel() != y.numel()) zero_fill(y);
  Operand window = x;
  window.data = y.as<char>() + p.offset * static_cast<int64_t>(dtype_size(y.dtype));
  std::copy_n(p.strides, x.ndim, window.strides);
  copy_strided(x, window, streams(y));
}

// A dense tensor around one dim, in memory order: (outer, size, inner).
struct Slices {
  int64_t outer = 1, inner = 1;
};
Slices slices(const Operand& x, int64_t dim) {
  Slices s;
  int order[kMaxDims] = {}, at = 0;
  for (int i = 0; i < x.ndim; ++i) order[i] = i;
  if (x.ndim == 4) order[1] = 2, order[2] = 3, order[3] = 1;
  while (order[at] != dim) s.outer *= x.shape[order[at++]];
  for (++at; at < x.ndim; ++at) s.inner *= x.shape[order[at]];
  return s;
}

void select_run(const Call& c) {
  const auto& p = c.as<IndexParams>();
  const Operand &x = c.in[0], &index = c.in[1], &y = c.out[0];
  check_indices("index_select", index, p.size);
  Slices s = slices(x, p.dim);
  int64_t n = index.numel(), bytes = s.inner * static_cast<int64_t>(dtype_size(y.dtype));
  if (y.numel() == 0) return;
  const int64_t* at = index.as<int64_t>();
  parallel_for(s.outer * n, 64 * 1024 / bytes + 1, [&](int64_t b, int64_t e, int) {
    for (int64_t i = b; i < e; ++i) {
      int64_t from = i / n * p.size + wrap_index(at[i % n], p.size);
      const char* src = x.as<char>() + from * bytes;
      char* dst = y.as<char>() + i * bytes;
      if (bytes == 4)
        std::memcpy(dst, src, 4);
      else
        std::memcpy(dst, src, bytes);
    }
  });
}

const char* declines_add(const Call& c) {
  if (!kernels()) return "no kernels in this ISA";
  return c.out[0].dtype == DType::float32 ? nullptr : "sums outside float32";
}

// Every thread owns positions of the result and reads all indices: sums keep the order of the indices.
void index_add_run(const Call& c) {
  const auto& p = c.as<IndexParams>();
  const Operand &dy = c.in[0], &index = c.in[1], &dx = c.out[0];
  check_indices("index_add", index, p.size);
  zero_fill(dx);
  if (dy.numel() == 0 || dx.numel() == 0) return;
  Slices s = slices(dx, p.dim);
  int64_t n = index.numel();
  const int64_t* at = index.as<int64_t>();
  const KernelTable& k = *kernels();
  int64_t positions = s.outer * p.size;
  parallel_for(positions, 16 * 1024 / s.inner + 1, [&](int64_t b, int64_t e, int) {
    for (int64_t o = b / p.size; o * p.size < e; ++o)
      for (int64_t i = 0; i < n; ++i) {
        int64_t to = o * p.size + wrap_index(at[i], p.size);
        if (to >= b && to < e)
          k.add_into(dx.as<float>() + to * s.inner, dy.as<float>() + (o * n + i) * s.inner, s.inner);
      }
  });
}

// gather and scatter_add in slices: only where the operands differ along no other dim.
const char* declines_gather(const Call& c) {
  const auto& p = c.as<IndexParams>();
  const Operand &a = c.in[0], &index = c.in[1];
  const Operand& b = c.out[0];
  if (!kernels()) return "no kernels in this ISA";
  for (int d = 0; d < index.ndim; ++d)
    if (d != p.dim && (a.shape[d] != index.shape[d] || b.shape[d] != index.shape[d]))
      return "shapes differ along another dim";
  return nullptr;
}
const char* declines_scatter_add(const Call& c) {
  if (c.out[0].dtype != DType::float32) return "sums outside float32";
  return declines_gather(c);
}

void gather_run(const Call& c) {
  const auto& p = c.as<IndexParams>();
  const Operand &x = c.in[0], &index = c.in[1], &y = c.out[0];
  check_indices("gather", index, p.size, 0);
  if (y.numel() == 0) return;
  Slices s = slices(y, p.dim);
  const int64_t n = index.shape[p.dim], *at = index.as<int64_t>();
  ref::dispatch_size(y.dtype, [&]<class T>() {
    parallel_for(s.outer * n, 16 * 1024 / s.inner + 1, [&](int64_t b, int64_t e, int) {
      for (int64_t i = b; i < e; ++i) {
        const T* from = x.as<T>() + i / n * p.size * s.inner;
        for (int64_t k = i * s.inner, col = 0; col < s.inner; ++col, ++k)
          y.as<T>()[k] = from[at[k] * s.inner + col];
      }
    });
  });
}

// A thread owns whole slices of dx, or some of their columns: sums keep the order of the indices.
void scatter_add_run(const Call& c) {
  const auto& p = c.as<IndexParams>();
  const Operand &dy = c.in[0], &index = c.in[1], &dx = c.out[0];
  check_indices("scatter_add", index, p.size, 0);
  zero_fill(dx);
  if (dy.numel() == 0) return;
  Slices s = slices(dx, p.dim);
  constexpr int64_t kColumns = 16;  // floats of a line
  const int64_t n = index.shape[p.dim], blocks = (s.inner + kColumns - 1) / kColumns;
  const int64_t* at = index.as<int64_t>();
  parallel_for(s.outer * blocks, 16 * 1024 / (n * std::min(s.inner, kColumns)) + 1,
               [&](int64_t b, int64_t e, int) {
                 for (int64_t item = b; item < e; ++item) {
                   int64_t o = item / blocks, c0 = item % blocks * kColumns, c1 = std::min(s.inner, c0 + kColumns);
                   float* to = dx.as<float>() + o * p.size * s.inner;
                   for (int64_t i = 0; i < n; ++i)
                     for (int64_t col = c0, k = (o * n + i) * s.inner; col < c1; ++col)
                       to[at[k + col] * s.inner + col] += dy.as<float>()[k + col];
                 }
               });
}

const char* declines_cat(const Call& c) {
  if (!kernels()) return "no kernels in this ISA";
  for (const Operand& x : c.in)
    if (x.dtype != c.out[0].dtype) return "two dtypes";
  return nullptr;
}

void cat_run(const Call& c) {
  const auto& p = c.as<CatParams>();
  const Operand& y = c.out[0];
  int64_t at = 0, size = static_cast<int64_t>(dtype_size(y.dtype));
  const bool stream = streams(y);
  for (const Operand& x : c.in) {
    Operand window = y;
    std::copy_n(x.shape, x.ndim, window.shape);
    window.data = y.as<char>() + at * y.strides[p.dim] * size;
    if (x.numel() != 0) copy_strided(x, window, stream);
    at += x.shape[p.dim];
  }
}

}  // namespace

List strided_scatter_list() {
  static const Implementation list[] = {{"window", declines_scatter, nullptr, scatter_run},
                                        {"ref", nullptr, nullptr, ref::strided_scatter}};
  return list;
}

List index_select_list() {
  static const Implementation list[] = {{"slices", no_kernels, nullptr, select_run},
                                        {"ref", nullptr, nullptr, ref::index_select}};
  return list;
}

List index_add_list() {
  static const Implementation list[] = {{"slices", declines_add, nullptr, index_add_run},
                                        {"ref", nullptr, nullptr, ref::index_add}};
  return list;
}

List gather_list() {
  static const Implementation list[] = {{"slices", declines_gather, nullptr, gather_run},
                                        {"ref", nullptr, nullptr, ref::gather}};
  return list;
}

List index_put_list() {
  static const Implementation list[] = {{"ref", nullptr, nullptr, ref::index_put}};
  return list;
}

List scatter_add_list() {
  static const Implementation list[] = {{"slices", declines_scatter_add, nullptr, scatter_add_run},
                                        {"ref", nullptr, nullptr, ref::scatter_add}};
  return list;
}

List cat_list() {
  static const Implementation list[] = {{"windows", declines_cat, nullptr, cat_run},
                                        {"ref", nullptr, nullptr, ref::cat}};
  return list;
}

}  // namespace fastcnn::cpu
