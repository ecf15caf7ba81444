// What it is: matrix products on CUDA: tensor cores (wgmma, else mma.sync) for 16-bit floats, else plain
// multiply-adds.
#include "backend/cuda/gemm_launch.h"

namespace fastcnn::cuda {
namespace {

Sizes sizes_of(const MatmulParams& p) { return {p.M, p.N, p.K, p.batch}; }

// Calls f.template operator()<trans_a, trans_b>(), of which one at most is true.
template <class F>
void with_transposes(const MatmulParams& p, F&& f) {
  if (p.trans_a) return f.template operator()<true, false>();
  if (p.trans_b) return f.template operator()<false, true>();
  return f.template operator()<false, false>();
}

template <class T>
Epilogue<T> epilogue_of(const Call& c) {
  const auto& p = c.as<MatmulParams>();
  return {p.has_bias ? c.in[2].as<T>() : nullptr, nullptr, ActOf<Real<T>>(p.act)};
}

const char* simt_declines(const Call& c) {
  const char* why = mixed_floats(c);
  return why ? why : too_large(sizes_of(c.as<MatmulParams>()));
}
// Ops ask for the transposed product instead; an old session file may not. Each pair is a quarter of this file's kernels.
const char* both_transposed(const Call& c) {
  const auto& p = c.as<MatmulParams>();
  return p.trans_a && p.trans_b ? "both operands are transposed" : simt_declines(c);
}
const char* mma_declines(const Call& c) {
  const char* why = mma_dtype_declines(c.out[0].dtype);
  return why ? why : both_transposed(c);
}

void simt(const Call& c) {
  const auto& p = c.as<MatmulParams>();
  with_floating(c.out[0].dtype, "matmul", [&]<class T>() {
    const auto launch = [&]<bool ta, bool tb>() {
      launch_simt<T>("matmul", MatmulLoad<T, ta, tb>(p, c.in[0].as<T>(), c.in[1].as<T>()), sizes_of(p),
                     simt_splits(sizes_of(p)), epilogue_of<T>(c), c.workspace, c.out[0]);
    };
    if (p.trans_a && p.trans_b)
      launch.template operator()<true, true>();
    else
      with_transposes(p, launch);
  });
}
int64_t simt_workspace(const Call& c) {
  const Sizes s = sizes_of(c.as<MatmulParams>());
  return parts_bytes(s, simt_splits(s), 8);
}

bool chunked(const Call& c) {
  const auto& p = c.as<MatmulParams>();
  const int64_t run = chunk_of(c.out[0].dtype);
  return (p.trans_a ? p.M : p.K) % run == 0 && (p.trans_b ? p.K : p.N) % run == 0;
}
MmaPlan plan_of(const Call& c) {
  return mma_plan(sizes_of(c.as<MatmulParams>()), chunked(c), true, depth_of(c.out[0].dtype));
}
void mma(const Call& c) {
  const auto& p = c.as<MatmulParams>();
  const Sizes s = sizes_of(p);
  with_mma(c.out[0].dtype, [&]<class T>() {
    with_transposes(p, [&]<bool ta, bool tb>() {
      const T *a = c.in[0].as<T>(), *b = c.in[1].as<T>();
      launch_mma<T>("matmul", MatmulLoad<T, ta, tb>(p, a, b), s, plan_of(c), chunked(c), {a, b}, epilogue_of<T>(c),
                    c.workspace, c.out[0], p.N % chunk_of(c.out[0].dtype) == 0);
    });
  });
}
const char* matmul_lines_decline(const Call& c) {
  const char* why = lines_decline(c.out[0].dtype, chunked(c));
  return why ? why : both_transposed(c);
}
TilePlan line_plan_of(const Call& c) { return line_plan(sizes_of(c.as<MatmulParams>()), true); }
void lines(const Call& c) {
  const auto& p = c.as<MatmulParams>();
  with_half(c.out[0].dtype, [&]<class T>() {
    with_transposes(p, [&]<bool ta, bool tb>() {
      const T *a = c.in[0].as<T>(), *b = c.in[1].as<T>();
      launch_lines<T>("matmul", MatmulLoad<T, ta, tb>(p, a, b), sizes_of(p), line_plan_of(c), false, {a, b},
                      epilogue_of<T>(c), c.workspace, c.out[0], p.N % chunk_of(c.out[0].dtype) == 0);
    });
  });
}
int64_t lines_workspace(const Call& c) {
  return parts_bytes(sizes_of(c.as<MatmulParams>()), line_plan_of(c).splits, 4);
}
int64_t mma_workspace(const Call& c) { return parts_bytes(sizes_of(c.as<MatmulParams>()), plan_of(c).splits, 4); }

}  // namespace

List matmul_list() {
  static const Implementation list[] = {{"wgmma", matmul_lines_decline, lines_workspace, lines},
                                        {"tensor cores", mma_declines, mma_workspace, mma},
                                        {"simt gemm", simt_declines, simt_workspace, simt}};
  return list;
}

}  // namespace fastcnn::cuda
