// What it is: the value checks that only a run can make (indices), shared by references and optimised adaptors.
#pragma once
#include <cstdint>
#include <stdexcept>
#include <string>

#include "backend/backend.h"

namespace fastcnn::cpu {

// index: int64, dense. Valid values are [low, size), low being -size where negative ones count from the end; the
// message names the first bad one and where it stands.
inline void check_indices(const char* op, const Operand& index, int64_t size, int64_t low) {
  const int64_t* p = index.as<int64_t>();
  int64_t n = index.numel();
  bool bad = false;
  for (int64_t i = 0; i < n; ++i) bad |= p[i] < low || p[i] >= size;
  if (!bad) return;
  for (int64_t i = 0; i < n; ++i) {
    if (p[i] >= low && p[i] < size) continue;
    int64_t at = i, pos[kMaxDims] = {};  // memory index to logical position, biggest stride first
    std::string text;
    for (int done = 0, used = 0; done < index.ndim; ++done) {
      int best = -1;
      for (int d = 0; d < index.ndim; ++d)
        if (!(used >> d & 1) && (best < 0 || index.strides[d] > index.strides[best])) best = d;
      used |= 1 << best;
      if (index.shape[best] == 1 || index.strides[best] == 0) continue;
      pos[best] = at / index.strides[best];
      at %= index.strides[best];
    }
    for (int d = 0; d < index.ndim; ++d) text += (d ? ", " : "") + std::to_string(pos[d]);
    throw std::out_of_range(std::string(op) + ": expected indices in [" + std::to_string(low) + ", " +
                            std::to_string(size) + "), got " + std::to_string(p[i]) + " at position (" + text +
                            ")");
  }
}

inline void check_indices(const char* op, const Operand& index, int64_t size) {
  check_indices(op, index, size, -size);
}

inline int64_t wrap_index(int64_t i, int64_t size) { return i < 0 ? i + size : i; }

}  // namespace fastcnn::cpu
