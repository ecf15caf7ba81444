// What it is: the value checks that only a run can make (indices, NaN targets), shared by references and optimised
// adaptors.
#pragma once
#include <cstdint>
#include <stdexcept>
#include <string>

#include "backend/backend.h"

namespace fastcnn::cpu {

// Element i of memory as its place in the shape: "2, 0". x: dense.
inline std::string position(const Operand& x, int64_t i) {
  int64_t pos[kMaxDims] = {};
  for (int done = 0, used = 0; done < x.ndim; ++done) {  // biggest stride first
    int best = -1;
    for (int d = 0; d < x.ndim; ++d)
      if (!(used >> d & 1) && (best < 0 || x.strides[d] > x.strides[best])) best = d;
    used |= 1 << best;
    if (x.shape[best] == 1 || x.strides[best] == 0) continue;
    pos[best] = i / x.strides[best];
    i %= x.strides[best];
  }
  std::string text;
  for (int d = 0; d < x.ndim; ++d) text += (d ? ", " : "") + std::to_string(pos[d]);
  return text;
}

// t: dense, holds NaN at element i.
[[noreturn]] inline void throw_nan_target(const char* op, const Operand& t, int64_t i) {
  throw std::invalid_argument(std::string(op) + ": expected a target without NaN, got NaN at position (" +
                              position(t, i) + ")");
}

// index: int64, dense. Valid values are [low, size), low being -size where negative ones count from the end; the
// message names the first bad one and where it stands.
inline void check_indices(const char* op, const Operand& index, int64_t size, int64_t low) {
  const int64_t* p = index.as<int64_t>();
  int64_t n = index.numel();
  bool bad = false;
  for (int64_t i = 0; i < n; ++i) bad |= p[i] < low || p[i] >= size;
  if (!bad) return;
  for (int64_t i = 0; i < n; ++i)
    if (p[i] < low || p[i] >= size)
      throw std::out_of_range(std::string(op) + ": expected indices in [" + std::to_string(low) + ", " +
                              std::to_string(size) + "), got " + std::to_string(p[i]) + " at position (" +
                              position(index, i) + ")");
}

inline void check_indices(const char* op, const Operand& index, int64_t size) {
  check_indices(op, index, size, -size);
}

inline int64_t wrap_index(int64_t i, int64_t size) { return i < 0 ? i + size : i; }

}  // namespace fastcnn::cpu
