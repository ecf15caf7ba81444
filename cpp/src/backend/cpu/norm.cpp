// What it is: the implementation lists of layer and group normalisation on the CPU. Group normalisation runs the
// passes of batch normalisation per image and merges channels into groups between them.
#include <cmath>

#include "backend/cpu/lists.h"
#include "backend/cpu/norm_plan.h"
#include "backend/cpu/ref/ref.h"
#include "backend/cpu/via_float32.h"

namespace fastcnn::cpu {
namespace {

// ---- layer_norm -----------------------------------------------------------------------------------------------

LayerNormArgs layer_args(const NormParams& p) {
  LayerNormArgs a{};
  a.inner = p.inner;
  a.rows = p.outer;
  a.eps = p.eps;
  // Long rows: fewer chunks, because each costs two rows of partial sums.
  a.chunk_rows = std::clamp<int64_t>(65536 / std::max<int64_t>(p.inner, 1), 1, 64);
  a.chunk_rows = std::max(a.chunk_rows, std::min<int64_t>(64, (p.outer + 15) / 16));
  return a;
}
int64_t chunks(const LayerNormArgs& a) { return (a.rows + a.chunk_rows - 1) / a.chunk_rows; }

void layer_forward(const Call& c) {
  const auto& p = c.as<NormParams>();
  if (p.inner == 0) return;
  LayerNormArgs a = layer_args(p);
  a.x = c.in[0].as<float>();
  if (p.affine) a.gamma = c.in[1].as<float>(), a.beta = c.in[2].as<float>();
  a.y = c.out[0].as<float>();
  a.mean = c.out[1].as<float>();
  a.invstd = c.out[2].as<float>();
  parallel_for(chunks(a), 1, [&](int64_t b, int64_t e, int) { kernels()->layer_norm_rows(&a, b, e); });
}

int64_t layer_backward_workspace(const Call& c) {
  const auto& p = c.as<NormParams>();
  return p.affine ? chunks(layer_args(p)) * 2 * p.inner * 4 : 0;
}

void layer_backward(const Call& c) {
  const auto& p = c.as<NormParams>();
  if (p.inner == 0) return;
  LayerNormArgs a = layer_args(p);
  a.dy = c.in[0].as<float>();
  a.x = c.in[1].as<float>();
  if (p.affine) a.gamma = c.in[2].as<float>();
  a.mean = c.in[p.affine ? 3 : 2].as<float>();
  a.invstd = c.in[p.affine ? 4 : 3].as<float>();
  a.dx = c.out[0].as<float>();
  a.part = static_cast<float*>(c.workspace);
  parallel_for(chunks(a), 1, [&](int64_t b, int64_t e, int) { kernels()->layer_norm_bwd_rows(&a, b, e); });
  if (!p.affine) return;
  float *dgamma = c.out[1].as<float>(), *dbeta = c.out[2].as<float>();
  parallel_for(p.inner, 256, [&](int64_t b, int64_t e, int) {
    constexpr int64_t width = 128;
    for (; b < e; b += width) {
      int64_t n = std::min(width, e - b);
      double g[width] = {}, s[width] = {};
      for (int64_t k = 0; k < chunks(a); ++k) {
        const float *pg = a.part + k * 2 * p.inner + b, *ps = pg + p.inner;
        for (int64_t i = 0; i < n; ++i) g[i] += pg[i], s[i] += ps[i];
      }
      for (int64_t i = 0; i < n; ++i)
        dgamma[b + i] = static_cast<float>(g[i]), dbeta[b + i] = static_cast<float>(s[i]);
    }
  });
}

// ---- group_norm -----------------------------------------------------------------------------------------------

struct GroupSpace {
  double *part, *s1, *s2;  // (N, C): per-channel mean and variance, or the two backward sums
  float* table[4];         // (N, period)
  int64_t bytes;
  GroupSpace(const NormShape& s, void* base) {
    Carve w(base);
    part = w.take<double>(s.images * s.chunks * 2 * s.C);
    s1 = w.take<double>(s.images * s.C);
    s2 = w.take<double>(s.images * s.C);
    for (float*& t : table) t = w.take<float>(s.images * s.period);
    bytes = w.used();
  }
};

int64_t group_workspace(const Call& c) {
  const auto& p = c.as<NormParams>();
  return GroupSpace(norm_shape(p.N, p.HW, p.C), nullptr).bytes;
}

bool empty(const NormParams& p) { return p.N == 0 || p.HW == 0 || p.C == 0; }

void group_forward(const Call& c) {
  const auto& p = c.as<NormParams>();
  if (empty(p)) return;
  NormShape s = norm_shape(p.N, p.HW, p.C);
  GroupSpace w(s, c.workspace);
  const float* gamma = p.affine ? c.in[1].as<float>() : nullptr;
  const float* beta = p.affine ? c.in[2].as<float>() : nullptr;
  float *mean = c.out[1].as<float>(), *invstd = c.out[2].as<float>();
  int64_t cg = p.C / p.groups;
  NormMomentsArgs m{s, c.in[0].as<float>(), w.part};
  for_chunks(s, [&](int64_t b, int64_t e) { kernels()->norm_moments(&m, b, e); });
  parallel_for(p.N, 1, [&](int64_t b, int64_t e, int) {
    for (int64_t n = b; n < e; ++n) {
      double *cm = w.s1 + n * p.C, *cv = w.s2 + n * p.C;
      kernels()->norm_reduce_moments(&s, w.part + n * s.chunks * 2 * p.C, cm, cv, 0, p.C);
      for (int64_t g = 0; g < p.groups; ++g) {
        double gm = 0, gv = 0;
        for (int64_t i = g * cg; i < (g + 1) * cg; ++i) gm += cm[i];
        gm /= static_cast<double>(cg);
        for (int64_t i = g * cg; i < (g + 1) * cg; ++i) gv += cv[i] + (cm[i] - gm) * (cm[i] - gm);
        double r = 1 / std::sqrt(gv / static_cast<double>(cg) + p.eps);
        float hi = mean[n * p.groups + g] = static_cast<float>(gm);
        invstd[n * p.groups + g] = static_cast<float>(r);
        for (int64_t i = g * cg; i < (g + 1) * cg; ++i) {
          double a = gamma ? r * gamma[i] : r;
          w.table[0][n * s.period + i] = hi;
          w.table[1][n * s.period + i] = static_cast<float>(a);
          w.table[2][n * s.period + i] =
              static_cast<float>((beta ? beta[i] : 0) - (gm - static_cast<double>(hi)) * a);
        }
      }
    }
  });
  for (int t = 0; t < 3; ++t) tile(s, w.table[t]);
  float* y = c.out[0].as<float>();
  NormApplyArgs a{s, c.in[0].as<float>(), nullptr, y, w.table[0], w.table[1], w.table[2], {}, norm_streams(s, y)};
  for_chunks(s, [&](int64_t b, int64_t e) { kernels()->norm_apply(&a, b, e); });
}

void group_backward(const Call& c) {
  const auto& p = c.as<NormParams>();
  if (p.affine)
    for (int64_t ch = 0; ch < p.C; ++ch) c.out[1].as<float>()[ch] = c.out[2].as<float>()[ch] = 0;
  if (empty(p)) return;
  NormShape s = norm_shape(p.N, p.HW, p.C);
  GroupSpace w(s, c.workspace);
  const float *dy = c.in[0].as<float>(), *x = c.in[1].as<float>();
  const float* gamma = p.affine ? c.in[2].as<float>() : nullptr;
  const float *mean = c.in[p.affine ? 3 : 2].as<float>(), *invstd = c.in[p.affine ? 4 : 3].as<float>();
  int64_t cg = p.C / p.groups;
  for (int64_t n = 0; n < p.N; ++n)
    for (int64_t i = 0; i < p.C; ++i) w.table[0][n * s.period + i] = mean[n * p.groups + i / cg];
  tile(s, w.table[0]);
  NormBwdSumsArgs sums{s, dy, nullptr, x, nullptr, nullptr, nullptr, nullptr, w.table[0], w.part, {}, 0};
  for_chunks(s, [&](int64_t b, int64_t e) { kernels()->norm_bwd_sums(&sums, b, e); });
  double count = static_cast<double>(cg * p.HW);
  parallel_for(p.N, 1, [&](int64_t b, int64_t e, int) {
    for (int64_t n = b; n < e; ++n) {
      double *s1 = w.s1 + n * p.C, *s2 = w.s2 + n * p.C;
      kernels()->norm_reduce_sums(&s, w.part + n * s.chunks * 2 * p.C, s1, s2, 0, p.C);
      for (int64_t g = 0; g < p.groups; ++g) {
        double sum = 0, dot = 0, r = invstd[n * p.groups + g];
        for (int64_t i = g * cg; i < (g + 1) * cg; ++i) {
          sum += (gamma ? gamma[i] : 1) * s1[i];
          dot += (gamma ? gamma[i] : 1) * s2[i];
        }
        for (int64_t i = g * cg; i < (g + 1) * cg; ++i) {
          w.table[1][n * s.period + i] = static_cast<float>(gamma ? r * gamma[i] : r);
          w.table[2][n * s.period + i] = static_cast<float>(-r * r * r * dot / count);
          w.table[3][n * s.period + i] = static_cast<float>(-r * sum / count);
          s2[i] *= r;
        }
      }
    }
  });
  for (int t = 1; t < 4; ++t) tile(s, w.table[t]);
  float* dx = c.out[0].as<float>();
  NormBwdApplyArgs a{s,
                     dy,
                     x,
                     nullptr,
                     nullptr,
                     nullptr,
                     dx,
                     w.table[0],
                     w.table[1],
                     w.table[2],
                     w.table[3],
                     ActParams{},
                     norm_streams(s, dx)};
  for_chunks(s, [&](int64_t b, int64_t e) { kernels()->norm_bwd_apply(&a, b, e); });
  if (!p.affine) return;
  for (int64_t i = 0; i < p.C; ++i) {
    double g = 0, sum = 0;
    for (int64_t n = 0; n < p.N; ++n) g += w.s2[n * p.C + i], sum += w.s1[n * p.C + i];
    c.out[1].as<float>()[i] = static_cast<float>(g);
    c.out[2].as<float>()[i] = static_cast<float>(sum);
  }
}

}  // namespace

List layer_norm_list() {
  static const Implementation list[] = {{"simd", not_simd_float32, nullptr, layer_forward},
                                        ViaFloat32<layer_norm_list>::entry(),
                                        {"ref", nullptr, nullptr, ref::layer_norm}};
  return list;
}

List layer_norm_bwd_list() {
  static const Implementation list[] = {{"simd", not_simd_float32, layer_backward_workspace, layer_backward},
                                        ViaFloat32<layer_norm_bwd_list>::entry(),
                                        {"ref", nullptr, nullptr, ref::layer_norm_bwd}};
  return list;
}

List group_norm_list() {
  static const Implementation list[] = {{"simd", not_simd_float32, group_workspace, group_forward},
                                        ViaFloat32<group_norm_list>::entry(),
                                        {"ref", nullptr, nullptr, ref::group_norm}};
  return list;
}

List group_norm_bwd_list() {
  static const Implementation list[] = {{"simd", not_simd_float32, group_workspace, group_backward},
                                        ViaFloat32<group_norm_bwd_list>::entry(),
                                        {"ref", nullptr, nullptr, ref::group_norm_bwd}};
  return list;
}

}  // namespace fastcnn::cpu
