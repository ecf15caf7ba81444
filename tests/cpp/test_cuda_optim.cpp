// Optimizer steps of many tensors as one launch, and under a loss scaler, on the executor; the CPU's steps under a
// scaler. Every option of single steps: test_cuda_kernels.cpp.
#include "backend/cpu/step_numbers.h"
#include "cuda_check.h"

using namespace fastcnn;
using namespace fastcnn::test;

namespace {

Shaped numbers(std::initializer_list<float> v) {
  Shaped s = tensor({static_cast<int64_t>(v.size())}, 1);
  std::copy(v.begin(), v.end(), s.array.f());
  return s;
}
Shaped adam_hyper() { return numbers({0.1f, 0.01f, 0.9f, 0.999f, 1e-8f, 1 - 0.9f * 0.9f, 0.001999f, 0.001f}); }

}  // namespace

TEST_CASE("cuda optimizers: one launch steps hundreds of tensors of any size as single launches do") {
  const Shaped hyper = adam_hyper(), other = numbers({0.2f, 0, 0.8f, 0.99f, 1e-8f, 0.2f, 0.01f, 0.01f});
  const AdamParams q{1, 0, 0};
  struct Tensors {
    std::vector<Shaped> in;
    std::vector<Operand> ops, outs;
  };
  auto make = [&] {
    std::vector<Tensors> all(400);  // more than a launch holds
    for (size_t i = 0; i < all.size(); ++i) {
      const int64_t n = i == 7 ? 9000 : i == 9 ? 0 : static_cast<int64_t>(1 + i * 5 % 23);
      const auto seed = static_cast<uint32_t>(i);
      all[i].in = {tensor({n}, seed), tensor({n}, seed + 1), tensor({n}, seed + 2, DType::float32, 0, 0.1),
                   tensor({n}, seed + 3, DType::float32, 3, 1, 1), i < 30 ? other : hyper};
      for (const Shaped& s : all[i].in) all[i].ops.push_back(s.operand());
      all[i].outs = {all[i].ops[0], all[i].ops[2], all[i].ops[3]};  // in place
    }
    return all;
  };
  auto calls = [&](std::vector<Tensors>& all) {
    std::vector<Call> c(all.size());
    for (size_t i = 0; i < all.size(); ++i)
      c[i].kind = OpKind::adam_step, c[i].params = &q, c[i].in = all[i].ops, c[i].out = all[i].outs;
    return c;
  };
  const Implementation& impl = cuda::adam_step_list()[0];
  std::vector<Tensors> one = make(), many = make();
  for (const Call& c : calls(one)) impl.run(c);
  const int64_t before = cuda::host::launches();
  impl.run_many(calls(many));
  CHECK(cuda::host::launches() - before == 3);  // 30 with other rates, 350 at most, the rest
  for (size_t i = 0; i < one.size(); ++i)
    for (int k : {0, 2, 3}) CHECK(compare(many[i].in[k].array, one[i].in[k].array, 0) == "");
}

TEST_CASE(
    "optimizers under a loss scaler: gradients are divided, bad steps leave everything, on CUDA as on the CPU") {
  const std::vector<int64_t> n{1029};
  // left out or not, factor, steps left out before
  for (const Shaped& scale : {numbers({0, 0.25f, 0}), numbers({1, 0.25f, 0}), numbers({0, 0.125f, 1})})
    for (DType t : {DType::float32, DType::bfloat16, DType::float64}) {
      const Shaped p = tensor(n, 1, t), g = tensor(n, 2, t), m = tensor(n, 3, t, 0, 0.1),
                   v = tensor(n, 4, t, 3, 1, 1);
      if (scale.array.f()[0] != 0) set_at(g.array, 5, INFINITY), set_at(g.array, 6, NAN);
      const std::vector<std::pair<std::vector<int64_t>, DType>> two{{n, t}, {n, t}}, three{{n, t}, {n, t}, {n, t}};
      const Shaped rates = numbers({0.1f, 0.01f, 0.9f, 0.99f, 1e-8f, 0, 0.1f, 0.01f});
      const SgdParams sgd{1, 0, 0, 0};
      const AdamParams adam{1, 0, 0};
      const RmspropParams rms{0, 0, 1};
      const AdagradParams ada{};
      const LionParams lion{};
      CHECK(check_cuda(FASTCNN_CUDA_OP(sgd_step), &sgd, {p, g, m, rates, scale}, two) == 1);
      CHECK(check_cuda(FASTCNN_CUDA_OP(adam_step), &adam, {p, g, m, v, adam_hyper(), scale}, three) == 1);
      CHECK(check_cuda(FASTCNN_CUDA_OP(rmsprop_step), &rms, {p, g, v, rates, scale}, two) == 1);
      CHECK(check_cuda(FASTCNN_CUDA_OP(adagrad_step), &ada, {p, g, v, rates, scale}, two) == 1);
      CHECK(check_cuda(FASTCNN_CUDA_OP(lion_step), &lion, {p, g, m, rates, scale}, two) == 1);
      if (t != DType::float32) continue;
      const std::vector<Out> flat2{{1029}, {1029}}, flat3{{1029}, {1029}, {1029}};
      auto arrays = [&](std::vector<Shaped> s) {
        std::vector<Array> a;
        for (const Shaped& x : s) a.push_back(x.array);
        return a;
      };
      const Tolerance close{1e-6, 1e-5};
      CHECK(check_op(cpu::sgd_step_list(), &sgd, arrays({p, g, m, rates, scale}), flat2, "sgd", close) > 0);
      CHECK(check_op(cpu::adam_step_list(), &adam, arrays({p, g, m, v, adam_hyper(), scale}), flat3, "adam",
                     close) > 0);
      CHECK(check_op(cpu::rmsprop_step_list(), &rms, arrays({p, g, v, rates, scale}), flat2, "rmsprop", close) >
            0);
      CHECK(check_op(cpu::adagrad_step_list(), &ada, arrays({p, g, v, rates, scale}), flat2, "adagrad", close) >
            0);
      CHECK(check_op(cpu::lion_step_list(), &lion, arrays({p, g, m, rates, scale}), flat2, "lion", close) > 0);
    }
}

TEST_CASE("a step of Adam after one that was left out has the bias corrections of a first step") {
  // 1 - beta^2 of the second step that the host counts, of which one was left out.
  const float hyper[8] = {1e-3f, 0, 0.9f, 0.999f, 1e-8f, 0.19f, 0.001999f, 0.001f}, scale[3] = {0, 1, 1};
  const cpu::StepNumbers n = cpu::step_numbers(hyper, scale, true);
  CHECK(n.h[5] == doctest::Approx(0.1).epsilon(1e-5));
  CHECK(n.h[6] == doctest::Approx(0.001).epsilon(1e-4));
  CHECK(cpu::step_numbers(hyper, nullptr, true).h[5] == hyper[5]);
}

TEST_CASE("non_finite finds one bad number in any of many tensors of any float type, and nothing else") {
  const FillParams none;
  for (DType t : {DType::float32, DType::bfloat16, DType::float16, DType::float64})
    for (double bad : {0.0, double(NAN), double(INFINITY), -double(INFINITY)})
      for (int where : {0, 1, 2}) {
        std::vector<Shaped> in{tensor({3, 5}, 1, t), tensor({0}, 2, t), tensor({8200}, 3, t)};
        in.insert(in.end(), 400, tensor({2}, 4, t));
        if (bad != 0) set_at(in[where == 0 ? 0 : where == 1 ? 2 : 402].array, where == 1 ? 8199 : 1, bad);
        CHECK(check_cuda(FASTCNN_CUDA_OP(non_finite), &none, in, {{{}, DType::float32}}, 0) == 1);
        if (t != DType::float32) continue;
        std::vector<Array> arrays;
        for (const Shaped& s : in) arrays.push_back(s.array);
        CHECK(check_op(cpu::non_finite_list(), &none, arrays, {{1}}, "non_finite") > 0);
      }
}
