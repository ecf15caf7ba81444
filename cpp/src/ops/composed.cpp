// What it is: ops under the names that PyTorch gives them, made of other ops, which give them plans and gradients.
// What it is not: activations, dropouts and losses (composed_activation.cpp, composed_loss.cpp).
#include <algorithm>
#include <cmath>

#include "ops/dims.h"
#include "ops/operands.h"

namespace fastcnn {
namespace {

// -1 to 1 in n steps: at the ends, or with align_corners off half a step within; 0 for a single one.
Tensor ends_of(int64_t n, bool align_corners, const Tensor& like) {
  const double steps = static_cast<double>(n), step = align_corners ? 2 / std::max(steps - 1, 1.0) : 2 / steps;
  Tensor i = arange(0, steps, 1, DType::int64, like.device());
  return affine(cast(i, like.dtype()), step, -step * (steps - 1) / 2);
}

}  // namespace

Tensor logsumexp(const Tensor& x, const std::vector<int>& dims, bool keepdim) {
  check_floating("logsumexp", "x", x);
  const uint32_t mask = dims_mask("logsumexp", dims, x.shape());
  for (int d = 0; d < x.ndim(); ++d)
    if (mask >> d & 1 && x.shape()[d] == 0) return log(sum(exp(x), dims, keepdim));
  Tensor most = amax(x.detach(), dims, true);
  most = where(isfinite(most), most, number(0, most));
  return add(log(sum(exp(sub(x, most)), dims, keepdim)), sum(most, dims, keepdim));
}

Tensor normalize(const Tensor& x, double p, int dim, double eps) {
  check_floating("normalize", "x", x);
  return div(x, clamp(norm(x, p, {wrap_dim("normalize", dim, x.shape())}, true), eps, {}));
}

Tensor roll(const Tensor& x, const std::vector<int64_t>& shifts, const std::vector<int>& dims) {
  check(!shifts.empty(), "roll: expected at least one shift");
  if (dims.empty()) {
    check(shifts.size() == 1, "roll: expected one shift without dims, got ", shifts.size());
    return reshape(roll(flatten(x), shifts, {0}), x.shape());
  }
  check(shifts.size() == dims.size(), "roll: expected a dim for each of ", shifts.size(), " shifts, got ",
        dims.size());
  Tensor y = x;
  for (size_t i = 0; i < dims.size(); ++i) {
    const int d = wrap_dim("roll", dims[i], x.shape());
    const int64_t n = x.ndim() ? x.shape()[d] : 1, by = n ? (shifts[i] % n + n) % n : 0;
    if (by) y = cat({narrow(y, d, n - by, by), narrow(y, d, 0, n - by)}, d);
  }
  return y.impl() == x.impl() ? clone(y) : y;
}

Tensor channel_shuffle(const Tensor& x, int64_t groups) {
  check(x.ndim() >= 3, "channel_shuffle: expected x of shape (N, C, …), got ", x.shape());
  const int64_t C = x.shape()[1];
  check(groups > 0 && C % groups == 0, "channel_shuffle: expected groups that divide ", C, " channels, got ",
        groups);
  // Channels last, as images lie in memory.
  std::vector<int> last{0}, back{0, x.ndim() - 1};
  Dims apart{x.shape()[0]}, whole{x.shape()[0]};
  for (int d = 2; d < x.ndim(); ++d) {
    last.push_back(d), back.push_back(d - 1);
    apart.push_back(x.shape()[d]), whole.push_back(x.shape()[d]);
  }
  last.push_back(1), apart.push_back(groups), apart.push_back(C / groups), whole.push_back(C);
  return permute(reshape(transpose(reshape(permute(x, last), apart), -2, -1), whole), back);
}

Tensor affine_grid(const Tensor& theta, const Dims& size, bool align_corners) {
  const char* op = "affine_grid";
  check_floating(op, "theta", theta);
  check(size.size() == 4 && size.numel() > 0, op, ": expected size (N, C, H, W) of images with pixels, got ",
        size);
  const int64_t N = size[0], H = size[2], W = size[3];
  check(theta.shape() == Dims{N, 2, 3}, op, ": expected theta of shape ", Dims{N, 2, 3}, " for size ", size,
        ", got ", theta.shape());
  const auto column = [&](int64_t i) { return reshape(select(theta, 2, i), {N, 1, 1, 2}); };
  Tensor x = reshape(ends_of(W, align_corners, theta), {1, 1, W, 1}),
         y = reshape(ends_of(H, align_corners, theta), {1, H, 1, 1});
  return add(mul(x, column(0)), add(mul(y, column(1)), column(2)));
}

Tensor rms_norm(const Tensor& x, const Dims& normalized_shape, const Tensor& weight, std::optional<double> eps) {
  const char* op = "rms_norm";
  check_floating(op, "x", x);
  const int lead = check_normalized_shape(op, x, normalized_shape);
  check(!weight.defined() || weight.shape() == normalized_shape, op, ": expected weight of shape ",
        normalized_shape, ", got ", weight.defined() ? weight.shape() : Dims{});
  check(!eps || *eps >= 0, op, ": expected eps >= 0, got ", eps.value_or(0));
  const DType type = statistics_dtype(x.dtype());
  const double least = eps ? *eps : type == DType::float64 ? 0x1p-52 : 0x1p-23;
  std::vector<int> dims;
  for (int d = lead; d < x.ndim(); ++d) dims.push_back(d);
  Tensor wide = cast(x, type), y = mul(wide, rsqrt(affine(mean(square(wide), dims, true), 1, least)));
  return cast(weight.defined() ? mul(y, cast(weight, type)) : y, x.dtype());
}

Tensor scaled_dot_product_attention(const Tensor& query, const Tensor& key, const Tensor& value,
                                    const Tensor& mask, double dropout_p, bool is_causal,
                                    std::optional<double> scale) {
  const char* op = "scaled_dot_product_attention";
  check_floating(op, "query", query), check_floating(op, "key", key), check_floating(op, "value", value);
  const int r = query.ndim();
  bool fits = r >= 2 && key.ndim() == r && value.ndim() == r;
  for (int d = 0; fits && d + 2 < r; ++d)
    fits = query.shape()[d] == key.shape()[d] && key.shape()[d] == value.shape()[d];
  check(fits && query.shape()[r - 1] == key.shape()[r - 1] && key.shape()[r - 2] == value.shape()[r - 2], op,
        ": expected query (…, L, E), key (…, S, E) and value (…, S, V), got shapes ", query.shape(), ", ",
        key.shape(), " and ", value.shape());
  check(!(is_causal && mask.defined()), op, ": expected attn_mask or is_causal, got both");
  const int64_t L = query.shape()[r - 2], S = key.shape()[r - 2], E = query.shape()[r - 1];
  Tensor q = affine(query, scale ? *scale : 1 / std::sqrt(static_cast<double>(std::max<int64_t>(E, 1))), 0);
  Tensor scores = matmul(q, transpose(key, -2, -1)), taken = mask;
  if (is_causal) {
    const auto places = [&](int64_t n, Dims shape) {
      return reshape(arange(0, static_cast<double>(n), 1, DType::int64, query.device()), shape);
    };
    taken = le(places(S, {1, S}), places(L, {L, 1}));
  }
  Tensor weights;
  if (taken.defined() && taken.dtype() == DType::bool_) {
    // Who looks at nothing gets zeros, not NaN.
    Tensor some = any(taken, {-1}, true);
    scores = where(logical_or(taken, logical_not(some)), scores, number(-INFINITY, scores));
    weights = softmax(scores, -1);
    weights = where(some, weights, number(0, weights));
  } else {
    if (taken.defined()) {
      check_floating(op, "attn_mask", taken);
      scores = add(scores, cast(taken, scores.dtype()));
    }
    weights = softmax(scores, -1);
  }
  return matmul(dropout(weights, dropout_p, true), value);
}

Tensor bmm(const Tensor& a, const Tensor& b) {
  check(a.ndim() == 3 && b.ndim() == 3 && a.shape()[0] == b.shape()[0],
        "bmm: expected (B, M, K) and (B, K, N), got shapes ", a.shape(), " and ", b.shape());
  return matmul(a, b);
}

namespace {
// x where column - row is at most (or, with `least`, at least) the diagonal, zeros elsewhere.
Tensor triangle(const char* op, const Tensor& x, int64_t diagonal, bool least) {
  check(x.ndim() >= 2, op, ": expected x with at least 2 dimensions, got shape ", x.shape());
  const int64_t rows = x.shape()[x.ndim() - 2], columns = x.shape()[x.ndim() - 1];
  const auto line = [&](int64_t n, int64_t from, Dims shape) {
    Tensor i = arange(0, static_cast<double>(n), 1, DType::int64, x.device());
    return reshape(from ? add(i, full({}, static_cast<double>(from), DType::int64, x.device())) : i, shape);
  };
  const int64_t d = std::clamp(diagonal, -rows - 1, columns + 1);
  const Tensor column = line(columns, 0, {1, columns}), bound = line(rows, d, {rows, 1});
  return where(least ? ge(column, bound) : le(column, bound), x, number(0, x));
}
}  // namespace

Tensor tril(const Tensor& x, int64_t diagonal) { return triangle("tril", x, diagonal, false); }
Tensor triu(const Tensor& x, int64_t diagonal) { return triangle("triu", x, diagonal, true); }

Tensor repeat_interleave(const Tensor& x, int64_t times, int dim) {
  const int d = wrap_dim("repeat_interleave", dim, x.shape());
  check(times >= 0, "repeat_interleave: expected repeats >= 0, got ", times);
  check(x.ndim() < kMaxDims, "repeat_interleave: expected at most ", kMaxDims - 1, " dimensions, got shape ",
        x.shape());
  Dims shape = x.ndim() ? x.shape() : Dims{1}, apart;
  for (int i = 0; i < shape.size(); ++i) {
    apart.push_back(shape[i]);
    if (i == d) apart.push_back(times);
  }
  Dims whole = shape;
  check(!__builtin_mul_overflow(shape[d], times, &whole[d]), "repeat_interleave: too many repeats, got ", times);
  return reshape(expand(unsqueeze(reshape(x, shape), d + 1), apart), whole);
}

Tensor repeat(const Tensor& x, const std::vector<int64_t>& times) {
  const int r = static_cast<int>(times.size());
  check(r >= x.ndim() && r < kMaxDims, "repeat: expected a number for each of ", x.ndim(), " dims (at most ",
        kMaxDims - 1, "), got ", r);
  Dims shape(r, 1);
  for (int i = 0; i < x.ndim(); ++i) shape[r - x.ndim() + i] = x.shape()[i];
  Tensor y = reshape(x, shape);
  for (int i = 0; i < r; ++i) {
    check(times[i] >= 0, "repeat: expected numbers >= 0, got ", times[i]);
    if (times[i] == 1) continue;
    Dims apart;
    for (int k = 0; k < r; ++k) {
      if (k == i) apart.push_back(times[i]);
      apart.push_back(shape[k]);
    }
    check(!__builtin_mul_overflow(shape[i], times[i], &shape[i]), "repeat: too many repeats, got ", times[i]);
    y = reshape(expand(unsqueeze(y, i), apart), shape);
  }
  return y.shape() == x.shape() && r == x.ndim() ? clone(y) : y;
}

Tensor outer(const Tensor& a, const Tensor& b) {
  check(a.ndim() == 1 && b.ndim() == 1, "outer: expected two vectors, got shapes ", a.shape(), " and ", b.shape());
  return mul(unsqueeze(a, 1), unsqueeze(b, 0));
}

Tensor isclose(const Tensor& a, const Tensor& b, double rtol, double atol, bool equal_nan) {
  check_like("isclose", "b", b, a, "a");
  check(rtol >= 0 && atol >= 0, "isclose: expected rtol and atol >= 0, got ", rtol, " and ", atol);
  const DType wide = is_floating(a.dtype()) && a.dtype() != DType::float64 ? DType::float32 : DType::float64;
  const Tensor x = cast(a, wide), y = cast(b, wide);
  Tensor near = logical_or(eq(x, y), logical_and(isfinite(y), le(abs(sub(x, y)), affine(abs(y), rtol, atol))));
  return equal_nan ? logical_or(near, logical_and(isnan(x), isnan(y))) : near;
}

bool allclose(const Tensor& a, const Tensor& b, double rtol, double atol, bool equal_nan) {
  return all(isclose(a, b, rtol, atol, equal_nan)).item() != 0;
}

std::vector<Tensor> meshgrid(const std::vector<Tensor>& axes, const std::string& indexing) {
  check(indexing == "ij" || indexing == "xy", "meshgrid: expected indexing 'ij' or 'xy', got '", indexing, "'");
  const int n = static_cast<int>(axes.size());
  check(n >= 1 && n <= kMaxDims, "meshgrid: expected 1 to ", kMaxDims, " vectors, got ", n);
  Dims shape;
  for (const Tensor& a : axes) {
    check(a.ndim() == 1, "meshgrid: expected vectors, got one of shape ", a.shape());
    shape.push_back(a.shape()[0]);
  }
  std::vector<Tensor> grids;
  for (int i = 0; i < n; ++i) {
    Dims along(n, 1);
    along[i] = shape[i];
    const Tensor g = expand(reshape(axes[i], along), shape);
    grids.push_back(indexing == "xy" && n > 1 ? transpose(g, 0, 1) : g);
  }
  return grids;
}

}  // namespace fastcnn
