// Depthwise convolutions between batch norms on CUDA (kernels/depthwise_norm.cuh), on the executor against the
// CPU's reference: forward through a norm with moments, both gradients behind and before a norm with its sums;
// batch norms that give statistics or coefficients alone; who declines.
#include "cuda_check.h"

using namespace fastcnn;
using namespace fastcnn::test;

namespace {

constexpr DType kHalf[] = {DType::bfloat16, DType::float16};
constexpr DType f32 = DType::float32, f64 = DType::float64;

Conv2dParams depthwise(int64_t N, int64_t C, int64_t H, int64_t W, int64_t s, const Pad& pad) {
  return conv_params(N, C, C, H, W, 3, s, pad, C);
}
CudaOp rows_only(const CudaOp& op) { return only(op, "simt depthwise rows"); }
double tolerance_of(DType t) { return t == DType::bfloat16 ? 4e-3 : 1e-3; }

// Means and shifts away from zero: padding that went through a norm would show.
std::vector<Shaped> norm_of(int64_t C) { return {tensor({C}, 8, f32, 0, 1, 1), tensor({2, C}, 9, f32, 0, 1, 1)}; }

void check_forward(Conv2dParams p, DType t) {
  const ConvShapes of(p);
  for (Act act : {Act::none, Act::relu6})
    for (bool moments : {false, true})
      for (bool norm : {false, true}) {
        if (!norm && (!moments || act != Act::none)) continue;
        p.has_norm_in = norm, p.in_act.act = act, p.has_moments = moments, p.has_bias = moments && norm;
        std::vector<Shaped> in{tensor(of.x, 1, t, 0, 1, 1), tensor(of.w, 2, t)};
        if (p.has_bias) in.push_back(tensor({p.O}, 3, t));
        if (norm)
          for (const Shaped& v : norm_of(p.C)) in.push_back(v);
        std::vector<std::pair<std::vector<int64_t>, DType>> outs{{of.y, t}};
        if (moments) outs.push_back({{2, p.O}, f64});
        // Moments are of the sums before they are rounded, the reference's of the result.
        CHECK(check_cuda(rows_only(FASTCNN_CUDA_OP(conv2d)), &p, in, outs, (moments ? 3 : 1) * tolerance_of(t)) ==
              1);
      }
}

// Gradients of weights in float32 are those before rounding.
void check_wide(const Implementation& kernel, OpKind kind, const void* params, const std::vector<Shaped>& in,
                std::vector<std::pair<std::vector<int64_t>, DType>> outs, size_t which) {
  auto run = [&] {
    std::vector<Shaped> out;
    for (const auto& [shape, t] : outs) out.push_back({Array(count_of(shape), t), shape});
    std::vector<Operand> ins, results;
    for (const Shaped& v : in) ins.push_back(v.operand());
    for (const Shaped& v : out) results.push_back(v.operand());
    Call c{kind, params, ins, results};
    REQUIRE(kernel.declines(c) == nullptr);
    Buffer workspace((kernel.workspace(c) + 3) / 4);
    c.workspace = workspace.data();
    kernel.run(c);
    return out[which];
  };
  const Shaped narrow = run(), rounded{Array(1, outs[which].second), {1}};
  outs[which].second = f32;
  const Shaped wide = run();
  int64_t wrong = 0;
  for (int64_t i = 0; i < narrow.array.n; ++i) {
    set_at(rounded.array, 0, value_at(wide.array, i));
    wrong += value_at(rounded.array, 0) != value_at(narrow.array, i);
  }
  CHECK(wrong == 0);
}

void check_backward(const Conv2dParams& conv, DType t, bool all = true) {
  const ConvShapes of(conv);
  Conv2dBwdParams p;
  p.conv = conv;
  for (Act behind : {Act::none, Act::relu, Act::relu6})
    for (int before = -1; before < 3; ++before)
      for (bool sums : {false, true}) {
        if ((sums && before < 0) || (!all && !(behind == Act::relu6 && before == 2))) continue;
        constexpr Act acts[] = {Act::none, Act::relu, Act::relu6};
        p.norm_act.act = behind, p.has_sums = sums;
        p.conv.has_norm_in = before >= 0, p.conv.in_act.act = before >= 0 ? acts[before] : Act::none;
        std::vector<Shaped> in{tensor(of.y, 1, t),
                               tensor(of.w, 2, t),
                               tensor(of.x, 3, t, 0, 1, 1),
                               tensor(of.y, 4, t, 0, 2, 1),
                               tensor({conv.O}, 5, f32, 0, 1, 1),
                               tensor({3, conv.O}, 6, f32, 0, 1, 0.5)};
        if (behind != Act::none) in.push_back(tensor({2, conv.O}, 7, f32, 0, 1, 1));
        if (before >= 0)
          for (const Shaped& v : norm_of(conv.C)) in.push_back(v);
        std::vector<std::pair<std::vector<int64_t>, DType>> outs{{of.x, t}, {of.w, t}};
        if (sums) outs.push_back({{2, conv.C}, f64});
        CHECK(check_cuda(FASTCNN_CUDA_OP(conv2d_bwd), &p, in, outs, (sums ? 2 : 1) * tolerance_of(t)) == 1);
        check_wide(cuda::conv2d_bwd_list()[0], OpKind::conv2d_bwd, &p, in, outs, 1);
      }
  Conv2dParams q = conv;
  q.has_norm_in = 1, q.in_act.act = Act::relu6;
  std::vector<Shaped> in{tensor(of.x, 3, t, 0, 1, 1), tensor(of.y, 1, t)};
  for (const Shaped& v : norm_of(conv.C)) in.push_back(v);
  CHECK(check_cuda(rows_only(FASTCNN_CUDA_OP(conv2d_bwd_weights)), &q, in, {{of.w, t}}, tolerance_of(t)) == 1);
  check_wide(cuda::conv2d_bwd_weights_list()[0], OpKind::conv2d_bwd_weights, &q, in, {{of.w, t}}, 0);
}

}  // namespace

TEST_CASE("cuda depthwise between norms: strides, lopsided padding, maps narrower than a strip") {
  constexpr Pad pads[] = {{1, 1, 1, 1}, {0, 0, 0, 0}, {2, 1, 3, 0}, {0, 1, 0, 1}, {3, 4, 2, 5}};
  constexpr std::array<int64_t, 4> maps[] = {{2, 24, 9, 7}, {1, 8, 7, 10}, {3, 16, 6, 3}};
  for (int64_t s : {1, 2})
    for (const Pad& pad : pads)
      for (const auto& m : maps)
        for (DType t : kHalf) {
          const Conv2dParams p = depthwise(m[0], m[1], m[2], m[3], s, pad);
          if (p.oH < 1 || p.oW < 1) continue;
          check_forward(p, t);
          check_backward(p, t, m[1] == 8);
        }
  for (int64_t s : {1, 2})
    for (int64_t w : {1, 2, 5}) {
      check_forward(depthwise(2, 8, 2, w, s, {1, 1, 1, 1}), DType::bfloat16);
      check_backward(depthwise(2, 8, 2, w, s, {1, 1, 1, 1}), DType::bfloat16, false);
    }
}

TEST_CASE("cuda depthwise between norms: blocks of channels, the last in part; several units of a thread") {
  for (int64_t s : {1, 2}) {
    for (int64_t C : {144, 296, 512}) {
      check_forward(depthwise(1, C, 5, 6, s, {1, 1, 1, 1}), DType::bfloat16);
      check_backward(depthwise(1, C, 5, 6, s, {1, 1, 1, 1}), DType::bfloat16, false);
    }
    check_forward(depthwise(6, 64, 30, 31, s, {1, 1, 1, 1}), DType::float16);
    check_backward(depthwise(6, 64, 31, 30, s, {1, 1, 1, 1}), DType::float16, false);
  }
}

TEST_CASE("cuda depthwise between norms: other kernels, dtypes and activations are declined") {
  Conv2dParams p = depthwise(1, 8, 6, 6, 1, {1, 1, 1, 1});
  p.has_norm_in = 1;
  auto taken = [&](DType t) {
    const ConvShapes of(p);
    std::vector<Shaped> in{tensor(of.x, 1, t), tensor(of.w, 2, t)}, out{tensor(of.y, 3, t)};
    for (const Shaped& v : norm_of(p.C)) in.push_back(v);
    std::vector<Operand> ins, outs;
    for (const Shaped& v : in) ins.push_back(v.operand());
    for (const Shaped& v : out) outs.push_back(v.operand());
    const Call c{OpKind::conv2d, &p, ins, outs};
    for (const Implementation& i : cuda::conv2d_list())
      if (!i.declines || !i.declines(c)) return true;
    return false;
  };
  CHECK(taken(DType::bfloat16));
  CHECK(!taken(DType::float32));
  p.in_act.act = Act::silu;
  CHECK(!taken(DType::bfloat16));
  p.in_act = {}, p.act.act = Act::relu;
  CHECK(!taken(DType::bfloat16));
  p.act = {}, p.kH = p.kW = 5, p.pT = p.pB = p.pL = p.pR = 2;
  CHECK(!taken(DType::bfloat16));
}

TEST_CASE("cuda depthwise between norms: moments of images that are not aligned") {
  Conv2dParams p = depthwise(2, 8, 9, 7, 1, {1, 1, 1, 1});
  p.has_moments = 1;
  const ConvShapes of(p);
  for (DType t : kHalf) {
    const Shaped x = tensor(of.x, 1, t, 0, 1, 1), w = tensor(of.w, 2, t);
    const Shaped memory{Array(x.array.n + 1, t), {x.array.n + 1}};
    for (int64_t i = 0; i < x.array.n; ++i) set_at(memory.array, i + 1, value_at(x.array, i));
    Operand moved = x.operand();
    moved.data = static_cast<char*>(memory.operand().data) + 2;
    const std::vector<Operand> views{moved, w.operand()};
    CHECK(check_cuda(rows_only(FASTCNN_CUDA_OP(conv2d)), &p, {x, w}, {{of.y, t}, {{2, p.O}, f64}}, tolerance_of(t),
                     &views) == 1);
  }
}

TEST_CASE("cuda batch_norm: statistics alone; coefficients of the gradient alone") {
  for (DType t : kHalf)
    for (int64_t C : {16, 24, 7})
      for (bool given : {false, true}) {
        const int64_t rows = 150;
        const std::vector<int64_t> map{rows, C}, row{C};
        BatchNormParams p;
        p.rows = rows, p.C = C, p.has_affine = p.stats_only = 1, p.has_moments = given;
        std::vector<Shaped> in{tensor(map, 1, t, 0, 2, 3), tensor(row, 3, f32, 0, 0.3, 1), tensor(row, 4)};
        if (given) in.push_back(tensor({2, C}, 5, f64, 3, 1, 1));
        CHECK(check_cuda(FASTCNN_CUDA_OP(batch_norm), &p, in, {{row, f32}, {row, f32}, {{2, C}, f32}}, 2e-5) == 1);
        p = {};
        p.rows = rows, p.C = C, p.coef_only = 1, p.has_sums = given, p.act.act = given ? Act::none : Act::relu6;
        p.has_affine = !given;
        in = {tensor(map, 8, t), tensor(map, 1, t, 0, 2, 3), tensor(row, 3, f32, 0, 0.3, 1),
              tensor(row, 5, f32, 0, 1, 3), tensor(row, 6, f32, 3, 1, 1)};
        in.push_back(given ? tensor({2, C}, 11, f64) : tensor({2, C}, 9, f32));
        CHECK(check_cuda(FASTCNN_CUDA_OP(batch_norm_bwd), &p, in, {{{3, C}, f32}, {row, f32}, {row, f32}}, 3e-5) ==
              1);
      }
}
