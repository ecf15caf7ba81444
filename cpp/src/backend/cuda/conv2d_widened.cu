// What it is: convolutions of 16-bit floats whose channels do not fill runs of 16 bytes (images of 3 channels):
// operands are copied to channels that do and given to the implementation that reads runs. What it is not: for
// groups.
#include <algorithm>

#include "backend/cuda/conv2d_parts.h"
#include "backend/cuda/dispatch.h"
#include "backend/cuda/kernels/channels.cuh"

namespace fastcnn::cuda {
namespace {

constexpr int64_t kRun = 8;
int64_t runs(int64_t channels) { return (channels + kRun - 1) / kRun * kRun; }

enum class Pass { forward, data, weights };

List list_of(Pass pass) {
  return pass == Pass::forward ? conv2d_list()
         : pass == Pass::data  ? conv2d_bwd_data_list()
                               : conv2d_bwd_weights_list();
}

// The call on wide channels: copies lie in the workspace, whole 256 bytes each.
class Wide {
 public:
  Conv2dParams params;
  Call call;
  const Implementation* chosen = nullptr;
  bool x = false, y = false, bias = false;  // copied?
  int64_t bytes = 0;

  Wide(const Call& c, Pass pass, void* workspace)
      : params(c.as<Conv2dParams>()), base_(static_cast<char*>(workspace)) {
    const Conv2dParams p = params;
    const DType t = c.in[0].dtype;
    params.C = runs(p.C);
    if (pass != Pass::forward) params.O = runs(p.O);
    x = params.C != p.C, y = params.O != p.O;
    const int64_t taps = p.kH * p.kW, pixels = p.N * p.H * p.W, out_pixels = p.N * p.oH * p.oW;
    if (pass == Pass::weights) {
      take(conv2d_bias_bytes(c));
      in_ = {operand(c.in[0], x, pixels * params.C, t), operand(c.in[1], y, out_pixels * params.O, t)};
      out_ = {operand(c.out[0], true, params.O * taps * params.C, DType::float32)};
    } else if (pass == Pass::data) {
      in_ = {operand(c.in[0], y, out_pixels * params.O, t), operand(c.in[1], true, params.O * taps * params.C, t)};
      if (c.in.size() > 2) in_.push_back(operand(c.in[2], bias = true, params.C, t));
      out_ = {operand(c.out[0], x, pixels * params.C, t)};
    } else {
      in_.assign(c.in.begin(), c.in.end());
      in_[0] = operand(c.in[0], x, pixels * params.C, t);
      in_[1] = operand(c.in[1], true, params.O * taps * params.C, t);
      out_ = {c.out[0]};
    }
    call.kind = c.kind, call.params = &params, call.in = in_, call.out = out_;
    for (const Implementation& i : list_of(pass))
      if (!i.declines || !i.declines(call)) {
        chosen = &i;
        break;
      }
    if (chosen && chosen->workspace) call.workspace = take(chosen->workspace(call));
  }
  Wide(const Wide&) = delete;

 private:
  void* take(int64_t n) {
    void* p = base_ ? base_ + bytes : nullptr;
    bytes += (n + 255) / 256 * 256;
    return p;
  }
  Operand operand(const Operand& o, bool copied, int64_t elements, DType t) {
    if (!copied) return o;
    Operand wide;
    wide.dtype = t, wide.ndim = 1, wide.shape[0] = elements, wide.strides[0] = 1;
    wide.data = take(elements * static_cast<int64_t>(dtype_size(t)));
    return wide;
  }
  char* base_;  // null: to measure
  std::vector<Operand> in_, out_;
};

template <Pass pass>
const char* declines(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  if (!is_half(c.in[0].dtype)) return "not a 16-bit float";
  if (p.groups != 1) return "groups";
  if (p.C % kRun == 0 && (pass == Pass::forward || p.O % kRun == 0)) return "channels fill runs of 16 bytes";
  for (const Operand& o : c.in)
    if (o.dtype != c.in[0].dtype) return "operands of several dtypes";
  for (const Operand& o : c.out)
    if (o.dtype != c.in[0].dtype && !(pass == Pass::weights && o.dtype == DType::float32))
      return "a result of another dtype";
  return Wide(c, pass, nullptr).chosen ? nullptr : "no implementation of the wide call";
}
template <Pass pass>
int64_t workspace(const Call& c) {
  return Wide(c, pass, nullptr).bytes;
}

// (rows, C) to (out_rows, wide), zeros elsewhere.
template <class T>
void widen(const Operand& from, int64_t rows, int64_t C, int64_t out_rows, int64_t wide, const Operand& to) {
  launch("widen_channels", for_elements(out_rows * wide, Pack<T>::n), widen_channels<T>, from.as<T>(), rows,
         static_cast<int32_t>(C), out_rows, static_cast<int32_t>(wide), to.as<T>());
}
template <class To, class From>
void narrow(const Operand& from, int64_t rows, int64_t wide, int64_t C, const Operand& to) {
  launch("narrow_channels", for_elements(rows * C), narrow_channels<To, From>, from.as<From>(), rows,
         static_cast<int32_t>(wide), static_cast<int32_t>(C), to.as<To>());
}

template <Pass pass>
void run(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  const Wide k(c, pass, c.workspace);
  const int64_t taps = p.kH * p.kW, pixels = p.N * p.H * p.W, out_pixels = p.N * p.oH * p.oW;
  const int64_t C = k.params.C, O = k.params.O;
  auto go = [&]<class T>() {
    if (k.x && pass != Pass::data) widen<T>(c.in[0], pixels, p.C, pixels, C, k.call.in[0]);
    if (k.y) {
      constexpr size_t at = pass == Pass::data ? 0 : 1;
      widen<T>(c.in[at], out_pixels, p.O, out_pixels, O, k.call.in[at]);
    }
    if (pass != Pass::weights) widen<T>(c.in[1], p.O * taps, p.C, O * taps, C, k.call.in[1]);
    if (k.bias) widen<T>(c.in[2], 1, p.C, 1, C, k.call.in[2]);
    k.chosen->run(k.call);
    if (pass == Pass::data && k.x) narrow<T, T>(k.call.out[0], pixels, C, p.C, c.out[0]);
    if (pass != Pass::weights) return;
    if (c.out[0].dtype == DType::float32)
      narrow<float, float>(k.call.out[0], p.O * taps, C, p.C, c.out[0]);
    else
      narrow<T, float>(k.call.out[0], p.O * taps, C, p.C, c.out[0]);
    conv2d_bias_gradient(c);
  };
  with_half(c.in[0].dtype, go);
}

template <Pass pass>
constexpr Implementation implementation() {
  return {"widened", declines<pass>, workspace<pass>, run<pass>};
}

}  // namespace

Implementation conv2d_widened() { return implementation<Pass::forward>(); }
Implementation conv2d_bwd_data_widened() { return implementation<Pass::data>(); }
Implementation conv2d_bwd_weights_widened() { return implementation<Pass::weights>(); }

}  // namespace fastcnn::cuda
