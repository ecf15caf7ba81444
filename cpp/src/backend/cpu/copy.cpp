// What it is: how a strided copy is cut into rows or into transposed tiles. See copy.h.
#include "backend/cpu/copy.h"

#include <algorithm>

#include "backend/cpu/isa.h"
#include "backend/cpu/loop_plan.h"
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

}  // namespace

void copy_strided(const Operand& x, const Operand& y, bool stream) {
  EltLoop l = plan_loop({&y, &x});
  if (l.total == 0) return;
  int t = transposed_dim(l, x.dtype, y.dtype);
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
