// What it is: a graph made executable: implementations chosen, temporaries laid into one arena by their lifetimes,
// every call bound to addresses. What it is not: a cache (compile.cpp) or a tracer (trace.h).
#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "core/memory_ranges.h"
#include "fastcnn/graph.h"
#include "graph/ir.h"
#include "graph/prepared.h"
#include "graph/trace.h"

namespace fastcnn {

// Offsets of buffers in the arena; -1 for buffers that are not temporaries.
struct Layout {
  std::vector<int64_t> offset;     // by buffer
  std::vector<int64_t> workspace;  // by node
  int64_t arena_bytes = 0, tensor_bytes = 0;
};
Layout lay_memory(const Graph& g, const std::vector<int64_t>& workspace_bytes);

// Memory for temporaries that plans share of which one runs at a time: nothing in it outlives a run.
struct Arena {
  Storage memory;
  int64_t bytes() const { return memory ? static_cast<int64_t>(memory->bytes) : 0; }
};

class Plan {
 public:
  // Takes over a finished trace. `outputs` are what the traced function returned. Recorded launches (CUDA) have
  // fixed addresses, so there a plan has an arena of its own instead of the shared one.
  Plan(Trace& trace, const std::vector<Tensor>& outputs, std::shared_ptr<Arena> shared);

  bool valid() const;  // are the leaf gradients in the state the trace saw?
  // Is memory of an input that the plan writes, or of one beside it, another operand's as well?
  bool aliased(const std::vector<Tensor>& inputs) const;
  std::vector<Tensor> run(const std::vector<Tensor>& inputs);

  const PlanInfo& info() const { return info_; }
  std::string describe() const;
  std::vector<StepInfo> steps() const;
  void record_times(bool on);
  int64_t recorded_runs() const { return steps_.empty() ? 0 : static_cast<int64_t>(stamps_.size() / stride()); }
  int64_t own_bytes() const { return info_.prepared_bytes + (shares_arena() ? 0 : info_.arena_bytes); }
  int64_t shared_bytes() const { return shares_arena() ? info_.arena_bytes : 0; }

 private:
  struct Step {
    void (*run)(const Call&);
    Call call;
    const Implementation* implementation;
    Params params;
  };
  struct Patch {  // an operand whose memory changes from run to run
    int64_t operand;
    int64_t byte_offset;
  };
  struct LeafState {
    std::weak_ptr<TensorImpl> leaf;
    bool read = false, had_grad = false, required = false;
    std::weak_ptr<StorageImpl> grad_storage;
    int64_t grad_offset = 0;
    Dims grad_strides;
    enum class After { unchanged, none, output, external } after = After::unchanged;
    Value value;                     // of the gradient, when After::output
    const void* identity = nullptr;  // of the tensor that the traced code left
    bool shared = false;  // its memory is an input's or another leaf's gradient as well: the leaf gets a copy
    Tensor external;
  };

  bool shares_arena() const { return device_.type == DeviceType::cpu; }
  size_t stride() const { return steps_.size() + 1; }
  void run_timed();
  void bind_arena();
  void bind_input(size_t i, void* data);
  void bind_fresh(size_t i, void* data);
  void record();
  void run_joined();
  size_t joined_until(size_t first) const;
  std::vector<Storage> run_steps(const std::vector<Tensor>& inputs);
  std::vector<Storage> replay(const std::vector<Tensor>& inputs);

  Tensor output_tensor(const Value& v, const std::vector<Storage>& fresh, const std::vector<Tensor>& inputs) const;

  Graph graph_;
  std::optional<Prepared> prepared_;
  Device device_;
  std::vector<Step> steps_;
  std::vector<Operand> operands_;
  std::vector<std::vector<Patch>> input_patches_;  // by input
  std::vector<int> fresh_buffers_;                 // returned temporaries: new memory for each run
  std::vector<int> fresh_index_;                   // by buffer
  std::vector<std::vector<Patch>> fresh_patches_;  // by position in fresh_buffers_
  std::vector<LeafState> leaves_;
  std::vector<HostWork> before_run_;
  struct RandomPlaces {  // what a run draws from: a copy of the generator's state, which moves on as the run
                         // begins
    Tensor state, turn;
    int64_t count = 0;
    void (*leave)(const Tensor& state, const Tensor& turn, int64_t count, bool gives_back) = nullptr;
  } random_;
  std::vector<Storage> written_;  // externals whose version moves with each run
  std::shared_ptr<Arena> arena_;
  char* bound_ = nullptr;                 // where the arena was when the calls were bound
  std::vector<Patch> arena_patches_;      // operands in it
  std::vector<Patch> workspace_patches_;  // the same for workspaces, by step
  // On a device that records: its launches as one, and fixed memory for what comes and goes (null: nobody reads
  // it).
  std::unique_ptr<Recording> recording_;
  std::vector<Storage> fixed_inputs_, fixed_fresh_;
  std::vector<char> input_written_;
  MemoryRanges external_, external_written_;
  bool writes_inputs_ = false;
  bool externals_meet_ = false;  // some of them are one memory, and it is written
  int joined_ = 0;               // steps that run_joined ran together with others
  bool timed_ = false;
  std::vector<double> stamps_;  // ms; per recorded run: the start and the end of each step
  PlanInfo info_;
};

}  // namespace fastcnn
