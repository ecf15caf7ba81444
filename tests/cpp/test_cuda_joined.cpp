// Casts, counters and running statistics of many tensors as one launch (Implementation::run_many), on the
// executor: the same bits as launches one by one. Optimizer steps: test_cuda_optim.cpp.
#include "cuda_check.h"

using namespace fastcnn;
using namespace fastcnn::test;

namespace {

struct Work {
  std::vector<Shaped> in;
  std::vector<Operand> ops, outs;
  std::vector<Shaped> out;
  Call call;
};

// Runs `make()` one by one and as one; both give the same bits and stay within their memory.
template <class Make>
void check_joined(const Implementation& impl, const Make& make, int64_t launches) {
  for (bool descending : {false, true}) {
    std::vector<Work> one = make(), many = make();
    std::vector<Call> calls;
    for (Work& w : one) impl.run(w.call);
    for (Work& w : many) {
      CHECK(impl.joins(many[0].call, w.call));
      calls.push_back(w.call);
    }
    const int64_t before = cuda::host::launches();
    cuda::host::run_descending(descending);
    impl.run_many(calls);
    cuda::host::run_descending(false);
    CHECK(cuda::host::launches() - before == launches);
    for (size_t i = 0; i < one.size(); ++i)
      for (size_t k = 0; k < one[i].out.size(); ++k) {
        const Array &a = many[i].out[k].array, &b = one[i].out[k].array;
        CHECK(a.memory->guard_intact());
        CHECK(std::memcmp(a.memory->data(), b.memory->data(), static_cast<size_t>(b.n) * dtype_size(b.dtype)) ==
              0);
      }
  }
}

}  // namespace

TEST_CASE("cuda casts: one launch takes hundreds of tensors of any size and alignment") {
  const UnaryParams copy{Unary::copy};
  const Implementation& impl = cuda::unary_list()[0];
  const DType types[] = {DType::float32, DType::bfloat16, DType::float16};
  for (DType from : types)
    for (DType to : types) {
      if (from == to) continue;
      auto make = [&] {
        std::vector<Work> all(360);  // more than a launch holds
        for (size_t i = 0; i < all.size(); ++i) {
          Work& w = all[i];
          const int64_t n = i == 3 ? 4096 : i == 4 ? 9001 : i == 7 ? 0 : static_cast<int64_t>(1 + i * 7 % 40);
          const int64_t skip = i % 3 && n > 1 && i != 4 ? 1 : 0;  // the last of three is aligned
          w.in = {tensor({n}, static_cast<uint32_t>(i), from)};
          w.out = {tensor({n}, 1, to, 2)};
          w.ops = {w.in[0].operand()}, w.outs = {w.out[0].operand()};
          for (Operand* o : {&w.ops[0], &w.outs[0]}) {
            o->data = static_cast<char*>(o->data) + static_cast<size_t>(skip) * dtype_size(o->dtype);
            o->shape[0] = n - skip;
          }
          w.call.kind = OpKind::unary, w.call.params = &copy, w.call.in = w.ops, w.call.out = w.outs;
        }
        return all;
      };
      check_joined(impl, make, 2);
    }
}

TEST_CASE("cuda casts: what is not a dense cast of floats between the same types stays alone") {
  const UnaryParams copy{Unary::copy}, abs{Unary::abs};
  const Implementation& impl = cuda::unary_list()[0];
  const Shaped f = tensor({6}, 1), h = tensor({6}, 1, DType::bfloat16), d = tensor({6}, 1, DType::float64),
               i = tensor({6}, 1, DType::int64, 9);
  auto joins = [&](const UnaryParams& p, const Operand& x, const Operand& y, const Operand& x2,
                   const Operand& y2) {
    const Call a{OpKind::unary, &copy, {&x2, 1}, {&y2, 1}, nullptr},
        b{OpKind::unary, &p, {&x, 1}, {&y, 1}, nullptr};
    return impl.joins(a, b) || impl.joins(b, a);
  };
  const Operand F = f.operand(), H = h.operand(), D = d.operand(), I = i.operand();
  Operand apart = F;
  apart.shape[0] = 3, apart.strides[0] = 2;
  Operand three = H;
  three.shape[0] = 3;
  CHECK(joins(copy, F, H, F, H));
  CHECK_FALSE(joins(copy, H, F, F, H));
  CHECK_FALSE(joins(copy, F, F, F, H));
  CHECK_FALSE(joins(abs, F, H, F, H));
  CHECK_FALSE(joins(copy, D, H, F, H));
  CHECK_FALSE(joins(copy, I, F, F, H));
  CHECK_FALSE(joins(copy, apart, three, F, H));
}

TEST_CASE("cuda binary: hundreds of results of one element are one launch") {
  const BinaryParams add{Binary::add};
  const Implementation& impl = cuda::binary_list()[0];
  for (DType t : {DType::int64, DType::int32, DType::uint8, DType::float32, DType::bfloat16, DType::float64}) {
    auto make = [&] {
      std::vector<Work> all(360);
      for (size_t i = 0; i < all.size(); ++i) {
        Work& w = all[i];
        w.in = {tensor({1}, static_cast<uint32_t>(i), t, 200), tensor({1}, 2, t, 3, 1, 1)};
        w.out = {w.in[0]};  // in place
        w.ops = {w.in[0].operand(), w.in[1].operand()}, w.outs = {w.ops[0]};
        w.call.kind = OpKind::binary, w.call.params = &add, w.call.in = w.ops, w.call.out = w.outs;
      }
      return all;
    };
    check_joined(impl, make, 2);
  }
  const Shaped two = tensor({2}, 1);
  const std::vector<Operand> in{two.operand(), two.operand()}, out{two.operand()};
  const Call c{OpKind::binary, &add, in, out, nullptr};
  CHECK_FALSE(impl.joins(c, c));
}

TEST_CASE("cuda batch_norm: running statistics of hundreds of norms of any size and dtype are one launch") {
  const Implementation& impl = cuda::bn_update_running_list()[0];
  const DType types[] = {DType::float32, DType::bfloat16, DType::float16, DType::float64};
  static BnUpdateParams params[310];
  for (bool average : {false, true}) {
    auto make = [&] {
      std::vector<Work> all(310);
      for (size_t i = 0; i < all.size(); ++i) {
        Work& w = all[i];
        const int64_t C = i == 5 ? 0 : i == 6 ? 256 : i == 8 ? 700 : static_cast<int64_t>(1 + i * 3 % 20);
        const DType batch = types[i % 2 * 3], stat = types[i % 4];
        const auto seed = static_cast<uint32_t>(i);
        w.in = {tensor({C}, seed, batch), tensor({C}, seed + 1, batch, 3, 1, 1), tensor({C}, seed + 2, stat),
                tensor({C}, seed + 3, stat, 5, 1, 1), tensor({1}, seed, DType::int64, 5)};
        w.out = {w.in[2], w.in[3]};  // in place
        for (const Shaped& s : w.in) w.ops.push_back(s.operand());
        if (!average && i % 2) w.ops.pop_back();
        w.outs = {w.ops[2], w.ops[3]};
        params[i] = {i % 50 == 11 ? 0 : static_cast<int64_t>(2 + i), C, 1e-5, average ? -1.0 : 0.1 + 0.001 * i};
        w.call.kind = OpKind::bn_update_running, w.call.params = &params[i], w.call.in = w.ops,
        w.call.out = w.outs;
      }
      return all;
    };
    check_joined(impl, make, 2);
  }
}
