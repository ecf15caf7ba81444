// What it is: Philox words sixteen blocks at a time, float32 uniform and normal numbers, dropout. The rules are
// those of core/philox.h; only the last bits of normal numbers depend on the ISA.
#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/loops.h"
#include "backend/cpu/kernels/trig.h"
#include "backend/cpu/kernels/vmath.h"
#include "core/philox.h"

namespace fastcnn::cpu::FASTCNN_ISA {
namespace {

constexpr int kBlocks = 16;
constexpr int kWords = 4 * kBlocks;

// Blocks first … first + 15. A word sits in the low half of a 64-bit lane; what gathers above it is never read.
FASTCNN_OP void sixteen_blocks(uint64_t seed, uint64_t stream, uint64_t first, uint32_t* words) {
  constexpr int kWide = kLanes / 2, kVectors = kBlocks / kWide;
  uint64_t pairs[2][kBlocks];
  for (int v = 0; v < kVectors; ++v) {
    vu block, k0 = vu{} + static_cast<uint32_t>(seed), k1 = vu{} + (seed >> 32);
    for (int i = 0; i < kWide; ++i) block[i] = first + static_cast<uint64_t>(v * kWide + i);
    vu c0 = block, c1 = block >> 32, c2 = vu{} + stream, c3 = vu{} + (stream >> 32);
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round) {
      vu p0 = mul_low32(c0, vu{} + 0xD2511F53u), p1 = mul_low32(c2, vu{} + 0xCD9E8D57u);
      c0 = (p1 >> 32) ^ c1 ^ k0;
      c2 = (p0 >> 32) ^ c3 ^ k1;
      c1 = p1;
      c3 = p0;
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    vu low = (c0 & 0xffffffffu) | (c1 << 32), high = (c2 & 0xffffffffu) | (c3 << 32);
    __builtin_memcpy(&pairs[0][v * kWide], &low, sizeof low);
    __builtin_memcpy(&pairs[1][v * kWide], &high, sizeof high);
  }
  for (int b = 0; b < kBlocks; ++b) {  // words of a block follow each other (little-endian)
    __builtin_memcpy(words + 4 * b, &pairs[0][b], 8);
    __builtin_memcpy(words + 4 * b + 2, &pairs[1][b], 8);
  }
}

// Words of elements [begin, begin + kWords), begin a multiple of 4.
void words_at(uint64_t seed, uint64_t stream, int64_t begin, uint32_t* words) {
  sixteen_blocks(seed, stream, static_cast<uint64_t>(begin) / 4, words);
}

}  // namespace

void philox_words(uint64_t seed, uint64_t stream, uint32_t* words, int64_t begin, int64_t end) {
  for (int64_t b = begin; b < end; b += kBlocks) {
    uint32_t w[kWords];
    words_at(seed, stream, 4 * b, w);
    int64_t n = end - b < kBlocks ? 4 * (end - b) : kWords;
    for (int64_t i = 0; i < n; ++i) words[4 * (b - begin) + i] = w[i];
  }
}

void random_floats(Random op, double low, double high, uint64_t seed, uint64_t stream, float* y, int64_t begin,
                   int64_t end) {
  for (int64_t i = begin; i < end; i += kWords) {
    uint32_t w[kWords];
    float u[kWords];
    words_at(seed, stream, i, w);
    if (op == Random::uniform) {
      float lo = static_cast<float>(low), range = static_cast<float>(high - low), hi = static_cast<float>(high);
      for (int j = 0; j < kWords; ++j) {
        float v = philox_uniform24(w[j]) * range + lo;
        u[j] = v < hi ? v : lo;
      }
    } else {
      alignas(64) float u1[kWords / 2], u2[kWords / 2];
      for (int j = 0; j < kWords / 2; ++j) {
        u1[j] = philox_uniform24(w[2 * j]);
        u2[j] = philox_uniform24(w[2 * j + 1]);
      }
      vf mean = set1(static_cast<float>(low)), deviation = set1(static_cast<float>(high));
      for (int j = 0; j < kWords / 2; j += kLanes) {
        vf s, c, r = vsqrt(mul(set1(-2), vlog(sub(set1(1), load(u1 + j)))));
        sincos_turns(load(u2 + j), s, c);
        store(u1 + j, fma(deviation, mul(r, c), mean));
        store(u2 + j, fma(deviation, mul(r, s), mean));
      }
      for (int j = 0; j < kWords / 2; ++j) {
        u[2 * j] = u1[j];
        u[2 * j + 1] = u2[j];
      }
    }
    int64_t n = end - i < kWords ? end - i : kWords;
    for (int64_t j = 0; j < n; ++j) y[i + j] = u[j];
  }
}

void drop_elements(uint32_t threshold, float scale, uint64_t seed, uint64_t stream, const void* x, void* y,
                   DType type, int64_t begin, int64_t end) {
  bool f32 = type == DType::float32;
  for (int64_t i = begin / 4 * 4; i < end; i += kWords) {
    uint32_t w[kWords];
    float xb[kStage], yb[kWords];
    words_at(seed, stream, i, w);
    int64_t from = i < begin ? begin : i, n = (end < i + kWords ? end : i + kWords) - from;
    const float* p = f32 ? static_cast<const float*>(x) + from : stage_floats(x, type, from, 1, n, xb);
    float draw[2 * kWords] = {};  // 24-bit integers as floats, exact; room for a vector that starts late
    for (int j = 0; j < kWords; ++j) draw[j] = static_cast<float>(static_cast<int32_t>(w[j] >> 8));
    const float* q = draw + (from - i);
    float* out = f32 ? static_cast<float*>(y) + from : yb;
    vf limit = set1(static_cast<float>(threshold)), factor = set1(scale);
    int64_t j = 0;
    for (; j + kLanes <= n; j += kLanes)
      store(out + j, select_le(limit, load(q + j), mul(load(p + j), factor), zero()));
    if (j < n) {
      int m = static_cast<int>(n - j);
      storen(out + j, select_le(limit, load(q + j), mul(loadn(p + j, m), factor), zero()), m);
    }
    if (!f32) convert_row(yb, DType::float32, at(y, type, from), type, n);
  }
}

void drop_columns(const float* scale, const void* x, void* y, DType type, int64_t n, int64_t begin, int64_t end) {
  bool f32 = type == DType::float32;
  for (int64_t r = begin; r < end; ++r)
    for (int64_t c = 0; c < n; c += kStage) {
      float xb[kStage], yb[kStage];
      int64_t m = n - c < kStage ? n - c : kStage, o = r * n + c;
      const float *p = stage_floats(x, type, o, 1, m, xb), *s = scale + c;
      float* out = f32 ? static_cast<float*>(y) + o : yb;
      for (int64_t j = 0; j < m; ++j) {
        float kept = p[j] * s[j];
        out[j] = s[j] != 0 ? kept : 0.0f;  // not NaN * 0
      }
      if (!f32) convert_row(yb, DType::float32, at(y, type, o), type, m);
    }
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
