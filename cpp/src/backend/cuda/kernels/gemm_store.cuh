// What it is: how a warp brings 16 rows of C from shared memory to where they belong: bias, residual, activation,
// rounding; or as parts of a split depth. What it is not: the product.
#pragma once
#include "backend/cuda/kernels/gemm_load.cuh"
#include "backend/cuda/kernels/tensor_core.cuh"

namespace fastcnn::cuda {

// `packed`: rows of the destination may be written 16 bytes at once. `wide`: C is kept in float32.
struct Destination {
  void* out;
  bool wide, packed;
  float* parts;
};

struct alignas(16) Quad4 {
  float v[4];
};

// `rows`: (16, W) float32 with a pad of 4; m, n: of its first element. part: split * problems + problem.
template <class T, int W, class Load>
FASTCNN_DEVICE void store_rows(const Load& load, const typename Load::Problem& q, const Epilogue<T>& epilogue,
                               const Destination& to, int32_t splits, int64_t part, int32_t m0, int32_t n0,
                               float* rows) {
  constexpr int kChunk = MmaType<T>::chunk, kRow = W + 4;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (int e = lane; e < 16 * W / kChunk; e += 32) {
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
            *reinterpret_cast<Quad4*>(y + j) = *reinterpret_cast<const Quad4*>(v + j);
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

}  // namespace fastcnn::cuda
