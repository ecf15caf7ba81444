// What it is: backward to data (and so the transposed convolution) as a product of matrices, dy by all weights,
// and a sum of its columns into the pixels they belong to. Few channels of the result then fill vectors together
// with the taps, and weights are read in the order they lie in. A thread makes the columns of some rows of dy and
// adds them while they are in its cache. What it is not: arithmetic (kernels/gemm.cpp, kernels/columns.cpp).
#include <algorithm>

#include "backend/cpu/conv2d_adaptors.h"
#include "backend/cpu/conv2d_tasks.h"
#include "backend/cpu/scratch.h"
#include "backend/cpu/strips.h"
#include "backend/cpu/threads.h"
#include "backend/cpu/workspace.h"

namespace fastcnn::cpu {
namespace {

constexpr int64_t kRingFloats = 192 * 1024;  // columns of a thread, which stay in L2
constexpr int64_t kPixelsAtOnce = 28;        // that share a pass over the weights

int64_t taps(const Conv2dParams& p) { return p.kH * p.kW; }
int64_t columns(const Conv2dParams& p) { return taps(p) * p.C; }  // of one pixel of dy
int64_t pitch(const Conv2dParams& p) { return ceil_div(columns(p), lanes()) * lanes(); }

// Of dy: the rows whose columns are made at a time, and those that are kept, a multiple of that.
struct Ring {
  int64_t step, rows;
  explicit Ring(const Conv2dParams& p) {
    const int64_t span = (p.kH - 1) * p.dH / p.sH + 1;
    step = std::min(ceil_div(kPixelsAtOnce, p.oW), p.oH);
    rows = ceil_div(span + step, step) * step;
  }
  int64_t floats(const Conv2dParams& p) const { return rows * p.oW * pitch(p); }
};

// The product for some pixels: they are one row.
GemmTask product(const Conv2dParams& p, int64_t pixels) {
  GemmTask t;
  t.B = p.groups, t.C = t.x_b = p.O / p.groups, t.O = t.y_b = taps(p) * (p.C / p.groups);
  t.N = t.H = t.oH = 1, t.W = t.oW = pixels;
  t.x_w = p.O, t.x_h = t.x_n = t.W * p.O, t.y_w = pitch(p), t.y_h = t.y_n = t.W * t.y_w;
  plan_gemm(t, lanes(), 1);
  t.w_b = packed_floats(t, lanes()) / t.B;
  return t;
}

// So few pixels that the weights are read once, as they lie.
bool few(const Conv2dParams& p) { return p.groups == 1 && p.N * p.oH * p.oW <= kFewRows; }

int64_t workspace_floats(const Conv2dParams& p) {
  return few(p) ? p.N * p.oH * p.oW * columns(p) : packed_floats(product(p, 1), lanes());
}

// Costs of the two ways in vector operations.
double dense_cost(const Conv2dParams& p) {
  double cost = 0;
  for_each_residue(p, lanes(), [&](GemmTask& t, const PackTask&, int64_t, int64_t) {
    plan_gemm(t, lanes(), 1);
    cost += static_cast<double>(t.B * t.N * multiplied_taps(t) * t.C * ceil_div(t.O, lanes()));
  });
  return cost;
}
double columns_cost(const Conv2dParams& p) {
  constexpr double kVector = 16, kSum = 6;
  const double vectors = static_cast<double>(p.groups * ceil_div(taps(p) * (p.C / p.groups), lanes()));
  const double sums = static_cast<double>(taps(p) * p.groups * ceil_div(p.C / p.groups, lanes()));
  return static_cast<double>(p.N * p.oH * p.oW) *
         (vectors * (static_cast<double>(p.O / p.groups) + kVector) + sums * kSum);
}

ColumnsTask sum_task(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  ColumnsTask t;
  t.H = p.H, t.W = p.W, t.groups = p.groups, t.C = p.C / p.groups, t.oH = p.oH, t.oW = p.oW;
  t.kH = p.kH, t.kW = p.kW, t.sH = p.sH, t.sW = p.sW, t.dH = p.dH, t.dW = p.dW, t.pT = p.pT, t.pL = p.pL;
  t.bias = c.in.size() > 2 ? c.in[2].as<float>() : nullptr;
  return t;
}

// Rows of dy that rows [h0, h1) of dx meet.
struct DyRows {
  int64_t begin, end;
  DyRows(const Conv2dParams& p, int64_t h0, int64_t h1)
      : begin(std::clamp<int64_t>(ceil_div(std::max<int64_t>(0, h0 + p.pT - (p.kH - 1) * p.dH), p.sH), 0, p.oH)),
        end(std::clamp<int64_t>((h1 - 1 + p.pT) / p.sH + 1, begin, p.oH)) {}
};

void run_few(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  const KernelTable& k = *kernels();
  FewTask f;
  f.M = p.N * p.oH * p.oW, f.N = columns(p), f.K = p.O, f.a_m = p.O, f.a_k = 1, f.b_k = f.N, f.b_n = 1;
  f.a = c.in[0].as<float>(), f.b = c.in[1].as<float>(), f.y = static_cast<float*>(c.workspace);
  parallel_for(f.N, ceil_div(32 * 1024, p.O), [&](int64_t b, int64_t e, int) { k.matmul_few_rows(f, b, e); });
  ColumnsTask t = sum_task(c);
  t.rows = p.oH, t.pitch = f.N;
  for (int64_t n = 0; n < p.N; ++n) {
    t.columns = f.y + n * p.oH * p.oW * columns(p), t.dx = c.out[0].as<float>() + n * p.H * p.W * p.C;
    k.add_columns(t, 0, p.H);
  }
}

}  // namespace

const char* columns_bwd_data_declines(const Call& c) {
  if (const char* why = declines_common(c)) return why;
  const auto& p = c.as<Conv2dParams>();
  if (taps(p) == 1) return "a single tap";
  if (std::max(p.kH, p.kW) > kMostColumnTaps) return "window too large";
  if (p.N * p.oH * p.oW == 0) return "no pixels";
  if (few(p)) return 2 * p.C * p.H * p.W > p.O * columns(p) ? "few weights" : nullptr;
  if (Ring(p).floats(p) > kRingFloats) return "columns of a row do not stay in cache";
  return 1.2 * columns_cost(p) > dense_cost(p) ? "channels fill vectors without the taps" : nullptr;
}

int64_t columns_bwd_data_workspace(const Call& c) { return 4 * workspace_floats(c.as<Conv2dParams>()); }

void columns_bwd_data_run(const Call& c) {
  const auto& p = c.as<Conv2dParams>();
  if (few(p)) return run_few(c);
  const KernelTable& k = *kernels();
  const Ring ring(p);
  PackTask q;
  {
    const GemmTask t = product(p, 1);
    q.B = t.B, q.O = t.O, q.C = t.C, q.nc = t.nc, q.s_o = 1, q.s_c = t.O, q.src_b = t.C * t.O, q.dst_b = t.w_b;
  }
  q.src = c.in[1].as<float>(), q.dst = static_cast<float*>(c.workspace);
  run_pack(q, k);
  const float* dy = c.in[0].as<float>();
  float* dx = c.out[0].as<float>();
  // Blocks of rows of an image, so that all threads have work.
  const int64_t blocks = std::clamp<int64_t>(4 * num_threads() / p.N, 1, ceil_div(p.H, 4 * ring.rows * p.sH));
  const double work = columns_cost(p) / static_cast<double>(p.N * blocks);
  const int64_t grain = ceil_div(8 * 1024, static_cast<int64_t>(work) + 1);
  with_scratch(p.N * blocks, grain, ring.floats(p), [&](int64_t b, int64_t e, float* s) {
    ColumnsTask t = sum_task(c);
    t.columns = s, t.rows = ring.rows, t.pitch = pitch(p);
    for (; b < e; ++b) {
      const int64_t n = b / blocks, i = b % blocks;
      const int64_t h0 = p.H * i / blocks, h1 = p.H * (i + 1) / blocks;
      const DyRows rows(p, h0, h1);
      t.row0 = rows.begin, t.dx = dx + n * p.H * p.W * p.C;
      int64_t h = h0, made = rows.begin;
      while (made < rows.end) {
        const int64_t m = std::min(ring.step, rows.end - made);
        GemmTask g = product(p, m * p.oW);
        g.w = q.dst, g.x = dy + (n * p.oH + made) * p.oW * p.O;
        g.y = s + (made - rows.begin) % ring.rows * p.oW * pitch(p);
        k.gemm_windows(g, 0, g.B * g.groups * strip_count(g));
        made += m;
        // The rows of dx that meet none that is still to be made.
        const int64_t whole = made == rows.end ? h1 : std::clamp<int64_t>(made * p.sH - p.pT, h, h1);
        k.add_columns(t, h, whole);
        h = whole;
      }
      if (h < h1) k.add_columns(t, h, h1);
    }
  });
}

}  // namespace fastcnn::cpu
