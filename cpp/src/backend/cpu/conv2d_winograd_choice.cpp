// What it is: what Winograd convolutions of stride 1 cannot take, and when they pay: costs of tiles and of
// transformed weights against those of the direct algorithm. What it is not: their plans and runs
// (conv2d_winograd.cpp).
#include <algorithm>

#include "fastcnn/runtime.h"

#include "backend/cpu/conv2d_adaptors.h"
#include "backend/cpu/conv2d_tasks.h"
#include "backend/cpu/conv2d_winograd.h"

namespace fastcnn::cpu {
namespace {

bool bf16(const Operand& o) { return o.dtype == DType::bfloat16; }

// Products that are made, of 36 for each tile.
double share_of_products(const WinogradTask& t) {
  const int64_t rows = 5 * t.tH + t.fH, columns = 5 * t.tW + t.fW;
  return static_cast<double>(rows * columns) / static_cast<double>(36 * t.tH * t.tW);
}

// Why this is no work for Winograd at all.
const char* not_winograd(const Conv2dParams& p, bool takes_4x4 = false) {
  if (get_conv_algorithm() == "direct") return "conv algorithm is direct";
  if (p.kH != p.kW || (p.kH != 3 && p.kH != 5 && !(p.kH == 4 && takes_4x4))) return "window is not 3x3 or 5x5";
  if (p.sH * p.sW != 1) return "stride is not 1";
  if (p.dH * p.dW != 1) return "dilation is not 1";
  if (std::max(std::max(p.pT, p.pB), std::max(p.pL, p.pR)) >= p.kH) return "padding of the window's size or more";
  if (p.N * p.oH * p.oW == 0) return "no pixels";
  return fused_act(p) ? nullptr : "activation is not none, relu or relu6";
}

constexpr double kFarWindows = 4 << 20;  // floats

// Costs of a call in vector multiply-adds, fitted to measured times; what the two algorithms share is left out.
struct Cost {
  double tile, weights;  // of one tile, of all weights
};
Cost forward_cost(const WinogradTask& t, bool bf16) {
  const double vC = static_cast<double>(ceil_div(t.C, lanes())), vO = static_cast<double>(ceil_div(t.O, lanes()));
  const double C = static_cast<double>(t.C), tiles = static_cast<double>(winograd_tiles(t));
  const double products = share_of_products(t) * 36 * C * vO;
  if (bf16) return {products * (1.28 + 1 / tiles) + 220 * (vC + vO), 200 * C * vO};
  // Windows of so many channels that those of a chunk leave L3 come from memory, for however few outputs.
  WinogradTask planned = t;
  const WinogradPlan plan = plan_winograd(planned, 1, false);
  const bool far = plan.order != WinogradOrder::groups &&
                   36 * C * std::min(tiles, static_cast<double>(plan.chunk)) > kFarWindows;
  return {products * (1.35 + 2 / tiles) + 220 * (vC + vO) + (far ? 72 * C : 0), 300 * C * vO};
}
Cost gradient_cost(const WinogradTask& t, bool bf16) {
  const double vC = static_cast<double>(ceil_div(t.C, lanes())), vO = static_cast<double>(ceil_div(t.O, lanes()));
  const double O = static_cast<double>(t.O), tiles = static_cast<double>(winograd_tiles(t));
  WinogradTask planned = t;
  const bool groups = plan_winograd_gradient(planned, 1).order == WinogradOrder::groups;
  const double sums = groups ? static_cast<double>(planned.chunks) : 1;
  // Where threads share what they have transformed, its way between them weighs more against pairs, which do not.
  const double product = bf16 && !groups ? 1.45 : 1.35;
  return {share_of_products(t) * 36 * O * vC * (product + 3.5 / tiles) + (bf16 ? 330 : 220) * (vC + vO),
          (300 + 50 * sums) * O * vC};
}

const char* not_worth_it(const WinogradTask& t, const Cost& c, double direct_pixel, double direct_weights,
                         int64_t number_of_tiles = 0) {
  constexpr double kStart = 100e3, kMargin = 1.05;  // a second pass of threads; in doubt the exacter one
  const int64_t fewest = t.m == 2 ? 16 : 8;         // below, direct has vectors over the longer side
  if (std::min(t.C, t.O) < fewest) return "too few channels for its transforms";
  const double tiles = static_cast<double>(number_of_tiles ? number_of_tiles : winograd_tiles(t));
  const double pixels = static_cast<double>(t.N * t.oH * t.oW);
  const double direct = pixels * direct_pixel + direct_weights;
  if (kMargin * (tiles * c.tile + c.weights) + kStart < direct) return nullptr;
  if (kMargin * c.tile >= 16 * direct_pixel) return "too few channels for its transforms";
  if (kMargin * tiles * c.tile >= pixels * direct_pixel) return "too many pixels of its tiles lie outside";
  return "too few pixels for its transformed weights";
}
// taps: multiplications of the direct algorithm per pixel, input and output channel.
double taps(const WinogradTask& t) { return static_cast<double>((7 - t.m) * (7 - t.m)); }
// Against bfloat16 pairs, which take two products at once, but for one vector of outputs are held up by their
// loads; without an instruction for them, three operations.
double pairs_cost(int64_t O) { return !has_bf16_products() ? 1.45 : O <= lanes() ? 0.7 : 0.5; }
const char* forward_not_worth_it(const WinogradTask& t, double taps, bool bf16 = false) {
  const double products = taps * static_cast<double>(t.C * ceil_div(t.O, lanes()));
  return not_worth_it(t, forward_cost(t, bf16), (bf16 ? pairs_cost(t.O) : 1) * products,
                      (bf16 ? 8 : 22) * products);
}
// Of bfloat16 weights that a plan keeps: packing them costs pairs nothing either. What is left is to read the
// transformed ones, some 8 bytes in a cycle.
const char* kept_not_worth_it(const WinogradTask& t, double taps) {
  const double vC = static_cast<double>(ceil_div(t.C, lanes())), vO = static_cast<double>(ceil_div(t.O, lanes()));
  const double products = static_cast<double>(t.C) * vO, pixels = static_cast<double>(t.N * t.oH * t.oW);
  const double work =
      static_cast<double>(winograd_tiles(t)) * (share_of_products(t) * 36 * 1.23 * products + 220 * (vC + vO));
  const double wait = 36 * products * static_cast<double>(lanes()) * 4 / 8;
  const bool worth = 1.05 * std::max(work, wait) + 100e3 < pixels * pairs_cost(t.O) * taps * products;
  return worth ? nullptr : "pairs are as fast";
}
// Pairs of pixels of a row are put together for their weights' gradient, whose sums are read again for each strip.
const char* gradient_not_worth_it(const WinogradTask& t, double taps, bool bf16 = false) {
  const double products = taps * static_cast<double>(t.O * ceil_div(t.C, lanes()));
  if (!bf16) return not_worth_it(t, gradient_cost(t, false), products, 0);
  const double words = static_cast<double>(t.oW + t.oW % 2) / static_cast<double>(t.oW);
  const double direct = pairs_cost(t.C) * (has_bf16_products() ? 1.1 * words : 1);
  return not_worth_it(t, gradient_cost(t, true), direct * products, 40 * products);
}

const char* data_not_worth_it(const Conv2dParams& p, double taps, bool bf16 = false) {
  const WinogradTask t = winograd_bwd_data_task(p), forward = winograd_task(p);
  if (bf16 || !winograd_by_tiles_of_dy(p, forward, t)) return forward_not_worth_it(t, taps, bf16);
  const double products = taps * static_cast<double>(t.C * ceil_div(t.O, lanes()));
  return not_worth_it(t, forward_cost(t, false), products, 22 * products, winograd_tiles(forward));
}

}  // namespace

const char* winograd_cannot(const Call& c) {
  if (!kernels()) return "isa is ref";
  for (const Operand& o : c.in)
    if (o.dtype != c.in[0].dtype || (o.dtype != DType::float32 && !bf16(o)))
      return "dtype is not float32 or bfloat16";
  if (const char* why = norm_in_declines(c)) return why;
  if (c.as<Conv2dParams>().has_norm_in && bf16(c.in[0])) return "input norm of bfloat16";
  if (c.as<Conv2dParams>().has_moments && bf16(c.in[0])) return "moments of bfloat16";
  return not_winograd(c.as<Conv2dParams>());
}

const char* winograd_not_worth_it(const Conv2dParams& q, WinogradPass pass, int64_t taps) {
  if (const char* why = not_winograd(q, pass == WinogradPass::forward)) return why;
  const double each = static_cast<double>(taps) / 4;
  if (pass == WinogradPass::bwd_weights) return gradient_not_worth_it(winograd_task(q), each);
  return pass == WinogradPass::forward ? forward_not_worth_it(winograd_task(q), each) : data_not_worth_it(q, each);
}

const char* winograd_passes_decline(const Call& c) {
  if (const char* why = winograd_cannot(c)) return why;
  const auto& p = c.as<Conv2dParams>();
  if (bf16(c.in[0])) return "dtype is not float32";
  const WinogradTask t = winograd_task(p), data = winograd_bwd_data_task(p);
  if (winograd_by_tiles_of_dy(p, t, data)) return "tiles of dy";
  if (const char* why = gradient_not_worth_it(t, taps(t))) return why;
  return data_not_worth_it(p, taps(data));
}

const char* winograd_declines(const Call& c) {
  const char* why = winograd_cannot(c);
  if (why) return why;
  const WinogradTask t = winograd_task(c.as<Conv2dParams>());
  if (bf16(c.in[0]) && c.prepared && !kept_not_worth_it(t, taps(t))) return nullptr;
  return forward_not_worth_it(t, taps(t), bf16(c.in[0]));
}
const char* winograd_bwd_data_declines(const Call& c) {
  const char* why = winograd_cannot(c);
  const auto& p = c.as<Conv2dParams>();
  return why ? why : data_not_worth_it(p, static_cast<double>(p.kH * p.kW), bf16(c.in[0]));
}
const char* winograd_bwd_weights_declines(const Call& c) {
  const char* why = winograd_cannot(c);
  if (why) return why;
  const WinogradTask t = winograd_task(c.as<Conv2dParams>());
  return gradient_not_worth_it(t, taps(t), bf16(c.in[0]));
}

}  // namespace fastcnn::cpu
