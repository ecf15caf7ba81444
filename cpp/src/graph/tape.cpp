// See tape.h.
#include "graph/tape.h"

#include <atomic>
#include <utility>

#include "fastcnn/autograd.h"
#include "graph/checkpoint.h"

namespace fastcnn {
namespace {

thread_local bool grad_on = true;
std::atomic<uint64_t> sequence{0};

// Leaves stay alive anyway; everything else that a checkpoint saw is computed again.
bool drops(const Tensor& t) { return Region::records_forward() && (t.impl()->producer || !t.requires_grad()); }

TapeNode::Slot slot_of(const Tensor& t, bool keep) {
  TapeNode::Slot s;
  s.shape = t.shape();
  s.dtype = t.dtype();
  s.device = t.device();
  s.version = t.impl()->storage->version;
  s.dropped = keep && drops(t);
  if (keep && !s.dropped) s.tensor = t;
  return s;
}

void check_slot(const TapeNode& n, const TapeNode::Slot& s, const char* what, int i) {
  check(!n.released, n.rule->name, ": backward ran a second time over the same graph; use retain_graph=True");
  if (s.dropped && !s.tensor.defined()) n.region->refill();
  check(s.tensor.defined(), n.rule->name, ": internal error, ", what, " ", i, " was not saved for backward");
  check(s.tensor.impl()->storage->version == s.version, n.rule->name, ": ", what, " ", i, " of shape ", s.shape,
        " is needed for the gradient but was changed in place since");
}

}  // namespace

bool grad_enabled() { return grad_on; }
GradMode::GradMode(bool on) : saved_(grad_on) { grad_on = on; }
GradMode::~GradMode() { grad_on = saved_; }
bool is_grad_enabled() { return grad_on; }
bool set_grad_enabled(bool on) { return std::exchange(grad_on, on); }

TapeNode::~TapeNode() {
  for (Edge& e : edges)
    if (e.node) release_tape(std::move(e.node));
}

Tensor TapeNode::input(int i) const {
  check_slot(*this, inputs[i], "input", i);
  return inputs[i].tensor;
}

Tensor TapeNode::output(int i) const {
  const Slot& s = outputs[i];
  check_slot(*this, s, "output", i);
  // Saved without history, or node and output would own each other; given back here.
  Tensor t = make_view(s.tensor, s.tensor.shape(), s.tensor.strides(), s.tensor.offset());
  t.impl()->producer = std::const_pointer_cast<TapeNode>(shared_from_this());
  t.impl()->producer_output = i;
  return t;
}

void release_saved(TapeNode& n) {
  n.released = true;
  n.region.reset();
  for (auto& s : n.inputs) s.tensor = {};
  for (auto& s : n.outputs) s.tensor = {};
}

void release_tape(std::shared_ptr<TapeNode>&& node) {
  thread_local std::vector<std::shared_ptr<TapeNode>>* queue = nullptr;
  if (queue) {
    queue->push_back(std::move(node));
    return;
  }
  std::vector<std::shared_ptr<TapeNode>> q;
  queue = &q;
  q.push_back(std::move(node));
  while (!q.empty()) {
    std::shared_ptr<TapeNode> n = std::move(q.back());
    q.pop_back();
    n.reset();
  }
  queue = nullptr;
}

void record_on_tape(const Rule& rule, const Params& params, const std::vector<Tensor>& inputs,
                    std::vector<Tensor>& outputs) {
  if (!grad_on) return;
  bool any = false;
  for (const Tensor& t : inputs) any |= t.requires_grad();
  if (!any) return;
  auto n = std::make_shared<TapeNode>();
  n->rule = &rule;
  n->params = params;
  n->sequence = ++sequence;
  n->inputs.reserve(inputs.size());
  n->edges.reserve(inputs.size());
  for (size_t i = 0; i < inputs.size(); ++i) {
    const Tensor& t = inputs[i];
    n->inputs.push_back(slot_of(t, rule.save_in >> i & 1));
    TapeNode::Edge e;
    if (t.impl()->producer) {
      e.node = t.impl()->producer;
      e.output = t.impl()->producer_output;
    } else if (t.impl()->requires_grad) {
      e.leaf = t.impl();
    }
    n->edges.push_back(std::move(e));
  }
  for (size_t i = 0; i < outputs.size(); ++i) {
    n->outputs.push_back(slot_of(outputs[i], false));
    if (!(rule.save_out >> i & 1)) continue;
    n->outputs[i].dropped = Region::records_forward();
    if (!n->outputs[i].dropped) n->outputs[i].tensor = outputs[i].detach();
  }
  Region::note(n);
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (!is_floating(outputs[i].dtype())) continue;
    outputs[i].impl()->producer = n;
    outputs[i].impl()->producer_output = static_cast<int>(i);
  }
}

}  // namespace fastcnn
