// What it is: convolutions with few channels on both sides: pixels in the lanes. x is copied to planes of one
// channel, each weight is broadcast to a run of them, and the planes of y become pixels. What it is not: more
// channels, which fill vectors (gemm.cpp). Sum order of an output: bias, taps, channels; it does not depend on
// tiles or threads.
#include "backend/cpu/kernels/even_parts.h"
#include "backend/cpu/kernels/planes.h"

namespace fastcnn::cpu::FASTCNN_ISA {
namespace {

constexpr int kMostOutputs = kVectorRegs == 32 ? 6 : 4;  // of a tile
constexpr int kVectors = kVectorRegs == 32 ? 4 : 3;

struct Run {
  const float* x;
  const int32_t* at;
  int64_t streams, outputs;
  const float* w;  // (streams, outputs)
  float* y;
  int64_t floats, y_plane;
};

// V vectors of pixels of O planes of y.
template <int O, int V>
FASTCNN_OP void tile(const Run& k, int64_t i, const vf* bias, vf low, vf high) {
  vf acc[O][V];
#pragma GCC unroll 6
  for (int o = 0; o < O; ++o)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) acc[o][v] = bias[o];
  const float* w = k.w;
  for (int64_t s = 0; s < k.streams; ++s, w += k.outputs) {
    const float* p = k.x + k.at[s] + i;
    vf a[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) a[v] = load(p + v * kLanes);
#pragma GCC unroll 6
    for (int o = 0; o < O; ++o) {
      const vf b = set1(w[o]);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) acc[o][v] = fma(a[v], b, acc[o][v]);
    }
  }
#pragma GCC unroll 6
  for (int o = 0; o < O; ++o)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) store(k.y + o * k.y_plane + i + v * kLanes, vmin(high, vmax(low, acc[o][v])));
}

template <int O>
void run_tiles(const Run& k, const float* bias, Act act) {
  vf b[O];
#pragma GCC unroll 6
  for (int o = 0; o < O; ++o) b[o] = bias ? set1(bias[o]) : zero();
  const vf low = set1(act == Act::none ? -__builtin_inff() : 0.0f);
  const vf high = set1(act == Act::relu6 ? 6.0f : __builtin_inff());
  int64_t i = 0;
  for (; i + kVectors * kLanes <= k.floats; i += kVectors * kLanes) tile<O, kVectors>(k, i, b, low, high);
  for (; i < k.floats; i += kLanes) tile<O, 1>(k, i, b, low, high);
}

using RunFn = void (*)(const Run&, const float*, Act);
constexpr RunFn kRuns[kMostOutputs] = {run_tiles<1>, run_tiles<2>, run_tiles<3>, run_tiles<4>,
#if defined(__AVX512F__) || defined(__aarch64__)
                                       run_tiles<5>, run_tiles<6>
#endif
};

// Mean and sum of squared deviations of a plane of y, some rows in float32 at a time.
void plane_moments(const PlaneLayout& g, const float* plane, int64_t images, int64_t rows, int64_t cols,
                   double* mean, double* dev) {
  constexpr int64_t kTogether = 256;
  const int few = lanes_at(0, cols);
  alignas(64) float shift[kLanes];
  store(shift, set1(hsum(loadn(plane, few)) / static_cast<float>(few)));
  vf some = zero(), squares = zero();
  double sum = 0, sum_of_squares = 0;
  for (int64_t n = 0, since = 0; n < images; ++n)
    for (int64_t h = 0; h < rows; ++h) {
      for (int64_t w = 0; w < cols; w += kLanes) {
        const int m = lanes_at(w, cols);
        const vf d = sub(get(plane + n * g.y_image + h * g.pitch + w, m), get(shift, m));
        some = add(some, d), squares = fma(d, d, squares);
      }
      since += cols;
      if (since < kTogether && (n + 1 < images || h + 1 < rows)) continue;
      sum += hsum(some), sum_of_squares += hsum(squares);
      some = squares = zero(), since = 0;
    }
  const double d = sum / static_cast<double>(images * rows * cols);
  *mean = shift[0] + d, *dev = sum_of_squares - sum * d;
}

}  // namespace

void conv2d_planes(const PlanesTask& t, float* scratch, int64_t begin, int64_t end) {
  const PlaneSplit of_x(t.C), of_y(t.O);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t group = item % t.B, part = item / t.B;
    const PlaneStrip strip(t, part);
    const PlaneLayout g(t, strip.images, strip.rows);
    float* planes_of_y = scratch + t.C * g.x_plane;
    int32_t at[kMostStreams];
    g.find_streams(t, at);
    copy_planes(t, g, of_x, strip, group, scratch);
    EvenParts outputs(t.O, ceil_div(t.O, kMostOutputs));
    for (int64_t i = 0; i < outputs.parts; ++i) {
      const int64_t o = outputs.at;
      const RunFn run = kRuns[outputs.next() - o - 1];
      for (int64_t n = 0; n < strip.images; ++n)
        run({scratch + n * g.x_image, at, t.streams(), t.O, t.w + group * t.w_b + o,
             planes_of_y + o * g.y_plane + n * g.y_image, g.y_run, g.y_plane},
            t.bias ? t.bias + group * t.O + o : nullptr, t.act);
    }
    if (t.moments.on) {
      double* mean = t.moments.part + part * 2 * t.moments.channels + group * t.O;
      for (int64_t o = 0; o < t.O; ++o)
        plane_moments(g, planes_of_y + o * g.y_plane, strip.images, strip.rows, t.oW, mean + o,
                      mean + t.moments.channels + o);
      if (group == 0) t.moments.count[part] = static_cast<double>(strip.images * strip.rows * t.oW);
    }
    for (int64_t n = 0; n < strip.images; ++n)
      for (int64_t h = 0; h < strip.rows; ++h)
        of_y.to_pixels(planes_of_y + n * g.y_image + h * g.pitch, g.y_plane, t.oW,
                       t.y + (strip.n0 + n) * t.y_n + (strip.h0 + h) * t.y_h + group * t.y_b, t.y_w, t.stream);
  }
  if (t.stream) fence();
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
