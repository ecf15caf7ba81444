// What it is: the distance of cores, measured, and what follows from it. See hand_over.h.
#include "backend/cpu/hand_over.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <limits>

namespace fastcnn::cpu {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kFarNs = 130;  // Zen 4: 50 to 60 behind one L3, 330 to 500 apart
constexpr int64_t kNever = std::numeric_limits<int64_t>::max();
constexpr int64_t kBytes = 1 << 20, kBytesApart = 64 * 1024;
constexpr int64_t kPeriodNs = 200'000'000;

// The line that two threads write in turns: odd numbers are of the first. Neither waits for ever: the other may
// not run at all.
class PingPong {
 public:
  double first() {
    constexpr int kBursts = 4, kTrips = 16;
    if (!exchange(1, kPatience)) return leave(0);
    double best = std::numeric_limits<double>::max();
    for (int i = 0, turn = 3; i < kBursts; ++i) {
      const auto start = Clock::now();
      for (int k = 0; k < kTrips; ++k, turn += 2)
        if (!exchange(turn, kSpins)) return leave(0);
      best = std::min(best, std::chrono::duration<double, std::nano>(Clock::now() - start).count() / kTrips);
    }
    return leave(best);
  }
  void second() {
    for (int turn = 1, spins = kPatience; wait(turn, spins); turn += 2, spins = kSpins)
      turn_.store(turn + 1, std::memory_order_release);
  }

 private:
  static constexpr int kPatience = 1'000'000, kSpins = 20'000, kEnd = -1;
  bool wait(int turn, int spins) const {
    for (int i = 0; i < spins; ++i) {
      const int now = turn_.load(std::memory_order_acquire);
      if (now == turn) return true;
      if (now == kEnd) return false;
    }
    return false;
  }
  bool exchange(int turn, int spins) {
    turn_.store(turn, std::memory_order_release);
    return wait(turn + 1, spins);
  }
  double leave(double ns) {
    turn_.store(kEnd, std::memory_order_release);
    return ns;
  }
  alignas(64) std::atomic<int> turn_{0};
};

std::atomic<int64_t> chosen{-1}, next_ns{0};
std::atomic<bool> apart{false};

bool amd() {
#if defined(__x86_64__)
  static const bool is = (__builtin_cpu_init(), __builtin_cpu_is("amd"));
  return is;
#else
  return false;
#endif
}

// A measurement that fails leaves what is known.
bool cores_apart() {
  const int64_t now =
      std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now().time_since_epoch()).count();
  int64_t due = next_ns.load(std::memory_order_relaxed);
  if (now >= due && next_ns.compare_exchange_strong(due, now + kPeriodNs, std::memory_order_relaxed))
    if (const double ns = round_trip_ns(); ns > 0) apart.store(ns > kFarNs, std::memory_order_relaxed);
  return apart.load(std::memory_order_relaxed);
}

}  // namespace

double round_trip_ns() {
  PingPong line;
  double ns = 0;
  const int64_t n = num_threads();
  parallel_fixed(n, [&](int64_t begin, int64_t end, int) {
    if (begin == 0 && end == n) return;
    if (begin == 0) ns = line.first();
    if (end == n) line.second();
  });
  return ns;
}

int64_t hand_over_bytes() {
  const int64_t set = chosen.load(std::memory_order_relaxed);
  return set >= 0 ? set : !amd() ? kNever : cores_apart() ? kBytesApart : kBytes;
}
int64_t hand_over_result_bytes() {
  const int64_t set = chosen.load(std::memory_order_relaxed);
  return set >= 0 ? set : amd() && cores_apart() ? kBytesApart : kNever;
}
void set_hand_over_bytes(int64_t bytes) { chosen.store(bytes, std::memory_order_relaxed); }

}  // namespace fastcnn::cpu
