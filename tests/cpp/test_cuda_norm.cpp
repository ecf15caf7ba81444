// Batch norm on CUDA in packs of channels, on the executor against the CPU's reference: every kernel that an
// activation, a residual, a second gradient or an affine map chooses, and shapes whose channels divide a block or
// not, in one block or many; running statistics of every dtype. What goes element by element:
// test_cuda_kernels.cpp.
#include "cuda_check.h"

using namespace fastcnn;
using namespace fastcnn::test;

namespace {

constexpr DType kPacked[] = {DType::float32, DType::bfloat16, DType::float16};

BatchNormParams params(int64_t rows, int64_t C, Act act) {
  BatchNormParams p;
  p.rows = rows, p.C = C, p.act.act = act, p.act.alpha = 0.1;
  return p;
}

void check_forward(BatchNormParams p, DType t, bool residual, bool affine) {
  const DType f = DType::float32;
  const std::vector<int64_t> map{p.rows, p.C}, row{p.C};
  p.has_residual = residual;
  const Shaped x = tensor(map, 1, t, 0, 2, 3), r = tensor(map, 2, t);
  const Shaped gamma = tensor(row, 3, f, 0, 0.3, 1), beta = tensor(row, 4, f), mean = tensor(row, 5, f, 0, 1, 3),
               var = tensor(row, 6, f, 3, 1, 1);
  std::vector<Shaped> in{x, gamma, beta}, infer{x, gamma, beta, mean, var};
  if (residual) in.push_back(r), infer.push_back(r);
  CHECK(check_cuda(FASTCNN_CUDA_OP(batch_norm_infer), &p, infer, {{map, t}}, 4e-6) == 1);
  std::vector<std::pair<std::vector<int64_t>, DType>> outs{{map, t}, {row, f}, {row, f}};
  p.has_affine = affine;
  if (affine) outs.push_back({{2, p.C}, f});
  CHECK(check_cuda(FASTCNN_CUDA_OP(batch_norm), &p, in, outs, 2e-5) == 1);
}

void check_backward(BatchNormParams p, DType t, bool residual, bool affine, bool dy2, bool sums = false) {
  const DType f = DType::float32;
  const std::vector<int64_t> map{p.rows, p.C}, row{p.C};
  p.has_residual = residual, p.has_affine = affine, p.has_dy2 = dy2, p.has_sums = sums;
  std::vector<Shaped> in{tensor(map, 8, t), tensor(map, 1, t, 0, 2, 3), tensor(row, 3, f, 0, 0.3, 1),
                         tensor(row, 5, f, 0, 1, 3), tensor(row, 6, f, 3, 1, 1)};
  if (p.act.act != Act::none) in.push_back(affine ? tensor({2, p.C}, 9, f) : tensor(map, 2, t, 0, 4));
  if (dy2) in.push_back(tensor(map, 10, t));
  if (sums) in.push_back(tensor({2, p.C}, 11, DType::float64));
  std::vector<std::pair<std::vector<int64_t>, DType>> outs{{map, t}, {row, f}, {row, f}};
  if (residual) outs.push_back({map, t});
  // A residual's gradient is stored, rounded, and read again for dx.
  CHECK(check_cuda(FASTCNN_CUDA_OP(batch_norm_bwd), &p, in, outs, residual && dtype_size(t) == 2 ? 2e-3 : 3e-5) ==
        1);
}

}  // namespace

TEST_CASE("cuda batch_norm in packs: every activation, residual, affine map, second gradient, given sums") {
  for (DType t : kPacked)
    for (Act act : {Act::none, Act::relu, Act::relu6, Act::leaky_relu, Act::silu, Act::hardswish, Act::gelu})
      for (bool residual : {false, true}) {
        const BatchNormParams p = params(150, 24, act);
        check_forward(p, t, residual, true);
        for (bool dy2 : {false, true}) {
          if (!residual && act != Act::none) check_backward(p, t, false, true, dy2);
          if (act == Act::none || act == Act::relu || act == Act::relu6 || act == Act::leaky_relu)
            check_backward(p, t, residual, false, dy2);
        }
        if (act == Act::none) check_backward(p, t, residual, false, false, true);
      }
}

TEST_CASE("cuda batch_norm in packs: channels that fill a block or not, few rows, many slices") {
  for (auto [rows, C] : {std::pair<int64_t, int64_t>{1, 8},
                         {40000, 8},
                         {3000, 16},
                         {2500, 64},
                         {77, 200},
                         {513, 264},
                         {130, 512},
                         {65, 520},
                         {9, 2048},
                         {40, 2048}})
    for (DType t : kPacked) {
      check_forward(params(rows, C, Act::relu), t, false, true);
      check_backward(params(rows, C, Act::relu), t, false, true, true);
      check_backward(params(rows, C, Act::relu), t, true, false, false);
    }
}

TEST_CASE("cuda batch_norm in packs: a mean far from zero costs no digits") {
  const DType f = DType::float32;
  for (DType t : {DType::float32, DType::bfloat16}) {
    const BatchNormParams p = params(9000, 16, Act::none);
    CHECK(check_cuda(FASTCNN_CUDA_OP(batch_norm), &p,
                     {tensor({9000, 16}, 1, t, 0, 1, 1000), tensor({16}, 2), tensor({16}, 3)},
                     {{{9000, 16}, t}, {{16}, f}, {{16}, f}}, 2e-4) == 1);
  }
}

TEST_CASE("cuda batch_norm: operands that are not aligned go element by element") {
  const DType f = DType::float32;
  BatchNormParams p = params(60, 16, Act::relu);
  const Shaped memory = tensor({60 * 16 + 1}, 1, DType::bfloat16), gamma = tensor({16}, 2), beta = tensor({16}, 3);
  Operand x = memory.operand();
  x.data = static_cast<char*>(x.data) + 2;
  x.ndim = 2, x.shape[0] = 60, x.shape[1] = 16, x.strides[0] = 16, x.strides[1] = 1;
  const std::vector<Operand> views{x, gamma.operand(), beta.operand()};
  CHECK(check_cuda(FASTCNN_CUDA_OP(batch_norm), &p, {memory, gamma, beta},
                   {{{60, 16}, DType::bfloat16}, {{16}, f}, {{16}, f}}, 2e-5, &views) == 1);
}

TEST_CASE(
    "cuda batch_norm_infer: parameters and running statistics of any dtype, in packs and element by element") {
  constexpr DType floats[] = {DType::float32, DType::bfloat16, DType::float16, DType::float64};
  for (int64_t C : {5, 24})
    for (Act act : {Act::relu, Act::gelu})
      for (bool residual : {false, true})
        for (DType t : floats)
          for (DType affine : floats)
            for (DType stats : floats) {
              BatchNormParams p = params(70, C, act);
              p.has_residual = residual;
              std::vector<Shaped> in{tensor({70, C}, 1, t, 0, 2, 3), tensor({C}, 3, affine, 0, 0.3, 1),
                                     tensor({C}, 4, affine), tensor({C}, 5, stats, 0, 1, 3),
                                     tensor({C}, 6, stats, 3, 1, 1)};
              if (residual) in.push_back(tensor({70, C}, 2, t));
              CHECK(check_cuda(FASTCNN_CUDA_OP(batch_norm_infer), &p, in, {{{70, C}, t}}, 4e-6) == 1);
            }
  BatchNormParams p = params(0, 8, Act::none);
  const DType h = DType::bfloat16;
  const Shaped v = tensor({8}, 3, h, 3, 1, 1);
  CHECK(check_cuda(FASTCNN_CUDA_OP(batch_norm_infer), &p, {tensor({0, 8}, 1, h), v, v, v, v}, {{{0, 8}, h}}) == 1);
}

TEST_CASE("cuda bn_update_running: statistics of a batch and running ones of any dtype, each its own") {
  constexpr DType floats[] = {DType::float32, DType::bfloat16, DType::float16, DType::float64};
  for (DType batch : {DType::float32, DType::float64})
    for (DType mean : floats)
      for (DType var : floats)
        for (double momentum : {0.1, 0.0, 1.0, -1.0})
          for (int64_t rows : {0, 40}) {
            BnUpdateParams u;
            u.rows = rows, u.C = 300, u.momentum = momentum;
            std::vector<Shaped> in{tensor({300}, 1, batch), tensor({300}, 2, batch, 3, 1, 1),
                                   tensor({300}, 3, mean), tensor({300}, 4, var, 3, 1, 1)};
            if (momentum < 0) in.push_back(tensor({1}, 5, DType::int64, 3, 1, 2));
            CHECK(check_cuda(FASTCNN_CUDA_OP(bn_update_running), &u, in, {{{300}, mean}, {{300}, var}}) == 1);
          }
}
