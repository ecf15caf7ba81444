// What it is: the CPU as a Backend: op kind to list, memory from the caching allocator.
#include <cstring>

#include "backend/cpu/isa.h"
#include "backend/cpu/lists.h"
#include "core/allocator.h"

namespace fastcnn {
namespace {

class CpuBackend final : public Backend {
 public:
  const char* name() const override { return "cpu"; }
  std::span<const Implementation> implementations(OpKind kind) const override {
    switch (kind) {
#define FASTCNN_CASE(k, params) \
  case OpKind::k: return cpu::k##_list();
      FASTCNN_OPS(FASTCNN_CASE)
#undef FASTCNN_CASE
      default: return {};
    }
  }
  void* allocate(size_t bytes) override { return caching_allocator().allocate(bytes); }
  void deallocate(void* p, size_t bytes) noexcept override { caching_allocator().deallocate(p, bytes); }
  void copy(void* dst, const void* src, size_t bytes, Copy) override { std::memcpy(dst, src, bytes); }
  void synchronize() override {}
};

}  // namespace

Backend& cpu_backend() {
  static CpuBackend b;
  return b;
}

}  // namespace fastcnn
