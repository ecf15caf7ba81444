// What it is: argsort and cumsum on the CPU: rows are shared among threads, each sorted or summed by one.
// What it is not: a sort of values; those are gathered by the places it finds.
#include <algorithm>
#include <utility>

#include "backend/cpu/accept.h"
#include "backend/cpu/isa.h"
#include "backend/cpu/lists.h"
#include "backend/cpu/ref/convert.h"
#include "backend/cpu/ref/ref.h"
#include "backend/cpu/sort_key.h"
#include "backend/cpu/threads.h"
#include "backend/cpu/workspace.h"

namespace fastcnn::cpu {
namespace {

// ---- argsort ----

template <class K>
struct Entry {
  K key;
  uint32_t place;  // makes all entries different: any sort keeps equal values in their order
  bool operator<(const Entry& o) const { return key != o.key ? key < o.key : place < o.place; }
};

template <class T>
auto key_of(T v) {
  if constexpr (std::is_same_v<T, float> || std::is_same_v<T, double> || std::is_same_v<T, int64_t>)
    return sort_key(v);
  else if constexpr (std::is_integral_v<T>)
    return sort_key(static_cast<int32_t>(v));
  else
    return sort_key(static_cast<float>(v));
}
template <class T>
using KeyOf = decltype(key_of(T()));

constexpr int64_t kFewEntries = 256;  // below, comparing takes less than counting

// By bytes of the key, the last first, each pass stable; bytes that all keys share are left out. Returns where the
// sorted entries are: in a or b.
template <class K>
Entry<K>* radix_sort(Entry<K>* a, Entry<K>* b, int64_t n) {
  constexpr int kBytes = sizeof(K);
  int64_t count[kBytes][256] = {};
  for (int64_t i = 0; i < n; ++i)
    for (int d = 0; d < kBytes; ++d) ++count[d][a[i].key >> (8 * d) & 255];
  for (int d = 0; d < kBytes; ++d) {
    int64_t* c = count[d];
    if (c[a[0].key >> (8 * d) & 255] == n) continue;
    int64_t before = 0;
    for (int v = 0; v < 256; ++v) before += std::exchange(c[v], before);
    for (int64_t i = 0; i < n; ++i) b[c[a[i].key >> (8 * d) & 255]++] = a[i];
    std::swap(a, b);
  }
  return a;
}

// The first `kept` of n entries in order; b is as large as a. Returns where they are.
template <class K>
Entry<K>* sort_entries(Entry<K>* a, Entry<K>* b, int64_t n, int64_t kept) {
  if (kept * 16 > n && n >= kFewEntries) return radix_sort(a, b, n);
  if (kept == n)
    std::sort(a, a + n);
  else
    std::partial_sort(a, a + kept, a + n);
  return a;
}

template <class T>
void sort_row(const T* x, int64_t* index, const ArgsortParams& p, Entry<KeyOf<T>>* a, Entry<KeyOf<T>>* b) {
  using K = KeyOf<T>;
  const K flip = p.descending ? ~K(0) : K(0);
  for (int64_t i = 0; i < p.size; ++i) a[i] = {static_cast<K>(key_of(x[i]) ^ flip), static_cast<uint32_t>(i)};
  a = sort_entries(a, b, p.size, p.kept);
  for (int64_t i = 0; i < p.kept; ++i) index[i] = a[i].place;
}

const char* argsort_declines(const Call& c) {
  if (!kernels()) return "no kernels in this ISA";
  return c.as<ArgsortParams>().size > UINT32_MAX ? "rows of 2^32 values" : nullptr;
}

template <class T>
int64_t row_bytes(const ArgsortParams& p) {
  Carve w(nullptr);
  w.take<Entry<KeyOf<T>>>(p.size), w.take<Entry<KeyOf<T>>>(p.size);
  return w.used();
}
int64_t argsort_workspace(const Call& c) {
  const auto& p = c.as<ArgsortParams>();
  int64_t bytes = 0;
  ref::dispatch_all(c.in[0].dtype, [&]<class T>() { bytes = row_bytes<T>(p); });
  return bytes * std::min<int64_t>(num_threads(), std::max<int64_t>(p.rows, 1));
}

void argsort_run(const Call& c) {
  const auto& p = c.as<ArgsortParams>();
  if (p.rows == 0 || p.kept == 0) return;
  ref::dispatch_all(c.in[0].dtype, [&]<class T>() {
    const T* x = c.in[0].as<T>();
    int64_t* index = c.out[0].as<int64_t>();
    parallel_for(p.rows, ceil_div(4096, p.size), [&](int64_t begin, int64_t end, int thread) {
      Carve w(static_cast<char*>(c.workspace) + thread * row_bytes<T>(p));
      auto* a = w.take<Entry<KeyOf<T>>>(p.size);
      auto* b = w.take<Entry<KeyOf<T>>>(p.size);
      for (int64_t r = begin; r < end; ++r) sort_row(x + r * p.size, index + r * p.kept, p, a, b);
    });
  });
}

// ---- cumsum ----

const char* cumsum_declines(const Call&) { return kernels() ? nullptr : "no kernels in this ISA"; }

// Rows side by side, so that their sums do not wait for each other.
template <int kRows, class T>
void sum_rows(const T* x, T* y, int64_t n, int64_t first, int64_t step) {
  ref::Wide<T> s[kRows] = {};
  for (int64_t i = 0, at = first; i < n; ++i, at += step)
    for (int r = 0; r < kRows; ++r) {
      if constexpr (std::is_integral_v<T>)
        s[r] = ref::wrap_add(s[r], ref::load(x[r * n + at]));
      else
        s[r] += ref::load(x[r * n + at]);
      y[r * n + at] = ref::store<T>(s[r]);
    }
}

void cumsum_run(const Call& c) {
  const auto& p = c.as<CumsumParams>();
  if (p.rows == 0 || p.size == 0) return;
  const int64_t first = p.reverse ? p.size - 1 : 0, step = p.reverse ? -1 : 1;
  const auto run = [&]<class T>() {
    parallel_for(p.rows, ceil_div(16384, p.size), [&](int64_t begin, int64_t end, int) {
      const T* x = c.in[0].as<T>();
      T* y = c.out[0].as<T>();
      int64_t r = begin;
      for (; r + 4 <= end; r += 4) sum_rows<4>(x + r * p.size, y + r * p.size, p.size, first, step);
      for (; r < end; ++r) sum_rows<1>(x + r * p.size, y + r * p.size, p.size, first, step);
    });
  };
  if (c.in[0].dtype == DType::int64)
    run.template operator()<int64_t>();
  else
    ref::dispatch_floating(c.in[0].dtype, "cumsum", run);
}

}  // namespace

List argsort_list() {
  static const Implementation list[] = {{"radix", argsort_declines, argsort_workspace, argsort_run},
                                        {"ref", nullptr, nullptr, ref::argsort}};
  return list;
}
List cumsum_list() {
  static const Implementation list[] = {{"rows", cumsum_declines, nullptr, cumsum_run},
                                        {"ref", nullptr, nullptr, ref::cumsum}};
  return list;
}

}  // namespace fastcnn::cpu
