// What it is: fc.ops that are made of others. What it is not: checks; those are the ops'.
#include "args.h"

namespace fastcnn::bindings {

void bind_ops_composed(py::module_& ops) {
  ops.def(
      "logsumexp",
      [](const Tensor& x, const py::object& dim, bool keepdim) {
        std::vector<int> dims = dim_list("logsumexp", dim);
        return without_gil([&] { return logsumexp(x, dims, keepdim); });
      },
      py::arg("x"), py::arg("dim"), py::arg("keepdim") = false,
      "log(sum(exp(x))) over dim, an int or a sequence, without overflow.");
  ops.def("normalize", &normalize, NoGil(), py::arg("x"), py::arg("p") = 2.0, py::arg("dim") = 1,
          py::arg("eps") = 1e-12, "x over its p-norm along dim, which counts as at least eps.");
  ops.def(
      "roll",
      [](const Tensor& x, const py::object& shifts, const py::object& dims) {
        Dims by = dims_from("roll", shifts);
        std::vector<int> along = dim_list("roll", dims);
        return without_gil([&] { return roll(x, {by.begin(), by.end()}, along); });
      },
      py::arg("x"), py::arg("shifts"), py::arg("dims") = py::none(),
      "Elements move by shifts along dims (ints or sequences of one length), those beyond an end to the other "
      "one.\n"
      "Without dims the flat tensor moves.");
  ops.def("channel_shuffle", &channel_shuffle, NoGil(), py::arg("x"), py::arg("groups"),
          "Channels of x (N, C, …) dealt out: one of each group, then the next of each (ShuffleNet, Zhang et al. "
          "2018).");
  ops.def(
      "affine_grid",
      [](const Tensor& theta, const py::object& size, bool align_corners) {
        Dims d = dims_from("affine_grid", size);
        return without_gil([&] { return affine_grid(theta, d, align_corners); });
      },
      py::arg("theta"), py::arg("size"), py::arg("align_corners") = false,
      "Points (N, H, W, 2) for grid_sample: theta (N, 2, 3) times (x, y, 1) of every pixel of images of size\n"
      "(N, C, H, W), where -1 and 1 are the ends of an image, with align_corners the middles of its last pixels\n"
      "(spatial transformers, Jaderberg et al. 2015).");
  ops.def(
      "rms_norm",
      [](const Tensor& x, const py::object& shape, const Maybe& weight, std::optional<double> eps) {
        Dims d = dims_from("rms_norm", shape);
        return without_gil([&] { return rms_norm(x, d, or_empty(weight), eps); });
      },
      py::arg("x"), py::arg("normalized_shape"), py::arg("weight") = py::none(), py::arg("eps") = py::none(),
      "x over the root of the mean of its squares (and eps, default the dtype's) over the last dimensions, times\n"
      "weight (Zhang and Sennrich 2019).");
  ops.def(
      "scaled_dot_product_attention",
      [](const Tensor& query, const Tensor& key, const Tensor& value, const Maybe& mask, double dropout_p,
         bool is_causal, std::optional<double> scale) {
        return without_gil([&] {
          return scaled_dot_product_attention(query, key, value, or_empty(mask), dropout_p, is_causal, scale);
        });
      },
      py::arg("query"), py::arg("key"), py::arg("value"), py::arg("attn_mask") = py::none(),
      py::arg("dropout_p") = 0.0, py::arg("is_causal") = false, py::kw_only(), py::arg("scale") = py::none(),
      "softmax(query key^T scale) value (Vaswani et al. 2017) of query (…, L, E), key (…, S, E), value (…, S, "
      "V):\n"
      "(…, L, V). attn_mask, broadcast to (…, L, S): bool, True where a key takes part, or floats that are added "
      "to\n"
      "the scores; who sees no key gets zeros. is_causal: no place looks at later ones. scale: default 1 / "
      "sqrt(E).\n"
      "dropout_p: of the weights; pass 0 in evaluation.");
  ops.def("bmm", &bmm, NoGil(), py::arg("a"), py::arg("b"),
          "Products of matrices (B, M, K) and (B, K, N): (B, M, N).");
}

}  // namespace fastcnn::bindings
