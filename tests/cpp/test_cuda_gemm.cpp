// The CUDA convolutions, matrix products and index ops on the executor against the CPU's references; the loaders
// of implicit GEMM against plain loops. What tensor cores rest on: test_cuda_mma.cpp.
#include <array>
#include <set>

#include "backend/cuda/gemm_launch.h"
#include "backend/cuda/kernels/gemm_load.cuh"
#include "backend/cuda/kernels/tma_feed.h"
#include "cuda_check.h"
#include "fastcnn/runtime.h"

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
  all.push_back(conv(1, 8, 8, 7, 16, 1, 2, 0, 1, 1));          // pixels that no tap meets
  all.push_back(conv(1, 8, 9, 10, 8, 3, 3, 2, 2, 1));          // stride and dilation
  all.push_back(conv(1, 32, 9, 8, 48, 3, 2, 1, 1, 2));         // chunks in groups
  Conv2dParams first = conv(2, 3, 13, 14, 17, 7, 2, 3, 1, 1);  // squares of pixels as channels
  first.pT = 2, first.pR = 0;
  first.oH = conv_out_size(13, 2, 3, 7, 2, 1), first.oW = conv_out_size(14, 3, 0, 7, 2, 1);
  all.push_back(first);
  all.push_back(conv(2, 3, 9, 12, 16, 4, 4, 0, 1, 1));
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
        const bool mma = dtype_size(t) == 2 && (p.groups == 1 || (p.C / p.groups >= 8 && p.O / p.groups >= 8));
        const int implementations = 1 + (p.groups == p.C) + mma;
        // wgmma takes channels in runs; others are widened to such.
        const bool runs_in = p.C / p.groups % 8 == 0 || p.groups == 1,
                   runs_out = p.O / p.groups % 8 == 0 || p.groups == 1;
        // Squares of pixels as large as the stride become channels.
        const int squares = mma && p.groups == 1 && p.sH > 1 && p.sH == p.sW && p.dH == 1 && p.C % 8;
        std::vector<Shaped> in{tensor(x, 1, t), tensor(w, 2, t)};
        if (p.has_bias) in.push_back(tensor({p.O}, 3, t));
        if (p.has_residual) in.push_back(tensor(y, 4, t));
        CHECK(check_cuda(FASTCNN_CUDA_OP(conv2d), &p, in, {{y, t}}, 4e-6) ==
              implementations + squares + (mma && runs_in));
        if (extra > 1) continue;
        std::vector<Shaped> data{tensor(y, 5, t), tensor(w, 2, t)};
        if (p.has_bias) data.push_back(tensor({p.C}, 6, t));
        CHECK(check_cuda(FASTCNN_CUDA_OP(conv2d_bwd_data), &p, data, {{x, t}}, 4e-6) ==
              implementations + (mma && runs_in && runs_out));
        std::vector<std::pair<std::vector<int64_t>, DType>> outs{{w, t}};
        if (p.has_bias) outs.push_back({{p.O}, t});
        CHECK(check_cuda(FASTCNN_CUDA_OP(conv2d_bwd_weights), &p, {tensor(x, 1, t), tensor(y, 5, t)}, outs,
                         6e-6) == implementations + squares + (mma && runs_in && runs_out));
      }
  const Conv2dParams deep = conv(3, 3, 20, 21, 5, 3, 1, 1, 1, 1);  // enough pixels for several splits
  CHECK(check_cuda(FASTCNN_CUDA_OP(conv2d_bwd_weights), &deep,
                   {tensor({3, 3, 20, 21}, 1), tensor({3, 5, 20, 21}, 2)},
                   {{{5, 3, 3, 3}, DType::float32}, {{5}, DType::float32}}, 6e-6) == 1);
}

TEST_CASE(
    "cuda convolutions: tiles of every size, parts of the depth joined, float32 gradients of 16-bit weights"
    " are what is rounded") {
  const Conv2dParams all[] = {conv(2, 16, 13, 13, 144, 1, 1, 0, 1, 1), conv(2, 24, 12, 13, 40, 3, 1, 1, 1, 1),
                              conv(1, 136, 6, 6, 72, 3, 1, 1, 1, 1), conv(1, 128, 4, 4, 16, 3, 2, 1, 1, 1)};
  for (const Conv2dParams& base : all)
    for (DType t : {DType::bfloat16, DType::float16}) {
      Conv2dParams p = base;
      p.has_bias = p.has_residual = 1, p.act.act = Act::silu;
      const int one_more = p.kH == 1;  // to and from 16 channels; not with this activation
      const std::vector<int64_t> x{p.N, p.C, p.H, p.W}, y{p.N, p.O, p.oH, p.oW}, w{p.O, p.C, p.kH, p.kW};
      CHECK(check_cuda(FASTCNN_CUDA_OP(conv2d), &p,
                       {tensor(x, 1, t), tensor(w, 2, t), tensor({p.O}, 3, t), tensor(y, 4, t)}, {{y, t}},
                       4e-6) == 3);
      CHECK(check_cuda(FASTCNN_CUDA_OP(conv2d_bwd_data), &p, {tensor(y, 5, t), tensor(w, 2, t)}, {{x, t}}, 4e-6) ==
            3 + one_more);
      const Shaped in[] = {tensor(x, 1, t), tensor(y, 5, t)};
      CHECK(check_cuda(FASTCNN_CUDA_OP(conv2d_bwd_weights), &p, {in[0], in[1]}, {{w, t}, {{p.O}, t}}, 6e-6) ==
            3 + one_more);
      for (const Implementation& impl : cuda::conv2d_bwd_weights_list()) {
        if (std::string name = impl.name; name.starts_with("simt depthwise") || name == "widened" ||
                                          name == "boxes" || name == "strips" || name == "narrow strips" ||
                                          name == "halo" || name == "narrow 1x1" || name == "space to depth")
          continue;
        const Shaped narrow[] = {{Array(count_of(w), t), w}, {Array(p.O, t), {p.O}}};
        const Shaped wide[] = {{Array(count_of(w), DType::float32), w}, {Array(p.O, DType::float32), {p.O}}};
        for (const Shaped* out : {narrow, wide}) {
          const std::vector<Operand> ins{in[0].operand(), in[1].operand()},
              outs{out[0].operand(), out[1].operand()};
          Call c{OpKind::conv2d_bwd_weights, &p, ins, outs};
          REQUIRE(impl.declines(c) == nullptr);
          Buffer workspace((impl.workspace(c) + 3) / 4);
          c.workspace = workspace.data();
          impl.run(c);
        }
        const Array rounded(1, t);
        int64_t wrong = 0;
        for (int k = 0; k < 2; ++k)
          for (int64_t i = 0; i < narrow[k].array.n; ++i) {
            set_at(rounded, 0, value_at(wide[k].array, i));
            wrong += value_at(rounded, 0) != value_at(narrow[k].array, i);
          }
        CHECK(wrong == 0);
      }
    }
}

TEST_CASE("cuda matmul: transposes, batches, bias, activation, edges of tiles, chunks and single elements") {
  for (auto [M, N, K] : {std::array<int64_t, 3>{1, 1, 1},
                         {5, 70, 33},
                         {64, 64, 16},
                         {136, 8, 40},
                         {130, 3, 17},
                         {3, 4, 0},
                         {16, 8, 520}})
    for (int bits = 0; bits < 16; ++bits)
      for (DType t : {DType::float32, DType::bfloat16, DType::float16, DType::float64}) {
        MatmulParams p;
        p.M = M, p.N = N, p.K = K, p.trans_a = bits & 1, p.trans_b = bits >> 1 & 1, p.has_bias = bits >> 2 & 1;
        p.batch = bits >> 3 ? 3 : 1, p.b_batched = !p.has_bias;
        if (p.has_bias) p.act.act = Act::gelu;
        std::vector<Shaped> in{tensor({p.batch, M, K}, 1, t), tensor({p.b_batched ? p.batch : 1, K, N}, 2, t)};
        if (p.has_bias) in.push_back(tensor({N}, 3, t));
        const bool tensor_cores = dtype_size(t) == 2 && !(p.trans_a && p.trans_b);
        CHECK(check_cuda(FASTCNN_CUDA_OP(matmul), &p, in, {{{p.batch, M, N}, t}}, 4e-6) ==
              (tensor_cores ? 2 + ((p.trans_a ? M : K) % 8 == 0 && (p.trans_b ? K : N) % 8 == 0) : 1));
      }
}

TEST_CASE("cuda matmul of more than a thousand matrices") {
  for (DType t : {DType::float32, DType::bfloat16}) {
    MatmulParams p;
    p.batch = 1100, p.M = 2, p.N = 8, p.K = 8, p.b_batched = 0;
    CHECK(check_cuda(FASTCNN_CUDA_OP(matmul), &p, {tensor({1100, 2, 8}, 1, t), tensor({1, 8, 8}, 2, t)},
                     {{{1100, 2, 8}, t}}, 4e-6) == (t == DType::float32 ? 1 : 3));
  }
  CHECK(cuda::too_large({2, 2, 2, 65535}) == nullptr);
  CHECK(cuda::too_large({2, 2, 2, 65536}) != nullptr);
  // Grids hold products times parts of the depth.
  for (int64_t problems : {100, 133, 1023, 65535})
    for (int64_t size : {1, 64, 1000}) {
      const cuda::Sizes sizes{size, size, 100000, problems};
      CHECK(problems * cuda::simt_splits(sizes) <= 65535);
      CHECK(problems * cuda::mma_plan(sizes, true, true, 32).splits <= 65535);
      CHECK(problems * cuda::line_plan(sizes, true).splits <= 65535);
    }
}

namespace {

// All (a, c, b) offsets that the loader lets meet, over the problems of a launch; each must be met once.
template <class Load, class T>
std::set<std::array<int64_t, 3>> walk(const Load& load, const T* a, const T* b, int32_t problems) {
  std::set<std::array<int64_t, 3>> met;
  std::set<int64_t> rows;
  int64_t again = 0;
  for (int32_t z = 0; z < problems; ++z) {
    const auto q = load.problem(z);
    for (int32_t m = 0; m < q.M; ++m) {
      again += !rows.insert(load.out_row(q, m)).second;
      for (int32_t k = 0; k < q.K; ++k) {
        const T* pa = load.a_at(q, load.a_fixed(q, m), k);
        for (int32_t n = 0; n < q.N; ++n) {
          const T* pb = load.b_at(q, load.b_fixed(q, n), k);
          if (pa && pb) again += !met.insert({pa - a, load.out_row(q, m) + n, pb - b}).second;
        }
      }
    }
  }
  CHECK(again == 0);
  return met;
}

// What the copy engine gives as row i of a box of pixels, channel c of it: an offset in (N,H,W,C), -1: zero.
int64_t pixel(const cuda::PixelBox& b, const cuda::Window& w, int64_t i, int64_t c, const int64_t (&shape)[4]) {
  const auto [N, H, W, C] = shape;
  if ((b.h - w.top) % w.stride_h || (b.w - w.left) % w.stride_w || b.right < 0 || b.down < 0)
    throw std::logic_error("a box that begins off the window's pixels");
  const int64_t at =
      (int64_t{b.n} * w.rows + (b.h - w.top) / w.stride_h) * w.columns + (b.w - w.left) / w.stride_w + i;
  const int64_t n = at / w.columns / w.rows, h = w.top + at / w.columns % w.rows * w.stride_h + b.down,
                v = w.left + at % w.columns * w.stride_w + b.right;
  if (n >= N || h < 0 || h >= H || v < 0 || v >= W || b.c + c >= C) return -1;
  return ((n * H + h) * W + v) * C + b.c + c;
}

// walk() by the boxes that Feed names, tiles of 8 rows (of a product along the depth) or 64, and 64 columns.
template <class Load>
std::set<std::array<int64_t, 3>> walk_boxes(const Load& load, const Conv2dParams& p, int32_t problems) {
  using F = cuda::Feed<Load>;
  std::set<std::array<int64_t, 3>> met;
  int64_t again = 0;
  const int64_t x[4] = {p.N, p.H, p.W, p.C}, y[4] = {p.N, p.oH, p.oW, p.O}, taps = p.kH * p.kW;
  constexpr int tile = Load::a_along_k ? 8 : 64, depth = cuda::kBoxDepth;
  for (int32_t z = 0; z < problems; ++z) {
    const auto q = load.problem(z);
    const cuda::Window w = F::window(load, z);
    for (int32_t m0 = 0; m0 < q.M; m0 += tile)
      for (int32_t n0 = 0; n0 < q.N; n0 += 64)
        for (int32_t step = 0; step < F::steps(load, q); ++step)
          for (int k = 0; k < depth; ++k)
            for (int i = 0; i < tile && m0 + i < q.M; ++i)
              for (int j = 0; j < 64 && n0 + j < q.N; ++j) {
                int64_t a, b = -1;
                if constexpr (Load::a_along_k) {
                  a = pixel(F::a(load, q, m0, step), w, i, k, Load::b_along_k ? x : y);
                  const cuda::WeightBox box = F::b(load, q, n0, step);
                  const int64_t o = box.o + (Load::b_along_k ? j : k), c = box.c + (Load::b_along_k ? k : j);
                  if (o < p.O && c < p.C) b = (o * taps + box.tap) * p.C + c;
                } else {
                  const int64_t pixel_of_y = int64_t{step} * depth + k;
                  a = pixel_of_y < p.N * p.oH * p.oW ? pixel_of_y * p.O + m0 + i : -1;
                  b = pixel(F::b(load, q, n0, step), w, k, j, x);
                }
                if (a >= 0 && b >= 0) again += !met.insert({a, load.out_row(q, m0 + i) + n0 + j, b}).second;
              }
  }
  CHECK(again == 0);
  return met;
}

}  // namespace

TEST_CASE(
    "cuda implicit GEMM: every index of small problems is what plain loops visit, in all three passes, by elements"
    " and by the boxes of the copy engine") {
  std::vector<Conv2dParams> all = problems();
  all.push_back(conv(2, 64, 3, 3, 2, 3, 1, 1, 1, 1));
  all.push_back(conv(1, 70, 4, 5, 3, 2, 2, 0, 1, 1));  // more channels than a box holds
  for (const Conv2dParams& p : all) {
    if (p.O * p.C > 600) continue;  // the sets grow with both
    const int64_t Cg = p.C / p.groups, Og = p.O / p.groups;
    const std::vector<float> x(static_cast<size_t>(p.N * p.H * p.W * p.C)),
        w(static_cast<size_t>(p.O * p.kH * p.kW * Cg)), y(static_cast<size_t>(p.N * p.oH * p.oW * p.O));
    const cuda::ConvSizes s(p);
    std::set<std::array<int64_t, 3>> forward, data, weights;
    for (int64_t n = 0; n < p.N; ++n)
      for (int64_t oh = 0; oh < p.oH; ++oh)
        for (int64_t ow = 0; ow < p.oW; ++ow)
          for (int64_t kh = 0; kh < p.kH; ++kh)
            for (int64_t kw = 0; kw < p.kW; ++kw) {
              const int64_t h = oh * p.sH - p.pT + kh * p.dH, v = ow * p.sW - p.pL + kw * p.dW;
              if (h < 0 || h >= p.H || v < 0 || v >= p.W) continue;
              for (int64_t o = 0; o < p.O; ++o)
                for (int64_t c = 0; c < Cg; ++c) {
                  const int64_t at_x = ((n * p.H + h) * p.W + v) * p.C + o / Og * Cg + c;
                  const int64_t at_y = ((n * p.oH + oh) * p.oW + ow) * p.O + o;
                  const int64_t at_w = ((o * p.kH + kh) * p.kW + kw) * Cg + c;
                  forward.insert({at_x, at_y, at_w}), data.insert({at_y, at_x, at_w});
                  weights.insert({at_y, at_w, at_x});
                }
            }
    const auto groups = static_cast<int32_t>(p.groups), parities = static_cast<int32_t>(p.sH * p.sW);
    CHECK(walk(cuda::ConvForward<float>{s, x.data(), w.data()}, x.data(), w.data(), groups) == forward);
    CHECK(walk(cuda::ConvBwdData<float>{s, y.data(), w.data()}, y.data(), w.data(), groups * parities) == data);
    CHECK(walk(cuda::ConvBwdWeights<float>{s, x.data(), y.data()}, y.data(), x.data(), groups) == weights);
    if (p.groups > 1 || parities > 4) continue;
    CHECK(walk_boxes(cuda::ConvForward<float>{s, x.data(), w.data()}, p, 1) == forward);
    CHECK(walk_boxes(cuda::ConvBwdData<float>{s, y.data(), w.data()}, p, parities) == data);
    if (p.C % 64 == 0 || p.kH * p.kW == 1)
      CHECK(walk_boxes(cuda::ConvBwdWeights<float>{s, x.data(), y.data()}, p, 1) == weights);
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

TEST_CASE("cuda TF32: products and convolutions of float32 on tensor cores, where it is allowed") {
  struct Restore {
    ~Restore() { set_float32_matmul_precision("highest"); }
  } restore;
  set_float32_matmul_precision("high");
  constexpr double kTf32 = 2e-3;  // of the largest result: operands have 10 bits
  const DType t = DType::float32;
  for (const Conv2dParams& base : {conv(2, 16, 13, 13, 144, 1, 1, 0, 1, 1), conv(2, 20, 12, 13, 36, 3, 1, 1, 1, 1),
                                   conv(1, 3, 9, 8, 10, 3, 2, 1, 1, 1), conv(1, 32, 9, 8, 48, 3, 2, 1, 1, 2)}) {
    Conv2dParams p = base;
    p.has_bias = p.has_residual = 1, p.act.act = Act::silu;
    const std::vector<int64_t> x{p.N, p.C, p.H, p.W}, y{p.N, p.O, p.oH, p.oW}, w{p.O, p.C / p.groups, p.kH, p.kW};
    CHECK(check_cuda(FASTCNN_CUDA_OP(conv2d), &p,
                     {tensor(x, 1, t), tensor(w, 2, t), tensor({p.O}, 3, t), tensor(y, 4, t)}, {{y, t}},
                     kTf32) == 2);
    p = base;
    CHECK(check_cuda(FASTCNN_CUDA_OP(conv2d_bwd_data), &p, {tensor(y, 5, t), tensor(w, 2, t)}, {{x, t}}, kTf32) ==
          2);
    CHECK(check_cuda(FASTCNN_CUDA_OP(conv2d_bwd_weights), &p, {tensor(x, 1, t), tensor(y, 5, t)}, {{w, t}},
                     kTf32) == 2);
  }
  for (int bits = 0; bits < 3; ++bits) {
    MatmulParams p;
    p.batch = 2, p.M = 72, p.N = 68, p.K = 200, p.trans_a = bits & 1, p.trans_b = bits >> 1;
    const Shaped a = tensor(p.trans_a ? std::vector<int64_t>{2, 200, 72} : std::vector<int64_t>{2, 72, 200}, 1),
                 b = tensor(p.trans_b ? std::vector<int64_t>{2, 68, 200} : std::vector<int64_t>{2, 200, 68}, 2);
    CHECK(check_cuda(FASTCNN_CUDA_OP(matmul), &p, {a, b}, {{{2, 72, 68}, t}}, kTf32) == 2);
  }
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
    CHECK(check_cuda(FASTCNN_CUDA_OP(strided_scatter), &s, {tensor({3, 7}, 4, t, whole)}, {{{6, 10}, t}}) == 2);
    if (t == DType::bool_) continue;
    s.offset = 0, s.strides[0] = 0, s.accumulate = 1;
    CHECK(check_cuda(FASTCNN_CUDA_OP(strided_scatter), &s, {tensor({3, 7}, 5, t, whole)}, {{{10}, t}}) == 2);
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
