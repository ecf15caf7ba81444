// What it is: where a convolution leaves the moments of its result (has_moments): one set for each part of the
// pixels, merged in order at the end. What it is not: what a part is; that depends on the shape alone, and each
// adaptor knows its own.
#pragma once
#include "backend/backend.h"
#include "backend/cpu/isa.h"
#include "backend/cpu/threads.h"
#include "backend/cpu/workspace.h"

namespace fastcnn::cpu {

constexpr int kMomentThreads = 2;  // pixels are cut as for so many, however many there are

struct MomentsSpace {
  MomentsOut out;  // without addresses where there are no moments
  int64_t parts = 0, bytes = 0;
  MomentsSpace(const Conv2dParams& p, int64_t parts_, void* base) : parts(parts_) {
    if (!p.has_moments) return;
    Carve w(base);
    out.channels = p.O, out.on = 1;
    out.part = w.take<double>(parts * 2 * p.O);
    out.count = w.take<double>(parts);
    bytes = w.used();
  }
  void merge(const Call& c) const {
    if (!out.on) return;
    double* to = c.out[1].as<double>();
    parallel_for(out.channels, ceil_div(2 * 1024, parts), [&](int64_t b, int64_t e, int) {
      kernels()->merge_moments(out, parts, to, to + out.channels, b, e);
    });
  }
};

}  // namespace fastcnn::cpu
