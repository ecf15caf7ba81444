// What it is: generator states (one per device: seed, counter) and random tensors. The rules of the numbers stand
// in core/philox.h: a number depends on seed, counter and place only.
#include "ops/random.h"

#include <cstring>
#include <limits>
#include <mutex>
#include <utility>
#include <vector>

#include "backend/backend.h"
#include "core/allocator.h"
#include "core/fork.h"
#include "fastcnn/ops.h"
#include "fastcnn/runtime.h"
#include "graph/checkpoint.h"
#include "graph/emit.h"
#include "graph/select.h"
#include "graph/trace.h"

namespace fastcnn {
namespace {

struct States {
  std::mutex mutex;
  int64_t seed = 0;  // of devices that come into use later
  std::vector<std::pair<Device, Tensor>> list;
};
States& states();
std::mutex& states_mutex() { return states().mutex; }
States& states() {
  static auto* s = [] {
    caching_allocator();  // registers its mutex, which is taken inside this one
    hold_while_forking<states_mutex>();
    return new States;  // never destroyed: backends may be gone by then
  }();
  return *s;
}

// At load: a child forked while another thread made them would wait for that for ever.
[[maybe_unused]] const States& made_at_load = states();

void write_state(const Tensor& state, int64_t seed) {
  int64_t values[2] = {seed, 0};
  backend_of(state.device()).copy(state.data(), values, sizeof values, Copy::in);
}

Tensor draw(const Rule& rule, const RandomParams& params, const Dims& shape, DType dtype, Device device) {
  checked_numel(rule.name, shape, dtype);
  const RandomTurn turn = take_random_turn(device);
  RandomParams p = params;
  p.delta = turn.delta;
  return emit1(rule, OpKind::random, p, {turn.state}, {shape, dtype});
}

void check_floating(const char* op, DType dtype) {
  check<TypeError>(is_floating(dtype), op, ": expected a floating dtype, got ", dtype);
}

// The next `count` places of a state: its values as they were before it moved on, in one lock, so that no two
// threads get one place.
Tensor take_places(const Tensor& state, int64_t count) {
  return Region::random_turn([&] {
    const Tensor turn = empty({2}, DType::int64, state.device());
    std::lock_guard<std::mutex> lock(states().mutex);
    if (state.device().type == DeviceType::cpu) {
      auto *now = state.data<int64_t>(), *left = turn.data<int64_t>();
      left[0] = now[0], left[1] = now[1];
      now[1] = static_cast<int64_t>(static_cast<uint64_t>(now[1]) + static_cast<uint64_t>(count));
    } else {
      run_now(OpKind::unary, UnaryParams{Unary::copy}, {state}, {turn});
      run_now(OpKind::rng_advance, RngAdvanceParams{count}, {state}, {state});
    }
    bump_version(state);
    return turn;
  });
}

void leave_random(const Tensor& state, const Tensor& turn, int64_t count, bool gives_back) {  // see Trace
  const bool cpu = state.device().type == DeviceType::cpu;
  auto copy = [](const Tensor& from, const Tensor& to) {
    std::memcpy(to.data(), from.data(), 2 * sizeof(int64_t));
  };
  if (!gives_back) {
    const Tensor taken = take_places(state, count);
    cpu ? copy(taken, turn) : run_now(OpKind::unary, UnaryParams{Unary::copy}, {taken}, {turn});
  } else if (cpu && !Region::runs_again()) {
    std::lock_guard<std::mutex> lock(states().mutex);
    const auto *now = state.data<int64_t>(), *left = turn.data<int64_t>();
    const auto moved = static_cast<uint64_t>(now[1]) - static_cast<uint64_t>(left[1]);
    if (now[0] == left[0] && moved == static_cast<uint64_t>(count)) copy(turn, state);
    bump_version(state);
  }
}
}  // namespace

RandomTurn take_random_turn(Device device) {
  const Tensor state = random_state(device);
  if (Trace* trace = current_trace()) {
    trace->random_state = state;
    trace->leave_random = leave_random;
    return {state, trace->random_ops++};
  }
  return {take_places(state, 1), 0};
}

void manual_seed(uint64_t seed) {
  check(current_trace() == nullptr, "manual_seed: expected to be called outside of a compiled function");
  if (Region::runs_again()) return;  // the numbers of a second run are those of the first
  States& s = states();
  std::lock_guard<std::mutex> lock(s.mutex);
  s.seed = static_cast<int64_t>(seed);
  for (auto& [device, state] : s.list) write_state(state, s.seed);
}

Tensor random_state(Device device) {
  States& s = states();
  std::lock_guard<std::mutex> lock(s.mutex);
  for (auto& [d, state] : s.list)
    if (d == device) return state;
  Tensor state = empty({2}, DType::int64, device);
  write_state(state, s.seed);
  s.list.emplace_back(device, state);
  return state;
}

Tensor rand(const Dims& shape, DType dtype, Device device) {
  static const Rule rule{"rand"};
  check_floating("rand", dtype);
  return draw(rule, RandomParams{Random::uniform, 0, 0, 1}, shape, dtype, device);
}

Tensor randn(const Dims& shape, DType dtype, Device device) {
  static const Rule rule{"randn"};
  check_floating("randn", dtype);
  return draw(rule, RandomParams{Random::normal, 0, 0, 1}, shape, dtype, device);
}

Tensor randint(int64_t low, int64_t high, const Dims& shape, DType dtype, Device device) {
  static const Rule rule{"randint"};
  check(low < high, "randint: expected low < high, got low=", low, " high=", high);
  constexpr int64_t exact = int64_t{1} << 53;  // the params hold them as double
  check(low >= -exact && high <= exact, "randint: expected bounds within +-2^53, got low=", low, " high=", high);
  return draw(rule, RandomParams{Random::integers, 0, static_cast<double>(low), static_cast<double>(high)}, shape,
              dtype, device);
}

Tensor bernoulli(const Tensor& p) {
  check(p.defined(), "bernoulli: expected a tensor as p, got an empty handle");
  check_floating("bernoulli", p.dtype());
  const Tensor from = p.detach();
  if (!current_trace() && p.device().type == DeviceType::cpu && p.numel() > 0) {
    const double low = amin(from).item(), high = amax(from).item();
    check(low >= 0 && high <= 1, "bernoulli: expected probabilities in [0, 1], got ", low, " to ", high);
  }
  const DType wide = p.dtype() == DType::float64 ? p.dtype() : DType::float32;
  return cast(lt(rand(p.shape(), wide, p.device()), cast(from, wide)), p.dtype());
}

Tensor randperm(int64_t n, DType dtype, Device device) {
  check(n >= 0, "randperm: expected n >= 0, got ", n);
  check<TypeError>(dtype != DType::bool_, "randperm: expected a dtype of numbers, got ", dtype);
  const int64_t most = dtype == DType::int8       ? 128
                       : dtype == DType::uint8    ? 256
                       : dtype == DType::float16  ? 2049
                       : dtype == DType::bfloat16 ? 257
                       : dtype == DType::float32  ? (int64_t{1} << 24) + 1
                                                  : std::numeric_limits<int32_t>::max();
  check(n <= most, "randperm: ", dtype, " holds no ", n, " different whole numbers (at most ", most, ")");
  return cast(argsort(rand({n}, DType::float64, device), 0, false), dtype);
}

}  // namespace fastcnn
