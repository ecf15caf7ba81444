// What it is: loops that reach what the machine can do: multiply-adds in registers, streams through memory. They
// are the yardstick of benchmarks and plan profiles. What it is not: no op of the library runs them.
#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/simd.h"

namespace fastcnn::cpu::FASTCNN_ISA {
namespace {

// Two multiply-adds per cycle with a latency of four or five need ten chains; twelve and two operands fit into 16
// registers.
constexpr int kChains = 12;
constexpr int kUnroll = 16;

template <class Op>
FASTCNN_INLINE void chains(int64_t rounds, vf a, vf b, float* sink, Op op) {
  vf acc[kChains];
#pragma GCC unroll 12
  for (int i = 0; i < kChains; ++i) acc[i] = set1(static_cast<float>(i));
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 16
    for (int u = 0; u < kUnroll; ++u)
#pragma GCC unroll 12
      for (int i = 0; i < kChains; ++i) acc[i] = op(a, b, acc[i]);
  }
  vf sum = zero();
#pragma GCC unroll 12
  for (int i = 0; i < kChains; ++i) sum = add(sum, acc[i]);
  *sink = hsum(sum);
}

}  // namespace

double peak_fma(int64_t rounds, float* sink) {
  // The operands come through the sink, so that the compiler cannot know the sum.
  chains(rounds, set1(*sink), set1(*sink), sink, [](vf a, vf b, vf c) { return fma(a, b, c); });
  return 2.0 * kLanes * kChains * kUnroll * static_cast<double>(rounds);
}

double peak_dot_bf16(int64_t rounds, float* sink) {
#if defined(__AVX512BF16__)
  chains(rounds, set1(*sink), set1(*sink), sink, [](vf a, vf b, vf c) { return dot_pairs(a, b, c); });
  return 4.0 * kLanes * kChains * kUnroll * static_cast<double>(rounds);
#else
  return 0;
#endif
}

void peak_triad(float* a, const float* b, const float* c, float s, int64_t begin, int64_t end) {
  vf factor = set1(s);
  for (int64_t i = begin * kPeakBlock; i < end * kPeakBlock; i += kLanes)
    stream(a + i, fma(load(c + i), factor, load(b + i)));
  fence();
}

void peak_copy(float* a, const float* b, int64_t begin, int64_t end) {
  for (int64_t i = begin * kPeakBlock; i < end * kPeakBlock; i += kLanes) stream(a + i, load(b + i));
  fence();
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
