// What it is: optimizer steps move up to where their gradient is born, so that gradients die young and the arena
// stays small. What it is not: a general scheduler.
#include <algorithm>

#include "graph/ir.h"

namespace fastcnn {
namespace {

bool is_optimizer_step(OpKind kind) {
  switch (kind) {
    case OpKind::sgd_step:
    case OpKind::adam_step:
    case OpKind::rmsprop_step:
    case OpKind::adagrad_step:
    case OpKind::lion_step: return true;
    default: return false;
  }
}

}  // namespace

void schedule(Graph& g) {
  const int n = static_cast<int>(g.nodes.size());
  std::vector<int> last_write(g.buffers.size(), -1), last_touch(g.buffers.size(), -1);
  std::vector<std::vector<int>> after(n + 1);  // nodes that run right after node i; index n: none (stay)
  std::vector<char> moved(n, 0);
  for (int i = 0; i < n; ++i) {
    const Node& node = g.nodes[i];
    bool optimizer = is_optimizer_step(node.kind);
    int earliest = -1;
    if (optimizer) {
      for (const Value& v : node.in) earliest = std::max(earliest, last_write[v.buffer]);
      for (const Value& v : node.out) earliest = std::max(earliest, last_touch[v.buffer]);
      if (earliest >= 0 && earliest < i - 1) {
        after[earliest].push_back(i);
        moved[i] = 1;
      }
    }
    int at = moved[i] ? earliest : i;
    for (const Value& v : node.in) last_touch[v.buffer] = std::max(last_touch[v.buffer], at);
    for (const Value& v : node.out) {
      last_touch[v.buffer] = std::max(last_touch[v.buffer], at);
      last_write[v.buffer] = std::max(last_write[v.buffer], at);
    }
  }
  std::vector<Node> order;
  order.reserve(n);
  for (int i = 0; i < n; ++i) {
    if (!moved[i]) order.push_back(std::move(g.nodes[i]));
    for (int k : after[i]) order.push_back(std::move(g.nodes[k]));
  }
  g.nodes = std::move(order);
}

}  // namespace fastcnn
