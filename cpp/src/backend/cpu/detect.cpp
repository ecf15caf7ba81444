// What it is: the implementation lists of box_iou, nms and their kin on the CPU. Suppression sorts boxes by score,
// deals groups to threads and merges what they keep, so results do not depend on the number of threads.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "backend/cpu/accept.h"
#include "backend/cpu/checks.h"
#include "backend/cpu/lists.h"
#include "backend/cpu/ref/ref.h"
#include "backend/cpu/threads.h"
#include "backend/cpu/workspace.h"

namespace fastcnn::cpu {
namespace {

constexpr int64_t kPad = 16;  // the longest vector

BoxColumns take_columns(Carve& w, int64_t n) {
  BoxColumns b;
  for (float** p : {&b.x1, &b.y1, &b.x2, &b.y2, &b.area}) *p = w.take<float>(n + kPad);
  return b;
}

void zero(const BoxColumns& b, int64_t begin, int64_t end) {
  for (float* p : {b.x1, b.y1, b.x2, b.y2, b.area}) std::fill(p + begin, p + end, 0.0f);
}

void set(const BoxColumns& b, int64_t i, const float* box) {
  b.x1[i] = box[0], b.y1[i] = box[1], b.x2[i] = box[2], b.y2[i] = box[3];
  b.area[i] = (box[2] - box[0]) * (box[3] - box[1]);
}

BoxColumns from(const BoxColumns& b, int64_t i) { return {b.x1 + i, b.y1 + i, b.x2 + i, b.y2 + i, b.area + i}; }

// ---- box_iou ----

int64_t iou_workspace(const Call& c) {
  Carve w(nullptr);
  take_columns(w, c.as<BoxIouParams>().N), take_columns(w, c.as<BoxIouParams>().M);
  return w.used();
}

void run_box_iou(const Call& c) {
  const auto& p = c.as<BoxIouParams>();
  Carve w(c.workspace);
  BoxColumns a = take_columns(w, p.N), b = take_columns(w, p.M);
  for (int64_t i = 0; i < p.N; ++i) set(a, i, c.in[0].as<float>() + 4 * i);
  for (int64_t i = 0; i < p.M; ++i) set(b, i, c.in[1].as<float>() + 4 * i);
  zero(b, p.M, p.M + kPad);
  parallel_for(p.N, 32 * 1024 / std::max<int64_t>(1, p.M) + 1, [&](int64_t begin, int64_t end, int) {
    kernels()->box_iou_rows(a, b, p.M, c.out[0].as<float>(), begin, end);
  });
}

// ---- nms ----

struct NmsMemory {
  BoxColumns boxes;       // by group and score
  int32_t *order, *keep;  // their places in the input; first of each group, what is kept of it
  NmsMemory(Carve& w, int64_t n)
      : boxes(take_columns(w, n)), order(w.take<int32_t>(n)), keep(w.take<int32_t>(n)) {}
};

int64_t nms_workspace(const Call& c) {
  Carve w(nullptr);
  NmsMemory(w, c.as<NmsParams>().N);
  return w.used();
}

const char* nms_declines(const Call& c) {
  if (c.as<NmsParams>().N >= INT32_MAX) return "more boxes than int32 counts";
  return not_simd_float32(c);
}

// The largest float that is not above v: x > v of a float x is x > of it.
float below(double v) {
  const float f = static_cast<float>(v);
  return static_cast<double>(f) > v ? std::nextafter(f, -1.0f) : f;
}

void run_nms(const Call& c) {
  const auto& p = c.as<NmsParams>();
  Carve w(c.workspace);
  NmsMemory m(w, p.N);
  const float *boxes = c.in[0].as<float>(), *scores = c.in[1].as<float>();
  const int64_t* group = p.has_groups ? c.in[2].as<int64_t>() : nullptr;
  std::iota(m.order, m.order + p.N, 0);
  // Best first; of equal scores the first box, NaN last: an order whatever the scores.
  auto better = [&](int32_t a, int32_t b) {
    const float x = scores[a], y = scores[b];
    if (x > y || x < y) return x > y;
    if (std::isnan(x) != std::isnan(y)) return std::isnan(y);
    return a < b;
  };
  std::sort(m.order, m.order + p.N, [&](int32_t a, int32_t b) {
    return group && group[a] != group[b] ? group[a] < group[b] : better(a, b);
  });
  std::vector<int64_t> start{0};
  for (int64_t i = 0; i < p.N; ++i) {
    set(m.boxes, i, boxes + 4 * m.order[i]);
    if (group && i > 0 && group[m.order[i]] != group[m.order[i - 1]]) start.push_back(i);
  }
  start.push_back(p.N);
  const int64_t groups = static_cast<int64_t>(start.size()) - 1;
  std::vector<int64_t> counts(groups);
  const float threshold = below(p.iou_threshold);
  parallel_for(groups, 1, [&](int64_t b, int64_t e, int) {
    // The kept of a group lie in memory of this thread: vectors read past their end.
    thread_local std::vector<float> memory;
    for (int64_t g = b; g < e; ++g) {
      const int64_t first = start[g], n = start[g + 1] - first, room = std::min(n, p.limit) + kPad;
      memory.assign(5 * room, 0.0f);
      float* f = memory.data();
      const BoxColumns kept{f, f + room, f + 2 * room, f + 3 * room, f + 4 * room};
      counts[g] = kernels()->nms_greedy(from(m.boxes, first), n, threshold, p.limit, kept, m.keep + first);
      for (int64_t i = 0; i < counts[g]; ++i) m.keep[first + i] = m.order[first + m.keep[first + i]];
    }
  });
  int64_t total = 0;
  for (int64_t g = 0; g < groups; ++g)
    for (int64_t i = 0; i < counts[g]; ++i) m.keep[total++] = m.keep[start[g] + i];  // never ahead of what is read
  if (groups > 1) std::sort(m.keep, m.keep + total, better);
  total = std::min(total, p.limit);
  int64_t* out = c.out[0].as<int64_t>();
  for (int64_t i = 0; i < total; ++i) out[i] = m.keep[i];
  std::fill(out + total, out + p.limit, -1);
  *c.out[1].as<int64_t>() = total;
}

}  // namespace

List box_iou_list() {
  static const Implementation list[] = {{"simd", not_simd_float32, iou_workspace, run_box_iou},
                                        {"ref", nullptr, nullptr, ref::box_iou}};
  return list;
}

List nms_list() {
  static const Implementation list[] = {{"simd", nms_declines, nms_workspace, run_nms},
                                        {"ref", nullptr, nullptr, ref::nms}};
  return list;
}

}  // namespace fastcnn::cpu
