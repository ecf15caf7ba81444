// What it is: the fused optimizer steps on lists of tensors, one call per parameter group.
#include "fastcnn/optim.h"

#include "args.h"

namespace fastcnn::bindings {
namespace {

using List = std::vector<Tensor>;

// One buffer per parameter, or none at all.
const Tensor& at(const char* op, const char* what, const List& list, size_t i, size_t n) {
  static const Tensor none;
  if (list.empty()) return none;
  if (list.size() != n)
    throw ValueError(concat(op, ": expected ", n, " tensors in ", what, ", got ", list.size()));
  return list[i];
}

void check_grads(const char* op, const List& params, const List& grads) {
  check(params.size() == grads.size(), op, ": expected ", params.size(), " gradients, got ", grads.size());
}

}  // namespace

void bind_optim(py::module_& m) {
  py::module_ optim = m.def_submodule(
      "optim",
      "Fused optimizer steps, in place; hyper is float32 (8), see params.h; scale\n"
      "is a loss scaler's, float32 (3): not 0 to leave the step out, the factor of the gradients, how\n"
      "many steps were left out before.");
  optim.def(
      "sgd_step_",
      [](const List& params, const List& grads, const List& momentum, const Tensor& hyper, bool nesterov,
         bool maximize, bool first_step, const Maybe& scale) {
        const char* op = "sgd_step_";
        check_grads(op, params, grads);
        for (size_t i = 0; i < params.size(); ++i)
          optim::sgd_step_(params[i], grads[i], at(op, "momentum_buffers", momentum, i, params.size()), hyper,
                           {!momentum.empty(), nesterov, maximize, first_step}, or_empty(scale));
      },
      NoGil(), py::arg("params"), py::arg("grads"), py::arg("momentum_buffers"), py::arg("hyper"), py::kw_only(),
      py::arg("nesterov") = false, py::arg("maximize") = false, py::arg("first_step") = false,
      py::arg("scale") = py::none(),
      "hyper: lr, weight_decay, momentum, -, -, -, -, dampening. first_step: buffers become the gradient.");
  optim.def(
      "adam_step_",
      [](const List& params, const List& grads, const List& m1, const List& m2, const Tensor& hyper,
         const List& largest, bool decoupled, bool maximize, const Maybe& scale) {
        const char* op = "adam_step_";
        check_grads(op, params, grads);
        for (size_t i = 0, n = params.size(); i < n; ++i)
          optim::adam_step_(params[i], grads[i], at(op, "exp_avgs", m1, i, n), at(op, "exp_avg_sqs", m2, i, n),
                            at(op, "max_exp_avg_sqs", largest, i, n), hyper,
                            {decoupled, !largest.empty(), maximize}, or_empty(scale));
      },
      NoGil(), py::arg("params"), py::arg("grads"), py::arg("exp_avgs"), py::arg("exp_avg_sqs"), py::arg("hyper"),
      py::arg("max_exp_avg_sqs") = List{}, py::kw_only(), py::arg("decoupled") = false,
      py::arg("maximize") = false, py::arg("scale") = py::none(),
      "hyper: lr, weight_decay, beta1, beta2, eps, 1 - beta1**t, 1 - beta2**t, 1 - beta2. decoupled: AdamW.");
  optim.def(
      "rmsprop_step_",
      [](const List& params, const List& grads, const List& square, const Tensor& hyper, const List& momentum,
         const List& mean, bool maximize, const Maybe& scale) {
        const char* op = "rmsprop_step_";
        check_grads(op, params, grads);
        for (size_t i = 0, n = params.size(); i < n; ++i)
          optim::rmsprop_step_(params[i], grads[i], at(op, "square_avgs", square, i, n),
                               at(op, "momentum_buffers", momentum, i, n), at(op, "grad_avgs", mean, i, n), hyper,
                               {!momentum.empty(), !mean.empty(), maximize}, or_empty(scale));
      },
      NoGil(), py::arg("params"), py::arg("grads"), py::arg("square_avgs"), py::arg("hyper"),
      py::arg("momentum_buffers") = List{}, py::arg("grad_avgs") = List{}, py::kw_only(),
      py::arg("maximize") = false, py::arg("scale") = py::none(),
      "hyper: lr, weight_decay, alpha, momentum, eps, -, -, 1 - alpha.");
  optim.def(
      "adagrad_step_",
      [](const List& params, const List& grads, const List& sums, const Tensor& hyper, bool maximize,
         const Maybe& scale) {
        const char* op = "adagrad_step_";
        check_grads(op, params, grads);
        for (size_t i = 0, n = params.size(); i < n; ++i)
          optim::adagrad_step_(params[i], grads[i], at(op, "sums", sums, i, n), hyper, {maximize},
                               or_empty(scale));
      },
      NoGil(), py::arg("params"), py::arg("grads"), py::arg("sums"), py::arg("hyper"), py::kw_only(),
      py::arg("maximize") = false, py::arg("scale") = py::none(),
      "hyper: lr of the step, weight_decay, -, -, eps.");
  optim.def(
      "lion_step_",
      [](const List& params, const List& grads, const List& mean, const Tensor& hyper, bool maximize,
         const Maybe& scale) {
        const char* op = "lion_step_";
        check_grads(op, params, grads);
        for (size_t i = 0, n = params.size(); i < n; ++i)
          optim::lion_step_(params[i], grads[i], at(op, "exp_avgs", mean, i, n), hyper, {maximize},
                            or_empty(scale));
      },
      NoGil(), py::arg("params"), py::arg("grads"), py::arg("exp_avgs"), py::arg("hyper"), py::kw_only(),
      py::arg("maximize") = false, py::arg("scale") = py::none(),
      "hyper: lr, weight_decay, beta1, beta2, -, -, 1 - beta1, 1 - beta2.");
  optim.def("non_finite", &non_finite, NoGil(), py::arg("tensors"),
            "1 where any number of any of the tensors is NaN or infinite, else 0; float32 ().");
}

}  // namespace fastcnn::bindings
