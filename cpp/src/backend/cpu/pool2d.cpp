// What it is: the implementation lists of pooling on the CPU; makes the window tables and splits the work.
#include <algorithm>

#include "backend/cpu/accept.h"
#include "backend/cpu/lists.h"
#include "backend/cpu/loop_plan.h"
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
            nullptr, nullptr, nullptr,    0};
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

// dx of whole vectors, which were another thread's before.
bool bwd_streams(const Call& c) {
  const Operand& dx = c.out[0];
  return c.as<Pool2dParams>().C % kernels()->vector_floats == 0 &&
         streams_over(dx.data, dx.numel() * static_cast<int64_t>(dtype_size(dx.dtype)));
}

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
  a.nt = bwd_streams(c);
  run(a, p.N * p.H, p.W * p.C, half(c) ? kernels()->max_pool_bwd_bf16 : kernels()->max_pool_bwd);
}

void avg_forward(const Call& c) {
  const auto& p = c.as<Pool2dParams>();
  PoolArgs a = Tables(p, c.workspace).args;
  a.x = c.in[0].as<float>();
  a.y = c.out[0].as<float>();
  run(a, p.N * p.oH, p.oW * p.C, half(c) ? kernels()->avg_pool_bf16 : kernels()->avg_pool);
}

// (N, C, H, W) in memory order, whatever rank the operand is seen with.
Operand image(const Operand& o, int64_t N, int64_t C, int64_t H, int64_t W) {
  Operand r = o;
  r.ndim = 4;
  const int64_t shape[] = {N, C, H, W}, strides[] = {H * W * C, 1, W * C, C};
  std::copy_n(shape, 4, r.shape), std::copy_n(strides, 4, r.strides);
  return r;
}

// One window of the whole image is a mean over pixels, which the reduction reads in the order of memory.
struct WholeImage {
  ReduceParams params{Reduce::mean, 0b1100};
  Operand in, out;
  Call call;
  WholeImage(const WholeImage&) = delete;  // the call points into it
  explicit WholeImage(const Call& c) : call(c) {
    const auto& p = c.as<Pool2dParams>();
    in = image(c.in[0], p.N, p.C, p.H, p.W), out = image(c.out[0], p.N, p.C, 1, 1);
    call.params = &params, call.in = {&in, 1}, call.out = {&out, 1};
  }
};

bool whole(const Pool2dParams& p) { return p.adaptive && p.oH == 1 && p.oW == 1; }
const char* whole_declines(const Call& c) {
  if (!whole(c.as<Pool2dParams>())) return "windows are not the whole image";
  const char* why = not_simd_float(c);
  return why ? why : reduce_list()[0].declines(WholeImage(c).call);
}
int64_t whole_workspace(const Call& c) { return reduce_list()[0].workspace(WholeImage(c).call); }
void whole_forward(const Call& c) { reduce_list()[0].run(WholeImage(c).call); }

// Its gradient is one value per channel, repeated.
void whole_backward(const Call& c) {
  const auto& p = c.as<Pool2dParams>();
  const Operand dx = image(c.out[0], p.N, p.C, p.H, p.W);
  Operand dy = image(c.in[0], p.N, p.C, p.H, p.W);
  dy.strides[0] = p.C, dy.strides[2] = dy.strides[3] = 0;
  UnaryParams scale;
  scale.op = Unary::affine, scale.alpha = 1.0 / static_cast<double>(p.H * p.W);
  EltLoop l = plan_loop({&dx, &dy});
  parallel_for(l.total, kSerialElements, [&](int64_t b, int64_t e, int) {
    kernels()->unary_map(l, scale, dy.data, dy.dtype, dx.data, dx.dtype, b, e);
  });
}
const char* whole_bwd_declines(const Call& c) {
  return whole(c.as<Pool2dParams>()) ? not_simd_float(c) : "windows are not the whole image";
}

void avg_backward(const Call& c) {
  const auto& p = c.as<Pool2dParams>();
  PoolArgs a = Tables(p, c.workspace).args;
  a.x = c.in[0].as<float>();
  a.y = c.out[0].as<float>();
  a.nt = bwd_streams(c);
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
  static const Implementation list[] = {{"mean", whole_declines, whole_workspace, whole_forward},
                                        {"simd", not_simd_float, workspace, avg_forward},
                                        ViaFloat32<avg_pool2d_list>::entry(),
                                        {"ref", nullptr, nullptr, ref::avg_pool2d}};
  return list;
}

List avg_pool2d_bwd_list() {
  static const Implementation list[] = {{"repeat", whole_bwd_declines, nullptr, whole_backward},
                                        {"simd", not_simd_float, workspace, avg_backward},
                                        ViaFloat32<avg_pool2d_bwd_list>::entry(),
                                        {"ref", nullptr, nullptr, ref::avg_pool2d_bwd}};
  return list;
}

}  // namespace fastcnn::cpu
