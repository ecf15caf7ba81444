// What it is: activations and dropouts that are compositions of ops, which give them plans and gradients.
// What it is not: those with a kernel (activation.cpp, dropout.cpp).
#include <cmath>

#include "ops/dims.h"
#include "ops/operands.h"

namespace fastcnn {
namespace {

// mask holds where x stays; SELU's lower limit elsewhere, scaled and moved so that mean and variance stay.
Tensor keep_statistics(const char* op, const Tensor& x, double p, bool training, const Dims& mask_shape,
                       Tensor (*drop)(const Tensor&, double, bool)) {
  check_floating(op, "x", x);
  check(p >= 0 && p <= 1, op, ": expected p in [0, 1], got ", p);
  if (!training || p == 0) return x;
  if (p == 1) return affine(x, 0, 0);
  constexpr double lowest = 1.7580993408473766;  // SELU's scale * alpha
  const double a = 1 / std::sqrt((lowest * lowest * p + 1) * (1 - p)), b = a * lowest * p;
  Tensor kept = drop(ones(mask_shape, DType::float32, x.device()), p, true);
  kept = gt(kept, zeros({}, DType::float32, x.device()));
  return where(kept, affine(x, a, b), number(b - a * lowest, x));
}

}  // namespace

Tensor logsigmoid(const Tensor& x) {
  check_floating("logsigmoid", "x", x);
  return neg(softplus(neg(x), 1, 40));  // where the branches agree to the last bit of float64
}

Tensor glu(const Tensor& x, int dim) {
  check_floating("glu", "x", x);
  const int d = wrap_dim("glu", dim, x.shape());
  check(x.ndim() > 0 && x.shape()[d] % 2 == 0, "glu: expected an even size of dim ", dim, ", got shape ",
        x.shape());
  const int64_t half = x.shape()[d] / 2;
  return mul(narrow(x, d, 0, half), sigmoid(narrow(x, d, half, half)));
}

Tensor softshrink(const Tensor& x, double lambd) {
  check_floating("softshrink", "x", x);
  check(lambd >= 0, "softshrink: expected lambd >= 0, got ", lambd);
  return sub(x, clamp(x, -lambd, lambd));
}

Tensor hardshrink(const Tensor& x, double lambd) {
  check_floating("hardshrink", "x", x);
  return where(le(abs(x), number(lambd, x)), number(0, x), x);
}

Tensor tanhshrink(const Tensor& x) {
  check_floating("tanhshrink", "x", x);
  return sub(x, tanh(x));
}

Tensor threshold(const Tensor& x, double least, double value) {
  check_floating("threshold", "x", x);
  return where(le(x, number(least, x)), number(value, x), x);
}

Tensor rrelu(const Tensor& x, double lower, double upper, bool training) {
  check_floating("rrelu", "x", x);
  check(lower <= upper, "rrelu: expected lower <= upper, got ", lower, " and ", upper);
  if (!training) return leaky_relu(x, (lower + upper) / 2);
  Tensor slope = affine(rand(x.shape(), x.dtype(), x.device()), upper - lower, lower);
  return where(gt(x, number(0, x)), x, mul(x, slope));
}

Tensor softmin(const Tensor& x, int dim) {
  check_floating("softmin", "x", x);
  return softmax(neg(x), dim);
}

Tensor alpha_dropout(const Tensor& x, double p, bool training) {
  return keep_statistics("alpha_dropout", x, p, training, x.shape(), dropout);
}

Tensor feature_alpha_dropout(const Tensor& x, double p, bool training) {
  check(x.ndim() >= 2, "feature_alpha_dropout: expected x (N, C, …), got shape ", x.shape());
  Dims mask(x.ndim(), 1);
  mask[0] = x.shape()[0], mask[1] = x.shape()[1];
  return keep_statistics("feature_alpha_dropout", x, p, training, mask, dropout2d);
}

}  // namespace fastcnn
