// What it is: unary, binary, where, fill, activations and NaN-checked targets on CUDA: which frame of map.cuh
// runs; in plans, casts and counters that stand together as one launch.
#include <cmath>

#include "backend/cuda/dispatch.h"
#include "backend/cuda/kernels/math.cuh"

namespace fastcnn::cuda {

namespace {

// Common ops between dense operands of T: compiled in. False for the others.
template <class T>
bool common_unary(const UnaryOp<float>& f, const void* x, void* y, int64_t n) {
  auto run = [&]<Unary op>() { return launch_packs<T, 1>("unary", DenseIn{{x}}, y, n, FixedUnary<op>{f.a, f.b}); };
  switch (f.op) {
    case Unary::affine: return run.template operator()<Unary::affine>();
    case Unary::clamp: return run.template operator()<Unary::clamp>();
    case Unary::square: return run.template operator()<Unary::square>();
    default: return false;
  }
}
template <class T>
bool common_binary(Binary op, const void* a, const void* b, void* y, int64_t n) {
  auto run = [&]<Binary fixed>() {
    return launch_packs<T, 2>("binary", DenseIn{{a, b}}, y, n, FixedBinary<fixed>{});
  };
  switch (op) {
    case Binary::add: return run.template operator()<Binary::add>();
    case Binary::sub: return run.template operator()<Binary::sub>();
    case Binary::mul: return run.template operator()<Binary::mul>();
    case Binary::div: return run.template operator()<Binary::div>();
    default: return false;
  }
}

// An activation or its gradient.
template <int N, template <class> class F>
void run_act(const Call& c, const char* name) {
  const auto& p = c.as<ActParams>();
  with_floating(c.out[0].dtype, name, [&]<class T>() {
    const int64_t n = c.out[0].numel();
    DenseIn in{};
    for (int k = 0; k < N; ++k) in.p[k] = c.in[k].data;
    bool done = false;
    if constexpr (!is_same<T, double>)
      with_common_act(p.act, [&]<Act A>() {
        done = launch_packs<T, N>(name, in, c.out[0].data, n, FixedAct<F, A>{ActOf<float>(p)});
      });
    if (!done) launch_dense<T, N>(name, in, c.out[0].data, n, F<Real<T>>{ActOf<Real<T>>(p)});
  });
}

// Dense float32 and 16-bit floats into each other.
bool dense_floats(const EltLoop& l, const Operand& x, const Operand& y) {
  auto cast = [](DType t) { return t == DType::float32 || t == DType::bfloat16 || t == DType::float16; };
  return cast(x.dtype) && cast(y.dtype) && x.dtype != y.dtype && all_dense(l);
}
template <class F>
void with_cast(DType from, DType to, F&& f) {
  with_floating(from, "cast", [&]<class From>() {
    with_floating(to, "cast", [&]<class To>() {
      if constexpr (!is_same<From, To> && !is_same<From, double> && !is_same<To, double>)
        f.template operator()<From, To>();
    });
  });
}
void cast_floats(const Operand& x, const Operand& y, int64_t n) {
  with_cast(x.dtype, y.dtype, [&]<class From, class To>() {
    launch("cast", for_packs(n / 4, kPacksPerThread<1>), dense_cast<From, To>, x.as<From>(), y.as<To>(), n);
  });
}

// Of many tensors, parameters as a rule, as one launch.
bool casts_join(const Call& a, const Call& b) {
  for (const Call* c : {&a, &b}) {
    const Operand &x = c->in[0], &y = c->out[0];
    if (c->as<UnaryParams>().op != Unary::copy || !dense_floats(plan_loop({&y, &x}), x, y)) return false;
  }
  return a.in[0].dtype == b.in[0].dtype && a.out[0].dtype == b.out[0].dtype;
}
void cast_many(std::span<const Call> calls) {
  with_cast(calls[0].in[0].dtype, calls[0].out[0].dtype, [&]<class From, class To>() {
    for (size_t i = 0; i < calls.size();) {
      CastTable table;
      for (; i < calls.size() && table.count < kMostTensors; ++i) {
        const Operand &x = calls[i].in[0], &y = calls[i].out[0];
        if (const int64_t n = x.numel())
          table.add({x.data, y.data, n, aligned16({x.data, y.data})}, ceil_div(n, kCastsPerBlock));
      }
      launch("casts", {dim3(static_cast<unsigned>(table.blocks)), dim3(kCastThreads)}, dense_casts<From, To>,
             table);
    }
  });
}

bool integral(DType t) { return !is_floating(t); }
bool exact(double v) { return std::fabs(v) < 9007199254740992.0 && v == std::floor(v); }

// The ops that stay whole numbers between integers.
bool stays_whole(const UnaryParams& p) {
  switch (p.op) {
    case Unary::affine: return exact(p.alpha) && exact(p.beta);
    case Unary::copy:
    case Unary::floor:
    case Unary::ceil:
    case Unary::round:
    case Unary::clamp:
    case Unary::abs:
    case Unary::square:
    case Unary::sign:
    case Unary::logical_not:
    case Unary::isnan:
    case Unary::isinf:
    case Unary::isfinite: return true;
    default: return false;
  }
}

int64_t whole(double v, bool up) {
  if (v <= -9.2e18) return INT64_MIN;
  if (v >= 9.2e18) return INT64_MAX;
  return static_cast<int64_t>(up ? std::ceil(v) : std::floor(v));
}

template <class W>
void unary_as(const Call& c, const EltLoop& l, const UnaryOp<W>& f) {
  launch("unary", for_elements(l.total), strided_map<W, 1, UnaryOp<W>>, l, DenseIn{{c.in[0].data}}, c.in[0].dtype,
         c.out[0].data, c.out[0].dtype, f);
}

void unary_run(const Call& c) {
  const auto& p = c.as<UnaryParams>();
  const Operand &x = c.in[0], &y = c.out[0];
  if (p.op == Unary::copy && x.dtype == y.dtype) return copy_elements(x, y);
  const EltLoop l = plan_loop({&y, &x});
  if (p.op == Unary::copy && dense_floats(l, x, y) && aligned16({x.data, y.data}))
    return cast_floats(x, y, l.total);
  const bool wide = x.dtype == DType::float64 || y.dtype == DType::float64;
  if (integral(x.dtype) && (p.op == Unary::copy || (integral(y.dtype) && stays_whole(p)))) {
    const bool clamp = p.op == Unary::clamp;
    const int64_t a = clamp ? whole(p.alpha, true) : p.op == Unary::affine ? static_cast<int64_t>(p.alpha) : 0;
    const int64_t b = clamp ? whole(p.beta, false) : p.op == Unary::affine ? static_cast<int64_t>(p.beta) : 0;
    return unary_as<int64_t>(c, l, {p.op, a, b});
  }
  if (wide || integral(x.dtype)) return unary_as<double>(c, l, {p.op, p.alpha, p.beta});
  const UnaryOp<float> f{p.op, static_cast<float>(p.alpha), static_cast<float>(p.beta)};
  if (x.dtype != y.dtype || !all_dense(l)) return unary_as<float>(c, l, f);
  with_floating(x.dtype, "unary", [&]<class T>() {
    if constexpr (!is_same<T, double>)
      if (!common_unary<T>(f, x.data, y.data, l.total))
        launch_dense<T, 1>("unary", DenseIn{{x.data}}, y.data, l.total, f);
  });
}

template <class W>
void binary_as(const Call& c, const EltLoop& l, Binary op) {
  launch("binary", for_elements(l.total), strided_map<W, 2, BinaryOp<W>>, l, DenseIn{{c.in[0].data, c.in[1].data}},
         c.in[0].dtype, c.out[0].data, c.out[0].dtype, BinaryOp<W>{op, rt::error_record()});
}

void binary_run(const Call& c) {
  const Binary op = c.as<BinaryParams>().op;
  const Operand &a = c.in[0], &b = c.in[1], &y = c.out[0];
  const EltLoop l = plan_loop({&y, &a, &b});
  if (integral(a.dtype)) return binary_as<int64_t>(c, l, op);
  if (a.dtype == DType::float64) return binary_as<double>(c, l, op);
  if (a.dtype != y.dtype || !all_dense(l)) return binary_as<float>(c, l, op);
  with_floating(a.dtype, "binary", [&]<class T>() {
    if constexpr (!is_same<T, double>)
      if (!common_binary<T>(op, a.data, b.data, y.data, l.total))
        launch_dense<T, 2>("binary", DenseIn{{a.data, b.data}}, y.data, l.total,
                           BinaryOp<float>{op, rt::error_record()});
  });
}
// Counters of many modules, one element each, as one launch.
bool scalars_join(const Call& a, const Call& b) {
  for (const Call* c : {&a, &b})
    if (c->in[0].numel() != 1 || c->in[1].numel() != 1 || c->out[0].numel() != 1) return false;
  return a.as<BinaryParams>().op == b.as<BinaryParams>().op && a.in[0].dtype == b.in[0].dtype &&
         a.out[0].dtype == b.out[0].dtype;
}
template <class W>
void scalars_as(std::span<const Call> calls) {
  const BinaryOp<W> f{calls[0].as<BinaryParams>().op, rt::error_record()};
  for (size_t i = 0; i < calls.size();) {
    ScalarTable table;
    for (; i < calls.size() && table.count < kMostTensors; ++i)
      table.of[table.count++] = {calls[i].in[0].data, calls[i].in[1].data, calls[i].out[0].data};
    launch("scalars", for_elements(table.count), scalar_map<W, BinaryOp<W>>, table, calls[0].in[0].dtype,
           calls[0].out[0].dtype, f);
  }
}
void binary_many(std::span<const Call> calls) {
  const DType t = calls[0].in[0].dtype;
  if (integral(t)) return scalars_as<int64_t>(calls);
  if (t == DType::float64) return scalars_as<double>(calls);
  scalars_as<float>(calls);
}
const char* binary_declines(const Call& c) {
  return c.in[0].dtype == c.in[1].dtype ? nullptr : "operands of two dtypes";
}

void where_run(const Call& c) {
  const Operand &condition = c.in[0], &a = c.in[1], &b = c.in[2], &y = c.out[0];
  const EltLoop l = plan_loop({&y, &condition, &a, &b});
  with_size(y.dtype, [&]<class T>() {
    launch("where", for_elements(l.total), strided_where<T>, l, condition.as<uint8_t>(), a.as<T>(), b.as<T>(),
           y.as<T>());
  });
}

template <class W>
FASTCNN_KERNEL fill_kernel(void* y, DType t, int64_t n, W value, W step) {
  follow_previous();
  for (int64_t i = global_thread(); i < n; i += global_threads())
    store_as<W>(y, t, i, value + step * static_cast<W>(i));
}

void fill_run(const Call& c) {
  const auto& p = c.as<FillParams>();
  const Operand& y = c.out[0];
  launch("fill", for_elements(y.numel()), fill_kernel<double>, y.data, y.dtype, y.numel(), p.value,
         p.arange ? p.step : 0.0);
}

void activation_run(const Call& c) { run_act<1, ActForward>(c, "activation"); }
void activation_bwd_run(const Call& c) { run_act<2, ActBackward>(c, "activation_bwd"); }
void activation_bwd2_run(const Call& c) {
  with_floating(c.out[0].dtype, "activation_bwd2", [&]<class T>() {
    launch_dense<T, 3>("activation_bwd2", DenseIn{{c.in[0].data, c.in[1].data, c.in[2].data}}, c.out[0].data,
                       c.out[0].numel(), ActSecond<Real<T>>{ActOf<Real<T>>(c.as<ActParams>())});
  });
}

void check_target_run(const Call& c) {
  with_floating(c.out[0].dtype, "check_target", [&]<class T>() {
    launch_dense<T, 1>("check_target", DenseIn{{c.in[0].data}}, c.out[0].data, c.out[0].numel(),
                       TargetCopy<Real<T>>{rt::error_record(), static_cast<int32_t>(OpKind::check_target)});
  });
}

}  // namespace

void copy_elements(const Operand& x, const Operand& y) {
  EltLoop l = plan_loop({&y, &x});
  size_t size = dtype_size(y.dtype);
  if (!l.total) return;
  if (all_dense(l)) {
    if (x.data != y.data) rt::copy_within(y.data, x.data, static_cast<size_t>(l.total) * size);
    return;
  }
  // Neighbours that stay neighbours travel together, up to 16 bytes.
  const int last = l.ndim - 1;
  auto fits = [&](int64_t k) {
    const auto bytes = static_cast<uintptr_t>(k) * size;
    bool ok = l.shape[last] % k == 0 && l.strides[0][last] == 1 && l.strides[1][last] == 1 &&
              reinterpret_cast<uintptr_t>(x.data) % bytes == 0 && reinterpret_cast<uintptr_t>(y.data) % bytes == 0;
    for (int d = 0; d < last; ++d) ok &= l.strides[0][d] % k == 0 && l.strides[1][d] % k == 0;
    return ok;
  };
  auto k = static_cast<int64_t>(16 / size);
  while (k > 1 && !fits(k)) k /= 2;
  l.shape[last] /= k, l.total /= k, size *= static_cast<size_t>(k);
  for (int d = 0; d < last; ++d) l.strides[0][d] /= k, l.strides[1][d] /= k;
  with_bytes(size,
             [&]<class T>() { launch("copy", for_elements(l.total), strided_copy<T>, l, x.as<T>(), y.as<T>()); });
}

List unary_list() {
  static const Implementation list[] = {
      {"simt", nullptr, nullptr, unary_run, nullptr, nullptr, nullptr, cast_many, casts_join}};
  return list;
}
List binary_list() {
  static const Implementation list[] = {
      {"simt", binary_declines, nullptr, binary_run, nullptr, nullptr, nullptr, binary_many, scalars_join}};
  return list;
}
List where_list() {
  static const Implementation list[] = {{"simt", nullptr, nullptr, where_run}};
  return list;
}
List fill_list() {
  static const Implementation list[] = {{"simt", nullptr, nullptr, fill_run}};
  return list;
}
List activation_list() {
  static const Implementation list[] = {{"simt", mixed_floats, nullptr, activation_run}};
  return list;
}
List activation_bwd_list() {
  static const Implementation list[] = {{"simt", mixed_floats, nullptr, activation_bwd_run}};
  return list;
}
List activation_bwd2_list() {
  static const Implementation list[] = {{"simt", mixed_floats, nullptr, activation_bwd2_run}};
  return list;
}
List check_target_list() {
  static const Implementation list[] = {{"simt", mixed_floats, nullptr, check_target_run}};
  return list;
}

}  // namespace fastcnn::cuda
