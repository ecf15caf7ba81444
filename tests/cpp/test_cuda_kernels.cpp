// The CUDA kernels on the executor against the CPU's references: elementwise, reductions, softmax, losses, norms,
// pooling, random numbers, optimizers. Convolutions and index ops: test_cuda_gemm.cpp. What no GPU has run is
// listed in docs/gpu.md.
#include <array>

#include "cuda_check.h"

using namespace fastcnn;
using namespace fastcnn::test;

namespace {

constexpr DType kFloats[] = {DType::float32, DType::bfloat16, DType::float16, DType::float64};
DType stat(DType t) { return t == DType::float64 ? t : DType::float32; }

}  // namespace

TEST_CASE(
    "cuda executor: a barrier that some threads do not reach is an error, as is writing past shared memory") {
  using cuda::host::launch;
  CHECK_THROWS_WITH_AS(launch("bad", dim3(1), dim3(64), 0,
                              [] {
                                if (threadIdx.x < 32) __syncthreads();
                              }),
                       doctest::Contains("threads wait"), std::logic_error);
  CHECK_THROWS_WITH_AS(launch("bad", dim3(1), dim3(32), 64,
                              [] {
                                auto* p = static_cast<char*>(cuda::host::shared_memory());
                                if (threadIdx.x == 3) p[64] = 0;
                              }),
                       doctest::Contains("wrote past"), std::logic_error);
  CHECK_THROWS_AS(launch("bad", dim3(1), dim3(2048), 0, [] {}), std::logic_error);
}

TEST_CASE("cuda executor: a missing barrier shows as a result that depends on the order of threads") {
  float results[2] = {};
  for (bool descending : {false, true}) {
    float out = 0;
    cuda::host::run_descending(descending);
    cuda::host::launch("race", dim3(1), dim3(64), 64 * sizeof(float), [&] {
      auto* s = static_cast<float*>(cuda::host::shared_memory());
      s[threadIdx.x] = static_cast<float>(threadIdx.x);
      const float neighbour = s[(threadIdx.x + 1) % 64];  // no __syncthreads in between
      if (threadIdx.x == 5) out = neighbour;
    });
    cuda::host::run_descending(false);
    results[descending] = out;
  }
  CHECK(std::isnan(results[0]));
  CHECK(results[1] == 6.0f);
}

TEST_CASE("cuda unary: every op, dense and strided, every float type, whole numbers") {
  for (int op = 0; op < static_cast<int>(Unary::count); ++op) {
    UnaryParams p;
    p.op = static_cast<Unary>(op), p.alpha = 1.5, p.beta = 0.25;
    if (p.op == Unary::clamp || p.op == Unary::clamp_mask) p.alpha = -0.5, p.beta = 0.75;
    for (DType t : kFloats) {
      Shaped x = tensor({3, 5, 4, 7}, 1, t);
      set_at(x.array, 0, NAN), set_at(x.array, 1, INFINITY), set_at(x.array, 2, -INFINITY), set_at(x.array, 3, 0);
      CHECK(check_cuda(FASTCNN_CUDA_OP(unary), &p, {x}, {{{3, 5, 4, 7}, t}}, 4e-6) == 1);
      Shaped flat = tensor({420}, 1, t);
      CHECK(check_cuda(FASTCNN_CUDA_OP(unary), &p, {flat}, {{{420}, DType::bool_}}) == 1);
      Operand strided = flat.operand();  // every other column, transposed
      strided.ndim = 2, strided.shape[0] = 10, strided.shape[1] = 21, strided.strides[0] = 2,
      strided.strides[1] = 20;
      std::vector<Operand> views{strided};
      CHECK(check_cuda(FASTCNN_CUDA_OP(unary), &p, {flat}, {{{10, 21}, t}}, 4e-6, &views) == 1);
    }
    p.alpha = p.op == Unary::clamp ? -1 : 2, p.beta = p.op == Unary::clamp ? 3 : 1;
    for (DType t : {DType::int64, DType::int32, DType::uint8, DType::int8, DType::bool_}) {
      Shaped x = tensor({77}, 2, t, 5);
      for (DType y : {DType::int64, DType::float32, DType::uint8})
        CHECK(check_cuda(FASTCNN_CUDA_OP(unary), &p, {x}, {{{77}, y}}, 4e-6) == 1);
    }
  }
}

TEST_CASE("cuda casts: every pair of dtypes, out of range and NaN included") {
  const UnaryParams p;
  for (int from = 0; from < kDTypeCount; ++from)
    for (int to = 0; to < kDTypeCount; ++to) {
      const auto f = static_cast<DType>(from), t = static_cast<DType>(to);
      Shaped x = tensor({70}, 3, f, is_floating(f) ? 0 : 200, 300);
      if (is_floating(f))
        for (auto [i, v] : {std::pair<int, double>{0, NAN}, {1, 1e30}, {2, -1e30}, {3, INFINITY}})
          set_at(x.array, i, v);
      CHECK(check_cuda(FASTCNN_CUDA_OP(unary), &p, {x}, {{{70}, t}}) == 1);
    }
}

TEST_CASE("cuda casts, arithmetic and activations in packs: one, many and several per thread, unaligned ends") {
  constexpr DType half[] = {DType::float32, DType::bfloat16, DType::float16};
  for (int64_t n : {3, 4096, 4099})
    for (DType from : half)
      for (DType to : half) {
        const UnaryParams p;
        const Shaped x = tensor({n}, 1, from, 0, 2);
        set_at(x.array, 0, NAN), set_at(x.array, 1, INFINITY), set_at(x.array, 2, -1e30);
        CHECK(check_cuda(FASTCNN_CUDA_OP(unary), &p, {x}, {{{n}, to}}) == 1);
      }
  // More packs than a device has threads, so that each takes several.
  const int64_t n = 132 * 2048 * 8 + 3 * 2048 * 8 + 5;
  const DType t = DType::bfloat16;
  const Shaped a = tensor({n}, 1, t), b = tensor({n}, 2, t);
  const BinaryParams add{Binary::add};
  const UnaryParams cast;
  CHECK(check_cuda(FASTCNN_CUDA_OP(binary), &add, {a, b}, {{{n}, t}}) == 1);
  CHECK(check_cuda(FASTCNN_CUDA_OP(unary), &cast, {a}, {{{n}, DType::float32}}) == 1);
}

TEST_CASE("cuda pad, strided_scatter and cat of channels: packs of 16, 8 and fewer bytes") {
  for (DType t : {DType::float32, DType::bfloat16, DType::float64, DType::uint8})
    for (int64_t C : {16, 12, 6, 5}) {
      const double whole = is_floating(t) ? 0 : 9;
      const Shaped x = tensor({2, C, 4, 3}, 1, t, whole);
      PadParams p;  // a shortcut between widths, and rows around it
      p.before[1] = C / 2, p.after[1] = C / 2, p.value = 3;
      p.before[2] = 1;
      const std::vector<int64_t> y{2, C + C / 2 * 2, 5, 3};
      CHECK(check_cuda(FASTCNN_CUDA_OP(pad), &p, {x}, {{y, t}}) == 1);
      if (is_floating(t)) CHECK(check_cuda(FASTCNN_CUDA_OP(pad_bwd), &p, {tensor(y, 2, t)}, {{x.shape, t}}) == 1);
      PadParams rows;
      rows.mode = PadMode::reflect, rows.before[2] = 2, rows.after[3] = 1;
      CHECK(check_cuda(FASTCNN_CUDA_OP(pad), &rows, {x}, {{{2, C, 6, 4}, t}}) == 1);
      ScatterParams s;  // every other pixel, rows from below where they go backwards
      for (bool backwards : {false, true}) {
        const int64_t row = 6 * C * 2;
        s.strides[0] = 8 * 6 * C, s.strides[1] = 1, s.strides[2] = backwards ? -row : row, s.strides[3] = 2 * C;
        s.offset = backwards ? 3 * row : 0;
        CHECK(check_cuda(FASTCNN_CUDA_OP(strided_scatter), &s, {x}, {{{2, C, 8, 6}, t}}) == 2);
      }
      CatParams cat;
      cat.dim = 1;
      CHECK(check_cuda(FASTCNN_CUDA_OP(cat), &cat, {x, tensor({2, 8, 4, 3}, 2, t, whole)},
                       {{{2, C + 8, 4, 3}, t}}) == 1);
    }
}

TEST_CASE("cuda binary, where: every op, broadcast and dense, floats and whole numbers") {
  for (int op = 0; op < static_cast<int>(Binary::count); ++op) {
    BinaryParams p;
    p.op = static_cast<Binary>(op);
    const bool compares = p.op >= Binary::eq;
    for (DType t : {DType::float32, DType::bfloat16, DType::float16, DType::float64, DType::int64, DType::int32}) {
      const bool whole = !is_floating(t);
      Shaped a = tensor({2, 6, 3, 5}, 4, t, whole ? 9 : 0),
             b = tensor({2, 6, 3, 5}, 5, t, whole ? 9 : 0, 1, whole);
      const DType y = compares ? DType::bool_ : t;
      CHECK(check_cuda(FASTCNN_CUDA_OP(binary), &p, {a, b}, {{{2, 6, 3, 5}, y}}, 4e-6) == 1);
      Operand channel = b.operand();  // (6) against channels
      channel.strides[0] = channel.strides[2] = channel.strides[3] = 0;
      std::vector<Operand> views{a.operand(), channel};
      CHECK(check_cuda(FASTCNN_CUDA_OP(binary), &p, {a, b}, {{{2, 6, 3, 5}, y}}, 4e-6, &views) == 1);
    }
  }
  const FillParams none;
  for (DType t : {DType::float32, DType::bfloat16, DType::int64, DType::uint8}) {
    Shaped a = tensor({4, 9}, 6, t, is_floating(t) ? 0 : 9), b = tensor({4, 9}, 7, t, is_floating(t) ? 0 : 9);
    CHECK(check_cuda(FASTCNN_CUDA_OP(where), &none, {tensor({4, 9}, 8, DType::bool_, 2), a, b}, {{{4, 9}, t}}) ==
          1);
  }
  for (int t = 0; t < kDTypeCount; ++t) {
    FillParams f;
    f.value = 3, f.arange = t % 2, f.step = 2;
    CHECK(check_cuda(FASTCNN_CUDA_OP(fill), &f, {}, {{{45}, static_cast<DType>(t)}}) == 1);
  }
}

TEST_CASE("cuda binary: whole numbers divided by zero are an error at the next wait") {
  BinaryParams p;
  p.op = Binary::floor_div;
  Shaped a = tensor({5}, 1, DType::int64, 9), b = tensor({5}, 1, DType::int64, 1),
         y = tensor({5}, 1, DType::int64, 1);
  std::vector<Operand> in{a.operand(), b.operand()}, out{y.operand()};
  Call c;
  c.kind = OpKind::binary, c.params = &p, c.in = in, c.out = out;
  cuda::binary_list()[0].run(c);
  CHECK_THROWS_WITH_AS(cuda::throw_device_faults(), "binary: integer division by zero", std::domain_error);
  cuda::throw_device_faults();  // once
}

TEST_CASE("cuda activations: every one, forward, backward and twice, every float type") {
  for (int a = 0; a < static_cast<int>(Act::count); ++a) {
    ActParams p;
    p.act = static_cast<Act>(a), p.alpha = 0.7, p.beta = 1.3;
    if (p.act == Act::softplus) p.alpha = 1.5, p.beta = 20;
    for (DType t : kFloats) {
      const Shaped x = tensor({3, 67}, 1, t, 0, 2), g = tensor({3, 67}, 2, t), h = tensor({3, 67}, 3, t);
      const double tolerance = 6e-6;
      CHECK(check_cuda(FASTCNN_CUDA_OP(activation), &p, {x}, {{{3, 67}, t}}, tolerance) == 1);
      CHECK(check_cuda(FASTCNN_CUDA_OP(activation_bwd), &p, {g, x}, {{{3, 67}, t}}, tolerance) == 1);
      CHECK(check_cuda(FASTCNN_CUDA_OP(activation_bwd2), &p, {h, g, x}, {{{3, 67}, t}}, tolerance) == 1);
    }
  }
}

TEST_CASE("cuda reduce: every op over rows, columns, slices and all") {
  struct S {
    std::vector<int64_t> shape;
    uint32_t dims;
  };
  for (const S& s : {S{{7, 33}, 1}, S{{7, 33}, 2}, S{{700, 40}, 1}, S{{2, 3000}, 2}, S{{4, 6, 5, 3}, 0b1101},
                     S{{4, 6, 5, 3}, 0b0010}, S{{4, 6, 5, 3}, 0b1111}, S{{3, 1, 4, 1}, 0b0110}, S{{5, 0}, 2}})
    for (int op = 0; op < static_cast<int>(Reduce::count); ++op) {
      ReduceParams p;
      p.op = static_cast<Reduce>(op), p.dims = s.dims;
      const bool arg = p.op == Reduce::argmax || p.op == Reduce::argmin;
      const bool extreme = arg || p.op == Reduce::max || p.op == Reduce::min;
      if ((arg && (s.dims & (s.dims - 1))) || (extreme && count_of(s.shape) == 0)) continue;
      std::vector<int64_t> out = s.shape;
      for (size_t d = 0; d < out.size(); ++d)
        if (s.dims >> d & 1) out[d] = 1;
      for (DType t : {DType::float32, DType::bfloat16, DType::float64, DType::int64, DType::bool_}) {
        if (p.op == Reduce::mean && !is_floating(t)) continue;
        const Shaped x = tensor(s.shape, 9, t, is_floating(t) ? (arg ? 7 : 0) : 2, p.op == Reduce::prod ? 0.3 : 1,
                                p.op == Reduce::prod && is_floating(t) ? 1 : 0);
        const DType y = arg ? DType::int64 : p.op == Reduce::any || p.op == Reduce::all ? DType::bool_ : t;
        CHECK(check_cuda(FASTCNN_CUDA_OP(reduce), &p, {x}, {{out, y}}, 1e-5) == 1);
      }
    }
  ReduceParams p;  // NaN wins, and argmax tells where the first stands
  for (Reduce op : {Reduce::max, Reduce::argmax, Reduce::min, Reduce::argmin}) {
    Shaped x = tensor({3, 900}, 1);
    set_at(x.array, 900 + 700, NAN), set_at(x.array, 900 + 300, NAN);
    p.op = op, p.dims = 2;
    const bool arg = op == Reduce::argmax || op == Reduce::argmin;
    CHECK(check_cuda(FASTCNN_CUDA_OP(reduce), &p, {x}, {{{3, 1}, arg ? DType::int64 : DType::float32}}) == 1);
  }
}

TEST_CASE("cuda softmax and log_softmax along any dim, infinite and NaN rows") {
  for (auto [outer, dim, inner] :
       {std::array<int64_t, 3>{7, 10, 1}, {3, 1, 1}, {2, 1000, 1}, {2, 5, 3}, {1, 70, 9}})
    for (DType t : kFloats) {
      const SoftmaxParams p{outer, dim, inner};
      const std::vector<int64_t> shape{outer, dim, inner};
      Shaped x = tensor(shape, 1, t, 0, 3);
      if (outer == 7) set_at(x.array, 0, NAN), set_at(x.array, 10, INFINITY), set_at(x.array, 20, -INFINITY);
      const Shaped y = tensor(shape, 2, t, 0, 0.1, 0.2), g = tensor(shape, 3, t);
      CHECK(check_cuda(FASTCNN_CUDA_OP(softmax), &p, {x}, {{shape, t}}, 4e-6) == 1);
      CHECK(check_cuda(FASTCNN_CUDA_OP(log_softmax), &p, {x}, {{shape, t}}, 4e-6) == 1);
      CHECK(check_cuda(FASTCNN_CUDA_OP(softmax_bwd), &p, {g, y}, {{shape, t}}, 4e-6) == 1);
      CHECK(check_cuda(FASTCNN_CUDA_OP(log_softmax_bwd), &p, {g, y}, {{shape, t}}, 4e-6) == 1);
    }
}

TEST_CASE("cuda cross_entropy: weights, smoothing, ignore_index, reductions, a bad class id") {
  for (auto [rows, C] : {std::pair<int64_t, int64_t>{64, 10}, {9, 1000}, {300, 3}})
    for (int weighted : {0, 1})
      for (double smooth : {0.0, 0.1})
        for (Reduction red : {Reduction::none, Reduction::mean, Reduction::sum}) {
          CrossEntropyParams p;
          p.rows = rows, p.C = C, p.has_weight = weighted, p.label_smoothing = smooth, p.reduction = red;
          Shaped ids = tensor({rows}, 3, DType::int64, static_cast<double>(C));
          set_at(ids.array, 4, -100);
          std::vector<Shaped> in{tensor({rows, C}, 1, DType::float32, 0, 3), ids};
          if (weighted) in.push_back(tensor({C}, 2, DType::float32, 3, 1, 0.5));
          const int64_t losses = red == Reduction::none ? rows : 1;
          const DType f = DType::float32;
          CHECK(check_cuda(FASTCNN_CUDA_OP(cross_entropy), &p, in, {{{losses}, f}, {{rows}, f}, {{1}, f}}) == 1);
          std::vector<Shaped> bwd{tensor({losses}, 5), in[0], in[1], tensor({rows}, 6, f, 0, 0.1, 5),
                                  tensor({1}, 7, f, 0, 0, 40)};
          if (weighted) bwd.push_back(in[2]);
          CHECK(check_cuda(FASTCNN_CUDA_OP(cross_entropy_bwd), &p, bwd, {{{rows, C}, f}}, 4e-6) == 1);
        }
  CrossEntropyParams p;
  p.rows = 5, p.C = 4;
  Shaped x = tensor({5, 4}, 1), ids = tensor({5}, 1, DType::int64, 4), loss = tensor({1}, 1), lse = tensor({5}, 1),
         sum = tensor({1}, 1);
  set_at(ids.array, 3, 7);
  std::vector<Operand> in{x.operand(), ids.operand()}, out{loss.operand(), lse.operand(), sum.operand()};
  Call c;
  c.kind = OpKind::cross_entropy, c.params = &p, c.in = in, c.out = out;
  Buffer workspace(cuda::cross_entropy_list()[0].workspace(c));
  c.workspace = workspace.data();
  cuda::cross_entropy_list()[0].run(c);
  CHECK_THROWS_WITH_AS(cuda::throw_device_faults(),
                       "cross_entropy: expected class ids in [0, 4) or ignore_index, got 7 at position 3",
                       std::out_of_range);
}

TEST_CASE("cuda pointwise losses: every loss and reduction, a NaN target") {
  for (int l = 0; l < 5; ++l)
    for (Reduction red : {Reduction::none, Reduction::mean, Reduction::sum})
      for (DType t : kFloats) {
        PointwiseLossParams p;
        p.count = 5000, p.beta = 0.7, p.loss = static_cast<PointLoss>(l), p.reduction = red;
        const Shaped x = tensor({5000}, 1, t), y = tensor({5000}, 2, t, 0, 0.2, 0.5);
        const int64_t losses = red == Reduction::none ? 5000 : 1;
        CHECK(check_cuda(FASTCNN_CUDA_OP(pointwise_loss), &p, {x, y}, {{{losses}, t}}) == 1);
        CHECK(check_cuda(FASTCNN_CUDA_OP(pointwise_loss_bwd), &p, {tensor({losses}, 3, t), x, y}, {{{5000}, t}}) ==
              1);
      }
  const CheckTargetParams none;
  Shaped t = tensor({33}, 1), y = tensor({33}, 1);
  CHECK(check_cuda(FASTCNN_CUDA_OP(check_target), &none, {t}, {{{33}, DType::float32}}) == 1);
  set_at(t.array, 8, NAN);
  std::vector<Operand> in{t.operand()}, out{y.operand()};
  Call c;
  c.kind = OpKind::check_target, c.params = &none, c.in = in, c.out = out;
  cuda::check_target_list()[0].run(c);
  CHECK_THROWS_WITH_AS(cuda::throw_device_faults(),
                       "check_target: expected a target without NaN, got NaN at element 8", std::invalid_argument);
}

TEST_CASE("cuda batch_norm: training, inference, backward, residual, activation, one or many slices") {
  for (auto [rows, C] : {std::pair<int64_t, int64_t>{50, 7}, {900, 64}, {3, 130}})
    for (DType t : kFloats)
      for (Act act : {Act::none, Act::relu, Act::silu})
        for (int residual : {0, 1}) {
          BatchNormParams p;
          p.rows = rows, p.C = C, p.has_residual = residual, p.act.act = act;
          const DType s = stat(t);
          const Shaped x = tensor({rows, C}, 1, t, 0, 2, 3), r = tensor({rows, C}, 2, t);
          const Shaped gamma = tensor({C}, 3, s, 0, 0.3, 1), beta = tensor({C}, 4, s),
                       mean = tensor({C}, 5, s, 0, 1, 3);
          const Shaped var = tensor({C}, 6, s, 3, 1, 1);
          std::vector<Shaped> in{x, gamma, beta}, infer{x, gamma, beta, mean, var};
          if (residual) in.push_back(r), infer.push_back(r);
          const std::vector<int64_t> map{rows, C};
          CHECK(check_cuda(FASTCNN_CUDA_OP(batch_norm), &p, in, {{map, t}, {{C}, s}, {{C}, s}}, 1e-5) == 1);
          CHECK(check_cuda(FASTCNN_CUDA_OP(batch_norm_infer), &p, infer, {{map, t}}, 4e-6) == 1);
          for (int affine : {0, 1})
            for (int dy2 : {0, 1}) {
              BatchNormParams q = p;
              q.has_affine = affine, q.has_dy2 = dy2;
              if (residual && affine) continue;           // the residual hides what the affine map makes
              if (act == Act::silu && !affine) continue;  // it goes by its input
              std::vector<Shaped> bwd{tensor({rows, C}, 8, t), x, gamma, mean, var};
              if (act != Act::none) bwd.push_back(affine ? tensor({2, C}, 9, s) : r);
              if (dy2) bwd.push_back(tensor({rows, C}, 10, t));
              std::vector<std::pair<std::vector<int64_t>, DType>> outs{{map, t}, {{C}, s}, {{C}, s}};
              if (residual) outs.push_back({map, t});
              // A residual's gradient is stored, rounded, and read again for dx.
              CHECK(check_cuda(FASTCNN_CUDA_OP(batch_norm_bwd), &q, bwd, outs,
                               residual && dtype_size(t) == 2 ? 2e-3 : 2e-5) == 1);
            }
        }
  BatchNormParams p;
  p.rows = 40, p.C = 5, p.has_affine = 1;
  const DType f = DType::float32;
  CHECK(check_cuda(FASTCNN_CUDA_OP(batch_norm), &p,
                   {tensor({40, 5}, 1, f, 0, 1, 1000), tensor({5}, 2), tensor({5}, 3)},
                   {{{40, 5}, f}, {{5}, f}, {{5}, f}, {{2, 5}, f}}, 2e-4) == 1);
  for (double momentum : {0.1, -1.0}) {
    BnUpdateParams u;
    u.rows = 40, u.C = 5, u.momentum = momentum;
    CHECK(check_cuda(FASTCNN_CUDA_OP(bn_update_running), &u,
                     {tensor({5}, 1), tensor({5}, 2, f, 3, 1, 1), tensor({5}, 3), tensor({5}, 4, f, 3, 1, 1),
                      tensor({1}, 5, DType::int64, 3, 1, 2)},
                     {{{5}, f}, {{5}, f}}) == 1);
  }
}

TEST_CASE("cuda fold_batch_norm: rows and columns of channels, with and without a bias") {
  for (DType t : {DType::float32, DType::float64, DType::bfloat16})
    for (bool bias : {false, true})
      for (bool columns : {false, true}) {
        FoldParams p;
        p.C = 6, p.has_bias = bias, p.block = columns ? 7 * 6 : 7;
        if (columns) p.inner = 6, p.step = 1;
        std::vector<Shaped> in{tensor(columns ? std::vector<int64_t>{7, 6} : std::vector<int64_t>{6, 7}, 1, t)};
        for (uint32_t k = 2; k < 6; ++k) in.push_back(tensor({6}, k, t, k == 5 ? 3 : 0, 1, 1));
        if (bias) in.push_back(tensor({6}, 7, t));
        CHECK(check_cuda(FASTCNN_CUDA_OP(fold_batch_norm), &p, in, {{in[0].shape, t}, {{6}, t}}, 4e-6) == 1);
      }
}

TEST_CASE("cuda interpolate and its gradient: every mode, up and down, corners, antialias, pictures") {
  for (Interp mode : {Interp::nearest, Interp::nearest_exact, Interp::bilinear, Interp::bicubic})
    for (int corners : {0, 1})
      for (int antialias : {0, 1}) {
        const bool smooth = mode == Interp::bilinear || mode == Interp::bicubic;
        if ((corners || antialias) && !smooth) continue;
        for (auto [oh, ow] : {std::pair<int64_t, int64_t>{14, 5}, {3, 12}, {7, 6}, {1, 1}})
          for (DType t :
               {DType::float32, DType::bfloat16, DType::float16, DType::float64, DType::uint8, DType::int8}) {
            InterpolateParams p;
            p.N = 2, p.C = 3, p.H = 7, p.W = 6, p.oH = oh, p.oW = ow, p.mode = mode;
            p.align_corners = corners, p.antialias = antialias;
            if (oh == 14) p.scale_h = 2.05;
            const std::vector<int64_t> x{2, 3, 7, 6}, y{2, 3, oh, ow};
            CHECK(check_cuda(FASTCNN_CUDA_OP(interpolate), &p, {tensor(x, 1, t, is_floating(t) ? 0 : 120)},
                             {{y, t}}, 4e-6) == 1);
            if (is_floating(t))
              CHECK(check_cuda(FASTCNN_CUDA_OP(interpolate_bwd), &p, {tensor(y, 2, t)}, {{x, t}}, 4e-6) == 1);
          }
      }
}

TEST_CASE("cuda layer_norm and group_norm, forward and backward") {
  for (DType t : kFloats)
    for (int affine : {0, 1}) {
      const DType s = stat(t);
      for (auto [outer, inner] : {std::pair<int64_t, int64_t>{9, 40}, {200, 5}, {2, 1500}}) {
        NormParams p;
        p.outer = outer, p.inner = inner, p.affine = affine;
        const Shaped x = tensor({outer, inner}, 1, t, 0, 2, 1), g = tensor({inner}, 2, s),
                     b = tensor({inner}, 3, s);
        std::vector<Shaped> in{x}, bwd{tensor({outer, inner}, 4, t), x};
        if (affine) in.insert(in.end(), {g, b}), bwd.push_back(g);
        bwd.push_back(tensor({outer}, 5, s)), bwd.push_back(tensor({outer}, 6, s, 2, 1, 0.5));
        std::vector<std::pair<std::vector<int64_t>, DType>> outs{{{outer, inner}, t}};
        if (affine) outs.insert(outs.end(), {{{inner}, s}, {{inner}, s}});
        CHECK(check_cuda(FASTCNN_CUDA_OP(layer_norm), &p, in, {{{outer, inner}, t}, {{outer}, s}, {{outer}, s}},
                         1e-5) == 1);
        CHECK(check_cuda(FASTCNN_CUDA_OP(layer_norm_bwd), &p, bwd, outs, 1e-5) == 1);
      }
      for (int64_t groups : {1, 3, 6}) {
        NormParams p;
        p.N = 3, p.HW = 35, p.C = 6, p.groups = groups, p.affine = affine;
        const std::vector<int64_t> shape{3, 6, 5, 7}, sets{3, groups};
        const Shaped x = tensor(shape, 1, t, 0, 2, 1), g = tensor({6}, 2, s), b = tensor({6}, 3, s);
        std::vector<Shaped> in{x}, bwd{tensor(shape, 4, t), x};
        if (affine) in.insert(in.end(), {g, b}), bwd.push_back(g);
        bwd.push_back(tensor(sets, 5, s)), bwd.push_back(tensor(sets, 6, s, 2, 1, 0.5));
        std::vector<std::pair<std::vector<int64_t>, DType>> outs{{shape, t}};
        if (affine) outs.insert(outs.end(), {{{6}, s}, {{6}, s}});
        CHECK(check_cuda(FASTCNN_CUDA_OP(group_norm), &p, in, {{shape, t}, {sets, s}, {sets, s}}, 1e-5) == 1);
        CHECK(check_cuda(FASTCNN_CUDA_OP(group_norm_bwd), &p, bwd, outs, 1e-5) == 1);
      }
    }
}

TEST_CASE("cuda pooling: padding, dilation, ceil, overlapping, adaptive, whole image") {
  auto conv = [](int64_t k, int64_t s, int64_t pad, int64_t d, int64_t include) {
    Pool2dParams p;
    p.N = 2, p.C = 5, p.H = 9, p.W = 7, p.kH = p.kW = k, p.sH = p.sW = s, p.dH = p.dW = d,
    p.count_include_pad = include;
    p.pT = p.pB = p.pL = p.pR = pad;
    p.oH = conv_out_size(9, pad, pad, k, s, d), p.oW = conv_out_size(7, pad, pad, k, s, d);
    return p;
  };
  std::vector<Pool2dParams> all{conv(2, 2, 0, 1, 1), conv(3, 2, 1, 1, 1), conv(3, 1, 1, 1, 0),
                                conv(3, 1, 1, 2, 1)};
  for (auto [oh, ow] : {std::pair<int64_t, int64_t>{1, 1}, {3, 2}, {4, 5}}) {
    Pool2dParams p = conv(1, 1, 0, 1, 1);
    p.adaptive = 1, p.oH = oh, p.oW = ow;
    all.push_back(p);
  }
  // 12 channels fill packs of float32, 16 and 72 those of 16 bits too; lopsided padding, windows larger than a
  // tile's covers, windows that a block shares, maps of which a tile has one row.
  const size_t odd_channels = all.size();
  for (int64_t C : {12, 16, 72}) {
    for (size_t k = 0; k < odd_channels; ++k) all.push_back(all[k]), all.back().C = C;
    for (auto [k, s, pad] : {std::array<int64_t, 3>{3, 2, 0}, {2, 2, 1}, {5, 1, 2}, {4, 3, 1}, {7, 1, 0}}) {
      all.push_back(conv(k, s, pad, 1, k % 2)), all.back().C = C;
      Pool2dParams& p = all.back();
      if (k > 4) continue;
      p.pT = 0, p.pR = 0, p.pB = pad;
      p.oH = conv_out_size(9, 0, pad, k, s, 1) + (k == 3), p.oW = conv_out_size(7, pad, 0, k, s, 1);  // ceil_mode
    }
    all.push_back(conv(3, 2, 1, 1, 0)), all.back().C = C, all.back().H = 1, all.back().oH = 1;
  }
  for (const Pool2dParams& p : all)
    for (DType t : kFloats) {
      const int ways = t != DType::float64 && p.C * static_cast<int64_t>(dtype_size(t)) % 16 == 0 ? 2 : 1;
      const std::vector<int64_t> in{p.N, p.C, p.H, p.W}, out{p.N, p.C, p.oH, p.oW};
      Shaped x = tensor(in, 1, t);
      set_at(x.array, 17, NAN);
      for (int64_t i = 0; i < p.H * p.W; ++i) set_at(x.array, i * p.C, -INFINITY);  // the first pixel counts
      CHECK(check_cuda(FASTCNN_CUDA_OP(max_pool2d), &p, {x}, {{out, t}, {out, DType::int32}}) == ways);
      // Indices of a pool that was run, for its gradient.
      Shaped index{Array(count_of(out), DType::int32), out}, y{Array(count_of(out), t), out};
      std::vector<Operand> ins{x.operand()}, outs{y.operand(), index.operand()};
      Call c;
      c.params = &p, c.in = ins, c.out = outs;
      cpu::max_pool2d_list().back().run(c);
      CHECK(check_cuda(FASTCNN_CUDA_OP(max_pool2d_bwd), &p, {tensor(out, 2, t), index}, {{in, t}}) == ways);
      CHECK(check_cuda(FASTCNN_CUDA_OP(max_pool2d_gather), &p, {x, index}, {{out, t}}) == 1);
      if (p.dH > 1) continue;
      CHECK(check_cuda(FASTCNN_CUDA_OP(avg_pool2d), &p, {tensor(in, 3, t)}, {{out, t}}) == ways);
      CHECK(check_cuda(FASTCNN_CUDA_OP(avg_pool2d_bwd), &p, {tensor(out, 4, t)}, {{in, t}}) == ways);
    }
}

TEST_CASE("cuda pooling of memory that is not aligned") {
  Pool2dParams p;
  p.N = 2, p.C = 16, p.H = 4, p.W = 6, p.kH = p.kW = p.sH = p.sW = 2, p.oH = 2, p.oW = 3;
  const std::vector<int64_t> in{2, 16, 4, 6}, out{2, 16, 2, 3};
  for (DType t : {DType::float32, DType::bfloat16, DType::float16}) {
    const Shaped x = tensor({count_of(in) + 1}, 1, t), dy = tensor({count_of(out) + 1}, 2, t);
    auto shifted = [&](const Shaped& s, const std::vector<int64_t>& shape) {
      Operand o = tensor(shape, 1, t).operand();
      o.data = static_cast<char*>(s.operand().data) + dtype_size(t);
      return o;
    };
    const std::vector<Operand> forward{shifted(x, in)}, backward{shifted(dy, out)};
    CHECK(check_cuda(FASTCNN_CUDA_OP(max_pool2d), &p, {}, {{out, t}, {out, DType::int32}}, 2e-6, &forward) == 2);
    CHECK(check_cuda(FASTCNN_CUDA_OP(avg_pool2d), &p, {}, {{out, t}}, 2e-6, &forward) == 2);
    CHECK(check_cuda(FASTCNN_CUDA_OP(avg_pool2d_bwd), &p, {}, {{in, t}}, 2e-6, &backward) == 2);
  }
}

TEST_CASE("cuda random numbers and dropout are the CPU's") {
  Shaped state = tensor({2}, 1, DType::int64, 5);
  set_at(state.array, 0, 1234567), set_at(state.array, 1, 42);
  for (DType t : kFloats) {
    for (Random op : {Random::uniform, Random::normal}) {
      RandomParams p;
      p.op = op, p.low = -1, p.high = 2, p.delta = 3;
      CHECK(check_cuda(FASTCNN_CUDA_OP(random), &p, {state}, {{{4099}, t}}, op == Random::normal ? 1e-6 : 0) == 1);
    }
    for (DropKind kind : {DropKind::element, DropKind::channel, DropKind::sample})
      for (double rate : {0.0, 0.3, 1.0}) {
        DropoutParams p;
        p.p = rate, p.delta = 2, p.kind = kind, p.N = 3, p.C = 5, p.HW = 28;
        const std::vector<int64_t> shape{3, 5, 4, 7};
        CHECK(check_cuda(FASTCNN_CUDA_OP(dropout), &p, {tensor(shape, 1, t), state},
                         {{shape, t}, {{2}, DType::int64}}, 1e-7) == 1);
        CHECK(check_cuda(FASTCNN_CUDA_OP(dropout_bwd), &p, {tensor(shape, 2, t), state}, {{shape, t}}, 1e-7) == 1);
      }
  }
  for (DType t : {DType::int64, DType::int32, DType::uint8, DType::float32}) {
    RandomParams p;
    p.op = Random::integers, p.low = -5, p.high = 100;
    if (t == DType::uint8) p.low = 0;
    CHECK(check_cuda(FASTCNN_CUDA_OP(random), &p, {state}, {{{333}, t}}) == 1);
  }
  RngAdvanceParams a;
  a.count = 7;
  CHECK(check_cuda(FASTCNN_CUDA_OP(rng_advance), &a, {state}, {{{2}, DType::int64}}) == 1);
}

TEST_CASE("cuda optimizers: every option") {
  Shaped hyper = tensor({8}, 1);
  const float h[8] = {0.1f, 0.01f, 0.9f, 0.99f, 1e-8f, 0.19f, 0.02f, 0.01f};
  std::copy(h, h + 8, hyper.array.f());
  const std::vector<int64_t> n{1029};
  for (DType t : kFloats)
    for (int bits = 0; bits < 8; ++bits) {
      const Shaped p = tensor(n, 1, t), g = tensor(n, 2, t), m = tensor(n, 3, t, 0, 0.1),
                   v = tensor(n, 4, t, 3, 1, 1);
      const SgdParams s{bits & 1, (bits & 1) && (bits & 2), bits >> 2 & 1, 0};
      std::vector<Shaped> sgd{p, g};
      if (s.has_momentum) sgd.push_back(m);
      sgd.push_back(hyper);
      std::vector<std::pair<std::vector<int64_t>, DType>> outs(sgd.size() - 2, {n, t});
      CHECK(check_cuda(FASTCNN_CUDA_OP(sgd_step), &s, sgd, outs) == 1);
      const AdamParams a{bits & 1, bits >> 1 & 1, bits >> 2 & 1};
      std::vector<Shaped> adam{p, g, m, v};
      if (a.amsgrad) adam.push_back(tensor(n, 5, t, 3, 1, 1));
      adam.push_back(hyper);
      outs.assign(adam.size() - 2, {n, t});
      CHECK(check_cuda(FASTCNN_CUDA_OP(adam_step), &a, adam, outs) == 1);
      const RmspropParams r{bits & 1, bits >> 1 & 1, bits >> 2 & 1};
      std::vector<Shaped> rms{p, g, v};
      if (r.has_momentum) rms.push_back(m);
      if (r.centered) rms.push_back(tensor(n, 6, t, 0, 0.1));
      rms.push_back(hyper);
      outs.assign(rms.size() - 2, {n, t});
      CHECK(check_cuda(FASTCNN_CUDA_OP(rmsprop_step), &r, rms, outs) == 1);
      const AdagradParams d{bits & 1};
      const LionParams l{bits & 1};
      outs.assign(2, {n, t});
      CHECK(check_cuda(FASTCNN_CUDA_OP(adagrad_step), &d, {p, g, v, hyper}, outs) == 1);
      CHECK(check_cuda(FASTCNN_CUDA_OP(lion_step), &l, {p, g, m, hyper}, outs) == 1);
    }
}
