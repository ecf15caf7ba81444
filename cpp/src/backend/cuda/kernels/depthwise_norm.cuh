// What it is: 3x3 depthwise convolutions of 16-bit floats between batch norms, as fast as the tensors that must be
// stored: the norm before is applied as x is read and the moments for the norm behind are taken on the way; back,
// the gradient of the norm behind is made as it is read, both gradients come of one pass and so do the sums for
// the norm before. A thread walks down a strip of columns of four channels, and each row is read, and made, once
// for all three rows of taps. What it is not: for activations that do not clamp, other kernels
// (depthwise_rows.cuh).
#pragma once
#include "backend/cuda/kernels/depthwise.cuh"
#include "backend/cuda/kernels/depthwise_rows.cuh"

namespace fastcnn::cuda {

constexpr int kQuad = 4;  // channels of a thread

// Columns of a thread, threads of a block, blocks of a processor.
struct BetweenShape {
  int columns, threads, blocks;
};
constexpr BetweenShape kBetweenForward{4, 192, 2}, kBetweenBack{4, 256, 1};

#if defined(__CUDACC__)
#define FASTCNN_BETWEEN_KERNEL(threads, blocks) __global__ void __launch_bounds__(threads, blocks)
#else
#define FASTCNN_BETWEEN_KERNEL(threads, blocks) void
#endif

// No activation, ReLU, ReLU6, Hardtanh. NaN stays NaN, and lets a gradient through.
struct Clamp {
  float lo = -INFINITY, hi = INFINITY;
  FASTCNN_DEVICE float operator()(float v) const {
#if defined(__CUDA_ARCH__)
    asm("max.NaN.f32 %0, %0, %1;" : "+f"(v) : "f"(lo));
    asm("min.NaN.f32 %0, %0, %1;" : "+f"(v) : "f"(hi));
    return v;
#else
    return clamp_to(v, lo, hi);
#endif
  }
  FASTCNN_DEVICE bool flat(float z) const { return z <= lo || z >= hi; }
};

struct alignas(8) HalfQuad {  // four neighbouring channels
  uint32_t word[2];
};
template <class T>
FASTCNN_DEVICE HalfQuad load_quad_if(bool there, const T* p) {
  HalfQuad q = {};
  if (there) q = *reinterpret_cast<const HalfQuad*>(p);
  return q;
}
template <class T>
FASTCNN_DEVICE void widen_quad(const HalfQuad& q, float (&v)[kQuad]) {
  FASTCNN_UNROLL
  for (int k = 0; k < 2; ++k) {
    if constexpr (is_same<T, bfloat16>) {
#if defined(__CUDA_ARCH__)
      v[2 * k] = __uint_as_float(q.word[k] << 16), v[2 * k + 1] = __uint_as_float(q.word[k] & 0xffff0000u);
      continue;
#endif
    }
    T a, b;
    a.bits = static_cast<uint16_t>(q.word[k]), b.bits = static_cast<uint16_t>(q.word[k] >> 16);
    v[2 * k] = to_real(a), v[2 * k + 1] = to_real(b);
  }
}
template <class T>
FASTCNN_DEVICE HalfQuad narrow_quad(const float (&v)[kQuad]) {
  return {{to_pair<T>(v[0], v[1]), to_pair<T>(v[2], v[3])}};
}
// From shared memory, and again each time: kept, all constants would fill the registers.
FASTCNN_DEVICE void load_four(const float* p, float (&v)[kQuad]) {
#if defined(__CUDA_ARCH__)
  asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v[0]), "=f"(v[1]), "=f"(v[2]), "=f"(v[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(p))));
#else
  for (int k = 0; k < kQuad; ++k) v[k] = p[k];
#endif
}

// The batch norm whose result x stands for; `affine` may be null: x is what it is.
struct NormBefore {
  const float *mean, *affine;
  Clamp act;
  FASTCNN_DEVICE float value(int which, int c, int32_t C) const {  // mean, scale, shift
    if (!affine) return which == 1 ? 1.f : 0.f;
    return which == 0 ? mean[c] : affine[(which - 1) * C + c];
  }
};

// Block (quads, lanes), grid (slices, quads): a lane walks over every (slices * lanes)-th unit.
struct BetweenThread {
  int quads, quad, lane, lanes, c;
  int32_t C;
  bool works;
  FASTCNN_DEVICE explicit BetweenThread(int32_t channels)
      : quads(static_cast<int>(blockDim.x)),
        quad(static_cast<int>(threadIdx.x)),
        lane(static_cast<int>(threadIdx.y)),
        lanes(static_cast<int>(blockDim.y)),
        c((static_cast<int>(blockIdx.y) * quads + quad) * kQuad),
        C(channels),
        works(c < channels) {}
  FASTCNN_DEVICE int first() const { return static_cast<int>(blockIdx.x) * lanes + lane; }
  FASTCNN_DEVICE int step() const { return static_cast<int>(gridDim.x) * lanes; }
  // store(channel, sum of the lanes' values) for each channel of the block; all threads meet.
  template <class F>
  FASTCNN_DEVICE void total(float* shared, const float (&v)[kQuad], const F& store) const {
    const int line = quads * kQuad, me = lane * quads + quad, c0 = static_cast<int>(blockIdx.y) * line;
    __syncthreads();
    FASTCNN_UNROLL
    for (int k = 0; k < kQuad; ++k) shared[me * kQuad + k] = works ? v[k] : 0.f;
    __syncthreads();
    for (int i = me; i < line; i += quads * lanes) {
      float t = 0;
      for (int l = 0; l < lanes; ++l) t += shared[l * line + i];
      if (c0 + i < C) store(c0 + i, t);
    }
  }
};

template <int columns>
FASTCNN_DEVICE uint32_t columns_there(int first, int W) {  // a bit for each
  uint32_t there = 0;
  FASTCNN_UNROLL
  for (int j = 0; j < columns; ++j) there |= static_cast<uint32_t>(first + j >= 0 && first + j < W) << j;
  return there;
}

// Vectors over the block's channels in shared memory, a line of them for each `which`: value(which, channel).
struct Constants {
  const float* mine;
  int line;
  template <class F>
  FASTCNN_DEVICE Constants(const BetweenThread& me, int lines, const F& value) : line(me.quads * kQuad) {
    float* memory = shared_memory<float>();
    const int c0 = static_cast<int>(blockIdx.y) * line;
    for (int i = me.lane * me.quads + me.quad; i < lines * line; i += me.quads * me.lanes) {
      const int which = i / line, c = c0 + i - which * line;
      memory[i] = c < me.C ? value(which, c) : 0.f;
    }
    __syncthreads();
    mine = memory + me.quad * kQuad;
  }
  // Of this thread's channels.
  FASTCNN_DEVICE void operator()(int which, float (&v)[kQuad]) const { load_four(mine + which * line, v); }
};
// A row of pixels through the norm before, whose constants begin at `first`; zeros where none are `there`.
template <class T, int columns>
FASTCNN_DEVICE void apply_norm(const Constants& constant, int first, const Clamp& act, uint32_t there,
                               const HalfQuad (&row)[columns], float (&v)[columns][kQuad]) {
  float mean[kQuad], scale[kQuad], shift[kQuad];
  constant(first, mean), constant(first + 1, scale), constant(first + 2, shift);
  FASTCNN_UNROLL
  for (int j = 0; j < columns; ++j) {
    widen_quad<T>(row[j], v[j]);
    FASTCNN_UNROLL
    for (int k = 0; k < kQuad; ++k) v[j][k] = act((v[j][k] - mean[k]) * scale[k] + shift[k]);
  }
  if (there == (1u << columns) - 1) return;
  FASTCNN_UNROLL
  for (int j = 0; j < columns; ++j) {
    FASTCNN_UNROLL
    for (int k = 0; k < kQuad; ++k) v[j][k] = there >> j & 1 ? v[j][k] : 0.f;
  }
}
constexpr int kForwardLines = 13, kBackLines = 18;
// Bytes of shared memory of a block.
FASTCNN_INLINE int64_t between_shared(int64_t lines, int64_t quads, int64_t lanes) {
  return (lines + lanes) * quads * kQuad * static_cast<int64_t>(sizeof(float));
}

// y = the convolution of act(norm(x)), and parts (slices, 2, C): sums of y and of its squares, unless null.
template <class T, int s, int S, int threads, int blocks>
FASTCNN_BETWEEN_KERNEL(threads, blocks)
depthwise_between(DepthwiseRows p, const T* x, const T* w, const T* bias, NormBefore norm, T* y, float* parts) {
  constexpr int columns = (S - 1) * s + 3, ring = s == 1 ? 3 : 1;
  const BetweenThread me(p.C);
  const Constants constant(me, kForwardLines, [&](int which, int c) {
    if (which < 9) return to_real(w[c * 9 + which]);
    if (which == 9) return bias ? to_real(bias[c]) : 0.f;
    return norm.value(which - 10, c, p.C);
  });
  float sum[kQuad] = {}, squares[kQuad] = {};
  const int64_t C = p.C;
  FASTCNN_NO_UNROLL
  for (int unit = me.first(); me.works && unit < p.units; unit += me.step()) {
    int32_t strip, group;
    const int32_t n = p.groups.split(p.strips.split(unit, &strip), &group);
    const int w0 = strip * S, row0 = group * p.rows, h0 = row0 * s - p.pT, v0 = w0 * s - p.pL;
    const int rows = row0 + p.rows < p.oH ? p.rows : p.oH - row0, reads = (rows - 1) * s + 3;
    const uint32_t readable = columns_there<columns>(v0, p.W), made = columns_there<S>(w0, p.oW);
    const T* at = x + static_cast<int64_t>(((n * p.H + h0) * p.W + v0) * p.C + me.c);
    T* to = y + static_cast<int64_t>(((n * p.oH + row0) * p.oW + w0) * p.C + me.c);
    HalfQuad raw[columns];
    auto fetch = [&](int q) {
      const uint32_t there = q < reads && h0 + q >= 0 && h0 + q < p.H ? readable : 0;
      FASTCNN_UNROLL
      for (int j = 0; j < columns; ++j) raw[j] = load_quad_if(there >> j & 1, at + j * C);
      at += p.W * C;
    };
    float acc[ring][S][kQuad] = {}, v[columns][kQuad];
    auto add = [&](float (&a)[S][kQuad], int kh) {
      float tap[3][kQuad];
      FASTCNN_UNROLL
      for (int kw = 0; kw < 3; ++kw) constant(kh * 3 + kw, tap[kw]);
      FASTCNN_UNROLL
      for (int j = 0; j < columns; ++j) {
        FASTCNN_UNROLL
        for (int i = 0; i < S; ++i) {
          const int kw = j - i * s;
          if (kw < 0 || kw >= 3) continue;
          FASTCNN_UNROLL
          for (int k = 0; k < kQuad; ++k) a[i][k] += v[j][k] * tap[kw][k];
        }
      }
    };
    auto begin = [&](float (&a)[S][kQuad]) {
      FASTCNN_UNROLL
      for (int i = 0; i < S; ++i) constant(9, a[i]);
    };
    auto finish = [&](const float (&a)[S][kQuad]) {
      FASTCNN_UNROLL
      for (int i = 0; i < S; ++i)
        if (made >> i & 1) {
          *reinterpret_cast<HalfQuad*>(to + i * C) = narrow_quad<T>(a[i]);
          FASTCNN_UNROLL
          for (int k = 0; k < kQuad; ++k) sum[k] += a[i][k], squares[k] += a[i][k] * a[i][k];
        }
      to += p.oW * C;
    };
    // Row q of those read, through the norm, and the next on its way; false: it is padding.
    auto read = [&](int q) {
      const bool there = h0 + q >= 0 && h0 + q < p.H;
      if (there) apply_norm<T>(constant, 10, norm.act, readable, raw, v);
      fetch(q + 1);
      return there;
    };
    fetch(0);
    if constexpr (s == 1) {
      auto step = [&]<int phase>(int q) {
        begin(acc[phase]);
        if (read(q)) add(acc[phase], 0), add(acc[(phase + 2) % 3], 1), add(acc[(phase + 1) % 3], 2);
        if (q >= 2) finish(acc[(phase + 1) % 3]);
      };
      FASTCNN_NO_UNROLL
      for (int q = 0; q < reads; q += 3) {
        step.template operator()<0>(q);
        if (q + 1 < reads) step.template operator()<1>(q + 1);
        if (q + 2 < reads) step.template operator()<2>(q + 2);
      }
    } else {
      begin(acc[0]);
      if (read(0)) add(acc[0], 0);
      FASTCNN_NO_UNROLL
      for (int q = 1; q < reads; q += 2) {
        if (read(q)) add(acc[0], 1);
        const bool there = read(q + 1);
        if (there) add(acc[0], 2);
        finish(acc[0]);
        begin(acc[0]);
        if (there) add(acc[0], 0);
      }
    }
  }
  if (!parts) return;
  float *part = parts + static_cast<int64_t>(blockIdx.x) * 2 * p.C,
        *shared = shared_memory<float>() + kForwardLines * constant.line;
  me.total(shared, sum, [&](int c, float t) { part[c] = t; });
  me.total(shared, squares, [&](int c, float t) { part[p.C + c] = t; });
}

// The batch norm behind, whose gradient is coef[0] dz + coef[1] (y - mean) + coef[2], dz what the activation
// leaves of dy. `affine` is null where there is none.
template <class T>
struct NormBehind {
  const T *dy, *y;
  const float *mean, *affine, *coef;  // affine (2, C), coef (3, C)
  Clamp act;
  FASTCNN_DEVICE float value(int which, int c, int32_t C) const {  // three coefficients, mean, scale, shift
    if (!coef) return which == 0 ? 1.f : 0.f;                      // dy is the gradient itself
    if (which < 3) return coef[which * C + c];
    if (which == 3) return mean[c];
    return affine ? affine[(which - 4) * C + c] : 0.f;
  }
};

// dx unless null, parts (slices, 9 C [+ 2 C]): the gradient of the weights (C, 3, 3) and, with `sums`, of dx
// behind the slope of the norm before and of its product with x - mean. H, W are of x; oH, oW of dy. A unit's
// rows: of x, or pairs of them with a stride of 2, whose first row is the one that middle taps alone reach.
template <class T, int s, int S, int threads, int blocks>
FASTCNN_BETWEEN_KERNEL(threads, blocks)
depthwise_between_bwd(DepthwiseRows p, NormBehind<T> behind, const T* w, const T* x, NormBefore norm, bool sums,
                      T* dx, float* parts) {
  constexpr int columns = s == 1 ? S + 2 : S + 1, ring = s == 1 ? 3 : 2, width = S * s;
  const BetweenThread me(p.C);
  const Constants constant(me, kBackLines, [&](int which, int c) {
    if (which < 9) return w ? to_real(w[c * 9 + which]) : 0.f;
    if (which < 12) return norm.value(which - 9, c, p.C);
    return behind.value(which - 12, c, p.C);
  });
  float dw[9][kQuad] = {}, sum[kQuad] = {}, dot[kQuad] = {};
  const int64_t C = p.C;
  FASTCNN_NO_UNROLL
  for (int unit = me.first(); me.works && unit < p.units; unit += me.step()) {
    int32_t strip, group;
    const int32_t n = p.groups.split(p.strips.split(unit, &strip), &group);
    // First column and row of x, and of dy.
    const int w0 = s == 1 ? strip * S : (strip * S + p.first_w) * 2 + 1 - p.pL;
    const int h0 = s == 1 ? group * p.rows : (group * p.rows + p.first_h) * 2 + 1 - p.pT;
    const int d0 = s == 1 ? w0 + p.pL - 2 : strip * S + p.first_w;
    const int g0 = s == 1 ? h0 + p.pT - 2 : group * p.rows + p.first_h;
    const int end = h0 + p.rows * s < p.H ? h0 + p.rows * s : p.H;
    const uint32_t readable = columns_there<columns>(d0, p.oW), made = columns_there<width>(w0, p.W);
    const int64_t y_at = ((n * p.oH + g0) * p.oW + d0) * p.C + me.c;
    const int64_t x_at = ((n * p.H + h0) * p.W + w0) * p.C + me.c;
    const T *dy_from = behind.dy + y_at, *y_from = behind.y + y_at, *x_from = x + x_at;
    int64_t to = x_at;  // of dx, which may be null
    HalfQuad dy_raw[columns], y_raw[columns], x_raw[width], window[ring][columns];
    auto fetch_dy = [&](int g) {
      const uint32_t there = g >= 0 && g < p.oH ? readable : 0;
      FASTCNN_UNROLL
      for (int j = 0; j < columns; ++j) {
        dy_raw[j] = load_quad_if(there >> j & 1, dy_from + j * C);
        y_raw[j] = load_quad_if(there >> j & 1, y_from + j * C);
      }
      dy_from += p.oW * C, y_from += p.oW * C;
    };
    auto fetch_x = [&](int h) {
      const uint32_t there = h >= 0 && h < end ? made : 0;
      FASTCNN_UNROLL
      for (int e = 0; e < width; ++e) x_raw[e] = load_quad_if(there >> e & 1, x_from + e * C);
      x_from += p.W * C;
    };
    // Row g of dy, which has been fetched, through the norm behind.
    auto make = [&](int g, HalfQuad(&row)[columns]) {
      const bool there = g >= 0 && g < p.oH;
      float k0[kQuad], k1[kQuad], k2[kQuad], m[kQuad], a[kQuad], b[kQuad];
      constant(12, k0), constant(13, k1), constant(14, k2), constant(15, m), constant(16, a), constant(17, b);
      FASTCNN_UNROLL
      for (int j = 0; j < columns; ++j) {
        float d[kQuad], v[kQuad];
        widen_quad<T>(dy_raw[j], d), widen_quad<T>(y_raw[j], v);
        FASTCNN_UNROLL
        for (int k = 0; k < kQuad; ++k) {
          const float centred = v[k] - m[k], rest = centred * k1[k] + k2[k];
          v[k] = behind.act.flat(centred * a[k] + b[k]) ? rest : d[k] * k0[k] + rest;
        }
        row[j] = narrow_quad<T>(v);
      }
      if (there && readable == (1u << columns) - 1) return;
      FASTCNN_UNROLL
      for (int j = 0; j < columns; ++j)
        if (!there || !(readable >> j & 1)) row[j] = {};
    };
    float value[width][kQuad], d[width][kQuad];
    // Row h of x through the norm before; gradients start at zero.
    auto begin = [&] {
      apply_norm<T>(constant, 9, norm.act, made, x_raw, value);
      FASTCNN_UNROLL
      for (int e = 0; e < width; ++e) {
        FASTCNN_UNROLL
        for (int k = 0; k < kQuad; ++k) d[e][k] = 0;
      }
    };
    // What row kh of the taps has from a row of the window.
    auto add = [&](const HalfQuad(&row)[columns], int kh) {
      float tap[3][kQuad];
      FASTCNN_UNROLL
      for (int kw = 0; kw < 3; ++kw) constant(kh * 3 + kw, tap[kw]);
      FASTCNN_UNROLL
      for (int j = 0; j < columns; ++j) {
        float g[kQuad];
        widen_quad<T>(row[j], g);
        FASTCNN_UNROLL
        for (int e = 0; e < width; ++e) {
          FASTCNN_UNROLL
          for (int kw = 0; kw < 3; ++kw) {
            const bool meets = s == 1       ? e + 2 - kw == j
                               : e % 2 == 0 ? kw == 1 && e / 2 == j
                                            : (kw == 0 && e / 2 + 1 == j) || (kw == 2 && e / 2 == j);
            if (!meets) continue;
            FASTCNN_UNROLL
            for (int k = 0; k < kQuad; ++k) {
              d[e][k] += g[k] * tap[kw][k];
              dw[kh * 3 + kw][k] += g[k] * value[e][k];
            }
          }
        }
      }
    };
    auto finish = [&] {
      float mean[kQuad], scale[kQuad], shift[kQuad];
      constant(9, mean), constant(10, scale), constant(11, shift);
      FASTCNN_UNROLL
      for (int e = 0; e < width; ++e) {
        if (!(made >> e & 1)) continue;
        if (sums) {
          float v[kQuad];
          widen_quad<T>(x_raw[e], v);
          FASTCNN_UNROLL
          for (int k = 0; k < kQuad; ++k) {
            const float centred = v[k] - mean[k];
            if (norm.act.flat(centred * scale[k] + shift[k])) d[e][k] = 0;
            sum[k] += d[e][k], dot[k] += d[e][k] * centred;
          }
        }
        if (dx) *reinterpret_cast<HalfQuad*>(dx + to + e * C) = narrow_quad<T>(d[e]);
      }
    };
    auto next = [&](HalfQuad(&row)[columns], const HalfQuad(&after)[columns]) {
      FASTCNN_UNROLL
      for (int j = 0; j < columns; ++j) row[j] = after[j];
    };
    if constexpr (s == 1) {
      fetch_dy(g0), make(g0, window[0]);
      fetch_dy(g0 + 1), make(g0 + 1, window[1]);
      fetch_dy(g0 + 2), fetch_x(h0);
      FASTCNN_NO_UNROLL
      for (int h = h0; h < end; ++h) {
        make(h + p.pT, window[2]);
        if (h + 1 < end) fetch_dy(h + p.pT + 1);
        begin();
        add(window[2], 0), add(window[1], 1), add(window[0], 2);
        finish();
        fetch_x(h + 1);
        to += p.W * C;
        next(window[0], window[1]), next(window[1], window[2]);
      }
    } else {
      fetch_dy(g0), make(g0, window[0]);
      fetch_dy(g0 + 1), fetch_x(h0);
      FASTCNN_NO_UNROLL
      for (int h = h0, g = g0; h < end; h += 2, ++g) {
        make(g + 1, window[1]);
        if (h + 2 < end) fetch_dy(g + 2);
        if (h >= 0) {
          begin();
          add(window[0], 1);
          finish();
        }
        to += p.W * C;
        fetch_x(h + 1);
        if (h + 1 < end) {
          begin();
          add(window[1], 0), add(window[0], 2);
          finish();
        }
        to += p.W * C;
        fetch_x(h + 2);
        next(window[0], window[1]);
      }
    }
  }
  float* part = parts + static_cast<int64_t>(blockIdx.x) * (sums ? 11 : 9) * p.C;
  float* shared = shared_memory<float>() + kBackLines * constant.line;
  FASTCNN_UNROLL
  for (int t = 0; t < 9; ++t) me.total(shared, dw[t], [&](int c, float v) { part[c * 9 + t] = v; });
  if (!sums) return;
  me.total(shared, sum, [&](int c, float v) { part[9 * p.C + c] = v; });
  me.total(shared, dot, [&](int c, float v) { part[10 * p.C + c] = v; });
}

// dw (9 C) and sums (2 C) from parts (slices, n), n = 9 C or 11 C. Block (32 values, lanes: a power of two).
template <class D>
FASTCNN_KERNEL join_between(const float* parts, int slices, int64_t C, int64_t n, D* dw, double* sums) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * 32 + threadIdx.x;
  const int lane = static_cast<int>(threadIdx.y), lanes = static_cast<int>(blockDim.y);
  float t = 0;
  if (i < n)
    for (int k = lane; k < slices; k += lanes) t += parts[k * n + i];
  t = total_of_lanes(t);
  if (lane != 0 || i >= n) return;
  if (i < 9 * C)
    dw[i] = from_real<D>(t);
  else
    sums[i - 9 * C] = t;
}

}  // namespace fastcnn::cuda
