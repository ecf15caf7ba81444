// What it is: naive int8 ops: int32 sums, then fused float32 steps (fmaf, rintf: halves to even) that round the
// same way on every machine, so optimised kernels must give these very bits.
#include <algorithm>
#include <cmath>

#include "backend/cpu/kernels/windows.h"
#include "backend/cpu/ref/ref.h"

namespace fastcnn::cpu::ref {
namespace {

uint8_t to_byte(float v, float low, float high) {
  if (std::isnan(v)) v = low;
  return static_cast<uint8_t>(std::rintf(std::min(std::max(v, low), high)));
}

void put(const Operand& y, int64_t i, float v, float low, float high) {
  if (y.dtype == DType::float32)
    y.as<float>()[i] = v;
  else
    y.as<uint8_t>()[i] = to_byte(v, low, high);
}

}  // namespace

void quantize(const Call& c) {
  const auto& p = c.as<QuantizeParams>();
  const float inverse = static_cast<float>(1 / p.scale), zero = static_cast<float>(p.zero);
  const int64_t n = c.in[0].numel();
  for (int64_t i = 0; i < n; ++i)
    c.out[0].as<uint8_t>()[i] = to_byte(std::fmaf(c.in[0].as<float>()[i], inverse, zero), 0, 255);
}

void dequantize(const Call& c) {
  const auto& p = c.as<QuantizeParams>();
  const float scale = static_cast<float>(p.scale);
  const int64_t n = c.in[0].numel();
  for (int64_t i = 0; i < n; ++i)
    c.out[0].as<float>()[i] = static_cast<float>(c.in[0].as<uint8_t>()[i] - static_cast<int32_t>(p.zero)) * scale;
}

void quantized_conv2d(const Call& c) {
  const auto& q = c.as<QuantizedConv2dParams>();
  const Conv2dParams& p = q.conv;
  const auto *x = c.in[0].as<uint8_t>(), *residual = p.has_residual ? c.in[4].as<uint8_t>() : nullptr;
  const auto* w = c.in[1].as<int8_t>();
  const float *multiplier = c.in[2].as<float>(), *offset = c.in[3].as<float>();
  const int64_t Cg = p.C / p.groups, Og = p.O / p.groups;
  for (int64_t n = 0; n < p.N; ++n)
    for (int64_t oh = 0; oh < p.oH; ++oh)
      for (int64_t ow = 0; ow < p.oW; ++ow)
        for (int64_t o = 0; o < p.O; ++o) {
          int32_t acc = 0;
          for (int64_t kh = 0; kh < p.kH; ++kh)
            for (int64_t kw = 0; kw < p.kW; ++kw) {
              const int64_t h = oh * p.sH - p.pT + kh * p.dH, v = ow * p.sW - p.pL + kw * p.dW;
              if (h < 0 || h >= p.H || v < 0 || v >= p.W) continue;
              const uint8_t* pixel = x + ((n * p.H + h) * p.W + v) * p.C + o / Og * Cg;
              const int8_t* tap = w + ((o * p.kH + kh) * p.kW + kw) * Cg;
              for (int64_t i = 0; i < Cg; ++i) acc += (pixel[i] - static_cast<int32_t>(q.x_zero)) * tap[i];
            }
          const int64_t at = ((n * p.oH + oh) * p.oW + ow) * p.O + o;
          float v = std::fmaf(static_cast<float>(acc), multiplier[o], offset[o]);
          if (residual) v = std::fmaf(residual[at], static_cast<float>(q.residual_multiplier), v);
          put(c.out[0], at, v, static_cast<float>(q.low), static_cast<float>(q.high));
        }
}

void quantized_add(const Call& c) {
  const auto& p = c.as<QuantizedAddParams>();
  const auto *a = c.in[0].as<uint8_t>(), *b = p.has_b ? c.in[1].as<uint8_t>() : nullptr;
  const int64_t n = c.in[0].numel();
  for (int64_t i = 0; i < n; ++i) {
    float v = static_cast<float>(p.offset);
    if (b) v = std::fmaf(b[i], static_cast<float>(p.b_multiplier), v);
    v = std::fmaf(a[i], static_cast<float>(p.a_multiplier), v);
    put(c.out[0], i, v, static_cast<float>(p.low), static_cast<float>(p.high));
  }
}

void quantized_pool2d(const Call& c) {
  const auto& q = c.as<QuantizedPool2dParams>();
  const Pool2dParams& p = q.pool;
  const auto* x = c.in[0].as<uint8_t>();
  for (int64_t n = 0; n < p.N; ++n)
    for (int64_t oh = 0; oh < p.oH; ++oh)
      for (int64_t ow = 0; ow < p.oW; ++ow) {
        const PoolWindow wh = pool_window(pool_rows(p), oh), ww = pool_window(pool_cols(p), ow);
        for (int64_t ch = 0; ch < p.C; ++ch) {
          int32_t sum = 0, best = 0;
          for (int64_t h = wh.begin; h < wh.end; h += wh.step)
            for (int64_t w = ww.begin; w < ww.end; w += ww.step) {
              const int32_t v = x[((n * p.H + h) * p.W + w) * p.C + ch];
              sum += v - static_cast<int32_t>(q.x_zero), best = std::max(best, v);
            }
          const int64_t at = ((n * p.oH + oh) * p.oW + ow) * p.C + ch;
          if (q.max) {
            c.out[0].as<uint8_t>()[at] = static_cast<uint8_t>(best);
            continue;
          }
          const float m = static_cast<float>(q.multiplier) / static_cast<float>(pool_divisor(p, wh, ww));
          put(c.out[0], at, std::fmaf(static_cast<float>(sum), m, static_cast<float>(q.offset)), 0, 255);
        }
      }
}

}  // namespace fastcnn::cpu::ref
