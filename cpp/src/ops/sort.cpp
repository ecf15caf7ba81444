// What it is: argsort, sort, topk and cumsum along a dim. What it is not: gradients through the order of values,
// which has none; those of sorted values go the way of gather.
#include "ops/dims.h"
#include "ops/operands.h"

#include "graph/emit.h"

namespace fastcnn {
namespace {

// Rows along one dim: x with that dim last, as a matrix, and the way back for results of another row length.
struct Rows {
  int dim;
  Dims shape;  // of x with the dim last
  Tensor matrix;

  Rows(const char* op, const Tensor& x, int d) : dim(wrap_dim(op, d, x.shape())) {
    const Tensor last = x.ndim() ? transpose(x, dim, -1) : unsqueeze(x, 0);
    shape = last.shape();
    const int64_t size = shape.back();
    int64_t rows = 1;
    for (int i = 0; i + 1 < shape.size(); ++i) rows *= shape[i];
    matrix = contiguous(reshape(last, {rows, size}));
  }
  Tensor back(const Tensor& y, const Tensor& x) const {
    if (x.ndim() == 0) return reshape(y, {});
    Dims s = shape;
    s[s.size() - 1] = y.shape()[1];
    return contiguous(transpose(reshape(y, s), dim, -1));
  }
};

Tensor places(const char* op, const Tensor& x, int dim, bool descending, std::optional<int64_t> kept) {
  check(x.defined(), op, ": expected a tensor as x, got an empty handle");
  const Rows r(op, x.detach(), dim);
  ArgsortParams p;
  p.rows = r.matrix.shape()[0], p.size = r.matrix.shape()[1], p.kept = kept.value_or(p.size);
  p.descending = descending;
  return r.back(emit1(Rule{op}, OpKind::argsort, p, {r.matrix}, {{p.rows, p.kept}, DType::int64}), x);
}

Tensor at_places(const Tensor& x, int dim, const Tensor& index) { return x.ndim() ? gather(x, dim, index) : x; }

std::vector<Tensor> vjp_cumsum(TapeNode& n, const std::vector<Tensor>& g);
const Rule cumsum_rule{"cumsum", vjp_cumsum};
Tensor emit_cumsum(const CumsumParams& p, const Tensor& x) {
  return emit1(cumsum_rule, OpKind::cumsum, p, {contiguous(x)}, {{p.rows, p.size}, x.dtype()});
}
std::vector<Tensor> vjp_cumsum(TapeNode& n, const std::vector<Tensor>& g) {
  CumsumParams p = n.as<CumsumParams>();
  p.reverse = !p.reverse;
  return {emit_cumsum(p, g[0])};
}

}  // namespace

Tensor argsort(const Tensor& x, int dim, bool descending) { return places("argsort", x, dim, descending, {}); }

std::pair<Tensor, Tensor> sort(const Tensor& x, int dim, bool descending) {
  const Tensor index = places("sort", x, dim, descending, {});
  return {at_places(x, dim, index), index};
}

std::pair<Tensor, Tensor> topk(const Tensor& x, int64_t k, int dim, bool largest) {
  check(x.defined(), "topk: expected a tensor as x, got an empty handle");
  const int64_t size = x.ndim() ? x.shape()[wrap_dim("topk", dim, x.shape())] : 1;
  const int64_t least = x.ndim() ? 0 : 1;
  check(k >= least && k <= size, "topk: expected k in [", least, ", ", size, "] for dim ", dim, " of shape ",
        x.shape(), ", got ", k);
  const Tensor index = places("topk", x, dim, largest, k);
  return {at_places(x, dim, index), index};
}

Unique unique(const Tensor& x) {
  check(x.defined(), "unique: expected a tensor as x, got an empty handle");
  check(!x.is_symbolic(), "unique: how many values there are is not known while compile traces the function");
  const int64_t n = x.numel();
  const Device device = x.device();
  const auto [ordered, index] = sort(reshape(x.detach(), {n}), 0, false);
  if (n == 0) return {ordered, empty(x.shape(), DType::int64, device), empty({0}, DType::int64, device)};
  const Tensor begins =
      cat({ones({1}, DType::bool_, device), ne(narrow(ordered, 0, 1, n - 1), narrow(ordered, 0, 0, n - 1))});
  const Tensor first = nonzero(begins)[0];
  const Tensor group = affine(cumsum(cast(begins, DType::int64), 0), 1, -1);
  const Tensor ends =
      cat({narrow(first, 0, 1, first.numel() - 1), full({1}, static_cast<double>(n), DType::int64, device)});
  return {index_select(ordered, 0, first),
          reshape(index_put(zeros({n}, DType::int64, device), index, group), x.shape()), sub(ends, first)};
}

Tensor cumsum(const Tensor& x_in, int dim) {
  check(x_in.defined(), "cumsum: expected a tensor as x, got an empty handle");
  const Tensor x = is_floating(x_in.dtype()) ? x_in : cast(x_in, DType::int64);
  const Rows r("cumsum", x, dim);
  CumsumParams p;
  p.rows = r.matrix.shape()[0], p.size = r.matrix.shape()[1];
  return r.back(emit_cumsum(p, r.matrix), x);
}

}  // namespace fastcnn
