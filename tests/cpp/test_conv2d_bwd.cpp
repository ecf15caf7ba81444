// conv2d_bwd (both gradients of a convolution behind whose output a batch norm stands): against the reference, and
// bit for bit against batch_norm_bwd, conv2d_bwd_data and conv2d_bwd_weights one after the other; batch_norm_bwd
// that gives coefficients alone or takes its sums.
#include "op_check.h"

using namespace fastcnn;
using namespace fastcnn::test;

namespace {

struct Shape {
  int64_t N, C, H, W, O, k;
  int64_t s = 1, p = 0, groups = 1;
};

Conv2dParams conv(const Shape& s) {
  Conv2dParams p;
  p.N = s.N, p.C = s.C, p.H = s.H, p.W = s.W, p.O = s.O, p.kH = p.kW = s.k;
  p.sH = p.sW = s.s, p.groups = s.groups, p.pT = p.pL = p.pB = p.pR = s.p;
  p.oH = conv_out_size(p.H, p.pT, p.pB, p.kH, p.sH, p.dH);
  p.oW = conv_out_size(p.W, p.pL, p.pR, p.kW, p.sW, p.dW);
  return p;
}

struct Sizes {
  int64_t x, y, w;
  explicit Sizes(const Conv2dParams& p)
      : x(p.N * p.C * p.H * p.W), y(p.N * p.O * p.oH * p.oW), w(p.O * p.C / p.groups * p.kH * p.kW) {}
};

std::string text(const Shape& s, Act norm, Act in) {
  std::string t = "conv2d_bwd";
  for (int64_t v : {s.N, s.C, s.H, s.W, s.O, s.k, s.s, s.p, s.groups}) t += " " + std::to_string(v);
  return t + " acts " + std::to_string(static_cast<int>(norm)) + " " + std::to_string(static_cast<int>(in));
}

const Implementation* named(cpu::List list, const std::string& name, const Call& c) {
  for (const Implementation& i : list)
    if (i.name == name) return !i.declines || !i.declines(c) ? &i : nullptr;
  return nullptr;
}

std::vector<Array> run(const Implementation& impl, const void* params, const std::vector<Array>& in,
                       const std::vector<Out>& outs) {
  std::vector<Array> out = make_outputs(outs);
  auto a = operands(in), o = operands(out);
  Call c;
  c.params = params, c.in = a, c.out = o;
  Buffer workspace(impl.workspace ? (impl.workspace(c) + 3) / 4 : 0);
  workspace.poison();
  c.workspace = workspace.data();
  impl.run(c);
  return out;
}

// Returns how many implementations gave the bits of the three ops.
int same_bits(const Conv2dBwdParams& p, const std::string& what) {
  IsaGuard restore;
  const Sizes n(p.conv);
  const int64_t O = p.conv.O;
  int compared = 0;
  const Array dy = normal(n.y, 1), w = normal(n.w, 2), x = normal(n.x, 3, 1, 1), y = normal(n.y, 4, 2, 1),
              gamma = normal(O, 5, 1, 1), mean = normal(O, 6, 0.2f, 1), invstd = normal(O, 7, 0.1f, 0.5f),
              affine = normal(2 * O, 8), in_mean = normal(p.conv.C, 9, 1, 1),
              in_affine = normal(2 * p.conv.C, 10, 1, 1);
  BatchNormParams b;
  b.rows = p.conv.N * p.conv.oH * p.conv.oW, b.C = O, b.act = p.norm_act;
  std::vector<Array> norm_in{dy, y, gamma, mean, invstd};
  std::vector<Array> in{dy, w, x, y, mean, Array(0)};
  if (b.act.act != Act::none) b.has_affine = 1, norm_in.push_back(affine), in.push_back(affine);
  std::vector<Array> weights{x, dy};
  if (p.conv.has_norm_in)
    for (const Array& a : {in_mean, in_affine}) in.push_back(a), weights.push_back(a);
  for (const std::string& isa : cpu::available_isas()) {
    cpu::set_isa(isa);
    if (isa == "ref") continue;
    b.coef_only = 0;
    weights[1] = run(cpu::batch_norm_bwd_list()[0], &b, norm_in, {{n.y}, {O}, {O}})[0];
    b.coef_only = 1;
    in[5] = run(cpu::batch_norm_bwd_list()[0], &b, norm_in, {{3 * O}, {O}, {O}})[0];
    Conv2dParams data = p.conv;
    data.has_norm_in = 0, data.in_act = {};
    for (const char* name : {"depthwise", "winograd", "dense"}) {
      auto a = operands(in);
      auto made = make_outputs({{n.x}, {n.w}});
      auto o = operands(made);
      Call c;
      c.params = &p, c.in = a, c.out = o;
      const Implementation* joint = named(cpu::conv2d_bwd_list(), name, c);
      if (!joint) continue;
      const auto got = run(*joint, &p, in, {{n.x}, {n.w}});
      c.params = &data;
      auto part = operands({weights[1], w});
      c.in = part;
      const Implementation* one = named(cpu::conv2d_bwd_data_list(), name, c);
      c.params = &p.conv;
      part = operands(weights);
      c.in = part;
      const Implementation* two = named(cpu::conv2d_bwd_weights_list(), name, c);
      REQUIRE_MESSAGE((one && two), what << " " << isa << " " << name << ": only both together");
      const Array dx = run(*one, &data, {weights[1], w}, {{n.x}})[0];
      const Array dw = run(*two, &p.conv, weights, {{n.w}})[0];
      CHECK_MESSAGE(std::memcmp(got[0].f(), dx.f(), static_cast<size_t>(n.x) * 4) == 0,
                    what << " " << isa << " " << name << ": dx has other bits");
      CHECK_MESSAGE(std::memcmp(got[1].f(), dw.f(), static_cast<size_t>(n.w) * 4) == 0,
                    what << " " << isa << " " << name << ": dw has other bits");
      ++compared;
    }
  }
  return compared;
}

void check(const Shape& s, bool taken = true) {
  Conv2dBwdParams p;
  p.conv = conv(s);
  REQUIRE(p.conv.oH > 0);
  const Sizes n(p.conv);
  const Act acts[] = {Act::none, Act::relu, Act::relu6, Act::silu, Act::hardswish};
  const int most_in = s.groups > 1 ? 5 : 3;  // depthwise kernels read x through smooth activations too
  for (int norm = 0; norm < 5; ++norm)
    for (int in = -1; in < most_in; ++in) {
      if (in >= 0 && norm >= 2 && in < 2) continue;                   // the other pairs are enough
      if (n.x > 50000 && (in < 0 ? norm > 1 : in != norm)) continue;  // small shapes have met every pair
      p.norm_act.act = acts[norm];
      p.conv.has_norm_in = in >= 0;
      p.conv.in_act.act = in >= 0 ? acts[in] : Act::none;
      const std::string what = text(s, p.norm_act.act, p.conv.in_act.act);
      // Means and shifts away from zero: padding that went through a norm would show.
      std::vector<Array> operands{normal(n.y, 1),       normal(n.w, 2),       normal(n.x, 3, 1, 1),
                                  normal(n.y, 4, 2, 1), normal(s.O, 5, 1, 1), normal(3 * s.O, 6, 1, 0.5f)};
      if (norm) operands.push_back(normal(2 * s.O, 7, 1, 1));
      if (in >= 0) operands.push_back(normal(s.C, 8, 1, 1)), operands.push_back(normal(2 * s.C, 9, 1, 1));
      for (int sums = 0; sums < (in >= 0 ? 2 : 1); ++sums) {
        p.has_sums = sums;
        std::vector<Out> outs{{n.x}, {n.w}};
        if (sums) outs.push_back({2 * s.C, DType::float64});
        const int compared = check_op(cpu::conv2d_bwd_list(), &p, operands, outs, what, {2e-5});
        if (taken) CHECK_MESSAGE(compared > 0, "no kernel takes " << what);
      }
      p.has_sums = 0;
      // x as the output of a norm with a residual: without activation, with another gradient, with a clamp.
      for (int other = 0; in < 0 && other < 3; ++other) {
        if (norm != other % 2) continue;  // every pair would take minutes
        p.has_sums = p.has_residual = 1, p.has_dy2 = other == 1, p.out_act.act = acts[other];
        std::vector<Array> more = operands;
        more.push_back(normal(n.x, 10, 1, 1)), more.push_back(normal(s.C, 11, 1, 1));
        if (p.has_dy2) more.push_back(normal(n.x, 12));
        const std::string which = what + " residual " + std::to_string(other);
        const int compared =
            check_op(cpu::conv2d_bwd_list(), &p, more, {{n.x}, {n.w}, {2 * s.C, DType::float64}}, which, {2e-5});
        if (taken) CHECK_MESSAGE(compared > 0, "no kernel takes " << which);
        p.has_sums = p.has_residual = p.has_dy2 = 0, p.out_act = {};
      }
      const int same = same_bits(p, what);
      if (taken) CHECK(same > 0);
    }
}

// The weights' gradient alone: against the reference, and the bits of batch_norm_bwd and conv2d_bwd_weights.
void check_alone(const Shape& s, bool taken = true) {
  IsaGuard restore;
  Conv2dBwdParams p;
  p.conv = conv(s);
  REQUIRE(p.conv.oH > 0);
  const Sizes n(p.conv);
  for (Act act : {Act::none, Act::relu, Act::silu})
    for (bool norm_in : {false, true}) {
      p.norm_act.act = act, p.conv.has_norm_in = norm_in, p.conv.in_act.act = norm_in ? Act::relu6 : Act::none;
      const std::string what = text(s, act, p.conv.in_act.act) + " alone";
      const Array dy = normal(n.y, 1), x = normal(n.x, 3, 1, 1), y = normal(n.y, 4, 2, 1),
                  gamma = normal(s.O, 5, 1, 1), mean = normal(s.O, 6, 0.2f, 1),
                  invstd = normal(s.O, 7, 0.1f, 0.5f), affine = normal(2 * s.O, 8), in_mean = normal(s.C, 9, 1, 1),
                  in_affine = normal(2 * s.C, 10, 1, 1);
      std::vector<Array> in{dy, x, y, mean, normal(3 * s.O, 11, 1, 0.5f)}, norm{dy, y, gamma, mean, invstd};
      if (act != Act::none) in.push_back(affine), norm.push_back(affine);
      if (norm_in) in.push_back(in_mean), in.push_back(in_affine);
      const int compared = check_op(cpu::conv2d_bwd_list(), &p, in, {{n.w}}, what, {2e-5});
      CHECK_MESSAGE((compared > 0) == taken, what);
      BatchNormParams b;
      b.rows = n.y / std::max<int64_t>(s.O, 1), b.C = s.O, b.act = p.norm_act, b.has_affine = act != Act::none;
      for (const std::string& isa : cpu::available_isas()) {
        cpu::set_isa(isa);
        if (isa == "ref" || !taken) continue;
        b.coef_only = 0;
        std::vector<Array> weights{x, run(cpu::batch_norm_bwd_list()[0], &b, norm, {{n.y}, {s.O}, {s.O}})[0]};
        b.coef_only = 1;
        in[4] = run(cpu::batch_norm_bwd_list()[0], &b, norm, {{3 * s.O}, {s.O}, {s.O}})[0];
        if (norm_in) weights.push_back(in_mean), weights.push_back(in_affine);
        auto a = operands(in), to = operands(make_outputs({{n.w}}));
        Call c;
        c.params = &p, c.in = a, c.out = to;
        const Implementation* alone = named(cpu::conv2d_bwd_list(), "weights_alone", c);
        if (!alone) continue;  // strips of other vectors
        const auto got = run(*alone, &p, in, {{n.w}});
        c.params = &p.conv;
        a = operands(weights), c.in = a;
        const Implementation* apart = named(cpu::conv2d_bwd_weights_list(), "dense", c);
        REQUIRE(apart);
        const auto want = run(*apart, &p.conv, weights, {{n.w}});
        CHECK_MESSAGE(std::memcmp(got[0].f(), want[0].f(), static_cast<size_t>(n.w) * 4) == 0,
                      what << " " << isa << ": dw has other bits");
      }
    }
}

Shape depthwise(int64_t N, int64_t C, int64_t H, int64_t W, int64_t k, int64_t s, int64_t p) {
  return {N, C, H, W, C, k, s, p, C};
}

}  // namespace

TEST_CASE("conv2d_bwd of 1x1 convolutions") {
  check({2, 24, 7, 9, 33, 1});
  check({1, 17, 5, 3, 16, 1});
  check({3, 16, 40, 31, 96, 1});  // several strips in a chunk
  check({2, 96, 30, 33, 24, 1});
  check({2, 300, 21, 20, 40, 1});  // two blocks of channels
  check({2, 20, 32, 24, 530, 1});  // two blocks of depth
  check({1, 512, 9, 9, 544, 1});   // large weights: one pass after the other
  check({0, 16, 7, 7, 16, 1}, false);
  check({2, 16, 8, 8, 16, 1, 2}, false);
  check({2, 3, 8, 8, 32, 1}, false);
}

TEST_CASE("conv2d_bwd of 1x1 convolutions whose channels leave lanes idle") {
  check({4, 24, 30, 30, 144, 1});
  check({2, 40, 14, 13, 80, 1});
  check({1, 17, 9, 9, 64, 1});
}

TEST_CASE("conv2d_bwd of 3x3 and 5x5 convolutions by Winograd") {
  check({1, 32, 24, 24, 32, 3, 1, 1});
  check({3, 17, 21, 14, 24, 3, 1, 1});  // several strips, of parts of images
  check({30, 32, 7, 8, 32, 3, 1, 1});   // strips of several images
  check({4, 32, 16, 15, 32, 5, 1, 2});
  check({3, 96, 13, 14, 80, 3, 1, 1});  // many channels: one pass after the other
  check({1, 16, 4, 4, 16, 3, 1, 1}, false);
  check({1, 16, 12, 12, 16, 3, 1, 0}, false);
  check({1, 8, 6, 300, 8, 3, 1, 1}, false);  // rows of more tiles than a strip takes
  check({0, 16, 8, 8, 16, 3, 1, 1}, false);
}

TEST_CASE("conv2d_bwd of depthwise convolutions") {
  for (int64_t C : {3, 17, 40})
    for (int64_t s : {1, 2}) {
      check(depthwise(2, C, 9, 8, 3, s, 1));
      check(depthwise(1, C, 12, 13, 5, s, 2));
    }
  check(depthwise(2, 144, 40, 35, 3, 1, 1));  // several strips of an image
  check(depthwise(2, 144, 41, 36, 3, 2, 1));
  check(depthwise(1, 96, 50, 64, 5, 2, 2));
  check(depthwise(1, 130, 30, 60, 7, 1, 3));
  check(depthwise(2, 300, 7, 6, 3, 1, 1));  // blocks of channels
  check(depthwise(1, 100, 9, 9, 5, 1, 2));
  check(depthwise(3, 24, 1, 5, 3, 1, 1));
  check(depthwise(3, 24, 7, 6, 1, 1, 0));
  check(depthwise(2, 16, 6, 7, 3, 1, 0), false);
  check(depthwise(2, 16, 9, 9, 4, 3, 1), false);
  check(depthwise(1, 512, 9, 200, 3, 1, 1), false);
}

TEST_CASE("conv2d_bwd of the weights alone") {
  check_alone({2, 3, 33, 40, 16, 3, 2, 1});
  check_alone({2, 3, 40, 44, 64, 7, 2, 3});
  check_alone({9, 1, 28, 28, 35, 5, 1, 2});
  check_alone({40, 3, 8, 7, 24, 3, 1, 1});  // strips of several images
  check_alone({3, 3, 21, 32, 16, 3, 1, 1});
  check_alone({2, 2, 9, 8, 17, 1});
  check_alone({1, 3, 5, 400, 32, 3, 1, 1}, false);   // strips of parts of rows
  check_alone({4, 32, 24, 24, 32, 3, 1, 1}, false);  // Winograd
  check_alone({2, 32, 9, 9, 32, 3, 1, 1, 32}, false);
  check_alone({0, 3, 8, 8, 16, 3, 1, 1}, false);
}

TEST_CASE("batch_norm_bwd without its gradient, and from given sums") {
  for (int64_t C : {1, 3, 24, 96})
    for (int64_t rows : {1, 700, 5000}) {
      const std::string what = "batch_norm_bwd " + std::to_string(rows) + "x" + std::to_string(C);
      const Array dy = normal(rows * C, 1), x = normal(rows * C, 2, 2, 1), gamma = normal(C, 3),
                  mean = normal(C, 4, 0.1f, 1), invstd = normal(C, 5, 0.1f, 0.5f), affine = normal(2 * C, 6);
      BatchNormParams p;
      p.rows = rows, p.C = C, p.coef_only = 1;
      const std::vector<Array> plain{dy, x, gamma, mean, invstd};
      CHECK(check_op(cpu::batch_norm_bwd_list(), &p, plain, {{3 * C}, {C}, {C}}, what, {1e-5}) > 0);
      p.has_residual = 1;
      CHECK(check_op(cpu::batch_norm_bwd_list(), &p, plain, {{3 * C}, {C}, {C}, {rows * C}}, what, {1e-5}) > 0);
      p.has_residual = 0, p.has_affine = 1, p.act.act = Act::relu6;
      std::vector<Array> masked = plain;
      masked.push_back(affine);
      CHECK(check_op(cpu::batch_norm_bwd_list(), &p, masked, {{3 * C}, {C}, {C}}, what, {1e-5}) > 0);
      p.has_affine = 0, p.act = {}, p.has_sums = 1;
      Array sums(2 * C, DType::float64);
      for (int64_t i = 0; i < 2 * C; ++i) sums.as<double>()[i] = gamma.f()[i % C] * static_cast<double>(i + rows);
      std::vector<Array> given = plain;
      given.push_back(sums);
      CHECK(check_op(cpu::batch_norm_bwd_list(), &p, given, {{3 * C}, {C}, {C}}, what, {1e-6}) > 0);
      p.coef_only = 0;
      CHECK(check_op(cpu::batch_norm_bwd_list(), &p, given, {{rows * C}, {C}, {C}}, what, {1e-6}) > 0);
    }
}
