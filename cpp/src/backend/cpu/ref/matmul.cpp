// What it is: matmul as three loops: any transposes, batch broadcast, bias, activation, any floating dtype.
#include "backend/cpu/ref/act.h"
#include "backend/cpu/ref/ref.h"

namespace fastcnn::cpu::ref {

void matmul(const Call& c) {
  const auto& p = c.as<MatmulParams>();
  dispatch_floating(c.out[0].dtype, "matmul", [&]<class T>() {
    const T* bias = p.has_bias ? c.in[2].as<T>() : nullptr;
    for (int64_t n = 0; n < p.batch; ++n) {
      const T* a = c.in[0].as<T>() + (p.a_batched ? n * p.M * p.K : 0);
      const T* b = c.in[1].as<T>() + (p.b_batched ? n * p.K * p.N : 0);
      T* y = c.out[0].as<T>() + n * p.M * p.N;
      for (int64_t i = 0; i < p.M; ++i)
        for (int64_t j = 0; j < p.N; ++j) {
          double s = bias ? to_double(bias[j]) : 0;
          for (int64_t k = 0; k < p.K; ++k)
            s += to_double(a[p.trans_a ? k * p.M + i : i * p.K + k]) *
                 to_double(b[p.trans_b ? j * p.K + k : k * p.N + j]);
          y[i * p.N + j] = from_double<T>(apply_act(p.act, s));
        }
    }
  });
}

}  // namespace fastcnn::cpu::ref
