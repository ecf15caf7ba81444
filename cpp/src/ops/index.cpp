// What it is: ops that pick, join and surround elements: index_select, gather, masked_fill, one_hot, cat, stack,
// split, pad, with their gradient rules. Slices are views (shape.cpp).
#include <algorithm>
#include <cmath>

#include "fastcnn/ops.h"
#include "graph/emit.h"
#include "ops/dims.h"
#include "ops/index.h"
#include "ops/promote.h"

namespace fastcnn {
namespace {

Tensor as_index(const char* op, const Tensor& index) {
  check<TypeError>(!is_floating(index.dtype()) && index.dtype() != DType::bool_, op,
                   ": expected an integer index, got ", index.dtype());
  return contiguous(cast(index.detach(), DType::int64));
}

// Each of these pairs is a linear map and its transpose, so each is the gradient of the other.
std::vector<Tensor> vjp_index_select(TapeNode& n, const std::vector<Tensor>& g);
std::vector<Tensor> vjp_index_add(TapeNode& n, const std::vector<Tensor>& g);
std::vector<Tensor> vjp_gather(TapeNode& n, const std::vector<Tensor>& g);
std::vector<Tensor> vjp_scatter_add(TapeNode& n, const std::vector<Tensor>& g);
const Rule index_select_rule{"index_select", vjp_index_select, 2};
const Rule index_add_rule{"index_select", vjp_index_add, 2};
const Rule gather_rule{"gather", vjp_gather, 2};
const Rule scatter_add_rule{"gather", vjp_scatter_add, 2};

std::vector<Tensor> transposed(TapeNode& n, const Tensor& g, const Rule& rule, OpKind kind) {
  return {emit1(rule, kind, n.params, {contiguous(g), n.input(1)}, {n.inputs[0].shape, g.dtype()}), Tensor()};
}
std::vector<Tensor> vjp_index_select(TapeNode& n, const std::vector<Tensor>& g) {
  return transposed(n, g[0], index_add_rule, OpKind::index_add);
}
std::vector<Tensor> vjp_index_add(TapeNode& n, const std::vector<Tensor>& g) {
  return transposed(n, g[0], index_select_rule, OpKind::index_select);
}
std::vector<Tensor> vjp_gather(TapeNode& n, const std::vector<Tensor>& g) {
  return transposed(n, g[0], scatter_add_rule, OpKind::scatter_add);
}
std::vector<Tensor> vjp_scatter_add(TapeNode& n, const std::vector<Tensor>& g) {
  return transposed(n, g[0], gather_rule, OpKind::gather);
}

std::vector<Tensor> vjp_cat(TapeNode& n, const std::vector<Tensor>& g) {
  int d = static_cast<int>(n.as<CatParams>().dim);
  std::vector<Tensor> r(n.inputs.size());
  int64_t at = 0;
  for (size_t i = 0; i < r.size(); ++i) {
    int64_t size = n.inputs[i].shape[d];
    if (n.needs(static_cast<int>(i))) r[i] = narrow(g[0], d, at, size);
    at += size;
  }
  return r;
}
const Rule cat_rule{"cat", vjp_cat};

std::vector<Tensor> vjp_pad(TapeNode& n, const std::vector<Tensor>& g);
std::vector<Tensor> vjp_pad_bwd(TapeNode& n, const std::vector<Tensor>& g);
const Rule pad_rule{"pad", vjp_pad};
const Rule pad_bwd_rule{"pad", vjp_pad_bwd};

std::vector<Tensor> vjp_pad(TapeNode& n, const std::vector<Tensor>& g) {
  PadParams p = n.as<PadParams>();
  p.value = 0;
  return {emit1(pad_bwd_rule, OpKind::pad_bwd, p, {contiguous(g[0])}, {n.inputs[0].shape, g[0].dtype()})};
}
std::vector<Tensor> vjp_pad_bwd(TapeNode& n, const std::vector<Tensor>& g) {
  return {emit1(pad_rule, OpKind::pad, n.params, {contiguous(g[0])}, {n.inputs[0].shape, g[0].dtype()})};
}

constexpr int64_t kMostPadding = int64_t(1) << 40;  // sums of sizes stay in int64

PadMode pad_mode(const std::string& mode) {
  if (mode == "constant") return PadMode::constant;
  if (mode == "reflect") return PadMode::reflect;
  if (mode == "replicate") return PadMode::replicate;
  if (mode == "circular") return PadMode::circular;
  throw ValueError("pad: expected mode constant, reflect, replicate or circular, got '" + mode + "'");
}

}  // namespace

Tensor index_select(const Tensor& x, int dim, const Tensor& index) {
  check<IndexError>(x.ndim() > 0, "index_select: expected a tensor with dimensions, got shape ()");
  int d = wrap_dim("index_select", dim, x.shape());
  check(index.ndim() <= 1, "index_select: expected a 1-D index, got shape ", index.shape());
  Tensor i = reshape(as_index("index_select", index), {index.numel()});
  Dims shape = x.shape();
  shape[d] = i.numel();
  return emit1(index_select_rule, OpKind::index_select, IndexParams{d, x.shape()[d]}, {contiguous(x), i},
               {shape, x.dtype()});
}

Tensor index_sum(const Tensor& x, int dim, const Tensor& index, int64_t size) {
  Dims shape = x.shape();
  shape[dim] = size;
  return emit1(index_add_rule, OpKind::index_add, IndexParams{dim, size}, {contiguous(x), contiguous(index)},
               {shape, x.dtype()});
}

Tensor embedding(const Tensor& ids, const Tensor& weight, std::optional<int64_t> padding_idx) {
  check(weight.ndim() == 2, "embedding: expected a weight (V, D), got shape ", weight.shape());
  check<TypeError>(is_floating(weight.dtype()), "embedding: expected a floating weight, got ", weight.dtype());
  check(ids.ndim() < kMaxDims, "embedding: expected ids of at most ", kMaxDims - 1, " dimensions, got shape ",
        ids.shape());
  const int64_t V = weight.shape()[0], D = weight.shape()[1];
  int64_t skipped = padding_idx.value_or(0);
  check(skipped >= -V && (skipped < V || !padding_idx), "embedding: expected padding_idx in [", -V, ", ", V,
        "), got ", skipped);
  if (skipped < 0) skipped += V;
  Tensor i = reshape(as_index("embedding", ids), {-1});
  const Tensor zero = full({}, 0, DType::int64, i.device()),
               end = full({}, static_cast<double>(V), DType::int64, i.device());
  if (i.is_symbolic() || i.device().type != DeviceType::cpu) {
    i = where(lt(i, zero), end, i);  // the kernel counts negative ids from the end, and refuses this one
  } else if (i.numel() > 0) {
    const double low = amin(i).item(), high = amax(i).item();
    check<IndexError>(low >= 0 && high < static_cast<double>(V), "embedding: expected ids in [0, ", V, "), got ",
                      low < 0 ? low : high);
  }
  Tensor rows = index_select(weight, 0, i);
  if (padding_idx && weight.requires_grad()) {
    Tensor padding = full({}, static_cast<double>(skipped), DType::int64, i.device());
    rows = where(unsqueeze(eq(i, padding), 1), rows.detach(), rows);
  }
  Dims shape = ids.shape();
  shape.push_back(D);
  return reshape(rows, shape);
}

Tensor gather(const Tensor& x, int dim, const Tensor& index) {
  check(x.ndim() == index.ndim() && x.ndim() > 0, "gather: expected x and index of one rank, got shapes ",
        x.shape(), " and ", index.shape());
  int d = wrap_dim("gather", dim, x.shape());
  for (int i = 0; i < x.ndim(); ++i)
    check(i == d || index.shape()[i] <= x.shape()[i], "gather: index of shape ", index.shape(),
          " does not fit in x of shape ", x.shape(), " apart from dim ", dim);
  return emit1(gather_rule, OpKind::gather, IndexParams{d, x.shape()[d]},
               {contiguous(x), as_index("gather", index)}, {index.shape(), x.dtype()});
}

Tensor scatter_add(const Tensor& x, int dim, const Tensor& index, const Tensor& src) {
  check(x.ndim() == index.ndim() && x.ndim() == src.ndim() && x.ndim() > 0,
        "scatter_add: expected x, index and src of one rank, got shapes ", x.shape(), ", ", index.shape(), " and ",
        src.shape());
  check<TypeError>(x.dtype() == src.dtype(), "scatter_add: expected src of dtype ", x.dtype(), " like x, got ",
                   src.dtype());
  const int d = wrap_dim("scatter_add", dim, x.shape());
  Tensor part = src;
  for (int i = 0; i < x.ndim(); ++i) {
    check(index.shape()[i] <= src.shape()[i] && (i == d || index.shape()[i] <= x.shape()[i]),
          "scatter_add: index of shape ", index.shape(), " does not fit in src of shape ", src.shape(),
          " and, apart from dim ", dim, ", in x of shape ", x.shape());
    if (index.shape()[i] < src.shape()[i]) part = narrow(part, i, 0, index.shape()[i]);
  }
  return add(x, emit1(scatter_add_rule, OpKind::scatter_add, IndexParams{d, x.shape()[d]},
                      {contiguous(part), as_index("scatter_add", index)}, {x.shape(), x.dtype()}));
}

Tensor masked_select(const Tensor& x, const Tensor& mask) {
  check<TypeError>(mask.dtype() == DType::bool_, "masked_select: expected a bool mask, got ", mask.dtype());
  check(!x.is_symbolic() && !mask.is_symbolic(),
        "masked_select: how many values there are is not known while compile traces the function; where keeps the "
        "shape");
  for (int i = 1; i <= std::min(x.ndim(), mask.ndim()); ++i) {
    const int64_t a = x.size(-i), b = mask.size(-i);
    check(a == b || a == 1 || b == 1, "masked_select: shapes ", x.shape(), " and ", mask.shape(),
          " do not broadcast");
  }
  // Of both shapes broadcast.
  const Tensor all = mul(cast(mask, DType::int64), ones(x.shape(), DType::int64, x.device()));
  const Tensor values = expand(x, all.shape());
  return index_select(reshape(values, {all.numel()}), 0, nonzero(reshape(all, {all.numel()}))[0]);
}

std::vector<Tensor> nonzero(const Tensor& x) {
  check(x.ndim() > 0, "nonzero: expected x (or a mask) with dimensions, got shape ()");
  check(!x.is_symbolic(),
        "nonzero (of a mask, too): how many places there are is not known while compile traces the "
        "function; where and masked_fill keep the shape");
  const Tensor mask = x.dtype() == DType::bool_ ? x : ne(x, full({}, 0, x.dtype(), x.device()));
  const Tensor flat = to_device(contiguous(reshape(mask.detach(), {mask.numel()})), Device{});
  const bool* m = flat.data<bool>();
  std::vector<int64_t> at;
  for (int64_t i = 0; i < flat.numel(); ++i)
    if (m[i]) at.push_back(i);
  std::vector<Tensor> out(x.ndim());
  int64_t inner = 1;
  for (int d = x.ndim() - 1; d >= 0; --d) {
    Tensor places = empty({static_cast<int64_t>(at.size())}, DType::int64);
    for (size_t k = 0; k < at.size(); ++k) places.data<int64_t>()[k] = at[k] / inner % x.shape()[d];
    out[d] = to_device(places, x.device());
    inner *= x.shape()[d];
  }
  return out;
}

Tensor index_put(const Tensor& x, const Tensor& index, const Tensor& values) {
  check(x.ndim() == 1 && index.ndim() == 1, "index_put: expected x and index of one dimension, got shapes ",
        x.shape(), " and ", index.shape());
  check(values.shape() == index.shape(), "index_put: expected values of shape ", index.shape(), ", got ",
        values.shape());
  return emit1(
      Rule{"index_put"}, OpKind::index_put, IndexParams{0, x.shape()[0]},
      {contiguous(x.detach()), as_index("index_put", index), contiguous(cast(values.detach(), x.dtype()))},
      {x.shape(), x.dtype()});
}

Tensor masked_fill(const Tensor& x, const Tensor& mask, double value) {
  check<TypeError>(is_floating(x.dtype()) || value == std::floor(value), "masked_fill: value ", value,
                   " does not fit into ", x.dtype());
  Tensor y = where(mask, full({}, value, x.dtype(), x.device()), x);
  check(y.shape() == x.shape(), "masked_fill: mask of shape ", mask.shape(), " does not broadcast to x of shape ",
        x.shape());
  return y;
}

Tensor one_hot(const Tensor& ids, int64_t num_classes, DType dtype) {
  Tensor i = as_index("one_hot", ids);
  if (i.numel() > 0 && !i.is_symbolic()) {  // the kernel counts negative ids from the end
    double low = amin(i).item(), high = amax(i).item();
    check<IndexError>(low >= 0, "one_hot: expected class ids >= 0, got ", low);
    if (num_classes < 0) num_classes = static_cast<int64_t>(high) + 1;
    check<IndexError>(num_classes < 1 || high < static_cast<double>(num_classes),
                      "one_hot: expected class ids in [0, ", num_classes, "), got ", high);
  }
  check(num_classes > 0, "one_hot: expected num_classes > 0, got ", num_classes);
  Dims shape = i.shape();
  check(shape.size() < kMaxDims, "one_hot: expected at most ", kMaxDims - 1, " dimensions, got shape ", shape);
  shape.push_back(num_classes);
  Tensor at = contiguous(unsqueeze(i, -1)), one = ones(at.shape(), dtype, i.device());
  return emit1(Rule{"one_hot"}, OpKind::scatter_add, IndexParams{shape.size() - 1, num_classes}, {one, at},
               {shape, dtype});
}

Tensor cat(const std::vector<Tensor>& xs, int dim) {
  check(!xs.empty(), "cat: expected at least one tensor");
  check(xs[0].ndim() > 0, "cat: expected tensors with dimensions, got shape (); use stack");
  int d = wrap_dim("cat", dim, xs[0].shape());
  Dims shape = xs[0].shape();
  DType dtype = xs[0].dtype();
  for (size_t i = 1; i < xs.size(); ++i) {
    const Dims& s = xs[i].shape();
    bool fits = s.size() == shape.size();
    for (int k = 0; fits && k < s.size(); ++k) fits = k == d || s[k] == shape[k];
    check(fits, "cat: expected shapes equal apart from dim ", dim, ", got ", xs[0].shape(), " and ", s,
          " (tensor ", i, ")");
    shape[d] += s[d];
    dtype = promote(dtype, xs[i].dtype());
  }
  std::vector<Tensor> in;
  for (const Tensor& x : xs) in.push_back(cast(x, dtype));
  return emit1(cat_rule, OpKind::cat, CatParams{d}, in, {shape, dtype});
}

Tensor stack(const std::vector<Tensor>& xs, int dim) {
  check(!xs.empty(), "stack: expected at least one tensor");
  std::vector<Tensor> in;
  for (const Tensor& x : xs) {
    check(x.shape() == xs[0].shape(), "stack: expected equal shapes, got ", xs[0].shape(), " and ", x.shape());
    in.push_back(unsqueeze(x, dim));
  }
  return cat(in, dim);
}

std::vector<Tensor> split(const Tensor& x, int64_t size, int dim) {
  check(size > 0, "split: expected a size > 0, got ", size);
  std::vector<int64_t> sizes;
  int64_t n = x.size(dim);
  for (int64_t at = 0; at < n; at += size) sizes.push_back(std::min(size, n - at));
  if (n == 0) sizes.push_back(0);
  return split(x, sizes, dim);
}

std::vector<Tensor> split(const Tensor& x, const std::vector<int64_t>& sizes, int dim) {
  int64_t n = x.size(dim), at = 0;
  for (int64_t s : sizes) {
    check(s >= 0 && s <= n, "split: expected sizes in [0, ", n, "] for dim ", dim, " of shape ", x.shape(),
          ", got ", s);
    at += s;
  }
  check(at == n, "split: sizes add up to ", at, ", dim ", dim, " of shape ", x.shape(), " has ", n);
  std::vector<Tensor> out;
  at = 0;
  for (int64_t s : sizes) {
    out.push_back(narrow(x, dim, at, s));
    at += s;
  }
  return out;
}

Tensor pad(const Tensor& x, const std::vector<int64_t>& pads, const std::string& mode, double value) {
  int n = x.ndim(), count = static_cast<int>(pads.size());
  check(count % 2 == 0 && count <= 2 * n,
        "pad: expected pairs of (before, after) from the last dim backwards, at most ", 2 * n,
        " numbers for shape ", x.shape(), ", got ", count);
  PadParams p;
  p.mode = pad_mode(mode);
  p.value = value;
  Dims shape = x.shape();
  bool changes = false;
  for (int i = 0; i < count / 2; ++i) {
    int d = n - 1 - i;
    int64_t before = pads[2 * i], after = pads[2 * i + 1], size = x.shape()[d], most = std::max(before, after);
    check(before >= -kMostPadding && before <= kMostPadding && after >= -kMostPadding && after <= kMostPadding,
          "pad: expected padding within +-", kMostPadding, ", got (", before, ", ", after, ") for dim ", d,
          " of shape ", x.shape());
    changes |= before != 0 || after != 0;
    p.before[d] = before;
    p.after[d] = after;
    shape[d] += before + after;
    check(shape[d] >= 0, "pad: padding (", before, ", ", after, ") leaves less than nothing of dim ", d,
          " of shape ", x.shape());
    if (p.mode == PadMode::constant) continue;
    check(before >= 0 && after >= 0, "pad: expected padding >= 0 in mode ", mode, ", got (", before, ", ", after,
          ")");
    check(p.mode != PadMode::reflect || most < size || most == 0,
          "pad: reflect needs padding smaller than the dim, got (", before, ", ", after, ") for dim ", d,
          " of shape ", x.shape());
    check(p.mode != PadMode::circular || most <= size, "pad: circular needs padding no larger than the dim, got (",
          before, ", ", after, ") for dim ", d, " of shape ", x.shape());
    check(size > 0 || most == 0, "pad: mode ", mode, " cannot pad an empty dim, shape is ", x.shape());
  }
  if (!changes) return clone(x);  // a tensor of its own, whatever the numbers are
  return emit1(pad_rule, OpKind::pad, p, {contiguous(x)}, {shape, x.dtype()});
}

}  // namespace fastcnn
