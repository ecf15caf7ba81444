// See select.h.
#include "graph/select.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <set>
#include <utility>

#include "fastcnn/runtime.h"

namespace fastcnn {
namespace {

std::mutex mutex;
std::atomic<bool> recording{false}, norms_on_load{true};
std::vector<std::string> choices;
std::set<std::string> printed;

bool verbose() {
  static const bool on = [] {
    const char* v = std::getenv("FASTCNN_VERBOSE");
    return v && *v && *v != '0';
  }();
  return on;
}

std::string describe(const Call& call) {
  std::string s = op_name(call.kind);
  for (const auto& side : {call.in, call.out}) {
    s += &side == &call.out ? " ->" : "";
    for (const Operand& o : side) {
      s.append(" ").append(dtype_name(o.dtype)).append("(");
      for (int i = 0; i < o.ndim; ++i) s.append(i ? "," : "").append(std::to_string(o.shape[i]));
      s.append(")");
    }
  }
  return s;
}

void note(const Call& call, const Implementation& chosen, const std::string& declined) {
  if (!recording && !verbose()) return;
  std::lock_guard<std::mutex> lock(mutex);
  if (recording) choices.push_back(std::string(op_name(call.kind)) + ":" + chosen.name);
  if (!verbose()) return;
  std::string line = describe(call) + ": " + chosen.name + declined;
  if (printed.insert(line).second) std::fprintf(stderr, "fastcnn: %s\n", line.c_str());
}

}  // namespace

Backend& backend_of(Device device) {
  if (device.type == DeviceType::cpu) return cpu_backend();
  Backend* b = cuda_backend();
  check(b != nullptr, "device: expected a CUDA device, but this build has ", cuda_build());
  return *b;
}

Operand operand_shape(const Value& v) {
  Operand o;
  o.dtype = v.dtype;
  o.ndim = v.shape.size();
  for (int i = 0; i < o.ndim; ++i) {
    o.shape[i] = v.shape[i];
    o.strides[i] = v.strides[i];
  }
  return o;
}

const Implementation& select_implementation(Backend& backend, const Call& call) {
  const bool noting = recording.load(std::memory_order_relaxed) || verbose();
  std::string declined;
  for (const Implementation& i : backend.implementations(call.kind)) {
    const char* why = i.declines ? i.declines(call) : nullptr;
    if (!why) {
      if (noting) note(call, i, declined);
      return i;
    }
    if (noting) declined += std::string(" (") + i.name + " declines: " + why + ")";
  }
  throw TypeError(concat(op_name(call.kind), ": no implementation on ", backend.name(), declined));
}

const Implementation* would_select(Backend& backend, const Call& call) {
  for (const Implementation& i : backend.implementations(call.kind))
    if (!i.declines || !i.declines(call)) return &i;
  return nullptr;
}

const Implementation* kernel_of(const Node& n, Device device) {
  std::vector<Operand> in, out;
  for (const Value& v : n.in) in.push_back(operand_shape(v));
  for (const Value& v : n.out) out.push_back(operand_shape(v));
  return would_select(backend_of(device), {n.kind, n.params.data(), in, out, nullptr});
}

bool has_kernel(const Node& n, Device device) {
  const Implementation* k = kernel_of(n, device);
  return k && (device.type != DeviceType::cpu || k != &backend_of(device).implementations(n.kind).back());
}

bool same_kernel(const Node& before, const Node& after, Device device) {
  return has_kernel(before, device) && kernel_of(before, device) == kernel_of(after, device);
}

void apply_norms_on_load(bool on) { norms_on_load = on; }

bool loads_norms(const Graph& g, const Value& v) {
  if (!norms_on_load) return false;
  if (g.device.type == DeviceType::cpu) return v.dtype == DType::float32;
  const bool half = v.dtype == DType::bfloat16 || v.dtype == DType::float16;
  return half && g.buffers[v.buffer].kind == Buffer::Kind::temporary &&
         v.offset * static_cast<int64_t>(dtype_size(v.dtype)) % 16 == 0;
}

void record_choices(bool on) {
  std::lock_guard<std::mutex> lock(mutex);
  recording = on;
  choices.clear();
}
std::vector<std::string> take_choices() {
  std::lock_guard<std::mutex> lock(mutex);
  return std::exchange(choices, {});
}

}  // namespace fastcnn
