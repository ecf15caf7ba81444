// What it is: elementwise kernels as frames around a functor: dense operands of one type in 16-byte packs, casts
// of dense floats (of one or of many tensors), strided operands of any dtypes, or many scalars. A functor is
// called with the element's number and its inputs as real numbers. What it is not: the arithmetic (math.cuh,
// act.cuh).
#pragma once
#include "backend/cpu/kernels/eltwise_args.h"
#include "backend/cuda/device.cuh"
#include "backend/cuda/kernels/packs.cuh"
#include "backend/cuda/kernels/tensor_table.cuh"

namespace fastcnn::cuda {

struct DenseIn {
  const void* p[3];
};

// y[i] = f(i, in0[i], in1[i], in2[i]): the first `packs` packs of 16 bytes (0: some operand is not aligned), then
// one by one.
template <class T, int N, class F>
FASTCNN_KERNEL dense_map(DenseIn in, void* out, int64_t n, int64_t packs, F f) {
  follow_previous();
  constexpr int W = Pack<T>::n;
  auto one = [&](int64_t i, const T* a, const T* b, const T* c) {
    if constexpr (N == 1)
      return from_real<T>(f(i, to_real(*a)));
    else if constexpr (N == 2)
      return from_real<T>(f(i, to_real(*a), to_real(*b)));
    else
      return from_real<T>(f(i, to_real(*a), to_real(*b), to_real(*c)));
  };
  const T* p[3];
  for (int k = 0; k < 3; ++k) p[k] = static_cast<const T*>(in.p[k < N ? k : 0]);
  T* y = static_cast<T*>(out);
  for (int64_t v = global_thread(); v < packs; v += global_threads()) {
    Pack<T> x[3], r;
    for (int k = 0; k < N; ++k) x[k] = reinterpret_cast<const Pack<T>*>(p[k])[v];
    for (int j = 0; j < W; ++j) r.v[j] = one(v * W + j, &x[0].v[j], &x[N > 1].v[j], &x[N > 2 ? 2 : 0].v[j]);
    reinterpret_cast<Pack<T>*>(y)[v] = r;
  }
  for (int64_t i = packs * W + global_thread(); i < n; i += global_threads())
    y[i] = one(i, p[0] + i, p[1] + i, p[2] + i);
}

// f<N>(v, step): N of `packs` at v + k * step, `unroll` at once where the grid leaves that many to each thread.
template <int unroll, class F>
FASTCNN_DEVICE void over_packs(int64_t packs, const F& f) {
  const int64_t step = global_threads();
  int64_t v = global_thread();
  for (; v + (unroll - 1) * step < packs; v += unroll * step) f.template operator()<unroll>(v, step);
  for (; v < packs; v += step) f.template operator()<1>(v, step);
}

// dense_map for aligned operands and short functors, which may be compiled many times: more loads in flight.
template <int N>
constexpr int kPacksPerThread = N == 1 ? 4 : 2;
template <class T, int N, class F>
FASTCNN_KERNEL dense_packs(DenseIn in, void* out, int64_t n, F f) {
  follow_previous();
  constexpr int W = Pack<T>::n;
  static_assert(N == 1 || N == 2);
  const T *a = static_cast<const T*>(in.p[0]), *b = static_cast<const T*>(in.p[N - 1]);
  T* y = static_cast<T*>(out);
  over_packs<kPacksPerThread<N>>(n / W, [&]<int M>(int64_t v, int64_t step) {
    Pack<T> p[M];
    [[maybe_unused]] Pack<T> q[M];
    FASTCNN_UNROLL
    for (int u = 0; u < M; ++u) {
      p[u] = load_pack(a + (v + u * step) * W);
      if constexpr (N == 2) q[u] = load_pack(b + (v + u * step) * W);
    }
    FASTCNN_UNROLL
    for (int u = 0; u < M; ++u) {
      const int64_t i = (v + u * step) * W;
      float r[W];
      [[maybe_unused]] float s[W];
      widen(p[u], r);
      if constexpr (N == 2) widen(q[u], s);
      FASTCNN_UNROLL
      for (int j = 0; j < W; ++j) {
        if constexpr (N == 1)
          r[j] = f(i + j, r[j]);
        else
          r[j] = f(i + j, r[j], s[j]);
      }
      store_pack(y + i, narrow<T>(r));
    }
  });
  const int64_t i = n / W * W + global_thread();
  if (i >= n) return;
  if constexpr (N == 1)
    y[i] = from_real<T>(f(i, to_real(a[i])));
  else
    y[i] = from_real<T>(f(i, to_real(a[i]), to_real(b[i])));
}

// Between float32 and 16-bit floats: four elements at once, so that neighbours touch whole lines on both sides.
template <class T>
struct alignas(4 * sizeof(T)) Quartet {
  T v[4];
};
template <class From, class To>
FASTCNN_KERNEL dense_cast(const From* x, To* y, int64_t n) {
  follow_previous();
  over_packs<kPacksPerThread<1>>(n / 4, [&]<int M>(int64_t v, int64_t step) {
    Quartet<From> q[M];
    FASTCNN_UNROLL
    for (int u = 0; u < M; ++u) q[u] = reinterpret_cast<const Quartet<From>*>(x)[v + u * step];
    FASTCNN_UNROLL
    for (int u = 0; u < M; ++u) {
      Quartet<To> r;
      FASTCNN_UNROLL
      for (int j = 0; j < 4; ++j) r.v[j] = from_real<To>(to_real(q[u].v[j]));
      reinterpret_cast<Quartet<To>*>(y)[v + u * step] = r;
    }
  });
  const int64_t i = n / 4 * 4 + global_thread();
  if (i < n) y[i] = from_real<To>(to_real(x[i]));
}

// The same for many tensors: a block takes kCastsPerBlock elements of one of them.
struct CastTensor {
  const void* x;
  void* y;
  int64_t n;
  int32_t aligned;
};
using CastTable = TensorTable<CastTensor, kMostTensors>;
constexpr int kCastsPerBlock = 4096, kCastThreads = 256;

template <class From, class To>
FASTCNN_KERNEL dense_casts(const FASTCNN_GRID_CONSTANT CastTable table) {
  follow_previous();
  constexpr int M = kCastsPerBlock / 4 / kCastThreads;  // quartets of a thread
  const int t = table.of_block(static_cast<int32_t>(blockIdx.x));
  const CastTensor& s = table.tensor[t];
  const int64_t begin =
      static_cast<int64_t>(static_cast<int32_t>(blockIdx.x) - table.first_block[t]) * kCastsPerBlock;
  const From* x = static_cast<const From*>(s.x) + begin;
  To* y = static_cast<To*>(s.y) + begin;
  const int n = static_cast<int>(s.n - begin < kCastsPerBlock ? s.n - begin : kCastsPerBlock);
  const int packs = s.aligned ? n / 4 : 0;
  Quartet<From> q[M] = {};
  FASTCNN_UNROLL
  for (int u = 0; u < M; ++u) {
    const int v = static_cast<int>(threadIdx.x) + u * kCastThreads;
    if (v < packs) q[u] = reinterpret_cast<const Quartet<From>*>(x)[v];
  }
  FASTCNN_UNROLL
  for (int u = 0; u < M; ++u) {
    const int v = static_cast<int>(threadIdx.x) + u * kCastThreads;
    Quartet<To> r;
    FASTCNN_UNROLL
    for (int j = 0; j < 4; ++j) r.v[j] = from_real<To>(to_real(q[u].v[j]));
    if (v < packs) reinterpret_cast<Quartet<To>*>(y)[v] = r;
  }
  for (int i = packs * 4 + static_cast<int>(threadIdx.x); i < n; i += kCastThreads)
    y[i] = from_real<To>(to_real(x[i]));
}

// The place of element i of the loop in each operand.
template <int N>
FASTCNN_DEVICE void offsets(const EltLoop& l, int64_t i, int64_t (&at)[N]) {
  for (int k = 0; k < N; ++k) at[k] = 0;
  if (l.total <= 0xffffffff) {  // 32-bit divisions are several times faster
    uint32_t rest = static_cast<uint32_t>(i);
    for (int d = l.ndim - 1; d >= 0; --d) {
      const uint32_t size = static_cast<uint32_t>(l.shape[d]), q = rest / size, r = rest - q * size;
      for (int k = 0; k < N; ++k) at[k] += static_cast<int64_t>(r) * l.strides[k][d];
      rest = q;
    }
    return;
  }
  for (int d = l.ndim - 1; d >= 0; --d) {
    const int64_t q = i / l.shape[d], r = i - q * l.shape[d];
    for (int k = 0; k < N; ++k) at[k] += r * l.strides[k][d];
    i = q;
  }
}

// Operand 0 is the output. W: what the elements travel as.
template <class W, int N, class F>
FASTCNN_KERNEL strided_map(EltLoop l, DenseIn in, DType type, void* out, DType out_type, F f) {
  follow_previous();
  for (int64_t i = global_thread(); i < l.total; i += global_threads()) {
    int64_t at[N + 1];
    offsets(l, i, at);
    W x[N];
    for (int k = 0; k < N; ++k) x[k] = load_as<W>(in.p[k], type, at[k + 1]);
    if constexpr (N == 1)
      store_as<W>(out, out_type, at[0], f(i, x[0]));
    else
      store_as<W>(out, out_type, at[0], f(i, x[0], x[1]));
  }
}

// Many results of one element each, of one functor.
struct ScalarTable {
  struct {
    const void *a, *b;
    void* y;
  } of[kMostTensors];
  int32_t count = 0;
};
template <class W, class F>
FASTCNN_KERNEL scalar_map(const FASTCNN_GRID_CONSTANT ScalarTable table, DType type, DType out_type, F f) {
  follow_previous();
  const int64_t i = global_thread();
  if (i >= table.count) return;
  const auto& s = table.of[i];
  store_as<W>(s.y, out_type, 0, f(0, load_as<W>(s.a, type, 0), load_as<W>(s.b, type, 0)));
}

// Bytes moved as they are.
template <class T>
FASTCNN_KERNEL strided_copy(EltLoop l, const T* x, T* y) {
  follow_previous();
  for (int64_t i = global_thread(); i < l.total; i += global_threads()) {
    int64_t at[2];
    offsets(l, i, at);
    y[at[0]] = x[at[1]];
  }
}

template <class T>
FASTCNN_KERNEL strided_where(EltLoop l, const uint8_t* condition, const T* a, const T* b, T* y) {
  follow_previous();
  for (int64_t i = global_thread(); i < l.total; i += global_threads()) {
    int64_t at[4];
    offsets(l, i, at);
    y[at[0]] = condition[at[1]] ? a[at[2]] : b[at[3]];
  }
}

}  // namespace fastcnn::cuda
