// What it is: affine_sample: a thread per pixel of the result takes its pixels of x; colour stages, which need
// means of whole images, follow with a block per image. The rules of where points lie are the CPU's
// (sample_args.h, sample_axis.h). What it is not: interpolate of whole images with gradients (interpolate.cuh).
#pragma once
#include "backend/cpu/sample_axis.h"
#include "backend/cuda/device.cuh"

namespace fastcnn::cuda {

struct SampleArgs {
  AffineSampleParams p;
  int32_t x_float = 0, y_float = 0;
  const void* x = nullptr;
  const float *matrix = nullptr, *fill = nullptr, *displacement = nullptr, *color = nullptr, *norm = nullptr;
  void* y = nullptr;
};

// Channel c of a pixel of image n, inside x or not.
FASTCNN_DEVICE float sample_pixel(const SampleArgs& a, int64_t n, int64_t row, int64_t column, int64_t c) {
  const int64_t i = cpu::sample_index(a.p.fill, row, a.p.H), j = cpu::sample_index(a.p.fill, column, a.p.W);
  if (i < 0 || j < 0) return a.fill[c];
  const int64_t at = ((n * a.p.H + i) * a.p.W + j) * a.p.C + c;
  return a.x_float ? static_cast<const float*>(a.x)[at] : static_cast<float>(static_cast<const uint8_t*>(a.x)[at]);
}

// The value as the result's dtype keeps it.
FASTCNN_DEVICE float sample_kept(float v, bool is_float) {
  if (is_float) return v;
  return rintf(v > 0 ? (v < 255 ? v : 255.0f) : 0.0f);
}
FASTCNN_DEVICE void sample_store(const SampleArgs& a, int64_t at, int64_t c, float v) {
  if (a.norm) v = v * a.norm[c] + a.norm[a.p.C + c];
  if (a.y_float)
    static_cast<float*>(a.y)[at] = v;
  else
    static_cast<uint8_t*>(a.y)[at] = static_cast<uint8_t>(sample_kept(v, false));
}

// Matrices that only scale and move, with antialias: as many pixels as an output pixel covers.
FASTCNN_DEVICE float sample_covered(const SampleArgs& a, int64_t n, const cpu::SampleAxisPoint& rows,
                                    const cpu::SampleAxisPoint& columns, float total, int64_t c) {
  if (total == 0) return a.fill[c];
  float sum = 0;
  for (int64_t i = rows.first; i <= rows.last; ++i) {
    const float wy = cpu::sample_axis_weight(a.p, a.p.H, rows, i);
    if (wy == 0) continue;
    float line = 0;
    for (int64_t j = columns.first; j <= columns.last; ++j) {
      const float wx = cpu::sample_axis_weight(a.p, a.p.W, columns, j);
      if (wx != 0) line += wx * sample_pixel(a, n, i, j, c);
    }
    sum += wy * line;
  }
  return sum / total;
}
FASTCNN_DEVICE float sample_axis_total(const SampleArgs& a, int64_t in, const cpu::SampleAxisPoint& s) {
  float total = 0;
  for (int64_t i = s.first; i <= s.last; ++i) total += cpu::sample_axis_weight(a.p, in, s, i);
  return total;
}

// values: where colour stages follow, (N, oH, oW, C); else null.
FASTCNN_KERNEL sample_kernel(SampleArgs a, float* values, int64_t pixels) {
  follow_previous();
  const int64_t C = a.p.C;
  for (int64_t i = global_thread(); i < pixels; i += global_threads()) {
    const int64_t each = a.p.oH * a.p.oW, n = i / each, oy = i % each / a.p.oW, ox = i % a.p.oW;
    cpu::SampleTask t;
    t.p = a.p, t.matrix = a.matrix + n * 9;
    t.displacement = a.displacement ? a.displacement + n * each * 2 : nullptr;
    auto put = [&](int64_t c, float v) {
      if (values)
        values[i * C + c] = v;
      else
        sample_store(a, i * C + c, c, v);
    };
    if (a.p.antialias && !t.displacement && cpu::sample_axis_aligned(t.matrix) && a.p.mode != Interp::nearest) {
      const auto rows = cpu::sample_axis_point(a.p, a.p.H, t.matrix[4], t.matrix[5], oy);
      const auto columns = cpu::sample_axis_point(a.p, a.p.W, t.matrix[0], t.matrix[2], ox);
      const float total = sample_axis_total(a, a.p.H, rows) * sample_axis_total(a, a.p.W, columns);
      for (int64_t c = 0; c < C; ++c) put(c, sample_covered(a, n, rows, columns, total, c));
      continue;
    }
    float sx, sy;
    cpu::sample_point(t, ox, oy, &sx, &sy);
    if (a.p.mode == Interp::nearest) {
      const auto y = static_cast<int64_t>(floorf(sy + 0.5f)), x = static_cast<int64_t>(floorf(sx + 0.5f));
      for (int64_t c = 0; c < C; ++c) put(c, sample_pixel(a, n, y, x, c));
      continue;
    }
    const float fx = floorf(sx), fy = floorf(sy);
    const auto x = static_cast<int64_t>(fx), y = static_cast<int64_t>(fy);
    float wx[4] = {0, 1 - (sx - fx), sx - fx, 0}, wy[4] = {0, 1 - (sy - fy), sy - fy, 0};
    if (a.p.mode == Interp::bicubic) cpu::cubic_weights(sx - fx, wx), cpu::cubic_weights(sy - fy, wy);
    for (int64_t c = 0; c < C; ++c) {
      float sum = 0;
      for (int k = 0; k < 4; ++k) {
        if (wy[k] == 0) continue;
        float line = 0;
        for (int j = 0; j < 4; ++j)
          if (wx[j] != 0) line += wx[j] * sample_pixel(a, n, y - 1 + k, x - 1 + j, c);
        sum += wy[k] * line;
      }
      put(c, sum);
    }
  }
}

// The hue of an RGB pixel turned by `turn` of a circle, through HSV.
FASTCNN_DEVICE void turn_hue(float* v, float turn) {
  const float top = fmaxf(v[0], fmaxf(v[1], v[2])), chroma = top - fminf(v[0], fminf(v[1], v[2]));
  if (!(chroma > 0)) return;
  float h = top == v[0]   ? (v[1] - v[2]) / chroma
            : top == v[1] ? (v[2] - v[0]) / chroma + 2
                          : (v[0] - v[1]) / chroma + 4;
  h += 6 * turn;
  for (int c = 0; c < 3; ++c) {
    float k = h + static_cast<float>(5 - 2 * c);
    k -= 6 * floorf(k / 6);
    v[c] = top - chroma * fminf(fmaxf(fminf(k, 4 - k), 0.0f), 1.0f);
  }
}

// All colour stages of image blockIdx.x. values, next: (N, oH, oW, C), of which `values` holds the image; means:
// (N, C). Shared: a float per warp.
FASTCNN_KERNEL color_kernel(SampleArgs a, float* values, float* next, float* means) {
  follow_previous();
  const int64_t C = a.p.C, n = blockIdx.x, pixels = a.p.oH * a.p.oW, floats = sample_stage_floats(C);
  auto* scratch = shared_memory<Sums<float, 1>>();
  values += n * pixels * C, next += n * pixels * C, means += n * C;
  const float top = a.x_float ? 1.0f : 255.0f;
  for (int64_t s = 0; s < a.p.stages; ++s) {
    const float *A = a.color + (n * a.p.stages + s) * floats, *B = A + C * C, *shift = B + C * C;
    bool with_means = false;
    for (int64_t k = 0; k < C * C; ++k) with_means |= B[k] != 0;
    for (int64_t c = 0; with_means && c < C; ++c) {
      Sums<float, 1> sum{};
      for (int64_t i = threadIdx.x; i < pixels; i += blockDim.x) sum.v[0] += values[i * C + c];
      sum = block_sum(sum, scratch);
      if (threadIdx.x == 0) means[c] = sum.v[0] / static_cast<float>(pixels);
    }
    __syncthreads();
    for (int64_t i = threadIdx.x; i < pixels; i += blockDim.x) {
      const float* from = values + i * C;
      float* to = next + i * C;
      for (int64_t c = 0; c < C; ++c) {
        float v = shift[c];
        for (int64_t b = 0; b < C; ++b) {
          v += A[c * C + b] * (with_means ? sample_kept(from[b], a.y_float) : from[b]);
          if (with_means) v += B[c * C + b] * means[b];
        }
        to[c] = v < 0 ? 0.0f : v > top ? top : v;
      }
      if (C == 3) turn_hue(to, shift[C]);
    }
    float* other = values;
    values = next, next = other;
  }
  for (int64_t i = threadIdx.x; i < pixels; i += blockDim.x)
    for (int64_t c = 0; c < C; ++c) sample_store(a, (n * pixels + i) * C + c, c, values[i * C + c]);
}

}  // namespace fastcnn::cuda
