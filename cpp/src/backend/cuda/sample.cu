// What it is: affine_sample on CUDA: one launch, and one more where there are colour stages.
#include "backend/cuda/kernels/sample.cuh"

#include "backend/cuda/dispatch.h"

namespace fastcnn::cuda {
namespace {

int64_t values_of(const AffineSampleParams& p) { return p.N * p.oH * p.oW * p.C; }
int64_t workspace(const Call& c) {
  const auto& p = c.as<AffineSampleParams>();
  return p.stages ? (2 * values_of(p) + p.N * p.C) * 4 : 0;
}

void run(const Call& c) {
  const auto& p = c.as<AffineSampleParams>();
  SampleArgs a;
  a.p = p, a.x = c.in[0].data, a.y = c.out[0].data;
  a.x_float = c.in[0].dtype == DType::float32, a.y_float = c.out[0].dtype == DType::float32;
  a.matrix = c.in[1].as<float>(), a.fill = c.in[2].as<float>();
  size_t operand = 3;
  if (p.has_displacement) a.displacement = c.in[operand++].as<float>();
  if (p.stages) a.color = c.in[operand++].as<float>();
  if (p.has_norm) a.norm = c.in[operand].as<float>();
  const int64_t pixels = p.N * p.oH * p.oW, n = values_of(p);
  auto* values = p.stages ? static_cast<float*>(c.workspace) : nullptr;
  launch("affine_sample", for_elements(pixels), sample_kernel, a, values, pixels);
  if (p.stages)
    launch("affine_sample colour",
           {dim3(static_cast<unsigned>(p.N)), dim3(kThreads), kThreads / 32 * sizeof(float)}, color_kernel, a,
           values, values + n, values + 2 * n);
}

}  // namespace

List affine_sample_list() {
  static const Implementation list[] = {{"simt", nullptr, workspace, run}};
  return list;
}

}  // namespace fastcnn::cuda
