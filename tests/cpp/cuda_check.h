// What it is: runs an op through every CUDA implementation of its list on the executor (cuda_host/) and compares
// with the CPU's naive reference; threads and blocks run ascending and descending, which must give the same bits.
// Outputs, workspaces and shared memory start as NaN; what is written past an output or a workspace fails.
#pragma once
#include <array>

#include "backend/cuda/faults.h"
#include "backend/cuda/lists.h"
#include "cuda_host/executor.h"
#include "op_check.h"

namespace fastcnn::test {

// A tensor in guarded memory: canonical layout (channels-last where 4-D), any dtype.
struct Shaped {
  Array array;
  std::vector<int64_t> shape;
  Operand operand() const {
    Operand o = array.operand();
    o.ndim = static_cast<int32_t>(shape.size());
    int order[8], n = o.ndim;
    for (int i = 0; i < n; ++i) order[i] = i;
    if (n == 4) order[1] = 2, order[2] = 3, order[3] = 1;
    int64_t step = 1;
    for (int i = n - 1; i >= 0; --i) {
      o.shape[order[i]] = shape[static_cast<size_t>(order[i])];
      o.strides[order[i]] = step;
      step *= o.shape[order[i]];
    }
    return o;
  }
};

inline int64_t count_of(const std::vector<int64_t>& shape) {
  int64_t n = 1;
  for (int64_t d : shape) n *= d;
  return n;
}

inline double value_at(const Array& a, int64_t i) {
  switch (a.dtype) {
    case DType::float32: return a.as<float>()[i];
    case DType::float64: return a.as<double>()[i];
    case DType::bfloat16: return static_cast<float>(a.as<bfloat16>()[i]);
    case DType::float16: return static_cast<float>(a.as<float16>()[i]);
    case DType::int64: return static_cast<double>(a.as<int64_t>()[i]);
    case DType::int32: return a.as<int32_t>()[i];
    case DType::int8: return a.as<int8_t>()[i];
    default: return a.as<uint8_t>()[i];
  }
}
inline void set_at(const Array& a, int64_t i, double v) {
  switch (a.dtype) {
    case DType::float32: a.as<float>()[i] = static_cast<float>(v); break;
    case DType::float64: a.as<double>()[i] = v; break;
    case DType::bfloat16: a.as<bfloat16>()[i] = bfloat16(static_cast<float>(v)); break;
    case DType::float16: a.as<float16>()[i] = float16(static_cast<float>(v)); break;
    case DType::int64: a.as<int64_t>()[i] = static_cast<int64_t>(v); break;
    case DType::int32: a.as<int32_t>()[i] = static_cast<int32_t>(v); break;
    case DType::int8: a.as<int8_t>()[i] = static_cast<int8_t>(v); break;
    case DType::bool_: a.as<uint8_t>()[i] = v != 0; break;
    default: a.as<uint8_t>()[i] = static_cast<uint8_t>(v);
  }
}

// Normal numbers (whole ones up to `whole` where given) as any dtype.
inline Shaped tensor(std::vector<int64_t> shape, uint32_t seed, DType t = DType::float32, double whole = 0,
                     double scale = 1, double shift = 0) {
  Shaped s{Array(count_of(shape), t), std::move(shape)};
  std::mt19937 g(seed);
  std::normal_distribution<double> d;
  for (int64_t i = 0; i < s.array.n; ++i)
    set_at(s.array, i,
           whole > 0 ? static_cast<double>(g() % static_cast<uint32_t>(whole)) + shift : d(g) * scale + shift);
  return s;
}

inline double rounding(DType t) { return t == DType::bfloat16 ? 0x1p-7 : t == DType::float16 ? 0x1p-10 : 0; }

inline std::string compare(const Array& a, const Array& b, double of_max) {
  double top = 0;
  for (int64_t i = 0; i < b.n; ++i)
    if (std::isfinite(value_at(b, i))) top = std::max(top, std::fabs(value_at(b, i)));
  for (int64_t i = 0; i < a.n; ++i) {
    const double x = value_at(a, i), y = value_at(b, i);
    const bool exact = !is_floating(a.dtype);
    const double step = a.dtype == DType::float16 ? 0x1p-24 : 1e-30;  // of the smallest numbers
    const bool same = exact ? x == y
                      : std::isfinite(y)
                          ? std::fabs(x - y) <= rounding(a.dtype) * std::fabs(y) + of_max * top + step
                      : std::isnan(y) ? std::isnan(x)
                                      : x == y;
    if (!same)
      return "at " + std::to_string(i) + ": " + std::to_string(x) + " instead of " + std::to_string(y) +
             ", off by " + std::to_string(std::fabs(x - y) / (top + 1e-30)) + " of the maximum";
  }
  return "";
}

struct CudaOp {
  const char* name;
  OpKind kind;
  cuda::List cuda;
  cpu::List cpu;
};
#define FASTCNN_CUDA_OP(k) \
  CudaOp { #k, OpKind::k, cuda::k##_list(), cpu::k##_list() }

// The implementation of that name alone.
inline CudaOp only(CudaOp op, const std::string& name) {
  for (size_t k = 0; k < op.cuda.size(); ++k)
    if (op.cuda[k].name == name) {
      op.cuda = op.cuda.subspan(k, 1);
      return op;
    }
  throw std::logic_error("no " + name + " in the list of " + op.name);
}

// A convolution of k x k, padded at the top, bottom, left and right; one group or, with groups of C, depthwise.
using Pad = std::array<int64_t, 4>;
inline Conv2dParams conv_params(int64_t N, int64_t C, int64_t O, int64_t H, int64_t W, int64_t k, int64_t s,
                                const Pad& pad, int64_t groups = 1) {
  Conv2dParams p;
  p.N = N, p.C = C, p.O = O, p.H = H, p.W = W, p.kH = p.kW = k, p.sH = p.sW = s, p.groups = groups;
  p.pT = pad[0], p.pB = pad[1], p.pL = pad[2], p.pR = pad[3];
  p.oH = conv_out_size(H, pad[0], pad[1], k, s, 1), p.oW = conv_out_size(W, pad[2], pad[3], k, s, 1);
  return p;
}
struct ConvShapes {
  std::vector<int64_t> x, y, w;
  explicit ConvShapes(const Conv2dParams& p)
      : x{p.N, p.C, p.H, p.W}, y{p.N, p.O, p.oH, p.oW}, w{p.O, p.C / p.groups, p.kH, p.kW} {}
};

// outs: shapes and dtypes. in_place: output k starts as a copy of input in_place[k] (-1: none) and its memory is
// the input too. Returns how many implementations ran.
inline int check_cuda(const CudaOp& op, const void* params, const std::vector<Shaped>& in,
                      const std::vector<std::pair<std::vector<int64_t>, DType>>& outs, double tolerance = 2e-6,
                      const std::vector<Operand>* views = nullptr) {
  std::vector<Operand> in_ops, out_ops;
  for (const Shaped& s : in) in_ops.push_back(s.operand());
  if (views) in_ops = *views;
  auto make = [&] {
    std::vector<Shaped> out;
    for (const auto& [shape, t] : outs) {
      out.push_back({Array(count_of(shape), t), shape});
      out.back().array.memory->poison();
    }
    return out;
  };
  auto bind = [&](const std::vector<Shaped>& out) {
    out_ops.clear();
    for (const Shaped& s : out) out_ops.push_back(s.operand());
  };
  Call c;
  c.kind = op.kind, c.params = params, c.in = in_ops;
  std::vector<Shaped> expect = make();
  bind(expect);
  c.out = out_ops;
  REQUIRE(std::string(op.cpu.back().name) == "ref");
  op.cpu.back().run(c);
  int ran = 0;
  for (const Implementation& impl : op.cuda) {
    if (impl.declines && impl.declines(c)) continue;
    std::vector<Shaped> first;
    for (bool descending : {false, true}) {
      const std::string where = std::string(op.name) + " " + impl.name + (descending ? " descending" : "") + " " +
                                dtype_name(outs.empty() ? DType::float32 : outs[0].second);
      std::vector<Shaped> out = make();
      bind(out);
      c.out = out_ops;
      Buffer workspace(impl.workspace ? (impl.workspace(c) + 3) / 4 : 0);
      workspace.poison();
      c.workspace = workspace.data();
      cuda::host::run_descending(descending);
      impl.run(c);
      cuda::host::run_descending(false);
      cuda::throw_device_faults();
      CHECK_MESSAGE(workspace.guard_intact(), where << ": wrote past its workspace");
      for (size_t i = 0; i < out.size(); ++i) {
        CHECK_MESSAGE(out[i].array.memory->guard_intact(), where << ": wrote past output " << i);
        if (!descending) {
          const std::string d = compare(out[i].array, expect[i].array, tolerance);
          CHECK_MESSAGE(d.empty(), where << ": output " << i << " " << d);
        } else {
          const size_t bytes = static_cast<size_t>(out[i].array.n) * dtype_size(out[i].array.dtype);
          const bool same = std::memcmp(out[i].array.memory->data(), first[i].array.memory->data(), bytes) == 0;
          CHECK_MESSAGE(same, where << ": output " << i << " depends on the order of threads");
        }
      }
      if (!descending) first = std::move(out);
    }
    ++ran;
  }
  return ran;
}

}  // namespace fastcnn::test
