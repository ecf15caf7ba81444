// What it proves: the work of a layer goes to 1..64 threads in shares that are whole, disjoint and even, and idle
// threads take over the rest of others. What it is not: a measurement; shares count work items of one size.
#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/conv2d_tasks.h"
#include "backend/cpu/hand_over.h"
#include "backend/cpu/threads.h"

using namespace fastcnn;
using namespace fastcnn::cpu;

namespace {

struct KeepThreads {
  int saved = num_threads();
  ~KeepThreads() { set_num_threads(saved); }
};

Conv2dParams layer(int64_t N, int64_t C, int64_t H, int64_t O, int64_t k, int64_t s) {
  Conv2dParams p;
  p.N = N, p.C = C, p.H = p.W = H, p.O = O, p.kH = p.kW = k, p.sH = p.sW = s;
  p.pT = p.pB = p.pL = p.pR = k / 2;
  p.oH = p.oW = conv_out_size(H, k / 2, k / 2, k, s, 1);
  return p;
}

// The largest share over the mean share.
double imbalance(const Conv2dParams& p, int threads) {
  GemmTask t = forward_task(p);
  REQUIRE(plan_gemm(t, lanes(), threads));
  const int64_t strips = ceil_div(t.N, t.nb) * ceil_div(t.oH, t.ohb) * ceil_div(t.oW, t.owb);
  const int64_t items = t.B * t.groups * strips;
  return static_cast<double>(ceil_div(items, threads)) * threads / static_cast<double>(items);
}

}  // namespace

TEST_CASE("parallel_for gives every index to one thread once") {
  KeepThreads keep;
  for (int threads : {1, 2, 3, 4, 7, 8, 16, 33, 64}) {
    set_num_threads(threads);
    for (int64_t n : {1, 2, 5, 63, 64, 65, 1000})
      for (Grain grain : {Grain(1), Grain(7), Grain(1, 20), Grain(5, 1)}) {
        CAPTURE(threads);
        CAPTURE(n);
        std::vector<std::atomic<int>> seen(static_cast<size_t>(n));
        std::atomic<int> wrong{0};
        parallel_for(n, grain, [&](int64_t b, int64_t e, int t) {
          if (b < 0 || b >= e || e > n || t < 0 || t >= threads) {
            ++wrong;
            return;
          }
          for (int64_t i = b; i < e; ++i) ++seen[static_cast<size_t>(i)];
        });
        CHECK(wrong == 0);
        CHECK(std::all_of(seen.begin(), seen.end(), [](const auto& s) { return s == 1; }));
      }
  }
}

TEST_CASE("parallel_fixed gives each thread one share, and even ones") {
  KeepThreads keep;
  for (int threads : {1, 2, 3, 8, 64}) {
    set_num_threads(threads);
    for (int64_t n : {1, 2, 65, 1000}) {
      std::atomic<int64_t> most{0}, calls{0}, all{0};
      parallel_fixed(n, [&](int64_t b, int64_t e, int) {
        ++calls, all += e - b;
        int64_t old = most;
        while (e - b > old && !most.compare_exchange_weak(old, e - b)) {
        }
      });
      CHECK(all == n);
      CHECK(calls <= threads);
      if (calls == std::min<int64_t>(n, threads)) CHECK(most == ceil_div(n, std::min<int64_t>(n, threads)));
    }
  }
}

// Whoever has the index `held`, in a part of a share, waits for all other parts; true if they were done meanwhile.
static bool rest_is_taken_over(int threads, int64_t n, int64_t held) {
  set_num_threads(threads);
  std::atomic<int64_t> done{0};
  std::atomic<bool> came{false};
  parallel_for(n, 1, [&](int64_t b, int64_t e, int) {
    if (b <= held && held < e) {
      const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
      while (done < n - (e - b) && std::chrono::steady_clock::now() < end) std::this_thread::yield();
      came = done == n - (e - b) && e - b < n / threads;
    } else {
      std::this_thread::sleep_for(std::chrono::microseconds(100) * (e - b));  // worth dividing
    }
    done += e - b;
  });
  CHECK(done == n);
  return came;
}

TEST_CASE("what a thread that is held up has not begun is taken over by others") {
  KeepThreads keep;
  for (int threads : {2, 3, 8})
    for (int64_t held : {0, 57, 99}) CHECK(rest_is_taken_over(threads, 100, held));
}

TEST_CASE("a call's work is worth its grain") {
  KeepThreads keep;
  set_num_threads(2);
  std::atomic<int> small{0}, calls{0};
  parallel_for(1000, {10, 100}, [&](int64_t b, int64_t e, int) { ++calls, small += e - b < 100; });
  CHECK(small == 0);
  CHECK(calls >= 2);
}

TEST_CASE("parallel_for keeps small work on few threads") {
  KeepThreads keep;
  set_num_threads(8);
  std::atomic<int> calls{0};
  parallel_for(100, 60, [&](int64_t, int64_t, int) { ++calls; });
  CHECK(calls <= 2);
}

TEST_CASE("convolutions of a training batch split evenly over 1 to 64 threads") {
  if (!kernels()) return;
  const Conv2dParams layers[] = {
      layer(16, 3, 224, 64, 7, 2),   layer(16, 64, 56, 64, 3, 1),   layer(16, 64, 56, 128, 3, 2),
      layer(16, 128, 28, 128, 3, 1), layer(16, 256, 14, 256, 3, 1), layer(16, 512, 7, 512, 3, 1),
      layer(8, 64, 56, 256, 1, 1),   layer(8, 1024, 14, 256, 1, 1), layer(128, 16, 32, 16, 3, 1),
      layer(128, 64, 8, 64, 3, 1),   layer(128, 1, 28, 32, 5, 1)};
  for (const Conv2dParams& p : layers)
    for (int threads = 1; threads <= 64; ++threads) {
      CAPTURE(p.C);
      CAPTURE(p.H);
      CAPTURE(threads);
      CHECK(imbalance(p, threads) <= 1.25);
    }
}

TEST_CASE("convolutions of one image split evenly over 1 to 8 threads") {
  if (!kernels()) return;
  const Conv2dParams layers[] = {layer(1, 3, 224, 64, 7, 2),   layer(1, 64, 56, 64, 3, 1),
                                 layer(1, 128, 28, 128, 3, 1), layer(1, 256, 14, 256, 3, 1),
                                 layer(1, 512, 7, 512, 3, 1),  layer(1, 1024, 14, 256, 1, 1)};
  for (const Conv2dParams& p : layers)
    for (int threads = 1; threads <= 8; ++threads) {
      CAPTURE(p.C);
      CAPTURE(threads);
      CHECK(imbalance(p, threads) <= 1.3);
    }
}

TEST_CASE(
    "the way of a cache line between threads is measured where there are two, and ends where they do not run") {
  KeepThreads keep;
  set_num_threads(1);
  CHECK(round_trip_ns() == 0);
  for (int threads : {2, 3, 64}) {
    set_num_threads(threads);
    double best = 0;
    // Other processes may hold the cores for a while.
    for (int i = 0; i < (threads == 2 ? 5000 : 20) && best == 0; ++i) {
      if (i > 20) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      best = round_trip_ns();
      CHECK(best >= 0);
      CHECK(best < 1e6);
    }
    if (threads == 2 && std::thread::hardware_concurrency() > 1)
      CHECK(best > 5);  // a trip through any cache takes longer
    parallel_fixed(threads, [&](int64_t, int64_t, int) { CHECK(round_trip_ns() == 0); });
  }
}

TEST_CASE("what is handed over in memory: large results, or all that a test asks for") {
  KeepThreads keep;
  set_num_threads(2);
  set_hand_over_bytes(5);
  CHECK(hands_over_in_memory(5));
  CHECK(hands_result_over_in_memory(5));
  CHECK_FALSE(hands_over_in_memory(4));
  set_num_threads(1);
  CHECK_FALSE(hands_over_in_memory(5));
  CHECK_FALSE(hands_result_over_in_memory(5));
  set_num_threads(2);
  set_hand_over_bytes(-1);
  CHECK_FALSE(hands_over_in_memory(1024));
  CHECK_FALSE(hands_result_over_in_memory(1024));
}
