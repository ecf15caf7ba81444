// What it is: the rows of the kernel list for boxes; see kernels.h. X(name, return type, arguments…)
#pragma once
#include <stdint.h>

namespace fastcnn {

// Boxes as columns, so that a vector takes one number of many boxes; as many as whole vectors are readable, and
// what lies behind the last box is finite. area: (x2 - x1) * (y2 - y1).
struct BoxColumns {
  float *x1, *y1, *x2, *y2, *area;
};

}  // namespace fastcnn

#define FASTCNN_KERNELS_BOXES(X)                                                                                \
  /* y (rows of a, columns): work items are rows */                                                             \
  X(box_iou_rows, void, const BoxColumns& a, const BoxColumns& b, int64_t columns, float* y, int64_t begin,     \
    int64_t end)                                                                                                \
  /* Of n boxes, best first: takes each whose IoU with none taken before is above the threshold, up to `limit`; \
   */                                                                                                           \
  /* their numbers go to keep and they to `kept`, which starts as zeros. Returns how many. */                   \
  X(nms_greedy, int64_t, const BoxColumns& boxes, int64_t n, float threshold, int64_t limit,                    \
    const BoxColumns& kept, int32_t* keep)
