// What it is: the implementation lists of pointwise_loss and its gradient on the CPU: chunks whose number depends
// on the elements alone, so that sums have the same bits for any number of threads.
#include <algorithm>
#include <atomic>

#include "backend/cpu/accept.h"
#include "backend/cpu/lists.h"
#include "backend/cpu/ref/ref.h"
#include "backend/cpu/threads.h"
#include "backend/cpu/via_float32.h"
#include "backend/cpu/workspace.h"

namespace fastcnn::cpu {
namespace {

constexpr int64_t kChunk = 8192;

int64_t chunks(const PointwiseLossParams& p) { return (p.count + kChunk - 1) / kChunk; }

int64_t forward_workspace(const Call& c) {
  Carve w(nullptr);
  w.take<double>(chunks(c.as<PointwiseLossParams>()));
  return w.used();
}

void forward(const Call& c) {
  const auto& p = c.as<PointwiseLossParams>();
  Carve w(c.workspace);
  double* part = w.take<double>(chunks(p));
  PointwiseLossArgs a{};
  a.p = p, a.x = c.in[0].as<float>(), a.t = c.in[1].as<float>();
  if (p.reduction == Reduction::none) a.loss = c.out[0].as<float>();
  std::atomic<bool> bad{false};
  parallel_for(chunks(p), 2, [&](int64_t b, int64_t e, int) {
    int nan = 0;
    for (int64_t k = b; k < e; ++k)
      part[k] = kernels()->pointwise_loss(&a, k * kChunk, std::min(p.count, (k + 1) * kChunk), &nan);
    if (nan) bad = true;
  });
  if (bad) ref::pointwise_loss(c);  // throws for the first
  if (p.reduction == Reduction::none) return;
  double sum = 0;
  for (int64_t k = 0; k < chunks(p); ++k) sum += part[k];
  *c.out[0].as<float>() =
      static_cast<float>(p.reduction == Reduction::mean ? sum / static_cast<double>(p.count) : sum);
}

void backward(const Call& c) {
  const auto& p = c.as<PointwiseLossParams>();
  PointwiseLossArgs a{};
  a.p = p, a.dloss = c.in[0].as<float>(), a.x = c.in[1].as<float>(), a.t = c.in[2].as<float>();
  a.dx = c.out[0].as<float>();
  a.scale = p.reduction == Reduction::mean ? static_cast<float>(1.0 / static_cast<double>(p.count)) : 1;
  a.nt = a.dx != a.x && a.dx != a.t && a.dx != a.dloss && streams(a.dx, p.count * 4);
  parallel_for(chunks(p), 2, [&](int64_t b, int64_t e, int) {
    kernels()->pointwise_loss_bwd(&a, b * kChunk, std::min(p.count, e * kChunk));
  });
}

}  // namespace

List pointwise_loss_list() {
  static const Implementation list[] = {{"simd", not_simd_float32, forward_workspace, forward},
                                        ViaFloat32<pointwise_loss_list>::entry(),
                                        {"ref", nullptr, nullptr, ref::pointwise_loss}};
  return list;
}

List pointwise_loss_bwd_list() {
  static const Implementation list[] = {{"simd", not_simd_float32, nullptr, backward},
                                        ViaFloat32<pointwise_loss_bwd_list>::entry(),
                                        {"ref", nullptr, nullptr, ref::pointwise_loss_bwd}};
  return list;
}

}  // namespace fastcnn::cpu
