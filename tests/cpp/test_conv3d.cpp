// Volumes: conv3d, conv_transpose3d and pooling against loops over every voxel, in float64.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "fastcnn/fastcnn.h"

using namespace fastcnn;

namespace {

using Triple = std::array<int64_t, 3>;

Tensor numbers(const Dims& shape, uint64_t seed) {
  manual_seed(seed);
  return randn(shape, DType::float64);
}

double at(const Tensor& t, std::initializer_list<int64_t> place) {
  const double* p = t.data<double>();
  int d = 0;
  for (int64_t i : place) p += i * t.strides()[d++];
  return *p;
}

double largest_difference(const Tensor& a, const Tensor& b) {
  REQUIRE(a.shape() == b.shape());
  return amax(abs(sub(a, b))).item();
}

// f(n, c, d, h, w) at every place
template <class F>
Tensor filled(const Dims& shape, const F& f) {
  Tensor y = zeros(shape, DType::float64);
  double* p = y.data<double>();
  for (int64_t n = 0; n < shape[0]; ++n)
    for (int64_t c = 0; c < shape[1]; ++c)
      for (int64_t d = 0; d < shape[2]; ++d)
        for (int64_t h = 0; h < shape[3]; ++h)
          for (int64_t w = 0; w < shape[4]; ++w) *p++ = f(n, c, d, h, w);
  return y;
}

bool inside(int64_t i, int64_t size) { return i >= 0 && i < size; }

Tensor naive_conv3d(const Tensor& x, const Tensor& w, const Tensor& b, const Conv3dOptions& o) {
  const Dims s = x.shape(), k = w.shape();
  Triple out;
  for (int i = 0; i < 3; ++i)
    out[i] = (s[2 + i] + o.pad_before[i] + o.pad_after[i] - o.dilation[i] * (k[2 + i] - 1) - 1) / o.stride[i] + 1;
  const int64_t each = k[0] / o.groups;
  return filled({s[0], k[0], out[0], out[1], out[2]}, [&](int64_t n, int64_t c, int64_t d, int64_t h, int64_t v) {
    double sum = at(b, {c});
    for (int64_t i = 0; i < k[1]; ++i)
      for (int64_t kd = 0; kd < k[2]; ++kd)
        for (int64_t kh = 0; kh < k[3]; ++kh)
          for (int64_t kw = 0; kw < k[4]; ++kw) {
            const int64_t z = d * o.stride[0] + kd * o.dilation[0] - o.pad_before[0],
                          y = h * o.stride[1] + kh * o.dilation[1] - o.pad_before[1],
                          q = v * o.stride[2] + kw * o.dilation[2] - o.pad_before[2];
            if (inside(z, s[2]) && inside(y, s[3]) && inside(q, s[4]))
              sum += at(x, {n, c / each * k[1] + i, z, y, q}) * at(w, {c, i, kd, kh, kw});
          }
    return sum;
  });
}

}  // namespace

TEST_CASE("conv3d and its transpose: every voxel, every option") {
  struct Case {
    int64_t C, O;
    Triple kernel, stride, dilation, before, after;
    int64_t groups;
  };
  for (const Case& c : {Case{3, 4, {3, 3, 3}, {1, 1, 1}, {1, 1, 1}, {1, 1, 1}, {1, 1, 1}, 1},
                        Case{4, 6, {2, 3, 1}, {2, 1, 2}, {1, 2, 1}, {0, 2, 1}, {1, 1, 0}, 2},
                        Case{40, 40, {3, 1, 2}, {1, 2, 1}, {2, 1, 1}, {2, 0, 0}, {1, 0, 1}, 2},
                        Case{5, 5, {3, 3, 3}, {2, 1, 1}, {1, 1, 1}, {1, 1, 1}, {1, 0, 1}, 5},
                        Case{3, 4, {3, 1, 1}, {2, 1, 1}, {1, 1, 1}, {1, 0, 0}, {0, 0, 0}, 1},
                        Case{3, 4, {1, 2, 2}, {3, 1, 2}, {1, 1, 1}, {0, 1, 0}, {0, 0, 1}, 1}}) {
    CAPTURE(c.C);
    CAPTURE(c.kernel[0]);
    Conv3dOptions o;
    o.stride = c.stride, o.dilation = c.dilation, o.pad_before = c.before, o.pad_after = c.after;
    o.groups = c.groups;
    const Tensor x = numbers({2, c.C, 5, 4, 6}, 1), b = numbers({c.O}, 3);
    const Tensor w = numbers({c.O, c.C / c.groups, c.kernel[0], c.kernel[1], c.kernel[2]}, 2);
    const Tensor y = conv3d(x, w, b, o);
    CHECK(largest_difference(y, naive_conv3d(x, w, b, o)) < 1e-11);
    // <conv3d(x), g> = <x, conv_transpose3d(g)>, whatever was cut off at the end.
    const Tensor g = numbers(y.shape(), 4);
    Conv3dOptions t = o;
    for (int i = 0; i < 3; ++i)
      t.output_padding[i] = x.shape()[2 + i] - ((y.shape()[2 + i] - 1) * o.stride[i] - o.pad_before[i] -
                                                o.pad_after[i] + o.dilation[i] * (c.kernel[i] - 1) + 1);
    const Tensor back = conv_transpose3d(g, w, {}, t);
    REQUIRE(back.shape() == x.shape());
    const double left = sum(mul(conv3d(x, w, {}, o), g)).item(), right = sum(mul(x, back)).item();
    CHECK(std::abs(left - right) < 1e-9);
  }
}

TEST_CASE("pooling of volumes: every window") {
  const Tensor x = numbers({2, 3, 5, 6, 7}, 5);
  Pool3dOptions o;
  o.kernel = {3, 2, 3}, o.stride = {2, 2, 1}, o.padding = {1, 0, 1};
  o.count_include_pad = false;
  const Tensor largest = max_pool3d(x, o), mean = avg_pool3d(x, o);
  auto windows = [&](bool of_mean) {
    return filled(largest.shape(), [&](int64_t n, int64_t c, int64_t d, int64_t h, int64_t w) {
      double most = -INFINITY, sum = 0, count = 0;
      for (int64_t i = 0; i < o.kernel[0]; ++i)
        for (int64_t j = 0; j < o.kernel[1]; ++j)
          for (int64_t k = 0; k < o.kernel[2]; ++k) {
            const int64_t z = d * o.stride[0] + i - o.padding[0], y = h * o.stride[1] + j - o.padding[1],
                          q = w * o.stride[2] + k - o.padding[2];
            if (!inside(z, 5) || !inside(y, 6) || !inside(q, 7)) continue;
            const double v = at(x, {n, c, z, y, q});
            most = std::max(most, v), sum += v, ++count;
          }
      return of_mean ? sum / count : most;
    });
  };
  CHECK(largest_difference(largest, windows(false)) == 0);
  CHECK(largest_difference(mean, windows(true)) < 1e-14);
  const auto [values, places] = max_pool3d_with_indices(x, o);
  CHECK(largest_difference(gather(flatten(x, 2), 2, flatten(places, 2)), flatten(values, 2)) == 0);
}

TEST_CASE("elementwise ops leave sequences and volumes in the order of their memory") {
  for (const Dims& shape : {Dims{2, 5, 3}, Dims{2, 4, 5, 6, 3}}) {
    std::vector<int> order{0, shape.size() - 1};
    for (int d = 1; d < shape.size() - 1; ++d) order.push_back(d);
    const Tensor x = permute(numbers(shape, 6), order), dense = contiguous(x);
    for (const Tensor& y : {relu(x), exp(x), add(x, x), mul(x, neg(x))}) CHECK(y.strides() == x.strides());
    CHECK(largest_difference(mul(exp(x), relu(x)), mul(exp(dense), relu(dense))) == 0);
    CHECK(add(x, dense).is_contiguous());
  }
}
