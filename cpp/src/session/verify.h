// What it is: the contract of op_kinds.h as a check of one node from a file: operands, dtypes and shapes must be
// what the params say, and sizes within the bounds that op functions set, so that kernels, which check nothing,
// stay inside memory. What it is not: for nodes of traces, which op functions checked.
#pragma once
#include <vector>

#include "graph/emit.h"

namespace fastcnn {

bool takes_strided(OpKind kind);  // operands may be any views; others are to be dense
bool works_in_place(OpKind kind);
// ValueError naming the op, what was expected and what is there. `out` may be new or memory that exists.
void verify_node(OpKind kind, const Params& params, const std::vector<Tensor>& in,
                 const std::vector<OutSpec>& out);

}  // namespace fastcnn
