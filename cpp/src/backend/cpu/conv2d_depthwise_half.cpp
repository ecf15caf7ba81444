// What it is: the depthwise convolution of 16-bit floats: by a kernel of its own where the type is bfloat16 and
// the window common; else strips of rows are widened to a thread's scratch, computed there in float32 and rounded
// once. What it is not: the backward passes (via_float32.h).
#include <algorithm>

#include "backend/cpu/conv2d_adaptors.h"
#include "backend/cpu/conv2d_depthwise.h"
#include "backend/cpu/kernels/depthwise_args.h"
#include "backend/cpu/scratch.h"
#include "backend/cpu/threads.h"

namespace fastcnn::cpu {
namespace {

void convert(const void* from, DType from_type, void* to, DType to_type, int64_t n) {
  EltLoop l{};
  l.operands = 2, l.ndim = 1, l.total = l.shape[0] = n, l.strides[0][0] = l.strides[1][0] = 1;
  kernels()->copy_map(l, from, from_type, to, to_type, 0, n, 0);
}
const char* at(const Operand& o, int64_t element) { return o.as<char>() + element * 2; }

GemmTask task_of(const Conv2dParams& p) {
  GemmTask t = forward_task(p);
  by_channel(t, p);
  return t;
}

bool has_kernel(const Conv2dParams& p, DType type) {
  const bool window = (p.kW == 3 || p.kW == 5) && p.kH <= 5 && (p.sW == 1 || p.sW == 2) && p.dW == 1;
  return type == DType::bfloat16 && window && fused_act(p);
}

// Of weights by tap and bias, and the weights before that.
struct Space {
  float *w, *bias, *raw;
  int64_t bytes;
  Space(const Conv2dParams& p, void* base) {
    Carve c(base);
    w = c.take<float>(p.C * p.kH * p.kW), bias = c.take<float>(p.C), raw = c.take<float>(p.C * p.kH * p.kW);
    bytes = c.used();
  }
};

DepthwiseWords words_of(const Conv2dParams& p) { return {lanes(), p.kH, p.kW}; }
uint32_t bits_of(bfloat16 a) { return a.bits; }

}  // namespace

const char* depthwise_bf16_declines(const Conv2dParams& p) {
  return has_kernel(p, DType::bfloat16) ? nullptr : "window or activation that the bfloat16 kernel has not";
}

int64_t depthwise_bf16_floats(const Conv2dParams& p) {
  const DepthwiseWords words = words_of(p);
  return words.blocks(p.C) * words.block();
}

void pack_depthwise_bf16(const Conv2dParams& p, const bfloat16* w, const bfloat16* bias, float* dst) {
  const DepthwiseWords words = words_of(p);
  const int64_t taps = p.kH * p.kW, wide = 2 * words.lanes, step = words.block();
  parallel_for(words.blocks(p.C), ceil_div(4096, wide * taps), [&](int64_t begin, int64_t end, int) {
    auto* to = reinterpret_cast<uint32_t*>(dst) + begin * step;
    std::fill(to, to + (end - begin) * step, 0u);
    for (int64_t b = begin; b < end; ++b, to += step) {
      const int64_t channels = std::min(wide, p.C - b * wide);
      const bfloat16* from = w + b * wide * taps;
      for (int64_t c = 0; c < channels; ++c, from += taps) {
        uint32_t *single = to + words.lane(c) + words.single(0), *pair = to + words.lane(c) + words.pair(0);
        if (bias) to[words.lane(c)] = bits_of(bias[b * wide + c]) << 16;
        for (int64_t i = 0; i < taps; ++i) single[i * wide] = bits_of(from[i]) << 16;
        for (int64_t i = p.kW; i < taps; ++i)
          pair[(i - p.kW) * wide] = bits_of(from[i]) << 16 | bits_of(from[i - p.kW]);
      }
    }
  });
}

const char* depthwise_half_declines(const Call& c) {
  if (!kernels()) return "isa is ref";
  const auto& p = c.as<Conv2dParams>();
  if (p.has_norm_in || p.has_moments) return "input norm or moments";
  for (auto side : {c.in, c.out})
    for (const Operand& o : side)
      if ((o.dtype != DType::bfloat16 && o.dtype != DType::float16) || o.dtype != c.in[0].dtype)
        return "dtype is not of 16 bits";
  if (p.groups != p.C || p.O != p.C || p.groups == 1) return "not one channel per group";
  if (has_kernel(p, c.in[0].dtype)) return nullptr;
  const GemmTask t = task_of(p);
  return rows_read(t, 1) * t.x_h > 2 * kRowsFloats ? "rows are too long" : nullptr;
}

int64_t depthwise_half_packed(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  return has_kernel(p, c.in[0].dtype) ? depthwise_bf16_floats(p) * 4 : 0;
}
uint32_t depthwise_half_packs(const Call& c) { return c.as<Conv2dParams>().has_bias ? 3u << 1 : 1u << 1; }

int64_t depthwise_half_workspace(const Call& c) {
  if (c.prepared) return 0;
  const int64_t packed = depthwise_half_packed(c);
  return packed ? packed : Space(c.as<Conv2dParams>(), nullptr).bytes;
}

void depthwise_half_prepare(const Call& c, void* dst) {
  const auto& p = c.as<Conv2dParams>();
  pack_depthwise_bf16(p, c.in[1].as<bfloat16>(), p.has_bias ? c.in[2].as<bfloat16>() : nullptr,
                      static_cast<float*>(dst));
}

void depthwise_half_run(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  const KernelTable& k = *kernels();
  if (p.N * p.oH * p.oW == 0) return;
  GemmTask t = task_of(p);
  const DType type = c.in[0].dtype;
  if (has_kernel(p, type)) {
    if (!c.prepared) depthwise_half_prepare(c, c.workspace);
    // bfloat16 addresses travel in tasks as those of floats.
    t.w = static_cast<const float*>(c.prepared ? c.prepared : c.workspace);
    t.x = reinterpret_cast<const float*>(c.in[0].data), t.y = reinterpret_cast<float*>(c.out[0].data);
    if (p.has_residual) t.residual = reinterpret_cast<const float*>(c.in[c.in.size() - 1].data);
    parallel_for(t.N * t.oH, ceil_div(16 * 1024, t.oW * p.C),
                 [&](int64_t b, int64_t e, int) { k.conv2d_depthwise_bf16(t, b, e); });
    return;
  }
  const Space space(p, c.workspace);
  const int64_t taps = p.kH * p.kW;
  convert(c.in[1].data, type, space.raw, DType::float32, p.C * taps);
  k.transpose_matrix(space.raw, taps, p.C, space.w, 0, taps);
  if (p.has_bias) convert(c.in[2].data, type, space.bias, DType::float32, p.C);
  t.w = space.w, t.bias = p.has_bias ? space.bias : nullptr;
  const Operand* residual = p.has_residual ? &c.in[c.in.size() - 1] : nullptr;

  // Strips for all threads: results do not depend on where they end.
  const int64_t wanted = 4 * num_threads(), y_row = p.oW * p.C;
  int64_t rows = strip_rows(t);
  rows = std::min(rows, std::max<int64_t>(1, t.N * t.oH / wanted));
  const int64_t per_image = ceil_div(t.oH, rows);
  const int64_t held_floats = aligned(rows_read(t, rows) * t.x_h), made_floats = aligned(rows * y_row);
  const int64_t work = std::max<int64_t>(1, rows * y_row * taps);
  with_scratch(
      t.N * per_image, ceil_div(64 * 1024, work), held_floats + made_floats * (residual ? 2 : 1),
      [&](int64_t b, int64_t e, float* scratch) {
        HeldRows held{scratch};
        float *made = scratch + held_floats, *more = made + made_floats;
        for (int64_t i = b; i < e; ++i) {
          const int64_t first = i % per_image * rows, last = std::min(first + rows, t.oH);
          const int64_t from = i / per_image * t.oH + first, to = from + last - first;
          held.hold_for(t, from, to, [&](int64_t n, int64_t begin, int64_t end, float* dst) {
            convert(at(c.in[0], n * t.x_n + begin * t.x_h), type, dst, DType::float32, (end - begin) * t.x_h);
          });
          GemmTask q = t;
          q.x = held.scratch - held.n * t.x_n - held.h0 * t.x_h;
          q.y = made - from * y_row;
          if (residual) {
            convert(at(*residual, from * y_row), type, more, DType::float32, (to - from) * y_row);
            q.residual = more - from * y_row;
          }
          k.conv2d_depthwise(q, from, to);
          convert(made, DType::float32, c.out[0].as<char>() + from * y_row * 2, type, (to - from) * y_row);
        }
      });
}

}  // namespace fastcnn::cpu
