// What it is: max and average pooling on CUDA.
#include "backend/cuda/kernels/pool.cuh"

#include "backend/cuda/dispatch.h"

namespace fastcnn::cuda {
namespace {

const char* declines(const Call& c) {
  return is_floating(c.in[0].dtype) && c.in[0].dtype == c.out[0].dtype ? nullptr : "dtype is not floating";
}

void max_forward(const Call& c) {
  with_floating(c.in[0].dtype, "max_pool2d", [&]<class T>() {
    launch("max_pool2d", for_elements(c.out[0].numel()), max_pool_kernel<T>, c.as<Pool2dParams>(), c.in[0].as<T>(),
           c.out[0].as<T>(), c.out[1].as<int32_t>());
  });
}
void max_backward(const Call& c) {
  with_floating(c.in[0].dtype, "max_pool2d_bwd", [&]<class T>() {
    launch("max_pool2d_bwd", for_elements(c.out[0].numel()), max_pool_bwd_kernel<T>, c.as<Pool2dParams>(),
           c.in[0].as<T>(), c.in[1].as<int32_t>(), c.out[0].as<T>());
  });
}
void gather(const Call& c) {
  with_floating(c.in[0].dtype, "max_pool2d_gather", [&]<class T>() {
    launch("max_pool2d_gather", for_elements(c.out[0].numel()), max_pool_gather_kernel<T>, c.as<Pool2dParams>(),
           c.in[0].as<T>(), c.in[1].as<int32_t>(), c.out[0].as<T>());
  });
}
void avg_forward(const Call& c) {
  with_floating(c.in[0].dtype, "avg_pool2d", [&]<class T>() {
    launch("avg_pool2d", for_elements(c.out[0].numel()), avg_pool_kernel<T>, c.as<Pool2dParams>(), c.in[0].as<T>(),
           c.out[0].as<T>());
  });
}
void avg_backward(const Call& c) {
  with_floating(c.in[0].dtype, "avg_pool2d_bwd", [&]<class T>() {
    launch("avg_pool2d_bwd", for_elements(c.out[0].numel()), avg_pool_bwd_kernel<T>, c.as<Pool2dParams>(),
           c.in[0].as<T>(), c.out[0].as<T>());
  });
}

}  // namespace

List max_pool2d_list() {
  static const Implementation list[] = {{"simt", declines, nullptr, max_forward}};
  return list;
}
List max_pool2d_bwd_list() {
  static const Implementation list[] = {{"simt", declines, nullptr, max_backward}};
  return list;
}
List max_pool2d_gather_list() {
  static const Implementation list[] = {{"simt", declines, nullptr, gather}};
  return list;
}
List avg_pool2d_list() {
  static const Implementation list[] = {{"simt", declines, nullptr, avg_forward}};
  return list;
}
List avg_pool2d_bwd_list() {
  static const Implementation list[] = {{"simt", declines, nullptr, avg_backward}};
  return list;
}

}  // namespace fastcnn::cuda
