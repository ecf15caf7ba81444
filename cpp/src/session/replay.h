// What it is: a graph of a file made runnable: each node is emitted again, under the trace of whoever calls run(),
// for the batch size of its inputs; every node is verified first. What it is not: a plan (Compiled makes one of
// run()).
#pragma once
#include <string>
#include <unordered_map>
#include <vector>

#include "fastcnn/session.h"
#include "graph/op_kinds.h"
#include "session/json.h"

namespace fastcnn {

class Replay {
 public:
  // `tensors` are what the graph reads and writes from outside, by name. ValueError for a graph that makes no
  // sense.
  Replay(Json graph, const std::unordered_map<std::string, Tensor>& tensors);

  const std::vector<TensorInfo>& inputs() const { return inputs_; }
  const std::vector<TensorInfo>& outputs() const { return outputs_; }
  const Json& form() const { return graph_; }
  // Checks inputs; returns the batch size, 1 where the graph has none.
  int64_t batch_of(const std::vector<Tensor>& inputs) const;
  std::vector<Tensor> run(const std::vector<Tensor>& inputs) const;
  // At the batch size of the export, on symbols: finds what is wrong before a run does. Does a run leave all but
  // its results as it was, random state included?
  bool dry_run() const;

 private:
  struct Out {
    int id = 0;
    bool fresh = false;
    DType dtype = DType::float32;
    const Json* shape = nullptr;
  };
  struct Step {
    enum class View : uint8_t { none, reshape, permute, expand, slice } view = View::none;
    OpKind kind{};
    int region = 0;
    const Json* params = nullptr;
    std::vector<int> in;
    std::vector<Out> out;
  };

  Json graph_;
  std::vector<Step> steps_;
  std::vector<std::pair<int, Tensor>> externals_;
  std::vector<int> input_ids_, output_ids_;
  std::vector<const Json*> input_shapes_;
  std::vector<TensorInfo> inputs_, outputs_;
  int ids_ = 0;
  int64_t batch_ = 0;  // of the export, 0 where it is fixed

  static TensorInfo info_of(const Json& j);
  static Tensor view(const Step& s, const Tensor& base, int64_t batch);
};

DType dtype_of_name(const std::string& name);

}  // namespace fastcnn
