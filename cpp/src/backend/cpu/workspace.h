// What it is: a workspace divided into arrays.
#pragma once
#include <cstdint>

namespace fastcnn::cpu {

// Hands out arrays of a workspace, each on a line of its own. With a null base it only
// counts, so that the size asked for and the arrays used come from the same lines.
class Carve {
 public:
  explicit Carve(void* base) : base_(static_cast<char*>(base)) {}
  template <class T>
  T* take(int64_t n) {
    T* p = base_ ? reinterpret_cast<T*>(base_ + used_) : nullptr;
    used_ += (n * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
    return p;
  }
  int64_t used() const { return used_; }

 private:
  char* base_;
  int64_t used_ = 0;
};

}  // namespace fastcnn::cpu
