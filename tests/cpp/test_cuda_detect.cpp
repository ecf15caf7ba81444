// The CUDA kernels of affine_sample, boxes, assignment through indices and overlapping windows on the executor
// against the CPU's references.
#include "cuda_check.h"

using namespace fastcnn;
using namespace fastcnn::test;

namespace {

// Boxes of sides 0 to `side` with corners in [0, extent).
Shaped boxes(int64_t n, uint32_t seed, DType t, double extent, double side, int64_t columns = 4) {
  Shaped s = tensor({n, columns}, seed, t);
  std::mt19937 g(seed);
  std::uniform_real_distribution<double> at(0, extent), length(0, side);
  for (int64_t i = 0; i < n; ++i) {
    const int64_t b = i * columns + columns - 4;
    const double x = at(g), y = at(g);
    set_at(s.array, b, x), set_at(s.array, b + 1, y);
    set_at(s.array, b + 2, x + length(g)), set_at(s.array, b + 3, y + length(g));
  }
  return s;
}

}  // namespace

TEST_CASE("cuda box_iou rounds as the CPU does, nms keeps what it keeps: groups, limits, equal and NaN scores") {
  for (DType t : {DType::float32, DType::float64}) {
    const BoxIouParams p{9, 7};
    CHECK(check_cuda(FASTCNN_CUDA_OP(box_iou), &p, {boxes(9, 1, t, 20, 15), boxes(7, 2, t, 20, 15)}, {{{9, 7}, t}},
                     0) == 1);
    for (int64_t n : {0, 1, 70})
      for (int64_t groups : {0, 3})
        for (int64_t limit : {int64_t{0}, int64_t{4}, n}) {
          const NmsParams q{n, limit, 0.4, groups > 0};
          Shaped scores = tensor({n}, 3, t, 5);  // many of them equal
          if (n > 9) set_at(scores.array, 2, NAN), set_at(scores.array, 8, NAN);
          std::vector<Shaped> in{boxes(n, 4, t, 30, 20), scores};
          if (groups) in.push_back(tensor({n}, 5, DType::int64, static_cast<double>(groups)));
          CHECK(check_cuda(FASTCNN_CUDA_OP(nms), &q, in, {{{limit}, DType::int64}, {{}, DType::int64}}) == 1);
        }
  }
}

TEST_CASE("cuda roi_align and its gradient: samplings, boxes at and beyond the border, float types") {
  for (int64_t sampling : {0, 2})
    for (int64_t aligned : {0, 1})
      for (DType t : {DType::float32, DType::bfloat16, DType::float64}) {
        RoiAlignParams p;
        p.N = 2, p.C = 3, p.H = 7, p.W = 9, p.K = 5, p.oH = 3, p.oW = 2, p.sampling_ratio = sampling;
        p.aligned = aligned, p.spatial_scale = 0.5;
        Shaped rois = boxes(p.K, 6, t == DType::float64 ? t : DType::float32, 12, 14, 5);
        for (int64_t k = 0; k < p.K; ++k) set_at(rois.array, k * 5, static_cast<double>(k % 2));
        set_at(rois.array, 1, -9), set_at(rois.array, 2, -7);  // begins outside
        set_at(rois.array, 8, value_at(rois.array, 6)), set_at(rois.array, 9, value_at(rois.array, 7));  // empty
        const std::vector<int64_t> x{p.N, p.C, p.H, p.W}, y{p.K, p.C, p.oH, p.oW};
        CHECK(check_cuda(FASTCNN_CUDA_OP(roi_align), &p, {tensor(x, 7, t), rois}, {{y, t}}, 1e-5) == 1);
        CHECK(check_cuda(FASTCNN_CUDA_OP(roi_align_bwd), &p, {tensor(y, 8, t), rois}, {{x, t}}, 1e-5) == 1);
      }
  RoiAlignParams p;
  p.N = p.C = p.K = p.oH = p.oW = 1, p.H = p.W = 4, p.spatial_scale = 1;
  for (double image : {1.0, -1.0, double(NAN)}) {
    Shaped rois = tensor({1, 5}, 1, DType::float32, 1);
    set_at(rois.array, 0, image);
    const Shaped x = tensor({1, 1, 4, 4}, 2), y = tensor({1, 1, 1, 1}, 3);
    std::vector<Operand> in{x.operand(), rois.operand()}, out{y.operand()};
    Call c;
    c.kind = OpKind::roi_align, c.params = &p, c.in = in, c.out = out;
    cuda::roi_align_list()[0].run(c);
    CHECK_THROWS_WITH_AS(cuda::throw_device_faults(),
                         doctest::Contains("roi_align: expected boxes of finite numbers"), std::invalid_argument);
  }
}

TEST_CASE("cuda affine_sample: matrices, modes, fills, colour, displacement, dtypes") {
  struct Kind {
    float scale, turn, perspective;
  };
  uint32_t seed = 0;
  for (const Kind& kind : {Kind{1.7f, 0, 0}, Kind{0.6f, 0, 0}, Kind{0.8f, 0.4f, 0}, Kind{1.1f, -0.3f, 0.004f}})
    for (DType t : {DType::uint8, DType::float32})
      for (Interp mode : {Interp::nearest, Interp::bilinear, Interp::bicubic})
        for (int64_t stages : {0, 2}) {
          AffineSampleParams p;
          p.N = 2, p.C = seed % 4 == 3 ? 1 : 3, p.H = 7, p.W = 11, p.oH = 6, p.oW = 9, p.stages = stages,
          p.mode = mode;
          p.fill = static_cast<SampleFill>(seed % 4), p.antialias = mode != Interp::nearest;
          p.has_norm = seed % 3 == 2, p.has_displacement = ++seed % 5 == 0;
          const int64_t C = p.C, floats = sample_stage_floats(C);
          const double top = t == DType::uint8 ? 255 : 1;
          Shaped x = tensor({p.N, C, p.H, p.W}, seed, t, 256);
          for (int64_t i = 0; t == DType::float32 && i < x.array.n; ++i) x.array.f()[i] /= 255;
          Shaped matrix = tensor({p.N, 3, 3}, seed), fill = tensor({C}, seed + 1, DType::float32, 100);
          for (int64_t c = 0; c < C; ++c) fill.array.f()[c] *= static_cast<float>(top / 255);
          for (int64_t n = 0; n < p.N; ++n) {
            const float s = kind.scale, a = kind.turn, moved = n % 2 ? 1.25f : -2.5f;
            const float m[9] = {s * std::cos(a),  -s * std::sin(a),  moved,
                                s * std::sin(a),  s * std::cos(a),   -moved,
                                kind.perspective, -kind.perspective, 1};
            std::copy(m, m + 9, matrix.array.f() + n * 9);
          }
          std::vector<Shaped> in{x, matrix, fill};
          if (p.has_displacement) in.push_back(tensor({p.N, 2, p.oH, p.oW}, seed));
          if (stages) {
            Shaped color = tensor({p.N, stages, floats}, seed, DType::float32, 0, 0.2);
            for (int64_t i = 0; i < p.N * stages; ++i) {
              float* k = color.array.f() + i * floats;
              for (int64_t c = 0; c < C; ++c) k[c * C + c] += 1;
              if (i % 3 == 0) std::fill(k + C * C, k + 2 * C * C, 0.0f);  // no mean
              if (i % 2) k[floats - 1] = 0;                               // no hue
            }
            in.push_back(color);
          }
          if (p.has_norm) in.push_back(tensor({2, C}, seed, DType::float32, 0, 0.01));
          const DType y = p.has_norm ? DType::float32 : t;
          if (y == DType::float32) {
            CHECK(check_cuda(FASTCNN_CUDA_OP(affine_sample), &p, in, {{{p.N, C, p.oH, p.oW}, y}},
                             t == DType::uint8 && stages ? 1e-2 : 1e-4) == 1);
            continue;
          }
          // Whole numbers may round to either neighbour, and a colour stage carries that on.
          std::vector<Operand> ops, want_ops, got_ops;
          for (const Shaped& s : in) ops.push_back(s.operand());
          const Shaped want = tensor({p.N, C, p.oH, p.oW}, 1, y), got = tensor({p.N, C, p.oH, p.oW}, 2, y);
          want_ops.push_back(want.operand()), got_ops.push_back(got.operand());
          Call c;
          c.kind = OpKind::affine_sample, c.params = &p, c.in = ops, c.out = want_ops;
          cpu::affine_sample_list().back().run(c);
          const Implementation& impl = cuda::affine_sample_list()[0];
          Buffer workspace((impl.workspace(c) + 3) / 4);
          workspace.poison();
          c.out = got_ops, c.workspace = workspace.data();
          impl.run(c);
          CHECK(workspace.guard_intact());
          double worst = 0;
          for (int64_t i = 0; i < got.array.n; ++i)
            worst = std::max(worst, std::fabs(value_at(got.array, i) - value_at(want.array, i)));
          CHECK(worst <= 1 + static_cast<double>(stages));
        }
}

TEST_CASE("cuda index_put: of equal indices the last wins, every size of element; bad indices are an error") {
  for (DType t : {DType::float32, DType::bfloat16, DType::float64, DType::int64, DType::bool_}) {
    const IndexParams p{0, 50};
    CHECK(check_cuda(FASTCNN_CUDA_OP(index_put), &p,
                     {tensor({50}, 1, t, 2), tensor({90}, 2, DType::int64, 50), tensor({90}, 3, t, 90)},
                     {{{50}, t}}) == 1);
    CHECK(check_cuda(FASTCNN_CUDA_OP(index_put), &p,
                     {tensor({50}, 1, t, 2), tensor({0}, 2, DType::int64, 50), tensor({0}, 3, t)},
                     {{{50}, t}}) == 1);
  }
}

TEST_CASE("cuda strided_scatter into windows that overlap: every element is added, in an order of its own") {
  struct Window {
    std::vector<int64_t> x;
    std::vector<int64_t> strides;
    int64_t offset, n;
  };
  const Window all[] = {{{5, 3}, {1, 1}, 0, 8},                // two dims that go the same way
                        {{3, 4}, {2, 1}, 1, 12},               // unfold with steps of 2
                        {{2, 3, 2, 3}, {10, 2, 5, 1}, 3, 40},  // patches of an image
                        {{4, 2, 3}, {3, 0, 2}, 0, 17},         // repeats among them
                        {{1, 6}, {7, 1}, 2, 9},
                        {{2, 2}, {0, 0}, 4, 5}};
  for (const Window& w : all)
    for (DType t : {DType::float32, DType::bfloat16, DType::float64, DType::int64}) {
      ScatterParams p;
      p.offset = w.offset, p.accumulate = 1;
      std::copy(w.strides.begin(), w.strides.end(), p.strides);
      CHECK(check_cuda(FASTCNN_CUDA_OP(strided_scatter), &p, {tensor(w.x, 5, t, is_floating(t) ? 0 : 9)},
                       {{{w.n}, t}}) >= 1);
    }
}
