// What it is: what the adaptors of conv2d_bwd share: where its operands are, and the gradient of the convolution's
// output made pixel by pixel as norm_bwd_apply makes it. What it is not: an adaptor.
#pragma once
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

inline const char* joint_declines(const Call& c) {
  const Act a = c.as<Conv2dBwdParams>().norm_act.act;
  return clamps(a) || smooth(a) ? nullptr : "activation of the norm";
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

// The gradient of x's norm behind its activation, and the two sums that norm needs, strip by strip.
class InputSums {
 public:
  static int64_t floats(const Conv2dBwdParams& p, int64_t chunks) {
    return p.has_sums ? 3 * aligned(norm_shape(1, 1, p.conv.C).period) + chunks * 4 * p.conv.C : 0;
  }
  // Tables of the period of norm_bwd_sums in `space`, the sums of `chunks` behind them.
  InputSums(const Call& c, int64_t at, float* space) : args_{}, on_(c.as<Conv2dBwdParams>().has_sums != 0) {
    if (!on_) return;
    const Conv2dParams& p = c.as<Conv2dBwdParams>().conv;
    const int64_t C = p.C;
    const NormShape& s = args_.s = norm_shape(1, 1, C);
    const float* affine = c.in[at + 1].as<float>();
    const float* from[] = {c.in[at].as<float>(), affine, affine + C};
    const float** to[] = {&args_.mean, &args_.scale, &args_.shift};
    for (int i = 0; i < 3; ++i, space += aligned(s.period)) {
      std::copy_n(from[i], C, space);
      tile(s, space);
      *to[i] = space;
    }
    args_.act = p.in_act, args_.x = c.in[2].as<float>(), args_.dz = c.out[0].as<float>();
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
    kernels()->norm_bwd_sums(&a, 0, 1);
    double* sum = of(chunk);
    for (int64_t i = 0; i < 2 * C; ++i) sum[i] += room[i];
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
