// What it is: joins neighbours into the epilogues that kernels offer: conv2d, matmul + activation; batch_norm
// (+ residual) (+ activation); activation_bwd + batch_norm_bwd; conv2d_bwd_weights + widening. A join is made only
// where the backend has a kernel better than the reference for it. What it is not: a change of numbers beyond
// rounding.
#include <algorithm>

#include "graph/ir.h"
#include "graph/select.h"

namespace fastcnn {
namespace {

Operand shape_of(const Value& v) {
  Operand o;
  o.dtype = v.dtype;
  o.ndim = v.shape.size();
  for (int i = 0; i < o.ndim; ++i) {
    o.shape[i] = v.shape[i];
    o.strides[i] = v.strides[i];
  }
  return o;
}

class Fuser {
 public:
  explicit Fuser(Graph& g) : g_(g), uses_(g), gone_(g.nodes.size(), 0) {}

  void run() {
    for (int i = 0; i < static_cast<int>(g_.nodes.size()); ++i) {
      if (gone_[i]) continue;
      switch (g_.nodes[i].kind) {
        case OpKind::conv2d: join_activation<Conv2dParams>(i); break;
        case OpKind::matmul: join_activation<MatmulParams>(i); break;
        case OpKind::batch_norm:
        case OpKind::batch_norm_infer:
          if (!join_residual_activation(i)) join_activation<BatchNormParams>(i);
          break;
        case OpKind::activation_bwd: join_batch_norm_bwd(i); break;
        case OpKind::conv2d_bwd_weights: join_widening(i); break;
        default: break;
      }
    }
    std::vector<Node> kept;
    for (size_t i = 0; i < g_.nodes.size(); ++i)
      if (!gone_[i]) kept.push_back(std::move(g_.nodes[i]));
    g_.nodes = std::move(kept);
  }

 private:
  Graph& g_;
  Uses uses_;
  std::vector<char> gone_;

  bool has_kernel(const Node& n) const {
    std::vector<Operand> in, out;
    for (const Value& v : n.in) in.push_back(shape_of(v));
    for (const Value& v : n.out) out.push_back(shape_of(v));
    Call call{n.kind, n.params.data(), in, out, nullptr};
    Backend& b = backend_of(Device{});
    const Implementation& chosen = select_implementation(b, call);
    auto list = b.implementations(n.kind);
    return &chosen != &list.back();
  }

  // The one node that reads what node i writes to out[k], reading all of it; -1 if there are more or other
  // readers.
  int only_reader(int i, int k = 0) const {
    const Value& v = g_.nodes[i].out[k];
    const auto& readers = uses_.readers[v.buffer];
    if (g_.buffers[v.buffer].kind != Buffer::Kind::temporary || !uses_.single_writer(v.buffer) ||
        readers.size() != 1 || readers[0] >= static_cast<int>(g_.nodes.size()) || gone_[readers[0]])
      return -1;
    const Node& r = g_.nodes[readers[0]];
    int count = 0;
    for (const Value& in : r.in)
      if (in.buffer == v.buffer) count += in == v ? 1 : 100;
    return count == 1 ? readers[0] : -1;
  }

  // May a reader of v move up from position `from` to `to`? Yes where nobody writes v in between.
  bool ready(const Value& v, int to, int from) const {
    for (int w : uses_.writers[v.buffer])
      if (w >= to && w < from) return false;
    return true;
  }

  // Node `later` disappears; its output is now written by node i.
  void absorb(int i, int later, const Node& joined) {
    for (const Value& v : g_.nodes[later].out) {
      auto& w = uses_.writers[v.buffer];
      std::replace(w.begin(), w.end(), later, i);
    }
    for (const Value& v : g_.nodes[later].in) {
      auto& r = uses_.readers[v.buffer];
      std::replace(r.begin(), r.end(), later, i);
    }
    g_.nodes[i] = joined;
    gone_[later] = 1;
  }

  template <class P>
  bool join_activation(int i) {
    int a = only_reader(i);
    if (a < 0 || g_.nodes[a].kind != OpKind::activation || g_.nodes[i].params.as<P>().act.act != Act::none)
      return false;
    Node joined = g_.nodes[i];
    joined.params.as<P>().act = g_.nodes[a].params.as<ActParams>();
    joined.out[0] = g_.nodes[a].out[0];
    if (!has_kernel(joined)) return false;
    absorb(i, a, joined);
    return true;
  }

  // Gradients of bfloat16 weights that go straight to float32 masters are never rounded.
  void join_widening(int i) {
    Node joined = g_.nodes[i];
    std::vector<int> casts;
    for (size_t k = 0; k < joined.out.size(); ++k) {
      const int a = only_reader(i, static_cast<int>(k));
      if (a < 0 || g_.nodes[a].kind != OpKind::unary) return;
      const Node& cast = g_.nodes[a];
      const Value &from = joined.out[k], &to = cast.out[0];
      if (cast.params.as<UnaryParams>().op != Unary::copy || from.dtype != DType::bfloat16 ||
          to.dtype != DType::float32 || !(from.shape == to.shape) || !(from.strides == to.strides) ||
          g_.buffers[to.buffer].kind != Buffer::Kind::temporary || !uses_.single_writer(to.buffer))
        return;
      joined.out[k] = to;
      casts.push_back(a);
    }
    if (!has_kernel(joined)) return;
    for (int a : casts) absorb(i, a, joined);
  }

  bool join_residual_activation(int i) {
    int a = only_reader(i);
    if (a < 0 || g_.nodes[a].kind != OpKind::binary || g_.nodes[a].params.as<BinaryParams>().op != Binary::add)
      return false;
    const BatchNormParams& p = g_.nodes[i].params.as<BatchNormParams>();
    if (p.act.act != Act::none || p.has_residual) return false;
    const Value& y = g_.nodes[i].out[0];
    const Value& other = g_.nodes[a].in[0].buffer == y.buffer ? g_.nodes[a].in[1] : g_.nodes[a].in[0];
    if (!(other.shape == y.shape) || !(other.strides == y.strides) || other.dtype != y.dtype) return false;
    // Of two norms that meet in an addition (a shortcut with its own) the later one takes the other as residual.
    if (!ready(other, i, a)) return false;
    Node joined = g_.nodes[i];
    joined.params.as<BatchNormParams>().has_residual = 1;
    joined.in.push_back(other);
    joined.out[0] = g_.nodes[a].out[0];
    int act = only_reader(a);
    if (act >= 0 && g_.nodes[act].kind == OpKind::activation) {
      joined.params.as<BatchNormParams>().act = g_.nodes[act].params.as<ActParams>();
      joined.out[0] = g_.nodes[act].out[0];
    } else {
      act = -1;
    }
    if (!has_kernel(joined)) return false;
    absorb(i, a, joined);
    if (act >= 0) absorb(i, act, joined);
    return true;
  }

  void join_batch_norm_bwd(int i) {
    const Node& a = g_.nodes[i];
    const ActParams& act = a.params.as<ActParams>();
    if (!act_bwd_uses_output(act.act)) return;
    const Value dz = a.out[0];
    if (g_.buffers[dz.buffer].kind != Buffer::Kind::temporary || !uses_.single_writer(dz.buffer)) return;
    const auto readers = uses_.readers[dz.buffer];
    for (int r : readers) {
      if (r >= static_cast<int>(g_.nodes.size()) || gone_[r]) continue;
      const Node& b = g_.nodes[r];
      if (b.kind != OpKind::batch_norm_bwd || !(b.in[0] == dz) ||
          b.params.as<BatchNormParams>().act.act != Act::none)
        continue;
      bool ok = true;
      for (size_t k = 1; k < b.in.size(); ++k) ok &= ready(b.in[k], i, r) && b.in[k].buffer != dz.buffer;
      if (!ok) continue;
      Node joined = b;
      auto& p = joined.params.as<BatchNormParams>();
      p.act = act;
      joined.in[0] = a.in[0];
      joined.in.push_back(a.in[1]);
      p.has_residual = readers.size() > 1;
      if (p.has_residual) joined.out.push_back(dz);
      if (!has_kernel(joined)) continue;
      for (const Value& v : b.out) {
        auto& w = uses_.writers[v.buffer];
        std::replace(w.begin(), w.end(), r, i);
      }
      g_.nodes[i] = joined;
      gone_[r] = 1;
      return;
    }
  }
};

}  // namespace

void fuse(Graph& g) { Fuser(g).run(); }

}  // namespace fastcnn
