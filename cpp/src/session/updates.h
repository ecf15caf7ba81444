// What it is: what the host does before each run of a training step: it counts the step and writes the numbers of
// an optimizer (learning rate, bias corrections) into its hyper tensor. A term is a number, {"power": b}: 1 - b^t,
// {"first": a, "then": b}: a in step 1, else b, or {"value": v, "decay": d}: v / (1 + (t - 1) d); t counts from 1.
#pragma once
#include <string>
#include <unordered_map>
#include <vector>

#include "fastcnn/tensor.h"
#include "session/json.h"

namespace fastcnn {

class Update {
 public:
  Update(const Json& j, const std::unordered_map<std::string, Tensor>& tensors);
  void prepare();  // counts and writes; in double, stored as float32
  void undo();     // takes the last prepare back
  double lr() const { return terms_[0].a; }
  void set_lr(double lr) { terms_[0].a = lr; }
  Json form() const;  // with the steps so far

 private:
  struct Term {
    enum class Kind : uint8_t { constant, power, first, decay } kind = Kind::constant;
    double a = 0, b = 0;
  };
  std::string name_;
  Tensor hyper_;
  int64_t step_ = 0;
  std::vector<float> before_;
  std::vector<Term> terms_;
};

}  // namespace fastcnn
