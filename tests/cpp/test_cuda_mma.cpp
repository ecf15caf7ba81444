// What the tensor-core kernels rest on: the executor's ldmatrix, mma.sync and cp.async against the maps that the
// PTX ISA documents, the order of chunks in shared memory, divisions by multiplication.
#include <random>
#include <set>

#include "backend/cuda/kernels/fast_div.h"
#include "backend/cuda/kernels/tensor_core.cuh"
#include "cuda_check.h"

using namespace fastcnn;
using namespace fastcnn::test;
using cuda::host::launch;

TEST_CASE("cuda executor: ldmatrix hands out the elements of the PTX ISA, plain and transposed") {
  for (bool transposed : {false, true}) {
    uint32_t got[32][4] = {};
    launch("ldmatrix", dim3(1), dim3(32), 4 * 64 * 2, [&] {
      auto* s = cuda::shared_memory<uint16_t>();
      const unsigned lane = threadIdx.x;
      for (unsigned e = lane; e < 256; e += 32) s[e] = static_cast<uint16_t>(e);
      __syncthreads();
      if (transposed)
        cuda::load_matrices<true>(s + lane * 8, got[lane]);
      else
        cuda::load_matrices<false>(s + lane * 8, got[lane]);
    });
    for (uint32_t lane = 0; lane < 32; ++lane)
      for (uint32_t m = 0; m < 4; ++m)
        for (uint32_t half = 0; half < 2; ++half) {
          const uint32_t a = lane / 4, b = lane % 4 * 2 + half, row = transposed ? b : a, col = transposed ? a : b;
          CHECK((got[lane][m] >> (16 * half) & 0xffff) == m * 64 + row * 8 + col);
        }
  }
}

TEST_CASE("cuda executor: mma.m16n8k16 multiplies fragments laid out as the PTX ISA says") {
  std::mt19937 g(1);
  float A[16][16], B[16][8], C[16][8];
  for (auto& row : A)
    for (float& v : row) v = static_cast<float>(g() % 9) - 4;
  for (auto& row : B)
    for (float& v : row) v = static_cast<float>(g() % 9) - 4;
  for (auto& row : C)
    for (float& v : row) v = static_cast<float>(g() % 9) - 4;
  auto check = [&]<class T>() {
    launch("mma", dim3(1), dim3(32), 0, [&] {
      const unsigned group = threadIdx.x / 4, in_group = threadIdx.x % 4;
      uint32_t a[4] = {}, b[2] = {};
      float d[4];
      for (unsigned i = 0; i < 8; ++i) {  // a0 ... a7, two to a register
        const unsigned row = i < 2 || (i >= 4 && i < 6) ? group : group + 8;
        const unsigned col = in_group * 2 + (i & 1) + (i >= 4 ? 8 : 0);
        a[i / 2] |= static_cast<uint32_t>(T(A[row][col]).bits) << (16 * (i % 2));
      }
      for (unsigned i = 0; i < 4; ++i) {
        const unsigned row = in_group * 2 + (i & 1) + (i >= 2 ? 8 : 0);
        b[i / 2] |= static_cast<uint32_t>(T(B[row][group]).bits) << (16 * (i % 2));
        d[i] = C[i < 2 ? group : group + 8][in_group * 2 + (i & 1)];
      }
      cuda::multiply_add<T>(d, a, b);
      for (unsigned i = 0; i < 4; ++i) {
        const unsigned row = i < 2 ? group : group + 8, col = in_group * 2 + (i & 1);
        float want = C[row][col];
        for (int k = 0; k < 16; ++k) want += A[row][k] * B[k][col];
        if (d[i] != want) throw std::logic_error("wrong product");
      }
    });
  };
  check.operator()<bfloat16>();
  check.operator()<float16>();
}

TEST_CASE("cuda executor: mma.m16n8k8 multiplies TF32 fragments laid out as the PTX ISA says") {
  std::mt19937 g(1);
  float A[16][8], B[8][8];
  for (auto& row : A)
    for (float& v : row) v = static_cast<float>(g() % 9) - 4;
  for (auto& row : B)
    for (float& v : row) v = static_cast<float>(g() % 9) - 4;
  launch("mma", dim3(1), dim3(32), 0, [&] {
    const unsigned group = threadIdx.x / 4, in_group = threadIdx.x % 4;
    uint32_t a[4], b[2];
    float d[4] = {};
    for (unsigned i = 0; i < 4; ++i) std::memcpy(&a[i], &A[group + i % 2 * 8][in_group + i / 2 * 4], 4);
    for (unsigned i = 0; i < 2; ++i) std::memcpy(&b[i], &B[in_group + i * 4][group], 4);
    cuda::multiply_add<float>(d, a, b);
    for (unsigned i = 0; i < 4; ++i) {
      const unsigned row = i < 2 ? group : group + 8, col = in_group * 2 + (i & 1);
      float want = 0;
      for (int k = 0; k < 8; ++k) want += A[row][k] * B[k][col];
      if (d[i] != want) throw std::logic_error("wrong product");
    }
  });
}

TEST_CASE("TF32 keeps 10 bits of mantissa, ties away from zero, infinity and NaN") {
  auto rounded = [](float v) {
    uint32_t bits;
    std::memcpy(&bits, &v, 4);
    bits = cuda::to_tf32(bits);
    std::memcpy(&v, &bits, 4);
    return v;
  };
  CHECK(rounded(1.0f + 0x1p-11f) == 1.0f + 0x1p-10f);
  CHECK(rounded(-1.0f - 0x1p-11f) == -1.0f - 0x1p-10f);
  CHECK(rounded(1.0f + 0x1.fp-12f) == 1.0f);
  CHECK(rounded(INFINITY) == INFINITY);
  CHECK(std::isnan(rounded(NAN)));
}

TEST_CASE("cuda executor: a copy that is not waited for, or that lands on what is still read, shows") {
  alignas(16) const float from[4] = {1, 2, 3, 4};
  for (int wait : {0, 1}) {
    float got[2];
    for (bool descending : {false, true}) {
      cuda::host::run_descending(descending);
      launch("cp.async", dim3(1), dim3(32), 16, [&] {
        auto* s = cuda::shared_memory<float>();
        if (threadIdx.x == 0) {
          cuda::copy_async16(s, from, true);
          cuda::commit_copies();
          if (wait)
            cuda::wait_copies<0>();
          else
            cuda::wait_copies<1>();
          got[descending] = s[2];
        }
      });
      cuda::host::run_descending(false);
    }
    CHECK(got[1] == 3.0f);
    CHECK((got[0] == 3.0f) == (wait == 1));
  }
}

TEST_CASE("cuda tiles in shared memory: a place for every chunk, and 8 rows of a matrix in 8 different banks") {
  auto check = [](auto place, int rows, int chunks, int chunk, bool by_matrix) {
    std::set<int> places;
    for (int r = 0; r < rows; ++r)
      for (int c = 0; c < chunks; ++c) {
        const int at = place(r, c);
        CHECK(at % chunk == 0);
        CHECK(at < rows * chunks * chunk);
        CHECK(places.insert(at).second);
      }
    for (int r = 0; r < rows && by_matrix; r += 8)
      for (int c = 0; c < chunks; ++c) {
        std::set<int> banks;
        for (int i = 0; i < 8; ++i) banks.insert(place(r + i, c) / chunk % 8);
        CHECK(banks.size() == 8);
      }
  };
  check(cuda::tile_place<bfloat16>, 128, 4, 8, true);
  check(cuda::tile_place_across<bfloat16, 64>, 32, 8, 8, true);
  check(cuda::tile_place_across<bfloat16, 128>, 32, 16, 8, true);
  check(cuda::tile_place<float>, 128, 4, 4, true);
  check(cuda::tile_place_across<float, 64>, 16, 16, 4, false);
  check(cuda::tile_place_across<float, 128>, 16, 32, 4, false);
  for (int kk = 0; kk < 16; kk += 4)  // TF32 across: 4 rows by 8 columns, a word each
    for (int column = 0; column < 64; column += 8) {
      std::set<int> banks;
      for (int lane = 0; lane < 32; ++lane) {
        const int at = column + lane / 4;
        banks.insert((cuda::tile_place_across<float, 64>(kk + lane % 4, at / 4) + at % 4) % 32);
      }
      CHECK(banks.size() == 32);
    }
}

TEST_CASE("cuda FastDiv divides every 31-bit number") {
  std::mt19937 g(2);
  const int32_t top = 0x7fffffff;
  std::vector<int32_t> divisors{1, 2, 3, 5, 7, 8, 9, 49, 64, 224, 1000003, 1 << 30, top - 1, top};
  for (int i = 0; i < 200; ++i) divisors.push_back(static_cast<int32_t>(g() >> (1 + g() % 30)) | 1);
  for (int32_t d : divisors) {
    const cuda::FastDiv by(d);
    for (int32_t n :
         {0, 1, d - 1, d, top / d * d, top / d * d - 1, top - 1, top, static_cast<int32_t>(g() >> 1)}) {
      int32_t rest = -1;
      CHECK(by.split(n, &rest) == n / d);
      CHECK(rest == n % d);
    }
  }
}
