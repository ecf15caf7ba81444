// What it is: the sizes and options of each op as plain structs, and the output-size formulas, each in one place.
// What it is not: no tensor, no allocation; kernels, ops, tests and benches share these structs.
// Conventions: images are logical (N,C,H,W), in memory N,H,W,C; conv weights are logical (O,I/groups,kH,kW), in
// memory O,kH,kW,I/groups. Every struct is trivially copyable and starts zeroed, so equal params are equal bytes.
#pragma once
#include <stdint.h>

// Kernels are compiled once per ISA: what they share with baseline code must never become a merged symbol.
#if defined(__CUDACC__)
#define FASTCNN_INLINE __host__ __device__ __forceinline__
#else
#define FASTCNN_INLINE inline __attribute__((always_inline))
#endif

namespace fastcnn {

constexpr int kMaxDims = 8;

// Output length of one spatial axis of a convolution or pooling window; may be <= 0, the op then refuses.
FASTCNN_INLINE int64_t conv_out_size(int64_t in, int64_t pad_begin, int64_t pad_end, int64_t kernel,
                                     int64_t stride, int64_t dilation) {
  int64_t span = in + pad_begin + pad_end - dilation * (kernel - 1) - 1;
  return span < 0 ? 0 : span / stride + 1;
}

// Activations that can stand alone or in an epilogue. `alpha` and `beta` are their parameters where they have any:
// leaky_relu(alpha=slope) elu(alpha) hardtanh(alpha=min, beta=max) softplus(alpha=beta, beta=threshold).
enum class Act : int32_t {
  none,
  relu,
  relu6,
  leaky_relu,
  elu,
  selu,
  celu,
  gelu,
  gelu_tanh,
  silu,
  mish,
  hardswish,
  hardsigmoid,
  hardtanh,
  sigmoid,
  tanh,
  softplus,
  softsign,
  count
};

struct ActParams {
  Act act = Act::none;
  int32_t pad_ = 0;
  double alpha = 0, beta = 0;
};

// conv2d and its two backward passes; x (N,C,H,W), w (O,C/groups,kH,kW), y (N,O,oH,oW).
// conv_transpose2d is conv2d_bwd_data of the same struct: its input is y, its output is x.
struct Conv2dParams {
  int64_t N = 0, C = 0, H = 0, W = 0;
  int64_t O = 0, kH = 0, kW = 0, oH = 0, oW = 0;
  int64_t sH = 1, sW = 1, pT = 0, pB = 0, pL = 0, pR = 0, dH = 1, dW = 1, groups = 1;
  int64_t has_bias = 0;      // conv2d: bias (O) is input 2; conv2d_bwd_weights: second output is the bias gradient
  int64_t has_residual = 0;  // conv2d: a tensor of y's shape, the last input, is added before the activation
  ActParams act;             // conv2d epilogue: y = act(conv + bias + residual)
  // conv2d, conv2d_bwd_weights: a batch norm is applied as x is read, which stands for in_act((x - mean) * scale +
  // shift) with mean (C) and affine (2,C) of batch_norm. Padding is zero behind it.
  int64_t has_norm_in = 0;
  ActParams in_act;
  int64_t has_moments = 0;  // conv2d: also gives the moments of y that a batch norm wants (BatchNormParams)
};

// channel_scale, channel_dot: images of N x C planes of `rows` pixels, and one number for each plane.
struct ChannelParams {
  int64_t N = 0, C = 0, rows = 0;
  int64_t has_shift = 0;  // channel_scale: a third input, times `shift`, is added
  double shift = 0;
};

// depthwise_pointwise: [a 1x1 convolution,] a depthwise one and a 1x1 one as one op: x (N,C,H,W) [-> (N,E,H,W)] ->
// (N,E,oH,oW) -> y (N,O,oH,oW); what lies between is never stored. The parts are as conv2d with the options here.
struct DepthwisePointwiseParams {
  int64_t N = 0, C = 0, H = 0, W = 0, E = 0, O = 0, oH = 0, oW = 0;  // C is E without the first part
  int64_t kH = 0, kW = 0, sH = 1, sW = 1, pT = 0, pB = 0, pL = 0, pR = 0, dH = 1, dW = 1;
  int32_t has_expand = 0;
  int32_t expand_bias = 0, depthwise_bias = 0, pointwise_bias = 0;
  int64_t has_residual = 0;  // of y's shape, the last input, added before the last activation
  ActParams expand_act, depthwise_act, pointwise_act;
};

// Its parts, and where their weights stand among its operands; a bias follows its weights.
FASTCNN_INLINE Conv2dParams expand_part(const DepthwisePointwiseParams& p) {
  Conv2dParams q;
  q.N = p.N, q.C = p.C, q.H = q.oH = p.H, q.W = q.oW = p.W, q.O = p.E, q.kH = q.kW = 1;
  q.has_bias = p.expand_bias, q.act = p.expand_act;
  return q;
}
FASTCNN_INLINE Conv2dParams depthwise_part(const DepthwisePointwiseParams& p) {
  Conv2dParams q;
  q.N = p.N, q.C = q.O = q.groups = p.E, q.H = p.H, q.W = p.W, q.oH = p.oH, q.oW = p.oW, q.kH = p.kH, q.kW = p.kW;
  q.sH = p.sH, q.sW = p.sW, q.pT = p.pT, q.pB = p.pB, q.pL = p.pL, q.pR = p.pR, q.dH = p.dH, q.dW = p.dW;
  q.has_bias = p.depthwise_bias, q.act = p.depthwise_act;
  return q;
}
FASTCNN_INLINE Conv2dParams pointwise_part(const DepthwisePointwiseParams& p) {
  Conv2dParams q;
  q.N = p.N, q.C = p.E, q.H = q.oH = p.oH, q.W = q.oW = p.oW, q.O = p.O, q.kH = q.kW = 1;
  q.has_bias = p.pointwise_bias, q.has_residual = p.has_residual, q.act = p.pointwise_act;
  return q;
}
FASTCNN_INLINE int depthwise_at(const DepthwisePointwiseParams& p) {
  return 1 + (p.has_expand ? 1 + p.expand_bias : 0);
}
FASTCNN_INLINE int pointwise_at(const DepthwisePointwiseParams& p) {
  return depthwise_at(p) + 1 + p.depthwise_bias;
}

// conv2d_bwd: both gradients of a convolution whose output only a batch norm read. `norm_act`: the activation
// behind that norm, through which dy has yet to go (with an affine map among the inputs); none where dy is the
// norm's own. in: dy, weights, x, y, mean, coef, …; out: dx, dw, …; or, where nothing asks for dx, the same
// without the weights and dw alone.
struct Conv2dBwdParams {
  Conv2dParams conv;
  ActParams norm_act;
  // dx goes through the norm before x, whose sums are a result. With has_norm_in that norm is the one x is read
  // through. With has_residual x is its output act(norm + residual): its input and mean follow, and with has_dy2
  // another gradient of x, which joins dx first.
  int64_t has_sums = 0, has_residual = 0, has_dy2 = 0;
  ActParams out_act;  // of the norm with a residual
};

// matmul family: C[b] (M,N) = op(A[b]) (M,K) * op(B[b]) (K,N); transposes come as strides of the operands.
struct MatmulParams {
  int64_t batch = 1, M = 0, N = 0, K = 0;
  int64_t trans_a = 0, trans_b = 0;  // 1: the operand is stored (K,M) resp. (N,K), row-major
  int64_t a_batched = 1, b_batched = 1;
  int64_t has_bias = 0;  // bias (N) is input 2
  ActParams act;
};

// max_pool2d, avg_pool2d and their backward passes.
struct Pool2dParams {
  int64_t N = 0, C = 0, H = 0, W = 0, oH = 0, oW = 0;
  int64_t kH = 1, kW = 1, sH = 1, sW = 1, pT = 0, pB = 0, pL = 0, pR = 0, dH = 1, dW = 1;
  int64_t count_include_pad = 1;
  int64_t adaptive = 0;  // windows are [floor(i*H/oH), ceil((i+1)*H/oH)), kernel and stride are ignored
};

// ---- int8, for inference: an element q of a uint8 tensor stands for (q - zero) * scale ----

// quantize: q = clamp(round(x / scale + zero), 0, 255), halves to even, NaN as 0; dequantize: its inverse.
struct QuantizeParams {
  double scale = 1;
  int64_t zero = 0;
};

// quantized_conv2d: acc (O) = sum of (x - x_zero) * w in int32, v = acc * multiplier + offset [+ residual *
// residual_multiplier] with one rounding each (fused), y = clamp(round(v), low, high) as uint8, or v as float32.
// Of conv only sizes, groups and has_residual are used; padding stands for zeros.
struct QuantizedConv2dParams {
  Conv2dParams conv;
  int64_t x_zero = 0, low = 0, high = 255;
  double residual_multiplier = 0;
};
// The longest sum that int32 holds for any operands.
constexpr int64_t kMostQuantizedDepth = (int64_t{1} << 31) / (255 * 128);

// quantized_add: y = clamp(round(a * a_multiplier + (b * b_multiplier + offset)), low, high); without b: a alone.
struct QuantizedAddParams {
  double a_multiplier = 1, b_multiplier = 0, offset = 0;
  int64_t has_b = 0, low = 0, high = 255;
};

// quantized_pool2d: the maximum, or acc = sum of (x - x_zero), v = acc * (multiplier / pixels) + offset; y is
// clamp(round(v), 0, 255) as uint8, or v as float32. Windows and divisors as those of max_pool2d and avg_pool2d.
struct QuantizedPool2dParams {
  Pool2dParams pool;
  int64_t max = 0, x_zero = 0;
  double multiplier = 1, offset = 0;
};

// batch_norm over (N, spatial) per channel. x is seen as (rows, C) with C innermost.
struct BatchNormParams {
  int64_t rows = 0, C = 0;
  double eps = 1e-5;
  int64_t has_residual =
      0;  // forward: y = act(norm(x) + residual); backward: last output is the residual gradient
  // Forward: also gives the scale and shift of each channel. Backward: makes y from x with them instead of reading
  // it.
  int64_t has_affine = 0;
  int64_t has_dy2 = 0;      // backward: the gradient of y is the sum dy + dy2
  int64_t stats_only = 0;   // forward, with has_affine: no y, readers make it from x (Conv2dParams::has_norm_in)
  int64_t has_moments = 0;  // forward: mean and biased variance of x are given; stats_only does not read x then
  // Backward: no dx, conv2d_bwd makes it: a*dz + b*(x - mean) + c with coef (3,C) of a, b, c.
  int64_t coef_only = 0;
  int64_t has_sums = 0;  // backward, without activation: the sums of dy and dy * (x - mean) are given
  ActParams act;
};

// Batch norm folded into the weights before it: element i of w belongs to channel i / block * step + i % inner.
struct FoldParams {
  int64_t C = 0, block = 1, step = 1, inner = 1;
  int64_t has_bias = 0;
  double eps = 1e-5;
};

// The loss whose target is checked for NaN, for the message.
struct CheckTargetParams {
  char op[40] = {};
};

// layer_norm: x seen as (outer, inner), normalised over inner. group_norm, instance_norm: x is (N, HW, C) in
// memory, normalised over HW and the C/groups channels of a group.
struct NormParams {
  int64_t outer = 0, inner = 0;              // layer_norm
  int64_t N = 0, HW = 0, C = 0, groups = 1;  // group_norm, instance_norm
  int64_t affine = 0;
  double eps = 1e-5;
};

// Running statistics of batch_norm, updated in place: running = (1-momentum)*running + momentum*batch. momentum <
// 0: cumulative average with 1/num_batches_tracked.
struct BnUpdateParams {
  int64_t rows = 0, C = 0;
  double eps = 1e-5, momentum = 0.1;
};

// softmax family: x seen as (outer, dim, inner) by strides of the dense tensor.
struct SoftmaxParams {
  int64_t outer = 0, dim = 0, inner = 0;
};

enum class Reduction : int32_t { none, mean, sum };

// cross_entropy on class ids: logits are seen as (rows, C) with C innermost in memory, targets as (rows).
struct CrossEntropyParams {
  int64_t rows = 0, C = 0, ignore_index = -100, has_weight = 0;
  double label_smoothing = 0;
  Reduction reduction = Reduction::mean;
  int32_t pad_ = 0;
};

// Losses between x and a target of its shape, element by element: d = x - t.
enum class PointLoss : int32_t {
  mse,              // d^2
  l1,               // |d|
  smooth_l1,        // d^2 / 2 beta below beta, |d| - beta/2 above (Girshick 2015)
  huber,            // beta times smooth_l1 (Huber 1964)
  bce_with_logits,  // binary cross entropy of sigmoid(x)
};
struct PointwiseLossParams {
  int64_t count = 0;
  double beta = 1;
  PointLoss loss = PointLoss::mse;
  Reduction reduction = Reduction::mean;
};
inline const char* name_of(PointLoss l) {
  constexpr const char* names[] = {"mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss",
                                   "binary_cross_entropy_with_logits"};
  return names[static_cast<int>(l)];
}

// Elementwise with one input. `alpha`, `beta` are scalars of the op.
enum class Unary : int32_t {
  copy,    // also the cast between dtypes and the copy between layouts
  affine,  // alpha*x + beta: every +,-,* with a Python scalar, and negation
  rdiv,    // alpha / x
  pow,     // x ** alpha
  rpow,    // alpha ** x
  clamp,   // min(max(x, alpha), beta), NaN stays NaN
  abs,
  exp,
  expm1,
  log,
  log1p,
  log2,
  sqrt,
  rsqrt,
  square,
  reciprocal,
  sign,
  floor,
  ceil,
  round,
  sin,
  cos,
  erf,
  atan,
  logical_not,
  isnan,
  isinf,
  isfinite,
  clamp_mask,  // 1 where alpha <= x <= beta, else 0
  count
};
struct UnaryParams {
  Unary op = Unary::copy;
  int32_t pad_ = 0;
  double alpha = 0, beta = 0;
};

// Elementwise with two inputs of one dtype; operands are broadcast by strides of 0. Comparisons give bool.
enum class Binary : int32_t {
  add,
  sub,
  mul,
  div,
  pow,
  maximum,
  minimum,
  mod,
  floor_div,
  eq,
  ne,
  lt,
  le,
  gt,
  ge,
  logical_and,
  logical_or,
  logical_xor,
  count
};
struct BinaryParams {
  Binary op = Binary::add;
  int32_t pad_ = 0;
};

// Reduction of the dims whose bit is set in `dims` (logical dim numbers of input 0). The output operand has the
// same ndim with those dims 1 (keepdim form); ops reshape it. argmax/argmin give int64 positions along the one
// reduced dim.
enum class Reduce : int32_t { sum, mean, prod, max, min, argmax, argmin, any, all, sum_squares, count };
struct ReduceParams {
  Reduce op = Reduce::sum;
  uint32_t dims = 0;
};

// A strided window into a dense canonical tensor: out is zero except out.data[offset + strides . i] (+)= in[i].
struct ScatterParams {
  int64_t offset = 0;
  int64_t strides[kMaxDims] = {};  // of the window, in elements of the output's memory
  int64_t accumulate = 0;          // windows may overlap (expand): add instead of store
};

// index_select: out[..., i, ...] = x[..., index[i], ...] along dim. index_add is its backward: adds into zeros.
// gather: out[i,j..] = x with coordinate `dim` replaced by index[i,j..]; scatter_add is its backward.
struct IndexParams {
  int64_t dim = 0;
  int64_t size = 0;  // extent of x along dim
};

struct CatParams {
  int64_t dim = 0;
};

// argsort: index[r, j] is the place in row r of its j-th value, the smallest first (descending: the largest);
// equal values stay in their order, NaN counts as the largest. cumsum: y[r, i] is the sum of x[r, 0..i] (reverse:
// x[r, i..]).
struct ArgsortParams {
  int64_t rows = 0, size = 0;
  int64_t kept = 0;  // per row, the others are left out
  int64_t descending = 0;
};
struct CumsumParams {
  int64_t rows = 0, size = 0;
  int64_t reverse = 0;
};

enum class PadMode : int32_t { constant, reflect, replicate, circular };
struct PadParams {
  int64_t before[kMaxDims] = {};  // per logical dim; negative values crop (constant mode only)
  int64_t after[kMaxDims] = {};
  double value = 0;
  PadMode mode = PadMode::constant;
  int32_t pad_ = 0;
};

enum class Interp : int32_t { nearest, bilinear, bicubic, nearest_exact };
struct InterpolateParams {  // x (N,C,H,W) to y (N,C,oH,oW)
  int64_t N = 0, C = 0, H = 0, W = 0, oH = 0, oW = 0;
  int64_t align_corners = 0, antialias = 0;
  double scale_h = 0, scale_w = 0;  // > 0: the scale factor the caller gave; 0: from the sizes
  Interp mode = Interp::nearest;
  int32_t pad_ = 0;
};

// affine_sample: pixel (o_x, o_y) of y is x at matrix * (o_x, o_y, 1) [+ displacement]; pixel centres have whole
// coordinates. Then `stages` colour stages, then scale and shift per channel where has_norm.
enum class SampleFill : int32_t { constant, edge, reflect, symmetric };  // what lies outside x
struct AffineSampleParams {
  int64_t N = 0, C = 0, H = 0, W = 0, oH = 0, oW = 0;
  int64_t stages = 0;
  Interp mode = Interp::bilinear;  // nearest, bilinear, bicubic
  SampleFill fill = SampleFill::constant;
  int32_t antialias = 0;  // matrices that only scale and move take as many pixels as an output pixel covers
  int32_t has_displacement = 0, has_norm = 0, pad_ = 0;
};
// A colour stage of one image: A (C,C), B (C,C), c (C), hue. v becomes A v + B m + c, m the mean of each channel
// of the image so far; limited to [0, top]; then the hue turns by `hue` of a circle (C = 3).
FASTCNN_INLINE int64_t sample_stage_floats(int64_t C) { return C * (2 * C + 1) + 1; }

// grid_sample of x (N,C,H,W) at points (N, oH*oW, 2) of x and y, where -1 and 1 are the ends of an image: the
// outer edges of its pixels, with align_corners the centres of the outermost ones.
enum class GridPadding : int32_t { zeros, border, reflection };  // what lies outside x
struct GridSampleParams {
  int64_t N = 0, C = 0, H = 0, W = 0, oH = 0, oW = 0;
  int64_t align_corners = 0;
  Interp mode = Interp::bilinear;  // nearest, bilinear, bicubic (a = -0.75)
  GridPadding padding = GridPadding::zeros;
  int64_t has_dx = 0, has_dgrid = 0;  // backward: which gradients are made
};

// box_iou: all pairs of boxes a (N,4) and b (M,4), x1 y1 x2 y2.
struct BoxIouParams {
  int64_t N = 0, M = 0;
};
// nms: N boxes, best score first; a box goes whose IoU with a kept one of its group is above the threshold.
struct NmsParams {
  int64_t N = 0, limit = 0;  // at most so many are kept
  double iou_threshold = 0.5;
  int64_t has_groups = 0;
};
// roi_align of x (N,C,H,W) and K boxes: y (K,C,oH,oW). aligned: boxes move by half a pixel.
struct RoiAlignParams {
  int64_t N = 0, C = 0, H = 0, W = 0, K = 0, oH = 0, oW = 0;
  int64_t sampling_ratio = 0;  // samples of a bin along an axis; <= 0: one per pixel that the bin spans
  int64_t aligned = 0;
  double spatial_scale = 1;
};

// capsule_routing: input capsules u (N,I,K), weight (I,J,D,K) -> output capsules (N,J,D).
struct CapsuleRoutingParams {
  int64_t N = 0, I = 0, K = 0, J = 0, D = 0, iterations = 3;
};

// dropout: element i of the dense tensor belongs to decision f(i): `inner` = 1 one per element; dropout2d: one per
// (n, c); drop_path: one per n. Decision ids count logically: for dropout the memory index, else n*C+c or n.
enum class DropKind : int32_t { element, channel, sample };
struct DropoutParams {
  double p = 0.5;
  int64_t delta = 0;  // how many random ops of this step ran before: added to the counter of the generator state
  DropKind kind = DropKind::element;
  int32_t pad_ = 0;
  int64_t N = 0, C = 0, HW = 0;  // of the dense tensor for channel and sample
};

enum class Random : int32_t { uniform, normal, integers, permutation };
struct RandomParams {
  Random op = Random::uniform;
  int32_t pad_ = 0;
  double low = 0, high = 1;  // uniform [low, high); normal: mean, standard deviation; integers [low, high)
  int64_t delta = 0;
};
struct RngAdvanceParams {
  int64_t count = 1;
};

struct FillParams {
  double value = 0;
  int64_t arange = 0;  // 1: value + step*i
  double step = 0;
};

// Fused optimizers, all in place. Their input `hyper` is float32[8], rewritten by the host before each step:
// 0 lr, 1 weight_decay, 2 momentum | beta1 | alpha, 3 beta2 (rmsprop: momentum), 4 eps, 5 1-beta1^t, 6 1-beta2^t,
// 7 dampening | 1-beta2 | 1-alpha (0: derived from the float32 beta2 or alpha, which costs 1e-5 of it)
struct SgdParams {
  int64_t has_momentum = 0, nesterov = 0, maximize = 0, first_step = 0;
};
struct AdamParams {
  int64_t decoupled = 0, amsgrad = 0, maximize = 0;  // decoupled: AdamW (Loshchilov & Hutter 2019)
};
struct RmspropParams {
  int64_t has_momentum = 0, centered = 0, maximize = 0;
};
struct AdagradParams {  // lr of the step, decay included
  int64_t maximize = 0;
};
struct LionParams {  // slot 2 beta1, 3 beta2, 6 1-beta1, 7 1-beta2
  int64_t maximize = 0;
};

}  // namespace fastcnn
