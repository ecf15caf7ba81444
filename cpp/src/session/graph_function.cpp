// What it is: GraphFunction of session.h over Replay.
#include "session/replay.h"

namespace fastcnn {

GraphFunction::GraphFunction(const std::string& json, const std::vector<NamedTensor>& tensors) {
  std::unordered_map<std::string, Tensor> by_name;
  for (const NamedTensor& t : tensors) by_name.emplace(t.name, t.tensor);
  replay_ = std::make_shared<const Replay>(Json::parse(json), by_name);
}

std::vector<Tensor> GraphFunction::operator()(const std::vector<Tensor>& inputs) const {
  check(replay_ != nullptr, "graph: this GraphFunction has been moved from");
  return replay_->run(inputs);
}

}  // namespace fastcnn
