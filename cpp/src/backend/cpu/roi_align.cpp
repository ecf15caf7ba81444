// What it is: the implementation lists of roi_align and its gradient on the CPU. A bin is a weighted sum of
// pixels, the gradient of a pixel a weighted sum of bins: both run on combine_pixels, each output owned by one
// thread.
#include <algorithm>
#include <vector>

#include "backend/cpu/accept.h"
#include "backend/cpu/lists.h"
#include "backend/cpu/ref/ref.h"
#include "backend/cpu/roi_bins.h"
#include "backend/cpu/threads.h"

namespace fastcnn::cpu {
namespace {

// Weights of one axis: bin o takes pixels index[start[o]...], each once.
struct AxisTaps {
  std::vector<int64_t> start, index;
  std::vector<float> weight;
  void fill(const RoiAxis<float>& a, int64_t bins) {
    start.assign(1, 0), index.clear(), weight.clear();
    const float share = 1 / static_cast<float>(std::max<int64_t>(a.grid, 1));
    auto add = [&](int64_t pixel, float w) {
      if (w == 0) return;
      for (size_t t = index.size(); t-- > static_cast<size_t>(start.back());)
        if (index[t] == pixel) {
          weight[t] += w;
          return;
        }
      index.push_back(pixel), weight.push_back(w);
    };
    for (int64_t o = 0; o < bins; ++o) {
      for (int64_t i = 0; i < a.grid; ++i) {
        int64_t low;
        float part;
        if (!a.sample(o, i, &low, &part)) continue;
        add(low, (1 - part) * share), add(low + 1, part * share);
      }
      start.push_back(static_cast<int64_t>(index.size()));
    }
  }
};

// Memory of the thread that runs a box, reused by the next.
struct RoiTaps {
  AxisTaps rows, cols;
  std::vector<int64_t> start, index;  // pixels of an image by bin
  std::vector<float> weight;

  // Returns the image of box k.
  int64_t fill(const RoiAlignParams& p, const float* rois, int64_t k) {
    RoiAxis<float> row_axis, col_axis;
    const int64_t n = roi_axes(p, rois + 5 * k, k, &row_axis, &col_axis);
    rows.fill(row_axis, p.oH), cols.fill(col_axis, p.oW);
    start.assign(1, 0), index.clear(), weight.clear();
    for (int64_t oh = 0; oh < p.oH; ++oh)
      for (int64_t ow = 0; ow < p.oW; ++ow) {
        for (int64_t i = rows.start[oh]; i < rows.start[oh + 1]; ++i)
          for (int64_t j = cols.start[ow]; j < cols.start[ow + 1]; ++j) {
            index.push_back(rows.index[i] * p.W + cols.index[j]);
            weight.push_back(rows.weight[i] * cols.weight[j]);
          }
        start.push_back(static_cast<int64_t>(index.size()));
      }
    return n;
  }
};
RoiTaps& roi_taps() {
  thread_local RoiTaps taps;
  return taps;
}

void check_boxes(const RoiAlignParams& p, const float* rois) {  // before threads, which must not throw
  RoiAxis<float> rows, cols;
  for (int64_t k = 0; k < p.K; ++k) roi_axes(p, rois + 5 * k, k, &rows, &cols);
}

void forward(const Call& c) {
  const auto& p = c.as<RoiAlignParams>();
  const float *x = c.in[0].as<float>(), *rois = c.in[1].as<float>();
  const int64_t bins = p.oH * p.oW;
  check_boxes(p, rois);
  parallel_for(p.K, 16 * 1024 / (bins * p.C + 1) + 1, [&](int64_t begin, int64_t end, int) {
    RoiTaps& t = roi_taps();
    for (int64_t k = begin; k < end; ++k) {
      const int64_t n = t.fill(p, rois, k);
      kernels()->combine_pixels(x + n * p.H * p.W * p.C, t.start.data(), t.index.data(), t.weight.data(), bins,
                                p.C, c.out[0].as<float>() + k * bins * p.C);
    }
  });
}

// Taps by pixel of x instead of by bin.
void backward(const Call& c) {
  const auto& p = c.as<RoiAlignParams>();
  const float* rois = c.in[1].as<float>();
  const int64_t bins = p.oH * p.oW, pixels = p.N * p.H * p.W;
  check_boxes(p, rois);
  RoiTaps& t = roi_taps();
  std::vector<int64_t> start(pixels + 1, 0), pixel, bin;
  std::vector<float> weight;
  for (int64_t k = 0; k < p.K; ++k) {
    const int64_t first = t.fill(p, rois, k) * p.H * p.W;
    for (int64_t b = 0; b < bins; ++b)
      for (int64_t i = t.start[b]; i < t.start[b + 1]; ++i) {
        pixel.push_back(first + t.index[i]), bin.push_back(k * bins + b), weight.push_back(t.weight[i]);
        ++start[first + t.index[i] + 1];
      }
  }
  for (int64_t i = 0; i < pixels; ++i) start[i + 1] += start[i];
  std::vector<int64_t> at(start.begin(), start.end() - 1), sorted(pixel.size());
  std::vector<float> sorted_weight(pixel.size());
  for (size_t i = 0; i < pixel.size(); ++i) {
    const int64_t slot = at[pixel[i]]++;
    sorted[slot] = bin[i], sorted_weight[slot] = weight[i];
  }
  parallel_for(pixels, 16 * 1024 / (p.C + 1) + 1, [&](int64_t begin, int64_t end, int) {
    kernels()->combine_pixels(c.in[0].as<float>(), start.data() + begin, sorted.data(), sorted_weight.data(),
                              end - begin, p.C, c.out[0].as<float>() + begin * p.C);
  });
}

}  // namespace

List roi_align_list() {
  static const Implementation list[] = {{"simd", not_simd_float32, nullptr, forward},
                                        {"ref", nullptr, nullptr, ref::roi_align}};
  return list;
}

List roi_align_bwd_list() {
  static const Implementation list[] = {{"simd", not_simd_float32, nullptr, backward},
                                        {"ref", nullptr, nullptr, ref::roi_align_bwd}};
  return list;
}

}  // namespace fastcnn::cpu
