// What it is: the adaptors that conv2d.cpp lists but other files define.
#pragma once
#include "backend/backend.h"
#include "backend/cpu/conv2d_tasks.h"

namespace fastcnn::cpu {

#define FASTCNN_ADAPTOR(name)               \
  const char* name##_declines(const Call&); \
  int64_t name##_workspace(const Call&);    \
  void name##_run(const Call&);
FASTCNN_ADAPTOR(dense)
FASTCNN_ADAPTOR(dense_bwd_data)
FASTCNN_ADAPTOR(dense_bwd_weights)
FASTCNN_ADAPTOR(depthwise)
FASTCNN_ADAPTOR(depthwise_bwd_data)
FASTCNN_ADAPTOR(depthwise_bwd_weights)
FASTCNN_ADAPTOR(depthwise_joint)  // conv2d_bwd
FASTCNN_ADAPTOR(depthwise_half)   // floats of 16 bits
FASTCNN_ADAPTOR(pairs)            // bfloat16
FASTCNN_ADAPTOR(pairs_bwd_data)
FASTCNN_ADAPTOR(pairs_bwd_weights)
FASTCNN_ADAPTOR(winograd)
FASTCNN_ADAPTOR(winograd_bwd_data)
FASTCNN_ADAPTOR(winograd_bwd_weights)
FASTCNN_ADAPTOR(winograd_joint)  // conv2d_bwd
FASTCNN_ADAPTOR(weights_alone)   // conv2d_bwd
FASTCNN_ADAPTOR(group_lanes)
FASTCNN_ADAPTOR(group_lanes_bwd_data)
FASTCNN_ADAPTOR(group_lanes_bwd_weights)
FASTCNN_ADAPTOR(merged)
FASTCNN_ADAPTOR(merged_bwd_data)
FASTCNN_ADAPTOR(merged_bwd_weights)
FASTCNN_ADAPTOR(taps_bwd_weights)
FASTCNN_ADAPTOR(planes)
FASTCNN_ADAPTOR(planes_bwd_data)
FASTCNN_ADAPTOR(planes_bwd_weights)
FASTCNN_ADAPTOR(few_outputs)
FASTCNN_ADAPTOR(few_outputs_bwd_data)
FASTCNN_ADAPTOR(subsampled)
FASTCNN_ADAPTOR(subsampled_bwd_data)
FASTCNN_ADAPTOR(subsampled_bwd_weights)
FASTCNN_ADAPTOR(product)
FASTCNN_ADAPTOR(product_bwd_data)
FASTCNN_ADAPTOR(product_bwd_weights)
FASTCNN_ADAPTOR(phases)
FASTCNN_ADAPTOR(phases_bwd_data)
FASTCNN_ADAPTOR(phases_bwd_weights)
FASTCNN_ADAPTOR(trimmed)
FASTCNN_ADAPTOR(trimmed_bwd_data)
FASTCNN_ADAPTOR(narrow_bwd_data)
FASTCNN_ADAPTOR(columns_bwd_data)
FASTCNN_ADAPTOR(winograd2x2)
FASTCNN_ADAPTOR(winograd2x2_bwd_data)
FASTCNN_ADAPTOR(winograd2x2_bwd_weights)
FASTCNN_ADAPTOR(parities)
FASTCNN_ADAPTOR(parities_bwd_data)
FASTCNN_ADAPTOR(parities_bwd_weights)
#undef FASTCNN_ADAPTOR
int64_t pairs_packed(const Call&);
void pairs_prepare(const Call&, void* dst);
int64_t depthwise_half_packed(const Call&);
void depthwise_half_prepare(const Call&, void* dst);
uint32_t depthwise_half_packs(const Call&);  // operands
int64_t pairs_bwd_data_packed(const Call&);
void pairs_bwd_data_prepare(const Call&, void* dst);
int64_t winograd_prepared(const Call&);
void winograd_prepare(const Call&, void* dst);

// What an adaptor that makes another convolution of a call hands it to: the first that takes it.
struct Inner {
  const char* (*declines)(const Call&);
  int64_t (*workspace)(const Call&);
  void (*run)(const Call&);
};
struct InnerPass {
  Inner first, second;
  Can can;
  const Inner& of(const Call& d) const { return first.declines(d) ? second : first; }
};

// Why Winograd cannot compute a convolution (of any pass); *_declines also ask whether it pays.
const char* winograd_cannot(const Call&);
const char* parities_cannot(const Call&);
const char* parities_bwd_cannot(const Call&);
const char* winograd2x2_cannot(const Call&);
const char* winograd2x2_bwd_data_cannot(const Call&);
const char* winograd2x2_bwd_weights_cannot(const Call&);

// The same for both backward passes together.
const char* winograd_passes_decline(const Call&);

// Why a convolution on the parities of an image, which stands for one of stride 2 and `taps` taps, is no work for
// Winograd.
enum class WinogradPass { forward, bwd_data, bwd_weights };
const char* winograd_not_worth_it(const Conv2dParams& on_parities, WinogradPass, int64_t taps);

}  // namespace fastcnn::cpu
