// What it is: where all readers of a batch norm's result are convolutions that can apply it as they read, the
// result is never stored: they read its input, mean and affine map. What it is not: a change of numbers; a reader
// keeps its implementation, and one whose implementation cannot keeps the result stored for all.
#include <algorithm>

#include "graph/ir.h"
#include "graph/select.h"

namespace fastcnn {
namespace {

class NormOnLoad {
 public:
  explicit NormOnLoad(Graph& g) : g_(g), uses_(g) {}

  void run() {
    for (int i = 0; i < static_cast<int>(g_.nodes.size()); ++i)
      if (g_.nodes[i].kind == OpKind::batch_norm) join(i);
  }

 private:
  Graph& g_;
  Uses uses_;

  // Does a value written before node `from` still stand when node `to` runs?
  bool stands(const Value& v, int from, int to) const {
    for (int w : uses_.writers[v.buffer])
      if (w >= from && w <= to) return false;
    return true;
  }

  void join(int i) {
    const Node& norm = g_.nodes[i];
    const auto& p = norm.params.as<BatchNormParams>();
    const Value x = norm.in[0];
    if (p.has_residual || p.stats_only || !loads_norms(g_, x)) return;
    const Value y = norm.out[0];
    for (const Value& v : norm.out)
      if (g_.buffers[v.buffer].kind != Buffer::Kind::temporary || !uses_.single_writer(v.buffer)) return;
    const std::vector<int> readers = uses_.readers[y.buffer];
    if (readers.empty() || !(x.shape == y.shape)) return;

    Node stats = norm;
    auto& q = stats.params.as<BatchNormParams>();
    q.act = {}, q.stats_only = 1;
    Value affine;
    if (p.has_affine) {
      affine = norm.out[3];
    } else {
      q.has_affine = 1;
      affine = norm.out[1];
      affine.buffer = static_cast<int>(g_.buffers.size()), affine.offset = 0;
      affine.shape = {2, p.C}, affine.strides = canonical_strides(affine.shape);
      stats.out.push_back(affine);
    }
    stats.out.erase(stats.out.begin());
    if (!same_kernel(norm, stats, g_.device)) return;

    std::vector<Node> joined;
    for (int r : readers) {
      if (r >= static_cast<int>(g_.nodes.size()) || !stands(x, i, r)) return;  // an output of the graph
      Node n = g_.nodes[r];
      if (n.kind != OpKind::conv2d && n.kind != OpKind::conv2d_bwd_weights) return;
      int count = 0;
      for (const Value& v : n.in) count += v.buffer == y.buffer;
      if (count != 1 || !(n.in[0] == y)) return;
      auto& c = n.params.as<Conv2dParams>();
      if (c.has_norm_in) return;
      c.has_norm_in = 1, c.in_act = p.act;
      const int64_t at = n.kind == OpKind::conv2d ? 2 + c.has_bias : 2;
      n.in[0] = x;
      n.in.insert(n.in.begin() + at, {norm.out[1], affine});
      if (!same_kernel(g_.nodes[r], n, g_.device)) return;
      joined.push_back(std::move(n));
    }

    if (!p.has_affine) {
      g_.buffers.push_back(
          {Buffer::Kind::temporary, 2 * p.C * static_cast<int64_t>(dtype_size(affine.dtype)), nullptr});
      uses_.readers.push_back({});
      uses_.writers.push_back({i});
    }
    for (size_t k = 0; k < readers.size(); ++k) {
      for (const Value& v : {x, norm.out[1], affine}) {
        auto& list = uses_.readers[v.buffer];
        if (std::find(list.begin(), list.end(), readers[k]) == list.end()) list.push_back(readers[k]);
        std::sort(list.begin(), list.end());
      }
      g_.nodes[readers[k]] = std::move(joined[k]);
    }
    uses_.readers[y.buffer].clear();
    uses_.writers[y.buffer].clear();
    g_.nodes[i] = std::move(stats);
  }
};

}  // namespace

void norm_on_load(Graph& g) { NormOnLoad(g).run(); }

}  // namespace fastcnn
