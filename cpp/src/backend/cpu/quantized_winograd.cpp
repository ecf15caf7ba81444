// What it is: 3x3 int8 convolutions by Winograd's F(2x2, 3x3) in whole numbers (Lavin and Gray 2016): 16 products
// for 36. Bytes become at most 1020 in magnitude, weights, 4 times as large so that they stay whole, 1152, so that
// products of pairs fit where the ISA multiplies 16 bits; sums are 4 times those of the dense convolution,
// exactly. What it is not: for ISAs that multiply bytes, whose products are twice as fast.
#include <cstring>

#include "backend/cpu/quantized_conv2d.h"
#include "backend/cpu/scratch.h"
#include "backend/cpu/threads.h"

namespace fastcnn::cpu {
using namespace quantized;
namespace {

constexpr int64_t kPositions = 16, kChunk = 64;  // outputs whose sums are in cache together
constexpr int64_t kMostInputs = 512;             // 1020 * 1152 * 512 * 3 < 2^31
constexpr int64_t kLeastTiles = 32;              // for fewer the weights, 3.6 times those of dense, take longer
constexpr int32_t kNone[kChunk] = {};

Packed carve_packed(const Conv2dParams& p, Carve& at) {
  const int64_t channels = blocks_of(p) * lanes();
  return Packed(at, kPositions * channels * p.C / 2, channels);
}

// Rows of tiles that a thread transforms together, and outputs that it sums then.
struct Parts {
  int64_t tiles_h, tiles_w, rows, count, chunk, chunks, blocks;  // count: of an image
  int64_t H, W;                                                  // of the widened part
  explicit Parts(const Conv2dParams& p) : blocks(blocks_of(p)) {
    const Form form;
    tiles_h = (p.oH + 1) / 2, tiles_w = (p.oW + 1) / 2;
    chunk = std::max(kChunk / (form.vectors * lanes()), int64_t{1}) * form.vectors;  // in blocks
    chunks = (blocks + chunk - 1) / chunk;
    const int64_t tile = kPositions * (p.C * 2 + chunk * lanes() * 4);
    const int64_t most = std::min(kQuantizedPixels, (384 << 10) / tile) / tiles_w;
    rows = std::clamp<int64_t>(most, 1, tiles_h), count = (tiles_h + rows - 1) / rows;
    rows = (tiles_h + count - 1) / count, count = (tiles_h + rows - 1) / rows;
    H = 2 * rows + 2, W = 2 * tiles_w + 2;
  }
  int64_t in_chunk(int64_t k) const { return std::min(chunk, blocks - k * chunk); }
  // Where a block of weights lies: what is read one after the other, all positions of a chunk.
  int64_t place(int64_t position, int64_t block) const {
    const int64_t k = block / chunk;
    return k * chunk * kPositions + position * in_chunk(k) + block % chunk;
  }
};

// 4 G g G^T of a filter.
void transform(const int8_t g[9], int32_t u[kPositions]) {
  int32_t t[4][3];
  for (int j = 0; j < 3; ++j) {
    const int32_t a = g[j], b = g[3 + j], c = g[6 + j];
    t[0][j] = 2 * a, t[1][j] = a + b + c, t[2][j] = a - b + c, t[3][j] = 2 * c;
  }
  for (int i = 0; i < 4; ++i) {
    const int32_t a = t[i][0], b = t[i][1], c = t[i][2];
    u[4 * i] = 2 * a, u[4 * i + 1] = a + b + c, u[4 * i + 2] = a - b + c, u[4 * i + 3] = 2 * c;
  }
}

}  // namespace

const char* quantized_winograd_declines(const Call& c) {
  if (!kernels()) return "isa is ref";
  const Conv2dParams& p = c.as<QuantizedConv2dParams>().conv;
  if (!Form().wide()) return "bytes are multiplied faster";
  if (p.kH != 3 || p.kW != 3 || p.sH != 1 || p.sW != 1 || p.dH != 1 || p.dW != 1) return "not 3x3 of stride 1";
  if (p.groups != 1) return "has groups";
  if (p.C % 2 || p.C < 32 || p.C > kMostInputs || p.O < 32) return "too few or too many channels";
  const int64_t tiles_h = (p.oH + 1) / 2, tiles_w = (p.oW + 1) / 2;
  if (tiles_w > kQuantizedPixels) return "rows too long";
  return p.N * tiles_h * tiles_w < kLeastTiles ? "too few tiles" : nullptr;
}

int64_t quantized_winograd_prepared(const Call& c) {
  Carve at(nullptr);
  carve_packed(c.as<QuantizedConv2dParams>().conv, at);
  return at.used();
}

int64_t quantized_winograd_workspace(const Call& c) { return c.prepared ? 0 : quantized_winograd_prepared(c); }

void quantized_winograd_prepare(const Call& c, void* dst) {
  const auto& q = c.as<QuantizedConv2dParams>();
  const Conv2dParams& p = q.conv;
  Carve carve(dst);
  const Packed to = carve_packed(p, carve);
  const Parts parts(p);
  const int64_t L = lanes(), words = p.C / 2;
  const auto* w = c.in[1].as<int8_t>();
  auto* numbers = reinterpret_cast<int16_t*>(to.w);
  parallel_for(parts.blocks, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t b = begin; b < end; ++b) {
      const int64_t o = b * L, count = std::min(L, p.O - o);
      int16_t* place[kPositions];
      for (int64_t k = 0; k < kPositions; ++k) place[k] = numbers + parts.place(k, b) * words * L * 2;
      to.put_channels(c, o, o, count);
      for (int64_t i = 0; i < p.C; ++i)
        for (int64_t lane = 0; lane < L; ++lane) {
          int8_t g[9] = {};
          for (int64_t tap = 0; tap < 9 && lane < count; ++tap) {
            g[tap] = w[((o + lane) * 9 + tap) * p.C + i];
            to.start[o + lane] -= static_cast<int32_t>(q.x_zero) * g[tap];
          }
          int32_t u[kPositions];
          transform(g, u);
          for (int64_t k = 0; k < kPositions; ++k)
            place[k][(i / 2 * L + lane) * 2 + i % 2] = static_cast<int16_t>(u[k]);
        }
    }
  });
}

void quantized_winograd_run(const Call& c) {
  const auto& q = c.as<QuantizedConv2dParams>();
  const Conv2dParams& p = q.conv;
  void* weights = c.prepared ? const_cast<void*>(c.prepared) : c.workspace;
  if (!c.prepared) quantized_winograd_prepare(c, weights);
  Carve carve(weights);
  const Packed packed = carve_packed(p, carve);
  const Form form;
  const Parts parts(p);
  const int64_t L = lanes(), words = p.C / 2, width = parts.chunk * L;
  const int64_t most_tiles = parts.rows * parts.tiles_w;

  QuantizedWinogradTask t;
  t.C = p.C, t.W = parts.W, t.columns = parts.tiles_w, t.oH = p.oH, t.oW = p.oW, t.O = p.O, t.width = width;
  QuantizedConvTask product;  // of one position: tiles times channels
  product.N = product.oH = product.H = 1, product.words = words, product.x_w = p.C * 2;
  product.tile = form.pixels, product.panel = form.vectors, product.y_pixel = width;
  product.start = kNone, product.out.to_sums = true;
  product.out.multiplier = packed.multiplier, product.out.offset = packed.offset;

  const int64_t images = p.N * parts.count;
  const int64_t splits = std::clamp<int64_t>(4 * num_threads() / images, 1, parts.chunks);
  const bool by_images = p.N * p.H * p.W >= 9 * p.O;  // each thread reads its part of the larger
  const auto body = [&](int64_t begin, int64_t end, float* scratch) {
    Carve own(scratch);
    auto* copy = own.take<int16_t>(parts.H * parts.W * p.C);
    auto* v = own.take<int16_t>(kPositions * most_tiles * p.C);
    auto* sums = own.take<int32_t>(kPositions * most_tiles * width);
    QuantizedWinogradTask some = t;
    QuantizedConvTask one = product;
    some.x = copy, some.v = v, some.sums = sums;
    for (int64_t item = begin, held = -1; item < end; ++item) {
      const int64_t image = by_images ? item / splits : item % images;
      const int64_t split = by_images ? item % splits : item / images;
      const int64_t n = image / parts.count, row = image % parts.count * parts.rows;
      some.rows = std::min(parts.rows, parts.tiles_h - row), some.oh = 2 * row;
      const int64_t tiles = some.rows * some.columns;
      if (image != held) {
        widen(p, c.in[0].as<uint8_t>() + n * p.H * p.W * p.C, 2 * row - p.pT, 2 * some.rows + 2, -p.pL, parts.W,
              static_cast<int16_t>(q.x_zero), copy);
        kernels()->quantized_winograd_data(some);
      }
      held = image;
      const int64_t first = n * p.oH * p.oW * p.O;
      for (int64_t k = parts.chunks * split / splits; k < parts.chunks * (split + 1) / splits; ++k) {
        const int64_t block = k * parts.chunk;
        one.blocks = parts.in_chunk(k), one.O = one.blocks * L;
        one.panels = (one.blocks + form.vectors - 1) / form.vectors;
        one.oW = one.W = tiles, one.part = (tiles + form.pixels - 1) / form.pixels;
        for (int64_t position = 0; position < kPositions; ++position) {
          one.x = reinterpret_cast<const uint8_t*>(v + position * tiles * p.C);
          one.w = packed.w + parts.place(position, block) * words * L;
          one.y = sums + position * tiles * width;
          kernels()->quantized_conv2d(one, 0, one.panels);
        }
        some.channel = block * L, some.channels = std::min(width, p.O - some.channel);
        some.start = packed.start + some.channel, some.out = requantize(c);
        some.out.multiplier = packed.multiplier + some.channel, some.out.offset = packed.offset + some.channel;
        if (some.out.residual) some.out.residual += first;
        some.y = static_cast<char*>(c.out[0].data) + first * (some.out.to_float ? 4 : 1);
        kernels()->quantized_winograd_result(some);
      }
    }
  };
  Carve each(nullptr);
  each.take<int16_t>(parts.H * parts.W * p.C), each.take<int16_t>(kPositions * most_tiles * p.C);
  each.take<int32_t>(kPositions * most_tiles * width);
  const int64_t work = kPositions * most_tiles * p.C * p.O / splits;
  with_scratch(images * splits, std::max<int64_t>(1, 500'000 / work), each.used() / 4, body);
}

}  // namespace fastcnn::cpu
