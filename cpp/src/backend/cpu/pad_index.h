// What it is: where a padded coordinate comes from, per mode; shared by the naive and the optimised pad.
#pragma once
#include "fastcnn/params.h"

namespace fastcnn::cpu {

// i: coordinate relative to the unpadded axis of n elements (may be negative or >= n). Returns the source
// coordinate, -1 where constant mode has the fill value or the axis is empty.
FASTCNN_INLINE int64_t pad_source(PadMode mode, int64_t i, int64_t n) {
  if (i >= 0 && i < n) return i;
  if (n == 0) return -1;
  switch (mode) {
    case PadMode::constant: return -1;
    case PadMode::replicate: return i < 0 ? 0 : n - 1;
    case PadMode::circular: return ((i % n) + n) % n;
    case PadMode::reflect: {
      if (n == 1) return 0;
      int64_t period = 2 * (n - 1), m = ((i % period) + period) % period;
      return m < n ? m : period - m;
    }
  }
  return -1;
}

}  // namespace fastcnn::cpu
