// What it is: the implementations of quantized_conv2d on the CPU: packed weights, copies of images whose channels
// are no whole words, and how work goes to threads. What it is not: arithmetic (kernels/, ref/).
#include <algorithm>
#include <cstring>

#include "backend/cpu/isa.h"
#include "backend/cpu/lists.h"
#include "backend/cpu/ref/ref.h"
#include "backend/cpu/threads.h"
#include "backend/cpu/workspace.h"

namespace fastcnn::cpu {
namespace {

int64_t ceil_to(int64_t n, int64_t step) { return (n + step - 1) / step * step; }
int64_t lanes() { return kernels()->vector_floats; }

Requantize requantize(const Call& c) {
  const auto& q = c.as<QuantizedConv2dParams>();
  Requantize r;
  r.residual = q.conv.has_residual ? c.in[4].as<uint8_t>() : nullptr;
  r.residual_multiplier = static_cast<float>(q.residual_multiplier);
  r.low = static_cast<float>(q.low), r.high = static_cast<float>(q.high);
  r.to_float = c.out[0].dtype == DType::float32;
  return r;
}

// What kernels read of the weights: words of 4 bytes by lane, then three numbers of each padded channel.
struct Packed {
  int8_t* w;
  int32_t* start;
  float *multiplier, *offset;
  Packed(Carve& at, int64_t weights, int64_t channels)
      : w(at.take<int8_t>(weights)),
        start(at.take<int32_t>(channels)),
        multiplier(at.take<float>(channels)),
        offset(at.take<float>(channels)) {}
};

constexpr uint32_t kWeightOperands = 0b1110;
uint32_t weight_operands(const Call&) { return kWeightOperands; }

// ---- dense and grouped ----

// How the image is read: where it lies, if its channels are whole words; else from a copy with its padding, in
// which a row of a window is one run.
struct Layout {
  bool copy, merge;
  int64_t H, W, row, image;  // of the copy, in bytes
  explicit Layout(const Conv2dParams& p) {
    const int64_t Cg = p.C / p.groups;
    copy = Cg % 4 != 0, merge = copy && p.groups == 1 && p.dW == 1 && p.kW > 1;
    H = std::max((p.oH - 1) * p.sH + (p.kH - 1) * p.dH + 1, int64_t{1});
    W = std::max((p.oW - 1) * p.sW + (p.kW - 1) * p.dW + 1, int64_t{1});
    row = W * p.C, image = H * row;
  }
  int64_t run(const Conv2dParams& p) const { return p.C / p.groups * (merge ? p.kW : 1); }
  int64_t taps(const Conv2dParams& p) const { return merge ? p.kH : p.kH * p.kW; }
  int64_t words(const Conv2dParams& p) const { return (run(p) + 3) / 4; }
};

int64_t blocks_of(const Conv2dParams& p) { return (p.O / p.groups + lanes() - 1) / lanes(); }

Packed carve_packed(const Conv2dParams& p, Carve& at) {
  const Layout l(p);
  const int64_t channels = p.groups * blocks_of(p) * lanes();
  return Packed(at, channels * l.taps(p) * l.words(p) * 4, channels);
}

const char* dense_declines(const Call& c) {
  if (!kernels()) return "isa is ref";
  const Conv2dParams& p = c.as<QuantizedConv2dParams>().conv;
  return Layout(p).taps(p) > kQuantizedTaps ? "window too large" : nullptr;
}

int64_t dense_prepared(const Call& c) {
  Carve at(nullptr);
  carve_packed(c.as<QuantizedConv2dParams>().conv, at);
  return at.used();
}

void dense_prepare(const Call& c, void* dst) {
  const auto& q = c.as<QuantizedConv2dParams>();
  const Conv2dParams& p = q.conv;
  const Layout l(p);
  Carve carve(dst);
  const Packed to = carve_packed(p, carve);
  const int64_t L = lanes(), blocks = blocks_of(p), Og = p.O / p.groups, taps = l.taps(p), words = l.words(p);
  const int64_t run = l.run(p), block_bytes = taps * words * L * 4;
  const auto* w = c.in[1].as<int8_t>();
  parallel_for(p.groups * blocks, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t b = begin; b < end; ++b) {
      int8_t* block = to.w + b * block_bytes;
      std::memset(block, 0, static_cast<size_t>(block_bytes));
      for (int64_t lane = 0; lane < L; ++lane) {
        const int64_t in_group = b % blocks * L + lane, o = b / blocks * Og + in_group, slot = b * L + lane;
        to.start[slot] = 0, to.multiplier[slot] = 0, to.offset[slot] = 0;
        if (in_group >= Og) continue;
        int32_t sum = 0;
        for (int64_t t = 0; t < taps; ++t)
          for (int64_t i = 0; i < run; ++i) {
            const int8_t v = w[(o * taps + t) * run + i];  // rows of a window are runs in the weights too
            block[((t * words + i / 4) * L + lane) * 4 + i % 4] = v;
            sum += v;
          }
        to.start[slot] = -static_cast<int32_t>(q.x_zero) * sum;
        to.multiplier[slot] = c.in[2].as<float>()[o], to.offset[slot] = c.in[3].as<float>()[o];
      }
    }
  });
}

struct DenseSpace {
  void* packed;    // unless a plan keeps them
  uint8_t* zeros;  // a run of x_zero
  uint8_t* copy;
  int64_t bytes;
  explicit DenseSpace(const Call& c) {
    const Conv2dParams& p = c.as<QuantizedConv2dParams>().conv;
    const Layout l(p);
    Carve at(c.workspace);
    packed = at.take<char>(c.prepared ? 0 : dense_prepared(c));
    zeros = at.take<uint8_t>(ceil_to(l.run(p), 4));
    copy = at.take<uint8_t>(l.copy ? p.N * l.image + 4 : 0);
    bytes = at.used();
  }
};

int64_t dense_workspace(const Call& c) { return DenseSpace(c).bytes; }

// The image with its padding; what lies behind its last pixel may be read and meets weights of 0.
void copy_padded(const Conv2dParams& p, const Layout& l, const uint8_t* x, int zero, uint8_t* to) {
  std::memset(to + p.N * l.image, 0, 4);
  parallel_for(p.N * l.H, std::max<int64_t>(1, 16 * 1024 / l.row), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t n = i / l.H, h = i % l.H - p.pT;
      uint8_t* row = to + i * l.row;
      const bool inside = h >= 0 && h < p.H;
      const int64_t left = std::min(p.pL, l.W), used = inside ? std::clamp(l.W - left, int64_t{0}, p.W) : 0;
      std::memset(row, zero, static_cast<size_t>((inside ? left : 0) * p.C));
      if (used > 0) std::memcpy(row + left * p.C, x + (n * p.H + h) * p.W * p.C, static_cast<size_t>(used * p.C));
      const int64_t done = inside ? left + used : 0;
      std::memset(row + done * p.C, zero, static_cast<size_t>((l.W - done) * p.C));
    }
  });
}

// Pixels are cut first where the image is larger than the weights: each thread reads its part of the larger.
void plan(QuantizedConvTask& t, int64_t image, int64_t weights) {
  int64_t pixels = 1, vectors = 1;
  kernels()->quantized_tile(&pixels, &vectors);
  t.tile = pixels, t.panel = vectors;
  t.panels = (t.blocks + vectors - 1) / vectors;
  const int64_t tiles = (t.N * t.oH * t.oW + pixels - 1) / pixels;
  t.pixels_first = image >= weights;
  t.part = std::min<int64_t>(16, std::max<int64_t>(1, tiles / 8));
  t.parts = (tiles + t.part - 1) / t.part;
}

void dense_run(const Call& c) {
  const auto& q = c.as<QuantizedConv2dParams>();
  const Conv2dParams& p = q.conv;
  const Layout l(p);
  const DenseSpace space(c);
  if (p.N * p.oH * p.oW == 0) return;
  if (!c.prepared) dense_prepare(c, space.packed);
  Carve carve(const_cast<void*>(c.prepared ? c.prepared : space.packed));
  const Packed packed = carve_packed(p, carve);
  std::memset(space.zeros, static_cast<int>(q.x_zero), static_cast<size_t>(ceil_to(l.run(p), 4)));

  QuantizedConvTask t;
  t.N = p.N, t.oH = p.oH, t.oW = p.oW, t.sH = p.sH, t.sW = p.sW, t.dH = p.dH, t.dW = p.dW;
  t.taps_h = p.kH, t.taps_w = l.merge ? 1 : p.kW, t.run = l.run(p), t.words = l.words(p);
  t.groups = p.groups, t.x_group = p.C / p.groups, t.O = p.O / p.groups, t.blocks = blocks_of(p);
  t.x_w = p.C, t.y_pixel = p.O, t.zeros = space.zeros;
  if (l.copy) {
    copy_padded(p, l, c.in[0].as<uint8_t>(), static_cast<int>(q.x_zero), space.copy);
    t.x = space.copy, t.H = l.H, t.W = l.W, t.x_h = l.row, t.x_n = l.image;
  } else {
    t.x = c.in[0].as<uint8_t>(), t.H = p.H, t.W = p.W, t.pT = p.pT, t.pL = p.pL;
    t.x_h = p.W * p.C, t.x_n = p.H * t.x_h;
  }
  t.w = packed.w, t.start = packed.start, t.out = requantize(c);
  t.out.multiplier = packed.multiplier, t.out.offset = packed.offset, t.y = c.out[0].data;
  plan(t, p.N * p.H * p.W * p.C, p.O / p.groups * p.C * p.kH * p.kW);
  const int64_t work = t.part * t.tile * t.panel * lanes() * l.taps(p) * t.words * 4;  // products of an item
  parallel_for(t.parts * t.groups * t.panels, std::max<int64_t>(1, 500'000 / work),
               [&](int64_t begin, int64_t end, int) { kernels()->quantized_conv2d(t, begin, end); });
}

// ---- depthwise ----

// The forms of QuantizedDepthwiseTask.
struct DepthwiseForm {
  bool pair = false;
  int64_t group = 1, channels, columns, quads;
  explicit DepthwiseForm(const Conv2dParams& p) {
    const int64_t step = 4 * lanes();
    const auto full = [&](int64_t pixels) {  // share of lanes that do work
      return static_cast<double>(pixels * p.C) / static_cast<double>(ceil_to(pixels * p.C, step));
    };
    pair = p.kW == 3 && p.sW == 1 && p.dW == 1 && full(1) > 0.6;
    for (int64_t g = 2; !pair && p.sW == 1 && g <= 8; ++g)
      if (full(g) > full(group) + 0.01) group = g;
    channels = ceil_to(group * p.C, step), columns = pair ? 4 : p.kW, quads = (p.kH * columns + 3) / 4;
  }
  int64_t pixels() const { return pair ? 2 : 1; }
};

Packed carve_depthwise(const Conv2dParams& p, Carve& at) {
  const DepthwiseForm f(p);
  return Packed(at, f.channels * f.quads * f.pixels() * 4, f.channels);
}

const char* depthwise_declines(const Call& c) {
  if (!kernels()) return "isa is ref";
  const Conv2dParams& p = c.as<QuantizedConv2dParams>().conv;
  if (p.groups != p.C || p.O != p.C || p.C == 1) return "not depthwise";
  if (c.out[0].dtype != DType::uint8) return "result is not uint8";
  return p.kH * p.kW > kQuantizedTaps ? "window too large" : nullptr;
}

int64_t depthwise_prepared(const Call& c) {
  Carve at(nullptr);
  carve_depthwise(c.as<QuantizedConv2dParams>().conv, at);
  return at.used();
}

// The channel whose words interleaved bytes bring to lane l of vector v of a group of 4.
int64_t channel_of(int64_t v, int64_t l) { return 16 * (l / 4) + 4 * v + l % 4; }

void depthwise_prepare(const Call& c, void* dst) {
  const auto& q = c.as<QuantizedConv2dParams>();
  const Conv2dParams& p = q.conv;
  Carve carve(dst);
  const Packed to = carve_depthwise(p, carve);
  const DepthwiseForm f(p);
  const int64_t L = lanes(), taps = p.kH * f.columns;
  const auto* w = c.in[1].as<int8_t>();
  for (int64_t c0 = 0; c0 < f.channels; c0 += 4 * L)
    for (int64_t v = 0; v < 4; ++v)
      for (int64_t l = 0; l < L; ++l) {
        const int64_t i = c0 + channel_of(v, l), o = i % p.C, slot = c0 + v * L + l;
        const bool real = i < f.group * p.C;
        for (int64_t pixel = 0; pixel < f.pixels(); ++pixel) {
          int32_t sum = 0;
          for (int64_t t = 0; t < 4 * f.quads; ++t) {
            const int64_t kw = t % f.columns - pixel;  // a pair's second pixel begins one column later
            const bool there = real && t < taps && kw >= 0 && kw < p.kW;
            const int8_t value = there ? w[(o * p.kH + t / f.columns) * p.kW + kw] : int8_t{0};
            const int64_t word = ((c0 / (4 * L) * f.quads + t / 4) * f.pixels() + pixel) * 4 * L + v * L + l;
            to.w[word * 4 + t % 4] = value;
            sum += value;
          }
          to.start[slot] = -static_cast<int32_t>(q.x_zero) * sum;
        }
        to.multiplier[slot] = real ? c.in[2].as<float>()[o] : 0;
        to.offset[slot] = real ? c.in[3].as<float>()[o] : 0;
      }
}

struct DepthwiseSpace {
  void* packed;
  uint8_t* zeros;
  int64_t bytes;
  explicit DepthwiseSpace(const Call& c) {
    Carve at(c.workspace);
    packed = at.take<char>(c.prepared ? 0 : depthwise_prepared(c));
    const Conv2dParams& p = c.as<QuantizedConv2dParams>().conv;
    zeros = at.take<uint8_t>(DepthwiseForm(p).group * p.C);
    bytes = at.used();
  }
};

int64_t depthwise_workspace(const Call& c) { return DepthwiseSpace(c).bytes; }

void depthwise_run(const Call& c) {
  const auto& q = c.as<QuantizedConv2dParams>();
  const Conv2dParams& p = q.conv;
  const DepthwiseSpace space(c);
  if (p.N * p.oH * p.oW == 0) return;
  if (!c.prepared) depthwise_prepare(c, space.packed);
  Carve carve(const_cast<void*>(c.prepared ? c.prepared : space.packed));
  const Packed packed = carve_depthwise(p, carve);
  const DepthwiseForm f(p);
  std::memset(space.zeros, static_cast<int>(q.x_zero), static_cast<size_t>(f.group * p.C));
  QuantizedDepthwiseTask t;
  t.N = p.N, t.C = p.C, t.H = p.H, t.W = p.W, t.oH = p.oH, t.oW = p.oW, t.kH = p.kH, t.kW = p.kW;
  t.sH = p.sH, t.sW = p.sW, t.pT = p.pT, t.pL = p.pL, t.dH = p.dH, t.dW = p.dW;
  t.pair = f.pair, t.group = f.group;
  t.x = c.in[0].as<uint8_t>(), t.zeros = space.zeros, t.w = packed.w, t.start = packed.start;
  t.out = requantize(c), t.out.multiplier = packed.multiplier, t.out.offset = packed.offset;
  t.y = c.out[0].data;
  parallel_for(p.N * p.oH, std::max<int64_t>(1, 8 * 1024 / (p.oW * p.C)),
               [&](int64_t begin, int64_t end, int) { kernels()->quantized_depthwise(t, begin, end); });
}

constexpr Implementation kConv[] = {
    {"depthwise", depthwise_declines, depthwise_workspace, depthwise_run, depthwise_prepared, depthwise_prepare,
     weight_operands},
    {"dense", dense_declines, dense_workspace, dense_run, dense_prepared, dense_prepare, weight_operands},
    {"ref", nullptr, nullptr, ref::quantized_conv2d},
};

}  // namespace

List quantized_conv2d_list() { return kConv; }

}  // namespace fastcnn::cpu
