// Narrow 1x1 convolutions (conv2d_pointwise.cu) on the executor against the CPU's reference; their tiles and parts
// as plain functions. Their moments: test_cuda_moments.cpp.
#include <set>
#include <utility>

#include "backend/cuda/kernels/pointwise.h"
#include "cuda_check.h"

using namespace fastcnn;
using namespace fastcnn::test;

namespace {

Conv2dParams conv(int64_t N, int64_t C, int64_t O, int64_t H, int64_t W) {
  return conv_params(N, C, O, H, W, 1, 1, {});
}

// The executor's four multiprocessors make 256 pixels enough. A last tile that is not full in all; the last ones:
// more tiles than the warps hold at once.
const Conv2dParams kAll[] = {
    conv(3, 16, 96, 9, 11),  conv(3, 96, 16, 9, 11),  conv(1, 24, 144, 17, 16), conv(1, 144, 24, 17, 16),
    conv(2, 32, 192, 9, 15), conv(2, 192, 32, 15, 9), conv(7, 8, 8, 6, 7),      conv(1, 32, 16, 19, 19),
    conv(1, 24, 8, 20, 17),  conv(1, 8, 40, 20, 17),  conv(1, 184, 8, 20, 13),  conv(1, 24, 104, 20, 13),
    conv(2, 16, 40, 50, 51), conv(2, 40, 24, 50, 41),
};

CudaOp narrow_only(const CudaOp& op) { return only(op, "narrow 1x1"); }

}  // namespace

TEST_CASE("cuda narrow 1x1: conv2d and the gradient of x, with and without an epilogue") {
  for (const Conv2dParams& base : kAll)
    for (DType t : {DType::bfloat16, DType::float16})
      for (int extra = 0; extra < 4; ++extra) {
        if (t == DType::float16 && extra % 3) continue;  // the epilogue is one for both
        Conv2dParams p = base;
        p.has_bias = extra & 1, p.has_residual = extra >> 1;
        p.act.act = extra == 3 ? Act::relu6 : extra == 1 ? Act::relu : Act::none;
        const std::vector<int64_t> x{p.N, p.C, p.H, p.W}, y{p.N, p.O, p.H, p.W}, w{p.O, p.C, 1, 1};
        std::vector<Shaped> in{tensor(x, 1, t), tensor(w, 2, t)};
        if (p.has_bias) in.push_back(tensor({p.O}, 3, t));
        if (p.has_residual) in.push_back(tensor(y, 4, t));
        CHECK(check_cuda(narrow_only(FASTCNN_CUDA_OP(conv2d)), &p, in, {{y, t}}, 4e-6) == 1);
        if (extra > 1) continue;
        p = base;
        std::vector<Shaped> data{tensor(y, 5, t), tensor(w, 2, t)};
        if (extra) data.push_back(tensor({p.C}, 6, t));
        CHECK(check_cuda(narrow_only(FASTCNN_CUDA_OP(conv2d_bwd_data)), &p, data, {{x, t}}, 4e-6) == 1);
      }
}

TEST_CASE("cuda narrow 1x1: the gradient of the weights and of the bias; in float32 it is that before rounding") {
  for (const Conv2dParams& p : kAll)
    for (DType t : {DType::bfloat16, DType::float16}) {
      const std::vector<int64_t> x{p.N, p.C, p.H, p.W}, y{p.N, p.O, p.H, p.W}, w{p.O, p.C, 1, 1};
      const std::vector<Shaped> in{tensor(x, 1, t), tensor(y, 5, t)};
      const CudaOp op = narrow_only(FASTCNN_CUDA_OP(conv2d_bwd_weights));
      CHECK(check_cuda(op, &p, in, {{w, t}, {{p.O}, t}}, 6e-6) == 1);
      if (t == DType::float16) continue;
      const std::vector<Operand> ins{in[0].operand(), in[1].operand()};
      auto run = [&](DType to) {
        Shaped out{Array(count_of(w), to), w};
        const std::vector<Operand> results{out.operand()};
        Call c{OpKind::conv2d_bwd_weights, &p, ins, results};
        REQUIRE(!op.cuda[0].declines(c));
        Buffer workspace((op.cuda[0].workspace(c) + 3) / 4);
        c.workspace = workspace.data();
        op.cuda[0].run(c);
        return out;
      };
      const Shaped narrow = run(t), wide = run(DType::float32);
      const Array rounded(1, t);
      int64_t wrong = 0;
      for (int64_t i = 0; i < narrow.array.n; ++i) {
        set_at(rounded, 0, value_at(wide.array, i));
        wrong += value_at(rounded, 0) != value_at(narrow.array, i);
      }
      CHECK(wrong == 0);
    }
}

TEST_CASE("cuda narrow 1x1: infinities stay in their rows, where channels leave half of a step empty") {
  const DType t = DType::bfloat16;
  const Conv2dParams p = conv(1, 24, 40, 20, 17);
  for (bool back : {false, true}) {
    const int64_t from = 24, to = 40;
    Conv2dParams q = p;
    if (back) std::swap(q.C, q.O);
    const std::vector<Shaped> in{tensor({1, from, 20, 17}, 1, t), tensor({q.O, q.C, 1, 1}, 2, t)};
    for (int64_t row : {1, 100, 339}) set_at(in[0].array, row * from, INFINITY);
    const std::vector<std::pair<std::vector<int64_t>, DType>> out{{{1, to, 20, 17}, t}};
    CHECK(check_cuda(narrow_only(back ? FASTCNN_CUDA_OP(conv2d_bwd_data) : FASTCNN_CUDA_OP(conv2d)), &q, in, out,
                     4e-6) == 1);
  }
}

TEST_CASE("cuda narrow 1x1: what it is not for goes to the next in the list") {
  auto takes = [](Conv2dParams p, DType t, int64_t moved = 0) {
    const std::vector<int64_t> x{p.N, p.C, p.H, p.W}, w{p.O, p.C, p.kH, p.kW};
    const std::vector<Shaped> in{tensor(x, 1, t), tensor(w, 2, t)}, room{tensor({count_of(x) + moved}, 1, t)};
    std::vector<Operand> views{in[0].operand(), in[1].operand()};
    if (moved) views[0].data = static_cast<char*>(room[0].operand().data) + 2 * moved;
    const std::vector<std::pair<std::vector<int64_t>, DType>> out{{{p.N, p.O, p.oH, p.oW}, t}};
    // The whole list must be right where this one declines.
    const CudaOp all = FASTCNN_CUDA_OP(conv2d);
    CHECK(check_cuda(all, &p, in, out, 4e-6, &views) >= 1);
    return check_cuda(narrow_only(all), &p, in, out, 4e-6, &views) == 1;
  };
  const Conv2dParams p = conv(1, 16, 40, 16, 17);
  CHECK(takes(p, DType::bfloat16));
  CHECK(!takes(p, DType::float32));
  CHECK(!takes(p, DType::bfloat16, 1));
  CHECK(takes(p, DType::bfloat16, 8));
  CHECK(!takes(conv(1, 16, 40, 5, 17), DType::bfloat16));
  CHECK(!takes(conv(1, 40, 40, 16, 17), DType::bfloat16));
  CHECK(!takes(conv(1, 16, 200, 16, 17), DType::bfloat16));
  CHECK(!takes(conv(1, 12, 40, 16, 17), DType::bfloat16));
  Conv2dParams other = p;
  other.act.act = Act::silu;
  CHECK(!takes(other, DType::bfloat16));
  other = p, other.sH = 2, other.oH = 8;
  CHECK(!takes(other, DType::bfloat16));
  other = p, other.pL = 1, other.oW = 18;
  CHECK(!takes(other, DType::bfloat16));
}

TEST_CASE("cuda narrow 1x1: a device with less shared memory has fewer blocks or the next implementation") {
  const DType t = DType::bfloat16;
  for (const Conv2dParams& p : {conv(2, 32, 192, 9, 15), conv(2, 192, 32, 15, 9), conv(7, 8, 8, 6, 7)})
    for (int64_t kilobytes : {163, 99, 48}) {
      const int64_t all = std::exchange(cuda::host::shared_limit(), kilobytes << 10);
      const std::vector<int64_t> x{p.N, p.C, p.H, p.W}, y{p.N, p.O, p.H, p.W}, w{p.O, p.C, 1, 1};
      const std::vector<Shaped> in{tensor(x, 1, t), tensor(w, 2, t)}, back{tensor(x, 1, t), tensor(y, 5, t)};
      // A launch with more than the limit throws.
      const int data = check_cuda(narrow_only(FASTCNN_CUDA_OP(conv2d)), &p, in, {{y, t}}, 4e-6);
      const int weights = check_cuda(narrow_only(FASTCNN_CUDA_OP(conv2d_bwd_weights)), &p, back, {{w, t}}, 6e-6);
      cuda::host::shared_limit() = all;
      CHECK(data == (kilobytes > 48 || p.C == 8));
      CHECK(weights == (kilobytes > 99 || p.C == 8));
    }
}

TEST_CASE("cuda narrow 1x1: pieces of rows are found by one product, eight rows lie in all banks") {
  for (int channels = 8; channels <= cuda::kPointwiseWide; channels += 8) {
    const cuda::PointwiseRows g(channels, 200);
    int wrong = 0;
    for (int e = 0; e < 2048; ++e) {
      const int row = e / g.chunks, chunk = e % g.chunks;
      wrong += g.row(e) != row || g.place_of(e, row) != g.place(row, chunk) ||
               g.memory_of(e, row) != row * g.stride() + chunk * 8;
    }
    CHECK(wrong == 0);
    std::set<int> banks;
    for (int row = 0; row < 8; ++row) banks.insert(g.place(row, 0) / 8 % 8);
    CHECK(banks.size() == 8);
    CHECK(g.place(1, 0) >= channels);
    CHECK(g.stride() == 200);
    CHECK(cuda::pointwise_parts(channels) * cuda::pointwise_part(channels) * 16 >= channels);
    CHECK((cuda::pointwise_parts(channels) - 1) * cuda::pointwise_part(channels) * 16 < channels);
    CHECK(cuda::pointwise_part(channels) <= cuda::kPointwiseSums);
  }
}
