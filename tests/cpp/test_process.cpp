// What it proves: the quota of control groups is found where systems keep it, forked children compute with
// threads, and a child that is forked while other threads allocate does not wait for them. What it is not: a test
// of libgomp.
#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <thread>
#include <vector>

#include "backend/cpu/threads.h"
#include "core/allocator.h"
#include "core/cgroup.h"
#include "fastcnn/ops.h"
#include "fastcnn/runtime.h"

using namespace fastcnn;
using namespace fastcnn::cpu;
namespace fs = std::filesystem;

namespace {

// A folder as /sys/fs/cgroup, and a file as /proc/self/cgroup.
struct Groups {
  fs::path root = fs::temp_directory_path() / ("fastcnn-cgroup-" + std::to_string(getpid()));
  Groups() { fs::create_directories(root); }
  ~Groups() { fs::remove_all(root); }
  void write(const std::string& file, const std::string& text) const {
    fs::create_directories((root / file).parent_path());
    std::ofstream(root / file) << text;
  }
  int cores(const std::string& of_process) const {
    write("self", of_process);
    return cgroup_cores((root / "self").string(), root.string());
  }
};

int exit_code_of_child(int (*body)()) {
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    alarm(60);  // a child that hangs ends here
    _exit(body());
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 256 + WTERMSIG(status);
}

// 0 where n threads took part in a region and every item was done once.
int threads_take_part(int n) {
  std::atomic<int> items{0}, calls{0};
  parallel_fixed(1000, [&](int64_t b, int64_t e, int) {
    items += static_cast<int>(e - b);
    ++calls;
  });
  return items == 1000 && calls == n ? 0 : 1;
}

}  // namespace

TEST_CASE("the CPU quota is that of the group of the process and of those above it") {
  Groups g;
  CHECK(g.cores("0::/\n") == 0);
  g.write("cpu.max", "max 100000\n");
  CHECK(g.cores("0::/\n") == 0);
  g.write("cpu.max", "250000 100000\n");
  CHECK(g.cores("0::/\n") == 3);
  CHECK(g.cores("") == 3);  // without /proc
  g.write("cpu.max", "max 100000\n");
  g.write("a.slice/cpu.max", "200000 100000\n");
  g.write("a.slice/b/cpu.max", "max 100000\n");
  CHECK(g.cores("0::/a.slice/b\n") == 2);
  g.write("a.slice/b/cpu.max", "10000 100000\n");
  CHECK(g.cores("0::/a.slice/b\n") == 1);
  CHECK(g.cores("0::/other\n") == 0);
  CHECK(g.cores("nonsense\n:\n0:\n") == 0);
}

TEST_CASE("the memory limit is that of the group of the process and of those above it") {
  Groups g;
  auto limit = [&](const std::string& of_process) {
    g.write("self", of_process);
    return cgroup_memory((g.root / "self").string(), g.root.string());
  };
  CHECK(limit("0::/\n") == 0);
  g.write("memory.max", "max\n");
  g.write("a/memory.max", "1073741824\n");
  g.write("a/b/memory.max", "4294967296\n");
  CHECK(limit("0::/\n") == 0);
  CHECK(limit("0::/a/b\n") == 1073741824);
  g.write("memory/memory.limit_in_bytes", "9223372036854771712\n");  // version 1: none
  g.write("memory/c/memory.limit_in_bytes", "536870912\n");
  CHECK(limit("4:memory:/\n") == 0);
  CHECK(limit("4:cpu,memory:/c\n") == 536870912);
}

TEST_CASE("more memory than there is is refused before it is asked for") {
  const int64_t pages = sysconf(_SC_PHYS_PAGES), all = pages * sysconf(_SC_PAGESIZE);
  CHECK_THROWS_WITH_AS(caching_allocator().allocate(static_cast<size_t>(all) + 1),
                       doctest::Contains("allocate: out of memory asking for"), MemoryError);
}

TEST_CASE("devices, dtypes, handles and memory that do not exist are refused, not used") {
  const int count = cuda_device_count();
  for (const Device device : {Device{DeviceType::cuda, count}, Device{DeviceType::cuda, -1},
                              Device{DeviceType::cpu, 3}, Device{static_cast<DeviceType>(9), 0}}) {
    CHECK_THROWS_AS(empty({2}, DType::float32, device), ValueError);
    CHECK_THROWS_AS(ones({2}, DType::float32, device), ValueError);
    CHECK_THROWS_AS(to_device(ones({2}), device), ValueError);
  }
  CHECK_THROWS_WITH_AS(ones({2}, static_cast<DType>(77)), "full: expected a DType, got number 77", TypeError);
  CHECK_THROWS_AS(from_blob(nullptr, {2}, {1}, DType::float32), ValueError);
  CHECK(from_blob(nullptr, {0}, {1}, DType::float32).numel() == 0);

  const Tensor none, x = ones({2});
  CHECK_THROWS_AS(is_readonly(none), ValueError);
  CHECK_THROWS_AS(set_readonly(none), ValueError);
  CHECK_THROWS_AS(bump_version(none), ValueError);
  CHECK_THROWS_AS(MemoryExport{none}, ValueError);

  const float values[] = {3, 4, 5};
  CHECK_THROWS_AS(write_memory(none, values, 8), ValueError);
  CHECK_THROWS_AS(write_memory(x, nullptr, 8), ValueError);
  CHECK_THROWS_AS(write_memory(x, values, 12), ValueError);  // would end behind the tensor
  CHECK_THROWS_AS(write_memory(select(ones({2, 2}), 1, 0), values, 8), ValueError);
  write_memory(x, values, 8);
  CHECK(x.data<float>()[1] == 4);
  set_readonly(x);
  CHECK_THROWS_AS(write_memory(x, values, 8), ValueError);
}

TEST_CASE("the CPU quota of version 1 lies in the folder of its controller") {
  Groups g;
  g.write("cpu/cpu.cfs_quota_us", "-1\n");
  g.write("cpu/cpu.cfs_period_us", "100000\n");
  CHECK(g.cores("4:cpu:/\n0::/\n") == 0);
  g.write("cpu/docker/x/cpu.cfs_quota_us", "400000\n");
  g.write("cpu/docker/x/cpu.cfs_period_us", "100000\n");
  CHECK(g.cores("5:memory:/y\n4:cpu:/docker/x\n") == 4);
  g.write("cpu,cpuacct/z/cpu.cfs_quota_us", "150000\n");
  g.write("cpu,cpuacct/z/cpu.cfs_period_us", "100000\n");
  CHECK(g.cores("4:cpu,cpuacct:/z\n") == 2);
}

// ThreadSanitizer refuses threads in the child of a process with threads.
#if !defined(__SANITIZE_THREAD__)
TEST_CASE("a forked child and its child compute with as many threads as the process") {
  const int saved = num_threads();
  cpu::set_num_threads(3);
  CHECK(threads_take_part(3) == 0);  // the parent has workers, which the child has not
  CHECK(exit_code_of_child([] {
          if (threads_take_part(3) || threads_take_part(3)) return 1;
          return exit_code_of_child([] { return threads_take_part(3); });
        }) == 0);
  CHECK(threads_take_part(3) == 0);
  cpu::set_num_threads(saved);
}

TEST_CASE("a child forked while other threads allocate and draw does not wait for them") {
  std::atomic<bool> stop{false};
  std::vector<std::thread> others;
  for (int i = 0; i < 2; ++i)
    others.emplace_back([&] {
      while (!stop) rand({64});
    });
  for (int i = 0; i < 20; ++i)
    CHECK(exit_code_of_child([] {
            const Tensor t = rand({4096});
            return t.numel() == 4096 ? 0 : 1;
          }) == 0);
  stop = true;
  for (std::thread& t : others) t.join();
}
#endif
