// What it is: intersection over union of one box with many, a vector of boxes at a time, and greedy suppression on
// it. What it is not: the order of boxes by score, groups, threads (backend/cpu/detect.cpp).
#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/simd.h"

namespace fastcnn::cpu::FASTCNN_ISA {
namespace {

struct Box {
  vf x1, y1, x2, y2, area;
};

FASTCNN_OP Box one(const BoxColumns& b, int64_t i) {
  return {set1(b.x1[i]), set1(b.y1[i]), set1(b.x2[i]), set1(b.y2[i]), set1(b.area[i])};
}

FASTCNN_OP vf iou(const Box& a, const BoxColumns& b, int64_t i) {
  vf w = vmax(zero(), sub(vmin(a.x2, load(b.x2 + i)), vmax(a.x1, load(b.x1 + i))));
  vf h = vmax(zero(), sub(vmin(a.y2, load(b.y2 + i)), vmax(a.y1, load(b.y1 + i))));
  vf overlap = mul(w, h);
  return div(overlap, sub(add(a.area, load(b.area + i)), overlap));
}

}  // namespace

void box_iou_rows(const BoxColumns& a, const BoxColumns& b, int64_t columns, float* y, int64_t begin,
                  int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    const Box box = one(a, i);
    for (int64_t j = 0; j < columns; j += kLanes) {
      const int64_t left = columns - j;
      storen(y + i * columns + j, iou(box, b, j), left < kLanes ? static_cast<int>(left) : kLanes);
    }
  }
}

int64_t nms_greedy(const BoxColumns& boxes, int64_t n, float threshold, int64_t limit, const BoxColumns& kept,
                   int32_t* keep) {
  const vf bar = set1(threshold);
  int64_t count = 0;
  for (int64_t i = 0; i < n && count < limit; ++i) {
    const Box box = one(boxes, i);
    bool hit = false;
    for (int64_t j = 0; j < count && !hit; j += kLanes) hit = any_gt(iou(box, kept, j), bar);
    if (hit) continue;
    kept.x1[count] = boxes.x1[i], kept.y1[count] = boxes.y1[i], kept.x2[count] = boxes.x2[i];
    kept.y2[count] = boxes.y2[i], kept.area[count] = boxes.area[i];
    keep[count++] = static_cast<int32_t>(i);
  }
  return count;
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
