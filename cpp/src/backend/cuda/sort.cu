// What it is: argsort and cumsum on CUDA: rows of up to a chunk in one launch, longer ones in stages.
#include "backend/cuda/kernels/sort.cuh"

#include <algorithm>

#include "backend/cuda/dispatch.h"

namespace fastcnn::cuda {
namespace {

template <class F>
void with_sorted(DType t, F&& f) {
  switch (t) {
    case DType::int64: return f.template operator()<int64_t>();
    case DType::int32: return f.template operator()<int32_t>();
    case DType::int8: return f.template operator()<int8_t>();
    case DType::uint8:
    case DType::bool_: return f.template operator()<uint8_t>();
    default: return with_floating(t, "argsort", f);
  }
}

int64_t padded_of(const ArgsortParams& p) {
  int64_t n = 2;
  while (n < p.size) n *= 2;
  return n;
}
int64_t entry_bytes(DType t) { return dtype_size(t) == 8 ? sizeof(WideEntry) : sizeof(NarrowEntry); }

const char* argsort_declines(const Call& c) {
  return c.as<ArgsortParams>().size > INT32_MAX ? "rows of 2^31 values" : nullptr;
}
int64_t argsort_workspace(const Call& c) {
  const auto& p = c.as<ArgsortParams>();
  const int64_t padded = padded_of(p);
  return padded <= kSortChunk ? 0 : p.rows * padded * entry_bytes(c.in[0].dtype);
}

void argsort_run(const Call& c) {
  const auto& p = c.as<ArgsortParams>();
  if (p.rows == 0 || p.kept == 0) return;
  const int64_t padded = padded_of(p), chunk = std::min<int64_t>(padded, kSortChunk);
  const int64_t jobs = p.rows * (padded / chunk);
  const LaunchPlan plan{dim3(static_cast<unsigned>(std::min<int64_t>(jobs, 65536))),
                        dim3(static_cast<unsigned>(std::clamp<int64_t>(chunk / 2, 32, 512))),
                        static_cast<size_t>(chunk * entry_bytes(c.in[0].dtype))};
  const int n = static_cast<int>(chunk);
  with_sorted(c.in[0].dtype, [&]<class T>() {
    using E = SortEntry<T>;
    auto* entries = static_cast<E*>(c.workspace);
    auto* index = c.out[0].as<int64_t>();
    launch("argsort", plan, argsort_chunks<T>, p, n, padded, c.in[0].as<T>(), entries, index);
    for (int64_t run = 2 * chunk; run <= padded; run *= 2) {
      for (int64_t apart = run / 2; apart >= chunk; apart /= 2)
        launch("argsort_stage", for_elements(p.rows * (padded / 2)), argsort_stage<E>, p.rows, padded, run, apart,
               entries);
      launch("argsort_merge", plan, argsort_merge<E>, p, n, padded, run, entries,
             run == padded ? index : static_cast<int64_t*>(nullptr));
    }
  });
}

void cumsum_run(const Call& c) {
  const auto& p = c.as<CumsumParams>();
  if (p.rows == 0 || p.size == 0) return;
  unsigned threads = 32;
  while (threads < kThreads && threads < static_cast<uint64_t>(p.size)) threads *= 2;
  const auto run = [&]<class T, class S>() {
    launch("cumsum",
           {dim3(static_cast<unsigned>(std::min<int64_t>(p.rows, 65536))), dim3(threads), threads * sizeof(S)},
           cumsum_kernel<T, S>, p, c.in[0].as<T>(), c.out[0].as<T>());
  };
  if (c.in[0].dtype == DType::int64)
    run.template operator()<int64_t, uint64_t>();
  else
    with_floating(c.in[0].dtype, "cumsum", [&]<class T>() { run.template operator()<T, double>(); });
}

}  // namespace

List argsort_list() {
  static const Implementation list[] = {{"bitonic", argsort_declines, argsort_workspace, argsort_run}};
  return list;
}
List cumsum_list() {
  static const Implementation list[] = {{"scan", nullptr, nullptr, cumsum_run}};
  return list;
}

}  // namespace fastcnn::cuda
