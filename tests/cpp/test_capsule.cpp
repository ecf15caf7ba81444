// Routing by agreement and its gradient: the kernel on every ISA and several thread counts against the reference.
#include "fastcnn/error.h"
#include "op_check.h"

using namespace fastcnn;
using namespace fastcnn::test;

TEST_CASE("capsule_routing: sizes and rounds") {
  // N, I, K, J, D, iterations
  for (const CapsuleRoutingParams& p : {CapsuleRoutingParams{1, 1, 1, 1, 1, 1},
                                        {2, 5, 3, 4, 6, 1},
                                        {3, 40, 8, 10, 16, 3},
                                        {1, 7, 1, 17, 5, 2},
                                        {5, 33, 4, 3, 16, 5},
                                        {2, 9, 2, 1, 33, 3},
                                        {2, 3, 5, 40, 4, 4}}) {
    const std::string what =
        concat("capsule_routing N", p.N, " I", p.I, " K", p.K, " J", p.J, " D", p.D, " r", p.iterations);
    const int64_t u = p.N * p.I * p.K, w = p.I * p.J * p.D * p.K, v = p.N * p.J * p.D;
    const std::vector<Array> in{normal(u, 1), normal(w, 2, 0.4f)};
    CHECK(check_op(cpu::capsule_routing_list(), &p, in, {{v}}, what, {2e-6}) > 0);
    const std::vector<Array> back{normal(v, 3), in[0], in[1]};
    CHECK(check_op(cpu::capsule_routing_bwd_list(), &p, back, {{u}, {w}}, what + " bwd", {5e-6}) > 0);
  }
}

TEST_CASE("capsule_routing: capsules of nothing are no NaN") {
  CapsuleRoutingParams p{2, 4, 3, 2, 5, 3};
  const Array u = normal(24, 1, 0), w = normal(120, 2);
  CHECK(check_op(cpu::capsule_routing_list(), &p, {u, w}, {{20}}, "capsule_routing of 0", {1e-6}) > 0);
  CHECK(check_op(cpu::capsule_routing_bwd_list(), &p, {normal(20, 3), u, w}, {{24}, {120}}, "its gradient",
                 {1e-5}) > 0);
}
