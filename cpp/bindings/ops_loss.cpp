// What it is: fastcnn.ops of losses. What it is not: checks of values; those are the ops'.
#include "args.h"

namespace fastcnn::bindings {
namespace {

void bind_class_and_distance_losses(py::module_& ops) {
  auto no = [](const char* name) { return py::arg(name) = py::none(); };
  ops.def(
      "cross_entropy",
      [](const Tensor& x, const Tensor& target, const Maybe& weight, int64_t ignore_index,
         const std::string& reduction, double label_smoothing) {
        return without_gil(
            [&] { return cross_entropy(x, target, or_empty(weight), ignore_index, reduction, label_smoothing); });
      },
      py::arg("x"), py::arg("target"), no("weight"), py::arg("ignore_index") = -100, py::arg("reduction") = "mean",
      py::arg("label_smoothing") = 0.0,
      "Cross entropy of logits x (N, C, …) and class ids (N, …) int64 or probabilities (N, C, …).\n"
      "weight (C,); label_smoothing: Szegedy et al. 2016.");
  ops.def(
      "nll_loss",
      [](const Tensor& x, const Tensor& target, const Maybe& weight, int64_t ignore_index,
         const std::string& reduction) {
        return without_gil([&] { return nll_loss(x, target, or_empty(weight), ignore_index, reduction); });
      },
      py::arg("x"), py::arg("target"), no("weight"), py::arg("ignore_index") = -100, py::arg("reduction") = "mean",
      "-x at the class ids; x are log-probabilities (N, C, …).");
  ops.def(
      "binary_cross_entropy_with_logits",
      [](const Tensor& x, const Tensor& target, const Maybe& weight, const std::string& reduction,
         const Maybe& pos_weight) {
        return without_gil([&] {
          return binary_cross_entropy_with_logits(x, target, or_empty(weight), or_empty(pos_weight), reduction);
        });
      },
      py::arg("x"), py::arg("target"), no("weight"), py::arg("reduction") = "mean", no("pos_weight"),
      "Binary cross entropy of logits and targets of one shape, stable for logits of any size.");
  ops.def("mse_loss", &mse_loss, NoGil(), py::arg("x"), py::arg("target"), py::arg("reduction") = "mean",
          "(x - target) ** 2.");
  ops.def("l1_loss", &l1_loss, NoGil(), py::arg("x"), py::arg("target"), py::arg("reduction") = "mean",
          "|x - target|.");
  ops.def(
      "smooth_l1_loss",
      [](const Tensor& x, const Tensor& t, const std::string& r, double beta) {
        return smooth_l1_loss(x, t, beta, r);
      },
      NoGil(), py::arg("x"), py::arg("target"), py::arg("reduction") = "mean", py::arg("beta") = 1.0,
      "d ** 2 / (2 * beta) for d = |x - target| below beta, else d - beta / 2 (Girshick 2015).");
  ops.def(
      "huber_loss",
      [](const Tensor& x, const Tensor& t, const std::string& r, double delta) {
        return huber_loss(x, t, delta, r);
      },
      NoGil(), py::arg("x"), py::arg("target"), py::arg("reduction") = "mean", py::arg("delta") = 1.0,
      "d ** 2 / 2 for d = |x - target| below delta, else delta * (d - delta / 2) (Huber 1964).");
  ops.def("kl_div", &kl_div, NoGil(), py::arg("x"), py::arg("target"), py::arg("reduction") = "mean",
          py::arg("log_target") = false,
          "target * (log(target) - x), x being log-probabilities; reduction may be batchmean; log_target: target "
          "is given\n"
          "as logarithm too.");
}

void bind_task_losses(py::module_& ops) {
  auto mean = [] { return py::arg("reduction") = "mean"; };
  ops.def(
      "focal_loss", &focal_loss, NoGil(), py::arg("x"), py::arg("target"), py::arg("alpha") = 0.25,
      py::arg("gamma") = 2.0, mean(),
      "Focal loss of logits x and targets of 0 to 1, of one shape: -alpha_t * (1 - p_t) ** gamma * log(p_t), p_t\n"
      "the probability of what is so, alpha_t alpha at 1 and 1 - alpha at 0 (Lin et al. 2017). alpha < 0: no\n"
      "weights. ValueError: shapes differ, gamma < 0, alpha > 1.");
  ops.def(
      "dice_loss", &dice_loss, NoGil(), py::arg("x"), py::arg("target"), py::arg("smooth") = 1.0,
      py::arg("multilabel") = false, py::arg("ignore_index") = -100, mean(),
      "1 - (2 |P T| + smooth) / (|P| + |T| + smooth) of each class, summed over batch and places; reduction "
      "none:\n"
      "(C,) (Milletari et al. 2016, without the squares). P is the softmax of logits x (N, C, …), or the sigmoid\n"
      "where C is 1 or the classes are not exclusive (multilabel). target: class ids (N, …) int64, of which\n"
      "ignore_index counts for nothing, or probabilities (N, C, …). IndexError: an id that is no class.");
  ops.def("margin_loss", &margin_loss, NoGil(), py::arg("x"), py::arg("target"), py::arg("positive") = 0.9,
          py::arg("negative") = 0.1, py::arg("down_weight") = 0.5, mean(),
          "Loss of capsule lengths x (N, C) (Sabour et al. 2017): max(0, positive - x) ** 2 of classes that are "
          "there,\n"
          "down_weight * max(0, x - negative) ** 2 of others, summed over classes; reduction none: (N,). target: "
          "class\n"
          "ids (N,) int64, or (N, C) of 0 and 1.");
  ops.def("hinge_gan_loss", &hinge_gan_loss, NoGil(), py::arg("x"), py::arg("target"), mean(),
          "Hinge loss of GANs (Lim & Ye 2017) of a discriminator's scores x of any shape. target: real, max(0, 1 "
          "- x);\n"
          "fake, max(0, 1 + x); generator, -x: what the generator wants of its own images.");
  ops.def(
      "giou_loss", &giou_loss, NoGil(), py::arg("boxes1"), py::arg("boxes2"), mean(), py::arg("eps") = 1e-7,
      "1 - generalized IoU of pairs of boxes (…, 4), x1 y1 x2 y2 (Rezatofighi et al. 2019): 0 for equal boxes,\n"
      "up to 2 for boxes far apart; reduction none: (…).");
  ops.def("ciou_loss", &ciou_loss, NoGil(), py::arg("boxes1"), py::arg("boxes2"), mean(), py::arg("eps") = 1e-7,
          "1 - complete IoU of pairs of boxes (…, 4), x1 y1 x2 y2: IoU less the distance of the centres and the\n"
          "difference of the aspect ratios (Zheng et al. 2020); reduction none: (…).");
}

void bind_likelihood_losses(py::module_& ops) {
  auto no = [](const char* name) { return py::arg(name) = py::none(); };
  auto mean = [] { return py::arg("reduction") = "mean"; };
  ops.def(
      "binary_cross_entropy",
      [](const Tensor& x, const Tensor& target, const Maybe& weight, const std::string& reduction) {
        return without_gil([&] { return binary_cross_entropy(x, target, or_empty(weight), reduction); });
      },
      py::arg("x"), py::arg("target"), no("weight"), mean(),
      "-(target * log(x) + (1 - target) * log(1 - x)) of probabilities and targets of one shape. Logarithms "
      "count\n"
      "as at least -100, as in PyTorch. weight: of each element, broadcast. ValueError: shapes differ; eager on\n"
      "CPUs, values outside 0 to 1.");
  ops.def("soft_margin_loss", &soft_margin_loss, NoGil(), py::arg("x"), py::arg("target"), mean(),
          "log(1 + exp(-target * x)), target 1 or -1, of x's shape.");
  ops.def(
      "multilabel_soft_margin_loss",
      [](const Tensor& x, const Tensor& target, const Maybe& weight, const std::string& reduction) {
        return without_gil([&] { return multilabel_soft_margin_loss(x, target, or_empty(weight), reduction); });
      },
      py::arg("x"), py::arg("target"), no("weight"), mean(),
      "Mean over the classes of the binary cross entropy of logits x (…, C) and targets of 0 to 1; reduction "
      "none:\n"
      "(…). weight: (C,).");
  ops.def(
      "multi_margin_loss",
      [](const Tensor& x, const Tensor& target, int64_t p, double margin, const Maybe& weight,
         const std::string& reduction) {
        return without_gil([&] { return multi_margin_loss(x, target, p, margin, or_empty(weight), reduction); });
      },
      py::arg("x"), py::arg("target"), py::arg("p") = 1, py::arg("margin") = 1.0, no("weight"), mean(),
      "Sum over the other classes j of max(0, margin - x[y] + x[j]) ** p, over C, of scores x (N, C) or (C) and\n"
      "class ids y int64 (N) or () (Crammer & Singer 2001). p: 1 or 2. weight: (C,), by the class of the target.\n"
      "IndexError: an id that is no class.");
  ops.def(
      "poisson_nll_loss", &poisson_nll_loss, NoGil(), py::arg("x"), py::arg("target"), py::arg("log_input") = true,
      py::arg("full") = false, py::arg("eps") = 1e-8, mean(),
      "exp(x) - target * x, x being logarithms of rates; without log_input x - target * log(x + eps). full: plus\n"
      "Stirling's formula for log(target!) where target > 1.");
  ops.def(
      "gaussian_nll_loss",
      [](const Tensor& x, const Tensor& target, const py::object& var, bool full_loss, double eps,
         const std::string& reduction) {
        auto number = number_from(var);
        check<TypeError>(number || py::isinstance<Tensor>(var),
                         "gaussian_nll_loss: expected var as a tensor or a ", "number, got ",
                         py::str(py::type::handle_of(var).attr("__name__")).cast<std::string>());
        Tensor v = number ? number_tensor(*number, x.dtype(), x.device()) : var.cast<Tensor>();
        return without_gil([&] { return gaussian_nll_loss(x, target, v, full_loss, eps, reduction); });
      },
      py::arg("x"), py::arg("target"), py::arg("var"), py::arg("full") = false, py::arg("eps") = 1e-6, mean(),
      "0.5 * (log(var) + (x - target) ** 2 / var), var counting as at least eps (Nix & Weigend 1994). var: of "
      "x's\n"
      "shape, without its last dim or with 1 there, or one number. full: plus 0.5 * log(2 * pi). ValueError: "
      "shapes\n"
      "do not fit; eager on CPUs, var < 0.");
}

void bind_distance_losses(py::module_& ops) {
  auto mean = [] { return py::arg("reduction") = "mean"; };
  ops.def("pairwise_distance", &pairwise_distance, NoGil(), py::arg("x1"), py::arg("x2"), py::arg("p") = 2.0,
          py::arg("eps") = 1e-6, py::arg("keepdim") = false,
          "p-norm of x1 - x2 + eps along the last dim: (…, D) to (…), or (…, 1) with keepdim.");
  ops.def("cosine_similarity", &cosine_similarity, NoGil(), py::arg("x1"), py::arg("x2"), py::arg("dim") = 1,
          py::arg("eps") = 1e-8,
          "Product of x1 and x2 along dim over their lengths, each of which counts as at least eps.");
  ops.def(
      "triplet_margin_loss", &triplet_margin_loss, NoGil(), py::arg("anchor"), py::arg("positive"),
      py::arg("negative"), py::arg("margin") = 1.0, py::arg("p") = 2.0, py::arg("eps") = 1e-6,
      py::arg("swap") = false, mean(),
      "max(0, d(anchor, positive) - d(anchor, negative) + margin), d the pairwise_distance of vectors (…, D);\n"
      "reduction none: (…). swap: the negative counts from the positive where it is nearer to that (Balntas et\n"
      "al. 2016). ValueError: ranks differ, margin <= 0.");
  ops.def("margin_ranking_loss", &margin_ranking_loss, NoGil(), py::arg("x1"), py::arg("x2"), py::arg("target"),
          py::arg("margin") = 0.0, mean(),
          "max(0, -target * (x1 - x2) + margin); target 1: x1 should be larger, -1: x2 should. Shapes broadcast, "
          "ranks\n"
          "are equal.");
  ops.def("hinge_embedding_loss", &hinge_embedding_loss, NoGil(), py::arg("x"), py::arg("target"),
          py::arg("margin") = 1.0, mean(),
          "x where target is 1, max(0, margin - x) where it is -1: x are distances, target is of their shape\n"
          "(Hadsell et al. 2006).");
  ops.def("cosine_embedding_loss", &cosine_embedding_loss, NoGil(), py::arg("x1"), py::arg("x2"),
          py::arg("target"), py::arg("margin") = 0.0, mean(),
          "1 - cos(x1, x2) where target is 1, max(0, cos(x1, x2) - margin) where it is -1, of vectors (N, D) and "
          "target\n"
          "(N), or (D) and ().");
}

}  // namespace

void bind_ops_loss(py::module_& ops) {
  bind_class_and_distance_losses(ops);
  bind_task_losses(ops);
  bind_likelihood_losses(ops);
  bind_distance_losses(ops);
}

}  // namespace fastcnn::bindings
