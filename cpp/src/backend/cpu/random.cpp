// What it is: the ordered CPU implementations of dropout, dropout_bwd, random and rng_advance.
#include <algorithm>
#include <vector>

#include "backend/cpu/isa.h"
#include "backend/cpu/lists.h"
#include "backend/cpu/ref/convert.h"
#include "backend/cpu/threads.h"
#include "core/philox.h"

namespace fastcnn::cpu {
namespace {

constexpr int64_t kGrain = 4 * 1024;

const char* declines_drop(const Call& c) {
  if (!kernels()) return "no kernels in this ISA";
  return c.in[0].dtype == DType::float64 ? "float64" : nullptr;
}

void drop(const DropoutParams& p, const Operand& x, const Operand& y, uint64_t seed, uint64_t stream) {
  const KernelTable& k = *kernels();
  float scale = static_cast<float>(p.p < 1 ? 1.0 / (1.0 - p.p) : 0.0);
  uint32_t threshold = philox_threshold(p.p);
  int64_t total = x.numel();
  if (total == 0) return;
  if (p.kind == DropKind::element) {
    parallel_for(total, kGrain, [&](int64_t b, int64_t e, int) {
      k.drop_elements(threshold, scale, seed, stream, x.data, y.data, x.dtype, b, e);
    });
    return;
  }
  int64_t decisions = p.kind == DropKind::channel ? p.N * p.C : p.N;
  std::vector<float> keep(decisions);
  for (int64_t f = 0; f < decisions; ++f)
    keep[f] = (philox(seed, stream, f / 4).w[f % 4] >> 8) >= threshold ? scale : 0.0f;
  size_t size = dtype_size(x.dtype);
  if (p.kind == DropKind::channel && x.ndim == 4) {  // channels innermost: rows are pixels
    parallel_for(p.N * p.HW, kGrain / p.C + 1, [&](int64_t b, int64_t e, int) {
      while (b < e) {
        int64_t n = b / p.HW, stop = std::min(e, (n + 1) * p.HW);
        k.drop_columns(&keep[n * p.C], x.data, y.data, x.dtype, p.C, b, stop);
        b = stop;
      }
    });
    return;
  }
  // One decision per dense row: kept rows are scaled copies.
  int64_t width = total / decisions;
  parallel_for(decisions, kGrain / width + 1, [&](int64_t b, int64_t e, int) {
    for (int64_t f = b; f < e; ++f) {
      char* out = y.as<char>() + f * width * size;
      if (keep[f] == 0) {
        std::fill(out, out + width * size, 0);
        continue;
      }
      UnaryParams q;
      q.op = Unary::affine;
      q.alpha = keep[f];
      EltLoop l;
      l.operands = 2;
      l.total = l.shape[0] = width;
      l.strides[0][0] = l.strides[1][0] = 1;
      k.unary_map(l, q, x.as<char>() + f * width * size, x.dtype, out, y.dtype, 0, width);
    }
  });
}

void dropout_run(const Call& c) {
  const auto& p = c.as<DropoutParams>();
  const int64_t* state = c.in[1].as<int64_t>();
  int64_t* saved = c.out[1].as<int64_t>();
  int64_t seed = state[0], stream = ref::wrap_add(state[1], p.delta);
  drop(p, c.in[0], c.out[0], seed, stream);
  saved[0] = seed;
  saved[1] = stream;
}

void dropout_bwd_run(const Call& c) {
  const int64_t* saved = c.in[1].as<int64_t>();
  drop(c.as<DropoutParams>(), c.in[0], c.out[0], saved[0], saved[1]);
}

const char* declines_random(const Call& c) {
  if (!kernels()) return "no kernels in this ISA";
  const auto& p = c.as<RandomParams>();
  if (p.op == Random::permutation) return "permutation";
  if (p.op == Random::integers) return nullptr;
  return c.out[0].dtype == DType::float32 ? nullptr : "uniform or normal outside float32";
}

void random_run(const Call& c) {
  const auto& p = c.as<RandomParams>();
  const int64_t* state = c.in[0].as<int64_t>();
  uint64_t seed = state[0], stream = ref::wrap_add(state[1], p.delta);
  const Operand& y = c.out[0];
  const KernelTable& k = *kernels();
  int64_t n = y.numel();
  if (p.op != Random::integers) {
    parallel_for((n + 63) / 64, kGrain / 64, [&](int64_t b, int64_t e, int) {
      k.random_floats(p.op, p.low, p.high, seed, stream, y.as<float>(), b * 64, std::min(e * 64, n));
    });
    return;
  }
  int64_t low = ref::to_int64(p.low);
  uint64_t range = static_cast<uint64_t>(ref::wrap_sub(ref::to_int64(p.high), low));
  ref::dispatch_all(y.dtype, [&]<class T>() {
    parallel_for((n + 31) / 32, kGrain / 32, [&](int64_t b, int64_t e, int) {
      for (int64_t i = b; i < e; ++i) {
        uint32_t w[64];
        k.philox_words(seed, stream, w, i * 16, i * 16 + 16);
        for (int64_t j = 0; j < std::min<int64_t>(32, n - i * 32); ++j) {
          uint64_t u = w[2 * j] | uint64_t{w[2 * j + 1]} << 32;
          y.as<T>()[i * 32 + j] = ref::store<T>(ref::wrap_add(low, static_cast<int64_t>(philox_below(u, range))));
        }
      }
    });
  });
}

}  // namespace

List dropout_list() {
  static const Implementation list[] = {{"simd", declines_drop, nullptr, dropout_run},
                                        {"ref", nullptr, nullptr, ref::dropout}};
  return list;
}

List dropout_bwd_list() {
  static const Implementation list[] = {{"simd", declines_drop, nullptr, dropout_bwd_run},
                                        {"ref", nullptr, nullptr, ref::dropout_bwd}};
  return list;
}

List random_list() {
  static const Implementation list[] = {{"simd", declines_random, nullptr, random_run},
                                        {"ref", nullptr, nullptr, ref::random}};
  return list;
}

List rng_advance_list() {
  static const Implementation list[] = {{"ref", nullptr, nullptr, ref::rng_advance}};
  return list;
}

}  // namespace fastcnn::cpu
