// What it is: gradients: fc::grad, grad mode. Tensor::backward is in tensor.h.
#pragma once
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

class NoGrad {  // scope without recording
 public:
  NoGrad() : saved_(set_grad_enabled(false)) {}
  ~NoGrad() { set_grad_enabled(saved_); }
  NoGrad(const NoGrad&) = delete;

 private:
  bool saved_;
};

}  // namespace fastcnn
