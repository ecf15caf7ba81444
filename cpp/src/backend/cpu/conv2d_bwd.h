// What it is: what the adaptors of conv2d_bwd share: where its operands are, the gradient of the convolution's
// output made pixel by pixel as norm_bwd_apply makes it, and the norm before x with its sums. What it is not: an
// adaptor.
#pragma once
#include <algorithm>
#include <vector>

#include "backend/cpu/conv2d_tasks.h"
#include "backend/cpu/norm_plan.h"

namespace fastcnn::cpu {

// The call of a backward pass alone, for what plans and reasons of the two passes ask.
inline Call conv_call(const Call& c) {
  Call d = c;
  d.params = &c.as<Conv2dBwdParams>().conv;
  return d;
}
inline bool masks(const Conv2dBwdParams& p) { return p.norm_act.act != Act::none; }
inline int64_t norm_in_at(const Conv2dBwdParams& p) { return masks(p) ? 7 : 6; }

inline const char* activation_declines(const Conv2dBwdParams& p) {
  const Act a = p.norm_act.act;
  if (!clamps(p.out_act.act)) return "activation of the norm before";
  return clamps(a) || smooth(a) ? nullptr : "activation of the norm";
}
inline const char* joint_declines(const Call& c) {
  return c.out.size() < 2 ? "the weights' gradient alone" : activation_declines(c.as<Conv2dBwdParams>());
}

// dy as the batch norm behind the convolution hands it back: a*dz + b*(y - mean) + c.
class OutputGrad {
 public:
  static int64_t floats(int64_t O) { return 6 * aligned(norm_shape(1, 1, O).period); }
  // Tables of the period of norm_bwd_apply in `space`.
  OutputGrad(const Call& c, float* space) : args_{} {
    const auto& p = c.as<Conv2dBwdParams>();
    const int64_t O = p.conv.O;
    const NormShape& s = args_.s = norm_shape(1, 1, O);
    const float* coef = c.in[5].as<float>();
    const float* affine = masks(p) ? c.in[6].as<float>() : nullptr;
    const float* from[] = {c.in[4].as<float>(), coef, coef + O, coef + 2 * O, affine, affine + (affine ? O : 0)};
    const float** to[] = {&args_.mean, &args_.a, &args_.b, &args_.c, &args_.scale, &args_.shift};
    for (int i = 0; i < 6; ++i, space += aligned(s.period)) {
      if (!from[i]) continue;
      std::copy_n(from[i], O, space);
      tile(s, space);
      *to[i] = space;
    }
    args_.act = p.norm_act, args_.dy = c.in[0].as<float>(), args_.x = c.in[3].as<float>();
  }
  // Of pixels [from, to) to `dst`.
  void make(int64_t from, int64_t to, float* dst) const {
    NormBwdApplyArgs a = args_;
    a.s.rows = a.s.chunk_rows = to - from;
    a.dy += from * a.s.C, a.x += from * a.s.C, a.dx = dst;
    if (to > from) kernels()->norm_bwd_apply(&a, 0, 1);
  }

 private:
  NormBwdApplyArgs args_;
};

// The norm before x whose sums a call gives.
struct NormBefore {
  const float *x = nullptr, *y = nullptr;  // its input; its output where there was a residual
  const float *mean = nullptr, *affine = nullptr, *dy2 = nullptr;
  ActParams act;
};
inline NormBefore norm_before(const Call& c) {
  const auto& p = c.as<Conv2dBwdParams>();
  const int64_t at = norm_in_at(p);
  NormBefore n;
  if (p.has_residual) {
    n.x = c.in[at].as<float>(), n.y = c.in[2].as<float>(), n.mean = c.in[at + 1].as<float>(), n.act = p.out_act;
    if (p.has_dy2) n.dy2 = c.in[at + 2].as<float>();
  } else {
    n.x = c.in[2].as<float>(), n.mean = c.in[at].as<float>(), n.affine = c.in[at + 1].as<float>();
    n.act = p.conv.in_act;
  }
  return n;
}

// The same for kernels that take its sums from registers; parts of the pixels have sums of their own at `part`.
inline NormSums norm_sums(const Call& c, double* part, int64_t step) {
  NormSums s;
  const auto& p = c.as<Conv2dBwdParams>();
  s.on = p.has_sums != 0;
  if (!s.on) return s;
  const NormBefore n = norm_before(c);
  s.x = n.x, s.y = n.act.act != Act::none ? n.y : n.x, s.mean = n.mean, s.act = n.act.act;
  if (n.affine) s.y = nullptr, s.scale = n.affine, s.shift = n.affine + p.conv.C;
  s.part = part, s.step = step, s.channels = p.conv.C;
  return s;
}
inline void clear_norm_sums(const NormSums& s, int64_t parts) {
  if (s.on) std::fill_n(s.part, parts * 2 * s.channels, 0.0);
}
inline void merge_norm_sums(const NormSums& s, int64_t parts, double* out) {
  if (!s.on) return;
  parallel_for(2 * s.channels, ceil_div(4 * 1024, parts), [&](int64_t b, int64_t e, int) {
    std::fill(out + b, out + e, 0.0);
    for (int64_t i = 0; i < parts; ++i)
      for (int64_t j = b; j < e; ++j) out[j] += s.part[i * 2 * s.channels + j];
  });
}

// Where strips do not pay: the gradient of the convolution's output as a whole, then one pass after the other.
inline void make_whole(const OutputGrad& grad, const Conv2dParams& p, float* dy) {
  parallel_for(p.N * p.oH * p.oW, ceil_div(16 * 1024, p.O),
               [&](int64_t b, int64_t e, int) { grad.make(b, e, dy + b * p.O); });
}
// conv2d_bwd_weights of a call, from that gradient.
struct WeightsCall {
  std::vector<Operand> in;
  Call call;
  WeightsCall(const Call& c, float* dy, void* workspace) : in{c.in[2], c.in[0]}, call(conv_call(c)) {
    const auto& p = c.as<Conv2dBwdParams>();
    const auto at = static_cast<size_t>(norm_in_at(p));
    in[1].data = dy;
    if (p.conv.has_norm_in) in.insert(in.end(), c.in.begin() + at, c.in.begin() + at + 2);
    call.in = in, call.out = c.out.subspan(1, 1), call.workspace = workspace;
  }
  WeightsCall(const WeightsCall&) = delete;
};

// The gradient of that norm behind its activation, and the two sums it needs, strip by strip.
class InputSums {
 public:
  static int64_t floats(const Conv2dBwdParams& p, int64_t chunks) {
    return p.has_sums ? 3 * aligned(norm_shape(1, 1, p.conv.C).period) + chunks * 4 * p.conv.C : 0;
  }
  // Tables of the period of norm_bwd_sums in `space`, the sums of `chunks` behind them.
  InputSums(const Call& c, float* space) : args_{}, on_(c.as<Conv2dBwdParams>().has_sums != 0) {
    if (!on_) return;
    const Conv2dParams& p = c.as<Conv2dBwdParams>().conv;
    const int64_t C = p.C;
    const NormShape& s = args_.s = norm_shape(1, 1, C);
    const NormBefore n = norm_before(c);
    const float* from[] = {n.mean, n.affine, n.affine ? n.affine + C : nullptr};
    const float** to[] = {&args_.mean, &args_.scale, &args_.shift};
    for (int i = 0; i < 3; ++i, space += aligned(s.period)) {
      if (!from[i]) continue;
      std::copy_n(from[i], C, space);
      tile(s, space);
      *to[i] = space;
    }
    args_.act = n.act, args_.x = n.x, args_.dz = c.out[0].as<float>();
    args_.y = n.act.act != Act::none ? n.y : nullptr, args_.dy2 = n.dy2;
    NormShape whole = s;
    whole.rows = p.N * p.H * p.W;
    args_.nt = C % lanes() == 0 && norm_streams(whole, args_.dz);
    part_ = reinterpret_cast<double*>(space);
  }
  bool on() const { return on_; }
  void clear(int64_t chunk) const { std::fill_n(of(chunk), 2 * args_.s.C, 0.0); }
  // dx of pixels [from, to) as it lies at `dx`, to where it belongs; `room` is for 2*C doubles.
  void add(int64_t chunk, int64_t from, int64_t to, const float* dx, double* room) const {
    if (from >= to) return;
    const int64_t C = args_.s.C;
    NormBwdSumsArgs a = args_;
    a.s.rows = a.s.chunk_rows = to - from;
    a.dy = dx, a.x += from * C, a.dz += from * C, a.part = room;
    if (a.y) a.y += from * C;
    if (a.dy2) a.dy2 += from * C;
    kernels()->norm_bwd_sums(&a, 0, 1);
    double* sum = of(chunk);
    for (int64_t i = 0; i < 2 * C; ++i) sum[i] += room[i];
  }
  // What a kernel has summed: of the gradient and, `step` floats on, of it times the centred input.
  void add(int64_t chunk, const float* sums, int64_t step) const {
    const int64_t C = args_.s.C;
    double* sum = of(chunk);
    for (int64_t i = 0; i < C; ++i) sum[i] += sums[i], sum[C + i] += sums[step + i];
  }
  void finish(int64_t chunks, double* out) const {
    NormShape s = args_.s;
    s.chunks = chunks;
    kernels()->norm_reduce_sums(&s, part_, out, out + s.C, 0, s.C);
  }

 private:
  double* of(int64_t chunk) const { return part_ + chunk * 2 * args_.s.C; }
  NormBwdSumsArgs args_;
  double* part_ = nullptr;
  bool on_;
};

}  // namespace fastcnn::cpu
