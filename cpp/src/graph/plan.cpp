// See plan.h.
#include "graph/plan.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>

#include "fastcnn/ops.h"
#include "graph/cost.h"
#include "graph/select.h"

namespace fastcnn {
namespace {

int64_t byte_offset(const Value& v) { return v.offset * static_cast<int64_t>(dtype_size(v.dtype)); }

}  // namespace

Plan::Plan(Trace& trace, const std::vector<Tensor>& outputs, std::shared_ptr<Arena> shared) {
  // What the traced code left in leaf gradients becomes outputs too.
  for (const Tensor& t : outputs) trace.graph.outputs.push_back(trace.value_of(t));
  for (Trace::LeafGrad& l : trace.leaf_grads) {
    LeafState s;
    s.leaf = l.leaf;
    s.read = l.read;
    s.had_grad = l.before.defined();
    s.required = l.leaf->requires_grad;
    if (s.had_grad)
      s.grad_storage = l.before.impl()->storage, s.grad_offset = l.before.offset(),
      s.grad_strides = l.before.strides();
    if (!l.after.defined()) {
      s.after = l.before.defined() ? LeafState::After::none : LeafState::After::unchanged;
      // A gradient set to None in the trace must be None after every run.
      if (!l.before.defined() && !l.read) s.after = LeafState::After::none;
    } else if (l.after.is_symbolic()) {
      s.after = LeafState::After::output;
      s.value = trace.value_of(l.after);
      s.identity = l.after.impl().get();
      trace.graph.outputs.push_back(s.value);
    } else if (!l.before.defined() || l.after.impl() != l.before.impl()) {
      s.after = LeafState::After::external;
      s.external = l.after;
    }
    leaves_.push_back(std::move(s));
  }
  if (trace.random_ops > 0) {
    Node n;
    n.kind = OpKind::rng_advance;
    n.params = RngAdvanceParams{trace.random_ops};
    Value state = trace.value_of(trace.random_state);
    n.in = {state};
    n.out = {state};
    trace.graph.nodes.push_back(std::move(n));
    random_ = {trace.random_state, zeros({2}, DType::int64, trace.random_state.device()), trace.random_ops,
               trace.leave_random};
    trace.graph.buffers[static_cast<size_t>(state.buffer)].storage = random_.turn.impl()->storage;
  }
  before_run_ = std::move(trace.before_run);
  graph_ = std::move(trace.graph);
  device_ = graph_.device;
  info_.traced_nodes = static_cast<int>(graph_.nodes.size());
  simplify(graph_);
  channel_gate(graph_);
  fuse(graph_);
  simplify(graph_);
  norm_on_load(graph_);
  norm_bwd_on_load(graph_);
  if (device_.type == DeviceType::cpu) depthwise_pointwise(graph_);  // it asks what the CPU's kernels can join
  conv2d_moments(graph_);
  if (device_.type == DeviceType::cpu)
    schedule(graph_);  // elsewhere optimizer steps stay together, to be one launch
  prepared_.emplace(graph_, take_constant(graph_), device_);
  if (device_.type == DeviceType::cuda) join_launches(graph_);
  info_.steps = static_cast<int>(graph_.nodes.size());

  // Choose implementations on shapes alone.
  size_t count = 0;
  for (const Node& n : graph_.nodes) count += n.in.size() + n.out.size();
  operands_.reserve(count);
  Backend& backend = backend_of(device_);
  std::vector<int64_t> workspace;
  std::vector<char> read_unprepared(graph_.buffers.size(), 0);
  steps_.reserve(graph_.nodes.size());
  for (const Node& n : graph_.nodes) {
    size_t first = operands_.size();
    for (const Value& v : n.in) operands_.push_back(operand_shape(v));
    for (const Value& v : n.out) operands_.push_back(operand_shape(v));
    Step s;
    s.params = n.params;
    s.call = {n.kind,
              nullptr,
              {operands_.data() + first, n.in.size()},
              {operands_.data() + first + n.in.size(), n.out.size()},
              nullptr};
    steps_.push_back(std::move(s));
    Step& step = steps_.back();
    step.call.params = step.params.data();
    if (prepared_->keeps(n)) step.call.prepared = &backend;  // any address: kernels whose weights are made ready
    const Implementation& impl = select_implementation(backend, step.call);
    step.call.prepared = nullptr;
    step.run = impl.run;
    step.implementation = &impl;
    const uint32_t prepared = prepared_->covered(impl, step.call, n);
    if (prepared) step.call.prepared = prepared_->add(impl, step.call, n, prepared);
    workspace.push_back(impl.workspace ? impl.workspace(step.call) : 0);
    for (size_t k = 0; k < n.in.size(); ++k)
      if (!(prepared >> k & 1)) read_unprepared[n.in[k].buffer] = 1;
  }
  prepared_->finish(graph_, read_unprepared);
  info_.prepared_bytes = prepared_->bytes();
  info_.prepared_operands = static_cast<int>(prepared_->operands());
  info_.prepared_nodes = static_cast<int>(prepared_->nodes());

  Layout layout = lay_memory(graph_, workspace);
  info_.arena_bytes = layout.arena_bytes;
  info_.tensor_bytes = layout.tensor_bytes;
  arena_ = shares_arena() ? std::move(shared) : std::make_shared<Arena>();

  fresh_index_.assign(graph_.buffers.size(), -1);
  for (const Value& v : graph_.outputs)
    if (graph_.buffers[v.buffer].kind == Buffer::Kind::temporary && fresh_index_[v.buffer] < 0) {
      fresh_index_[v.buffer] = static_cast<int>(fresh_buffers_.size());
      fresh_buffers_.push_back(v.buffer);
      info_.output_bytes += graph_.buffers[v.buffer].bytes;
    }
  for (LeafState& s : leaves_) {
    if (s.after != LeafState::After::output) continue;
    s.shared = graph_.buffers[s.value.buffer].kind != Buffer::Kind::temporary;
    for (const LeafState& o : leaves_)
      s.shared |=
          o.identity != s.identity && o.after == LeafState::After::output && o.value.buffer == s.value.buffer;
  }
  fresh_patches_.resize(fresh_buffers_.size());
  std::vector<int> input_of(graph_.buffers.size(), -1);
  for (size_t i = 0; i < graph_.inputs.size(); ++i) input_of[graph_.inputs[i].buffer] = static_cast<int>(i);
  input_patches_.resize(graph_.inputs.size());
  input_written_.assign(graph_.inputs.size(), 0);
  MemoryRanges met;  // by several externals
  for (const Buffer& b : graph_.buffers) {
    if (b.kind != Buffer::Kind::external) continue;
    const MemoryRange r = range_of(*b.storage);
    if (external_.meets(r)) met.add(r);
    external_.add(r);
  }

  std::vector<char> written(graph_.buffers.size(), 0);
  int64_t at = 0;
  for (size_t i = 0; i < graph_.nodes.size(); ++i) {
    const Node& n = graph_.nodes[i];
    auto bind = [&](const Value& v) {
      const Buffer& b = graph_.buffers[v.buffer];
      Operand& o = operands_[at];
      if (b.kind == Buffer::Kind::external)
        o.data = static_cast<char*>(b.storage->data) + byte_offset(v);
      else if (b.kind == Buffer::Kind::input)
        input_patches_[input_of[v.buffer]].push_back({at, byte_offset(v)});
      else if (fresh_index_[v.buffer] >= 0)
        fresh_patches_[fresh_index_[v.buffer]].push_back({at, byte_offset(v)});
      else
        arena_patches_.push_back({at, layout.offset[v.buffer] + byte_offset(v)});
      ++at;
    };
    for (const Value& v : n.in) bind(v);
    for (const Value& v : n.out) {
      bind(v);
      if (graph_.buffers[v.buffer].kind == Buffer::Kind::external && !written[v.buffer]) {
        written[v.buffer] = 1;
        written_.push_back(graph_.buffers[v.buffer].storage);
        external_written_.add(range_of(*written_.back()));
        externals_meet_ |= met.meets(range_of(*written_.back()));
      }
      if (input_of[v.buffer] >= 0) input_written_[input_of[v.buffer]] = writes_inputs_ = true;
    }
    if (layout.workspace[i] >= 0) workspace_patches_.push_back({static_cast<int64_t>(i), layout.workspace[i]});
  }
}

bool Plan::valid() const {
  for (const LeafState& s : leaves_) {
    if (!s.read) continue;
    auto leaf = s.leaf.lock();
    if (!leaf && !s.required && !s.had_grad) continue;  // a tensor of the moment
    if (!leaf || leaf->grad.defined() != s.had_grad) return false;
    if (s.had_grad && (leaf->grad.impl()->storage != s.grad_storage.lock() ||
                       leaf->grad.offset() != s.grad_offset || leaf->grad.strides() != s.grad_strides))
      return false;
  }
  return true;
}

// By addresses: NumPy and DLPack may give one memory out several times.
bool Plan::aliased(const std::vector<Tensor>& inputs) const {
  if (externals_meet_) return true;
  if (external_written_.empty() && !writes_inputs_) return false;
  MemoryRanges read, written;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const MemoryRange r = range_of(inputs[i]);
    if (external_written_.meets(r)) return true;
    if (!writes_inputs_) continue;
    if (written.meets(r) || (input_written_[i] && (read.meets(r) || external_.meets(r)))) return true;
    (input_written_[i] ? written : read).add(r);
  }
  return false;
}

Tensor Plan::output_tensor(const Value& v, const std::vector<Storage>& fresh,
                           const std::vector<Tensor>& inputs) const {
  const Buffer& b = graph_.buffers[v.buffer];
  Storage s = b.storage;
  int64_t offset = v.offset;
  if (b.kind == Buffer::Kind::temporary) s = fresh[fresh_index_[v.buffer]];
  if (b.kind == Buffer::Kind::input)
    for (size_t i = 0; i < graph_.inputs.size(); ++i)
      if (graph_.inputs[i].buffer == v.buffer) {
        s = inputs[i].impl()->storage;
        offset += inputs[i].offset();
      }
  return make_tensor(s, v.shape, v.strides, offset, v.dtype);
}

// Another plan may have made the shared arena larger, elsewhere.
void Plan::bind_arena() {
  if (info_.arena_bytes == 0) return;
  if (arena_->bytes() < info_.arena_bytes) {
    arena_->memory.reset();  // before the new one, so that both need not fit
    arena_->memory = allocate_storage(static_cast<size_t>(info_.arena_bytes), device_);
  }
  auto* base = static_cast<char*>(arena_->memory->data);
  if (base == bound_) return;
  bound_ = base;
  for (const Patch& p : arena_patches_) operands_[p.operand].data = base + p.byte_offset;
  for (const Patch& p : workspace_patches_) steps_[p.operand].call.workspace = base + p.byte_offset;
}

void Plan::bind_input(size_t i, void* data) {
  for (const Patch& p : input_patches_[i]) operands_[p.operand].data = static_cast<char*>(data) + p.byte_offset;
}
void Plan::bind_fresh(size_t i, void* data) {
  for (const Patch& p : fresh_patches_[i]) operands_[p.operand].data = static_cast<char*>(data) + p.byte_offset;
}

namespace {

size_t span_bytes(const Value& v) {  // from the first element to the end of the last
  int64_t n = 1;
  for (int i = 0; i < v.shape.size(); ++i) {
    if (v.shape[i] == 0) return 0;
    n += (v.shape[i] - 1) * v.strides[i];
  }
  return static_cast<size_t>(n) * dtype_size(v.dtype);
}

}  // namespace

// A recording has fixed addresses: inputs are copied into memory of the plan's own, results out of it.
void Plan::record() {
  for (size_t i = 0; i < graph_.inputs.size(); ++i) {
    fixed_inputs_.push_back(input_patches_[i].empty() ? nullptr
                                                      : allocate_storage(span_bytes(graph_.inputs[i]), device_));
    if (fixed_inputs_[i]) bind_input(i, fixed_inputs_[i]->data);
  }
  for (size_t i = 0; i < fresh_buffers_.size(); ++i) {
    fixed_fresh_.push_back(
        allocate_storage(static_cast<size_t>(graph_.buffers[fresh_buffers_[i]].bytes), device_));
    bind_fresh(i, fixed_fresh_[i]->data);
  }
  recording_ = backend_of(device_).record([this] { run_joined(); });
}

// Behind the last of the steps from `first` on that may run as one.
size_t Plan::joined_until(size_t first) const {
  const Step& f = steps_[first];
  const Implementation& kernel = *f.implementation;
  size_t i = first + 1;
  if (!kernel.run_many || (kernel.joins && !kernel.joins(f.call, f.call))) return i;
  const auto range = [](const Operand& o) { return range_of(o.data, o.shape, o.strides, o.ndim, o.dtype); };
  MemoryRanges read, written;  // what steps so far touch
  auto add = [&](const Call& c) {
    for (const Operand& o : c.in) read.add(range(o));
    for (const Operand& o : c.out) written.add(range(o));
  };
  auto apart = [&](const Call& c) {
    for (const Operand& o : c.in)
      if (written.meets(range(o))) return false;
    for (const Operand& o : c.out)
      if (written.meets(range(o)) || read.meets(range(o))) return false;
    return true;
  };
  auto joins = [&](const Step& s) {
    if (s.implementation != &kernel || s.call.kind != f.call.kind) return false;
    if (kernel.joins) return kernel.joins(f.call, s.call);
    return s.params == f.params && s.call.in.size() == f.call.in.size() &&
           s.call.in[0].dtype == f.call.in[0].dtype;
  };
  add(f.call);
  for (; i < steps_.size() && joins(steps_[i]) && apart(steps_[i].call); ++i) add(steps_[i].call);
  return i;
}

void Plan::run_joined() {
  std::vector<Call> calls;
  for (size_t i = 0; i < steps_.size();) {
    const size_t end = joined_until(i);
    if (end == i + 1) {
      steps_[i].run(steps_[i].call);
    } else {
      calls.clear();
      for (size_t k = i; k < end; ++k) calls.push_back(steps_[k].call);
      steps_[i].implementation->run_many(calls);
      joined_ += static_cast<int>(end - i);
    }
    i = end;
  }
}

std::vector<Storage> Plan::replay(const std::vector<Tensor>& inputs) {
  if (!recording_) record();
  Backend& backend = backend_of(device_);
  for (size_t i = 0; i < inputs.size(); ++i)
    if (fixed_inputs_[i])
      backend.copy(fixed_inputs_[i]->data, inputs[i].data(), span_bytes(graph_.inputs[i]), Copy::within);
  if (timed_)
    run_timed();
  else
    recording_->replay();
  for (size_t i = 0; i < inputs.size(); ++i)
    if (input_written_[i])
      backend.copy(inputs[i].data(), fixed_inputs_[i]->data, span_bytes(graph_.inputs[i]), Copy::within);
  std::vector<Storage> fresh;
  for (const Storage& s : fixed_fresh_) {
    fresh.push_back(allocate_storage(s->bytes, device_));
    backend.copy(fresh.back()->data, s->data, s->bytes, Copy::within);
  }
  return fresh;
}

std::vector<Storage> Plan::run_steps(const std::vector<Tensor>& inputs) {
  prepared_->refresh(graph_);
  if (device_.type == DeviceType::cuda) return replay(inputs);
  for (size_t i = 0; i < inputs.size(); ++i) bind_input(i, inputs[i].data());
  std::vector<Storage> fresh;
  fresh.reserve(fresh_buffers_.size());
  for (size_t i = 0; i < fresh_buffers_.size(); ++i) {
    fresh.push_back(allocate_storage(static_cast<size_t>(graph_.buffers[fresh_buffers_[i]].bytes), device_));
    bind_fresh(i, fresh[i]->data);
  }
  if (timed_)
    run_timed();
  else
    for (const Step& s : steps_) s.run(s.call);
  return fresh;
}

std::vector<Tensor> Plan::run(const std::vector<Tensor>& inputs) {
  bind_arena();
  std::vector<Storage> fresh;
  size_t counted = 0;
  bool drawn = false;
  // Who keeps something made of this memory asks for its version.
  const auto count_changes = [&] {
    for (const Storage& s : written_) ++s->version;
    for (size_t i = 0; i < inputs.size(); ++i) inputs[i].impl()->storage->version += input_written_[i];
  };
  try {
    for (; counted < before_run_.size(); ++counted) before_run_[counted].work();
    if (random_.count > 0) random_.leave(random_.state, random_.turn, random_.count, false), drawn = true;
    fresh = run_steps(inputs);
  } catch (...) {  // a label out of range: steps before it have written, the optimizer's have not
    count_changes();
    if (drawn) random_.leave(random_.state, random_.turn, random_.count, true);
    while (counted > 0)
      if (const auto& undo = before_run_[--counted].undo) undo();
    throw;
  }
  count_changes();
  for (LeafState& s : leaves_) {
    auto leaf = s.leaf.lock();
    if (!leaf || s.after == LeafState::After::unchanged) continue;
    if (s.after == LeafState::After::none)
      leaf->grad = {};
    else if (s.after == LeafState::After::external)
      leaf->grad = s.external;
    else
      leaf->grad = s.shared ? clone(output_tensor(s.value, fresh, inputs)) : output_tensor(s.value, fresh, inputs);
  }
  std::vector<Tensor> out;
  size_t returned = graph_.outputs.size();
  for (const LeafState& s : leaves_) returned -= s.after == LeafState::After::output;
  for (size_t i = 0; i < returned; ++i) out.push_back(output_tensor(graph_.outputs[i], fresh, inputs));
  return out;
}

void Plan::record_times(bool on) {
  timed_ = on;
  if (on) stamps_.clear();
}

void Plan::run_timed() {
  using Clock = std::chrono::steady_clock;
  Backend& backend = backend_of(device_);
  auto now = [] { return std::chrono::duration<double, std::milli>(Clock::now().time_since_epoch()).count(); };
  stamps_.reserve(stamps_.size() + stride());
  stamps_.push_back(now());
  for (const Step& s : steps_) {
    s.run(s.call);
    backend.synchronize();
    stamps_.push_back(now());
  }
}

std::vector<StepInfo> Plan::steps() const {
  std::vector<StepInfo> out;
  const size_t runs = static_cast<size_t>(recorded_runs());
  std::vector<double> times(runs);
  for (size_t i = 0; i < steps_.size(); ++i) {
    const Node& n = graph_.nodes[i];
    std::ostringstream shapes;
    for (const Value& v : n.in) shapes << (&v == &n.in[0] ? "" : " ") << v.shape;
    shapes << " ->";
    for (const Value& v : n.out) shapes << ' ' << v.shape;
    Cost cost = cost_of(steps_[i].call);
    StepInfo s{op_name(n.kind), steps_[i].implementation->name, shapes.str(), cost.bytes, cost.flops};
    if (runs) {
      const double* last = stamps_.data() + (runs - 1) * stride();
      s.last_start_ms = last[i] - last[0];
      s.last_ms = last[i + 1] - last[i];
      for (size_t r = 0; r < runs; ++r) times[r] = stamps_[r * stride() + i + 1] - stamps_[r * stride() + i];
      std::sort(times.begin(), times.end());
      s.ms = (times[runs / 2] + times[(runs - 1) / 2]) / 2;
    }
    out.push_back(std::move(s));
  }
  return out;
}

std::string Plan::describe() const {
  std::ostringstream s;
  s << "plan: " << info_.steps << " steps (" << info_.traced_nodes << " nodes traced), arena " << info_.arena_bytes
    << " bytes of " << info_.tensor_bytes << " bytes of temporaries\n";
  if (info_.prepared_nodes + info_.prepared_operands)
    s << "prepared when weights change: " << info_.prepared_nodes << " nodes, " << info_.prepared_operands
      << " operands in kernel order, " << info_.prepared_bytes << " bytes\n";
  if (recording_)
    s << "recorded: " << recording_->launches() << " kernels, a graph of " << recording_->nodes()
      << " nodes, as one launch; " << joined_ << " steps share kernels\n";
  int i = 0;
  for (const StepInfo& step : steps())
    s << i++ << ' ' << step.op << " [" << step.implementation << "] " << step.shapes << ' ' << step.bytes << " B "
      << step.flops << " FLOP\n";
  return s.str();
}

}  // namespace fastcnn
