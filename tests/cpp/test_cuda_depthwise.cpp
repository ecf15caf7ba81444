// The depthwise kernels in rows of packs (kernels/depthwise_rows.cuh) on the executor against the CPU's reference,
// beside the kernels by elements and the plain product. What takes other shapes: test_cuda_gemm.cpp.
#include "cuda_check.h"

using namespace fastcnn;
using namespace fastcnn::test;

namespace {

constexpr DType kPacked[] = {DType::float32, DType::bfloat16, DType::float16};

Conv2dParams depthwise(int64_t N, int64_t C, int64_t H, int64_t W, int64_t k, int64_t s, const Pad& pad) {
  return conv_params(N, C, C, H, W, k, s, pad, C);
}

void check_three(const Conv2dParams& base, DType t, bool with_extras, bool only_rows = false) {
  Conv2dParams p = base;
  p.has_bias = p.has_residual = with_extras;
  if (with_extras) p.act.act = Act::relu6;
  const ConvShapes of(p);
  const int expected = only_rows ? 1 : p.kH == 7 && p.sH == 2 ? 2 : 3;
  auto op = [&](const CudaOp& all) { return only_rows ? only(all, "simt depthwise rows") : all; };
  std::vector<Shaped> in{tensor(of.x, 1, t), tensor(of.w, 2, t)}, data{tensor(of.y, 5, t), tensor(of.w, 2, t)};
  if (with_extras) {
    in.push_back(tensor({p.O}, 3, t)), in.push_back(tensor(of.y, 4, t));
    data.push_back(tensor({p.C}, 6, t));
  }
  CHECK(check_cuda(op(FASTCNN_CUDA_OP(conv2d)), &p, in, {{of.y, t}}, 4e-6) == expected);
  CHECK(check_cuda(op(FASTCNN_CUDA_OP(conv2d_bwd_data)), &p, data, {{of.x, t}}, 4e-6) == expected);
  const std::vector<Shaped> xy{tensor(of.x, 1, t), tensor(of.y, 5, t)};
  std::vector<std::pair<std::vector<int64_t>, DType>> outs{{of.w, t}};
  if (with_extras) outs.push_back({{p.O}, t});
  CHECK(check_cuda(op(FASTCNN_CUDA_OP(conv2d_bwd_weights)), &p, xy, outs, 6e-6) == expected);
  if (t == DType::float32) return;
  // Gradients of 16-bit weights in float32 are those before rounding.
  const Implementation& rows = cuda::conv2d_bwd_weights_list()[0];
  auto run = [&](DType to) {
    std::vector<Shaped> out;
    for (const auto& [shape, same] : outs) out.push_back({Array(count_of(shape), to), shape});
    std::vector<Operand> ins, results;
    for (const Shaped& v : xy) ins.push_back(v.operand());
    for (const Shaped& v : out) results.push_back(v.operand());
    Call c{OpKind::conv2d_bwd_weights, &p, ins, results};
    if (rows.declines(c)) return std::vector<Shaped>{};
    Buffer workspace((rows.workspace(c) + 3) / 4);
    c.workspace = workspace.data();
    rows.run(c);
    return out;
  };
  const std::vector<Shaped> narrow = run(t), wide = run(DType::float32);
  REQUIRE(narrow.size() == wide.size());
  const Array rounded(1, t);
  int64_t wrong = 0;
  for (size_t k = 0; k < narrow.size(); ++k)
    for (int64_t i = 0; i < narrow[k].array.n; ++i) {
      set_at(rounded, 0, value_at(wide[k].array, i));
      wrong += value_at(rounded, 0) != value_at(narrow[k].array, i);
    }
  CHECK(wrong == 0);
}

}  // namespace

TEST_CASE("cuda depthwise rows: kernels, strides, lopsided padding, maps narrower than a strip, batches") {
  constexpr Pad pads[] = {{1, 1, 1, 1}, {0, 0, 0, 0}, {2, 1, 3, 0}, {0, 3, 2, 5}, {7, 8, 6, 9}};
  constexpr std::array<int64_t, 4> maps[] = {{2, 24, 9, 7}, {1, 8, 7, 10}, {3, 16, 6, 8}};
  for (int64_t k : {3, 5, 7})
    for (int64_t s : {1, k == 7 ? 1 : 2})
      for (const auto& pad : pads)
        for (const auto& m : maps)
          for (DType t : kPacked)
            if (m[2] + pad[0] + pad[1] >= k && m[3] + pad[2] + pad[3] >= k)
              check_three(depthwise(m[0], m[1], m[2], m[3], k, s, pad), t, (pad[0] + m[0]) % 2, true);
  for (int64_t s : {1, 2})
    for (int64_t w : {1, 2, 3, 5})
      for (DType t : kPacked)
        for (bool extras : {false, true}) check_three(depthwise(2, 8, 2, w, 3, s, {1, 1, 1, 1}), t, extras);
  check_three(depthwise(1, 8, 9, 7, 7, 2, {3, 3, 3, 3}), DType::bfloat16, true);  // rows decline
}

TEST_CASE("cuda depthwise rows: blocks of channels, the last in part; slices of the weights' gradient") {
  for (DType t : kPacked)
    for (int64_t k : {3, 5, 7}) {
      const int64_t n = t == DType::float32 ? 4 : 8, pad = k / 2;
      check_three(depthwise(1, 37 * n, 5, 6, k, 1, {pad, pad, pad, pad}), t, true, true);
      check_three(depthwise(3, 12 * n, 14, 13, k, 1, {pad, pad, pad, pad}), t, true, true);
    }
  check_three(depthwise(5, 88, 15, 15, 3, 2, {1, 1, 1, 1}), DType::bfloat16, true, true);
  check_three(depthwise(5, 88, 15, 15, 5, 2, {2, 2, 2, 2}), DType::float16, false, true);
}

TEST_CASE("cuda depthwise rows: several rows of a thread") {
  check_three(depthwise(8, 128, 32, 31, 3, 1, {1, 1, 1, 1}), DType::bfloat16, true, true);
  check_three(depthwise(8, 128, 31, 32, 3, 2, {1, 1, 1, 1}), DType::bfloat16, true, true);
  check_three(depthwise(8, 128, 33, 32, 3, 2, {0, 1, 0, 1}), DType::float16, false, true);
}

TEST_CASE("cuda depthwise rows: every activation") {
  for (int a = 0; a <= static_cast<int>(Act::softsign); ++a)
    for (DType t : kPacked) {
      Conv2dParams p = depthwise(1, 16, 5, 6, 3, 1, {1, 1, 1, 1});
      p.has_bias = 1, p.act.act = static_cast<Act>(a), p.act.alpha = 0.75, p.act.beta = 1.5;
      const ConvShapes of(p);
      CHECK(check_cuda(FASTCNN_CUDA_OP(conv2d), &p, {tensor(of.x, 1, t), tensor(of.w, 2, t), tensor({p.O}, 3, t)},
                       {{of.y, t}}, 6e-6) == 3);
    }
}

TEST_CASE("cuda depthwise rows: memory that is not aligned") {
  Conv2dParams p = depthwise(2, 16, 5, 6, 3, 1, {1, 1, 1, 1});
  p.has_bias = 1;
  const ConvShapes of(p);
  for (DType t : kPacked) {
    std::vector<Shaped> kept;
    auto shifted = [&](const std::vector<int64_t>& shape, uint32_t seed) {
      kept.push_back(tensor({count_of(shape) + 1}, seed, t));
      Operand o = tensor(shape, seed, t).operand();
      o.data = static_cast<char*>(kept.back().operand().data) + dtype_size(t);
      return o;
    };
    const std::vector<Operand> in{shifted(of.x, 1), shifted(of.w, 2), shifted({p.O}, 3)};
    const std::vector<Operand> data{shifted(of.y, 4), in[1]}, both{in[0], data[0]};
    CHECK(check_cuda(only(FASTCNN_CUDA_OP(conv2d), "simt depthwise rows"), &p, {}, {{of.y, t}}, 4e-6, &in) == 1);
    CHECK(check_cuda(only(FASTCNN_CUDA_OP(conv2d_bwd_data), "simt depthwise rows"), &p, {}, {{of.x, t}}, 4e-6,
                     &data) == 1);
    CHECK(check_cuda(only(FASTCNN_CUDA_OP(conv2d_bwd_weights), "simt depthwise rows"), &p, {},
                     {{of.w, t}, {{p.O}, t}}, 6e-6, &both) == 1);
  }
}
