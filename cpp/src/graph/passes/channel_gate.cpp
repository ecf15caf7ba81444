// What it is: the gradient of an image times a number per channel, where that number was made from the image's
// means (squeeze and excitation): sum(dy * x) without the product in memory, and dy * gate + dmean without the
// product and without dmean repeated over the image. What it is not: a change of numbers beyond rounding.
#include <initializer_list>

#include "graph/ir.h"
#include "graph/select.h"

namespace fastcnn {
namespace {

class ChannelGate {
 public:
  explicit ChannelGate(Graph& g) : g_(g), uses_(g), gone_(g.nodes.size(), 0) {}

  void run() {
    for (int i = 0; i < static_cast<int>(g_.nodes.size()); ++i) {
      if (g_.nodes[i].kind == OpKind::reduce) join_dot(i);
      if (is(g_.nodes[i], Binary::add)) join_scale(i);
    }
    erase_nodes(g_, gone_);
  }

 private:
  Graph& g_;
  Uses uses_;
  std::vector<char> gone_;

  static bool is(const Node& n, Binary op) {
    return n.kind == OpKind::binary && n.params.as<BinaryParams>().op == op;
  }
  static bool image(const Value& v) {
    return v.dtype == DType::float32 && v.shape.size() == 4 && v.strides == canonical_strides(v.shape);
  }
  // One number for each plane of images of this shape, repeated over it or not.
  static bool per_plane(const Value& v, const Dims& shape) {
    if (v.dtype != DType::float32 || v.shape.size() != 4 || v.shape[0] != shape[0] || v.shape[1] != shape[1])
      return false;
    const bool dense = (v.shape[1] == 1 || v.strides[1] == 1) && (v.shape[0] == 1 || v.strides[0] == v.shape[1]);
    for (int d : {2, 3})
      if (v.shape[d] != 1 && v.strides[d] != 0) return false;
    return dense;
  }
  static Value plane_numbers(Value v) {
    v.shape = {v.shape[0], v.shape[1], 1, 1};
    v.strides = canonical_strides(v.shape);
    return v;
  }

  // The node that alone writes v, which node i alone reads, and whose operands still stand when i runs; -1
  // without.
  int made_for(int i, const Value& v) const {
    const auto& readers = uses_.readers[v.buffer];
    if (g_.buffers[v.buffer].kind != Buffer::Kind::temporary || !uses_.single_writer(v.buffer) ||
        readers.size() != 1 || readers[0] != i)
      return -1;
    const int w = uses_.writers[v.buffer][0];
    const Node& n = g_.nodes[w];
    if (w >= i || gone_[w] || n.region != g_.nodes[i].region || n.out.size() != 1 || !(n.out[0] == v)) return -1;
    for (const Value& in : n.in)
      for (int other : uses_.writers[in.buffer])
        if (other >= w && other < i) return -1;
    return w;
  }
  static ChannelParams params(const Dims& shape) {
    ChannelParams p;
    p.N = shape[0], p.C = shape[1], p.rows = shape[2] * shape[3];
    return p;
  }

  // reduce(a * b) over each plane.
  void join_dot(int i) {
    const Node& sum = g_.nodes[i];
    const auto& p = sum.params.as<ReduceParams>();
    if (p.op != Reduce::sum || p.dims != (1u << 2 | 1u << 3) || !image(sum.in[0])) return;
    const int m = made_for(i, sum.in[0]);
    if (m < 0 || !is(g_.nodes[m], Binary::mul)) return;
    const std::vector<Value>& factors = g_.nodes[m].in;
    const Value& y = sum.out[0];
    if (!image(factors[0]) || !image(factors[1]) || !(factors[0].shape == sum.in[0].shape) ||
        !(factors[1].shape == sum.in[0].shape) || !image(y))
      return;
    Node joined{OpKind::channel_dot, params(sum.in[0].shape), factors, sum.out, sum.region};
    if (!has_kernel(joined, g_.device)) return;
    replace(i, std::move(joined), {m});
  }

  // x * scale + what avg_pool2d_bwd repeats over the image.
  void join_scale(int i) {
    const Node& add = g_.nodes[i];
    const Value& y = add.out[0];
    if (!image(y)) return;
    for (int k : {0, 1}) {
      const Value &product = add.in[k], &repeated = add.in[1 - k];
      if (!image(product) || !image(repeated) || !(product.shape == y.shape) || !(repeated.shape == y.shape))
        return;
      if (product.buffer == repeated.buffer) return;
      const int m = made_for(i, product), r = made_for(i, repeated);
      if (m < 0 || r < 0 || !is(g_.nodes[m], Binary::mul) || g_.nodes[r].kind != OpKind::avg_pool2d_bwd) continue;
      const auto& pool = g_.nodes[r].params.as<Pool2dParams>();
      const Value& mean = g_.nodes[r].in[0];
      if (!pool.adaptive || pool.oH != 1 || pool.oW != 1 || !per_plane(mean, y.shape)) continue;
      for (int f : {0, 1}) {
        const Value &x = g_.nodes[m].in[f], &scale = g_.nodes[m].in[1 - f];
        if (!image(x) || !(x.shape == y.shape) || !per_plane(scale, y.shape)) continue;
        ChannelParams p = params(y.shape);
        p.has_shift = 1, p.shift = 1.0 / static_cast<double>(p.rows);
        Node joined{OpKind::channel_scale, p, {x, plane_numbers(scale), plane_numbers(mean)}, {y}, add.region};
        if (!has_kernel(joined, g_.device)) continue;
        replace(i, std::move(joined), {m, r});
        return;
      }
    }
  }

  void replace(int i, Node joined, std::initializer_list<int> parts) {
    g_.nodes[i] = std::move(joined);
    for (int part : parts) gone_[part] = 1, g_.nodes[part].in.clear(), g_.nodes[part].out.clear();
    uses_ = Uses(g_);
  }
};

}  // namespace

void channel_gate(Graph& g) { ChannelGate(g).run(); }

}  // namespace fastcnn
