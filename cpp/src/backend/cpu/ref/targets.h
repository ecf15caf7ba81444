// What it is: the check of class ids that every cross_entropy implementation makes before its kernel reads them.
#pragma once
#include <stdexcept>
#include <string>

#include "backend/backend.h"

namespace fastcnn::cpu {

inline void check_targets(const CrossEntropyParams& p, const int64_t* target) {
  for (int64_t i = 0; i < p.rows; ++i)
    if ((target[i] < 0 || target[i] >= p.C) && target[i] != p.ignore_index)
      throw std::out_of_range("cross_entropy: expected class ids in [0, " + std::to_string(p.C) +
                              ") or ignore_index, got " + std::to_string(target[i]) + " at position " +
                              std::to_string(i));
}

}  // namespace fastcnn::cpu
