// What it is: pointwise losses against their reference: every loss and reduction, sizes around vectors and chunks,
// values that are not finite, NaN targets.
#include <cmath>
#include <stdexcept>

#include "op_check.h"

using namespace fastcnn;
using namespace fastcnn::test;

namespace {

const PointLoss kLosses[] = {PointLoss::mse, PointLoss::l1, PointLoss::smooth_l1, PointLoss::huber,
                             PointLoss::bce_with_logits};

Array targets(int64_t n) {
  Array t = normal(n, 2);
  for (int64_t i = 0; i < n; ++i) t.f()[i] = std::abs(std::fmod(t.f()[i], 1.0f));
  return t;
}

}  // namespace

TEST_CASE("pointwise_loss: every loss and reduction, forward and backward") {
  for (int64_t n : {0, 1, 7, 16, 17, 1024, 1025, 8191, 8192, 8193, 50000})
    for (PointLoss loss : kLosses)
      for (double beta : {1.0, 0.3})
        for (Reduction red : {Reduction::none, Reduction::mean, Reduction::sum}) {
          PointwiseLossParams p;
          p.count = n, p.loss = loss, p.beta = beta, p.reduction = red;
          int64_t losses = red == Reduction::none ? n : 1;
          std::string what = std::string(name_of(loss)) + " of " + std::to_string(n);
          std::vector<Array> in;
          in.push_back(normal(n, 1, 3)), in.push_back(targets(n));
          CHECK(check_op(cpu::pointwise_loss_list(), &p, in, {{losses}}, what, {2e-6}) > 0);
          std::vector<Array> bwd;
          bwd.push_back(normal(losses, 5)), bwd.push_back(normal(n, 1, 3)), bwd.push_back(targets(n));
          CHECK(check_op(cpu::pointwise_loss_bwd_list(), &p, bwd, {{n}}, what + " bwd", {2e-6}) > 0);
        }
}

TEST_CASE("pointwise_loss: infinite and NaN inputs give what the reference gives") {
  for (PointLoss loss : kLosses) {
    PointwiseLossParams p;
    p.count = 40, p.loss = loss, p.reduction = Reduction::none;
    std::vector<Array> in;
    in.push_back(normal(40, 1)), in.push_back(targets(40));
    in[0].f()[1] = INFINITY, in[0].f()[18] = -INFINITY, in[0].f()[33] = NAN, in[0].f()[2] = 1e30f;
    in[0].f()[4] = in[1].f()[4];  // no difference
    CHECK(check_op(cpu::pointwise_loss_list(), &p, in, {{40}}, name_of(loss), {2e-6, 1e-6}) > 0);
    std::vector<Array> bwd;
    bwd.push_back(normal(40, 5)), bwd.push_back(std::move(in[0])), bwd.push_back(std::move(in[1]));
    CHECK(check_op(cpu::pointwise_loss_bwd_list(), &p, bwd, {{40}}, name_of(loss), {2e-6, 1e-6}) > 0);
  }
}

TEST_CASE("pointwise_loss: a NaN in the target throws on every ISA and names its place") {
  IsaGuard restore;
  PointwiseLossParams p;
  p.count = 30000;
  std::vector<Array> in, out;
  in.push_back(normal(p.count, 1)), in.push_back(targets(p.count)), out.emplace_back(1);
  in[1].f()[20001] = in[1].f()[29999] = NAN;
  auto in_ops = operands(in), out_ops = operands(out);
  Call c;
  c.params = &p, c.in = in_ops, c.out = out_ops;
  for (const std::string& isa : cpu::available_isas()) {
    cpu::set_isa(isa);
    for (const Implementation& impl : cpu::pointwise_loss_list()) {
      if (impl.declines && impl.declines(c)) continue;
      Buffer workspace(impl.workspace ? (impl.workspace(c) + 3) / 4 : 0);
      c.workspace = workspace.data();
      CHECK_THROWS_WITH_AS(impl.run(c), "mse_loss: expected a target without NaN, got NaN at position (20001)",
                           std::invalid_argument);
    }
  }
}
