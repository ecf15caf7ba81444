// See tensor_map.h.
#include "backend/cuda/tensor_map.h"

#if defined(__CUDACC__)
#include <stdexcept>
#include <string>

#include "backend/cuda/check.h"

namespace fastcnn::cuda {
namespace {

template <class F>
F* entry(const char* name) {
  void* f = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
#if CUDART_VERSION >= 12050
  const cudaError_t e = cudaGetDriverEntryPointByVersion(name, &f, 12000, cudaEnableDefault, &found);
#else
  const cudaError_t e = cudaGetDriverEntryPoint(name, &f, cudaEnableDefault, &found);
#endif
  if (e != cudaSuccess) (void)cudaGetLastError();
  return e == cudaSuccess && found == cudaDriverEntryPointSuccess ? reinterpret_cast<F*>(f) : nullptr;
}
auto* encode_tiled() {
  static auto* f = entry<decltype(cuTensorMapEncodeTiled)>("cuTensorMapEncodeTiled");
  return f;
}
auto* encode_im2col() {
  static auto* f = entry<decltype(cuTensorMapEncodeIm2col)>("cuTensorMapEncodeIm2col");
  return f;
}
CUtensorMapDataType type_of(DType t) {
  return t == DType::bfloat16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
}
void check(CUresult r, const char* call) {
  if (r != CUDA_SUCCESS) throw std::logic_error(std::string(call) + " refused, code " + std::to_string(int(r)));
}
cuuint64_t u(int64_t v) { return static_cast<cuuint64_t>(v); }
void tiled(CUtensorMap* map, DType t, int rank, const void* data, const cuuint64_t* sizes,
           const cuuint64_t* strides, const cuuint32_t* box,
           CUtensorMapSwizzle swizzle = CU_TENSOR_MAP_SWIZZLE_128B) {
  const cuuint32_t steps[] = {1, 1, 1, 1};
  check(encode_tiled()(map, type_of(t), static_cast<cuuint32_t>(rank), const_cast<void*>(data), sizes, strides,
                       box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                       CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE),
        "cuTensorMapEncodeTiled");
}
// How far the last pixel of the window lies from the image's, as the engine counts it.
int64_t upper(int32_t lower, int32_t count, int32_t stride, int64_t size) {
  return lower + int64_t{count - 1} * stride + 1 - size;
}

}  // namespace

bool has_copy_engine() { return encode_tiled() && encode_im2col(); }

bool pixels_fit(const Window& w, int64_t H, int64_t W, int64_t taps_down, int64_t taps_right) {
  auto corner = [](int64_t v) { return v >= -128 && v <= 127; };
  return w.rows > 0 && w.columns > 0 && w.stride_h <= 8 && w.stride_w <= 8 && taps_down < 256 &&
         taps_right < 256 && corner(w.top) && corner(w.left) && corner(upper(w.top, w.rows, w.stride_h, H)) &&
         corner(upper(w.left, w.columns, w.stride_w, W));
}

void describe_pixels(CUtensorMap* map, DType t, const void* data, int64_t N, int64_t H, int64_t W, int64_t C,
                     const Window& w, int pixels) {
  const cuuint64_t sizes[] = {u(C), u(W), u(H), u(N)}, strides[] = {u(C * 2), u(W * C * 2), u(H * W * C * 2)};
  const int lower[] = {w.left, w.top};
  const int above[] = {static_cast<int>(upper(w.left, w.columns, w.stride_w, W)),
                       static_cast<int>(upper(w.top, w.rows, w.stride_h, H))};
  const cuuint32_t steps[] = {1, static_cast<cuuint32_t>(w.stride_w), static_cast<cuuint32_t>(w.stride_h), 1};
  check(encode_im2col()(map, type_of(t), 4, const_cast<void*>(data), sizes, strides, lower, above, kBoxDepth,
                        static_cast<cuuint32_t>(pixels), steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                        CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                        CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE),
        "cuTensorMapEncodeIm2col");
}

void describe_tile(CUtensorMap* map, DType t, const void* data, int64_t Z, int64_t Y, int64_t X, int z, int y,
                   int x) {
  const cuuint64_t sizes[] = {u(X), u(Y), u(Z)}, strides[] = {u(X * 2), u(Y * X * 2)};
  const cuuint32_t box[] = {static_cast<cuuint32_t>(x), static_cast<cuuint32_t>(y), static_cast<cuuint32_t>(z)};
  tiled(map, t, Z ? 3 : 2, data, sizes, strides, box);
}

void describe_strips(CUtensorMap* map, DType t, const void* data, int64_t N, int64_t H, int64_t W, int64_t C,
                     int h, int w) {
  const cuuint64_t sizes[] = {u(C), u(W), u(H), u(N)}, strides[] = {u(C * 2), u(W * C * 2), u(H * W * C * 2)};
  const cuuint32_t channels = static_cast<cuuint32_t>(C < kBoxDepth ? C : kBoxDepth);
  const cuuint32_t box[] = {channels, static_cast<cuuint32_t>(w), static_cast<cuuint32_t>(h), 1};
  tiled(map, t, 4, data, sizes, strides, box,
        channels == 16   ? CU_TENSOR_MAP_SWIZZLE_32B
        : channels == 32 ? CU_TENSOR_MAP_SWIZZLE_64B
                         : CU_TENSOR_MAP_SWIZZLE_128B);
}

}  // namespace fastcnn::cuda
#endif
