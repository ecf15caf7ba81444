// argsort and cumsum: every implementation on the CPU and the CUDA kernels on the executor against the references,
// over dtypes, directions, equal values, NaN and zeros of both signs.
#include <limits>

#include "cuda_check.h"

using namespace fastcnn;
using namespace fastcnn::test;

namespace {

constexpr DType kAll[] = {DType::float32, DType::float64, DType::bfloat16, DType::float16, DType::int64,
                          DType::int32,   DType::uint8,   DType::int8,     DType::bool_};

// Many equal values; floats also have NaN, infinities and both zeros.
Shaped values(int64_t rows, int64_t size, DType t) {
  const bool floats = is_floating(t);
  Shaped x = tensor({rows, size}, 7, t, t == DType::bool_ ? 2 : 50, 1, floats || t == DType::int8 ? -25 : 0);
  if (floats)
    for (int64_t i = 0; i < rows * size; i += 5) {
      const double odd[] = {NAN, INFINITY, -INFINITY, -0.0, 0.5, -NAN, 1e-3};
      set_at(x.array, i, odd[i / 5 % 7]);
    }
  if (t == DType::int64 && size > 3) {
    x.array.as<int64_t>()[1] = std::numeric_limits<int64_t>::max();
    x.array.as<int64_t>()[2] = std::numeric_limits<int64_t>::min();
  }
  return x;
}

}  // namespace

TEST_CASE("argsort: whole rows and the first of them, both directions, all dtypes") {
  struct S {
    int64_t rows, size, kept;
  };
  for (S s : {S{3, 1, 1}, S{4, 7, 7}, S{2, 200, 200}, S{5, 300, 300}, S{2, 1000, 5}, S{3, 1000, 0}, S{0, 4, 4},
              S{2, 3000, 2000}})
    for (DType t : kAll)
      for (int64_t descending : {0, 1}) {
        const ArgsortParams p{s.rows, s.size, s.kept, descending};
        std::vector<Array> in{values(s.rows, s.size, t).array};
        const int compared = check_op(cpu::argsort_list(), &p, in, {{s.rows * s.kept, DType::int64}}, "argsort");
        if (s.rows > 0 && s.kept > 0) CHECK(compared > 0);
      }
}

TEST_CASE("argsort of large numbers tells apart what a float cannot") {
  Array x(3, DType::int64);
  const int64_t big = (int64_t(1) << 62) + 1;
  x.as<int64_t>()[0] = big, x.as<int64_t>()[1] = big - 1, x.as<int64_t>()[2] = -big;
  const ArgsortParams p{1, 3, 3, 0};
  std::vector<Array> in{x};
  CHECK(check_op(cpu::argsort_list(), &p, in, {{3, DType::int64}}, "argsort") > 0);
  const auto y = run_reference(cpu::argsort_list(), &p, in, {{3, DType::int64}});
  CHECK(y[0].as<int64_t>()[0] == 2);
  CHECK(y[0].as<int64_t>()[1] == 1);
}

TEST_CASE("cumsum: both directions, rows side by side and alone") {
  for (auto [rows, size] :
       {std::pair<int64_t, int64_t>{1, 1}, {3, 17}, {4, 1000}, {9, 33}, {1, 5000}, {0, 3}, {3, 0}})
    for (DType t : {DType::float32, DType::float64, DType::bfloat16, DType::float16, DType::int64})
      for (int64_t reverse : {0, 1}) {
        const CumsumParams p{rows, size, reverse};
        std::vector<Array> in{tensor({rows, size}, 3, t, is_floating(t) ? 0 : 100, 0.1).array};
        const int compared = check_op(cpu::cumsum_list(), &p, in, {{rows * size, t}}, "cumsum");
        if (rows > 0 && size > 0) CHECK(compared > 0);
      }
}

TEST_CASE("cuda argsort: rows of one chunk and of several") {
  struct S {
    int64_t rows, size, kept;
  };
  for (S s : {S{3, 1, 1}, S{2, 65, 65}, S{2, 200, 9}, S{1, 2048, 2048}, S{2, 2049, 2049}, S{1, 9000, 4100}})
    for (DType t : kAll)
      for (int64_t descending : {0, 1}) {
        if (s.size > 2048 && t != DType::float32 && t != DType::float64) continue;
        const ArgsortParams p{s.rows, s.size, s.kept, descending};
        CHECK(check_cuda(FASTCNN_CUDA_OP(argsort), &p, {values(s.rows, s.size, t)},
                         {{{s.rows, s.kept}, DType::int64}}) == 1);
      }
}

TEST_CASE("cuda cumsum: rows shorter and longer than a block") {
  for (auto [rows, size] : {std::pair<int64_t, int64_t>{1, 1}, {3, 17}, {2, 1000}, {5, 256}})
    for (DType t : {DType::float32, DType::float64, DType::bfloat16, DType::float16, DType::int64})
      for (int64_t reverse : {0, 1}) {
        const CumsumParams p{rows, size, reverse};
        CHECK(check_cuda(FASTCNN_CUDA_OP(cumsum), &p, {tensor({rows, size}, 3, t, is_floating(t) ? 0 : 100, 0.1)},
                         {{{rows, size}, t}}, 1e-6) == 1);
      }
}
