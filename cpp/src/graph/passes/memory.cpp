// What it is: arena offsets from lifetimes: greedy by size, each buffer at the lowest gap that is free while it
// lives (Pisarchyk & Lee 2020). Elementwise results take over the memory of an operand that dies with them.
#include <algorithm>
#include <numeric>

#include "graph/plan.h"

namespace fastcnn {
namespace {

constexpr int64_t kAlign = 64;
int64_t aligned(int64_t b) { return (b + kAlign - 1) / kAlign * kAlign; }

struct Life {
  int first = -1, last = -1;  // node positions, inclusive
  int64_t bytes = 0;
};

bool elementwise(OpKind k) {
  return k == OpKind::unary || k == OpKind::binary || k == OpKind::activation || k == OpKind::activation_bwd ||
         k == OpKind::channel_scale;
}

}  // namespace

Layout lay_memory(const Graph& g, const std::vector<int64_t>& workspace_bytes) {
  const int nb = static_cast<int>(g.buffers.size()), nn = static_cast<int>(g.nodes.size());
  std::vector<char> returned(nb, 0);
  for (const Value& v : g.outputs) returned[v.buffer] = 1;
  std::vector<Life> life(nb + nn);
  auto touch = [&](const Value& v, int at) {
    Life& l = life[v.buffer];
    if (l.first < 0) l.first = at;
    l.last = at;
  };
  for (int i = 0; i < nn; ++i) {
    for (const Value& v : g.nodes[i].in) touch(v, i);
    for (const Value& v : g.nodes[i].out) touch(v, i);
  }
  Layout layout;
  for (int b = 0; b < nb; ++b) {
    bool placed = g.buffers[b].kind == Buffer::Kind::temporary && !returned[b] && life[b].first >= 0;
    life[b].bytes = placed ? std::max<int64_t>(aligned(g.buffers[b].bytes), kAlign) : -1;
    if (placed) layout.tensor_bytes += g.buffers[b].bytes;
  }
  for (int i = 0; i < nn; ++i) life[nb + i] = {i, i, workspace_bytes[i] > 0 ? aligned(workspace_bytes[i]) : -1};

  // Take over: the result lives in the place of the operand it replaces.
  std::vector<int> root(nb + nn);
  std::iota(root.begin(), root.end(), 0);
  auto find = [&](int b) {
    while (root[b] != b) b = root[b];
    return b;
  };
  Uses uses(g);
  for (int i = 0; i < nn; ++i) {
    const Node& n = g.nodes[i];
    if (!elementwise(n.kind)) continue;
    const Value& out = n.out[0];
    if (life[out.buffer].bytes < 0 || life[out.buffer].first != i || !covers_buffer(g, out)) continue;
    for (const Value& in : n.in) {
      if (life[in.buffer].bytes < 0 || !covers_buffer(g, in) || !(in.shape == out.shape) || in.dtype != out.dtype)
        continue;
      int r = find(in.buffer);
      if (life[r].last != i) continue;
      // Another operand may be the same memory in another order (y + y.T): it would be read after it is written.
      if (std::any_of(n.in.begin(), n.in.end(), [&](const Value& v) { return find(v.buffer) == r && v != in; }))
        continue;
      root[out.buffer] = r;
      life[r].last = std::max(life[r].last, life[out.buffer].last);
      break;
    }
  }

  std::vector<int> order;
  for (int b = 0; b < nb + nn; ++b)
    if (life[b].bytes > 0 && root[b] == b) order.push_back(b);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return life[a].bytes > life[b].bytes; });
  struct Placed {
    int64_t begin, end;
    int first, last;
  };
  std::vector<Placed> placed;  // sorted by begin
  std::vector<int64_t> offset(nb + nn, -1);
  for (int b : order) {
    int64_t at = 0;
    for (const Placed& p : placed) {
      if (p.last < life[b].first || p.first > life[b].last) continue;
      if (at + life[b].bytes <= p.begin) break;
      at = std::max(at, p.end);
    }
    offset[b] = at;
    Placed p{at, at + life[b].bytes, life[b].first, life[b].last};
    placed.insert(std::upper_bound(placed.begin(), placed.end(), p,
                                   [](const Placed& x, const Placed& y) { return x.begin < y.begin; }),
                  p);
    layout.arena_bytes = std::max(layout.arena_bytes, p.end);
  }
  layout.offset.assign(nb, -1);
  layout.workspace.assign(nn, -1);
  for (int b = 0; b < nb; ++b)
    if (life[b].bytes > 0) layout.offset[b] = offset[find(b)];
  for (int i = 0; i < nn; ++i) layout.workspace[i] = offset[nb + i];
  return layout;
}

}  // namespace fastcnn
