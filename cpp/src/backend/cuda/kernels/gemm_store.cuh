// What it is: how a warp brings rows of C from shared memory to where they belong: bias, residual, activation,
// rounding; or as parts of a split depth. What it is not: the product.
#pragma once
#include "backend/cuda/kernels/gemm_load.cuh"
#include "backend/cuda/kernels/packs.cuh"
#include "backend/cuda/kernels/tensor_core.cuh"

namespace fastcnn::cuda {

// `packed`: rows of the destination may be written 16 bytes at once. `wide`: C is kept in float32. parts: of a
// split depth, or sums of columns (moments.cuh).
struct Destination {
  void* out;
  bool wide, packed;
  float* parts;
};

template <class R>
struct alignas(2 * sizeof(R)) Two {
  R v[2];
};

// `rows`: (R, W) float32 with a pad of 4; m, n: of its first element. part: split * problems + problem.
template <class T, int W, int R = 16, class Load>
FASTCNN_DEVICE void store_rows(const Load& load, const typename Load::Problem& q, const Epilogue<T>& epilogue,
                               const Destination& to, int32_t splits, int64_t part, int32_t m0, int32_t n0,
                               float* rows) {
  constexpr int kChunk = MmaType<T>::chunk, kRow = W + 4;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (int e = lane; e < R * W / kChunk; e += 32) {
    const int r = e / (W / kChunk), c = e % (W / kChunk) * kChunk;
    const int32_t m = m0 + r, n = n0 + c;
    if (m >= q.M || n >= q.N) continue;
    float* v = rows + r * kRow + c;
    const int32_t width = q.N - n < kChunk ? q.N - n : kChunk;
    const bool split = splits > 1;
    if (split || to.wide) {
      float* y =
          split ? to.parts + (part * q.M + m) * q.N + n : static_cast<float*>(to.out) + load.out_row(q, m) + n;
      if (split || !(epilogue.bias || epilogue.residual || epilogue.act.act != Act::none)) {
        if (to.packed) {
          FASTCNN_UNROLL
          for (int j = 0; j < kChunk; j += 4)
            *reinterpret_cast<Pack<float>*>(y + j) = *reinterpret_cast<const Pack<float>*>(v + j);
        } else {
          for (int j = 0; j < width; ++j) y[j] = v[j];
        }
        continue;
      }
    }
    const int64_t at = load.out_row(q, m) + n;
    const int32_t column = load.column(q) + n;
    if (!to.packed || to.wide) {
      FASTCNN_NO_UNROLL
      for (int j = 0; j < width; ++j)
        store_result<T>(to.out, to.wide, at + j, finish(epilogue, v[j], column + j, at + j));
      continue;
    }
    Pack<T> y;
    float f[kChunk];
    FASTCNN_UNROLL
    for (int j = 0; j < kChunk; ++j) f[j] = v[j] + (epilogue.bias ? to_real(epilogue.bias[column + j]) : 0);
    if (epilogue.residual) {
      const Pack<T> x = *reinterpret_cast<const Pack<T>*>(epilogue.residual + at);
      FASTCNN_UNROLL
      for (int j = 0; j < kChunk; ++j) f[j] += to_real(x.v[j]);
    }
    if (epilogue.act.act == Act::relu) {
      FASTCNN_UNROLL
      for (int j = 0; j < kChunk; ++j) f[j] = f[j] < 0 ? 0 : f[j];
    } else if (epilogue.act.act != Act::none) {  // not unrolled: the code of all activations stands here once
      FASTCNN_UNROLL
      for (int j = 0; j < kChunk; ++j) v[j] = f[j];
      FASTCNN_NO_UNROLL
      for (int j = 0; j < kChunk; ++j) v[j] = apply_act(epilogue.act, v[j]);
      FASTCNN_UNROLL
      for (int j = 0; j < kChunk; ++j) f[j] = v[j];
    }
    FASTCNN_UNROLL
    for (int j = 0; j < kChunk; ++j) y.v[j] = from_real<T>(f[j]);
    *reinterpret_cast<Pack<T>*>(static_cast<T*>(to.out) + at) = y;
  }
}

// Two 16-bit floats in a word (to_pair), added.
template <class T>
FASTCNN_DEVICE void add_pair(uint32_t pair, float* a, float* b) {
  T v;
  v.bits = static_cast<uint16_t>(pair);
  *a += to_real(v);
  v.bits = static_cast<uint16_t>(pair >> 16);
  *b += to_real(v);
}

// Word b of lane q of four goes to lane b as word q.
FASTCNN_DEVICE void turn_four(uint32_t (&r)[4]) {
  const unsigned lane = threadIdx.x;
  const bool odd = lane & 1, high = lane & 2;
  uint32_t t0 = odd ? r[0] : r[1], t1 = odd ? r[2] : r[3];
  t0 = __shfl_xor_sync(0xffffffffu, t0, 1), t1 = __shfl_xor_sync(0xffffffffu, t1, 1);
  if (odd)
    r[0] = t0, r[2] = t1;
  else
    r[1] = t0, r[3] = t1;
  t0 = high ? r[0] : r[2], t1 = high ? r[1] : r[3];
  t0 = __shfl_xor_sync(0xffffffffu, t0, 2), t1 = __shfl_xor_sync(0xffffffffu, t1, 2);
  if (high)
    r[0] = t0, r[1] = t1;
  else
    r[2] = t0, r[3] = t1;
}

// May the bias be read two at a time? (The residual has C's alignment.)
template <class T>
FASTCNN_DEVICE bool aligned_pairs(const Epilogue<T>& e, int32_t column) {
  return !e.bias || (reinterpret_cast<uintptr_t>(e.bias + column) & 3) == 0;
}

// Straight from registers: 64 bytes of 8 rows at a time. `more`: bias, residual, relu or relu6.
template <class T, int BN, bool more, class Load>
FASTCNN_DEVICE void store_packed(const Load& load, const typename Load::Problem& q, const Epilogue<T>& epilogue,
                                 void* out, int32_t m0, int32_t n0, const float (&sum)[BN / 2]) {
  const int lane = static_cast<int>(threadIdx.x) % 32, in_four = lane % 4;
  const T* bias = more && epilogue.bias ? epilogue.bias + load.column(q) : nullptr;
  const float least = epilogue.act.act == Act::none ? -INFINITY : 0;
  const float most = epilogue.act.act == Act::relu6 ? 6 : INFINITY;
  FASTCNN_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int32_t m = m0 + half * 8 + lane / 4;
    const bool inside = m < q.M;
    const int64_t row = inside ? load.out_row(q, m) : 0;
    T* y = static_cast<T*>(out) + row + n0 + in_four * 8;
    FASTCNN_UNROLL
    for (int four = 0; four < BN / 32; ++four) {
      uint32_t r[4];
      FASTCNN_UNROLL
      for (int b = 0; b < 4; ++b) {
        const int j = four * 4 + b;
        float v0 = sum[j * 4 + half * 2], v1 = sum[j * 4 + half * 2 + 1];
        if constexpr (more) {
          const int32_t n = n0 + j * 8 + in_four * 2;
          if (inside && n < q.N) {
            if (bias) add_pair<T>(*reinterpret_cast<const uint32_t*>(bias + n), &v0, &v1);
            if (epilogue.residual)
              add_pair<T>(*reinterpret_cast<const uint32_t*>(epilogue.residual + row + n), &v0, &v1);
          }
          v0 = v0 < least ? least : v0 > most ? most : v0, v1 = v1 < least ? least : v1 > most ? most : v1;
        }
        r[b] = to_pair<T>(v0, v1);
      }
      turn_four(r);
      if (inside && n0 + four * 32 + in_four * 8 < q.N)
        *reinterpret_cast<Pack<uint32_t>*>(y + four * 32) = Pack<uint32_t>{{r[0], r[1], r[2], r[3]}};
    }
  }
}

// 16 rows of a product by wgmma, as its fragments hold them (see multiply_lines), from row m0 on. What is neither
// packed nor cheap goes by way of `drain`, (8, 32 + 4) floats; its code stands here once, or it would not fit the
// instruction cache.
template <class T, int BN, class Load>
FASTCNN_DEVICE void store_fragments(const Load& load, const typename Load::Problem& q, const Epilogue<T>& epilogue,
                                    const Destination& to, int32_t splits, int64_t part, int32_t m0, int32_t n0,
                                    const float (&sum)[BN / 2], float* drain) {
  const int lane = static_cast<int>(threadIdx.x) % 32, in_four = lane % 4;
  const Act act = epilogue.act.act;
  if (to.packed && (splits > 1 || to.wide)) {
    FASTCNN_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int32_t m = m0 + half * 8 + lane / 4;
      if (m >= q.M) continue;
      float* y =
          (splits > 1 ? to.parts + (part * q.M + m) * q.N : static_cast<float*>(to.out) + load.out_row(q, m)) +
          n0 + in_four * 2;
      FASTCNN_UNROLL
      for (int j = 0; j < BN / 8; ++j)
        if (n0 + j * 8 < q.N)
          *reinterpret_cast<Two<float>*>(y + j * 8) =
              Two<float>{{sum[j * 4 + half * 2], sum[j * 4 + half * 2 + 1]}};
    }
  } else if (to.packed && act == Act::none && !epilogue.bias && !epilogue.residual) {
    store_packed<T, BN, false>(load, q, epilogue, to.out, m0, n0, sum);
  } else if (to.packed && aligned_pairs(epilogue, load.column(q)) &&
             (act == Act::none || act == Act::relu || act == Act::relu6)) {
    store_packed<T, BN, true>(load, q, epilogue, to.out, m0, n0, sum);
  } else {
    constexpr int W = 32, kRow = W + 4, slabs = BN / W;
    FASTCNN_NO_UNROLL
    for (int round = 0; round < 2 * slabs; ++round) {
      FASTCNN_UNROLL
      for (int half = 0; half < 2; ++half) FASTCNN_UNROLL
      for (int j = 0; j < BN / 8; ++j) {
        if (round != half * slabs + j / (W / 8)) continue;
        float* at = drain + lane / 4 * kRow + j % (W / 8) * 8 + in_four * 2;
        at[0] = sum[j * 4 + half * 2], at[1] = sum[j * 4 + half * 2 + 1];
      }
      sync_warp();
      store_rows<T, W, 8>(load, q, epilogue, to, splits, part, m0 + round / slabs * 8, n0 + round % slabs * W,
                          drain);
      sync_warp();
    }
  }
}
constexpr size_t kFragmentDrain = 8 * (32 + 4) * sizeof(float);  // bytes, of a warp

}  // namespace fastcnn::cuda
