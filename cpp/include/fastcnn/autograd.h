// What it is: gradients: fc::grad, grad mode. Tensor::backward is in tensor.h.
#pragma once
#include <functional>
#include <vector>

#include "fastcnn/tensor.h"

namespace fastcnn {

// Gradients of sum(outputs * grad_outputs) with respect to inputs. With create_graph the results can be
// differentiated again. Inputs that the outputs do not depend on: undefined if allow_unused, else ValueError.
FASTCNN_API std::vector<Tensor> grad(const std::vector<Tensor>& outputs, const std::vector<Tensor>& inputs,
                                     const std::vector<Tensor>& grad_outputs = {}, bool create_graph = false,
                                     bool retain_graph = false, bool allow_unused = false);
FASTCNN_API void backward(const std::vector<Tensor>& outputs, const std::vector<Tensor>& grad_outputs = {},
                          bool create_graph = false, bool retain_graph = false);
FASTCNN_API bool is_grad_enabled();
FASTCNN_API bool set_grad_enabled(bool on);  // returns the mode that was

// Runs a function whose intermediate results are not kept for backward but computed again there: memory for time
// (Chen et al. 2016). The function must do the same both times; it draws the same random numbers, and what it
// changes in place in tensors older than itself (running statistics) is changed once. Gradients of any order.
FASTCNN_API void checkpoint(const std::function<void()>& run);

class NoGrad {  // scope without recording
 public:
  NoGrad() : saved_(set_grad_enabled(false)) {}
  ~NoGrad() { set_grad_enabled(saved_); }
  NoGrad(const NoGrad&) = delete;

 private:
  bool saved_;
};

}  // namespace fastcnn
