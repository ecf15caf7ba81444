// What it is: views (reshape, permute, expand, slices) and their gradient rules. Element order is logical, as in
// PyTorch: flattening a channels-last image copies it into C, H, W order unless that order needs no copy.
#include <algorithm>
#include <optional>

#include "fastcnn/ops.h"
#include "graph/emit.h"
#include "graph/trace.h"
#include "ops/dims.h"

namespace fastcnn {
namespace {

// Strides that show x in another shape without a copy, or nothing. Both shapes have the same number of elements.
std::optional<Dims> view_strides(const Tensor& x, const Dims& shape) {
  if (x.numel() == 0) return canonical_strides(shape);
  // Runs of x's dims that lie evenly in memory; sizes of 1 do not matter.
  Dims run_size, run_stride;
  for (int d = 0; d < x.ndim(); ++d) {
    int64_t n = x.shape()[d], s = x.strides()[d];
    if (n == 1) continue;
    int last = run_size.size() - 1;
    if (last >= 0 && run_stride[last] == n * s) {
      run_size[last] *= n;
      run_stride[last] = s;
    } else {
      run_size.push_back(n);
      run_stride.push_back(s);
    }
  }
  Dims strides(shape.size(), 1);
  int run = run_size.size() - 1;
  int64_t used = 1, next = 1;  // elements of the run already covered; stride for sizes of 1
  for (int d = shape.size() - 1; d >= 0; --d) {
    if (shape[d] == 1) {
      strides[d] = next;
      continue;
    }
    if (run < 0 || run_size[run] % (used * shape[d]) != 0) return std::nullopt;
    strides[d] = run_stride[run] * used;
    used *= shape[d];
    next = strides[d] * shape[d];
    if (used == run_size[run]) {
      --run;
      used = 1;
    }
  }
  return strides;
}

std::vector<Tensor> vjp_reshape(TapeNode& n, const std::vector<Tensor>& g) {
  return {reshape(g[0], n.inputs[0].shape)};
}
const Rule reshape_rule{"reshape", vjp_reshape};

// Dense memory in logical order, untaped. Rank 4 would be channels-last: one more dim in front makes it row-major.
Tensor row_major_copy(const Tensor& x) {
  Dims shape = x.shape(), strides = x.strides();
  if (shape.size() == 4) {
    shape.insert(0, 1);
    strides.insert(0, 0);
  }
  Tensor view = make_view(x, shape, strides, x.offset());
  return emit1(Rule{"reshape"}, OpKind::unary, UnaryParams{Unary::copy}, {view}, {shape, x.dtype()});
}

struct PermuteView {
  int64_t dims[kMaxDims];
};
std::vector<Tensor> vjp_permute(TapeNode& n, const std::vector<Tensor>& g) {
  const PermuteView& p = n.as<PermuteView>();
  std::vector<int> back(g[0].ndim());
  for (int i = 0; i < g[0].ndim(); ++i) back[p.dims[i]] = i;
  return {permute(g[0], back)};
}
const Rule permute_rule{"permute", vjp_permute};

std::vector<Tensor> vjp_expand(TapeNode& n, const std::vector<Tensor>& g) {
  return {sum_to(g[0], n.inputs[0].shape)};
}
const Rule expand_rule{"expand", vjp_expand};

// Windows and their transpose: a slice of a tensor, and zeros with the slice put back. ScatterParams speak of the
// canonical layout; each is the gradient of the other.
std::vector<Tensor> vjp_window(TapeNode& n, const std::vector<Tensor>& g);
std::vector<Tensor> vjp_scatter(TapeNode& n, const std::vector<Tensor>& g);
const Rule window_rule{"slice", vjp_window};
const Rule scatter_rule{"slice", vjp_scatter};

std::vector<Tensor> vjp_window(TapeNode& n, const std::vector<Tensor>& g) {
  return {emit1(scatter_rule, OpKind::strided_scatter, n.params, {g[0]}, {n.inputs[0].shape, g[0].dtype()})};
}
std::vector<Tensor> vjp_scatter(TapeNode& n, const std::vector<Tensor>& g) {
  const ScatterParams& p = n.as<ScatterParams>();
  Tensor base = contiguous(g[0]);
  const Dims& shape = n.inputs[0].shape;
  Dims strides(std::span<const int64_t>(p.strides, shape.size()));
  return {emit_view(window_rule, p, base, shape, strides, base.offset() + p.offset)};
}

// Elements start, start + step, … (length of them) of one dim.
Tensor window(const Tensor& x, int d, int64_t start, int64_t length, int64_t step) {
  Dims shape = x.shape(), strides = x.strides(), dense = canonical_strides(x.shape());
  if (length == shape[d] && step == 1) return x;
  if (length == 0) start = 0;
  ScatterParams p;
  p.offset = start * dense[d];
  for (int i = 0; i < shape.size(); ++i) p.strides[i] = dense[i] * (i == d ? step : 1);
  int64_t offset = x.offset() + start * strides[d];
  shape[d] = length;
  strides[d] *= step;
  return emit_view(window_rule, p, x, shape, strides, offset);
}

int real_dim(const char* op, const Tensor& x, int dim) {
  check<IndexError>(x.ndim() > 0, op, ": expected a tensor with dimensions, got shape ()");
  return wrap_dim(op, dim, x.shape());
}

}  // namespace

Tensor reshape(const Tensor& x, const Dims& wanted) {
  Dims shape = wanted;
  int unknown = -1;
  int64_t known = 1;
  for (int d = 0; d < shape.size(); ++d) {
    if (shape[d] == -1) {
      check(unknown < 0, "reshape: expected at most one -1, got ", wanted);
      unknown = d;
      continue;
    }
    check(shape[d] >= 0, "reshape: expected sizes >= 0 or one -1, got ", wanted);
    check(shape[d] == 0 || known <= INT64_MAX / shape[d], "reshape: shape ", wanted, " is too large");
    known *= shape[d];
  }
  if (unknown >= 0) {
    check(known > 0 && x.numel() % known == 0, "reshape: cannot show shape ", x.shape(), " (", x.numel(),
          " elements) as ", wanted);
    shape[unknown] = x.numel() / known;
  } else {
    check(known == x.numel(), "reshape: cannot show shape ", x.shape(), " (", x.numel(), " elements) as ", wanted,
          " (", known, ")");
  }
  if (shape == x.shape()) return x;
  if (auto strides = view_strides(x, shape))
    return emit_view(reshape_rule, Params(), x, shape, *strides, x.offset());
  std::vector<Tensor> out{make_view(row_major_copy(x), shape, row_major_strides(shape), 0)};
  if (Trace* t = current_trace()) t->note_view(reshape_rule.name, Params(), x, out[0], true);
  record_on_tape(reshape_rule, Params(), {x}, out);
  return out[0];
}

Tensor flatten(const Tensor& x, int start_dim, int end_dim) {
  if (x.ndim() == 0) return reshape(x, {1});
  int a = wrap_dim("flatten", start_dim, x.shape()), b = wrap_dim("flatten", end_dim, x.shape());
  check(a <= b, "flatten: expected start_dim <= end_dim, got ", start_dim, " and ", end_dim, " for shape ",
        x.shape());
  Dims shape;
  for (int d = 0; d < x.ndim(); ++d) {
    if (d <= a || d > b)
      shape.push_back(x.shape()[d]);
    else
      shape[a] *= x.shape()[d];
  }
  return reshape(x, shape);
}

Tensor unflatten(const Tensor& x, int dim, const Dims& sizes) {
  const int d = wrap_dim("unflatten", dim, x.shape());
  check(x.ndim() > 0 && sizes.size() > 0,
        "unflatten: expected a tensor with dimensions and at least one size, got shape ", x.shape(), " and sizes ",
        sizes);
  check(x.ndim() - 1 + sizes.size() <= kMaxDims, "unflatten: expected at most ", kMaxDims,
        " dimensions, got sizes ", sizes, " for shape ", x.shape());
  const int64_t n = x.shape()[d];
  int64_t known = 1;
  int open = -1;
  for (int i = 0; i < sizes.size(); ++i) {
    check(sizes[i] >= 0 || (sizes[i] == -1 && open < 0),
          "unflatten: expected sizes >= 0, one of them may be -1, got ", sizes);
    if (sizes[i] < 0)
      open = i;
    else
      known = known > n ? known : known * sizes[i];  // more than n is wrong, whatever it is
  }
  const bool fits = open < 0 ? known == n : known > 0 && n % known == 0;
  check(fits, "unflatten: expected sizes that make ", n, ", dim ", dim, " of shape ", x.shape(), ", got ", sizes);
  Dims shape;
  for (int i = 0; i < x.ndim(); ++i) {
    if (i != d) {
      shape.push_back(x.shape()[i]);
      continue;
    }
    for (int k = 0; k < sizes.size(); ++k) shape.push_back(k == open ? n / known : sizes[k]);
  }
  return reshape(x, shape);
}

Tensor squeeze(const Tensor& x, std::optional<int> dim) {
  Dims shape, strides;
  int only = dim ? wrap_dim("squeeze", *dim, x.shape()) : -1;
  for (int d = 0; d < x.ndim(); ++d) {
    if (x.shape()[d] == 1 && (only < 0 || only == d)) continue;
    shape.push_back(x.shape()[d]);
    strides.push_back(x.strides()[d]);
  }
  if (shape.size() == x.ndim()) return x;
  return emit_view(reshape_rule, Params(), x, shape, strides, x.offset());
}

Tensor unsqueeze(const Tensor& x, int dim) {
  int n = x.ndim() + 1, d = dim < 0 ? dim + n : dim;
  check<IndexError>(d >= 0 && d < n, "unsqueeze: expected a dim in [", -n, ", ", n - 1, "] for shape ", x.shape(),
                    ", got ", dim);
  Dims shape = x.shape(), strides = x.strides();
  check(n <= kMaxDims, "unsqueeze: expected at most ", kMaxDims, " dimensions, shape is ", x.shape());
  strides.insert(d, d < x.ndim() ? shape[d] * strides[d] : 1);
  shape.insert(d, 1);
  return emit_view(reshape_rule, Params(), x, shape, strides, x.offset());
}

Tensor permute(const Tensor& x, const std::vector<int>& dims) {
  int n = x.ndim();
  check(static_cast<int>(dims.size()) == n, "permute: expected ", n, " dims for shape ", x.shape(), ", got ",
        dims.size());
  PermuteView p{};
  Dims shape, strides;
  uint32_t seen = 0;
  for (int i = 0; i < n; ++i) {
    int d = wrap_dim("permute", dims[i], x.shape());
    check(!(seen >> d & 1), "permute: dim ", dims[i], " appears more than once");
    seen |= 1u << d;
    p.dims[i] = d;
    shape.push_back(x.shape()[d]);
    strides.push_back(x.strides()[d]);
  }
  return emit_view(permute_rule, p, x, shape, strides, x.offset());
}

Tensor transpose(const Tensor& x, int dim0, int dim1) {
  int a = wrap_dim("transpose", dim0, x.shape()), b = wrap_dim("transpose", dim1, x.shape());
  if (x.ndim() == 0) return x;
  std::vector<int> dims(x.ndim());
  for (int i = 0; i < x.ndim(); ++i) dims[i] = i;
  std::swap(dims[a], dims[b]);
  return permute(x, dims);
}

Tensor expand(const Tensor& x, const Dims& wanted) {
  int lead = wanted.size() - x.ndim();
  check(lead >= 0, "expand: shape ", x.shape(), " has more dimensions than ", wanted);
  Dims shape = wanted, strides(wanted.size(), 0);
  for (int i = 0; i < shape.size(); ++i) {
    if (i < lead) {
      check(shape[i] >= 0, "expand: shape ", x.shape(), " cannot become ", wanted,
            ": -1 only keeps a size that exists");
      continue;
    }
    int64_t n = x.shape()[i - lead];
    if (shape[i] == -1) shape[i] = n;
    check(shape[i] >= 0 && (shape[i] == n || n == 1), "expand: shape ", x.shape(), " cannot become ", wanted);
    strides[i] = n == 1 && shape[i] != 1 ? 0 : x.strides()[i - lead];
  }
  if (shape == x.shape()) return x;
  checked_numel("expand", shape, x.dtype());
  return emit_view(expand_rule, Params(), x, shape, strides, x.offset());
}

Tensor sum_to(const Tensor& x, const Dims& shape) {
  if (x.shape() == shape) return x;
  int lead = x.ndim() - shape.size();
  check(lead >= 0, "sum_to: shape ", shape, " does not broadcast to ", x.shape());
  std::vector<int> dims;
  for (int d = 0; d < x.ndim(); ++d) {
    int64_t n = d < lead ? 1 : shape[d - lead];
    check(d < lead || n == 1 || n == x.shape()[d], "sum_to: shape ", shape, " does not broadcast to ", x.shape());
    if (d < lead || n != x.shape()[d]) dims.push_back(d);
  }
  return reshape(sum(x, dims, true), shape);
}

Tensor narrow(const Tensor& x, int dim, int64_t start, int64_t length) {
  int d = real_dim("narrow", x, dim);
  int64_t n = x.shape()[d], from = start < 0 ? start + n : start;
  check<IndexError>(from >= 0 && length >= 0 && from <= n && length <= n - from, "narrow: start ", start,
                    ", length ", length, " do not fit in dim ", dim, " of shape ", x.shape());
  return window(x, d, from, length, 1);
}

Tensor slice(const Tensor& x, int dim, int64_t start, int64_t end, int64_t step) {
  int d = real_dim("slice", x, dim);
  check(step != 0 && step != INT64_MIN, "slice: expected step != 0");
  int64_t n = x.shape()[d];  // Python's rules for start, end: from the end if negative, then clipped
  auto clip = [&](int64_t i) {
    if (i < 0) i = i < -n ? -1 : i + n;
    return step > 0 ? std::clamp<int64_t>(i, 0, n) : std::clamp<int64_t>(i, -1, n - 1);
  };
  int64_t a = clip(start), b = clip(end);
  int64_t length = step > 0 ? (b > a ? (b - a - 1) / step + 1 : 0) : (a > b ? (a - b - 1) / -step + 1 : 0);
  return window(x, d, a, length, step);
}

Tensor select(const Tensor& x, int dim, int64_t index) {
  int d = real_dim("select", x, dim);
  int64_t n = x.shape()[d];
  check<IndexError>(index >= -n && index < n, "select: expected an index in [", -n, ", ", n - 1, "] for dim ", dim,
                    " of shape ", x.shape(), ", got ", index);
  return squeeze(window(x, d, index < 0 ? index + n : index, 1, 1), d);
}

Tensor flip(const Tensor& x, const std::vector<int>& dims) {
  uint32_t mask = dims.empty() ? 0 : dims_mask("flip", dims, x.shape());
  Tensor y = x;
  for (int d = 0; d < x.ndim(); ++d)
    if ((mask >> d & 1) && x.shape()[d] > 1) y = window(y, d, x.shape()[d] - 1, x.shape()[d], -1);
  return clone(y);  // as elsewhere: what is flipped is no view
}

}  // namespace fastcnn
