// What it is: dropout (Srivastava et al. 2014), dropout2d (Tompson et al. 2015) and drop_path (Huang et al.
// 2016), with a mask that is a function of the generator state, so that backward makes it again instead of
// storing it.
#include "graph/emit.h"
#include "ops/operands.h"
#include "ops/random.h"

namespace fastcnn {
namespace {

Tensor emit_bwd(const DropoutParams& p, const Tensor& dy, const Tensor& saved);

std::vector<Tensor> vjp_dropout(TapeNode& n, const std::vector<Tensor>& g) {
  return {emit_bwd(n.as<DropoutParams>(), g[0], n.output(1).detach()), Tensor()};
}
std::vector<Tensor> vjp_dropout_bwd(TapeNode& n, const std::vector<Tensor>& g) {
  return {emit_bwd(n.as<DropoutParams>(), g[0], n.input(1)), Tensor()};
}
const Rule dropout_rule{"dropout", vjp_dropout, 0, 2};
const Rule dropout_bwd_rule{"dropout_bwd", vjp_dropout_bwd, 2};

Tensor emit_bwd(const DropoutParams& p, const Tensor& dy, const Tensor& saved) {
  return emit1(dropout_bwd_rule, OpKind::dropout_bwd, p, {contiguous(dy), saved}, {dy.shape(), dy.dtype()});
}

Tensor drop(const char* op, const Tensor& x_in, double p, bool training, DropKind kind, int least_rank) {
  check_floating(op, "x", x_in);
  check(p >= 0 && p <= 1, op, ": expected p in [0, 1], got ", p);
  check(x_in.ndim() >= least_rank, op, ": expected x with at least ", least_rank, " dimensions, got shape ",
        x_in.shape());
  if (!training || p == 0) return x_in;
  const Tensor x = contiguous(x_in);
  const RandomTurn turn = take_random_turn(x.device());
  DropoutParams d;
  d.p = p, d.kind = kind, d.delta = turn.delta;
  if (kind != DropKind::element) {
    d.N = x.shape()[0];
    d.C = x.ndim() >= 2 ? x.shape()[1] : 1;
    d.HW = 1;
    for (int i = 2; i < x.ndim(); ++i) d.HW *= x.shape()[i];
  }
  return emit(dropout_rule, OpKind::dropout, d, {x, turn.state}, {{x.shape(), x.dtype()}, {{2}, DType::int64}})[0];
}

}  // namespace

Tensor dropout(const Tensor& x, double p, bool training) {
  return drop("dropout", x, p, training, DropKind::element, 0);
}
Tensor dropout2d(const Tensor& x, double p, bool training) {
  return drop("dropout2d", x, p, training, DropKind::channel, 2);
}
Tensor drop_path(const Tensor& x, double p, bool training) {
  return drop("drop_path", x, p, training, DropKind::sample, 1);
}

}  // namespace fastcnn
