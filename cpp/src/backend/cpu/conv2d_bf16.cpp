// What it is: the dense implementations of conv2d and its backward passes on bfloat16 operands: products of pairs,
// float32 sums, one rounding of each result. What it is not: arithmetic (kernels/), other dtypes (conv2d.cpp).
#include <algorithm>
#include <cstring>

#include "backend/cpu/conv2d_adaptors.h"
#include "backend/cpu/conv2d_tasks.h"
#include "backend/cpu/grad_plan.h"
#include "backend/cpu/scratch.h"
#include "backend/cpu/threads.h"
#include "backend/cpu/workspace.h"

namespace fastcnn::cpu {
namespace {

const char* declines_pairs(const Call& c) {
  if (!kernels()) return "isa is ref";
  for (const Operand& o : c.in)
    if (o.dtype != DType::bfloat16) return "dtype is not bfloat16";
  const auto& p = c.as<Conv2dParams>();
  if (p.has_norm_in) return "input norm";
  if (p.has_moments) return "moments: they cost bfloat16 what the pass over half the bytes does";
  if (p.groups > 1 && p.C == p.groups) return "depthwise: no channels to pair";
  return nullptr;
}

// bfloat16 addresses travel in tasks as those of floats.
const float* rows(const Operand& o, int64_t elements = 0) {
  return reinterpret_cast<const float*>(o.as<bfloat16>() + elements);
}
float* rows_out(const Operand& o, int64_t elements = 0) {
  return reinterpret_cast<float*>(o.as<bfloat16>() + elements);
}

// Sums of chunks, with vectors over output channels once more transposed, before they are rounded. A single chunk
// that stays float32 needs no space: it is the result.
struct GradSpace {
  float *dw = nullptr, *dbias, *transposed;
  int64_t bytes;
  GradSpace(const WeightsGradTask& t, bool bias, bool rounds, void* base) {
    Carve w(base);
    if (rounds || t.chunks > 1 || t.o_inner) dw = w.take<float>(t.chunks * t.B * t.w_b);
    dbias = bias ? w.take<float>(t.chunks * t.B * t.O) : nullptr;
    transposed = t.o_inner ? w.take<float>(t.B * t.w_b) : nullptr;
    bytes = w.used();
  }
};

}  // namespace

const char* pairs_declines(const Call& c) {
  if (const char* why = declines_pairs(c)) return why;
  if (!fused_act(c.as<Conv2dParams>())) return "activation is not none, relu or relu6";
  GemmTask t = forward_task(c.as<Conv2dParams>());
  return plan_gemm_bf16(t, lanes(), 1) ? nullptr : "window too large";
}

int64_t pairs_packed(const Call& c) { return packed_words_bf16(forward_task(c.as<Conv2dParams>()), lanes()) * 4; }

int64_t pairs_workspace(const Call& c) { return c.prepared ? 0 : pairs_packed(c); }

static PackTask pairs_pack(const Call& c, const GemmTask& t, void* dst) {
  PackTask w;
  w.B = t.B, w.O = t.O, w.kH = t.kH, w.kW = t.kW, w.C = t.C;
  w.s_c = 1, w.s_kw = t.C, w.s_kh = t.kW * t.C, w.s_o = t.kH * w.s_kh;
  w.src_b = t.O * w.s_o, w.dst_b = packed_words_bf16(t, lanes()) / t.B;
  w.src = rows(c.in[1]), w.dst = static_cast<float*>(dst);
  return w;
}

void pairs_prepare(const Call& c, void* dst) {
  run_pack_bf16(pairs_pack(c, forward_task(c.as<Conv2dParams>()), dst), *kernels());
}

void pairs_run(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  const KernelTable& k = *kernels();
  GemmTask t = forward_task(p);
  plan_gemm_bf16(t, k.vector_floats, num_threads());
  t.w = static_cast<const float*>(c.prepared ? c.prepared : c.workspace);
  t.w_b = packed_words_bf16(t, k.vector_floats) / t.B;
  if (p.N == 0) return;
  t.x = rows(c.in[0]), t.y = rows_out(c.out[0]);
  t.bias = p.has_bias ? rows(c.in[2]) : nullptr;
  t.residual = p.has_residual ? rows(c.in[c.in.size() - 1]) : nullptr;
  if (c.prepared)
    run_gemm_bf16(t, k);
  else
    run_pack_and_gemm_bf16(pairs_pack(c, t, c.workspace), t, k);
}

const char* pairs_bwd_data_declines(const Call& c) {
  if (const char* why = declines_pairs(c)) return why;
  bool fits = true;
  for_each_residue(c.as<Conv2dParams>(), lanes(), [&](GemmTask& t, PackTask&, int64_t, int64_t) {
    fits = fits && plan_gemm_bf16(t, lanes(), 1);
  });
  return fits ? nullptr : "window too large";
}

int64_t pairs_bwd_data_packed(const Call& c) {
  int64_t words = 0;
  for_each_residue(c.as<Conv2dParams>(), lanes(), [&](GemmTask& t, PackTask&, int64_t, int64_t) {
    words += aligned(packed_words_bf16(t, lanes()));
  });
  return words * 4;
}

int64_t pairs_bwd_data_workspace(const Call& c) { return c.prepared ? 0 : pairs_bwd_data_packed(c); }

void pairs_bwd_data_prepare(const Call& c, void* dst) {
  float* packed = static_cast<float*>(dst);
  for_each_residue(c.as<Conv2dParams>(), lanes(), [&](GemmTask& t, PackTask& w, int64_t src, int64_t) {
    const int64_t words = packed_words_bf16(t, lanes());
    w.src = rows(c.in[1], src), w.dst = packed, w.dst_b = words / t.B;
    packed += aligned(words);
    if (t.kH * t.kW > 0) run_pack_bf16(w, *kernels());
  });
}

void pairs_bwd_data_run(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  if (p.N == 0) return;
  const KernelTable& k = *kernels();
  const float* packed = static_cast<const float*>(c.prepared ? c.prepared : c.workspace);
  for_each_residue(p, k.vector_floats, [&](GemmTask& t, PackTask& w, int64_t src, int64_t dst) {
    plan_gemm_bf16(t, k.vector_floats, num_threads());
    const int64_t words = packed_words_bf16(t, k.vector_floats);
    t.w = packed, t.w_b = words / t.B;
    packed += aligned(words);
    t.x = rows(c.in[0]), t.y = rows_out(c.out[0], dst);
    t.bias = c.in.size() > 2 ? rows(c.in[2]) : nullptr;
    if (c.prepared) return run_gemm_bf16(t, k);
    w.src = rows(c.in[1], src), w.dst = const_cast<float*>(t.w), w.dst_b = t.w_b;
    run_pack_and_gemm_bf16(w, t, k);
  });
}

const char* pairs_bwd_weights_declines(const Call& c) {
  if (const char* why = declines_pairs(c)) return why;
  for (const Operand& o : c.out)
    if (o.dtype != c.out[0].dtype || (o.dtype != DType::bfloat16 && o.dtype != DType::float32))
      return "results are not bfloat16 or float32";
  WeightsGradTask t = weights_task(c.as<Conv2dParams>());
  return plan_weights_grad(t, 2, lanes(), 1) ? nullptr : "window too large";
}

int64_t pairs_bwd_weights_workspace(const Call& c) {
  WeightsGradTask t = weights_task(c.as<Conv2dParams>());
  plan_weights_grad(t, 2, lanes(), 1);
  return GradSpace(t, c.out.size() > 1, c.out[0].dtype == DType::bfloat16, nullptr).bytes;
}

void pairs_bwd_weights_run(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  const KernelTable& k = *kernels();
  WeightsGradTask t = weights_task(p);
  plan_weights_grad(t, 2, k.vector_floats, num_threads());
  const bool bias = c.out.size() > 1;
  const int64_t total = t.B * t.w_b, biases = t.B * t.O;
  const bool rounds = c.out[0].dtype == DType::bfloat16;
  if (p.N * p.oH * p.oW == 0) {
    for (const Operand& o : c.out) std::memset(o.data, 0, static_cast<size_t>(o.numel()) * dtype_size(o.dtype));
    return;
  }
  GradSpace w(t, bias, rounds, c.workspace);
  t.x = rows(c.in[0]), t.dy = rows(c.in[1]), t.dw = w.dw ? w.dw : c.out[0].as<float>(), t.dbias = w.dbias;
  const int64_t items = t.chunks * t.B * t.nc * t.groups;
  with_scratch(items, 1, kGradFloats,
               [&](int64_t b, int64_t e, float* s) { k.conv2d_weights_grad_bf16(t, s, b, e); });
  auto sum = [&](const float* in, int64_t n, int64_t chunks, const Operand& out) {
    parallel_for(n, 16 * 1024, [&](int64_t b, int64_t e, int) {
      if (out.dtype == DType::bfloat16)
        k.sum_arrays_bf16(in, n, chunks, out.as<bfloat16>(), b, e);
      else
        k.sum_arrays(in, n, chunks, out.as<float>(), b, e);
    });
  };
  if (t.o_inner) {
    parallel_for(total, 16 * 1024,
                 [&](int64_t b, int64_t e, int) { k.sum_arrays(w.dw, total, t.chunks, w.dw, b, e); });
    for (int64_t g = 0; g < t.B; ++g)
      parallel_for(t.O, 64, [&](int64_t b, int64_t e, int) {
        k.transpose_matrix(w.dw + g * t.w_b, t.O, t.w_b / t.O, w.transposed + g * t.w_b, b, e);
      });
    sum(w.transposed, total, 1, c.out[0]);
  } else if (w.dw) {
    sum(w.dw, total, t.chunks, c.out[0]);
  }
  if (bias) sum(w.dbias, biases, t.chunks, c.out[1]);
}

}  // namespace fastcnn::cpu
