// What it is: naive argsort and cumsum.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "backend/cpu/ref/convert.h"

namespace fastcnn::cpu::ref {

void argsort(const Call& c) {
  const auto& p = c.as<ArgsortParams>();
  dispatch_all(c.in[0].dtype, [&]<class T>() {
    for (int64_t r = 0; r < p.rows; ++r) {
      const T* x = c.in[0].as<T>() + r * p.size;
      const auto below = [&](int64_t a, int64_t b) {
        const auto va = load(x[a]), vb = load(x[b]);
        if constexpr (std::is_floating_point_v<decltype(va)>)
          if (std::isnan(va) || std::isnan(vb)) return !std::isnan(va) && std::isnan(vb);
        return va < vb;
      };
      std::vector<int64_t> order(static_cast<size_t>(p.size));
      std::iota(order.begin(), order.end(), int64_t(0));
      std::stable_sort(order.begin(), order.end(),
                       [&](int64_t a, int64_t b) { return p.descending ? below(b, a) : below(a, b); });
      std::copy_n(order.begin(), p.kept, c.out[0].as<int64_t>() + r * p.kept);
    }
  });
}

void cumsum(const Call& c) {
  const auto& p = c.as<CumsumParams>();
  dispatch_all(c.out[0].dtype, [&]<class T>() {
    for (int64_t r = 0; r < p.rows; ++r) {
      Wide<T> s = 0;
      for (int64_t i = 0; i < p.size; ++i) {
        const int64_t at = r * p.size + (p.reverse ? p.size - 1 - i : i);
        const Wide<T> v = load(c.in[0].as<T>()[at]);
        if constexpr (std::is_integral_v<T>)
          s = wrap_add(s, v);
        else
          s += v;
        c.out[0].as<T>()[at] = store<T>(s);
      }
    }
  });
}

}  // namespace fastcnn::cpu::ref
