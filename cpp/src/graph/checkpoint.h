// What it is: a stretch of the tape whose saved tensors are computed again when backward asks for them
// (Chen et al. 2016, "Training deep nets with sublinear memory cost"). What it is not: a choice of what to drop.
#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "fastcnn/dtype.h"
#include "graph/tape.h"

namespace fastcnn {

class Region : public std::enable_shared_from_this<Region> {
 public:
  explicit Region(std::function<void()> run) : run_(std::move(run)) {}

  void forward();  // runs the function; nodes on the tape keep nothing but leaves
  void refill();   // runs it again and gives the nodes what they dropped

  static bool records_forward();                            // is the innermost region in its forward run?
  static void note(const std::shared_ptr<TapeNode>& node);  // a node was put on the tape
  // While a region runs again, what is older than that run already has its changes (running statistics).
  static bool already_done(const Tensor& written);
  static bool runs_again();  // is this part of a second run?
  // A place in the random stream: `fresh`, or in a second run what the first one had.
  static Tensor random_turn(const std::function<Tensor()>& fresh);

 private:
  std::function<void()> run_;
  std::vector<std::weak_ptr<TapeNode>> nodes_;    // of the forward run, in order
  std::vector<std::shared_ptr<TapeNode>> again_;  // of the run that refills
  bool refilling_ = false;
  uint64_t born_ = 0;  // storages made before this number are older than the second run
  std::optional<DType> autocast_;
  Region* outer_ = nullptr;  // the region that this one is in, while it runs for the first time
  // Of random ops, which the second run draws again: those of a trace before this region, the others in order.
  int64_t random_ops_ = 0;
  std::vector<Tensor> turns_;
  size_t next_turn_ = 0;
  Tensor turn(const std::function<Tensor()>& fresh);
};

}  // namespace fastcnn
