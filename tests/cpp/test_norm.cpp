// Normalisation: every implementation on every ISA against the reference, and the reference against known values.
#include "backend/cpu/accept.h"
#include "op_check.h"

using namespace fastcnn;
using namespace fastcnn::test;

namespace {

struct Case {
  int64_t rows, C;
};
const Case kCases[] = {{2, 1},     {1, 5},     {5, 3},     {37, 10},  {300, 16},  {700, 17},  {515, 32},
                       {1000, 64}, {130, 100}, {77, 127},  {65, 130}, {129, 512}, {70, 2048}, {66, 2050},
                       {3, 2049},  {6000, 3},  {2100, 16}, {0, 7},    {0, 64}};

std::string name(const char* op, const Case& k, const ActParams& a, int res) {
  return std::string(op) + " rows " + std::to_string(k.rows) + " C " + std::to_string(k.C) + " act " +
         std::to_string(static_cast<int>(a.act)) + " residual " + std::to_string(res);
}

}  // namespace

TEST_CASE("batch_norm: reference against closed form") {
  BatchNormParams p;
  p.rows = 4, p.C = 1, p.eps = 0;
  std::vector<Array> in;
  for (int64_t n : {4, 1, 1}) in.emplace_back(n);
  for (int i = 0; i < 4; ++i) in[0].f()[i] = static_cast<float>(i + 1);  // mean 2.5, biased variance 1.25
  in[1].f()[0] = 2, in[2].f()[0] = 1;
  auto out = run_reference(cpu::batch_norm_list(), &p, in, {{4}, {1}, {1}});
  CHECK(out[1].f()[0] == doctest::Approx(2.5));
  CHECK(out[2].f()[0] == doctest::Approx(0.894427191));
  CHECK(out[0].f()[0] == doctest::Approx(1 - 2 * 1.5 * 0.894427191));
  CHECK(out[0].f()[3] == doctest::Approx(1 + 2 * 1.5 * 0.894427191));
}

TEST_CASE("batch_norm: forward, backward and inference") {
  for (const Case& k : kCases)
    for (Act act : {Act::none, Act::relu, Act::relu6, Act::leaky_relu, Act::silu, Act::gelu})
      for (int res : {0, 1}) {
        if (act > Act::relu && (k.rows * k.C > 20000 || res != (k.C & 1))) continue;
        BatchNormParams p;
        p.rows = k.rows, p.C = k.C, p.eps = 1e-3, p.has_residual = res, p.act.act = act;
        if (act == Act::leaky_relu) p.act.alpha = 0.1;
        int64_t n = k.rows * k.C;
        std::vector<Array> in{normal(n, 1, 2, 1), normal(k.C, 2), normal(k.C, 3, 1, 1)};
        if (res) in.push_back(normal(n, 4));
        std::vector<Out> outs{{n}, {k.C}, {k.C}};
        CHECK(check_op(cpu::batch_norm_list(), &p, in, outs, name("batch_norm", k, p.act, res)) > 0);
        auto fwd = run_reference(cpu::batch_norm_list(), &p, in, outs);

        std::vector<Array> infer{normal(n, 1, 2, 1), normal(k.C, 2), normal(k.C, 3, 1, 1), normal(k.C, 5),
                                 Array(k.C)};
        for (int64_t i = 0; i < k.C; ++i) infer[4].f()[i] = 0.1f + static_cast<float>(i % 7);
        if (res) infer.push_back(normal(n, 4));
        CHECK(check_op(cpu::batch_norm_infer_list(), &p, infer, {{n}}, name("batch_norm_infer", k, p.act, res)) >
              0);

        // leaky_relu and silu go by the input: with the affine map (below). One row: dx is 0 but for rounding.
        if (act >= Act::leaky_relu || k.rows == 1) continue;
        std::vector<Array> bwd{normal(n, 6), normal(n, 1, 2, 1), normal(k.C, 2)};
        for (size_t i : {1, 2}) bwd.push_back(std::move(fwd[i]));
        if (act != Act::none) bwd.push_back(std::move(fwd[0]));
        std::vector<Out> grads{{n}, {k.C}, {k.C}};
        if (res) grads.push_back({n});
        CHECK(check_op(cpu::batch_norm_bwd_list(), &p, bwd, grads, name("batch_norm_bwd", k, p.act, res), {2e-5}) >
              0);
      }
}

TEST_CASE("batch_norm: bfloat16 images, float32 parameters and statistics") {
  constexpr DType half = DType::bfloat16;
  for (const Case& k : kCases)
    for (Act act : {Act::none, Act::relu, Act::gelu})
      for (int res : {0, 1}) {
        if (k.rows * k.C > 40000 && res != (k.C & 1)) continue;
        BatchNormParams p;
        p.rows = k.rows, p.C = k.C, p.eps = 1e-3, p.has_residual = res, p.act.act = act;
        int64_t n = k.rows * k.C;
        std::vector<Array> in{rounded(normal(n, 1, 2, 1)), normal(k.C, 2), normal(k.C, 3, 1, 1)};
        if (res) in.push_back(rounded(normal(n, 4)));
        std::vector<Out> outs{{n, half}, {k.C}, {k.C}};
        CHECK(check_op(cpu::batch_norm_list(), &p, in, outs, name("bf16 batch_norm", k, p.act, res)) > 0);
        auto fwd = run_reference(cpu::batch_norm_list(), &p, in, outs);

        std::vector<Array> infer{in[0], in[1], in[2], normal(k.C, 5), Array(k.C)};
        for (int64_t i = 0; i < k.C; ++i) infer[4].f()[i] = 0.1f + static_cast<float>(i % 7);
        if (res) infer.push_back(in[3]);
        CHECK(check_op(cpu::batch_norm_infer_list(), &p, infer, {{n, half}},
                       name("bf16 batch_norm_infer", k, p.act, res)) > 0);

        if (act == Act::gelu || k.rows == 1) continue;
        std::vector<Array> bwd{rounded(normal(n, 6)), in[0], in[1], fwd[1], fwd[2]};
        if (act != Act::none) bwd.push_back(fwd[0]);
        std::vector<Out> grads{{n, half}, {k.C}, {k.C}};
        if (res) grads.push_back({n, half});
        // Two rows: dx is a small difference of large terms.
        CHECK(check_op(cpu::batch_norm_bwd_list(), &p, bwd, grads, name("bf16 batch_norm_bwd", k, p.act, res),
                       {k.rows < 10 ? 2e-2 : 2e-5}) > 0);
        if (!res || k.rows < 10) continue;
        p.has_dy2 = 1;  // dx is made of their sum as it is stored, rounded as an addition would have left it
        bwd.push_back(rounded(normal(n, 7)));
        CHECK(check_op(cpu::batch_norm_bwd_list(), &p, bwd, grads, name("bf16 batch_norm_bwd dy2", k, p.act, res),
                       {4e-3}) > 0);
      }
}

TEST_CASE("batch_norm backward: output made again from x, and a sum of two gradients") {
  for (const Case& k : kCases)
    for (Act act : {Act::none, Act::relu, Act::relu6, Act::leaky_relu, Act::silu, Act::hardswish})
      for (int form : {1, 2, 3}) {  // 1: affine instead of y, 2: dy + dy2, 3: both
        if (k.rows == 1 || (form != 2 && act == Act::none)) continue;
        if (form == 2 && act >= Act::leaky_relu) continue;  // by the input: not without the affine map
        if (act > Act::relu && k.rows * k.C > 20000) continue;
        BatchNormParams p;
        p.rows = k.rows, p.C = k.C, p.eps = 1e-3, p.act.act = act, p.has_affine = form & 1;
        if (act == Act::leaky_relu) p.act.alpha = 0.1;
        const int64_t n = k.rows * k.C;
        std::vector<Array> in{normal(n, 1, 2, 1), normal(k.C, 2), normal(k.C, 3, 1, 1)};
        std::vector<Out> outs{{n}, {k.C}, {k.C}};
        if (p.has_affine) outs.push_back({2 * k.C});
        CHECK(check_op(cpu::batch_norm_list(), &p, in, outs, name("batch_norm affine", k, p.act, 0)) > 0);
        auto fwd = run_reference(cpu::batch_norm_list(), &p, in, outs);
        // Gradients near a kink of the activation would differ by rounding of y: keep away from it.
        std::vector<Array> bwd{normal(n, 6), in[0], in[1], fwd[1], fwd[2]};
        for (int64_t i = 0; i < n; ++i)
          if (std::fabs(fwd[0].f()[i]) < 1e-4f || std::fabs(fwd[0].f()[i] - 6) < 1e-4f) bwd[0].f()[i] = 0;
        if (act != Act::none) bwd.push_back(p.has_affine ? fwd[3] : fwd[0]);
        p.has_dy2 = p.has_residual = form >> 1;
        std::vector<Out> grads{{n}, {k.C}, {k.C}};
        if (p.has_dy2) {
          bwd.push_back(normal(n, 7));
          for (int64_t i = 0; i < n; ++i)
            if (bwd[0].f()[i] == 0) bwd.back().f()[i] = 0;
          grads.push_back({n});
        }
        const int compared = check_op(cpu::batch_norm_bwd_list(), &p, bwd, grads,
                                      name("batch_norm_bwd form", k, p.act, form), {2e-5});
        CHECK((compared > 0) == (act < Act::silu || form == 1));  // smooth ones take one dy
      }
}

TEST_CASE("batch_norm backward: bfloat16 images behind activations that go by their input") {
  constexpr DType half = DType::bfloat16;
  for (const Case& k : kCases)
    for (Act act : {Act::leaky_relu, Act::silu, Act::hardswish}) {
      if (k.rows < 10 || k.rows * k.C > 20000) continue;
      BatchNormParams p;
      p.rows = k.rows, p.C = k.C, p.eps = 1e-3, p.act.act = act, p.has_affine = 1, p.has_residual = k.C & 1;
      if (act == Act::leaky_relu) p.act.alpha = -0.1;  // by the output it would not be known
      const int64_t n = k.rows * k.C;
      std::vector<Array> in{rounded(normal(n, 1, 2, 1)), normal(k.C, 2), normal(k.C, 3, 1, 1)};
      const bool residual = p.has_residual;
      p.has_residual = 0;
      auto fwd = run_reference(cpu::batch_norm_list(), &p, in, {{n, half}, {k.C}, {k.C}, {2 * k.C}});
      p.has_residual = residual;
      std::vector<Array> bwd{rounded(normal(n, 6)), in[0], in[1], fwd[1], fwd[2], fwd[3]};
      for (int64_t i = 0; i < n; ++i)  // kinks, where rounding decides
        if (std::fabs(static_cast<float>(fwd[0].as<bfloat16>()[i])) < 1e-3f)
          bwd[0].as<bfloat16>()[i] = bfloat16(0);
      std::vector<Out> grads{{n, half}, {k.C}, {k.C}};
      if (residual) grads.push_back({n, half});
      // A residual's gradient is stored, rounded, and read again for dx.
      CHECK(check_op(cpu::batch_norm_bwd_list(), &p, bwd, grads, name("bf16 batch_norm_bwd", k, p.act, residual),
                     {residual ? 2e-3 : 2e-5}) > 0);
      auto out = make_outputs(grads);
      CHECK(reason(cpu::batch_norm_bwd_list(), &p, bwd, out) == "");  // not by way of float32 copies
    }
}

TEST_CASE("batch_norm backward: y made again has the bits of the forward pass") {
  IsaGuard restore;
  for (const std::string& isa : cpu::available_isas()) {
    if (isa == "ref") continue;
    cpu::set_isa(isa);
    BatchNormParams p;
    p.rows = 3000, p.C = 24, p.act.act = Act::relu, p.has_affine = 1;
    const int64_t n = p.rows * p.C;
    std::vector<Array> in{normal(n, 1, 1, 100), normal(p.C, 2), normal(p.C, 3, 1e-6f)};
    auto run = [&](cpu::List list, const std::vector<Array>& from, const std::vector<Out>& to) {
      std::vector<Array> out = make_outputs(to);
      std::vector<Operand> in_ops = operands(from), out_ops = operands(out);
      Call c;
      c.params = &p, c.in = in_ops, c.out = out_ops;
      Buffer workspace((list.front().workspace(c) + 3) / 4);
      c.workspace = workspace.data();
      list.front().run(c);
      return out;
    };
    auto fwd = run(cpu::batch_norm_list(), in, {{n}, {p.C}, {p.C}, {2 * p.C}});
    std::vector<Array> bwd{normal(n, 6), in[0], in[1], fwd[1], fwd[2], fwd[3]};
    auto again = run(cpu::batch_norm_bwd_list(), bwd, {{n}, {p.C}, {p.C}});
    p.has_affine = 0, bwd[5] = fwd[0];
    auto read = run(cpu::batch_norm_bwd_list(), bwd, {{n}, {p.C}, {p.C}});
    for (int i = 0; i < 3; ++i)
      CHECK(std::memcmp(again[i].f(), read[i].f(), static_cast<size_t>(again[i].n) * 4) == 0);
  }
}

TEST_CASE("batch_norm: results that go past the caches are the same bits, in place too") {
  IsaGuard restore;
  for (const std::string& isa : cpu::available_isas())
    for (DType dtype : {DType::float32, DType::bfloat16}) {
      if (isa == "ref") continue;
      cpu::set_isa(isa);
      BatchNormParams p;
      p.C = 48, p.rows = 3000, p.act.act = Act::relu;
      const int64_t n = p.rows * p.C;
      const auto image = [&](const Array& a) { return dtype == DType::float32 ? a : rounded(a); };
      const auto run = [&](cpu::List list, const std::vector<Array>& from, const std::vector<Array>& to) {
        std::vector<Operand> in_ops = operands(from), out_ops = operands(to);
        Call c;
        c.params = &p, c.in = in_ops, c.out = out_ops;
        REQUIRE(reason(list, &p, from, to) == "");
        Buffer workspace((list.front().workspace(c) + 3) / 4);
        c.workspace = workspace.data();
        list.front().run(c);
      };
      const auto same = [](const Array& a, const Array& b) {
        return std::memcmp(a.memory->data(), b.memory->data(), static_cast<size_t>(a.n) * dtype_size(a.dtype)) ==
               0;
      };
      const Array gamma = normal(p.C, 2), beta = normal(p.C, 3);
      const auto results = [&] { return make_outputs({{n, dtype}, {p.C}, {p.C}, {n, dtype}}); };
      std::vector<Array> y[3], grads[3];
      for (int way = 0; way < 3; ++way) {  // through caches; past them; past them and in place
        cpu::set_num_threads(2);
        cpu::set_hand_over_bytes(way > 0 ? 0 : int64_t{1} << 60);
        REQUIRE(cpu::hands_over_in_memory(1) == (way > 0));
        const bool in_place = way == 2;
        const Array x = image(normal(n, 1, 1, 3)), res = image(normal(n, 4)), dy = image(normal(n, 5));
        y[way] = results(), grads[way] = results();
        p.has_residual = 1;
        if (in_place) y[way][0] = res;
        const Array kept = image(normal(n, 1, 1, 3));
        run(cpu::batch_norm_list(), {x, gamma, beta, res}, {y[way][0], y[way][1], y[way][2]});
        const Array out = y[0][0];
        if (in_place) grads[way][0] = kept, grads[way][3] = dy;
        run(cpu::batch_norm_bwd_list(), {dy, kept, gamma, y[way][1], y[way][2], out}, grads[way]);
        for (int i = 0; i < 3; ++i)
          CHECK_MESSAGE(same(y[way][i], y[0][i]), isa << " way " << way << " output " << i);
        for (int i = 0; i < 4; ++i)
          CHECK_MESSAGE(same(grads[way][i], grads[0][i]), isa << " way " << way << " gradient " << i);
      }
    }
}

TEST_CASE("batch_norm: a large mean costs no accuracy") {
  for (Case k : {Case{3000, 16}, Case{4097, 3}, Case{1500, 70}}) {
    BatchNormParams p;
    p.rows = k.rows, p.C = k.C;
    int64_t n = k.rows * k.C;
    std::vector<Array> in{normal(n, 1, 1, 1e4f), Array(k.C), Array(k.C)};
    for (int64_t i = 0; i < k.C; ++i) in[1].f()[i] = 1, in[2].f()[i] = 0;
    in[0].f()[0] = -1e4f;  // an outlier in the first row must not become a bad shift
    CHECK(check_op(cpu::batch_norm_list(), &p, in, {{n}, {k.C}, {k.C}}, "batch_norm mean 1e4", {2e-6, 1e-5}) > 0);
  }
}

TEST_CASE("batch_norm: NaN and infinity reach the statistics of their channel only") {
  BatchNormParams p;
  p.rows = 600, p.C = 20, p.act.act = Act::relu;
  std::vector<Array> in{normal(12000, 1), normal(20, 2), normal(20, 3)};
  in[0].f()[5 * 20 + 7] = NAN;
  in[0].f()[400 * 20 + 9] = INFINITY;
  CHECK(check_op(cpu::batch_norm_list(), &p, in, {{12000}, {20}, {20}}, "batch_norm NaN") > 0);
}

TEST_CASE("bn_update_running: unbiased variance, momentum, cumulative average") {
  BnUpdateParams p;
  p.rows = 5, p.C = 3, p.eps = 1e-5, p.momentum = 0.25;
  std::vector<Array> in;
  for (int i = 0; i < 4; ++i) in.emplace_back(3);
  in.emplace_back(1, DType::int64);
  const float var[3] = {0.5f, 4, 0};
  for (int i = 0; i < 3; ++i) {
    in[0].f()[i] = static_cast<float>(i);
    in[1].f()[i] = static_cast<float>(1 / std::sqrt(var[i] + p.eps));
    in[2].f()[i] = 10, in[3].f()[i] = 1;
  }
  *in[4].as<int64_t>() = 4;  // the cumulative factor 1/4 is then the momentum above
  for (double momentum : {0.25, -1.0}) {
    p.momentum = momentum;
    auto out = run_reference(cpu::bn_update_running_list(), &p, in, {{3}, {3}});
    for (int i = 0; i < 3; ++i) {
      CHECK(out[0].f()[i] == doctest::Approx(0.75 * 10 + 0.25 * i));
      CHECK(out[1].f()[i] == doctest::Approx(0.75 + 0.25 * var[i] * 5 / 4).epsilon(1e-5));
    }
    CHECK(check_op(cpu::bn_update_running_list(), &p, in, {{3}, {3}}, "bn_update_running", {1e-6}) > 0);
  }
  p.rows = 1;
  CHECK_THROWS_AS(run_reference(cpu::bn_update_running_list(), &p, in, {{3}, {3}}), std::invalid_argument);
}

TEST_CASE("layer_norm: forward and backward") {
  for (auto [outer, inner] : {std::pair<int64_t, int64_t>{1, 1},
                              {7, 3},
                              {130, 17},
                              {300, 96},
                              {65, 768},
                              {3, 10007},
                              {0, 8},
                              {1, 70000}})
    for (int affine : {0, 1}) {
      NormParams p;
      p.outer = outer, p.inner = inner, p.affine = affine, p.eps = 1e-5;
      int64_t n = outer * inner;
      std::string what = "layer_norm " + std::to_string(outer) + "x" + std::to_string(inner) + " affine " +
                         std::to_string(affine);
      std::vector<Array> in{normal(n, 1, 1, 3)};
      if (affine) in.push_back(normal(inner, 2)), in.push_back(normal(inner, 3));
      CHECK(check_op(cpu::layer_norm_list(), &p, in, {{n}, {outer}, {outer}}, what) > 0);
      auto fwd = run_reference(cpu::layer_norm_list(), &p, in, {{n}, {outer}, {outer}});
      std::vector<Array> bwd{normal(n, 4), normal(n, 1, 1, 3)};
      if (affine) bwd.push_back(normal(inner, 2));
      bwd.push_back(std::move(fwd[1])), bwd.push_back(std::move(fwd[2]));
      std::vector<Out> outs{{n}};
      if (affine) outs.push_back({inner}), outs.push_back({inner});
      if (inner == 1) continue;  // one value per row: dx is 0 but for rounding
      CHECK(check_op(cpu::layer_norm_bwd_list(), &p, bwd, outs, what + " bwd", {2e-5}) > 0);
    }
  NormParams p;
  p.outer = 40, p.inner = 333;
  CHECK(check_op(cpu::layer_norm_list(), &p, {normal(40 * 333, 1, 1, 1e4f)}, {{40 * 333}, {40}, {40}},
                 "layer_norm mean 1e4", {2e-6, 1e-5}) > 0);
}

TEST_CASE("group_norm and instance_norm: forward and backward") {
  struct G {
    int64_t N, HW, C, groups;
  };
  for (G g : {G{2, 9, 6, 1}, G{3, 49, 6, 6}, G{2, 1000, 16, 4}, G{5, 33, 17, 1}, G{2, 300, 64, 32},
              G{1, 70, 2100, 3}, G{4, 1, 8, 2}, G{0, 4, 4, 2}, G{130, 16, 3, 3}})
    for (int affine : {0, 1}) {
      NormParams p;
      p.N = g.N, p.HW = g.HW, p.C = g.C, p.groups = g.groups, p.affine = affine, p.eps = 1e-3;
      int64_t n = g.N * g.HW * g.C, stats = g.N * g.groups;
      std::string what = "group_norm N " + std::to_string(g.N) + " HW " + std::to_string(g.HW) + " C " +
                         std::to_string(g.C) + " groups " + std::to_string(g.groups);
      std::vector<Array> in{normal(n, 1, 2, 3)};
      if (affine) in.push_back(normal(g.C, 2)), in.push_back(normal(g.C, 3));
      CHECK(check_op(cpu::group_norm_list(), &p, in, {{n}, {stats}, {stats}}, what) > 0);
      auto fwd = run_reference(cpu::group_norm_list(), &p, in, {{n}, {stats}, {stats}});
      std::vector<Array> bwd{normal(n, 4), normal(n, 1, 2, 3)};
      if (affine) bwd.push_back(normal(g.C, 2));
      bwd.push_back(std::move(fwd[1])), bwd.push_back(std::move(fwd[2]));
      std::vector<Out> outs{{n}};
      if (affine) outs.push_back({g.C}), outs.push_back({g.C});
      CHECK(check_op(cpu::group_norm_bwd_list(), &p, bwd, outs, what + " bwd", {2e-5}) > 0);
    }
}

TEST_CASE("normalisation: optimised entries say why they decline") {
  IsaGuard restore;
  BatchNormParams p;
  p.rows = 2, p.C = 2, p.act.act = Act::sigmoid;
  std::vector<Array> in, out;
  for (int i = 0; i < 6; ++i) in.emplace_back(4);
  for (int i = 0; i < 3; ++i) out.emplace_back(4);
  CHECK(reason(cpu::batch_norm_bwd_list(), &p, in, out) == "activation is not fused");
  p.act.act = Act::silu;
  CHECK(reason(cpu::batch_norm_bwd_list(), &p, in, out) == "activation that goes by its input");
  in[0].dtype = DType::float64;
  CHECK(reason(cpu::batch_norm_list(), &p, in, out) == "dtype is not float32 or bfloat16");
  cpu::set_isa("ref");
  CHECK(reason(cpu::batch_norm_list(), &p, in, out) == "isa is ref");
}
