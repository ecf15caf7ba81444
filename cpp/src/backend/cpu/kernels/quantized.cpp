// What it is: int8 work beside the dense convolution: depthwise convolution, conversions, sums of two tensors,
// pooling. Every float operation is a fused multiply-add or a rounding to even, so all ISAs give the same bits.
#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/simd_bytes.h"

namespace fastcnn::cpu::FASTCNN_ISA {

// ---- depthwise: kNumbers taps of 4 * kLanes channels at a time ----

namespace {

// 4 vectors whose lanes are in the order that interleave gives: the first n in their own order.
FASTCNN_OP void store_interleaved(float* p, const vf v[4], int64_t n) {
  float lanes[4][kLanes], t[4 * kLanes];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    store(lanes[i], v[i]);
    for (int l = 0; l < kLanes; l += 4) memcpy(t + 4 * l + 4 * i, lanes[i] + l, 16);
  }
  memcpy(p, t, static_cast<size_t>(n < 4 * kLanes ? n : 4 * kLanes) * 4);
}

// Channels c to c + left, at most 4 vectors, of P pixels, of which `pixels` exist.
template <int P>
FASTCNN_OP void depthwise_block(const QuantizedDepthwiseTask& t, const uint8_t* const* taps, int64_t words,
                                int64_t c, int64_t left, int64_t y, int pixels) {
  vi acc[P][4];
#pragma GCC unroll 4
  for (int v = 0; v < 4; ++v)
#pragma GCC unroll 2
    for (int p = 0; p < P; ++p) acc[p][v] = load_int(t.start + c + v * kLanes);
  const char* w = static_cast<const char*>(t.w) + c * words * 4 * P;
  for (int64_t q = 0; q < words; ++q, taps += kNumbers) {
    vi bytes[kNumbers], x[4];
#pragma GCC unroll 4
    for (int i = 0; i < kNumbers; ++i) bytes[i] = load_bytes(taps[i] + c, left);
    interleave(bytes, x);
#pragma GCC unroll 2
    for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v, w += kBytes) acc[p][v] = dot(acc[p][v], x[v], load_int(w));
  }
  const Requantize& r = t.out;
  const vf low = set1(r.low), high = set1(r.high), residual = set1(r.residual_multiplier);
  const auto least = static_cast<uint8_t>(__builtin_rintf(r.low));
#pragma GCC unroll 2
  for (int p = 0; p < P; ++p, y += t.C) {
    if (p == pixels) break;
    vf value[4];
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v)
      value[v] = fused_multiply_add(to_float(acc[p][v]), load(r.multiplier + c + v * kLanes),
                                    load(r.offset + c + v * kLanes));
    if (r.residual) {
      // Single bytes in the same order as the words, whose other numbers are 0.
      vi bytes[kNumbers] = {load_bytes(r.residual + y + c, left)}, x[4];
      interleave(bytes, x);
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) value[v] = fused_multiply_add(to_float(x[v]), residual, value[v]);
    }
    if (r.to_float) {
      store_interleaved(static_cast<float*>(t.y) + y + c, value, left);
      continue;
    }
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) acc[p][v] = round_below(value[v], low, high);
    store_bytes(static_cast<uint8_t*>(t.y) + y + c, acc[p], left, least);
  }
}

// `length` channels of P pixels.
template <int P>
void depthwise_pixels(const QuantizedDepthwiseTask& t, const uint8_t* const* taps, int64_t words, int64_t length,
                      int64_t y, int pixels) {
  int64_t c = 0;
  for (; c + kBytes <= length; c += kBytes) depthwise_block<P>(t, taps, words, c, kBytes, y, pixels);
  if (c < length) depthwise_block<P>(t, taps, words, c, length - c, y, pixels);
}

}  // namespace

void quantized_depthwise(const QuantizedDepthwiseTask& t, int64_t begin, int64_t end) {
  // Columns of a window: of a pair one more.
  const int64_t columns = t.pair ? 4 : t.kW, count = t.kH * columns;
  const int64_t words = (count + kNumbers - 1) / kNumbers;
  const uint8_t* taps[kQuantizedTaps * 4 / 3 + 3];
  int64_t offsets[kQuantizedTaps * 4 / 3 + 3];
  for (int64_t i = 0; i < count; ++i) offsets[i] = (i / columns * t.dH * t.W + i % columns * t.dW) * t.C;
  for (int64_t i = count; i < kNumbers * words; ++i) taps[i] = t.zeros;  // their weights are 0
  for (int64_t row = begin; row < end; ++row) {
    const int64_t n = row / t.oH, h0 = row % t.oH * t.sH - t.pT;
    const uint8_t* image = t.x + n * t.H * t.W * t.C;
    const bool rows = h0 >= 0 && h0 + (t.kH - 1) * t.dH < t.H;
    for (int64_t ow = 0, step = 1; ow < t.oW; ow += step) {
      const int64_t w0 = ow * t.sW - t.pL, last = w0 + (columns - 1) * t.dW;
      const uint8_t* at = image + (h0 * t.W + w0) * t.C;
      step = t.pair ? (ow + 1 < t.oW ? 2 : 1) : ow + t.group <= t.oW ? t.group : 1;
      if (rows && w0 >= 0 && last + (t.pair ? 0 : step - 1) < t.W) {
        for (int64_t i = 0; i < count; ++i) taps[i] = at + offsets[i];
      } else {
        if (!t.pair) step = 1;
        for (int64_t kh = 0, i = 0; kh < t.kH; ++kh)
          for (int64_t kw = 0; kw < columns; ++kw, ++i) {
            const int64_t h = h0 + kh * t.dH, w = w0 + kw * t.dW;
            taps[i] = h >= 0 && h < t.H && w >= 0 && w < t.W ? at + offsets[i] : t.zeros;
          }
      }
      const int64_t y = (row * t.oW + ow) * t.C;
      if (t.pair)
        depthwise_pixels<2>(t, taps, words, t.C, y, static_cast<int>(step));
      else
        depthwise_pixels<1>(t, taps, words, step * t.C, y, 1);
    }
  }
}

// ---- elementwise ----

void quantize(const float* x, float inverse, float zero, uint8_t* y, int64_t begin, int64_t end) {
  const vf low = set1(0), high = set1(255), a = set1(inverse), b = set1(zero);
  for (int64_t i = begin; i < end; i += kLanes) {
    const int n = static_cast<int>(end - i < kLanes ? end - i : kLanes);
    const vf v = fused_multiply_add(n == kLanes ? load(x + i) : loadn(x + i, n), a, b);
    store_lanes(y + i, round_to_int(vmin(vmax(v, low), high)), n);  // NaN becomes `low`
  }
}

void dequantize(const uint8_t* x, float scale, int32_t zero, float* y, int64_t begin, int64_t end) {
  const vi shift = set1_int(zero);
  const vf s = set1(scale);
  for (int64_t i = begin; i < end; i += kLanes) {
    const int n = static_cast<int>(end - i < kLanes ? end - i : kLanes);
    storen(y + i, mul(to_float(load_lanes(x + i, n) - shift), s), n);
  }
}

void quantized_add(const uint8_t* a, const uint8_t* b, const QuantizedAddParams& p, uint8_t* y, int64_t begin,
                   int64_t end) {
  const vf low = set1(static_cast<float>(p.low)), high = set1(static_cast<float>(p.high));
  const vf ma = set1(static_cast<float>(p.a_multiplier)), mb = set1(static_cast<float>(p.b_multiplier));
  const vf offset = set1(static_cast<float>(p.offset));
  for (int64_t i = begin; i < end; i += kLanes) {
    const int n = static_cast<int>(end - i < kLanes ? end - i : kLanes);
    vf v = offset;
    if (b) v = fused_multiply_add(to_float(load_lanes(b + i, n)), mb, v);
    v = fused_multiply_add(to_float(load_lanes(a + i, n)), ma, v);
    store_lanes(y + i, round_to_int(vmin(vmax(v, low), high)), n);
  }
}

// ---- pooling: one pixel of a window ----

void quantized_max(const uint8_t* x, uint8_t* y, int64_t C) {
  for (int64_t c = 0; c < C; ++c) y[c] = x[c] > y[c] ? x[c] : y[c];
}

void quantized_sum(const uint8_t* x, int32_t* sum, int64_t C) {
  for (int64_t c = 0; c < C; ++c) sum[c] += x[c];
}

void quantized_mean(const int32_t* sum, float multiplier, float offset, void* y, bool to_float_, int64_t C) {
  const vf low = set1(0), high = set1(255), m = set1(multiplier), o = set1(offset);
  for (int64_t c = 0; c < C; c += kLanes) {
    const int n = static_cast<int>(C - c < kLanes ? C - c : kLanes);
    int32_t t[kLanes] = {};
    memcpy(t, sum + c, static_cast<size_t>(n) * 4);
    const vf v = fused_multiply_add(to_float(load_int(t)), m, o);
    if (to_float_)
      storen(static_cast<float*>(y) + c, v, n);
    else
      store_lanes(static_cast<uint8_t*>(y) + c, round_to_int(vmin(vmax(v, low), high)), n);
  }
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
