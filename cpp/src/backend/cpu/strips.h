// What it is: the cut of a task's pixels into strips of about equal size: columns, then rows, then images, as many
// as fit. What it is not: what fits; the plans of the kernels (gemm_plan.cpp, grad_plan.cpp) know that.
#pragma once
#include <algorithm>

#include "backend/cpu/kernels/kernel_args.h"

namespace fastcnn::cpu {

// The size of equal shares of n, each at most `most`.
inline int64_t even(int64_t n, int64_t most) {
  return n == 0 ? 1 : ceil_div(n, ceil_div(n, std::max<int64_t>(1, most)));
}

// Fills nb, ohb, owb of a task; fits(nb, ohb, owb) tells whether such a strip may be. Strips of part of a row are
// multiples of `word` pixels where that fits.
template <class Task, class Fits>
void cut_strips(Task& t, int64_t most, int64_t word, Fits fits) {
  t.nb = t.ohb = 1;
  t.owb = std::clamp<int64_t>(t.oW, 1, most);
  while (t.owb > 1 && !fits(1, 1, t.owb)) t.owb = ceil_div(t.owb, 2);
  t.owb = even(t.oW, t.owb);
  if (t.owb < t.oW) {
    t.owb = ceil_div(t.owb, word) * word;
    while (t.owb > 1 && !fits(1, 1, t.owb)) --t.owb;
    return;
  }
  while (t.ohb < t.oH && fits(1, t.ohb + 1, t.owb)) ++t.ohb;
  t.ohb = even(t.oH, t.ohb);
  if (t.ohb >= t.oH)
    while (t.nb < t.N && fits(t.nb + 1, t.ohb, t.owb)) ++t.nb;
  t.nb = even(t.N, t.nb);
}

template <class Task>
int64_t strip_count(const Task& t) {
  return ceil_div(t.N, t.nb) * ceil_div(t.oH, t.ohb) * ceil_div(t.oW, t.owb);
}

}  // namespace fastcnn::cpu
