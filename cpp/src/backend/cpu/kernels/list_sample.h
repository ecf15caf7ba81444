// What it is: the rows of the kernel list for affine_sample and grid_sample; see kernels.h. X(name, return type,
// arguments…) Work items of affine_sample are output rows of one image, those of grid_sample points of all images.
#pragma once
#include "backend/cpu/kernels/grid_args.h"
#include "backend/cpu/kernels/sample_args.h"

#define FASTCNN_KERNELS_SAMPLE(X)                                                                  \
  X(sample_rows, void, const SampleTask& task, int64_t begin, int64_t end)                         \
  /* `scratch`: of resize_scratch floats */                                                        \
  X(sample_resized_rows, void, const SampleTask& task, float* scratch, int64_t begin, int64_t end) \
  /* Moves by whole pixels and mirrors only */                                                     \
  X(sample_copied_rows, void, const SampleTask& task, int64_t begin, int64_t end)                  \
  /* Stages of y as it is */                                                                       \
  X(sample_colored_rows, void, const SampleTask& task, int64_t begin, int64_t end)                 \
  X(grid_points, void, const GridTask& task, int64_t begin, int64_t end)                           \
  X(grid_points_bwd, void, const GridTask& task, int64_t begin, int64_t end)                       \
  /* Rows [begin, end) of dx of one image: the sum over all its points, in their order */          \
  X(grid_image_bwd, void, const GridTask& task, int64_t image, int64_t begin, int64_t end)
