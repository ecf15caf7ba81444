// Moments of a convolution's result on CUDA: sums of columns out of wgmma's fragments, parts joined, batch norms
// that take them; on the executor against plain sums and the CPU's reference.
#include <cmath>
#include <random>

#include "backend/cuda/conv2d_gemm.h"
#include "cuda_check.h"

using namespace fastcnn;
using namespace fastcnn::test;

namespace {

// One warp's MI fragments of 16 rows, m0 + 64 i each, of a product (M, N) from column n0 on; summed twice.
template <int MI, int BN>
void check_column_sums(int32_t m0, int32_t M, int32_t n0, int32_t N) {
  std::mt19937 g(static_cast<uint32_t>(MI * 1000 + BN + M));
  auto value = [&] { return static_cast<float>(static_cast<int>(g() % 17) - 8); };
  std::vector<std::array<float, BN>> tile(MI * 16);
  for (auto& row : tile)
    for (float& v : row) v = value();
  std::vector<float> part(static_cast<size_t>(2 * N), -1);
  cuda::host::launch("column_sums", dim3(1), dim3(32), 0, [&] {
    const unsigned lane = threadIdx.x;
    float sum[MI][BN / 2], total[BN / 16] = {};
    for (unsigned i = 0; i < MI; ++i) {
      for (unsigned k = 0; k < BN / 2; ++k)
        sum[i][k] = tile[i * 16 + lane / 4 + k % 4 / 2 * 8][k / 4 * 8 + lane % 4 * 2 + k % 2];
      cuda::clear_rows<BN>(sum[i], m0 + static_cast<int32_t>(i) * 64, M);
    }
    for (int twice = 0; twice < 2; ++twice) cuda::add_column_sums<MI, BN>(sum, total);
    cuda::leave_column_sums<BN>(total, part.data(), n0, N);
  });
  int wrong = 0;
  for (int32_t n = 0; n < N; ++n) {
    float s = -1, q = -1;
    if (n >= n0 && n < n0 + BN) {
      s = q = 0;
      for (int r = 0; r < MI * 16; ++r) {
        if (m0 + r / 16 * 64 + r % 16 >= M) continue;
        const float v = tile[static_cast<size_t>(r)][static_cast<size_t>(n - n0)];
        s += 2 * v, q += 2 * v * v;
      }
    }
    wrong += part[static_cast<size_t>(n)] != s || part[static_cast<size_t>(N + n)] != q;
  }
  CHECK_MESSAGE(wrong == 0,
                "MI " << MI << " BN " << BN << " m0 " << m0 << " M " << M << " n0 " << n0 << " N " << N);
}

}  // namespace

TEST_CASE("cuda moments: sums of columns out of fragments, rows and columns behind the last left out") {
  auto check = [&]<int MI, int BN>() {
    check_column_sums<MI, BN>(0, 1000, 0, BN);
    check_column_sums<MI, BN>(32, 43, 0, BN);
    check_column_sums<MI, BN>(32, 99, BN, 3 * BN);
    check_column_sums<MI, BN>(16, 1000, BN, BN + 40);
    check_column_sums<MI, BN>(48, 20, 0, 8);
  };
  check.operator()<1, 64>();
  check.operator()<2, 64>();
  check.operator()<1, 128>();
  check.operator()<2, 128>();
  check.operator()<1, 256>();
  check.operator()<2, 256>();
}

TEST_CASE("cuda moments: parts are joined in double, whatever their number") {
  for (int64_t C : {3, 8, 70})
    for (int64_t slices : {1, 7, 500, 3000}) {
      const Shaped parts = tensor({slices + cuda::kSliceGroups, 2, C}, 1);
      const int64_t rows = 1000;
      const double tolerance = slices > cuda::kFewSlices ? 1e-5 : 1e-15;  // groups are sums in float32
      std::vector<double> got(static_cast<size_t>(2 * C), -1);
      for (int64_t k = 0; k < slices; ++k)  // squares are not negative
        for (int64_t c = 0; c < C; ++c) {
          float* q = parts.array.as<float>() + (k * 2 + 1) * C + c;
          *q = c == 1 ? 0 : std::fabs(*q) * 100;
        }
      cuda::launch_join_moments(parts.array.as<float>(), slices, rows, C, got.data());
      for (int64_t c = 0; c < C; ++c) {
        double s = 0, q = 0;
        for (int64_t k = 0; k < slices; ++k) {
          s += double{parts.array.as<float>()[k * 2 * C + c]};
          q += double{parts.array.as<float>()[(k * 2 + 1) * C + c]};
        }
        const double mean = s / rows, var = std::max(q / rows - mean * mean, 0.0);
        CHECK(std::fabs(got[static_cast<size_t>(c)] - mean) <= 1e-12 * std::fabs(mean) + tolerance);
        CHECK(std::fabs(got[static_cast<size_t>(C + c)] - var) <= 1e-12 * (q / rows) + tolerance);
        if (c == 1) CHECK(got[static_cast<size_t>(C + c)] == 0);  // never negative
      }
    }
}

TEST_CASE("cuda batch_norm takes moments: packs or not, residual, activation, every float type") {
  const DType f = DType::float32;
  for (DType t : {DType::float32, DType::bfloat16, DType::float16, DType::float64})
    for (int64_t C : {5, 24})
      for (bool residual : {false, true})
        for (bool affine : {false, true}) {
          const DType s = t == DType::float64 ? t : f;
          BatchNormParams p;
          p.rows = 70, p.C = C, p.has_residual = residual, p.has_affine = affine, p.has_moments = 1;
          p.act.act = residual ? Act::relu : Act::silu;
          std::vector<Shaped> in{tensor({70, C}, 1, t, 0, 2, 3), tensor({C}, 2, s, 0, 0.3, 1), tensor({C}, 3, s)};
          if (residual) in.push_back(tensor({70, C}, 4, t));
          in.push_back(tensor({2, C}, 5, DType::float64, 3, 1, 1));
          std::vector<std::pair<std::vector<int64_t>, DType>> outs{{{70, C}, t}, {{C}, s}, {{C}, s}};
          if (affine) outs.push_back({{2, C}, s});
          CHECK(check_cuda(FASTCNN_CUDA_OP(batch_norm), &p, in, outs, 4e-6) == 1);
        }
}

TEST_CASE(
    "cuda moments of a convolution: of the product before it is rounded, tiles and edges, widened channels") {
  struct Case {
    int64_t N, C, H, W, O, k, s, pad;
    int aligned = 1, unaligned = 1;  // implementations that take it
  };
  for (const Case& k : {Case{3, 8, 25, 23, 64, 3, 1, 1},
                        {2, 16, 41, 20, 40, 1, 1, 0, 2},
                        {2, 32, 40, 41, 40, 3, 1, 1},
                        {4, 8, 41, 40, 120, 1, 1, 0, 2},
                        {1, 24, 17, 19, 144, 1, 1, 0, 2},
                        {1, 32, 17, 16, 192, 1, 1, 0, 2},
                        {1, 96, 17, 19, 24, 1, 1, 0, 2},
                        {1, 8, 50, 65, 8, 1, 1, 0, 2},
                        {1, 192, 20, 21, 32, 1, 1, 0, 2},
                        {4, 8, 41, 40, 264, 1, 1, 0},
                        {3, 16, 38, 41, 512, 1, 1, 0},
                        {3, 16, 20, 21, 16, 3, 1, 1, 2},
                        {5, 32, 9, 8, 32, 3, 1, 1, 2},
                        {2, 16, 21, 20, 64, 3, 2, 1, 2},
                        {3, 3, 61, 50, 64, 7, 2, 3, 2, 2},
                        {1, 64, 40, 40, 13, 1, 1, 0}})
    for (DType t : {DType::bfloat16, DType::float16})
      for (bool aligned : {true, false}) {
        if (t == DType::float16 && !aligned) continue;
        Conv2dParams p;
        p.N = k.N, p.C = k.C, p.H = k.H, p.W = k.W, p.O = k.O, p.kH = p.kW = k.k, p.sH = p.sW = k.s;
        p.pT = p.pB = p.pL = p.pR = k.pad, p.has_moments = 1;
        p.oH = conv_out_size(p.H, p.pT, p.pB, p.kH, p.sH, 1), p.oW = conv_out_size(p.W, p.pL, p.pR, p.kW, p.sW, 1);
        const std::vector<int64_t> x{p.N, p.C, p.H, p.W}, y{p.N, p.O, p.oH, p.oW}, w{p.O, p.C, p.kH, p.kW};
        const Shaped half[] = {tensor(x, 1, t, 0, 1, 0.3), tensor(w, 2, t)};
        Shaped wide[] = {{Array(count_of(x), DType::float64), x}, {Array(count_of(w), DType::float64), w}};
        for (int i = 0; i < 2; ++i)
          for (int64_t e = 0; e < half[i].array.n; ++e) set_at(wide[i].array, e, value_at(half[i].array, e));
        // The exact ones.
        const Shaped exact[] = {{Array(count_of(y), DType::float64), y},
                                {Array(2 * p.O, DType::float64), {2, p.O}}};
        const std::vector<Operand> wide_in{wide[0].operand(), wide[1].operand()},
            wide_out{exact[0].operand(), exact[1].operand()};
        Call c{OpKind::conv2d, &p, wide_in, wide_out};
        cpu::conv2d_list().back().run(c);

        std::vector<Operand> in{half[0].operand(), half[1].operand()};
        const Shaped moved{Array(count_of(w) + 1, t), {count_of(w) + 1}};
        if (!aligned) {
          for (int64_t e = 0; e < count_of(w); ++e) set_at(moved.array, e + 1, value_at(half[1].array, e));
          in[1].data = static_cast<char*>(moved.operand().data) + 2;
        }
        int ran = 0;
        for (const Implementation& impl : cuda::conv2d_list()) {
          std::vector<double> first;
          for (bool descending : {false, true}) {
            const Shaped got[] = {{Array(count_of(y), t), y}, {Array(2 * p.O, DType::float64), {2, p.O}}};
            for (const Shaped& s : got) s.array.memory->poison();
            const std::vector<Operand> out{got[0].operand(), got[1].operand()};
            c = Call{OpKind::conv2d, &p, in, out};
            if (impl.declines(c)) continue;
            Buffer workspace((impl.workspace(c) + 3) / 4);
            workspace.poison();
            c.workspace = workspace.data();
            cuda::host::run_descending(descending);
            impl.run(c);
            cuda::host::run_descending(false);
            const std::string where = std::string(impl.name) + " " + dtype_name(t) + " C " + std::to_string(k.C);
            CHECK_MESSAGE(workspace.guard_intact(), where << ": wrote past its workspace");
            for (int o = 0; o < 2; ++o) {
              CHECK_MESSAGE(got[o].array.memory->guard_intact(), where << ": wrote past output " << o);
              const std::string d = compare(got[o].array, exact[o].array, aligned ? 4e-6 : 0.1 * rounding(t));
              CHECK_MESSAGE(d.empty(), where << ": output " << o << " " << d);
            }
            const double* m = got[1].array.as<double>();
            if (descending)
              CHECK_MESSAGE(first == std::vector<double>(m, m + 2 * p.O),
                            where << ": depends on the order of threads");
            first.assign(m, m + 2 * p.O);
            ran += !descending;
          }
        }
        CHECK_MESSAGE(ran == (aligned ? k.aligned : k.unaligned),
                      "C " << k.C << ": " << ran << " implementations");
        const Array place(count_of(y), t), sums(2 * p.O, DType::float64);
        const std::vector<Operand> out{place.operand(), sums.operand()};
        c.in = in, c.out = out;
        for (const Implementation& impl : cuda::conv2d_list()) {  // what the sums do not see
          for (int what = 0; what < 2; ++what) {
            Conv2dParams other = p;
            what ? other.has_bias = 1 : (other.act.act = Act::relu, 0);
            c.params = &other;
            CHECK(impl.declines(c) != nullptr);
          }
        }
      }
}
