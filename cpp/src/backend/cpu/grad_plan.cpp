// What it is: the blocking rules of conv2d_weights_grad. See grad_plan.h.
#include "backend/cpu/grad_plan.h"

#include <algorithm>

#include "backend/cpu/strips.h"

namespace fastcnn::cpu {
namespace {

constexpr int64_t kTarget = 160;                // words of a strip: a panel of three vectors stays in L1
constexpr int64_t kFewChannels = 24;            // of a single tap
constexpr int64_t kPartialFloats = 256 * 1024;  // of all chunks
constexpr int64_t kMostChunks = 16;
constexpr int64_t kGroupsChunks = 128;        // of convolutions in groups
constexpr int64_t kChunkFloats = 128 * 1024;  // of x and dy: the groups of a chunk read the same lines

}  // namespace

bool plan_weights_grad(WeightsGradTask& t, int pixels_per_word, int lanes, int threads) {
  // Vectors over outputs: for few channels, or where channels would leave more lanes idle.
  const int64_t C = ceil_div(t.C, lanes) * lanes, O = ceil_div(t.O, lanes) * lanes;
  const bool idle = pixels_per_word == 1 && t.C % lanes != 0 && 10 * t.O * C > 11 * t.C * O;
  // With few registers also where dy, in whole vectors, is the larger operand by far: it is read once then.
  const bool wide = pixels_per_word == 1 && lanes == 8 && t.kH * t.kW == 1 && t.C <= kFewChannels &&
                    t.O % lanes == 0 && t.O >= 2 * t.C;
  t.o_inner = idle || wide || (t.C < lanes / 2 && t.O >= t.C);
  t.nc = ceil_div(t.C, t.kH * t.kW == 1 ? 256 : 64);
  // Columns of a window as one run: where it fills vectors that a pixel alone leaves part empty.
  const bool merges = t.dW == 1 && t.kW > 1 && (t.C % lanes != 0 || t.C < (pixels_per_word == 1 ? 3 : 2) * lanes);
  const int64_t O16 = ceil_div(t.O, 16) * 16;
  auto words = [&](int64_t nb, int64_t ohb, int64_t owb) {
    t.merge = t.nc == 1 && merges, t.panels = !t.o_inner && !t.merge;
    const GradLayout layout(t, pixels_per_word);
    if (t.panels && t.kH * t.kW == 1) return nb * ohb * ceil_div(owb, pixels_per_word);  // one panel at a time
    const int64_t cn = ceil_div(t.C, t.nc);
    return nb * layout.rows(ohb) * layout.phases * layout.cols(owb) *
               (t.panels ? ceil_div(cn, lanes) * lanes : cn) +
           (t.o_inner ? nb * ohb * ceil_div(owb, pixels_per_word) * O16 : 0);
  };
  auto fits = [&](int64_t nb, int64_t ohb, int64_t owb) {
    return nb * ohb * owb <= kTarget * pixels_per_word && words(nb, ohb, owb) <= kScratchFloats;
  };
  const int64_t least = std::clamp<int64_t>(t.oW, 1, 14);
  while (t.nc < t.C && words(1, 1, least) > kScratchFloats) t.nc = std::min(t.C, t.nc * 2);
  if (words(1, 1, 1) > kScratchFloats) return false;
  cut_strips(t, kTarget * pixels_per_word, pixels_per_word, fits);
  const int64_t total = std::max<int64_t>(t.B * t.w_b, 1);
  const int64_t pixels = t.N * (t.H * t.W * t.x_w + t.oH * t.oW * t.y_w);
  const int64_t most = t.B == 1 ? kMostChunks : std::clamp(pixels / kChunkFloats, kMostChunks, kGroupsChunks);
  t.chunks = std::clamp<int64_t>(std::min(kPartialFloats / total, strip_count(t)), 1, most);
  while (t.chunks & (t.chunks - 1)) t.chunks &= t.chunks - 1;  // powers of two divide among threads
  // A group copies its strips again: no more of them than share the work evenly.
  const int64_t tiles = std::max<int64_t>(1, t.O / (t.o_inner ? 4 * lanes : 7));
  auto items = [&] { return t.chunks * t.B * t.nc * t.groups; };
  while (items() % threads != 0 && items() < 4 * threads && t.groups < tiles) ++t.groups;
  const int64_t run = t.merge ? t.kW * t.C : t.C;
  t.few = pixels_per_word == 1 && (t.o_inner ? run : t.O) <= kFewRowsOfGrad && (t.o_inner ? t.O : run) <= lanes &&
          t.nc == 1;
  return true;
}

}  // namespace fastcnn::cpu
