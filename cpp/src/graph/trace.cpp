// See trace.h.
#include "graph/trace.h"

#include <atomic>

#include "fastcnn/graph.h"

namespace fastcnn {

namespace {
thread_local Trace* active = nullptr;
}

Trace* current_trace() { return active; }
bool is_tracing() { return active != nullptr; }
void on_each_run(std::function<void()> work, std::function<void()> undo) {
  check(static_cast<bool>(work), "on_each_run: expected a function");
  if (active)
    active->before_run.push_back({std::move(work), std::move(undo)});
  else
    work();
}
TraceScope::TraceScope(Trace* t) : saved_(active) { active = t; }
TraceScope::~TraceScope() { active = saved_; }

uint64_t Trace::next_id() {
  static std::atomic<uint64_t> last{0};
  return ++last;
}

Tensor Trace::new_symbol(const Dims& shape, const Dims& strides, DType dtype, Device device, Buffer::Kind kind) {
  int64_t n = checked_numel("compile", shape, dtype);
  auto s = std::make_shared<StorageImpl>();
  s->bytes = static_cast<size_t>(n) * dtype_size(dtype);
  s->device = device;
  s->trace = id;
  s->buffer = static_cast<int>(graph.buffers.size());
  graph.buffers.push_back({kind, static_cast<int64_t>(s->bytes), nullptr});
  return make_tensor(std::move(s), shape, strides, 0, dtype);
}

Value Trace::value_of(const Tensor& t) {
  const TensorImpl& i = *t.impl();
  int buffer = i.storage->buffer;
  if (i.storage->trace) {
    check(i.storage->trace == id, "compile: a tensor of shape ", i.shape,
          " was made inside another compiled function; return it from there instead of keeping it");
  } else {
    auto [it, fresh] = externals_.try_emplace(i.storage.get(), static_cast<int>(graph.buffers.size()));
    if (fresh)
      graph.buffers.push_back({Buffer::Kind::external, static_cast<int64_t>(i.storage->bytes), i.storage});
    buffer = it->second;
  }
  return {buffer, i.offset, i.dtype, i.shape, i.strides};
}

void Trace::record(OpKind kind, const Params& params, const std::vector<Tensor>& in,
                   const std::vector<Tensor>& out) {
  const Device device = (out.empty() ? in : out)[0].device();
  if (graph.nodes.empty()) graph.device = device;
  check(device == graph.device, "compile: expected all tensors of the function on one device, got ", graph.device,
        " and ", device, " in ", op_name(kind));
  Node n;
  n.kind = kind;
  n.params = params;
  n.region = region;
  for (const Tensor& t : in) n.in.push_back(value_of(t));
  for (const Tensor& t : out) n.out.push_back(value_of(t));
  graph.nodes.push_back(std::move(n));
}

void Trace::note_view(const char* op, const Params& params, const Tensor& base, const Tensor& out, bool copied) {
  if (keep_views) views.push_back({op, params, value_of(base), value_of(out), graph.nodes.size(), copied});
}

Trace::LeafGrad& Trace::leaf_grad(const std::shared_ptr<TensorImpl>& leaf) {
  auto [it, fresh] = leaf_index_.try_emplace(leaf.get(), leaf_grads.size());
  if (fresh) leaf_grads.push_back({leaf, leaf->grad, false, {}});
  return leaf_grads[it->second];
}

void Trace::restore_leaf_grads() noexcept {
  for (LeafGrad& l : leaf_grads) {
    l.after = l.leaf->grad;
    l.leaf->grad = l.before;
  }
}

}  // namespace fastcnn
