// What it is: the ordered CPU implementations of interpolate and interpolate_bwd. Both are one scheme: each output
// row is a weighted sum of input rows, then each pixel a weighted sum of pixels; backward uses the transposed
// taps.
#include <algorithm>
#include <cstring>
#include <vector>

#include "backend/cpu/interp_axis.h"
#include "backend/cpu/isa.h"
#include "backend/cpu/lists.h"
#include "backend/cpu/ref/ref.h"
#include "backend/cpu/threads.h"
#include "backend/cpu/via_float32.h"

namespace fastcnn::cpu {
namespace {

// Taps of all outputs of one axis, weights of 0 left out.
struct Taps {
  std::vector<int64_t> start, index;
  std::vector<float> weight;
};

Taps gather_taps(const InterpAxis<float>& a, int64_t out) {
  Taps t;
  t.start.push_back(0);
  for (int64_t o = 0; o < out; ++o) {
    for (int64_t k = o * a.taps; k < (o + 1) * a.taps; ++k) {
      if (a.weight[k] == 0) continue;
      t.index.push_back(a.index[k]);
      t.weight.push_back(a.weight[k]);
    }
    t.start.push_back(static_cast<int64_t>(t.index.size()));
  }
  return t;
}

Taps transposed(const Taps& t, int64_t in) {
  Taps r;
  r.start.assign(in + 1, 0);
  r.index.resize(t.index.size());
  r.weight.resize(t.index.size());
  for (int64_t i : t.index) ++r.start[i + 1];
  for (int64_t i = 0; i < in; ++i) r.start[i + 1] += r.start[i];
  std::vector<int64_t> at(r.start.begin(), r.start.end() - 1);
  for (int64_t o = 0; o + 1 < static_cast<int64_t>(t.start.size()); ++o)
    for (int64_t k = t.start[o]; k < t.start[o + 1]; ++k) {
      int64_t slot = at[t.index[k]]++;
      r.index[slot] = o;
      r.weight[slot] = t.weight[k];
    }
  return r;
}

void convert(const KernelTable& k, const void* x, DType from, void* y, DType to, int64_t n) {
  EltLoop l;
  l.operands = 2;
  l.total = l.shape[0] = n;
  l.strides[0][0] = l.strides[1][0] = 1;
  k.copy_map(l, x, from, y, to, 0, n, 0);
}

// x (N, H, W, C) to y (N, oH, oW, C).
void resample(const Operand& x, const Operand& y, const Taps& rows, const Taps& cols) {
  const KernelTable& k = *kernels();
  int64_t C = x.shape[1], H = x.shape[2], W = x.shape[3], oH = y.shape[2], oW = y.shape[3];
  DType type = x.dtype;
  bool f32 = type == DType::float32;
  size_t size = dtype_size(type);
  int64_t row = W * C, out_row = oW * C, widest = 0;
  for (int64_t o = 0; o < oH; ++o) widest = std::max(widest, rows.start[o + 1] - rows.start[o]);
  parallel_for(x.shape[0] * oH, 16 * 1024 / (row + out_row) + 1, [&](int64_t b, int64_t e, int) {
    // Grown once per thread, then reused by every call.
    thread_local std::vector<float> buffer;
    buffer.resize(row + (f32 ? 0 : widest * row + out_row));
    float *mid = buffer.data(), *staged = mid + row, *out_stage = staged + widest * row;
    std::vector<int64_t> offset(widest);
    for (int64_t item = b; item < e; ++item) {
      int64_t n = item / oH, o = item % oH, first = rows.start[o], taps = rows.start[o + 1] - first;
      const char* image = x.as<char>() + n * H * row * size;
      for (int64_t t = 0; t < taps; ++t) {
        int64_t h = rows.index[first + t];
        if (f32) {
          offset[t] = h * row;
        } else {
          offset[t] = t * row;
          convert(k, image + h * row * size, type, staged + t * row, DType::float32, row);
        }
      }
      const float *source = f32 ? reinterpret_cast<const float*>(image) : staged, *line = mid;
      if (taps == 1 && rows.weight[first] == 1.0f)
        line = source + offset[0];
      else
        k.combine_rows(source, offset.data(), rows.weight.data() + first, taps, mid, row);
      char* out = y.as<char>() + item * out_row * size;
      float* dst = f32 ? reinterpret_cast<float*>(out) : out_stage;
      k.combine_pixels(line, cols.start.data(), cols.index.data(), cols.weight.data(), oW, C, dst);
      if (!f32) convert(k, dst, DType::float32, out, type, out_row);
    }
  });
}

bool nearest(Interp m) { return m == Interp::nearest || m == Interp::nearest_exact; }

// Pixels of a fixed size compile to a few moves.
template <class P>
void copy_pixels(const char* x, const int64_t* index, char* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) std::memcpy(y + i * sizeof(P), x + index[i] * sizeof(P), sizeof(P));
}
template <int N>
struct Bytes {
  char b[N];
};

void nearest_forward(const InterpolateParams& p, const Operand& x, const Operand& y) {
  InterpAxis<float> ah, aw;
  interp_axes(p, &ah, &aw);
  int64_t pixel = p.C * static_cast<int64_t>(dtype_size(x.dtype)), row = p.W * pixel, out_row = p.oW * pixel;
  parallel_for(p.N * p.oH, 64 * 1024 / out_row + 1, [&](int64_t b, int64_t e, int) {
    int64_t before = -1;
    for (int64_t item = b; item < e; ++item) {
      int64_t from = item / p.oH * p.H + ah.index[item % p.oH];
      const char* src = x.as<char>() + from * row;
      char* dst = y.as<char>() + item * out_row;
      if (from == before) {
        std::memcpy(dst, dst - out_row, out_row);
        continue;
      }
      before = from;
      const int64_t* at = aw.index.data();
      switch (pixel) {
        case 1: copy_pixels<Bytes<1>>(src, at, dst, p.oW); break;
        case 3: copy_pixels<Bytes<3>>(src, at, dst, p.oW); break;
        case 4: copy_pixels<Bytes<4>>(src, at, dst, p.oW); break;
        case 12: copy_pixels<Bytes<12>>(src, at, dst, p.oW); break;
        case 64: copy_pixels<Bytes<64>>(src, at, dst, p.oW); break;
        default:
          for (int64_t i = 0; i < p.oW; ++i) std::memcpy(dst + i * pixel, src + at[i] * pixel, pixel);
      }
    }
  });
}

const char* declines(const Call& c) {
  if (!kernels()) return "no kernels in this ISA";
  if (c.kind == OpKind::interpolate && nearest(c.as<InterpolateParams>().mode)) return nullptr;
  DType t = c.in[0].dtype;
  return is_floating(t) && t != DType::float64 ? nullptr : "element type without float32 vectors";
}

void forward(const Call& c) {
  const auto& p = c.as<InterpolateParams>();
  if (c.in[0].numel() == 0 || c.out[0].numel() == 0) return;
  if (nearest(p.mode)) return nearest_forward(p, c.in[0], c.out[0]);
  InterpAxis<float> ah, aw;
  interp_axes(p, &ah, &aw);
  resample(c.in[0], c.out[0], gather_taps(ah, p.oH), gather_taps(aw, p.oW));
}

void backward(const Call& c) {
  const auto& p = c.as<InterpolateParams>();
  const Operand &dy = c.in[0], &dx = c.out[0];
  if (dx.numel() == 0) return;
  if (dy.numel() == 0) {
    std::memset(dx.data, 0, dx.numel() * dtype_size(dx.dtype));
    return;
  }
  InterpAxis<float> ah, aw;
  interp_axes(p, &ah, &aw);
  resample(dy, dx, transposed(gather_taps(ah, p.oH), p.H), transposed(gather_taps(aw, p.oW), p.W));
}

}  // namespace

List interpolate_list() {
  static const Implementation list[] = {{"simd", declines, nullptr, forward},
                                        ViaFloat32<interpolate_list>::entry(),
                                        {"ref", nullptr, nullptr, ref::interpolate}};
  return list;
}

List interpolate_bwd_list() {
  static const Implementation list[] = {{"simd", declines, nullptr, backward},
                                        ViaFloat32<interpolate_bwd_list>::entry(),
                                        {"ref", nullptr, nullptr, ref::interpolate_bwd}};
  return list;
}

}  // namespace fastcnn::cpu
