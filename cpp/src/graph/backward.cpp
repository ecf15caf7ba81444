// What it is: the walk over the tape: newest node first, gradients summed where paths meet, leaves filled last.
// What it is not: gradient rules; those stand beside each op.
#include <queue>
#include <unordered_map>
#include <unordered_set>

#include "fastcnn/autograd.h"
#include "fastcnn/ops.h"
#include "graph/tape.h"
#include "graph/trace.h"

namespace fastcnn {
namespace {

struct Pending {
  std::vector<Tensor> grads;
};

struct Newer {
  bool operator()(const TapeNode* a, const TapeNode* b) const { return a->sequence < b->sequence; }
};

void add_to(Tensor& slot, const Tensor& g) { slot = slot.defined() ? add(slot, g) : g; }

// Adds to leaf->grad: in place when nothing may look at the history of the old value.
void accumulate_leaf(const std::shared_ptr<TensorImpl>& leaf, const Tensor& g, bool create_graph) {
  Tensor& old = leaf->grad;
  Trace* trace = current_trace();
  if (trace && leaf->storage->trace == 0) {
    size_t known = trace->leaf_grads.size();
    Trace::LeafGrad& state = trace->leaf_grad(leaf);
    if (trace->leaf_grads.size() != known) state.read = true;  // first touch is this sum
  }
  if (!old.defined()) {
    // A gradient that shares memory with something else alive must not become the leaf's own.
    bool own = g.impl().use_count() <= 2 && g.impl()->storage.use_count() == 1;
    // Nor one whose elements share memory (of a sum): the next gradient is added to each of them.
    if (g.overlaps())
      old = clone(create_graph ? g : g.detach());
    else
      old = create_graph ? g : (own ? g.detach() : clone(g.detach()));
  } else if (create_graph || old.overlaps()) {
    old = add(old, g);
  } else {
    add_(old, g);
  }
}

Tensor default_grad(const Tensor& t) {
  check(t.numel() == 1, "backward: expected a scalar, or grad of the output's shape ", t.shape());
  return full(t.shape(), 1.0, t.dtype(), t.device());
}

// For grad(): which nodes lead to something asked for, so that the walk leaves the others out.
class Useful {
 public:
  Useful(const std::unordered_map<TapeNode*, std::vector<std::pair<int, size_t>>>& asked,
         const std::unordered_set<TensorImpl*>& asked_leaves)
      : asked_(asked), leaves_(asked_leaves) {}

  void visit(TapeNode* root) {  // iterative post-order: nets may be thousands of ops deep
    std::vector<std::pair<TapeNode*, size_t>> stack{{root, 0}};
    while (!stack.empty()) {
      auto& [n, i] = stack.back();
      if (i == 0 && known_.count(n)) {
        stack.pop_back();
        continue;
      }
      if (i < n->edges.size()) {
        TapeNode* next = n->edges[i++].node.get();
        if (next && !known_.count(next)) stack.push_back({next, 0});
        continue;
      }
      uint64_t mask = 0;
      for (size_t k = 0; k < n->edges.size(); ++k)
        if (leads(n->edges[k])) mask |= k < 64 ? uint64_t(1) << k : ~uint64_t(0);
      known_[n] = mask;
      stack.pop_back();
    }
  }
  uint64_t mask(TapeNode* n) const { return known_.at(n); }
  bool leads(const TapeNode::Edge& e) const {
    if (e.leaf) return leaves_.count(e.leaf.get()) != 0;
    return e.node && (asked_.count(e.node.get()) || known_.at(e.node.get()) != 0);
  }

 private:
  const std::unordered_map<TapeNode*, std::vector<std::pair<int, size_t>>>& asked_;
  const std::unordered_set<TensorImpl*>& leaves_;
  std::unordered_map<TapeNode*, uint64_t> known_;
};

void run_backward(const std::vector<Tensor>& outputs, const std::vector<Tensor>& grad_outputs,
                  const std::vector<Tensor>& wanted, std::vector<Tensor>* results, bool create_graph,
                  bool retain_graph) {
  check(grad_outputs.empty() || grad_outputs.size() == outputs.size(), "backward: expected ", outputs.size(),
        " gradients, got ", grad_outputs.size());
  GradMode mode(create_graph);
  std::unordered_map<TapeNode*, Pending> pending;
  std::unordered_map<TensorImpl*, Tensor> leaf_grads;
  std::vector<std::shared_ptr<TensorImpl>> leaf_order;
  std::priority_queue<TapeNode*, std::vector<TapeNode*>, Newer> queue;
  std::vector<std::shared_ptr<TapeNode>> alive;  // keeps nodes until the walk is over
  // Which (node, output) the caller asked for; wanted leaves are looked up in leaf_grads.
  std::unordered_map<TapeNode*, std::vector<std::pair<int, size_t>>> asked;
  std::unordered_set<TensorImpl*> asked_leaves;
  if (results)
    for (size_t i = 0; i < wanted.size(); ++i) {
      const TensorImpl& w = *wanted[i].impl();
      check(wanted[i].requires_grad(), "grad: input ", i, " of shape ", w.shape, " does not require gradients");
      if (w.producer)
        asked[w.producer.get()].push_back({w.producer_output, i});
      else
        asked_leaves.insert(wanted[i].impl().get());
    }

  Useful useful(asked, asked_leaves);
  if (results)
    for (const Tensor& o : outputs)
      if (o.defined() && o.impl()->producer) useful.visit(o.impl()->producer.get());

  auto send = [&](const std::shared_ptr<TapeNode>& node, int output, const std::shared_ptr<TensorImpl>& leaf,
                  const Tensor& g) {
    if (node) {
      auto [it, fresh] = pending.try_emplace(node.get());
      if (fresh) {
        it->second.grads.resize(node->outputs.size());
        queue.push(node.get());
        alive.push_back(node);
      }
      add_to(it->second.grads[output], g);
    } else if (leaf) {
      if (results && !asked_leaves.count(leaf.get())) return;  // other leaves keep what they have
      auto [it, fresh] = leaf_grads.try_emplace(leaf.get());
      if (fresh) leaf_order.push_back(leaf);
      add_to(it->second, g);
    }
  };

  for (size_t i = 0; i < outputs.size(); ++i) {
    const Tensor& o = outputs[i];
    check(o.defined() && o.requires_grad(), "backward: output ", i,
          " does not require gradients (no input of it does, or it was made under no_grad)");
    Tensor g = grad_outputs.empty() || !grad_outputs[i].defined() ? default_grad(o) : grad_outputs[i];
    check(g.shape() == o.shape(), "backward: expected a gradient of shape ", o.shape(), ", got ", g.shape());
    check<TypeError>(g.dtype() == o.dtype(), "backward: expected a gradient of dtype ", o.dtype(), ", got ",
                     g.dtype());
    send(o.impl()->producer, o.impl()->producer_output, o.impl()->producer ? nullptr : o.impl(), g);
  }

  while (!queue.empty()) {
    TapeNode* n = queue.top();
    queue.pop();
    std::vector<Tensor> grads = std::move(pending[n].grads);
    pending.erase(n);
    if (auto it = asked.find(n); it != asked.end())
      for (auto [output, index] : it->second) (*results)[index] = grads[output];
    check(!n->released, n->rule->name, ": backward ran a second time over the same graph; use retain_graph=True");
    if (results && useful.mask(n) == 0) continue;
    n->wanted = results ? useful.mask(n) : ~uint64_t(0);
    std::vector<Tensor> in = n->rule->vjp(*n, grads);
    n->wanted = ~uint64_t(0);
    grads.clear();
    check(in.size() == n->inputs.size(), n->rule->name, ": internal error, gradient rule returned ", in.size(),
          " gradients for ", n->inputs.size(), " inputs");
    for (size_t i = 0; i < in.size(); ++i) {
      if (!in[i].defined() || !n->needs(static_cast<int>(i))) continue;
      check(in[i].shape() == n->inputs[i].shape, n->rule->name, ": internal error, gradient of input ", i,
            " has shape ", in[i].shape(), ", input has ", n->inputs[i].shape);
      Tensor g = std::move(in[i]);
      in[i] = {};
      send(n->edges[i].node, n->edges[i].output, n->edges[i].leaf, g);
    }
    if (!retain_graph) release_saved(*n);
  }

  if (results) {
    for (size_t i = 0; i < wanted.size(); ++i)
      if (auto it = leaf_grads.find(wanted[i].impl().get()); it != leaf_grads.end()) (*results)[i] = it->second;
    return;
  }
  for (const auto& leaf : leaf_order) {
    Tensor g = std::move(leaf_grads[leaf.get()]);
    leaf_grads.erase(leaf.get());
    accumulate_leaf(leaf, g, create_graph);
  }
}

}  // namespace

std::vector<Tensor> grad(const std::vector<Tensor>& outputs, const std::vector<Tensor>& inputs,
                         const std::vector<Tensor>& grad_outputs, bool create_graph, bool retain_graph,
                         bool allow_unused) {
  std::vector<Tensor> results(inputs.size());
  run_backward(outputs, grad_outputs, inputs, &results, create_graph, create_graph || retain_graph);
  for (size_t i = 0; i < results.size(); ++i)
    check(allow_unused || results[i].defined(), "grad: the outputs do not depend on input ", i, " of shape ",
          inputs[i].shape(), "; pass allow_unused=True to get None for it");
  return results;
}

void backward(const std::vector<Tensor>& outputs, const std::vector<Tensor>& grad_outputs, bool create_graph,
              bool retain_graph) {
  run_backward(outputs, grad_outputs, {}, nullptr, create_graph, create_graph || retain_graph);
}

void Tensor::backward(const Tensor& g) const {
  fastcnn::backward({*this}, g.defined() ? std::vector<Tensor>{g} : std::vector<Tensor>{});
}

Tensor Tensor::grad() const {
  const auto& leaf = impl();
  check(leaf != nullptr, "grad: this handle is empty");
  if (Trace* t = current_trace(); t && leaf->storage->trace == 0) {
    size_t known = t->leaf_grads.size();
    Trace::LeafGrad& state = t->leaf_grad(leaf);
    if (t->leaf_grads.size() != known) state.read = true;
  }
  return leaf->grad;
}

void Tensor::set_grad(Tensor g) const {
  const auto& leaf = impl();
  check(leaf != nullptr, "grad: this handle is empty");
  check(!g.defined() || g.shape() == leaf->shape, "grad: expected shape ", leaf->shape, ", got ",
        g.defined() ? g.shape() : Dims{});
  if (Trace* t = current_trace(); t && leaf->storage->trace == 0) t->leaf_grad(leaf);
  leaf->grad = std::move(g);
}

}  // namespace fastcnn
