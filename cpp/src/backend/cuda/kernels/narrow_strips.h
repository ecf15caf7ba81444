// What it is: how convolutions of 16 and 32 channels on strips of rows (strips.h) are cut: rows of a strip,
// stages, how many products of 64 pixels. Plain functions of the problem, for the kernels, the host and the tests.
// What it is not: the kernels (narrow_strips.cuh).
#pragma once
#include <algorithm>

#include "backend/cuda/kernels/strips.h"

namespace fastcnn::cuda {

// How a block works: groups of four warps, each with strips of its own; products of 64 pixels that one has in
// registers at once.
struct NarrowShape {
  int groups, products;
  constexpr int threads() const { return groups * 128 + 32; }  // one warp asks for strips
};
constexpr NarrowShape narrow_data_shape(int made) { return made == 64 ? NarrowShape{3, 1} : NarrowShape{4, 3}; }
// From `channels` to `made` by windows for which there are kernels?
constexpr bool narrow_taken(int64_t channels, int64_t made, int64_t window) {
  if (made != 16 && made != 32 && made != 64) return false;
  return channels == 16 ? window == 2 || window == 3 || (window == 4 && made == 64)
                        : channels == 32 && window == 3;
}
// Gradients of weights: shifts of dy that one product of 64 rows takes, each with all of its channels, and how
// many such products a row of taps takes.
constexpr int narrow_shifts(int made) { return 64 / made; }
constexpr int narrow_columns(int made, int window) {
  return (window + narrow_shifts(made) - 1) / narrow_shifts(made);
}
constexpr int narrow_sums(int channels, int made, int window) {  // of a thread
  return narrow_columns(made, window) * window * channels / 2;
}
constexpr NarrowShape narrow_weights_shape(int channels, int made, int window) {
  const int sums = narrow_sums(channels, made, window);
  return {sums > 100 ? 2 : sums > 48 ? 3 : 4, 1};
}
constexpr int kNarrowStep = 16;  // pixels: depth of a product

struct NarrowStrips {
  Strips strips;                  // no rows: not possible
  int32_t stages = 0, stage = 0;  // bytes of a stage
  int64_t shared = 0;             // bytes of a block
};
FASTCNN_INLINE int64_t whole_kib(int64_t bytes) { return (bytes + 1023) / 1024 * 1024; }
constexpr int64_t kNarrowBarriers = 256;  // bytes
// Stages that `bytes` hold: as many for every group, at least one, or none. A barrier's parity tells its last
// phase from the one before it, no more, so nobody may wait for a stage whose strip before that is still on its
// way; a group that has stages of its own has taken that strip itself.
inline int64_t narrow_stages(int64_t bytes, int64_t stage, int64_t groups) {
  return bytes < stage * groups ? 0 : std::min<int64_t>(bytes / stage / groups, 12 / groups) * groups;
}

// y from x at `channels` to `made`. bytes: of shared memory.
inline NarrowStrips narrow_data_strips(int64_t N, int64_t oH, int64_t oW, int64_t top, int64_t left,
                                       int64_t window, int64_t channels, int64_t made, int64_t bytes,
                                       int64_t multiprocessors) {
  NarrowStrips best;
  if (N < 1 || oH < 1 || oW < 1 || oW + window - 1 > kMostPitch) return best;
  const NarrowShape shape = narrow_data_shape(static_cast<int>(made));
  const int64_t weights = whole_kib(window * window * channels * made * 2);
  double least = 0;
  for (int64_t rows = 1; rows <= oH && rows <= kMostStripRows; ++rows) {
    const Strips s = strips_of_rows(N, oH, oW, top, left, window, rows);
    const int64_t chunks = (s.y_pixels() + shape.products * 64 - 1) / (shape.products * 64),
                  read = (chunks * shape.products * 64 + (window - 1) * (s.pitch + 1)) * channels * 2,
                  stage = whole_kib(s.x_pixels() * channels * 2), beyond = std::max<int64_t>(read - stage, 0),
                  stages = narrow_stages(bytes - kNarrowBarriers - weights - beyond, stage, shape.groups);
    if (stages == 0) break;
    // Rounds of all groups; a strip costs its products and as much as one chunk of them besides.
    const double rounds = static_cast<double>(s.total()) / static_cast<double>(multiprocessors * shape.groups),
                 cost = (std::max(rounds, 1.0) + 0.5) * static_cast<double>(chunks + 1) *
                        (stages > shape.groups ? 1 : 1.15);
    if (best.strips.rows && cost >= least) continue;
    least = cost;
    best = {s, static_cast<int32_t>(stages), static_cast<int32_t>(stage),
            weights + stages * stage + beyond + kNarrowBarriers};
  }
  return best;
}

// Gradients of weights. At shift s, pixel q + s of dy meets pixel q + window - 1 + down * pitch of x: tap (down,
// window - 1 - s). q begins a step before the first pixel of dy, with zeros, so that all shifts see all of dy;
// what is read of dy beyond is zero too, and what x has there are numbers. In pixels, of a stage:
FASTCNN_INLINE int32_t narrow_dy_room(const Strips& g) { return kNarrowStep + g.depth() + kNarrowStep; }
FASTCNN_INLINE int32_t narrow_x_room(const Strips& g) {
  return kNarrowStep + (g.depth() + g.window * (g.pitch + 1) + 15) / 16 * 16;
}
// `shift` below narrow_columns * narrow_shifts: the last of them may be none of the window's.
FASTCNN_INLINE int32_t narrow_dy_pixel(int32_t q, int32_t shift) { return kNarrowStep + q + shift; }
FASTCNN_INLINE int32_t narrow_x_pixel(const Strips& g, int32_t q, int32_t down) {
  return kNarrowStep + q + g.window - 1 + down * g.pitch;
}
inline NarrowStrips narrow_weights_strips(const Conv2dParams& p, int64_t bytes, int64_t multiprocessors) {
  NarrowStrips best;
  if (p.N < 1 || p.oH < 1 || p.oW < 1 || p.oW + p.kW - 1 > kMostPitch) return best;
  const int channels = static_cast<int>(p.C), made = static_cast<int>(p.O), window = static_cast<int>(p.kW);
  const NarrowShape shape = narrow_weights_shape(channels, made, window);
  double least = 0;
  for (int64_t rows = 1; rows <= p.oH && rows <= kMostStripRows; ++rows) {
    const Strips s = strips_of_rows(p.N, p.oH, p.oW, p.pT, p.pL, window, rows);
    const int64_t stage = whole_kib(narrow_dy_room(s) * made * 2) + whole_kib(narrow_x_room(s) * channels * 2),
                  stages = narrow_stages(bytes - kNarrowBarriers, stage, shape.groups);
    if (stages == 0) break;
    const double rounds = static_cast<double>(s.total()) / static_cast<double>(multiprocessors * shape.groups),
                 cost = (std::max(rounds, 1.0) + 0.5) * static_cast<double>(s.depth() + 3 * kNarrowStep) *
                        (1 + 0.1 * static_cast<double>(window - 1) / static_cast<double>(rows)) *
                        (stages > shape.groups ? 1 : 1.15);
    if (best.strips.rows && cost >= least) continue;
    least = cost;
    best = {s, static_cast<int32_t>(stages), static_cast<int32_t>(stage), stages * stage + kNarrowBarriers};
  }
  // Sums of groups are joined where the stages were.
  if (best.strips.rows)
    best.shared =
        std::max<int64_t>(best.shared, int64_t{128} * 4 * narrow_sums(channels, made, window) + kNarrowBarriers);
  return best;
}

}  // namespace fastcnn::cuda
