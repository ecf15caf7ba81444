// What it is: how a GemmTask is cut into strips, channel blocks and work items, and the calls that run one.
// What it is not: kernels; kernels/gemm.cpp runs what is planned here.
#pragma once
#include <vector>

#include "backend/cpu/kernels/kernels.h"

namespace fastcnn::cpu {

constexpr int64_t kL2Weights = 96 * 1024;  // floats: more do not stay in L2 beside pixels

// Fills nb, ohb, owb, nc, groups, pack, merge. nc depends on the shape alone, so the numbers do not depend on
// `threads`. False: one window does not fit the scratch memory of a thread.
bool plan_gemm(GemmTask& t, int lanes, int threads);

// Taps of all outputs of an image that a planned task multiplies.
int64_t multiplied_taps(const GemmTask& t);

int64_t packed_floats(const GemmTask& t, int lanes);  // weights of all batches after pack_weights
void run_pack(const PackTask& t, const KernelTable& k);
void run_packs(const std::vector<PackTask>& tasks, const KernelTable& k);
void run_gemm(const GemmTask& t, const KernelTable& k);
// Several whose outputs lie between each other's: threads take the same share of each; where all `weights` floats
// stay in L2, piece by piece, so that lines of the result go through the caches once.
void run_gemms(const std::vector<GemmTask>& tasks, int64_t weights, const KernelTable& k);
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
