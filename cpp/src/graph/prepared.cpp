// See prepared.h.
#include "graph/prepared.h"

#include <algorithm>
#include <utility>

#include "graph/select.h"

namespace fastcnn {
namespace {

Operand operand(const Graph& g, const Value& v) {
  Operand o = operand_shape(v);
  if (void* base = g.buffers[v.buffer].storage->data)
    o.data = static_cast<char*>(base) + v.offset * static_cast<int64_t>(dtype_size(v.dtype));
  return o;
}

Storage no_memory(Device device, int64_t bytes) {
  auto s = std::make_shared<StorageImpl>();
  s->device = device;
  s->bytes = static_cast<size_t>(bytes);
  s->owner = std::make_shared<int>(0);  // nothing to give back
  return s;
}

}  // namespace

Prepared::Prepared(Graph& g, std::vector<Node> constants, Device device)
    : device_(device), nodes_(std::move(constants)) {
  Uses uses(g);
  source_.resize(g.buffers.size());
  for (size_t b = 0; b < g.buffers.size(); ++b) source_[b] = constant_external(g, uses, static_cast<int>(b));
  std::vector<char> noted(g.buffers.size(), 0);
  for (const Node& n : nodes_) {
    for (const Value& v : n.in)
      if (g.buffers[v.buffer].storage && !std::exchange(noted[v.buffer], 1))
        sources_.push_back({g.buffers[v.buffer].storage});
    for (const Value& v : n.out) {
      Buffer& b = g.buffers[v.buffer];
      b.kind = Buffer::Kind::external;
      source_[v.buffer] = noted[v.buffer] = 1;
      transient_.push_back(v.buffer);
    }
  }
}

uint32_t Prepared::covered(const Implementation& impl, const Call& call, const Node& n) const {
  if (!impl.prepare || n.in.size() < 2) return 0;
  const uint32_t operands = impl.prepared_operands ? impl.prepared_operands(call) : 1u << 1;
  for (size_t k = 0; k < n.in.size(); ++k)
    if ((operands >> k & 1) && !source_[n.in[k].buffer]) return 0;
  return impl.prepared_bytes(call) > 0 ? operands : 0;
}

const void* Prepared::add(const Implementation& impl, const Call& call, const Node& n, uint32_t operands) {
  Pack p{&impl, call, {call.in.begin(), call.in.end()}, {call.out.begin(), call.out.end()}, {}, {}};
  for (size_t k = 0; k < n.in.size(); ++k)
    if (operands >> k & 1) p.values.push_back({k, n.in[k]});
  operands_ += p.values.size();
  const int64_t bytes = impl.prepared_bytes(call);
  p.memory = allocate_storage(static_cast<size_t>(std::max<int64_t>(bytes, 1)), device_);
  bytes_ += bytes;
  packs_.push_back(std::move(p));
  packs_.back().call.in = packs_.back().in;
  packs_.back().call.out = packs_.back().out;
  return packs_.back().memory->data;
}

void Prepared::finish(Graph& g, const std::vector<char>& read_unprepared) {
  for (const Pack& p : packs_)
    for (const auto& value : p.values) {
      const Storage& s = g.buffers[value.second.buffer].storage;
      if (s && std::none_of(sources_.begin(), sources_.end(), [&](const Source& x) { return x.storage == s; }))
        sources_.push_back({s});
    }
  std::vector<int> transient;
  for (int b : transient_) {
    Buffer& buffer = g.buffers[b];
    if (read_unprepared[b]) {
      buffer.storage = allocate_storage(static_cast<size_t>(std::max<int64_t>(buffer.bytes, 1)), device_);
      bytes_ += buffer.bytes;
    } else {
      buffer.storage = no_memory(device_, buffer.bytes);
      transient.push_back(b);
    }
  }
  transient_ = std::move(transient);
}

void Prepared::refresh(const Graph& g) {
  bool same = made_;
  for (Source& s : sources_) {
    const uint64_t version = s.storage->version, ended = s.storage->exports_ended;
    same &= s.version == version && s.exports_ended == ended && s.storage->exports == 0;
    s.version = version, s.exports_ended = ended;
  }
  if (same) return;
  made_ = false;  // until it is
  make(g);
  made_ = true;
}

void Prepared::make(const Graph& g) {
  std::vector<Storage> lent;
  for (int b : transient_) {
    lent.push_back(allocate_storage(static_cast<size_t>(std::max<int64_t>(g.buffers[b].bytes, 1)), device_));
    g.buffers[b].storage->data = lent.back()->data;
  }
  struct TakeBack {
    const Graph& g;
    const std::vector<int>& buffers;
    ~TakeBack() {
      for (int b : buffers) g.buffers[b].storage->data = nullptr;
    }
  } take_back{g, transient_};
  Backend& backend = backend_of(device_);
  for (const Node& n : nodes_) {
    std::vector<Operand> in, out;
    for (const Value& v : n.in) in.push_back(operand(g, v));
    for (const Value& v : n.out) out.push_back(operand(g, v));
    Call call{n.kind, n.params.data(), in, out};
    const Implementation& impl = select_implementation(backend, call);
    Storage workspace;
    if (const int64_t bytes = impl.workspace ? impl.workspace(call) : 0; bytes > 0) {
      workspace = allocate_storage(static_cast<size_t>(bytes), device_);
      call.workspace = workspace->data;
    }
    impl.run(call);
  }
  for (Pack& p : packs_) {
    for (const auto& [k, v] : p.values) p.in[k].data = operand(g, v).data;
    p.implementation->prepare(p.call, p.memory->data);
  }
}

}  // namespace fastcnn
