// What it is: models and training steps as files: trace_graph writes a traced function down, write_session makes
// one safetensors file of graphs and tensors, Session loads it, plans it for this machine, predicts and trains,
// without Python. docs/embed.md tells the form. What it is not: a way to change a graph.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "fastcnn/graph.h"
#include "fastcnn/tensor.h"

namespace fastcnn {

struct NamedTensor {
  std::string name;
  Tensor tensor;
};

// ---- writing ---------------------------------------------------------------------------------------------------

struct GraphInput {
  std::string name;
  DType dtype = DType::float32;
  Dims shape;
  bool batch = false;  // dim 0 is the batch size, which users of the graph may choose
};

// A traced function as JSON, and the tensors from outside that it reads or writes.
struct TracedGraph {
  std::string json;
  std::vector<NamedTensor> tensors;
  int64_t host_work = 0;  // how often it called on_each_run: the graph itself does not do that
};

// Traces fn on symbols (its work is not done), where an input has a batch at three batch sizes. `known`: names for
// tensors from outside; others become "constant.0", …. outputs: names of the results; none: "output" or
// "output_0", …. ValueError where the function depends on the batch size in a way that is no straight line, keeps
// gradients from step to step, or writes through two views of one memory.
FASTCNN_API TracedGraph trace_graph(const Compiled::Fn& fn, const std::vector<GraphInput>& inputs,
                                    const std::vector<NamedTensor>& known = {},
                                    const std::vector<std::string>& outputs = {});

struct SessionGraph {
  std::string name;  // "predict" or "step"
  TracedGraph graph;
  std::string updates = "[]";  // JSON: what rewrites hyper tensors before each run, see docs/embed.md
};
// extra: JSON object with preprocess, class_names; see docs/embed.md. The old file stays whole until the new one
// is on the disk. std::system_error where the system refuses, or path is a folder, device or pipe.
FASTCNN_API void write_session(const std::string& path, const std::vector<SessionGraph>& graphs,
                               const std::string& extra = "{}");

// A graph in that form as a function of its inputs: its ops run eagerly, or are recorded where a trace is on.
// ValueError for a graph that makes no sense.
class FASTCNN_API GraphFunction {
 public:
  GraphFunction(const std::string& json, const std::vector<NamedTensor>& tensors);
  std::vector<Tensor> operator()(const std::vector<Tensor>& inputs) const;

 private:
  std::shared_ptr<const class Replay> replay_;
};

// ---- using -----------------------------------------------------------------------------------------------------

struct SessionOptions {
  int threads = 0;                        // of this session's runs; 0: what the process uses
  int64_t plan_bytes = int64_t(2) << 30;  // most memory that plans may hold, apart from the one in use
  int64_t plans = 16;  // most plans (batch sizes) of a graph that are kept, least recently used out
  // Most predictions that run at once, up to 65535. Each has plans of its own, which share plan_bytes. A graph
  // that changes state, as one of random numbers does, predicts one after the other all the same.
  int64_t concurrent = 1;
};

struct TensorInfo {
  std::string name;
  DType dtype = DType::float32;
  Dims shape;  // -1: the batch size, free
};

struct Guess {
  int64_t index = 0;
  std::string name;  // "" without class names
  float probability = 0;
};

// One loaded file. All functions may be called from several threads: up to SessionOptions::concurrent predictions
// run at once, each on the session's threads; training steps run alone. Sessions are independent.
class FASTCNN_API Session {
 public:
  // ValueError for a file that is damaged or no such file, std::system_error where the system refuses.
  static Session load(const std::string& path, const SessionOptions& options = {});
  static Session load_memory(const void* data, size_t bytes, const SessionOptions& options = {});
  ~Session();
  Session(Session&&) noexcept;
  Session& operator=(Session&&) noexcept;

  bool can_predict() const;
  bool can_step() const;
  const std::vector<TensorInfo>& inputs(bool of_step = false) const;
  const std::vector<TensorInfo>& outputs(bool of_step = false) const;

  // Inputs of the shapes of inputs(), any layout; results are new tensors.
  std::vector<Tensor> predict(const std::vector<Tensor>& inputs);
  Tensor predict(const Tensor& input);  // for graphs of one input and one output
  // One training step: its results (the loss); parameters and all other state change in place.
  std::vector<Tensor> step(const std::vector<Tensor>& inputs);
  double lr() const;  // of the first group; ValueError without an optimizer
  void set_lr(double lr);

  // An image of (height, width, channels) bytes as the input of predict: resized, cropped and normalised as the
  // file says; (1, channels, H, W).
  Tensor preprocess(const uint8_t* pixels, int64_t height, int64_t width, int64_t channels) const;
  // predict() of that image, softmax of its first output (unless the graph ends in softmax or sigmoid), the most
  // probable classes first.
  std::vector<Guess> classify(const uint8_t* pixels, int64_t height, int64_t width, int64_t channels,
                              int64_t most = 5);
  const std::vector<std::string>& class_names() const;

  // Parameters, statistics, optimizer state by name: the tensors themselves, not copies.
  std::vector<NamedTensor> tensors() const;
  void save(const std::string& path) const;  // the file again, with the state as it is now
  CacheInfo cache_info(bool of_step = false) const;

 private:
  struct Impl;
  explicit Session(std::unique_ptr<Impl> impl);
  Impl& impl() const;  // ValueError once it has been moved from
  std::unique_ptr<Impl> impl_;
};

}  // namespace fastcnn
