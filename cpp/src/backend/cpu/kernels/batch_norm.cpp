// What it is: the passes of batch and group normalisation over channels-last memory: moments, apply, backward
// sums, backward apply. Work items are chunks (image * chunks + chunk). Moments are taken around a shift close to
// the mean and merged in double (Chan, Golub & LeVeque 1983), so a large mean costs no accuracy.
#include "backend/cpu/kernels/act.h"
#include "backend/cpu/kernels/kernels.h"

namespace fastcnn::cpu::FASTCNN_ISA {
namespace {

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

template <class T>
FASTCNN_OP vf get(const T* p, int n) {
  return n == kLanes ? load(p) : loadn(p, n);
}
template <class T>
FASTCNN_OP void put(T* p, vf v, int n, bool nt) {
  if (n < kLanes)
    storen(p, v, n);
  else if (nt)
    stream(p, v);
  else
    store(p, v);
}

// Visits virtual rows in memory order, four at a time, with the sums of all channels in the first-level cache:
// columns of registers would read memory in short strides, at half its rate.
// op.template run<R>(offset from the first row, channel j, lanes n).
template <class Op>
FASTCNN_OP void for_rows(int64_t vrows, int64_t stride, int64_t width, const Op& op) {
  int64_t r = 0;
  for (; r + 4 <= vrows; r += 4) {
    int64_t j = 0;
    for (; j + kLanes <= width; j += kLanes) op.template run<4>(r * stride + j, j, kLanes);
    if (j < width) op.template run<4>(r * stride + j, j, static_cast<int>(width - j));
  }
  for (; r < vrows; ++r)
    for (int64_t j = 0; j < width; j += kLanes)
      op.template run<1>(r * stride + j, j, static_cast<int>(width - j < kLanes ? width - j : kLanes));
}

template <class T>
struct ShiftRows {
  const T* x;
  int64_t stride;
  float* shift;
  template <int R>
  FASTCNN_INLINE void run(int64_t off, int64_t j, int n) const {
    vf k = load(shift + j);
    for (int r = 0; r < R; ++r, off += stride) k = add(k, get(x + off, n));
    store(shift + j, k);
  }
};

template <class T>
struct MomentRows {
  const T* x;
  int64_t stride;
  const float* shift;
  float *s1, *s2;
  template <int R>
  FASTCNN_INLINE void run(int64_t off, int64_t j, int n) const {
    vf k = load(shift + j), a = load(s1 + j), q = load(s2 + j);
    for (int r = 0; r < R; ++r, off += stride) {
      vf d = sub(get(x + off, n), k);
      a = add(a, d);
      q = fma(d, d, q);
    }
    store(s1 + j, a);
    store(s2 + j, q);
  }
};

// Shift (the mean of the first rows) and shifted sums of `width` columns; the arrays have room for whole vectors.
template <class T>
FASTCNN_OP void moments_of_rows(const T* x, int64_t stride, int64_t vrows, int64_t width, float* shift, float* s1,
                                float* s2) {
  const int64_t few = vrows < kShiftRows ? vrows : kShiftRows;
  const vf inv = set1(1.0f / static_cast<float>(few));
  for (int64_t j = 0; j < width; j += kLanes)
    store(shift + j, zero()), store(s1 + j, zero()), store(s2 + j, zero());
  for_rows(few, stride, width, ShiftRows<T>{x, stride, shift});
  for (int64_t j = 0; j < width; j += kLanes) store(shift + j, mul(load(shift + j), inv));
  for_rows(vrows, stride, width, MomentRows<T>{x, stride, shift, s1, s2});
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

// What follows the last whole virtual row of a chunk.
template <class Op>
FASTCNN_OP void sweep_rest(const Chunk& c, int64_t period, const Op& op) {
  for (int64_t j = 0; j < c.rem; j += kLanes)
    op.template run<1>(c.vrows * period + j, j, static_cast<int>(c.rem - j < kLanes ? c.rem - j : kLanes));
}

template <class Op>
FASTCNN_OP void sweep(const Chunk& c, int64_t period, const Op& op) {
  for_rows(c.vrows, period, period, op);
  sweep_rest(c, period, op);
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
  float alpha;
  bool nt;
  template <int R>
  FASTCNN_INLINE void run(int64_t off, int64_t j, int n) const {
    vf m = get(mean + j, n), a = get(scale + j, n), b = get(shift + j, n);
    for (int r = 0; r < R; ++r, off += period) {
      vf z = fma(sub(get(x + off, n), m), a, b);
      if (Res) z = add(z, get(res + off, n));
      put(y + off, act_fwd<A>(z, alpha, 0), n, nt);
    }
  }
};

// y of an element, read or made again with the arithmetic of the forward pass.
template <Act A, bool Again, class T>
FASTCNN_OP vf output_of(const T* y, int64_t i, vf centred, vf scale, vf shift, float alpha, int n) {
  return Again ? act_fwd<A>(fma(centred, scale, shift), alpha, 0) : get(y + i, n);
}

template <Act A, bool Again, class T>
struct BwdApply {
  const T *dy, *x, *y;
  const float *scale, *shift, *mean, *a, *b, *c;
  T* dx;
  int64_t period;
  float alpha;
  bool nt;
  template <int R>
  FASTCNN_INLINE void run(int64_t off, int64_t j, int n) const {
    vf m = get(mean + j, n), va = get(a + j, n), vb = get(b + j, n), vc = get(c + j, n);
    vf sc = Again ? get(scale + j, n) : m, sh = Again ? get(shift + j, n) : m;
    for (int r = 0; r < R; ++r, off += period) {
      vf dz = get(dy + off, n), centred = sub(get(x + off, n), m);
      if (A != Act::none) dz = act_grad<A>(dz, output_of<A, Again>(y, off, centred, sc, sh, alpha, n), alpha, 0);
      put(dx + off, fma(va, dz, fma(vb, centred, vc)), n, nt);
    }
  }
};

// How the gradient arrives and leaves: Dz stores dz, Two adds a second dy, Again makes y from x.
template <Act A, bool Dz, bool Two, bool Again, class T>
struct BwdSumRows {
  const T *dy, *dy2, *x, *y;
  T* dz;
  const float *mean, *scale, *shift;
  float *s1, *s2;
  int64_t stride;
  float alpha;
  template <int R>
  FASTCNN_INLINE void run(int64_t off, int64_t j, int n) const {
    vf m = get(mean + j, n), a = load(s1 + j), q = load(s2 + j);
    vf sc = Again ? get(scale + j, n) : m, sh = Again ? get(shift + j, n) : m;
    for (int r = 0; r < R; ++r, off += stride) {
      vf d = get(dy + off, n), centred = sub(get(x + off, n), m);
      if (Two) d = add(d, get(dy2 + off, n));
      if (A != Act::none) d = act_grad<A>(d, output_of<A, Again>(y, off, centred, sc, sh, alpha, n), alpha, 0);
      if (Dz) put(dz + off, d, n, false);
      a = add(a, d);
      q = fma(d, centred, q);
    }
    store(s1 + j, a);
    store(s2 + j, q);
  }
};

template <class T, Act A, bool Dz, bool Two, bool Again>
FASTCNN_OP void bwd_sums(const NormBwdSumsArgs& p, int64_t begin, int64_t end) {
  const NormShape& s = p.s;
  alignas(64) float s1[kMaxPeriod + 64], s2[kMaxPeriod + 64];
  const bool read_y = A != Act::none && !Again;
  for (int64_t item = begin; item < end; ++item) {
    Chunk c = chunk_of(s, item);
    double* part = p.part + item * 2 * s.C;
    for (int64_t j0 = 0; j0 < s.period; j0 += kMaxPeriod) {
      int64_t width = s.period - j0 < kMaxPeriod ? s.period - j0 : kMaxPeriod, at = c.offset + j0;
      for (int64_t j = 0; j < width; j += kLanes) store(s1 + j, zero()), store(s2 + j, zero());
      BwdSumRows<A, Dz, Two, Again, T> rows{values<T>(p.dy) + at,
                                            Two ? values<T>(p.dy2) + at : nullptr,
                                            values<T>(p.x) + at,
                                            read_y ? values<T>(p.y) + at : nullptr,
                                            Dz ? values<T>(p.dz) + at : nullptr,
                                            p.mean + item / s.chunks * s.period + j0,
                                            Again ? p.scale + j0 : nullptr,
                                            Again ? p.shift + j0 : nullptr,
                                            s1,
                                            s2,
                                            s.period,
                                            static_cast<float>(p.act.alpha)};
      for_rows(c.vrows, s.period, width, rows);
      sweep_rest(c, s.period, rows);
      int64_t channels = s.fold > 1 ? s.C : width;
      for (int64_t ch = 0; ch < channels; ++ch) part[j0 + ch] = s1[ch], part[s.C + j0 + ch] = s2[ch];
      for (int64_t t = 1; t < s.fold; ++t)
        for (int64_t ch = 0; ch < s.C; ++ch) part[ch] += s1[t * s.C + ch], part[s.C + ch] += s2[t * s.C + ch];
    }
  }
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
                           static_cast<float>(p.act.alpha), p.nt != 0});
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
                                static_cast<float>(p.act.alpha), p.nt != 0});
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
    double* part = p->part + item * 2 * s.C;
    for (int64_t j0 = 0; j0 < s.period; j0 += kMaxPeriod) {
      int64_t width = s.period - j0 < kMaxPeriod ? s.period - j0 : kMaxPeriod;
      if (c.vrows > 0) {
        moments_of_rows(x + j0, s.period, c.vrows, width, shift, s1, s2);
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

void norm_moments(const NormMomentsArgs* p, int64_t begin, int64_t end) { moments<float>(p, begin, end); }
void norm_moments_bf16(const NormMomentsArgs* p, int64_t begin, int64_t end) { moments<bfloat16>(p, begin, end); }

// Channels [begin, end) of one image: mean and biased variance from the chunks' moments, in chunk order.
void norm_reduce_moments(const NormShape* s, const double* part, double* mean, double* var, int64_t begin,
                         int64_t end) {
  for (int64_t ch = begin; ch < end; ++ch) mean[ch] = var[ch] = 0;
  double last = static_cast<double>(s->rows - (s->chunks - 1) * s->chunk_rows);
  double full = static_cast<double>(s->chunk_rows), rows = static_cast<double>(s->rows);
  for (int64_t i = 0; i < s->chunks; ++i) {
    double n = i + 1 < s->chunks ? full : last;
    const double* m = part + i * 2 * s->C;
    for (int64_t ch = begin; ch < end; ++ch) mean[ch] += n * m[ch];
  }
  for (int64_t ch = begin; ch < end; ++ch) mean[ch] /= rows;
  for (int64_t i = 0; i < s->chunks; ++i) {
    double n = i + 1 < s->chunks ? full : last;
    const double *m = part + i * 2 * s->C, *dev = m + s->C;
    for (int64_t ch = begin; ch < end; ++ch) var[ch] += dev[ch] + n * (m[ch] - mean[ch]) * (m[ch] - mean[ch]);
  }
  for (int64_t ch = begin; ch < end; ++ch) var[ch] = var[ch] < 0 ? 0 : var[ch] / rows;  // NaN stays
}

void norm_reduce_sums(const NormShape* s, const double* part, double* s1, double* s2, int64_t begin, int64_t end) {
  for (int64_t ch = begin; ch < end; ++ch) s1[ch] = s2[ch] = 0;
  for (int64_t i = 0; i < s->chunks; ++i) {
    const double *a = part + i * 2 * s->C, *b = a + s->C;
    for (int64_t ch = begin; ch < end; ++ch) s1[ch] += a[ch], s2[ch] += b[ch];
  }
}

// The activations that fuse; adaptors never ask for others here.
#define FASTCNN_FUSED_ACTS(X) X(none) X(relu) X(relu6) X(leaky_relu) X(silu) X(hardswish)

template <class T>
static void apply_any(const NormApplyArgs* p, int64_t begin, int64_t end) {
  switch (p->act.act) {
#define FASTCNN_CASE(a) \
  case Act::a: return p->res ? apply<T, Act::a, true>(*p, begin, end) : apply<T, Act::a, false>(*p, begin, end);
    FASTCNN_FUSED_ACTS(FASTCNN_CASE)
#undef FASTCNN_CASE
    default: return;
  }
}
void norm_apply(const NormApplyArgs* p, int64_t begin, int64_t end) { apply_any<float>(p, begin, end); }
void norm_apply_bf16(const NormApplyArgs* p, int64_t begin, int64_t end) { apply_any<bfloat16>(p, begin, end); }

#define FASTCNN_MASK_ACTS(X) X(relu) X(relu6) X(leaky_relu)

template <class T, Act A, bool Again>
static void bwd_sums_of(const NormBwdSumsArgs& p, int64_t begin, int64_t end) {
  if (p.dz && p.dy2) return bwd_sums<T, A, true, true, Again>(p, begin, end);
  if (p.dz) return bwd_sums<T, A, true, false, Again>(p, begin, end);
  return bwd_sums<T, A, false, false, Again>(p, begin, end);
}

template <class T>
static void bwd_sums_any(const NormBwdSumsArgs* p, int64_t begin, int64_t end) {
  switch (p->act.act) {
    case Act::none: return bwd_sums_of<T, Act::none, false>(*p, begin, end);
#define FASTCNN_CASE(a) \
  case Act::a:          \
    return p->scale ? bwd_sums_of<T, Act::a, true>(*p, begin, end) : bwd_sums_of<T, Act::a, false>(*p, begin, end);
      FASTCNN_MASK_ACTS(FASTCNN_CASE)
#undef FASTCNN_CASE
    default: return;
  }
}
void norm_bwd_sums(const NormBwdSumsArgs* p, int64_t begin, int64_t end) { bwd_sums_any<float>(p, begin, end); }
void norm_bwd_sums_bf16(const NormBwdSumsArgs* p, int64_t begin, int64_t end) {
  bwd_sums_any<bfloat16>(p, begin, end);
}

template <class T>
static void bwd_apply_any(const NormBwdApplyArgs* p, int64_t begin, int64_t end) {
  switch (p->act.act) {
    case Act::none: return bwd_apply<T, Act::none, false>(*p, begin, end);
#define FASTCNN_CASE(a) \
  case Act::a:          \
    return p->scale ? bwd_apply<T, Act::a, true>(*p, begin, end) : bwd_apply<T, Act::a, false>(*p, begin, end);
      FASTCNN_MASK_ACTS(FASTCNN_CASE)
#undef FASTCNN_CASE
    default: return;
  }
}
void norm_bwd_apply(const NormBwdApplyArgs* p, int64_t begin, int64_t end) { bwd_apply_any<float>(p, begin, end); }
void norm_bwd_apply_bf16(const NormBwdApplyArgs* p, int64_t begin, int64_t end) {
  bwd_apply_any<bfloat16>(p, begin, end);
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
