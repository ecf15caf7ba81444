// See allocator.h.
#include "core/allocator.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <string>

#include "core/cgroup.h"
#include "core/fork.h"
#include "fastcnn/error.h"

namespace fastcnn {
namespace {

// Bytes of memory that there are. Linux grants more, and ends the process that uses them.
size_t all_memory() {
  static const size_t bytes = [] {
    const int64_t group = cgroup_memory(), pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    const int64_t machine = pages > 0 && page > 0 ? pages * page : int64_t(1) << 47;
    return static_cast<size_t>(group > 0 ? std::min(group, machine) : machine);
  }();
  return bytes;
}

}  // namespace

// Eight sizes per power of two: at most 12 % waste, few classes, so blocks of nearby sizes are shared.
size_t CachingAllocator::rounded(size_t bytes) {
  if (bytes <= 256) return 256;
  size_t step = size_t(1) << (63 - __builtin_clzll(bytes - 1));
  step = std::max<size_t>(step / 8, 64);
  return (bytes + step - 1) / step * step;
}

void* CachingAllocator::allocate(size_t bytes) {
  if (bytes > (size_t(1) << 47))
    throw MemoryError(concat("allocate: ", bytes, " bytes are more than any machine has"));
  size_t size = rounded(bytes);
  bool crowded = false;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    const size_t in_use = static_cast<size_t>(stats_.in_use), all = all_memory();
    if (size > all - std::min(in_use, all))
      throw MemoryError(concat("allocate: out of memory asking for ", bytes, " bytes: there are ", all,
                               ", of which ", in_use, " are in use by tensors"));
    auto it = free_.find(size);
    if (it != free_.end() && !it->second.empty()) {
      void* p = it->second.back();
      it->second.pop_back();
      stats_.cached -= static_cast<int64_t>(size);
      stats_.in_use += static_cast<int64_t>(size);
      stats_.peak = std::max(stats_.peak, stats_.in_use);
      return p;
    }
    crowded = in_use + static_cast<size_t>(stats_.cached) + size > all;
  }
  if (crowded) release_cached();
  constexpr size_t kHuge = size_t(2) << 20;
  size_t align = size >= kHuge ? kHuge : 64;
  void* p = std::aligned_alloc(align, (size + align - 1) / align * align);
  if (!p) {
    release_cached();
    p = std::aligned_alloc(align, (size + align - 1) / align * align);
  }
  std::lock_guard<std::mutex> lock(mutex_);
  if (!p)
    throw MemoryError(concat("allocate: out of memory asking for ", bytes, " bytes; ", stats_.in_use,
                             " bytes are in use by tensors"));
  if (size >= kHuge) madvise(p, (size + kHuge - 1) / kHuge * kHuge, MADV_HUGEPAGE);
  stats_.in_use += static_cast<int64_t>(size);
  stats_.peak = std::max(stats_.peak, stats_.in_use);
  return p;
}

void CachingAllocator::deallocate(void* p, size_t bytes) noexcept {
  if (!p) return;
  size_t size = rounded(bytes);
  std::lock_guard<std::mutex> lock(mutex_);
  stats_.in_use -= static_cast<int64_t>(size);
  if (stats_.cached + static_cast<int64_t>(size) > stats_.budget) {
    std::free(p);
    return;
  }
  try {
    free_[size].push_back(p);
    stats_.cached += static_cast<int64_t>(size);
  } catch (...) {
    std::free(p);
  }
}

void CachingAllocator::trim(int64_t most) {
  for (auto it = free_.rbegin(); it != free_.rend() && stats_.cached > most; ++it)
    while (!it->second.empty() && stats_.cached > most) {
      std::free(it->second.back());
      it->second.pop_back();
      stats_.cached -= static_cast<int64_t>(it->first);
    }
}

void CachingAllocator::release_cached() {
  std::lock_guard<std::mutex> lock(mutex_);
  trim(0);
}

void CachingAllocator::set_budget(int64_t bytes) {
  check(bytes >= 0, "set_memory_budget: expected bytes >= 0, got ", bytes);
  std::lock_guard<std::mutex> lock(mutex_);
  stats_.budget = bytes;
  trim(bytes);
}

void CachingAllocator::reset_peak() {
  std::lock_guard<std::mutex> lock(mutex_);
  stats_.peak = stats_.in_use;
}

std::mutex& CachingAllocator::fork_mutex() { return caching_allocator().mutex_; }

MemoryStats CachingAllocator::stats() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return stats_;
}

CachingAllocator& caching_allocator() {
  static CachingAllocator* a = [] {
    hold_while_forking<CachingAllocator::fork_mutex>();
    return new CachingAllocator;  // never destroyed: tensors may outlive static destructors
  }();
  return *a;
}

}  // namespace fastcnn
