// What it is: optimizers: fused in-place steps on one tensor, and SGD, Adam, AdamW, RMSprop over parameter groups,
// with the formulas of torch.optim. Inside compile() a step is recorded once; learning rates and step counts live
// in a small tensor that is rewritten before each replay, so set_lr works on compiled steps too. What it is not:
// learning rate schedules; call set_lr.
#pragma once
#include <memory>
#include <vector>

#include "fastcnn/params.h"
#include "fastcnn/tensor.h"

namespace fastcnn::optim {

// One step in place, without history. hyper: float32 (8), see params.h; buffers have param's shape, dtype and
// layout, are zero at first and empty handles where the rule does not use them. scale: of a loss scaler, float32
// (3): not 0 where the step is to be left out, the factor of the gradients, how many steps were left out before.
FASTCNN_API void sgd_step_(const Tensor& param, const Tensor& grad, const Tensor& momentum_buffer,
                           const Tensor& hyper, const SgdParams& rule, const Tensor& scale = {});
FASTCNN_API void adam_step_(const Tensor& param, const Tensor& grad, const Tensor& exp_avg,
                            const Tensor& exp_avg_sq, const Tensor& max_exp_avg_sq, const Tensor& hyper,
                            const AdamParams& rule, const Tensor& scale = {});
FASTCNN_API void rmsprop_step_(const Tensor& param, const Tensor& grad, const Tensor& square_avg,
                               const Tensor& momentum_buffer, const Tensor& grad_avg, const Tensor& hyper,
                               const RmspropParams& rule, const Tensor& scale = {});
FASTCNN_API void adagrad_step_(const Tensor& param, const Tensor& grad, const Tensor& sum, const Tensor& hyper,
                               const AdagradParams& rule, const Tensor& scale = {});
FASTCNN_API void lion_step_(const Tensor& param, const Tensor& grad, const Tensor& exp_avg, const Tensor& hyper,
                            const LionParams& rule, const Tensor& scale = {});

struct SgdOptions {  // momentum: Polyak 1964; nesterov: Sutskever et al. 2013
  double lr = 1e-3, momentum = 0, dampening = 0, weight_decay = 0;
  bool nesterov = false, maximize = false;
};
struct AdamOptions {  // Kingma & Ba 2015; amsgrad: Reddi et al. 2018
  double lr = 1e-3, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0;
  bool amsgrad = false, maximize = false;
};
struct AdamWOptions {  // weight decay apart from the gradient: Loshchilov & Hutter 2019
  double lr = 1e-3, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 1e-2;
  bool amsgrad = false, maximize = false;
};
struct RmspropOptions {  // Tieleman & Hinton 2012; centered: Graves 2013
  double lr = 1e-2, alpha = 0.99, eps = 1e-8, weight_decay = 0, momentum = 0;
  bool centered = false, maximize = false;
};

template <class Options>
struct Group {
  std::vector<Tensor> params;
  Options options;
};

class FASTCNN_API Optimizer {
 public:
  virtual ~Optimizer();
  Optimizer(Optimizer&&) noexcept;
  Optimizer& operator=(Optimizer&&) noexcept;

  void step();  // updates the parameters that have a gradient, in place
  void zero_grad(bool set_to_none = true);
  size_t groups() const;
  double lr(size_t group = 0) const;
  void set_lr(double lr);  // of all groups
  void set_lr(size_t group, double lr);

  struct Impl;

 protected:
  explicit Optimizer(std::shared_ptr<Impl> impl);

 private:
  Impl& impl() const;           // ValueError once it has been moved from
  std::shared_ptr<Impl> impl_;  // compiled steps keep it alive
};

class FASTCNN_API SGD : public Optimizer {
 public:
  explicit SGD(std::vector<Tensor> params, const SgdOptions& options = {});
  explicit SGD(const std::vector<Group<SgdOptions>>& groups);
};

class FASTCNN_API Adam : public Optimizer {
 public:
  explicit Adam(std::vector<Tensor> params, const AdamOptions& options = {});
  explicit Adam(const std::vector<Group<AdamOptions>>& groups);
};

class FASTCNN_API AdamW : public Optimizer {
 public:
  explicit AdamW(std::vector<Tensor> params, const AdamWOptions& options = {});
  explicit AdamW(const std::vector<Group<AdamWOptions>>& groups);
};

class FASTCNN_API RMSprop : public Optimizer {
 public:
  explicit RMSprop(std::vector<Tensor> params, const RmspropOptions& options = {});
  explicit RMSprop(const std::vector<Group<RmspropOptions>>& groups);
};

}  // namespace fastcnn::optim
