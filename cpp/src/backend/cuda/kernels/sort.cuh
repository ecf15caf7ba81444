// What it is: argsort by bitonic networks (Batcher 1968) and cumsum by scans of a block, of the rows of a matrix.
// What it is not: for rows that a block cannot index with 32 bits.
#pragma once
#include "backend/cpu/sort_key.h"
#include "backend/cuda/device.cuh"

namespace fastcnn::cuda {

constexpr int kSortChunk = 2048;  // entries that a block sorts in shared memory

// A key and the place that it came from; all entries of a row are different, so that any network is stable.
struct NarrowEntry {
  uint64_t v;
  FASTCNN_DEVICE static NarrowEntry make(uint32_t key, uint32_t place, bool flip) {
    return {static_cast<uint64_t>(flip ? ~key : key) << 32 | place};
  }
  FASTCNN_DEVICE static NarrowEntry last() { return {~uint64_t(0)}; }  // behind all others: fills a row up
  FASTCNN_DEVICE bool operator<(const NarrowEntry& o) const { return v < o.v; }
  FASTCNN_DEVICE int64_t place() const { return static_cast<int64_t>(v & 0xffffffffu); }
};
struct WideEntry {
  uint64_t key, at;
  FASTCNN_DEVICE static WideEntry make(uint64_t k, uint32_t place, bool flip) { return {flip ? ~k : k, place}; }
  FASTCNN_DEVICE static WideEntry last() { return {~uint64_t(0), ~uint64_t(0)}; }
  FASTCNN_DEVICE bool operator<(const WideEntry& o) const { return key != o.key ? key < o.key : at < o.at; }
  FASTCNN_DEVICE int64_t place() const { return static_cast<int64_t>(at); }
};

template <class T>
struct SortTypes {
  static constexpr bool wide = is_same<T, double> || is_same<T, int64_t>;
  FASTCNN_DEVICE static auto key(T v) {
    if constexpr (wide || is_same<T, float>)
      return cpu::sort_key(v);
    else if constexpr (is_same<T, bfloat16> || is_same<T, float16>)
      return cpu::sort_key(static_cast<float>(to_real(v)));
    else
      return cpu::sort_key(static_cast<int32_t>(v));
  }
};
template <bool wide>
struct EntryOf {
  using type = NarrowEntry;
};
template <>
struct EntryOf<true> {
  using type = WideEntry;
};
template <class T>
using SortEntry = typename EntryOf<SortTypes<T>::wide>::type;

template <class E>
FASTCNN_DEVICE void compare_and_swap(E* e, int64_t i, int64_t apart, bool up) {
  const E a = e[i], b = e[i + apart];
  if ((b < a) == up) e[i] = b, e[i + apart] = a;
}
// The i of the t-th pair of entries that are `apart`, a power of two.
FASTCNN_DEVICE int64_t pair_at(int64_t t, int64_t apart) { return 2 * t - (t & (apart - 1)); }

// The stages of run length `run` from `apart` on, of n entries in shared memory; `first` is their place in the row.
template <class E>
FASTCNN_DEVICE void merge_shared(E* e, int n, int64_t first, int64_t run, int apart) {
  for (; apart > 0; apart /= 2) {
    for (int t = static_cast<int>(threadIdx.x); t < n / 2; t += static_cast<int>(blockDim.x)) {
      const int64_t i = pair_at(t, apart);
      compare_and_swap(e, i, apart, ((first + i) & run) == 0);
    }
    __syncthreads();
  }
}

// Sorts chunks of `chunk` entries, one after the other up and down where a row has several. Rows of one chunk end here:
// their places go to index; the entries of others go to `entries`, `padded` per row.
template <class T>
FASTCNN_KERNEL argsort_chunks(ArgsortParams p, int chunk, int64_t padded, const T* x, SortEntry<T>* entries,
                              int64_t* index) {
  using E = SortEntry<T>;
  E* e = shared_memory<E>();
  const int64_t chunks = padded / chunk;
  for (int64_t job = blockIdx.x; job < p.rows * chunks; job += gridDim.x) {
    const int64_t row = job / chunks, first = job % chunks * chunk;
    for (int t = static_cast<int>(threadIdx.x); t < chunk; t += static_cast<int>(blockDim.x)) {
      const int64_t at = first + t;
      e[t] = at < p.size ? E::make(SortTypes<T>::key(x[row * p.size + at]), static_cast<uint32_t>(at), p.descending)
                         : E::last();
    }
    __syncthreads();
    for (int run = 2; run <= chunk; run *= 2) merge_shared(e, chunk, first, run, run / 2);
    for (int t = static_cast<int>(threadIdx.x); t < chunk; t += static_cast<int>(blockDim.x)) {
      if (chunks > 1)
        entries[row * padded + first + t] = e[t];
      else if (t < p.kept)
        index[row * p.kept + t] = e[t].place();
    }
    __syncthreads();
  }
}

// One stage over whole rows.
template <class E>
FASTCNN_KERNEL argsort_stage(int64_t rows, int64_t padded, int64_t run, int64_t apart, E* entries) {
  for (int64_t t = global_thread(); t < rows * (padded / 2); t += global_threads()) {
    const int64_t row = t / (padded / 2), i = pair_at(t % (padded / 2), apart);
    compare_and_swap(entries + row * padded, i, apart, (i & run) == 0);
  }
}

// The stages within chunks that end the run; with index the rows are sorted and their places go there.
template <class E>
FASTCNN_KERNEL argsort_merge(ArgsortParams p, int chunk, int64_t padded, int64_t run, E* entries, int64_t* index) {
  E* e = shared_memory<E>();
  const int64_t chunks = padded / chunk;
  for (int64_t job = blockIdx.x; job < p.rows * chunks; job += gridDim.x) {
    const int64_t row = job / chunks, first = job % chunks * chunk;
    for (int t = static_cast<int>(threadIdx.x); t < chunk; t += static_cast<int>(blockDim.x))
      e[t] = entries[row * padded + first + t];
    __syncthreads();
    merge_shared(e, chunk, first, run, chunk / 2);
    for (int t = static_cast<int>(threadIdx.x); t < chunk; t += static_cast<int>(blockDim.x)) {
      if (!index)
        entries[row * padded + first + t] = e[t];
      else if (first + t < p.kept)
        index[row * p.kept + first + t] = e[t].place();
    }
    __syncthreads();
  }
}

// A block per row, which it goes along by as many values as it has threads.
template <class T, class S>
FASTCNN_KERNEL cumsum_kernel(CumsumParams p, const T* x, T* y) {
  S* sums = shared_memory<S>();
  const int threads = static_cast<int>(blockDim.x), me = static_cast<int>(threadIdx.x);
  for (int64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
    S before = 0;
    for (int64_t base = 0; base < p.size; base += threads) {
      const int64_t i = base + me, at = row * p.size + (p.reverse ? p.size - 1 - i : i);
      S s = 0;
      if (i < p.size) {
        if constexpr (is_same<T, int64_t>)
          s = static_cast<S>(x[at]);
        else
          s = to_real(x[at]);
      }
      sums[me] = s;
      __syncthreads();
      for (int d = 1; d < threads; d *= 2) {
        const S o = me >= d ? sums[me - d] : S(0);
        __syncthreads();
        sums[me] = s += o;
        __syncthreads();
      }
      if (i < p.size) {
        if constexpr (is_same<T, int64_t>)
          y[at] = static_cast<int64_t>(before + s);
        else
          y[at] = from_real<T>(static_cast<Real<T>>(before + s));
      }
      before += sums[threads - 1];
      __syncthreads();
    }
  }
}

}  // namespace fastcnn::cuda
