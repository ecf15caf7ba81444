// What it is: the implementation lists of the int8 ops beside convolution: conversions, sums, pooling.
#include <algorithm>
#include <cstring>

#include "backend/cpu/isa.h"
#include "backend/cpu/kernels/windows.h"
#include "backend/cpu/lists.h"
#include "backend/cpu/ref/ref.h"
#include "backend/cpu/scratch.h"
#include "backend/cpu/threads.h"

namespace fastcnn::cpu {
namespace {

constexpr int64_t kGrain = 16 * 1024;

const char* no_kernels(const Call&) { return kernels() ? nullptr : "isa is ref"; }

void run_quantize(const Call& c) {
  const auto& p = c.as<QuantizeParams>();
  parallel_for(c.in[0].numel(), kGrain, [&](int64_t b, int64_t e, int) {
    kernels()->quantize(c.in[0].as<float>(), static_cast<float>(1 / p.scale), static_cast<float>(p.zero),
                        c.out[0].as<uint8_t>(), b, e);
  });
}

void run_dequantize(const Call& c) {
  const auto& p = c.as<QuantizeParams>();
  parallel_for(c.in[0].numel(), kGrain, [&](int64_t b, int64_t e, int) {
    kernels()->dequantize(c.in[0].as<uint8_t>(), static_cast<float>(p.scale), static_cast<int32_t>(p.zero),
                          c.out[0].as<float>(), b, e);
  });
}

void run_add(const Call& c) {
  const auto& p = c.as<QuantizedAddParams>();
  parallel_for(c.in[0].numel(), kGrain, [&](int64_t b, int64_t e, int) {
    kernels()->quantized_add(c.in[0].as<uint8_t>(), p.has_b ? c.in[1].as<uint8_t>() : nullptr, p,
                             c.out[0].as<uint8_t>(), b, e);
  });
}

// Work items: pixels of y times blocks of channels.
void run_pool(const Call& c) {
  const auto& q = c.as<QuantizedPool2dParams>();
  const Pool2dParams& p = q.pool;
  const KernelTable& k = *kernels();
  constexpr int64_t kBlock = 512;
  const int64_t blocks = (p.C + kBlock - 1) / kBlock, window = std::max<int64_t>(1, p.H * p.W / (p.oH * p.oW));
  const bool to_float = c.out[0].dtype == DType::float32;
  const int64_t grain = std::max<int64_t>(1, kGrain / (window * std::min(p.C, kBlock)));
  with_scratch(p.N * p.oH * p.oW * blocks, grain, kBlock, [&](int64_t begin, int64_t end, float* scratch) {
    auto* sum = reinterpret_cast<int32_t*>(scratch);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t pixel = i / blocks, from = i % blocks * kBlock, C = std::min(kBlock, p.C - from);
      const int64_t n = pixel / (p.oH * p.oW), oh = pixel / p.oW % p.oH, ow = pixel % p.oW;
      const PoolWindow wh = pool_window(pool_rows(p), oh), ww = pool_window(pool_cols(p), ow);
      const uint8_t* x = c.in[0].as<uint8_t>() + n * p.H * p.W * p.C + from;
      const int64_t at = pixel * p.C + from;
      uint8_t* y = static_cast<uint8_t*>(c.out[0].data) + at;
      int32_t pixels = 0;
      if (q.max)
        std::memset(y, 0, static_cast<size_t>(C));
      else
        std::fill(sum, sum + C, 0);
      for (int64_t h = wh.begin; h < wh.end; h += wh.step)
        for (int64_t w = ww.begin; w < ww.end; w += ww.step, ++pixels) {
          if (q.max)
            k.quantized_max(x + (h * p.W + w) * p.C, y, C);
          else
            k.quantized_sum(x + (h * p.W + w) * p.C, sum, C);
        }
      if (q.max) continue;
      for (int64_t j = 0; j < C; ++j) sum[j] -= pixels * static_cast<int32_t>(q.x_zero);
      const float m = static_cast<float>(q.multiplier) / static_cast<float>(pool_divisor(p, wh, ww));
      void* to = to_float ? static_cast<void*>(c.out[0].as<float>() + at) : y;
      k.quantized_mean(sum, m, static_cast<float>(q.offset), to, to_float, C);
    }
  });
}

constexpr Implementation kQuantize[] = {{"simd", no_kernels, nullptr, run_quantize},
                                        {"ref", nullptr, nullptr, ref::quantize}};
constexpr Implementation kDequantize[] = {{"simd", no_kernels, nullptr, run_dequantize},
                                          {"ref", nullptr, nullptr, ref::dequantize}};
constexpr Implementation kAdd[] = {{"simd", no_kernels, nullptr, run_add},
                                   {"ref", nullptr, nullptr, ref::quantized_add}};
constexpr Implementation kPool[] = {{"simd", no_kernels, nullptr, run_pool},
                                    {"ref", nullptr, nullptr, ref::quantized_pool2d}};

}  // namespace

List quantize_list() { return kQuantize; }
List dequantize_list() { return kDequantize; }
List quantized_add_list() { return kAdd; }
List quantized_pool2d_list() { return kPool; }

}  // namespace fastcnn::cpu
