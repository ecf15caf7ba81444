// all_reduce in a job that this file makes up: the communicator is a function.
#include <doctest/doctest.h>

#include <stdexcept>
#include <vector>

#include "fastcnn/fastcnn.h"

using namespace fastcnn;

namespace {

struct Job {
  explicit Job(distributed::Communicator c) { distributed::set_communicator(std::move(c)); }
  ~Job() { distributed::set_communicator({}); }
};

std::vector<float> values(const Tensor& t) {
  const auto* p = static_cast<const float*>(t.data());
  return {p, p + t.numel()};
}

void triple(void* data, int64_t count, DType dtype) {
  REQUIRE(dtype == DType::float32);
  for (int64_t i = 0; i < count; ++i) static_cast<float*>(data)[i] *= 3;
}

}  // namespace

TEST_CASE("all_reduce: eager, on the tape, compiled, and x itself in a process alone") {
  Tensor x = full({2, 3}, 2, DType::float32);
  CHECK(identity(all_reduce(x)) == identity(x));
  Job job({1, 3, triple});
  CHECK(distributed::rank() == 1);
  CHECK(distributed::world_size() == 3);
  CHECK(values(all_reduce(x)) == std::vector<float>(6, 6.0f));
  CHECK(values(x) == std::vector<float>(6, 2.0f));
  Compiled twice(
      [](const std::vector<Tensor>& in) -> std::vector<Tensor> { return {all_reduce(mul(in[0], in[0]))}; });
  for (int k = 0; k < 2; ++k) CHECK(values(twice({x})[0]) == std::vector<float>(6, 12.0f));
  x.set_requires_grad(true);
  Tensor y = all_reduce(x);
  sum(mul(y, y)).backward();
  CHECK(values(x.grad()) == std::vector<float>(6, 36.0f));  // 2 y, of three processes
}

TEST_CASE(
    "set_communicator: ranks outside the world and others without a way to them are refused; errors come out") {
  CHECK_THROWS_AS(distributed::set_communicator({3, 3, triple}), std::invalid_argument);
  CHECK_THROWS_AS(distributed::set_communicator({-1, 3, triple}), std::invalid_argument);
  CHECK_THROWS_AS(distributed::set_communicator({0, 0, {}}), std::invalid_argument);
  CHECK_THROWS_AS(distributed::set_communicator({0, 2, {}}), std::invalid_argument);
  CHECK(distributed::world_size() == 1);
  Job job({0, 2, [](void*, int64_t, DType) { throw std::runtime_error("gone"); }});
  CHECK_THROWS_WITH_AS(all_reduce(full({3}, 1, DType::float32)), "gone", std::runtime_error);
}
