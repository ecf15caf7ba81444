// What it is: fastcnn.ops for networks: convolution, linear, pooling, norms, activations, dropout, autocast.
// What it is not: checks of values; those are the ops'. Names and order of arguments are PyTorch's.
#include <tuple>

#include "args.h"
#include "fastcnn/autocast.h"
#include "fastcnn/ops.h"

namespace fastcnn::bindings {
namespace {

bool is_list(const py::handle& v) { return py::isinstance<py::sequence>(v) && !py::isinstance<py::str>(v); }

// int, (h, w), ((top, bottom), (left, right)), "same", "valid"
void set_padding(const char* op, const py::object& v, Conv2dOptions& o) {
  if (py::isinstance<py::str>(v)) {
    o.padding = v.cast<std::string>();
    check(o.padding == "same" || o.padding == "valid", op,
          ": expected padding as an int, (h, w), ((top, bottom), (left, right)), 'same' or 'valid', got '",
          o.padding, "'");
    return;
  }
  if (is_list(v)) {
    auto s = py::reinterpret_borrow<py::sequence>(v);
    if (s.size() == 2 && is_list(s[0]) && is_list(s[1])) {
      std::tie(o.pad_top, o.pad_bottom) = int_pair(op, "padding (top, bottom)", s[0]);
      std::tie(o.pad_left, o.pad_right) = int_pair(op, "padding (left, right)", s[1]);
      return;
    }
  }
  auto [h, w] = int_pair(op, "padding", v);
  o.pad_top = o.pad_bottom = h;
  o.pad_left = o.pad_right = w;
}

Conv2dOptions conv_options(const char* op, const py::object& stride, const py::object& padding,
                           const py::object& dilation, int64_t groups) {
  Conv2dOptions o;
  o.stride = int_pair(op, "stride", stride);
  o.dilation = int_pair(op, "dilation", dilation);
  o.groups = groups;
  set_padding(op, padding, o);
  return o;
}

Pool2dOptions pool_options(const char* op, const py::object& kernel, const py::object& stride,
                           const py::object& padding, const py::object& dilation, bool ceil_mode) {
  Pool2dOptions o;
  o.kernel = int_pair(op, "kernel_size", kernel);
  if (stride.is_none()) {
    o.stride = o.kernel;
  } else {
    o.stride = int_pair(op, "stride", stride);
    check(o.stride.first >= 1 && o.stride.second >= 1, op, ": expected stride >= 1, got ",
          Dims{o.stride.first, o.stride.second});
  }
  o.padding = int_pair(op, "padding", padding);
  o.dilation = int_pair(op, "dilation", dilation);
  o.ceil_mode = ceil_mode;
  return o;
}

// An output size whose None entries keep the size of x.
std::pair<int64_t, int64_t> output_size(const char* op, const py::object& v, const Tensor& x) {
  auto keep = [&](int dim) { return x.ndim() >= 3 ? x.size(dim) : 1; };
  if (is_list(v)) {
    auto s = py::reinterpret_borrow<py::sequence>(v);
    if (s.size() == 2 && (s[0].is_none() || s[1].is_none())) {
      py::object h = s[0].is_none() ? py::object(py::int_(keep(-2))) : py::object(s[0]);
      py::object w = s[1].is_none() ? py::object(py::int_(keep(-1))) : py::object(s[1]);
      return int_pair(op, "output_size", py::make_tuple(h, w));
    }
  }
  return int_pair(op, "output_size", v);
}

void bind_convolution(py::module_& ops) {
  ops.def(
      "conv2d",
      [](const Tensor& x, const Tensor& w, const Maybe& b, const py::object& stride, const py::object& padding,
         const py::object& dilation, int64_t groups, const std::string& mode) {
        Conv2dOptions o = conv_options("conv2d", stride, padding, dilation, groups);
        o.padding_mode = mode;
        return without_gil([&] { return conv2d(x, w, or_empty(b), o); });
      },
      py::arg("x"), py::arg("w"), no("b"), py::arg("stride") = 1, py::arg("padding") = 0, py::arg("dilation") = 1,
      py::arg("groups") = 1, py::arg("padding_mode") = "zeros",
      "2-D convolution (cross-correlation) of x (N, C, H, W) or (C, H, W) with w (O, C/groups, kH, kW) and b "
      "(O,).\n\n"
      "stride, dilation: int or (h, w). padding: int, (h, w), ((top, bottom), (left, right)), 'valid' "
      "(none), or\n"
      "'same': the output has ceil(size / stride) pixels and an odd extra pixel goes to the bottom or right, "
      "as in\n"
      "TensorFlow and ONNX SAME_UPPER. padding_mode: zeros, reflect, replicate or circular.\n"
      "Returns (N, O, oH, oW) with oH = (H + top + bottom - dilation*(kH - 1) - 1) // stride + 1.\n"
      "ValueError if ranks, channels, groups or sizes do not fit; TypeError if the dtypes of x, w and b "
      "differ.");
  ops.def(
      "conv_transpose2d",
      [](const Tensor& x, const Tensor& w, const Maybe& b, const py::object& stride, const py::object& padding,
         const py::object& output_padding, int64_t groups, const py::object& dilation) {
        Conv2dOptions o = conv_options("conv_transpose2d", stride, padding, dilation, groups);
        o.output_padding = int_pair("conv_transpose2d", "output_padding", output_padding);
        return without_gil([&] { return conv_transpose2d(x, w, or_empty(b), o); });
      },
      py::arg("x"), py::arg("w"), no("b"), py::arg("stride") = 1, py::arg("padding") = 0,
      py::arg("output_padding") = 0, py::arg("groups") = 1, py::arg("dilation") = 1,
      "Transposed convolution of x (N, C, H, W) or (C, H, W) with w (C, O/groups, kH, kW) and b (O,): the "
      "gradient of\n"
      "conv2d with respect to its input (Zeiler et al. 2010).\n\n"
      "Returns (N, O, oH, oW) with oH = (H - 1)*stride - top - bottom + dilation*(kH - 1) + 1 + "
      "output_padding.\n"
      "output_padding must be smaller than stride or dilation. ValueError or TypeError as conv2d.");
  ops.def(
      "linear",
      [](const Tensor& x, const Tensor& w, const Maybe& b) {
        return without_gil([&] { return linear(x, w, or_empty(b)); });
      },
      py::arg("x"), py::arg("w"), no("b"),
      "x (..., I) times the transpose of w (O, I), plus b (O,): shape (..., O). ValueError if sizes do not "
      "fit.");
  ops.def("matmul", &matmul, NoGil(), py::arg("a"), py::arg("b"),
          "Matrix product with NumPy's rules: 1-D operands are vectors, dimensions before the last two "
          "broadcast.\n"
          "ValueError if sizes do not fit; TypeError unless both have one floating dtype.");
}

void bind_pooling(py::module_& ops) {
  ops.def(
      "max_pool2d",
      [](const Tensor& x, const py::object& kernel, const py::object& stride, const py::object& padding,
         const py::object& dilation, bool ceil_mode, bool return_indices) {
        Pool2dOptions o = pool_options("max_pool2d", kernel, stride, padding, dilation, ceil_mode);
        return one_or_both(
            return_indices, [&] { return max_pool2d(x, o); }, [&] { return max_pool2d_with_indices(x, o); });
      },
      py::arg("x"), py::arg("kernel_size"), no("stride"), py::arg("padding") = 0, py::arg("dilation") = 1,
      py::arg("ceil_mode") = false, py::arg("return_indices") = false,
      "Largest value of each window of x (N, C, H, W) or (C, H, W). stride None: kernel_size. ceil_mode "
      "rounds the\n"
      "output size up; the last window still starts inside the image or the padding before it. With "
      "return_indices\n"
      "also the int64 positions h*W + w. ValueError if padding is more than half the window.");
  ops.def(
      "avg_pool2d",
      [](const Tensor& x, const py::object& kernel, const py::object& stride, const py::object& padding,
         bool ceil_mode, bool count_include_pad, std::optional<int64_t> divisor_override) {
        Pool2dOptions o = pool_options("avg_pool2d", kernel, stride, padding, py::int_(1), ceil_mode);
        o.count_include_pad = count_include_pad;
        o.divisor_override = divisor_override;
        return without_gil([&] { return avg_pool2d(x, o); });
      },
      py::arg("x"), py::arg("kernel_size"), no("stride"), py::arg("padding") = 0, py::arg("ceil_mode") = false,
      py::arg("count_include_pad") = true, no("divisor_override"),
      "Mean of each window of x (N, C, H, W) or (C, H, W); zeros of the padding count unless "
      "count_include_pad=False.\n"
      "divisor_override: divides the sums instead of the number of pixels.");
  ops.def(
      "lp_pool2d",
      [](const Tensor& x, double norm_type, const py::object& kernel, const py::object& stride, bool ceil_mode) {
        Pool2dOptions o = pool_options("lp_pool2d", kernel, stride, py::int_(0), py::int_(1), ceil_mode);
        return without_gil([&] { return lp_pool2d(x, norm_type, o); });
      },
      py::arg("x"), py::arg("norm_type"), py::arg("kernel_size"), no("stride"), py::arg("ceil_mode") = false,
      "(sum of x**norm_type)**(1/norm_type) over each window of x (N, C, H, W). The gradient of an all-zero "
      "window is 0.");
  ops.def(
      "adaptive_avg_pool2d",
      [](const Tensor& x, const py::object& size) {
        auto s = output_size("adaptive_avg_pool2d", size, x);
        return without_gil([&] { return adaptive_avg_pool2d(x, s); });
      },
      py::arg("x"), py::arg("output_size"),
      "Means over output_size (int or (h, w), None keeps a size) windows [floor(i*H/h), ceil((i+1)*H/h)).");
  ops.def(
      "adaptive_max_pool2d",
      [](const Tensor& x, const py::object& size, bool return_indices) {
        auto s = output_size("adaptive_max_pool2d", size, x);
        return one_or_both(
            return_indices, [&] { return adaptive_max_pool2d(x, s); },
            [&] { return adaptive_max_pool2d_with_indices(x, s); });
      },
      py::arg("x"), py::arg("output_size"), py::arg("return_indices") = false,
      "Maxima over the windows of adaptive_avg_pool2d; with return_indices also the int64 positions h*W + "
      "w.");
  ops.def("global_avg_pool2d", &global_avg_pool2d, NoGil(), py::arg("x"),
          "Mean of each channel: (N, C, H, W) to (N, C, 1, 1).");
}

void bind_norms(py::module_& ops) {
  ops.def(
      "batch_norm",
      [](const Tensor& x, const Maybe& mean, const Maybe& var, const Maybe& weight, const Maybe& bias,
         bool training, std::optional<double> momentum, double eps, const Maybe& tracked) {
        check(!momentum || *momentum >= 0, "batch_norm: expected momentum in [0, 1] or None, got ",
              momentum.value_or(0));
        return without_gil([&] {
          return batch_norm(x, or_empty(mean), or_empty(var), or_empty(weight), or_empty(bias), training,
                            momentum.value_or(-1), eps, or_empty(tracked));
        });
      },
      py::arg("x"), no("running_mean"), no("running_var"), no("weight"), no("bias"), py::arg("training") = false,
      py::arg("momentum") = 0.1, py::arg("eps") = 1e-5, no("num_batches_tracked"),
      "Batch normalisation (Ioffe & Szegedy 2015) of x (N, C, ...) per channel; the other tensors are "
      "(C,).\n\n"
      "Training: batch statistics (biased variance); running_mean and running_var, where given, are updated "
      "in place\n"
      "as (1 - momentum)*running + momentum*batch with unbiased variance; momentum=None: cumulative average, "
      "weight\n"
      "1/num_batches_tracked (the caller counts). Not training: the running statistics are required.\n"
      "ValueError with one value per channel in training.");
  ops.def(
      "layer_norm",
      [](const Tensor& x, const py::object& shape, const Maybe& weight, const Maybe& bias, double eps) {
        Dims d = dims_from("layer_norm", shape);
        return without_gil([&] { return layer_norm(x, d, or_empty(weight), or_empty(bias), eps); });
      },
      py::arg("x"), py::arg("normalized_shape"), no("weight"), no("bias"), py::arg("eps") = 1e-5,
      "Layer normalisation (Ba et al. 2016) over the last dimensions of x; weight and bias have "
      "normalized_shape.");
  ops.def(
      "group_norm",
      [](const Tensor& x, int64_t groups, const Maybe& weight, const Maybe& bias, double eps) {
        return without_gil([&] { return group_norm(x, groups, or_empty(weight), or_empty(bias), eps); });
      },
      py::arg("x"), py::arg("num_groups"), no("weight"), no("bias"), py::arg("eps") = 1e-5,
      "Group normalisation (Wu & He 2018) of x (N, C, ...); num_groups divides C; weight and bias are (C,).");
  ops.def(
      "instance_norm",
      [](const Tensor& x, const Maybe& weight, const Maybe& bias, double eps) {
        return without_gil([&] { return instance_norm(x, or_empty(weight), or_empty(bias), eps); });
      },
      py::arg("x"), no("weight"), no("bias"), py::arg("eps") = 1e-5,
      "Instance normalisation (Ulyanov et al. 2016) of x (N, C, ...): each channel of each sample alone.");
  ops.def("local_response_norm", &local_response_norm, NoGil(), py::arg("x"), py::arg("size"),
          py::arg("alpha") = 1e-4, py::arg("beta") = 0.75, py::arg("k") = 1.0,
          "x / (k + alpha * mean of squares over `size` neighbouring channels)**beta (Krizhevsky et al. 2012).");
}

UnfoldOptions unfold_options(const char* op, const py::object& kernel, const py::object& dilation,
                             const py::object& padding, const py::object& stride) {
  return {int_pair(op, "kernel_size", kernel), int_pair(op, "dilation", dilation),
          int_pair(op, "padding", padding), int_pair(op, "stride", stride)};
}

// What max_pool2d had before it; a given size must be one that pools to that of x.
std::pair<int64_t, int64_t> unpooled_size(const Tensor& x, const Pool2dOptions& o, const py::object& given) {
  const char* op = "max_unpool2d";
  check(x.ndim() == 4 || x.ndim() == 3, op, ": expected x of shape (N, C, H, W) or (C, H, W), got ", x.shape());
  auto one = [](int64_t in, int64_t k, int64_t s, int64_t p) { return (in - 1) * s - 2 * p + k; };
  const int64_t h = one(x.size(-2), o.kernel.first, o.stride.first, o.padding.first);
  const int64_t w = one(x.size(-1), o.kernel.second, o.stride.second, o.padding.second);
  if (given.is_none()) return {h, w};
  std::vector<int64_t> size = int_list(op, given);
  if (size.size() == 4 || size.size() == 3) size.erase(size.begin(), size.end() - 2);  // a whole shape
  check(size.size() == 2, op, ": expected output_size (h, w) or a whole shape, got ", size.size(), " numbers");
  check(std::abs(size[0] - h) < o.stride.first && std::abs(size[1] - w) < o.stride.second, op,
        ": expected an output_size less than the stride ", Dims{o.stride.first, o.stride.second}, " from ",
        Dims{h, w}, ", got ", Dims{size[0], size[1]});
  return {size[0], size[1]};
}

void bind_unfold(py::module_& ops) {
  ops.def(
      "unfold",
      [](const Tensor& x, const py::object& kernel, const py::object& dilation, const py::object& padding,
         const py::object& stride) {
        UnfoldOptions o = unfold_options("unfold", kernel, dilation, padding, stride);
        return without_gil([&] { return unfold(x, o); });
      },
      py::arg("x"), py::arg("kernel_size"), py::arg("dilation") = 1, py::arg("padding") = 0, py::arg("stride") = 1,
      "Windows of x (N, C, H, W) or (C, H, W) as columns (im2col): (N, C * kH * kW, L), L windows in rows.");
  ops.def(
      "fold",
      [](const Tensor& x, const py::object& size, const py::object& kernel, const py::object& dilation,
         const py::object& padding, const py::object& stride) {
        UnfoldOptions o = unfold_options("fold", kernel, dilation, padding, stride);
        auto s = int_pair("fold", "output_size", size);
        return without_gil([&] { return fold(x, s, o); });
      },
      py::arg("x"), py::arg("output_size"), py::arg("kernel_size"), py::arg("dilation") = 1,
      py::arg("padding") = 0, py::arg("stride") = 1,
      "Columns x (N, C * kH * kW, L) or (C * kH * kW, L) added up in images (N, C, h, w) of output_size "
      "(col2im):\n"
      "the transpose of unfold.");
  ops.def(
      "max_unpool2d",
      [](const Tensor& x, const Tensor& indices, const py::object& kernel, const py::object& stride,
         const py::object& padding, const py::object& size) {
        Pool2dOptions o = pool_options("max_unpool2d", kernel, stride, padding, py::int_(1), false);
        auto s = unpooled_size(x, o, size);
        return without_gil([&] { return max_unpool2d(x, indices, s); });
      },
      py::arg("x"), py::arg("indices"), py::arg("kernel_size"), no("stride"), py::arg("padding") = 0,
      no("output_size"),
      "x at the places that max_pool2d with return_indices gave, zeros elsewhere (Zeiler & Fergus 2014).\n"
      "output_size: (h, w) or a whole shape, where several sizes pool to that of x. IndexError: an index outside\n"
      "of the image.");
}

void bind_activations(py::module_& ops) {
  auto one = [&](const char* name, Tensor (*f)(const Tensor&), const char* doc) {
    ops.def(name, f, NoGil(), py::arg("x"), doc);
  };
  one("relu", &relu, "max(x, 0) (Nair & Hinton 2010).");
  one("relu6", &relu6, "min(max(x, 0), 6).");
  one("selu", &selu, "scale * elu(x, alpha) with the constants of Klambauer et al. 2017.");
  one("silu", &silu, "x * sigmoid(x), also called swish (Ramachandran et al. 2017).");
  one("mish", &mish, "x * tanh(softplus(x)) (Misra 2019).");
  one("hardswish", &hardswish, "x * relu6(x + 3) / 6 (Howard et al. 2019).");
  one("hardsigmoid", &hardsigmoid, "relu6(x + 3) / 6.");
  one("sigmoid", &sigmoid, "1 / (1 + exp(-x)).");
  one("tanh", &tanh, "Hyperbolic tangent.");
  one("softsign", &softsign, "x / (1 + |x|).");
  ops.def("leaky_relu", &leaky_relu, NoGil(), py::arg("x"), py::arg("negative_slope") = 0.01,
          "x where positive, else negative_slope * x.");
  ops.def("prelu", &prelu, NoGil(), py::arg("x"), py::arg("weight"),
          "x where positive, else weight * x; weight has 1 value or one per channel (He et al. 2015).");
  ops.def("elu", &elu, NoGil(), py::arg("x"), py::arg("alpha") = 1.0,
          "x where positive, else alpha * (exp(x) - 1) (Clevert et al. 2016).");
  ops.def("celu", &celu, NoGil(), py::arg("x"), py::arg("alpha") = 1.0,
          "x where positive, else alpha * (exp(x / alpha) - 1) (Barron 2017). ValueError for alpha 0.");
  ops.def("gelu", &gelu, NoGil(), py::arg("x"), py::arg("approximate") = "none",
          "x * normal_cdf(x) (Hendrycks & Gimpel 2016); approximate='tanh' for the tanh form.");
  ops.def("hardtanh", &hardtanh, NoGil(), py::arg("x"), py::arg("min_val") = -1.0, py::arg("max_val") = 1.0,
          "x limited to [min_val, max_val].");
  ops.def("softplus", &softplus, NoGil(), py::arg("x"), py::arg("beta") = 1.0, py::arg("threshold") = 20.0,
          "log(1 + exp(beta * x)) / beta; x itself where beta * x > threshold.");
  ops.def("softmax", &softmax, NoGil(), py::arg("x"), py::arg("dim") = -1, "exp(x) / sum(exp(x)) along dim.");
  ops.def("log_softmax", &log_softmax, NoGil(), py::arg("x"), py::arg("dim") = -1,
          "log(softmax(x)) along dim, stable.");
}

void bind_composed_activations(py::module_& ops) {
  ops.def("logsigmoid", &logsigmoid, NoGil(), py::arg("x"), "log(sigmoid(x)), stable.");
  ops.def("glu", &glu, NoGil(), py::arg("x"), py::arg("dim") = -1,
          "The first half of dim times the sigmoid of the second (Dauphin et al. 2017). ValueError: an odd size.");
  ops.def("softshrink", &softshrink, NoGil(), py::arg("x"), py::arg("lambd") = 0.5,
          "x moved towards 0 by lambd, 0 where |x| <= lambd (Donoho 1995).");
  ops.def("hardshrink", &hardshrink, NoGil(), py::arg("x"), py::arg("lambd") = 0.5,
          "x, and 0 where |x| <= lambd.");
  ops.def("tanhshrink", &tanhshrink, NoGil(), py::arg("x"), "x - tanh(x).");
  ops.def("threshold", &threshold, NoGil(), py::arg("x"), py::arg("threshold"), py::arg("value"),
          "x, and value where x <= threshold.");
  ops.def(
      "rrelu", &rrelu, NoGil(), py::arg("x"), py::arg("lower") = 1.0 / 8, py::arg("upper") = 1.0 / 3,
      py::arg("training") = false,
      "x where positive, else slope * x (Xu et al. 2015): in training a slope per element, uniform from lower to\n"
      "upper, else their mean.");
  ops.def("softmin", &softmin, NoGil(), py::arg("x"), py::arg("dim") = -1, "softmax(-x) along dim.");
}

void bind_capsules(py::module_& ops) {
  ops.def(
      "capsule_routing", &capsule_routing, NoGil(), py::arg("u"), py::arg("weight"), py::arg("iterations") = 3,
      "Routing by agreement (Sabour, Frosst & Hinton 2017, procedure 1): capsules u (N, I, K) to (N, J, D), each\n"
      "shorter than 1. weight (I, J, D, K): capsule i votes weight[i, j] @ u[i] for j; shares of j in i are the\n"
      "softmax over j of how well the votes agreed with j so far. iterations: rounds, 1 to 100. Differentiable "
      "in\n"
      "u and weight through all rounds, any number of times.");
}

void bind_dropout(py::module_& ops) {
  ops.def("dropout", &dropout, NoGil(), py::arg("x"), py::arg("p") = 0.5, py::arg("training") = true,
          "Zeroes each element with probability p and scales the rest by 1/(1-p) (Srivastava et al. 2014); x "
          "itself\n"
          "when not training. ValueError unless 0 <= p <= 1.");
  ops.def("dropout2d", &dropout2d, NoGil(), py::arg("x"), py::arg("p") = 0.5, py::arg("training") = true,
          "dropout of whole channels of x (N, C, ...) (Tompson et al. 2015).");
  ops.def("drop_path", &drop_path, NoGil(), py::arg("x"), py::arg("p") = 0.0, py::arg("training") = true,
          "dropout of whole samples of x (N, ...): stochastic depth (Huang et al. 2016).");
  ops.def(
      "alpha_dropout", &alpha_dropout, NoGil(), py::arg("x"), py::arg("p") = 0.5, py::arg("training") = false,
      "In training sets elements with probability p to the lower limit of selu, then scales and shifts so that\n"
      "mean 0 and variance 1 stay (Klambauer et al. 2017). ValueError unless 0 <= p <= 1.");
  ops.def("feature_alpha_dropout", &feature_alpha_dropout, NoGil(), py::arg("x"), py::arg("p") = 0.5,
          py::arg("training") = false, "alpha_dropout of whole channels of x (N, C, ...).");
  ops.def("get_autocast_dtype", &autocast_dtype,
          "What conv2d, conv_transpose2d, linear and matmul cast to, or None.");
  ops.def(
      "set_autocast_dtype",
      [](const py::object& dtype) {
        return set_autocast_dtype(dtype.is_none() ? std::nullopt : std::optional<DType>(dtype_from(dtype)));
      },
      py::arg("dtype"), "bfloat16, float16 or None (off), for this thread; returns what was.");
}

}  // namespace

void bind_ops_nn(py::module_& ops) {
  bind_convolution(ops);
  bind_pooling(ops);
  bind_unfold(ops);
  bind_norms(ops);
  bind_activations(ops);
  bind_composed_activations(ops);
  bind_capsules(ops);
  bind_dropout(ops);
}

}  // namespace fastcnn::bindings
