// What it proves: numbers beside tensors (x + 1, 2.0 * x, x / 3) give the dtype and the bits that they give in
// Python.
#include <doctest/doctest.h>

#include <cstring>

#include "fastcnn/ops.h"

using namespace fastcnn;

namespace {

bool equal(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && a.dtype() == b.dtype() &&
         std::memcmp(a.data(), b.data(), static_cast<size_t>(a.numel()) * dtype_size(a.dtype())) == 0;
}

}  // namespace

TEST_CASE("division by a number is division, not multiplication by a rounded inverse") {
  const Tensor x = affine(rand({1000}), 10, 0);
  for (double by : {3.0, 7.0, 0.1, 4.0, -0.5, 1e30}) CHECK(equal(x / by, div(x, full({}, by))));
  CHECK(equal(x / 3, x / 3.0));
  // The inverse is a whole number here, which kept uint8: 6 / 0.0078125 wrapped around to 0.
  const Tensor bytes = arange(1, 7, 1, DType::uint8);
  CHECK((bytes / 0.0078125).dtype() == DType::float32);
  CHECK((bytes / 0.0078125).data<float>()[5] == 768);
  CHECK((arange(1, 7) / 1).dtype() == DType::float32);
}

TEST_CASE("the dtype beside a number follows from the number's type, not its value") {
  const Tensor whole = arange(1, 7);
  for (double v : {2.0, 2.5}) {
    CHECK((whole + v).dtype() == DType::float32);
    CHECK((v + whole).dtype() == DType::float32);
    CHECK((whole - v).dtype() == DType::float32);
    CHECK((v - whole).dtype() == DType::float32);
    CHECK((whole * v).dtype() == DType::float32);
    CHECK((v * whole).dtype() == DType::float32);
  }
  CHECK((whole * 2).dtype() == DType::int64);
  CHECK((5 - whole).data<int64_t>()[5] == -1);
  CHECK((ones({2}, DType::uint8) + 1).dtype() == DType::uint8);
  CHECK((ones({2}) * 2).dtype() == DType::float32);
}

TEST_CASE("integers beside tensors of integers keep their last digit") {
  const int64_t large = (int64_t(1) << 53) + 1;
  const Tensor one = ones({1}, DType::int64);
  auto value = [](const Tensor& t) { return t.data<int64_t>()[0]; };
  CHECK(value(one + large) == large + 1);
  CHECK(value(large + one) == large + 1);
  CHECK(value(one - large) == 1 - large);
  CHECK(value(large - one) == large - 1);
  CHECK(value(one * large) == large);
  CHECK(value(large * one) == large);
  CHECK(value(one + INT64_MIN) == INT64_MIN + 1);
  CHECK_THROWS_AS(one + UINT64_MAX, ValueError);
  CHECK((ones({1}) + UINT64_MAX).dtype() == DType::float32);
  CHECK_THROWS_AS(Tensor() + 1, ValueError);
  CHECK_THROWS_AS(Tensor() / 2.0, ValueError);
}

TEST_CASE("numbers of another dtype than the tensor's are refused") {
  const Tensor x = ones({2}), ids = zeros({2}, DType::int64), mask = zeros({2}, DType::bool_);
  CHECK(x.data<float>()[1] == 1);
  CHECK(x.data<const float>()[1] == 1);
  CHECK(!mask.data<bool>()[0]);
  CHECK_THROWS_AS(x.data<double>(), TypeError);
  CHECK_THROWS_AS(ids.data<int32_t>(), TypeError);
  CHECK_THROWS_AS(ids.data<float>(), TypeError);
  CHECK_THROWS_AS(mask.data<int64_t>(), TypeError);
  CHECK(x.data<uint8_t>()[0] == 0);  // bytes of anything
  CHECK_THROWS_AS(Tensor().data<float>(), ValueError);
}
