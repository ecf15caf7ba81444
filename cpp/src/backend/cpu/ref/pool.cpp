// What it is: naive max and average pooling over N,H,W,C memory, adaptive windows included.
#include <cmath>
#include <limits>
#include <vector>

#include "backend/cpu/ref/access.h"
#include "backend/cpu/kernels/windows.h"

namespace fastcnn::cpu::ref {
namespace {

// f(n, oh, ow) for each output pixel.
template <class F>
void for_each_pixel(const Pool2dParams& p, F&& f) {
  for (int64_t n = 0; n < p.N; ++n)
    for (int64_t oh = 0; oh < p.oH; ++oh)
      for (int64_t ow = 0; ow < p.oW; ++ow) f(n, oh, ow);
}

double divisor(const Pool2dParams& p, const PoolWindow& h, const PoolWindow& w) {
  if (p.count_include_pad) return static_cast<double>(h.padded * w.padded);
  return static_cast<double>((h.end - h.begin) * (w.end - w.begin));
}

}  // namespace

void max_pool2d(const Call& c) {
  const auto& p = c.as<Pool2dParams>();
  expect_floating(c.in[0], "max_pool2d");
  Reader x(c.in[0]);
  Writer y(c.out[0]);
  int32_t* index = c.out[1].as<int32_t>();
  for_each_pixel(p, [&](int64_t n, int64_t oh, int64_t ow) {
    PoolWindow wh = pool_window(pool_rows(p), oh), ww = pool_window(pool_cols(p), ow);
    for (int64_t ch = 0; ch < p.C; ++ch) {
      // A window without any input (possible with dilation only) gives -inf and index -1.
      double best = -std::numeric_limits<double>::infinity();
      int64_t at = -1;
      for (int64_t h = wh.begin; h < wh.end; h += wh.step)
        for (int64_t w = ww.begin; w < ww.end; w += ww.step) {
          double v = x[((n * p.H + h) * p.W + w) * p.C + ch];
          if (at < 0 || v > best || std::isnan(v)) best = v, at = h * p.W + w;
        }
      int64_t o = ((n * p.oH + oh) * p.oW + ow) * p.C + ch;
      y.set(o, best);
      index[o] = static_cast<int32_t>(at);
    }
  });
}

void max_pool2d_bwd(const Call& c) {
  const auto& p = c.as<Pool2dParams>();
  expect_floating(c.in[0], "max_pool2d_bwd");
  Reader dy(c.in[0]);
  const int32_t* index = c.in[1].as<int32_t>();
  Writer dx(c.out[0]);
  std::vector<double> plane(static_cast<size_t>(p.H * p.W * p.C));
  for (int64_t n = 0; n < p.N; ++n) {
    plane.assign(plane.size(), 0);
    for (int64_t i = 0; i < p.oH * p.oW * p.C; ++i) {
      int64_t o = n * p.oH * p.oW * p.C + i;
      if (index[o] >= 0) plane[static_cast<size_t>(index[o] * p.C + i % p.C)] += dy[o];
    }
    for (int64_t i = 0; i < p.H * p.W * p.C; ++i) dx.set(n * p.H * p.W * p.C + i, plane[static_cast<size_t>(i)]);
  }
}

void max_pool2d_gather(const Call& c) {
  const auto& p = c.as<Pool2dParams>();
  expect_floating(c.in[0], "max_pool2d_gather");
  Reader g(c.in[0]);
  const int32_t* index = c.in[1].as<int32_t>();
  Writer y(c.out[0]);
  int64_t per = p.oH * p.oW * p.C;
  for (int64_t o = 0; o < p.N * per; ++o)
    y.set(o, index[o] < 0 ? 0 : g[(o / per * p.H * p.W + index[o]) * p.C + o % p.C]);
}

void avg_pool2d(const Call& c) {
  const auto& p = c.as<Pool2dParams>();
  expect_floating(c.in[0], "avg_pool2d");
  Reader x(c.in[0]);
  Writer y(c.out[0]);
  for_each_pixel(p, [&](int64_t n, int64_t oh, int64_t ow) {
    PoolWindow wh = pool_window(pool_rows(p), oh), ww = pool_window(pool_cols(p), ow);
    for (int64_t ch = 0; ch < p.C; ++ch) {
      double s = 0;
      for (int64_t h = wh.begin; h < wh.end; ++h)
        for (int64_t w = ww.begin; w < ww.end; ++w) s += x[((n * p.H + h) * p.W + w) * p.C + ch];
      bool empty = wh.begin >= wh.end || ww.begin >= ww.end;
      y.set(((n * p.oH + oh) * p.oW + ow) * p.C + ch, empty ? 0 : s / divisor(p, wh, ww));
    }
  });
}

void avg_pool2d_bwd(const Call& c) {
  const auto& p = c.as<Pool2dParams>();
  expect_floating(c.in[0], "avg_pool2d_bwd");
  Reader dy(c.in[0]);
  Writer dx(c.out[0]);
  std::vector<double> sum(static_cast<size_t>(p.N * p.H * p.W * p.C));
  for_each_pixel(p, [&](int64_t n, int64_t oh, int64_t ow) {
    PoolWindow wh = pool_window(pool_rows(p), oh), ww = pool_window(pool_cols(p), ow);
    for (int64_t h = wh.begin; h < wh.end; ++h)
      for (int64_t w = ww.begin; w < ww.end; ++w)
        for (int64_t ch = 0; ch < p.C; ++ch)
          sum[static_cast<size_t>(((n * p.H + h) * p.W + w) * p.C + ch)] +=
              dy[((n * p.oH + oh) * p.oW + ow) * p.C + ch] / divisor(p, wh, ww);
  });
  for (size_t i = 0; i < sum.size(); ++i) dx.set(static_cast<int64_t>(i), sum[i]);
}

}  // namespace fastcnn::cpu::ref
