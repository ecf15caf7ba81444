// What it is: where the operands of a product C = A B lie, for matrices and for the three convolution passes
// (implicit GEMM: no im2col in memory): plain functions of the problem, for kernels of any kind and for tests that
// walk every index. What it is not: a tile map.
//
// A loader answers for one of several problems of a launch (groups, batches, parities of a stride):
//   problem(z)        its sizes M, N, K and whatever else depends on z alone
//   a_fixed(q, m)     what a row of A has in common, made once per thread; a_at(q, fixed, k) then says where
//                     element (m, k) lies, nullptr: it is zero (padding). The same for columns n of B.
//   a_along_k         do neighbours in memory differ in k (else in m)? Runs of 8 are contiguous where chunked.
//   out_row(q, m)     offset of C's row m; its columns are neighbours. column(q): the first one's number (bias).
#pragma once
#include "backend/cuda/kernels/act.cuh"
#include "backend/cuda/kernels/fast_div.h"

namespace fastcnn::cuda {

struct Product {
  int32_t M, N, K;
};

template <class T, bool trans_a, bool trans_b>
struct MatmulLoad {
  static constexpr bool a_along_k = !trans_a, b_along_k = trans_b;
  const T *x, *w;
  int32_t M, N, K;
  int64_t a_step, b_step;  // from one matrix to the next, 0: shared
  MatmulLoad(const MatmulParams& p, const T* a, const T* b)
      : x(a),
        w(b),
        M(static_cast<int32_t>(p.M)),
        N(static_cast<int32_t>(p.N)),
        K(static_cast<int32_t>(p.K)),
        a_step(p.a_batched ? p.M * p.K : 0),
        b_step(p.b_batched ? p.K * p.N : 0) {}

  struct Problem : Product {
    int32_t z;
  };
  using AFixed = const T*;
  using BFixed = const T*;
  FASTCNN_DEVICE Problem problem(int32_t z) const { return {{M, N, K}, z}; }
  FASTCNN_DEVICE AFixed a_fixed(const Problem& q, int32_t m) const {
    return x + q.z * a_step + (trans_a ? m : static_cast<int64_t>(m) * K);
  }
  FASTCNN_DEVICE const T* a_at(const Problem&, AFixed f, int32_t k) const {
    return f + (trans_a ? static_cast<int64_t>(k) * M : k);
  }
  FASTCNN_DEVICE BFixed b_fixed(const Problem& q, int32_t n) const {
    return w + q.z * b_step + (trans_b ? static_cast<int64_t>(n) * K : n);
  }
  FASTCNN_DEVICE const T* b_at(const Problem&, BFixed f, int32_t k) const {
    return f + (trans_b ? k : static_cast<int64_t>(k) * N);
  }
  FASTCNN_DEVICE int64_t out_row(const Problem& q, int32_t m) const {
    return (static_cast<int64_t>(q.z) * M + m) * N;
  }
  FASTCNN_DEVICE int32_t column(const Problem&) const { return 0; }
};

// 0 <= i < n
FASTCNN_INLINE bool below(int32_t i, int32_t n) { return static_cast<uint32_t>(i) < static_cast<uint32_t>(n); }

// The sizes of a convolution in 32 bits and the divisions that its loaders make.
struct ConvSizes {
  int32_t N, C, H, W, O, oH, oW, kH, kW, sH, sW, pT, pL, dH, dW, groups, Cg, Og, taps;
  FastDiv by_Cg, by_Og, by_kW, by_oW, by_oH;
  explicit ConvSizes(const Conv2dParams& p)
      : N(int32_t(p.N)),
        C(int32_t(p.C)),
        H(int32_t(p.H)),
        W(int32_t(p.W)),
        O(int32_t(p.O)),
        oH(int32_t(p.oH)),
        oW(int32_t(p.oW)),
        kH(int32_t(p.kH)),
        kW(int32_t(p.kW)),
        sH(int32_t(p.sH)),
        sW(int32_t(p.sW)),
        pT(int32_t(p.pT)),
        pL(int32_t(p.pL)),
        dH(int32_t(p.dH)),
        dW(int32_t(p.dW)),
        groups(int32_t(p.groups)),
        Cg(C / groups),
        Og(O / groups),
        taps(kH * kW),
        by_Cg(Cg),
        by_Og(Og),
        by_kW(kW),
        by_oW(oW),
        by_oH(oH) {}
};

// z: the group; A: (pixel of y, tap and channel of x); B: the weights as they lie.
template <class T>
struct ConvForward {
  static constexpr bool a_along_k = true, b_along_k = true;
  ConvSizes s;
  const T *x, *w;
  struct Problem : Product {
    int32_t z;
  };
  struct AFixed {
    int32_t pixel, h, w;  // what tap (0, 0) reads, inside or not
  };
  using BFixed = const T*;
  FASTCNN_DEVICE Problem problem(int32_t z) const { return {{s.N * s.oH * s.oW, s.Og, s.taps * s.Cg}, z}; }
  FASTCNN_DEVICE AFixed a_fixed(const Problem& q, int32_t m) const {
    int32_t ow, oh;
    const int32_t n = s.by_oH.split(s.by_oW.split(m, &ow), &oh);
    const int32_t h = oh * s.sH - s.pT, v = ow * s.sW - s.pL;
    return {(n * s.H + h) * s.W + v, h, v};
  }
  FASTCNN_DEVICE const T* a_at(const Problem& q, const AFixed& f, int32_t k) const {
    int32_t c, kw;
    const int32_t kh = s.by_kW.split(s.by_Cg.split(k, &c), &kw), down = kh * s.dH, right = kw * s.dW;
    if (!below(f.h + down, s.H) || !below(f.w + right, s.W)) return nullptr;
    return x + static_cast<int64_t>(f.pixel + (down * s.W + right)) * s.C + (q.z * s.Cg + c);
  }
  FASTCNN_DEVICE BFixed b_fixed(const Problem& q, int32_t n) const {
    return w + static_cast<int64_t>(q.z * s.Og + n) * q.K;
  }
  FASTCNN_DEVICE const T* b_at(const Problem&, BFixed f, int32_t k) const { return f + k; }
  FASTCNN_DEVICE int64_t out_row(const Problem& q, int32_t m) const {
    return static_cast<int64_t>(m) * s.O + column(q);
  }
  FASTCNN_DEVICE int32_t column(const Problem& q) const { return q.z * s.Og; }
};

// The pixels of x that lie at one parity of the stride see the same taps, so that a parity is a dense product: z
// is (group, parity of h, parity of w). One axis of it:
struct Parity {
  int32_t at, count;            // the first pixel, how many
  int32_t tap, tap_step, taps;  // the taps that meet it
  int32_t out, out_step;        // where the first tap of the first pixel reads, how far back the next one
  Parity() = default;
  FASTCNN_INLINE Parity(int32_t parity, int32_t size, int32_t k, int32_t stride, int32_t pad, int32_t dilation)
      : at(parity), count(parity < size ? (size - parity + stride - 1) / stride : 0) {
    int32_t a = stride, b = dilation;
    while (b) {
      const int32_t r = a % b;
      a = b, b = r;
    }
    tap_step = stride / a, out_step = dilation / a;
    for (tap = 0; tap < tap_step && (parity + pad - tap * dilation) % stride; ++tap) {
    }
    taps = tap < tap_step && tap < k ? (k - tap + tap_step - 1) / tap_step : 0;
    out = (parity + pad - tap * dilation) / stride;
  }
};

// A: (pixel of x, tap and channel of dy); B: (tap and channel of dy, channel of x).
template <class T>
struct ConvBwdData {
  static constexpr bool a_along_k = true, b_along_k = false;
  ConvSizes s;
  const T *dy, *w;
  struct Problem : Product {
    int32_t z;
    Parity h, w;
    FastDiv by_count_h, by_count_w, by_taps_w;
  };
  struct AFixed {
    int32_t pixel, h, w;  // what tap (0, 0) reads, inside or not
  };
  using BFixed = const T*;
  // Of the first parities, made on the host: divisors are dear.
  static constexpr int kKnown = 4;
  Problem known[kKnown];
  ConvBwdData(const ConvSizes& sizes, const T* y, const T* weights) : s(sizes), dy(y), w(weights) {
    for (int32_t k = 0; k < kKnown; ++k) known[k] = of_parity(k < s.sH * s.sW ? k : 0);
  }
  FASTCNN_INLINE Problem of_parity(int32_t parity) const {
    const Parity h(parity / s.sW, s.H, s.kH, s.sH, s.pT, s.dH), v(parity % s.sW, s.W, s.kW, s.sW, s.pL, s.dW);
    return {{s.N * h.count * v.count, s.Cg, h.taps * v.taps * s.Og},
            0,
            h,
            v,
            FastDiv(h.count),
            FastDiv(v.count),
            FastDiv(v.taps)};
  }
  FASTCNN_DEVICE Problem problem(int32_t z) const {
    const int32_t parities = s.sH * s.sW, parity = z % parities;
    Problem q = parity < kKnown ? known[parity] : of_parity(parity);
    q.z = z / parities;
    return q;
  }
  FASTCNN_DEVICE AFixed a_fixed(const Problem& q, int32_t m) const {
    int32_t i, j;
    const int32_t n = q.by_count_h.split(q.by_count_w.split(m, &j), &i);
    const int32_t h = q.h.out + i, v = q.w.out + j;
    return {(n * s.oH + h) * s.oW + v, h, v};
  }
  FASTCNN_DEVICE const T* a_at(const Problem& q, const AFixed& f, int32_t k) const {
    int32_t o, j;
    const int32_t i = q.by_taps_w.split(s.by_Og.split(k, &o), &j), up = i * q.h.out_step, left = j * q.w.out_step;
    if (!below(f.h - up, s.oH) || !below(f.w - left, s.oW)) return nullptr;
    return dy + static_cast<int64_t>(f.pixel - (up * s.oW + left)) * s.O + (q.z * s.Og + o);
  }
  FASTCNN_DEVICE BFixed b_fixed(const Problem& q, int32_t n) const {
    return w + static_cast<int64_t>(q.z) * s.Og * s.taps * s.Cg + n;
  }
  FASTCNN_DEVICE const T* b_at(const Problem& q, BFixed f, int32_t k) const {
    int32_t o, j;
    const int32_t i = q.by_taps_w.split(s.by_Og.split(k, &o), &j);
    const int32_t tap = (q.h.tap + i * q.h.tap_step) * s.kW + q.w.tap + j * q.w.tap_step;
    return f + (static_cast<int64_t>(o) * s.taps + tap) * s.Cg;
  }
  FASTCNN_DEVICE int64_t out_row(const Problem& q, int32_t m) const {
    int32_t i, j;
    const int32_t n = q.by_count_h.split(q.by_count_w.split(m, &j), &i);
    const int64_t h = q.h.at + i * s.sH, v = q.w.at + j * s.sW;
    return ((static_cast<int64_t>(n) * s.H + h) * s.W + v) * s.C + column(q);
  }
  FASTCNN_DEVICE int32_t column(const Problem& q) const { return q.z * s.Cg; }
};

// z: the group; A: (channel of dy, pixel); B: (pixel, tap and channel of x).
template <class T>
struct ConvBwdWeights {
  static constexpr bool a_along_k = false, b_along_k = false;
  ConvSizes s;
  const T *x, *dy;
  struct Problem : Product {
    int32_t z;
  };
  using AFixed = const T*;
  struct BFixed {
    int32_t channel, h, w;
  };
  FASTCNN_DEVICE Problem problem(int32_t z) const { return {{s.Og, s.taps * s.Cg, s.N * s.oH * s.oW}, z}; }
  FASTCNN_DEVICE AFixed a_fixed(const Problem& q, int32_t m) const { return dy + q.z * s.Og + m; }
  FASTCNN_DEVICE const T* a_at(const Problem&, AFixed f, int32_t k) const {
    return f + static_cast<int64_t>(k) * s.O;
  }
  FASTCNN_DEVICE BFixed b_fixed(const Problem& q, int32_t n) const {
    int32_t c, kw;
    const int32_t kh = s.by_kW.split(s.by_Cg.split(n, &c), &kw);
    return {q.z * s.Cg + c, kh * s.dH - s.pT, kw * s.dW - s.pL};
  }
  FASTCNN_DEVICE const T* b_at(const Problem&, const BFixed& f, int32_t k) const {
    int32_t ow, oh;
    const int32_t n = s.by_oH.split(s.by_oW.split(k, &ow), &oh);
    const int32_t h = oh * s.sH + f.h, v = ow * s.sW + f.w;
    if (!below(h, s.H) || !below(v, s.W)) return nullptr;
    return x + static_cast<int64_t>((n * s.H + h) * s.W + v) * s.C + f.channel;
  }
  FASTCNN_DEVICE int64_t out_row(const Problem& q, int32_t m) const {
    return static_cast<int64_t>(q.z * s.Og + m) * q.N;
  }
  FASTCNN_DEVICE int32_t column(const Problem&) const { return 0; }
};

// ---- the end of a product
// ----------------------------------------------------------------------------------------- Bias per column,
// residual of C's shape, activation.
template <class T>
struct Epilogue {
  const T *bias, *residual;
  ActOf<Real<T>> act;
};

// `column`: the bias's; `at`: where in C.
template <class T>
FASTCNN_DEVICE Real<T> finish(const Epilogue<T>& e, Real<T> v, int32_t column, int64_t at) {
  if (e.bias) v += to_real(e.bias[column]);
  if (e.residual) v += to_real(e.residual[at]);
  return apply_act(e.act, v);
}

// C as T, or as float where `wide` (gradients of 16-bit weights that go to float32 masters).
template <class T>
FASTCNN_DEVICE void store_result(void* out, bool wide, int64_t at, Real<T> v) {
  if (wide)
    static_cast<Real<T>*>(out)[at] = v;
  else
    static_cast<T*>(out)[at] = from_real<T>(v);
}

// parts (splits, problems, M, N), joined in the order of the splits.
template <class T, class Load>
FASTCNN_KERNEL gemm_join(Load load, int32_t splits, int64_t problems, Epilogue<T> epilogue, const Real<T>* parts,
                         void* out, bool wide) {
  follow_previous();
  const auto first = load.problem(0);
  const int64_t per = static_cast<int64_t>(first.M) * first.N, total = problems * per;
  for (int64_t i = global_thread(); i < total; i += global_threads()) {
    Real<T> v = 0;
    for (int s = 0; s < splits; ++s) v += parts[s * total + i];
    const auto q = load.problem(static_cast<int32_t>(i / per));
    const int64_t rest = i % per;
    const auto m = static_cast<int32_t>(rest / q.N), n = static_cast<int32_t>(rest % q.N);
    const int64_t at = load.out_row(q, m) + n;
    store_result<T>(out, wide, at, finish(epilogue, v, load.column(q) + n, at));
  }
}

}  // namespace fastcnn::cuda
