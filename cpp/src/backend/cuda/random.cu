// What it is: random fills, dropout and the step of the generator on CUDA.
#include "backend/cuda/kernels/random.cuh"

#include <cmath>

#include "backend/cuda/dispatch.h"

namespace fastcnn::cuda {
namespace {

void drop(const Call& c, const char* name, int64_t delta, int64_t* saved) {
  const auto& p = c.as<DropoutParams>();
  const Operand &x = c.in[0], &y = c.out[0];
  with_floating(x.dtype, name, [&]<class T>() {
    // One thread at least: `saved` is written for empty tensors too.
    const LaunchPlan plan = for_elements(x.numel() ? x.numel() : 1, p.kind == DropKind::element ? 4 : 1);
    launch(name, plan, dropout_kernel<T>, p, static_cast<int>(x.ndim), c.in[1].as<int64_t>(), delta, saved,
           x.as<T>(), y.as<T>(), x.numel());
  });
}
void dropout(const Call& c) { drop(c, "dropout", c.as<DropoutParams>().delta, c.out[1].as<int64_t>()); }
void dropout_bwd(const Call& c) { drop(c, "dropout_bwd", 0, nullptr); }

void random(const Call& c) {
  const auto& p = c.as<RandomParams>();
  const int64_t* state = c.in[0].as<int64_t>();
  const Operand& y = c.out[0];
  const int64_t n = y.numel();
  if (p.op == Random::integers) {
    const auto low = static_cast<int64_t>(p.low);
    const uint64_t range = static_cast<uint64_t>(static_cast<int64_t>(p.high)) - static_cast<uint64_t>(low);
    launch("random", for_elements(n, 2), random_int_kernel, state, p.delta, low, range, y.data, y.dtype, n);
    return;
  }
  with_floating(y.dtype, "random", [&]<class T>() {
    launch("random", for_elements(n, is_same<T, double> ? 2 : 4), random_float_kernel<T>, p, state, y.as<T>(), n);
  });
}
const char* random_declines(const Call& c) {
  const auto& p = c.as<RandomParams>();
  if (p.op == Random::permutation) return "permutations are not made by a kernel";
  return p.op == Random::integers || is_floating(c.out[0].dtype) ? nullptr : "dtype is not floating";
}

void rng_advance(const Call& c) {
  launch("rng_advance", {dim3(1), dim3(1), 0}, rng_advance_kernel, c.in[0].as<int64_t>(), c.out[0].as<int64_t>(),
         c.as<RngAdvanceParams>().count);
}

const char* floats_declines(const Call& c) {
  return is_floating(c.in[0].dtype) && c.in[0].dtype == c.out[0].dtype ? nullptr : "dtype is not floating";
}

}  // namespace

List dropout_list() {
  static const Implementation list[] = {{"simt", floats_declines, nullptr, dropout}};
  return list;
}
List dropout_bwd_list() {
  static const Implementation list[] = {{"simt", floats_declines, nullptr, dropout_bwd}};
  return list;
}
List random_list() {
  static const Implementation list[] = {{"simt", random_declines, nullptr, random}};
  return list;
}
List rng_advance_list() {
  static const Implementation list[] = {{"simt", nullptr, nullptr, rng_advance}};
  return list;
}

}  // namespace fastcnn::cuda
