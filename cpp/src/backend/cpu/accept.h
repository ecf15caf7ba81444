// What it is: the reasons shared by implementation lists: what an optimised entry asks of its operands; and
// whether its results go past the caches.
#pragma once
#include "backend/cpu/hand_over.h"
#include "backend/cpu/isa.h"
#include "backend/cpu/threads.h"
#include "backend/backend.h"

namespace fastcnn::cpu {

// Declines unless kernels may run and every floating operand is float32.
inline const char* not_simd_float32(const Call& c) {
  if (!kernels()) return "isa is ref";
  for (auto list : {c.in, c.out})
    for (const Operand& o : list)
      if (is_floating(o.dtype) && o.dtype != DType::float32) return "dtype is not float32";
  return nullptr;
}

// Declines unless kernels may run and every floating operand is float32, or every one bfloat16.
inline const char* not_simd_float(const Call& c) {
  if (!kernels()) return "isa is ref";
  bool any[2] = {false, false};
  for (auto list : {c.in, c.out})
    for (const Operand& o : list) {
      if (!is_floating(o.dtype)) continue;
      if (o.dtype != DType::float32 && o.dtype != DType::bfloat16) return "dtype is not float32 or bfloat16";
      any[o.dtype == DType::bfloat16] = true;
    }
  return any[0] && any[1] ? "float32 beside bfloat16" : nullptr;
}

// Non-temporal stores pay where the result leaves the cache anyway, and need an aligned start.
inline bool streams(const void* p, int64_t bytes, int64_t least = int64_t{24} << 20) {
  return bytes >= least && reinterpret_cast<uintptr_t>(p) % 64 == 0;
}

// For passes that write what other threads read last: much smaller results stream there, and in place too.
inline bool streams_over(const void* p, int64_t bytes, bool in_place = false) {
  return hands_over_in_memory(bytes) ? streams(p, bytes, 0) : !in_place && streams(p, bytes);
}

inline bool streams(const Operand& y) {
  return streams(y.data, y.numel() * static_cast<int64_t>(dtype_size(y.dtype)));
}

}  // namespace fastcnn::cpu
