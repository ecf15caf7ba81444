// What it is: common subexpressions, needless copies and dead nodes of a traced graph.
// What it is not: algebra; numbers stay what eager gives.
#include <unordered_map>

#include "graph/ir.h"

namespace fastcnn {
namespace {

uint64_t mix(uint64_t h, uint64_t v) { return (h ^ v) * 0x9e3779b97f4a7c15ull; }

uint64_t hash_of(const Node& n) {
  uint64_t h = mix(1, static_cast<uint64_t>(n.kind));
  const auto* bytes = static_cast<const unsigned char*>(n.params.data());
  for (size_t i = 0; i < n.params.size(); ++i) h = mix(h, bytes[i]);
  for (const Value& v : n.in) {
    h = mix(mix(h, static_cast<uint64_t>(v.buffer)), static_cast<uint64_t>(v.offset));
    for (int64_t s : v.shape) h = mix(h, static_cast<uint64_t>(s));
    for (int64_t s : v.strides) h = mix(h, static_cast<uint64_t>(s));
  }
  return h;
}

bool same_work(const Node& a, const Node& b) {
  if (a.kind != b.kind || a.region != b.region || !(a.params == b.params) || a.in != b.in ||
      a.out.size() != b.out.size())
    return false;
  for (size_t i = 0; i < a.out.size(); ++i)
    if (a.out[i].dtype != b.out[i].dtype || !(a.out[i].shape == b.out[i].shape)) return false;
  return true;
}

// Results that nobody else writes, computed from values that nobody writes later than their first computation.
bool pure(const Graph& g, const Uses& uses, const Node& n) {
  for (const Value& v : n.out)
    if (g.buffers[v.buffer].kind != Buffer::Kind::temporary || !uses.single_writer(v.buffer)) return false;
  for (const Value& v : n.in) {
    bool temporary = g.buffers[v.buffer].kind == Buffer::Kind::temporary;
    if (uses.writers[v.buffer].size() > (temporary ? 1u : 0u)) return false;
  }
  return true;
}

void rename(Graph& g, const std::vector<int>& to) {
  auto follow = [&](Value& v) {
    while (v.defined() && to[v.buffer] != v.buffer) v.buffer = to[v.buffer];
  };
  for (Node& n : g.nodes)
    for (Value& v : n.in) follow(v);
  for (Value& v : g.outputs) follow(v);
}

bool is_output(const Graph& g, int buffer) {
  for (const Value& v : g.outputs)
    if (v.buffer == buffer) return true;
  return false;
}

void share_common(Graph& g) {
  Uses uses(g);
  std::vector<int> to(g.buffers.size());
  for (size_t i = 0; i < to.size(); ++i) to[i] = static_cast<int>(i);
  std::unordered_multimap<uint64_t, int> seen;
  for (int i = 0; i < static_cast<int>(g.nodes.size()); ++i) {
    Node& n = g.nodes[i];
    for (Value& v : n.in)
      while (to[v.buffer] != v.buffer) v.buffer = to[v.buffer];
    if (!pure(g, uses, n)) continue;
    // A dense copy of a value that nobody changes is the value.
    if (n.kind == OpKind::unary && n.params.as<UnaryParams>().op == Unary::copy &&
        n.in[0].dtype == n.out[0].dtype && covers_buffer(g, n.in[0]) && n.in[0].shape == n.out[0].shape &&
        !is_output(g, n.out[0].buffer) && g.buffers[n.in[0].buffer].kind == Buffer::Kind::temporary) {
      to[n.out[0].buffer] = n.in[0].buffer;
      continue;
    }
    uint64_t h = hash_of(n);
    bool shared = false;
    for (auto [it, end] = seen.equal_range(h); it != end && !shared; ++it) {
      const Node& first = g.nodes[it->second];
      if (!same_work(first, n)) continue;
      bool outputs = false;
      for (const Value& v : n.out) outputs |= is_output(g, v.buffer);
      if (outputs) continue;
      for (size_t k = 0; k < n.out.size(); ++k) to[n.out[k].buffer] = first.out[k].buffer;
      shared = true;
    }
    if (!shared) seen.emplace(h, i);
  }
  rename(g, to);
}

void remove_dead(Graph& g) {
  std::vector<char> live(g.buffers.size(), 0);
  for (const Value& v : g.outputs) live[v.buffer] = 1;
  std::vector<Node> kept;
  for (size_t i = g.nodes.size(); i-- > 0;) {
    Node& n = g.nodes[i];
    bool wanted = false;
    for (const Value& v : n.out) wanted |= live[v.buffer] || g.buffers[v.buffer].kind != Buffer::Kind::temporary;
    if (!wanted) continue;
    for (const Value& v : n.in) live[v.buffer] = 1;
    kept.push_back(std::move(n));
  }
  g.nodes.assign(std::make_move_iterator(kept.rbegin()), std::make_move_iterator(kept.rend()));
}

}  // namespace

void simplify(Graph& g) {
  remove_dead(g);
  share_common(g);
  remove_dead(g);
}

}  // namespace fastcnn
