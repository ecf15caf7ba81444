// What it is: a depthwise convolution whose result only a 1x1 convolution reads becomes one step with it, and with
// the 1x1 convolution before it, where the backend has a kernel for that: what lies between is never stored. What
// it is not: a change of numbers, or of training, where backward passes read what lies between.
#include "graph/ir.h"
#include "graph/select.h"

namespace fastcnn {
namespace {

class Joiner {
 public:
  explicit Joiner(Graph& g) : g_(g), uses_(g), gone_(g.nodes.size(), 0) {}

  void run() {
    for (int i = 0; i < static_cast<int>(g_.nodes.size()); ++i)
      if (depthwise(g_.nodes[i])) join(i);
    erase_nodes(g_, gone_);
  }

 private:
  Graph& g_;
  Uses uses_;
  std::vector<char> gone_;

  static bool depthwise(const Node& n) {
    if (n.kind != OpKind::conv2d) return false;
    const auto& p = n.params.as<Conv2dParams>();
    return p.groups > 1 && p.groups == p.C && p.groups == p.O && !p.has_norm_in && !p.has_residual;
  }
  static bool pointwise(const Node& n) {
    if (n.kind != OpKind::conv2d) return false;
    const auto& p = n.params.as<Conv2dParams>();
    return p.groups == 1 && p.kH * p.kW == 1 && p.sH * p.sW == 1 && (p.pT | p.pB | p.pL | p.pR) == 0 &&
           !p.has_norm_in;
  }

  // Node i alone writes its result, and node r alone reads it, as its image.
  bool only_between(int i, int r) const {
    const Value& v = g_.nodes[i].out[0];
    const auto& readers = uses_.readers[v.buffer];
    if (g_.buffers[v.buffer].kind != Buffer::Kind::temporary || !uses_.single_writer(v.buffer) ||
        readers.size() != 1 || readers[0] != r || g_.nodes[i].region != g_.nodes[r].region)
      return false;
    int count = 0;
    for (const Value& in : g_.nodes[r].in) count += in.buffer == v.buffer;
    return count == 1 && g_.nodes[r].in[0] == v;
  }
  // Do the operands of node i still stand when node r runs?
  bool stands(int i, int r) const {
    for (const Value& v : g_.nodes[i].in)
      for (int w : uses_.writers[v.buffer])
        if (w >= i && w < r && !gone_[w]) return false;
    return true;
  }

  void join(int i) {
    const auto& readers = uses_.readers[g_.nodes[i].out[0].buffer];
    const int r = readers.empty() ? -1 : readers[0];
    if (r <= i || r >= static_cast<int>(g_.nodes.size()) || !pointwise(g_.nodes[r]) || !only_between(i, r) ||
        !stands(i, r))
      return;
    const auto& writers = uses_.writers[g_.nodes[i].in[0].buffer];
    int e = writers.size() == 1 ? writers[0] : -1;
    if (e < 0 || gone_[e] || !pointwise(g_.nodes[e]) || g_.nodes[e].params.as<Conv2dParams>().has_residual ||
        !only_between(e, i) || !stands(e, r))
      e = -1;
    for (int first : {e, -1}) {
      Node joined = node(first, i, r);
      if (!has_kernel(joined)) continue;
      if (first >= 0) gone_[first] = 1;
      gone_[i] = 1;
      g_.nodes[r] = std::move(joined);
      return;
    }
  }

  Node node(int e, int i, int r) const {
    const auto& d = g_.nodes[i].params.as<Conv2dParams>();
    const auto& q = g_.nodes[r].params.as<Conv2dParams>();
    DepthwisePointwiseParams p;
    p.N = d.N, p.C = p.E = d.C, p.H = d.H, p.W = d.W, p.O = q.O, p.oH = d.oH, p.oW = d.oW, p.kH = d.kH,
    p.kW = d.kW;
    p.sH = d.sH, p.sW = d.sW, p.pT = d.pT, p.pB = d.pB, p.pL = d.pL, p.pR = d.pR, p.dH = d.dH, p.dW = d.dW;
    p.depthwise_bias = d.has_bias != 0, p.pointwise_bias = q.has_bias != 0, p.has_residual = q.has_residual;
    p.depthwise_act = d.act, p.pointwise_act = q.act;
    Node n = g_.nodes[r];
    n.kind = OpKind::depthwise_pointwise;
    n.in = g_.nodes[i].in;
    if (e >= 0) {
      const auto& x = g_.nodes[e].params.as<Conv2dParams>();
      p.has_expand = 1, p.C = x.C, p.expand_bias = x.has_bias != 0, p.expand_act = x.act;
      n.in.erase(n.in.begin());
      n.in.insert(n.in.begin(), g_.nodes[e].in.begin(), g_.nodes[e].in.end());
    }
    n.in.insert(n.in.end(), g_.nodes[r].in.begin() + 1, g_.nodes[r].in.end());
    n.params = p;
    return n;
  }
};

}  // namespace

void depthwise_pointwise(Graph& g) { Joiner(g).run(); }

}  // namespace fastcnn
