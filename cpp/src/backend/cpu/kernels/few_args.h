// What it is: the struct of matmul_few_rows and matmul_outer. What it is not: larger products (GemmTask).
#pragma once
#include <stdint.h>

#include "fastcnn/params.h"

namespace fastcnn {

// y(m, n) = act(sum over k of a(m, k) * b(k, n) + bias(n)), y row-major. One stride of b is 1; where
// only b_k is, a_k is 1 too.
struct FewTask {
  int64_t M = 0, N = 0, K = 0, a_m = 0, a_k = 0, b_k = 0, b_n = 0;
  const float* a = nullptr;
  const float* b = nullptr;
  const float* bias = nullptr;  // (N) or null
  float* y = nullptr;
  Act act = Act::none;  // none, relu or relu6
};

constexpr int64_t kFewRows = 4;

}  // namespace fastcnn
