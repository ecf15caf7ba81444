// What it is: cpuid against the built kernel tables, and the FASTCNN_ISA switch. See isa.h.
#include "backend/cpu/isa.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

namespace fastcnn::cpu {

#define FASTCNN_DECLARE(ns)       \
  namespace ns {                  \
  extern const KernelTable table; \
  }
#ifdef FASTCNN_HAS_PORTABLE
FASTCNN_DECLARE(portable)
#endif
#ifdef FASTCNN_HAS_AVX2
FASTCNN_DECLARE(avx2)
#endif
#ifdef FASTCNN_HAS_AVX512
FASTCNN_DECLARE(avx512)
#endif
#ifdef FASTCNN_HAS_AVX512BF16
FASTCNN_DECLARE(avx512bf16)
#endif

namespace {

struct Candidate {
  const char* name;
  const KernelTable* table;
  bool runs;
};

std::vector<Candidate> candidates() {
  std::vector<Candidate> list;
#if defined(__x86_64__)
  __builtin_cpu_init();
  [[maybe_unused]] bool has_avx2 =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  [[maybe_unused]] bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") &&
                                     __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                                     __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512cd");
  [[maybe_unused]] bool has_bf16 =
      has_avx512 && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni");
#endif
#ifdef FASTCNN_HAS_AVX512BF16
  list.push_back({"avx512bf16", &avx512bf16::table, has_bf16});
#endif
#ifdef FASTCNN_HAS_AVX512
  list.push_back({"avx512", &avx512::table, has_avx512});
#endif
#ifdef FASTCNN_HAS_AVX2
  list.push_back({"avx2", &avx2::table, has_avx2});
#endif
#ifdef FASTCNN_HAS_PORTABLE
  list.push_back({"portable", &portable::table, true});
#endif
  list.push_back({"ref", nullptr, true});
  return list;
}

const Candidate* find(const std::string& name) {
  static const std::vector<Candidate> all = candidates();
  for (const Candidate& c : all)
    if (c.runs && (name.empty() || name == c.name)) return &c;
  return nullptr;
}

std::string names() {
  std::string s;
  for (const std::string& n : available_isas()) s += (s.empty() ? "" : ", ") + n;
  return s;
}

std::atomic<const Candidate*> current{nullptr};

const Candidate* use() {
  const Candidate* c = current.load(std::memory_order_acquire);
  if (c) return c;
  const char* env = std::getenv("FASTCNN_ISA");
  c = find(env ? env : "");
  if (!c) throw std::invalid_argument("FASTCNN_ISA=" + std::string(env) + ": expected one of " + names());
  current.store(c, std::memory_order_release);
  return c;
}

}  // namespace

const KernelTable* kernels() { return use()->table; }
std::string isa_name() { return use()->name; }
bool has_bf16_products() { return isa_name() == "avx512bf16"; }
bool products_are_cheap() {
#if defined(__x86_64__)
  static const bool intel = (__builtin_cpu_init(), __builtin_cpu_is("intel"));
  return intel && kernels() && kernels()->vector_floats == 16;
#else
  return false;
#endif
}

std::vector<std::string> available_isas() {
  std::vector<std::string> out;
  for (const Candidate& c : candidates())
    if (c.runs) out.push_back(c.name);
  return out;
}

void set_isa(const std::string& name) {
  const Candidate* c = find(name);
  if (!c || name.empty())
    throw std::invalid_argument("set_isa: expected one of " + names() + ", got '" + name + "'");
  current.store(c, std::memory_order_release);
}

}  // namespace fastcnn::cpu
