// What it is: naive affine_sample: every output pixel by itself, sums in double.
#include <algorithm>
#include <cmath>
#include <vector>

#include "backend/cpu/ref/ref.h"
#include "backend/cpu/sample_axis.h"

namespace fastcnn::cpu::ref {
namespace {

// The hue of an RGB pixel turned by `turn` of a circle, through HSV.
void turn_hue(double* v, double turn) {
  const double top = std::max({v[0], v[1], v[2]}), chroma = top - std::min({v[0], v[1], v[2]});
  if (chroma <= 0) return;
  double h = top == v[0]   ? (v[1] - v[2]) / chroma
             : top == v[1] ? (v[2] - v[0]) / chroma + 2
                           : (v[0] - v[1]) / chroma + 4;
  h += 6 * turn;
  for (int c = 0; c < 3; ++c) {
    double k = h + 5 - 2 * c;
    k -= 6 * std::floor(k / 6);
    v[c] = top - chroma * std::clamp(std::min(k, 4 - k), 0.0, 1.0);
  }
}

template <class T>
struct Image {
  SampleTask t;
  SampleAxisTaps rows, cols;
  bool separable;

  double at(int64_t y, int64_t x, int64_t c) const {
    y = sample_index(t.p.fill, y, t.p.H), x = sample_index(t.p.fill, x, t.p.W);
    if (y < 0 || x < 0) return t.fill[c];
    return static_cast<double>(static_cast<const T*>(t.x)[(y * t.p.W + x) * t.p.C + c]);
  }

  double value(int64_t oy, int64_t ox, int64_t c) const {
    if (separable) {
      const int32_t y0 = rows.start[oy], y1 = rows.start[oy + 1], x0 = cols.start[ox], x1 = cols.start[ox + 1];
      if (y0 == y1 || x0 == x1) return t.fill[c];
      double sum = 0;
      for (int32_t i = y0; i < y1; ++i)
        for (int32_t j = x0; j < x1; ++j)
          sum += double(rows.weight[i]) * cols.weight[j] * at(rows.index[i], cols.index[j], c);
      return sum;
    }
    float sx, sy;
    sample_point(t, ox, oy, &sx, &sy);
    if (t.p.mode == Interp::nearest)
      return at(static_cast<int64_t>(std::floor(sy + 0.5f)), static_cast<int64_t>(std::floor(sx + 0.5f)), c);
    const float fx = std::floor(sx), fy = std::floor(sy);
    const auto x = static_cast<int64_t>(fx), y = static_cast<int64_t>(fy);
    float wx[4] = {0, 1 - (sx - fx), sx - fx, 0}, wy[4] = {0, 1 - (sy - fy), sy - fy, 0};
    if (t.p.mode == Interp::bicubic) cubic_weights(sx - fx, wx), cubic_weights(sy - fy, wy);
    double sum = 0;
    for (int i = 0; i < 4; ++i)
      for (int j = 0; j < 4; ++j)
        if (wy[i] != 0 && wx[j] != 0) sum += double(wy[i]) * wx[j] * at(y - 1 + i, x - 1 + j, c);
    return sum;
  }
};

// The value that is kept in the output's dtype.
double kept(double v, bool is_float) {
  return is_float ? double(static_cast<float>(v)) : std::nearbyint(std::clamp(v, 0.0, 255.0));
}

}  // namespace

void affine_sample(const Call& c) {
  const auto& p = c.as<AffineSampleParams>();
  size_t operand = 3;
  const float* field = p.has_displacement ? c.in[operand++].as<float>() : nullptr;
  const float* color = p.stages ? c.in[operand++].as<float>() : nullptr;
  const float* norm = p.has_norm ? c.in[operand].as<float>() : nullptr;
  const bool x_float = c.in[0].dtype == DType::float32, y_float = c.out[0].dtype == DType::float32;
  const int64_t C = p.C, pixels = p.oH * p.oW;
  const double top = x_float ? 1 : 255;
  std::vector<double> v(pixels * C), mean(C), before(C);
  for (int64_t n = 0; n < p.N; ++n) {
    auto sample = [&]<class T>() {
      Image<T> image;
      SampleTask& t = image.t;
      t.p = p, t.x = c.in[0].as<T>() + n * p.H * p.W * C, t.matrix = c.in[1].as<float>() + n * 9;
      t.fill = c.in[2].as<float>(), t.displacement = field ? field + n * pixels * 2 : nullptr;
      image.separable = p.antialias && !field && sample_axis_aligned(t.matrix) && p.mode != Interp::nearest;
      if (image.separable) {
        image.rows.fill(p, p.H, p.oH, t.matrix[4], t.matrix[5]);
        image.cols.fill(p, p.W, p.oW, t.matrix[0], t.matrix[2]);
      }
      for (int64_t i = 0; i < pixels * C; ++i) v[i] = image.value(i / C / p.oW, i / C % p.oW, i % C);
    };
    if (x_float)
      sample.template operator()<float>();
    else
      sample.template operator()<uint8_t>();
    for (int64_t s = 0; s < p.stages; ++s) {
      const float *A = color + (n * p.stages + s) * sample_stage_floats(C), *B = A + C * C, *shift = B + C * C;
      std::fill(mean.begin(), mean.end(), 0.0);
      if (std::any_of(B, shift, [](float b) { return b != 0; })) {
        for (int64_t i = 0; i < pixels * C; ++i) mean[i % C] += v[i] / double(pixels);
        for (double& d : v) d = kept(d, y_float);
      }
      for (int64_t i = 0; i < pixels; ++i) {
        double* d = &v[i * C];
        std::copy(d, d + C, before.begin());
        for (int64_t a = 0; a < C; ++a) {
          d[a] = shift[a];
          for (int64_t b = 0; b < C; ++b) d[a] += A[a * C + b] * before[b] + B[a * C + b] * mean[b];
          d[a] = std::clamp(d[a], 0.0, top);
        }
        if (C == 3) turn_hue(d, shift[C]);
      }
    }
    for (int64_t i = 0; i < pixels * C; ++i) {
      const double d = norm ? v[i] * norm[i % C] + norm[C + i % C] : v[i];
      if (y_float)
        c.out[0].as<float>()[n * pixels * C + i] = static_cast<float>(d);
      else
        c.out[0].as<uint8_t>()[n * pixels * C + i] = static_cast<uint8_t>(kept(d, false));
    }
  }
}

}  // namespace fastcnn::cpu::ref
