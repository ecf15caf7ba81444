// What it is: a batch norm applied on load by adaptors whose kernels read rows: strips of them are normalised to a
// thread's scratch and read there. What it is not: for kernels that normalise what they read themselves (NormIn).
#pragma once
#include <algorithm>
#include <cstdint>

#include "backend/cpu/conv2d_tasks.h"
#include "backend/cpu/norm_plan.h"
#include "backend/cpu/row_strips.h"

namespace fastcnn::cpu {

constexpr int64_t kRowsFloats = 64 * 1024;  // a quarter of L2

// Rows of outputs in a strip.
template <class Task>
int64_t strip_rows(const Task& t) {
  int64_t rows = 1;
  while (rows < t.oH && rows_read(t, rows + 1) * t.x_h <= kRowsFloats) ++rows;
  return ceil_div(t.oH, ceil_div(t.oH, rows));
}
template <class Task>
const char* norm_declines(const Task& t) {
  return t.norm.on && rows_read(t, 1) * t.x_h > 2 * kRowsFloats ? "input norm of long rows" : nullptr;
}

class InputNorm {
 public:
  static int64_t floats(int64_t C) { return 3 * aligned(norm_shape(1, 1, C).period); }
  // Tables of the period of norm_apply in `space`; nothing to do where `n` is off.
  InputNorm(const NormIn& n, int64_t C, float* space) : args_{} {
    if (!n.on) return;
    NormShape& s = args_.s = norm_shape(1, 1, C);
    const float* from[] = {n.mean, n.scale, n.shift};
    const float** to[] = {&args_.mean, &args_.scale, &args_.shift};
    for (int i = 0; i < 3; ++i, space += aligned(s.period)) {
      std::copy_n(from[i], C, space);
      tile(s, space);
      *to[i] = space;
    }
    args_.act.act = n.act;
  }
  // The task on rows [from, to) of outputs (n, oh) of one image, which read normalised rows in `held`.
  template <class Task>
  Task on_strip(const Task& t, int64_t from, int64_t to, HeldRows<float>& held) const {
    held.hold_for(t, from, to, [&](int64_t n, int64_t begin, int64_t end, float* dst) {
      NormApplyArgs a = args_;
      a.s.rows = a.s.chunk_rows = (end - begin) * t.W;
      a.x = t.x + n * t.x_n + begin * t.x_h, a.y = dst;
      kernels()->norm_apply(&a, 0, 1);
    });
    Task q = t;
    q.x = held.scratch - held.n * t.x_n - held.h0 * t.x_h;
    q.norm.fetch = floats_between(q.x, t.x) + (to - from) * t.sH * t.x_h;
    return q;
  }

 private:
  NormApplyArgs args_;
};

}  // namespace fastcnn::cpu
