// What it is: check_call for ops with integer operands and with values that are NaN or infinite: every
// implementation on every ISA and 1 to 4 threads against the reference, outputs and workspaces poisoned first.
#pragma once
#include <algorithm>

#include "call_check.h"

namespace fastcnn::test {

// A dense operand of any dtype in guarded memory.
struct Array {
  std::shared_ptr<Buffer> memory;  // copies share it
  DType dtype = DType::float32;
  int64_t n = 0;
  explicit Array(int64_t count, DType t = DType::float32)
      : memory(std::make_shared<Buffer>((count * static_cast<int64_t>(dtype_size(t)) + 3) / 4)),
        dtype(t),
        n(count) {}
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(memory->data());
  }
  float* f() const { return memory->data(); }
  Operand operand() const {
    Operand o;
    o.data = memory->data(), o.dtype = dtype, o.ndim = 1, o.shape[0] = n, o.strides[0] = 1;
    return o;
  }
};

inline Array normal(int64_t n, uint32_t seed, float scale = 1, float shift = 0) {
  Array a(n);
  std::mt19937 g(seed);
  std::normal_distribution<float> d;
  for (int64_t i = 0; i < n; ++i) a.f()[i] = d(g) * scale + shift;
  return a;
}

inline Array rounded(const Array& x) {  // to bfloat16
  Array a(x.n, DType::bfloat16);
  for (int64_t i = 0; i < x.n; ++i) a.as<bfloat16>()[i] = bfloat16(x.f()[i]);
  return a;
}

struct Out {
  int64_t n;
  DType dtype = DType::float32;
};

inline std::vector<Array> make_outputs(const std::vector<Out>& outs) {
  std::vector<Array> v;
  for (const Out& o : outs) v.emplace_back(o.n, o.dtype), v.back().memory->poison();
  return v;
}
inline std::vector<Operand> operands(const std::vector<Array>& v) {
  std::vector<Operand> o;
  for (const Array& a : v) o.push_back(a.operand());
  return o;
}

// Outputs of the reference.
inline std::vector<Array> run_reference(cpu::List list, const void* params, const std::vector<Array>& in,
                                        const std::vector<Out>& outs) {
  std::vector<Array> out = make_outputs(outs);
  std::vector<Operand> in_ops = operands(in), out_ops = operands(out);
  Call c;
  c.params = params, c.in = in_ops, c.out = out_ops;
  REQUIRE(std::string(list.back().name) == "ref");
  list.back().run(c);
  return out;
}

// Where a value differs: NaN and infinity must be the same; else |a-b| <= relative*|b| + of_max*max|b| + 1e-30.
struct Tolerance {
  double of_max = 1e-5, relative = 0;
};

inline std::string difference(const Array& a, const Array& b, const Tolerance& t) {
  if (!is_floating(a.dtype))
    return std::memcmp(a.memory->data(), b.memory->data(), static_cast<size_t>(a.n) * dtype_size(a.dtype))
               ? "integers differ"
               : "";
  auto value = [](const Array& v, int64_t i) -> double {
    if (v.dtype == DType::float64) return v.as<double>()[i];
    if (v.dtype == DType::bfloat16) return static_cast<float>(v.as<bfloat16>()[i]);
    return v.dtype == DType::float16 ? static_cast<float>(v.as<float16>()[i]) : v.f()[i];
  };
  // Two roundings of almost the same number may be neighbours.
  const double relative = t.relative + (a.dtype == DType::bfloat16  ? 0x1p-7
                                        : a.dtype == DType::float16 ? 0x1p-10
                                                                    : 0);
  double top = 0;
  for (int64_t i = 0; i < b.n; ++i)
    if (std::isfinite(value(b, i))) top = std::max(top, std::fabs(value(b, i)));
  for (int64_t i = 0; i < a.n; ++i) {
    double x = value(a, i), y = value(b, i);
    bool same = std::isfinite(y) ? std::fabs(x - y) <= relative * std::fabs(y) + t.of_max * top + 1e-30
                : std::isnan(y)  ? std::isnan(x)
                                 : x == y;
    if (!same)
      return "at " + std::to_string(i) + ": " + std::to_string(x) + " instead of " + std::to_string(y) +
             ", off by " + std::to_string(std::fabs(x - y) / (top + 1e-30)) + " of the maximum";
  }
  return "";
}

// One implementation with each number of threads; how many runs.
inline int check_runs(const Implementation& impl, Call& c, const std::vector<int>& counts,
                      const std::vector<Array>& expect, const std::vector<Out>& outs, const std::string& what,
                      Tolerance tolerance) {
  std::vector<Array> one;
  for (int threads : counts) {
    use_threads(threads);
    std::vector<Array> out = make_outputs(outs);
    std::vector<Operand> out_ops = operands(out);
    c.out = out_ops;
    Buffer workspace(impl.workspace ? (impl.workspace(c) + 3) / 4 : 0);
    workspace.poison();
    c.workspace = workspace.data();
    impl.run(c);
    std::string where = what + " threads " + std::to_string(threads);
    CHECK_MESSAGE(workspace.guard_intact(), where << ": wrote past its workspace");
    for (size_t i = 0; i < out.size(); ++i) {
      CHECK_MESSAGE(out[i].memory->guard_intact(), where << ": wrote past output " << i);
      if (threads == 1) {
        std::string d = difference(out[i], expect[i], tolerance);
        CHECK_MESSAGE(d.empty(), where << ": output " << i << " " << d);
      } else {
        bool same = std::memcmp(out[i].memory->data(), one[i].memory->data(),
                                static_cast<size_t>(out[i].n) * dtype_size(out[i].dtype)) == 0;
        CHECK_MESSAGE(same, where << ": output " << i << " is not the output of 1 thread");
      }
    }
    if (threads == 1) std::swap(one, out);
  }
  return static_cast<int>(counts.size());
}

// Returns how many optimised runs were compared.
inline int check_op(cpu::List list, const void* params, const std::vector<Array>& in, const std::vector<Out>& outs,
                    const std::string& what, Tolerance tolerance = {}) {
  IsaGuard restore;
  std::vector<Array> expect = run_reference(list, params, in, outs);
  std::vector<Operand> in_ops = operands(in);
  int compared = 0;
  int64_t values = 0;
  for (const Out& o : outs) values += o.n;
  // Small cases meet few threads anyway: fewer thread counts keep the whole test short.
  const std::vector<int> counts = values < 5000 ? std::vector<int>{1, 3} : std::vector<int>{1, 2, 3, 4};
  std::vector<Array> place = make_outputs(outs);
  std::vector<Operand> place_ops = operands(place);
  for (const std::string& isa : cpu::available_isas()) {
    cpu::set_isa(isa);
    for (const Implementation& impl : list.first(list.size() - 1)) {
      use_threads(1);
      Call c;
      c.params = params, c.in = in_ops, c.out = place_ops;
      if (impl.declines && impl.declines(c)) continue;
      compared += check_runs(impl, c, counts, expect, outs, what + " isa " + isa + " " + impl.name, tolerance);
      std::vector<Operand> in_prepared = in_ops;
      c.out = place_ops;
      const Prepared prepared(impl, c, in_prepared);
      if (prepared.is())
        check_runs(impl, c, counts, expect, outs, what + " isa " + isa + " prepared " + impl.name, tolerance);
    }
  }
  return compared;
}

// The reason each entry but the reference gives for declining, "" where it accepts.
inline std::string reason(cpu::List list, const void* params, const std::vector<Array>& in,
                          const std::vector<Array>& out) {
  std::vector<Operand> in_ops = operands(in), out_ops = operands(out);
  Call c;
  c.params = params, c.in = in_ops, c.out = out_ops;
  const char* why = list.front().declines ? list.front().declines(c) : nullptr;
  return why ? why : "";
}

}  // namespace fastcnn::test
