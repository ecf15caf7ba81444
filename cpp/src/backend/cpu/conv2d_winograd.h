// What it is: what the adaptors of Winograd convolutions of stride 1 share: tasks and plans of the passes. What it
// is not: an adaptor (conv2d_winograd.cpp), or when a plan pays (conv2d_winograd_choice.cpp).
#pragma once
#include "backend/cpu/kernels/kernels.h"
#include "fastcnn/params.h"

namespace fastcnn::cpu {

enum class WinogradOrder { groups, blocks, planes };
struct WinogradPlan {
  WinogradOrder order = WinogradOrder::groups;
  int64_t chunk = 0;  // by blocks and planes: tiles whose windows are transformed at a time
  int64_t u_plane = 0, e_plane = 0;
  int64_t scratch = 0;  // floats of a thread
};

constexpr int64_t kGroupTiles = 40;  // a group of 64 channels and its weights fill L2

WinogradTask winograd_task(const Conv2dParams&);
WinogradTask winograd_bwd_data_task(const Conv2dParams&);  // a convolution with mirrored weights
inline int64_t winograd_tiles(const WinogradTask& t) { return t.N * t.tH * t.tW; }
// Where images are so much larger than the result that tiles of dx would mostly see what lies around dy: is the
// gradient of the data made by tiles of dy?
bool winograd_by_tiles_of_dy(const Conv2dParams&, const WinogradTask& forward, const WinogradTask& mirrored);
WinogradPlan plan_winograd(WinogradTask&, int threads, bool prepared);
WinogradPlan plan_winograd_gradient(WinogradTask&, int threads);
int64_t winograd_padded(int64_t channels);  // to whole vectors
int64_t winograd_weight_floats(const WinogradTask&);
void transform_winograd_weights(WinogradTask, bool bf16);  // all of them, to t.wt
// Windows to outputs. prepared: t.wt holds the transformed weights.
void run_winograd(WinogradTask&, bool bf16, void* workspace);
int64_t winograd_windows_workspace(WinogradTask, bool prepared);
int64_t winograd_parts(WinogradTask, bool prepared);  // of the moments, or of sums_before

}  // namespace fastcnn::cpu
