// What it is: naive pad and its transpose, all modes, any dims, crops in constant mode.
#include <vector>

#include "backend/cpu/pad_index.h"
#include "backend/cpu/ref/convert.h"

namespace fastcnn::cpu::ref {
namespace {

// Offset in `inner` (the unpadded tensor) for index `idx` of the padded one; -1: outside.
int64_t source_offset(const PadParams& p, const Operand& inner, const int64_t* idx) {
  int64_t off = 0;
  for (int d = 0; d < inner.ndim; ++d) {
    int64_t i = pad_source(p.mode, idx[d] - p.before[d], inner.shape[d]);
    if (i < 0) return -1;
    off += i * inner.strides[d];
  }
  return off;
}

}  // namespace

void pad(const Call& c) {
  const auto& p = c.as<PadParams>();
  const Operand &x = c.in[0], &y = c.out[0];
  dispatch_all(y.dtype, [&]<class T>() {
    for_each_index(y, [&](const int64_t* idx) {
      int64_t off = source_offset(p, x, idx);
      y.as<T>()[offset_of(y, idx)] = off < 0 ? store<T>(p.value) : x.as<T>()[off];
    });
  });
}

void pad_bwd(const Call& c) {
  const auto& p = c.as<PadParams>();
  const Operand &dy = c.in[0], &dx = c.out[0];
  dispatch_all(dx.dtype, [&]<class T>() {
    std::vector<Wide<T>> sums(dx.numel(), 0);
    for_each_index(dy, [&](const int64_t* idx) {
      int64_t off = source_offset(p, dx, idx);
      if (off >= 0) sums[off] += load(dy.as<T>()[offset_of(dy, idx)]);
    });
    for (size_t i = 0; i < sums.size(); ++i) dx.as<T>()[i] = store<T>(sums[i]);
  });
}

}  // namespace fastcnn::cpu::ref
