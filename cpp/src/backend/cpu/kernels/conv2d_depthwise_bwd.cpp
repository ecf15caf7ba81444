// What it is: both gradients of a depthwise convolution whose image is read through a norm, in one pass over the
// rows of dx: a window of dy gives the pixel of dx and, times the pixel of x, its share of each tap of dw; the
// pixel of dx goes through the norm at once. What it is not: stride (residues are tasks of their own) or borders
// left and right, whose columns of dy the caller has filled with zeros.
#include "backend/cpu/kernels/depthwise_args.h"
#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/simd.h"

namespace fastcnn::cpu::FASTCNN_ISA {
namespace {

constexpr int64_t kBlockSums = 2048;  // floats: they and their weights stay in L1
// Channels of each of even blocks of whole lines: a line that is written in two parts, past the caches, costs two.
FASTCNN_OP int64_t block_channels(int64_t C, int64_t taps) {
  constexpr int64_t kLine = 16;
  const int64_t most = kBlockSums / taps < kLine ? kLine : kBlockSums / taps;
  return ceil_div(ceil_div(C, ceil_div(C, most)), kLine) * kLine;
}

// A row of dx.
struct Row {
  const float *dy, *w;  // first column of the first pixel's window in the first tap row inside; that row's weights
  float* dw;            // like w
  int64_t taps, y_h;    // tap rows inside of the image
  const float* x;       // the norm's input, where dx is
  float* dx;
  int64_t step;                   // between pixels of dx and x
  const float *next_dz, *next_y;  // or null: what is fetched meanwhile, column by column of dy
  float low, high;                // of what the norm's activation lets through
  int64_t c0, c1;                 // these channels alone, from a whole line on
};

// T pixels from ow on, n channels from c on.
template <int K, int T, bool kTail>
FASTCNN_OP void tile(const DepthwiseBwdTask& t, const Row& r, int64_t ow, int64_t c, int n) {
  const NormSums& s = t.data.sums_before;
  const int64_t C = t.data.C;
  const auto get = [&](const float* p) __attribute__((always_inline)) { return kTail ? loadn(p, n) : load(p); };
  const vf mean = get(s.mean + c);
  const float* x = r.x + ow * r.step + c;
  vf a[T], acc[T];
  {
    const vf scale = get(s.scale + c), shift = get(s.shift + c), low = set1(r.low), high = set1(r.high);
#pragma GCC unroll 8
    for (int i = 0; i < T; ++i) {
      a[i] = vmin(high, vmax(low, fma(sub(get(x + i * r.step), mean), scale, shift)));
      acc[i] = zero();
      if (t.fetch_x) __builtin_prefetch(x + i * r.step + t.fetch_x, 0, 2);
    }
  }
  const float *dy = r.dy + ow * C + c, *w = r.w + c;
  float* dw = r.dw + c;
  for (int64_t kh = 0; kh < r.taps; ++kh, dy += r.y_h, w += K * C, dw += K * C) {
    vf v[T + K - 1];
#pragma GCC unroll 16
    for (int j = 0; j < T + K - 1; ++j) v[j] = get(dy + j * C);
#pragma GCC unroll 8
    for (int k = 0; k < K; ++k) {
      const vf tap = get(w + k * C);
      vf sum = get(dw + k * C);
#pragma GCC unroll 8
      for (int i = 0; i < T; ++i) acc[i] = fma(v[i + k], tap, acc[i]), sum = fma(v[i + k], a[i], sum);
      if (kTail)
        storen(dw + k * C, sum, n);
      else
        store(dw + k * C, sum);
    }
  }
  if (r.next_dz)
#pragma GCC unroll 8
    for (int i = 0; i < T; ++i) {
      __builtin_prefetch(r.next_dz + (ow + i) * C + c, 0, 2);
      __builtin_prefetch(r.next_y + (ow + i) * C + c, 0, 2);
    }
  // As in NormChannels: at a bound and outside of it the gradient is 0, and a NaN bounds nothing.
  const vf none = set1(s.act == Act::none ? __builtin_nanf("") : 0.0f),
           most = set1(s.act == Act::relu6 ? 6.0f : __builtin_nanf(""));
  vf sum = load(t.sums + c), dot = load(t.sums + t.sums_step + c);
  float* dx = r.dx + ow * r.step + c;
#pragma GCC unroll 8
  for (int i = 0; i < T; ++i) {
    const vf d = select_le(a[i], none, zero(), select_le(most, a[i], zero(), acc[i]));
    sum = add(sum, d), dot = fma(d, sub(get(x + i * r.step), mean), dot);
    if (kTail)
      storen(dx + i * r.step, d, n);
    else if (t.data.stream)
      stream(dx + i * r.step, d);
    else
      store(dx + i * r.step, d);
  }
  store(t.sums + c, sum), store(t.sums + t.sums_step + c, dot);
}

template <int K, int T>
void tiles(const DepthwiseBwdTask& t, const Row& r, int64_t ow) {
  for (int64_t c = r.c0; c + kLanes <= r.c1; c += kLanes) tile<K, T, false>(t, r, ow, c, kLanes);
}

template <int K>
void row(const DepthwiseBwdTask& t, const Row& r) {
  constexpr int kMost = kVectorRegs == 32 && K < 5 ? 7 : 4;
  const int64_t oW = t.data.oW;
  int64_t ow = 0;
  for (; ow + kMost <= oW; ow += kMost) tiles<K, kMost>(t, r, ow);
  if (kMost > 4 && ow + 4 <= oW) tiles<K, 4>(t, r, ow), ow += 4;
  for (; ow + 2 <= oW; ow += 2) tiles<K, 2>(t, r, ow);
  if (ow < oW) tiles<K, 1>(t, r, ow);
  const int64_t c = r.c1 / kLanes * kLanes;
  if (c == r.c1) return;
  for (ow = 0; ow < oW; ++ow) tile<K, 1, true>(t, r, ow, c, static_cast<int>(r.c1 - c));
}

}  // namespace

void conv2d_depthwise_bwd(const DepthwiseBwdTask& t, int64_t begin, int64_t end) {
  const GemmTask& q = t.data;
  auto run = q.kW == 1 ? row<1> : q.kW == 2 ? row<2> : q.kW == 3 ? row<3> : row<5>;
  Row r;
  r.step = q.y_w, r.y_h = q.x_h;
  const Act act = q.sums_before.act;
  r.low = act == Act::none ? -__builtin_inff() : 0.0f, r.high = act == Act::relu6 ? 6.0f : __builtin_inff();
  const int64_t channels = block_channels(q.C, q.kH * q.kW);
  for (r.c0 = 0; r.c0 < q.C; r.c0 = r.c1) {
    r.c1 = r.c0 + channels < q.C ? r.c0 + channels : q.C;
    for (int64_t item = begin; item < end; ++item) {
      const int64_t n = item / q.oH, oh = item % q.oH, first = oh - q.pT;
      const int64_t k0 = first < 0 ? -first : 0;
      const int64_t k1 = q.H - first < q.kH ? q.H - first : q.kH;
      r.taps = k1 > k0 ? k1 - k0 : 0;
      r.dy = q.x + n * q.x_n + (first + k0) * q.x_h - q.pL * q.C;
      r.w = q.w + k0 * q.kW * q.C, r.dw = t.dw + k0 * q.kW * q.C;
      const int64_t at = n * q.y_n + oh * q.y_h;
      r.x = q.sums_before.x + at, r.dx = q.y + at;
      r.next_dz = t.fetch_dz ? t.fetch_dz + (item - begin) * q.W * q.C : nullptr;
      r.next_y = t.fetch_y + (item - begin) * q.W * q.C;
      run(t, r);
    }
  }
  if (q.stream) fence();
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
