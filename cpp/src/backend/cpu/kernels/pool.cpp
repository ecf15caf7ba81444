// What it is: max and average pooling over N,H,W,C memory, vectors along C. The backward passes gather: each input
// pixel sums over the windows that cover it, in raster order, so dx is written once and no two threads meet.
#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/lanes.h"

namespace fastcnn::cpu::FASTCNN_ISA {
namespace {

// int32 lanes travel in a vf; loads and stores copy bits only.
FASTCNN_OP const float* bits(const int32_t* p) { return reinterpret_cast<const float*>(p); }
FASTCNN_OP float* bits(int32_t* p) { return reinterpret_cast<float*>(p); }

// Calls f.template operator()<NV>(first channel, lanes) for the vectors of one channel block.
template <class F>
FASTCNN_OP void for_channels(const PoolArgs& p, int64_t cb, F f) {
  int64_t c = cb * kPoolVectors * kLanes, e = c + kPoolVectors * kLanes;
  if (e <= p.C) return f.template operator()<kPoolVectors>(c, kLanes);
  for (; c < p.C; c += kLanes) f.template operator()<1>(c, static_cast<int>(p.C - c < kLanes ? p.C - c : kLanes));
}

template <int NV, class T>
FASTCNN_OP void max_pixel(const PoolArgs& p, const T* x, const PoolWindow& wh, const PoolWindow& ww, int n, T* y,
                          int32_t* index) {
  vf best[NV], at[NV];
  if (wh.begin >= wh.end || ww.begin >= ww.end) {
    for (int v = 0; v < NV; ++v) best[v] = set1(-__builtin_inff()), at[v] = set1_bits(-1);
  } else {
    const T* first = x + (wh.begin * p.W + ww.begin) * p.C;
    for (int v = 0; v < NV; ++v) {
      best[v] = get(first + v * kLanes, n);
      at[v] = set1_bits(static_cast<int32_t>(wh.begin * p.W + ww.begin));
    }
    for (int64_t h = wh.begin; h < wh.end; h += wh.step)
      for (int64_t w = ww.begin + (h == wh.begin ? ww.step : 0); w < ww.end; w += ww.step) {
        const T* q = x + (h * p.W + w) * p.C;
        vf here = set1_bits(static_cast<int32_t>(h * p.W + w));
        for (int v = 0; v < NV; ++v) {  // a later value wins when greater or NaN
          vf t = get(q + v * kLanes, n);
          at[v] = select_nan(t, here, select_gt(t, best[v], here, at[v]));
          best[v] = select_nan(t, t, select_gt(t, best[v], t, best[v]));
        }
      }
  }
  for (int v = 0; v < NV; ++v) {
    put(y + v * kLanes, best[v], n);
    put(bits(index + v * kLanes), at[v], n);
  }
}

template <int NV, class T>
FASTCNN_OP void max_bwd_pixel(const PoolArgs& p, const T* dy, const int32_t* index, const PoolCover& ch,
                              const PoolCover& cw, int32_t pixel, int n, T* dx) {
  vf sum[NV], here = set1_bits(pixel);
  for (int v = 0; v < NV; ++v) sum[v] = zero();
  for (int64_t oh = ch.first; oh <= ch.last; ++oh)
    for (int64_t ow = cw.first; ow <= cw.last; ++ow) {
      int64_t o = (oh * p.oW + ow) * p.C;
      for (int v = 0; v < NV; ++v) {
        vf hit = select_same_bits(get(bits(index + o + v * kLanes), n), here, get(dy + o + v * kLanes, n), zero());
        sum[v] = add(sum[v], hit);
      }
    }
  for (int v = 0; v < NV; ++v) put(dx + v * kLanes, sum[v], n, p.nt != 0);
}

template <int NV, class T>
FASTCNN_OP void avg_pixel(const PoolArgs& p, const T* x, const PoolWindow& wh, const PoolWindow& ww, float inv,
                          int n, T* y) {
  vf total[NV];
  for (int v = 0; v < NV; ++v) total[v] = zero();
  for (int64_t h = wh.begin; h < wh.end; ++h) {
    vf row[NV];  // rows first: a short chain of additions keeps a global pool accurate
    for (int v = 0; v < NV; ++v) row[v] = zero();
    for (int64_t w = ww.begin; w < ww.end; ++w)
      for (int v = 0; v < NV; ++v) row[v] = add(row[v], get(x + (h * p.W + w) * p.C + v * kLanes, n));
    for (int v = 0; v < NV; ++v) total[v] = add(total[v], row[v]);
  }
  for (int v = 0; v < NV; ++v) put(y + v * kLanes, mul(total[v], set1(inv)), n);
}

template <int NV, class T>
FASTCNN_OP void avg_bwd_pixel(const PoolArgs& p, const T* dy, const PoolCover& ch, const PoolCover& cw, int n,
                              T* dx) {
  vf sum[NV];
  for (int v = 0; v < NV; ++v) sum[v] = zero();
  for (int64_t oh = ch.first; oh <= ch.last; ++oh)
    for (int64_t ow = cw.first; ow <= cw.last; ++ow) {
      vf inv = set1(1.0f / (p.row_size[oh] * p.col_size[ow]));
      for (int v = 0; v < NV; ++v) sum[v] = fma(get(dy + (oh * p.oW + ow) * p.C + v * kLanes, n), inv, sum[v]);
    }
  for (int v = 0; v < NV; ++v) put(dx + v * kLanes, sum[v], n, p.nt != 0);
}

// bfloat16 addresses travel in PoolArgs as those of floats.
template <class T>
FASTCNN_OP const T* values(const float* p) {
  return reinterpret_cast<const T*>(p);
}
template <class T>
FASTCNN_OP T* values(float* p) {
  return reinterpret_cast<T*>(p);
}

#define ALWAYS __attribute__((always_inline))

template <class T>
void max_pool_rows(const PoolArgs& p, int64_t begin, int64_t end) {
  for (int64_t item = begin; item < end; ++item) {
    int64_t row = item / p.cblocks, oh = row % p.oH;
    const T* x = values<T>(p.x) + row / p.oH * p.H * p.W * p.C;
    for_channels(p, item % p.cblocks, [&]<int NV>(int64_t c, int n) ALWAYS {
      for (int64_t ow = 0; ow < p.oW; ++ow) {
        int64_t o = (row * p.oW + ow) * p.C + c;
        max_pixel<NV>(p, x + c, p.rows[oh], p.cols[ow], n, values<T>(p.y) + o, p.index + o);
      }
    });
  }
}

template <class T>
void max_pool_bwd_rows(const PoolArgs& p, int64_t begin, int64_t end) {
  for (int64_t item = begin; item < end; ++item) {
    int64_t row = item / p.cblocks, h = row % p.H, plane = row / p.H * p.oH * p.oW * p.C;
    for_channels(p, item % p.cblocks, [&]<int NV>(int64_t c, int n) ALWAYS {
      for (int64_t w = 0; w < p.W; ++w)
        max_bwd_pixel<NV>(p, values<T>(p.x) + plane + c, p.index + plane + c, p.cover_rows[h], p.cover_cols[w],
                          static_cast<int32_t>(h * p.W + w), n, values<T>(p.y) + (row * p.W + w) * p.C + c);
    });
  }
  if (p.nt) fence();
}

template <class T>
void avg_pool_rows(const PoolArgs& p, int64_t begin, int64_t end) {
  for (int64_t item = begin; item < end; ++item) {
    int64_t row = item / p.cblocks, oh = row % p.oH;
    const T* x = values<T>(p.x) + row / p.oH * p.H * p.W * p.C;
    for_channels(p, item % p.cblocks, [&]<int NV>(int64_t c, int n) ALWAYS {
      for (int64_t ow = 0; ow < p.oW; ++ow) {
        bool empty = p.rows[oh].begin >= p.rows[oh].end || p.cols[ow].begin >= p.cols[ow].end;
        float inv = empty ? 0 : 1.0f / (p.row_size[oh] * p.col_size[ow]);
        avg_pixel<NV>(p, x + c, p.rows[oh], p.cols[ow], inv, n, values<T>(p.y) + (row * p.oW + ow) * p.C + c);
      }
    });
  }
}

template <class T>
void avg_pool_bwd_rows(const PoolArgs& p, int64_t begin, int64_t end) {
  for (int64_t item = begin; item < end; ++item) {
    int64_t row = item / p.cblocks, h = row % p.H;
    const T* dy = values<T>(p.x) + row / p.H * p.oH * p.oW * p.C;
    for_channels(p, item % p.cblocks, [&]<int NV>(int64_t c, int n) ALWAYS {
      for (int64_t w = 0; w < p.W; ++w)
        avg_bwd_pixel<NV>(p, dy + c, p.cover_rows[h], p.cover_cols[w], n,
                          values<T>(p.y) + (row * p.W + w) * p.C + c);
    });
  }
  if (p.nt) fence();
}

}  // namespace

void max_pool_bf16(const PoolArgs* a, int64_t begin, int64_t end) { max_pool_rows<bfloat16>(*a, begin, end); }
void max_pool_bwd_bf16(const PoolArgs* a, int64_t begin, int64_t end) {
  max_pool_bwd_rows<bfloat16>(*a, begin, end);
}
void avg_pool_bf16(const PoolArgs* a, int64_t begin, int64_t end) { avg_pool_rows<bfloat16>(*a, begin, end); }
void avg_pool_bwd_bf16(const PoolArgs* a, int64_t begin, int64_t end) {
  avg_pool_bwd_rows<bfloat16>(*a, begin, end);
}

#if FASTCNN_SHARED_HERE
void max_pool(const PoolArgs* a, int64_t begin, int64_t end) { max_pool_rows<float>(*a, begin, end); }
void max_pool_bwd(const PoolArgs* a, int64_t begin, int64_t end) { max_pool_bwd_rows<float>(*a, begin, end); }
void avg_pool(const PoolArgs* a, int64_t begin, int64_t end) { avg_pool_rows<float>(*a, begin, end); }
void avg_pool_bwd(const PoolArgs* a, int64_t begin, int64_t end) { avg_pool_bwd_rows<float>(*a, begin, end); }
#endif

}  // namespace fastcnn::cpu::FASTCNN_ISA
