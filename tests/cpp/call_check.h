// What it is: runs one op through every implementation of its list, on every ISA and several thread counts,
// and compares with the reference, which is the last entry. Outputs and workspaces start as NaN.
#pragma once
#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "fastcnn/runtime.h"
#include "backend/cpu/hand_over.h"
#include "backend/cpu/isa.h"
#include "backend/cpu/lists.h"
#include "backend/cpu/threads.h"

namespace fastcnn::test {

// 64-byte aligned floats with a guard of known bytes behind them.
class Buffer {
 public:
  static constexpr int64_t kGuard = 64;
  explicit Buffer(int64_t n = 0) : n_(n), memory_(new float[static_cast<size_t>(n + kGuard + 16)]) {
    auto a = reinterpret_cast<uintptr_t>(memory_.get());
    data_ = memory_.get() + (64 - a % 64) % 64 / 4;
    for (int64_t i = 0; i < kGuard; ++i) data_[n_ + i] = 12345.0f;
  }
  float* data() const { return data_; }
  int64_t size() const { return n_; }
  void poison() {
    for (int64_t i = 0; i < n_; ++i) data_[i] = std::numeric_limits<float>::quiet_NaN();
  }
  void random(uint32_t seed) {
    std::mt19937 g(seed);
    std::uniform_real_distribution<float> u(-1, 1);
    for (int64_t i = 0; i < n_; ++i) data_[i] = u(g);
  }
  bool guard_intact() const {
    for (int64_t i = 0; i < kGuard; ++i)
      if (data_[n_ + i] != 12345.0f) return false;
    return true;
  }

 private:
  int64_t n_;
  std::unique_ptr<float[]> memory_;
  float* data_;
};

inline Operand operand(const Buffer& b) {
  Operand o;
  o.data = b.data(), o.ndim = 1, o.shape[0] = b.size(), o.strides[0] = 1;
  return o;
}

struct IsaGuard {
  std::string isa = cpu::isa_name();
  int threads = cpu::num_threads();
  ~IsaGuard() {
    cpu::set_isa(isa);
    cpu::set_num_threads(threads);
    cpu::set_hand_over_bytes(-1);
  }
};
struct AlgorithmGuard {
  std::string before = get_conv_algorithm();
  AlgorithmGuard() { set_conv_algorithm("auto"); }
  ~AlgorithmGuard() { set_conv_algorithm(before); }
};

// Three hand over in memory what they make for each other, as where cores have no cache in common; others do not.
inline void use_threads(int threads) {
  cpu::set_num_threads(threads);
  cpu::set_hand_over_bytes(threads == 3 ? 0 : int64_t{1} << 60);
}

// What a plan keeps of an operand (Implementation::prepare); after it the operand is not to be read.
class Prepared {
 public:
  // Where the implementation keeps nothing for this call, is() is false.
  Prepared(const Implementation& impl, Call& c, std::vector<Operand>& in) {
    const int64_t bytes = impl.prepare ? impl.prepared_bytes(c) : 0;
    if (bytes <= 0) return;
    cpu::set_num_threads(2);
    kept_ = std::make_unique<Buffer>((bytes + 3) / 4);
    kept_->poison();
    impl.prepare(c, kept_->data());
    CHECK(kept_->guard_intact());
    const uint32_t read = impl.prepared_operands ? impl.prepared_operands(c) : 2;
    for (size_t i = 0; i < in.size(); ++i)
      if (read >> i & 1) in[i].data = nullptr;
    c.prepared = kept_->data(), c.in = in;
  }
  bool is() const { return kept_ != nullptr; }

 private:
  std::unique_ptr<Buffer> kept_;
};

inline void bind(Call& c, std::vector<Buffer>& bufs, std::vector<Operand>& ops) {
  ops.clear();
  for (auto& b : bufs) b.poison(), ops.push_back(operand(b));
  c.out = ops;
}

// One implementation with 1 to 4 threads; how many runs.
inline int check_runs(const Implementation& impl, Call& c, std::vector<Buffer>& out,
                      const std::vector<Buffer>& expect, std::vector<Operand>& out_ops, double tolerance,
                      const std::string& what) {
  std::vector<Buffer> one;
  for (int threads : {1, 2, 3, 4}) {
    use_threads(threads);
    Buffer workspace(impl.workspace ? (impl.workspace(c) + 3) / 4 : 0);
    workspace.poison();
    bind(c, out, out_ops);
    c.workspace = workspace.data();
    impl.run(c);
    std::string where = what + " threads " + std::to_string(threads);
    CHECK_MESSAGE(workspace.guard_intact(), where << ": wrote past its workspace");
    for (size_t i = 0; i < out.size(); ++i) {
      CHECK_MESSAGE(out[i].guard_intact(), where << ": wrote past output " << i);
      const float *a = out[i].data(), *b = expect[i].data();
      if (threads == 1) {
        double scale = 1e-30, worst = 0;
        int64_t at = 0;
        for (int64_t j = 0; j < out[i].size(); ++j) scale = std::max(scale, std::fabs(double(b[j])));
        for (int64_t j = 0; j < out[i].size(); ++j) {
          double d = std::fabs(double(a[j]) - b[j]);
          if (!(d <= worst)) worst = std::isnan(d) ? INFINITY : d, at = j;
        }
        CHECK_MESSAGE(worst <= tolerance * scale, where << ": output " << i << " differs by " << worst / scale
                                                        << " of the maximum at " << at << ": " << a[at]
                                                        << " instead of " << b[at]);
      } else {
        CHECK_MESSAGE(std::memcmp(a, one[i].data(), static_cast<size_t>(out[i].size()) * 4) == 0,
                      where << ": output " << i << " is not the output of 1 thread");
      }
    }
    if (threads == 1) {
      std::swap(one, out);
      for (auto& b : one) out.emplace_back(b.size());
    }
  }
  return 4;
}

// Returns how many optimised runs were compared. `tolerance` is relative to the largest magnitude of the
// reference.
inline int check_call(cpu::List list, const void* params, std::vector<Buffer>& in,
                      const std::vector<int64_t>& outs, double tolerance, const std::string& what) {
  IsaGuard restore;
  std::vector<Operand> in_ops, out_ops;
  std::vector<Buffer> out, expect;
  for (auto& b : in) in_ops.push_back(operand(b));
  for (int64_t n : outs) out.emplace_back(n), expect.emplace_back(n);
  Call c;
  c.params = params, c.in = in_ops;
  bind(c, expect, out_ops);
  REQUIRE(std::string(list.back().name) == "ref");
  list.back().run(c);
  int compared = 0;
  for (const std::string& isa : cpu::available_isas()) {
    cpu::set_isa(isa);
    for (const Implementation& impl : list.first(list.size() - 1)) {
      bind(c, out, out_ops);
      if (impl.declines && impl.declines(c)) continue;
      REQUIRE_MESSAGE(isa != "ref", what << ": " << impl.name << " accepts on isa ref");
      compared += check_runs(impl, c, out, expect, out_ops, tolerance, what + " isa " + isa + " " + impl.name);
      std::vector<Operand> in_prepared = in_ops;
      Call call = c;
      const Prepared prepared(impl, call, in_prepared);
      if (prepared.is())
        check_runs(impl, call, out, expect, out_ops, tolerance, what + " isa " + isa + " prepared " + impl.name);
    }
  }
  return compared;
}

}  // namespace fastcnn::test
