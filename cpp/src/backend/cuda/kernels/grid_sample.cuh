// What it is: grid_sample and its gradients over N,H,W,C: a thread per element of the result, per point for the
// gradient of points, per row of one channel for that of images: it walks the points of its image in order, so nothing
// is added atomically. What it is not: where the taps of a point lie (backend/cpu/grid_taps.h).
#pragma once
#include "backend/cpu/grid_taps.h"
#include "backend/cuda/device.cuh"

namespace fastcnn::cuda {

struct GridArgs {
  GridSampleParams p;
  int64_t taps, points;  // points of an image
  explicit GridArgs(const GridSampleParams& params)
      : p(params), taps(cpu::grid_tap_count(params.mode)), points(params.oH * params.oW) {}
};

template <class T>
FASTCNN_KERNEL grid_kernel(GridArgs a, const T* x, const T* points, T* y) {
  const GridSampleParams& p = a.p;
  const cpu::GridAxis<T> columns(p, p.W), rows(p, p.H);
  const int64_t total = p.N * a.points * p.C;
  for (int64_t i = global_thread(); i < total; i += global_threads()) {
    const int64_t c = i % p.C, point = i / p.C, n = point / a.points;
    const cpu::GridTaps<T> across(columns, points[2 * point]), down(rows, points[2 * point + 1]);
    T sum = 0;
    for (int64_t v = 0; v < a.taps; ++v)
      for (int64_t h = 0; h < a.taps; ++h)
        if (down.index[v] >= 0 && across.index[h] >= 0)
          sum += down.weight[v] * across.weight[h] *
                 x[((n * p.H + down.index[v]) * p.W + across.index[h]) * p.C + c];
    y[i] = sum;
  }
}

template <class T>
FASTCNN_KERNEL grid_points_bwd(GridArgs a, const T* dy, const T* x, const T* points, T* dpoints) {
  const GridSampleParams& p = a.p;
  const cpu::GridAxis<T> columns(p, p.W), rows(p, p.H);
  for (int64_t i = global_thread(); i < p.N * a.points; i += global_threads()) {
    const int64_t n = i / a.points;
    const cpu::GridTaps<T> across(columns, points[2 * i]), down(rows, points[2 * i + 1]);
    T by_x = 0, by_y = 0;
    for (int64_t v = 0; v < a.taps; ++v)
      for (int64_t h = 0; h < a.taps; ++h) {
        if (down.index[v] < 0 || across.index[h] < 0) continue;
        const T* pixel = x + ((n * p.H + down.index[v]) * p.W + across.index[h]) * p.C;
        T product = 0;
        for (int64_t c = 0; c < p.C; ++c) product += dy[i * p.C + c] * pixel[c];
        by_x += down.weight[v] * across.slope[h] * product, by_y += down.slope[v] * across.weight[h] * product;
      }
    dpoints[2 * i] = by_x, dpoints[2 * i + 1] = by_y;
  }
}

template <class T>
FASTCNN_KERNEL grid_image_bwd(GridArgs a, const T* dy, const T* points, T* dx) {
  const GridSampleParams& p = a.p;
  const cpu::GridAxis<T> columns(p, p.W), rows(p, p.H);
  const int64_t total = p.N * p.H * p.C;
  for (int64_t i = global_thread(); i < total; i += global_threads()) {
    const int64_t c = i % p.C, row = i / p.C % p.H, n = i / (p.C * p.H);
    T* line = dx + (n * p.H + row) * p.W * p.C + c;
    for (int64_t w = 0; w < p.W; ++w) line[w * p.C] = 0;
    for (int64_t k = n * a.points; k < (n + 1) * a.points; ++k) {
      const cpu::GridTaps<T> down(rows, points[2 * k + 1]);
      T weight = 0;  // of this row; mirrors may meet it several times
      bool met = false;
      for (int64_t v = 0; v < a.taps; ++v)
        if (down.index[v] == row) weight += down.weight[v], met = true;
      if (!met) continue;
      const cpu::GridTaps<T> across(columns, points[2 * k]);
      for (int64_t h = 0; h < a.taps; ++h)
        if (across.index[h] >= 0) line[across.index[h] * p.C] += weight * across.weight[h] * dy[k * p.C + c];
    }
  }
}

}  // namespace fastcnn::cuda
