// What it is: affine_sample at free points: a vector of neighbouring output pixels at a time, their source pixels
// gathered (1 or 3 channels), or pixel by pixel for any number of channels; and colour stages of what is sampled.
// What it is not: matrices that only scale and move, with antialias (sample_resize.cpp).
#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/sample_pixels.h"

namespace fastcnn::cpu::FASTCNN_ISA {
namespace {

// The channels of pixels in words: masked, not shifted, and scaled back where that costs least.
template <int C>
FASTCNN_OP Pixels<C> of_word(vi word) {
  Pixels<C> v;
  for (int c = 0; c < C; ++c) v.c[c] = to_float(word & (255 << 8 * c));
  return v;
}
template <int C>
FASTCNN_OP void scale_back(Pixels<C>* v) {
  if constexpr (C == 3) v->c[1] = mul(v->c[1], set1(1.0f / 256)), v->c[2] = mul(v->c[2], set1(1.0f / 65536));
}

// Hides where a number comes from, lest the compiler makes a gather of the loop around it.
FASTCNN_OP void keep_scalar(int64_t& v) { __asm__("" : "+r"(v)); }

// Scalar loads: the gather instructions of many machines are slower. Whole words are read, but nothing behind the
// last pixel of the image.
template <int C>
FASTCNN_OP Pixels<C> gather_pixels(const SampleTask& t, const uint8_t* x, vi pixel) {
  const vi offset = pixel * C, at = vmin(offset, vi{} + static_cast<int32_t>(t.p.H * t.p.W * C - 4));
  int32_t from[kLanes], back[kLanes];
  uint32_t word[kLanes];
  memcpy(from, &at, sizeof(at));
  const vi behind = (offset - at) * 8;
  memcpy(back, &behind, sizeof(behind));
  for (int i = 0; i < kLanes; ++i) {
    int64_t at_i = from[i];
    keep_scalar(at_i);
    memcpy(word + i, x + at_i, 4);
    word[i] >>= back[i];
  }
  vi words;
  memcpy(&words, word, sizeof(words));
  Pixels<C> v = of_word<C>(words);
  scale_back(&v);
  return v;
}
template <int C>
FASTCNN_OP Pixels<C> gather_pixels(const SampleTask&, const float* x, vi pixel) {
  Pixels<C> v;
  for (int c = 0; c < C; ++c) v.c[c] = gather(x + c, pixel * C);
  return v;
}

template <int C>
FASTCNN_OP Pixels<C> mixed(const Pixels<C>& a, const Pixels<C>& b, vf f) {
  Pixels<C> v;
  for (int c = 0; c < C; ++c) v.c[c] = fma(f, sub(b.c[c], a.c[c]), a.c[c]);
  return v;
}

// The even int32 lanes of two vectors, as words of 8 bytes hold their lower halves.
FASTCNN_OP vi even_lanes(vu a, vu b) {
#if defined(__AVX512F__)
  return __builtin_shufflevector((vi)a, (vi)b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
#elif defined(__AVX2__)
  return __builtin_shufflevector((vi)a, (vi)b, 0, 2, 4, 6, 8, 10, 12, 14);
#else
  return __builtin_shufflevector((vi)a, (vi)b, 0, 2, 4, 6);
#endif
}

// The 8 bytes at each x + at[i], for half the lanes. They become a vector in registers: a vector load has to wait
// for the scalar stores before it.
FASTCNN_OP vu words_at(const uint8_t* x, const int32_t* at) {
  auto word = [&](int i) {
    int64_t at_i = at[i];
    keep_scalar(at_i);
    uint64_t w;
    memcpy(&w, x + at_i, sizeof(w));
    return w;
  };
#if defined(__AVX512F__)
  return vu{word(0), word(1), word(2), word(3), word(4), word(5), word(6), word(7)};
#elif defined(__AVX2__)
  return vu{word(0), word(1), word(2), word(3)};
#else
  return vu{word(0), word(1)};
#endif
}

// Squares of pixels (each, its right neighbour and the two below; all inside, and 8 bytes from the lower left on
// too), mixed. What a later row will read lies about `ahead` bytes further on.
template <int C>
FASTCNN_OP Pixels<C> mixed_square(const SampleTask& t, const uint8_t* x, vi pixel, vf fx, vf fy, int64_t ahead) {
  int32_t at[kLanes];
  const vi offset = pixel * C;
  memcpy(at, &offset, sizeof(offset));
  prefetch(x + (at[0] + ahead));
  auto row = [&](const uint8_t* line) {
    const vu first = words_at(line, at), second = words_at(line, at + kLanes / 2);
    return mixed(of_word<C>(even_lanes(first, second)), of_word<C>(even_lanes(first >> 8 * C, second >> 8 * C)),
                 fx);
  };
  Pixels<C> v = mixed(row(x), row(x + t.p.W * C), fy);
  scale_back(&v);
  return v;
}
template <int C>
FASTCNN_OP Pixels<C> mixed_square(const SampleTask& t, const float* x, vi pixel, vf fx, vf fy, int64_t) {
  auto pair = [&](vi at) { return mixed(gather_pixels<C>(t, x, at), gather_pixels<C>(t, x, at + 1), fx); };
  return mixed(pair(pixel), pair(pixel + static_cast<int32_t>(t.p.W)), fy);
}

// Positions (integral) to those of the pixels that stand for them; `out` becomes > 0 where that is the fill value.
FASTCNN_OP vf mapped(SampleFill fill, vf i, float n, vf* out) {
  const vf last = set1(n - 1);
  if (fill == SampleFill::constant) {
    *out = vmax(*out, vmax(sub(zero(), i), sub(i, last)));
  } else if (fill != SampleFill::edge && n > 1) {
    const float period = fill == SampleFill::reflect ? 2 * (n - 1) : 2 * n;
    // Symmetric positions mirror at -0.5: -1 is 0.
    const float half = fill == SampleFill::reflect ? 0.0f : 0.5f;
    vf a = vabs(add(i, set1(half)));
    a = fnma(set1(period), vfloor(div(a, set1(period))), a);
    i = sub(vmin(a, sub(set1(period), a)), set1(half));
  }
  return vmax(zero(), vmin(i, last));
}

template <int C>
FASTCNN_OP void fill_where(const SampleTask& t, vf out, Pixels<C>* v) {
  for (int c = 0; c < C; ++c) v->c[c] = select_gt(out, zero(), set1(t.fill[c]), v->c[c]);
}

// The pixel at integral positions (x, y) that may lie outside.
template <class T, int C>
FASTCNN_OP Pixels<C> tap(const SampleTask& t, vf x, vf y) {
  vf out = zero();
  const vf ix = mapped(t.p.fill, x, static_cast<float>(t.p.W), &out);
  const vf iy = mapped(t.p.fill, y, static_cast<float>(t.p.H), &out);
  const vi pixel = to_int(iy) * static_cast<int32_t>(t.p.W) + to_int(ix);
  Pixels<C> v = gather_pixels<C>(t, static_cast<const T*>(t.x), pixel);
  if (t.p.fill == SampleFill::constant) fill_where(t, out, &v);
  return v;
}

// A point as the pixel at its upper left and what is left over; `beyond` > 0: not the whole square is inside.
struct Corner {
  vf x, y, fx, fy, beyond;
};
template <class T>
FASTCNN_OP Corner corner_of(const SampleTask& t, vf sx, vf sy) {
  Corner k;
  k.x = vfloor(sx), k.y = vfloor(sy), k.fx = sub(sx, k.x), k.fy = sub(sy, k.y);
  const vf over_x = sub(k.x, set1(static_cast<float>(t.p.W - 2)));
  const vf over_y = sub(k.y, set1(static_cast<float>(t.p.H - 2)));
  k.beyond = vmax(vmax(over_x, sub(zero(), k.x)), vmax(over_y, sub(zero(), k.y)));
  // Behind the last few pixels of the last row there are no 8 bytes.
  if constexpr (sizeof(T) == 1) k.beyond = vmax(k.beyond, vmin(add(over_y, set1(1)), add(over_x, set1(8))));
  return k;
}
template <class T, int C>
FASTCNN_OP Pixels<C> bilinear(const SampleTask& t, const Corner& k) {
  const vf one = set1(1), right = add(k.x, one), down = add(k.y, one);
  if (!any_gt(k.beyond, zero()))
    return mixed_square<C>(t, static_cast<const T*>(t.x), to_int(k.y) * static_cast<int32_t>(t.p.W) + to_int(k.x),
                           k.fx, k.fy, 0);
  if (t.p.fill == SampleFill::constant) {
    const vf last_x = set1(static_cast<float>(t.p.W - 1)), last_y = set1(static_cast<float>(t.p.H - 1));
    const vf near = vmax(vmax(sub(k.x, last_x), sub(zero(), right)), vmax(sub(k.y, last_y), sub(zero(), down)));
    if (!any_gt(one, near)) {  // no lane reaches the image
      Pixels<C> v;
      for (int c = 0; c < C; ++c) v.c[c] = set1(t.fill[c]);
      return v;
    }
  }
  return mixed(mixed(tap<T, C>(t, k.x, k.y), tap<T, C>(t, right, k.y), k.fx),
               mixed(tap<T, C>(t, k.x, down), tap<T, C>(t, right, down), k.fx), k.fy);
}

// Where least <= a X + b <= most, of what [low, high] has been so far.
FASTCNN_OP void narrow(double a, double b, double least, double most, double* low, double* high) {
  if (a == 0) {
    if (b < least || b > most) *high = *low - 1;
    return;
  }
  const double p = (least - b) / a, q = (most - b) / a;
  *low = fmax(*low, p < q ? p : q), *high = fmin(*high, p < q ? q : p);
}

// Output columns [low, high) of a row that need no care: their squares are inside, and 8 bytes at each pixel. Some
// at the ends may be missing: room for the rounding of positions.
struct Span {
  int64_t low = 0, high = 0;
};
FASTCNN_OP Span span_inside(const SampleTask& t, double x0, double y0) {
  const double ax = t.matrix[0], ay = t.matrix[3];
  const auto W = static_cast<double>(t.p.W), H = static_cast<double>(t.p.H), room = (W + H) / (1 << 22);
  const double numbers[] = {ax, ay, x0, y0};
  for (double v : numbers)
    if (!(fabs(v) < kFarthest)) return {};
  double low = 0, high = static_cast<double>(t.p.oW - 1);
  narrow(ax, x0, room, W - 1 - room, &low, &high);
  narrow(ay, y0, room, H - 1 - room, &low, &high);
  if (!(low <= high)) return {};
  if (fmax(ay * low, ay * high) + y0 > H - 2 - room) narrow(ax, x0, room, W - 9, &low, &high);
  if (!(low <= high)) return {};
  return {static_cast<int64_t>(ceil(low)), static_cast<int64_t>(high) + 1};
}

FASTCNN_OP void cubic(vf t, vf* w) {  // cubic_weights
  const vf a = set1(-0.75f), b = set1(1.25f), d = set1(-2.25f), one = set1(1), u = sub(one, t);
  w[0] = mul(mul(a, t), mul(u, u));
  w[1] = fma(mul(fma(b, t, d), t), t, one);
  w[2] = fma(mul(fma(b, u, d), u), u, one);
  w[3] = mul(mul(a, u), mul(t, t));
}

template <class T, int C>
FASTCNN_OP Pixels<C> bicubic(const SampleTask& t, vf sx, vf sy) {
  const vf x = vfloor(sx), y = vfloor(sy);
  vf wx[4], wy[4];
  cubic(sub(sx, x), wx);
  cubic(sub(sy, y), wy);
  Pixels<C> sum;
  for (int c = 0; c < C; ++c) sum.c[c] = zero();
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < 4; ++j) {
      const Pixels<C> v =
          tap<T, C>(t, add(x, set1(static_cast<float>(j - 1))), add(y, set1(static_cast<float>(i - 1))));
      const vf w = mul(wx[j], wy[i]);
      for (int c = 0; c < C; ++c) sum.c[c] = fma(w, v.c[c], sum.c[c]);
    }
  return sum;
}

template <class T, class Y, int C>
void rows_of(const SampleTask& t, int64_t begin, int64_t end) {
  float first[kLanes];
  for (int i = 0; i < kLanes; ++i) first[i] = static_cast<float>(i);
  const vf lane = load(first), least = set1(-kFarthest), most = set1(kFarthest), half = set1(0.5f);
  const float* m = t.matrix;
  const bool projective = sample_projective(m);
  const bool plain = t.p.mode == Interp::bilinear && !projective && !t.displacement;
  const auto ahead = static_cast<int64_t>(4 * sample_near(m[4] * static_cast<float>(t.p.W) + m[1])) * C;
  for (int64_t oy = begin; oy < end; ++oy) {
    const float fy = static_cast<float>(oy);
    const vf x0 = set1(m[1] * fy + m[2]), y0 = set1(m[4] * fy + m[5]), w0 = set1(m[7] * fy + m[8]);
    RowEnd<Y, C> row(t, oy);
    auto point = [&](int64_t ox, int n, vf* px, vf* py) {
      const vf X = add(set1(static_cast<float>(ox)), lane);
      vf sx = fma(set1(m[0]), X, x0), sy = fma(set1(m[3]), X, y0);
      if (projective) {
        const vf w = div(set1(1), fma(set1(m[6]), X, w0));
        sx = mul(sx, w), sy = mul(sy, w);
      }
      if (t.displacement) {
        float d[2][kLanes] = {};
        const float* from = t.displacement + (oy * t.p.oW + ox) * 2;
        for (int i = 0; i < n; ++i) d[0][i] = from[2 * i], d[1][i] = from[2 * i + 1];
        sx = add(sx, load(d[0])), sy = add(sy, load(d[1]));
      }
      *px = vmin(vmax(sx, least), most), *py = vmin(vmax(sy, least), most);
    };
    auto careful = [&](int64_t ox, int64_t end) {
      for (; ox < end; ox += kLanes) {
        const int n = lanes_at(ox, t.p.oW);
        vf sx, sy;
        point(ox, n, &sx, &sy);
        switch (t.p.mode) {
          case Interp::bilinear: row.put(ox, n, bilinear<T, C>(t, corner_of<T>(t, sx, sy))); break;
          case Interp::bicubic: row.put(ox, n, bicubic<T, C>(t, sx, sy)); break;
          default: row.put(ox, n, tap<T, C>(t, vfloor(add(sx, half)), vfloor(add(sy, half))));
        }
      }
      return ox;
    };
    const Span span = plain ? span_inside(t, m[1] * fy + m[2], m[4] * fy + m[5]) : Span{};
    int64_t ox = careful(0, span.low);
    for (; ox + kLanes <= span.high; ox += kLanes) {
      const vf X = add(set1(static_cast<float>(ox)), lane), sx = fma(set1(m[0]), X, x0),
               sy = fma(set1(m[3]), X, y0);
      const vf x = vfloor(sx), y = vfloor(sy);
      const vi pixel = to_int(y) * static_cast<int32_t>(t.p.W) + to_int(x);
      row.put(ox, kLanes, mixed_square<C>(t, static_cast<const T*>(t.x), pixel, sub(sx, x), sub(sy, y), ahead));
    }
    careful(ox, t.p.oW);
    row.end();
  }
}

FASTCNN_OP void put_value(const SampleTask& t, int64_t at, int64_t c, float v) {
  if (t.norm) v = v * t.norm[c] + t.norm[t.p.C + c];
  if (t.y_float)
    static_cast<float*>(t.y)[at] = v;
  else
    static_cast<uint8_t*>(t.y)[at] = static_cast<uint8_t>(rintf(v < 0 ? 0 : v > 255 ? 255 : v));
}

// Any number of channels, without colour.
template <class T>
void any_rows_of(const SampleTask& t, int64_t begin, int64_t end) {
  const AffineSampleParams& p = t.p;
  const bool near = p.mode == Interp::nearest;
  for (int64_t oy = begin; oy < end; ++oy)
    for (int64_t ox = 0; ox < p.oW; ++ox) {
      float sx, sy, wx[4], wy[4];
      sample_point(t, ox, oy, &sx, &sy);
      const float fx = floorf(near ? sx + 0.5f : sx), fy = floorf(near ? sy + 0.5f : sy);
      if (near) {
        wx[0] = wx[2] = wx[3] = wy[0] = wy[2] = wy[3] = 0, wx[1] = wy[1] = 1;
      } else if (p.mode == Interp::bilinear) {
        wx[0] = wx[3] = wy[0] = wy[3] = 0;
        wx[2] = sx - fx, wy[2] = sy - fy, wx[1] = 1 - wx[2], wy[1] = 1 - wy[2];
      } else {
        cubic_weights(sx - fx, wx), cubic_weights(sy - fy, wy);
      }
      const T* from[16];
      float weight[16], filled = 0;
      int taps = 0;
      for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 4; ++j) {
          const float w = wy[i] * wx[j];
          if (w == 0) continue;
          const int64_t y = sample_index(p.fill, static_cast<int64_t>(fy) - 1 + i, p.H);
          const int64_t x = sample_index(p.fill, static_cast<int64_t>(fx) - 1 + j, p.W);
          if (y < 0 || x < 0) {
            filled += w;
            continue;
          }
          from[taps] = static_cast<const T*>(t.x) + (y * p.W + x) * p.C;
          weight[taps++] = w;
        }
      for (int64_t c = 0; c < p.C; ++c) {
        float v = filled != 0 ? filled * t.fill[c] : 0;
        for (int k = 0; k < taps; ++k) v += weight[k] * static_cast<float>(from[k][c]);
        put_value(t, (oy * p.oW + ox) * p.C + c, c, v);
      }
    }
}

// A pixel of a fixed number of bytes compiles to a few moves.
template <int64_t Bytes>
FASTCNN_OP void move_pixel(char* y, const char* x, int64_t bytes) {
  if constexpr (Bytes)
    memcpy(y, x, Bytes);
  else
    memcpy(y, x, static_cast<size_t>(bytes));
}

template <int64_t Bytes>
FASTCNN_OP void copied_row(const SampleTask& t, int64_t oy, int64_t bytes, const char* fill) {
  const AffineSampleParams& p = t.p;
  const auto shift_x = static_cast<int64_t>(t.matrix[2]), shift_y = static_cast<int64_t>(t.matrix[5]);
  const int64_t iy = sample_index(p.fill, t.matrix[4] > 0 ? oy + shift_y : shift_y - oy, p.H);
  const bool mirror = t.matrix[0] < 0;
  char* y = static_cast<char*>(t.y) + oy * p.oW * bytes;
  const char* x = static_cast<const char*>(t.x) + (iy < 0 ? 0 : iy) * p.W * bytes;
  // Output columns [low, high) are inside.
  int64_t low = mirror ? shift_x - (p.W - 1) : -shift_x, high = mirror ? shift_x + 1 : p.W - shift_x;
  low = low < 0 ? 0 : low > p.oW ? p.oW : low;
  high = high < low ? low : high > p.oW ? p.oW : high;
  if (iy < 0) low = high = 0;
  for (int64_t o = 0; o < p.oW; ++o) {
    if (o == low && high > low) {
      if (!mirror)
        memcpy(y + low * bytes, x + (low + shift_x) * bytes, static_cast<size_t>((high - low) * bytes));
      else
        for (int64_t k = low; k < high; ++k) move_pixel<Bytes>(y + k * bytes, x + (shift_x - k) * bytes, bytes);
      if ((o = high) >= p.oW) break;
    }
    const int64_t ix = iy < 0 ? -1 : sample_index(p.fill, mirror ? shift_x - o : o + shift_x, p.W);
    move_pixel<Bytes>(y + o * bytes, ix < 0 ? fill : x + ix * bytes, bytes);
  }
}

}  // namespace

void sample_rows(const SampleTask& t, int64_t begin, int64_t end) {
  with_types(t, [&]<class T, class Y>() {
    if (t.p.C == 3)
      rows_of<T, Y, 3>(t, begin, end);
    else if (t.p.C == 1)
      rows_of<T, Y, 1>(t, begin, end);
    else
      any_rows_of<T>(t, begin, end);
  });
}

void sample_copied_rows(const SampleTask& t, int64_t begin, int64_t end) {
  const int64_t bytes = t.p.C * (t.x_float ? 4 : 1);
  for (int64_t oy = begin; oy < end; ++oy) {
    const auto* fill = static_cast<const char*>(t.copied_fill);
    switch (bytes) {
      case 1: copied_row<1>(t, oy, 1, fill); break;
      case 3: copied_row<3>(t, oy, 3, fill); break;
      case 4: copied_row<4>(t, oy, 4, fill); break;
      case 12: copied_row<12>(t, oy, 12, fill); break;
      default: copied_row<0>(t, oy, bytes, fill);
    }
  }
}

void sample_colored_rows(const SampleTask& t, int64_t begin, int64_t end) {
  with_types(t, [&]<class T, class Y>() {
    auto run = [&]<int C>() {
      for (int64_t oy = begin; oy < end; ++oy) {
        RowEnd<Y, C> row(t, oy);
        for (int64_t ox = 0; ox < t.p.oW; ox += kLanes) {
          const int n = lanes_at(ox, t.p.oW);
          Pixels<C> v;
          load_pixels(static_cast<const Y*>(t.y) + (oy * t.p.oW + ox) * C, n, &v);
          row.put(ox, n, v);
        }
        row.end();
      }
    };
    if (t.p.C == 3)
      run.template operator()<3>();
    else
      run.template operator()<1>();
  });
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
