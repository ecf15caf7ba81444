// What it is: which file holds the ordered implementation list of each op kind on the CPU. One line per op.
// What it is not: the lists themselves (conv2d.cpp, matmul.cpp, norm.cpp, …) or the choice for a node
// (graph/select.h).
#pragma once
#include <span>

#include "backend/backend.h"
#include "graph/op_kinds.h"

namespace fastcnn::cpu {

using List = std::span<const Implementation>;

#define FASTCNN_CPU_LIST(kind, params) List kind##_list();
FASTCNN_OPS(FASTCNN_CPU_LIST)
#undef FASTCNN_CPU_LIST

// For adaptors that hand on what they have made of a call: the first but the reference that takes it, or null.
inline const Implementation* first_taker(List list, const Call& c) {
  for (const Implementation& i : list.first(list.size() - 1))
    if (!i.declines || !i.declines(c)) return &i;
  return nullptr;
}

}  // namespace fastcnn::cpu
