// What it is: the rows of the kernel list for optim; see kernels.h. X(name, return type, arguments…)
// Optimizer steps on the elements [begin, end), in place; tensors an option does not use are null.
#pragma once
#define FASTCNN_KERNELS_OPTIM(X)                                                                                 \
  X(sgd_step, void, const SgdParams& p, const float* hyper, float* w, const float* g, float* momentum,           \
    int64_t begin, int64_t end)                                                                                  \
  X(adam_step, void, const AdamParams& p, const float* hyper, float* w, const float* g, float* m, float* v,      \
    float* v_max, int64_t begin, int64_t end)                                                                    \
  X(rmsprop_step, void, const RmspropParams& p, const float* hyper, float* w, const float* g, float* v,          \
    float* momentum, float* mean, int64_t begin, int64_t end)                                                    \
  X(adagrad_step, void, const AdagradParams& p, const float* hyper, float* w, const float* g, float* sum,        \
    int64_t begin, int64_t end)                                                                                  \
  X(lion_step, void, const LionParams& p, const float* hyper, float* w, const float* g, float* m, int64_t begin, \
    int64_t end)
