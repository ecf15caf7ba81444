// What it is: naive strided_scatter, index_select, index_add, gather, scatter_add, index_put and cat.
#include <algorithm>
#include <vector>

#include "backend/cpu/checks.h"
#include "backend/cpu/ref/convert.h"

namespace fastcnn::cpu::ref {
namespace {

// dst (dense, any order) = the sums collected in wide numbers.
template <class T>
void write_back(const Operand& y, const std::vector<Wide<T>>& sums) {
  for (size_t i = 0; i < sums.size(); ++i) y.as<T>()[i] = store<T>(sums[i]);
}

template <class T>
Wide<T> plus(Wide<T> a, Wide<T> b) {
  if constexpr (std::is_integral_v<T>)
    return wrap_add(a, b);
  else
    return a + b;
}

}  // namespace

void strided_scatter(const Call& c) {
  const auto& p = c.as<ScatterParams>();
  const Operand &x = c.in[0], &y = c.out[0];
  dispatch_all(y.dtype, [&]<class T>() {
    std::vector<Wide<T>> sums(y.numel(), 0);
    for_each_index(x, [&](const int64_t* idx) {
      int64_t off = p.offset;
      for (int d = 0; d < x.ndim; ++d) off += idx[d] * p.strides[d];
      Wide<T> v = load(x.as<T>()[offset_of(x, idx)]);
      sums[off] = p.accumulate ? plus<T>(sums[off], v) : v;
    });
    write_back<T>(y, sums);
  });
}

void index_select(const Call& c) {
  const auto& p = c.as<IndexParams>();
  const Operand &x = c.in[0], &index = c.in[1], &y = c.out[0];
  check_indices("index_select", index, p.size);
  dispatch_size(y.dtype, [&]<class T>() {
    for_each_index(y, [&](const int64_t* idx) {
      int64_t i = idx[p.dim];
      int64_t from = wrap_index(index.as<int64_t>()[i * index.strides[0]], p.size);
      y.as<T>()[offset_of(y, idx)] = x.as<T>()[offset_of(x, idx) + (from - i) * x.strides[p.dim]];
    });
  });
}

void index_add(const Call& c) {
  const auto& p = c.as<IndexParams>();
  const Operand &dy = c.in[0], &index = c.in[1], &dx = c.out[0];
  check_indices("index_add", index, p.size);
  dispatch_all(dx.dtype, [&]<class T>() {
    std::vector<Wide<T>> sums(dx.numel(), 0);
    for_each_index(dy, [&](const int64_t* idx) {
      int64_t i = idx[p.dim];
      int64_t to = wrap_index(index.as<int64_t>()[i * index.strides[0]], p.size);
      auto& s = sums[offset_of(dx, idx) + (to - i) * dx.strides[p.dim]];
      s = plus<T>(s, load(dy.as<T>()[offset_of(dy, idx)]));
    });
    write_back<T>(dx, sums);
  });
}

void gather(const Call& c) {
  const auto& p = c.as<IndexParams>();
  const Operand &x = c.in[0], &index = c.in[1], &y = c.out[0];
  check_indices("gather", index, p.size, 0);
  dispatch_size(y.dtype, [&]<class T>() {
    for_each_index(y, [&](const int64_t* idx) {
      int64_t from = index.as<int64_t>()[offset_of(index, idx)];
      y.as<T>()[offset_of(y, idx)] = x.as<T>()[offset_of(x, idx) + (from - idx[p.dim]) * x.strides[p.dim]];
    });
  });
}

void scatter_add(const Call& c) {
  const auto& p = c.as<IndexParams>();
  const Operand &dy = c.in[0], &index = c.in[1], &dx = c.out[0];
  check_indices("scatter_add", index, p.size, 0);
  dispatch_all(dx.dtype, [&]<class T>() {
    std::vector<Wide<T>> sums(dx.numel(), 0);
    for_each_index(dy, [&](const int64_t* idx) {
      int64_t to = index.as<int64_t>()[offset_of(index, idx)];
      auto& s = sums[offset_of(dx, idx) + (to - idx[p.dim]) * dx.strides[p.dim]];
      s = plus<T>(s, load(dy.as<T>()[offset_of(dy, idx)]));
    });
    write_back<T>(dx, sums);
  });
}

void index_put(const Call& c) {
  const Operand &x = c.in[0], &index = c.in[1], &values = c.in[2], &y = c.out[0];
  check_indices("index_put", index, c.as<IndexParams>().size, 0);
  dispatch_size(y.dtype, [&]<class T>() {
    if (x.data != y.data) std::copy_n(x.as<T>(), x.numel(), y.as<T>());
    for (int64_t i = 0; i < index.numel(); ++i) y.as<T>()[index.as<int64_t>()[i]] = values.as<T>()[i];
  });
}

void cat(const Call& c) {
  const auto& p = c.as<CatParams>();
  const Operand& y = c.out[0];
  int64_t at = 0;
  for (const Operand& x : c.in) {
    if (x.dtype != y.dtype)
      throw std::logic_error(std::string("cat: inputs of dtype ") + dtype_name(y.dtype) + " expected, got " +
                             dtype_name(x.dtype));
    dispatch_size(y.dtype, [&]<class T>() {
      for_each_index(x, [&](const int64_t* idx) {
        y.as<T>()[offset_of(y, idx) + at * y.strides[p.dim]] = x.as<T>()[offset_of(x, idx)];
      });
    });
    at += x.shape[p.dim];
  }
}

}  // namespace fastcnn::cpu::ref
