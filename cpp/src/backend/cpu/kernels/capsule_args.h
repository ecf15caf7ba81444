// What it is: the operands of the kernels of capsule_routing. What it is not: how samples go to threads
// (backend/cpu/capsule_routing.cpp).
#pragma once
#include "fastcnn/params.h"

namespace fastcnn {

// Rows of votes are padded: `wide` floats of a capsule, a multiple of the lanes, of which p.D are in use.
struct CapsuleArgs {
  CapsuleRoutingParams p;
  int64_t wide = 0;
  const float* u = nullptr;       // (N,I,K)
  const float* weight = nullptr;  // (I,J,D,K), in memory I, D, K, J
  const float* dv = nullptr;      // (N,J,D)
  float* packed = nullptr;        // weights as [I][K][J][wide]
  float* v = nullptr;             // (N,J,D)
  float* dvotes = nullptr;        // [N][I][J][wide]
  float* du = nullptr;            // (N,I,K)
  float* dweight = nullptr;       // like weight
};

// Floats of scratch of a thread: the votes of a sample; logits, and for the gradient the shares and the gradients
// of the logits of each round; sums, results and gradients of each round.
FASTCNN_INLINE int64_t capsule_scratch(const CapsuleRoutingParams& p, int64_t wide, int64_t lanes, bool gradient) {
  const int64_t shares = p.I * ((p.J + lanes - 1) / lanes * lanes);
  return p.I * p.J * wide + shares * (gradient ? 2 * p.iterations + 1 : 1) +
         p.J * wide * (gradient ? 3 * p.iterations + 1 : 2) + 16 * lanes + 2 * p.J + p.K * p.J * wide;
}

}  // namespace fastcnn
