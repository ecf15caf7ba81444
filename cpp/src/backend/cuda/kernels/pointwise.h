// What it is: how narrow 1x1 convolutions are cut: tiles of rows (pixels) for single warps, how rows lie in shared
// memory, and the numbers to tune. Plain functions, for the kernels, the host and the tests. What it is not: the
// kernels (pointwise.cuh).
#pragma once
#include <stdint.h>

#include "fastcnn/params.h"

namespace fastcnn::cuda {

// Channels: at most, of the narrower side and of the other one; in multiples of 8.
constexpr int kPointwiseNarrow = 32, kPointwiseWide = 192;
// Pixels for every multiprocessor below which the blocks' start would not pay.
constexpr int64_t kPointwiseRows = 64;

// How a block works: groups of 16 rows in a warp's tile, warps, a warp's tiles in shared memory (all but one are
// on their way), blocks on a multiprocessor (as registers allow).
struct PointwiseShape {
  int groups, warps, stages, blocks;
  constexpr int threads() const { return warps * 32; }
  constexpr int rows() const { return groups * 16; }
};
// Few channels to more than kPointwiseNarrow; most: of these where moments are summed in registers, else 0. Small
// blocks, so that what is left of shared memory holds one more.
constexpr PointwiseShape widening_shape(int most) {
  return most > 96 ? PointwiseShape{1, 4, 4, 3} : PointwiseShape{1, 4, 4, 4};
}
// Any channels to at most kPointwiseNarrow.
constexpr PointwiseShape narrowing_shape() { return {1, 4, 3, 4}; }
// The gradient of the weights. Warps: a power of two, of at least the parts of the wide side.
constexpr PointwiseShape pointwise_weights_shape() { return {1, 8, 4, 1}; }
// Groups of 16 channels of the wide side that one warp sums in registers.
constexpr int kPointwiseSums = 6;

// Rows of 16-byte chunks. In shared memory an odd number of chunks apart: ldmatrix takes one chunk of eight rows,
// and those lie in all banks.
struct PointwiseRows {
  int32_t chunks = 1, pad = 0, skip = 0;  // of a row; behind it in shared memory; behind it in memory (elements)
  uint32_t reciprocal = 0;
  PointwiseRows() = default;
  // `channels` of rows that have `in_memory`.
  FASTCNN_INLINE PointwiseRows(int32_t channels, int32_t in_memory)
      : chunks(channels / 8),
        pad(1 - chunks % 2),
        skip(in_memory - channels),
        reciprocal(65536u / static_cast<uint32_t>(chunks) + 1) {}
  // Of piece e below 2048, chunk after chunk: its row, and where it lies (elements).
  FASTCNN_INLINE int32_t row(int32_t e) const {
    return static_cast<int32_t>(static_cast<uint32_t>(e) * reciprocal >> 16);
  }
  FASTCNN_INLINE int32_t place_of(int32_t e, int32_t row) const { return (e + row * pad) * 8; }
  FASTCNN_INLINE int32_t memory_of(int32_t e, int32_t row) const { return e * 8 + row * skip; }
  FASTCNN_INLINE int32_t place(int32_t row, int32_t chunk) const { return (row * (chunks + pad) + chunk) * 8; }
  FASTCNN_INLINE int32_t stride() const { return chunks * 8 + skip; }
};
// From one row of weights in shared memory, as (channels made, channels read), to the next: chunks.
FASTCNN_INLINE constexpr int32_t pointwise_weights_pitch(int32_t from) { return (from + 15) / 16 * 2 + 1; }
FASTCNN_INLINE constexpr int32_t pointwise_weights(int32_t from, int32_t to) {
  return (to + 15) / 16 * 16 * pointwise_weights_pitch(from) * 8;
}

// Parts of the wide side that warps sum apart, and the groups of 16 channels of the largest.
FASTCNN_INLINE constexpr int32_t pointwise_parts(int32_t wide) {
  return ((wide + 15) / 16 + kPointwiseSums - 1) / kPointwiseSums;
}
FASTCNN_INLINE constexpr int32_t pointwise_part(int32_t wide) {
  return ((wide + 15) / 16 + pointwise_parts(wide) - 1) / pointwise_parts(wide);
}

}  // namespace fastcnn::cuda
