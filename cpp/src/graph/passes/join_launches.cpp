// What it is: small work that is spread over a step, but whose kernel takes many calls as one
// (Implementation::joins), moves together: what reads parameters and states alone (casts, counters) up to the
// first of its kind, updates of states (running statistics) down to the last. What it is not: for CPUs, where a
// call costs nothing and data is best used while it is near.
#include <algorithm>

#include "graph/ir.h"
#include "graph/select.h"

namespace fastcnn {
namespace {

constexpr int64_t kKeptAlive = 64 << 10;  // bytes of a temporary that may wait for an update further down

class Joiner {
 public:
  explicit Joiner(Graph& g) : g_(g) {}

  void run() {
    gather(/*up=*/false);
    gather(/*up=*/true);
  }

 private:
  struct Work {
    std::vector<Operand> in, out;
    Call call;
    const Implementation* kernel = nullptr;
    explicit Work(const Node& n) {
      for (const Value& v : n.in) in.push_back(operand_shape(v));
      for (const Value& v : n.out) out.push_back(operand_shape(v));
      call = {n.kind, n.params.data(), in, out};
    }
    bool joins(const Work& other) const {
      return kernel == other.kernel && call.kind == other.call.kind && kernel->joins(call, other.call);
    }
  };
  struct Group {
    int anchor;  // where it stands
    Work first;
  };

  bool lasts(const Value& v) const { return g_.buffers[v.buffer].kind != Buffer::Kind::temporary; }
  bool goes_up(const Node& n) const {
    return std::all_of(n.in.begin(), n.in.end(), [&](const Value& v) { return lasts(v); });
  }
  bool goes_down(const Node& n) const {
    return std::all_of(n.out.begin(), n.out.end(), [&](const Value& v) { return lasts(v); }) &&
           std::all_of(n.in.begin(), n.in.end(),
                       [&](const Value& v) { return lasts(v) || g_.buffers[v.buffer].bytes <= kKeptAlive; });
  }

  // Nodes are met in the order of the move's far end: a node joins a group that stands between it and the nearest
  // node that reads what it writes or writes what it touches. Those that stay apart keep their order, for a node
  // that moves never passes one that it depends on, nor do two of a group depend on each other.
  void gather(bool up) {
    const int n = static_cast<int>(g_.nodes.size()), none = up ? -1 : n;
    std::vector<int> last_write(g_.buffers.size(), none), last_touch(g_.buffers.size(), none);
    std::vector<Group> groups;
    std::vector<std::vector<int>> with(n);  // nodes that moved to node i
    std::vector<char> moved(n, 0);
    for (int k = 0; k < n; ++k) {
      const int i = up ? k : n - 1 - k;
      const Node& node = g_.nodes[i];
      if (up ? goes_up(node) : goes_down(node) && !goes_up(node)) {
        int bound = none;
        auto not_past = [&](int at) { bound = up ? std::max(bound, at) : std::min(bound, at); };
        for (const Value& v : node.in) not_past(last_write[v.buffer]);
        for (const Value& v : node.out) not_past(last_touch[v.buffer]);
        moved[i] = place(i, bound, up, groups, with);
      }
      for (const Value& v : node.in) last_touch[v.buffer] = i;
      for (const Value& v : node.out) last_touch[v.buffer] = last_write[v.buffer] = i;
    }
    std::vector<Node> order;
    order.reserve(n);
    for (int i = 0; i < n; ++i) {
      if (moved[i]) continue;
      if (!up)
        for (size_t k = with[i].size(); k-- > 0;) order.push_back(std::move(g_.nodes[with[i][k]]));
      order.push_back(std::move(g_.nodes[i]));
      if (up)
        for (int k : with[i]) order.push_back(std::move(g_.nodes[k]));
    }
    g_.nodes = std::move(order);
  }

  bool place(int i, int bound, bool up, std::vector<Group>& groups, std::vector<std::vector<int>>& with) const {
    const Implementation* kernel = kernel_of(g_.nodes[i], g_.device);
    if (!kernel || !kernel->joins) return false;
    Work work(g_.nodes[i]);
    work.kernel = kernel;
    for (const Group& group : groups) {
      if ((up ? group.anchor <= bound : group.anchor >= bound) || !group.first.joins(work)) continue;
      with[group.anchor].push_back(i);
      return true;
    }
    if (work.joins(work)) groups.push_back({i, std::move(work)});
    return false;
  }

  Graph& g_;
};

}  // namespace

void join_launches(Graph& g) { Joiner(g).run(); }

}  // namespace fastcnn
