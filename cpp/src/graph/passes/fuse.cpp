// What it is: joins neighbours into the epilogues that kernels offer: conv2d, matmul + activation; batch_norm
// (+ residual) (+ activation); activation_bwd + batch_norm_bwd; conv2d_bwd_weights + widening. A join is made only
// where the backend has a kernel better than the reference for it. What it is not: a change of numbers beyond
// rounding.
#include <algorithm>
#include <cstring>

#include "graph/ir.h"
#include "graph/select.h"

namespace fastcnn {
namespace {

class Fuser {
 public:
  explicit Fuser(Graph& g) : g_(g), uses_(g), gone_(g.nodes.size(), 0) {}

  void run() {
    for (int i = 0; i < static_cast<int>(g_.nodes.size()); ++i) {
      if (gone_[i]) continue;
      switch (g_.nodes[i].kind) {
        case OpKind::conv2d:
          fold_batch_norm<Conv2dParams>(i);
          if (!join_residual_activation<Conv2dParams>(i)) join_activation<Conv2dParams>(i);
          break;
        case OpKind::conv2d_bwd_data: fold_batch_norm<Conv2dParams>(i); break;  // of conv_transpose2d
        case OpKind::matmul:
          fold_batch_norm<MatmulParams>(i);
          join_activation<MatmulParams>(i);
          break;
        case OpKind::batch_norm:
        case OpKind::batch_norm_infer:
          if (!join_residual_activation<BatchNormParams>(i)) join_activation<BatchNormParams>(i);
          break;
        case OpKind::activation_bwd: join_batch_norm_bwd(i); break;
        case OpKind::conv2d_bwd_weights: join_widening(i); break;
        case OpKind::binary: join_addition_batch_norm_bwd(i); break;
        default: break;
      }
    }
    std::vector<Node> kept;
    for (size_t i = 0; i < g_.nodes.size(); ++i) {
      for (auto& [before, node] : inserted_)
        if (before == static_cast<int>(i)) kept.push_back(std::move(node));
      if (!gone_[i]) kept.push_back(std::move(g_.nodes[i]));
    }
    g_.nodes = std::move(kept);
  }

 private:
  Graph& g_;
  Uses uses_;
  std::vector<char> gone_;
  std::vector<std::pair<int, Node>> inserted_;  // before which node

  const Implementation* kernel_of(const Node& n) const { return fastcnn::kernel_of(n, g_.device); }
  bool has_kernel(const Node& n) const { return fastcnn::has_kernel(n, g_.device); }

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

  // Is v written for the first time, and by its node alone? Then it may be written earlier: an update of memory
  // that others see (s += y) may not.
  bool fresh(const Value& v) const {
    return g_.buffers[v.buffer].kind == Buffer::Kind::temporary && uses_.single_writer(v.buffer);
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
    if (a < 0 || g_.nodes[a].kind != OpKind::activation || g_.nodes[i].params.as<P>().act.act != Act::none ||
        !fresh(g_.nodes[a].out[0]))
      return false;
    Node joined = g_.nodes[i];
    joined.params.as<P>().act = g_.nodes[a].params.as<ActParams>();
    joined.out[0] = g_.nodes[a].out[0];
    // An activation must not move a convolution from its kernel to a slower one.
    if (!has_kernel(joined) || kernel_of(joined) != kernel_of(g_.nodes[i])) return false;
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
          to.dtype != DType::float32 || !(from.shape == to.shape) || !(from.strides == to.strides) || !fresh(to))
        return;
      joined.out[k] = to;
      casts.push_back(a);
    }
    if (!has_kernel(joined)) return;
    for (int a : casts) absorb(i, a, joined);
  }

  Value new_value(const Value& like, const Dims& shape, int writer) {
    Value v = like;
    v.buffer = static_cast<int>(g_.buffers.size());
    v.offset = 0, v.shape = shape, v.strides = canonical_strides(shape);
    g_.buffers.push_back(
        {Buffer::Kind::temporary, shape.numel() * static_cast<int64_t>(dtype_size(v.dtype)), nullptr});
    uses_.readers.push_back({writer});
    uses_.writers.push_back({writer});
    return v;
  }

  static FoldParams fold_params(const Conv2dParams& p, OpKind kind) {
    FoldParams f;
    const int64_t taps = p.kH * p.kW, Cg = p.C / p.groups;
    if (kind == OpKind::conv2d)
      f.C = p.O, f.block = taps * Cg;
    else
      f.C = p.C, f.block = p.O / p.groups * taps * Cg, f.step = f.inner = Cg;
    return f;
  }
  static FoldParams fold_params(const MatmulParams& p, OpKind) {
    FoldParams f;
    f.C = p.N;
    if (p.trans_b)
      f.block = p.K;
    else
      f.block = p.K * p.N, f.inner = p.N;
    return f;
  }
  static bool plain(const Conv2dParams& p) { return p.act.act == Act::none && !p.has_residual; }
  static bool plain(const MatmulParams& p) { return p.act.act == Act::none && p.batch == 1; }

  // What v is a copy of in another precision, as autocast makes them of weights; v itself if it is none.
  Value cast_of(const Value& v) const {
    if (!uses_.single_writer(v.buffer)) return v;
    const Node& cast = g_.nodes[uses_.writers[v.buffer][0]];
    if (cast.kind != OpKind::unary || cast.params.as<UnaryParams>().op != Unary::copy || !(cast.out[0] == v))
      return v;
    const Value& from = cast.in[0];
    const bool one_is_wide = from.dtype == DType::float32 || v.dtype == DType::float32;
    const bool same = from.shape == v.shape && from.strides == v.strides;
    return same && one_is_wide && is_floating(from.dtype) && is_floating(v.dtype) ? from : v;
  }
  // v in another precision, by a node before node i.
  Value rounded(const Value& v, DType dtype, int i) {
    if (v.dtype == dtype) return v;
    Value like = v;
    like.dtype = dtype;
    const Value to = new_value(like, v.shape, i);
    UnaryParams copy;
    copy.op = Unary::copy;
    inserted_.push_back({i, Node{OpKind::unary, copy, {v}, {to}}});
    return to;
  }

  // Weights, or a copy of them in another order (conv3d's kernels as those of images).
  bool constant_weights(const Value& v) const {
    if (constant_external(g_, uses_, v.buffer)) return true;
    if (g_.buffers[v.buffer].kind != Buffer::Kind::temporary || !uses_.single_writer(v.buffer)) return false;
    const Node& copy = g_.nodes[uses_.writers[v.buffer][0]];
    return copy.kind == OpKind::unary && copy.params.as<UnaryParams>().op == Unary::copy &&
           constant_external(g_, uses_, copy.in[0].buffer);
  }

  // As Tensor::is_contiguous: where a dim is 1 its stride says nothing.
  static bool canonical(const Value& v) {
    const Dims want = canonical_strides(v.shape);
    for (int d = 0; d < want.size(); ++d)
      if (v.shape[d] != 1 && v.strides[d] != want[d]) return false;
    return true;
  }

  // op(x, w) + batch_norm_infer on weights that no node writes: folded weights, made once by the plan
  // (prepared.h). Those that autocast rounds are folded before that.
  template <class P>
  bool fold_batch_norm(int i) {
    const Node& n = g_.nodes[i];
    if (n.out.size() != 1 || !plain(n.params.as<P>())) return false;
    int r = only_reader(i);
    if (r < 0 || g_.nodes[r].kind != OpKind::batch_norm_infer || !(g_.nodes[r].in[0] == n.out[0])) return false;
    const Node& bn = g_.nodes[r];
    FoldParams f = fold_params(n.params.as<P>(), n.kind);
    f.eps = bn.params.as<BatchNormParams>().eps;
    f.has_bias = n.in.size() > 2;
    std::vector<Value> in{n.in[1], bn.in[1], bn.in[2], bn.in[3], bn.in[4]};
    if (f.has_bias) in.push_back(n.in[2]);
    for (Value& v : in) {
      // Not through a cast that widens weights: they would be folded in the narrow type.
      const Value from = cast_of(v);
      if (&v != in.data() || dtype_size(from.dtype) >= dtype_size(v.dtype)) v = from;
      const bool fits = v.dtype == in[0].dtype || g_.device.type == DeviceType::cpu;
      if (!fits || v.dtype == DType::float64 ||
          !(&v == in.data() ? constant_weights(v) : constant_external(g_, uses_, v.buffer)))
        return false;
    }
    if (f.C != bn.in[1].shape.numel() || f.C == 0 || !canonical(in[0])) return false;
    const DType dtype = n.in[1].dtype;
    Node fold{OpKind::fold_batch_norm, f, in, {}}, joined = n;
    fold.out = {new_value(in[0], in[0].shape, i), new_value(in[0], {f.C}, i)};
    const std::vector<Value> folded = fold.out;
    inserted_.push_back({i, std::move(fold)});
    joined.params.as<P>().has_bias = 1;
    joined.in.resize(2);
    joined.in[1] = rounded(folded[0], dtype, i);
    joined.in.push_back(rounded(folded[1], dtype, i));
    joined.out = bn.out;
    absorb(i, r, joined);
    return true;
  }

  template <class P>
  bool join_residual_activation(int i) {
    int a = only_reader(i);
    if (a < 0 || g_.nodes[a].kind != OpKind::binary || g_.nodes[a].params.as<BinaryParams>().op != Binary::add ||
        !fresh(g_.nodes[a].out[0]))
      return false;
    const P& p = g_.nodes[i].params.as<P>();
    if (p.act.act != Act::none || p.has_residual) return false;
    const Value& y = g_.nodes[i].out[0];
    const Value& other = g_.nodes[a].in[0].buffer == y.buffer ? g_.nodes[a].in[1] : g_.nodes[a].in[0];
    if (!(other.shape == y.shape) || !(other.strides == y.strides) || other.dtype != y.dtype) return false;
    // Of two norms that meet in an addition (a shortcut with its own) the later one takes the other as residual.
    if (!ready(other, i, a)) return false;
    Node joined = g_.nodes[i];
    joined.params.as<P>().has_residual = 1;
    joined.in.push_back(other);
    joined.out[0] = g_.nodes[a].out[0];
    int act = only_reader(a);
    if (act >= 0 && g_.nodes[act].kind == OpKind::activation && fresh(g_.nodes[act].out[0])) {
      joined.params.as<P>().act = g_.nodes[act].params.as<ActParams>();
      joined.out[0] = g_.nodes[act].out[0];
    } else {
      act = -1;
    }
    // Nor must a residual.
    if (!has_kernel(joined) || kernel_of(joined) != kernel_of(g_.nodes[i])) {
      if (act < 0) return false;
      joined.params.as<P>().act = {};
      joined.out[0] = g_.nodes[a].out[0];
      act = -1;
      if (!has_kernel(joined) || kernel_of(joined) != kernel_of(g_.nodes[i])) return false;
    }
    absorb(i, a, joined);
    if (act >= 0) absorb(i, act, joined);
    return true;
  }

  // activation_bwd + batch_norm_bwd; where the gradient of y is a sum of two, that addition too.
  void join_batch_norm_bwd(int i) {
    const Node& a = g_.nodes[i];
    const ActParams& act = a.params.as<ActParams>();
    const bool from_input = !act_bwd_uses_output(act.act);
    const Value dz = a.out[0];
    if (!fresh(dz)) return;
    const auto readers = uses_.readers[dz.buffer];
    for (int r : readers) {
      if (!movable_batch_norm_bwd(r, i, dz)) continue;
      Node joined = g_.nodes[r];
      auto& p = joined.params.as<BatchNormParams>();
      p.act = act;
      joined.in[0] = a.in[0];
      joined.in.push_back(a.in[1]);
      p.has_residual = readers.size() > 1;
      if (p.has_residual) joined.out.push_back(dz);
      p.has_affine = from_input;
      if (!has_kernel(joined)) continue;
      // What such an activation read is made again: nobody else need keep it.
      const Forward norm = from_input ? forward_of(joined, ActParams{}, i) : Forward{};
      if (from_input && norm.at < 0) continue;
      if (from_input) read_affine(joined, norm);
      int sum = p.has_residual ? addition_before(i, a.in[0]) : -1;
      if (sum >= 0) {
        Node with_sum = take_addition(joined, sum);
        if (kernel_of(with_sum) == kernel_of(joined)) joined = with_sum, drop_addition(sum, i);
      }
      replace(i, r, joined);
      if (from_input)
        drop_input(norm, i);
      else
        make_output_again(i);
      return;
    }
  }

  // The sum of two gradients that a batch_norm_bwd without activation and others read (inverted residuals).
  void join_addition_batch_norm_bwd(int i) {
    const Node& a = g_.nodes[i];
    if (!plain_addition(a)) return;
    const Value sum = a.out[0];
    if (!fresh(sum)) return;
    const auto readers = uses_.readers[sum.buffer];
    if (readers.size() < 2) return;
    for (int r : readers) {
      if (!movable_batch_norm_bwd(r, i, sum)) continue;
      Node joined = g_.nodes[r];
      joined.params.as<BatchNormParams>().has_residual = 1;
      joined.out.push_back(sum);
      joined = take_addition(joined, i);
      if (!has_kernel(joined) || kernel_of(joined) != kernel_of(g_.nodes[r])) continue;
      replace(i, r, joined);
      return;
    }
  }

  // A batch_norm_bwd without activation that reads the gradient dy and may run at position `to`.
  bool movable_batch_norm_bwd(int r, int to, const Value& dy) const {
    if (r >= static_cast<int>(g_.nodes.size()) || gone_[r]) return false;
    const Node& b = g_.nodes[r];
    if (b.kind != OpKind::batch_norm_bwd || !(b.in[0] == dy)) return false;
    const auto& p = b.params.as<BatchNormParams>();
    if (p.act.act != Act::none || p.has_residual || p.has_dy2) return false;
    for (size_t k = 1; k < b.in.size(); ++k)
      if (!ready(b.in[k], to, r) || b.in[k].buffer == dy.buffer) return false;
    return true;
  }

  static bool plain_addition(const Node& n) {
    return n.kind == OpKind::binary && n.params.as<BinaryParams>().op == Binary::add &&
           n.in[0].shape == n.out[0].shape && n.in[1].shape == n.out[0].shape &&
           n.in[0].strides == n.out[0].strides && n.in[1].strides == n.out[0].strides &&
           n.in[0].dtype == n.out[0].dtype && n.in[0].buffer != n.out[0].buffer &&
           n.in[1].buffer != n.out[0].buffer;
  }
  // The addition that makes v for node i alone and whose operands still stand there at i; -1 without one.
  int addition_before(int i, const Value& v) const {
    if (!uses_.single_writer(v.buffer)) return -1;
    int a = uses_.writers[v.buffer][0];
    if (gone_[a] || !plain_addition(g_.nodes[a]) || only_reader(a) != i) return -1;
    for (const Value& in : g_.nodes[a].in)
      if (!ready(in, a + 1, i)) return -1;
    return a;
  }
  Node take_addition(Node bwd, int sum) const {
    bwd.params.as<BatchNormParams>().has_dy2 = 1;
    bwd.in[0] = g_.nodes[sum].in[0];
    bwd.in.push_back(g_.nodes[sum].in[1]);
    return bwd;
  }
  void drop_addition(int sum, int i) {
    for (const Value& v : g_.nodes[sum].in)
      std::replace(uses_.readers[v.buffer].begin(), uses_.readers[v.buffer].end(), sum, i);
    gone_[sum] = 1;
  }
  // Node r moves to position i, whose node it has taken in.
  void replace(int i, int r, const Node& joined) {
    for (const Value& v : g_.nodes[r].out)
      std::replace(uses_.writers[v.buffer].begin(), uses_.writers[v.buffer].end(), r, i);
    for (const Value& v : g_.nodes[r].in) {
      auto& readers = uses_.readers[v.buffer];
      std::replace(readers.begin(), readers.end(), r, i);
      std::sort(readers.begin(), readers.end());
      readers.erase(std::unique(readers.begin(), readers.end()), readers.end());
    }
    g_.nodes[i] = joined;
    gone_[r] = 1;
  }

  // The norm whose forward pass gave act(norm(x)) to a backward pass, with its affine map as a result too.
  struct Forward {
    int at = -1;
    Node node;
  };
  Forward forward_of(const Node& bwd, const ActParams& act, int i) {
    const Value y = bwd.in[5];
    if (!uses_.single_writer(y.buffer)) return {};
    const int f = uses_.writers[y.buffer][0];
    if (f >= i || gone_[f] || g_.nodes[f].kind != OpKind::batch_norm) return {};
    Node fwd = g_.nodes[f];
    auto& q = fwd.params.as<BatchNormParams>();
    if (q.has_residual || std::memcmp(&q.act, &act, sizeof q.act) != 0 || !(fwd.out[0] == y) ||
        !(fwd.in[0] == bwd.in[1]) || !(fwd.out[1] == bwd.in[3]) || !ready(fwd.in[0], f + 1, i))
      return {};
    if (!q.has_affine) {
      q.has_affine = 1;
      fwd.out.push_back(new_value(fwd.out[1], {2, q.C}, f));
    }
    if (kernel_of(fwd) != kernel_of(g_.nodes[f])) return {};
    return {f, std::move(fwd)};
  }
  static void read_affine(Node& bwd, const Forward& f) {
    bwd.params.as<BatchNormParams>().has_affine = 1;
    bwd.in[5] = f.node.out[3];
  }

  // The backward pass reads x anyway: y = act(affine(x)) is cheaper to make again than to read.
  void make_output_again(int i) {
    Node again = g_.nodes[i];
    const auto& p = again.params.as<BatchNormParams>();
    if (p.act.act == Act::none || p.has_affine) return;
    Forward f = forward_of(again, p.act, i);
    if (f.at < 0) return;
    read_affine(again, f);
    if (kernel_of(again) != kernel_of(g_.nodes[i])) return;
    g_.nodes[f.at] = std::move(f.node);
    g_.nodes[i] = again;
  }
  // Node i reads the affine map instead of norm(x), which then may go into the activation that alone reads it.
  void drop_input(const Forward& f, int i) {
    g_.nodes[f.at] = f.node;
    const int z = f.node.out[0].buffer;
    for (const Value& v : g_.nodes[i].in)
      if (v.buffer == z) return;  // as the gradient of y, say
    std::erase(uses_.readers[z], i);
    join_activation<BatchNormParams>(f.at);
  }
};

}  // namespace

void fuse(Graph& g) { Fuser(g).run(); }

}  // namespace fastcnn
