// What it is: the passes of batch and group normalisation over channels-last memory: moments, apply, backward
// sums, backward apply. Work items are chunks (image * chunks + chunk). Moments are taken around a shift close to
// the mean and merged in double (Chan, Golub & LeVeque 1983), so a large mean costs no accuracy.
#include "backend/cpu/kernels/act.h"
#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/lanes.h"

namespace fastcnn::cpu::FASTCNN_ISA {
namespace {

constexpr int kBlock = kVectorRegs == 32 ? 8 : 4;  // vectors of one register block of sums
constexpr int64_t kShiftRows = 8;

struct Chunk {
  int64_t offset, values, vrows, rem;  // of the first value; vrows full virtual rows and `rem` values more
};
FASTCNN_OP Chunk chunk_of(const NormShape& s, int64_t item) {
  int64_t image = item / s.chunks, first = item % s.chunks * s.chunk_rows;
  int64_t rows = s.rows - first < s.chunk_rows ? s.rows - first : s.chunk_rows;
  int64_t values = rows * s.C;
  return Chunk{(image * s.rows + first) * s.C, values, values / s.period, values % s.period};
}

// NV vectors from p on, as they are in the chunk `ahead` values further, are fetched to L2: in columns, or from
// chunk to chunk backwards, the hardware does not run ahead.
template <int NV, class T>
FASTCNN_OP void fetch_ahead(const T* p, int64_t ahead) {
  constexpr int kLine = 64 / static_cast<int>(sizeof(T));
  const uintptr_t at = reinterpret_cast<uintptr_t>(p) + static_cast<uintptr_t>(ahead) * sizeof(T);
  for (int i = 0; i < NV * kLanes; i += kLine)
    __builtin_prefetch(reinterpret_cast<const void*>(at + static_cast<uintptr_t>(i) * sizeof(T)), 0, 2);
}

// How far it is; 0 for what stays in L2.
FASTCNN_OP int64_t to_next_chunk(const NormShape& s) {
  return kFetches && s.images * s.rows * s.C > kCachedFloats ? s.chunk_rows * s.C : 0;
}

// Shift and shifted sums of NV vectors (the last one with n lanes) over the virtual rows of a chunk.
template <int NV, class T>
FASTCNN_OP void moments_block(const T* x, int64_t stride, int64_t vrows, int n, float* shift, float* s1, float* s2,
                              int64_t ahead) {
  vf k[NV], a[NV], q[NV];
  for (int v = 0; v < NV; ++v) k[v] = a[v] = q[v] = zero();
  int64_t few = vrows < kShiftRows ? vrows : kShiftRows;
  for (int64_t r = 0; r < few; ++r)
    for (int v = 0; v < NV; ++v) {
      const T* p = x + r * stride + v * kLanes;
      k[v] = add(k[v], n == kLanes ? load(p) : loadn(p, n));
    }
  vf inv = set1(1.0f / static_cast<float>(few));
  for (int v = 0; v < NV; ++v) k[v] = mul(k[v], inv);
  for (int64_t r = 0; r < vrows; ++r) {
    if (ahead) fetch_ahead<NV>(x + r * stride, ahead);
    for (int v = 0; v < NV; ++v) {
      const T* p = x + r * stride + v * kLanes;
      vf d = sub(n == kLanes ? load(p) : loadn(p, n), k[v]);
      a[v] = add(a[v], d);
      q[v] = fma(d, d, q[v]);
    }
  }
  for (int v = 0; v < NV; ++v) {
    store(shift + v * kLanes, k[v]);
    store(s1 + v * kLanes, a[v]);
    store(s2 + v * kLanes, q[v]);
  }
}

// Calls f.template operator()<NV>(j, n) over [0, width) in register blocks; the arrays have room for whole
// vectors.
template <class F>
FASTCNN_OP void for_blocks(int64_t width, F f) {
  int64_t j = 0;
  if (!kFewCopies)
    for (; j + kBlock * kLanes <= width; j += kBlock * kLanes) f.template operator()<kBlock>(j, kLanes);
  for (; j + 2 * kLanes <= width; j += 2 * kLanes) f.template operator()<2>(j, kLanes);
  for (; j < width; j += kLanes)
    f.template operator()<1>(j, static_cast<int>(width - j < kLanes ? width - j : kLanes));
}

// Mean and squared deviations of C channels from the sums of `fold` virtual channels each.
void merge_folds(const NormShape& s, const Chunk& c, int64_t width, const float* shift, const float* s1,
                 const float* s2, double* mean, double* dev) {
  int64_t channels = s.fold > 1 ? s.C : width;
  double total = static_cast<double>(c.values / s.C);
  if (s.fold == 1) {
    double inv = 1 / total;
    for (int64_t ch = 0; ch < channels; ++ch) {
      double d = s1[ch] * inv;
      mean[ch] = shift[ch] + d;
      dev[ch] = s2[ch] - s1[ch] * d;
    }
    return;
  }
  for (int64_t ch = 0; ch < channels; ++ch) mean[ch] = dev[ch] = 0;
  for (int64_t t = 0; t < s.fold; ++t) {
    double n = static_cast<double>(c.vrows + (t * s.C < c.rem));
    if (n == 0) break;
    for (int64_t ch = 0; ch < channels; ++ch) mean[ch] += (n * shift[t * s.C + ch] + s1[t * s.C + ch]) / total;
  }
  for (int64_t t = 0; t < s.fold; ++t) {
    double n = static_cast<double>(c.vrows + (t * s.C < c.rem));
    if (n == 0) break;
    for (int64_t ch = 0; ch < channels; ++ch) {
      int64_t j = t * s.C + ch;
      double d = shift[j] - mean[ch];  // sum of (x - mean)^2 from sums around the shift
      dev[ch] += s2[j] + d * (2 * s1[j] + n * d);
    }
  }
}

// One virtual row, or what is left of one: few per chunk, so one copy serves all.
template <class Op>
__attribute__((noinline)) void sweep_row(const Op& op, int64_t off, int64_t width) {
  int64_t j = 0;
  for (; j + kLanes <= width; j += kLanes) op.template run<1>(off + j, j, kLanes);
  if (j < width) op.template run<1>(off + j, j, static_cast<int>(width - j));
}

// Visits a chunk four virtual rows at a time, so that per-channel parameters are loaded once for four rows:
// op.template run<R>(offset from the chunk's start, channel j, lanes n).
template <class Op>
FASTCNN_OP void sweep(const Chunk& c, int64_t period, const Op& op) {
  int64_t v = 0;
  for (; v + 4 <= c.vrows; v += 4) {
    int64_t j = 0;
    for (; j + kLanes <= period; j += kLanes) op.template run<4>(v * period + j, j, kLanes);
    if (j < period) op.template run<4>(v * period + j, j, static_cast<int>(period - j));
  }
  for (; v < c.vrows; ++v) sweep_row(op, v * period, period);
  if (c.rem > 0) sweep_row(op, v * period, c.rem);
}

// bfloat16 addresses travel in argument structs as those of floats.
template <class T>
FASTCNN_OP const T* values(const float* p) {
  return reinterpret_cast<const T*>(p);
}
template <class T>
FASTCNN_OP T* values(float* p) {
  return reinterpret_cast<T*>(p);
}

template <Act A, bool Res, class T>
struct Apply {
  const T *x, *res;
  const float *mean, *scale, *shift;
  T* y;
  int64_t period;
  float alpha, beta;
  bool nt;
  int64_t ahead;
  template <int R>
  FASTCNN_INLINE void run(int64_t off, int64_t j, int n) const {
    for (int r = 0; r < R && ahead; ++r) {
      fetch_ahead<1>(x + off + r * period, ahead);
      if (Res) fetch_ahead<1>(res + off + r * period, ahead);
    }
    vf m = get(mean + j, n), a = get(scale + j, n), b = get(shift + j, n), z[R];
    for (int r = 0; r < R; ++r) {
      z[r] = fma(sub(get(x + off + r * period, n), m), a, b);
      if (Res) z[r] = add(z[r], get(res + off + r * period, n));
    }
    act_fwd_all<A, R>(z, alpha, beta);
    for (int r = 0; r < R; ++r) put(y + off + r * period, z[r], n, nt);
  }
};

// What act_grad takes of an element, read (y) or made again with the arithmetic of the forward pass. (A clamp's
// gradient is the same before it and behind.)
template <bool Again, class T>
FASTCNN_OP vf behind_norm(const T* y, vf centred, vf scale, vf shift, int n) {
  return Again ? fma(centred, scale, shift) : get(y, n);
}

template <Act A, bool Again, class T>
struct BwdApply {
  const T *dy, *x, *y;
  const float *scale, *shift, *mean, *a, *b, *c;
  T* dx;
  int64_t period;
  float alpha, beta;
  bool nt;
  int64_t ahead;
  template <int R>
  FASTCNN_INLINE void run(int64_t off, int64_t j, int n) const {
    for (int r = 0; r < R && ahead; ++r) {
      fetch_ahead<1>(x + off + r * period, ahead), fetch_ahead<1>(dy + off + r * period, ahead);
      if (A != Act::none && !Again) fetch_ahead<1>(y + off + r * period, ahead);
    }
    vf m = get(mean + j, n), va = get(a + j, n), vb = get(b + j, n), vc = get(c + j, n);
    vf sc = Again ? get(scale + j, n) : m, sh = Again ? get(shift + j, n) : m;
    vf dz[R], centred[R], z[R];
    for (int r = 0; r < R; ++r) {
      dz[r] = get(dy + off + r * period, n), centred[r] = sub(get(x + off + r * period, n), m);
      if (A != Act::none) z[r] = behind_norm<Again>(y + off + r * period, centred[r], sc, sh, n);
    }
    act_grad_all<A, R>(dz, z, alpha, beta);
    for (int r = 0; r < R; ++r) put(dx + off + r * period, fma(va, dz[r], fma(vb, centred[r], vc)), n, nt);
  }
};

// How the gradient arrives and leaves: Dz stores dz, Two adds a second dy, Again makes y from x. Smooth
// activations have one variant, which looks whether dz is wanted.
template <Act A>
constexpr bool kSmooth = A == Act::silu || A == Act::hardswish;
template <int NV, Act A, bool Dz, bool Two, bool Again, class T>
FASTCNN_OP void bwd_sums_block(const NormBwdSumsArgs& p, int64_t off, int64_t stride, int64_t vrows,
                               const float* mean, int64_t j, int n, float* s1, float* s2, bool more,
                               int64_t ahead = 0) {
  vf m[NV], a[NV], q[NV], sc[NV], sh[NV];
  const float alpha = static_cast<float>(p.act.alpha), beta = static_cast<float>(p.act.beta);
  const T *dy = values<T>(p.dy), *x = values<T>(p.x), *y = values<T>(p.y);
  const T* dy2 = values<T>(p.dy2);
  T* to = values<T>(p.dz);
  for (int v = 0; v < NV; ++v) {
    m[v] = get(mean + v * kLanes, n);
    a[v] = more ? load(s1 + v * kLanes) : zero();
    q[v] = more ? load(s2 + v * kLanes) : zero();
    sc[v] = Again ? get(p.scale + j + v * kLanes, n) : m[v];
    sh[v] = Again ? get(p.shift + j + v * kLanes, n) : m[v];
  }
  const auto rows = [&]<int U>() __attribute__((always_inline)) {
    vf dz[U * NV], centred[U * NV], z[U * NV];
    for (int64_t i = off; ahead && i < off + U * stride; i += stride) {
      fetch_ahead<NV>(dy + i, ahead), fetch_ahead<NV>(x + i, ahead);
      if (Two) fetch_ahead<NV>(dy2 + i, ahead);
      if (A != Act::none && !Again) fetch_ahead<NV>(y + i, ahead);
    }
    for (int u = 0; u < U; ++u)
      for (int v = 0; v < NV; ++v) {
        const int64_t i = off + u * stride + v * kLanes;
        const int k = u * NV + v;
        dz[k] = get(dy + i, n), centred[k] = sub(get(x + i, n), m[v]);
        if (Two) dz[k] = add(dz[k], get(dy2 + i, n));
        if (A != Act::none) z[k] = behind_norm<Again>(y + i, centred[k], sc[v], sh[v], n);
      }
    act_grad_all<A, U * NV>(dz, z, alpha, beta);
    for (int u = 0; u < U; ++u)
      for (int v = 0; v < NV; ++v) {
        const int k = u * NV + v;
        if (Dz && (!kSmooth<A> || to)) put(to + off + u * stride + v * kLanes, dz[k], n, p.nt != 0);
        a[v] = add(a[v], dz[k]);
        q[v] = fma(dz[k], centred[k], q[v]);
      }
    off += U * stride;
  };
  int64_t r = 0;
  constexpr int kRows = A == Act::silu && NV < 4 ? 4 / NV : 1;  // long chains: four at once
  for (; r + kRows <= vrows; r += kRows) rows.template operator()<kRows>();
  for (; kRows > 1 && r < vrows; ++r) rows.template operator()<1>();
  for (int v = 0; v < NV; ++v) {
    store(s1 + v * kLanes, a[v]);
    store(s2 + v * kLanes, q[v]);
  }
}

// Sums of channels from those of `fold` virtual channels each; not a copy in every variant below.
__attribute__((noinline)) void leave_sums(const NormShape& s, int64_t width, const float* s1, const float* s2,
                                          double* part1, double* part2) {
  const int64_t channels = s.fold > 1 ? s.C : width;
  for (int64_t ch = 0; ch < channels; ++ch) part1[ch] = s1[ch], part2[ch] = s2[ch];
  for (int64_t t = 1; t < s.fold; ++t)
    for (int64_t ch = 0; ch < s.C; ++ch) part1[ch] += s1[t * s.C + ch], part2[ch] += s2[t * s.C + ch];
}

// A vector that may end early, of whole virtual rows or of what is left of one: one copy.
template <Act A, bool Dz, bool Two, bool Again, class T>
__attribute__((noinline)) void bwd_sums_vector(const NormBwdSumsArgs& p, int64_t off, int64_t stride,
                                               int64_t vrows, const float* mean, int64_t j, int n, float* s1,
                                               float* s2, bool more) {
  bwd_sums_block<1, A, Dz, Two, Again, T>(p, off, stride, vrows, mean, j, n, s1, s2, more);
}

template <class T, Act A, bool Dz, bool Two, bool Again>
FASTCNN_OP void bwd_sums(const NormBwdSumsArgs& p, int64_t begin, int64_t end) {
  const NormShape& s = p.s;
  alignas(64) float s1[kMaxPeriod + 64], s2[kMaxPeriod + 64];
  for (int64_t item = begin; item < end; ++item) {
    Chunk c = chunk_of(s, item);
    const float* mean = p.mean + item / s.chunks * s.period;
    const int64_t ahead = item + 1 < end ? to_next_chunk(s) : 0;
    double* part = p.part + item * 2 * s.C;
    for (int64_t j0 = 0; j0 < s.period; j0 += kMaxPeriod) {
      int64_t width = s.period - j0 < kMaxPeriod ? s.period - j0 : kMaxPeriod;
      for_blocks(width, [&]<int NV>(int64_t j, int n) __attribute__((always_inline)) {
        // Two more parameters per vector: four vectors of them still fit the registers.
        constexpr int V = Again && NV > 4 ? NV / 2 : NV;
        if (V == 1 && n < kLanes)
          bwd_sums_vector<A, Dz, Two, Again, T>(p, c.offset + j0 + j, s.period, c.vrows, mean + j0 + j, j0 + j, n,
                                                s1 + j, s2 + j, false);
        else
          for (int64_t k = j; k < j + NV * kLanes; k += V * kLanes)
            bwd_sums_block<V, A, Dz, Two, Again, T>(p, c.offset + j0 + k, s.period, c.vrows, mean + j0 + k, j0 + k,
                                                    kLanes, s1 + k, s2 + k, false, ahead);
      });
      for (int64_t j = 0; j < c.rem; j += kLanes)
        bwd_sums_vector<A, Dz, Two, Again, T>(p, c.offset + c.vrows * s.period + j, 0, 1, mean + j, j,
                                              static_cast<int>(c.rem - j < kLanes ? c.rem - j : kLanes), s1 + j,
                                              s2 + j, true);
      leave_sums(s, width, s1, s2, part + j0, part + s.C + j0);
    }
  }
  if (Dz && p.nt) fence();
}

// Chunks go last to first: what the previous pass touched last is still in cache.
template <class T, Act A, bool Res>
FASTCNN_OP void apply(const NormApplyArgs& p, int64_t begin, int64_t end) {
  for (int64_t item = end - 1; item >= begin; --item) {
    Chunk c = chunk_of(p.s, item);
    int64_t t = item / p.s.chunks * p.s.period;
    sweep(c, p.s.period,
          Apply<A, Res, T>{values<T>(p.x) + c.offset, Res ? values<T>(p.res) + c.offset : nullptr, p.mean + t,
                           p.scale + t, p.shift + t, values<T>(p.y) + c.offset, p.s.period,
                           static_cast<float>(p.act.alpha), static_cast<float>(p.act.beta), p.nt != 0,
                           item > begin ? -to_next_chunk(p.s) : 0});
  }
  if (p.nt) fence();
}

template <class T, Act A, bool Again>
FASTCNN_OP void bwd_apply(const NormBwdApplyArgs& p, int64_t begin, int64_t end) {
  for (int64_t item = end - 1; item >= begin; --item) {
    Chunk c = chunk_of(p.s, item);
    int64_t t = item / p.s.chunks * p.s.period;
    sweep(c, p.s.period,
          BwdApply<A, Again, T>{values<T>(p.dy) + c.offset, values<T>(p.x) + c.offset,
                                A != Act::none && !Again ? values<T>(p.y) + c.offset : nullptr,
                                Again ? p.scale + t : nullptr, Again ? p.shift + t : nullptr, p.mean + t, p.a + t,
                                p.b + t, p.c + t, values<T>(p.dx) + c.offset, p.s.period,
                                static_cast<float>(p.act.alpha), static_cast<float>(p.act.beta), p.nt != 0,
                                item > begin ? -to_next_chunk(p.s) : 0});
  }
  if (p.nt) fence();
}

template <class T>
void moments(const NormMomentsArgs* p, int64_t begin, int64_t end) {
  const NormShape& s = p->s;
  alignas(64) float shift[kMaxPeriod + 64], s1[kMaxPeriod + 64], s2[kMaxPeriod + 64];
  for (int64_t item = begin; item < end; ++item) {
    Chunk c = chunk_of(s, item);
    const T* x = values<T>(p->x) + c.offset;
    const int64_t ahead = item + 1 < end ? to_next_chunk(s) : 0;
    double* part = p->part + item * 2 * s.C;
    for (int64_t j0 = 0; j0 < s.period; j0 += kMaxPeriod) {
      int64_t width = s.period - j0 < kMaxPeriod ? s.period - j0 : kMaxPeriod;
      if (c.vrows > 0) {
        for_blocks(width, [&]<int NV>(int64_t j, int n) __attribute__((always_inline)) {
          moments_block<NV>(x + j0 + j, s.period, c.vrows, n, shift + j, s1 + j, s2 + j, ahead);
        });
        for (int64_t j = 0; j < c.rem; ++j) {
          float d = static_cast<float>(x[c.vrows * s.period + j]) - shift[j];
          s1[j] += d;
          s2[j] += d * d;
        }
      } else {
        for (int64_t j = 0; j < c.rem; ++j) shift[j] = static_cast<float>(x[j]), s1[j] = s2[j] = 0;
      }
      merge_folds(s, c, width, shift, s1, s2, part + j0, part + s.C + j0);
    }
  }
}

}  // namespace

void norm_moments_bf16(const NormMomentsArgs* p, int64_t begin, int64_t end) { moments<bfloat16>(p, begin, end); }
#if FASTCNN_SHARED_HERE
void norm_moments(const NormMomentsArgs* p, int64_t begin, int64_t end) { moments<float>(p, begin, end); }

// Channels [begin, end): mean and biased variance from the moments of parts, in their order; part i has count(i)
// values.
template <class Count>
FASTCNN_OP void merge_parts(const double* part, int64_t parts, int64_t C, const Count& count, double* mean,
                            double* var, int64_t begin, int64_t end) {
  for (int64_t ch = begin; ch < end; ++ch) mean[ch] = var[ch] = 0;
  double all = 0;
  for (int64_t i = 0; i < parts; ++i) {
    const double n = count(i), *m = part + i * 2 * C;
    all += n;
    for (int64_t ch = begin; ch < end; ++ch) mean[ch] += n * m[ch];
  }
  for (int64_t ch = begin; ch < end; ++ch) mean[ch] /= all;
  for (int64_t i = 0; i < parts; ++i) {
    const double n = count(i), *m = part + i * 2 * C, *dev = m + C;
    for (int64_t ch = begin; ch < end; ++ch) var[ch] += dev[ch] + n * (m[ch] - mean[ch]) * (m[ch] - mean[ch]);
  }
  for (int64_t ch = begin; ch < end; ++ch) var[ch] = var[ch] < 0 ? 0 : var[ch] / all;  // NaN stays
}

// Of one image.
void norm_reduce_moments(const NormShape* s, const double* part, double* mean, double* var, int64_t begin,
                         int64_t end) {
  const double last = static_cast<double>(s->rows - (s->chunks - 1) * s->chunk_rows);
  const double full = static_cast<double>(s->chunk_rows);
  const auto count = [&](int64_t i) { return i + 1 < s->chunks ? full : last; };
  merge_parts(part, s->chunks, s->C, count, mean, var, begin, end);
}

void merge_moments(const MomentsOut& m, int64_t parts, double* mean, double* var, int64_t begin, int64_t end) {
  merge_parts(m.part, parts, m.channels, [&](int64_t i) { return m.count[i]; }, mean, var, begin, end);
}

void norm_reduce_sums(const NormShape* s, const double* part, double* s1, double* s2, int64_t begin, int64_t end) {
  for (int64_t ch = begin; ch < end; ++ch) s1[ch] = s2[ch] = 0;
  for (int64_t i = 0; i < s->chunks; ++i) {
    const double *a = part + i * 2 * s->C, *b = a + s->C;
    for (int64_t ch = begin; ch < end; ++ch) s1[ch] += a[ch], s2[ch] += b[ch];
  }
}
#endif

// The activations that fuse; adaptors never ask for others here. relu and relu6 are one variant: a clamp, in which
// NaN bounds nothing.
template <class Args>
FASTCNN_OP Args clamps(const Args& args) {
  Args p = args;
  if (p.act.act == Act::relu) p.act = {Act::hardtanh, 0, 0, __builtin_nan("")};
  if (p.act.act == Act::relu6) p.act = {Act::hardtanh, 0, 0, 6};
  return p;
}

// Calls f.template operator()<activation, whether its argument is made again>(arguments) of a backward pass.
// Clamps may read their output instead; the others go by their input.
template <class Args, class F>
FASTCNN_OP void with_act(const Args& args, F f) {
  if (args.act.act == Act::none) return f.template operator()<Act::none, false>(args);
  const Args p = clamps(args);
  switch (p.act.act) {
    case Act::hardtanh:
      if (p.scale) return f.template operator()<Act::hardtanh, true>(p);
      return f.template operator()<Act::hardtanh, false>(p);
    case Act::leaky_relu: return f.template operator()<Act::leaky_relu, true>(p);
    case Act::silu: return f.template operator()<Act::silu, true>(p);
    case Act::hardswish: return f.template operator()<Act::hardswish, true>(p);
    default: return;
  }
}

template <class T>
static void apply_any(const NormApplyArgs& args, int64_t begin, int64_t end) {
  const NormApplyArgs p = clamps(args);
  switch (p.act.act) {
#define FASTCNN_CASE(a) \
  case Act::a: return p.res ? apply<T, Act::a, true>(p, begin, end) : apply<T, Act::a, false>(p, begin, end);
    FASTCNN_CASE(none)
    FASTCNN_CASE(hardtanh)
    FASTCNN_CASE(leaky_relu)
    FASTCNN_CASE(silu)
    FASTCNN_CASE(hardswish)
#undef FASTCNN_CASE
    default: return;
  }
}
#if FASTCNN_SHARED_HERE
void norm_apply(const NormApplyArgs* p, int64_t begin, int64_t end) { apply_any<float>(*p, begin, end); }
#endif
void norm_apply_bf16(const NormApplyArgs* p, int64_t begin, int64_t end) { apply_any<bfloat16>(*p, begin, end); }

template <class T, Act A, bool Again>
static void bwd_sums_of(const NormBwdSumsArgs& p, int64_t begin, int64_t end) {
  if constexpr (kSmooth<A>) return bwd_sums<T, A, true, false, Again>(p, begin, end);
  if (p.dz && p.dy2) return bwd_sums<T, A, true, true, Again>(p, begin, end);
  if (p.dz) return bwd_sums<T, A, true, false, Again>(p, begin, end);
  return bwd_sums<T, A, false, false, Again>(p, begin, end);
}

template <class T>
static void bwd_sums_any(const NormBwdSumsArgs& args, int64_t begin, int64_t end) {
  with_act(args, [&]<Act A, bool Again>(const NormBwdSumsArgs& p) { bwd_sums_of<T, A, Again>(p, begin, end); });
}
#if FASTCNN_SHARED_HERE
void norm_bwd_sums(const NormBwdSumsArgs* p, int64_t begin, int64_t end) { bwd_sums_any<float>(*p, begin, end); }
#endif
void norm_bwd_sums_bf16(const NormBwdSumsArgs* p, int64_t begin, int64_t end) {
  bwd_sums_any<bfloat16>(*p, begin, end);
}

template <class T>
static void bwd_apply_any(const NormBwdApplyArgs& args, int64_t begin, int64_t end) {
  with_act(args, [&]<Act A, bool Again>(const NormBwdApplyArgs& p) { bwd_apply<T, A, Again>(p, begin, end); });
}
#if FASTCNN_SHARED_HERE
void norm_bwd_apply(const NormBwdApplyArgs* p, int64_t begin, int64_t end) {
  bwd_apply_any<float>(*p, begin, end);
}
#endif
void norm_bwd_apply_bf16(const NormBwdApplyArgs* p, int64_t begin, int64_t end) {
  bwd_apply_any<bfloat16>(*p, begin, end);
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
