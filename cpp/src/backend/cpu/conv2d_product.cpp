// What it is: convolutions of so few pixels (squeeze-and-excite, heads, windows as large as a small image), all
// passes, as the products of matrices with few rows: weights are read, and their gradients written, once and as
// they lie, where packing them would cost more than the product. What it is not: arithmetic (matmul.cpp).
#include <algorithm>

#include "backend/cpu/conv2d_adaptors.h"
#include "backend/cpu/conv2d_tasks.h"
#include "backend/cpu/kernels/few_args.h"
#include "backend/cpu/lists.h"

namespace fastcnn::cpu {
namespace {

int64_t pixels(const Conv2dParams& p) { return p.N * p.oH * p.oW; }

const char* declines(const Call& c) {
  if (const char* why = declines_common(c)) return why;
  if (c.prepared) return "weights are packed once";
  const Conv2dParams p = whole_window(c.as<Conv2dParams>());
  if (p.groups != 1) return "groups";
  if (p.kH * p.kW * p.sH * p.sW != 1 || p.oH != p.H || p.oW != p.W || p.pT != 0 || p.pL != 0)
    return "neither 1x1 nor a window as large as the image";
  if (pixels(p) > kFewRows) return "many pixels";
  return pixels(p) * p.C * p.O == 0 ? "empty" : nullptr;
}

void run(const Call& c, const MatmulParams& p, std::span<const Operand> in) {
  const Call d{OpKind::matmul, &p, in, c.out.first(1)};
  first_taker(matmul_list(), d)->run(d);
}

}  // namespace

const char* product_declines(const Call& c) {
  if (const char* why = declines(c)) return why;
  const auto& p = c.as<Conv2dParams>();
  if (p.has_residual) return "residual";
  return fused_act(p) ? nullptr : "activation is applied late";
}
void product_run(const Call& c) {
  const Conv2dParams p = whole_window(c.as<Conv2dParams>());
  MatmulParams m;
  m.M = pixels(p), m.N = p.O, m.K = p.C, m.trans_b = 1, m.has_bias = p.has_bias, m.act = p.act;
  run(c, m, c.in);
}

const char* product_bwd_data_declines(const Call& c) {
  if (const char* why = declines(c)) return why;
  const auto& p = c.as<Conv2dParams>();
  return c.in.size() > 2 && p.kH * p.kW != 1 ? "bias of a larger image" : nullptr;
}
void product_bwd_data_run(const Call& c) {
  const Conv2dParams p = whole_window(c.as<Conv2dParams>());
  MatmulParams m;
  m.M = pixels(p), m.N = p.C, m.K = p.O, m.has_bias = c.in.size() > 2;
  run(c, m, c.in);
}

const char* product_bwd_weights_declines(const Call& c) { return declines(c); }
void product_bwd_weights_run(const Call& c) {
  const Conv2dParams p = whole_window(c.as<Conv2dParams>());
  MatmulParams m;
  m.M = p.O, m.N = p.C, m.K = pixels(p), m.trans_a = 1;
  const Operand in[] = {c.in[1], c.in[0]};
  run(c, m, in);
  if (c.out.size() < 2) return;
  const float* dy = c.in[1].as<float>();
  float* dbias = c.out[1].as<float>();
  std::copy(dy, dy + p.O, dbias);
  for (int64_t i = 1; i < m.K; ++i)
    for (int64_t o = 0; o < p.O; ++o) dbias[o] += dy[i * p.O + o];
}

}  // namespace fastcnn::cpu
