// What it is: a caching allocator of 64-byte aligned host memory with a byte budget for what it keeps.
// What it is not: an arena (graph/plan lays those) or a device allocator.
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <vector>

namespace fastcnn {

struct MemoryStats {
  int64_t in_use = 0, cached = 0, peak = 0, budget = 0;  // bytes
};

class CachingAllocator {
 public:
  void* allocate(size_t bytes);  // never null, also for 0; throws MemoryError
  void deallocate(void* p, size_t bytes) noexcept;
  void release_cached();
  void set_budget(int64_t bytes);  // most bytes kept for reuse
  void reset_peak();
  MemoryStats stats() const;
  static std::mutex& fork_mutex();  // of caching_allocator(); see core/fork.h

 private:
  static size_t rounded(size_t bytes);
  void trim(int64_t most);
  mutable std::mutex mutex_;
  std::map<size_t, std::vector<void*>> free_;
  MemoryStats stats_{0, 0, 0, int64_t(4) << 30};
};

CachingAllocator& caching_allocator();

}  // namespace fastcnn
