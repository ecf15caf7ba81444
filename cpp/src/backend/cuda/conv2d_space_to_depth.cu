// What it is: strided convolutions of 16-bit images of few channels (the first layer of a net): squares of pixels
// as large as the stride become channels of one pixel (space to depth), and a convolution of stride 1 without
// padding is left, a third less deep for 7x7/2 of 3 channels, whose channels fill runs. What it is not: for
// channels that fill runs by themselves; the gradient of the images (conv2d_widened.cu).
#include "backend/cuda/conv2d_rewritten.h"
#include "backend/cuda/kernels/channels.cuh"
#include "backend/cuda/launch.h"

namespace fastcnn::cuda {
namespace {

SpaceToDepth depth_of(int64_t N, int64_t H, int64_t W, int64_t C, int64_t rows, int64_t columns, int64_t step,
                      int64_t top, int64_t left) {
  auto i32 = [](int64_t v) { return static_cast<int32_t>(v); };
  SpaceToDepth g;
  g.N = i32(N), g.H = i32(H), g.W = i32(W), g.C = i32(C), g.rows = i32(rows), g.columns = i32(columns);
  g.wide = i32(runs(step * step * C)), g.step = i32(step), g.top = i32(top), g.left = i32(left);
  g.by_runs = FastDiv(g.wide / kRun), g.by_rows = FastDiv(rows);
  return g;
}

class Deep : public Rewritten {
 public:
  SpaceToDepth images, weights;

  Deep(const Call& c, Pass pass, void* workspace) : Rewritten(c, workspace) {
    const Conv2dParams p = params;
    const DType t = c.in[0].dtype;
    const int64_t s = p.sH;
    params.C = runs(s * s * p.C);
    params.kH = (p.kH + s - 1) / s, params.kW = (p.kW + s - 1) / s;
    params.H = p.oH + params.kH - 1, params.W = p.oW + params.kW - 1;
    params.sH = params.sW = 1, params.pT = params.pB = params.pL = params.pR = 0;
    images = depth_of(p.N, p.H, p.W, p.C, params.H, params.W, s, p.pT, p.pL);
    weights = depth_of(p.O, p.kH, p.kW, p.C, params.kH, params.kW, s, 0, 0);
    const int64_t in_weights = p.O * params.kH * params.kW * params.C;
    if (pass == Pass::weights) take(conv2d_bias_bytes(c));
    in_.assign(c.in.begin(), c.in.end());
    in_[0] = operand(c.in[0], true, p.N * params.H * params.W * params.C, t);
    if (pass == Pass::weights) {
      out_ = {operand(c.out[0], true, in_weights, DType::float32)};
    } else {
      in_[1] = operand(c.in[1], true, in_weights, t);
      out_.assign(c.out.begin(), c.out.end());
    }
    choose(c, pass);
  }
};

size_t depth_shared(const SpaceToDepth& g) {
  return static_cast<size_t>(depth_elements(g)) * 2 + static_cast<size_t>(g.wide) * sizeof(int32_t);
}
template <class T>
void to_depth(const SpaceToDepth& g, const Operand& from, const Operand& to) {
  const bool words = g.W * g.C % 2 == 0 && reinterpret_cast<uintptr_t>(from.data) % 4 == 0;
  launch("space_to_depth", {dim3(static_cast<unsigned>(g.N * g.rows)), dim3(128), depth_shared(g)},
         space_to_depth<T>, g, words, from.as<T>(), to.as<T>());
}
template <class To>
void to_space(const SpaceToDepth& g, const Operand& from, const Operand& to) {
  launch("depth_to_space", for_elements(int64_t{g.N} * g.H * g.W * g.C), depth_to_space<To, float>, g,
         from.as<float>(), to.as<To>());
}

template <Pass pass>
const char* declines(const Call& c) {
  if (const char* why = rewriting_declines<pass>(c)) return why;
  const auto& p = c.as<Conv2dParams>();
  const int64_t s = p.sH, wide = runs(s * s * p.C);
  if (s < 2 || p.sW != s || p.dH * p.dW != 1)
    return "no square of pixels: the stride is 1 or not square, or dilated";
  if (p.C % kRun == 0 || wide > 64) return "channels enough";
  if ((p.kH + s - 1) / s * ((p.kW + s - 1) / s) * wide >= p.kH * p.kW * runs(p.C)) return "no less deep";
  if (p.N * (p.oH + p.kH) * (p.oW + p.kW) * wide >= int64_t{1} << 31 || p.N * p.H * p.W >= int64_t{1} << 31)
    return "more than 2^31 numbers";
  const Deep k(c, pass, nullptr);
  if (static_cast<int64_t>(depth_shared(k.images)) + (1 << 10) > rt::device().shared) return "rows too long";
  return k.chosen ? nullptr : "no implementation of the deep call";
}
template <Pass pass>
int64_t workspace(const Call& c) {
  return Deep(c, pass, nullptr).bytes;
}

template <Pass pass>
void run(const Call& c) {
  const Deep k(c, pass, c.workspace);
  with_half(c.in[0].dtype, [&]<class T>() {
    to_depth<T>(k.images, c.in[0], k.call.in[0]);
    if (pass == Pass::forward) to_depth<T>(k.weights, c.in[1], k.call.in[1]);
    k.chosen->run(k.call);
    if (pass == Pass::forward) return;
    if (c.out[0].dtype == DType::float32)
      to_space<float>(k.weights, k.call.out[0], c.out[0]);
    else
      to_space<T>(k.weights, k.call.out[0], c.out[0]);
    conv2d_bias_gradient(c);
  });
}

template <Pass pass>
constexpr Implementation implementation() {
  return {"space to depth", declines<pass>, workspace<pass>, run<pass>};
}

}  // namespace

Implementation conv2d_space_to_depth() { return implementation<Pass::forward>(); }
Implementation conv2d_bwd_weights_space_to_depth() { return implementation<Pass::weights>(); }

}  // namespace fastcnn::cuda
