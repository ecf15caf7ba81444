// What it is: how a normalised tensor is split into chunks.
// What it is not: any arithmetic on values.
#pragma once
#include <algorithm>
#include <cstdint>
#include <numeric>

#include "backend/cpu/accept.h"
#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/threads.h"
#include "backend/cpu/workspace.h"

namespace fastcnn::cpu {

// Activations that the passes of norms differentiate by their input and, unlike leaky ReLU, by a curve.
inline bool smooth(Act a) { return a == Act::silu || a == Act::hardswish; }

inline NormShape norm_shape(int64_t images, int64_t rows, int64_t C) {
  NormShape s{images, rows, C, 1, 0, 0, 0};
  int64_t lanes = kernels()->vector_floats;
  s.fold = lanes / std::gcd(C, lanes);
  if (s.fold * C > kMaxPeriod) s.fold = 1;
  while (s.fold * C < 4 * lanes && s.fold * C * 2 <= kMaxPeriod) s.fold *= 2;
  s.period = s.fold * C;
  s.chunk_rows = std::max<int64_t>(64, (16384 + C - 1) / C);
  s.chunk_rows = (s.chunk_rows + s.fold - 1) / s.fold * s.fold;
  s.chunks = std::max<int64_t>(1, (rows + s.chunk_rows - 1) / s.chunk_rows);
  return s;
}

// Whether a result goes past the caches: every vector of it starts at a vector boundary then.
inline bool norm_streams(const NormShape& s, const void* p, int64_t value_bytes = 4, bool in_place = false) {
  int64_t lanes = kernels()->vector_floats, per_image = s.rows * s.C;
  return s.period % lanes == 0 && (s.images == 1 || per_image % lanes == 0) &&
         streams_over(p, s.images * per_image * value_bytes, in_place);
}

// Repeats the first C values of each image's table through its period.
inline void tile(const NormShape& s, float* table) {
  for (int64_t i = 0; i < s.images; ++i)
    for (int64_t j = s.C; j < s.period; ++j) table[i * s.period + j] = table[i * s.period + j - s.C];
}

// Chunk items of all images on all threads: f(begin, end).
template <class F>
void for_chunks(const NormShape& s, F&& f) {
  parallel_for(s.images * s.chunks, 1, [&](int64_t b, int64_t e, int) { f(b, e); });
}

}  // namespace fastcnn::cpu
