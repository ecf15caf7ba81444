// What it is: the naive reduction: each output gathers its inputs in row-major order, in double or int64.
#include "backend/cpu/ref/convert.h"

namespace fastcnn::cpu::ref {
namespace {

template <class W>
struct Acc {
  W v{};
  int64_t at = 0, n = 0;
  void take(Reduce op, W x, int64_t pos) {
    switch (op) {
      case Reduce::sum:
      case Reduce::mean:
        if constexpr (std::is_integral_v<W>)
          v = wrap_add(v, x);
        else
          v += x;
        break;
      case Reduce::sum_squares:
        if constexpr (std::is_integral_v<W>)
          v = wrap_add(v, wrap_mul(x, x));
        else
          v += x * x;
        break;
      case Reduce::prod:
        if (n == 0) v = 1;
        if constexpr (std::is_integral_v<W>)
          v = wrap_mul(v, x);
        else
          v *= x;
        break;
      case Reduce::max:
      case Reduce::argmax:
        if (n == 0 || (v == v && (x > v || x != x))) v = x, at = pos;
        break;
      case Reduce::min:
      case Reduce::argmin:
        if (n == 0 || (v == v && (x < v || x != x))) v = x, at = pos;
        break;
      case Reduce::any: v = (n && v != 0) || x != 0; break;
      case Reduce::all: v = (n == 0 || v != 0) && x != 0; break;
      case Reduce::count: break;
    }
    ++n;
  }
};

}  // namespace

void reduce(const Call& c) {
  const auto& p = c.as<ReduceParams>();
  const Operand &x = c.in[0], &y = c.out[0];
  int64_t inner[kMaxDims], count = 1;
  int last = -1;
  for (int d = 0; d < x.ndim; ++d) {
    bool reduced = p.dims >> d & 1;
    inner[d] = reduced ? x.shape[d] : 1;
    count *= inner[d];
    if (reduced) last = d;
  }
  bool arg = p.op == Reduce::argmax || p.op == Reduce::argmin;
  bool extreme = arg || p.op == Reduce::max || p.op == Reduce::min;
  if (extreme && count == 0 && y.numel() != 0)
    throw std::logic_error("reduce: max/min/argmax/argmin of no elements reached the reference");
  dispatch_all(x.dtype, [&]<class T>() {
    dispatch_all(y.dtype, [&]<class U>() {
      for_each_index(y, [&](const int64_t* idx) {
        const T* base = x.as<T>() + offset_of(x, idx);
        Acc<Wide<T>> acc;
        for_each_index(inner, x.ndim, [&](const int64_t* r) {
          acc.take(p.op, load(base[offset_of(x, r)]), last >= 0 ? r[last] : 0);
        });
        U& out = y.as<U>()[offset_of(y, idx)];
        if (arg)
          out = store<U>(acc.at);
        else if (p.op == Reduce::mean)
          out = store<U>(static_cast<double>(acc.v) / static_cast<double>(count));
        else if (count == 0)
          out = store<U>(int64_t(p.op == Reduce::prod || p.op == Reduce::all));
        else
          out = store<U>(acc.v);
      });
    });
  });
}

}  // namespace fastcnn::cpu::ref
