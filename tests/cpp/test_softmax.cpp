// Softmax family and cross entropy: every implementation on every ISA against the reference; bad class ids throw.
#include <stdexcept>

#include "op_check.h"

using namespace fastcnn;
using namespace fastcnn::test;

TEST_CASE("softmax and log_softmax along any dim") {
  struct S {
    int64_t outer, dim, inner;
  };
  for (S s : {S{1, 1, 1}, S{7, 10, 1}, S{300, 3, 1}, S{33, 17, 1}, S{9, 1000, 1}, S{2, 5, 3}, S{3, 10, 40},
              S{1, 21, 100}, S{4, 1, 16}, S{0, 5, 1}, S{2, 64, 17}}) {
    SoftmaxParams p{s.outer, s.dim, s.inner};
    int64_t n = s.outer * s.dim * s.inner;
    Array x = normal(n, 1, 4);
    if (n > 200) {  // NaN, +inf, -inf each in a line of its own
      x.f()[0] = NAN;
      x.f()[s.inner == 1 ? s.dim : 1] = INFINITY;
      for (int64_t d = 0; d < s.dim; ++d) x.f()[s.inner == 1 ? 2 * s.dim + d : d * s.inner + 2] = -INFINITY;
      x.f()[n - 1] = -INFINITY;
    }
    std::vector<Array> in;
    in.push_back(std::move(x));
    std::string what =
        "softmax " + std::to_string(s.outer) + " " + std::to_string(s.dim) + " " + std::to_string(s.inner);
    for (bool log : {false, true}) {
      auto list = log ? cpu::log_softmax_list() : cpu::softmax_list();
      auto back = log ? cpu::log_softmax_bwd_list() : cpu::softmax_bwd_list();
      if (n)
        CHECK(check_op(list, &p, in, {{n}}, what + (log ? " log" : ""), {1e-6}) > 0);
      else
        check_op(list, &p, in, {{n}}, what);
      std::vector<Array> finite{normal(n, 1, 4)};
      auto y = run_reference(list, &p, finite, {{n}});
      std::vector<Array> bwd{normal(n, 2), std::move(y[0])};
      CHECK(check_op(back, &p, bwd, {{n}}, what + (log ? " log bwd" : " bwd"), {2e-6}) > 0);
    }
  }
}

TEST_CASE("cross_entropy: weights, smoothing, ignore_index, reductions") {
  for (auto [rows, C] : {std::pair<int64_t, int64_t>{1, 2}, {64, 10}, {37, 17}, {5000, 21}, {9, 1000}, {0, 10}})
    for (int weighted : {0, 1})
      for (double smooth : {0.0, 0.1})
        for (Reduction red : {Reduction::none, Reduction::mean, Reduction::sum}) {
          CrossEntropyParams p;
          p.rows = rows, p.C = C, p.has_weight = weighted, p.label_smoothing = smooth, p.reduction = red;
          p.ignore_index = weighted ? 1 : -100;
          Array target(rows, DType::int64);
          std::mt19937 g(3);
          for (int64_t i = 0; i < rows; ++i)
            target.as<int64_t>()[i] =
                i % 9 == 4 ? p.ignore_index : static_cast<int64_t>(g() % static_cast<uint32_t>(C));
          Array w(C);
          for (int64_t i = 0; i < C; ++i) w.f()[i] = 0.5f + static_cast<float>(i % 3);
          std::vector<Array> in;
          in.push_back(normal(rows * C, 1, 4));
          in.push_back(std::move(target));
          if (weighted) in.push_back(std::move(w));
          int64_t losses = red == Reduction::none ? rows : 1;
          std::vector<Out> outs{{losses}, {rows}, {1}};
          std::string what = "cross_entropy rows " + std::to_string(rows) + " C " + std::to_string(C) +
                             " weighted " + std::to_string(weighted) + " smooth " + std::to_string(smooth);
          CHECK(check_op(cpu::cross_entropy_list(), &p, in, outs, what, {2e-6}) > 0);
          auto fwd = run_reference(cpu::cross_entropy_list(), &p, in, outs);
          std::vector<Array> bwd{normal(losses, 5)};
          bwd.push_back(std::move(in[0])), bwd.push_back(std::move(in[1]));
          bwd.push_back(std::move(fwd[1])), bwd.push_back(std::move(fwd[2]));
          if (weighted) bwd.push_back(std::move(in[2]));
          CHECK(check_op(cpu::cross_entropy_bwd_list(), &p, bwd, {{rows * C}}, what + " bwd", {2e-6}) > 0);
        }
}

TEST_CASE("cross_entropy: logits with infinity and NaN, no valid target") {
  CrossEntropyParams p;
  p.rows = 6, p.C = 20, p.reduction = Reduction::none;
  std::vector<Array> in;
  in.push_back(normal(120, 1));
  in.emplace_back(6, DType::int64);
  for (int i = 0; i < 6; ++i) in[1].as<int64_t>()[i] = i;
  in[0].f()[3] = INFINITY;
  in[0].f()[20 + 1] = INFINITY;
  in[0].f()[40 + 5] = NAN;
  for (int i = 0; i < 20; ++i) in[0].f()[60 + i] = -INFINITY;
  in[0].f()[80 + 4] = -INFINITY;
  in[0].f()[100 + 9] = 3e38f;
  std::vector<Out> outs{{6}, {6}, {1}};
  CHECK(check_op(cpu::cross_entropy_list(), &p, in, outs, "cross_entropy infinite", {0, 1e-5}) > 0);
  p.reduction = Reduction::mean;
  for (int i = 0; i < 6; ++i) in[1].as<int64_t>()[i] = p.ignore_index;
  CHECK(check_op(cpu::cross_entropy_list(), &p, in, {{1}, {6}, {1}}, "cross_entropy no target", {0, 1e-5}) > 0);
  CHECK(std::isnan(run_reference(cpu::cross_entropy_list(), &p, in, {{1}, {6}, {1}})[0].f()[0]));
}

TEST_CASE("cross_entropy: a class id out of range throws before anything is read") {
  IsaGuard restore;
  CrossEntropyParams p;
  p.rows = 40000, p.C = 3;
  std::vector<Array> in, out;
  in.push_back(normal(p.rows * p.C, 1));
  in.emplace_back(p.rows, DType::int64);
  for (int64_t n : {int64_t{1}, p.rows, int64_t{1}}) out.emplace_back(n);
  auto in_ops = operands(in), out_ops = operands(out);
  Call c;
  c.params = &p, c.in = in_ops, c.out = out_ops;
  for (int64_t bad : {int64_t{3}, int64_t{-1}, int64_t{1} << 40}) {
    for (int64_t i = 0; i < p.rows; ++i) in[1].as<int64_t>()[i] = i % 3;
    in[1].as<int64_t>()[777] = in[1].as<int64_t>()[39999] = bad;
    std::string expect = "cross_entropy: expected class ids in [0, 3) or ignore_index, got " +
                         std::to_string(bad) + " at position 777";
    for (const std::string& isa : cpu::available_isas()) {
      cpu::set_isa(isa);
      for (const Implementation& impl : cpu::cross_entropy_list()) {
        if (impl.declines && impl.declines(c)) continue;
        Buffer workspace(impl.workspace ? (impl.workspace(c) + 3) / 4 : 0);
        c.workspace = workspace.data();
        std::string got;
        try {
          impl.run(c);
        } catch (const std::out_of_range& e) {
          got = e.what();
        }
        CHECK(got == expect);
      }
    }
  }
}
