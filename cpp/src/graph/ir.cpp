// See ir.h.
#include "graph/ir.h"

#include <algorithm>

namespace fastcnn {

const char* op_name(OpKind kind) {
  static const char* const names[] = {
#define FASTCNN_OP_NAME(kind, params) #kind,
      FASTCNN_OPS(FASTCNN_OP_NAME)
#undef FASTCNN_OP_NAME
  };
  return kind < OpKind::count ? names[static_cast<int>(kind)] : "?";
}

bool covers_buffer(const Graph& g, const Value& v) {
  return v.offset == 0 &&
         v.shape.numel() * static_cast<int64_t>(dtype_size(v.dtype)) == g.buffers[v.buffer].bytes &&
         v.strides == canonical_strides(v.shape);
}

void erase_nodes(Graph& g, const std::vector<char>& gone) {
  std::vector<Node> kept;
  for (size_t i = 0; i < g.nodes.size(); ++i)
    if (!gone[i]) kept.push_back(std::move(g.nodes[i]));
  g.nodes = std::move(kept);
}

bool constant_external(const Graph& g, const Uses& uses, int buffer) {
  const Buffer& b = g.buffers[buffer];
  return b.kind == Buffer::Kind::external && uses.writers[buffer].empty() && b.storage->exports == 0;
}

Uses::Uses(const Graph& g) : readers(g.buffers.size()), writers(g.buffers.size()) {
  auto note = [](std::vector<int>& list, int node) {
    if (list.empty() || list.back() != node) list.push_back(node);
  };
  for (int n = 0; n < static_cast<int>(g.nodes.size()); ++n) {
    for (const Value& v : g.nodes[n].in)
      if (v.defined()) note(readers[v.buffer], n);
    for (const Value& v : g.nodes[n].out)
      if (v.defined()) note(writers[v.buffer], n);
  }
  int end = static_cast<int>(g.nodes.size());
  for (const Value& v : g.outputs) note(readers[v.buffer], end);
}

}  // namespace fastcnn
