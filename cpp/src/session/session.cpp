// What it is: Session: a file of graphs and tensors, checked, planned by Compiled for each batch size, run. See
// fastcnn/session.h.
#include <algorithm>
#include <cmath>
#include <condition_variable>
#include <mutex>
#include <optional>

#include "fastcnn/autograd.h"
#include "fastcnn/ops.h"
#include "fastcnn/runtime.h"
#include "graph/trace.h"
#include "session/crc32.h"
#include "session/preprocess.h"
#include "session/replay.h"
#include "session/tensor_file.h"
#include "session/updates.h"

namespace fastcnn {
namespace {

constexpr int64_t kFormat = 1;
constexpr int64_t kMostConcurrent = 65535;  // predictions at once

std::string hex(uint32_t v) {
  char s[9];
  std::snprintf(s, sizeof s, "%08x", v);
  return s;
}

using Tensors = std::unordered_map<std::string, Tensor>;

void write_file(const std::string& path, const Json& graphs, const Json& extra,
                const std::vector<NamedTensor>& tensors) {
  Json root = Json::object(), sums = Json::object();
  for (const NamedTensor& t : tensors) {
    const std::vector<uint8_t> bytes = row_major_bytes(t.tensor);
    sums.set(t.name, Json::string(hex(crc32(bytes.data(), bytes.size()))));
  }
  root.set("format", Json::integer(kFormat));
  root.set("producer", Json::string(std::string("fastcnn ") + version()));
  root.set("graphs", graphs);
  root.set("crc32", std::move(sums));
  for (const Json::Member& m : extra.members("extra")) root.set(m.first, m.second);
  const std::string text = root.dump();
  write_tensors(path, tensors, {{"fastcnn", text}, {"fastcnn_crc32", hex(crc32(text.data(), text.size()))}});
}

// Does the graph end in probabilities, so that they need no softmax?
bool ends_in_probabilities(const Json& graph) {
  const std::string& last =
      graph.at("outputs", "graph").items("outputs").at(0).at("tensor", "output").as_string("output");
  for (const Json& node : graph.at("nodes", "graph").items("nodes"))
    for (const Json& out : node.at("out", "node").items("out")) {
      if (out.at("name", "node").as_string("name") != last) continue;
      const std::string& op = node.at("op", "node").as_string("op");
      const Json* act = node.at("params", "node").find("act");
      return op == "softmax" || (op == "activation" && act && act->as_string("act") == "sigmoid");
    }
  return false;
}

// A graph with what runs it.
struct Runner {
  std::unique_ptr<Replay> replay;
  std::vector<Update> updates;
  Compiled compiled;
  bool pure;  // changes nothing

  Runner(const Json& graph, const Tensors& tensors, const SessionOptions& o)
      : replay(std::make_unique<Replay>(graph, tensors)), compiled({}, o.plan_bytes / o.concurrent, o.plans) {
    for (const Json& u : graph.at("updates", "graph").items("updates")) updates.emplace_back(u, tensors);
    pure = replay->dry_run() && updates.empty();
  }

  std::vector<Tensor> run(const std::vector<Tensor>& given) {
    replay->batch_of(given);  // before anything is counted
    std::vector<Tensor> inputs;
    for (const Tensor& t : given) inputs.push_back(contiguous(t.detach()));
    for (Update& u : updates) u.prepare();
    try {
      return compiled.call({}, inputs, [this](const std::vector<Tensor>& symbols) {
        if (is_tracing())
          for (const Tensor& s : symbols) s.impl()->storage->readonly = true;  // a run must not change its inputs
        return replay->run(symbols);
      });
    } catch (...) {  // a step that failed has not updated
      for (Update& u : updates) u.undo();
      throw;
    }
  }

  Json form() const {
    Json g = replay->form(), list = Json::array();
    for (const Update& u : updates) list.push(u.form());
    for (Json::Member& m : g.edit_members())
      if (m.first == "updates") m.second = list;
    return g;
  }
};

}  // namespace

void write_session(const std::string& path, const std::vector<SessionGraph>& graphs, const std::string& extra) {
  check(!graphs.empty(), "export: expected a graph to predict with or a training step, got none");
  Json all = Json::object();
  std::vector<NamedTensor> tensors;
  Tensors named;
  Dims input, output;  // of the graph that predicts
  for (const SessionGraph& g : graphs) {
    check(g.name == "predict" || g.name == "step", "export: expected a graph named predict or step, got '", g.name,
          "'");
    check(all.find(g.name) == nullptr, "export: got two graphs named ", g.name);
    Json j = Json::parse(g.graph.json);
    const Json updates = Json::parse(g.updates);
    check(static_cast<int64_t>(updates.items("updates").size()) == g.graph.host_work, "export: the function does ",
          g.graph.host_work, " pieces of host work (on_each_run) in each step, of which ",
          updates.items("updates").size(), " can be written to a file");
    j.set("updates", updates);
    for (const NamedTensor& t : g.graph.tensors) {
      check(t.tensor.defined(), "export: the tensor '", t.name, "' is empty");
      const auto [it, fresh] = named.try_emplace(t.name, t.tensor);
      if (fresh) tensors.push_back(t);
      check(it->second.impl()->storage == t.tensor.impl()->storage, "export: two tensors have the name '", t.name,
            "'");
    }
    // What a reader will check is checked before it is written.
    const Replay replay(j, named);
    replay.dry_run();
    if (g.name == "predict" || graphs.size() == 1) {
      if (!replay.inputs().empty()) input = replay.inputs()[0].shape;
      if (g.name == "predict" && !replay.outputs().empty()) output = replay.outputs()[0].shape;
    }
    for (const Json& u : updates.items("updates")) Update(u, named);
    all.set(g.name, std::move(j));
  }
  const Json more = Json::parse(extra);
  Preprocess::read(more).check_fits(input, output);
  write_file(path, all, more, tensors);
}

// Who runs: any number of predictions, or one that changes what they read, which new predictions wait for.
class Turns {
 public:
  // Waits until free(), asked under the lock, and nobody runs alone; then take() under the same lock.
  template <class Free, class Take>
  void begin(const Free& free, const Take& take) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [&] { return !alone_ && waiting_ == 0 && free(); });
    take();
    ++together_;
  }
  template <class GiveBack>
  void end(const GiveBack& give_back) {
    std::lock_guard<std::mutex> lock(mutex_);
    give_back();
    --together_;
    changed_.notify_all();
  }
  void begin_alone() {
    std::unique_lock<std::mutex> lock(mutex_);
    ++waiting_;
    changed_.wait(lock, [&] { return !alone_ && together_ == 0; });
    --waiting_;
    alone_ = true;
  }
  void end_alone() {
    std::lock_guard<std::mutex> lock(mutex_);
    alone_ = false;
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int64_t together_ = 0, waiting_ = 0;
  bool alone_ = false;
};

struct Alone {
  Turns& turns;
  explicit Alone(Turns& t) : turns(t) { turns.begin_alone(); }
  ~Alone() { turns.end_alone(); }
  Alone(const Alone&) = delete;
  Alone& operator=(const Alone&) = delete;
};

struct Session::Impl {
  SessionOptions options;
  mutable Turns turns;
  std::vector<NamedTensor> tensors;
  std::optional<Runner> predict, step;
  // Plans have fixed memory, so each prediction of those that run at once has its own: `predict`, made as the file
  // is loaded, or one of these. Both lists are looked at in the lock of `turns` alone.
  std::vector<std::unique_ptr<Runner>> more;
  std::vector<Runner*> idle;
  Preprocess image;
  Json extra = Json::object();

  Runner& runner(bool of_step) {
    std::optional<Runner>& r = of_step ? step : predict;
    check(r.has_value(), "session: the file holds no ", of_step ? "training step" : "graph to predict with",
          "; see fastcnn.export");
    return *r;
  }

  // One that predicts, for as long as this lives.
  struct Predictor {
    Impl& of;
    Runner* runner = nullptr;
    explicit Predictor(Impl& impl) : of(impl) {
      const size_t most = of.predict->pure ? static_cast<size_t>(of.options.concurrent) : 1;
      of.turns.begin([&] { return !of.idle.empty() || of.more.size() + 1 < most; },
                     [&] {
                       if (of.idle.empty()) of.add_predictor();
                       runner = of.idle.back();
                       of.idle.pop_back();
                     });
    }
    ~Predictor() {
      of.turns.end([&] { of.idle.push_back(runner); });
    }
    Predictor(const Predictor&) = delete;
    Predictor& operator=(const Predictor&) = delete;
  };
  void add_predictor() {
    Tensors by_name;
    for (const NamedTensor& t : tensors) by_name[t.name] = t.tensor;
    auto made = std::make_unique<Runner>(predict->replay->form(), by_name, options);
    more.reserve(more.size() + 1), idle.reserve(more.size() + 2);  // so that giving back needs no memory
    idle.push_back(made.get());
    more.push_back(std::move(made));
  }

  std::vector<Tensor> run(bool of_step, const std::vector<Tensor>& inputs) {
    check(!is_tracing(), "session: expected to be called outside of a compiled function");
    Runner& r = runner(of_step);
    NumThreadsScope threads(options.threads);
    NoGrad off;
    std::vector<Tensor> out;
    if (of_step) {
      const Alone alone(turns);
      own(out = r.run(inputs), inputs);
    } else {
      const Predictor mine(*this);
      own(out = mine.runner->run(inputs), inputs);
    }
    return out;
  }

  // Results are the caller's own.
  void own(std::vector<Tensor>& out, const std::vector<Tensor>& inputs) const {
    for (Tensor& t : out) {
      const auto& s = t.impl()->storage;
      bool shared = false;
      for (const NamedTensor& n : tensors) shared |= n.tensor.impl()->storage == s;
      for (const Tensor& i : inputs) shared |= i.impl()->storage == s;
      if (shared) t = clone(t);
    }
  }

  static std::unique_ptr<Impl> load(const Source& source, const SessionOptions& options) {
    check(options.threads >= 0, "session: expected threads >= 0, got ", options.threads);
    check(options.plans >= 1 && options.plan_bytes >= 0, "session: expected plans >= 1 and plan_bytes >= 0, got ",
          options.plans, " and ", options.plan_bytes);
    check(options.concurrent >= 1 && options.concurrent <= kMostConcurrent,
          "session: expected concurrent of 1 to ", kMostConcurrent, ", got ", options.concurrent);
    NumThreadsScope threads(options.threads);
    NoGrad off;
    const TensorFile file = read_header(source);
    std::string text, sum;
    for (const auto& [key, value] : file.metadata) {
      if (key == "fastcnn") text = value;
      if (key == "fastcnn_crc32") sum = value;
    }
    check(!text.empty(), "a safetensors file without a graph: expected one written by fastcnn.export");
    check(sum == hex(crc32(text.data(), text.size())), "the graph is damaged: its checksum is not ", sum);
    const Json root = Json::parse(text);
    const int64_t format = root.at("format", "file").as_int("format");
    check(format == kFormat, "expected format ", kFormat, ", got ", format, ": written by another version (",
          root.at("producer", "file").as_string("producer"), ")");
    const Json& sums = root.at("crc32", "file");
    std::unordered_map<std::string, std::string> sum_of;
    for (const auto& [name, value] : sums.members("crc32")) sum_of[name] = value.as_string("crc32");
    check(sum_of.size() == file.entries.size(), "expected ", sum_of.size(), " tensors, got ", file.entries.size());
    auto impl = std::make_unique<Impl>();
    impl->options = options;
    Tensors by_name;
    for (ReadTensor& t : read_tensors(source, file, get_num_threads())) {
      const auto it = sum_of.find(t.named.name);
      check(it != sum_of.end(), "the graph knows no tensor '", t.named.name, "'");
      check(it->second == hex(t.crc), "tensor '", t.named.name, "' is damaged: its checksum is not ", it->second);
      by_name[t.named.name] = t.named.tensor;
      impl->tensors.push_back(std::move(t.named));
    }
    for (const auto& [name, graph] : root.at("graphs", "file").members("graphs")) {
      if (name == "predict")
        impl->predict.emplace(graph, by_name, options);
      else if (name == "step")
        impl->step.emplace(graph, by_name, options);
      else
        check(false, "a graph named '", name, "', which this version does not know");
    }
    check(impl->predict || impl->step, "expected a graph");
    if (impl->predict) impl->idle.push_back(&*impl->predict);
    for (const auto& [name, value] : root.members("file"))
      if (name != "format" && name != "producer" && name != "graphs" && name != "crc32")
        impl->extra.set(name, value);
    impl->image = Preprocess::read(impl->extra);
    return impl;
  }
};

Session::Session(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Session::Impl& Session::impl() const {
  check(impl_ != nullptr, "session: this Session has been moved from");
  return *impl_;
}
Session::~Session() = default;
Session::Session(Session&&) noexcept = default;
Session& Session::operator=(Session&&) noexcept = default;

Session Session::load(const std::string& path, const SessionOptions& options) {
  const std::unique_ptr<Source> source = Source::file(path);
  try {
    return Session(Impl::load(*source, options));
  } catch (const TypeError& e) {
    throw ValueError(path + ": " + e.what());
  } catch (const std::invalid_argument& e) {
    throw ValueError(path + ": " + e.what());
  } catch (const std::out_of_range& e) {
    throw ValueError(path + ": " + e.what());
  }
}
Session Session::load_memory(const void* data, size_t bytes, const SessionOptions& options) {
  check(data != nullptr || bytes == 0, "session: expected memory, got a null pointer");
  try {
    return Session(Impl::load(*Source::memory(data, bytes), options));
  } catch (const std::out_of_range& e) {
    throw ValueError(e.what());
  }
}

bool Session::can_predict() const { return impl().predict.has_value(); }
bool Session::can_step() const { return impl().step.has_value(); }
const std::vector<TensorInfo>& Session::inputs(bool of_step) const {
  return impl().runner(of_step).replay->inputs();
}
const std::vector<TensorInfo>& Session::outputs(bool of_step) const {
  return impl().runner(of_step).replay->outputs();
}

std::vector<Tensor> Session::predict(const std::vector<Tensor>& inputs) { return impl().run(false, inputs); }
Tensor Session::predict(const Tensor& input) {
  std::vector<Tensor> out = impl().run(false, {input});
  check(out.size() == 1, "session: expected a graph of one output, this has ", out.size());
  return std::move(out[0]);
}
std::vector<Tensor> Session::step(const std::vector<Tensor>& inputs) { return impl().run(true, inputs); }

double Session::lr() const {
  const Alone alone(impl().turns);
  const auto& u = impl().runner(true).updates;
  check(!u.empty(), "lr: the training step has no optimizer");
  return u[0].lr();
}
void Session::set_lr(double lr) {
  const Alone alone(impl().turns);
  auto& u = impl().runner(true).updates;
  check(!u.empty(), "set_lr: the training step has no optimizer");
  check(lr >= 0 && std::isfinite(lr), "set_lr: expected a finite lr >= 0, got ", lr);
  for (Update& x : u) x.set_lr(lr);
}

Tensor Session::preprocess(const uint8_t* pixels, int64_t height, int64_t width, int64_t channels) const {
  NumThreadsScope threads(impl().options.threads);
  NoGrad off;
  return impl().image.run(pixels, height, width, channels);
}

std::vector<Guess> Session::classify(const uint8_t* pixels, int64_t height, int64_t width, int64_t channels,
                                     int64_t most) {
  check(most >= 1, "classify: expected at least one guess, got ", most);
  const std::vector<Tensor> out = predict(std::vector<Tensor>{preprocess(pixels, height, width, channels)});
  NumThreadsScope threads(impl().options.threads);
  NoGrad off;
  const Tensor& logits = out.at(0);
  check(logits.ndim() == 2 && logits.shape()[0] == 1, "classify: expected scores of shape (1, classes), got ",
        logits.shape());
  const bool ready = ends_in_probabilities(impl().runner(false).replay->form());
  const Tensor p = contiguous(cast(ready ? logits : softmax(logits, 1), DType::float32));
  std::vector<Guess> guesses;
  const std::vector<std::string>& names = impl().image.class_names;
  for (int64_t i = 0; i < p.numel(); ++i)
    guesses.push_back(
        {i, static_cast<size_t>(i) < names.size() ? names[static_cast<size_t>(i)] : "", p.data<float>()[i]});
  std::stable_sort(guesses.begin(), guesses.end(),
                   [](const Guess& a, const Guess& b) { return a.probability > b.probability; });
  if (static_cast<int64_t>(guesses.size()) > most) guesses.resize(static_cast<size_t>(most));
  return guesses;
}
const std::vector<std::string>& Session::class_names() const { return impl().image.class_names; }

std::vector<NamedTensor> Session::tensors() const { return impl().tensors; }

void Session::save(const std::string& path) const {
  const Alone alone(impl().turns);
  Json graphs = Json::object();
  if (impl().predict) graphs.set("predict", impl().predict->form());
  if (impl().step) graphs.set("step", impl().step->form());
  write_file(path, graphs, impl().extra, impl().tensors);
}

CacheInfo Session::cache_info(bool of_step) const {
  const Alone alone(impl().turns);
  CacheInfo all = impl().runner(of_step).compiled.cache_info();
  if (of_step) return all;
  for (const auto& runner : impl().more) {
    const CacheInfo one = runner->compiled.cache_info();
    all.hits += one.hits, all.misses += one.misses, all.evictions += one.evictions;
    all.plans += one.plans, all.bytes += one.bytes, all.budget += one.budget;
  }
  return all;
}

}  // namespace fastcnn
