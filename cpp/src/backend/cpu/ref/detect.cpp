// What it is: naive box_iou, nms, roi_align and its gradient: the definitions, box by box and sample by sample.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "backend/cpu/ref/access.h"
#include "backend/cpu/roi_bins.h"

namespace fastcnn::cpu::ref {
namespace {

// In the type of the boxes: whether an IoU is above a threshold depends on its rounding.
template <class W>
W iou(const W* a, const W* b) {
  auto area = [](const W* r) { return (r[2] - r[0]) * (r[3] - r[1]); };
  const W w = std::min(a[2], b[2]) - std::max(a[0], b[0]), h = std::min(a[3], b[3]) - std::max(a[1], b[1]);
  const W overlap = std::max(W(0), w) * std::max(W(0), h);
  return overlap / (area(a) + area(b) - overlap);
}

// f.template operator()<W>() for boxes of float32 or float64.
template <class F>
void by_box_type(const Operand& boxes, F&& f) {
  boxes.dtype == DType::float64 ? f.template operator()<double>() : f.template operator()<float>();
}

// f(output, input, weight) for both pixels of both axes of every sample of every bin.
template <class W, class F>
void for_each_tap(const RoiAlignParams& p, const W* rois, F&& f) {
  for (int64_t k = 0; k < p.K; ++k) {
    RoiAxis<W> rows, cols;
    const int64_t n = roi_axes(p, rois + 5 * k, k, &rows, &cols);
    const double samples = static_cast<double>(std::max<int64_t>(rows.grid * cols.grid, 1));
    const int64_t each[4] = {p.oH, p.oW, rows.grid, cols.grid};
    for_each_index(each, 4, [&](const int64_t* at) {
      int64_t h, w;
      W y, x;
      if (!rows.sample(at[0], at[2], &h, &y) || !cols.sample(at[1], at[3], &w, &x)) return;
      for (int64_t tap = 0; tap < 4; ++tap) {
        const int64_t down = tap / 2, right = tap % 2;
        const double weight = double(down ? y : 1 - y) * double(right ? x : 1 - x) / samples;
        if (weight == 0) continue;  // beside the last pixel
        const int64_t out = (k * p.oH + at[0]) * p.oW + at[1], in = (n * p.H + h + down) * p.W + w + right;
        for (int64_t c = 0; c < p.C; ++c) f(out * p.C + c, in * p.C + c, weight);
      }
    });
  }
}

template <class F>
void for_each_tap(const RoiAlignParams& p, const Operand& rois, F&& f) {
  by_box_type(rois, [&]<class W>() { for_each_tap(p, rois.as<W>(), f); });
}

}  // namespace

void box_iou(const Call& c) {
  const auto& p = c.as<BoxIouParams>();
  by_box_type(c.in[0], [&]<class W>() {
    for (int64_t i = 0; i < p.N; ++i)
      for (int64_t j = 0; j < p.M; ++j)
        c.out[0].as<W>()[i * p.M + j] = iou(c.in[0].as<W>() + 4 * i, c.in[1].as<W>() + 4 * j);
  });
}

void nms(const Call& c) {
  const auto& p = c.as<NmsParams>();
  Reader scores(c.in[1]);
  const int64_t* group = p.has_groups ? c.in[2].as<int64_t>() : nullptr;
  std::vector<int64_t> order(p.N), keep;
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return scores[a] > scores[b] || (std::isnan(scores[b]) && !std::isnan(scores[a]));
  });
  by_box_type(c.in[0], [&]<class W>() {
    const W* boxes = c.in[0].as<W>();
    for (int64_t i : order) {
      if (static_cast<int64_t>(keep.size()) == p.limit) break;
      bool hit = false;
      for (int64_t k : keep)
        hit |= (!group || group[i] == group[k]) &&
               static_cast<double>(iou(boxes + 4 * i, boxes + 4 * k)) > p.iou_threshold;
      if (!hit) keep.push_back(i);
    }
  });
  int64_t* out = c.out[0].as<int64_t>();
  std::fill(std::copy(keep.begin(), keep.end(), out), out + p.limit, -1);
  *c.out[1].as<int64_t>() = static_cast<int64_t>(keep.size());
}

void roi_align(const Call& c) {
  const auto& p = c.as<RoiAlignParams>();
  Reader x(c.in[0]);
  std::vector<double> sums(p.K * p.oH * p.oW * p.C, 0.0);
  for_each_tap(p, c.in[1], [&](int64_t out, int64_t in, double weight) { sums[out] += weight * x[in]; });
  for (size_t i = 0; i < sums.size(); ++i) Writer(c.out[0]).set(i, sums[i]);
}

void roi_align_bwd(const Call& c) {
  const auto& p = c.as<RoiAlignParams>();
  Reader dy(c.in[0]);
  std::vector<double> sums(p.N * p.H * p.W * p.C, 0.0);
  for_each_tap(p, c.in[1], [&](int64_t out, int64_t in, double weight) { sums[in] += weight * dy[out]; });
  for (size_t i = 0; i < sums.size(); ++i) Writer(c.out[0]).set(i, sums[i]);
}

}  // namespace fastcnn::cpu::ref
