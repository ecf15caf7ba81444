// What it is: ops on boxes: IoU of all pairs, non-maximum suppression, features of regions and their gradient. An
// IoU is rounded step by step as on the CPU, because it is compared with a threshold. Sums have owners: a thread
// per element of the result. What it is not: where samples of regions lie (backend/cpu/roi_bins.h).
#pragma once
#include "backend/cpu/roi_bins.h"
#include "backend/cuda/device.cuh"
#include "backend/cuda/kernels/faults.cuh"

namespace fastcnn::cuda {

// Products, sums and differences that no compiler joins.
#if defined(__CUDA_ARCH__)
FASTCNN_DEVICE float mul_rounded(float a, float b) { return __fmul_rn(a, b); }
FASTCNN_DEVICE float add_rounded(float a, float b) { return __fadd_rn(a, b); }
FASTCNN_DEVICE double mul_rounded(double a, double b) { return __dmul_rn(a, b); }
FASTCNN_DEVICE double add_rounded(double a, double b) { return __dadd_rn(a, b); }
#else
template <class W>
W mul_rounded(W a, W b) {
  return a * b;
}
template <class W>
W add_rounded(W a, W b) {
  return a + b;
}
#endif

template <class W>
FASTCNN_DEVICE W box_area(const W* r) {
  return mul_rounded(r[2] - r[0], r[3] - r[1]);
}
template <class W>
FASTCNN_DEVICE W iou(const W* a, const W* b) {
  const W w = (a[2] < b[2] ? a[2] : b[2]) - (a[0] < b[0] ? b[0] : a[0]);
  const W h = (a[3] < b[3] ? a[3] : b[3]) - (a[1] < b[1] ? b[1] : a[1]);
  const W overlap = mul_rounded(w > 0 ? w : W(0), h > 0 ? h : W(0));
  return overlap / add_rounded(add_rounded(box_area(a), box_area(b)), -overlap);
}

template <class W>
FASTCNN_KERNEL iou_kernel(const W* a, const W* b, W* y, int64_t M, int64_t total) {
  follow_previous();
  for (int64_t i = global_thread(); i < total; i += global_threads()) y[i] = iou(a + i / M * 4, b + i % M * 4);
}

// ---- nms
// order[r]: the box of rank r, best score first; of equal scores the first box, NaN last.
template <class W>
FASTCNN_KERNEL nms_rank(const W* scores, int32_t* order, int64_t n) {
  follow_previous();
  for (int64_t i = global_thread(); i < n; i += global_threads()) {
    const W s = scores[i];
    int64_t rank = 0;
    for (int64_t j = 0; j < n; ++j) {
      const W o = scores[j];
      const bool nan = s != s, other_nan = o != o;
      rank += o > s || (nan && !other_nan) || (((o == s) || (nan && other_nan)) && j < i);
    }
    order[rank] = static_cast<int32_t>(i);
  }
}
// One block walks the ranks; what it keeps strikes out the rest together. alive starts as zeros: 0 alive, 1 out.
template <class W>
FASTCNN_KERNEL nms_greedy(NmsParams p, const W* boxes, const int64_t* group, const int32_t* order, uint8_t* out,
                          int64_t* kept, int64_t* count) {
  follow_previous();
  int64_t found = 0;
  for (int64_t r = 0; r < p.N && found < p.limit; ++r) {
    if (out[r]) continue;
    const int64_t i = order[r];
    if (threadIdx.x == 0) kept[found] = i;
    ++found;
    W mine[4];
    for (int k = 0; k < 4; ++k) mine[k] = boxes[i * 4 + k];
    for (int64_t q = r + 1 + threadIdx.x; q < p.N; q += blockDim.x) {
      const int64_t j = order[q];
      if (out[q] || (group && group[i] != group[j])) continue;
      if (static_cast<double>(iou(boxes + 4 * j, mine)) > p.iou_threshold) out[q] = 1;
    }
    __syncthreads();
  }
  for (int64_t k = found + threadIdx.x; k < p.limit; k += blockDim.x) kept[k] = -1;
  if (threadIdx.x == 0) *count = found;
}

// ---- roi_align
// The axes of box k and its image; -1 after noting what is wrong with it.
template <class W>
FASTCNN_DEVICE int64_t box_axes(const RoiAlignParams& p, const W* rois, int64_t k, int32_t kind,
                                ErrorRecord* errors, cpu::RoiAxis<W>* rows, cpu::RoiAxis<W>* cols) {
  const W* r = rois + 5 * k;
  bool good = r[0] >= 0 && r[0] < static_cast<W>(p.N);
  for (int i = 0; i < 5; ++i) good &= r[i] - r[i] == 0;  // finite
  good = good && cpu::roi_axis(p, r[2], r[4], p.oH, p.H, rows) && cpu::roi_axis(p, r[1], r[3], p.oW, p.W, cols);
  if (good) return static_cast<int64_t>(r[0]);
  note_fault(errors, Fault::boxes, kind, cpu::kMostRoiSamples, 0, p.N, k);
  return -1;
}

template <class T, class W>
FASTCNN_KERNEL roi_kernel(RoiAlignParams p, int32_t kind, ErrorRecord* errors, const T* x, const W* rois, T* y,
                          int64_t total) {
  follow_previous();
  using R = Real<T>;
  for (int64_t i = global_thread(); i < total; i += global_threads()) {
    const int64_t c = i % p.C, ow = i / p.C % p.oW, oh = i / (p.C * p.oW) % p.oH, k = i / (p.C * p.oW * p.oH);
    cpu::RoiAxis<W> rows, cols;
    const int64_t n = box_axes(p, rois, k, kind, errors, &rows, &cols);
    R sum = 0;
    for (int64_t a = 0; n >= 0 && a < rows.grid; ++a) {
      int64_t h, w;
      W down, right;
      if (!rows.sample(oh, a, &h, &down)) continue;
      for (int64_t b = 0; b < cols.grid; ++b) {
        if (!cols.sample(ow, b, &w, &right)) continue;
        for (int tap = 0; tap < 4; ++tap) {
          const R weight = static_cast<R>(tap / 2 ? down : 1 - down) * static_cast<R>(tap % 2 ? right : 1 - right);
          if (weight == 0) continue;  // beside the last pixel
          sum += weight * to_real(x[((n * p.H + h + tap / 2) * p.W + w + tap % 2) * p.C + c]);
        }
      }
    }
    const int64_t samples = n >= 0 ? rows.grid * cols.grid : 1;
    y[i] = from_real<T>(sum / static_cast<R>(samples > 1 ? samples : 1));
  }
}

// The bins of an axis that may touch pixel `at`: [*first, *last].
template <class W>
FASTCNN_DEVICE void bins_of(const cpu::RoiAxis<W>& a, int64_t bins, int64_t at, int64_t* first, int64_t* last) {
  *first = 0, *last = bins - 1;
  if (!(a.bin > 0)) return;
  // Samples lie within a pixel of it (the first and the last take them from beyond), with room for rounding.
  const W low = (static_cast<W>(at - 2) - a.start) / a.bin, high = (static_cast<W>(at + 2) - a.start) / a.bin;
  if (low > static_cast<W>(*first)) *first = low < static_cast<W>(bins) ? static_cast<int64_t>(low) : bins;
  if (high < static_cast<W>(*last)) *last = high < 0 ? -1 : static_cast<int64_t>(high);
}
// The sum of weights with which the samples of bin o take pixel `at`.
template <class R, class W>
FASTCNN_DEVICE R weight_in_bin(const cpu::RoiAxis<W>& a, int64_t o, int64_t at) {
  R sum = 0;
  for (int64_t i = 0; i < a.grid; ++i) {
    int64_t low;
    W part;
    if (!a.sample(o, i, &low, &part)) continue;
    if (low == at) sum += static_cast<R>(1 - part);
    if (low + 1 == at) sum += static_cast<R>(part);
  }
  return sum;
}
template <class T, class W>
FASTCNN_KERNEL roi_bwd_kernel(RoiAlignParams p, int32_t kind, ErrorRecord* errors, const T* dy, const W* rois,
                              T* dx, int64_t total) {
  follow_previous();
  using R = Real<T>;
  for (int64_t i = global_thread(); i < total; i += global_threads()) {
    const int64_t c = i % p.C, w = i / p.C % p.W, h = i / (p.C * p.W) % p.H, n = i / (p.C * p.W * p.H);
    R sum = 0;
    for (int64_t k = 0; k < p.K; ++k) {
      cpu::RoiAxis<W> rows, cols;
      if (box_axes(p, rois, k, kind, errors, &rows, &cols) != n) continue;
      int64_t top, bottom, left, right;
      bins_of(rows, p.oH, h, &top, &bottom), bins_of(cols, p.oW, w, &left, &right);
      R of_box = 0;
      for (int64_t oh = top; oh <= bottom; ++oh) {
        const R wy = weight_in_bin<R>(rows, oh, h);
        if (wy == 0) continue;
        for (int64_t ow = left; ow <= right; ++ow) {
          const R wx = weight_in_bin<R>(cols, ow, w);
          if (wx != 0) of_box += wy * wx * to_real(dy[((k * p.oH + oh) * p.oW + ow) * p.C + c]);
        }
      }
      const int64_t samples = rows.grid * cols.grid;
      sum += of_box / static_cast<R>(samples > 1 ? samples : 1);
    }
    dx[i] = from_real<T>(sum);
  }
}

}  // namespace fastcnn::cuda
