// What it is: trace_graph: a traced function as JSON. Ops and views become nodes on named tensors; memory, strides
// and arenas stay out. See fastcnn/session.h and docs/embed.md.
#include <algorithm>
#include <cstring>
#include <map>
#include <set>

#include "fastcnn/session.h"
#include "graph/trace.h"
#include "session/batch_form.h"
#include "session/params_form.h"

namespace fastcnn {
namespace {

// Where a tensor lies, as a key: strides of dims of one element mean nothing.
std::string key_of(const Value& v) {
  std::string s;
  auto add = [&](int64_t x) { s.append(reinterpret_cast<const char*>(&x), sizeof x); };
  add(v.buffer), add(v.offset), add(static_cast<int64_t>(v.dtype)), add(v.shape.size());
  for (int i = 0; i < v.shape.size(); ++i) add(v.shape[i]), add(v.shape[i] == 1 ? 0 : v.strides[i]);
  return s;
}

bool dense(const Value& v) {
  const Dims want = canonical_strides(v.shape);
  for (int i = 0; i < want.size(); ++i)
    if (v.shape[i] > 1 && v.strides[i] != want[i]) return false;
  return true;
}

// A name that is given when all is known: an index into the list of tensors of the graph.
struct Item {
  const char* view = nullptr;  // reshape, permute, expand, slice; else an op
  OpKind kind{};
  Json params = Json::object();
  std::vector<int> in, out;
  std::vector<char> fresh;  // by output: a new tensor, not one that is written again
  int region = 0;
};

class Writer {
 public:
  Writer(const Trace& trace, const std::vector<GraphInput>& inputs, const std::vector<NamedTensor>& known)
      : trace_(trace),
        g_(trace.graph),
        inputs_(inputs),
        written_(g_.buffers.size(), 0),
        root_of_(g_.buffers.size(), -1) {
    for (const Node& n : g_.nodes)
      for (const Value& v : n.out) written_[static_cast<size_t>(v.buffer)] = 1;
    std::map<const StorageImpl*, int> buffers;
    for (size_t b = 0; b < g_.buffers.size(); ++b)
      if (g_.buffers[b].storage) buffers[g_.buffers[b].storage.get()] = static_cast<int>(b);
    for (const NamedTensor& k : known) {
      const TensorImpl& i = *k.tensor.impl();
      const auto it = buffers.find(i.storage.get());
      if (it == buffers.end()) continue;
      check(names_.insert(k.name).second, "export: two tensors have the name '", k.name, "'");
      known_.try_emplace(key_of({it->second, i.offset, i.dtype, i.shape, i.strides}), k);
    }
    for (size_t i = 0; i < inputs.size(); ++i) {
      check(names_.insert(inputs[i].name).second, "export: two tensors have the name '", inputs[i].name, "'");
      add(g_.inputs[i], inputs[i].name);
    }
  }

  void walk() {
    size_t view = 0;
    std::set<size_t> skipped;
    for (const Trace::View& v : trace_.views)
      if (v.copied) skipped.insert(v.node - 1);
    for (size_t n = 0; n <= g_.nodes.size(); ++n) {
      for (; view < trace_.views.size() && trace_.views[view].node == n; ++view) note_view(trace_.views[view]);
      if (n < g_.nodes.size() && !skipped.count(n)) note_node(g_.nodes[n]);
    }
  }

  Json finish(const std::vector<Value>& results, const std::vector<std::string>& output_names) {
    std::vector<int> outputs;
    for (const Value& v : results) outputs.push_back(id_of(v));
    drop_unused(outputs);
    int64_t count = 0;
    auto name = [&](int id) -> const std::string& {
      std::string& s = tensors_[static_cast<size_t>(id)].name;
      if (s.empty()) s = concat("%", count++);
      return s;
    };
    Json nodes = Json::array();
    for (const Item& item : items_) {
      Json n = Json::object(), in = Json::array(), out = Json::array();
      n.set("op", Json::string(item.view ? item.view : op_name(item.kind)));
      for (const int id : item.in) in.push(Json::string(name(id)));
      for (size_t k = 0; k < item.out.size(); ++k) {
        Json o = Json::object();
        o.set("name", Json::string(name(item.out[k])));
        if (item.fresh[k]) describe(o, tensors_[static_cast<size_t>(item.out[k])].value);
        out.push(std::move(o));
      }
      n.set("in", std::move(in)), n.set("out", std::move(out)), n.set("params", item.params);
      if (item.region) n.set("region", Json::integer(item.region));
      nodes.push(std::move(n));
    }
    Json graph = Json::object(), in = Json::array(), out = Json::array();
    for (size_t i = 0; i < inputs_.size(); ++i) {
      Json j = Json::object();
      j.set("name", Json::string(inputs_[i].name));
      describe(j, g_.inputs[i]);
      in.push(std::move(j));
    }
    for (size_t i = 0; i < outputs.size(); ++i) {
      Json j = Json::object();
      const bool given = !output_names.empty();
      j.set("name", Json::string(given                 ? output_names[i]
                                 : outputs.size() == 1 ? std::string("output")
                                                       : concat("output_", i)));
      j.set("tensor", Json::string(name(outputs[i])));
      describe(j, tensors_[static_cast<size_t>(outputs[i])].value);
      out.push(std::move(j));
    }
    graph.set("inputs", std::move(in)), graph.set("outputs", std::move(out)), graph.set("nodes", std::move(nodes));
    return graph;
  }

  bool uses(const Value& v) const {  // after finish: does a node read it?
    const auto it = ids_.find(key_of(v));
    return it != ids_.end() && tensors_[static_cast<size_t>(it->second)].used;
  }

  // In the order in which the nodes name them.
  std::vector<NamedTensor> external() const {
    std::vector<NamedTensor> out;
    for (const Named& t : tensors_)
      if (t.tensor.defined() && t.used) out.push_back({t.name, t.tensor});
    return out;
  }

 private:
  struct Named {
    Value value;
    std::string name;  // "": of a node, named at the end
    Tensor tensor;     // of an external one
    bool used = false;
  };

  const Trace& trace_;
  const Graph& g_;
  const std::vector<GraphInput>& inputs_;
  std::vector<char> written_;
  std::vector<int> root_of_;  // by external buffer: the first tensor that names it
  std::map<std::string, NamedTensor> known_;
  std::set<std::string> names_;
  std::map<std::string, int> ids_;
  std::vector<Named> tensors_;
  std::vector<Item> items_;
  int64_t constants_ = 0;

  int add(const Value& v, std::string name, Tensor tensor = {}) {
    const int id = static_cast<int>(tensors_.size());
    ids_[key_of(v)] = id;
    tensors_.push_back({v, std::move(name), std::move(tensor), false});
    return id;
  }

  static void describe(Json& to, const Value& v) {
    to.set("dtype", Json::string(dtype_name(v.dtype)));
    to.set("shape", dims_form(v.shape));
  }

  int id_of(const Value& v) {
    const auto it = ids_.find(key_of(v));
    if (it != ids_.end()) return it->second;
    const auto b = static_cast<size_t>(v.buffer);
    const Buffer& buffer = g_.buffers[b];
    check(buffer.kind == Buffer::Kind::external, "export: a view of shape ", v.shape,
          " was made in a way that files do not know");
    // Two names of one memory would be two memories in a file.
    check(root_of_[b] < 0 || !written_[b], "export: memory of ", buffer.bytes,
          " bytes is written by the function and read as two tensors, '",
          root_of_[b] < 0 ? "" : tensors_[static_cast<size_t>(root_of_[b])].name, "' and a view of shape ",
          v.shape);
    const auto known = known_.find(key_of(v));
    std::string name;
    Tensor tensor;
    if (known != known_.end()) {
      name = known->second.name, tensor = known->second.tensor;
    } else {
      do name = concat("constant.", constants_++);
      while (!names_.insert(name).second);
      tensor = make_tensor(buffer.storage, v.shape, v.strides, v.offset, v.dtype);
      check(!written_[b] || dense(v), "export: the function writes to a strided view of shape ", v.shape,
            " of memory outside");
    }
    return root_of_[b] = add(v, std::move(name), std::move(tensor));
  }

  void note_view(const Trace::View& v) {
    if (ids_.count(key_of(v.out))) return;
    if (g_.buffers[static_cast<size_t>(v.base.buffer)].kind != Buffer::Kind::external &&
        !ids_.count(key_of(v.base)))
      return;  // of something inside an op (the copy of a reshape)
    Item item;
    item.view = v.op;
    item.in.push_back(id_of(v.base));
    if (ids_.count(key_of(v.out))) return;
    if (std::strcmp(v.op, "permute") == 0) {
      Json dims = Json::array();
      const int n = v.base.shape.size();
      for (int i = 0; i < n; ++i) {
        int64_t d = i < n - 2 ? i : 2 * n - 3 - i;  // the last two swapped
        if (v.params.size()) std::memcpy(&d, static_cast<const char*>(v.params.data()) + 8 * i, sizeof d);
        dims.push(Json::integer(d));
      }
      item.params.set("dims", std::move(dims));
    } else if (std::strcmp(v.op, "slice") == 0) {
      const auto& p = v.params.as<ScatterParams>();
      const Dims steps = canonical_strides(v.base.shape);
      int d = 0;
      while (d + 1 < v.base.shape.size() && v.base.shape[d] == v.out.shape[d] && p.strides[d] == steps[d]) ++d;
      item.params.set("dim", Json::integer(d));
      const int64_t unit = steps[d];  // 0 where a later dim is empty, which no stride tells apart
      item.params.set("start", Json::integer(unit ? p.offset / unit : 0));
      item.params.set("step", Json::integer(unit ? p.strides[d] / unit : 1));
    }
    item.out.push_back(add(v.out, ""));
    item.fresh.push_back(1);
    items_.push_back(std::move(item));
  }

  void note_node(const Node& n) {
    Item item;
    item.kind = n.kind, item.region = n.region;
    item.params = params_form(n.kind, n.params);
    for (const Value& v : n.in) item.in.push_back(id_of(v));
    for (const Value& v : n.out) {
      const bool outside = g_.buffers[static_cast<size_t>(v.buffer)].kind == Buffer::Kind::external;
      const bool fresh = !outside && !ids_.count(key_of(v));
      check(!fresh || covers_buffer(g_, v), op_name(n.kind), ": writes to a view of shape ", v.shape,
            " that files do not know");
      check(g_.buffers[static_cast<size_t>(v.buffer)].kind != Buffer::Kind::input, op_name(n.kind),
            ": the function changes its input of shape ", v.shape, "; change a clone()");
      item.out.push_back(fresh ? add(v, "") : id_of(v));
      item.fresh.push_back(fresh);
    }
    items_.push_back(std::move(item));
  }

  // Ops look at views of their operands that they then do not take; gradients are made that nobody asks for.
  void drop_unused(const std::vector<int>& outputs) {
    for (const int id : outputs) tensors_[static_cast<size_t>(id)].used = true;
    std::vector<Item> kept;
    for (auto it = items_.rbegin(); it != items_.rend(); ++it) {
      bool wanted = false;
      for (size_t k = 0; k < it->out.size(); ++k)
        wanted |= !it->fresh[k] || tensors_[static_cast<size_t>(it->out[k])].used;
      if (!wanted) continue;
      for (const int id : it->in) tensors_[static_cast<size_t>(id)].used = true;
      for (size_t k = 0; k < it->out.size(); ++k)
        if (!it->fresh[k]) tensors_[static_cast<size_t>(it->out[k])].used = true;
      kept.push_back(std::move(*it));
    }
    items_.assign(std::make_move_iterator(kept.rbegin()), std::make_move_iterator(kept.rend()));
  }
};

struct Once {
  Json graph;
  std::vector<NamedTensor> tensors;
  int64_t host_work = 0;
};

Once trace_once(const Compiled::Fn& fn, const std::vector<GraphInput>& inputs,
                const std::vector<NamedTensor>& known, const std::vector<std::string>& output_names) {
  check(!is_tracing(), "export: expected to be called outside of a compiled function");
  Trace t;
  t.keep_views = true;
  std::vector<Tensor> symbols, results;
  for (const GraphInput& in : inputs) {
    symbols.push_back(t.new_symbol(in.shape, canonical_strides(in.shape), in.dtype, {}, Buffer::Kind::input));
    t.graph.inputs.push_back(t.value_of(symbols.back()));
  }
  try {
    TraceScope scope(&t);
    results = fn(symbols);
    for (const Tensor& r : results) check(r.defined(), "export: the function returned an empty tensor");
  } catch (...) {
    t.restore_leaf_grads();
    throw;
  }
  t.restore_leaf_grads();

  check(t.graph.device.type == DeviceType::cpu, "export: expected a function on the CPU, got ", t.graph.device);
  std::vector<NamedTensor> names = known;
  if (t.random_ops > 0) {
    Node n;
    n.kind = OpKind::rng_advance;
    n.params = RngAdvanceParams{t.random_ops};
    n.in = n.out = {t.value_of(t.random_state)};
    t.graph.nodes.push_back(std::move(n));
    names.push_back({"random_state", t.random_state});
  }
  check(output_names.empty() || output_names.size() == results.size(), "export: expected ", output_names.size(),
        " results, got ", results.size());
  std::vector<Value> values;
  for (const Tensor& r : results) values.push_back(t.value_of(r));
  Writer w(t, inputs, names);
  w.walk();
  Once once;
  once.graph = w.finish(values, output_names);
  for (const Trace::LeafGrad& l : t.leaf_grads) {
    bool used = false;
    for (const Tensor& g : {l.before, l.after}) used |= l.read && g.defined() && w.uses(t.value_of(g));
    check(!used, "export: the gradient of a parameter of shape ", l.leaf->shape,
          " is kept from step to step; call zero_grad() in the step, before backward()");
  }
  once.tensors = w.external();
  once.host_work = static_cast<int64_t>(t.before_run.size());
  return once;
}

}  // namespace

TracedGraph trace_graph(const Compiled::Fn& fn, const std::vector<GraphInput>& inputs,
                        const std::vector<NamedTensor>& known, const std::vector<std::string>& outputs) {
  check(static_cast<bool>(fn), "export: expected a function");
  for (const NamedTensor& k : known) check(k.tensor.defined(), "export: the tensor '", k.name, "' is empty");
  int64_t batch = 0;
  for (const GraphInput& in : inputs) {
    if (!in.batch) continue;
    check(!in.shape.empty() && in.shape[0] >= 1 && (!batch || in.shape[0] == batch), "export: expected inputs of ",
          "one batch size >= 1, got '", in.name, "' of shape ", in.shape);
    batch = in.shape[0];
  }
  // Not 1: sizes of 1 hide where the batch goes.
  const int64_t first = std::max<int64_t>(batch, 2);
  std::vector<int64_t> batches;
  if (batch) batches = {first, first + 1, first + 3};
  std::vector<Once> traced;
  for (const int64_t n : batches) {
    std::vector<GraphInput> sized = inputs;
    for (GraphInput& in : sized)
      if (in.batch) in.shape[0] = n;
    traced.push_back(trace_once(fn, sized, known, outputs));
  }
  if (!batch) traced.push_back(trace_once(fn, inputs, known, outputs));

  std::vector<Json> trees;
  for (Once& o : traced) trees.push_back(std::move(o.graph));
  Json graph = batch ? merge_batches(trees, batches, "export: the graph") : std::move(trees[0]);
  graph.set("batch", batch ? Json::integer(first) : Json());
  for (Json::Member& m : graph.edit_members()) {
    if (m.first != "nodes") continue;
    for (Json& node : m.second.edit_items()) {
      const OpKind kind = op_of_name(node.at("op", "node").as_string("op"));
      for (Json::Member& f : node.edit_members())
        if (f.first == "params" && kind != OpKind::count) f.second = without_defaults(kind, f.second);
    }
  }
  return {graph.dump(), std::move(traced[0].tensors), traced[0].host_work};
}

}  // namespace fastcnn
