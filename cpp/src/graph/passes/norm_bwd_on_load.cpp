// What it is: the backward twin of norm_on_load: where both backward passes of a convolution are all that reads a
// batch norm's gradient, and one kernel makes them together, the norm gives coefficients alone and that kernel
// makes the gradient as it reads; or the weights' pass alone where nothing else reads it. Where the norm before
// reads its result, that kernel gives its sums too. What it is not: another kernel; where those in use cannot do
// so, the nodes stay as they are.
#include <algorithm>
#include <cstring>

#include "graph/ir.h"
#include "graph/select.h"

namespace fastcnn {
namespace {

class NormBwdOnLoad {
 public:
  explicit NormBwdOnLoad(Graph& g) : g_(g), uses_(g) {}

  void run() {
    for (int i = 0; i < static_cast<int>(g_.nodes.size()); ++i)
      if (g_.nodes[i].kind == OpKind::batch_norm_bwd && join(i)) uses_ = Uses(g_);
    for (int i = 0; i < static_cast<int>(g_.nodes.size()); ++i)
      if (g_.nodes[i].kind == OpKind::conv2d_bwd && (take_sums(i) || take_residual_sums(i))) uses_ = Uses(g_);
  }

 private:
  Graph& g_;
  Uses uses_;

  bool stands(const Value& v, int from, int to) const {
    for (int w : uses_.writers[v.buffer])
      if (w >= from && w <= to) return false;
    return true;
  }
  bool temporary(const Value& v) const {
    return g_.buffers[v.buffer].kind == Buffer::Kind::temporary && uses_.single_writer(v.buffer);
  }

  bool join(int i) {
    const Node& norm = g_.nodes[i];
    const auto& p = norm.params.as<BatchNormParams>();
    const Value dx = norm.out[0], y = norm.in[1];
    // A residual's gradient is what dy becomes behind the activation; else an affine map makes that again.
    const bool act = p.act.act != Act::none && !p.has_residual;
    if (p.coef_only || !loads_norms(g_, dx) || !temporary(dx) || (act && !p.has_affine)) return false;
    if (p.has_dy2 && !p.has_residual) return false;  // conv2d_bwd takes one gradient
    const std::vector<int>& readers = uses_.readers[dx.buffer];
    const bool both = readers.size() == 2;  // gradients; else that of the weights alone
    if (readers.empty() || readers.size() > 2 || readers.back() >= static_cast<int>(g_.nodes.size())) return false;
    const bool data_first = both && g_.nodes[readers[0]].kind == OpKind::conv2d_bwd_data;
    const Node& data = g_.nodes[readers[both && !data_first ? 1 : 0]];
    const Node& weights = g_.nodes[readers[data_first ? 1 : 0]];
    if (both ? !one_convolution(data, weights, dx) : !weights_from(weights, dx)) return false;
    if (data.region != norm.region || weights.region != norm.region) return false;
    if (!temporary(data.out[0]) || !temporary(weights.out[0])) return false;

    Node coef_only = norm;
    coef_only.params.as<BatchNormParams>().coef_only = 1;
    Value& coef = coef_only.out[0];
    coef = norm.out[1];
    coef.buffer = static_cast<int>(g_.buffers.size()), coef.offset = 0;
    coef.shape = {3, p.C}, coef.strides = canonical_strides(coef.shape);
    Conv2dBwdParams q;
    q.conv = weights.params.as<Conv2dParams>();
    if (act) q.norm_act = p.act;
    Node joint = data;
    joint.kind = OpKind::conv2d_bwd, joint.params = q;
    const Value dy = p.has_residual ? norm.out[3] : norm.in[0], x = weights.in[0];
    joint.in = {dy, x, y, norm.in[3], coef};
    if (both) joint.in.insert(joint.in.begin() + 1, data.in[1]);
    if (act) joint.in.push_back(norm.in[5]);
    joint.in.insert(joint.in.end(), weights.in.begin() + 2, weights.in.end());
    joint.out = {weights.out[0]};
    if (both) joint.out.insert(joint.out.begin(), data.out[0]);
    for (const Value& v : joint.in)
      if (v.buffer != coef.buffer && !stands(v, i + 1, readers.back())) return false;
    for (const Value& v : {dy, x, y})
      if (!loads_norms(g_, v)) return false;
    if (!has_kernel(joint, g_.device) || !same_kernel(norm, coef_only, g_.device)) return false;

    g_.buffers.push_back(
        {Buffer::Kind::temporary, 3 * p.C * static_cast<int64_t>(dtype_size(coef.dtype)), nullptr});
    const int first = readers[0], second = readers.back();
    g_.nodes[i] = std::move(coef_only);
    g_.nodes[first] = std::move(joint);
    if (both) g_.nodes.erase(g_.nodes.begin() + second);
    return true;
  }

  // Node i reads x through a norm and makes the gradient that this norm's backward pass takes: both read the same
  // x, so the sums of that pass are made here, and dx goes through the activation here.
  bool take_sums(int i) {
    const auto& p = g_.nodes[i].params.as<Conv2dBwdParams>();
    if (!p.conv.has_norm_in || p.has_sums || g_.nodes[i].out.size() < 2) return false;
    Node joint = g_.nodes[i];
    const size_t at = joint.in.size() - 2;
    const Value dx = joint.out[0], x = joint.in[2], mean = joint.in[at], affine = joint.in[at + 1];
    if (!temporary(dx)) return false;
    const std::vector<int> readers = uses_.readers[dx.buffer];
    const int end = static_cast<int>(g_.nodes.size());
    if (readers.empty() || readers.size() > 2 || readers.back() >= end) return false;
    Node norm = g_.nodes[readers[0]];
    if (norm.kind != OpKind::batch_norm_bwd || norm.region != joint.region) return false;
    auto& q = norm.params.as<BatchNormParams>();
    const bool act = q.act.act != Act::none;
    if (q.has_residual || q.has_dy2 || q.has_sums || (act && !q.has_affine)) return false;
    if (std::memcmp(&q.act, &p.conv.in_act, sizeof q.act) != 0 || !(norm.in[0] == dx) || !(norm.in[1] == x) ||
        !(norm.in[3] == mean) || (act && !(norm.in[5] == affine)))
      return false;
    Node before;  // whose gradient of the output is that of x
    if (readers.size() == 2) {
      before = g_.nodes[readers[1]];
      const size_t coef = before.out.size() > 1 ? 5 : 4;  // no weights where their gradient alone is asked for
      if (before.kind != OpKind::conv2d_bwd || !(before.in[0] == dx) || !(before.in[coef] == norm.out[0]))
        return false;
      before.params.as<Conv2dBwdParams>().norm_act = {};
      if (act) before.in.erase(before.in.begin() + coef + 1);
    }
    give_sums(joint, norm);
    auto kept = [&](const Node& now, int was) { return same_kernel(g_.nodes[was], now, g_.device); };
    if (!kept(joint, i) || !kept(norm, readers[0]) || (readers.size() == 2 && !kept(before, readers[1])))
      return false;
    add_sums(p.conv.C);
    if (readers.size() == 2) g_.nodes[readers[1]] = std::move(before);
    g_.nodes[readers[0]] = std::move(norm);
    g_.nodes[i] = std::move(joint);
    return true;
  }

  // Node i makes a gradient of x, and x is the output of a norm with a residual, whose backward pass is all that
  // reads it: the gradient joins the other one of x, goes through the activation and gives the sums here.
  bool take_residual_sums(int i) {
    const auto& p = g_.nodes[i].params.as<Conv2dBwdParams>();
    if (p.conv.has_norm_in || p.has_sums || g_.nodes[i].out.size() < 2) return false;
    Node joint = g_.nodes[i];
    const Value dx = joint.out[0], x = joint.in[2];
    if (!temporary(dx) || uses_.readers[dx.buffer].size() != 1) return false;
    const int r = uses_.readers[dx.buffer][0];
    if (r >= static_cast<int>(g_.nodes.size())) return false;
    Node norm = g_.nodes[r];
    if (norm.kind != OpKind::batch_norm_bwd || norm.region != joint.region) return false;
    auto& q = norm.params.as<BatchNormParams>();
    const bool act = q.act.act != Act::none, second = q.has_dy2 && norm.in.back() == dx;
    if (!q.has_residual || q.has_affine || q.has_sums || (act && !(norm.in[5] == x))) return false;
    if (!second && !(norm.in[0] == dx)) return false;
    const Value dz = norm.out[3];
    std::vector<Value> more{norm.in[1], norm.in[3]};
    if (q.has_dy2) more.push_back(second ? norm.in[0] : norm.in.back());
    if (!temporary(dz) || !(dz.shape == dx.shape) || !(dz.strides == dx.strides)) return false;
    for (const Value& v : more)
      if (!stands(v, i, r)) return false;
    for (const std::vector<int>* list : {&uses_.readers[dz.buffer], &uses_.writers[dz.buffer]})
      for (int at : *list)
        if (at < r) return false;
    joint.in.insert(joint.in.end(), more.begin(), more.end());
    joint.out[0] = dz;
    auto& own = joint.params.as<Conv2dBwdParams>();
    own.has_residual = 1, own.has_dy2 = q.has_dy2, own.out_act = q.act;
    norm.in[0] = dz, norm.out.pop_back();
    q.has_residual = q.has_dy2 = 0;
    give_sums(joint, norm);
    if (!same_kernel(g_.nodes[i], joint, g_.device) || !same_kernel(g_.nodes[r], norm, g_.device)) return false;
    add_sums(p.conv.C);
    g_.nodes[r] = std::move(norm);
    g_.nodes[i] = std::move(joint);
    return true;
  }

  // The sums that `norm` takes from its gradient, which is behind its activation, are a result of `joint`.
  void give_sums(Node& joint, Node& norm) const {
    auto& p = joint.params.as<Conv2dBwdParams>();
    auto& q = norm.params.as<BatchNormParams>();
    Value sums = norm.in[3];
    sums.buffer = static_cast<int>(g_.buffers.size()), sums.offset = 0, sums.dtype = DType::float64;
    sums.shape = {2, p.conv.C}, sums.strides = canonical_strides(sums.shape);
    p.has_sums = 1;
    joint.out.push_back(sums);
    q.has_sums = 1, q.act = {}, q.has_affine = 0;
    norm.in.resize(5);
    norm.in.push_back(sums);
  }
  void add_sums(int64_t C) {
    g_.buffers.push_back({Buffer::Kind::temporary, 2 * C * static_cast<int64_t>(sizeof(double)), nullptr});
  }

  // The weights' gradient of a convolution without a bias, from the gradient dx.
  static bool weights_from(const Node& weights, const Value& dx) {
    return weights.kind == OpKind::conv2d_bwd_weights && weights.in[1] == dx &&
           weights.in[0].buffer != dx.buffer && weights.out.size() == 1;
  }

  // The two backward passes of the same convolution, without a bias, from the gradient dx.
  static bool one_convolution(const Node& data, const Node& weights, const Value& dx) {
    if (data.kind != OpKind::conv2d_bwd_data || !weights_from(weights, dx)) return false;
    if (!(data.in[0] == dx) || data.in[1].buffer == dx.buffer || data.in.size() != 2) return false;
    if (!(data.in[1].shape == weights.out[0].shape)) return false;
    Conv2dParams a = data.params.as<Conv2dParams>(), b = weights.params.as<Conv2dParams>();
    b.has_norm_in = a.has_norm_in, b.in_act = a.in_act;
    return std::memcmp(&a, &b, sizeof a) == 0;
  }
};

}  // namespace

void norm_bwd_on_load(Graph& g) { NormBwdOnLoad(g).run(); }

}  // namespace fastcnn
