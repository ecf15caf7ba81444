// conv2d and conv2d_bwd_weights that read x through a batch norm (has_norm_in): against the reference, and bit for
// bit against the same implementation on a normalised image; batch_norm without its result.
#include "op_check.h"

using namespace fastcnn;
using namespace fastcnn::test;

namespace {

struct Shape {
  int64_t N, C, H, W, O, kH, kW;
  int64_t s = 1, p = 0, d = 1, groups = 1;
  int64_t right = 0;  // padding there and below on top of p
};

Conv2dParams params(const Shape& s) {
  Conv2dParams p;
  p.N = s.N, p.C = s.C, p.H = s.H, p.W = s.W, p.O = s.O, p.kH = s.kH, p.kW = s.kW;
  p.sH = p.sW = s.s, p.dH = p.dW = s.d, p.groups = s.groups;
  p.pT = p.pL = s.p, p.pB = p.pR = s.p + s.right;
  p.oH = conv_out_size(p.H, p.pT, p.pB, p.kH, p.sH, p.dH);
  p.oW = conv_out_size(p.W, p.pL, p.pR, p.kW, p.sW, p.dW);
  return p;
}

std::string text(const Shape& s, Act a) {
  std::string t;
  for (int64_t v : {s.N, s.C, s.H, s.W, s.O, s.kH, s.kW, s.s, s.p, s.d, s.groups, s.right})
    t += std::to_string(v) + " ";
  return t + "act " + std::to_string(static_cast<int>(a));
}

// Every implementation on an image and on what its batch norm makes of it: the bits of the outputs. Returns how
// many took the norm.
int same_bits(cpu::List list, Conv2dParams p, const std::vector<Array>& in, size_t at,
              const std::vector<Out>& outs, const std::string& what) {
  IsaGuard restore;
  int compared = 0;
  for (const std::string& isa : cpu::available_isas()) {
    cpu::set_isa(isa);
    if (isa == "ref") continue;
    BatchNormParams b;
    b.rows = p.N * p.H * p.W, b.C = p.C, b.act = p.in_act, b.has_affine = 1;
    auto run = [&](const Implementation& impl, const void* params, std::vector<Array> from,
                   std::vector<Array> to) {
      auto a = operands(from), o = operands(to);
      Call c;
      c.params = params, c.in = a, c.out = o;
      if (impl.declines && impl.declines(c)) return std::vector<Array>{};
      Buffer workspace(impl.workspace ? (impl.workspace(c) + 3) / 4 : 0);
      workspace.poison();
      c.workspace = workspace.data();
      impl.run(c);
      return to;
    };
    std::vector<Array> norm_in{in[0], normal(p.C, 11, 0.5f, 1), normal(p.C, 12)};
    auto full = run(cpu::batch_norm_list()[0], &b, norm_in, make_outputs({{in[0].n}, {p.C}, {p.C}, {2 * p.C}}));
    REQUIRE(full.size() == 4);
    b.stats_only = 1, b.act = {};
    auto stats = run(cpu::batch_norm_list()[0], &b, norm_in, make_outputs({{p.C}, {p.C}, {2 * p.C}}));
    REQUIRE(stats.size() == 3);
    for (int i = 0; i < 3; ++i)
      CHECK_MESSAGE(difference(stats[i], full[i + 1], {0, 0}).empty(), what << " " << isa);
    for (const Implementation& impl : list.first(list.size() - 1)) {
      std::vector<Array> read = in, made = in;
      made.erase(made.begin() + static_cast<int64_t>(at), made.begin() + static_cast<int64_t>(at) + 2);
      made[0] = full[0];
      read[at] = stats[0], read[at + 1] = stats[2];
      Conv2dParams q = p;
      q.has_norm_in = 1;
      auto got = run(impl, &q, read, make_outputs(outs));
      if (got.empty()) continue;
      q.has_norm_in = 0, q.in_act = {};
      auto want = run(impl, &q, made, make_outputs(outs));
      REQUIRE_MESSAGE(!want.empty(), what << ": " << impl.name << " takes the norm and not the plain form");
      for (size_t i = 0; i < outs.size(); ++i)
        CHECK_MESSAGE(std::memcmp(got[i].f(), want[i].f(), static_cast<size_t>(outs[i].n) * 4) == 0,
                      what << " " << isa << " " << impl.name << ": output " << i << " has other bits");
      ++compared;
    }
  }
  return compared;
}

// How many runs of optimised implementations were compared, forward and backward.
struct Compared {
  int forward = 0, backward = 0, same_bits = 0;
};

Compared check(const Shape& s, std::initializer_list<Act> acts = {Act::none, Act::relu, Act::relu6}) {
  Compared n;
  Conv2dParams p = params(s);
  REQUIRE(p.oH > 0);
  REQUIRE(p.oW > 0);
  const int64_t x = p.N * p.C * p.H * p.W, y = p.N * p.O * p.oH * p.oW, w = p.O * p.C / p.groups * p.kH * p.kW;
  int variant = 0;
  for (Act a : acts) {
    p.has_norm_in = 1, p.in_act.act = a;
    // A mean and a shift away from zero: padding that went through the norm would show.
    const Array ax = normal(x, 1, 2, 1), aw = normal(w, 2), mean = normal(p.C, 3, 1, 1),
                affine = normal(2 * p.C, 4, 1, 1.5f), dy = normal(y, 5);
    p.has_bias = variant & 1, p.has_residual = variant % 3 == 2, ++variant;
    p.act.act = p.has_residual ? Act::relu : Act::none;
    std::vector<Array> in{ax, aw};
    if (p.has_bias) in.push_back(normal(p.O, 6));
    const size_t at = in.size();
    in.push_back(mean), in.push_back(affine);
    if (p.has_residual) in.push_back(normal(y, 7));
    n.forward += check_op(cpu::conv2d_list(), &p, in, {{y}}, "conv2d norm in " + text(s, a));
    if (x > 0) n.same_bits += same_bits(cpu::conv2d_list(), p, in, at, {{y}}, "conv2d " + text(s, a));
    p.has_bias = p.has_residual = 0, p.act = {};
    for (int bias = 0; bias < 2; ++bias) {
      std::vector<Out> outs{{w}};
      if (bias) outs.push_back({p.O});
      n.backward += check_op(cpu::conv2d_bwd_weights_list(), &p, {ax, dy, mean, affine}, outs,
                             "conv2d_bwd_weights norm in " + text(s, a), {2e-5});
      if (x > 0)
        n.same_bits += same_bits(cpu::conv2d_bwd_weights_list(), p, {ax, dy, mean, affine}, 2, outs,
                                 "conv2d_bwd_weights " + text(s, a));
    }
  }
  return n;
}

void check_taken(const Shape& s) {
  const bool depthwise = s.groups == s.C && s.C > 1;  // those take smooth activations too
  const Compared n =
      depthwise ? check(s, {Act::none, Act::relu, Act::relu6, Act::silu, Act::hardswish}) : check(s);
  CHECK_MESSAGE(n.forward > 0, "no kernel takes conv2d " << text(s, Act::none));
  CHECK_MESSAGE(n.backward > 0, "no kernel takes conv2d_bwd_weights " << text(s, Act::none));
  // Each activation once forward, twice backward, on each ISA.
  CHECK(n.same_bits >= (s.N > 0 ? (depthwise ? 15 : 9) : 0));
}

Shape depthwise(int64_t N, int64_t C, int64_t H, int64_t W, int64_t k, int64_t s, int64_t p, int64_t d = 1,
                int64_t right = 0) {
  return {N, C, H, W, C, k, k, s, p, d, C, right};
}

}  // namespace

TEST_CASE("depthwise conv2d on a norm applied on load") {
  for (int64_t C : {3, 17, 40, 96})
    for (int64_t s : {1, 2}) {
      check_taken(depthwise(2, C, 9, 8, 3, s, 1));
      check_taken(depthwise(1, C, 11, 13, 5, s, 2, 1, 1));
    }
  check_taken(depthwise(0, 16, 7, 7, 3, 1, 1));
  check_taken(depthwise(2, 16, 6, 7, 3, 1, 0));
  check_taken(depthwise(1, 20, 9, 10, 3, 1, 2, 2));
  check_taken(depthwise(1, 16, 12, 12, 3, 2, 2, 2));
  check_taken(depthwise(1, 16, 3, 5, 5, 1, 8, 4));  // rows of outputs that see padding alone
  check_taken(depthwise(2, 20, 9, 10, 4, 3, 1));
  check_taken(depthwise(2, 32, 7, 40, 7, 1, 3));
  check_taken(depthwise(3, 24, 5, 5, 1, 1, 0));
}

TEST_CASE("depthwise conv2d on a norm applied on load: images of several strips") {
  check_taken(depthwise(2, 144, 40, 35, 3, 1, 1));
  check_taken(depthwise(2, 144, 41, 35, 3, 2, 1));
  check_taken(depthwise(1, 96, 30, 50, 5, 2, 2));
  check_taken(depthwise(1, 130, 60, 40, 3, 1, 2, 2));
  check_taken(depthwise(1, 128, 20, 150, 3, 4, 0));  // strips without common rows
  check(depthwise(1, 512, 9, 200, 3, 1, 1));         // rows too long for a strip
}

TEST_CASE("conv2d with few outputs on a norm applied on load") {
  check_taken({2, 64, 9, 8, 3, 1, 1});
  check_taken({3, 40, 14, 13, 2, 3, 3, 1, 1});
  check_taken({1, 64, 30, 33, 4, 5, 5, 2, 2});
  check_taken({2, 128, 9, 9, 1, 3, 3, 1, 2, 2});
  check_taken({2, 256, 20, 40, 7, 3, 3, 1, 1});  // several strips of an image
}

TEST_CASE("conv2d with few channels in a group on a norm applied on load") {
  for (const Shape& s : {Shape{2, 16, 9, 14, 16, 3, 3, 1, 1, 1, 8},
                         {1, 14, 40, 70, 14, 3, 3, 2, 2, 1, 7},
                         {1, 24, 11, 9, 24, 3, 3, 1, 1, 2, 6}}) {
    const Compared n = check(s);
    CHECK_MESSAGE(n.forward > 0, "no kernel takes conv2d " << text(s, Act::none));
    CHECK_MESSAGE(n.backward > 0, "no kernel takes conv2d_bwd_weights " << text(s, Act::none));
    CHECK(n.same_bits >= 6);  // each activation forward and, without the bias, backward
  }
}

TEST_CASE("dense conv2d on a norm applied on load") {
  check_taken({2, 64, 7, 7, 33, 1, 1});
  check_taken({3, 17, 5, 9, 24, 1, 1});
  check_taken({2, 96, 20, 21, 24, 1, 1});
  check_taken({2, 40, 30, 30, 100, 1, 1});  // several blocks of outputs
  check_taken({2, 1030, 9, 9, 20, 1, 1});   // several blocks of channels
  check_taken({2, 33, 7, 8, 17, 1, 1, 2});
  check_taken({2, 5, 7, 8, 6, 1, 1, 1, 1});
  check_taken({2, 17, 9, 8, 20, 3, 3, 2, 1});
  check_taken({1, 12, 12, 10, 9, 3, 3, 1, 2, 2});
  check_taken({2, 24, 7, 7, 40, 3, 3, 1, 1, 1, 2});
  check_taken({3, 1, 12, 12, 32, 5, 5, 1, 2});
  check({2, 6, 5, 5, 8, 5, 5});         // the whole image
  check({1, 256, 14, 14, 1024, 1, 1});  // weights that many strips would read
}

TEST_CASE("Winograd conv2d on a norm applied on load") {
  // Groups of tiles and blocks of outputs; every kind of edge; channels that fill no vector.
  for (int64_t p : {0, 1, 2}) check_taken({4, 32, 30, 29, 32, 3, 3, 1, p});
  check_taken({8, 16, 32, 32, 16, 3, 3, 1, 1});
  check_taken({3, 40, 27, 21, 24, 3, 3, 1, 1, 1, 1, 1});
  check_taken({6, 72, 14, 15, 80, 3, 3, 1, 1, 1, 2});  // two groups of channels
  check_taken({2, 144, 14, 14, 160, 3, 3, 1, 1});
  check_taken({4, 256, 7, 7, 256, 3, 3, 1, 1});
  check_taken({9, 72, 14, 15, 80, 3, 3, 1, 1});  // groups of narrow tiles
  for (int64_t p : {0, 2, 4}) check_taken({4, 32, 15, 14, 40, 5, 5, 1, p});
  check_taken({4, 144, 7, 7, 160, 5, 5, 1, 2});
}

TEST_CASE("Winograd conv2d of stride 2 on a norm applied on load") {
  for (int64_t p : {0, 1, 2}) check_taken({8, 64, 29, 28, 64, 3, 3, 2, p});
  check_taken({12, 72, 14, 15, 400, 3, 3, 2, 1});
  check_taken({6, 40, 15, 16, 70, 4, 4, 2, 1});
}

TEST_CASE("a norm applied on load: who declines") {
  auto reason = [](cpu::List list, const char* name, const Conv2dParams& p, const std::vector<Array>& in,
                   const std::vector<Out>& outs) -> std::string {
    auto to = make_outputs(outs);
    auto a = operands(in), o = operands(to);
    Call c;
    c.params = &p, c.in = a, c.out = o;
    for (const Implementation& i : list)
      if (std::string(i.name) == name) {
        const char* why = i.declines ? i.declines(c) : nullptr;
        return why ? why : "";
      }
    return "no such implementation";
  };
  if (cpu::available_isas().size() < 2) return;  // the reference alone
  Conv2dParams p = params({2, 32, 28, 28, 32, 3, 3, 1, 1});
  p.has_norm_in = 1;
  const int64_t x = 2 * 32 * 28 * 28, w = 32 * 32 * 9;
  std::vector<Array> in{Array(x), Array(w), Array(32), Array(64)}, bwd{Array(x), Array(x), Array(32), Array(64)};
  CHECK(reason(cpu::conv2d_list(), "phases", p, in, {{x}}) == "input norm");
  CHECK(reason(cpu::conv2d_bwd_weights_list(), "phases", p, bwd, {{w}}) == "input norm");
  CHECK(reason(cpu::conv2d_list(), "dense", p, in, {{x}}) == "");
  p.in_act.act = Act::gelu;
  CHECK(reason(cpu::conv2d_list(), "dense", p, in, {{x}}) == "activation of the input norm");
  p = params({1, 256, 14, 14, 1024, 1, 1});
  p.has_norm_in = 1;
  in = {Array(256 * 196), Array(1024 * 256), Array(256), Array(512)};
  CHECK(reason(cpu::conv2d_list(), "dense", p, in, {{1024 * 196}}).starts_with("input norm: "));
}

TEST_CASE("batch_norm without its result") {
  for (int64_t C : {1, 3, 24, 96})
    for (int64_t rows : {1, 700, 5000}) {
      BatchNormParams p;
      p.rows = rows, p.C = C, p.has_affine = p.stats_only = 1;
      CHECK(check_op(cpu::batch_norm_list(), &p, {normal(rows * C, 1, 2, 1), normal(C, 2), normal(C, 3)},
                     {{C}, {C}, {2 * C}}, "batch_norm stats " + std::to_string(rows) + "x" + std::to_string(C),
                     {2e-6, 1e-5}) > 0);
    }
}
