// What it is: the part of a graph that depends on constants alone, taken out of the steps of a plan: casts and
// reorders of weights, folded batch norms, filled scalars. What it is not: the decision when to run it
// (prepared.h).
#include <algorithm>
#include <utility>

#include "graph/ir.h"

namespace fastcnn {

std::vector<Node> take_constant(Graph& g) {
  constexpr int64_t kSmall = 64 * 1024;
  Uses uses(g);
  std::vector<char> constant(g.buffers.size(), 0), returned(g.buffers.size(), 0);
  for (size_t b = 0; b < g.buffers.size(); ++b) constant[b] = constant_external(g, uses, static_cast<int>(b));
  for (const Value& v : g.outputs) returned[v.buffer] = 1;
  std::vector<Node> taken, kept;
  for (Node& n : g.nodes) {
    bool ok = !n.out.empty() && n.kind != OpKind::all_reduce;  // other processes wait for each run
    int64_t read = 0, made = 0;
    for (const Value& v : n.in) ok &= constant[v.buffer] != 0, read += g.buffers[v.buffer].bytes;
    for (const Value& v : n.out) {
      const Buffer& b = g.buffers[v.buffer];
      ok &= b.kind == Buffer::Kind::temporary && uses.single_writer(v.buffer) && !returned[v.buffer];
      made += b.bytes;
    }
    ok &= made <= std::max(kSmall, 2 * read);
    if (ok)
      for (const Value& v : n.out) constant[v.buffer] = 1;
    (ok ? taken : kept).push_back(std::move(n));
  }
  g.nodes = std::move(kept);
  return taken;
}

}  // namespace fastcnn
