// What it is: how a strided copy is cut into rows, into transposed tiles, or into runs by a table. See copy.h.
#include "backend/cpu/copy.h"

#include <algorithm>
#include <vector>

#include "backend/cpu/isa.h"
#include "backend/cpu/loop_plan.h"
#include "backend/cpu/ref/convert.h"
#include "backend/cpu/threads.h"

namespace fastcnn::cpu {
namespace {

// The dim along which x is dense while the innermost one is not: the two form a transposed matrix. -1: none.
int transposed_dim(const EltLoop& l, DType x_type, DType y_type) {
  int last = l.ndim - 1;
  if (x_type != y_type && !(x_type == DType::uint8 && y_type == DType::float32)) return -1;
  if (l.strides[0][last] != 1 || l.strides[1][last] == 1 || l.strides[1][last] == 0) return -1;
  for (int d = 0; d < last; ++d)
    if (l.strides[1][d] == 1 && l.shape[d] >= 4) return d;
  return -1;
}

constexpr int64_t kNarrow = 2;  // columns of a transposed matrix that is no tile

// Where rows of y are short (pixel_shuffle, pixel_unshuffle): as many of the inner dims as lie together in y form
// a run, and a table tells where each of its elements lies in x. For runs that use at least a quarter of the lines
// of x that they touch, near each other: all others are read better by rows and tiles.
struct Runs {
  static constexpr int64_t kLongest = 4096, kLongRow = 32, kFewest = 16, kLine = 64, kFar = 128 << 10;
  int dims = 0;  // outer ones
  std::vector<int32_t> table;
  Runs(const EltLoop& l, DType x_type, DType y_type) {
    const int last = l.ndim - 1;
    if (x_type != y_type || l.strides[0][last] != 1 || l.shape[last] > kLongRow) return;
    const auto size = static_cast<int64_t>(dtype_size(x_type)), longest = std::min(kLongest, l.total / kFewest);
    if (l.strides[1][last] == 1 && 2 * l.shape[last] * size >= kLine) return;
    int64_t run = 1, reach = 0, near = 0, places = 1;
    int d = last;
    for (; d >= 0 && l.strides[0][d] == run && run * l.shape[d] <= longest; --d) {
      const int64_t step = l.strides[1][d], span = (l.shape[d] - 1) * step;
      if (step < 0) return;
      run *= l.shape[d], reach += span;
      if (step * size < kLine)
        near += span;
      else
        places *= l.shape[d];
    }
    const int64_t lines = places * (near * size / kLine + 1);
    if (d >= last - 1 || 4 * run * size < lines * kLine || reach * size > kFar) return;
    dims = d + 1;
    table.reserve(static_cast<size_t>(run));
    table.push_back(0);
    for (int k = last; k > d; --k) {
      const size_t inner = table.size();
      for (int64_t i = 1; i < l.shape[k]; ++i)
        for (size_t j = 0; j < inner; ++j) table.push_back(table[j] + static_cast<int32_t>(i * l.strides[1][k]));
    }
  }
};

template <class T>
void copy_runs(const EltLoop& l, const Runs& runs, const T* x, T* y, int64_t begin, int64_t end) {
  const auto n = static_cast<int64_t>(runs.table.size());
  const int32_t* table = runs.table.data();
  for (int64_t i = begin; i < end; ++i) {
    int64_t index = i, ox = 0, oy = 0;
    for (int d = runs.dims - 1; d >= 0; index /= l.shape[d--]) {
      ox += index % l.shape[d] * l.strides[1][d];
      oy += index % l.shape[d] * l.strides[0][d];
    }
    const T* from = x + ox;
    T* to = y + oy;
    for (int64_t k = 0; k < n; ++k) to[k] = from[table[k]];
  }
}

}  // namespace

void copy_strided(const Operand& x, const Operand& y, bool stream) {
  EltLoop l = plan_loop({&y, &x});
  if (l.total == 0) return;
  int t = transposed_dim(l, x.dtype, y.dtype);
  if (t < 0 || l.shape[l.ndim - 1] <= kNarrow) {
    const Runs runs(l, x.dtype, y.dtype);
    if (const auto run = static_cast<int64_t>(runs.table.size()); run > 0) {
      ref::dispatch_size(x.dtype, [&]<class T>() {
        parallel_for(l.total / run, std::max<int64_t>(1, kSerialElements / run),
                     [&](int64_t b, int64_t e, int) { copy_runs(l, runs, x.as<T>(), y.as<T>(), b, e); });
      });
      return;
    }
  }
  if (t < 0) {
    parallel_for(l.total, kSerialElements, [&](int64_t b, int64_t e, int) {
      kernels()->copy_map(l, x.data, x.dtype, y.data, y.dtype, b, e, stream);
    });
    return;
  }
  int last = l.ndim - 1;
  int64_t cols = l.shape[last], rows = l.shape[t], outer = l.total / (cols * rows);
  int64_t block = 64, blocks = (rows + block - 1) / block;
  size_t sx = dtype_size(x.dtype), sy = dtype_size(y.dtype);
  int64_t grain = std::max<int64_t>(1, kSerialElements / (std::min(block, rows) * cols));
  parallel_for(outer * blocks, grain, [&](int64_t b, int64_t e, int) {
    for (int64_t item = b; item < e; ++item) {
      int64_t index = item / blocks, r0 = item % blocks * block, ox = 0, oy = 0;
      for (int d = last - 1; d >= 0; --d) {
        if (d == t) continue;
        ox += index % l.shape[d] * l.strides[1][d];
        oy += index % l.shape[d] * l.strides[0][d];
        index /= l.shape[d];
      }
      kernels()->copy_transposed(x.as<char>() + ox * sx, l.strides[1][last], x.dtype, y.as<char>() + oy * sy,
                                 l.strides[0][t], y.dtype, cols, r0, std::min(r0 + block, rows));
    }
  });
}

}  // namespace fastcnn::cpu
