// What it is: linear and matmul. Both become matrix products of 2-D or 3-D operands; transposed operands are
// passed as they lie, so no gradient copies one.
#include <algorithm>

#include "graph/emit.h"
#include "ops/operands.h"

namespace fastcnn {
namespace {

Tensor transposed(const Tensor& x) { return transpose(x, -2, -1); }

// The last two dims swapped, without a tape entry.
Tensor swapped_view(const Tensor& x) {
  Dims shape = x.shape(), strides = x.strides();
  int r = x.ndim();
  std::swap(shape[r - 1], shape[r - 2]);
  std::swap(strides[r - 1], strides[r - 2]);
  return noted_view("permute", Params(), x, shape, strides, x.offset());
}
bool is_transposed(const Tensor& x) { return !x.is_contiguous() && swapped_view(x).is_contiguous(); }
Tensor row_or_column_major(const Tensor& x) { return is_transposed(x) ? x : contiguous(x); }

// a (M,K) or (B,M,K), b (K,N) or (B,K,N).
Tensor product(const Rule& rule, const Tensor& a_in, const Tensor& b_in) {
  Tensor a = row_or_column_major(a_in), b = row_or_column_major(b_in);
  // Devices have kernels for one transposed operand: of two, the result is transposed instead.
  if (is_transposed(a) && is_transposed(b)) return transposed(product(rule, transposed(b), transposed(a)));
  int ra = a.ndim(), rb = b.ndim();
  MatmulParams p;
  p.a_batched = ra == 3, p.b_batched = rb == 3;
  p.batch = p.a_batched ? a.shape()[0] : p.b_batched ? b.shape()[0] : 1;
  p.M = a.shape()[ra - 2], p.K = a.shape()[ra - 1], p.N = b.shape()[rb - 1];
  p.trans_a = is_transposed(a), p.trans_b = is_transposed(b);
  std::vector<Tensor> operands{a, b}, lying{p.trans_a ? swapped_view(a) : a, p.trans_b ? swapped_view(b) : b};
  Dims shape = p.a_batched || p.b_batched ? Dims{p.batch, p.M, p.N} : Dims{p.M, p.N};
  std::vector<Tensor> out = emit(Rule{rule.name}, OpKind::matmul, p, lying, {{shape, a.dtype()}});
  record_on_tape(rule, p, operands, out);
  return std::move(out[0]);
}

extern const Rule matmul_rule;

// The gradient takes the layout of its operand, so that one of a transposed parameter is dense for the
// parameter.
Tensor product_like(const Tensor& operand, const Tensor& left, const Tensor& right) {
  Tensor d = is_transposed(operand) ? transposed(product(matmul_rule, transposed(right), transposed(left)))
                                    : product(matmul_rule, left, right);
  return operand.ndim() == 2 && d.ndim() == 3 ? sum(d, {0}) : d;
}

std::vector<Tensor> vjp_matmul(TapeNode& n, const std::vector<Tensor>& g) {
  Tensor a = n.input(0), b = n.input(1);
  std::vector<Tensor> r(n.inputs.size());
  if (n.needs(0)) r[0] = product_like(a, g[0], transposed(b));
  if (n.needs(1)) r[1] = product_like(b, transposed(a), g[0]);
  return r;
}
const Rule matmul_rule{"matmul", vjp_matmul, 3};

// x (M,I), w (O,I) [, bias (O)] -> (M,O)
std::vector<Tensor> vjp_linear(TapeNode& n, const std::vector<Tensor>& g) {
  std::vector<Tensor> r(n.inputs.size());
  if (n.needs(0)) r[0] = product(matmul_rule, g[0], n.input(1));
  if (n.needs(1)) r[1] = product(matmul_rule, transposed(g[0]), n.input(0));
  if (r.size() > 2 && n.needs(2)) r[2] = sum(g[0], {0});
  return r;
}
const Rule linear_rules[4] = {
    {"linear", vjp_linear, 0}, {"linear", vjp_linear, 1}, {"linear", vjp_linear, 2}, {"linear", vjp_linear, 3}};

Dims leading(const Dims& shape, int drop) {
  Dims d;
  for (int i = 0; i + drop < shape.size(); ++i) d.push_back(shape[i]);
  return d;
}
Dims with(Dims d, std::initializer_list<int64_t> more) {
  for (int64_t v : more) d.push_back(v);
  return d;
}

}  // namespace

Tensor linear(const Tensor& x_in, const Tensor& w_in, const Tensor& bias_in) {
  Tensor x = x_in, w = w_in, bias = bias_in;
  check_floating("linear", "x", x);
  check_floating("linear", "w", w);
  if (bias.defined()) check_floating("linear", "bias", bias);
  apply_autocast(x);
  apply_autocast(w);
  apply_autocast(bias);
  check_like("linear", "w", w, x);
  if (bias.defined()) check_like("linear", "bias", bias, x);
  check(w.ndim() == 2, "linear: expected w of shape (out features, in features), got ", w.shape(), " (x is ",
        x.shape(), ")");
  const int64_t O = w.shape()[0], I = w.shape()[1];
  check(x.ndim() >= 1 && x.shape().back() == I, "linear: expected x of shape (..., ", I, ") (w is ", w.shape(),
        "), got ", x.shape());
  if (bias.defined())
    check(bias.ndim() == 1 && bias.shape()[0] == O, "linear: expected bias of shape ", Dims{O}, " (w is ",
          w.shape(), "), got ", bias.shape());
  const Dims lead = leading(x.shape(), 1);
  w = row_or_column_major(w);
  // A weight as it is counts as transposed (w's columns are inputs): beside it x may not be, see product.
  Tensor x2 =
      x.ndim() == 2 && is_transposed(w) ? row_or_column_major(x) : contiguous(reshape(x, {lead.numel(), I}));

  MatmulParams p;
  p.M = lead.numel(), p.N = O, p.K = I;
  p.trans_a = is_transposed(x2), p.trans_b = !is_transposed(w);
  p.has_bias = bias.defined();
  std::vector<Tensor> operands{x2, w}, lying{p.trans_a ? swapped_view(x2) : x2, p.trans_b ? w : swapped_view(w)};
  if (bias.defined()) {
    operands.push_back(contiguous(bias));
    lying.push_back(operands.back());
  }
  const Rule& rule = linear_rules[(w.requires_grad() ? 1 : 0) | (x2.requires_grad() ? 2 : 0)];
  std::vector<Tensor> y = emit(Rule{rule.name}, OpKind::matmul, p, lying, {{{p.M, O}, x.dtype()}});
  record_on_tape(rule, p, operands, y);
  return x.ndim() == 2 ? y[0] : reshape(y[0], with(lead, {O}));
}

Tensor matmul(const Tensor& a_in, const Tensor& b_in) {
  Tensor a = a_in, b = b_in;
  check_floating("matmul", "a", a);
  check_floating("matmul", "b", b);
  apply_autocast(a);
  apply_autocast(b);
  check_like("matmul", "b", b, a, "a");
  check(a.ndim() >= 1 && b.ndim() >= 1, "matmul: expected at least 1 dimension, got a of shape ", a.shape(),
        " and b of shape ", b.shape());
  const bool a_vector = a.ndim() == 1, b_vector = b.ndim() == 1;
  if (a_vector) a = unsqueeze(a, 0);
  if (b_vector) b = unsqueeze(b, 1);
  const int ra = a.ndim(), rb = b.ndim();
  const int64_t M = a.shape()[ra - 2], K = a.shape()[ra - 1], N = b.shape()[rb - 1];
  check(b.shape()[rb - 2] == K, "matmul: expected b with ", K, " rows (a is ", a_in.shape(), "), got b of shape ",
        b_in.shape());

  Tensor y;
  if (ra == 2 && rb == 2) {
    y = product(matmul_rule, a, b);
  } else {
    Dims la = leading(a.shape(), 2), lb = leading(b.shape(), 2), batch(std::max(la.size(), lb.size()), 1);
    for (int i = 0; i < batch.size(); ++i) {
      int ia = i - (batch.size() - la.size()), ib = i - (batch.size() - lb.size());
      int64_t da = ia < 0 ? 1 : la[ia], db = ib < 0 ? 1 : lb[ib];
      check(da == db || da == 1 || db == 1, "matmul: batch dimensions of a ", a_in.shape(), " and b ",
            b_in.shape(), " do not broadcast");
      batch[i] = da == 1 ? db : da;
    }
    // One matrix for the whole batch stays one.
    auto operand = [&](const Tensor& t, const Dims& lead, int64_t rows, int64_t cols) {
      if (lead.numel() == 1) return t.ndim() == 2 ? t : reshape(t, {rows, cols});
      Tensor full = lead == batch ? t : expand(t, with(batch, {rows, cols}));
      return full.ndim() == 3 ? full : reshape(full, {batch.numel(), rows, cols});
    };
    a = operand(a, la, M, K);
    b = operand(b, lb, K, N);
    if (a.ndim() == 3 && b.ndim() == 2 && a.is_contiguous()) a = reshape(a, {batch.numel() * M, K});
    y = reshape(product(matmul_rule, a, b), with(batch, {M, N}));
  }
  if (a_vector) y = squeeze(y, -2);
  if (b_vector) y = squeeze(y, -1);
  return y;
}

}  // namespace fastcnn
