// What it is: grid_sample and its gradients on CUDA.
#include "backend/cuda/kernels/grid_sample.cuh"

#include "backend/cuda/dispatch.h"

namespace fastcnn::cuda {
namespace {

const char* declines(const Call& c) {
  for (auto side : {c.in, c.out})
    for (const Operand& o : side)
      if (o.dtype != c.in[0].dtype) return "operands of several dtypes";
  const DType t = c.in[0].dtype;
  return t == DType::float32 || t == DType::float64 ? nullptr : "dtype is not float32 or float64";
}

template <class T>
void forward(const Call& c) {
  launch("grid_sample", for_elements(c.out[0].numel()), grid_kernel<T>, GridArgs(c.as<GridSampleParams>()),
         c.in[0].as<T>(), c.in[1].as<T>(), c.out[0].as<T>());
}

template <class T>
void backward(const Call& c) {
  const auto& p = c.as<GridSampleParams>();
  const GridArgs a(p);
  const T *dy = c.in[0].as<T>(), *points = c.in[1 + p.has_dgrid].as<T>();
  if (p.has_dx)
    launch("grid_sample_bwd", for_elements(p.N * p.H * p.C), grid_image_bwd<T>, a, dy, points, c.out[0].as<T>());
  if (p.has_dgrid)
    launch("grid_sample_bwd", for_elements(p.N * a.points), grid_points_bwd<T>, a, dy, c.in[1].as<T>(), points,
           c.out[p.has_dx].as<T>());
}

template <void (*narrow)(const Call&), void (*wide)(const Call&)>
void by_type(const Call& c) {
  c.in[0].dtype == DType::float64 ? wide(c) : narrow(c);
}

}  // namespace

List grid_sample_list() {
  static const Implementation list[] = {{"simt", declines, nullptr, by_type<forward<float>, forward<double>>}};
  return list;
}
List grid_sample_bwd_list() {
  static const Implementation list[] = {{"simt", declines, nullptr, by_type<backward<float>, backward<double>>}};
  return list;
}

}  // namespace fastcnn::cuda
