// The CUDA kernels of grid_sample and its gradients on the executor against the CPU's references.
#include "cuda_check.h"

using namespace fastcnn;
using namespace fastcnn::test;

TEST_CASE("cuda grid_sample and its gradients: every option, points at the ends, outside and nowhere") {
  for (DType t : {DType::float32, DType::float64})
    for (Interp mode : {Interp::nearest, Interp::bilinear, Interp::bicubic})
      for (GridPadding padding : {GridPadding::zeros, GridPadding::border, GridPadding::reflection})
        for (int64_t align : {0, 1}) {
          GridSampleParams p;
          p.N = 2, p.C = 3, p.H = 5, p.W = 7, p.oH = 4, p.oW = 9, p.align_corners = align;
          p.mode = mode, p.padding = padding;
          const std::vector<int64_t> image{p.N, p.C, p.H, p.W}, out{p.N, p.C, p.oH, p.oW},
              places{p.N, p.oH * p.oW, 2};
          const Shaped x = tensor(image, 1, t), dy = tensor(out, 2, t);
          const Shaped points = tensor(places, 3, t, 0, 0.9);
          const double special[] = {-1, 1, 1e30, NAN, INFINITY, -INFINITY};
          for (int64_t i = 0; i < 6; ++i) set_at(points.array, 5 * i, special[i]);
          CHECK(check_cuda(FASTCNN_CUDA_OP(grid_sample), &p, {x, points}, {{out, t}}, 4e-6) == 1);
          p.has_dx = 1;
          CHECK(check_cuda(FASTCNN_CUDA_OP(grid_sample_bwd), &p, {dy, points}, {{image, t}}, 4e-6) == 1);
          if (mode == Interp::nearest) continue;
          p.has_dgrid = 1;
          CHECK(check_cuda(FASTCNN_CUDA_OP(grid_sample_bwd), &p, {dy, x, points}, {{image, t}, {places, t}},
                           4e-6) == 1);
          p.has_dx = 0;
          CHECK(check_cuda(FASTCNN_CUDA_OP(grid_sample_bwd), &p, {dy, x, points}, {{places, t}}, 4e-6) == 1);
        }
}
