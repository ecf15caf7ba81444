// What it is: Compiled: the cache of plans by key and input signature, least recently used first out.
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <list>
#include <memory>
#include <mutex>
#include <thread>

#include "fastcnn/graph.h"
#include "fastcnn/runtime.h"
#include "graph/plan.h"
#include "graph/tape.h"

namespace fastcnn {
namespace {

bool eager_forced() {
  static const bool on = [] {
    const char* v = std::getenv("FASTCNN_EAGER");
    return v && *v && *v != '0';
  }();
  return on;
}

std::string signature(const std::string& key, const std::vector<Tensor>& inputs) {
  std::string s = key;
  auto add = [&](int64_t v) { s.append(reinterpret_cast<const char*>(&v), sizeof v); };
  for (const Tensor& t : inputs) {
    add(static_cast<int64_t>(t.dtype()) * 64 + t.ndim());
    for (int64_t d : t.shape()) add(d);
    for (int64_t d : t.strides()) add(d);
    add(t.requires_grad() + 2 * t.impl()->storage->readonly + 4 * (t.device().type == DeviceType::cuda));
  }
  add(grad_enabled());
  add(get_conv_algorithm() == "direct");
  add(get_float32_matmul_precision() != "highest");
  s += isa();  // workspaces and prepared weights are laid out for its vectors
  return s;
}

struct Entry {
  std::string signature;
  int64_t id;
  std::unique_ptr<Plan> plan;
};

}  // namespace

struct Compiled::Impl {
  Fn fn;
  std::list<Entry> plans;  // most recent first
  std::shared_ptr<Arena> arena = std::make_shared<Arena>();
  CacheInfo cache;
  int64_t most_plans = 0, next_id = 1, own_bytes = 0;
  std::mutex mutex;  // plans have fixed memory: one run at a time, other threads wait
  std::atomic<std::thread::id> runner{};
  bool timed = false;

  // Waits for a run of another thread; what the run itself calls may look, but not change plans.
  std::unique_lock<std::mutex> look() {
    if (runner.load() == std::this_thread::get_id()) return {};
    return std::unique_lock<std::mutex>(mutex);
  }

  std::unique_ptr<Plan> trace(const std::vector<Tensor>& inputs, const Fn& f) {
    Trace t;
    std::vector<Tensor> symbols;
    for (const Tensor& in : inputs) {
      Tensor s = t.new_symbol(in.shape(), in.strides(), in.dtype(), in.device(), Buffer::Kind::input);
      t.graph.inputs.push_back(t.value_of(s));
      s.impl()->storage->readonly = in.impl()->storage->readonly;
      if (in.requires_grad()) s.set_requires_grad();
      symbols.push_back(std::move(s));
    }
    std::vector<Tensor> out;
    try {
      TraceScope scope(&t);
      out = f(symbols);
      for (const Tensor& o : out) check(o.defined(), "compile: the function returned an empty tensor");
    } catch (...) {
      t.restore_leaf_grads();
      throw;
    }
    t.restore_leaf_grads();
    return std::make_unique<Plan>(t, out, arena);
  }

  // The newest plan stays, whatever its size.
  void evict() {
    while (plans.size() > 1 && (own_bytes > cache.budget || cache.plans > most_plans)) {
      own_bytes -= plans.back().plan->own_bytes();
      plans.pop_back();
      ++cache.evictions;
      --cache.plans;
    }
    int64_t shared = 0;
    for (const Entry& e : plans) shared = std::max(shared, e.plan->shared_bytes());
    if (arena->bytes() > 2 * shared) arena->memory.reset();  // the plan that needed as much is gone
    cache.bytes = own_bytes + shared;
  }
};

Compiled::Compiled(Fn fn, int64_t budget_bytes, int64_t most_plans) : impl_(std::make_unique<Impl>()) {
  impl_->fn = std::move(fn);
  impl_->most_plans = most_plans;
  impl_->cache.budget = budget_bytes;
}
Compiled::~Compiled() = default;
Compiled::Compiled(Compiled&&) noexcept = default;
Compiled& Compiled::operator=(Compiled&&) noexcept = default;
Compiled::Impl& Compiled::impl() const {
  check(impl_ != nullptr, "compile: this Compiled has been moved from");
  return *impl_;
}

std::vector<Tensor> Compiled::operator()(const std::vector<Tensor>& inputs) {
  check(static_cast<bool>(impl().fn), "compile: this Compiled was made without a function");
  return call({}, inputs, impl().fn);
}

std::vector<Tensor> Compiled::call(const std::string& key, const std::vector<Tensor>& inputs, const Fn& fn,
                                   int64_t* plan_id) {
  Impl& m = impl();
  if (plan_id) *plan_id = 0;
  // Inside another trace the ops simply join it; eager mode runs the function as it is.
  if (eager_forced() || is_tracing()) return fn(inputs);
  check(m.runner.load() != std::this_thread::get_id(), "compile: a compiled function was called while it runs");
  std::lock_guard<std::mutex> lock(m.mutex);
  struct Guard {
    std::atomic<std::thread::id>& runner;
    explicit Guard(std::atomic<std::thread::id>& r) : runner(r) { runner = std::this_thread::get_id(); }
    ~Guard() { runner = std::thread::id(); }
  } guard(m.runner);
  for (const Tensor& t : inputs) check(t.defined(), "compile: an input is an empty tensor");
  std::string sig = signature(key, inputs);
  // A plan moves work as if its arguments were apart from each other and from what the function reaches itself:
  // where they are not, and one is written, the function runs as it is.
  const auto run = [&](Entry& e) {
    const bool apart = !e.plan->aliased(inputs);
    if (plan_id) *plan_id = apart ? e.id : -e.id;
    return apart ? e.plan->run(inputs) : fn(inputs);
  };
  for (auto it = m.plans.begin(); it != m.plans.end(); ++it) {
    if (it->signature != sig || !it->plan->valid()) continue;
    if (it != m.plans.begin()) m.plans.splice(m.plans.begin(), m.plans, it);
    ++m.cache.hits;
    return run(m.plans.front());
  }
  ++m.cache.misses;
  std::unique_ptr<Plan> plan = m.trace(inputs, fn);
  plan->record_times(m.timed);
  m.own_bytes += plan->own_bytes();
  ++m.cache.plans;
  m.plans.push_front({std::move(sig), m.next_id++, std::move(plan)});
  m.evict();
  return run(m.plans.front());
}

PlanInfo Compiled::info() const {
  const auto lock = impl().look();
  return impl().plans.empty() ? PlanInfo{} : impl().plans.front().plan->info();
}
std::string Compiled::describe() const {
  const auto lock = impl().look();
  return impl().plans.empty() ? "no plan yet\n" : impl().plans.front().plan->describe();
}
std::vector<StepInfo> Compiled::steps() const {
  const auto lock = impl().look();
  return impl().plans.empty() ? std::vector<StepInfo>{} : impl().plans.front().plan->steps();
}
void Compiled::record_times(bool on) {
  const auto lock = impl().look();
  check(lock.owns_lock(), "compile: times were turned on or off while a compiled function runs");
  impl().timed = on;
  for (Entry& e : impl().plans) e.plan->record_times(on);
}
int64_t Compiled::recorded_runs() const {
  const auto lock = impl().look();
  return impl().plans.empty() ? 0 : impl().plans.front().plan->recorded_runs();
}
CacheInfo Compiled::cache_info() const {
  const auto lock = impl().look();
  return impl().cache;
}
std::vector<int64_t> Compiled::plan_ids() const {
  const auto lock = impl().look();
  std::vector<int64_t> ids;
  for (const Entry& e : impl().plans) ids.push_back(e.id);
  return ids;
}
void Compiled::reset() {
  const auto lock = impl().look();
  check(lock.owns_lock(), "compile: a compiled function was reset while it runs");
  impl().plans.clear();
  impl().arena->memory.reset();
  impl().cache.bytes = impl().cache.plans = impl().own_bytes = 0;
}

}  // namespace fastcnn
