// What it is: the implementation lists of pooling on the CPU; makes the window tables and splits the work.
#include <algorithm>

#include "backend/cpu/accept.h"
#include "backend/cpu/lists.h"
#include "backend/cpu/workspace.h"
#include "backend/cpu/ref/ref.h"
#include "backend/cpu/threads.h"
#include "backend/cpu/via_float32.h"

namespace fastcnn::cpu {
namespace {

struct Tables {
  PoolArgs args{};
  int64_t bytes;
  Tables(const Pool2dParams& p, void* base) {
    Carve w(base);
    auto* rows = w.take<PoolWindow>(p.oH);
    auto* cols = w.take<PoolWindow>(p.oW);
    auto* cover_rows = w.take<PoolCover>(p.H);
    auto* cover_cols = w.take<PoolCover>(p.W);
    auto* row_size = w.take<float>(p.oH);
    auto* col_size = w.take<float>(p.oW);
    bytes = w.used();
    if (!base) return;
    auto fill = [&](const PoolAxis& a, PoolWindow* windows, PoolCover* covers, float* size) {
      for (int64_t o = 0; o < a.out; ++o) {
        windows[o] = pool_window(a, o);
        size[o] = static_cast<float>(p.count_include_pad ? windows[o].padded : windows[o].end - windows[o].begin);
      }
      for (int64_t i = 0; i < a.in; ++i) covers[i] = pool_cover(a, i);
    };
    fill(pool_rows(p), rows, cover_rows, row_size);
    fill(pool_cols(p), cols, cover_cols, col_size);
    int64_t block = kPoolVectors * kernels()->vector_floats;
    args = {p.C,     p.H,     p.W,        p.oH,       p.oW,     (p.C + block - 1) / block,
            rows,    cols,    cover_rows, cover_cols, row_size, col_size,
            nullptr, nullptr, nullptr};
  }
};

int64_t workspace(const Call& c) { return Tables(c.as<Pool2dParams>(), nullptr).bytes; }

// Rows of about this many values make it worth starting a thread.
template <class Kernel>
void run(const PoolArgs& a, int64_t rows, int64_t row_values, Kernel kernel) {
  int64_t per_item = std::max<int64_t>(1, row_values / std::max<int64_t>(a.cblocks, 1));
  parallel_for(rows * a.cblocks, std::max<int64_t>(1, 8192 / per_item),
               [&](int64_t b, int64_t e, int) { kernel(&a, b, e); });
}

bool half(const Call& c) { return c.in[0].dtype == DType::bfloat16; }  // addresses travel as those of floats

void max_forward(const Call& c) {
  const auto& p = c.as<Pool2dParams>();
  PoolArgs a = Tables(p, c.workspace).args;
  a.x = c.in[0].as<float>();
  a.y = c.out[0].as<float>();
  a.index = c.out[1].as<int32_t>();
  run(a, p.N * p.oH, p.oW * p.C, half(c) ? kernels()->max_pool_bf16 : kernels()->max_pool);
}

void max_backward(const Call& c) {
  const auto& p = c.as<Pool2dParams>();
  PoolArgs a = Tables(p, c.workspace).args;
  a.x = c.in[0].as<float>();
  a.index = c.in[1].as<int32_t>();
  a.y = c.out[0].as<float>();
  run(a, p.N * p.H, p.W * p.C, half(c) ? kernels()->max_pool_bwd_bf16 : kernels()->max_pool_bwd);
}

void avg_forward(const Call& c) {
  const auto& p = c.as<Pool2dParams>();
  PoolArgs a = Tables(p, c.workspace).args;
  a.x = c.in[0].as<float>();
  a.y = c.out[0].as<float>();
  run(a, p.N * p.oH, p.oW * p.C, half(c) ? kernels()->avg_pool_bf16 : kernels()->avg_pool);
}

void avg_backward(const Call& c) {
  const auto& p = c.as<Pool2dParams>();
  PoolArgs a = Tables(p, c.workspace).args;
  a.x = c.in[0].as<float>();
  a.y = c.out[0].as<float>();
  run(a, p.N * p.H, p.W * p.C, half(c) ? kernels()->avg_pool_bwd_bf16 : kernels()->avg_pool_bwd);
}

void gather(const Call& c) {
  const auto& p = c.as<Pool2dParams>();
  const float* g = c.in[0].as<float>();
  const int32_t* index = c.in[1].as<int32_t>();
  float* y = c.out[0].as<float>();
  parallel_for(p.N * p.oH * p.oW, std::max<int64_t>(1, 8192 / std::max<int64_t>(p.C, 1)),
               [&](int64_t b, int64_t e, int) {
                 for (int64_t pixel = b; pixel < e; ++pixel) {
                   const float* plane = g + pixel / (p.oH * p.oW) * p.H * p.W * p.C;
                   for (int64_t i = 0, o = pixel * p.C; i < p.C; ++i, ++o)
                     y[o] = index[o] < 0 ? 0 : plane[index[o] * p.C + i];
                 }
               });
}

}  // namespace

List max_pool2d_list() {
  static const Implementation list[] = {{"simd", not_simd_float, workspace, max_forward},
                                        ViaFloat32<max_pool2d_list>::entry(),
                                        {"ref", nullptr, nullptr, ref::max_pool2d}};
  return list;
}

List max_pool2d_bwd_list() {
  static const Implementation list[] = {{"simd", not_simd_float, workspace, max_backward},
                                        ViaFloat32<max_pool2d_bwd_list>::entry(),
                                        {"ref", nullptr, nullptr, ref::max_pool2d_bwd}};
  return list;
}

List max_pool2d_gather_list() {
  static const Implementation list[] = {{"float32", not_simd_float32, nullptr, gather},
                                        ViaFloat32<max_pool2d_gather_list>::entry(),
                                        {"ref", nullptr, nullptr, ref::max_pool2d_gather}};
  return list;
}

List avg_pool2d_list() {
  static const Implementation list[] = {{"simd", not_simd_float, workspace, avg_forward},
                                        ViaFloat32<avg_pool2d_list>::entry(),
                                        {"ref", nullptr, nullptr, ref::avg_pool2d}};
  return list;
}

List avg_pool2d_bwd_list() {
  static const Implementation list[] = {{"simd", not_simd_float, workspace, avg_backward},
                                        ViaFloat32<avg_pool2d_bwd_list>::entry(),
                                        {"ref", nullptr, nullptr, ref::avg_pool2d_bwd}};
  return list;
}

}  // namespace fastcnn::cpu
