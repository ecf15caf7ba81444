// What it is: the implementation lists of capsule_routing and its gradient on the CPU. Votes are made where they
// are used, sample by sample, and never stored; only their gradients are, for the weights' sum over samples. What
// it is not: arithmetic (kernels/capsule_routing.cpp).
#include <algorithm>

#include "backend/cpu/accept.h"
#include "backend/cpu/isa.h"
#include "backend/cpu/lists.h"
#include "backend/cpu/ref/ref.h"
#include "backend/cpu/scratch.h"
#include "backend/cpu/threads.h"
#include "backend/cpu/workspace.h"

namespace fastcnn::cpu {
namespace {

struct Space {
  int64_t wide;
  float *packed, *dvotes;
  int64_t bytes;
  Space(const CapsuleRoutingParams& p, void* base, bool gradient) {
    const int64_t lanes = kernels()->vector_floats;
    wide = (p.D + lanes - 1) / lanes * lanes;
    Carve w(base);
    packed = w.take<float>(p.I * p.K * p.J * wide);
    dvotes = gradient ? w.take<float>(p.N * p.I * p.J * wide) : nullptr;
    bytes = w.used();
  }
};

template <bool kGradient>
int64_t workspace(const Call& c) {
  return Space(c.as<CapsuleRoutingParams>(), nullptr, kGradient).bytes;
}

CapsuleArgs packed_args(const Call& c, bool gradient) {
  CapsuleArgs a;
  a.p = c.as<CapsuleRoutingParams>();
  const Space s(a.p, c.workspace, gradient);
  a.wide = s.wide, a.packed = s.packed, a.dvotes = s.dvotes;
  a.u = c.in[gradient].as<float>(), a.weight = c.in[1 + gradient].as<float>();
  parallel_for(a.p.I, 1 + 16 * 1024 / (a.p.K * a.p.J * a.p.D + 1),
               [&](int64_t b, int64_t e, int) { kernels()->capsule_pack(&a, b, e); });
  return a;
}

int64_t scratch_floats(const CapsuleArgs& a, bool gradient) {
  return capsule_scratch(a.p, a.wide, kernels()->vector_floats, gradient);
}

void forward(const Call& c) {
  CapsuleArgs a = packed_args(c, false);
  a.v = c.out[0].as<float>();
  with_scratch(a.p.N, 1, scratch_floats(a, false),
               [&](int64_t b, int64_t e, float* s) { kernels()->capsule_route(&a, s, b, e); });
}

void backward(const Call& c) {
  CapsuleArgs a = packed_args(c, true);
  a.dv = c.in[0].as<float>(), a.du = c.out[0].as<float>(), a.dweight = c.out[1].as<float>();
  with_scratch(a.p.N, 1, scratch_floats(a, true),
               [&](int64_t b, int64_t e, float* s) { kernels()->capsule_route_bwd(&a, s, b, e); });
  with_scratch(a.p.I, 1, scratch_floats(a, true),
               [&](int64_t b, int64_t e, float* s) { kernels()->capsule_operand_grads(&a, s, b, e); });
}

}  // namespace

List capsule_routing_list() {
  static const Implementation list[] = {{"simd", not_simd_float32, workspace<false>, forward},
                                        {"ref", nullptr, nullptr, ref::capsule_routing}};
  return list;
}

List capsule_routing_bwd_list() {
  static const Implementation list[] = {{"simd", not_simd_float32, workspace<true>, backward},
                                        {"ref", nullptr, nullptr, ref::capsule_routing_bwd}};
  return list;
}

}  // namespace fastcnn::cpu
