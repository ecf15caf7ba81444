// What it is: strided operands made into the shortest loop nest: dims in memory order of the output, neighbours
// that are jointly dense merged. All-dense operands become one dim, a channel vector against a channels-last
// tensor two.
#pragma once
#include <initializer_list>

#include "backend/backend.h"
#include "backend/cpu/kernels/eltwise_args.h"

namespace fastcnn::cpu {

constexpr int64_t kSerialElements = 16 * 1024;  // below: waking threads costs more than it gains

// The first operand is the output: its shape is the loop's, the others have that shape (broadcast dims: stride 0).
inline EltLoop plan_loop(std::initializer_list<const Operand*> operands) {
  const Operand& y = **operands.begin();
  EltLoop l;
  l.operands = static_cast<int32_t>(operands.size());
  l.total = y.numel();
  int order[kMaxDims], n = 0;
  for (int d = 0; d < y.ndim; ++d) {
    if (y.shape[d] == 1) continue;
    int at = n++;
    for (; at > 0 && y.strides[order[at - 1]] < y.strides[d]; --at) order[at] = order[at - 1];
    order[at] = d;
  }
  l.ndim = 0;
  for (int i = 0; i < n; ++i) {
    int d = order[i], k = 0;
    bool merge = l.ndim > 0;
    for (const Operand* o : operands) {
      if (merge && l.strides[k][l.ndim - 1] != o->strides[d] * y.shape[d]) merge = false;
      ++k;
    }
    if (!merge) l.shape[l.ndim++] = 1;
    l.shape[l.ndim - 1] *= y.shape[d];
    k = 0;
    for (const Operand* o : operands) l.strides[k++][l.ndim - 1] = o->strides[d];
  }
  if (l.ndim == 0) {  // one element
    l.ndim = 1;
    l.shape[0] = l.total;
    for (int k = 0; k < l.operands; ++k) l.strides[k][0] = 1;
  }
  return l;
}

}  // namespace fastcnn::cpu
