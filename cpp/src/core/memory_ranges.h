// What it is: the addresses that tensors take, and whether some of them meet. What it is not: who owns them.
#pragma once
#include <algorithm>
#include <cstdint>
#include <iterator>
#include <map>

#include "core/tensor_impl.h"

namespace fastcnn {

struct MemoryRange {
  uintptr_t begin = 0, end = 0;  // the same: nothing
  bool meets(const MemoryRange& o) const { return begin < o.end && o.begin < end; }
};

// Of a view whose first element is at `data`; it may go backwards.
template <class Sizes>
MemoryRange range_of(const void* data, const Sizes& shape, const Sizes& strides, int ndim, DType dtype) {
  const auto at = reinterpret_cast<uintptr_t>(data);
  int64_t before = 0, behind = 1;  // elements
  for (int d = 0; d < ndim; ++d) {
    if (shape[d] == 0) return {at, at};
    const int64_t span = (shape[d] - 1) * strides[d];
    (span < 0 ? before : behind) += span;
  }
  const auto size = static_cast<int64_t>(dtype_size(dtype));
  return {at + static_cast<uintptr_t>(before * size), at + static_cast<uintptr_t>(behind * size)};
}
// While a tensor is symbolic: within its storage.
inline MemoryRange range_of(const Tensor& t) {
  const auto* base = static_cast<const char*>(t.impl()->storage->data);
  return range_of(base + t.offset() * static_cast<int64_t>(dtype_size(t.dtype())), t.shape(), t.strides(),
                  t.ndim(), t.dtype());
}
inline MemoryRange range_of(const StorageImpl& s) {
  const auto at = reinterpret_cast<uintptr_t>(s.data);
  return {at, at + s.bytes};
}

// A set of addresses, kept as ranges that do not meet.
class MemoryRanges {
 public:
  void add(MemoryRange r) {
    if (r.begin == r.end) return;
    for (auto it = first_behind(r.begin); it != end_of_.end() && it->first < r.end; it = end_of_.erase(it))
      r.begin = std::min(r.begin, it->first), r.end = std::max(r.end, it->second);
    end_of_[r.begin] = r.end;
  }
  bool empty() const { return end_of_.empty(); }
  bool meets(const MemoryRange& r) const {
    auto it = first_behind(r.begin);
    return r.begin != r.end && it != end_of_.end() && it->first < r.end;
  }

 private:
  std::map<uintptr_t, uintptr_t>::const_iterator first_behind(uintptr_t begin) const {  // that ends behind it
    auto it = end_of_.upper_bound(begin);
    if (it != end_of_.begin() && std::prev(it)->second > begin) --it;
    return it;
  }
  std::map<uintptr_t, uintptr_t> end_of_;
};

}  // namespace fastcnn
