// What it is: the implementations of quantized_conv2d on the CPU: packed weights, copies of images whose channels
// are no whole words, parts of images widened to 16 bits, and how work goes to threads. What it is not: arithmetic
// (kernels/, ref/).
#include "backend/cpu/quantized_conv2d.h"

#include <cstring>
#include <numeric>
#include <vector>

#include "backend/cpu/lists.h"
#include "backend/cpu/ref/ref.h"
#include "backend/cpu/scratch.h"
#include "backend/cpu/threads.h"

namespace fastcnn::cpu {
using namespace quantized;
namespace {

// ---- dense and grouped ----

// How the image is read. Bytes: where it lies, if its channels are whole words; else from a copy with its padding,
// in which a row of a window is one run. Wide numbers: part by part from such a copy.
struct Layout {
  Form form;
  bool copy, merge;
  int64_t H, W, row, image;  // of the copy, in bytes
  explicit Layout(const Conv2dParams& p) {
    const int64_t Cg = p.C / p.groups;
    copy = !form.wide() && Cg % 4 != 0, merge = (copy || form.wide()) && p.groups == 1 && p.dW == 1 && p.kW > 1;
    H = std::max((p.oH - 1) * p.sH + (p.kH - 1) * p.dH + 1, int64_t{1});
    W = std::max((p.oW - 1) * p.sW + (p.kW - 1) * p.dW + 1, int64_t{1});
    row = W * p.C, image = H * row;
  }
  int64_t run(const Conv2dParams& p) const { return p.C / p.groups * (merge ? p.kW : 1); }
  int64_t taps(const Conv2dParams& p) const { return merge ? p.kH : p.kH * p.kW; }
  int64_t words(const Conv2dParams& p) const { return (run(p) + form.numbers - 1) / form.numbers; }
};

Packed carve_packed(const Conv2dParams& p, Carve& at) {
  const Layout l(p);
  const int64_t channels = p.groups * blocks_of(p) * lanes();
  return Packed(at, channels * l.taps(p) * l.words(p), channels);
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
  const int64_t run = l.run(p), block_words = taps * words * L;
  const auto* w = c.in[1].as<int8_t>();
  parallel_for(p.groups * blocks, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t b = begin; b < end; ++b) {
      int32_t* block = to.w + b * block_words;
      std::fill_n(block, block_words, 0);
      const int64_t first = b % blocks * L, count = std::min(L, Og - first), slot = b * L;
      const int64_t o = b / blocks * Og + first;
      to.put_channels(c, slot, o, count);
      for (int64_t lane = 0; lane < count; ++lane) {
        const int8_t* row = w + (o + lane) * taps * run;  // rows of a window are runs in the weights too
        for (int64_t t = 0; t < taps; ++t) l.form.put(block + t * words * L + lane, L, row + t * run, run);
        to.start[slot + lane] = -static_cast<int32_t>(q.x_zero) * std::accumulate(row, row + taps * run, 0);
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
    zeros = at.take<uint8_t>(l.form.wide() ? 0 : ceil_to(l.run(p), 4));
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
bool pixels_first(const Conv2dParams& p) { return p.N * p.H * p.W * p.C >= p.O / p.groups * p.C * p.kH * p.kW; }

void run_bytes(const Call& c, const Layout& l, const DenseSpace& space, QuantizedConvTask& t) {
  const auto& q = c.as<QuantizedConv2dParams>();
  const Conv2dParams& p = q.conv;
  std::memset(space.zeros, static_cast<int>(q.x_zero), static_cast<size_t>(ceil_to(l.run(p), 4)));
  t.zeros = space.zeros, t.x_group = p.C / p.groups, t.x_w = p.C;
  if (l.copy) {
    copy_padded(p, l, c.in[0].as<uint8_t>(), static_cast<int>(q.x_zero), space.copy);
    t.x = space.copy, t.H = l.H, t.W = l.W, t.x_h = l.row, t.x_n = l.image;
  } else {
    t.x = c.in[0].as<uint8_t>(), t.H = p.H, t.W = p.W, t.pT = p.pT, t.pL = p.pL;
    t.x_h = p.W * p.C, t.x_n = p.H * t.x_h;
  }
  const int64_t tiles = (t.N * t.oH * t.oW + t.tile - 1) / t.tile;
  t.pixels_first = pixels_first(p);
  t.part = std::min<int64_t>(16, std::max<int64_t>(1, tiles / 8));
  t.parts = (tiles + t.part - 1) / t.part;
  const int64_t work = t.part * t.tile * t.panel * lanes() * l.taps(p) * t.words * 4;  // products of an item
  parallel_for(t.parts * t.groups * t.panels, std::max<int64_t>(1, 500'000 / work),
               [&](int64_t begin, int64_t end, int) { kernels()->quantized_conv2d(t, begin, end); });
}

// Outputs that are computed from one widened part of the image: whole rows, or pieces of a row.
struct WideParts {
  static constexpr int64_t kPixels = 96, kMostColumns = kQuantizedPixels;
  int64_t rows, columns, row_parts, column_parts;  // outputs of a part; parts of an image
  int64_t H, W;                                    // pixels of x that a part reads
  explicit WideParts(const Conv2dParams& p) {
    const auto even = [](int64_t size, int64_t most, int64_t& parts) {
      const int64_t part = (size + (size + most - 1) / most - 1) / ((size + most - 1) / most);
      parts = (size + part - 1) / part;
      return part;
    };
    columns = even(p.oW, p.oW <= kMostColumns ? p.oW : kMostColumns / 2, column_parts);
    rows = even(p.oH, column_parts > 1 ? 1 : std::max<int64_t>(1, (kPixels + p.oW / 2) / p.oW), row_parts);
    H = (rows - 1) * p.sH + (p.kH - 1) * p.dH + 1, W = (columns - 1) * p.sW + (p.kW - 1) * p.dW + 1;
  }
  int64_t count() const { return row_parts * column_parts; }
};

void run_wide(const Call& c, const Layout& l, QuantizedConvTask& t) {
  const auto& q = c.as<QuantizedConv2dParams>();
  const Conv2dParams& p = q.conv;
  const WideParts parts(p);
  t.N = 1, t.H = parts.H, t.W = parts.W, t.x_group = p.C / p.groups * 2, t.x_w = p.C * 2, t.x_h = parts.W * t.x_w;
  const int64_t blocks = p.N * parts.count(), panels = t.groups * t.panels;
  // Enough items for all threads; those of one part that follow each other share its copy.
  const int64_t splits = std::clamp<int64_t>(4 * num_threads() / blocks, 1, panels), items = blocks * splits;
  const bool by_pixels = pixels_first(p);
  const int64_t work = 2 * p.N * p.oH * p.oW * p.O * l.taps(p) * t.words / items;
  const int64_t y_bytes = t.out.to_float ? 4 : 1;
  const auto* x = c.in[0].as<uint8_t>();
  const auto body = [&](int64_t begin, int64_t end, float* scratch) {
    auto* copy = reinterpret_cast<int16_t*>(scratch);
    for (int64_t item = begin, held = -1; item < end; ++item) {
      const int64_t block = by_pixels ? item / splits : item % blocks;
      const int64_t split = by_pixels ? item % splits : item / blocks;
      const int64_t n = block / parts.count(), part = block % parts.count();
      const int64_t oh = part / parts.column_parts * parts.rows, ow = part % parts.column_parts * parts.columns;
      QuantizedConvTask some = t;
      some.oH = std::min(parts.rows, p.oH - oh), some.oW = std::min(parts.columns, p.oW - ow);
      if (block != held)
        widen(p, x + n * p.H * p.W * p.C, oh * p.sH - p.pT, parts.H, ow * p.sW - p.pL, parts.W,
              static_cast<int16_t>(q.x_zero), copy);
      held = block;
      const int64_t first = ((n * p.oH + oh) * p.oW + ow) * p.O;
      some.x = reinterpret_cast<const uint8_t*>(copy), some.y = static_cast<char*>(t.y) + first * y_bytes;
      if (t.out.residual) some.out.residual = t.out.residual + first;
      some.part = (some.oH * some.oW + t.tile - 1) / t.tile;
      kernels()->quantized_conv2d(some, panels * split / splits, panels * (split + 1) / splits);
    }
  };
  with_scratch(items, std::max<int64_t>(1, 500'000 / std::max<int64_t>(1, work)), (parts.H * t.x_h + 4 + 3) / 4,
               body);
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

  QuantizedConvTask t;
  t.N = p.N, t.oH = p.oH, t.oW = p.oW, t.sH = p.sH, t.sW = p.sW, t.dH = p.dH, t.dW = p.dW;
  t.taps_h = p.kH, t.taps_w = l.merge ? 1 : p.kW, t.words = l.words(p);
  t.groups = p.groups, t.O = p.O / p.groups, t.blocks = blocks_of(p), t.y_pixel = p.O;
  t.w = packed.w, t.start = packed.start, t.out = requantize(c);
  t.out.multiplier = packed.multiplier, t.out.offset = packed.offset, t.y = c.out[0].data;
  t.tile = l.form.pixels, t.panel = l.form.vectors, t.panels = (t.blocks + t.panel - 1) / t.panel;
  if (l.form.wide())
    run_wide(c, l, t);
  else
    run_bytes(c, l, space, t);
}

// ---- depthwise ----

// The forms of QuantizedDepthwiseTask.
struct DepthwiseForm {
  Form form;
  bool pair = false;
  int64_t group = 1, channels, columns, words;
  explicit DepthwiseForm(const Conv2dParams& p) {
    const int64_t step = 4 * lanes();
    const auto full = [&](int64_t pixels) {  // share of lanes that do work
      return static_cast<double>(pixels * p.C) / static_cast<double>(ceil_to(pixels * p.C, step));
    };
    pair = p.kW == 3 && p.sW == 1 && p.dW == 1 && full(1) > 0.6;
    for (int64_t g = 2; !pair && p.sW == 1 && g <= 8; ++g)
      if (full(g) > full(group) + 0.01) group = g;
    channels = ceil_to(group * p.C, step), columns = pair ? 4 : p.kW,
    words = (p.kH * columns + form.numbers - 1) / form.numbers;
  }
  int64_t pixels() const { return pair ? 2 : 1; }
};

Packed carve_depthwise(const Conv2dParams& p, Carve& at) {
  const DepthwiseForm f(p);
  return Packed(at, f.channels * f.words * f.pixels(), f.channels);
}

const char* depthwise_declines(const Call& c) {
  if (!kernels()) return "isa is ref";
  const Conv2dParams& p = c.as<QuantizedConv2dParams>().conv;
  if (p.groups != p.C || p.O != p.C || p.C == 1) return "not depthwise";
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
  std::vector<int8_t> order(static_cast<size_t>(taps));
  const auto* w = c.in[1].as<int8_t>();
  for (int64_t c0 = 0; c0 < f.channels; c0 += 4 * L)
    for (int64_t v = 0; v < 4; ++v)
      for (int64_t l = 0; l < L; ++l) {
        const int64_t i = c0 + channel_of(v, l), o = i % p.C, slot = c0 + v * L + l;
        const bool real = i < f.group * p.C;
        for (int64_t pixel = 0; pixel < f.pixels(); ++pixel) {
          // A pair's second pixel begins one column later.
          for (int64_t t = 0; t < taps; ++t) {
            const int64_t kw = t % f.columns - pixel;
            const bool there = real && kw >= 0 && kw < p.kW;
            order[static_cast<size_t>(t)] = there ? w[(o * p.kH + t / f.columns) * p.kW + kw] : int8_t{0};
          }
          f.form.put(to.w + (c0 / (4 * L) * f.words * f.pixels() + pixel) * 4 * L + v * L + l, f.pixels() * 4 * L,
                     order.data(), taps);
          to.start[slot] = -static_cast<int32_t>(q.x_zero) * std::accumulate(order.begin(), order.end(), 0);
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
    {"winograd", quantized_winograd_declines, quantized_winograd_workspace, quantized_winograd_run,
     quantized_winograd_prepared, quantized_winograd_prepare, weight_operands},
    {"dense", dense_declines, dense_workspace, dense_run, dense_prepared, dense_prepare, weight_operands},
    {"ref", nullptr, nullptr, ref::quantized_conv2d},
};

}  // namespace

List quantized_conv2d_list() { return kConv; }

}  // namespace fastcnn::cpu
