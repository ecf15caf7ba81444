// What it is: copies between layouts and casts between dtypes: dense rows, strided rows and blocked transposes.
#include <string.h>

#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/loops.h"

namespace fastcnn::cpu::FASTCNN_ISA {
namespace {

// Same element type: only the size counts.
template <class F>
FASTCNN_OP void with_size(size_t size, F&& f) {
  switch (size) {
    case 1: return f.template operator()<uint8_t>();
    case 2: return f.template operator()<uint16_t>();
    case 4: return f.template operator()<uint32_t>();
    default: return f.template operator()<uint64_t>();
  }
}

template <class From, class To>
FASTCNN_OP void convert(const From* x, To* y, int64_t n) {
  int64_t i = 0;
#if defined(__F16C__)
  if constexpr (same_type<From, float16> && same_type<To, float>)
    for (; i + 8 <= n; i += 8)
      _mm256_storeu_ps(y + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x + i))));
  if constexpr (same_type<From, float> && same_type<To, float16>)
    for (; i + 8 <= n; i += 8)
      _mm_storeu_si128(reinterpret_cast<__m128i*>(y + i), _mm256_cvtps_ph(_mm256_loadu_ps(x + i), 0));
#endif
  for (; i < n; ++i) y[i] = cast_to<To>(x[i]);
}

bool half(DType t) { return t == DType::bfloat16 || t == DType::float16; }

}  // namespace

void gather_row(const void* x, int64_t stride, size_t size, void* y, int64_t n) {
  with_size(size, [&]<class T>() {
    const T* from = static_cast<const T*>(x);
    T* to = static_cast<T*>(y);
    if (stride == 0) {
      T v = from[0];
      for (int64_t i = 0; i < n; ++i) to[i] = v;
    } else {
#pragma GCC unroll 4
      for (int64_t i = 0; i < n; ++i) to[i] = from[i * stride];
    }
  });
}

// 16-bit floats go by way of float32, which changes no result: they convert to nothing else directly.
void convert_row(const void* x, DType x_type, void* y, DType y_type, int64_t n) {
  if (x_type == y_type) {
    memcpy(y, x, n * dtype_size(x_type));
  } else if (half(x_type) || half(y_type)) {
    for (int64_t i = 0; i < n; i += kStage) {
      float buf[kStage];
      int64_t m = n - i < kStage ? n - i : kStage;
      const char* from = at(x, x_type, i);
      char* to = at(y, y_type, i);
      float* mid = y_type == DType::float32 ? reinterpret_cast<float*>(to) : buf;
      const float* got = mid;
      if (x_type == DType::bfloat16)
        convert(reinterpret_cast<const bfloat16*>(from), mid, m);
      else if (x_type == DType::float16)
        convert(reinterpret_cast<const float16*>(from), mid, m);
      else if (x_type == DType::float32)
        got = reinterpret_cast<const float*>(from);
      else
        convert_row(from, x_type, mid, DType::float32, m);
      if (y_type == DType::bfloat16)
        convert(got, reinterpret_cast<bfloat16*>(to), m);
      else if (y_type == DType::float16)
        convert(got, reinterpret_cast<float16*>(to), m);
      else if (y_type != DType::float32)
        convert_row(got, DType::float32, to, y_type, m);
    }
  } else {
    with_type(x_type, [&]<class From>() {
      with_type(y_type, [&]<class To>() {
        if constexpr (!same_type<From, To> && !half_type<From> && !half_type<To>)
          convert(static_cast<const From*>(x), static_cast<To*>(y), n);
      });
    });
  }
}

const float* stage_floats(const void* x, DType t, int64_t offset, int64_t stride, int64_t n, float* buf) {
  const char* from = at(x, t, offset);
  if (stride == 1) {
    if (t == DType::float32) return reinterpret_cast<const float*>(from);
    convert_row(from, t, buf, DType::float32, n);
  } else if (t == DType::float32) {
    gather_row(from, stride, 4, buf, n);
  } else {
    uint64_t raw[kStage];
    gather_row(from, stride, dtype_size(t), raw, n);
    convert_row(raw, t, buf, DType::float32, n);
  }
  return buf;
}

namespace {

// Whole lines past the caches; bytes and y are multiples of a line.
void stream_row(const float* x, float* y, int64_t floats) {
  for (int64_t i = 0; i < floats; i += kLanes) stream(y + i, load(x + i));
}

template <class T>
void copy_same(const EltLoop& l, const T* x, T* y, int64_t begin, int64_t end, bool nt) {
  int last = l.ndim - 1;
  int64_t sx = l.strides[1][last], sy = l.strides[0][last];
  int64_t rx = last ? l.strides[1][last - 1] : 0, ry = last ? l.strides[0][last - 1] : 0;
  walk_blocks<2>(l, begin, end, [&](const int64_t* off, int64_t rows, int64_t n) {
    for (int64_t r = 0; r < rows; ++r) {
      const T* xr = x + off[1] + r * rx;
      T* yr = y + off[0] + r * ry;
      if (sy != 1)  // the window of a cat
        for (int64_t i = 0; i < n; ++i) yr[i * sy] = xr[i * sx];
      else if (sx != 1)
        gather_row(xr, sx, sizeof(T), yr, n);
      else if (nt && n * sizeof(T) % 64 == 0 && reinterpret_cast<uintptr_t>(yr) % 64 == 0)
        stream_row(reinterpret_cast<const float*>(xr), reinterpret_cast<float*>(yr), n * sizeof(T) / 4);
      else if (n >= 16)
        memcpy(yr, xr, n * sizeof(T));
      else
        for (int64_t i = 0; i < n; ++i) yr[i] = xr[i];
    }
  });
}

void copy_cast(const EltLoop& l, const void* x, DType x_type, void* y, DType y_type, int64_t begin, int64_t end) {
  int last = l.ndim - 1;
  int64_t sx = l.strides[1][last], sy = l.strides[0][last];
  int64_t rx = last ? l.strides[1][last - 1] : 0, ry = last ? l.strides[0][last - 1] : 0;
  size_t size_y = dtype_size(y_type);
  walk_blocks<2>(l, begin, end, [&](const int64_t* off, int64_t rows, int64_t n) {
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t i = 0; i < n; i += kStage) {
        uint64_t xb[kStage], yb[kStage];
        int64_t m = n - i < kStage ? n - i : kStage;
        const void* from = at(x, x_type, off[1] + r * rx + i * sx);
        char* to = at(y, y_type, off[0] + r * ry + i * sy);
        if (sx != 1) gather_row(from, sx, dtype_size(x_type), xb, m), from = xb;
        convert_row(from, x_type, sy == 1 ? static_cast<void*>(to) : yb, y_type, m);
        if (sy != 1)
          for (int64_t j = 0; j < m; ++j)
            memcpy(to + j * sy * size_y, reinterpret_cast<const char*>(yb) + j * size_y, size_y);
      }
  });
}

// Tiles of 32 x 32 stay in L1 whatever the strides.
template <class From, class To>
void transpose_block(const From* x, int64_t ldx, To* y, int64_t ldy, int64_t cols, int64_t begin, int64_t end) {
  for (int64_t r0 = begin; r0 < end; r0 += 32) {
    int64_t r1 = r0 + 32 < end ? r0 + 32 : end;
    for (int64_t c0 = 0; c0 < cols; c0 += 32) {
      int64_t c1 = c0 + 32 < cols ? c0 + 32 : cols;
      for (int64_t r = r0; r < r1; ++r)
        for (int64_t c = c0; c < c1; ++c) y[r * ldy + c] = cast_to<To>(x[c * ldx + r]);
    }
  }
}

// Few columns (planar images to pixels): whole columns are read along memory.
template <class From, class To, int Cols>
void interleave(const From* x, int64_t ldx, To* y, int64_t ldy, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r)
    for (int c = 0; c < Cols; ++c) y[r * ldy + c] = cast_to<To>(x[c * ldx + r]);
}

template <class From, class To>
void transpose_any(const From* x, int64_t ldx, To* y, int64_t ldy, int64_t cols, int64_t begin, int64_t end) {
  if (cols == 2) return interleave<From, To, 2>(x, ldx, y, ldy, begin, end);
  if (cols == 3) return interleave<From, To, 3>(x, ldx, y, ldy, begin, end);
  if (cols == 4) return interleave<From, To, 4>(x, ldx, y, ldy, begin, end);
  transpose_block(x, ldx, y, ldy, cols, begin, end);
}

void transpose_floats(const float* x, int64_t ldx, float* y, int64_t ldy, int64_t cols, int64_t begin,
                      int64_t end) {
  int64_t full_cols = cols / kLanes * kLanes, full_end = begin + (end - begin) / kLanes * kLanes;
  for (int64_t r = begin; r < full_end; r += kLanes)
    for (int64_t c = 0; c < full_cols; c += kLanes) {
      vf t[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) t[i] = load(x + (c + i) * ldx + r);
      transpose(t);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) store(y + (r + i) * ldy + c, t[i]);
    }
  if (full_cols < cols)
    transpose_block(x + full_cols * ldx, ldx, y + full_cols, ldy, cols - full_cols, begin, full_end);
  transpose_block(x, ldx, y, ldy, cols, full_end, end);
}

}  // namespace

void copy_map(const EltLoop& loop, const void* x, DType x_type, void* y, DType y_type, int64_t begin, int64_t end,
              int nt) {
  if (x_type != y_type) return copy_cast(loop, x, x_type, y, y_type, begin, end);
  with_size(dtype_size(x_type), [&]<class T>() {
    copy_same(loop, static_cast<const T*>(x), static_cast<T*>(y), begin, end, nt != 0);
  });
  if (nt) fence();
}

void copy_transposed(const void* x, int64_t ldx, DType x_type, void* y, int64_t ldy, DType y_type, int64_t cols,
                     int64_t begin, int64_t end) {
  if (x_type == y_type) {
    if (dtype_size(x_type) == 4 && cols > 4)
      return transpose_floats(static_cast<const float*>(x), ldx, static_cast<float*>(y), ldy, cols, begin, end);
    with_size(dtype_size(x_type), [&]<class T>() {
      transpose_any(static_cast<const T*>(x), ldx, static_cast<T*>(y), ldy, cols, begin, end);
    });
  } else if (x_type == DType::uint8 && y_type == DType::float32) {  // planar bytes of an image file
    transpose_any(static_cast<const uint8_t*>(x), ldx, static_cast<float*>(y), ldy, cols, begin, end);
  }
}

}  // namespace fastcnn::cpu::FASTCNN_ISA
