// What it is: the implementations of matmul on the CPU. What it is not: arithmetic (kernels/gemm.cpp, ref/).
#include <algorithm>

#include "backend/cpu/gemm_plan.h"
#include "backend/cpu/isa.h"
#include "backend/cpu/lists.h"
#include "backend/cpu/ref/ref.h"
#include "backend/cpu/threads.h"
#include "backend/cpu/via_float32.h"

namespace fastcnn::cpu {
namespace {

const char* declines(const Call& c, DType dtype, const char* why) {
  if (!kernels()) return "isa is ref";
  for (const Operand& o : c.in)
    if (o.dtype != dtype) return why;
  const Act act = c.as<MatmulParams>().act.act;
  if (act != Act::none && act != Act::relu && act != Act::relu6) return "activation is not none, relu or relu6";
  return nullptr;
}
const char* packed_declines(const Call& c) { return declines(c, DType::float32, "dtype is not float32"); }

GemmTask task(const MatmulParams& p) {
  GemmTask t;
  t.B = p.batch, t.x_b = p.a_batched ? p.M * p.K : 0, t.y_b = p.M * p.N;
  t.N = t.H = t.oH = 1;
  t.W = t.oW = p.M, t.C = p.K, t.O = p.N;
  t.x_w = p.trans_a ? 1 : p.K, t.x_c = p.trans_a ? p.M : 1, t.y_w = p.N;
  t.act = p.act.act;
  return t;
}

int64_t one_packed(const GemmTask& t, int lanes) { return t.B == 0 ? 0 : packed_floats(t, lanes) / t.B; }

int64_t packed_bytes(const Call& c) {
  const auto& p = c.as<MatmulParams>();
  const GemmTask t = task(p);
  return one_packed(t, kernels()->vector_floats) * (p.b_batched ? p.batch : 1) * 4;
}

int64_t workspace(const Call& c) { return c.prepared ? 0 : packed_bytes(c); }

PackTask pack_task(const Call& c, const GemmTask& t, void* dst) {
  const auto& p = c.as<MatmulParams>();
  PackTask w;
  w.B = p.b_batched ? p.batch : 1, w.O = p.N, w.C = p.K, w.nc = t.nc;
  w.s_o = p.trans_b ? p.K : 1, w.s_c = p.trans_b ? 1 : p.N;
  w.src_b = p.K * p.N, w.dst_b = one_packed(t, kernels()->vector_floats);
  w.src = c.in[1].as<float>(), w.dst = static_cast<float*>(dst);
  return w;
}

void prepare(const Call& c, void* dst) {
  GemmTask t = task(c.as<MatmulParams>());
  plan_gemm(t, kernels()->vector_floats, num_threads());
  run_pack(pack_task(c, t, dst), *kernels());
}

void run(const Call& c) {
  const auto& p = c.as<MatmulParams>();
  const KernelTable& k = *kernels();
  if (p.batch * p.M * p.N == 0) return;
  GemmTask t = task(p);
  plan_gemm(t, k.vector_floats, num_threads());
  t.w = static_cast<const float*>(c.prepared ? c.prepared : c.workspace);
  t.w_b = p.b_batched ? one_packed(t, k.vector_floats) : 0;
  t.x = c.in[0].as<float>(), t.y = c.out[0].as<float>();
  t.bias = p.has_bias ? c.in[2].as<float>() : nullptr;
  if (c.prepared)
    run_gemm(t, k);
  else
    run_pack_and_gemm(pack_task(c, t, c.workspace), t, k);
}

// ---- bfloat16: words of two neighbours along K ----

int64_t one_packed_bf16(const GemmTask& t, int lanes) { return t.B == 0 ? 0 : packed_words_bf16(t, lanes) / t.B; }

const char* pairs_declines(const Call& c) {
  if (const char* why = declines(c, DType::bfloat16, "dtype is not bfloat16")) return why;
  GemmTask t = task(c.as<MatmulParams>());
  return plan_gemm_bf16(t, kernels()->vector_floats, 1) ? nullptr : "row too long";
}

int64_t pairs_packed(const Call& c) {
  const auto& p = c.as<MatmulParams>();
  return one_packed_bf16(task(p), kernels()->vector_floats) * (p.b_batched ? p.batch : 1) * 4;
}

int64_t pairs_workspace(const Call& c) { return c.prepared ? 0 : pairs_packed(c); }

// bfloat16 addresses travel in tasks as those of floats.
PackTask pairs_pack(const Call& c, const GemmTask& t, void* dst) {
  PackTask w = pack_task(c, t, dst);
  w.nc = 1, w.dst_b = one_packed_bf16(t, kernels()->vector_floats);
  return w;
}

void pairs_prepare(const Call& c, void* dst) {
  run_pack_bf16(pairs_pack(c, task(c.as<MatmulParams>()), dst), *kernels());
}

void pairs_run(const Call& c) {
  const auto& p = c.as<MatmulParams>();
  const KernelTable& k = *kernels();
  GemmTask t = task(p);
  if (p.batch * p.M * p.N == 0) return;
  plan_gemm_bf16(t, k.vector_floats, num_threads());
  t.w = static_cast<const float*>(c.prepared ? c.prepared : c.workspace);
  t.w_b = p.b_batched ? one_packed_bf16(t, k.vector_floats) : 0;
  t.x = c.in[0].as<float>(), t.y = c.out[0].as<float>();
  t.bias = p.has_bias ? c.in[2].as<float>() : nullptr;
  if (c.prepared)
    run_gemm_bf16(t, k);
  else
    run_pack_and_gemm_bf16(pairs_pack(c, t, c.workspace), t, k);
}

// ---- few rows, or short sums ----

FewTask few_task(const Call& c) {
  const auto& p = c.as<MatmulParams>();
  FewTask t;
  t.M = p.M, t.N = p.N, t.K = p.K, t.act = p.act.act;
  t.a_m = p.trans_a ? 1 : p.K, t.a_k = p.trans_a && p.M != 1 ? p.M : 1;
  t.b_k = p.trans_b ? 1 : p.N, t.b_n = p.trans_b ? p.K : 1;
  t.a = c.in[0].as<float>(), t.b = c.in[1].as<float>(), t.y = c.out[0].as<float>();
  t.bias = p.has_bias ? c.in[2].as<float>() : nullptr;
  return t;
}

const char* few_rows_declines(const Call& c) {
  if (const char* why = packed_declines(c)) return why;
  const auto& p = c.as<MatmulParams>();
  if (p.batch != 1 || p.M > kFewRows) return "many rows";
  return p.trans_b && p.trans_a && p.M != 1 ? "both operands are transposed" : nullptr;
}

void few_rows_run(const Call& c) {
  const FewTask t = few_task(c);
  const KernelTable& k = *kernels();
  constexpr int64_t kColumns = 16;
  if (t.M == 0) return;
  parallel_for(
      ceil_div(t.N, kColumns), ceil_div(32 * 1024, kColumns * std::max<int64_t>(t.K, 1)),
      [&](int64_t b, int64_t e, int) { k.matmul_few_rows(t, b * kColumns, std::min(e * kColumns, t.N)); });
}

const char* outer_declines(const Call& c) {
  if (const char* why = packed_declines(c)) return why;
  const auto& p = c.as<MatmulParams>();
  if (p.batch != 1 || p.K > kFewRows) return "long sums";
  return p.trans_b ? "b is transposed" : nullptr;
}

void outer_run(const Call& c) {
  const FewTask t = few_task(c);
  parallel_for(t.M, ceil_div(16 * 1024, std::max<int64_t>(t.N, 1)),
               [&](int64_t b, int64_t e, int) { kernels()->matmul_outer(t, b, e); });
}

constexpr Implementation kList[] = {
    {"few_rows", few_rows_declines, nullptr, few_rows_run},
    {"outer", outer_declines, nullptr, outer_run},
    {"packed", packed_declines, workspace, run, packed_bytes, prepare},
    {"pairs", pairs_declines, pairs_workspace, pairs_run, pairs_packed, pairs_prepare},
    ViaFloat32<matmul_list>::entry(),
    {"ref", nullptr, nullptr, ref::matmul},
};

}  // namespace

List matmul_list() { return kList; }

}  // namespace fastcnn::cpu
