// What it is: convolutions of 16-bit floats whose channels do not fill runs of 16 bytes (images of 3 channels):
// operands are copied to channels that do and given to the implementation that reads runs. What it is not: for
// groups.
#include <string_view>

#include "backend/cuda/conv2d_rewritten.h"
#include "backend/cuda/kernels/channels.cuh"

namespace fastcnn::cuda {
namespace {

// The call on wide channels.
class Wide : public Rewritten {
 public:
  bool x = false, y = false, bias = false;  // copied?

  Wide(const Call& c, Pass pass, void* workspace) : Wide(c, pass, workspace, wide_channels(c, pass)) {}

 private:
  // Strips and tiles with their halo take 16, and gain more than the channels more cost them.
  static int64_t wide_channels(const Call& c, Pass pass) {
    const int64_t C = c.as<Conv2dParams>().C;
    if (pass == Pass::data || C >= 8) return runs(C);
    const Wide k(c, pass, nullptr, 16);
    const std::string_view name = k.chosen ? k.chosen->name : "";
    return name == "halo" || name == "narrow strips" ? 16 : 8;
  }
  Wide(const Call& c, Pass pass, void* workspace, int64_t channels) : Rewritten(c, workspace) {
    const Conv2dParams p = params;
    const DType t = c.in[0].dtype;
    params.C = channels;
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
      out_.assign(c.out.begin(), c.out.end());
    }
    choose(c, pass);
  }
};

template <Pass pass>
const char* declines(const Call& c) {
  if (const char* why = rewriting_declines<pass>(c)) return why;
  const auto& p = c.as<Conv2dParams>();
  if (p.C % kRun == 0 && (pass == Pass::forward || p.O % kRun == 0)) return "channels fill runs of 16 bytes";
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
