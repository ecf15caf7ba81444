// Strips of image rows, by which the copy engine serves convolutions: the plain functions of the problem, acted
// out. The kernels themselves run on a GPU alone.
#include <array>

#include "backend/cuda/kernels/narrow_strips.h"
#include "cuda_check.h"

using namespace fastcnn;
using namespace fastcnn::test;

namespace {

constexpr int64_t kShared = 227 << 10;

Conv2dParams padded(int64_t N, int64_t C, int64_t O, int64_t k, int64_t H, int64_t W, int64_t top, int64_t left,
                    int64_t bottom, int64_t right) {
  Conv2dParams p;
  p.N = N, p.C = C, p.O = O, p.kH = p.kW = k, p.H = H, p.W = W;
  p.pT = top, p.pL = left, p.pB = bottom, p.pR = right;
  p.oH = conv_out_size(H, top, bottom, k, 1, 1), p.oW = conv_out_size(W, left, right, k, 1, 1);
  return p;
}
// Pixel (n, h, w) of images; what the copy engine gives outside.
int64_t value(int64_t n, int64_t h, int64_t w, int64_t H, int64_t W, int seed) {
  if (h < 0 || w < 0 || h >= H || w >= W) return 0;
  return ((n * H + h) * W + w) * seed % 31 - 15;
}
int64_t dy_of(const Conv2dParams& p, int64_t n, int64_t h, int64_t w) { return value(n, h, w, p.oH, p.oW, 7); }
int64_t x_of(const Conv2dParams& p, int64_t n, int64_t h, int64_t w) { return value(n, h, w, p.H, p.W, 5); }
std::vector<int64_t> weight_gradients(const Conv2dParams& p) {
  std::vector<int64_t> sums(p.kH * p.kW);
  for (int64_t n = 0; n < p.N; ++n)
    for (int64_t h = 0; h < p.oH; ++h)
      for (int64_t w = 0; w < p.oW; ++w)
        for (int64_t i = 0; i < p.kH; ++i)
          for (int64_t j = 0; j < p.kW; ++j)
            sums[i * p.kW + j] += dy_of(p, n, h, w) * x_of(p, n, h - p.pT + i, w - p.pL + j);
  return sums;
}
constexpr int64_t kUnread = int64_t{1} << 40;  // no number: what must not count

}  // namespace

TEST_CASE("cuda conv2d_bwd_weights by strips: one copy of x serves nine taps, whatever the padding and the rows") {
  for (const Conv2dParams& p : {padded(2, 64, 64, 3, 8, 8, 1, 1, 1, 1), padded(2, 64, 64, 3, 13, 21, 1, 1, 1, 1),
                                padded(2, 64, 64, 3, 9, 20, 0, 0, 0, 0), padded(2, 64, 64, 3, 56, 56, 1, 1, 1, 1),
                                padded(2, 64, 64, 3, 10, 31, 2, 0, 1, 2)}) {
    const cuda::Strips g = cuda::strips_of(p, kShared);
    REQUIRE(g.rows > 0);
    CHECK(2 * g.stage_pixels() * 128 <= kShared);
    CHECK(g.x_room() >= g.x_pixels());
    int64_t sums[3][3] = {};
    for (int t = 0; t < g.total(); ++t) {
      const auto [n, row] = cuda::strip_of(g, t);
      std::vector<int64_t> dy(g.depth()), x(g.x_room());
      for (int v = 0; v < g.y_pixels(); ++v) dy[v] = dy_of(p, n, row + v / g.pitch, v % g.pitch);
      for (int v = 0; v < g.x_pixels(); ++v) x[v] = x_of(p, n, row + g.top + v / g.pitch, g.left + v % g.pitch);
      for (int i = 0; i < 3; ++i)
        for (int j = 0; j < 3; ++j)
          for (int v = 0; v < g.depth(); ++v) sums[i][j] += dy[v] * x[v + i * g.pitch + j];
    }
    const auto wanted = weight_gradients(p);
    for (int i = 0; i < 9; ++i) CHECK(sums[i / 3][i % 3] == wanted[i]);
  }
}

TEST_CASE(
    "cuda narrow strips: taps are other places to begin at, each pixel is made once, stages belong to groups") {
  for (const auto& [C, O, K] : std::vector<std::array<int, 3>>{
           {16, 16, 2}, {16, 32, 2}, {16, 16, 3}, {16, 64, 3}, {16, 64, 4}, {32, 16, 3}, {32, 32, 3}, {32, 64, 3}})
    for (const Conv2dParams& p :
         {padded(3, C, O, K, 8, 8, 1, 1, 1, 1), padded(2, C, O, K, 13, 21, K - 1, 0, 0, K - 1),
          padded(2, C, O, K, 9, 120, 0, 0, 0, 0), padded(1, C, O, K, 4, 4, 0, 1, 0, 0),
          padded(40, C, O, K, 33, 34, 1, 1, 1, 1)}) {
      REQUIRE(cuda::narrow_taken(C, O, K));
      const cuda::NarrowShape shape = cuda::narrow_data_shape(O);
      const cuda::NarrowStrips n = cuda::narrow_data_strips(p.N, p.oH, p.oW, p.pT, p.pL, K, C, O, kShared, 4);
      const cuda::Strips& g = n.strips;
      REQUIRE(g.rows > 0);
      CHECK(n.shared <= kShared);
      CHECK(n.stages % shape.groups == 0);
      CHECK(2 * n.stages * 8 <= cuda::kNarrowBarriers);
      CHECK(g.x_pixels() * C * 2 <= n.stage);
      std::vector<int> made(p.N * p.oH * p.oW);
      int64_t wrong = 0, last = 0;
      for (int t = 0; t < g.total(); ++t) {
        const auto [image, row] = cuda::strip_of(g, t);
        for (int m = 0; m < g.y_pixels(); m += shape.products * 64)
          for (int v = m; v < m + shape.products * 64; ++v) {
            last = std::max<int64_t>(last, v + (K - 1) * (g.pitch + 1) + 1);
            int column;
            const int down = g.by_pitch.split(v, &column);
            if (down >= std::min(g.rows, g.height - row) || column >= g.width) continue;  // not stored
            ++made[(image * p.oH + row + down) * p.oW + column];
            for (int i = 0; i < K; ++i)
              for (int j = 0; j < K; ++j) {
                const int at = v + i * g.pitch + j;
                const int64_t got = at < g.x_pixels()
                                        ? x_of(p, image, row + g.top + at / g.pitch, g.left + at % g.pitch)
                                        : kUnread;
                wrong += got != x_of(p, image, row + down - p.pT + i, column - p.pL + j);
              }
          }
      }
      CHECK(wrong == 0);
      CHECK(std::all_of(made.begin(), made.end(), [](int times) { return times == 1; }));
      // What the last stage's products read ends before the barriers.
      CHECK(cuda::whole_kib(K * K * C * O * 2) + (n.stages - 1) * int64_t{n.stage} + last * C * 2 <=
            n.shared - cuda::kNarrowBarriers);
    }
  CHECK(cuda::narrow_data_strips(2, 8, 300, 1, 1, 3, 16, 16, kShared, 132).strips.rows == 0);
}

TEST_CASE("cuda narrow strips: shifts of dy over taps of x give the gradients of weights") {
  for (const auto& [C, O, K] : std::vector<std::array<int, 3>>{
           {16, 16, 2}, {16, 32, 2}, {16, 64, 2}, {16, 16, 3}, {16, 32, 3}, {16, 64, 4}, {32, 16, 3}, {32, 32, 3}})
    for (const Conv2dParams& p :
         {padded(3, C, O, K, 8, 8, 1, 1, 1, 1), padded(2, C, O, K, 13, 21, K - 1, 0, 0, K - 1),
          padded(2, C, O, K, 9, 120, 0, 0, 0, 0), padded(9, C, O, K, 30, 31, 1, 1, 1, 1)}) {
      const cuda::NarrowShape shape = cuda::narrow_weights_shape(C, O, K);
      const cuda::NarrowStrips n = cuda::narrow_weights_strips(p, kShared, 4);
      const cuda::Strips& g = n.strips;
      REQUIRE(g.rows > 0);
      CHECK(n.shared <= kShared);
      CHECK(n.stages % shape.groups == 0);
      CHECK(2 * n.stages * 8 <= cuda::kNarrowBarriers);
      CHECK(cuda::whole_kib(cuda::narrow_dy_room(g) * O * 2) + cuda::whole_kib(cuda::narrow_x_room(g) * C * 2) ==
            n.stage);
      const int shifts = cuda::narrow_shifts(O) * cuda::narrow_columns(O, K), step = cuda::kNarrowStep;
      std::vector<int64_t> sums(K * K);
      for (int t = 0; t < g.total(); ++t) {
        const auto [image, row] = cuda::strip_of(g, t);
        // As they lie in a stage, zeros around what is brought.
        std::vector<int64_t> dy(cuda::narrow_dy_room(g)), x(cuda::narrow_x_room(g));
        for (int v = 0; v < g.y_pixels(); ++v) dy.at(step + v) = dy_of(p, image, row + v / g.pitch, v % g.pitch);
        for (int v = 0; v < g.x_pixels(); ++v)
          x.at(step + v) = x_of(p, image, row + g.top + v / g.pitch, g.left + v % g.pitch);
        for (int q = -step; q < g.depth(); q += step)
          for (int i = 0; i < K; ++i)
            for (int s = 0; s < shifts; ++s)
              for (int k = 0; k < step; ++k) {
                const int64_t product =
                    dy.at(cuda::narrow_dy_pixel(q, s) + k) * x.at(cuda::narrow_x_pixel(g, q, i) + k);
                if (s < K) sums[i * K + K - 1 - s] += product;
              }
      }
      CHECK(sums == weight_gradients(p));
    }
}
