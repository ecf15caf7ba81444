// What it is: the implementation lists of batch normalisation on the CPU and the code between its passes: moments,
// statistics, apply; backward sums, coefficients, apply.
#include <cmath>

#include "backend/cpu/lists.h"
#include "backend/cpu/norm_plan.h"
#include "backend/cpu/ref/ref.h"
#include "backend/cpu/via_float32.h"

namespace fastcnn::cpu {
namespace {

bool fuses(Act a) {
  return a == Act::none || a == Act::relu || a == Act::relu6 || a == Act::leaky_relu || a == Act::silu ||
         a == Act::hardswish;
}

// x decides: its kind of float is that of every image; parameters and statistics are float32. Addresses of
// bfloat16 travel in argument structs as those of floats.
bool half(const Operand& x) { return x.dtype == DType::bfloat16; }

// Which operands are images, one bit each; the others are float32.
const char* images_decline(const Call& c, unsigned in, unsigned out) {
  if (!kernels()) return "isa is ref";
  const DType x = c.in[0].dtype;
  if (x != DType::float32 && x != DType::bfloat16) return "dtype is not float32 or bfloat16";
  for (size_t i = 0; i < c.in.size(); ++i)
    if (c.in[i].dtype != (in >> i & 1 ? x : DType::float32)) return "an input is of another dtype";
  for (size_t i = 0; i < c.out.size(); ++i)
    if (c.out[i].dtype != (out >> i & 1 ? x : DType::float32)) return "an output is of another dtype";
  if (half(c.in[0]) && !fuses(c.as<BatchNormParams>().act.act)) return "two roundings: activation is not fused";
  return nullptr;
}
const char* forward_declines(const Call& c) {
  const auto& p = c.as<BatchNormParams>();
  Call images = c;
  if (p.has_moments) images.in = c.in.first(c.in.size() - 1);
  return images_decline(images, 1 | 8, p.stats_only ? 0 : 1);
}
const char* infer_declines(const Call& c) { return images_decline(c, 1 | 32, 1); }

// y = act(y) in place, for the activations that the apply pass has no variant of.
void activate(const ActParams& act, float* y, int64_t n) {
  constexpr int64_t block = 4096;
  parallel_for((n + block - 1) / block, 4, [&](int64_t b, int64_t e, int) {
    kernels()->act_forward(&act, y, y, b * block, std::min(e * block, n), 0);
  });
}

void apply(const NormShape& s, NormApplyArgs a, bool bf16, const ActParams& act) {
  auto kernel = bf16 ? kernels()->norm_apply_bf16 : kernels()->norm_apply;
  bool fused = fuses(act.act);
  a.act = fused ? act : ActParams{};
  a.nt = fused && norm_streams(s, a.y, bf16 ? 2 : 4, a.y == a.x || a.y == a.res);
  for_chunks(s, [&](int64_t b, int64_t e) { kernel(&a, b, e); });
  if (!fused) activate(act, a.y, s.images * s.rows * s.C);
}

// ---- forward --------------------------------------------------------------------------------------------------

struct ForwardSpace {
  double *part, *mean, *var;
  float *hi, *scale, *shift;
  int64_t bytes;
  ForwardSpace(const NormShape& s, void* base) {
    Carve w(base);
    part = w.take<double>(s.chunks * 2 * s.C);
    mean = w.take<double>(s.C);
    var = w.take<double>(s.C);
    hi = w.take<float>(s.period);
    scale = w.take<float>(s.period);
    shift = w.take<float>(s.period);
    bytes = w.used();
  }
};

int64_t forward_workspace(const Call& c) {
  const auto& p = c.as<BatchNormParams>();
  return ForwardSpace(norm_shape(1, p.rows, p.C), nullptr).bytes;
}

void forward(const Call& c) {
  const auto& p = c.as<BatchNormParams>();
  const float *gamma = c.in[1].as<float>(), *beta = c.in[2].as<float>();
  const int64_t first = p.stats_only ? 0 : 1;
  float *mean = c.out[first].as<float>(), *invstd = c.out[first + 1].as<float>();
  if (p.C == 0) return;
  NormShape s = norm_shape(1, p.rows, p.C);
  ForwardSpace w(s, c.workspace);
  if (p.has_moments) {
    w.mean = c.in[c.in.size() - 1].as<double>(), w.var = w.mean + p.C;
  } else if (p.rows > 0) {
    NormMomentsArgs m{s, c.in[0].as<float>(), w.part};
    auto kernel = half(c.in[0]) ? kernels()->norm_moments_bf16 : kernels()->norm_moments;
    for_chunks(s, [&](int64_t b, int64_t e) {
      if (!p.stats_only) return kernel(&m, b, e);
      // Last to first: what made x ended there, and the convolution that reads it next starts at the other end.
      constexpr int64_t run = 16;  // chunks that memory still reads in order
      for (; e > b; e -= std::min(run, e - b)) kernel(&m, std::max(b, e - run), e);
    });
    parallel_for(p.C, 64, [&](int64_t b, int64_t e, int) {
      kernels()->norm_reduce_moments(&s, w.part, w.mean, w.var, b, e);
    });
  }
  for (int64_t ch = 0; ch < p.C; ++ch) {
    double m = p.rows ? w.mean[ch] : 0, r = 1 / std::sqrt((p.rows ? w.var[ch] : 0) + p.eps);
    mean[ch] = static_cast<float>(m);
    invstd[ch] = static_cast<float>(r);
    w.hi[ch] = mean[ch];
    w.scale[ch] = static_cast<float>(r * gamma[ch]);
    // What the float mean lost goes into the shift.
    w.shift[ch] = static_cast<float>(beta[ch] - (m - static_cast<double>(mean[ch])) * r * gamma[ch]);
  }
  if (p.has_affine) {
    float* affine = c.out[first + 2].as<float>();
    std::copy_n(w.scale, p.C, affine);
    std::copy_n(w.shift, p.C, affine + p.C);
  }
  if (p.stats_only || p.rows == 0) return;
  for (float* t : {w.hi, w.scale, w.shift}) tile(s, t);
  const float* res = p.has_residual ? c.in[3].as<float>() : nullptr;
  apply(s, {s, c.in[0].as<float>(), res, c.out[0].as<float>(), w.hi, w.scale, w.shift, {}, 0}, half(c.in[0]),
        p.act);
}

// ---- inference ------------------------------------------------------------------------------------------------

int64_t infer_workspace(const Call& c) {
  const auto& p = c.as<BatchNormParams>();
  Carve w(nullptr);
  for (int i = 0; i < 3; ++i) w.take<float>(norm_shape(1, p.rows, p.C).period);
  return w.used();
}

void infer(const Call& c) {
  const auto& p = c.as<BatchNormParams>();
  if (p.rows == 0 || p.C == 0) return;
  NormShape s = norm_shape(1, p.rows, p.C);
  Carve w(c.workspace);
  float *mean = w.take<float>(s.period), *scale = w.take<float>(s.period), *shift = w.take<float>(s.period);
  const float *gamma = c.in[1].as<float>(), *beta = c.in[2].as<float>();
  for (int64_t ch = 0; ch < p.C; ++ch) {
    mean[ch] = c.in[3].as<float>()[ch];
    scale[ch] = static_cast<float>(gamma[ch] / std::sqrt(static_cast<double>(c.in[4].as<float>()[ch]) + p.eps));
    shift[ch] = beta[ch];
  }
  for (float* t : {mean, scale, shift}) tile(s, t);
  const float* res = p.has_residual ? c.in[5].as<float>() : nullptr;
  apply(s, {s, c.in[0].as<float>(), res, c.out[0].as<float>(), mean, scale, shift, {}, 0}, half(c.in[0]), p.act);
}

// ---- backward -------------------------------------------------------------------------------------------------

struct BackwardSpace {
  double *part, *s1, *s2;
  float *mean, *a, *b, *c, *scale, *shift;
  int64_t bytes;
  BackwardSpace(const NormShape& s, void* base) {
    Carve w(base);
    part = w.take<double>(s.chunks * 2 * s.C);
    s1 = w.take<double>(s.C);
    s2 = w.take<double>(s.C);
    mean = w.take<float>(s.period);
    a = w.take<float>(s.period);
    b = w.take<float>(s.period);
    c = w.take<float>(s.period);
    scale = w.take<float>(s.period);
    shift = w.take<float>(s.period);
    bytes = w.used();
  }
};

const char* backward_declines(const Call& c) {
  const auto& p = c.as<BatchNormParams>();
  Call images = c;  // but for given sums
  if (p.has_sums) images.in = c.in.first(c.in.size() - 1);
  const ActParams& a = p.act;
  const bool by_output = a.act == Act::none || act_bwd_uses_output(a.act);
  // Of half images, y that went by its rounding is not made again.
  const unsigned y = p.has_affine && !by_output ? 0 : 32, dy2 = p.has_dy2 ? 1u << (c.in.size() - 1) : 0;
  if (const char* why = images_decline(images, 1 | 2 | y | dy2, p.coef_only ? 8 : 1 | 8)) return why;
  if (p.has_dy2 && !p.has_residual) return "dy2 without residual gradient";
  if (!fuses(a.act)) return "activation is not fused";
  if (p.has_dy2 && smooth(a.act)) return "dy2 behind a smooth activation";
  return p.has_affine || by_output ? nullptr : "activation that goes by its input";
}

int64_t backward_workspace(const Call& c) {
  const auto& p = c.as<BatchNormParams>();
  return BackwardSpace(norm_shape(1, p.rows, p.C), nullptr).bytes;
}

void backward(const Call& c) {
  const auto& p = c.as<BatchNormParams>();
  if (p.C == 0) return;
  const float *dy = c.in[0].as<float>(), *x = c.in[1].as<float>(), *gamma = c.in[2].as<float>();
  const float *mean = c.in[3].as<float>(), *invstd = c.in[4].as<float>();
  const bool act = p.act.act != Act::none, again = act && p.has_affine;
  const float* y = act && !again ? c.in[5].as<float>() : nullptr;
  const float* dy2 = p.has_dy2 ? c.in[c.in.size() - 1].as<float>() : nullptr;
  float *dx = c.out[0].as<float>(), *dgamma = c.out[1].as<float>(), *dbeta = c.out[2].as<float>();
  float* dz = p.has_residual ? c.out[3].as<float>() : nullptr;
  const int64_t value_bytes = half(c.in[1]) ? 2 : 4;
  NormShape s = norm_shape(1, p.rows, p.C);
  BackwardSpace w(s, c.workspace);
  for (int64_t ch = 0; ch < p.C; ++ch) w.mean[ch] = mean[ch], w.s1[ch] = w.s2[ch] = 0;
  tile(s, w.mean);
  if (again) {
    std::copy_n(c.in[5].as<float>(), p.C, w.scale);
    std::copy_n(c.in[5].as<float>() + p.C, p.C, w.shift);
    for (float* t : {w.scale, w.shift}) tile(s, t);
  }
  const float *scale = again ? w.scale : nullptr, *shift = again ? w.shift : nullptr;
  if (p.has_sums) {
    const double* sums = c.in[5].as<double>();
    std::copy_n(sums, p.C, w.s1);
    std::copy_n(sums + p.C, p.C, w.s2);
  } else if (p.rows > 0) {
    NormBwdSumsArgs a{s, dy, dy2, x, y, scale, shift, dz, w.mean, w.part, p.act, 0};
    // The second pass reads it again: memory is worth it only where lines of other threads are slow to write.
    a.nt = dz && hands_over_in_memory(p.rows * p.C * value_bytes) && norm_streams(s, dz, value_bytes);
    auto kernel = half(c.in[1]) ? kernels()->norm_bwd_sums_bf16 : kernels()->norm_bwd_sums;
    for_chunks(s, [&](int64_t b, int64_t e) { kernel(&a, b, e); });
    parallel_for(p.C, 64,
                 [&](int64_t b, int64_t e, int) { kernels()->norm_reduce_sums(&s, w.part, w.s1, w.s2, b, e); });
  }
  double n = static_cast<double>(std::max<int64_t>(p.rows, 1));
  for (int64_t ch = 0; ch < p.C; ++ch) {
    double r = invstd[ch], a = r * gamma[ch];
    dgamma[ch] = static_cast<float>(w.s2[ch] * r);
    dbeta[ch] = static_cast<float>(w.s1[ch]);
    w.a[ch] = static_cast<float>(a);
    w.b[ch] = static_cast<float>(-a * r * r * w.s2[ch] / n);
    w.c[ch] = static_cast<float>(-a * w.s1[ch] / n);
  }
  if (p.coef_only) {
    for (int i = 0; i < 3; ++i) std::copy_n(i == 0 ? w.a : i == 1 ? w.b : w.c, p.C, dx + i * p.C);
    return;
  }
  for (float* t : {w.a, w.b, w.c}) tile(s, t);
  if (p.rows == 0) return;
  // The residual gradient is dz: where it was stored, the second pass reads it instead of dy and y.
  NormBwdApplyArgs a{s,
                     dz ? dz : dy,
                     x,
                     y,
                     scale,
                     shift,
                     dx,
                     w.mean,
                     w.a,
                     w.b,
                     w.c,
                     dz ? ActParams{} : p.act,
                     norm_streams(s, dx, value_bytes, dx == dy || dx == x || dx == dz || dx == y)};
  auto kernel = half(c.in[1]) ? kernels()->norm_bwd_apply_bf16 : kernels()->norm_bwd_apply;
  for_chunks(s, [&](int64_t b, int64_t e) { kernel(&a, b, e); });
}

// ---- running statistics ---------------------------------------------------------------------------------------

const char* update_declines(const Call& c) {
  for (auto list : {c.in.first(4), c.out})
    for (const Operand& o : list)
      if (o.dtype != DType::float32) return "dtype is not float32";
  return c.as<BnUpdateParams>().rows > 1 ? nullptr : "fewer than 2 rows";
}

void update(const Call& c) {
  const auto& p = c.as<BnUpdateParams>();
  const float *mean = c.in[0].as<float>(), *invstd = c.in[1].as<float>();
  const float *old_mean = c.in[2].as<float>(), *old_var = c.in[3].as<float>();
  float *run_mean = c.out[0].as<float>(), *run_var = c.out[1].as<float>();
  double f = p.momentum;
  if (f < 0) f = 1.0 / static_cast<double>(std::max<int64_t>(*c.in[4].as<int64_t>(), 1));
  double unbias = static_cast<double>(p.rows) / static_cast<double>(p.rows - 1), keep = 1 - f;
  for (int64_t ch = 0; ch < p.C; ++ch) {
    double r = invstd[ch], var = 1 / (r * r) - p.eps;
    var = var < 0 ? 0 : var;  // NaN stays
    run_mean[ch] = static_cast<float>(keep * old_mean[ch] + f * mean[ch]);
    run_var[ch] = static_cast<float>(keep * old_var[ch] + f * var * unbias);
  }
}

}  // namespace

List batch_norm_list() {
  static const Implementation list[] = {{"simd", forward_declines, forward_workspace, forward},
                                        ViaFloat32<batch_norm_list>::entry(),
                                        {"ref", nullptr, nullptr, ref::batch_norm}};
  return list;
}

List batch_norm_bwd_list() {
  static const Implementation list[] = {{"simd", backward_declines, backward_workspace, backward},
                                        ViaFloat32<batch_norm_bwd_list>::entry(),
                                        {"ref", nullptr, nullptr, ref::batch_norm_bwd}};
  return list;
}

List batch_norm_infer_list() {
  static const Implementation list[] = {{"simd", infer_declines, infer_workspace, infer},
                                        ViaFloat32<batch_norm_infer_list>::entry(),
                                        {"ref", nullptr, nullptr, ref::batch_norm_infer}};
  return list;
}

List fold_batch_norm_list() {  // runs once per change of the weights
  static const Implementation list[] = {{"ref", nullptr, nullptr, ref::fold_batch_norm}};
  return list;
}

List bn_update_running_list() {
  static const Implementation list[] = {{"float32", update_declines, nullptr, update},
                                        {"ref", nullptr, nullptr, ref::bn_update_running}};
  return list;
}

}  // namespace fastcnn::cpu
