// What it is: the ordered CPU implementations of unary, binary, where and fill.
#include <algorithm>

#include "backend/cpu/accept.h"
#include "backend/cpu/copy.h"
#include "backend/cpu/isa.h"
#include "backend/cpu/lists.h"
#include "backend/cpu/loop_plan.h"
#include "backend/cpu/ref/convert.h"
#include "backend/cpu/threads.h"

namespace fastcnn::cpu {
namespace {

bool float_lanes(DType t) { return t == DType::float32 || t == DType::bfloat16 || t == DType::float16; }

const char* unary_declines(const Call& c) {
  if (!kernels()) return "no kernels in this ISA";
  if (c.as<UnaryParams>().op == Unary::copy) return nullptr;
  DType x = c.in[0].dtype, y = c.out[0].dtype;
  if (float_lanes(x))
    return float_lanes(y) || y == DType::bool_ ? nullptr : "output is not float32, 16-bit or bool";
  bool byte = dtype_size(x) == 1;
  return byte && (float_lanes(y) || y == DType::bool_) ? nullptr : "element type without float32 vectors";
}

void unary_run(const Call& c) {
  const auto& p = c.as<UnaryParams>();
  const Operand &x = c.in[0], &y = c.out[0];
  if (p.op == Unary::copy) return copy_strided(x, y, streams(y));
  EltLoop l = plan_loop({&y, &x});
  parallel_for(l.total, kSerialElements, [&](int64_t b, int64_t e, int) {
    kernels()->unary_map(l, p, x.data, x.dtype, y.data, y.dtype, b, e);
  });
}

// What indices are made with: places times rows, plus offsets.
const char* integer_affine_declines(const Call& c) {
  if (!kernels()) return "no kernels in this ISA";
  const auto& p = c.as<UnaryParams>();
  const Operand &x = c.in[0], &y = c.out[0];
  if (p.op != Unary::affine || x.dtype != DType::int64 || y.dtype != DType::int64) return "no affine map of int64";
  if (!ref::integral(p.alpha) || !ref::integral(p.beta)) return "factors that are no integers";
  const EltLoop l = plan_loop({&y, &x});
  return l.total == 0 || (l.ndim == 1 && l.strides[0][0] == 1 && l.strides[1][0] == 1) ? nullptr : "not dense";
}

void integer_affine_run(const Call& c) {
  const auto& p = c.as<UnaryParams>();
  const int64_t* x = c.in[0].as<int64_t>();
  int64_t* y = c.out[0].as<int64_t>();
  const auto alpha = static_cast<int64_t>(p.alpha), beta = static_cast<int64_t>(p.beta);
  parallel_for(c.out[0].numel(), kSerialElements, [&](int64_t b, int64_t e, int) {
    for (int64_t i = b; i < e; ++i) y[i] = ref::wrap_add(ref::wrap_mul(alpha, x[i]), beta);
  });
}

const char* binary_declines(const Call& c) {
  if (!kernels()) return "no kernels in this ISA";
  Binary op = c.as<BinaryParams>().op;
  DType t = c.in[0].dtype, y = c.out[0].dtype;
  if (c.in[1].dtype != t) return "operands of two dtypes";
  if (op >= Binary::eq) return y == DType::bool_ ? nullptr : "comparison into a dtype other than bool";
  if (y != t) return "output of another dtype";
  if (float_lanes(t)) return nullptr;
  if (t == DType::float64 && op == Binary::div) return nullptr;
  if (op == Binary::pow || op == Binary::mod || op == Binary::floor_div || op == Binary::div)
    return "division or power outside float32";
  if (t == DType::bool_ && (op == Binary::add || op == Binary::sub)) return "bool addition";
  return nullptr;
}

void binary_run(const Call& c) {
  Binary op = c.as<BinaryParams>().op;
  const Operand &a = c.in[0], &b = c.in[1], &y = c.out[0];
  EltLoop l = plan_loop({&y, &a, &b});
  parallel_for(l.total, kSerialElements, [&](int64_t begin, int64_t end, int) {
    kernels()->binary_map(l, op, a.data, b.data, a.dtype, y.data, y.dtype, begin, end);
  });
}

const char* where_declines(const Call& c) {
  if (!kernels()) return "no kernels in this ISA";
  return c.in[1].dtype == c.out[0].dtype && c.in[2].dtype == c.out[0].dtype ? nullptr
                                                                            : "operands of several dtypes";
}

void where_run(const Call& c) {
  const Operand &cond = c.in[0], &a = c.in[1], &b = c.in[2], &y = c.out[0];
  EltLoop l = plan_loop({&y, &cond, &a, &b});
  parallel_for(l.total, kSerialElements, [&](int64_t begin, int64_t end, int) {
    kernels()->where_map(l, cond.as<uint8_t>(), a.data, b.data, y.data, dtype_size(y.dtype), begin, end);
  });
}

void fill_run(const Call& c) {
  const auto& p = c.as<FillParams>();
  const Operand& y = c.out[0];
  ref::dispatch_all(y.dtype, [&]<class T>() {
    T* yd = y.as<T>();
    parallel_for(y.numel(), kSerialElements, [&](int64_t b, int64_t e, int) {
      if (!p.arange)
        std::fill(yd + b, yd + e, ref::store<T>(p.value));
      else
        for (int64_t i = b; i < e; ++i) yd[i] = ref::store<T>(p.value + p.step * static_cast<double>(i));
    });
  });
}

const char* no_kernels(const Call&) { return kernels() ? nullptr : "no kernels in this ISA"; }

}  // namespace

List unary_list() {
  static const Implementation list[] = {{"simd", unary_declines, nullptr, unary_run},
                                        {"integers", integer_affine_declines, nullptr, integer_affine_run},
                                        {"ref", nullptr, nullptr, ref::unary}};
  return list;
}

List binary_list() {
  static const Implementation list[] = {{"simd", binary_declines, nullptr, binary_run},
                                        {"ref", nullptr, nullptr, ref::binary}};
  return list;
}

List where_list() {
  static const Implementation list[] = {{"simd", where_declines, nullptr, where_run},
                                        {"ref", nullptr, nullptr, ref::where}};
  return list;
}

List fill_list() {
  static const Implementation list[] = {{"threads", no_kernels, nullptr, fill_run},
                                        {"ref", nullptr, nullptr, ref::fill}};
  return list;
}

}  // namespace fastcnn::cpu
