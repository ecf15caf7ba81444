// What it proves: random numbers of several threads: none comes twice, and what a checkpoint computes again draws
// what it drew before. What it is not: a test of their distribution.
#include <doctest/doctest.h>

#include <set>
#include <thread>
#include <vector>

#include "fastcnn/autograd.h"
#include "fastcnn/graph.h"
#include "fastcnn/ops.h"

using namespace fastcnn;

TEST_CASE("threads that draw at once get numbers of their own") {
  manual_seed(3);
  constexpr size_t kThreads = 4, kDraws = 3000;
  std::vector<std::vector<double>> drawn(kThreads);
  std::vector<std::thread> threads;
  for (auto& mine : drawn)
    threads.emplace_back([&mine] {
      for (size_t i = 0; i < kDraws; ++i) mine.push_back(rand({64}, DType::float64).data<double>()[0]);
    });
  for (std::thread& t : threads) t.join();
  std::set<double> all;
  for (const auto& mine : drawn) all.insert(mine.begin(), mine.end());
  CHECK(all.size() == kThreads * kDraws);
  // None is left out either: the next number is that of one thread that drew as often.
  const double next = rand({1}, DType::float64).item();
  manual_seed(3);
  for (size_t i = 0; i < kThreads * kDraws; ++i) rand({1});
  CHECK(rand({1}, DType::float64).item() == next);
}

TEST_CASE("compiled functions and what is drawn beside them get numbers of their own") {
  manual_seed(4);
  constexpr size_t kThreads = 4, kRuns = 2000;
  std::vector<std::vector<double>> drawn(kThreads);
  std::vector<std::thread> threads;
  for (size_t k = 0; k < kThreads; ++k)
    threads.emplace_back([k, &mine = drawn[k]] {
      const Compiled::Fn two = [](const std::vector<Tensor>&) -> std::vector<Tensor> {
        return {rand({64}, DType::float64), rand({64}, DType::float64)};
      };
      Compiled compiled(two);
      for (size_t i = 0; i < kRuns; ++i)
        for (const Tensor& t : k % 2 ? compiled({}) : two({})) mine.push_back(t.data<double>()[0]);
    });
  for (std::thread& t : threads) t.join();
  std::set<double> all;
  for (const auto& mine : drawn) all.insert(mine.begin(), mine.end());
  CHECK(all.size() == 2 * kThreads * kRuns);
  const double next = rand({1}, DType::float64).item();
  manual_seed(4);
  for (size_t i = 0; i < 2 * kThreads * kRuns; ++i) rand({1});
  CHECK(rand({1}, DType::float64).item() == next);
}

TEST_CASE("a compiled function that fails gives back what it would have drawn") {
  Compiled step([](const std::vector<Tensor>& in) -> std::vector<Tensor> {
    const Tensor x = rand({2, 3});
    return {x, cross_entropy(x, in[0])};
  });
  const Tensor good = zeros({2}, DType::int64), bad = full({2}, 9, DType::int64);
  step({good});
  manual_seed(6);
  const double wanted = step({good})[0].data<float>()[0];
  manual_seed(6);
  CHECK_THROWS_AS(step({bad}), IndexError);
  CHECK(step({good})[0].data<float>()[0] == wanted);
}

TEST_CASE("a checkpoint draws its numbers again although another thread drew in between") {
  Tensor x = ones({256}), y;
  x.set_requires_grad();
  int runs = 0;
  checkpoint([&] {
    Tensor kept = dropout(x, 0.3);
    if (runs++ == 0) std::thread([] { rand({4}); }).join();
    kept = dropout(kept, 0.3);
    y = mul(kept, kept);
  });
  const Tensor first = clone(y.detach());  // of (m x)^2 at 1: m^2, its gradient 2 m^2
  backward({sum(y)});
  CHECK(runs == 2);
  CHECK(allclose(x.grad(), affine(first, 2, 0)));
}

TEST_CASE("a checkpoint runs a compiled function again with the numbers that it had") {
  Compiled random([](const std::vector<Tensor>&) -> std::vector<Tensor> { return {rand({256}), rand({256})}; });
  Tensor x = ones({256}), y;
  x.set_requires_grad();
  checkpoint([&] {
    const std::vector<Tensor> r = random({});
    y = mul(mul(x, add(r[0], r[1])), x);
  });
  const Tensor first = clone(y.detach());  // of r x^2 at 1: r, its gradient 2 r
  backward({sum(y)});
  CHECK(allclose(x.grad(), affine(first, 2, 0)));
}

TEST_CASE(
    "a checkpoint within one that has ops of its own is run again without its changes and with its numbers") {
  Tensor x = ones({64}), inner, y;
  x.set_requires_grad();
  const Tensor count = zeros({});
  checkpoint([&] {
    checkpoint([&] {
      add_(count, ones({}));
      manual_seed(5);
      const Tensor kept = dropout(x, 0.5);
      inner = mul(kept, kept);
    });
    y = mul(inner, inner);
  });
  const Tensor first = clone(y.detach());  // m^4, its gradient 4 m^4
  backward({sum(y)});
  CHECK(count.item() == 1);
  CHECK(allclose(x.grad(), affine(first, 4, 0)));
  const double next = rand({1}, DType::float64).item();  // the second one after the seed, which was not set again
  manual_seed(5);
  rand({1});
  CHECK(rand({1}, DType::float64).item() == next);
}
