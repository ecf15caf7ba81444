// What it is: which file holds the ordered implementation list of each op kind on the CPU. One line per op.
// What it is not: the lists themselves (conv2d.cpp, matmul.cpp, norm.cpp, …) or any choice.
#pragma once
#include <span>

#include "backend/backend.h"
#include "graph/op_kinds.h"

namespace fastcnn::cpu {

using List = std::span<const Implementation>;

#define FASTCNN_CPU_LIST(kind, params) List kind##_list();
FASTCNN_OPS(FASTCNN_CPU_LIST)
#undef FASTCNN_CPU_LIST

}  // namespace fastcnn::cpu
