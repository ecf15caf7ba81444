// See peak.h. The best of many short runs counts: a limit is what the machine can do when nobody disturbs it.
#include "backend/cpu/peak.h"

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <vector>

#include "backend/cpu/hand_over.h"
#include "backend/cpu/isa.h"
#include "backend/cpu/threads.h"
#include "core/allocator.h"

namespace fastcnn::cpu {
namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// Repeats work() for `seconds`, and five times at least: on a disturbed machine one call may be all wait.
template <class F>
double best_time(double seconds, F&& work) {
  double best = 1e30, start = now();
  for (int calls = 0; calls < 5 || now() - start < seconds; ++calls) {
    double t = now();
    work();
    best = std::min(best, now() - t);
  }
  return best;
}

double gflops(double seconds, double (*loop)(int64_t, float*)) {
  struct alignas(64) Slot {
    float sink;
    double flops;
  };
  const int n = num_threads();
  std::vector<Slot> slots(static_cast<size_t>(n));
  int64_t rounds = 100;
  auto run = [&] {
    parallel_fixed(n, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        slots[static_cast<size_t>(i)].sink = 1e-3f;
        slots[static_cast<size_t>(i)].flops = loop(rounds, &slots[static_cast<size_t>(i)].sink);
      }
    });
  };
  run();
  if (slots[0].flops == 0) return 0;
  // One run takes a millisecond or more: starting the threads is then lost in it.
  while (best_time(0, run) < 1e-3) rounds *= 2;
  double t = best_time(seconds, run), flops = 0;
  for (const Slot& s : slots) flops += s.flops;
  return flops / t / 1e9;
}

struct Floats {
  size_t bytes;
  float* p;
  explicit Floats(int64_t n)
      : bytes(static_cast<size_t>(n) * 4), p(static_cast<float*>(caching_allocator().allocate(bytes))) {}
  ~Floats() { caching_allocator().deallocate(p, bytes); }
  Floats(const Floats&) = delete;
  Floats& operator=(const Floats&) = delete;
};

}  // namespace

MachinePeak measure_peak(double seconds) {
  const KernelTable* k = kernels();
  if (!k)
    throw std::runtime_error("measure_peak: FASTCNN_ISA=ref has no vector kernels to measure; allow another ISA");
  MachinePeak peak;
  peak.threads = num_threads();
  peak.isa = isa_name();
  const double each = std::clamp(seconds, 0.01, 60.0) / 4;
  peak.float32_gflops = gflops(each, k->peak_fma);
  peak.bfloat16_gflops = gflops(each, k->peak_dot_bf16);

  // Each array alone is larger than the caches that few cores are given, or what is only read would stay there.
  const int64_t blocks = (int64_t(64) << 20) / 4 / kPeakBlock, n = blocks * kPeakBlock;
  Floats a(n), b(n), c(n);
  parallel_fixed(blocks, [&](int64_t begin, int64_t end, int) {  // first touch by the thread that will use it
    std::fill(a.p + begin * kPeakBlock, a.p + end * kPeakBlock, 0.0f);
    std::fill(b.p + begin * kPeakBlock, b.p + end * kPeakBlock, 1.0f);
    std::fill(c.p + begin * kPeakBlock, c.p + end * kPeakBlock, 2.0f);
  });
  double t = best_time(each, [&] {
    parallel_fixed(blocks,
                   [&](int64_t begin, int64_t end, int) { k->peak_triad(a.p, b.p, c.p, 3.0f, begin, end); });
  });
  peak.triad_gbytes = 3.0 * static_cast<double>(n) * 4 / t / 1e9;
  t = best_time(each, [&] {
    parallel_fixed(blocks, [&](int64_t begin, int64_t end, int) { k->peak_copy(a.p, b.p, begin, end); });
  });
  peak.copy_gbytes = 2.0 * static_cast<double>(n) * 4 / t / 1e9;
  peak.round_trip_ns = round_trip_ns();
  return peak;
}

}  // namespace fastcnn::cpu
