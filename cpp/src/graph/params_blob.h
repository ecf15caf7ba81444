// What it is: the params struct of any op by value, so that nodes can be copied, compared and hashed by bytes.
#pragma once
#include <cstddef>
#include <cstring>
#include <type_traits>

namespace fastcnn {

class Params {
 public:
  Params() = default;
  template <class P>
    requires(!std::is_same_v<P, Params>)
  Params(const P& p) : size_(sizeof(P)) {  // NOLINT: implicit on purpose, emit(rule, kind, Conv2dParams{…}, …)
    static_assert(std::is_trivially_copyable_v<P> && sizeof(P) <= sizeof(bytes_));
    std::memcpy(bytes_, &p, sizeof(P));
  }
  template <class P>
  const P& as() const {
    return *reinterpret_cast<const P*>(bytes_);
  }
  template <class P>
  P& as() {
    return *reinterpret_cast<P*>(bytes_);
  }
  const void* data() const { return bytes_; }
  size_t size() const { return size_; }
  friend bool operator==(const Params& a, const Params& b) {
    return a.size_ == b.size_ && std::memcmp(a.bytes_, b.bytes_, a.size_) == 0;
  }

 private:
  alignas(8) std::byte bytes_[320] = {};
  size_t size_ = 0;
};

}  // namespace fastcnn
