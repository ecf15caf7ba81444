// What it is: what the int8 convolutions of the CPU share: packed weights, how their results become bytes, parts
// of an image widened to 16 bits. What it is not: an implementation (quantized_conv2d.cpp,
// quantized_winograd.cpp).
#pragma once
#include <algorithm>
#include <utility>

#include "backend/backend.h"
#include "backend/cpu/isa.h"
#include "backend/cpu/workspace.h"

namespace fastcnn::cpu {
namespace quantized {

inline int64_t ceil_to(int64_t n, int64_t step) { return (n + step - 1) / step * step; }
inline int64_t lanes() { return kernels()->vector_floats; }

// What the registers hold, and how x and weights meet: words of 4 bytes, or of 2 numbers of 16 bits.
struct Form {
  int64_t pixels = 1, vectors = 1, numbers = 4;
  Form() { kernels()->quantized_tile(&pixels, &vectors, &numbers); }
  bool wide() const { return numbers == 2; }
  // A run of n numbers as words that are `step` apart, the last one filled up with zeros.
  void put(int32_t* words, int64_t step, const int8_t* run, int64_t n) const {
    for (int64_t i = 0; i < n; words += step) {
      uint32_t word = 0;
      for (int64_t k = 0; k < numbers && i < n; ++k, ++i)
        word |= wide() ? uint32_t{static_cast<uint16_t>(run[i])} << 16 * k
                       : uint32_t{static_cast<uint8_t>(run[i])} << 8 * k;
      *words = static_cast<int32_t>(word);
    }
  }
};

inline Requantize requantize(const Call& c) {
  const auto& q = c.as<QuantizedConv2dParams>();
  Requantize r;
  r.residual = q.conv.has_residual ? c.in[4].as<uint8_t>() : nullptr;
  r.residual_multiplier = static_cast<float>(q.residual_multiplier);
  r.low = static_cast<float>(q.low), r.high = static_cast<float>(q.high);
  r.to_float = c.out[0].dtype == DType::float32;
  return r;
}

// What kernels read of the weights: words by lane, then three numbers of each padded channel.
struct Packed {
  int32_t *w, *start;
  float *multiplier, *offset;
  Packed(Carve& at, int64_t words, int64_t channels)
      : w(at.take<int32_t>(words)),
        start(at.take<int32_t>(channels)),
        multiplier(at.take<float>(channels)),
        offset(at.take<float>(channels)) {}
  // The lanes from `slot` on become outputs [o, o + count); the others multiply by 0. `start` is left at 0 in all.
  void put_channels(const Call& c, int64_t slot, int64_t o, int64_t count) const {
    std::fill_n(start + slot, lanes(), 0);
    for (const auto& [to, from] : {std::pair(multiplier, c.in[2]), std::pair(offset, c.in[3])}) {
      std::fill_n(to + slot, lanes(), 0.f);
      std::copy_n(from.as<float>() + o, count, to + slot);
    }
  }
};

constexpr uint32_t kWeightOperands = 0b1110;
inline uint32_t weight_operands(const Call&) { return kWeightOperands; }

inline int64_t blocks_of(const Conv2dParams& p) { return (p.O / p.groups + lanes() - 1) / lanes(); }

// Rows [h, h + rows) and columns [w, w + columns) of image x (H, W, C) with its padding.
inline void widen(const Conv2dParams& p, const uint8_t* x, int64_t h, int64_t rows, int64_t w, int64_t columns,
                  int16_t zero, int16_t* to) {
  const int64_t left = std::clamp<int64_t>(-w, 0, columns), right = std::clamp<int64_t>(p.W - w, left, columns);
  for (int64_t i = 0; i < rows; ++i, to += columns * p.C) {
    bool read = p.kH >= p.sH && p.dH == 1;
    for (int64_t kh = 0; kh < p.kH && !read; ++kh) read = i >= kh * p.dH && (i - kh * p.dH) % p.sH == 0;
    if (!read) continue;
    if (h + i < 0 || h + i >= p.H) {
      std::fill_n(to, columns * p.C, zero);
      continue;
    }
    std::fill_n(to, left * p.C, zero);
    kernels()->quantized_widen(x + ((h + i) * p.W + w + left) * p.C, to + left * p.C, (right - left) * p.C);
    std::fill_n(to + right * p.C, (columns - right) * p.C, zero);
  }
}

}  // namespace quantized

const char* quantized_winograd_declines(const Call& c);
int64_t quantized_winograd_workspace(const Call& c);
void quantized_winograd_run(const Call& c);
int64_t quantized_winograd_prepared(const Call& c);
void quantized_winograd_prepare(const Call& c, void* dst);

}  // namespace fastcnn::cpu
