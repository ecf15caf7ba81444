// What it is: the recording of one call of a function as a Graph: symbolic tensors, external storages, the state
// of leaf gradients before and after. What it is not: planning or caching (plan.h, compile.h).
#pragma once
#include <functional>
#include <unordered_map>
#include <vector>

#include "graph/ir.h"

namespace fastcnn {

// Of each replay: learning rates, step counts. undo, where there is one, takes it back after a replay that failed.
struct HostWork {
  std::function<void()> work, undo;
};

class Trace {
 public:
  const uint64_t id = next_id();
  Graph graph;
  int region = 0, regions = 0;  // in use and so far: see Node::region
  int64_t random_ops = 0;       // so far in this trace: the delta of the next one
  Tensor random_state;          // generator state in use; advanced once at the end
  // Leaves `count` places of a state to a run, which reads them from `turn`; gives_back: takes back those of a run
  // that failed on the CPU, where nobody has drawn since.
  void (*leave_random)(const Tensor& state, const Tensor& turn, int64_t count, bool gives_back) = nullptr;

  // What the traced code did to the gradient of a leaf that lives outside.
  struct LeafGrad {
    std::shared_ptr<TensorImpl> leaf;
    Tensor before;      // restored when the trace ends
    bool read = false;  // its old value (or absence) mattered: replays are only valid in the same state
    Tensor after;
  };
  std::vector<LeafGrad> leaf_grads;
  std::vector<HostWork> before_run;

  // A view that was made, for those who write the graph down: plans see memory, readers want to see `op`.
  struct View {
    const char* op;
    Params params;
    Value base, out;
    size_t node = 0;      // how many nodes came before it
    bool copied = false;  // the last of them made the memory that `out` shows
  };
  bool keep_views = false;
  std::vector<View> views;
  void note_view(const char* op, const Params& params, const Tensor& base, const Tensor& out, bool copied = false);

  Tensor new_symbol(const Dims& shape, const Dims& strides, DType dtype, Device device, Buffer::Kind kind);
  Value value_of(const Tensor& t);
  void record(OpKind kind, const Params& params, const std::vector<Tensor>& in, const std::vector<Tensor>& out);
  LeafGrad& leaf_grad(const std::shared_ptr<TensorImpl>& leaf);  // remembered at first touch
  void restore_leaf_grads() noexcept;                            // puts `before` back, keeps `after`

 private:
  static uint64_t next_id();
  std::unordered_map<StorageImpl*, int> externals_;
  std::unordered_map<TensorImpl*, size_t> leaf_index_;
};

Trace* current_trace();

class TraceScope {
 public:
  explicit TraceScope(Trace* t);
  ~TraceScope();
  TraceScope(const TraceScope&) = delete;

 private:
  Trace* saved_;
};

}  // namespace fastcnn
