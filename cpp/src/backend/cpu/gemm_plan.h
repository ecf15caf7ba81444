// What it is: how a GemmTask is cut into strips, channel blocks and work items, and the calls that run one.
// What it is not: kernels; kernels/gemm.cpp runs what is planned here.
#pragma once
#include "backend/cpu/kernels/kernels.h"

namespace fastcnn::cpu {

// Fills nb, ohb, owb, nc, groups, pack, merge. nc depends on the shape alone, so the numbers do not depend on
// `threads`. False: one window does not fit the scratch memory of a thread.
bool plan_gemm(GemmTask& t, int lanes, int threads);

int64_t packed_floats(const GemmTask& t, int lanes);  // weights of all batches after pack_weights
void run_pack(const PackTask& t, const KernelTable& k);
void run_gemm(const GemmTask& t, const KernelTable& k);
// Both, for weights that no plan keeps: where groups of output blocks suffice for the threads, each packs those it
// reads itself, right before it does, and they stay in its caches.
void run_pack_and_gemm(const PackTask& w, const GemmTask& t, const KernelTable& k);

// The same for bfloat16 operands: nc is 1, packed weights are words of two channels.
bool plan_gemm_bf16(GemmTask& t, int lanes, int threads);
int64_t packed_words_bf16(const GemmTask& t, int lanes);
void run_pack_bf16(const PackTask& w, const KernelTable& k);
void run_gemm_bf16(const GemmTask& t, const KernelTable& k);
void run_pack_and_gemm_bf16(const PackTask& w, const GemmTask& t, const KernelTable& k);

}  // namespace fastcnn::cpu
