// What it is: the gradient of the data by the transpose of Winograd's algorithm, for images much larger than the
// result of the convolution: tiles of dy to planes, and products of planes to windows of dx, which overlap and are
// added in the order of the tiles. What it is not: the products (conv2d_winograd.cpp), or the gradient as a
// convolution with mirrored weights, which transforms windows of dy around every tile of dx.
#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/winograd_pixels.h"

namespace fastcnn::cpu::FASTCNN_ISA {
namespace {

// The transpose of the data transform in one dimension: planes g to the pixels of a window.
template <class At>
FASTCNN_OP void window_of_planes(const At& g, vf* d) {
  using Set = SixPoints;
  const vf s1 = add(g(1), g(2)), s2 = add(g(3), g(4));
  const vf t1 = mul(constant(Set::kPower[1][1]), sub(g(1), g(2)));
  const vf t2 = mul(constant(Set::kPower[2][1]), sub(g(3), g(4)));
  const vf other1 = constant(Set::kPower[2][2]), other2 = constant(Set::kPower[1][2]), both = set1(2.5f);
  d[0] = g(0), d[5] = g(5);
  d[1] = fnma(other1, t1, fnma(other2, t2, g(5)));
  d[2] = fnma(both, g(0), fnma(other1, s1, fnma(other2, s2, zero())));
  d[3] = fnma(both, g(5), add(t1, t2));
  d[4] = add(g(0), add(s1, s2));
}

FASTCNN_OP void add_window(const float* m, int64_t plane, float* dx, int64_t x_h, int64_t x_w, int64_t h0,
                           int64_t w0, int64_t H, int64_t W, int n) {
  vf t[6][6];
#pragma GCC unroll 6
  for (int j = 0; j < 6; ++j) {
    vf d[6];
    window_of_planes([&](int i) __attribute__((always_inline)) { return load(m + (i * 6 + j) * plane); }, d);
#pragma GCC unroll 6
    for (int i = 0; i < 6; ++i) t[i][j] = d[i];
  }
#pragma GCC unroll 6
  for (int i = 0; i < 6; ++i) {
    vf d[6];
    window_of_planes([&](int j) __attribute__((always_inline)) { return t[i][j]; }, d);
    if (h0 + i < 0 || h0 + i >= H) continue;
    float* row = dx + (h0 + i) * x_h;
#pragma GCC unroll 6
    for (int j = 0; j < 6; ++j) {
      if (w0 + j < 0 || w0 + j >= W) continue;
      float* p = row + (w0 + j) * x_w;
      if (n == kLanes)
        store(p, add(load(p), d[j]));
      else
        storen(p, add(loadn(p, n), d[j]), n);
    }
  }
}

}  // namespace

void winograd_dy(const WinogradTask& t, int64_t begin, int64_t end) {
  if (kWholeLines && t.shared) {
    transform_gradient<float, Shared>(t, t.tile0 + begin, end - begin, t.e, t.e_plane, begin, t.tiles);
    return fence();
  }
  transform_gradient<float>(t, t.tile0 + begin, end - begin, t.e, t.e_plane, begin, t.tiles);
}

void winograd_windows_to_dx(const WinogradTask& t, const float* products, int64_t begin, int64_t end) {
  const int64_t vectors = ceil_div(t.C, kLanes), grid = t.tH * t.tW;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t v = item % vectors, image = item / vectors, c = v * kLanes;
    int64_t j = 0;
    while (winograd_vectors_before(vectors, t.blocks, j + 1) <= v) ++j;
    const WinogradBlock b(t.C, t.blocks, j);
    const int64_t plane = winograd_plane(t.tiles * b.V * kLanes);
    const float* m = products + planes_before(t.C, t.blocks, j, t.tiles * kLanes) + (v - b.v0) * kLanes;
    const int n = lanes_left(t.C, c);
    const vf first = t.bias ? loadn(t.bias + c, n) : zero();
    float* dx = t.y + (t.tile0 / grid + image) * t.x_n + c;
    for (int64_t h = 0; h < t.H; ++h)
      for (int64_t w = 0; w < t.W; ++w) storen(dx + h * t.x_h + w * t.x_w, first, n);
    for (int64_t k = 0; k < grid; ++k)
      add_window(m + (image * grid + k) * b.V * kLanes, plane, dx, t.x_h, t.x_w, k / t.tW * t.m - t.pT,
                 k % t.tW * t.m - t.pL, t.H, t.W, n);
  }
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
