// The CUDA convolutions, matrix products and index ops on the executor against the CPU's references; the index
// maps of implicit GEMM against plain loops.
#include <array>
#include <set>

#include "backend/cuda/kernels/conv_index.h"
#include "cuda_check.h"

using namespace fastcnn;
using namespace fastcnn::test;

namespace {

constexpr DType kFloats[] = {DType::float32, DType::bfloat16, DType::float16, DType::float64};

Conv2dParams conv(int64_t N, int64_t C, int64_t H, int64_t W, int64_t O, int64_t k, int64_t s, int64_t pad,
                  int64_t d, int64_t groups) {
  Conv2dParams p;
  p.N = N, p.C = C, p.H = H, p.W = W, p.O = O, p.kH = k, p.kW = k, p.sH = s, p.sW = s;
  p.pT = p.pB = p.pL = p.pR = pad, p.dH = p.dW = d, p.groups = groups;
  p.oH = conv_out_size(H, pad, pad, k, s, d), p.oW = conv_out_size(W, pad, pad, k, s, d);
  return p;
}

std::vector<Conv2dParams> problems() {
  std::vector<Conv2dParams> all{conv(1, 3, 9, 8, 10, 3, 2, 1, 1, 1),   conv(2, 8, 7, 7, 70, 1, 1, 0, 1, 1),
                                conv(2, 6, 8, 9, 9, 3, 1, 1, 2, 3),    conv(1, 5, 6, 7, 10, 3, 1, 1, 1, 5),
                                conv(2, 33, 5, 5, 33, 3, 2, 1, 1, 33), conv(1, 2, 11, 5, 3, 5, 3, 2, 1, 1)};
  Conv2dParams odd = conv(1, 4, 6, 5, 6, 3, 1, 0, 1, 2);
  odd.kW = 2, odd.pT = 2, odd.pR = 1, odd.sW = 2;
  odd.oH = conv_out_size(6, 2, 0, 3, 1, 1), odd.oW = conv_out_size(5, 0, 1, 2, 2, 1);
  all.push_back(odd);
  return all;
}

}  // namespace

TEST_CASE("cuda conv2d and both gradients: strides, padding, dilation, groups, depthwise, epilogues") {
  for (const Conv2dParams& base : problems())
    for (DType t : kFloats)
      for (int extra = 0; extra < 4; ++extra) {
        Conv2dParams p = base;
        p.has_bias = extra & 1, p.has_residual = extra >> 1;
        if (extra == 3) p.act.act = Act::relu6;
        const std::vector<int64_t> x{p.N, p.C, p.H, p.W}, y{p.N, p.O, p.oH, p.oW},
            w{p.O, p.C / p.groups, p.kH, p.kW};
        const int implementations = p.groups == p.C ? 2 : 1;
        std::vector<Shaped> in{tensor(x, 1, t), tensor(w, 2, t)};
        if (p.has_bias) in.push_back(tensor({p.O}, 3, t));
        if (p.has_residual) in.push_back(tensor(y, 4, t));
        CHECK(check_cuda(FASTCNN_CUDA_OP(conv2d), &p, in, {{y, t}}, 4e-6) == implementations);
        if (extra > 1) continue;
        std::vector<Shaped> data{tensor(y, 5, t), tensor(w, 2, t)};
        if (p.has_bias) data.push_back(tensor({p.C}, 6, t));
        CHECK(check_cuda(FASTCNN_CUDA_OP(conv2d_bwd_data), &p, data, {{x, t}}, 4e-6) == implementations);
        std::vector<std::pair<std::vector<int64_t>, DType>> outs{{w, t}};
        if (p.has_bias) outs.push_back({{p.O}, t});
        CHECK(check_cuda(FASTCNN_CUDA_OP(conv2d_bwd_weights), &p, {tensor(x, 1, t), tensor(y, 5, t)}, outs,
                         6e-6) == implementations);
      }
  const Conv2dParams deep = conv(3, 3, 20, 21, 5, 3, 1, 1, 1, 1);  // enough pixels for several splits
  CHECK(check_cuda(FASTCNN_CUDA_OP(conv2d_bwd_weights), &deep,
                   {tensor({3, 3, 20, 21}, 1), tensor({3, 5, 20, 21}, 2)},
                   {{{5, 3, 3, 3}, DType::float32}, {{5}, DType::float32}}, 6e-6) == 1);
}

TEST_CASE("cuda matmul: transposes, batches, bias, activation, edges of tiles") {
  for (auto [M, N, K] : {std::array<int64_t, 3>{1, 1, 1}, {5, 70, 33}, {64, 64, 16}, {130, 3, 17}, {3, 4, 0}})
    for (int bits = 0; bits < 16; ++bits)
      for (DType t : {DType::float32, DType::bfloat16, DType::float64}) {
        MatmulParams p;
        p.M = M, p.N = N, p.K = K, p.trans_a = bits & 1, p.trans_b = bits >> 1 & 1, p.has_bias = bits >> 2 & 1;
        p.batch = bits >> 3 ? 3 : 1, p.b_batched = !p.has_bias;
        if (p.has_bias) p.act.act = Act::gelu;
        std::vector<Shaped> in{tensor({p.batch, M, K}, 1, t), tensor({p.b_batched ? p.batch : 1, K, N}, 2, t)};
        if (p.has_bias) in.push_back(tensor({N}, 3, t));
        CHECK(check_cuda(FASTCNN_CUDA_OP(matmul), &p, in, {{{p.batch, M, N}, t}}, 4e-6) == 1);
      }
}

TEST_CASE("cuda implicit GEMM: every index of small problems is what plain loops visit") {
  for (const Conv2dParams& p : problems()) {
    const int64_t Cg = p.C / p.groups, Og = p.O / p.groups;
    std::set<std::array<int64_t, 3>> forward, backward;  // (x, y, w) offsets that meet
    for (int64_t z = 0; z < p.groups; ++z) {
      for (int64_t i = 0; i < p.N * p.oH * p.oW; ++i)
        for (int64_t k = 0; k < cuda::conv_depth(p); ++k)
          if (const int64_t at = cuda::forward_source(p, z, i, k); at >= 0)
            for (int64_t j = 0; j < Og; ++j)
              CHECK(forward.insert({at, i * p.O + z * Og + j, (z * Og + j) * cuda::conv_depth(p) + k}).second);
      for (int64_t i = 0; i < p.N * p.H * p.W; ++i)
        for (int64_t k = 0; k < p.kH * p.kW * Og; ++k)
          if (const int64_t at = cuda::bwd_data_source(p, z, i, k); at >= 0)
            for (int64_t j = 0; j < Cg; ++j)
              CHECK(backward.insert({i * p.C + z * Cg + j, at, cuda::bwd_data_weight(p, z, k, j)}).second);
    }
    std::set<std::array<int64_t, 3>> expect;
    for (int64_t n = 0; n < p.N; ++n)
      for (int64_t oh = 0; oh < p.oH; ++oh)
        for (int64_t ow = 0; ow < p.oW; ++ow)
          for (int64_t kh = 0; kh < p.kH; ++kh)
            for (int64_t kw = 0; kw < p.kW; ++kw) {
              const int64_t h = oh * p.sH - p.pT + kh * p.dH, w = ow * p.sW - p.pL + kw * p.dW;
              if (h < 0 || h >= p.H || w < 0 || w >= p.W) continue;
              for (int64_t o = 0; o < p.O; ++o)
                for (int64_t c = 0; c < Cg; ++c)
                  expect.insert({((n * p.H + h) * p.W + w) * p.C + o / Og * Cg + c,
                                 ((n * p.oH + oh) * p.oW + ow) * p.O + o, ((o * p.kH + kh) * p.kW + kw) * Cg + c});
            }
    CHECK(forward == expect);
    CHECK(backward == expect);
  }
}

TEST_CASE("cuda index ops: gathers and their transposes, repeated and negative ids, an id out of range") {
  for (int64_t dim : {0, 1, 2})
    for (DType t : {DType::float32, DType::bfloat16, DType::float64, DType::int64, DType::uint8}) {
      const bool whole = !is_floating(t);
      IndexParams p;
      p.dim = dim;
      const std::vector<int64_t> x{4, 5, 6};
      p.size = x[static_cast<size_t>(dim)];
      std::vector<int64_t> picked = x;
      picked[static_cast<size_t>(dim)] = 9;
      const Shaped ids =
          tensor({9}, 1, DType::int64, static_cast<double>(2 * p.size), 1, static_cast<double>(-p.size));
      const Shaped each = tensor(picked, 2, DType::int64, static_cast<double>(p.size));
      const Shaped values = tensor(x, 3, t, whole ? 20 : 0), dy = tensor(picked, 4, t, whole ? 20 : 0);
      CHECK(check_cuda(FASTCNN_CUDA_OP(index_select), &p, {values, ids}, {{picked, t}}) == 1);
      CHECK(check_cuda(FASTCNN_CUDA_OP(gather), &p, {values, each}, {{picked, t}}) == 1);
      CHECK(check_cuda(FASTCNN_CUDA_OP(index_add), &p, {dy, ids}, {{x, t}}) == 1);
      CHECK(check_cuda(FASTCNN_CUDA_OP(scatter_add), &p, {dy, each}, {{x, t}}) == 1);
    }
  IndexParams p;
  p.size = 4;
  Shaped x = tensor({4, 3}, 1), ids = tensor({2}, 1, DType::int64, 4), y = tensor({2, 3}, 1);
  set_at(ids.array, 1, 4);
  std::vector<Operand> in{x.operand(), ids.operand()}, out{y.operand()};
  Call c;
  c.kind = OpKind::index_select, c.params = &p, c.in = in, c.out = out;
  cuda::index_select_list()[0].run(c);
  CHECK_THROWS_WITH_AS(cuda::throw_device_faults(),
                       "index_select: expected indices in [-4, 4), got 4 at element 1", std::out_of_range);
}

TEST_CASE("cuda cat, strided_scatter, pad and its transpose") {
  for (DType t : {DType::float32, DType::bfloat16, DType::int64, DType::bool_}) {
    const double whole = is_floating(t) ? 0 : 2;
    CatParams cat;
    cat.dim = 1;
    CHECK(check_cuda(FASTCNN_CUDA_OP(cat), &cat,
                     {tensor({2, 3, 4, 5}, 1, t, whole), tensor({2, 1, 4, 5}, 2, t, whole),
                      tensor({2, 6, 4, 5}, 3, t, whole)},
                     {{{2, 10, 4, 5}, t}}) == 1);
    ScatterParams s;  // every other row, from the second column on; then rows that are repeated
    s.offset = 1, s.strides[0] = 20, s.strides[1] = 1;
    CHECK(check_cuda(FASTCNN_CUDA_OP(strided_scatter), &s, {tensor({3, 7}, 4, t, whole)}, {{{6, 10}, t}}) == 1);
    if (t == DType::bool_) continue;
    s.offset = 0, s.strides[0] = 0, s.accumulate = 1;
    CHECK(check_cuda(FASTCNN_CUDA_OP(strided_scatter), &s, {tensor({3, 7}, 5, t, whole)}, {{{10}, t}}) == 1);
    s.strides[0] = 1;
    CHECK(check_cuda(FASTCNN_CUDA_OP(strided_scatter), &s, {tensor({3, 7}, 5, t, whole)}, {{{10}, t}}) == 0);
  }
  for (PadMode mode : {PadMode::constant, PadMode::reflect, PadMode::replicate, PadMode::circular})
    for (DType t : kFloats) {
      PadParams p;
      p.mode = mode, p.value = 1.5;
      p.before[2] = 2, p.after[2] = 1, p.before[3] = mode == PadMode::constant ? -1 : 3, p.after[3] = 2;
      const std::vector<int64_t> x{2, 3, 4, 5}, y{2, 3, 7, 5 + p.before[3] + 2};
      CHECK(check_cuda(FASTCNN_CUDA_OP(pad), &p, {tensor(x, 1, t)}, {{y, t}}) == 1);
      CHECK(check_cuda(FASTCNN_CUDA_OP(pad_bwd), &p, {tensor(y, 2, t)}, {{x, t}}) == 1);
    }
  PadParams p;
  p.before[0] = 1, p.value = 1;
  for (DType t : {DType::int64, DType::int32, DType::int8, DType::uint8, DType::bool_})
    CHECK(check_cuda(FASTCNN_CUDA_OP(pad), &p, {tensor({5}, 1, t, 2)}, {{{6}, t}}) == 1);
}
