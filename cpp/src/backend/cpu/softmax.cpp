// What it is: the implementation lists of the softmax family, cross entropy and check_target on the CPU; class ids
// are checked here, before a kernel indexes with them.
#include <algorithm>
#include <atomic>

#include "backend/cpu/accept.h"
#include "backend/cpu/lists.h"
#include "backend/cpu/workspace.h"
#include "backend/cpu/ref/ref.h"
#include "backend/cpu/ref/targets.h"
#include "backend/cpu/threads.h"
#include "backend/cpu/via_float32.h"

namespace fastcnn::cpu {
namespace {

template <class F>
void for_items(const SoftmaxParams& p, F&& f) {
  if (p.outer == 0 || p.dim == 0 || p.inner == 0) return;
  int64_t lanes = kernels()->vector_floats, vectors = p.inner == 1 ? 1 : (p.inner + lanes - 1) / lanes;
  int64_t values = p.inner == 1 ? p.dim : p.dim * lanes;
  parallel_for(p.outer * vectors, std::max<int64_t>(1, 4096 / values),
               [&](int64_t b, int64_t e, int) { f(b, e); });
}

template <int Log>
void forward(const Call& c) {
  const auto& p = c.as<SoftmaxParams>();
  for_items(p, [&](int64_t b, int64_t e) {
    kernels()->softmax_forward(&p, c.in[0].as<float>(), c.out[0].as<float>(), Log, b, e);
  });
}

template <int Log>
void backward(const Call& c) {
  const auto& p = c.as<SoftmaxParams>();
  for_items(p, [&](int64_t b, int64_t e) {
    kernels()->softmax_backward(&p, c.in[0].as<float>(), c.in[1].as<float>(), c.out[0].as<float>(), Log, b, e);
  });
}

// ---- cross entropy --------------------------------------------------------------------------------------------

void check_all_targets(const CrossEntropyParams& p, const int64_t* target) {
  std::atomic<bool> bad{false};
  parallel_for(p.rows, 16384, [&](int64_t b, int64_t e, int) {
    bool any = false;
    for (int64_t i = b; i < e; ++i) any |= (target[i] < 0 || target[i] >= p.C) && target[i] != p.ignore_index;
    if (any) bad = true;
  });
  if (bad) check_targets(p, target);  // throws for the first
}

double total_weight(const CrossEntropyParams& p, const float* weight) {
  if (!weight) return static_cast<double>(p.C);
  double s = 0;
  for (int64_t i = 0; i < p.C; ++i) s += weight[i];
  return s;
}

int64_t block_rows(const CrossEntropyParams& p) {
  return std::clamp<int64_t>(16384 / std::max<int64_t>(p.C, 1), 1, 4096);
}

struct LossSpace {
  double *loss_part, *weight_part;  // one of each per block of rows
  float* rows;
  int64_t bytes;
  LossSpace(const CrossEntropyParams& p, void* base) {
    Carve w(base);
    int64_t blocks = (p.rows + block_rows(p) - 1) / block_rows(p);
    loss_part = w.take<double>(blocks);
    weight_part = w.take<double>(blocks);
    rows = p.reduction == Reduction::none ? nullptr : w.take<float>(p.rows);
    bytes = w.used();
  }
};

int64_t loss_workspace(const Call& c) { return LossSpace(c.as<CrossEntropyParams>(), nullptr).bytes; }

void loss_forward(const Call& c) {
  const auto& p = c.as<CrossEntropyParams>();
  LossSpace w(p, c.workspace);
  CrossEntropyArgs a{};
  a.p = p;
  a.x = c.in[0].as<float>();
  a.target = c.in[1].as<int64_t>();
  if (p.has_weight) a.weight = c.in[2].as<float>();
  a.loss = p.reduction == Reduction::none ? c.out[0].as<float>() : w.rows;
  a.lse = c.out[1].as<float>();
  a.weight_total = total_weight(p, a.weight);
  check_all_targets(p, a.target);
  int64_t step = block_rows(p), blocks = (p.rows + step - 1) / step;
  parallel_for(blocks, 1, [&](int64_t b, int64_t e, int) {
    for (int64_t k = b; k < e; ++k) {
      int64_t first = k * step, last = std::min(p.rows, first + step);
      kernels()->cross_entropy_rows(&a, first, last);
      double loss = 0, weight = 0;
      for (int64_t r = first; r < last; ++r) {
        loss += a.loss[r];
        if (a.target[r] != p.ignore_index) weight += a.weight ? a.weight[a.target[r]] : 1;
      }
      w.loss_part[k] = loss;
      w.weight_part[k] = weight;
    }
  });
  double loss = 0, weight = 0;
  for (int64_t k = 0; k < blocks; ++k) loss += w.loss_part[k], weight += w.weight_part[k];
  *c.out[2].as<float>() = static_cast<float>(weight);
  if (p.reduction == Reduction::mean) *c.out[0].as<float>() = static_cast<float>(loss / weight);
  if (p.reduction == Reduction::sum) *c.out[0].as<float>() = static_cast<float>(loss);
}

void loss_backward(const Call& c) {
  const auto& p = c.as<CrossEntropyParams>();
  CrossEntropyArgs a{};
  a.p = p;
  a.dloss = c.in[0].as<float>();
  a.x = c.in[1].as<float>();
  a.target = c.in[2].as<int64_t>();
  a.lse = c.in[3].as<float>();
  if (p.has_weight) a.weight = c.in[5].as<float>();
  a.scale = p.reduction == Reduction::mean ? 1.0 / *c.in[4].as<float>() : 1;
  a.weight_total = total_weight(p, a.weight);
  a.dx = c.out[0].as<float>();
  check_all_targets(p, a.target);
  parallel_for(p.rows, block_rows(p),
               [&](int64_t b, int64_t e, int) { kernels()->cross_entropy_bwd_rows(&a, b, e); });
}

void checked_copy(const Call& c) {
  const float* x = c.in[0].as<float>();
  float* y = c.out[0].as<float>();
  std::atomic<bool> bad{false};
  parallel_for(c.in[0].numel(), 16384, [&](int64_t b, int64_t e, int) {
    int nan = 0;
    for (int64_t i = b; i < e; ++i) {
      nan |= x[i] != x[i];
      y[i] = x[i];
    }
    if (nan) bad = true;
  });
  if (bad) ref::check_target(c);  // throws for the first
}

}  // namespace

List check_target_list() {
  static const Implementation list[] = {{"loop", not_simd_float32, nullptr, checked_copy},
                                        {"ref", nullptr, nullptr, ref::check_target}};
  return list;
}

List softmax_list() {
  static const Implementation list[] = {{"simd", not_simd_float32, nullptr, forward<0>},
                                        ViaFloat32<softmax_list>::entry(),
                                        {"ref", nullptr, nullptr, ref::softmax}};
  return list;
}

List log_softmax_list() {
  static const Implementation list[] = {{"simd", not_simd_float32, nullptr, forward<1>},
                                        ViaFloat32<log_softmax_list>::entry(),
                                        {"ref", nullptr, nullptr, ref::log_softmax}};
  return list;
}

List softmax_bwd_list() {
  static const Implementation list[] = {{"simd", not_simd_float32, nullptr, backward<0>},
                                        ViaFloat32<softmax_bwd_list>::entry(),
                                        {"ref", nullptr, nullptr, ref::softmax_bwd}};
  return list;
}

List log_softmax_bwd_list() {
  static const Implementation list[] = {{"simd", not_simd_float32, nullptr, backward<1>},
                                        ViaFloat32<log_softmax_bwd_list>::entry(),
                                        {"ref", nullptr, nullptr, ref::log_softmax_bwd}};
  return list;
}

List cross_entropy_list() {
  static const Implementation list[] = {{"simd", not_simd_float32, loss_workspace, loss_forward},
                                        ViaFloat32<cross_entropy_list>::entry(),
                                        {"ref", nullptr, nullptr, ref::cross_entropy}};
  return list;
}

List cross_entropy_bwd_list() {
  static const Implementation list[] = {{"simd", not_simd_float32, nullptr, loss_backward},
                                        ViaFloat32<cross_entropy_bwd_list>::entry(),
                                        {"ref", nullptr, nullptr, ref::cross_entropy_bwd}};
  return list;
}

}  // namespace fastcnn::cpu
