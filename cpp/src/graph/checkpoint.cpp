// See checkpoint.h.
#include "graph/checkpoint.h"

#include <utility>

#include "fastcnn/autocast.h"
#include "fastcnn/autograd.h"
#include "fastcnn/ops.h"
#include "fastcnn/runtime.h"
#include "graph/select.h"
#include "graph/trace.h"

namespace fastcnn {
namespace {

thread_local Region* active = nullptr;

struct Activate {
  Region* saved;
  explicit Activate(Region* r) : saved(std::exchange(active, r)) {}
  ~Activate() { active = saved; }
};

class SameRandomNumbers {  // scope: the count of a trace goes back, and forward again at the end
 public:
  explicit SameRandomNumbers(int64_t ops) : trace_(current_trace()) {
    if (trace_) saved_ = std::exchange(trace_->random_ops, ops);
  }
  ~SameRandomNumbers() {
    if (trace_) trace_->random_ops = saved_;
  }

 private:
  Trace* trace_;
  int64_t saved_ = 0;
};

// Nodes of a second run must not be merged with those of the first: that is what the memory is saved by.
class NewRegionOfTrace {
 public:
  NewRegionOfTrace() : trace_(current_trace()) {
    if (trace_) saved_ = std::exchange(trace_->region, ++trace_->regions);
  }
  ~NewRegionOfTrace() {
    if (trace_) trace_->region = saved_;
  }

 private:
  Trace* trace_;
  int saved_ = 0;
};

}  // namespace

bool Region::records_forward() { return active && !active->refilling_; }

void Region::note(const std::shared_ptr<TapeNode>& node) {
  if (!active) return;
  if (active->refilling_) {
    active->again_.push_back(node);
    return;
  }
  node->region = active->shared_from_this();
  active->nodes_.push_back(node);
}

bool Region::already_done(const Tensor& written) {
  for (const Region* r = active; r; r = r->outer_)
    if (r->refilling_ && written.impl()->storage->born < r->born_) return true;
  return false;
}

bool Region::runs_again() {
  for (const Region* r = active; r; r = r->outer_)
    if (r->refilling_) return true;
  return false;
}

Tensor Region::turn(const std::function<Tensor()>& fresh) {
  if (refilling_) {
    check(next_turn_ < turns_.size(), "checkpoint: the function drew random numbers ", turns_.size(),
          " times at first and more often when it was computed again; it must do the same");
    return turns_[next_turn_++];
  }
  turns_.push_back(outer_ ? outer_->turn(fresh) : fresh());
  return turns_.back();
}
Tensor Region::random_turn(const std::function<Tensor()>& fresh) { return active ? active->turn(fresh) : fresh(); }

void Region::forward() {
  autocast_ = autocast_dtype();
  if (const Trace* t = current_trace()) random_ops_ = t->random_ops;
  struct Inside {
    Region*& outer;
    Inside(Region*& o, Region* now) : outer(o) { outer = now; }
    ~Inside() { outer = nullptr; }
  } inside(outer_, active);
  Activate scope(this);
  run_();
}

void Region::refill() {
  check(!refilling_, "checkpoint: the function asked for its own gradient while it was computed again");
  struct Done {
    Region& r;
    ~Done() {
      r.refilling_ = false;
      r.again_.clear();
    }
  } done{*this};
  refilling_ = true;
  next_turn_ = 0;
  born_ = storages_born();
  {
    Activate scope(this);
    GradMode grads(true);
    Autocast precision(autocast_);
    SameRandomNumbers random(random_ops_);
    NewRegionOfTrace region;
    run_();
  }
  check(again_.size() == nodes_.size(), "checkpoint: the function ran ", nodes_.size(),
        " differentiable ops at first and ", again_.size(), " when it was computed again; it must do the same");
  for (size_t i = 0; i < nodes_.size(); ++i) {
    const std::shared_ptr<TapeNode> node = nodes_[i].lock();
    if (!node || node->released) continue;
    TapeNode& twin = *again_[i];
    check(node->rule->vjp == twin.rule->vjp && node->inputs.size() == twin.inputs.size(),
          "checkpoint: the function ran ", node->rule->name, " at first and ", twin.rule->name,
          " in its place when it was computed again; it must do the same");
    for (size_t k = 0; k < node->inputs.size(); ++k) {
      TapeNode::Slot& s = node->inputs[k];
      if (!s.dropped) continue;
      const Tensor& t = twin.inputs[k].tensor;
      check(t.defined() && t.shape() == s.shape, "checkpoint: ", node->rule->name, " had an input of shape ",
            s.shape, " at first and ", twin.inputs[k].shape, " when it was computed again");
      s.tensor = make_view(t, t.shape(), t.strides(), t.offset());
      // The history is that of the first run, so that second derivatives find the same leaves.
      s.tensor.impl()->producer = node->edges[k].node;
      s.tensor.impl()->producer_output = node->edges[k].output;
      s.version = t.impl()->storage->version;
    }
    for (size_t k = 0; k < node->outputs.size(); ++k) {
      TapeNode::Slot& s = node->outputs[k];
      if (!s.dropped) continue;
      s.tensor = twin.outputs[k].tensor;
      s.version = s.tensor.impl()->storage->version;
    }
  }
}

void checkpoint(const std::function<void()>& run) {
  check(static_cast<bool>(run), "checkpoint: expected a function");
  if (!grad_enabled()) return run();
  std::make_shared<Region>(run)->forward();
}

}  // namespace fastcnn
