// What it is: reductions over any set of dims: runs (the reduced dim is innermost, or nothing is dense), columns
// (the innermost kept dim is dense), exact integer and float64 sums, extremes of int64, argmax/argmin. Every item
// is one fixed chunk of the reduced elements, so results do not depend on the number of threads.
#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/loops.h"

namespace fastcnn::cpu::FASTCNN_ISA {
namespace {

struct Sum {
  static constexpr float start = 0;
  FASTCNN_OP vf operator()(vf acc, vf x) const { return add(acc, x); }
  FASTCNN_OP vf join(vf a, vf b) const { return add(a, b); }
};
struct SumSquares {
  static constexpr float start = 0;
  FASTCNN_OP vf operator()(vf acc, vf x) const { return fma(x, x, acc); }
  FASTCNN_OP vf join(vf a, vf b) const { return add(a, b); }
};
struct Prod {
  static constexpr float start = 1;
  FASTCNN_OP vf operator()(vf acc, vf x) const { return mul(acc, x); }
  FASTCNN_OP vf join(vf a, vf b) const { return mul(a, b); }
};
struct Max {  // a NaN of acc stays because it stands second, one of x is selected
  static constexpr float start = -__builtin_inff();
  FASTCNN_OP vf operator()(vf acc, vf x) const { return select_nan(x, x, vmax(x, acc)); }
  FASTCNN_OP vf join(vf a, vf b) const { return (*this)(a, b); }
};
struct Min {
  static constexpr float start = __builtin_inff();
  FASTCNN_OP vf operator()(vf acc, vf x) const { return select_nan(x, x, vmin(x, acc)); }
  FASTCNN_OP vf join(vf a, vf b) const { return (*this)(a, b); }
};

template <class F>
FASTCNN_OP void with_op(Reduce op, F&& f) {
  switch (op) {
    case Reduce::sum:
    case Reduce::mean: return f(Sum{});
    case Reduce::sum_squares: return f(SumSquares{});
    case Reduce::prod: return f(Prod{});
    case Reduce::max: return f(Max{});
    case Reduce::min: return f(Min{});
    default: return;
  }
}

FASTCNN_OP vf load_tail(const float* p, int n, float rest) {
  float t[kLanes];
  for (int i = 0; i < kLanes; ++i) t[i] = i < n ? p[i] : rest;
  return load(t);
}

// Where the elements of output o begin; `dims` of the kept dims count.
FASTCNN_OP int64_t kept_offset(const ReduceLoop& l, int dims, int64_t o, const int64_t* strides) {
  if (dims == 1) return o * strides[0];
  int64_t off = 0;
  for (int d = dims - 1; d >= 0; --d) {
    off += o % l.kept_shape[d] * strides[d];
    o /= l.kept_shape[d];
  }
  return off;
}

// Elements [begin, end) of the flattened reduced dims as runs along the innermost one: f(offset, n).
template <class F>
FASTCNN_OP void reduced_runs(const ReduceLoop& l, int64_t begin, int64_t end, F&& f) {
  int last = l.reduced - 1;
  if (last == 0) return f(begin * l.x[0], end - begin);
  int64_t n = l.shape[last];
  while (begin < end) {
    int64_t rest = begin / n, col = begin - rest * n, off = col * l.x[last];
    for (int d = last - 1; d >= 0; --d) {
      off += rest % l.shape[d] * l.x[d];
      rest /= l.shape[d];
    }
    int64_t len = n - col < end - begin ? n - col : end - begin;
    f(off, len);
    begin += len;
  }
}

// Four running results that are put aside after every few steps: rounding errors of equal sign stay small.
template <class Op>
struct Cascade {
  vf run[4], total[4];
  int64_t steps = 0;
  FASTCNN_OP Cascade() {
    for (int k = 0; k < 4; ++k) run[k] = total[k] = set1(Op::start);
  }
  FASTCNN_OP int64_t room() const { return 32 - steps; }
  FASTCNN_OP void did(Op op, int64_t n) {
    if ((steps += n) < 32) return;
    for (int k = 0; k < 4; ++k) {
      total[k] = op.join(total[k], run[k]);
      run[k] = set1(Op::start);
    }
    steps = 0;
  }
  FASTCNN_OP vf result(Op op, int k) const { return op.join(total[k], run[k]); }
  FASTCNN_OP vf result(Op op) const {
    return op.join(op.join(result(op, 0), result(op, 1)), op.join(result(op, 2), result(op, 3)));
  }
};

// The lanes of v joined, halves onto halves; lane 0 holds the result.
template <int kHalf = kLanes / 2, class Op>
FASTCNN_OP vf across(Op op, vf v) {
  v = op.join(v, swap_halves<kHalf>(v));
  if constexpr (kHalf > 1)
    return across<kHalf / 2>(op, v);
  else
    return v;
}

template <class Op>
void runs(Op op, const ReduceLoop& l, const void* x, DType type, int64_t chunk, float* partial, int64_t begin,
          int64_t end) {
  int64_t chunks = (l.count + chunk - 1) / chunk, stride = l.x[l.reduced - 1];
  for (int64_t item = begin; item < end; ++item) {
    int64_t base = kept_offset(l, l.kept, item / chunks, l.kept_x), from = item % chunks * chunk;
    int64_t to = from + chunk < l.count ? from + chunk : l.count;
    Cascade<Op> acc;
    auto add_dense = [&](const float* p, int64_t n) {
      for (int64_t steps = n / (4 * kLanes); steps > 0;) {
        int64_t now = steps < acc.room() ? steps : acc.room();
        for (int64_t s = 0; s < now; ++s, p += 4 * kLanes)
          for (int k = 0; k < 4; ++k) acc.run[k] = op(acc.run[k], load(p + k * kLanes));
        acc.did(op, now);
        steps -= now;
      }
      n %= 4 * kLanes;
      if (n == 0) return;
      int k = 0;
      for (; n >= kLanes; n -= kLanes, p += kLanes, ++k) acc.run[k] = op(acc.run[k], load(p));
      if (n > 0) acc.run[3] = op(acc.run[3], load_tail(p, static_cast<int>(n), Op::start));
      acc.did(op, 1);
    };
    reduced_runs(l, from, to, [&](int64_t off, int64_t n) {
      if (type == DType::float32 && stride == 1) return add_dense(static_cast<const float*>(x) + base + off, n);
      for (int64_t i = 0; i < n; i += kStage) {
        float buf[kStage];
        int64_t m = n - i < kStage ? n - i : kStage;
        add_dense(stage_floats(x, type, base + off + i * stride, stride, m, buf), m);
      }
    });
    storen(partial + item, across(op, acc.result(op)), 1);
  }
}

template <class Op>
void columns(Op op, const ReduceLoop& l, const void* x, DType type, int64_t chunk, float* partial, int64_t begin,
             int64_t end) {
  int inner = l.kept - 1, last = l.reduced - 1;
  int64_t n = l.kept_shape[inner], blocks = (n + kReduceColumns - 1) / kReduceColumns;
  int64_t chunks = (l.count + chunk - 1) / chunk, stride = l.x[last];
  for (int64_t item = begin; item < end; ++item) {
    int64_t block = item % blocks, k = item / blocks % chunks, o = item / (blocks * chunks);
    int64_t c0 = block * kReduceColumns, width = n - c0 < kReduceColumns ? n - c0 : kReduceColumns;
    int64_t base = kept_offset(l, inner, o, l.kept_x) + c0;
    int64_t from = k * chunk, to = from + chunk < l.count ? from + chunk : l.count;
    float* out = partial + (o * chunks + k) * n + c0;
    if (type != DType::float32) {
      for (int64_t c = 0; c < width; ++c) out[c] = Op::start;
      reduced_runs(l, from, to, [&](int64_t off, int64_t rows) {
        for (int64_t r = 0; r < rows; ++r) {
          float buf[kStage];
          const float* p = stage_floats(x, type, base + off + r * stride, 1, width, buf);
          for (int64_t c = 0; c < width; c += kLanes) {
            int m = width - c < kLanes ? static_cast<int>(width - c) : kLanes;
            storen(out + c, op(loadn(out + c, m), loadn(p + c, m)), m);
          }
        }
      });
      continue;
    }
    const float* xs = static_cast<const float*>(x) + base;
    int64_t c = 0;
    for (; c + 4 * kLanes <= width; c += 4 * kLanes) {
      Cascade<Op> acc;
      reduced_runs(l, from, to, [&](int64_t off, int64_t rows) {
        const float* p = xs + off + c;
        while (rows > 0) {
          int64_t now = rows < acc.room() ? rows : acc.room();
          for (int64_t r = 0; r < now; ++r, p += stride)
            for (int v = 0; v < 4; ++v) acc.run[v] = op(acc.run[v], load(p + v * kLanes));
          acc.did(op, now);
          rows -= now;
        }
      });
      for (int v = 0; v < 4; ++v) store(out + c + v * kLanes, acc.result(op, v));
    }
    for (; c < width; c += kLanes) {  // one vector of columns: four rows in flight hide the latency of the sum
      int m = width - c < kLanes ? static_cast<int>(width - c) : kLanes;
      auto get = [m](const float* p) { return m == kLanes ? load(p) : loadn(p, m); };
      Cascade<Op> acc;
      reduced_runs(l, from, to, [&](int64_t off, int64_t rows) {
        const float* p = xs + off + c;
        for (int64_t steps = rows / 4; steps > 0;) {
          int64_t now = steps < acc.room() ? steps : acc.room();
          for (int64_t s = 0; s < now; ++s, p += 4 * stride)
            for (int v = 0; v < 4; ++v) acc.run[v] = op(acc.run[v], get(p + v * stride));
          acc.did(op, now);
          steps -= now;
        }
        if (rows % 4 == 0) return;
        for (int64_t r = 0; r < rows % 4; ++r, p += stride) acc.run[r] = op(acc.run[r], get(p));
        acc.did(op, 1);
      });
      storen(out + c, acc.result(op), m);
    }
  }
}

template <class T, class A>
void wide(bool square, const ReduceLoop& l, const T* x, int64_t chunk, A* partial, int64_t begin, int64_t end) {
  int64_t chunks = (l.count + chunk - 1) / chunk, stride = l.x[l.reduced - 1];
  for (int64_t item = begin; item < end; ++item) {
    const T* base = x + kept_offset(l, l.kept, item / chunks, l.kept_x);
    int64_t from = item % chunks * chunk, to = from + chunk < l.count ? from + chunk : l.count;
    A acc[8] = {};
    reduced_runs(l, from, to, [&](int64_t off, int64_t n) {
      const T* p = base + off;
      int64_t i = 0;
      if (stride == 1) {
        for (; i + 8 <= n; i += 8)
          for (int k = 0; k < 8; ++k) {
            A v = static_cast<A>(p[i + k]);
            acc[k] += square ? v * v : v;
          }
      }
      for (; i < n; ++i) {
        A v = static_cast<A>(p[i * stride]);
        acc[0] += square ? v * v : v;
      }
    });
    partial[item] = ((acc[0] + acc[1]) + (acc[2] + acc[3])) + ((acc[4] + acc[5]) + (acc[6] + acc[7]));
  }
}

// The largest or smallest of each chunk.
void extremes(bool largest, const ReduceLoop& l, const int64_t* x, int64_t chunk, int64_t* partial, int64_t begin,
              int64_t end) {
  const int64_t chunks = (l.count + chunk - 1) / chunk, stride = l.x[l.reduced - 1];
  for (int64_t item = begin; item < end; ++item) {
    const int64_t* base = x + kept_offset(l, l.kept, item / chunks, l.kept_x);
    const int64_t from = item % chunks * chunk, to = from + chunk < l.count ? from + chunk : l.count;
    int64_t best = largest ? INT64_MIN : INT64_MAX;
    reduced_runs(l, from, to, [&](int64_t off, int64_t n) {
      const int64_t* p = base + off;
      if (largest)
        for (int64_t i = 0; i < n; ++i) best = p[i * stride] > best ? p[i * stride] : best;
      else
        for (int64_t i = 0; i < n; ++i) best = p[i * stride] < best ? p[i * stride] : best;
    });
    partial[item] = best;
  }
}

}  // namespace

void reduce_runs(const ReduceLoop& loop, Reduce op, const void* x, DType x_type, int64_t chunk, float* partial,
                 int64_t begin, int64_t end) {
  with_op(op, [&](auto o) { runs(o, loop, x, x_type, chunk, partial, begin, end); });
}

void reduce_columns(const ReduceLoop& loop, Reduce op, const void* x, DType x_type, int64_t chunk, float* partial,
                    int64_t begin, int64_t end) {
  with_op(op, [&](auto o) { columns(o, loop, x, x_type, chunk, partial, begin, end); });
}

void reduce_wide(const ReduceLoop& loop, Reduce op, const void* x, DType x_type, int64_t chunk, void* partial,
                 int64_t begin, int64_t end) {
  if (op == Reduce::max || op == Reduce::min)  // of int64
    return extremes(op == Reduce::max, loop, static_cast<const int64_t*>(x), chunk, static_cast<int64_t*>(partial),
                    begin, end);
  bool square = op == Reduce::sum_squares;
  auto ints = [&](auto* p) { wide(square, loop, p, chunk, static_cast<uint64_t*>(partial), begin, end); };
  switch (x_type) {  // sums wrap: unsigned
    case DType::float64:
      return wide(square, loop, static_cast<const double*>(x), chunk, static_cast<double*>(partial), begin, end);
    case DType::int64: return ints(static_cast<const int64_t*>(x));
    case DType::int32: return ints(static_cast<const int32_t*>(x));
    case DType::int8: return ints(static_cast<const int8_t*>(x));
    default: return ints(static_cast<const uint8_t*>(x));
  }
}

// First position of the extreme value; a NaN is more extreme than anything.
void reduce_arg(const ReduceLoop& loop, Reduce op, const void* x, DType x_type, int64_t* y, int64_t begin,
                int64_t end) {
  bool largest = op == Reduce::argmax;
  int64_t n = loop.count, stride = loop.reduced ? loop.x[0] : 1;
  for (int64_t o = begin; o < end; ++o) {
    int64_t base = kept_offset(loop, loop.kept, o, loop.kept_x), best_at = 0;
    float best = 0;
    bool done = false;
    for (int64_t i = 0; i < n && !done; i += kStage) {
      float buf[kStage];
      int64_t m = n - i < kStage ? n - i : kStage;
      const float* p = stage_floats(x, x_type, base + i * stride, stride, m, buf);
      vf top = set1(largest ? Max::start : Min::start);
      for (int64_t j = 0; j < m; j += kLanes) {
        vf v = m - j < kLanes ? load_tail(p + j, static_cast<int>(m - j), p[j]) : load(p + j);
        top = largest ? Max{}(top, v) : Min{}(top, v);
      }
      float lanes[kLanes], t;
      store(lanes, top);
      t = lanes[0];
      for (int k = 1; k < kLanes; ++k)
        if (t == t && (lanes[k] != lanes[k] || (largest ? lanes[k] > t : lanes[k] < t))) t = lanes[k];
      if (i > 0 && t == t && !(largest ? t > best : t < best)) continue;
      best = t;
      for (int64_t j = 0; j < m; ++j)
        if (p[j] == t || (t != t && p[j] != p[j])) {
          best_at = i + j;
          break;
        }
      done = t != t;
    }
    y[kept_offset(loop, loop.kept, o, loop.kept_y)] = best_at;
  }
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
