// What it is: grid_sample and its gradients in float32: indices, weights and slopes of a block of points on
// vectors, then point by point sums over pixels: up to four channels as one short vector, more on vectors of
// channels. What it is not: the rules of the taps (backend/cpu/grid_taps.h, whose steps these are).
#include <string.h>

#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/lanes.h"

namespace fastcnn::cpu::FASTCNN_ISA {
namespace {

constexpr int64_t kBlock = 128;  // points

// ---- taps of a block

// [tap][point]; slope: of the weight by the coordinate of the point.
struct AxisTaps {
  int32_t index[4][kBlock];  // -1: outside of the image
  float weight[4][kBlock], slope[4][kBlock];
};

struct Axis {
  GridPadding padding;
  Interp mode;
  vf half, shift, last, twice;
  bool single;  // reflection in one pixel

  Axis(const GridSampleParams& p, int64_t n) : padding(p.padding), mode(p.mode) {
    const float size = static_cast<float>(p.align_corners ? n - 1 : n);
    half = set1(size / 2), shift = set1(p.align_corners ? 0.0f : 0.5f), last = set1(static_cast<float>(n - 1));
    twice = set1(2 * size), single = size == 0;
  }

  FASTCNN_OP vf moved_inside(vf x, vf* slope) const {
    if (padding == GridPadding::zeros) return x;
    if (padding == GridPadding::reflection && !single) {
      const vf v = add(x, shift), far = vabs(v), from = sub(far, mul(vfloor(div(far, twice)), twice));
      const vf back = sub(twice, from), flipped = sub(zero(), *slope);
      const vf mirrored = select_gt(zero(), v, flipped, *slope);
      *slope = select_gt(from, back, sub(zero(), mirrored), mirrored);
      x = sub(vmin(back, from), shift);
    } else if (padding == GridPadding::reflection) {
      x = mul(x, zero());
    }
    *slope = select_gt(x, zero(), select_gt(last, x, *slope, zero()), zero());
    return vmin(last, vmax(zero(), x));  // NaN stays
  }

  // Returns the index; `outside` becomes negative where that is, or behind `most`.
  FASTCNN_OP vi put(vf at, vi most, vi* outside) const {
    const vf none = set1(-1);
    const vi index = to_int(select_le(zero(), at, select_le(at, last, at, none), none));
    *outside |= index | (most - index);
    return index;
  }

  __attribute__((noinline)) void fill(const float* coordinates, int64_t n, int32_t most_index, bool slopes,
                                      AxisTaps* taps, int32_t* outside) const {
    const vi most = vi{} + most_index;
    for (int64_t i = 0; i < n; i += kLanes) {
      vi out, index;
      memcpy(&out, outside + i, sizeof(out));
      auto put_tap = [&](int k, vf at, vf weight, vf slope) {
        index = put(at, most, &out);
        memcpy(taps->index[k] + i, &index, sizeof(index));
        store(taps->weight[k] + i, weight);
        if (slopes) store(taps->slope[k] + i, slope);
      };
      const vf x = sub(mul(add(load(coordinates + i), set1(1)), half), shift);
      if (mode == Interp::bicubic) {
        const vf at = vfloor(x), t = vmax(sub(x, at), zero());  // of infinite ones NaN: 0
        for (int k = 0; k < 4; ++k) {
          vf unused = zero();
          vf moved = moved_inside(add(at, set1(static_cast<float>(k - 1))), &unused);
          if (padding == GridPadding::reflection) moved = round_even(moved);
          constexpr float a = -0.75f;
          const bool near = k == 1 || k == 2;
          const vf r = k < 2 ? add(t, set1(static_cast<float>(1 - k))) : sub(set1(static_cast<float>(k - 1)), t);
          const vf cubed = set1(near ? a + 2 : a), squared = set1(near ? -(a + 3) : -5 * a);
          const vf linear = set1(near ? 0 : 8 * a), constant = set1(near ? 1 : -4 * a);
          const vf weight = fma(fma(fma(cubed, r, squared), r, linear), r, constant);
          vf slope = fma(fma(mul(set1(3), cubed), r, add(squared, squared)), r, linear);
          slope = mul(slope, k < 2 ? half : sub(zero(), half));
          put_tap(k, moved, weight, slope);
        }
      } else {
        vf slope = half;
        const vf moved = moved_inside(x, &slope);
        if (mode == Interp::nearest) {
          put_tap(0, round_even(moved), set1(1), zero());
        } else {
          const vf at = vfloor(moved), t = sub(moved, at);
          put_tap(0, at, sub(set1(1), t), sub(zero(), slope));
          put_tap(1, add(at, set1(1)), t, slope);
        }
      }
      memcpy(outside + i, &out, sizeof(out));
    }
  }
};

struct Block {
  AxisTaps across, down;
  int32_t outside[kBlock];  // negative: some tap is outside, or lies behind `most_row`
};

struct Image {  // what the blocks of an image share
  Axis across, down;
  int64_t taps, W;
  int32_t most_row;
  bool slopes;
  // Three channels are read as four, but in the last row of the last image.
  Image(const GridTask& t, int64_t image, bool with_slopes)
      : across(t.p, t.p.W), down(t.p, t.p.H), W(t.p.W), slopes(with_slopes) {
    taps = t.p.mode == Interp::nearest ? 1 : t.p.mode == Interp::bilinear ? 2 : 4;
    most_row = static_cast<int32_t>(t.p.H - (t.p.C == 3 && image == t.p.N - 1 ? 2 : 1));
  }
  FASTCNN_OP void fill(const float* points, int64_t n, Block* b) const {
    float x[kBlock], y[kBlock];
    for (int64_t i = 0; i < n; ++i) x[i] = points[2 * i], y[i] = points[2 * i + 1];
    for (int64_t i = n; i < kBlock && i % kLanes; ++i) x[i] = y[i] = 0;
    memset(b->outside, 0, sizeof(b->outside));
    across.fill(x, n, static_cast<int32_t>(W - 1), slopes, &b->across, b->outside);
    down.fill(y, n, most_row, slopes, &b->down, b->outside);
  }
};

// f(image, block, pixels of the image, first point, points) for the blocks of [begin, end).
template <class F>
FASTCNN_OP void for_blocks(const GridTask& t, bool slopes, int64_t begin, int64_t end, F f) {
  const int64_t each = t.p.oH * t.p.oW, pixels = t.p.H * t.p.W * t.p.C;
  Block b;
  while (begin < end) {
    const int64_t n = begin / each, last = end < (n + 1) * each ? end : (n + 1) * each;
    const Image image(t, n, slopes);
    for (; begin < last; begin += kBlock) {
      const int64_t count = last - begin < kBlock ? last - begin : kBlock;
      image.fill(t.points + 2 * begin, count, &b);
      f(image, b, t.x + n * pixels, begin, count);
    }
    begin = last;
  }
}

// ---- up to four channels

typedef float v4 __attribute__((vector_size(16)));
typedef double v2d __attribute__((vector_size(16)));

// Two channels as one double: a copy of 8 or 12 bytes to a vector would go through memory.
template <int C>
FASTCNN_OP v4 pixel(const float* p) {
  v4 v{};
  if constexpr (C == 1) {
    v[0] = p[0];
  } else if constexpr (C == 4) {
    memcpy(&v, p, sizeof(v));
  } else {
    double two;
    memcpy(&two, p, sizeof(two));
    v = (v4)v2d{two, 0};
    if constexpr (C == 3) v[2] = p[2];
  }
  return v;
}
template <int C>
FASTCNN_OP v4 wide_pixel(const float* p) {  // what lies behind three channels is read too
  return pixel<C == 3 ? 4 : C>(p);
}
template <int C>
FASTCNN_OP void put_pixel(float* p, v4 v) {
  if constexpr (C == 1) {
    p[0] = v[0];
  } else if constexpr (C == 4) {
    memcpy(p, &v, sizeof(v));
  } else {
    const double two = ((v2d)v)[0];
    memcpy(p, &two, sizeof(two));
    if constexpr (C == 3) p[2] = v[2];
  }
}

template <int C>
FASTCNN_OP float sum_of(v4 v) {
  float s = v[0];
  for (int c = 1; c < C; ++c) s += v[c];
  return s;
}

// Weighted sum of the pixels of a point, and with slopes those by its coordinates.
struct PixelSums {
  v4 value{}, by_x{}, by_y{};
};

// kInside: no tap is outside of the image, nor the last pixel of all.
template <int C, bool kSlopes, bool kInside>
FASTCNN_OP PixelSums sum_pixels(const Block& b, int64_t i, const float* x, int64_t W, int64_t taps) {
  PixelSums s;
  for (int64_t v = 0; v < taps; ++v) {
    if (!kInside && b.down.index[v][i] < 0) continue;
    const float* row = x + b.down.index[v][i] * W * C;
    v4 line{}, slope{};
    for (int64_t h = 0; h < taps; ++h) {
      if (!kInside && b.across.index[h][i] < 0) continue;
      const float* at = row + int64_t{b.across.index[h][i]} * C;
      const v4 p = kInside ? wide_pixel<C>(at) : pixel<C>(at);
      line += p * b.across.weight[h][i];
      if constexpr (kSlopes) slope += p * b.across.slope[h][i];
    }
    if constexpr (kSlopes)
      s.by_x += slope * b.down.weight[v][i], s.by_y += line * b.down.slope[v][i];
    else
      s.value += line * b.down.weight[v][i];
  }
  return s;
}
template <int C, bool kSlopes>
__attribute__((noinline, noclone)) PixelSums sum_some(const Block& b, int64_t i, const float* x, int64_t W,
                                                      int64_t taps) {
  return sum_pixels<C, kSlopes, false>(b, i, x, W, taps);
}

// Points may jump about, and few of them fit into what a processor looks ahead: their pixels are asked for.
constexpr int64_t kAhead = 16;

template <int C, bool kSlopes, int K>
FASTCNN_OP void few_channels(const Image& image, const Block& b, const float* x, const float* dy, float* out,
                             int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    if (const int64_t k = i + kAhead; kFetches && k < n)
      for (int v = 0; v < K; ++v) prefetch(x + (b.down.index[v][k] * image.W + b.across.index[0][k]) * C);
    const PixelSums s = b.outside[i] >= 0 ? sum_pixels<C, kSlopes, true>(b, i, x, image.W, K)
                                          : sum_some<C, kSlopes>(b, i, x, image.W, K);
    if constexpr (kSlopes) {
      const v4 d = pixel<C>(dy + i * C), by_x = s.by_x * d, by_y = s.by_y * d;
      out[2 * i] = sum_of<C>(by_x), out[2 * i + 1] = sum_of<C>(by_y);
    } else {
      put_pixel<C>(out + i * C, s.value);
    }
  }
}

// ---- any number of channels

struct PixelTaps {
  const float* at[16];
  float weight[16], by_x[16], by_y[16];
  int taps = 0;
  FASTCNN_OP PixelTaps(const Image& image, const Block& b, int64_t i, const float* x, int64_t C) {
    for (int64_t v = 0; v < image.taps; ++v) {
      if (b.down.index[v][i] < 0) continue;
      const float* row = x + b.down.index[v][i] * image.W * C;
      for (int64_t h = 0; h < image.taps; ++h) {
        if (b.across.index[h][i] < 0) continue;
        at[taps] = row + b.across.index[h][i] * C;
        weight[taps] = b.down.weight[v][i] * b.across.weight[h][i];
        if (image.slopes) {
          by_x[taps] = b.down.weight[v][i] * b.across.slope[h][i];
          by_y[taps] = b.down.slope[v][i] * b.across.weight[h][i];
        }
        ++taps;
      }
    }
  }
};

template <int kTaps>  // 0: any number
FASTCNN_OP void weighted_sum(const PixelTaps& t, float* y, int64_t C) {
  const int taps = kTaps ? kTaps : t.taps;
  int64_t c = 0;
  for (; c + 4 * kLanes <= C; c += 4 * kLanes) {
    vf s[4] = {zero(), zero(), zero(), zero()};
    for (int k = 0; k < taps; ++k) {
      const vf w = set1(t.weight[k]);
      for (int j = 0; j < 4; ++j) s[j] = fma(w, load(t.at[k] + c + j * kLanes), s[j]);
    }
    for (int j = 0; j < 4; ++j) store(y + c + j * kLanes, s[j]);
  }
  for (; c < C; c += kLanes) {
    const int n = lanes_at(c, C);
    vf s = zero();
    for (int k = 0; k < taps; ++k) s = fma(set1(t.weight[k]), get(t.at[k] + c, n), s);
    put(y + c, s, n);
  }
}

template <int kTaps>
FASTCNN_OP void slope_sums(const PixelTaps& t, const float* dy, float* out, int64_t C) {
  const int taps = kTaps ? kTaps : t.taps;
  vf x = zero(), y = zero();
  for (int64_t c = 0; c < C; c += kLanes) {
    const int n = lanes_at(c, C);
    vf by_x = zero(), by_y = zero();
    for (int k = 0; k < taps; ++k) {
      const vf p = get(t.at[k] + c, n);
      by_x = fma(set1(t.by_x[k]), p, by_x), by_y = fma(set1(t.by_y[k]), p, by_y);
    }
    const vf d = get(dy + c, n);
    x = fma(by_x, d, x), y = fma(by_y, d, y);
  }
  out[0] = hsum(x), out[1] = hsum(y);
}

template <bool kSlopes>
FASTCNN_OP void block_of_points(const Image& image, const Block& b, const float* x, const float* dy, float* out,
                                int64_t C, int64_t n) {
#define FASTCNN_FEW(channels)                                                                \
  case channels:                                                                             \
    if (image.taps == 2) return few_channels<channels, kSlopes, 2>(image, b, x, dy, out, n); \
    if (image.taps == 4) return few_channels<channels, kSlopes, 4>(image, b, x, dy, out, n); \
    return few_channels<channels, kSlopes, 1>(image, b, x, dy, out, n);
  switch (C) {
    FASTCNN_FEW(1)
    FASTCNN_FEW(2)
    FASTCNN_FEW(3)
    FASTCNN_FEW(4)
    default: break;
  }
#undef FASTCNN_FEW
  for (int64_t i = 0; i < n; ++i) {
    const PixelTaps t(image, b, i, x, C);
    if constexpr (kSlopes)
      t.taps == 4 ? slope_sums<4>(t, dy + i * C, out + 2 * i, C) : slope_sums<0>(t, dy + i * C, out + 2 * i, C);
    else
      t.taps == 4 ? weighted_sum<4>(t, out + i * C, C) : weighted_sum<0>(t, out + i * C, C);
  }
}

// ---- the gradient of the image

template <int C>
struct FewGradients {
  v4 d;
  FASTCNN_OP FewGradients(const float* dy, int64_t i, int64_t) : d(pixel<C>(dy + i * C)) {}
  FASTCNN_OP void add(float* dx, int64_t at, float weight) const {
    put_pixel<C>(dx + at * C, pixel<C>(dx + at * C) + d * weight);
  }
};
struct ManyGradients {
  const float* d;
  int64_t C;
  FASTCNN_OP ManyGradients(const float* dy, int64_t i, int64_t channels) : d(dy + i * channels), C(channels) {}
  FASTCNN_OP void add(float* dx, int64_t at, float weight) const {
    float* to = dx + at * C;
    const vf w = set1(weight);
    for (int64_t c = 0; c < C; c += kLanes) {
      const int n = lanes_at(c, C);
      put(to + c, fma(w, get(d + c, n), get(to + c, n)), n);
    }
  }
};

// Those of the points listed, to rows [low, high).
template <class Gradients>
FASTCNN_OP void add_block(const Image& image, const Block& b, const float* dy, float* dx, int64_t C,
                          const int32_t* point, int64_t n, int32_t low, int32_t high) {
  for (int64_t k = 0; k < n; ++k) {
    const int64_t i = point[k];
    const Gradients g(dy, i, C);
    for (int64_t v = 0; v < image.taps; ++v) {
      const int32_t at = b.down.index[v][i];
      if (at < low || at >= high) continue;
      for (int64_t h = 0; h < image.taps; ++h)
        if (b.across.index[h][i] >= 0)
          g.add(dx, at * image.W + b.across.index[h][i], b.down.weight[v][i] * b.across.weight[h][i]);
    }
  }
}

}  // namespace

void grid_points(const GridTask& t, int64_t begin, int64_t end) {
  for_blocks(t, false, begin, end,
             [&](const Image& image, const Block& b, const float* x, int64_t first, int64_t n) {
               block_of_points<false>(image, b, x, nullptr, t.y + first * t.p.C, t.p.C, n);
             });
}

void grid_points_bwd(const GridTask& t, int64_t begin, int64_t end) {
  for_blocks(t, true, begin, end,
             [&](const Image& image, const Block& b, const float* x, int64_t first, int64_t n) {
               block_of_points<true>(image, b, x, t.dy + first * t.p.C, t.dpoints + 2 * first, t.p.C, n);
             });
}

void grid_image_bwd(const GridTask& t, int64_t n, int64_t begin, int64_t end) {
  const int64_t C = t.p.C, each = t.p.oH * t.p.oW, line = t.p.W * C;
  float* dx = t.dx + n * t.p.H * line;
  memset(dx + begin * line, 0, static_cast<size_t>((end - begin) * line) * sizeof(float));
  const auto low = static_cast<int32_t>(begin), high = static_cast<int32_t>(end);
  const Image image(t, n, false);
  Block b;
  for (int64_t first = 0; first < each; first += kBlock) {
    const int64_t count = each - first < kBlock ? each - first : kBlock;
    image.fill(t.points + 2 * (n * each + first), count, &b);
    // Points of these rows: whether one is among them is not foreseen, so nothing branches on it.
    int32_t point[kBlock];
    int64_t some = 0;
    for (int64_t i = 0; i < count; ++i) {
      bool inside = false;
      for (int64_t v = 0; v < image.taps; ++v)
        inside |= static_cast<uint32_t>(b.down.index[v][i] - low) < static_cast<uint32_t>(high - low);
      point[some] = static_cast<int32_t>(i), some += inside;
    }
    const float* dy = t.dy + (n * each + first) * C;
    switch (C) {
      case 1: add_block<FewGradients<1>>(image, b, dy, dx, C, point, some, low, high); break;
      case 2: add_block<FewGradients<2>>(image, b, dy, dx, C, point, some, low, high); break;
      case 3: add_block<FewGradients<3>>(image, b, dy, dx, C, point, some, low, high); break;
      case 4: add_block<FewGradients<4>>(image, b, dy, dx, C, point, some, low, high); break;
      default: add_block<ManyGradients>(image, b, dy, dx, C, point, some, low, high); break;
    }
  }
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
