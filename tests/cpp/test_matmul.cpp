// matmul: every implementation on every ISA against the reference.
#include "op_check.h"

using namespace fastcnn;
using namespace fastcnn::test;

TEST_CASE("matmul: shapes, transposes, batch, bias, activation") {
  const int64_t shapes[][3] = {{1, 1, 1},     {1, 10, 84},   {2, 17, 33},  {3, 64, 70},    {7, 130, 129},
                               {33, 40, 600}, {128, 10, 64}, {70, 65, 31}, {5, 3, 1100},   {300, 20, 16},
                               {0, 4, 5},     {4, 0, 5},     {3, 4, 0},    {16, 1000, 20}, {12, 33, 12},
                               {1, 70, 40},   {4, 1, 3},     {3, 1, 40},   {4, 37, 19},    {2, 40, 1030},
                               {65, 50, 1},   {40, 33, 3}};
  for (auto& s : shapes)
    for (int flags = 0; flags < 4; ++flags)
      for (int variant = 0; variant < 4; ++variant) {
        MatmulParams p;
        p.M = s[0], p.N = s[1], p.K = s[2], p.trans_a = flags & 1, p.trans_b = flags >> 1;
        p.batch = variant == 0 ? 1 : variant;
        p.a_batched = variant != 3, p.b_batched = variant != 2;
        p.has_bias = variant == 1 || variant == 3;
        p.act.act = variant == 1 ? Act::relu : variant == 2 ? Act::relu6 : Act::none;
        std::vector<Buffer> in;
        in.emplace_back((p.a_batched ? p.batch : 1) * p.M * p.K);
        in.emplace_back((p.b_batched ? p.batch : 1) * p.K * p.N);
        if (p.has_bias) in.emplace_back(p.N);
        for (size_t i = 0; i < in.size(); ++i) in[i].random(static_cast<uint32_t>(i));
        std::string what = "matmul " + std::to_string(p.M) + "x" + std::to_string(p.N) + "x" +
                           std::to_string(p.K) + " trans " + std::to_string(flags) + " variant " +
                           std::to_string(variant);
        CHECK(check_call(cpu::matmul_list(), &p, in, {p.batch * p.M * p.N}, 1e-5, what) > 0);
        std::vector<Array> half;
        for (size_t i = 0; i < in.size(); ++i)
          half.push_back(rounded(normal(in[i].size(), static_cast<uint32_t>(i))));
        CHECK(check_op(cpu::matmul_list(), &p, half, {{p.batch * p.M * p.N, DType::bfloat16}}, "bf16 " + what) >
              0);
      }
}
