// Convolutions of few channels by tiles with their halo (conv2d_halo.cu) on the executor against the CPU's
// reference; the tiles against plain loops. What else takes these shapes: test_cuda_gemm.cpp.
#include <array>
#include <set>
#include <utility>

#include "backend/cuda/kernels/halo.h"
#include "cuda_check.h"

using namespace fastcnn;
using namespace fastcnn::test;

namespace {

Conv2dParams conv(int64_t N, int64_t C, int64_t O, int64_t H, int64_t W, int64_t s, const Pad& pad) {
  return conv_params(N, C, O, H, W, 3, s, pad);
}

// Whole images, several and one to a tile; rows of an image, the last ones fewer; more tiles than blocks; strides.
const Conv2dParams kAll[] = {
    conv(5, 16, 16, 8, 8, 1, {1, 1, 1, 1}),   conv(3, 16, 32, 16, 16, 1, {1, 1, 1, 1}),
    conv(2, 32, 32, 13, 21, 1, {1, 1, 1, 1}), conv(1, 32, 16, 7, 5, 1, {0, 0, 0, 0}),
    conv(2, 16, 16, 33, 32, 1, {1, 1, 1, 1}), conv(2, 16, 16, 9, 40, 1, {2, 0, 0, 1}),
    conv(3, 16, 32, 32, 32, 2, {1, 1, 1, 1}), conv(2, 32, 16, 15, 17, 2, {1, 0, 0, 2}),
    conv(5, 16, 16, 10, 9, 2, {2, 1, 1, 0}),  conv(1, 16, 32, 35, 30, 2, {0, 1, 2, 2}),
    conv(9, 32, 32, 16, 16, 1, {1, 1, 1, 1}), conv(5, 32, 64, 16, 16, 2, {1, 1, 1, 1}),
    conv(2, 64, 32, 8, 9, 1, {1, 1, 1, 1}),   conv(1, 16, 16, 3, 100, 1, {0, 1, 2, 2}),
};

CudaOp halo_only(const CudaOp& op) { return only(op, "halo"); }

}  // namespace

TEST_CASE("cuda halo: conv2d and the gradient of x, with and without an epilogue") {
  for (const Conv2dParams& base : kAll)
    for (DType t : {DType::bfloat16, DType::float16})
      for (int extra = 0; extra < 4; ++extra) {
        if (t == DType::float16 && extra % 3) continue;  // the epilogue is one for both
        Conv2dParams p = base;
        p.has_bias = extra & 1, p.has_residual = extra >> 1;
        p.act.act = extra == 3 ? Act::silu : extra == 1 ? Act::relu6 : Act::none;
        const std::vector<int64_t> x{p.N, p.C, p.H, p.W}, y{p.N, p.O, p.oH, p.oW}, w{p.O, p.C, 3, 3};
        std::vector<Shaped> in{tensor(x, 1, t), tensor(w, 2, t)};
        if (p.has_bias) in.push_back(tensor({p.O}, 3, t));
        if (p.has_residual) in.push_back(tensor(y, 4, t));
        CHECK(check_cuda(halo_only(FASTCNN_CUDA_OP(conv2d)), &p, in, {{y, t}}, 4e-6) == (p.C < 64 ? 1 : 0));
        if (extra > 1) continue;
        p = base;
        std::vector<Shaped> data{tensor(y, 5, t), tensor(w, 2, t)};
        if (extra) data.push_back(tensor({p.C}, 6, t));
        CHECK(check_cuda(halo_only(FASTCNN_CUDA_OP(conv2d_bwd_data)), &p, data, {{x, t}}, 4e-6) ==
              (p.O < 64 ? 1 : 0));
      }
}

TEST_CASE("cuda halo: the gradient of the weights and of the bias; in float32 it is that before rounding") {
  for (const Conv2dParams& p : kAll)
    for (DType t : {DType::bfloat16, DType::float16}) {
      if (p.C > 32) continue;
      const std::vector<int64_t> x{p.N, p.C, p.H, p.W}, y{p.N, p.O, p.oH, p.oW}, w{p.O, p.C, 3, 3};
      const std::vector<Shaped> in{tensor(x, 1, t), tensor(y, 5, t)};
      const CudaOp op = halo_only(FASTCNN_CUDA_OP(conv2d_bwd_weights));
      CHECK(check_cuda(op, &p, in, {{w, t}, {{p.O}, t}}, 6e-6) == 1);
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

TEST_CASE("cuda halo: what it is not for goes to the next in the list") {
  Conv2dParams p = conv(1, 16, 16, 8, 8, 1, {1, 1, 1, 1});
  auto declines = [&](DType t) {
    const std::vector<Shaped> in{tensor({p.N, p.C, p.H, p.W}, 1, t), tensor({p.O, p.C, p.kH, p.kW}, 2, t)};
    return check_cuda(halo_only(FASTCNN_CUDA_OP(conv2d)), &p, in, {{{p.N, p.O, p.oH, p.oW}, t}}) == 0;
  };
  CHECK(!declines(DType::bfloat16));
  CHECK(declines(DType::float32));
  p = conv(1, 24, 16, 8, 8, 1, {1, 1, 1, 1});
  CHECK(declines(DType::bfloat16));
  p = conv(1, 16, 16, 3, 600, 1, {1, 1, 1, 1});
  CHECK(declines(DType::bfloat16));
}

TEST_CASE("cuda halo: a device with less shared memory has smaller launches or the next implementation") {
  const DType t = DType::bfloat16;
  for (const Conv2dParams& p :
       {conv(2, 32, 32, 16, 16, 1, {1, 1, 1, 1}), conv(3, 16, 32, 32, 32, 2, {1, 1, 1, 1})})
    for (int64_t kilobytes : {99, 48}) {
      const int64_t all = std::exchange(cuda::host::shared_limit(), kilobytes << 10);
      const std::vector<int64_t> x{p.N, p.C, p.H, p.W}, y{p.N, p.O, p.oH, p.oW}, w{p.O, p.C, 3, 3};
      const std::vector<Shaped> in{tensor(x, 1, t), tensor(w, 2, t)}, back{tensor(x, 1, t), tensor(y, 5, t)};
      // A launch with more than the limit throws.
      const int forward = check_cuda(halo_only(FASTCNN_CUDA_OP(conv2d)), &p, in, {{y, t}}, 4e-6);
      const int weights = check_cuda(halo_only(FASTCNN_CUDA_OP(conv2d_bwd_weights)), &p, back, {{w, t}}, 6e-6);
      cuda::host::shared_limit() = all;
      CHECK(forward == (kilobytes > 48));
      CHECK(weights == 0);
    }
}

TEST_CASE("cuda halo: tiles bring every pixel that a tap reads to where it is read, and make every pixel once") {
  for (const Conv2dParams& p : kAll) {
    const cuda::Halo g = cuda::halo_of(p.N, p.H, p.W, p.oH, p.oW, p.pT, p.pL, 3, p.sH, p.C / 8, 256, 20480 / p.C);
    REQUIRE(g.rows > 0);
    CHECK(g.plane % 8 == 64 / p.C);
    std::set<int64_t> made;
    for (int t = 0; t < g.tiles; ++t) {
      const cuda::HaloTile tile = g.tile(t);
      std::vector<int64_t> shared(static_cast<size_t>(g.plane), -1);
      for (int i = 0; i < g.pixels_brought(); ++i)
        if (tile.from + i >= tile.begin && tile.from + i < tile.end)
          shared.at(static_cast<size_t>(g.place_brought(i))) = tile.from + i;
      CHECK(tile.count <= 256);
      for (int i = 0; i < tile.count; ++i) {
        const int64_t to = tile.to + i, n = to / p.oW / p.oH, oh = to / p.oW % p.oH, ow = to % p.oW;
        CHECK(made.insert(to).second);
        for (int kh = 0; kh < 3; ++kh)
          for (int kw = 0; kw < 3; ++kw) {
            const int64_t h = oh * p.sH - p.pT + kh, v = ow * p.sW - p.pL + kw;
            const int64_t want = h < 0 || v < 0 || h >= p.H || v >= p.W ? -1 : (n * p.H + h) * p.W + v;
            CHECK(shared.at(static_cast<size_t>(g.place_read(i) + kh * g.pitch + kw)) == want);
          }
      }
      for (int i = 0; i < 256; ++i)  // past the last pixel too
        CHECK(g.place_read(i) + 2 * g.pitch + 2 < g.plane);
    }
    CHECK(static_cast<int64_t>(made.size()) == p.N * p.oH * p.oW);
  }
}
