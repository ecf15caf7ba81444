// depthwise_pointwise: against the reference on every ISA, and bit for bit against conv2d called for each part, in
// float32 and bfloat16.
#include "op_check.h"

using namespace fastcnn;
using namespace fastcnn::test;

namespace {

struct Shape {
  int64_t N, C, E, O, H, W, k;
  int64_t s = 1, p = 0, d = 1;
  int64_t right = 0;  // padding there and below on top of p
};

DepthwisePointwiseParams params(const Shape& s, bool expand) {
  DepthwisePointwiseParams p;
  p.N = s.N, p.C = expand ? s.C : s.E, p.E = s.E, p.O = s.O, p.H = s.H, p.W = s.W, p.kH = p.kW = s.k;
  p.sH = p.sW = s.s, p.dH = p.dW = s.d, p.pT = p.pL = s.p, p.pB = p.pR = s.p + s.right;
  p.oH = conv_out_size(p.H, p.pT, p.pB, p.kH, p.sH, p.dH);
  p.oW = conv_out_size(p.W, p.pL, p.pR, p.kW, p.sW, p.dW);
  p.has_expand = expand;
  return p;
}

// The parts as calls of conv2d, each by the implementation that it gets alone.
std::vector<Array> by_parts(const DepthwisePointwiseParams& p, const std::vector<Array>& in) {
  auto part = [&](const Conv2dParams& q, const Array& x, int at, int64_t numel) {
    std::vector<Array> from{x, in[static_cast<size_t>(at)]}, to = make_outputs({{numel, x.dtype}});
    if (q.has_bias) from.push_back(in[static_cast<size_t>(at) + 1]);
    if (q.has_residual) from.push_back(in.back());
    auto a = operands(from), o = operands(to);
    Call c;
    c.params = &q, c.in = a, c.out = o;
    for (const Implementation& impl : cpu::conv2d_list()) {
      if (impl.declines && impl.declines(c)) continue;
      Buffer workspace(impl.workspace ? (impl.workspace(c) + 3) / 4 : 0);
      c.workspace = workspace.data();
      impl.run(c);
      break;
    }
    return to[0];
  };
  Array x = in[0];
  if (p.has_expand) x = part(expand_part(p), x, 1, p.N * p.E * p.H * p.W);
  x = part(depthwise_part(p), x, depthwise_at(p), p.N * p.E * p.oH * p.oW);
  return {part(pointwise_part(p), x, pointwise_at(p), p.N * p.O * p.oH * p.oW)};
}

// What lies between is rounded to bfloat16 by the reference and by the kernels, from sums in another order.
constexpr Tolerance kRoundedBetween{4e-3, 0};

int check(const Shape& s, DType dtype) {
  const bool bf16 = dtype == DType::bfloat16;
  int compared = 0, variant = 0;
  for (bool expand : {false, true})
    for (Act act : {Act::none, Act::relu, Act::relu6, Act::silu}) {
      DepthwisePointwiseParams p = params(s, expand);
      REQUIRE(p.oH > 0);
      REQUIRE(p.oW > 0);
      p.expand_bias = expand && variant % 2, p.depthwise_bias = variant % 3 != 1,
      p.pointwise_bias = variant % 2 == 0;
      p.has_residual = variant % 3 == 2, ++variant;
      p.expand_act.act = p.depthwise_act.act = act;
      p.pointwise_act.act = variant % 2 ? Act::none : act;
      const int64_t y = p.N * p.O * p.oH * p.oW;
      std::vector<Array> in{normal(p.N * p.C * p.H * p.W, 1)};
      if (expand) in.push_back(normal(p.E * p.C, 2));
      // A bias away from zero: padding that went through the first part would show.
      if (p.expand_bias) in.push_back(normal(p.E, 3, 1, 1));
      in.push_back(normal(p.E * p.kH * p.kW, 4));
      if (p.depthwise_bias) in.push_back(normal(p.E, 5));
      in.push_back(normal(p.O * p.E, 6));
      if (p.pointwise_bias) in.push_back(normal(p.O, 7));
      if (p.has_residual) in.push_back(normal(y, 8));
      if (bf16)
        for (Array& a : in) a = rounded(a);
      std::string what = bf16 ? "bfloat16 " : "";
      for (int64_t v : {s.N, s.C, s.E, s.O, s.H, s.W, s.k, s.s, s.p, s.d, s.right})
        what += std::to_string(v) + " ";
      what += "variant " + std::to_string(variant);
      compared += check_op(cpu::depthwise_pointwise_list(), &p, in, {{y, dtype}}, what,
                           bf16 ? kRoundedBetween : Tolerance{});
      IsaGuard restore;
      for (const std::string& isa : cpu::available_isas()) {
        cpu::set_isa(isa);
        if (isa == "ref" || y == 0) continue;
        const Array want = by_parts(p, in)[0];
        for (int threads : {1, 2, 3}) {
          cpu::set_num_threads(threads);
          std::vector<Array> out = make_outputs({{y, dtype}});
          auto a = operands(in), o = operands(out);
          Call c;
          c.params = &p, c.in = a, c.out = o;
          const Implementation& impl = cpu::depthwise_pointwise_list()[bf16];
          if (impl.declines(c)) continue;
          // As a plan calls it: weights prepared, and then not to be read.
          Buffer prepared((impl.prepared_bytes(c) + 3) / 4);
          impl.prepare(c, prepared.data());
          CHECK(prepared.guard_intact());
          c.prepared = prepared.data();
          CHECK(impl.workspace(c) == 0);
          for (size_t i = 0; i < a.size(); ++i)
            if (impl.prepared_operands(c) >> i & 1) a[i].data = nullptr;
          impl.run(c);
          const size_t bytes = static_cast<size_t>(y) * dtype_size(dtype);
          CHECK_MESSAGE(std::memcmp(out[0].memory->data(), want.memory->data(), bytes) == 0,
                        what << " isa " << isa << " threads " << threads);
        }
      }
    }
  return compared;
}

}  // namespace

TEST_CASE("depthwise_pointwise") {
  int compared[2] = {0, 0};
  for (const Shape& s : std::vector<Shape>{
           {1, 8, 48, 24, 14, 14, 3, 1, 1},
           {3, 16, 96, 24, 12, 10, 3, 2, 1},
           {2, 5, 33, 7, 9, 11, 3, 1, 1},
           {1, 3, 20, 12, 13, 8, 5, 2, 2},
           {2, 4, 18, 16, 7, 7, 5, 1, 2},
           {1, 4, 24, 8, 11, 9, 3, 1, 0},
           {2, 4, 17, 5, 8, 9, 3, 1, 2, 2},
           {1, 6, 40, 130, 6, 5, 3, 2, 0, 1, 1},
           {1, 24, 144, 24, 60, 56, 3, 1, 1},  // more than one strip
           {5, 2, 3, 2, 1, 1, 3, 1, 1},
           {1, 6, 170, 40, 7, 7, 3, 1, 1},  // enough work for two threads, whose shares end inside of rows
           {1, 6, 170, 40, 13, 14, 3, 2, 1},
           {1, 4, 100, 48, 7, 2, 3, 1, 0, 1, 6},  // and columns of one see nothing of the image
           {1, 3, 600, 9, 5, 40, 3, 1, 1},        // channels in two blocks
           {1, 2, 16, 4, 9, 1, 3, 2, 3},          // windows outside of the image
           {0, 8, 16, 8, 5, 5, 3, 1, 1},
           {2, 8, 24, 8, 9, 6, 1, 1, 0},  // 1x1 in all parts
           {2, 8, 24, 8, 9, 6, 1, 2, 0},
       })
    for (bool bf16 : {false, true}) compared[bf16] += check(s, bf16 ? DType::bfloat16 : DType::float32);
  CHECK(compared[0] > 0);
  CHECK(compared[1] > 0);
}

TEST_CASE("depthwise_pointwise declines what its kernels cannot do") {
  DepthwisePointwiseParams p = params({1, 8, 16, 8, 5, 5, 3, 1, 1}, true);
  std::vector<Array> in{normal(200, 1), normal(128, 2), normal(144, 3), normal(128, 4)},
      out = make_outputs({{200}});
  IsaGuard restore;
  cpu::set_isa(cpu::available_isas().front());
  cpu::set_num_threads(1);  // for more, five rows are few
  CHECK(reason(cpu::depthwise_pointwise_list(), &p, in, out) == "");
  in[2] = rounded(in[2]);
  CHECK(reason(cpu::depthwise_pointwise_list(), &p, in, out) != "");
  const cpu::List half = cpu::depthwise_pointwise_list().subspan(1);
  CHECK(reason(half, &p, in, out) != "");  // one operand of another type
  for (Array& a : in)
    if (a.dtype == DType::float32) a = rounded(a);
  CHECK(reason(half, &p, in, out) == "");
  p.depthwise_act.act = Act::silu;
  CHECK(reason(half, &p, in, out) != "");
}
