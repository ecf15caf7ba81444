// What it is: the rows of the kernel list for Winograd's gradients and windows of stride 2; see kernels.h. X(name,
// return type, arguments…)
#pragma once
#define FASTCNN_KERNELS_WINOGRAD(X)                                                                          \
  /* items: tiles from tile0 on; tiles of dy to t.e */                                                       \
  X(winograd_dy, void, const WinogradTask& t, int64_t begin, int64_t end)                                    \
  /* items: images x vectors of C; products of dy to windows of dx, which is t.y and has the strides of x */ \
  X(winograd_windows_to_dx, void, const WinogradTask& t, const float* products, int64_t begin, int64_t end)  \
  /* items: chunks; scratch 36 planes of x and of dy */                                                      \
  X(winograd_gradient_groups, void, const WinogradTask& t, float* scratch, int64_t begin, int64_t end)       \
  /* items: outputs */                                                                                       \
  X(winograd_gradient_finish, void, const WinogradTask& t, int64_t begin, int64_t end)                       \
  /* items: blocks of C x planes; sums over t.tiles to t.sums, added to those of earlier tiles */            \
  X(winograd_gradient_sums, void, const WinogradTask& t, int64_t begin, int64_t end)                         \
  /* items: tiles from tile0 on */                                                                           \
  X(winograd_gradient_input, void, const WinogradTask& t, int64_t begin, int64_t end)                        \
  /* items: blocks of C x parts of O; scratch 36 planes of sums */                                           \
  X(winograd_gradient_blocks, void, const WinogradTask& t, float* scratch, int64_t begin, int64_t end)       \
  X(winograd_gradient_groups_bf16, void, const WinogradTask& t, float* scratch, int64_t begin, int64_t end)  \
  X(winograd_gradient_sums_bf16, void, const WinogradTask& t, int64_t begin, int64_t end)                    \
  X(winograd_gradient_input_bf16, void, const WinogradTask& t, int64_t begin, int64_t end)                   \
  X(winograd_gradient_blocks_bf16, void, const WinogradTask& t, float* scratch, int64_t begin, int64_t end)  \
  /* items: tiles of t.tiles; windows of x to t.u */                                                         \
  X(winograd2x2_input, void, const Winograd2x2Task& t, int64_t begin, int64_t end)                           \
  /* items: tiles of t.tiles; tiles of dy to t.e */                                                          \
  X(winograd2x2_gradient, void, const Winograd2x2Task& t, int64_t begin, int64_t end)                        \
  /* items: vectors of parts of the input, of outs * blocks; to t.wt */                                      \
  X(winograd2x2_weights, void, const Winograd2x2Task& t, int64_t begin, int64_t end)                         \
  /* items: outs * blocks * groups */                                                                        \
  X(winograd2x2_blocks, void, const Winograd2x2Task& t, float* scratch, int64_t begin, int64_t end)          \
  /* items: blocks * ranges of depth outputs */                                                              \
  X(winograd2x2_gradient_blocks, void, const Winograd2x2Task& t, float* scratch, int64_t begin, int64_t end) \
  /* items: chunks of t.tiles; scratch 25 planes of windows and of dy */                                     \
  X(winograd2x2_gradient_groups, void, const Winograd2x2Task& t, float* scratch, int64_t begin, int64_t end) \
  /* items: outputs */                                                                                       \
  X(winograd2x2_gradient_finish, void, const Winograd2x2Task& t, int64_t begin, int64_t end)
