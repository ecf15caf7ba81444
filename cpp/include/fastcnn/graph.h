// What it is: compile: a function on tensors is traced once per input signature, planned, and replayed without
// allocation, look-up or Python. What it is not: a new language; fn is ordinary code with ops, backward(),
// optimizers. What must change per step lives in tensors (inputs, parameters, statistics, learning rates), never
// in constants. Gradients do not flow out of a compiled function: differentiate inside it.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "fastcnn/tensor.h"

namespace fastcnn {

struct PlanInfo {
  int64_t arena_bytes = 0;     // one block for all temporaries and workspaces, from their lifetimes
  int64_t tensor_bytes = 0;    // the sum of all temporaries: what it would take without reuse
  int64_t output_bytes = 0;    // allocated anew for each run
  int64_t prepared_bytes = 0;  // constants and weights in kernel order, made again only when a weight changes
  int prepared_nodes = 0, prepared_operands = 0;
  int traced_nodes = 0, steps = 0;  // before and after simplify and fuse
};

// One step of a plan. The cost is a model (cost.h), the time is measured while record_times is on.
struct StepInfo {
  std::string op, implementation, shapes;  // shapes: "(1,3,8,8) (4,3,3,3) -> (1,4,6,6)"
  int64_t bytes = 0, flops = 0;
  double ms = 0;                          // median over the recorded runs, 0 without any
  double last_start_ms = 0, last_ms = 0;  // in the last recorded run, from its start
};

struct CacheInfo {
  int64_t hits = 0, misses = 0, evictions = 0, plans = 0, bytes = 0, budget = 0;
};

class FASTCNN_API Compiled {
 public:
  using Fn = std::function<std::vector<Tensor>(const std::vector<Tensor>&)>;
  // Plans are kept for the most recent input signatures, at most most_plans, as long as what each holds alone
  // (prepared weights; on CUDA its temporaries) fits the budget. On the CPU all share the temporaries of the
  // largest.
  explicit Compiled(Fn fn = {}, int64_t budget_bytes = int64_t(2) << 30, int64_t most_plans = 64);
  ~Compiled();
  Compiled(Compiled&&) noexcept;
  Compiled& operator=(Compiled&&) noexcept;

  std::vector<Tensor> operator()(const std::vector<Tensor>& inputs);
  // The same with a key for everything that is not a tensor; `fn` is traced if no plan fits. plan_id names the
  // plan: 0 where there is none, negative where it fits but `fn` ran as it is, for it would write memory that two
  // operands share.
  std::vector<Tensor> call(const std::string& key, const std::vector<Tensor>& inputs, const Fn& fn,
                           int64_t* plan_id = nullptr);
  // These wait for a run of another thread; within a run itself, record_times and reset are a ValueError.
  PlanInfo info() const;                // of the plan that ran last
  std::string describe() const;         // its steps: op, shapes, implementation, bytes, FLOPs
  std::vector<StepInfo> steps() const;  // the same as data
  // While on, every run stores the time of each of its steps. Turning it on forgets earlier times.
  void record_times(bool on);
  int64_t recorded_runs() const;  // of the plan that ran last
  CacheInfo cache_info() const;
  std::vector<int64_t> plan_ids() const;  // of the plans that are kept, the newest first
  void reset();                           // forgets all plans

 private:
  struct Impl;
  Impl& impl() const;  // ValueError once it has been moved from
  std::unique_ptr<Impl> impl_;
};

// Does host work that each replay of a compiled step needs again: now, or, while tracing, before every replay.
// undo: takes it back where that replay fails.
FASTCNN_API void on_each_run(std::function<void()> work, std::function<void()> undo = {});
FASTCNN_API bool is_tracing();

}  // namespace fastcnn
